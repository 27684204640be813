"""A site from the notebooks, for reading: `make docs`. Nothing is fetched, neither when it is made nor when it is read.

    python tools/docs.py                        # all notebooks; those of the library are run, once per change of notebook or code
    python tools/docs.py --no-run '4_methods/*'    # the index and these, without outputs

With Quarto on the PATH nbdev makes the site; otherwise mkdocs-material does (`pip install -e '.[docs]'`). Exit status 0 when the
site is whole, 1 when a notebook failed or a link leads nowhere.
"""

import argparse
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import nbformat
from check import ROOT, code_of, in_process, preload
from notebooks import FOLDERS, copy_project, in_folder

FIGURES = ROOT / "paper_figures" / "embedded"  # the committed results
PROJECT = {  # page of the repository → its headline in the navigation
    "README.md": "README",
    "RESULTS.md": "Results",
    "DIFFERENCES.md": "Differences",
    "docs/scoring.md": "Scoring and adapting",
    "docs/batch.md": "In batch",
    "docs/data.md": "Real data",
    "docs/datasets.md": "The data sets",
    "docs/checks.md": "Checks and benchmarks",
    "CONTRIBUTING.md": "Contributing",
    "CHANGELOG.md": "Changelog",
}
NEEDED = ("mkdocs", "material", "latex2mathml", "nbconvert", "execnb")
STYLE = """
math { font-size: 1.08em; }
math[display="block"] { overflow-x: auto; overflow-y: hidden; padding: .3em 0; }
.md-typeset table.dataframe { display: block; overflow-x: auto; font-size: .64rem; border-collapse: collapse; border: 0; margin: 1em 0; }
.md-typeset details table.dataframe { max-height: 32rem; overflow-y: auto; }
.md-typeset table.dataframe th, .md-typeset table.dataframe td { padding: .25em .7em; text-align: right; border: 0; border-bottom: .05rem solid var(--md-typeset-table-color); }
.md-typeset details table.dataframe :is(th, td) { text-align: left; }
.md-typeset thead:not(:has(th:not(:empty))) { display: none; }
.md-grid { max-width: 74rem; }
.md-typeset img { background: white; border-radius: 2px; }
.highlight.language-text code { background: none; border-left: .15rem solid var(--md-default-fg-color--lightest); white-space: pre-wrap; }
.highlight.language-text .md-code__nav { display: none; }
.md-typeset h1 { font-weight: 500; color: inherit; }
@media print { math { overflow: visible; } }
"""
SETTINGS = """
site_name: iqa_repro
site_description: GRMP-IQA and UniQA, notebook by notebook
use_directory_urls: false  # pages open from the disk too; only the search wants a server
theme:
  name: material
  font: false
  features: [navigation.footer, navigation.top, navigation.prune, toc.follow, search.highlight, content.code.copy]
  palette:
  - {media: "(prefers-color-scheme: light)", scheme: default, primary: blue grey, accent: teal, toggle: {icon: material/weather-night, name: to dark mode}}
  - {media: "(prefers-color-scheme: dark)", scheme: slate, primary: black, accent: teal, toggle: {icon: material/weather-sunny, name: to light mode}}
plugins: [search]
markdown_extensions: [tables, attr_list, pymdownx.superfences, pymdownx.inlinehilite, {pymdownx.highlight: {pygments_lang_class: true}}, {pymdownx.arithmatex: {generic: true}}, {toc: {permalink: true}}]
extra_css: [style.css]
validation: {nav: {omitted_files: ignore}, links: {anchors: warn, absolute_links: warn}}
"""


def sections(wanted: list[str]) -> dict[str, list[str]]:
    "Headline → notebooks below nbs/, in reading order; `wanted` are patterns, none means all"
    chosen = lambda name: any(fnmatch(name, pattern) for pattern in wanted or "*")
    books = {folder: [f"{folder}/{path.name}" for path in in_folder(ROOT, folder)] for folder in FOLDERS}
    return {FOLDERS[f][0]: part for f, names in books.items() if (part := list(filter(chosen, names)))}


def is_library(name: str) -> bool:
    "Whether a notebook is run for the site: those of the floors, and the index"
    return name == "index.ipynb" or name[0].isdigit()


