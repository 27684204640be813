"""Trials are dealt out to workers that share nothing but the memo: one is killed, and the assembled rows are those of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from quick_profile import write_quick_profile

from iqa_repro.core.paths import cache_root, figures_root
from iqa_repro.study.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent
CALL = "import sys; sys.argv[0] = 'iqa-repro'; from iqa_repro.app.cli import main; main()"
NAME = "grmp_iqa/table7"


def start(profile, cache, *words):
    "The command in a process of its own, with a cache of its own but for the stand-ins"
    usual, own = (folder / "memo" / "stand-ins" for folder in (cache_root(), cache))
    usual.mkdir(parents=True, exist_ok=True)
    own.parent.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.symlink_to(usual)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "IQA_REPRO_CACHE": str(cache)}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        CALL,
        "reproduce",
        NAME,
        "--profile",
        str(profile),
        *words,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def measured(profile):
    rows = read_rows(figures_root(profile.stem) / NAME / "rows.csv")
    return rows.drop(columns=["profile", "params"])


@pytest.fixture
def profiles(tmp_path):
    made = [tmp_path / f"{name}_shares.toml" for name in ("dealt", "alone")]
    for path in made:
        write_quick_profile(path)
    yield made
    for path in made:
        subprocess.run(["rm", "-rf", str(figures_root(path.stem))], check=True)


def test_three_workers_one_killed_give_the_rows_of_one(profiles, tmp_path):
    dealt, alone = profiles
    cache = tmp_path / "cache"
    workers = [start(dealt, cache, "--share", f"{i}/3") for i in (1, 2, 3)]
    prompts = cache / "memo" / "prompts"
    until = time.time() + 300
    while not list(prompts.glob("*.lease")) + list(prompts.glob("*.json")):
        assert time.time() < until and all(worker.poll() is None for worker in workers)
        time.sleep(0.1)
    os.killpg(workers[0].pid, signal.SIGKILL)
    said = [worker.communicate(timeout=600)[0] for worker in workers[1:]]
    assert all(worker.returncode == 0 for worker in workers[1:]) and "2 of 2 trials" in said[1], said
    again = start(dealt, cache, "--share", "1/3")
    assert "2 of 2 trials" in again.communicate(timeout=600)[0] and again.returncode == 0
    assert not (figures_root(dealt.stem) / NAME).exists()  # shares write to the memo alone
    made = {path: path.stat().st_mtime_ns for path in (cache / "memo" / "trial").glob("*.json")}
    assert len(made) == 6  # four λ and two controls
    said = start(dealt, cache).communicate(timeout=600)[0]
    assert "1 of 1 made in" in said, said
    assert made == {path: path.stat().st_mtime_ns for path in (cache / "memo" / "trial").glob("*.json")}
    said = start(alone, tmp_path / "other cache").communicate(timeout=900)[0]
    assert "1 of 1 made in" in said, said
    pd.testing.assert_frame_equal(measured(dealt), measured(alone))
