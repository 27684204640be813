"""The counts of encodes are those of a real training: a hook on the first layer of the tower counts crops in a miniature."""

import os

import pytest
import torch
from quick_profile import EMBEDDED
from torch.nn.modules.module import register_module_forward_hook

from iqa_repro.batch.workload import least_encodes, picture_count, trial_work
from iqa_repro.clip.inputs import load_settings
from iqa_repro.methods.grmp import finetune_crops
from iqa_repro.methods.grmp.method import GRMPOptions
from iqa_repro.study.protocol import trial_results
from iqa_repro.study.trial import Trial

TRIAL = Trial("livec", "GRMP-IQA", 0.8, options=GRMPOptions(start="no pre-training"))
VIEWS, EPOCHS, LOOKS, UPPER = (
    2,
    3,
    3,
    1 / 2,
)  # crops a picture, passes, looks (0, 2, 3), share of tuned blocks


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    "Pictures are drawn once for all tests here"
    return tmp_path_factory.mktemp("cache")


def crops_seen(folder, cache, memory, disk, monkeypatch):
    "Crops that enter an image tower in one training of all labels, and its counted work"
    monkeypatch.setenv("IQA_REPRO_CACHE", str(cache))
    text = EMBEDDED.read_text(encoding="utf-8")
    changes = {
        "views = 1              # patches": f"cache_gib = {memory}\nviews = {VIEWS}  # patches",
        "epochs = 2             # paper: 9": f"epochs = {EPOCHS}  # paper: 9",
        "disk_gib = 0 ": f"disk_gib = {disk} ",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, f"embedded.toml has no {old!r} any more"
        text = text.replace(old, new)
    (folder / "miniature.toml").write_text(text, encoding="utf-8")
    settings, seen = load_settings(folder / "miniature.toml"), []
    count = lambda module, given, _: (
        seen.append(len(given[0])) if isinstance(module, torch.nn.Conv2d) else None
    )
    hook = register_module_forward_hook(count)
    try:
        trial_results([TRIAL], settings)
    finally:
        hook.remove()
    return sum(seen), trial_work(TRIAL, settings), picture_count("livec", settings.profile)


@pytest.mark.parametrize(
    "memory, disk", [(1.0, 0), (0.0005, 1.0), (0.0005, 0)], ids=["in memory", "on disk", "too large"]
)
def test_counted_encodes_are_those_of_a_training(memory, disk, cache, tmp_path, monkeypatch):
    seen, works, pictures = crops_seen(tmp_path, cache, memory, disk, monkeypatch)
    test = round(0.2 * pictures)
    train = min(pictures - test, round(0.8 * pictures))
    crops = train * VIEWS
    kept = max(memory, disk) == 1.0
    lower = crops if kept else EPOCHS * crops + LOOKS * min(train, 512)
    assert seen == lower + crops + test  # below the tuned blocks, the teacher, the test part at the end
    counted = sum(work.count for work in works if work.kind == "encode")
    assert counted == pytest.approx((1 - UPPER) * lower + crops + test)
    least = (1 - UPPER) * crops + crops + test
    assert least_encodes(works) == pytest.approx(least)
    assert (counted == pytest.approx(least)) == kept


def test_a_full_disk_costs_time_and_no_result(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(
        UserWarning, match=r"not kept .*No space left on device; they are computed for each batch"
    ):
        assert finetune_crops._on_disk(4096) is None
    assert not list(tmp_path.iterdir())
