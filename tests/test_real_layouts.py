"""Every published data set in its authors' layout: as many rows as they published, their ranges and splits (docs/datasets.md §1).

The miniatures have all rows of the originals and tiny pictures (`miniatures.py`). Where label tables lie in `../shared/labels` they have the
real scores and names too, and then the published digest must come out; invented scores must be noticed as such, and nothing else said.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniatures import BUILDERS, LABELS, REAL, has_real, real_table, write_miniature

from iqa_repro.data.catalog import DATASETS, READERS, load_dataset
from iqa_repro.data.dataset import published_scores
from iqa_repro.data.folders import score_digest

SIZES = {  # rows of the table, references, rows of its parts
    "live": (779, 29, {}),
    "csiq": (866, 30, {}),
    "tid2013": (3000, 25, {}),
    "kadid10k": (10125, 81, {}),
    "pipal": (23200, 200, {}),
    "livec": (1162, None, {}),
    "koniq10k": (10073, None, {"train": 7058, "validation": 1000, "test": 2015}),
    "spaq": (11125, None, {}),
    "flive": (39810, None, {"train": 30256, "validation": 7727, "test": 1827}),
    "agiqa3k": (2982, None, {}),
    "aigiqa20k": (14000, None, {"train": 14000}),
    "agin": (6049, None, {}),
    "ava": (255530, None, {"train": 255530 - 19930, "test": 19930}),
    "aadb": (9831, None, {"train": 8458, "validation": 373, "test": 1000}),
    "waterloo": (94880, 4744, {}),
}
RANGES = {  # lowest and highest score seen
    "live": (-2.64, 111.77),
    "csiq": (0, 1),
    "tid2013": (0.24242, 7.21429),
    "kadid10k": (1, 4.93),
    "pipal": (916.71, 1835.99),
    "livec": (3.42, 92.43),
    "koniq10k": (1.096, 4.310),
    "spaq": (2, 96),
    "flive": (0, 94.33),
    "agiqa3k": (0, 4.489),
    "aigiqa20k": (0.122, 4.981),
    "aadb": (0, 1),
}
CHECKED = sorted(set(RANGES))  # sets whose published scores are known by their digest
needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason=f"no real label tables in {LABELS}")


def read(name, root, **options):
    "The table and what the reader said; a socket that another test left open says something too, at any time"
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = load_dataset(name, root, **options)
    print(f"{name}: read in {time.perf_counter() - start:.1f} s")
    return table, [str(warning.message) for warning in told if issubclass(warning.category, UserWarning)]


def published_digest(table):
    facts = table.attrs["facts"]
    return published_scores()[facts["name"], facts["score_set"]]


def check_facts(name, table):
    rows, references, parts = SIZES[name]
    facts = DATASETS[name]
    assert len(table) == rows and table["image"].is_unique
    if references is not None:
        assert table["reference"].nunique() == references == facts.references
    if parts:
        assert table["split"].value_counts().to_dict() == parts
    if facts.low is not None:
        assert table["mos"].between(facts.low, facts.high).all() and table["quality"].between(0, 1).all()
        assert table.attrs["facts"]["higher_is_better"] == facts.higher_is_better
        assert (table["mos"].corr(table["quality"]) > 0.99) == facts.higher_is_better


def test_every_reader_has_a_miniature():
    readable = set(READERS) - {"flive_captions", "eciqad"}
    assert set(BUILDERS) == readable, (
        "write a miniature of its layout and add it to BUILDERS, tests/miniatures.py"
    )
    assert set(SIZES) == readable, "add its rows, references and parts to SIZES, in this file"
    assert {name for name, facts in DATASETS.items() if not facts.available} == {"eciqad"}
    assert set(REAL) == {*CHECKED, "ava"} and set(CHECKED) <= set(SIZES)
    titles = {DATASETS[name].title for name in CHECKED}
    assert {name for name, _ in published_scores()} == titles


@pytest.mark.parametrize("name", SIZES)
def test_full_size_with_invented_scores(name, tmp_path):
    if name == "ava" and has_real(name):
        pytest.skip("test_ava_with_the_votes_at_hand reads as many rows")
    table, told = read(name, write_miniature(name, tmp_path / name, full=True, real=False))
    check_facts(name, table)
    assert len(told) == (name in CHECKED) and all("but its scores differ" in words for words in told)


@needs_labels
@pytest.mark.parametrize("name", CHECKED)
def test_full_size_with_the_published_scores(name, tmp_path):
    assert has_real(name), f"{LABELS} is there, but lacks the table of {name}"
    table, told = read(name, write_miniature(name, tmp_path / name, full=True))
    check_facts(name, table)
    assert not told and published_digest(table) == (len(table), score_digest(table))
    seen = table["mos"].min(), table["mos"].max()
    assert np.allclose(seen, RANGES[name], atol=0.005 if RANGES[name][1] > 5 else 0.0005)
    if name in SPECIAL:
        SPECIAL[name](table, tmp_path / name)


def live(table, root):
    counts = {"jp2k": 169, "jpeg": 175, "wn": 145, "gblur": 145, "fastfading": 145}
    assert table["distortion"].value_counts().to_dict() == counts and (table["mos"] < 0).sum() == 3
    per_reference = table["reference"].value_counts()
    assert (per_reference.min(), per_reference.max()) == (26, 29)
    original, told = read("live", root, scores="original")
    assert not told and published_digest(original) == (779, score_digest(original))
    assert round(original["mos"].corr(table["mos"]), 3) == 0.947 and original["mos"].min() > 17.9
    assert original["image"].equals(table["image"]) and score_digest(original) != score_digest(table)


def csiq(table, root):
    counts = table["distortion"].value_counts().to_dict()
    assert counts.pop("contrast") == 116 and set(counts.values()) == {150} and len(counts) == 5
    levels = table[table["distortion"] == "contrast"].groupby("reference")["level"].max()
    assert levels.value_counts().to_dict() == {4: 26, 3: 4}


def tid2013(table, root):
    names = table["image"].map(lambda path: Path(path).name)
    assert names.str.match(r"I\d\d_(01_1\.bmp|11_1\.BMP|13_1\.BMP)$").sum() == 75
    assert names[table["std"] == 0].tolist() == ["i04_11_4.bmp", "i04_21_5.bmp"]


def kadid10k(table, root):
    copies = table[table["copy"]]
    assert len(copies) == 4 * 81 and (copies["mos"].min(), copies["mos"].max()) == (4.20, 4.93)
    assert round(copies["mos"].mean(), 1) == 4.6 and round(table["std"].max(), 3) == 1.593


def livec(table, root):
    suffixes = table["image"].map(lambda path: Path(path).suffix).value_counts().to_dict()
    assert suffixes == {".JPG": 627, ".bmp": 542 - 7}
    assert round(table["std"].min(), 2) == 6.76 and round(table["std"].max(), 2) == 28.59


def koniq10k(table, root):
    hundred, told = read("koniq10k", root, scores="mos, 0 to 100")
    assert not told and published_digest(hundred) == (10073, score_digest(hundred))
    assert np.allclose([hundred["mos"].min(), hundred["mos"].max()], (3.91, 88.39), atol=0.005)
    assert round(hundred["mos"].corr(table["mos"]), 4) == 0.9954
    official = real_table("koniq10k").set_index("image")["set"].str[:5].to_dict()
    mine = {Path(path).name: part[:5] for path, part in zip(table["image"], table["split"], strict=True)}
    assert mine == {Path(name).name: part for name, part in official.items()}


def spaq(table, root):
    several = (table.filter(like="share ") > 0).sum(axis=1).value_counts().to_dict()
    assert several == {1: 8354, 2: 2514, 3: 251, 4: 5, 5: 1}
    assert (table["exif exposure time"] == 1_000_000).sum() == 1


def flive(table, root):
    listed = set(real_table("flive_labels640_test_patches")["name_image"])
    test = table[table["split"] == "test"]
    assert {"/".join(Path(path).parts[-2:]) for path in test["image"]} == listed
    sources = test["image"].map(lambda path: Path(path).name.split("__")[0]).value_counts().to_dict()
    assert sources.pop("AVA") == 1667 and sources.pop("EMOTIC") == 158 and sum(sources.values()) == 2
    assert table["image"].str.endswith(".JPG").sum() == 42
    patches, told = read("flive", root, patches=True)
    sizes = {"train": 121024, "validation": 30908, "test": 7308}
    assert not told and patches["split"].value_counts().to_dict() == sizes


def pipal(table, root):
    groups = dict(zip(["00", "01", "02", "03", "04", "05", "06"], (12, 16, 10, 24, 13, 14, 27), strict=True))
    counts = table.groupby("reference")["distortion"].value_counts().unstack()
    assert (counts == list(groups.values())).all(axis=None) and sum(groups.values()) == 116


def agiqa3k(table, root):
    counts = {"sd1.5": 1200, "midjourney": 592, "AttnGAN": 300, "glide": 300, "xl2.2": 300, "DALLE2": 290}
    assert table["generator"].value_counts().to_dict() == counts
    settings = {"normal": 1786, "lowstep": 596, "highcorr": 300, "lowcorr": 300}
    assert table["setting"].value_counts().to_dict() == settings and table["prompt"].nunique() == 300


def aigiqa20k(table, root):
    counts = table["generator"].value_counts().to_dict()
    names = ["LCM_Pixart", "LCM_SD1.5", "LCM_SDXL", "SDXL_Turbo"]  # names with underscores and points
    assert {counts[name] for name in names} == {700} and len(counts) == 15 and counts["SD1.4"] == 1400


def aadb(table, root):
    rows = real_table("aadb")
    leaking = set(rows["image"][rows["split"] == "val"]) & set(rows["image"][rows["split"] == "test"])
    held = table["image"][table["split"] == "validation"].map(lambda path: Path(path).name)
    assert len(leaking) == 127 and not leaking & set(held)
    marked = table["image"][table["split"] == "test"].map(lambda path: Path(path).name[6:])
    assert leaking < set(marked)
    low = table[["repetition", "symmetry", "content", "motion blur"]].min()
    assert (low[:2] == 0).all() and (low[2:] < 0).all()


SPECIAL = {
    check.__name__: check
    for check in (
        live,
        csiq,
        tid2013,
        kadid10k,
        livec,
        koniq10k,
        spaq,
        flive,
        pipal,
        agiqa3k,
        aigiqa20k,
        aadb,
    )
}


@needs_labels
def test_ava_with_the_votes_at_hand(tmp_path):
    "25,551 pictures have real votes, 43,522 real names; no digest can be had from a part"
    table, told = read("ava", write_miniature("ava", tmp_path / "ava", full=True))
    check_facts("ava", table)
    known = real_table("ava").set_index("image")
    exact = known[known["mos_precision"] == "exact"]["mos"]
    mine = table.set_index(table["image"].map(lambda path: Path(path).name))
    assert not told and np.allclose(mine["mos"].loc[exact.index], exact, atol=1e-6)
    official = known.index[known["in_official_generic_test"] == 1]
    assert set(mine.index[mine["split"] == "test"]) == set(official) and len(official) == 19930


@pytest.mark.parametrize("name", ["csiq", "koniq10k", "tid2013", "aadb"])
@needs_labels
def test_other_files_of_the_same_scores_have_the_same_digest(name, tmp_path):
    table, told = read(name, write_miniature(name, tmp_path / name, full=True, mirror=True))
    assert not told and published_digest(table) == (len(table), score_digest(table))


@needs_labels
def test_one_changed_score_is_noticed_and_another_order_is_not(tmp_path):
    root = write_miniature("kadid10k", tmp_path / "kadid10k", full=True)
    labels = pd.read_csv(root / "dmos.csv")
    labels[::-1].to_csv(root / "dmos.csv", index=False)
    assert not read("kadid10k", root)[1]
    labels.loc[4711, "dmos"] -= 0.02
    labels.to_csv(root / "dmos.csv", index=False)
    (told,) = read("kadid10k", root)[1]
    assert "the 10125 rows published for KADID-10k (mos), but its scores differ" in told


ONE_LAYOUT = {"flive", "agin", "waterloo"}  # no mirror holds another one: add a set of which that is true


@pytest.mark.parametrize("name", sorted(set(SIZES) - ONE_LAYOUT))
def test_mirror_reads_the_same_rows(name, tmp_path):
    tables = {}
    for mirror in (False, True):
        root = write_miniature(name, tmp_path / name, mirror=mirror)
        with pytest.warns(UserWarning, match="were published for"):
            tables[mirror] = load_dataset(name, root)
    more = 4 if name == "aigiqa20k" else 0  # the copy with all scores
    assert len(tables[True]) == len(tables[False]) + more
