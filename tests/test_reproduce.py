"""`iqa-repro reproduce` killed, failing, fanned out: the same rows in the end, and nobody else disturbed.

One kill here; with IQA_REPRO_TRIAL=all three, at moments that a generator draws.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from quick_profile import write_quick_profile

from iqa_repro.batch import graph
from iqa_repro.batch.graph import plan_jobs
from iqa_repro.batch.needs import ARTEFACTS, list_artefacts
from iqa_repro.core import code
from iqa_repro.core.paths import cache_root, figures_root
from iqa_repro.study.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent
CALL = "import sys; sys.argv[0] = 'iqa-repro'; from iqa_repro.app.cli import main; main()"


@pytest.fixture
def profile(tmp_path):
    "profile(name, changes) -> file of a small embedded profile; its results are removed afterwards"
    made = []

    def write(name, **changes):
        made.append(tmp_path / f"{name}.toml")
        write_quick_profile(made[-1], changes)
        return made[-1]

    yield write
    for path in made:
        for folder in (figures_root(path.stem), figures_root(path.stem, smoke=True)):
            subprocess.run(["rm", "-rf", str(folder)], check=True)


def call(profile, *words, cache=None):
    "The command in a process of its own, as a user starts it; its stand-ins are those that are there already"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if cache:
        usual, own = (folder / "memo" / "stand-ins" for folder in (cache_root(), cache))
        usual.mkdir(parents=True, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        if not own.exists():
            own.symlink_to(usual)
        environment["IQA_REPRO_CACHE"] = str(cache)
    command = [sys.executable, "-W", "ignore", "-c", CALL, "reproduce", *words, "--profile", str(profile)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def at_work(state, word=""):
    "Processes that work at jobs of this folder, the engine included; those with a word in their command"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(state) in line and ("snakemake" in line or "iqa_repro.batch.jobs" in line) and word in line:
            found.append(process)
    return found


def wait_for(true, seconds, what):
    until = time.time() + seconds
    while not true():
        assert time.time() < until, f"after {seconds} s still not: {what}"
        time.sleep(0.2)


def kill_when(run, true):
    "SIGKILL for the command alone: engine, jobs and notebooks are left to themselves"
    wait_for(lambda: true() or run.poll() is not None, 400, "rows")
    assert run.poll() is None, run.stdout.read()
    run.kill()
    run.wait()


def measured(path):
    "Rows without what names the profile"
    return read_rows(path).drop(columns=["profile", "params"])


def kept(cache, kind):
    "Entries of a memo"
    return list((cache / "memo" / kind).glob("*.json"))


def test_killed_run_goes_on_and_fan_out_measures_the_same(profile, tmp_path):
    name, kills = "grmp_iqa/table7", 3 if os.environ.get("IQA_REPRO_TRIAL") == "all" else 1
    longer = {
        "epochs = 6      # passes over the labelled": "epochs = 6  # passes over the labelled"
    }  # so that a kill comes before the end
    killed, whole = profile("killed_reproduce", **longer), profile("whole_reproduce", **longer)
    rows, state = figures_root(killed.stem) / name / "rows.csv", figures_root(killed.stem) / ".batch"
    expected = 6 * 2  # four λ and two controls, metrics: one split, one number of labels
    cache = tmp_path / "cache"
    for least in sorted(np.random.default_rng(11).choice(np.arange(1, expected // 2), kills, replace=False)):
        kill_when(call(killed, name, cache=cache), lambda n=least: len(kept(cache, "trial")) >= n)
        wait_for(lambda: not at_work(state), 30, "all processes of the killed run have ended")
    trained = len(kept(cache, "trial"))
    assert 0 < trained <= expected // 2 and not rows.exists()
    said = call(killed, name, cache=cache).communicate(timeout=600)[0]
    assert "1 of 1 made in" in said, said
    facts = json.loads((rows.parent / "run.json").read_text(encoding="utf-8"))
    assert (facts["rows_kept"], facts["rows_made"]) == (2 * trained, expected - 2 * trained)

    former, begun = (
        {p.name: p.read_bytes() for p in rows.parent.iterdir() if p.is_file()},
        rows.parent / ".new",
    )
    cold = tmp_path / "cold cache"  # so that three trials are still to be trained when the kill comes
    kill_when(call(killed, name, "--force", cache=cold), lambda: (begun / "rows.csv").exists())
    wait_for(lambda: not at_work(state), 30, "all processes of the killed run have ended")
    now = {p.name: p.read_bytes() for p in rows.parent.iterdir() if p.is_file()}
    assert all(
        now[file] == former[file] for file in former if file != "run.ipynb"
    )  # until the new ones are whole

    own = tmp_path / "other cache"  # nothing of the killed run helps
    said = call(whole, name, "--fan-out", "--jobs", "2", cache=own).communicate(timeout=900)[0]
    assert "1 of 1 notebooks to run, 3 stages before them" in said and "4 of 4 made in" in said, said
    other = figures_root(whole.stem) / name / "rows.csv"
    pd.testing.assert_frame_equal(measured(rows), measured(other))
    trials, prompts = kept(own, "trial"), kept(own, "prompts")
    assert len(trials) == 6 and len(prompts) == 1  # the notebook at the end trained nothing of its own
    begun = json.loads((other.parent / "run.json").read_text(encoding="utf-8"))["started"]
    assert max(p.stat().st_mtime for p in trials) < pd.Timestamp(begun).timestamp() + 1
    said = call(whole, name, "--fan-out", "--dry-run", cache=own).communicate(timeout=200)[0]
    assert said.strip() == "0 of 1 notebooks to run; 1 up to date"


def test_failed_notebook_is_kept_and_disturbs_nobody(profile):
    broken = profile("broken_reproduce", **{'captioner = "embedded"': 'captioner = "nowhere/{task}.jsonl"'})
    run = call(broken, "uniqa/fig2", "uniqa/fig14", "--smoke", "--jobs", "1")
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 1 and "1 of 2 made in" in said, said
    root = figures_root(broken.stem, smoke=True)
    executed = root / "uniqa" / "fig2" / "run.ipynb"
    assert "failed: uniqa/fig2: " in said and f"open: {executed}" in said
    assert f"again, alone: iqa-repro reproduce uniqa/fig2 --profile {broken} --smoke" in said
    cells = nbformat.read(executed, as_version=4).cells
    errors = [out for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert errors and "nowhere/quality.jsonl" in errors[0].evalue
    assert (root / "uniqa" / "fig14" / "run.json").exists()  # it came after the failure
    said = call(broken, "uniqa/fig2", "uniqa/fig14", "--smoke", "--dry-run").communicate(timeout=200)[0]
    assert said.startswith(
        "uniqa/fig2 (uniqa/fig15): was stopped, goes on\n1 of 2 notebooks to run; 1 up to date"
    )


def test_killed_notebook_is_told_from_a_failed_cell(profile):
    small = profile("shot_reproduce")
    run = call(small, "uniqa/fig14", "--smoke")
    state = figures_root(small.stem, smoke=True) / ".batch"

    def kernel():
        jobs = [p for p in at_work(state, "-m iqa_repro.batch.jobs") if "bash" not in p.name()]
        return [c for p in jobs for c in p.children(recursive=True) if "ipykernel_launcher" in c.cmdline()]

    wait_for(kernel, 200, "a kernel has been started")
    kernel()[0].send_signal(signal.SIGKILL)
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 1 and re.search("failed: uniqa/fig14: .*[kK]ernel died", said), said
    assert call(small, "uniqa/fig14", "--smoke").wait(300) == 0


def test_changed_module_touches_those_that_import_it(monkeypatch):
    names = ["uniqa/fig14", "uniqa/fig4", "grmp_iqa/table7"]
    before = {job.name: job for job in plan_jobs(names, "embedded")}
    usual = code._module_digest
    changed = lambda module: "0" * 12 if module.endswith(".retrieval") else usual(module)
    monkeypatch.setattr(code, "_module_digest", changed)
    after = {job.name: job for job in plan_jobs(names, "embedded")}
    changed = [name for name in names if before[name].entry != after[name].entry]
    assert changed == ["uniqa/fig4"]
    usual_code = graph.notebook_code
    monkeypatch.setattr(
        graph, "notebook_code", lambda path: usual_code(path) + "\n1" * (path.stem == "table7")
    )
    again = {job.name: job for job in plan_jobs(names, "embedded")}
    assert [name for name in names if after[name].entry != again[name].entry] == ["grmp_iqa/table7"]


def test_committed_results_are_as_their_runs_left_them():
    root = figures_root("embedded")
    for job in plan_jobs(list(ARTEFACTS), "embedded"):
        assert graph.foreign_outputs(job, root) == []
    folders = {path.parent.relative_to(root).as_posix() for path in root.glob("*/*/run.json")}
    assert folders - {name for name in folders if name.startswith("benchmark/")} == set(list_artefacts())


def test_wrong_calls_change_nothing(profile):
    misspelt = profile("misspelt_reproduce", **{"tasks_per_step = 6": "task_per_step = 6"})
    run = call(misspelt, "grmp_iqa/table7")
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 2 and said.startswith("error: ") and "tasks_per_step" in said, said
    assert not figures_root(misspelt.stem).exists()
