"""Keep the notebooks clean and the package in step with them.

    python tools/notebooks.py check          # both of the next two, in the time of one
    python tools/notebooks.py check-export   # is iqa_repro/ exactly what the notebooks export?
    python tools/notebooks.py check-clean    # would `clean` change a notebook?
    python tools/notebooks.py clean          # strip outputs, execution counts and stray metadata; list all notebooks in the index

The checks work on a temporary copy and change nothing here.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {  # below nbs/, in reading order: headline, and what it is about
    "0_core": ("Core", "how a run is made repeatable"),
    "1_data": ("Data", "pictures and scores, read without silent mistakes"),
    "1_data/sets": ("Data sets", "where each lies, and how it is read"),
    "1_data/world": ("The embedded world", "distortions, photographs and stand-ins"),
    "2_clip": ("CLIP", "CLIP opened up"),
    "3_captions": ("Captions", "from a captioner to the captions that are kept"),
    "4_methods": ("Methods", "the simpler methods to beat"),
    "4_methods/grmp": ("GRMP-IQA", "one equation at a time"),
    "4_methods/uniqa": ("UniQA", "pre-training and adapter"),
    "5_study": ("Study", "from trials to rows and verdicts"),
    "6_figures": ("Figures", "one module a kind of figure"),
    "7_papers": ("Papers", "the trials of every table and figure"),
    "8_batch": ("Batch", "everything with one command"),
    "9_app": ("Your pictures", "scoring and adapting"),
    "9_app/adapt": ("Your labels", "adapting a method to them"),
    "9_app/cli": ("Command line", "one notebook a command"),
    "experiments/grmp_iqa": ("GRMP-IQA, results", "one notebook a table or figure"),
    "experiments/uniqa": ("UniQA, results", "one notebook a table or figure"),
    "experiments/beyond": ("Beyond the papers", "questions of our own"),
    "benchmarks": ("Benchmarks", "speed and memory, as ratios"),
}
SKIPPED = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")


def copy_project(target: Path) -> None:
    "Copy what nbdev reads: notebooks, settings and the hand-written `__init__.py` files"
    shutil.copytree(ROOT / "nbs", target / "nbs", ignore=SKIPPED)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, target)
    for path in (ROOT / "iqa_repro").rglob("__init__.py"):
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def check() -> tuple[list[str], list[str]]:
    "One line for each module that is not what its notebook exports, and for each notebook that cleaning would change"
    read = lambda root: {p.relative_to(root): p.read_bytes() for p in (root / "iqa_repro").rglob("*.py")}
    with tempfile.TemporaryDirectory() as folder:
        copy_project(root := Path(folder))
        clean(root, "docs.nbdev_export(); ")
        exported, here = read(root), read(ROOT)
        dirty = [p for p in notebooks(ROOT) if p.read_bytes() != (root / p.relative_to(ROOT)).read_bytes()]
    words = {(True, False): "exported by a notebook, but not here"}  # whether it is exported, and here
    words |= {(False, True): "no notebook exports it, delete it", (True, True): "differs from its notebook"}
    wrong = [name for name in sorted(exported | here) if exported.get(name) != here.get(name)]
    export = [f"{name}: {words[name in exported, name in here]}" for name in wrong]
    return export, [f"{path.relative_to(ROOT)}: {_what(path)}" for path in dirty]


def in_folder(root: Path, folder: str) -> list[Path]:
    "Notebooks of one folder below nbs/, table2 before table10"
    natural = lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]
    return sorted((root / "nbs" / folder).glob("*.ipynb"), key=natural)


def list_in_index(root: Path) -> None:
    'Write the list of all notebooks, with their titles, below the index\'s headline "Every notebook"'
    path, lines = root / "nbs" / "index.ipynb", []
    texts = lambda p: [c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == "markdown"]
    title = lambda p: texts(p)[0].splitlines()[0].removeprefix("# ").strip()
    for folder, (headline, about) in FOLDERS.items():
        links = [f"[{title(p)}]({folder}/{p.name})" for p in in_folder(root, folder)]
        lines += [f"**{headline}**, {about}: {' · '.join(links)}"] if links else []
    book = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    cell = next(c for c in book.cells if c.source.startswith("## Every notebook"))
    cell.source = "\n\n".join([*cell.source.split("\n\n")[:2], *lines])
    path.write_text(nbformat.writes(book, version=nbformat.NO_CONVERT) + "\n", encoding="utf-8")


def clean(root: Path, first: str = "") -> None:
    "Strip outputs, execution counts and stray metadata of all notebooks under `root`; tags and ids stay. nbdev runs `first` before"
    list_in_index(root)
    for path in notebooks(root):
        book = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        book.metadata.pop("jupytext", None)  # left behind by an edit as text; nbdev_clean keeps it
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        before = path.read_text(encoding="utf-8")
        if (after := nbformat.writes(book, version=nbformat.NO_CONVERT) + "\n") != before:
            path.write_text(after, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # set, exports do nothing
    call = f"import nbdev.export, nbdev.clean, nbdev.doclinks as docs; {first}nbdev.clean.nbdev_clean()"
    subprocess.run([sys.executable, "-c", call], cwd=root, env=environment, check=True)


def notebooks(root: Path) -> list[Path]:
    "Every notebook under `root`/nbs"
    return sorted(p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def _what(path: Path) -> str:
    cells = [c for c in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells if c.cell_type == "code"]
    outputs, counts = sum(bool(c.outputs) for c in cells), sum(c.execution_count is not None for c in cells)
    return f"{outputs} cells with outputs, {counts} with execution counts, or metadata that cleaning strips"


def main(arguments: list[str]) -> int:
    "0, or 1 when something is out of step"
    if arguments == ["clean"]:
        clean(ROOT)
        return 0
    if arguments not in (["check"], ["check-export"], ["check-clean"]):
        sys.exit(__doc__)
    problems = []
    for remedy, lines in zip(("export", "clean"), check(), strict=True):
        if lines and arguments[0] in ("check", f"check-{remedy}"):
            problems += [*lines, f"run `make {remedy}`"]
    print("\n".join(problems) or "in step: nothing to change")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
