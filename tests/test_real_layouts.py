"""Every published data set in its authors' layout: as many rows as they published, their ranges and splits (datasets.md §1).

The miniatures have all file names and rows of the originals, tiny pictures and invented scores (`miniatures.py`).
"""

import time
import warnings

import pytest
from miniatures import BUILDERS, write_miniature

from iqa_repro.data.catalog import DATASETS, READERS, load_dataset

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


def test_every_reader_has_a_miniature():
    assert set(SIZES) == set(BUILDERS) == set(READERS) - {"flive_captions"}
    assert {name for name, facts in DATASETS.items() if not facts.available} == {"eciqad"}


@pytest.mark.parametrize("name", SIZES)
def test_full_size(name, tmp_path):
    rows, references, parts = SIZES[name]
    root = write_miniature(name, tmp_path / name, full=True)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "… were published" must not appear
        table = load_dataset(name, root)
    print(f"{name}: read in {time.perf_counter() - start:.1f} s")
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


@pytest.mark.parametrize("name", sorted(set(SIZES) - {"flive", "agin", "waterloo"}))
def test_mirror_reads_the_same_rows(name, tmp_path):
    read = {}
    for mirror in (False, True):
        root = write_miniature(name, tmp_path / name, mirror=mirror)
        with pytest.warns(UserWarning, match="were published for"):
            read[mirror] = load_dataset(name, root)
    more = 4 if name == "aigiqa20k" else 0  # the copy with all scores
    assert len(read[True]) == len(read[False]) + more
