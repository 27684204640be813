"""Keep the notebooks clean and the package in step with them.

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


def nbdev(root: Path, call: str) -> None:
    "Run one function of nbdev on the project at `root`"
    environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # set, exports do nothing
    command = [sys.executable, "-c", f"import nbdev.export, nbdev.clean, nbdev.doclinks as docs; {call}"]
    subprocess.run(command, cwd=root, env=environment, check=True)


def copy_project(target: Path) -> None:
    "Copy what nbdev reads: notebooks, settings and the hand-written `__init__.py` files"
    shutil.copytree(ROOT / "nbs", target / "nbs", ignore=SKIPPED)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, target)
    for path in (ROOT / "iqa_repro").rglob("__init__.py"):
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def modules(root: Path) -> dict[str, bytes]:
    "Path → content of every Python file of the package at `root`"
    files = (root / "iqa_repro").rglob("*.py")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files if "__pycache__" not in p.parts}


def check_export() -> list[str]:
    "One line for each module that is not what its notebook exports"
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        nbdev(Path(folder), "docs.nbdev_export()")
        exported, here = modules(Path(folder)), modules(ROOT)
    problems = [
        f"{name}: exported by a notebook, but not here" for name in sorted(exported.keys() - here.keys())
    ]
    problems += [
        f"{name}: no notebook exports it, delete it" for name in sorted(here.keys() - exported.keys())
    ]
    problems += [
        f"{n}: differs from its notebook" for n in sorted(exported) if here.get(n, exported[n]) != exported[n]
    ]
    return problems


def in_folder(root: Path, folder: str) -> list[Path]:
    "Notebooks of one folder below nbs/, table2 before table10"
    natural = lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]
    return sorted((root / "nbs" / folder).glob("*.ipynb"), key=natural)


def list_in_index(root: Path) -> None:
    'Write the list of all notebooks, with their titles, below the index\'s headline "Every notebook"'
    path, lines = root / "nbs" / "index.ipynb", []
    for folder, (headline, about) in FOLDERS.items():
        links = [f"[{_title(p)}]({folder}/{p.name})" for p in in_folder(root, folder)]
        lines += [f"**{headline}**, {about}: {' · '.join(links)}"] if links else []
    book = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    cell = next(c for c in book.cells if c.source.startswith("## Every notebook"))
    cell.source = "\n\n".join([*cell.source.split("\n\n")[:2], *lines])
    path.write_text(nbformat.writes(book, version=nbformat.NO_CONVERT) + "\n", encoding="utf-8")


def _title(path: Path) -> str:
    first = next(c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    return first.source.splitlines()[0].removeprefix("# ").strip()


def clean(root: Path) -> None:
    "Strip outputs, execution counts and stray metadata of all notebooks under `root`; tags and ids stay"
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
    nbdev(root, "nbdev.clean.nbdev_clean()")


def notebooks(root: Path) -> list[Path]:
    "Every notebook under `root`/nbs"
    return sorted(p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def check_clean() -> list[str]:
    "One line for each notebook that cleaning would change"
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        clean(Path(folder))
        pairs = [(path, Path(folder) / path.relative_to(ROOT)) for path in notebooks(ROOT)]
        changed = [path for path, copy in pairs if path.read_bytes() != copy.read_bytes()]
        return [f"{path.relative_to(ROOT)}: {_what(path)}" for path in changed]


def _what(path: Path) -> str:
    cells = [c for c in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells if c.cell_type == "code"]
    outputs, counts = sum(bool(c.outputs) for c in cells), sum(c.execution_count is not None for c in cells)
    return f"{outputs} cells with outputs, {counts} with execution counts, or metadata that cleaning strips"


def main(arguments: list[str]) -> int:
    "0, or 1 when something is out of step"
    if arguments == ["clean"]:
        clean(ROOT)
        return 0
    checks = {"check-export": (check_export, "make export"), "check-clean": (check_clean, "make clean")}
    if len(arguments) != 1 or arguments[0] not in checks:
        sys.exit(__doc__)
    check, remedy = checks[arguments[0]]
    problems = check()
    print("\n".join(problems + [f"run `{remedy}`"]) if problems else "in step: nothing to change")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
