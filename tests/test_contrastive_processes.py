"""Pre-training on two processes against one, for real: they meet over gloo and share each batch."""

import multiprocessing
import os
import socket
from pathlib import Path

import pandas as pd
import pytest
import torch

from iqa_repro.captions.purification import Pictures
from iqa_repro.clip.tiny import build_tiny
from iqa_repro.core.checkpoints import load_checkpoint, save_checkpoint
from iqa_repro.core.testing import expect_fail
from iqa_repro.methods.uniqa.contrastive import PretrainSettings, init_distributed, pretrain

SETTINGS = {
    "paper": PretrainSettings(epochs=2, batch=8),
    "chunks": PretrainSettings(epochs=1, batch=8, chunk=3, checkpointing=True, optimizer="adam", view="crop"),
}


def train(name: str, keep: Path | None = None, clip=None, stop: int | None = None):
    "The run that both sides do: 12 pictures, 2 captions each, some of them equal"
    clip = clip or build_tiny()
    images = torch.rand(12, 3, 60, 56, generator=torch.Generator().manual_seed(0))
    captions = [
        f"photo number {i // 2 % 7}" if i % 2 else f"a long caption about picture {i} " + "and more " * i
        for i in range(24)
    ]
    table = pd.DataFrame({"image": [str(i // 2) for i in range(24)], "caption": captions})
    pictures = Pictures([str(i) for i in range(12)], images)
    if stop is not None:
        pictures = Dying(pictures.names, images)
    return clip, pretrain(clip, pictures, table, SETTINGS[name], torch.Generator().manual_seed(1), keep)


class Dying(Pictures):
    "Ends its process without a word after 16 pictures: in the fifth step of two processes"

    reads = [0]

    def __getitem__(self, i):
        self.reads[0] += 1
        if self.reads[0] > 16:
            os._exit(7)
        return super().__getitem__(i)


def work(rank: int, port: int, folder: str, jobs: tuple[str, ...]):
    "One of two processes, with the environment that torchrun gives it"
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    init_distributed("cpu")
    for job in jobs:
        if job == "killed":
            train("paper", f"{folder}/killed.safetensors", stop=16)
        clip, history = train(
            job, clip=build_tiny(seed=rank)
        )  # different starts: the first process's must win
        save_checkpoint(
            f"{folder}/{job}{rank}.safetensors", clip.model.state_dict(), {"history": history.to_dict("list")}
        )
    table = pd.DataFrame({"image": ["0", "1"] * 4, "caption": "a"})
    with expect_fail(ValueError, contains="a batch of 7 must divide by 2 processes"):
        pretrain(
            build_tiny(),
            Pictures(["0", "1"], torch.zeros(2, 3, 48, 48)),
            table,
            PretrainSettings(batch=7),
            torch.Generator(),
        )
    torch.distributed.destroy_process_group()


def start(folder: Path, *jobs: str) -> list[int]:
    "Two processes that meet over gloo; their exit codes"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["iqa_repro.methods.uniqa.contrastive", "iqa_repro.clip.tiny"]
    )  # imported once for all
    team = [context.Process(target=work, args=(rank, port, str(folder), jobs)) for rank in range(2)]
    for process in team:
        process.start()
    for process in team:
        process.join(120)
    return [process.exitcode for process in team]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    "What two processes left: weights and history of each setting"
    folder = tmp_path_factory.mktemp("two")
    assert start(folder, *SETTINGS) == [0, 0]
    return folder


def assert_same(tensors: dict, model, noisy: float = 0.0):
    """Equal to 1e-6, but for attention's key biases, whose gradient is rounding noise that Adam blows up; of a matrix the share `noisy`
    may be such noise too (one number of 65,536 seen, off by 1.1e-6), within a step"""
    for key, value in model.state_dict().items():
        if not key.endswith("in_proj_bias"):
            far = (tensors[key] - value).abs()
            said = f"{key}: {far.max():.2g}, {(far > 1e-6).sum()} numbers"
            assert far.max() <= PretrainSettings().lr and (far > 1e-6).sum() <= noisy * far.numel(), said


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_go_the_way_of_one(two, name):
    clip, history = train(name)
    for rank in range(2):
        tensors, facts = load_checkpoint(two / f"{name}{rank}.safetensors")
        assert_same(tensors, clip.model, noisy=1e-4 if name == "chunks" else 0.0)
        theirs = pd.DataFrame(facts["history"])
        assert len(theirs) == len(history) == 3 * SETTINGS[name].epochs
        for column in ("loss", "logit_scale", "accuracy"):
            assert theirs[column].to_list() == pytest.approx(history[column].to_list(), abs=1e-5), column


def test_the_two_hold_the_same_bits_and_have_moved(two):
    first, second = (load_checkpoint(two / f"paper{rank}.safetensors")[0] for rank in range(2))
    start = build_tiny().model.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert (first["visual.proj"] - start["visual.proj"]).abs().max() > 1e-6


def test_two_killed_processes_are_taken_up_by_one(tmp_path):
    "Two epochs on two processes; both die in the second, one process finishes it"
    codes = start(tmp_path, "killed")
    assert 7 in codes and 0 not in codes and load_checkpoint(tmp_path / "killed.safetensors")[1]["step"] == 3
    clip, history = train("paper", keep=tmp_path / "killed.safetensors")
    whole, undisturbed = train("paper")
    assert_same(whole.model.state_dict(), clip.model)
    assert history["loss"].to_list() == pytest.approx(undisturbed["loss"].to_list(), abs=1e-5)
