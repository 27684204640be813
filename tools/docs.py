"""The documentation site, made of the notebooks without a network: `make docs`, or

    python tools/docs.py [--site _docs] [--jobs 2] [--only '3_grmp/*' …]

Library notebooks are run and shown with what they give; an executed copy is kept in the cache and used again while
neither the notebook nor the code that it reaches has changed (`--only`: the other notebooks become a page with their
title). Experiments take hours: they are shown beside the figure
and table that are committed. Formulas become MathML here, so that a browser needs neither a script nor a font for
them. Needs `pip install -e '.[docs]'`. Exit status 1 when a notebook fails or a link leads nowhere.
"""

import argparse
import ast
import fnmatch
import hashlib
import html
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import unicodedata
from base64 import b64decode
from collections import Counter
from functools import partial
from pathlib import Path
from posixpath import relpath

from latex2mathml.converter import convert
from mkdocs.commands.build import build
from mkdocs.config import load_config

from iqa_repro.core.paths import atomic_path, cache_root
from iqa_repro.study.graph import code_parts
from iqa_repro.study.report import alt_text, read_table, show_cell, table_blocks

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS, FIGURES = ROOT / "nbs", ROOT / "paper_figures" / "embedded"
ORDER = {  # tab → folder → its name, as they are read
    "Library": {
        "0_core": "Core",
        "1_data": "Data",
        "2_clip": "CLIP",
        "3_baselines": "Simpler methods",
        "3_grmp": "GRMP-IQA",
        "3_uniqa": "UniQA",
        "4_study": "Study",
        "5_app": "Application",
    },
    "Experiments": {
        "experiments/grmp_iqa": "GRMP-IQA",
        "experiments/uniqa": "UniQA",
        "experiments/beyond": "Beyond the papers",
        "benchmarks": "Benchmarks",
    },
}
TEXTS = {"README.md": "results.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
TAKES_HOURS = ("experiments/", "benchmarks/")  # not run for the site
LIMIT = 900  # seconds for one cell
NOT_RUN = re.compile(r"^#\| *(slow|gpu|notest|eval: *false)", re.M)
HIDDEN = re.compile(r"^#\| *hide", re.M)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)
VERBATIM = re.compile(r"(```.*?```|`[^`\n]+`)", re.S)
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)


# --- notebooks ------------------------------------------------------------------------------------------------------


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def name_of(path: Path) -> str:
    return path.relative_to(NOTEBOOKS).with_suffix("").as_posix()


def executed_copy(path: Path) -> Path:
    "Where the executed copy of a notebook is, or will be: its name holds all that it depends on"
    code = [source_of(c) for c in read(path) if c["cell_type"] == "code"]
    parts = code_parts("\n\n".join(c for c in code if not c.lstrip().startswith("%")))
    content = json.dumps([path.read_text(encoding="utf-8"), parts]).encode()
    return cache_root() / "docs" / f"{path.stem}-{hashlib.sha256(content).hexdigest()[:16]}.ipynb"


def execute(path: Path) -> tuple[str, float, str]:
    "Run a notebook in a process of its own as nbdev_test does; (name, seconds, what failed)"
    from execnb.shell import CaptureShell

    start, target = time.monotonic(), executed_copy(path)
    os.chdir(path.parent)
    shell = CaptureShell(mpl_format="retina", timeout=LIMIT)
    left_out = lambda c: c.cell_type == "code" and (NOT_RUN.search(c.source) or "nbdev_export()" in c.source)
    try:
        with atomic_path(target) as part:
            shell.execute(path, part, exc_stop=True, preproc=left_out)
    except Exception as error:
        return name_of(path), time.monotonic() - start, f"{type(error).__name__}: {error}\n{shell.prettytb()}"
    return name_of(path), time.monotonic() - start, ""


def execute_all(paths: list[Path], jobs: int) -> list[str]:
    "Names of the notebooks that failed; each is told as it ends"
    todo, failed = [path for path in paths if not executed_copy(path).exists()], []
    (cache_root() / "docs").mkdir(parents=True, exist_ok=True)
    print(f"docs: {len(paths) - len(todo)} executed notebooks from the cache, {len(todo)} to run", flush=True)
    if todo:
        import matplotlib.pyplot  # noqa: F401 - once, before the processes fork

        import iqa_repro.app.scorer  # noqa: F401
    with multiprocessing.get_context("fork").Pool(max(1, jobs), maxtasksperchild=1) as pool:
        for number, (name, seconds, problem) in enumerate(pool.imap_unordered(execute, todo), 1):
            print(f"docs: {number}/{len(todo)} {name}, {seconds:.0f} s {problem}".rstrip(), flush=True)
            failed += [name] if problem else []
    return failed


