"""The documentation site in a real browser: pages load, formulas and figures show, search finds, nothing comes from elsewhere.

By default two notebooks and two experiments are whole and the others a title; IQA_REPRO_TRIAL=all makes the whole site
(ten minutes from nothing). `make docs` needs the packages of `[docs]`; without them, or without a browser, this skips.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

for package in ("mkdocs", "material", "latex2mathml", "execnb"):
    pytest.importorskip(package, reason=f"no {package}: pip install -e '.[docs]'")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import docs

ALL = os.environ.get("IQA_REPRO_TRIAL") == "all"
ONLY = ["*"] if ALL else ["index", "3_grmp/01_qgr", "experiments/uniqa/fig6", "experiments/uniqa/fig14"]
BROWSER = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("docs") / "site"
    command = [
        sys.executable,
        str(ROOT / "tools/docs.py"),
        "--site",
        str(target),
        "--jobs",
        "1",
        "--only",
        *ONLY,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(BROWSER))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, address):
    "A page; at its end nothing was complained of, and nothing asked of another machine"
    troubles = []
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    page.on(
        "response",
        lambda answer: troubles.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else 0,
    )
    ours = (address, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(ours) else troubles.append(request.url))
    yield page
    context.close()
    assert not troubles, troubles


def whole(site):
    "Pages that are shown whole, as 'folder/name'"
    names = [p.relative_to(site).with_suffix("").as_posix() for p in sorted(site.rglob("*.html"))]
    texts = [Path(text).stem for text in docs.TEXTS.values()]
    return [n for n in names if n in texts or (n != "404" and (ALL or n in ONLY))]


SHOWN = """() => {
  const page = document.querySelector('article').cloneNode(true);
  page.querySelectorAll('pre, code, script, style').forEach(e => e.remove());
  return page.innerText;
}"""
LOADED = """async () => {
  const all = Array.from(document.querySelectorAll('article img'));
  all.forEach(one => { one.loading = 'eager'; });
  await Promise.all(all.map(one => one.decode().catch(() => null)));
  return all.map(one => [one.getAttribute('src'), one.naturalWidth, Boolean(one.alt)]);
}"""
# Browsers draw MathML by themselves; a fraction that is none is as high as one line.
MATHS = (
    "() => Array.from(document.querySelectorAll('article math')).map(e => e.getBoundingClientRect().height)"
)


def test_pages_show_text_formulas_and_figures(site, address, page):
    formulas = figures = 0
    for name in whole(site):
        page.goto(f"{address}/{name}.html")
        shown = page.evaluate(SHOWN)
        assert len(shown) > 200, f"{name} is empty"
        assert not re.search(r"\\[a-z]{2,}|\$[^$\n]*[\\_^][^$\n]*\$|\$\$", shown), (
            f"a formula of {name} is source"
        )
        assert "nbdev_export" not in page.content() and "#| " not in shown, f"{name} shows what is hidden"
        notebook = ROOT / "nbs" / f"{name}.ipynb"
        cells = docs.read(notebook) if notebook.exists() else []
        prose = [docs.VERBATIM.sub("", docs.source_of(c)) for c in cells if c["cell_type"] == "markdown"]
        heights = page.evaluate(MATHS)
        assert len(heights) == sum(len(docs.MATH.findall(text)) for text in prose), f"formulas of {name}"
        assert all(height > 2 for height in heights), f"a formula of {name} is not drawn"
        pictures = page.evaluate(LOADED)
        assert all(width > 0 and said for _, width, said in pictures), f"{name}: {pictures}"
        formulas, figures = formulas + len(heights), figures + len(pictures)
    assert formulas >= 15 and figures >= 5


def test_outputs_of_a_notebook_are_those_that_running_it_gives(address, page):
    page.goto(f"{address}/index.html")
    assert page.locator(".output").first.inner_text().startswith("Scorer(clipiqa")
    assert page.locator(".output img").count() == 1
    page.goto(f"{address}/3_grmp/01_qgr.html")
    exported, cells = page.locator(".exported").count(), docs.read(ROOT / "nbs/3_grmp/01_qgr.ipynb")
    assert exported == sum(docs.source_of(c).startswith("#| export") for c in cells)
    assert page.locator("a#regularize_gradient").count() == 1


def test_experiments_say_what_their_numbers_are(address, page):
    page.goto(f"{address}/experiments/uniqa/fig6.html")
    assert page.locator(".admonition-title").first.inner_text().startswith("Embedded stand-in")
    assert page.locator("article img").count() == 3  # Figures 6, 7 and 8
    claims = json.loads((ROOT / "paper_figures/embedded/uniqa/fig6/claims.json").read_text(encoding="utf-8"))
    page.locator("summary").first.click()
    assert page.locator("details[open] td").count() == 2 * len(claims)
    page.goto(f"{address}/experiments/uniqa/fig14.html")  # the paper's own comments
    assert "not a stand-in" in page.locator(".admonition-title").first.inner_text()


def test_search_finds_a_page(address, page):
    page.goto(f"{address}/index.html")
    page.locator(".md-search__input").fill("semantic gradient regularization")
    found = page.locator(".md-search-result__link", has_text="Keep the gradient on quality").first
    found.wait_for()
    found.click()
    page.wait_for_url(re.compile("3_grmp/01_qgr.html"))
    assert page.locator("h1").inner_text().startswith("Keep the gradient on quality")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_and_a_dark_room(site, address, chromium, scheme):
    with chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme) as context:
        page = context.new_page()
        for name in whole(site):
            page.goto(f"{address}/{name}.html")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390, f"{name} is {wide} pixels wide"
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) == (scheme == "dark")
        page.locator("header label[for=__drawer]").click()
        page.locator(".md-nav--primary").get_by_text("Library", exact=True).first.wait_for(state="visible")


class Addresses(HTMLParser):
    def __init__(self, file):
        super().__init__()
        self.found, self.names = [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given.get("id"), given.get("name")} - {None}
        self.found += [given[key] for key in ("href", "src") if given.get(key)]


def test_links_lead_somewhere(site):
    parsed = {file.resolve(): Addresses(file) for file in site.rglob("*.html") if file.name != "404.html"}
    inside = 0
    for file, page in parsed.items():
        for link in page.found:
            if re.match(r"(https?|mailto|data):", link):
                assert not re.search(r"fonts\.g|unpkg|jsdelivr|cdn", link), (
                    f"{file.name} takes {link} from elsewhere"
                )
                continue
            path, fragment = urldefrag(unquote(link))
            target = (file.parent / path).resolve() if path else file
            assert target.exists(), f"{file.relative_to(site)} links to {link}"
            if fragment and target in parsed and fragment != "__skip":
                assert fragment in parsed[target].names, f"{file.relative_to(site)}: no {link}"
            inside += 1
    assert inside > 1000


# --- without a browser ----------------------------------------------------------------------------------------------


def test_formulas_become_mathml_and_code_is_left_alone():
    made = docs.with_math(r"Of $x_i$, `cost $5 to $6` and $$\frac{a_1}{b^*}\,\mathcal L.$$")
    assert made.count("<math") == 2 and "<mfrac>" in made and "ℒ" in made
    assert "`cost $5 to $6`" in made and "*" not in made and "_" not in made.replace("`cost", "")
    with pytest.raises(ValueError, match="nosuchthing"):
        docs.with_math(r"$\nosuchthing{x}$")


def test_text_of_a_terminal_becomes_plain():
    assert docs.plain("\x1b[31mred\x1b[0m <b>\n 10%\r 50%\r100%\r\n") == "red &lt;b&gt;\n100%"


def notebook(path, *code):
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": c,
        }
        for i, c in enumerate(code)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def test_a_notebook_that_fails_is_named_and_one_that_ran_is_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(docs, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path / "cache"))
    notebook(tmp_path / "good.ipynb", "print(6 * 7)", "#| slow\n1 / 0", "import nbdev; nbdev.nbdev_export()")
    notebook(tmp_path / "bad.ipynb", "x = 1", "{}['nothing']")
    both = sorted(tmp_path.glob("*.ipynb"))
    assert docs.execute_all(both, 1) == ["bad"]
    assert "KeyError: 'nothing'" in capsys.readouterr().out
    (ran,) = (tmp_path / "cache" / "docs").glob("*.ipynb")
    assert docs.read(ran)[0]["outputs"][0]["text"] == ["42\n"]
    assert docs.execute_all([tmp_path / "good.ipynb"], 1) == []
    assert "1 executed notebooks from the cache, 0 to run" in capsys.readouterr().out
    notebook(tmp_path / "good.ipynb", "from iqa_repro.core.names import natural_key")
    assert not docs.executed_copy(tmp_path / "good.ipynb").exists()  # another text, another copy
