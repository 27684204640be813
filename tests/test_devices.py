"""The same numbers on every device: scoring, a meta-training step and a fine-tuning step, against the CPU's."""

import pytest
import torch
from torch.testing import assert_close

from iqa_repro.clip.backbone import load_clip
from iqa_repro.core.resources import pick_device
from iqa_repro.data.labelled import Labelled
from iqa_repro.methods.coop import CoOp, CoOpSettings
from iqa_repro.methods.grmp.finetune import FinetuneSettings, finetune
from iqa_repro.methods.grmp.meta import MetaSettings, Task, meta_pretrain
from iqa_repro.methods.grmp.model import build_model
from iqa_repro.methods.grmp.recipes import get_recipe
from iqa_repro.methods.linear_probe import LinearProbe
from iqa_repro.methods.registry import score_images

THERE = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
DEVICES = [
    pytest.param(name, marks=pytest.mark.skipif(not THERE[name], reason=f"no {name} device on this machine"))
    for name in THERE
]


def results(device: str, recipe: str = "paper+select=last") -> dict[str, torch.Tensor]:
    "Everything that is trained or scored, from equal seeds"
    draw = lambda seed: torch.Generator().manual_seed(seed)
    clip = load_clip(device=pick_device(device))
    images = torch.rand(24, 3, 56, 60, generator=draw(0))
    labels = torch.rand(24, generator=draw(1))
    model = build_model(clip, get_recipe(recipe), visual_tokens=4, draw=lambda part: draw(2))
    out = {"start": score_images(model, images)}
    tasks = [Task("a/1", images[:12], labels[:12]), Task("a/2", images[12:], labels[12:])]
    meta_pretrain(model, tasks, MetaSettings(0.05, 1.0, 1, 2, 4, 4), draw(3))
    out["meta"] = score_images(model, images)
    part = lambda a, b: Labelled(images[a:b], labels[a:b])
    finetune(model, part(0, 16), part(16, 20), FinetuneSettings(0.01, 2, 8, blocks=2, check=1), draw(4), clip)
    out["tuned"] = score_images(model, images)
    probe = LinearProbe(clip)
    probe.fit(part(0, 16), part(16, 20), draw(5))
    coop = CoOp(clip, generator=draw(6))
    coop.fit(part(0, 16), part(16, 20), CoOpSettings(epochs=2), draw(7))
    return out | {"probe": score_images(probe.eval(), images), "coop": score_images(coop.eval(), images)}


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_gives_the_cpus_numbers(device):
    expected = results("cpu")
    for name, scores in results(device).items():
        assert_close(scores, expected[name], rtol=1e-2, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


def test_the_stages_change_the_scores_and_repeat():
    "What the test above compares is not constant"
    first, again = results("cpu"), results("cpu")
    assert not torch.equal(first["start"], first["meta"]) and not torch.equal(first["meta"], first["tuned"])
    for name, scores in first.items():
        assert torch.equal(scores, again[name]) and scores.std() > 0, name


def test_half_precision_stays_near():
    "The released code's autocast (DIFFERENCES.md D14) moves scores a little, and gives no NaN"
    full, half = results("cpu"), results("cpu", "paper+select=last+precision=autocast")
    assert_close(half["tuned"], full["tuned"], rtol=0, atol=0.05)
    assert not torch.equal(half["tuned"], full["tuned"])
