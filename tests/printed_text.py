"""What the tests of typed numbers share: the papers' texts beside the repository, the catalogue's names, the comparison."""

import os
import re
from pathlib import Path

import pytest

from iqa_repro.study.printed import printed_papers

SHARED = Path(os.environ.get("IQA_REPRO_SHARED") or Path(__file__).resolve().parents[2] / "shared")
CATALOGUE = {"KonIQ": "koniq10k", "LIVEFB": "flive", "CLIVE": "livec", "KADID": "kadid10k"}
CATALOGUE |= {"AGIQA-3K": "agiqa3k", "AIGIQA-20K": "aigiqa20k"}  # the others are the papers' in lower case


def text_of(paper):
    "(path of a paper's text, mark that skips a module where it is absent)"
    path = SHARED / "papers" / f"{paper}.txt"
    reason = f"the paper's text is not at {path}; set IQA_REPRO_SHARED to the folder that holds papers/"
    return path, pytest.mark.skipif(not path.is_file(), reason=reason)


def dataset(name):
    return CATALOGUE.get(name, name.lower())


def spread(cells):
    "A head over several columns, written once: each empty cell repeats the one before"
    filled = []
    for cell in cells:
        filled.append(cell or filled[-1])
    return filled


def bare(cell):
    "A cell without the marks of best and second best"
    return re.sub(r"</?[a-z]>|\*\*", "", cell).strip()


def typed(paper):
    "(artefact, method, data set, setting, metric) → value of every typed table; figures are tested elsewhere"
    table = printed_papers()[paper]
    table = table[table["artefact"].str.startswith("table")]
    return table.set_index(["artefact", "method", "dataset", "setting", "metric"])["value"].to_dict()


def assert_same(paper, ours):
    "Each printed entry was typed and each typed one is printed, with one value"
    assert sorted(paper.keys() - ours.keys()) == [], "printed, but not typed"
    assert sorted(ours.keys() - paper.keys()) == [], "typed, but not printed"
    assert {key: (paper[key], ours[key]) for key in paper if paper[key] != ours[key]} == {}


def store(numbers, key, value):
    assert key not in numbers, f"read twice: {key}"
    numbers[key] = value
