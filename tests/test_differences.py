"""Citations resolve: every code is a row of DIFFERENCES.md, every section of docs/datasets.md a headline there."""

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pandas as pd

from iqa_repro.methods.grmp.recipes import Recipe
from iqa_repro.methods.uniqa.adapter import AdapterRecipe
from iqa_repro.methods.uniqa.contrastive import PretrainSettings

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "DIFFERENCES.md").read_text(encoding="utf-8")
DATASETS = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
LISTED = re.findall(r"(?m)^\| ([A-Z]\d+) \|", PAGE)
LETTERS = set(re.findall(r"(?m)^## ([A-Z])\. ", PAGE))
ONE = r"[A-GPQ]\d{0,2}(?:–[A-GPQ]?\d{0,2})?"  # D10, Q1–Q12, B–D
PATTERNS = [
    rf"DIFFERENCES\.md[\s#]*((?:{ONE}(?:, |\b))+)",  # also over the end of a line
    r"\(((?:[ABCDFGPQ]\d{1,2}(?:–[ABCDFGPQ]\d{1,2})?(?:, )?)+)\)",  # a parenthesis of codes alone
]
NO_CODES = {"C64"}  # in parentheses, but not of this page
SOURCES = ("nbs/**/*.ipynb", "iqa_repro/**/*.py", "tests/*.py", "tools/*.py", "docs/*.md", "*.md")


@cache
def texts() -> dict[str, str]:
    "Name → text of every page, module, test and notebook (its cells)"
    found = {}
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        if ".ipynb_checkpoints" in path.parts or path.name in ("CHANGELOG.md", Path(__file__).name):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        found[path.relative_to(ROOT).as_posix()] = text
    return found


def spelled(codes: str) -> set[str]:
    "Single codes of 'D1, Q1–Q3' or 'B–D'; sections stay letters"
    found = set()
    for first, last in re.findall(r"([A-Z]\d*)(?:–([A-Z]?\d*))?", codes):
        letter, low = first[0], first[1:]
        high = re.sub("[A-Z]", "", last)
        if low and high:
            found |= {f"{letter}{i}" for i in range(int(low), int(high) + 1)}
        else:
            found |= {part for part in (first, last) if part}
    return found


def cited(text: str) -> set[str]:
    codes = set().union(*(spelled(m[1]) for pattern in PATTERNS for m in re.finditer(pattern, text)))
    return codes - NO_CODES


def test_codes_are_read_as_people_write_them():
    assert cited("(DIFFERENCES.md D1, D2, D10); and (Q2)") == {"D1", "D2", "D10", "Q2"}
    assert cited("(UniQA §3.4; DIFFERENCES.md P2–P4) and DIFFERENCES.md B–D, G") == {
        "P2",
        "P3",
        "P4",
        "B",
        "D",
        "G",
    }
    assert cited("as (DIFFERENCES.md\n# B1, B11)") == {"B1", "B11"}


def test_each_code_is_listed_once_and_none_is_left_out():
    assert len(LISTED) == len(set(LISTED)) and LETTERS == set("ABCDEFGPQ")
    for letter in LETTERS - {"E"}:
        numbers = [int(code[1:]) for code in LISTED if code[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_cited_codes_are_listed():
    known = {*LISTED, *LETTERS}
    missing = {name: sorted(codes) for name, text in texts().items() if (codes := cited(text) - known)}
    assert not missing, f"DIFFERENCES.md does not list these: {missing}"


def test_codes_of_the_settings_are_listed_and_the_settings_named():
    for kind in (Recipe, PretrainSettings):
        for field in fields(kind):
            source = field.metadata.get("source", "")
            codes = set(re.findall(r"\b[A-Z]\d{1,2}\b", source))
            assert codes <= set(LISTED), source
            assert not source or f"`{field.name}`" in PAGE, f"DIFFERENCES.md does not name {field.name}"
    assert all(f"`{field.name}`" in PAGE for field in fields(AdapterRecipe)[1:])
    evidence = pd.read_csv(ROOT / "paper_figures/embedded/beyond/leakage/table.csv")["evidence"]
    assert set(re.findall(r"\b[A-Z]\d{1,2}\b", " ".join(evidence))) <= set(LISTED)


def test_nobody_cites_a_page_that_is_not_here():
    own = {"docs/datasets.md", "docs/data.md"}  # which link to it from their own folder
    assert not [name for name, text in texts().items() if "peers.md" in text], "cite DIFFERENCES.md"
    bare = [name for name, text in texts().items() if re.search(r"(?<!docs/)\bdatasets\.md", text)]
    assert set(bare) <= own, "cite docs/datasets.md"


def test_cited_sections_of_the_data_sets_are_there():
    headlines = set(re.findall(r"(?m)^#+ (\d(?:\.\d+)?) ", DATASETS))
    assert {"0", "1", "2", "3", *(f"2.{i}" for i in range(1, 19))} <= headlines
    section = r"datasets\.md`?\s*§(\d(?:\.\d+)?)(?:[-–](\d+))?(?:, (\d\.\d+))?"
    for name, text in texts().items():
        for first, last, other in re.findall(section, text):
            named = {first, f"{first[0]}.{last}" if last else first, other or first}
            assert named <= headlines, f"{name}: docs/datasets.md has no section {sorted(named - headlines)}"
