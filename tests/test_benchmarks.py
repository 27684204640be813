"""Benchmarks run too rarely to notice that a name has changed: each of them here, with smoke=True, two at a time.

That of the batch takes five minutes, since it starts dozens of processes, and what it calls is tried by tests/test_reproduce.py:
it runs with IQA_REPRO_TRIAL=all, else only what it imports is looked for.
"""

import ast
import importlib
import json
import os

import nbformat
import pytest

from iqa_repro.batch.execution import run_notebook
from iqa_repro.core.paths import figures_root, project_root
from iqa_repro.core.resources import run_parallel

BENCHMARKS = sorted((project_root() / "nbs" / "benchmarks").glob("*.ipynb"))
LONG = () if os.environ.get("IQA_REPRO_TRIAL") == "all" else ("batch",)


def run_smoke(name):
    root = project_root()
    target = figures_root("embedded", smoke=True) / "benchmark" / name / "run.ipynb"
    return run_notebook(root / "nbs" / "benchmarks" / f"{name}.ipynb", target, {"smoke": True})


def test_every_benchmark_runs_to_its_end_and_writes_what_it_measured():
    names = [path.stem for path in BENCHMARKS if path.stem not in LONG]
    assert len(names) >= 5
    written = figures_root("embedded", smoke=True) / "benchmark"
    for old in written.rglob("run.json"):
        old.unlink()
    list(run_parallel(run_smoke, names, workers=2))
    for name in names:
        folder = written if name == "speed" else written / name
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert facts["peak_memory_gib"] > 0 and facts["device"]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.ImportFrom)]
    ours = [
        (node.module, name.name)
        for node in nodes
        if node.module.startswith("iqa_repro")
        for name in node.names
    ]
    missing = [
        f"{module}.{name}" for module, name in ours if not hasattr(importlib.import_module(module), name)
    ]
    assert ours and not missing
