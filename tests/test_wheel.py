"The wheel, built without network, holds everything that scoring needs, and works where the clone is not."

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import iqa_repro
from iqa_repro.core.paths import find_checkout

PACKAGE = Path(iqa_repro.__file__).parent
PLACES = """
import os, sys
from iqa_repro.core.paths import cache_root, project_root
import iqa_repro
print(iqa_repro.__file__, project_root(), cache_root(), sep="\\n")
os.environ["IQA_REPRO_CACHE"] = "/named"
print(cache_root(), "torch" in sys.modules, sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "Built of a copy, so that the clone stays as it is"
    clone = find_checkout(PACKAGE)
    if clone is None:
        pytest.skip("installed without the clone, so there is nothing to build a wheel of")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(clone / name, source)
    shutil.copytree(PACKAGE, source / "iqa_repro", ignore=shutil.ignore_patterns("__pycache__"))
    command = "-m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir".split()
    done = subprocess.run([sys.executable, *command, str(out), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    "Runs Python in an empty folder, with the unpacked wheel as the only thing on the path"
    site, home = tmp_path_factory.mktemp("site-packages"), tmp_path_factory.mktemp("home")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IQA_REPRO", "XDG_"))}
    environment = kept | {"PYTHONPATH": str(site), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)

    run.site, run.home = site, home
    return run


def entry_point(site) -> str:
    "What the console script of the unpacked wheel does"
    (entries,) = site.glob("*.dist-info/entry_points.txt")
    module, function = entries.read_text().split("iqa-repro = ")[1].split()[0].split(":")
    return f"from {module} import {function}; {function}()"


def not_in_base(site) -> list[str]:
    "Modules that are installed here but not with `pip install iqa_repro` alone"
    (facts,) = site.glob("*.dist-info")
    todo, base = list(metadata.Distribution.at(facts).requires), set()
    while todo:
        requirement = Requirement(todo.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name.lower().replace("_", "-")
        if name not in base:
            base.add(name)
            todo += metadata.requires(name) or []
    modules = metadata.packages_distributions().items()
    owned = {module: {name.lower().replace("_", "-") for name in names} for module, names in modules}
    return sorted(module for module, names in owned.items() if not names & base and module != "iqa_repro")


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert inside == {path.relative_to(PACKAGE.parent).as_posix() for path in files}
    for name in (
        "py.typed",
        "profiles/embedded.toml",
        "weights/tiny_clip.safetensors",
        "batch/report.html.j2",
    ):
        assert f"iqa_repro/{name}" in inside


def test_it_finds_its_places_outside_of_a_clone(outside):
    "What it writes goes to the user's cache, never into site-packages; the environment variable still wins"
    done = outside("-c", PLACES)
    assert done.returncode == 0, done.stderr
    file, project, cache, named, torch = done.stdout.split("\n")[:5]
    assert Path(file).is_relative_to(outside.site), "another copy of the package was imported"
    assert Path(project) == outside.home
    assert Path(cache) == outside.home / ".cache" / "iqa_repro"
    assert named == "/named" and torch == "False"


def test_it_scores_a_picture_with_the_base_packages_alone(outside):
    absent = not_in_base(outside.site)
    assert {"scipy", "skimage", "sklearn", "matplotlib", "pyarrow", "papermill"} <= set(absent)
    hide = f"import sys; sys.modules.update(dict.fromkeys({absent})); "  # importing them fails from now on
    Image.fromarray(np.tile(np.arange(96, dtype=np.uint8), (64, 1))).save(outside.home / "ramp.png")
    before = {path for path in outside.site.rglob("*")}
    done = outside("-c", hide + entry_point(outside.site), "score", "ramp.png", "-o", "scores.csv")
    assert done.returncode == 0, done.stderr
    assert "demonstration weights" in done.stderr + done.stdout
    header, row = (outside.home / "scores.csv").read_text().splitlines()
    facts = dict(zip(header.split(","), row.split(","), strict=False))
    assert facts["path"] == "ramp.png" and 0 < float(facts["score"]) < 1 and not facts["error"]
    assert {path for path in outside.site.rglob("*")} == before, "it wrote into site-packages"


def test_reproducing_says_in_one_line_that_the_clone_is_missing(outside):
    done = outside("-c", entry_point(outside.site), "reproduce", "--dry-run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert (
        line.startswith("error: the experiments are notebooks of the clone")
        and "clone the repository" in line
    )
