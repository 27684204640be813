"""Open notebooks in JupyterLab in a real browser without a window, run all their cells, look for errors.

    python tools/jlab_check.py nbs/3_grmp/01_qgr.ipynb … [--pictures FOLDER] [--timeout 600]

One server serves all, one page after the other; kernels are shut down in between. Needs Chromium (Debian: apt-get
install chromium) and `pip install playwright`. It works on a temporary copy of the project, since the last cell of a
notebook exports. Exit status 0 when every cell ran without an error, 1 when not.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("nbs", "iqa_repro", "settings.ini", "pyproject.toml", "setup.py", "README.md")
DEFAULT_URL = "/lab/tree/index.ipynb"  # as in the Makefile, which serves nbs/ too
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
SHUT_DOWN = "() => window.jupyterapp.serviceManager.sessions.shutdownAll()"
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
    "Serve nbs/ of the copy in `folder`; yields the address and its token, and stops the server"
    with socket.socket() as probe:  # the system names a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}"]
    options += [
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder / 'nbs'}",
        f"--LabApp.default_url={DEFAULT_URL}",
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


def find_chromium() -> str | None:
    "The browser, or None"
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def browser():
    "A browser without a window"
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(BROWSER), headless=True
        )
        yield window
        window.close()


def run_all(
    window, address: str, token: str, notebook: str, picture: Path | None, timeout: float
) -> list[str]:
    "Open, run, save and photograph a notebook below nbs/; returns errors that the page itself raised"
    raised = []
    with window.new_context(viewport={"width": WIDTH, "height": 1000}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: raised.append(str(error)))
        page.goto(f"{address}/lab/tree/{notebook}?reset&token={token}", timeout=120_000)
        try:
            run_cells(page, timeout)
        except PlaywrightTimeout:
            raised.append(f"not finished after {timeout:.0f} s")
        if picture:
            photograph(page, picture)
        page.evaluate(SHUT_DOWN)
    return raised


def run_cells(page, timeout: float) -> None:
    "Run all cells of the notebook that the page shows, and save it"
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.wait_for_function(KERNEL_READY, timeout=120_000, polling=500)
    menu(page, "Run", "Run All Cells")
    try:
        page.wait_for_function(FINISHED, timeout=1000 * timeout, polling=500)
    finally:
        menu(page, "File", "Save Notebook")
        page.wait_for_function(SAVED, timeout=60_000, polling=200)


def photograph(page, picture: Path) -> None:
    "The whole notebook as a picture"
    try:  # on first use it asks whether to fetch news
        page.locator(".jp-toast-button, .jp-Dialog button").filter(has_text="No").first.click(timeout=2000)
    except PlaywrightTimeout:
        pass
    for _ in range(3):  # cells out of sight have no height of their own yet
        page.evaluate(TO_TOP)
        page.wait_for_timeout(800)
        page.set_viewport_size({"width": WIDTH, "height": int(min(page.evaluate(HEIGHT) + 160, TALLEST))})
    page.evaluate(TO_TOP)
    page.wait_for_timeout(1500)
    page.screenshot(path=picture)


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
    return problems


def check(
    notebooks: list[str], pictures: Path | None = None, timeout: float = 600
) -> Iterator[tuple[str, float, list[str]]]:
    "(notebook, seconds, problems) of notebooks such as 'nbs/index.ipynb', one after the other"
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        with jupyterlab(Path(folder)) as (address, token), browser() as window:
            for name in notebooks:
                start, below = time.monotonic(), name.removeprefix("nbs/")
                picture = pictures and pictures / f"{below.replace('/', '-').removesuffix('.ipynb')}.png"
                raised = run_all(window, address, token, below, picture, timeout)
                yield name, time.monotonic() - start, report(Path(folder) / name) + raised


def main() -> int:
    "0 when all cells ran without an error"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebooks", nargs="+", help="paths below the project, such as nbs/3_grmp/01_qgr.ipynb"
    )
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for all cells (default: 600)")
    options = parser.parse_args()
    for name in options.notebooks:
        if not (ROOT / name).is_file() or not name.startswith("nbs/"):
            parser.error(
                f"there is no {name}; name notebooks from the project's folder: nbs/3_grmp/01_qgr.ipynb"
            )
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, seconds, problems in check(options.notebooks, options.pictures, options.timeout):
        failed += bool(problems)
        print(f"{name}: {'; '.join(problems) or 'every cell ran'}, {seconds:.0f} s", flush=True)
    print(f"{len(options.notebooks) - failed} of {len(options.notebooks)} notebooks ran without an error")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
