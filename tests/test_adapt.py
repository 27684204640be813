"""Adapting as a person does it: the same number from the file, mistakes said before anything is trained, no look at what is judged, hostile names."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from iqa_repro.app.adapt.folds import cross_validate
from iqa_repro.app.adapt.labels import AdaptOptions, read_labels
from iqa_repro.app.adapt.report import write_adapt_report
from iqa_repro.app.adapt.run import adapt
from iqa_repro.app.cards import Card, card_of, card_text
from iqa_repro.app.cli import make_app
from iqa_repro.app.comparing import compare, read_score_table
from iqa_repro.app.intervals import Measured
from iqa_repro.app.scorer import load
from iqa_repro.app.scoring import find_pictures, score_files
from iqa_repro.clip.tiny import build_tiny, save_tiny
from iqa_repro.data.images import write_image
from iqa_repro.data.world.photographs import cut_scene
from iqa_repro.methods.grmp.learner import grmp_learner

QUICK = {"folds": 2, "epochs": 2, "low": 0, "high": 100}
TRIAL = os.environ.get("IQA_REPRO_TRIAL") == "all"
NASTY = '"><img src=x onerror=alert(1)><script>alert(2)<' + "\n\x1b[2J" + "\u202egnp.png"


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    "Twenty pictures of four photographs, five each; one with a name that means harm"
    folder, rows = tmp_path_factory.mktemp("labels"), []
    for i in range(20):
        name = NASTY if i == 7 else f"{i:02d}.png"
        scene = cut_scene(("chelsea", "coffee", "rocket", "coins")[i % 4], seed=i, size=(60, 40)[i % 2])
        write_image(folder / "one.png", torch.from_numpy(scene * (0.2 + 0.04 * i)).permute(2, 0, 1))
        (folder / "one.png").rename(folder / name.replace("/", "-"))
        rows.append((name.replace("/", "-"), 2.0 + 4.5 * i, f"photograph {i % 4}"))
    pd.DataFrame(rows, columns=["image", "mos", "reference"]).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def plain(labels, tmp_path_factory):
    return adapt(labels, 10, "uniqa", tmp_path_factory.mktemp("uniqa"), **QUICK)


@pytest.fixture(scope="module", params=["grmp", "uniqa"])
def adapted(request, labels, plain, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    return plain if request.param == "uniqa" else adapt(labels, 10, "grmp", out, **QUICK)


def test_the_file_gives_the_same_numbers(adapted, tmp_path):
    "From the result, from the file in Python, one by one, and in a table of scores"
    paths, expected = adapted.table["image"].tolist(), torch.tensor(adapted.table["final"])
    again = load(adapted.checkpoint)
    torch.testing.assert_close(again(paths), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        torch.cat([again(path) for path in paths[:4]]), expected[:4], rtol=0, atol=1e-6
    )
    score_files(again, find_pictures(paths), tmp_path / "scores.csv")
    table = read_score_table(tmp_path / "scores.csv")
    assert table.demonstration and np.allclose(table.scores.to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["grmp", "uniqa"])
def test_weights_from_a_file_are_opened_where_they_are_named(labels, method, tmp_path):
    "On the command line: prompts come with their backbone, an adapter asks for the file, which may have moved"
    app, weights = make_app(), tmp_path / "own clip.safetensors"
    run = lambda *words: CliRunner().invoke(app, [*map(str, words)])
    save_tiny(build_tiny(3), weights)
    words = ("--low", 0, "--high", 100, "--folds", 2, "--epochs", 2, "--shots", 10, "--method", method)
    done = run("adapt", labels, *words, "--pretrained", weights, "-o", tmp_path / "made")
    assert done.exit_code == 0, done.output
    weights = weights.rename(tmp_path / "moved.safetensors")
    score = ("score", labels.parent, "--weights", tmp_path / "made" / "checkpoint.safetensors")
    plain = run(*score, "-o", tmp_path / "plain.csv")
    if method == "uniqa":
        assert (
            plain.exit_code == 2 and "--pretrained" in plain.stderr and "own clip.safetensors" in plain.stderr
        )
        wrong = run(*score, "-o", tmp_path / "wrong.csv", "--pretrained", "embedded")
        assert wrong.exit_code == 2 and "was made with weights" in wrong.stderr
    named = run(*score, "-o", tmp_path / "named.csv", "--pretrained", weights)
    if method == "grmp":
        assert named.exit_code == 2 and "brings its weights, so pretrained has no say" in named.stderr
        named = run(*score, "-o", tmp_path / "named.csv")
    assert named.exit_code == 0, named.output
    expected = pd.read_csv(tmp_path / "made" / "predictions.csv").set_index("image")["final"]
    found = pd.read_csv(tmp_path / "named.csv").set_index("path")["score"]
    assert np.allclose(found[expected.index], expected, atol=1e-6) and found.std() > 0
    page = (tmp_path / "made" / "report.html").read_text()
    assert ("--pretrained" in page) == (method == "uniqa") and "import iqa_repro" in page


def test_another_checkpoint_of_the_same_name_does_not_go_on_with_the_table(labels, plain, tmp_path):
    "`adapt` always writes checkpoint.safetensors: what tells two of them apart is their digest"
    paths = find_pictures([labels.parent])
    score_files(load(plain.checkpoint), paths, tmp_path / "mine.csv")
    other = adapt(labels, 10, "uniqa", tmp_path / "other", **QUICK, seed=1)
    assert other.checkpoint.name == plain.checkpoint.name
    with pytest.raises(ValueError, match="mine.csv holds scores of UniQA with checkpoint.safetensors"):
        score_files(load(other.checkpoint), paths, tmp_path / "mine.csv")
    with pytest.raises(ValueError, match="name another file"):
        score_files(load(plain.checkpoint, precision="bfloat16"), paths, tmp_path / "mine.csv")
    assert score_files(load(plain.checkpoint), paths, tmp_path / "mine.csv") == (len(paths), 0)
    score_files(load(other.checkpoint), paths, tmp_path / "other.csv")
    names = {read_score_table(tmp_path / name).name for name in ("mine.csv", "other.csv")}
    assert len(names) == 2


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_picture_without_a_score_is_no_bar_to_comparing(labels, plain, ending, tmp_path):
    paths = [str(tmp_path / "gone.png"), *find_pictures([labels.parent])[:5]]
    assert score_files(load("clipiqa"), paths, tmp_path / f"some.{ending}").failed == 1
    table = read_score_table(tmp_path / f"some.{ending}")
    assert (len(table.scores), table.unscored) == (5, 1)


def test_labels_and_tables_that_are_read_are_never_written_over(labels, tmp_path):
    app, mine = make_app(), tmp_path / "mine.csv"
    mine.write_bytes(labels.read_bytes())
    before = mine.read_bytes()
    words = (
        "adapt",
        mine,
        "--root",
        labels.parent,
        "--low",
        0,
        "--high",
        100,
        "--method",
        "uniqa",
        "--overwrite",
    )
    told = CliRunner().invoke(app, [*map(str, words), "-o", str(tmp_path / "mine.safetensors")])
    assert told.exit_code == 2 and "mine.csv is read here" in told.stderr and mine.read_bytes() == before
    (tmp_path / "report.html").write_text("a report of somebody's")
    told = CliRunner().invoke(app, [*map(str, words[:-1]), "-o", str(tmp_path)])
    assert told.exit_code == 2 and "report.html is there already" in told.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.csv", "report.html"]


def test_uneven_references_are_said_before_anything_is_trained(labels, tmp_path):
    table = pd.read_csv(labels).assign(reference=["A"] * 17 + ["B", "C", "D"])
    table.to_csv(labels.parent / "uneven.csv", index=False)
    with pytest.raises(
        ValueError, match="reference 'A' has 17 of the 20 pictures: when it is judged, 3 are left"
    ):
        adapt(labels.parent / "uneven.csv", 10, "uniqa", tmp_path / "none", **QUICK)
    (labels.parent / "uneven.csv").unlink()
    assert not (tmp_path / "none" / "checkpoint.safetensors").exists()


def test_an_order_turned_round_is_called_so(plain):
    turned = replace(plain, measures=plain.measures | {"srcc": Measured(-0.9, -0.95, -0.8)})
    assert any(
        "runs against people's order" in one or "run against people's order" in one for one in turned.warnings
    )
    assert not any("interval covers 0" in one for one in turned.warnings)


def test_same_seed_same_tensors_another_seed_others(labels, plain, tmp_path):
    same, other = (adapt(labels, 10, "uniqa", tmp_path / str(seed), **QUICK, seed=seed) for seed in (2024, 1))
    assert same.checkpoint.read_bytes() == plain.checkpoint.read_bytes()
    one, two = load_file(plain.checkpoint), load_file(other.checkpoint)
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_the_order_of_rows_is_of_no_account(labels, plain):
    pd.read_csv(labels).iloc[::-1].to_csv(labels.parent / "turned.csv", index=False)
    turned = adapt(labels.parent / "turned.csv", 10, "uniqa", **QUICK).table.set_index("image")
    (labels.parent / "turned.csv").unlink()
    assert np.allclose(plain.table["predicted"], turned["predicted"][plain.table["image"]], atol=1e-6)


def test_no_label_of_the_judged_reaches_their_model(labels):
    "The untuned start is no excuse: the other fold's predictions do move"
    options = AdaptOptions(**QUICK, seed=3)
    table = read_labels(labels, options)
    learner = grmp_learner(options)
    before, _ = cross_validate(learner, table, 10, options)
    judged = before["fold"] == 0
    mixed = table.copy()
    mixed.loc[judged, ["mos", "quality"]] = table.loc[judged, ["mos", "quality"]].to_numpy()[::-1]
    after = cross_validate(learner, mixed, 10, options)[0]
    assert before["predicted"][judged].equals(after["predicted"][judged])
    assert not before["predicted"][~judged].equals(after["predicted"][~judged])
    assert before.groupby("reference")["fold"].nunique().eq(1).all()  # all copies of a photograph in one fold


def test_the_card_says_what_was_done(adapted, labels):
    card = card_of(adapted.checkpoint)
    assert card.method == adapted.method and card.demonstration
    assert (
        card.trained_on["labels_used"] == "10 of 20, drawn by chance" and card.trained_on["references"] == 4
    )
    assert card.trained_on["kinds"] == {"PNG": 20} and len(card.trained_on["labels_sha256"]) == 64
    assert card.validation["srcc"]["value"] == pytest.approx(adapted.measures["srcc"].value)
    assert card.recipe["epochs"] == 2 and card.seeds == {"seed": 2024} and "torch" in card.versions
    assert any("Not for decisions about people" in limit for limit in card.limits)
    text = card_text(adapted.checkpoint)
    assert "Demonstration weights" in text and "not stated" not in text


def test_measured_by_hand(adapted):
    "The headline from the table of predictions alone"
    table, span = adapted.table, 100
    assert adapted.measures["srcc"].value == pytest.approx(
        table["predicted"].corr(table["mos"], method="spearman")
    )
    assert adapted.measures["plcc"].value == pytest.approx(table["predicted"].corr(table["mos"]))
    assert adapted.measures["mean_miss"].value == pytest.approx(
        (table["predicted"] * span - table["mos"]).abs().mean()
    )
    assert adapted.folds["judged"].sum() == len(table) and table["fold"].value_counts().tolist() == [10, 10]
    assert adapted.warnings[0].startswith("Demonstration weights")


def test_lower_is_better_is_turned_round(labels, plain):
    "DMOS: the model learns the other order, and its prediction is told on the table's own scale"
    frame = pd.read_csv(labels).assign(mos=lambda t: 100 - t["mos"])
    frame.to_csv(labels.parent / "dmos.csv", index=False)
    turned = adapt(labels.parent / "dmos.csv", 10, "uniqa", higher_is_better=False, **QUICK)
    (labels.parent / "dmos.csv").unlink()
    assert np.allclose(turned.table["predicted"], plain.table["predicted"], atol=1e-6)
    assert np.allclose(turned.table["predicted_mos"], 100 - plain.table["predicted_mos"], atol=1e-3)


@pytest.mark.parametrize(
    "change, options, said",
    [
        (lambda t: t, {"low": None}, "low < high"),
        (lambda t: t.assign(mos=50.0), {}, "all scores are 50"),
        (lambda t: t.assign(reference="one"), {}, "all pictures are of one reference"),
        (lambda t: t.head(5), {}, "5 pictures are too few"),
        (lambda t: t.assign(mos=["?", *t["mos"][1:]]), {}, "no number as score: row 1 (?)"),
        (lambda t: t.assign(mos=t["mos"] * 2), {}, "scores outside 0 … 100: rows 12"),
        (lambda t: pd.concat([t, t[:1]]), {}, "listed again"),
        (lambda t: t.assign(image=["gone.png", *t["image"][1:]]), {}, "1 of 20 pictures are not there"),
        (lambda t: t.assign(reference=["", *t["reference"][1:]]), {}, "no reference is named"),
        (lambda t: t, {"folds": 5}, "4 references are fewer than 5 folds"),
        (lambda t: t.rename(columns={"mos": "Mos"}), {}, "no column 'mos', did you mean"),
    ],
)
def test_mistakes_in_a_table(labels, tmp_path, change, options, said):
    change(pd.read_csv(labels)).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match=re.escape(said)):
        adapt(tmp_path / "table.csv", None, "uniqa", tmp_path / "out", root=labels.parent, **QUICK | options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, kind, said",
    [
        ({"shots": 21}, ValueError, "8 … 20"),
        ({"shots": 0}, ValueError, "8 … 20"),
        ({"method": "uniq"}, ValueError, "did you mean 'uniqa'"),
        ({"sead": 1}, TypeError, "did you mean 'seed'"),
        ({"weights": "gone.safetensors"}, FileNotFoundError, "no weights at gone.safetensors"),
        ({"epochs": 0}, ValueError, "epochs at least 1"),
        ({"clip": "ViT-B-99"}, ValueError, "unknown CLIP model"),
        ({"device": "abacus"}, ValueError, "device 'abacus'"),
    ],
)
def test_mistakes_in_a_call(labels, tmp_path, options, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        adapt(labels, output=tmp_path / "out", **QUICK | options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_interrupted_run_leaves_no_checkpoint(labels, tmp_path):
    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(labels, 10, "uniqa", tmp_path, stop, **QUICK)
    assert not list(tmp_path.iterdir())


def test_prompts_of_another_checkpoint_are_a_start(labels, adapted, tmp_path):
    "An adapted GRMP-IQA file is a start for the next table; a UniQA file is none for grmp"
    if adapted.method == "GRMP-IQA":
        again = adapt(labels, 10, "grmp", tmp_path, weights=adapted.checkpoint, **QUICK)
        torch.testing.assert_close(
            torch.tensor(again.table["before"]),
            torch.tensor(adapted.table["final"]).float(),
            rtol=0,
            atol=1e-5,
        )
        assert card_of(again.checkpoint).recipe["start_file"] == adapted.checkpoint.name
    else:
        with pytest.raises(ValueError, match="holds 'UniQA'"):
            adapt(labels, 10, "grmp", tmp_path, weights=adapted.checkpoint, **QUICK)


class Page(HTMLParser):
    "Tags with their attributes; complains about what does not close"

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


def test_the_report(adapted, tmp_path):
    html = write_adapt_report(adapted, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "a")]
    allowed = {"src": "data:image/webp;base64,"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert all(
            attributes[name].startswith(start) for name, start in allowed.items() if name in attributes
        )
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 8 and all(one["alt"] for one in pictures)
    assert sum(tag == "circle" for tag, _ in page.tags) == 40
    text = " ".join(" ".join(page.words).split())
    assert (
        "<script>alert(2)" in text and "\x1b" not in html and "\u202e" not in html
    )  # shown as a name, not obeyed
    for words in (adapted.sentence, *adapted.warnings, "How far to trust it", "labels used", "Limits"):
        assert " ".join(words.split()) in text
    assert f"{adapted.measures['srcc'].value:.2f}".replace("-", "−") in text


def test_a_card_made_to_do_harm(tmp_path):
    "Deep, long, huge, of wrong types: a card comes out, or one of our own errors"
    deep = "[" * 100_000 + "]" * 100_000
    bodies = [
        '{"format": 1, "metadata": {"card": ' + deep + "}}",
        '{"format": "x", "metadata": {}}',
        '{"format": 1, "metadata": 3}',
    ]
    bodies += [json.dumps({"format": 1, "metadata": {"method": m, "card": c, "recipe": r, "seed": [1] * 10_000}})
               for m in (None, 5, "a" * 10**6, {"x": 1}) for c in ([], {"trained_on": [], "limits": [{"a": "\x07"}] * 10**4}) for r in (None, {"\n#": 1e400})]  # fmt: skip
    for i, body in enumerate(bodies):
        save_file({"a": torch.zeros(1)}, tmp_path / "card.safetensors", metadata={"iqa_repro": body})
        try:
            text = card_text(card := card_of(tmp_path / "card.safetensors"))
        except ValueError as error:
            assert (i < 3 or "Infinity" in body) and "card.safetensors" in str(error)
            continue
        assert (
            isinstance(card, Card) and len(text) < 100_000 and all(c.isprintable() or c == "\n" for c in text)
        )
        assert sum(line.startswith("# ") for line in text.splitlines()) == 1


def test_compare_what_the_scorers_wrote(labels, tmp_path):
    "Two zero-shot scorers on the folder, hostile name included"
    pictures = find_pictures([labels.parent])
    for name in ("clipiqa", "antonyms"):
        score_files(load(name), pictures, tmp_path / f"{name}.csv")
    result = compare(tmp_path / "clipiqa.csv", tmp_path / "antonyms.csv")
    assert result.common == 20 and result.a.name.startswith("clipiqa with") and result.a.demonstration
    assert {"attacker", "defender", "better", "worse"} <= set(result.pairs)
    assert set(result.disagreements["picture"]) == set(map(os.path.normpath, pictures))
    assert "Demonstration weights" in str(result)


@pytest.mark.skipif(not TRIAL, reason="minutes: IQA_REPRO_TRIAL=all adapts ViT-B/32 with random weights")
@pytest.mark.parametrize("method", ["grmp", "uniqa"])
def test_a_clip_of_full_size(labels, tmp_path, method):
    options = QUICK | {"epochs": 1, "clip": "ViT-B-32-quickgelu", "pretrained": "random"}
    result = adapt(labels, 10, method, tmp_path, **options)
    assert "random" in card_of(result.checkpoint).backbone["weights"] and result.scorer.demonstration
