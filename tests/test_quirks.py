"""Peculiarities of the data sets that their readers' notebooks name and do not show themselves (docs/datasets.md §2)."""

import io
import warnings
from pathlib import Path

import pandas as pd
import pytest
from miniatures import LABELS, real_table, scores_unchecked, write_miniature
from PIL import Image

from iqa_repro.data.catalog import load_dataset, load_images
from iqa_repro.data.images import read_image
from iqa_repro.data.sets import kadid10k, tid2013
from iqa_repro.data.sets.ava import read_ava
from iqa_repro.data.sets.flive import read_flive
from iqa_repro.data.split_files import read_pyiqa_split

NO_SEVERITY = {"tid2013": tid2013.NO_SEVERITY, "kadid10k": kadid10k.NO_SEVERITY}
pytestmark = pytest.mark.filterwarnings("ignore:.*(were published for|but its scores differ)")
needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason=f"no real label tables in {LABELS}")


@needs_labels
@pytest.mark.parametrize("name", NO_SEVERITY)
def test_levels_that_are_no_severity(name):
    "Mean scores fall with the level but for the types that say otherwise (a rise below 0.1 is chance)"
    table = real_table(name)
    means = table.groupby(["distortion_id", "level"])["mos"].mean().unstack()
    rises = means.diff(axis=1).max(axis=1) > 0.1
    assert tuple(f"{kind:02d}" for kind in means.index[rises]) == NO_SEVERITY[name]


@needs_labels
def test_koniq_has_two_splits_of_one_size():
    table = real_table("koniq10k")
    official, other = table["set"] == "test", table["liqe_split1"] == "test"
    assert official.sum() == other.sum() == 2015 and (official & other).sum() == 387


@needs_labels
def test_kadids_column_var_holds_deviations():
    "The largest variance that votes from 1 to 5 with mean m can have is (m − 1)(5 − m)"
    table = real_table("kadid10k")
    most = (table["mos"] - 1) * (5 - table["mos"])
    assert (table["std"] > most + 0.01).sum() == 5 and (table["std"] ** 2 > most + 0.01).sum() == 0


def test_livec_has_two_pictures_of_another_size(tmp_path):
    with warnings.catch_warnings(), scores_unchecked():
        warnings.simplefilter("error")
        table = load_dataset("livec", write_miniature("livec", tmp_path / "livec", full=True, real=False))
    names = table["image"].map(lambda path: Path(path).stem)
    odd = table[names.isin(["1023", "1024", "1025", "1113"])]
    with pytest.raises(ValueError, match="pictures have 2 sizes"):
        load_images(odd)
    assert load_images(table[:3]).shape == (3, 3, 8, 8)


def test_flive_without_its_lists_has_no_split(tmp_path):
    root = write_miniature("flive", tmp_path / "flive")
    (root / "labels=640_padded.csv").rename(root / "labels<=640_padded.csv")  # as its README writes it
    assert set(read_flive(root)["split"]) == {"train", "validation", "test"}
    (root / "labels640.csv").unlink()  # as in the common mirror
    assert "split" not in read_flive(root)


def test_live_without_its_info_files_has_no_parameter(tmp_path):
    root = write_miniature("live", tmp_path / "live")
    first = load_dataset("live", root)
    assert (first.groupby("distortion")["parameter"].nunique() == 4).all()
    (root / "wn/info.txt").write_text("source destination parameter\nno picture here\n")
    assert load_dataset("live", root)["parameter"].isna().sum() == 4
    for path in root.glob("*/info.txt"):
        path.unlink()
    assert "parameter" not in load_dataset("live", root)


def test_spaq_without_its_other_sheets(tmp_path):
    root = write_miniature("spaq", tmp_path / "spaq")
    (root / "Annotations/EXIF_tags.xlsx").unlink()
    (root / "Annotations/Scene category labels.xlsx").unlink()
    table = load_dataset("spaq", root)
    assert "brightness" in table and "scene" not in table and not list(table.filter(like="exif "))


def test_ava_means_come_from_counts(tmp_path):
    "A copy in circulation has 5.00 where the votes say 5.004: beautiful or not?"
    root = write_miniature("ava", tmp_path / "ava")
    rows = (root / "AVA.txt").read_text().splitlines()
    votes = [0, 0, 0, 0, 249, 1, 0, 0, 0, 0]
    rows[0] = " ".join(map(str, [1, 11, *votes, 0, 22, 1396]))
    (root / "AVA.txt").write_text("\n".join(rows) + "\n")
    mean = read_ava(root)["mos"][0]
    assert mean == pytest.approx(5.004) and mean > 5 == float(f"{mean:.3}")


def test_ava_splits_of_another_family_come_whole(tmp_path):
    "A split file replaces the official split; the two are never mixed"
    table = read_ava(write_miniature("ava", tmp_path / "ava"))
    names = table["image"].map(lambda path: Path(path).name)
    other = ["2" if part == "train" and i % 3 == 0 else "0" for i, part in enumerate(table["split"])]
    pd.DataFrame({"name": names, "mos": 5, "ILGnet_split": other}).to_csv(tmp_path / "meta.csv", index=False)
    parts = read_pyiqa_split(tmp_path / "meta.csv", "ILGnet_split", table)
    test = parts["test"]["image"].map(lambda path: Path(path).name).tolist()
    assert test == [name for name, part in zip(names, other, strict=True) if part == "2"]
    assert (parts["train"]["split"] == "test").any()  # an official test picture is a training picture there


def test_a_picture_cut_short_is_refused_unless_asked_for(tmp_path):
    root = write_miniature("ava", tmp_path / "ava")
    table = read_ava(root)
    held = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(held, "JPEG")
    Path(table["image"][0]).unlink()  # a hard link to the others
    Path(table["image"][0]).write_bytes(held.getvalue()[: len(held.getvalue()) // 2])
    with pytest.raises(ValueError, match="11.jpg"):
        read_image(table["image"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(table["image"][0], truncated=True).shape == (3, 64, 64)
    assert len(read_ava(root)) == len(table)  # reading labels opens no picture


def test_prompts_with_commas_and_line_breaks_stay_whole(tmp_path):
    table = load_dataset("aigiqa20k", write_miniature("aigiqa20k", tmp_path / "aigiqa20k"))
    assert table["prompt"].eq("a lake,\nat dawn").all()
