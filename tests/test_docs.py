"""The documentation site in a real browser: pages, formulas, figures, search and links; nothing asks another machine.

A site of some notebooks, of which none is run; with IQA_REPRO_TRIAL=all the whole site (twenty minutes the first time).
Needs Debian's chromium, playwright and the packages of `.[docs]`; says so where they are missing.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
WHOLE = os.environ.get("IQA_REPRO_TRIAL") == "all"
SOME = (
    "1_data/00_tables*",
    "4_methods/grmp/01_qgr*",
    "4_methods/uniqa/01_multi_cue*",
    "5_study/00_metrics*",
    "experiments/grmp_iqa/table1*",
    "experiments/uniqa/fig6*",
    "experiments/uniqa/fig14*",
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        "Nothing: pytest shows what a test says"


def index_links():
    text = "\n".join(c.source for c in nbformat.read(ROOT / "nbs/index.ipynb", as_version=4).cells)
    return set(re.findall(r"\]\(([^)]+\.ipynb)\)", text))


def test_the_index_leads_to_every_notebook_and_to_no_other():
    books = [p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    there = {p.relative_to(ROOT / "nbs").as_posix() for p in books} - {"index.ipynb"}
    assert not there - index_links(), "nbs/index.ipynb lacks these"
    assert not index_links() - there, "nbs/index.ipynb names these, which are not there"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "Folder of the site, served on this machine alone; yields it and its address"
    for package in ("mkdocs", "material", "latex2mathml", "nbconvert"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("docs") / "site"
    choice = [] if WHOLE else ["--no-run", *SOME]
    command = [sys.executable, ROOT / "tools/docs.py", "--no-quarto", "--output", folder, *choice]
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3600)
    assert made.returncode == 0, made.stdout + made.stderr
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(site, browser):
    "A tab that writes down what it complains of and whom it asks"
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    tab = context.new_page()
    tab.complaints, tab.asked = [], set()
    tab.on("console", lambda m: tab.complaints.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("response", lambda r: tab.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    tab.on("request", lambda request: tab.asked.add(request.url))
    yield tab
    context.close()
    address = site[1]
    assert not tab.complaints
    assert not [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))]


def pages_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))


# Text of a page without code: what a formula that was not drawn would stand in.
PROSE = """() => {
  const copy = document.querySelector('.md-content').cloneNode(true);
  copy.querySelectorAll('pre, code, table.dataframe').forEach(e => e.remove());
  return copy.textContent + document.querySelector('.md-sidebar--secondary')?.textContent;
}"""
PICTURES = "() => [...document.images].map(i => [i.src, i.complete ? i.naturalWidth : 0])"


def test_every_page_shows_its_formulas_and_figures(site, page):
    folder, address = site
    formulas, figures = {}, 0
    for name in pages_of(folder):
        page.goto(address + name)
        page.wait_for_load_state("load")
        text, pictures = page.evaluate(PROSE), page.evaluate(PICTURES)
        assert page.title() and page.locator("h1").count() >= 1, name
        raw = re.search(r"\$[^$\n]{1,80}\$|\\[a-z]{2,}\b|\\[(\[]", text)
        assert not raw or name in ("404.html", "contributing.html"), f"{name}: not drawn: {raw}"
        assert all(width > 0 for _, width in pictures), f"{name}: {pictures}"
        too_wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not too_wide, f"{name} has to be pushed sideways"
        drawn = page.evaluate(
            "[...document.querySelectorAll('math')].filter(m => m.getBoundingClientRect().width > 1).length"
        )
        assert drawn == page.locator("math").count(), f"{name}: a formula takes no room"
        formulas[name], figures = drawn, figures + len(pictures)
    assert formulas["4_methods/grmp/01_qgr.html"] >= 15 and formulas["5_study/00_metrics.html"] >= 8
    assert figures >= 2


def test_the_search_finds_a_page(site, page):
    page.goto(site[1] + "index.html")
    page.wait_for_load_state("networkidle")  # the script that listens is there
    page.locator("input.md-search__input").click()
    page.locator("input.md-search__input").press_sequentially("orthogonal gradient regularization")
    page.locator(".md-search-result__link").first.wait_for(state="visible", timeout=60_000)
    assert "4_methods/grmp/01_qgr.html" in [
        urldefrag(link.get_attribute("href"))[0].removeprefix(site[1]).split("?")[0]
        for link in page.locator(".md-search-result__link").all()
    ]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1300, "dark")])
def test_a_phone_and_a_dark_room(site, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(site[1] + "4_methods/grmp/01_qgr.html")
    colours = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('math')).color]"
    )
    back, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (back < 200 and ink > back) if scheme == "dark" else (back > 600 and ink < back)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def test_no_link_leads_nowhere(site):
    folder, _ = site
    asked, missing = 0, []
    for name in pages_of(folder):
        for target in re.findall(r'(?:href|src)="([^"]+)"', (folder / name).read_text(encoding="utf-8")):
            place = unquote(urldefrag(urljoin(f"http://site/{name}", target))[0]) if ":" not in target else ""
            if place and name != "404.html":  # that one is shown anywhere, with links from the root
                asked += 1
                file = folder / place.removeprefix("http://site/").split("?")[0]
                missing += [] if file.is_file() else [f"{name} → {target}"]
    assert asked > 100 and not missing


def test_a_page_shows_the_source_and_not_what_only_nbdev_reads(site):
    folder, _ = site
    text = (folder / "4_methods/grmp/01_qgr.html").read_text(encoding="utf-8")
    plain = re.sub(r"<[^>]+>", "", text)
    assert "def regularize_gradient(" in plain and "#| export" not in plain and "nbdev_export" not in plain


@pytest.mark.parametrize(
    ("name", "kind", "figures"),
    [("fig6", "Embedded stand-in", 3), ("fig14", "The paper's own material", 1)],  # 3: Figures 6, 7 and 8
)
def test_an_experiment_shows_all_that_was_committed_of_it(site, page, name, kind, figures):
    page.goto(f"{site[1]}experiments/uniqa/{name}.html")
    assert page.locator("h2").first.inner_text().startswith(kind)
    assert page.locator("article img").count() == figures
    claims = json.loads(
        (ROOT / f"paper_figures/embedded/uniqa/{name}/claims.json").read_text(encoding="utf-8")
    )
    page.locator("summary", has_text="claims, judged").first.click()
    assert page.locator("details[open] td").count() == 4 * len(claims)  # sentence, kind, source, verdict
    assert page.locator("details[open] td").nth(3).inner_text() == claims[0]["verdict"]
    assert page.locator("summary", has_text="the table").count() == figures  # one beside each


def test_a_notebook_that_fails_fails_the_site_by_its_name(tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    docs = pytest.importorskip("docs")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("6 * 7"), nbformat.v4.new_code_cell("1 / 0")]
    )
    for name, count in (("good", 1), ("bad", 2)):
        nbformat.write(nbformat.v4.new_notebook(cells=book.cells[:count]), tmp_path / f"{name}.ipynb")
    here = Path.cwd(), dict(os.environ)
    try:
        copies, failed = docs.run_all(["good.ipynb", "bad.ipynb"], tmp_path / "cache", 1, tmp_path)
        assert list(failed) == ["bad.ipynb"] and "ZeroDivisionError" in failed["bad.ipynb"]
        assert not copies["bad.ipynb"].exists()
        kept = nbformat.read(copies["good.ipynb"], as_version=4).cells[0].outputs
        assert kept[0]["data"]["text/plain"] == "42"
        before = copies["good.ipynb"].stat().st_mtime_ns
        docs.run_all(["good.ipynb"], tmp_path / "cache", 1, tmp_path)
        assert copies["good.ipynb"].stat().st_mtime_ns == before  # not run again
    finally:
        os.chdir(here[0])
        sys.path.remove(str(ROOT / "tools"))


QUARTO = """#!/bin/sh
# as `quarto render FILE -o README.md`: fails without the file, else writes the page
[ "$1" = --version ] && echo 1.6.0 && exit 0
[ -f "$2" ] || exit 1
mkdir -p _docs && echo rendered > _docs/README.md
"""


@pytest.mark.parametrize(("readme_nb", "kept"), [(None, True), ("index.ipynb", False)])
def test_nbdev_readme_leaves_the_written_readme_alone(tmp_path, readme_nb, kept):
    "With settings.ini as it is; with nbdev's default the page would be replaced"
    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
    (tmp_path / "settings.ini").write_text(
        re.sub("(?m)^readme_nb = .*", f"readme_nb = {readme_nb}", settings) if readme_nb else settings,
        encoding="utf-8",
    )
    (tmp_path / "nbs").mkdir()
    shutil.copy(ROOT / "nbs" / "index.ipynb", tmp_path / "nbs")
    (tmp_path / "README.md").write_text("by hand", encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "quarto").write_text(QUARTO, encoding="utf-8")
    (tmp_path / "bin" / "quarto").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for call in ("nbdev_readme()", "nbdev_readme(chk_time=True)"):
        os.utime(tmp_path / "nbs" / "index.ipynb")  # newer than README.md
        command = [sys.executable, "-c", f"import nbdev.quarto as q; q.{call}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert (text == "by hand") is kept, done.stdout + done.stderr