# --- text -----------------------------------------------------------------------------------------------------------


def mathml(formula: str, display: bool) -> str:
    "A formula as MathML; what the converter does not know fails the build"
    found = convert(formula.replace(r"\arg", r"\operatorname{arg}"), display="block" if display else "inline")
    found = re.sub(r'<mi mathvariant="script">(\w)</mi>', lambda m: f"<mi>{script(m[1])}</mi>", found)
    found = found.replace("<mi>&#x0007E;</mi>", "<mo>&#x223C;</mo>")
    found = re.sub(
        r"<mi>([a-z]{2,})</mi>", r'<mo lspace="0.15em" rspace="0.1em">\1</mo>', found
    )  # log, ln, …
    if re.search(r"\\[a-zA-Z]|<merror", found):
        raise ValueError(f"latex2mathml does not know all of {formula!r}")
    return found if display else f'<span class="math">{found}</span>'


def script(letter: str) -> str:
    "𝒩 of N: browsers know no script variant of a letter"
    try:
        return unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {letter}")
    except KeyError:
        return unicodedata.lookup(f"SCRIPT CAPITAL {letter}")


def with_math(text: str) -> str:
    "Markdown with formulas as MathML, code left alone; marks of Markdown inside a formula are escaped"
    escape = partial(re.sub, r"[_*|`]", lambda m: f"&#{ord(m[0])};")
    formula = lambda m: escape(mathml(" ".join((m[1] or m[2]).split()), bool(m[1])))
    parts = VERBATIM.split(text)
    parts[::2] = [MATH.sub(formula, part) for part in parts[::2]]
    return "".join(parts)


def with_links(text: str, page: str, symbols: dict[str, str]) -> str:
    "Links between notebooks made links between pages; `names` that another notebook exports lead there"
    text = re.sub(r"(\]\([^)\s:]+)\.ipynb\b", r"\1.md", text)
    for old, new in TEXTS.items():  # JupyterLab cannot open what lies above nbs/, so notebooks only name it
        if new != page:
            text = text.replace(f"`{old}`", f"[`{old}`]({relpath(new, os.path.dirname(page) or '.')})")

    def linked(match):
        target = symbols.get(match[1], page)
        address = f"{relpath(target, os.path.dirname(page) or '.')}#{match[1]}"
        return match[0] if target == page else f"[`{match[0][1:-1]}`]({address})"

    lines = text.split("\n")
    lines = [
        line
        if line.startswith("#")
        else re.sub(r"(?<![\[`])`([A-Za-z_]\w+)(?:\([^`]*\))?`(?![\]`])", linked, line)
        for line in lines
    ]
    text = "\n".join(lines)
    return re.sub(r"(?m)^(?![-*] |\s).+\n(?=[-*] )", r"\g<0>\n", text)  # a list needs an empty line before it


def exported(path: Path) -> dict[str, str]:
    "Public names that a notebook exports → its page"
    cells = [source_of(c) for c in read(path) if c["cell_type"] == "code"]
    names = [name for cell in cells if re.search(r"^#\| *export", cell, re.M) for name in defined(cell)]
    return dict.fromkeys((name for name in names if name[0] != "_"), f"{name_of(path)}.md")


def defined(code: str) -> list[str]:
    "Functions, classes and constants that a cell defines"
    body = ast.parse(code).body
    names = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return names + [
        n.targets[0].id for n in body if isinstance(n, ast.Assign) and hasattr(n.targets[0], "id")
    ]


# --- pages ----------------------------------------------------------------------------------------------------------


