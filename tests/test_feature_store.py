"""Features in the memo with real processes: two that write at once, one that is killed in the middle, one whose disk is full."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from iqa_repro.clip.backbone import encode_images, load_clip
from iqa_repro.clip.features import CropSet, image_features
from iqa_repro.core.memo import entries

WRITER = """
import resource, sys, time, torch
from iqa_repro.clip.backbone import load_clip
from iqa_repro.clip.features import CropSet, image_features
out, pause, first, last, largest = sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:])
torch.set_num_threads(1)
clip, crops = load_clip(), []
clip.model.visual.conv1.register_forward_pre_hook(lambda layer, inputs: (crops.append(len(inputs[0])), time.sleep(pause))[0] and None)
images = torch.rand(40, 3, 56, 60, generator=torch.Generator().manual_seed(0))[first:last]
open(out + ".ready", "w").close()
if largest:  # bytes a file: what a full disk is to a writer, an error in the middle of a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
features = image_features(clip, images, CropSet(2), shard=4)
torch.save({"features": features, "crops": sum(crops)}, out)
"""
PICTURES = torch.rand(40, 3, 56, 60, generator=torch.Generator().manual_seed(0))


def start(out, pause, first=0, last=40, largest=0):
    command = [sys.executable, "-c", WRITER, str(out), *map(str, (pause, first, last, largest))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


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


def shards(cache):
    return list(cache.glob("memo/features/*/[!.]*.json"))


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def expected():
    clip = load_clip()
    with torch.no_grad():
        return torch.stack(
            [encode_images(clip, CropSet(2).cut(image, clip.image_size, "")) for image in PICTURES]
        )


@pytest.mark.parametrize(("theirs", "ours"), [((0, 40), (0, 40)), ((0, 26), (14, 40))])
def test_two_writers_at_once(cache, tmp_path, expected, theirs, ours):
    out = tmp_path / "a.pt"
    writer = start(out, 0.05, *theirs)
    wait_for(lambda: out.with_name("a.pt.ready").exists())
    clip, crops = counting(pause=0.05)
    same(image_features(clip, PICTURES[slice(*ours)], CropSet(2), shard=4), expected[slice(*ours)])
    assert writer.wait(120) == 0
    result = torch.load(out)
    same(result["features"], expected[slice(*theirs)])
    if theirs == ours:
        assert (
            sum(crops) + result["crops"] == 80 and len(shards(cache)) == 10
        )  # 40 pictures × 2 crops, once in all
    clip, crops = counting()
    same(image_features(clip, PICTURES, CropSet(2)), expected)
    assert not crops  # everything is in the store


def test_a_killed_writer_loses_at_most_one_shard(cache, tmp_path, expected):
    writer = start(tmp_path / "a.pt", 0.3)
    wait_for(lambda: len(shards(cache)) >= 3)
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    there = len(shards(cache))
    assert 3 <= there < 10 and not (tmp_path / "a.pt").exists()
    clip, crops = counting()
    found = image_features(clip, PICTURES, CropSet(2), shard=4)  # its lease is free again
    assert sum(crops) == 80 - 8 * there
    same(found, expected)
    assert not [*cache.rglob("*.part"), *cache.rglob(".*")]  # half a file is gone too


def test_a_full_disk_is_said_and_what_was_written_stays(cache, tmp_path, expected):
    image_features(counting()[0], PICTURES[:8], CropSet(2), shard=4)  # as long as there was room
    writer = start(tmp_path / "a.pt", 0.0, largest=3000)  # features of four pictures have 4 kB
    said = writer.communicate(timeout=120)[1]
    assert writer.returncode == 1 and "File too large" in said, said
    clip, crops = counting()
    same(image_features(clip, PICTURES, CropSet(2), shard=4), expected)
    assert sum(crops) == 64  # nothing of the failed attempt is believed


@pytest.mark.parametrize("hurt", [lambda data: data[:-100], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_entry_is_said_and_only_its_pictures_are_encoded_again(cache, expected, hurt):
    clip, crops = counting()
    image_features(clip, PICTURES, CropSet(2), shard=4)
    [kind] = (cache / "memo" / "features").iterdir()
    victim = next(entries(f"features/{kind.name}")).folder / "features.safetensors"
    victim.write_bytes(hurt(victim.read_bytes()))
    crops.clear()
    with pytest.warns(UserWarning, match="is not what was written.*set aside"):
        same(image_features(clip, PICTURES, CropSet(2), shard=4), expected)
    assert crops == [8]
    same(image_features(clip, PICTURES, CropSet(2)), expected)
    assert crops == [8]
