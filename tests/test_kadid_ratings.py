"""The 125 packaged ratings, recomputed from KADID-10k's own 10125 scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iqa_repro.data.distortions import DISTORTIONS, human_rating

LABELS = (
    Path(__file__).resolve().parents[2] / "shared" / "labels" / "kadid10k.csv"
)  # ../shared of the repository


def test_packaged_ratings_are_complete_and_on_the_scale():
    ratings = np.array([[human_rating(d.number, level) for level in range(1, 6)] for d in DISTORTIONS])
    assert ratings.shape == (25, 5, 2)
    assert ((1 <= ratings[..., 0]) & (ratings[..., 0] <= 5)).all()
    assert ((0 < ratings[..., 1]) & (ratings[..., 1] < 1)).all()


@pytest.mark.skipif(not LABELS.exists(), reason=f"KADID-10k's label table is not at {LABELS}")
def test_packaged_ratings_equal_the_recomputed_ones():
    table = pd.read_csv(LABELS)
    numbers = table.image.str.extract(r"I\d\d_(\d\d)_(\d\d)\.png$").astype(
        int
    )  # type and level, from the file name
    groups = table.mos.groupby([numbers[0], numbers[1]])
    assert len(table) == 10125 and (groups.size() == 81).all()
    for (kind, level), scores in groups:
        expected = scores.mean(), np.sqrt(((scores - scores.mean()) ** 2).sum() / 80)
        assert human_rating(kind, level) == pytest.approx(expected, abs=5.1e-5), (kind, level)