def output(data: dict, place: Path) -> str:
    "One output of a cell as HTML; pictures are written beside the page"
    if data["output_type"] == "stream":
        return f"<pre>{plain(data['text'])}</pre>"
    bundle = data.get("data", {})
    if "text/html" in bundle:
        return "".join(bundle["text/html"])
    if "image/png" in bundle:
        picture = b64decode("".join(bundle["image/png"]))
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_name(f"{place.name}-{hashlib.sha256(picture).hexdigest()[:8]}.png")
        file.write_bytes(picture)
        width = int.from_bytes(picture[16:20], "big") // 2  # drawn with two pixels for one
        words = html.escape(" ".join(bundle.get("text/plain", ["picture"])))
        return f'<img src="{file.name}" width="{width}" alt="{words}" loading="lazy">'
    if "image/svg+xml" in bundle:
        return "".join(bundle["image/svg+xml"])
    return f"<pre>{plain(bundle.get('text/plain', ''))}</pre>"


def plain(text: str | list[str]) -> str:
    "Text for a page: no colours of a terminal, and of a line that was written over, its last state"
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(text)).split("\n")
    return html.escape("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)).strip("\n")


def code_page(cell: dict, place: Path) -> str:
    "A code cell and what it gave"
    code = source_of(cell)
    if HIDDEN.search(code):
        return ""
    module = re.match(r"#\| *default_exp (\S+)", code)
    if module:
        notebook = f"nbs/{place.parent.name}/{place.stem}.ipynb"
        return (
            f"*Module `iqa_repro.{module[1]}`, notebook `{notebook}`; code with a bar goes into the module.*"
        )
    into = re.search(r"^#\| *export", code, re.M)
    anchors = "".join(f'<a id="{name}"></a>' for name in (defined(code) if into else []))
    mark = " .exported" if into else ""
    text = f"~~~~~~ {{.python{mark}}}\n{DIRECTIVE.sub('', code).strip()}\n~~~~~~\n"
    given = "\n".join(output(one, place) for one in cell.get("outputs", []))
    return (
        anchors
        + "\n\n"
        + text
        + (f'\n<div class="output" data-search-exclude>{given}</div>\n' if given else "")
    )


def committed(paths: list[str], target: Path, page: str) -> str:
    "What is committed of an experiment's last run: figure, claims, table; empty where there is nothing"
    blocks, said = [], set()
    for name in paths:
        folder, title = FIGURES / name, name.split("/")[1]
        if (folder / "figure.png").exists():
            copy(folder / "figure.png", target)
            address = relpath(f"paper_figures/embedded/{name}/figure.png", os.path.dirname(page))
            words = alt_text(title, read_table(folder / "figure.csv"))
            blocks.append(f'<img src="{html.escape(address)}" alt="{html.escape(words)}" loading="lazy">')
        if (folder / "claims.json").exists():
            claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
            rows = [[c["sentence"], c["verdict"]] for c in claims]
            blocks.append(folded(f"{len(rows)} claims and their verdicts", ["claim", "verdict"], rows))
        if (folder / "table.csv").exists():
            table = read_table(folder / "table.csv")
            said |= {row.get("stand_in", "True") for row in table}
            for caption, laid in table_blocks(table):
                rows = [[cell for cell, _ in row] for row in laid["rows"]]
                common = "".join(f"; {key}: {value}" for key, value in laid["common"])
                summary = f"{title}: {caption[0].lower()}{caption[1:]}{common}"
                blocks.append(folded(summary, [head for head, _ in laid["heads"]], rows))
    what = "Embedded stand-in: own tiny model, own small pictures, not comparable with the paper's"
    what = "From the paper's own material, not a stand-in" if said == {"False"} else what
    head = f'\n\n!!! warning "{what}"\n    The committed results of this notebook; its cells follow without outputs.\n\n'
    return head + "\n\n".join(blocks) + "\n\n" if blocks else ""


def folded(caption: str, names: list[str], rows: list[list[str]]) -> str:
    "A table that opens on a click"
    line = lambda tag, cells: (
        "<tr>" + "".join(f"<{tag}>{html.escape(show_cell(str(c)))}</{tag}>" for c in cells) + "</tr>"
    )
    body = line("th", names) + "".join(line("td", row) for row in rows)
    return f'<details><summary>{html.escape(caption)}</summary><div class="wide"><table>{body}</table></div></details>'


def copy(file: Path, target: Path) -> None:
    "Copy a file of the project to the same place of the site"
    place = target / file.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)


