"""The house is in order: notebooks, modules, printed values and README name each other, each once.

What a notebook must look like is in CONTRIBUTING.md. Everything here reads source text; nothing is run.
"""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
EXPERIMENTS = [p for p in NOTEBOOKS if "experiments" in p.parts]
LIBRARY = [p for p in NOTEBOOKS if re.match(r"nbs/\d_", p.relative_to(ROOT).as_posix())]  # the index is none
MODULES = sorted(p for p in (ROOT / "iqa_repro").rglob("*.py") if p.name != "_modidx.py")
FLOORS = {
    "core": 0,
    "data": 1,
    "clip": 2,
    "captions": 3,
    "methods": 4,
    "study": 5,
    "figures": 6,
    "papers": 7,
    "batch": 8,
    "app": 9,
    "grmp": 10,  # former names, for others
    "uniqa": 10,
}
NOTHING_CAN_FAIL = set()  # library notebooks, as 'nbs/…', in which no input can be wrong


def package_of(path):
    "Package that a notebook of the library exports to: nbs/4_methods/grmp/01_qgr.ipynb → methods.grmp"
    folder = path.parent.relative_to(ROOT / "nbs")
    return ".".join(folder.parts).split("_", 1)[1]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@cache
def cells(path, kind):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def experiment(function):
    return pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)(function)


def library(function):
    return pytest.mark.parametrize("path", LIBRARY, ids=name_of)(function)


def module(function):
    return pytest.mark.parametrize("path", MODULES, ids=name_of)(function)


def test_there_is_something_to_check():
    assert len(EXPERIMENTS) >= 1 and len(LIBRARY) >= 20 and len(MODULES) >= 20


# --- experiment notebooks -------------------------------------------------------------------------------------------


