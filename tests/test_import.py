"The exported package imports without a warning, and each module offers what it promises."

import doctest
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import iqa_repro

PACKAGE = Path(iqa_repro.__file__).parent
NAMES = sorted(
    "iqa_repro." + path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if path.name not in {"__init__.py", "_modidx.py"}
)


def test_every_module_imports_in_a_fresh_process():
    "Warnings that name our own modules are errors; those of dependencies are theirs"
    rule = "import warnings; warnings.filterwarnings('error', module=r'iqa_repro(\\.|$)')"
    code = f"{rule}\nimport importlib\nfor name in {NAMES}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "importing printed something"


@pytest.mark.parametrize("name", NAMES)
def test_all_is_what_the_module_has(name):
    module = importlib.import_module(name)
    missing = [item for item in module.__all__ if not hasattr(module, item)]
    assert module.__all__ and not missing, f"__all__ names {missing}"
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_public_functions_say_what_they_do(name):
    module = importlib.import_module(name)
    assert module.__doc__, "nbdev makes it of the notebook's `>` sentence"
    for item in map(module.__dict__.get, module.__all__):
        if not (inspect.isfunction(item) or inspect.isclass(item)):
            continue
        text = inspect.getdoc(item)
        assert text and "\n" not in text, f"{item.__name__} has no one-line docstring"


def test_version_is_that_of_the_installed_package():
    assert iqa_repro.__version__ == version("iqa_repro")


def test_a_light_module_does_not_load_the_heavy_ones():
    "Paths and profiles answer at once: no torch, no plotting"
    code = "import sys, iqa_repro.core.paths, iqa_repro.core.profiles; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.split() == ["False", "False"]


def loaded_by(code) -> set[str]:
    "Packages that a fresh process holds after it"
    code = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(done.stderr.split())


def test_the_command_line_answers_for_help_without_loading_anything_heavy():
    "`iqa-repro --help` is there at once"
    loaded = loaded_by(
        "import iqa_repro.app.cli as c; sys.argv = ['iqa-repro', '--help']\n"
        "try: c.main()\n"
        "except SystemExit as stop: assert not stop.code"
    )
    assert "typer" in loaded and not loaded & {"torch", "numpy", "pandas", "PIL", "matplotlib", "scipy"}


def test_a_scorer_is_imported_with_little_more_than_torch():
    "What takes seconds comes when a model is built; what scoring never needs does not come at all"
    loaded = loaded_by("import iqa_repro.app.scorer, iqa_repro.app.scoring")
    heavy = "open_clip timm torchvision huggingface_hub scipy skimage sklearn matplotlib seaborn transformers IPython"
    assert "torch" in loaded and not loaded & set(heavy.split())


@pytest.mark.parametrize(("page", "least"), [("README.md", 5), ("docs/scoring.md", 20)])
def test_the_examples_of_the_pages_give_what_they_say(page, least, monkeypatch):
    path = PACKAGE.parent / page
    if not path.exists():
        pytest.skip(f"installed without the clone, so there is no {page} to run")
    monkeypatch.chdir(PACKAGE.parent)
    outcome = doctest.testfile(str(path), module_relative=False)
    assert outcome.attempted >= least and outcome.failed == 0, "its output is above"


def test_the_strip_of_the_readme_has_the_scores_that_it_tells():
    tool = PACKAGE.parent / "tools" / "strip.py"
    if not tool.exists():
        pytest.skip("installed without the clone, so there is no README.md to check")
    done = subprocess.run(
        [sys.executable, tool, "--check"], capture_output=True, text=True, cwd=tool.parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