def write_page(path: Path, whole: bool, target: Path, symbols: dict[str, str]) -> str:
    "A notebook as a page, or its title alone. The title"
    name = name_of(path)
    page, place, texts = f"{name}.md", target / name, []
    for cell in read(path if name.startswith(TAKES_HOURS) or not whole else executed_copy(path)):
        if cell["cell_type"] == "markdown":
            texts.append(with_links(with_math(source_of(cell)), page, symbols))
        elif cell["cell_type"] == "code":
            texts.append(code_page(cell, place))
    title = re.search(r"^# (.+)$", "\n".join(texts), re.M)[1]
    if not whole:
        texts = [f"# {title}"]
    elif name.startswith(TAKES_HOURS):
        code = "\n".join(source_of(c) for c in read(path) if c["cell_type"] == "code")
        found = re.findall(r"""start_run\(\s*["']([^"']+)["']""", code)
        texts.insert(1, committed(found, target, page))
    elif texts[0].startswith("*Module"):
        texts[:2] = texts[1::-1]  # the title first
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name(f"{place.name}.md").write_text("\n\n".join(texts), encoding="utf-8")
    return title.replace("`", "")


def write_text(name: str, target: Path, symbols: dict[str, str]) -> None:
    "A text of the project as a page; what it links to and shows comes with it"
    text = (ROOT / name).read_text(encoding="utf-8")
    for old, new in TEXTS.items():
        text = text.replace(f"]({old})", f"]({new})")
    for address in re.findall(r"\]\(([^)#:\s]+)\)", text):
        if (ROOT / address).is_file():
            copy(ROOT / address, target)
    (target / TEXTS[name]).write_text(with_links(with_math(text), TEXTS[name], symbols), encoding="utf-8")


def listed() -> dict[str, list[Path]]:
    "Folder → its notebooks, in reading order"
    folders = [folder for group in ORDER.values() for folder in group]
    return {folder: sorted((NOTEBOOKS / folder).glob("*.ipynb"), key=natural) for folder in folders}


def write_site(site: Path, target: Path, whole: list[Path]) -> int:
    "All pages to `target`, the site to `site`; number of warnings"
    names = [(name, page) for path in whole for name, page in exported(path).items()]
    once = Counter(name for name, _ in names)
    symbols = {name: page for name, page in names if once[name] == 1}  # one meaning each
    write = lambda path: write_page(path, path in whole, target, symbols)
    page = lambda path: {write(path): f"{name_of(path)}.md"}
    notebooks = listed()
    write(NOTEBOOKS / "index.ipynb")
    nav = [{"Start": "index.md"}]
    for tab, folders in ORDER.items():
        nav.append({tab: [{title: [page(path) for path in notebooks[f]]} for f, title in folders.items()]})
    for name in TEXTS:
        write_text(name, target, symbols)
    nav += [{"Results": "results.md"}, {"Contributing": ["contributing.md", {"Changes": "changelog.md"}]}]
    shutil.copy(ROOT / "tools" / "docs" / "look.css", target)
    counted = Warnings()
    logging.getLogger("mkdocs").addHandler(counted)
    config = load_config(
        str(ROOT / "tools" / "docs" / "mkdocs.yml"), docs_dir=str(target), site_dir=str(site), nav=nav
    )
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return len(counted.told)


class Warnings(logging.Handler):
    "Counts and tells what mkdocs warns of"

    def __init__(self):
        super().__init__(logging.WARNING)
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())
        print("docs:", self.told[-1], file=sys.stderr)


def natural(path: Path) -> list:
    "table2 before table10"
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def main() -> int:
    "0, or 1 when a notebook failed or a link leads nowhere"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, default=ROOT / "_docs", help="folder to write (default: _docs)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="notebooks at a time")
    parser.add_argument(
        "--only", nargs="*", default=["*"], help="notebooks to show whole, such as '3_grmp/*'"
    )
    options = parser.parse_args()
    start = time.monotonic()
    paths = [NOTEBOOKS / "index.ipynb", *(path for group in listed().values() for path in group)]
    whole = [p for p in paths if any(fnmatch.fnmatch(name_of(p), pattern) for pattern in options.only)]
    library = [path for path in whole if not name_of(path).startswith(TAKES_HOURS)]
    if failed := execute_all(library, options.jobs):
        print(f"docs: no site, these failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        warnings = write_site(options.site.resolve(), Path(folder), whole)
    print(f"docs: {options.site}/index.html, {time.monotonic() - start:.0f} s, {warnings} warnings")
    return int(bool(warnings))


if __name__ == "__main__":
    sys.exit(main())
