"""What `iqa_repro.papers` says of each artefact agrees with what its notebook says and what its committed run read."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from iqa_repro.batch.execution import list_experiments
from iqa_repro.batch.needs import ARTEFACTS, artefact_work
from iqa_repro.batch.preflight import check_needs
from iqa_repro.batch.workload import KINDS
from iqa_repro.clip.inputs import load_settings
from iqa_repro.data.catalog import DATASETS

EMBEDDED, FULL = load_settings(), load_settings("full")
ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    facts.title: name for name, facts in DATASETS.items() if ":" not in name and name != "flive_captions"
}
TITLES |= {
    "FLIVE": "flive",
    "CLIVE": "livec",
    "AVA-Captions": "ava_captions",
}  # other names that the notebooks use
WORDS = re.compile(
    "|".join(rf"(?<![\w-]){re.escape(t)}(?![\w-])" for t in sorted(TITLES, key=len, reverse=True))
)


artefacts = pytest.mark.parametrize("name", ARTEFACTS)


def needs_line(name):
    cell = nbformat.read(ROOT / "nbs/experiments" / f"{name}.ipynb", as_version=4).cells[0].source
    return re.search(r"^\| Needs \| (.*) \|$", cell, re.M)[1]


def run_record(name):
    path = ROOT / "paper_figures/embedded" / name / "run.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_experiment_has_an_entry():
    assert set(ARTEFACTS) == set(list_experiments())


@artefacts
def test_entry_reads_what_the_committed_run_read(name):
    record = run_record(name)
    assert set(ARTEFACTS[name].datasets(EMBEDDED)) == set(record.get("datasets", {}))
    assert ARTEFACTS[name].weights == ("clip" in record)


@artefacts
def test_entry_reads_what_the_first_cell_says(name):
    line, needs = needs_line(name), ARTEFACTS[name]
    said = {TITLES[title] for title in WORDS.findall(line)}
    assert said == set(needs.datasets(FULL)), line
    assert ("CLIP" in re.sub("AVA-Captions|CLIP\\$", "", line)) == needs.weights, line
    assert bool(re.search("caption(s| file)(?!/)", line)) == bool(needs.captions(FULL)), line


@pytest.mark.parametrize("name", ARTEFACTS)
def test_work_is_counted(name):
    needs, works = ARTEFACTS[name], artefact_work(name, FULL)
    assert all(work.kind in KINDS and work.count >= 0 and work.batch >= 1 for work in works)
    assert (
        sum(work.count for work in works) > sum(work.count for work in artefact_work(name, EMBEDDED))
        or not works
    )
    assert not works or needs.weights


def test_full_profile_without_anything_says_what_to_do(tmp_path):
    table = check_needs(ARTEFACTS, FULL, tmp_path)
    data = table[table["kind"] == "data"]
    assert set(data["state"]) <= {"missing", "wrong"} and (data["todo"] != "").all()
    sets = FULL.profile.captions
    assert {"livec", sets.quality, sets.aesthetics, sets.comments} <= set(data["thing"])
