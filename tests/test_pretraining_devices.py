"""What `[pretraining]` of a profile says of means: devices, chunks, precision. Two processes on this CPU meet as torchrun starts them."""

import math

import pandas as pd
import pytest
import torch
from quick_profile import write_quick_profile

from iqa_repro.captions.purification import Pictures
from iqa_repro.clip.inputs import load_settings
from iqa_repro.clip.tiny import build_tiny
from iqa_repro.core.checkpoints import load_checkpoint
from iqa_repro.core.testing import expect_fail
from iqa_repro.methods.uniqa.contrastive import PretrainSettings, pretrain
from iqa_repro.methods.uniqa.corpus import Corpus, _train, corpus_stage

QUALITY = Corpus(("quality",))


def settings_with(folder, name="changed", **changes):
    "Smoke settings of the embedded profile with other values in [pretraining]"
    now = {"devices": "devices = 1 ", "chunk": "chunk = 64 ", "workers": "workers = 0 "}
    now |= {"precision": 'precision = "float32"  # of the towers', "captions": 'captions = "all"    #'}
    path = folder / f"{name}.toml"
    write_quick_profile(
        path, {now[key]: now[key].replace(now[key].split()[2], value) for key, value in changes.items()}
    )
    return load_settings(path, smoke=True)


def test_a_study_on_two_devices_gets_the_weights_of_one(tmp_path):
    "The processes that torchrun starts, called as a table calls them, with chunks that differ too"
    made = {}
    for devices in ("1", "2"):
        folder = tmp_path / devices
        folder.mkdir()
        _train(folder, QUALITY, settings_with(tmp_path, f"on{devices}", devices=devices, chunk="8"))
        made[devices] = (
            load_checkpoint(folder / "model.safetensors")[0],
            pd.read_csv(folder / "curve.csv"),
        )
    (alone, curve), (shared, other) = made["1"], made["2"]
    assert len(curve) == len(other) == 2
    for column in ("loss", "logit_scale", "accuracy"):
        assert other[column].to_list() == pytest.approx(curve[column].to_list(), abs=1e-5), column
    whole = math.log(24) - 0.3  # each device by itself would have a loss near ln 12
    assert other["loss"][0] > whole > math.log(12)
    start, far = build_tiny().model.state_dict(), 0
    for key, value in alone.items():
        if not key.endswith("in_proj_bias"):  # the key biases' gradient is rounding noise
            assert (shared[key] - value).abs().max() < 1e-5, key
        far = max(far, (value - start[key]).abs().max())
    assert far > 1e-4, "the weights have moved"


def test_means_do_not_name_a_pretraining_and_choices_do(tmp_path):
    names = {
        change: corpus_stage(QUALITY, settings_with(tmp_path, change, **values)).entry.digest
        for change, values in {
            "none": {},
            "devices": {"devices": "2"},
            "workers": {"workers": "3"},
            "chunk": {"chunk": "16"},
            "precision": {"precision": '"bfloat16"'},
            "captions": {"captions": '"one"'},
        }.items()
    }
    assert names["none"] == names["devices"] == names["workers"] == names["chunk"]
    assert len({names["none"], names["precision"], names["captions"]}) == 3


def test_devices_that_do_not_fit_are_named(tmp_path):
    with expect_fail(ValueError, contains="a batch of 24 does not divide by 5 devices; set devices = 4"):
        _train(tmp_path, QUALITY, settings_with(tmp_path, devices="5"))
    with expect_fail(ValueError, contains="must be a whole number ≥ 1 or 'auto'"):
        _train(tmp_path, QUALITY, settings_with(tmp_path, devices="0"))


def test_what_ends_a_process_is_told(tmp_path):
    "A state that another run left: both processes refuse it, and the study says why"
    (tmp_path / "unfinished.safetensors").write_bytes(b"no tensors")
    with expect_fail(RuntimeError, contains="training on 2 cpu devices failed: "):
        _train(tmp_path, QUALITY, settings_with(tmp_path, devices="2"))


def test_half_precision_keeps_float32_weights_and_nearly_the_loss():
    images = torch.rand(12, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    table = pd.DataFrame({"image": [str(i) for i in range(12)], "caption": [f"photo {i}" for i in range(12)]})
    runs = {}
    for precision in ("float32", "bfloat16"):
        clip, sizes = build_tiny(), PretrainSettings(epochs=3, batch=12, precision=precision, chunk=5)
        pictures = Pictures([str(i) for i in range(12)], images)
        history = pretrain(clip, pictures, table, sizes, torch.Generator().manual_seed(1))
        assert {p.dtype for p in clip.model.parameters()} == {torch.float32}
        runs[precision] = history["loss"].to_numpy()
    assert (runs["bfloat16"] != runs["float32"]).any()
    assert abs(runs["bfloat16"] - runs["float32"]).max() < 0.03 * runs["float32"].max()
