"""The feature store with real processes: two that write at once, and one that is killed in the middle."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from iqa_repro.clip.backbone import encode_images, load_clip
from iqa_repro.clip.features import CropSet, FeatureStore

WRITER = """
import sys, time, torch
from iqa_repro.clip.backbone import load_clip
from iqa_repro.clip.features import CropSet, FeatureStore
folder, out, pause, seed, first, last = sys.argv[1], sys.argv[2], float(sys.argv[3]), *map(int, sys.argv[4:])
torch.set_num_threads(1)
clip, crops = load_clip(), []
clip.model.visual.conv1.register_forward_pre_hook(lambda layer, inputs: (crops.append(len(inputs[0])), time.sleep(pause))[0] and None)
images = torch.rand(40, 3, 56, 60, generator=torch.Generator().manual_seed(seed))[first:last]
store = FeatureStore(folder, clip, shard=4)
open(out + ".ready", "w").close()
features = store.features(images, CropSet(2))
torch.save({"features": features, "crops": sum(crops)}, out)
"""
PICTURES = torch.rand(40, 3, 56, 60, generator=torch.Generator().manual_seed(0))


def start(folder, out, pause, first=0, last=40):
    command = [sys.executable, "-c", WRITER, str(folder), str(out), *map(str, (pause, 0, first, last))]
    return subprocess.Popen(command)


def counting(pause=0.0):
    "The backbone, and a list that grows by the crops it encodes"
    clip, crops = load_clip(), []
    hook = lambda layer, inputs: crops.append(len(inputs[0])) or time.sleep(pause)
    clip.model.visual.conv1.register_forward_pre_hook(hook)
    return clip, crops


def wait_for(done, seconds=120):
    deadline = time.time() + seconds
    while not done():
        assert time.time() < deadline
        time.sleep(0.02)


def shards(folder):
    return list(folder.glob("*/test-2/[!.]*.safetensors"))


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def expected():
    clip = load_clip()
    with torch.no_grad():
        return torch.stack(
            [encode_images(clip, CropSet(2).cut(image, clip.image_size, "")) for image in PICTURES]
        )


@pytest.mark.parametrize(("theirs", "ours"), [((0, 40), (0, 40)), ((0, 26), (14, 40))])
def test_two_writers_at_once(tmp_path, expected, theirs, ours):
    folder, out = tmp_path / "store", tmp_path / "a.pt"
    writer = start(folder, out, 0.05, *theirs)
    wait_for(lambda: out.with_name("a.pt.ready").exists())
    clip, crops = counting(pause=0.05)
    same(
        FeatureStore(folder, clip, shard=4).features(PICTURES[slice(*ours)], CropSet(2)),
        expected[slice(*ours)],
    )
    assert writer.wait(120) == 0
    result = torch.load(out)
    same(result["features"], expected[slice(*theirs)])
    if theirs == ours:
        assert (
            sum(crops) + result["crops"] == 80 and len(shards(folder)) == 10
        )  # 40 pictures × 2 crops, once in all
    clip, crops = counting()
    same(FeatureStore(folder, clip).features(PICTURES, CropSet(2)), expected)
    assert not crops  # everything is in the store


def test_a_killed_writer_loses_at_most_one_shard(tmp_path, expected):
    folder = tmp_path / "store"
    writer = start(folder, tmp_path / "a.pt", 0.3)
    wait_for(lambda: len(shards(folder)) >= 3)
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    there = len(shards(folder))
    assert 3 <= there < 10 and not (tmp_path / "a.pt").exists()
    clip, crops = counting()
    found = FeatureStore(folder, clip, shard=4).features(PICTURES, CropSet(2))  # its lock is free again
    assert sum(crops) == 80 - 8 * there
    same(found, expected)
