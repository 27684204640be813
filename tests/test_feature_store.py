"""The feature store with real processes: two that write at once, and one that is killed in the middle."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from iqa_repro.clip.backbone import load_clip
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
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(out), *map(str, (pause, 0, first, last))]
    )


@pytest.fixture(scope="module")
def expected():
    clip = load_clip()
    with torch.no_grad():
        return torch.stack([_encode(clip, image) for image in PICTURES])


def _encode(clip, image):
    from iqa_repro.clip.backbone import encode_images

    return encode_images(clip, CropSet(2).cut(image, clip.image_size, ""))


def shards(folder):
    return list(folder.glob("*/test-2/[!.]*.safetensors"))


def test_two_writers_of_one_table_encode_it_once(tmp_path, expected):
    folder, outs = tmp_path / "store", [tmp_path / "a.pt", tmp_path / "b.pt"]
    writers = [start(folder, out, 0.02) for out in outs]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    results = [torch.load(out) for out in outs]
    assert sum(result["crops"] for result in results) == 80  # 40 pictures × 2 crops, once in all
    assert len(shards(folder)) == 10
    for result in results:
        torch.testing.assert_close(result["features"], expected, rtol=0, atol=1e-5)


def test_writers_of_overlapping_tables_lose_nothing(tmp_path, expected):
    folder, outs = tmp_path / "store", [tmp_path / "a.pt", tmp_path / "b.pt"]
    writers = [start(folder, outs[0], 0.02, 0, 26), start(folder, outs[1], 0.02, 14, 40)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    for out, rows in zip(outs, (slice(0, 26), slice(14, 40)), strict=True):
        torch.testing.assert_close(torch.load(out)["features"], expected[rows], rtol=0, atol=1e-5)
    clip = load_clip()
    clip.model.visual.conv1.register_forward_pre_hook(lambda *_: pytest.fail("everything is in the store"))
    found = FeatureStore(folder, clip).features(PICTURES, CropSet(2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_killed_writer_loses_at_most_one_shard(tmp_path, expected):
    folder = tmp_path / "store"
    writer, deadline = start(folder, tmp_path / "a.pt", 0.3), time.time() + 120
    while len(shards(folder)) < 3 and time.time() < deadline:
        time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    there = len(shards(folder))
    assert 3 <= there < 10 and not (tmp_path / "a.pt").exists()
    crops, clip = [], load_clip()
    clip.model.visual.conv1.register_forward_pre_hook(lambda layer, inputs: crops.append(len(inputs[0])))
    found = FeatureStore(folder, clip, shard=4).features(PICTURES, CropSet(2))  # its lock is free again
    assert sum(crops) == 80 - 8 * there
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
