"Odd and broken pictures and tables: converted to exactly these pixels, or refused with exactly these values."

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from iqa_repro.data.crops import test_crops as fixed_crops
from iqa_repro.data.crops import train_crop
from iqa_repro.data.images import read_image
from iqa_repro.data.splits import sample_shots, split_table
from iqa_repro.data.tables import TableFacts, quality_of, read_table


def pixels(path):
    "(h, w, 3) nested list of levels 0 … 255, not rounded"
    return read_image(path).permute(1, 2, 0) * 255


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def noise(height=24, width=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- pictures that are converted -----------------------------------------------------------------------------------


def test_grey_and_one_bit(tmp_path):
    grey = saved(tmp_path / "grey.png", Image.fromarray(np.array([[0, 7, 255]], np.uint8)))
    assert pixels(grey).tolist() == [[[0.0] * 3, [7.0] * 3, [255.0] * 3]]
    bits = saved(tmp_path / "bits.png", Image.fromarray(np.array([[False, True]])))
    assert Image.open(bits).mode == "1"
    assert pixels(bits).tolist() == [[[0.0] * 3, [255.0] * 3]]


def test_alpha_is_laid_on_white(tmp_path):
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    expected = [[[200.0, 100.0, 0.0], [255.0, 255.0, 255.0], [244.0, 224.0, 204.0]]]  # 0.2 c + 0.8 · 255
    assert_close(pixels(saved(tmp_path / "rgba.png", Image.fromarray(rgba))), torch.tensor(expected))
    la = np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8)
    picture = saved(tmp_path / "la.png", Image.fromarray(la, mode="LA"))
    assert Image.open(picture).mode == "LA"
    assert_close(pixels(picture), torch.tensor([[[100.0] * 3, [255.0] * 3, [224.0] * 3]]))


