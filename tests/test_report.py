"""The report page read as a browser reads it: links, pictures, escaping, counts; made-up results, broken ones, and the committed ones."""

import base64
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import matplotlib
import pandas as pd
import pytest
from PIL import Image

from iqa_repro.batch.needs import list_artefacts
from iqa_repro.batch.report import write_report
from iqa_repro.batch.results import results_markdown, write_results
from iqa_repro.batch.scoreboard import (
    PASSED,
    VERDICTS,
    collect_claims,
    collect_parts,
    count_verdicts,
    scoreboard_markdown,
    write_scoreboard,
)
from iqa_repro.core.paths import sha256_of
from iqa_repro.study.claims import Claim, judge, judge_claims
from iqa_repro.study.runs import start_run

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "paper_figures" / "embedded"
NASTY = "<script>alert('a & \"b\"')</script>"
NAMES = ["grmp_iqa/table1", "grmp_iqa/table6", "uniqa/fig4", "uniqa/fig10", "uniqa/table7"]
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    "Tags with their attributes, all text, and for each id the text inside; complains about tags that do not close"

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words, self.inside, self.style = [], [], [], {}, ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))
        if "id" in attributes:
            assert attributes["id"] not in self.inside, f"id {attributes['id']} is there twice"
            self.inside[attributes["id"]] = ""

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        if tag in ("td", "th", "dt", "dd", "div", "li", "p"):
            self.handle_data(" ")  # stands apart
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "style":
            self.style += data
            return
        self.words.append(data)
        for _, name in self.open:
            if name:
                self.inside[name] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, name=None):
        return " ".join(("".join(self.words) if name is None else self.inside[name]).split())


def claim(sentence, evidence, kind="measured"):
    return Claim(sentence, evidence, "§4 & <Table 1>", kind)


CONTROL = judge(Claim("it is not told from itself", [0.0, 0.0, 0.0], "control")) | {
    "kind": "control",
    "verdict": "passed",
}
GAIN, SMALL = [0.09, 0.11, 0.1, 0.1], [0.1, -0.1, 0.05, -0.0512]  # above zero; undecided


def write_run(folder, name, claims, table=None, stand_in=True, figure=True):
    "One artefact, written by the class that writes the real ones"
    run = start_run(name, profile="embedded", seed=7, smoke=False, folder=folder / name, stand_in=stand_in)
    for split in range(3):
        row = {"dataset": "embedded:livec", "method": NASTY, "split": split, "seed": 7}
        run.append({**row, "metric": "srcc", "value": 0.25 + split / 3})
    drawing = matplotlib.figure.Figure(figsize=(6.875, 2))
    drawing.subplots().plot(run.rows()["value"], "o")
    run.note(clip={"name": "tiny", "pretrained": "embedded", "sha256": "12ab" * 16})
    run.save(
        run.rows()[["method", "metric", "value"]] if table is None else table, drawing if figure else None
    )
    run.claims(judge_claims(claims, [CONTROL] if name == "uniqa/fig4" else []))
    run.finish()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Two artefacts of one notebook, one comparison, one without figure, one that nobody ran"
    folder = tmp_path_factory.mktemp("results") / "embedded"
    rows = [("DEIQT", 0.667, None, None, None, None, "printed"), (NASTY, 0.836, 0.276123, 0.2, 4, -0.559877, "not comparable")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "paper", "ours", "iqr", "n", "delta", "verdict"])
    table = table.assign(dataset="livec", setting="50", metric="srcc")
    claims = [claim(NASTY, {"50": GAIN, "100": GAIN}), claim("it is first", False, "printed"), claim("A above B", SMALL)]  # fmt: skip
    write_run(folder, "grmp_iqa/table1", claims, table)
    write_run(folder, "uniqa/fig4", [claim(f"claim {i}", GAIN) for i in range(12)])
    write_run(folder, "uniqa/fig10", [])
    write_run(folder, "uniqa/table7", [claim("equal", True, "construction")], stand_in=False, figure=False)
    (folder / "uniqa/fig4/run.ipynb").write_text(
        '{"cells": [], "metadata": {}, "nbformat": 4}', encoding="utf-8"
    )
    write_scoreboard(folder, NAMES)
    lock = folder.parent / "pins.txt"
    lock.write_text("torch==2.15.0 ; python_version < '4' & \"x\"\n", encoding="utf-8")
    return write_report(folder, lock, names=NAMES)


@pytest.fixture(scope="module")
def page(made):
    return Page(made.read_text(encoding="utf-8"))


@pytest.fixture
def results(made, tmp_path):
    "A copy to break"
    shutil.copytree(made.parent, tmp_path / "embedded")
    return tmp_path / "embedded"


