"""Open a notebook in JupyterLab in a real browser without a window, run all its cells, look for errors, take a picture.

    python tools/jlab_check.py nbs/3_grmp/01_qgr.ipynb qgr.png [--timeout 600]

A tool for developers, not part of `make test`. Needs Chromium (Debian: apt-get install chromium) and
`pip install playwright`. It works on a temporary copy of the project, since the last cell of a notebook exports.
Exit status 0 when every cell ran without an error, 1 when not.
"""

import argparse
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
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("nbs", "iqa_repro", "settings.ini", "pyproject.toml", "setup.py", "README.md")
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
KERNEL_READY = (
    "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
)
SAVED = "() => !window.jupyterapp.shell.currentWidget.context.model.dirty"
TO_TOP = "() => document.querySelector('.jp-WindowedPanel-outer')?.scrollTo(0, 0)"
HEIGHT = "() => document.querySelector('.jp-WindowedPanel-inner')?.scrollHeight ?? 1000"


def copy_project(target: Path) -> None:
    "Copy what notebooks need to run"
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, target)


@contextmanager
def jupyterlab(folder: Path):
    "Serve `folder`; yields the address and its token, and stops the server"
    with socket.socket() as probe:  # the system names a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}"]
    options += [
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
    ]
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


def run_all(address: str, token: str, notebook: str, picture: Path, timeout: float) -> list[str]:
    "Open, run, save and photograph the notebook; returns errors that the page itself raised"
    raised = []
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER), headless=True)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.goto(f"{address}/lab/tree/{notebook}?reset&token={token}", timeout=120_000)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        page.wait_for_function(KERNEL_READY, timeout=120_000, polling=500)
        try:  # on first use it asks whether to fetch news
            page.locator(".jp-toast-button, .jp-Dialog button").filter(has_text="No").first.click(
                timeout=2000
            )
        except PlaywrightTimeout:
            pass
        menu(page, "Run", "Run All Cells")
        try:
            page.wait_for_function(FINISHED, timeout=1000 * timeout, polling=500)
        except PlaywrightTimeout:
            raised.append(f"not finished after {timeout:.0f} s")
        page.wait_for_timeout(1000)  # pictures still on their way
        menu(page, "File", "Save Notebook")
        page.wait_for_function(SAVED, timeout=60_000, polling=200)
        for _ in range(3):  # cells out of sight have no height of their own yet
            page.evaluate(TO_TOP)
            page.wait_for_timeout(800)
            page.set_viewport_size({"width": WIDTH, "height": int(min(page.evaluate(HEIGHT) + 160, TALLEST))})
        page.evaluate(TO_TOP)
        page.wait_for_timeout(1500)
        page.screenshot(path=picture)
        browser.close()
    return raised


def report(path: Path) -> list[str]:
    "What went wrong in a saved notebook: cells that failed, then cells that never ran"
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
    problems = []
    for number, cell in enumerate(code, 1):
        errors = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
        if errors or cell.execution_count is None:
            problems.append(
                f"code cell {number}: {'; '.join(errors) or 'never ran'} | {cell.source.splitlines()[0]}"
            )
    print(
        f"{len(code)} code cells, {sum(bool(c.outputs) for c in code)} with outputs, {len(problems)} with problems"
    )
    return problems


def main() -> int:
    "0 when all cells ran without an error"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="path below the project, such as nbs/3_grmp/01_qgr.ipynb")
    parser.add_argument("picture", type=Path, help="screenshot to write, .png")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for all cells (default: 600)")
    options = parser.parse_args()
    if not (ROOT / options.notebook).is_file():
        parser.error(f"there is no {options.notebook} below the project")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        with jupyterlab(Path(folder)) as (address, token):
            raised = run_all(address, token, options.notebook, options.picture, options.timeout)
        problems = report(Path(folder) / options.notebook) + raised
    print("\n".join(problems) or f"every cell ran without an error, {time.monotonic() - start:.0f} s in all")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
