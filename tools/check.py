"""Check a change within two minutes on two cores (`make check`), or everything (`make test`).

    python tools/check.py          # types, lint, export in step, notebooks clean; the library notebooks and tests that the change reaches
    python tools/check.py --all    # the steps of `make test`: all of them run, any failure fails the whole

The change is what differs from the branch's base on main; on main from HEAD; with nothing uncommitted, the last commit.
BASE=rev compares with another revision. Changed files always run, direct users where they end before BUDGET + 20 seconds,
the others where they end before BUDGET (default 90). Slow tests run if they changed, experiments only in `make test`.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import forkserver, get_context, set_start_method
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINT = "ruff check iqa_repro tests nbs tools && ruff format --check nbs tests tools"
EXPORT = "python tools/notebooks.py check"
STEPS = {"types": "mypy", "export in step, notebooks clean": EXPORT, "lint": LINT}
ALL = {  # two at a time, one thread each; nbdev_test itself knows no time limit
    "1/6 the package is what the notebooks export": f"{EXPORT}-export",
    "2/6 the notebooks are clean": f"{EXPORT}-clean",
    "3/6 ruff and mypy": f"{LINT} && mypy",
    "4/6 every library notebook runs (nbdev_test)": "OMP_NUM_THREADS=1 timeout ${NBDEV_TEST_LIMIT:-900} nbdev_test "
    "--n_workers 2 --do_print --timing",
    "5/6 pytest": "OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12",
    "6/6 every experiment notebook runs with smoke=True": "iqa-repro reproduce --smoke --force --overwrite",
}
RUN = re.compile(r"nbs/(\d.*|index)\.ipynb$|tests/test_\w+\.py$")  # files that are run
SECONDS = ROOT / ".cache" / "check_seconds.json"  # file → seconds that it took the last time
GUESS = 8  # seconds of a file that never ran here
NAMED = re.compile(r"\biqa_repro(?:\.| import )((?:\.?[^\W\d]\w*)+)")  # also in code for other processes
SLOW = re.compile(r"playwright|test_(full_profile|reproduce|benchmarks|wheel)")
HOUSE = ("tests/test_completeness.py", "tests/test_types.py")  # read all notebooks and modules


def shell(command: str, **options) -> subprocess.CompletedProcess:
    "What became of a command in the project, with the programs of this environment"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=ROOT, env=os.environ | {"PATH": path}, text=True, **options
    )


def git(*commands: str) -> list[str]:
    "Lines of the first command that git does not refuse"
    lines = shell(" || ".join(f"git -c core.quotepath=off {one}" for one in commands), capture_output=True)
    return lines.stdout.splitlines()


def changed_files() -> tuple[str, set[str]]:
    "Revision to compare with, and the paths that differ from it, with new and deleted files"
    if not (base := os.environ.get("BASE")):
        on_main = git("branch --show-current") == ["main"]
        others = [] if on_main else ["merge-base HEAD origin/main", "merge-base HEAD main"]
        [base] = git(*others, "rev-parse HEAD")
        if [base] == git("rev-parse HEAD") and not git("status --porcelain"):
            base = "HEAD~1"
    if not git(f"rev-parse --verify '{base}'"):
        sys.exit(f"git knows no revision {base}")
    new = git("ls-files --others --exclude-standard")
    return base, {*git(f"diff --name-only --no-renames '{base}'"), *new}


def changed_modules(changed: set[str]) -> set[str]:
    "Changed modules of the package, and those that name a changed table, template or profile"
    found = {name for name in changed if re.match(r"iqa_repro/.*(?<!_modidx)\.py$", name)}
    data = [Path(name) for name in changed if name.startswith("iqa_repro/") and not name.endswith(".py")]
    for path in (ROOT / "iqa_repro").rglob("*.py") if data else ():
        code = path.read_text(encoding="utf-8")
        if any(file.name in code or f'"{file.parent.name}"' in code for file in data):
            found.add(path.relative_to(ROOT).as_posix())
    return {name[:-3].replace("/", ".").removesuffix(".__init__") for name in found}


def code_of(path: Path, above: tuple[Path, ...] = ()) -> str:
    "Python of a notebook, or of a test with the files in tests/ and tools/ that it names"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = ["".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        return re.sub(r"(?m)^(?=[%!])", "#", "\n".join(cells))
    named = {stem for pair in re.findall(r"(?m)(\w+)\.py\b|^(?:import|from) (\w+)", text) for stem in pair}
    helpers = [p for p in ROOT.glob("t*/*.py") if p.stem in named and p not in (*above, path)]
    return "\n".join([f"# {path.relative_to(ROOT)}", text, *(code_of(p, (*above, path)) for p in helpers)])


def reached(changed: set[str]) -> list[tuple[int, str]]:
    "Steps and file: 0 changed itself, 1 direct user of the change, more: with the number of modules on the way"
    from iqa_repro import _PLACES
    from iqa_repro.batch.graph import imported_modules

    modules, found = changed_modules(changed), []
    touches = cache(lambda module: bool(modules & {module, *imported_modules(f"import {module}")}))
    split = [module.rpartition(".") for module in modules]
    users = [rf"\b{up}\.{name}\b(?!\.)|\b{up} import .*\b{name}\b" for up, _, name in split]
    users += [rf"(?m)^# {one}$" for one in changed if re.match(r"t(ests|ools)/\w+\.py$", one)]
    names = [p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("nbs/**/*.ipynb"), *ROOT.glob("tests/*.py"))]
    for name in filter(RUN.match, names):
        code = code_of(ROOT / name)
        exported = re.match(r"#\| *default_exp (\S+)", code)
        if name in changed or exported and f"iqa_repro.{exported[1]}" in modules:
            found.append((0, name))
        elif name.endswith(".ipynb") or not SLOW.search(name + code):
            imports = [f"import iqa_repro.{_PLACES.get(one, one)}" for one in NAMED.findall(code)]
            steps = sum(map(touches, imported_modules("\n".join([code, *imports]))))
            direct = any(re.search(user, code) for user in users)
            direct |= name in HOUSE and bool(modules or any(one.endswith(".ipynb") for one in changed))
            found += [(1 if direct else 1 + steps, name)] if direct or steps else []
    return sorted(found)


def in_process(function, *arguments, limit: float | None = None) -> tuple[int, str]:
    "Status and output of a call in a process of its own, forked from one that has imported the slow packages"
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        process = get_context("forkserver").Process(target=_inside, args=(log.name, function, *arguments))
        process.start()
        process.join(limit)  # seconds
        process.kill()
        process.join()
        return process.exitcode, log.read()


def _inside(log, function, *arguments):
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    set_start_method(None, force=True)  # processes that the function starts begin in the system's own way
    function(*arguments)


def preload() -> None:
    "Import the slow packages in the process that `in_process` forks, while others work"
    get_context("forkserver").set_forkserver_preload(["torch", "open_clip", "nbdev.test"])
    forkserver.ensure_running()


def run_file(name: str) -> None:
    "Run a notebook as nbdev_test does, or a file of tests"
    if name.endswith(".py"):
        sys.exit(import_module("pytest").main(["-q", "-p", "no:cacheprovider", str(ROOT / name)]))
    skipped = import_module("nbdev.config").get_config().tst_flags.split()
    sys.exit(not import_module("nbdev.test").test_nb(ROOT / name, skip_flags=skipped, basepath=ROOT)[0])


def run(title: str, due: float = math.inf) -> tuple[str, int | None, float]:
    "Title of a step or name of a file, status and seconds; status None where it is too late to start"
    if (start := time.monotonic()) > due:
        return title, None, 0.0
    if title in ALL:
        print(f"\n=== {title}", flush=True)
        status, said = shell(ALL[title]).returncode, ""
    elif title in STEPS:
        done = shell(STEPS[title], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        status, said = done.returncode, done.stdout
    else:
        status, said = in_process(run_file, title, limit=600)
    seconds, shown = time.monotonic() - start, said.splitlines()[-60:] if status else []
    print(f"{'FAILED' if status else 'passed'} {seconds:7.1f} s  {title}", *shown, sep="\n", flush=True)
    return title, status, seconds


def run_reached() -> list[tuple[str, int | None, float]]:
    "Results of the steps and of the files that the change reaches, two at a time"
    due, (base, changed) = time.monotonic() + float(os.environ.get("BUDGET", 90)), changed_files()
    print(f"{len(changed)} files differ from {base[:12]}", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    last = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run, title) for title in STEPS]
        try:
            files = reached(changed)
        except Exception as error:  # such as one of syntax in the changed code
            sys.exit(f"imports of the package cannot be followed, so no notebook and no test ran: {error!r}")
        if files:
            preload()
        for steps, seconds, name in sorted((steps, last.get(name, GUESS), name) for steps, name in files):
            jobs.append(pool.submit(run, name, due + 20 * (steps == 1) - seconds if steps else math.inf))
    results = [job.result() for job in jobs]
    last |= {name: round(seconds, 1) for name, _, seconds in results if seconds and name not in STEPS}
    SECONDS.parent.mkdir(exist_ok=True)
    SECONDS.write_text(json.dumps(last, indent=1, sort_keys=True), encoding="utf-8")
    return results


def main() -> int:
    "0 when all that ran has passed"
    os.environ.pop("IN_TEST", None)  # set, it would make nbdev_export do nothing
    begin, whole, groups = time.monotonic(), sys.argv[1:] == ["--all"], {}
    for title, *result in [run(title) for title in ALL] if whole else run_reached():
        group = {"nbs": "notebooks", "tests": "test files"}.get(title.split("/")[0], title)
        groups.setdefault(group, {})[title] = result
    print("\n=== summary")
    for group, results in groups.items():
        ran = [result for result in results.values() if result[0] is not None]
        left = [title for title, (status, _) in results.items() if status is None]
        count = f"{len(ran)} of {len(results)} " if group not in results else ""
        more = f"; `make test` runs the others, first {left[0]}" if left else ""
        verdict = "FAILED" if any(status for status, _ in ran) else "passed" if ran else "no run"
        print(f"{verdict} {sum(seconds for _, seconds in ran):7.1f} s  {count}{group}{more}")
    bad = [title for results in groups.values() for title, (status, _) in results.items() if status]
    outcome = f"make {'test' if whole else 'check'}: {'FAILED' if bad else 'passed'} in {time.monotonic() - begin:.0f} s"
    print(outcome, *bad, sep="\n  ")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