def test_palette_with_and_without_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    plain = saved(tmp_path / "plain.png", picture)
    assert pixels(plain).tolist() == [[[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]]
    clear = saved(tmp_path / "clear.png", picture, transparency=1)
    assert Image.open(clear).mode == "P"
    assert pixels(clear).tolist() == [[[10.0, 20.0, 30.0], [255.0, 255.0, 255.0]]]


def test_rgb_with_one_transparent_colour(tmp_path):
    picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    clear = saved(tmp_path / "key.png", picture, transparency=(4, 5, 6))
    assert Image.open(clear).mode == "RGB"
    assert pixels(clear).tolist() == [[[1.0, 2.0, 3.0], [255.0, 255.0, 255.0]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    picture = saved(tmp_path / f"deep.{suffix}", Image.fromarray(levels))
    assert Image.open(picture).mode == "I;16"
    expected = torch.tensor(levels.astype(np.float32) / 65535)
    assert_close(read_image(picture), expected.expand(3, 1, 4), rtol=0, atol=1e-7)


def test_cmyk_jpeg(tmp_path):
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow in full: red
    picture = saved(tmp_path / "inks.jpg", inks, quality=95)
    assert Image.open(picture).mode == "CMYK"
    assert_close(pixels(picture)[8, 8], torch.tensor([255.0, 0.0, 0.0]), rtol=0, atol=3)


@pytest.mark.parametrize(
    "orientation, turned",
    [
        (1, lambda x: x),
        (2, lambda x: x.flip(2)),
        (3, lambda x: x.rot90(2, (1, 2))),
        (4, lambda x: x.flip(1)),
        (5, lambda x: x.transpose(1, 2)),
        (6, lambda x: x.rot90(-1, (1, 2))),
        (7, lambda x: x.rot90(2, (1, 2)).transpose(1, 2)),
        (8, lambda x: x.rot90(1, (1, 2))),
    ],
)
def test_exif_orientation(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_image(saved(tmp_path / "flat.png", noise()))
    assert_close(
        read_image(saved(tmp_path / "turned.png", noise(), exif=exif)), turned(upright), rtol=0, atol=0
    )


def test_one_pixel(tmp_path):
    picture = read_image(saved(tmp_path / "dot.png", Image.new("RGB", (1, 1), (51, 102, 255))))
    assert_close(picture.flatten(), torch.tensor([0.2, 0.4, 1.0]))
    crops = fixed_crops(picture, 8, 5)
    assert_close(crops, picture.expand(5, 3, 8, 8), rtol=0, atol=1e-6)
    assert train_crop(picture, 8, torch.Generator().manual_seed(0)).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="a crop of 8 does not fit into a picture of 1×1"):
        fixed_crops(picture, 8, small="error")


def test_first_frame_of_a_film(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    film = saved(tmp_path / "film.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixels(film)[0, 0].tolist() == [255.0, 0.0, 0.0]


# --- pictures that are refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_truncated(tmp_path, suffix):
    whole = saved(tmp_path / f"whole.{suffix}", noise(64, 64)).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read as a picture: ") as error:
        read_image(cut)
    assert str(cut) in str(error.value)


def test_text_and_nothing(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(
        ValueError, match=r"text\.png cannot be read as a picture: 5 bytes of no known format"
    ):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(
        ValueError, match=r"empty\.jpg cannot be read as a picture: 0 bytes of no known format"
    ):
        read_image(tmp_path / "empty.jpg")


def test_missing_and_folder(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(FileNotFoundError) as error:
            read_image(path)
        assert f"no picture at {path};" in str(error.value)


def test_float_picture(tmp_path):
    picture = saved(tmp_path / "float.tif", Image.new("F", (2, 2), 0.5))
    with pytest.raises(
        ValueError, match=r"float\.tif cannot be read as a picture: pictures of mode 'F' have no stated white"
    ):
        read_image(picture)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "limit, message", [(700, "32×24 pixels are over the limit of 700"), (300, "768 pixels")]
)
def test_bomb(tmp_path, monkeypatch, limit, message):
    picture = saved(tmp_path / "bomb.png", noise())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"bomb\.png cannot be read as a picture: ") as error:
        read_image(picture)
    assert message in str(error.value)


# --- tables --------------------------------------------------------------------------------------------------------


def csv(folder, text):
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "picture,mos\na.png,1\n",
            "mine.csv has no column 'image', it has ['picture', 'mos']. It needs `image`",
        ),
        ("image,score\na.png,1\n", "mine.csv has no column 'mos', it has ['image', 'score']. It needs"),
        (
            "Image,mos\na.png,1\n",
            "has no column 'image', it has ['Image', 'mos']. 'image' is near: rename it.",
        ),
        ("image;mos\na.png;1\n", "has no column 'image', it has ['image;mos']. 'image;mos' is near"),
        ("image,mos\n", "mine.csv has a header and no rows"),
        ("", "mine.csv is no CSV in UTF-8 with the columns image,mos"),
        ("image,mos\na.png,1\nb.png,\n", "1 of 2 scores are no finite numbers (row 2: nan)"),
        ("image,mos\na.png,1\nb.png,NaN\n", "1 of 2 scores are no finite numbers (row 2: "),
        ("image,mos\na.png,-inf\nb.png,2\n", "1 of 2 scores are no finite numbers (row 1: -inf)"),
        ("image,mos\na.png,1\nb.png,good\n", "1 of 2 scores are no finite numbers (row 2: good)"),
        ("image,mos\na.png,1\n,2\n", "`image` must be text, 1 rows are not, first row 2"),
        ("image,mos\na.png,1\nb.png,2\na.png,3\n", "lists 1 pictures again, first ['a.png']"),
        (
            "image,mos\na.png,1,7,8\nb.png\n",
            "mine.csv: rows have more fields than the header ['image', 'mos']",
        ),
        (
            "image,mos\na.png,1,7\nb.png,2,8\n",
            "mine.csv: rows have more fields than the header ['image', 'mos']",
        ),
        (
            "image,mos\na.png,1\nb.png,2,9\n",
            "mine.csv is no CSV in UTF-8 with the columns image,mos: Error tokenizing",
        ),
        (
            "image,mos\na.png,1\nb.png,6\n",
            "1 of 2 scores lie outside the published range 1 … 5, first in rows [2]: [6.0]",
        ),
    ],
)
def test_bad_table(tmp_path, text, message):
    with pytest.raises(ValueError) as error:
        read_table(csv(tmp_path, text), facts=TableFacts(low=1, high=5))
    assert message in str(error.value)


def test_missing_table_and_missing_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table at .*absent\.csv"):
        read_table(tmp_path / "absent.csv")
    noise().save(tmp_path / "a.png")
    path = csv(tmp_path, "image,mos\na.png,1\nb.png,2\nc.png,3\nd.png,4\ne.png,5\n")
    assert len(read_table(path)) == 5
    with pytest.raises(FileNotFoundError) as error:
        read_table(path, check_files=True)
    first = [str(tmp_path / name) for name in ("b.png", "c.png", "d.png")]
    assert f"4 of 5 pictures are missing, first {first}; give their folder as root" in str(error.value)


def test_names_stay_text(tmp_path):
    table = read_table(csv(tmp_path, "image,mos,reference\n001,1,1600\nNA,2,007\n1e3,3,nan\n"), root="set")
    assert table.image.tolist() == ["set/001", "set/NA", "set/1e3"]
    assert table.reference.tolist() == ["1600", "007", "nan"]
    with pytest.raises(ValueError, match=r"`image` must be text, 2 rows are not, first row 1 \(int64\)"):
        read_table(pd.DataFrame({"image": [1, 2], "mos": [1, 2]}))


def test_byte_order_mark(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes("image,mos\na.png,1\n".encode("utf-8-sig"))
    assert read_table(path, root=".").image.tolist() == ["a.png"]


def test_quality_needs_a_range(tmp_path):
    path = csv(tmp_path, "image,mos\na.png,20\nb.png,80\n")
    assert "quality" not in read_table(path)
    with pytest.raises(ValueError, match="mine has no `quality`: its score range is not known"):
        quality_of(read_table(path))
    dmos = TableFacts(low=0, high=100, higher_is_better=False)
    assert quality_of(read_table(path, facts=dmos)).tolist() == pytest.approx([0.8, 0.2], abs=1e-12)


def test_too_few(tmp_path):
    table = read_table(csv(tmp_path, "image,mos,reference\na.png,1,r\nb.png,2,r\n"))
    with pytest.raises(ValueError, match="50 shots were asked for, the table has 2 pictures; ask for 1 … 2"):
        sample_shots(table, 50, seed=0)
    with pytest.raises(
        ValueError, match=r"at least 2 different values of 'reference' are needed to split, got \['r'\]"
    ):
        split_table(table, seed=0)