def digest(path: Path) -> str:
    "Of the notebook, and of the package's code that it reaches"
    from iqa_repro.core.code import code_parts, imported_modules

    code = code_of(path)
    lazy = re.search(r"^\s*import iqa_repro$", code, re.M)  # its names come from anywhere
    files = (ROOT / "iqa_repro").rglob("*.py" if lazy else "*.toml")
    parts = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
    parts |= code_parts(imported_modules(code)) | {"outputs": "1"}
    parts["notebook"] = [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def run(source: Path, target: Path) -> None:
    "Run a notebook as nbdev_test does, in its own folder, and keep its outputs"
    os.environ["IN_TEST"] = "1"  # its last cell exports nothing
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    from execnb.shell import CaptureShell

    os.chdir(source.parent)
    skipped = lambda cell: bool(re.search(r"^#\| *(eval: *false|slow|gpu|notest)", cell.source, re.M))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    CaptureShell(source).execute(source, part, exc_stop=True, preproc=skipped)
    os.replace(part, target)


def run_all(names: list[str], cache: Path, jobs: int, folder: Path = ROOT / "nbs") -> tuple[dict, dict]:
    "Executed copies of notebooks, made where they are not there; and why others failed"
    copies = {name: cache / Path(name).with_suffix("") / f"{digest(folder / name)}.ipynb" for name in names}
    todo, failed = [name for name in names if not copies[name].exists()], {}
    print(f"{len(names) - len(todo)} notebooks are as they were, {len(todo)} to run", flush=True)
    preload()
    with ThreadPoolExecutor(jobs) as pool:
        ended = pool.map(lambda name: in_process(run, folder / name, copies[name]), todo)
        for done, (name, (status, said)) in enumerate(zip(todo, ended, strict=True), 1):
            if status:
                failed[name] = said.strip().rpartition("\n")[2] if status > 0 else "killed (out of memory?)"
            else:
                [old.unlink() for old in copies[name].parent.glob("*.ipynb") if old != copies[name]]
            print(f"[{done}/{len(todo)}] {name}{' FAILED' if status else ''}", flush=True)
    return copies, failed


def relink(text: str, name: str, pages: set[str]) -> str:
    "Links to notebooks lead to their pages; of notebooks that have none the words remain"

    def link(match):
        target = os.path.normpath(PurePosixPath(name).parent / match[2])
        return f"[{match[1]}]({match[2].removesuffix('.ipynb')}.md)" if target in pages else match[1]

    return re.sub(r"\[([^\]]+)\]\(([^)\s:]+\.ipynb)\)", link, text)


def spaced(text: str) -> str:
    "Lists and formulas of their own may follow a paragraph at once in JupyterLab; Python-Markdown wants an empty line"
    text = re.sub(r"\s*(\$\$.+?\$\$)\s*", r"\n\n\1\n\n", text, flags=re.S)
    return re.sub(r"(?m)^(?! *(?:[-*]|\d+\.) )(?=\S)(.+)\n(?=(?:[-*]|1\.) )", r"\1\n\n", text)


def readable(book, name: str, pages: set[str]) -> dict[bytes, int]:
    "Take out what only nbdev reads, and lead links to pages; returns widths of figures by their SHA-256"
    book.metadata["language_info"] = {"name": "python"}  # colours
    kept, widths = [], {}
    for cell in book.cells:
        if cell.cell_type == "code":
            if re.search(r"^#\| *hide", cell.source, re.M):
                continue
            cell.source = re.sub(r"(?m)^#\|.*\n?", "", cell.source).strip()
            for output in cell.outputs:  # without what Python prints of a figure, and styles of its own
                data = output.get("data", {})
                if "text/html" in data:
                    data["text/html"] = re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.S)
                data.pop("application/vnd.jupyter.widget-view+json", None)
                # drawn with twice the pixels
                if width := output.get("metadata", {}).get("image/png", {}).get("width"):
                    widths[hashlib.sha256(b64decode(data["image/png"])).digest()] = width
        else:
            cell.source = spaced(relink(cell.source, name, pages))
        if cell.source:
            kept.append(cell)
    book.cells = kept
    return widths


def as_page(source: Path, name: str, pages: set[str], site: Path) -> None:
    "Write one notebook below `site` as Markdown, with its pictures beside it"
    from nbconvert import MarkdownExporter

    book = nbformat.read(source, as_version=4)
    module = re.search(r"^#\| *default_exp (\S+)", book.cells[0].source, re.M)
    widths, target = readable(book, name, pages), (site / name).with_suffix(".md")
    resources = {"unique_key": Path(name).stem, "output_files_dir": f"{Path(name).stem}_files"}
    body, resources = MarkdownExporter().from_notebook_node(book, resources)
    if name != "index.ipynb":
        about = f"`nbs/{name}`{f' → `iqa_repro.{module[1]}`' if module else ''}\n{result(name, target)}"
        body = re.sub(r"(?:^|\n)# .+\n(?:\n*>.*\n)*", lambda m: f"{m[0]}\n{about}", body + "\n", count=1)
    target.parent.mkdir(parents=True, exist_ok=True)
    for file, content in resources.get("outputs", {}).items():
        (target.parent / file).parent.mkdir(parents=True, exist_ok=True)
        (target.parent / file).write_bytes(content)
        if width := widths.get(hashlib.sha256(content).digest()):
            body = body.replace(f"]({file})", f']({file}){{ width="{width}" }}')
    target.write_text(body, encoding="utf-8")


