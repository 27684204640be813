"""The notebooks where people read them: JupyterLab in a real browser, *Run All Cells*, every output of an error looked for.

The index and one notebook of the library; with IQA_REPRO_TRIAL=all every one of them (about half an hour on two cores).
Needs Debian's chromium and playwright; says so where they are missing.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install -e '.[dev]'")
sys.path.insert(0, str(ROOT / "tools"))
import jlab_check

pytestmark = pytest.mark.skipif(
    not (os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")),
    reason="no Chromium: apt-get install chromium",
)
SOME = ["nbs/index.ipynb", "nbs/0_core/06_names.ipynb"]


def test_every_cell_runs_in_jupyterlab():
    chosen = SOME
    if os.environ.get("IQA_REPRO_TRIAL") == "all":
        library = sorted(ROOT.glob("nbs/[0-9]_*/*.ipynb"))
        chosen = ["nbs/index.ipynb", *(path.relative_to(ROOT).as_posix() for path in library)]
    wrong, shown = {}, {}
    for name, _, outputs, problems in jlab_check.check(chosen, timeout=900):
        shown[name] = outputs
        if problems:
            wrong[name] = problems
    assert list(shown) == chosen and not wrong
    assert shown["nbs/index.ipynb"] == 2, "the scorer and the picture are not both shown"


def test_make_lab_opens_at_the_index_and_its_links_open_notebooks(tmp_path):
    recipe = re.search(
        r"jupyterlab (\w+) (--LabApp\.default_url=\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")
    )
    jlab_check.copy_project(tmp_path, ROOT)
    with (
        jlab_check.jupyterlab(tmp_path, *recipe.groups()) as (address, token),
        jlab_check.chromium() as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/?token={token}", timeout=120_000)
        link = page.locator(".jp-Notebook a", has_text="Gradient regularization (QGR)").first
        link.wait_for(timeout=120_000)
        assert urlsplit(page.url).path.endswith("/lab/tree/index.ipynb")
        link.click()
        page.wait_for_url(re.compile(r"4_methods/grmp/01_qgr\.ipynb"), timeout=60_000)
        page.locator(".jp-Notebook mjx-container").first.wait_for(timeout=60_000)  # its formulas are drawn
        page.close()
        jlab_check.stop_kernels(address, token)


def test_an_error_and_a_cell_after_it_are_both_reported(tmp_path):
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in ("6 * 7", "1 / 0", "2")]
    )
    nbformat.write(book, tmp_path / "as_written.ipynb")
    shown, problems = jlab_check.report(tmp_path / "as_written.ipynb")
    assert shown == 0 and len(problems) == 3 and "never ran | 6 * 7" in problems[0]
    error = nbformat.v4.new_output(
        "error", ename="ZeroDivisionError", evalue="division by zero", traceback=[]
    )
    for cell, outputs in zip(book.cells, ([], [error], []), strict=True):
        cell.outputs, cell.execution_count = outputs, None if cell.source == "2" else 1
    nbformat.write(book, tmp_path / "run.ipynb")
    _, problems = jlab_check.report(tmp_path / "run.ipynb")
    assert problems == [
        "code cell 2: ZeroDivisionError: division by zero | 1 / 0",
        "code cell 3: never ran | 2",
    ]
