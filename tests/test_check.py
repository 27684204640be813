"""`make check`: which notebooks and tests a change reaches, what it is compared with, and what a run says.

The notebooks and tests are made up, in a git repository of their own; the imports that they start are those of the package.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import check

NOTEBOOKS = {
    "nbs/0_core/00_own": "#| default_exp core.paths\nhere = 1",
    "nbs/0_core/01_direct": "from iqa_repro.core.paths import project_root",
    "nbs/0_core/02_inside": "def late():\n    from iqa_repro.core import errors, paths",
    "nbs/0_core/03_apart": "import math",
    "nbs/1_data/00_through": "from iqa_repro.data.tables import read_table",
    "nbs/1_data/01_magic": "%matplotlib inline\nimport math",
    "nbs/experiments/uniqa/table1": "from iqa_repro.core.paths import project_root",
}
FILES = {
    "README.md": "A project",
    "iqa_repro/core/paths.py": "root = 1",
    "iqa_repro/core/profiles.py": 'folder = "profiles"',
    "iqa_repro/profiles/full.toml": "size = 1",
    "tests/test_completeness.py": "import ast",
    "tests/test_apart.py": "import math  # miniatures of paths",
    "tests/test_browser.py": "import playwright\nfrom iqa_repro.core.paths import project_root",
    "tests/test_string.py": 'CODE = "from iqa_repro.data.tables import read_table"',
    "tests/test_fixture.py": "from miniatures import write_miniature",
    "tests/test_server.py": 'SERVER = "download_server.py"',
    "tests/miniatures.py": "from iqa_repro.core.paths import atomic_path",
    "tests/download_server.py": "import http",
}
DIRECT = {"nbs/0_core/01_direct.ipynb", "nbs/0_core/02_inside.ipynb", "tests/test_fixture.py"}


def write_notebook(path, code):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)


def git(folder, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A repository with two commits on main; `check` works on it"
    for name, code in NOTEBOOKS.items():
        write_notebook(tmp_path / f"{name}.ipynb", code)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    for message, what in (("all but the server", ":!tests/download_server.py"), ("the server", ".")):
        git(tmp_path, "add", "--", ".", what)
        git(tmp_path, "commit", "-qm", message)
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.delenv("BASE", raising=False)
    return tmp_path


def reached():
    "Steps → files, of what git says has changed"
    found = {}
    for steps, name in check.reached(check.changed_files()[1]):
        found.setdefault(min(steps, 2), set()).add(name)
    return found


def test_the_change_is_what_git_says_differs_from_the_right_revision(project, monkeypatch):
    first, second = git(project, "rev-list", "--reverse", "HEAD").split()
    assert check.changed_files() == ("HEAD~1", {"tests/download_server.py"})  # on main, nothing uncommitted
    (project / "README.md").write_text("Another")
    (project / "tests/test_née.py").write_text("")
    assert check.changed_files() == (
        second,
        {"README.md", "tests/test_née.py"},
    )  # also what git does not know yet
    git(project, "switch", "-qc", "branch")
    git(project, "add", ".")
    git(project, "commit", "-qm", "on the branch")
    (project / "tests/test_apart.py").unlink()
    changed = {"README.md", "tests/test_née.py", "tests/test_apart.py"}
    assert check.changed_files() == (second, changed)  # all since it left main, also what is gone
    git(project, "update-ref", "refs/remotes/origin/main", first)
    assert check.changed_files() == (first, changed | {"tests/download_server.py"})
    monkeypatch.setenv("BASE", "HEAD")
    assert check.changed_files() == ("HEAD", {"tests/test_apart.py"})
    monkeypatch.setenv("BASE", "nowhere")
    with pytest.raises(SystemExit, match="git knows no revision nowhere"):
        check.changed_files()


def test_a_changed_notebook_runs_and_no_other(project):
    write_notebook(project / "nbs/0_core/01_direct.ipynb", "print(1)")
    assert reached() == {0: {"nbs/0_core/01_direct.ipynb"}, 1: {"tests/test_completeness.py"}}


def test_a_changed_module_reaches_its_notebook_its_users_and_theirs(project):
    (project / "iqa_repro/core/paths.py").write_text("root = 2")
    found = reached()
    assert found[0] == {"nbs/0_core/00_own.ipynb"}
    assert found[1] == DIRECT | {"tests/test_completeness.py"}
    assert found[2] == {"nbs/1_data/00_through.ipynb", "tests/test_string.py"}  # no experiment, no browser
    (project / "iqa_repro/core/paths.py").unlink()
    assert found == reached()


def test_a_changed_fixture_reaches_the_tests_that_use_it(project):
    (project / "tests/miniatures.py").write_text("import csv")
    assert reached() == {1: {"tests/test_fixture.py"}}
    (project / "tests/download_server.py").write_text("import csv")
    assert reached() == {1: {"tests/test_fixture.py", "tests/test_server.py"}}


def test_a_changed_test_runs_alone_even_a_slow_one(project):
    (project / "tests/test_browser.py").write_text("import playwright")
    assert reached() == {0: {"tests/test_browser.py"}}


def test_a_changed_table_reaches_the_users_of_the_module_that_names_it(project):
    (project / "iqa_repro/profiles/full.toml").write_text("size = 2")
    write_notebook(project / "nbs/0_core/04_new.ipynb", "from iqa_repro.core.profiles import load_profile")
    git(project, "add", ".")
    assert check.changed_modules({"iqa_repro/profiles/full.toml"}) == {"iqa_repro.core.profiles"}
    assert check.reached({"iqa_repro/profiles/full.toml"})[0] == (1, "nbs/0_core/04_new.ipynb")


def test_prose_reaches_nothing(project):
    (project / "README.md").write_text("Another")
    assert reached() == {}
    assert check.reached({"CONTRIBUTING.md", "paper_figures/a.csv", "iqa_repro/_modidx.py", "Makefile"}) == []


def run_check(project, budget):
    "Exit status and output of a whole check whose one step does nothing"
    code = "import sys, check\nif __name__ == '__main__':\n    check.STEPS = {'a step': 'echo fine'}\n    sys.exit(check.main())\n"
    (project / "tools").mkdir(exist_ok=True)
    for path in ("tools/check.py", "settings.ini"):
        shutil.copy(ROOT / path, project / path)
    (project / "tools/start.py").write_text(code)
    environment = os.environ | {"BUDGET": str(budget)}
    command = [sys.executable, "tools/start.py"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_a_run_names_what_failed_and_what_it_left_out(project):
    write_notebook(project / "nbs/0_core/03_apart.ipynb", "assert sum([1, 2]) == 3")
    write_notebook(project / "nbs/1_data/00_through.ipynb", "1 / 0")
    write_notebook(project / "nbs/1_data/01_magic.ipynb", "def half(:")
    (project / "tests/test_apart.py").write_text("def test_sum():\n    assert 1 + 1 == 3\n")
    (project / "iqa_repro/core/paths.py").write_text("root = 2")
    status, said = run_check(project, budget=-1000)  # no time but for what has changed
    assert status == 1
    assert "ZeroDivisionError" in said and "SyntaxError" in said and "assert (1 + 1) == 3" in said
    step, notebooks, tests, last, *failed = said.partition("=== summary")[2].strip().splitlines()
    assert step.startswith("passed") and step.endswith("s  a step")
    assert notebooks.startswith("FAILED")
    assert notebooks.endswith(
        "4 of 6 notebooks; `make test` runs the others, first nbs/0_core/01_direct.ipynb"
    )
    assert tests.startswith("FAILED") and "1 of 4 test files; `make test` runs the others" in tests
    assert last.startswith("make check: FAILED in ")
    bad = ["nbs/1_data/00_through.ipynb", "nbs/1_data/01_magic.ipynb", "tests/test_apart.py"]
    assert failed == [f"  {name}" for name in bad]
    ran = ["0_core/00_own", "0_core/03_apart", "1_data/00_through", "1_data/01_magic"]
    took = json.loads((project / ".cache/check_seconds.json").read_text())
    assert list(took) == [*(f"nbs/{name}.ipynb" for name in ran), "tests/test_apart.py"]


def test_a_run_with_nothing_to_run_passes(project):
    (project / ".gitignore").write_text("tools/\nsettings.ini\n.cache/\n")
    status, said = run_check(project, budget=90)
    assert status == 0 and "1 files differ" in said and "make check: passed" in said
    assert "notebooks" not in said