def result(name: str, beside: Path) -> str:
    "What the committed run of a notebook came to: figures, verdicts and tables; the figures are put `beside` its page"
    if is_library(name):
        return ""
    from iqa_repro.batch.blocks import alt_text, read_table, table_blocks
    from iqa_repro.batch.needs import list_artefacts, notebook_of

    parts, own, stem = [], set(), name.removesuffix(".ipynb").removeprefix("experiments/")
    several = [one for one in list_artefacts() if notebook_of(one) == stem]  # one may write several figures
    for one in several or [stem.replace("benchmarks", "benchmark")]:
        folder, title = FIGURES / one, one.split("/")[1]
        if (folder / "figure.png").exists():
            picture = beside.with_name(f"{beside.stem}_{title}.png")
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "figure.png", picture)
            words = alt_text(title, read_table(folder / "figure.csv"))
            parts.append(f'<img src="{picture.name}" alt="{html.escape(words)}">')
        if (folder / "claims.json").exists():
            claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
            rows = [[claim[key] for key in ("sentence", "kind", "source", "verdict")] for claim in claims]
            parts.append(
                folded(f"{title}: claims, judged ({len(rows)})", ["claim", "kind", "from", "verdict"], rows)
            )
        if (folder / "table.csv").exists():
            table = read_table(folder / "table.csv")
            own.update(row.get("stand_in", "True") for row in table)
            for caption, laid in table_blocks(table):
                heads = [head for head, _ in laid["heads"]]
                rows = [[cell for cell, _ in row] for row in laid["rows"]]
                same = "".join(f"; {key}: {value}" for key, value in laid["common"] if value)
                parts.append(folded(f"{title}: {caption[0].lower()}{caption[1:]}{same}", heads, rows))
    kind = "The paper's own material" if own == {"False"} else "Embedded stand-in"
    told = f"## {kind}\n\nWhat was committed of the last run; the source below is not run for this page."
    return "\n\n".join(["", told, *parts, "## Source", ""]) if parts else ""


def folded(caption: str, heads: list[str], rows: list[list[str]]) -> str:
    "A table that opens on a click; dollars are no formulas here"
    line = lambda tag, cells: "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows).replace("\n", "<br>")
    table = f'<table class="dataframe"><tr>{line("th", heads)}</tr>{body}</table>'
    return f"<details><summary>{html.escape(caption)}</summary>{table}</details>".replace("$", "&#36;")


def project_pages(site: Path, pages: set[str]) -> dict[str, str]:
    "README and its kin as pages, each where the repository has it; files that they link to come along"
    for name in PROJECT:
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in set(re.findall(r"\]\(([^)\s:#]+)\)", text)):
            text = text.replace(f"]({target})", f"]({linked(name, target, site, pages)})")
        (site / name.lower()).parent.mkdir(parents=True, exist_ok=True)
        (site / name.lower()).write_text(spaced(text), encoding="utf-8")
    return {title: name.lower() for name, title in PROJECT.items()}


def linked(name: str, target: str, site: Path, pages: set[str]) -> str:
    "Where a link of a page leads on the site: to a page, to a file that comes along, or to a notebook elsewhere"
    folder = PurePosixPath(name).parent
    place = os.path.normpath(folder / target)
    if place in PROJECT:
        return os.path.relpath(place.lower(), folder)
    if place.removeprefix("nbs/") in pages:
        return os.path.relpath(place.removeprefix("nbs/").removesuffix(".ipynb") + ".md", folder)
    if place.endswith(".ipynb"):  # without a page, where only some were asked for
        return f"https://github.com/iqa-repro/iqa_repro/blob/main/{place}"
    if (ROOT / place).is_file():
        (site / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, site / place)
    return target


SCRIPT = {letter: chr(0x1D49C + place) for place, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}
SCRIPT |= dict(zip("BEFHILMR", "ℬℰℱℋℐℒℳℛ", strict=True))  # older than the row of the others
NAMED = "<mi>(?:log|ln|exp|cos|sin|arccos|lim)</mi>"
THIN = '<mspace width="0.17em" />'