def check_links(page, folder):
    targets = [attributes["href"] for attributes in page.all("a")]
    for target in targets:
        assert not re.match(r"(javascript|data|file):|/", target), target
        if target.startswith("#"):
            assert target[1:] in page.inside, f"no place {target}"
        elif not re.match("https?:", target):
            assert (folder / unquote(target)).is_file(), f"dead link {target}"
    for attributes in (attributes for _, attributes in page.tags):
        labels = attributes.get("aria-labelledby")
        assert labels is None or labels in page.inside, f"no label {labels}"
    return targets


def check_pictures(page):
    pictures = page.all("img")
    for picture in pictures:
        kind, data = picture["src"].split(",", 1)
        assert kind == "data:image/webp;base64"
        opened = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        opened.load()
        assert (str(opened.width), str(opened.height)) == (picture["width"], picture["height"])
        assert opened.width <= 1400 and picture["loading"] == "lazy" and len(picture["alt"]) > 30
    assert len({picture["alt"] for picture in pictures}) == len(pictures)
    return pictures


def check_nothing_is_loaded(page):
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "embed", "base", "video", "audio")]  # fmt: skip
    assert "@import" not in page.style and "url(" not in page.style
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "poster", "data", "action", "background", "style"):
            assert name not in attributes or (tag, name) == ("img", "src"), (tag, name)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)


def check_form(page):
    "What people with a screen reader need, as far as the source tells"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in zip(levels, levels[1:], strict=False))
    assert page.all("html")[0]["lang"] == "en" and page.all("main")[0]["id"] == "main"
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert all(heading.get("scope") in ("row", "col", "rowgroup") for heading in page.all("th"))
    assert all(
        "tabindex" in box and box["aria-label"] for box in page.all("div") if box.get("role") == "region"
    )
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert rule in page.style


def listed_claims(page):
    controls = [f"control-{verdict}" for verdict in PASSED]
    classes = [verdict.replace(" ", "-") for verdict in VERDICTS] + controls
    return Counter(item["class"] for item in page.all("li") if item.get("class") in classes)


def test_links_lead_somewhere(made, page):
    targets = check_links(page, made.parent)
    assert {f"#{name.replace('/', '-')}" for name in NAMES} <= set(targets)
    assert {
        "uniqa/fig4/run.ipynb",
        "uniqa/fig10/table.csv",
        "grmp_iqa/table1/figure.svg",
        "claims.csv",
    } <= set(targets)
    assert "uniqa/fig10/run.ipynb" not in targets  # fig4's notebook writes it, and is linked from both
    assert targets.count("uniqa/fig4/run.ipynb") == 2


def test_files_that_are_not_there_are_said_not_linked(page):
    said = page.text("grmp_iqa-table1")
    assert "executed notebook (not kept)" in said and "table.csv (not kept)" not in said
    assert "this artefact draws none" in page.text("uniqa-table7")
    assert "This artefact was not run." in page.text("grmp_iqa-table6")


def test_pictures_are_in_the_page(page):
    pictures = check_pictures(page)
    assert len(pictures) == 3
    assert any("UniQA, Figure 10: looking for pictures with words" in picture["alt"] for picture in pictures)


def test_nothing_is_loaded_and_the_form_is_right(page):
    check_nothing_is_loaded(page)
    check_form(page)


def test_what_looks_like_html_is_text(made, page):
    html = made.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html
    assert NASTY in page.text("grmp_iqa-table1") and "§4 & <Table 1>" in page.text("grmp_iqa-table1")
    assert NASTY in " ".join(picture["alt"] for picture in page.all("img"))
    assert "torch==2.15.0 ; python_version < '4' & \"x\"" in page.text("lock")


def test_numbers_and_counts_are_those_of_the_results(made, page):
    counts = count_verdicts(collect_claims(made.parent, NAMES))
    measured = "measured: embedded stand-in"
    assert counts.loc[("grmp_iqa", measured)].tolist() == [1, 0, 0, 1, 0, 0]
    assert counts.loc[("uniqa", measured)].tolist() == [12, 0, 0, 0, 0, 0]
    board = page.text("scoreboard")
    assert (
        f"GRMP-IQA {measured} 1 0 0 1 0 printed numbers 0 1 0 0 0 " in board
        and f"UniQA {measured} 12 0 0 0 0 true by construction 1 0 0 0 0 " in board
    )  # kinds are not added up
    assert "Controls of 1 tables and figures: 1 passed, 0 failed, 0 undecided." in board
    assert "Not run: grmp_iqa/table6." in board
    assert "controls ✓ passed 1 measured ✓ holds 12" in board  # of Figure 4
    assert listed_claims(page) == {
        "holds": 2 * 14,
        "contradicted": 2,
        "undecided": 2,
        "control-passed": 2,
    }  # in the scoreboard and at the artefact
    table = page.text("grmp_iqa-table1")
    assert "0.276 ± 0.2 (0.836, Δ −0.560)" in table and "0.667" in table and "not comparable" in table
    assert "weakest of 2 parts, 50: margin +0.100 [+0.087, +0.113], 4 measurements, 4 seeds" in table
    assert "; could have seen: 0.0" in table and "exact, nothing random" in table
    assert (
        len(re.findall(r"(?<= )(?:50|100) \+0\.100 \[\+0\.087, \+0\.113\] \d\S+ 0\.0\d+", table)) == 2
    )  # parts
    assert "margin −0.0003 [−0.146, +0.145]" in table
    assert "Smallest difference that its measured claims find with 80 % power: 0.0" in table
    drawn = page.text("uniqa-fig4")
    assert drawn.index("it is not told from itself") < drawn.index("claim 0")  # controls first
    assert "This artefact has no claim to judge." in page.text("uniqa-fig10")


