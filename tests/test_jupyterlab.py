"""Notebooks in JupyterLab as a reader opens them: a real browser runs all their cells.

By default the index and one cheap library notebook; IQA_REPRO_TRIAL=all opens every library notebook (half an hour).
Skips without playwright or Chromium.
"""

import os
import re
import sys
from pathlib import Path

import pytest

for package in ("playwright", "jupyterlab"):
    pytest.importorskip(package, reason=f"no {package}: pip install -e '.[docs,dev]'")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import jlab_check

if not jlab_check.find_chromium():
    pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM", allow_module_level=True)

ALL = os.environ.get("IQA_REPRO_TRIAL") == "all"
LIBRARY = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").glob("[0-9]_*/*.ipynb"))
OPENED = LIBRARY if ALL else ["nbs/0_core/06_names.ipynb"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    jlab_check.copy_project(folder)
    return folder


@pytest.fixture(scope="module")
def lab(project):
    "One server and one browser for all: (address, token, browser)"
    with jlab_check.jupyterlab(project) as (address, token), jlab_check.browser() as window:
        yield address, token, window


def test_lab_opens_at_the_index_and_its_links_open_notebooks(project, lab):
    address, token, window = lab
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"jupyterlab nbs --LabApp.default_url={jlab_check.DEFAULT_URL} " in makefile  # what is served here
    with window.new_context(viewport={"width": 1400, "height": 1000}) as context:
        page = context.new_page()
        page.goto(f"{address}/?token={token}", timeout=120_000)
        jlab_check.run_cells(page, 300)
        assert page.locator(".jp-Notebook img").count() == 1 and "index.ipynb" in page.url
        page.locator(".jp-Notebook a", has_text="Keep the gradient on quality").first.click()
        page.wait_for_url(re.compile(r"3_grmp/01_qgr\.ipynb"), timeout=60_000)
        page.locator(".jp-Notebook .MathJax, .jp-Notebook mjx-container").first.wait_for(timeout=60_000)
        page.evaluate(jlab_check.SHUT_DOWN)
    assert not jlab_check.report(project / "nbs/index.ipynb")


@pytest.mark.parametrize("notebook", OPENED)
def test_every_cell_runs(project, lab, notebook):
    address, token, window = lab
    raised = jlab_check.run_all(window, address, token, notebook.removeprefix("nbs/"), None, 900)
    assert not (jlab_check.report(project / notebook) + raised)


@pytest.mark.skipif(not ALL, reason="half a minute; IQA_REPRO_TRIAL=all runs it")
def test_a_cell_that_fails_is_told(project, lab):
    address, token, window = lab
    failing = project / "nbs" / "failing.ipynb"
    text = (ROOT / "nbs/index.ipynb").read_text(encoding="utf-8")
    failing.write_text(
        text.replace("import matplotlib.pyplot as plt", "import nothing_of_this_name"), encoding="utf-8"
    )
    raised = jlab_check.run_all(window, address, token, "failing.ipynb", None, 120)
    problems = jlab_check.report(failing)
    assert raised == [] and "nothing_of_this_name" in problems[0] and "never ran" in problems[1]