def formula(latex: str, display: bool) -> str:
    "MathML of a formula: browsers draw it themselves, without a script or a font from elsewhere"
    from latex2mathml.converter import convert

    latex = re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", latex)
    mathml = convert(latex, display="block" if display else "inline")
    if "\\" in mathml:
        raise ValueError(f"latex2mathml does not know a command of ${latex}$; write it otherwise")
    # browsers know no script letters but those of Unicode, and leave no room beside the name of a function
    mathml = re.sub(r'<mi mathvariant="script">([A-Z])</mi>', lambda m: f"<mi>{SCRIPT[m[1]]}</mi>", mathml)
    mathml = re.sub(rf"(</m(?:i|n|row|sub)>)({NAMED})", rf"\1{THIN}\2", mathml)
    return re.sub(rf"({NAMED})(?=<m(?:i|n|row|sub|sup|frac)\b)", rf"\1{THIN}", mathml)


def on_page_content(content, page, **_):
    "A hook of mkdocs: formulas that arithmatex has marked become MathML"
    inline = lambda m: formula(html.unescape(m[1]), False)
    block = lambda m: formula(html.unescape(m[1]), True)
    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', inline, content, flags=re.S)
    return re.sub(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', block, content, flags=re.S)


def build(output: Path, wanted: list[str], jobs: int = 1, execute: bool = True) -> list[str]:
    "Make the site; returns what went wrong"
    import yaml

    from iqa_repro.core.paths import cache_root

    chosen = sections(wanted)
    names = ["index.ipynb", *(name for part in chosen.values() for name in part)]
    copies, failed = {}, {}
    if execute:
        copies, failed = run_all([n for n in names if is_library(n)], cache_root() / "docs", jobs)
        if failed:
            return [f"nbs/{name}: {why}" for name, why in failed.items()]
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "docs"
        for name in names:
            as_page(copies.get(name, ROOT / "nbs" / name), name, set(names), site)
        shutil.copytree(ROOT / "nbs" / "images", site / "images")
        (site / "style.css").write_text(STYLE, encoding="utf-8")
        navigation = [{"Where to go": "index.md"}]
        for part, members in chosen.items():
            pages = [name.replace(".ipynb", ".md") for name in members]
            title = lambda page: re.search(r"(?m)^# (.+)$", (site / page).read_text(encoding="utf-8"))[1]
            navigation.append({part: [{title(page).replace("`", ""): page} for page in pages]})
        navigation.append(
            {"Project": [{title: page} for title, page in project_pages(site, set(names)).items()]}
        )
        own = {"docs_dir": str(site), "site_dir": str(output), "hooks": [__file__], "nav": navigation}
        config = Path(folder) / "mkdocs.yml"
        config.write_text(SETTINGS + yaml.safe_dump(own, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        made = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in made.stderr.splitlines() if not line.startswith("INFO")]
    return lines or [f"mkdocs ended with {made.returncode}"] if made.returncode else []


def quarto(output: Path) -> list[str]:
    "The site that nbdev makes with Quarto, in a copy: it would write README.md anew and settings beside the notebooks"
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        for name in PROJECT:
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, Path(folder) / name)
        done = subprocess.run([sys.executable, "-c", "import nbdev.quarto as q; q.nbdev_docs()"], cwd=folder)
        if done.returncode:
            return [f"nbdev_docs ended with {done.returncode}; --no-quarto makes the site without it"]
        shutil.rmtree(output, ignore_errors=True)
        shutil.move(Path(folder) / "_docs", output)
    return []


def main() -> int:
    "0 when the site is whole"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    more = parser.add_argument
    more("wanted", nargs="*", help="patterns below nbs/, such as '4_methods/*' (default: all)")
    more("--output", type=Path, default=ROOT / "_docs", help="folder of the site (default: _docs)")
    more("--jobs", type=int, default=1, help="notebooks that run at a time (default: 1)")
    more("--no-run", action="store_true", help="show the library's notebooks without outputs")
    more("--no-quarto", action="store_true", help="mkdocs-material even where Quarto is there")
    options = parser.parse_args()
    if shutil.which("quarto") and not (options.no_quarto or options.wanted):
        problems = quarto(options.output.resolve())
    elif missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        parser.error(f"{', '.join(missing)} not installed: pip install -e '.[docs]'")
    else:
        problems = build(options.output.resolve(), options.wanted, max(1, options.jobs), not options.no_run)
    made = f"the site is in {options.output}; to read it: python -m http.server -d {options.output}"
    print("\n".join(problems) or made)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
