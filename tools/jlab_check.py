"""Open notebooks in JupyterLab in a real browser without a window, run all their cells, look for errors, take pictures.

    python tools/jlab_check.py nbs/4_methods/grmp/01_qgr.ipynb                       # one line on it
    python tools/jlab_check.py nbs/?_*/*.ipynb --pictures shots/ --timeout 900  # all of the library, with screenshots

Needs Chromium (Debian: apt-get install chromium) and `pip install playwright`. It works on a temporary copy of the project,
since the last cell of a notebook exports. One server and one browser serve all notebooks; a kernel goes when its notebook
is done. Exit status 0 when every cell ran without an error, 1 when not.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "nbs iqa_repro tests Snakefile settings.ini pyproject.toml setup.py constraints.txt README.md".split()
)
BROWSER = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
WIDTH, TALLEST = 1400, 16000  # pixels of the screenshot

# All code cells ran, or one failed, and nothing is going on any more.
FINISHED = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  if (!panel?.content?.model || panel.sessionContext.session?.kernel?.status !== 'idle') return false;
  const cells = Array.from(panel.content.model.cells)
    .filter(c => c.type === 'code' && c.sharedModel.getSource().trim());
  const failed = cells.some(c => c.outputs.toJSON().some(o => o.output_type === 'error'));
  return !cells.some(c => c.executionState === 'running') && (failed || cells.every(c => c.executionCount));
}"""
PANEL = "window.jupyterapp?.shell.currentWidget"
KERNEL_READY = f"() => {PANEL}?.sessionContext?.session?.kernel?.status === 'idle'"
SAVED = f"() => !{PANEL}.context.model.dirty"
TO_TOP = "() => document.querySelector('.jp-WindowedPanel-outer')?.scrollTo(0, 0)"
HEIGHT = "() => document.querySelector('.jp-WindowedPanel-inner')?.scrollHeight ?? 1000"


def copy_project(target: Path, root: Path = ROOT) -> None:
    "Copy what notebooks need to run"
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(root / name, target)


@contextmanager
def jupyterlab(folder: Path, served: str = "", *more: str):
    "Serve a copy of the project, or what is `served` of it; yields address and token, and stops the server"
    with socket.socket() as probe:  # the system names a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}"]
    options += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", *more]
    options += [f"--ServerApp.root_dir={folder / served}"]
    environment = os.environ | {"PYTHONPATH": str(folder)}  # the copy's package, not the installed one
    with open(folder / "jupyterlab.log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):  # half a second each
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None:
                    raise RuntimeError((folder / "jupyterlab.log").read_text()) from None
                time.sleep(0.5)
        yield address, token
    finally:
        server.terminate()
        server.wait(timeout=30)


def menu(page, name: str, entry: str) -> None:
    "Click an entry of the menu bar, as a reader would"
    page.locator(".lm-MenuBar-itemLabel", has_text=name).first.click()
    page.locator(".lm-Menu-itemLabel", has_text=entry).first.click()


@contextmanager
def chromium():
    "A browser without a window"
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=list(BROWSER), headless=True)
        yield browser
        browser.close()


def run_all(browser, address: str, token: str, notebook: str, picture: Path | None, timeout) -> list[str]:
    "Open, run, save and photograph the notebook; returns errors that the page itself raised"
    raised = []
    page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
    page.on("pageerror", lambda error: raised.append(str(error)))
    try:
        page.goto(f"{address}/lab/tree/{notebook}?reset&token={token}", timeout=120_000)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        page.wait_for_function(KERNEL_READY, timeout=120_000, polling=500)
        with suppress(PlaywrightTimeout):  # on first use it asks whether to fetch news
            news = page.locator(".jp-toast-button, .jp-Dialog button").filter(has_text="No")
            news.first.click(timeout=2000)
        menu(page, "Run", "Run All Cells")
        try:
            page.wait_for_function(FINISHED, timeout=1000 * timeout, polling=500)
        except PlaywrightTimeout:
            raised.append(f"not finished after {timeout:.0f} s")
        page.wait_for_timeout(1000)  # pictures still on their way
        menu(page, "File", "Save Notebook")
        page.wait_for_function(SAVED, timeout=60_000, polling=200)
        if picture:
            photograph(page, picture)
    except PlaywrightTimeout as error:
        raised.append(str(error).splitlines()[0])
    finally:
        page.close()
        stop_kernels(address, token)
    return raised


def photograph(page, picture: Path) -> None:
    "The whole notebook as one picture"
    for _ in range(3):  # cells out of sight have no height of their own yet
        page.evaluate(TO_TOP)
        page.wait_for_timeout(800)
        page.set_viewport_size({"width": WIDTH, "height": int(min(page.evaluate(HEIGHT) + 160, TALLEST))})
    page.evaluate(TO_TOP)
    page.wait_for_timeout(1500)
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=picture)


def stop_kernels(address: str, token: str) -> None:
    "End all sessions of the server with their kernels: each holds the memory of its notebook"
    place, headers = f"{address}/api/sessions", {"Authorization": f"token {token}"}
    ask = lambda path, method: urllib.request.urlopen(
        urllib.request.Request(path, None, headers, method=method)
    )
    with ask(place, "GET") as answer:
        for session in json.load(answer):
            ask(f"{place}/{session['id']}", "DELETE").close()


def check(
    notebooks: list[str], timeout: float, pictures: Path | None = None, root: Path = ROOT
) -> Iterator[tuple]:
    """Run notebooks one after the other in one JupyterLab: paths below the project `root`, seconds for one, folder for
    screenshots; yields notebook, seconds, code cells with outputs, what went wrong"""
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder), root)
        with jupyterlab(Path(folder)) as (address, token), chromium() as browser:
            for notebook in notebooks:
                start = time.monotonic()
                name = notebook.removeprefix("nbs/").replace("/", "_")
                picture = pictures and pictures / f"{name.removesuffix('.ipynb')}.png"
                raised = run_all(browser, address, token, notebook, picture, timeout)
                shown, problems = report(Path(folder) / notebook)
                yield notebook, time.monotonic() - start, shown, problems + raised


def report(path: Path) -> tuple[int, list[str]]:
    "How many cells of a saved notebook have outputs, and what went wrong: cells that failed, or never ran"
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
    problems = []
    for number, cell in enumerate(code, 1):
        errors = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
        if errors or cell.execution_count is None:
            what = "; ".join(errors) or "never ran"
            problems.append(f"code cell {number}: {what} | {cell.source.splitlines()[0]}")
    return sum(bool(c.outputs) for c in code), problems


def main() -> int:
    "0 when all cells ran without an error"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    more = parser.add_argument
    more("notebooks", nargs="+", help="paths below the project, such as nbs/4_methods/grmp/01_qgr.ipynb")
    more("--pictures", type=Path, help="folder for screenshots (default: none are made)")
    more("--timeout", type=float, default=600, help="seconds for the cells of one (default: 600)")
    options = parser.parse_args()
    if missing := [notebook for notebook in options.notebooks if not (ROOT / notebook).is_file()]:
        parser.error(f"there is no {missing[0]} below the project")
    failed = 0
    for name, seconds, shown, problems in check(options.notebooks, options.timeout, options.pictures):
        failed, verdict = failed + bool(problems), "FAILED" if problems else "passed"
        print(f"{seconds:6.1f} s  {verdict}  {name}, {shown} cells with outputs", flush=True)
        print("".join(f"          {problem}\n" for problem in problems), end="", flush=True)
    print(f"{len(options.notebooks) - failed} of {len(options.notebooks)} notebooks ran without an error")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
