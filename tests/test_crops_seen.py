"""How much of a picture a model sees under `full`: sizes after the resize, crops in training and judging, and what `released` keeps."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from iqa_repro.clip.backbone import load_clip
from iqa_repro.clip.inputs import load_settings, short_side_of
from iqa_repro.data.crops import crop_corners
from iqa_repro.data.labelled import Labelled
from iqa_repro.data.pictures import open_pictures
from iqa_repro.methods.grmp.finetune_crops import CropSource
from iqa_repro.methods.grmp.method import tuning_settings
from iqa_repro.methods.grmp.network import read_whole
from iqa_repro.methods.grmp.pretraining import build_variant, judged_views, recipe_of

FULL, EMBEDDED = load_settings("full"), load_settings()


@pytest.fixture
def files(tmp_path):
    "Three pictures of KonIQ-10k's size, read as `full` reads them"
    for i in range(3):
        levels = np.random.default_rng(i).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((1024, 768)).save(tmp_path / f"{i}.png")
    table = pd.DataFrame({"image": [str(tmp_path / f"{i}.png") for i in range(3)]})
    return open_pictures(table, short_side_of("koniq10k", FULL.profile))


def test_pictures_have_the_size_of_their_set(files):
    assert [tuple(image.shape) for image in files] == [(3, 384, 512)] * 3
    assert list(files.map(lambda i, image: tuple(image.shape[-2:]))) == [(384, 512)] * 3  # as training reads
    native = ("livec", "live", "csiq", "tid2013", "kadid10k", "pipal", "agiqa3k")
    assert {short_side_of(name, FULL.profile) for name in native} == {None}
    assert {short_side_of(name, EMBEDDED.profile) for name in ("koniq10k", "spaq", "flive")} == {None}


@pytest.mark.parametrize(
    "size, one, ten",
    [
        ((384, 512), 0.255, 1.0),
        ((500, 500), 0.201, 0.896),
        ((512, 683), 0.143, 0.875),
        ((3000, 4000), 0.004, 0.042),
    ],
)
def test_what_crops_see(size, one, ten):
    for crops, share in ((1, one), (10, ten)):
        seen = np.zeros(size, bool)
        for top, left in crop_corners(*size, 224, crops):
            seen[top : top + 224, left : left + 224] = True
        assert seen.mean() == pytest.approx(share, abs=6e-4)


def test_the_batch_of_a_set_is_that_of_the_paper():
    paper = recipe_of("paper", FULL.profile)
    batch = lambda name, shots=0.8: tuning_settings(shots, 5.0, paper, FULL, name).batch
    assert [batch(name) for name in ("livec", "koniq10k", "spaq", "flive")] == [16, 128, 16, 16]
    assert batch("koniq10k", 200) == batch("livec", 200)  # few labels have one batch for all


def test_released_squares_the_whole_file_and_cuts_it_once(files):
    paper, released = (recipe_of(name, FULL.profile) for name in ("paper", "released"))
    assert (judged_views(paper, FULL.profile), judged_views(released, FULL.profile)) == (10, 1)
    assert read_whole(files, paper) is files
    assert [tuple(image.shape) for image in read_whole(files, released)] == [(3, 768, 1024)] * 3
    model = build_variant("no pre-training", FULL.profile, 0, "released", clip=load_clip())
    source = CropSource(
        model, Labelled(files, torch.tensor([0.0, 0.5, 1.0])), 1, torch.Generator().manual_seed(0)
    )
    squares = torch.nn.functional.interpolate(
        torch.stack(list(files.at_size(None))), (52, 52), mode="bicubic", align_corners=False
    ).clamp(0, 1)  # 244/224 of the tiny model's 48
    torch.testing.assert_close(torch.stack(list(source.images)), squares)
    crops = model.judged_crops(read_whole(files, released)[0][None])
    torch.testing.assert_close(crops[0], squares[:1, :, 2:50, 2:50])