def test_the_head_says_what_the_numbers_are_not(page):
    text = page.text()
    assert "Embedded stand-ins: these numbers are not the papers’" in text and "3 of 4 artefacts" in text
    assert "Random weights" not in text and "4 of 5 have a finished run" in text and "12ab" * 16 in text


def test_random_weights_are_said_first_and_everywhere(results):
    for record in results.glob("*/*/run.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"weights": "random"}))
    page = Page(write_report(results, names=NAMES).read_text(encoding="utf-8"))
    text = page.text()
    assert text.index("Random weights: nothing here is a result") < text.index("Embedded stand-ins:")
    assert text.count("random weights: no result") == 4 and (
        "measured: embedded stand-in, random weights 12 0" in page.text("scoreboard")
    )


def test_same_results_same_bytes(made, results):
    before = made.read_bytes()
    lock = made.parent.parent / "pins.txt"
    assert write_report(results, lock, names=NAMES[::-1]).read_bytes() == before
    assert (results / "claims.csv").read_bytes() == write_scoreboard(results, NAMES[::-1]).read_bytes()


def test_the_page_can_be_written_elsewhere(made, tmp_path):
    page = write_report(made.parent, output=tmp_path / "there" / "page.html", names=NAMES)
    check_links(Page(page.read_text(encoding="utf-8")), page.parent)


def test_a_failed_execution_is_told_with_its_error(results):
    error = {"output_type": "error", "ename": "ValueError", "evalue": "got <7>", "traceback": []}
    cells = [{"cell_type": "code", "source": "", "outputs": [error]}]
    for name in ("grmp_iqa/table6", "grmp_iqa/table1"):
        (results / name).mkdir(exist_ok=True)
        (results / name / "run.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page = Page(write_report(results, names=NAMES).read_text(encoding="utf-8"))
    never, once = page.text("grmp_iqa-table6"), page.text("grmp_iqa-table1")
    assert (
        "The last execution failed: ValueError in cell 0: got <7>." in never
        and "finished run of" not in never
    )
    assert "got <7>. What follows is of the finished run of" in once and "0.276 ± 0.2" in once


def test_files_that_the_run_did_not_write_are_told(results):
    (results / "uniqa/fig4/rows.csv").write_text("a\n1\n")
    (results / "uniqa/fig4/figure.png").unlink()
    said = Page(write_report(results, names=NAMES).read_text(encoding="utf-8")).text("uniqa-fig4")
    assert "rows.csv is not the file that the run of" in said and "figure.png is missing, though" in said


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    path.write_bytes(b"\xff\xfe\x00" * 50)


@pytest.mark.parametrize("file", ["run.json", "table.csv", "claims.json", "figure.png"])
@pytest.mark.parametrize("damage", [cut, garble])
def test_a_damaged_file_is_named_and_the_page_stays(results, file, damage):
    before = (results / "index.html").read_bytes()
    damage(results / "uniqa/fig10" / file)
    with pytest.raises(
        ValueError, match=rf"uniqa/fig10/{file} is damaged .* iqa-repro reproduce uniqa/fig4$"
    ):
        write_report(results, names=NAMES)
    assert (results / "index.html").read_bytes() == before
    assert {path.name for path in results.iterdir() if path.is_file()} == {
        "claims.csv",
        "index.html",
        "parts.csv",
    }


def test_an_edited_verdict_is_refused(results):
    path = results / "grmp_iqa/table1/claims.json"
    path.write_text(path.read_text().replace("contradicted", "holds"))
    with pytest.raises(
        ValueError, match="table1/claims.json is not the file that the run of .* wrote: it was edited"
    ):
        write_report(results, names=NAMES)


def test_results_from_before_claims_had_kinds_are_refused(results):
    path, record = results / "uniqa/fig4/claims.json", results / "uniqa/fig4/run.json"
    old = {"sentence": "A above B", "source": "§4", "verdict": "holds", "margin": 0.1, "low": 0.0, "high": 0.2, "n": 4}  # fmt: skip
    path.write_text(json.dumps([old]))
    facts = json.loads(record.read_text())
    facts["files"]["claims.json"] = sha256_of(path)
    record.write_text(json.dumps(facts))
    with pytest.raises(
        ValueError,
        match="fig4/claims.json: claim 0 lacks kind, .* run the notebook again: iqa-repro reproduce uniqa/fig4",
    ):
        write_report(results, names=NAMES)


def test_a_failed_control_is_named_and_claims_fall_silent(tmp_path):
    failed = CONTROL | {"verdict": "failed"}
    run = start_run("uniqa/fig4", profile="embedded", seed=7, smoke=False, folder=tmp_path / "uniqa/fig4")
    run.claims(judge_claims([claim("A above B", GAIN), claim("first", True, "printed")], [failed]))
    run.finish()
    board = Page(write_report(tmp_path, names=["uniqa/fig4"]).read_text(encoding="utf-8")).text("scoreboard")
    assert "measured: embedded stand-in 0 0 0 0 1 printed numbers 1 0 0 0 0" in board
    assert "A control failed in uniqa/fig4: measured claims there are not testable here." in board
    assert "A control failed in uniqa/fig4" in scoreboard_markdown(collect_claims(tmp_path, ["uniqa/fig4"]))


def test_wrong_calls_are_refused(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no results in .*nowhere"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no lock file .*none.txt"):
        write_report(results, tmp_path / "none.txt", names=NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has a finished run"):
        write_report(tmp_path / "empty", names=NAMES)
    assert not (tmp_path / "empty" / "index.html").exists()


# --- the committed results ------------------------------------------------------------------------------------------


def test_the_committed_scoreboard_is_that_of_the_committed_results(tmp_path):
    path, claims = COMMITTED / "claims.csv", collect_claims(COMMITTED)
    parts, listed = collect_parts(claims), claims.drop(columns="parts")
    listed.to_csv(tmp_path / "claims.csv", index=False, lineterminator="\n", encoding="utf-8")
    assert sha256_of(path) == sha256_of(tmp_path / "claims.csv"), "write it anew: write_scoreboard"
    parts.to_csv(tmp_path / "parts.csv", index=False, lineterminator="\n", encoding="utf-8")
    assert sha256_of(COMMITTED / "parts.csv") == sha256_of(tmp_path / "parts.csv"), (
        "write it anew: write_scoreboard"
    )
    assert scoreboard_markdown(claims).strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_committed_results_page_is_what_the_code_generates():
    written = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    remedy = "from iqa_repro.batch.results import write_results; write_results('paper_figures/embedded')"
    assert written == results_markdown(COMMITTED), f'write it anew: python -c "{remedy}"'
    for target in set(re.findall(r"\]\(([^)\s]+)\)", written)):
        assert (ROOT / target).is_file(), f"dead link {target}"


def test_results_of_other_folders_are_written_next_to_their_files(results):
    written = write_results(results, NAMES)
    text = written.read_text(encoding="utf-8")
    assert written == results / "RESULTS.md" and text == results_markdown(results, NAMES[::-1])
    assert "<script" not in text and "&lt;script&gt;" in text and "](grmp_iqa/table1/table.csv)" in text
    assert "| 1 | 0 | 0 | 1 | 0 |" in text and "**Table 6**: not run" in text


def test_the_committed_results_make_a_page(tmp_path):
    folder = tmp_path / "embedded"
    shutil.copytree(COMMITTED, folder, ignore=shutil.ignore_patterns("run.ipynb", "index.html"))
    path = write_report(folder, ROOT / "constraints.txt")
    page = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 6_000_000
    check_links(page, folder)
    check_nothing_is_loaded(page)
    check_form(page)
    drawn = {p.parent.name for p in folder.glob("*/*/figure.png") if (p.parent / "claims.json").exists()}
    assert len(check_pictures(page)) >= len(drawn) > 20
    assert all(name.replace("/", "-") in page.inside for name in list_artefacts())
    claims = collect_claims(folder)
    assert listed_claims(page) == {
        mark + v.replace(" ", "-"): 2 * n
        for mark, own in (
            ("", claims[claims["kind"] != "control"]),
            ("control-", claims[claims["kind"] == "control"]),
        )
        for v in (*VERDICTS[:-1], *PASSED[:2])
        if (n := int((own["verdict"] == v).sum()))
    }
    assert str(ROOT) not in path.read_text(encoding="utf-8")
