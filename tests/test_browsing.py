"""The view of a scored folder in JupyterLab in a real browser: click a picture, move the slider with mouse and keys, watch the score.

The browser takes half a minute: it runs with IQA_REPRO_TRIAL=all where Chromium and playwright are there, and else skips, saying so.
With IQA_REPRO_SCREENSHOT=FILE.png it also leaves the picture that the notebook shows.
"""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from PIL import Image

from iqa_repro.app.browsing import browse
from iqa_repro.app.scorer import load
from iqa_repro.app.scoring import find_pictures, score_files
from iqa_repro.data.images import read_image, write_image
from iqa_repro.data.world.photographs import load_photograph

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
NAMES = ("china", "flower", "chelsea", "coffee", "astronaut", "rocket", "motorcycle", "hopper")
CELL = """from iqa_repro.app.browsing import browse
from iqa_repro.app.scorer import load

browse("scores.csv", load("clipiqa"))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Eight photographs and two files that are none, scored"
    place = tmp_path_factory.mktemp("browsing")
    for name in NAMES:
        write_image(
            place / f"{name}.png", torch.from_numpy(load_photograph(name)).permute(2, 0, 1)[:, ::2, ::2]
        )
    (place / "text.jpg").write_text("not a picture")
    (place / "empty.jpg").write_bytes(b"")
    count = score_files(load("clipiqa"), find_pictures([place]), place / "scores.csv")
    assert count == (len(NAMES), 2)
    return place


def test_thousand_rows_page_by_page(folder):
    "A large table is no slower to open than a page of it, and each row is on one page"
    table = browse(folder / "scores.csv").table
    many = table[table.score.notna()].sample(1000, replace=True, random_state=0).reset_index(drop=True)
    gallery = browse(many).gallery
    assert gallery.page.max == 84 and len(gallery._tiles) <= len(NAMES)
    seen = []
    for page in range(1, 85):
        gallery.page.value = page
        seen += gallery.shown
    assert sorted(seen) == list(range(1000)) and gallery.place.value == "of 84: pictures 997–1000 of 1000"
    scores = many.score[seen].tolist()
    assert scores == sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def page(folder):
    "The notebook, run in JupyterLab in Chromium without a window"
    if os.environ.get("IQA_REPRO_TRIAL") != "all":
        pytest.skip("half a minute in a browser: set IQA_REPRO_TRIAL=all")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, or name it in CHROMIUM")
    pytest.importorskip("playwright", reason="no playwright: pip install playwright")
    spec = importlib.util.spec_from_file_location("jlab_check", ROOT / "tools" / "jlab_check.py")
    lab = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lab)
    os.symlink(ROOT / "iqa_repro", folder / "iqa_repro")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    book.metadata.kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(book, folder / "look.ipynb")
    from playwright.sync_api import sync_playwright

    with lab.jupyterlab(folder) as (address, token), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(lab.BROWSER), headless=True)
        page = browser.new_page(viewport={"width": 1420, "height": 1060})
        page.raised = []
        page.on("pageerror", lambda error: page.raised.append(str(error)))
        page.goto(f"{address}/lab/tree/look.ipynb?reset&token={token}", timeout=120_000)
        page.wait_for_function(lab.KERNEL_READY, timeout=120_000, polling=200)
        lab.menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".jp-OutputArea .widget-image", timeout=120_000)
        yield page
        browser.close()


def shown_score(page):
    "The number beside the slider, and what it is of"
    text = page.locator(".widget-html", has_text=re.compile(r"^score 0\.\d{3}")).inner_text()
    return float(text.split()[1]), text


def test_slider_in_a_browser(folder, page):
    "Mouse and keys move the slider; picture, score and levels follow, and are those of the API"
    tiles = page.locator(".widget-gridbox .widget-gridbox button")
    assert tiles.locator("visible=true").count() == len(NAMES)
    tiles.nth(0).click()
    page.wait_for_selector("text=as it is", timeout=60_000)
    table = browse(folder / "scores.csv").scored
    best = table.sort_values("score", ascending=False).iloc[0]
    score, text = shown_score(page)
    assert score == round(best.score, 3) and "as it is" in text
    assert page.locator(f"b:has-text('{Path(best.path).name}')").count() == 1

    handle = page.locator(".widget-slider .noUi-handle")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=gaussian blur, level 1", timeout=60_000)
    slider = page.locator(".widget-slider .noUi-base").bounding_box()
    page.mouse.move(*middle(handle.bounding_box()))
    page.mouse.down()
    page.mouse.move(slider["x"] + 0.8 * slider["width"], slider["y"] + slider["height"] / 2, steps=8)
    page.mouse.up()
    page.wait_for_selector("text=gaussian blur, level 4", timeout=60_000)
    spoilt, _ = shown_score(page)

    here = browse(folder / "scores.csv", load("clipiqa"))
    here.pick(table.index[table.path == best.path][0])
    here.trial.level.value = 4
    assert spoilt == round(here.trial.scores[4], 3) != score
    good = page.locator(".widget-label", has_text=re.compile(r"^good 0\.\d\d$"))
    assert good.inner_text() == f"good {here.trial.bars['good'].value:.2f}"
    assert abs(read_image(best.path).shape[2] / read_image(best.path).shape[1] - aspect(page)) < 0.02
    if target := os.environ.get("IQA_REPRO_SCREENSHOT"):
        page.locator(".jp-OutputArea-output").first.screenshot(path=target)
        Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)
    assert page.raised == []


def middle(box):
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def aspect(page):
    "Width by height of the large picture"
    sizes = page.locator("img.widget-image").evaluate_all(
        "all => all.map(one => [one.naturalWidth, one.naturalHeight, one.clientHeight])"
    )
    width, height, _ = max(sizes, key=lambda size: size[0])
    return width / height