@experiment
def test_experiment_declares_its_parameters(path):
    assert re.fullmatch(r"nbs/experiments/[a-z0-9_]+/[a-z0-9_]+\.ipynb", name_of(path))
    tagged = [c for c in cells(path, "code") if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{len(tagged)} cells are tagged 'parameters'"
    assigned = [node for node in ast.parse(tagged[0].source).body if isinstance(node, ast.Assign)]
    declared = {node.targets[0].id: ast.literal_eval(node.value) for node in assigned}
    assert {"profile", "seed", "smoke"} <= declared.keys(), f"declares only {sorted(declared)}"
    assert (declared["profile"], declared["smoke"]) == ("embedded", False)
    for line in filter(None, tagged[0].source.splitlines()):
        assert re.search(r"=.*  # .{8}", line) or line.startswith("#"), f"no meaning beside: {line}"


@experiment
def test_experiment_exports_nothing_and_says_what_it_asks(path):
    assert not any(re.search(r"^#\| *(default_exp|export)", c.source, re.M) for c in cells(path, "code"))
    head = cells(path, "markdown")[0].source
    assert re.match(r"# \S.*\n+> \S", head), "cell 1 is `# paper, artefact` and `> the question`"
    for word in ("Claim", "Needs", "Cost", "Writes"):
        assert word in head, f"the table of cell 1 has no row {word}"


@experiment
def test_experiment_starts_and_ends_its_run(path):
    code = "\n".join(c.source for c in cells(path, "code"))
    names = re.findall(r"""start_run\(\s*["']([^"']+)["']""", code)
    own = f"{path.parent.name}/{path.stem}"
    assert own in names, f"start_run({own!r}, …) is missing, found {names}"
    assert ".claims(" in code and ".finish(" in code


@experiment
def test_results_name_the_experiment(path):
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert results.count(f"]({name_of(path)})") == 1, (
        f"RESULTS.md does not name {name_of(path)} once; run it without --smoke: iqa-repro reproduce writes the page"
    )


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md", "CONTRIBUTING.md", "DIFFERENCES.md", "docs"])
def test_pages_name_no_notebook_that_is_absent(page):
    files = sorted((ROOT / page).glob("*.md")) if page == "docs" else [ROOT / page]
    named = {name for f in files for name in re.findall(r"nbs/[\w/]+\.ipynb", f.read_text(encoding="utf-8"))}
    assert named <= {name_of(p) for p in NOTEBOOKS}


def test_links_of_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            assert ":" in target or (page.parent / target).exists(), f"{name_of(page)}: dead link {target}"


def test_readme_stays_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150, "details belong in docs/, results in RESULTS.md"


@experiment
def test_printed_values_that_an_experiment_asks_for_exist(path):
    folder = ROOT / "iqa_repro" / "study" / "printed_values"
    code = "\n".join(c.source for c in cells(path, "code"))
    for paper, artefact in re.findall(r"""\bprinted\(\s*["'](\w+)["'],\s*["'](\w+)["']""", code):
        whole, single = folder / f"{paper}.csv", folder / f"{paper}_{artefact}.csv"
        typed = set(pd.read_csv(whole)["artefact"]) if whole.exists() else set()
        assert artefact in typed or single.exists(), f"{paper} {artefact} was never typed"
    for file in re.findall(r"(\w+\.csv)", code):
        if file.startswith(("grmp_iqa", "uniqa")):
            assert (folder / file).exists(), f"{file} is not in {name_of(folder)}"


@pytest.mark.parametrize("path", sorted((ROOT / "iqa_repro/study/printed_values").glob("*.csv")), ids=name_of)
def test_printed_values_are_whole(path):
    table = pd.read_csv(path)
    assert len(table) and table.notna().all(axis=None) and not table.duplicated().any()
    if "artefact" in table:
        assert list(table) == ["artefact", "method", "dataset", "setting", "metric", "value"]
        assert not table.duplicated(list(table)[:-1]).any(), "one number was typed twice"
        assert table["value"].abs().le(1).all()


# --- library notebooks ----------------------------------------------------------------------------------------------


@library
def test_library_notebook_has_the_house_form(path):
    code, text = cells(path, "code"), cells(path, "markdown")
    first, last = code[0].source, code[-1].source
    target = re.fullmatch(r"#\| default_exp (\w+(?:\.\w+)+)", first.strip())
    assert target, f"cell 1 is `#| default_exp package.topic`, got {first!r}"
    assert target[1].rpartition(".")[0] == package_of(path), f"{name_of(path)} exports to {target[1]}"
    assert (ROOT / "iqa_repro" / (target[1].replace(".", "/") + ".py")).exists()
    assert re.match(r"# \S.*\n+> \S.*[.?!]\s*$", text[0].source), "cell 2 is `# Title` and `> one sentence.`"
    assert last.startswith("#| hide") and last.rstrip().endswith("nbdev.nbdev_export()")
    assert len(code) <= 40, f"{len(code)} code cells: split the notebook"
    assert any("expect_fail" in c.source for c in code) or name_of(path) in NOTHING_CAN_FAIL


@library
def test_library_notebook_checks_something(path):
    tests = [c.source for c in cells(path, "code") if not re.search(r"^#\| *export", c.source, re.M)]
    checks = sum(
        bool(re.search(r"^\s*(assert|assert_\w+\(|test_\w+\()|expect_fail\(", c, re.M)) for c in tests
    )
    assert checks >= 3, f"only {checks} cells check anything"


@library
def test_functions_that_a_library_notebook_exports_are_shown_at_work(path):
    source = [c.source for c in cells(path, "code")]
    exported = [c for c in source if re.search(r"^#\| *export", c, re.M)]
    used = "\n".join(c for c in source if c not in exported)
    nodes = [node for cell in exported for node in ast.parse(cell).body]
    public = [n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
    unused = [n for n in public if not re.search(rf"\b{n}\b", used) and n != "main"]
    assert not unused, f"never called in it: {unused}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_imports_and_other_code_do_not_share_a_cell(path):
    "nbdev's own tools run every cell with an import, whatever else it does; the exporting last cell they know"
    for cell in cells(path, "code"):
        if "nbdev_export(" in cell.source or re.search("^%", cell.source, re.M):
            continue
        kinds = {isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body}
        assert len(kinds) < 2, f"imports and other code share the cell {cell.source[:80]!r}"


def test_reading_order_is_numbered_without_gaps():
    for folder in sorted({p.parent for p in LIBRARY}):
        numbers = sorted(int(p.name[:2]) for p in LIBRARY if p.parent == folder)
        assert numbers == list(range(len(numbers))), f"{name_of(folder)} has {numbers}"


def test_each_module_comes_from_one_notebook():
    targets = [re.search(r"default_exp (\S+)", cells(p, "code")[0].source)[1] for p in LIBRARY]
    assert len(set(targets)) == len(targets)
    here = {name_of(p)[len("iqa_repro/") : -3].replace("/", ".") for p in MODULES if p.name != "__init__.py"}
    assert here == set(targets)


# --- modules --------------------------------------------------------------------------------------------------------


@module
def test_module_prints_nothing_and_hides_no_state(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        assert called != "print", f"{where} prints"
        assert not isinstance(node, ast.Global | ast.Nonlocal), f"{where} changes outer names"
        assert not isinstance(node, ast.Assert), f"{where} asserts; raise an error that says what came"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where} catches everything"
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), f"{where} imports *"
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    assigned = [
        n for n in assigned if not ast.unparse(n.value).startswith(("cache(", "lru_cache(", "TypeVar("))
    ]  # functions and types
    targets = [t for node in assigned for t in getattr(node, "targets", None) or [node.target]]
    stored = [
        n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    variables = [n.id for n in stored if not n.id.lstrip("_").isupper() and n.id != "__all__"]
    assert not variables or path.name == "__init__.py", f"state at module level: {variables}"


def imported(path):
    "(package, module) of ours that a module imports, inside functions too"
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "iqa_repro")


@module
def test_module_imports_only_lower_floors(path):
    parts = path.relative_to(ROOT / "iqa_repro").parts
    if len(parts) == 1:
        return  # the package itself stands above all floors
    for name in imported(path):
        target = (name.split(".") + [""])[1]
        if target not in FLOORS or target == parts[0]:
            continue  # the package itself, or a neighbour on the same floor's package
        assert FLOORS[target] < FLOORS[parts[0]], f"{name_of(path)} imports {name} from a floor not below"


def test_no_two_modules_import_each_other():
    "No circle between files, imports inside functions included"
    known = {name_of(p)[:-3].replace("/", "."): p for p in MODULES if p.name != "__init__.py"}
    arrows = {}
    for module, path in known.items():
        names = {n if n in known else n.rpartition(".")[0] for n in imported(path)}
        arrows[module] = (names & known.keys()) - {module}
    assert arrows["iqa_repro.batch.graph"] >= {"iqa_repro.batch.jobs", "iqa_repro.batch.shares"}
    list(TopologicalSorter(arrows).static_order())  # raises CycleError and names the circle


@library
def test_notebook_imports_only_lower_floors(path):
    own = package_of(path).split(".")[0]
    code = "\n".join(c.source for c in cells(path, "code"))
    for target in re.findall(r"^\s*(?:from|import) iqa_repro\.(\w+)", code, re.M):
        assert target == own or FLOORS[target] < FLOORS[own], f"uses iqa_repro.{target}"


def test_imports_are_followed_through_dots_and_functions(tmp_path):
    file = ROOT / "iqa_repro" / "core" / "paths.py"
    assert "iqa_repro.__version__" not in set(imported(file)) and "iqa_repro" in set(imported(file))
    assert "iqa_repro.core.paths.figures_root" in set(imported(ROOT / "iqa_repro" / "study" / "runs.py"))
    assert "iqa_repro.clip.tiny_model.load_tiny" in set(imported(ROOT / "iqa_repro" / "clip" / "backbone.py"))
    assert "iqa_repro.data.distortions.distort" in set(imported(ROOT / "iqa_repro" / "clip" / "tiny.py"))


def test_requirements_name_what_the_package_imports():
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    listed = {
        re.split(r"[<>=]", r)[0].lower().replace("_", "-")
        for key in settings["DEFAULT"]
        if key.endswith("requirements") and key != "dev_requirements"
        for r in settings["DEFAULT"][key].split()
    }
    distribution = {
        "PIL": "pillow",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "open_clip": "open-clip-torch",
        "pytorch_grad_cam": "grad-cam",
    }
    trees = [ast.walk(ast.parse(p.read_text(encoding="utf-8"))) for p in MODULES]
    nodes = [n for tree in trees for n in tree if isinstance(n, ast.Import | ast.ImportFrom)]
    plain = {a.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
    plain |= {n.module.split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    outside = {
        distribution.get(n, n).lower().replace("_", "-")
        for n in plain - set(sys.stdlib_module_names) - {"iqa_repro"}
    }
    assert outside <= listed, f"not in settings.ini: {sorted(outside - listed)}"


def test_pins_cover_the_requirements():
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    facts = settings["DEFAULT"]
    wanted = f"{facts['requirements']} {facts['dev_requirements']}".split()
    names = {re.split(r"[<>=\[]", r)[0].lower().replace("_", "-") for r in wanted}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in pins if "==" in line}
    assert names <= pinned, f"no pin for {sorted(names - pinned)}; see CONTRIBUTING.md"


# --- text -----------------------------------------------------------------------------------------------------------


def tracked():
    "Text files that are, or would be, committed"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone, so nothing says which files are committed")
    for name in listed.splitlines():
        path = ROOT / name
        if (
            path.is_file()
            and path.suffix not in {".png", ".safetensors", ".gz"}
            and path.name != Path(__file__).name
        ):
            yield name, path.read_text(encoding="utf-8")


def test_no_file_names_a_machine_path():
    machine = re.compile(r"(?<![\w.])/(work|root|home|Users|tmp/\w)/?\b|\bpypi\.org/simple|extra-index-url")
    sideways = re.compile(r"(?<![\w])shared/(design|research|papers|fixtures|labels|hooks)|/shared\b")
    found = []
    for name, text in tracked():
        for number, line in enumerate(text.splitlines(), 1):
            own = name.startswith(("tests/", "nbs/")) and "../shared" in line  # tests that skip without it
            if machine.search(line) or (sideways.search(line) and not own):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found[:20])
