"Benchmarks run too rarely to notice that a name has changed: each of them here, with smoke=True, two at a time."

import json

from iqa_repro.core.paths import figures_root, project_root
from iqa_repro.core.resources import run_parallel
from iqa_repro.study.execution import run_notebook


def run_smoke(name):
    root = project_root()
    target = figures_root("embedded", smoke=True) / "benchmark" / name / "run.ipynb"
    return run_notebook(root / "nbs" / "benchmarks" / f"{name}.ipynb", target, {"smoke": True})


def test_every_benchmark_runs_to_its_end_and_writes_what_it_measured():
    names = sorted(path.stem for path in (project_root() / "nbs" / "benchmarks").glob("*.ipynb"))
    assert names
    written = figures_root("embedded", smoke=True) / "benchmark"
    for old in written.rglob("run.json"):
        old.unlink()
    list(run_parallel(run_smoke, names, workers=2))
    for name in names:
        folder = written if name == "speed" else written / name
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert facts["peak_memory_gib"] > 0 and facts["device"]
