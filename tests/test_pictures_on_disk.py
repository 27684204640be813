"""Methods learn from and score pictures that stay on disk as they do from pictures in memory, and reading ahead changes nothing."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

import iqa_repro.methods.grmp.finetune_crops
import iqa_repro.methods.grmp.meta_tasks
from iqa_repro.clip.backbone import load_clip
from iqa_repro.clip.features import CropSet, image_features, picture_digests
from iqa_repro.data.images import read_image, write_image
from iqa_repro.data.labelled import Labelled
from iqa_repro.data.pictures import PictureFiles
from iqa_repro.methods.coop import CoOp, CoOpSettings
from iqa_repro.methods.grmp.finetune import FinetuneSettings, finetune
from iqa_repro.methods.grmp.meta import MetaSettings, Task, meta_pretrain, plain_pretrain
from iqa_repro.methods.grmp.model import build_model
from iqa_repro.methods.grmp.recipes import get_recipe
from iqa_repro.methods.linear_probe import LinearProbe
from iqa_repro.methods.registry import score_images
from iqa_repro.methods.uniqa.adapter import build_uniqa
from iqa_repro.methods.uniqa.fitting import AdapterSettings, fit_pictures, fit_unfrozen


def draw(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "24 pictures of one size, 8 of several others"
    folder, generator = tmp_path_factory.mktemp("pictures"), draw(0)
    sizes = [(56, 60)] * 24 + [(40, 80), (100, 50), (30, 30), (56, 60)] * 2
    for i, size in enumerate(sizes):
        write_image(folder / f"{i:02d}.png", torch.rand(3, *size, generator=generator))
    return PictureFiles(sorted(folder.iterdir()), workers=3)


@pytest.fixture(scope="module")
def labels():
    return torch.rand(32, generator=draw(1))


def model(recipe="paper+select=last"):
    return build_model(load_clip(), get_recipe(recipe), visual_tokens=4, draw=lambda part: draw(2))


def in_memory(files):
    return torch.stack([read_image(path) for path in files.paths])


def test_scores_are_those_of_a_tensor(files):
    grmp, few = model(), files[:24]
    assert_close(
        score_images(grmp, few, batch=24), score_images(grmp, in_memory(few), batch=24), rtol=0, atol=0
    )
    alone = torch.cat([grmp(image[None]) for image in files]).detach()
    assert_close(score_images(grmp, files), alone, rtol=0, atol=1e-6)


def test_features_are_those_of_a_tensor(files, tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path))
    few, features = files[:24], partial(image_features, load_clip(), shard=5)
    assert_close(features(few, CropSet(3)), features(in_memory(few), CropSet(3)), rtol=0, atol=1e-6)
    assert features(files, CropSet(2)).shape[:2] == (32, 2)
    again = features(files.paths[::-1], CropSet(2))  # from the disk, in another order, as a list of paths
    assert_close(again.flip(0), features(files, CropSet(2)), rtol=0, atol=0)


def test_smaller_pictures_have_keys_of_their_own(files):
    smaller = PictureFiles(files.paths, short_side=32)
    assert not set(picture_digests(files)) & set(picture_digests(smaller))


def tune(files, labels, settings, recipe="paper"):
    grmp, clip = model(recipe), load_clip()
    part = lambda a, b: Labelled(files[a:b], labels[a:b])
    finetune(grmp, part(0, 20), part(20, 32), settings, draw(4), clip)
    return torch.cat([p.flatten() for p in grmp.parameters()])


SETTINGS = dict(lr=0.05, epochs=2, batch=8, blocks=2, check=1, views=2)


def test_tuning_is_the_same_with_and_without_reading_ahead(files, labels, monkeypatch):
    read = tune(files, labels, FinetuneSettings(**SETTINGS, cache_gib=0))
    monkeypatch.setattr(
        iqa_repro.methods.grmp.finetune_crops,
        "read_ahead",
        lambda function, items, workers: map(function, items),
    )
    assert torch.equal(read, tune(files, labels, FinetuneSettings(**SETTINGS, cache_gib=0)))
    assert not torch.equal(read, torch.cat([p.flatten() for p in model("paper").parameters()]))


def test_tuning_is_the_same_kept_and_read_again(files, labels):
    kept = tune(files, labels, FinetuneSettings(**SETTINGS))
    assert_close(tune(files, labels, FinetuneSettings(**SETTINGS, cache_gib=0)), kept, rtol=0, atol=1e-5)


def test_one_offset_for_all_needs_one_size(files, labels):
    settings = FinetuneSettings(**SETTINGS)
    with pytest.raises(ValueError, match="one offset for all pictures of a step, but they have 4 sizes"):
        tune(files[[24, 25, 26, 27] * 8], labels, settings, "paper+crop_offset=batch")
    tune(files[[24, 25, 26, 27] * 8], labels, settings, "paper+crop_offset=batch+tune_resize=square")


def tasks(files, labels):
    return [Task(f"set/{i}", files[i::3], labels[i::3]) for i in range(3)]


@pytest.mark.parametrize("recipe", ["paper+select=last", "released+meta_select=last"])
def test_meta_training_is_the_same_with_and_without_reading_ahead(files, labels, recipe, monkeypatch):
    def trained():
        grmp = model(recipe)
        meta_pretrain(grmp, tasks(files, labels), MetaSettings(0.05, 1.0, 2, 2, 4, 4), draw(3))
        return torch.cat([grmp.text.context.flatten(), grmp.visual.prompts.flatten()])

    read = trained()
    monkeypatch.setattr(
        iqa_repro.methods.grmp.meta_tasks, "read_ahead", lambda function, items, **_: map(function, items)
    )
    assert torch.equal(read, trained())


def test_everything_else_learns_from_files(files, labels):
    clip, part = load_clip(), lambda a, b: Labelled(files[a:b], labels[a:b])
    assert (
        len(plain_pretrain(model(), tasks(files, labels), MetaSettings(0.05, 1.0, 1, 2, 4, 4), draw(3))) == 6
    )
    coop = CoOp(clip, 2, generator=draw(5))
    coop.fit(part(0, 20), part(20, 32), CoOpSettings(epochs=2, views=2), draw(6))
    probe = LinearProbe(clip)
    probe.fit(part(0, 20), part(20, 32), draw(6))
    settings = AdapterSettings(epochs=2, views=2, check=1)
    uniqa, starred = (build_uniqa(clip, crops=2, generator=draw(7)) for _ in range(2))
    fit_pictures(uniqa, part(0, 20), part(20, 32), settings, draw(8))
    fit_unfrozen(starred, part(0, 20), settings, draw(8), part(20, 32))
    for method in (coop.eval(), probe.eval(), uniqa.eval(), starred.eval()):
        seen = score_images(method, files)
        assert seen.shape == (32,) and bool(((seen >= 0) & (seen <= 1)).all()) and seen.std() > 0
