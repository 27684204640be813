"""Check a change within two minutes on two cores: `make check`. `make test` checks everything.

    python tools/check.py           # lint, types, export in step, notebooks clean; the notebooks and tests that the change reaches
    python tools/check.py --list    # only list those files, closest first

The change: what git says differs from the branch's base on main, on main from HEAD, and with nothing uncommitted the last commit.
BASE=rev compares with another revision. Changed files always run, direct users of the change until BUDGET + 20 seconds, and what
uses it through other modules until BUDGET (default 90). What found no time is left out, with a word on it.
"""

import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path

STEPS = {  # title → module and its arguments
    "types (mypy)": ("mypy",),
    "export in step, notebooks clean": ("tools.notebooks", "check"),
    "lint (ruff)": ("ruff", "check", "iqa_repro", "tests", "nbs", "tools"),
    "layout (ruff)": ("ruff", "format", "--check", "nbs", "tests", "tools"),
}
ROOT = Path(__file__).resolve().parent.parent
SECONDS = ROOT / ".cache" / "check_seconds.json"  # file → seconds that it took the last time
GUESS, HANGS = 8, 600  # seconds: of a file that never ran here; after which one is stopped
SLOW = re.compile(r"playwright|test_(full_profile|reproduce|benchmarks|docs|wheel)")  # for `make test`
HOUSE = "tests/test_completeness.py"  # reads every notebook and module


def git(*arguments: str) -> list[str]:
    "Lines that git answers, none where it refuses"
    command = ["git", "-c", "core.quotepath=off", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def find_base() -> str:
    "Revision to compare with"
    if named := os.environ.get("BASE"):
        return (
            named
            if git("rev-parse", "--verify", named)
            else sys.exit(f"BASE={named}: git knows no such revision")
        )
    trunk = [name for name in ("origin/main", "main") if git("rev-parse", "--verify", name)]
    base = head = git("rev-parse", "HEAD")
    if trunk and git("branch", "--show-current") != ["main"]:
        base = git("merge-base", "HEAD", trunk[0])
    return "HEAD~1" if base == head and not git("status", "--porcelain") else base[0]


def changed_files(base: str) -> set[str]:
    "Paths that differ from `base`, with new and deleted files"
    return {
        *git("diff", "--name-only", "--no-renames", base),
        *git("ls-files", "--others", "--exclude-standard"),
    }


def code_of(path: Path) -> str:
    "Python of a test or notebook, followed by that of the files in tests/ and tools/ that it names"
    code = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(code)["cells"] if c["cell_type"] == "code"]
        return "\n".join(re.sub(r"(?m)^(?=[%!])", "#", "".join(c["source"])) for c in cells)
    files, helpers = [path], [p for p in ROOT.glob("t*/*.py") if not p.name.startswith("test_")]
    for file in files:  # grows
        text = file.read_text(encoding="utf-8")
        named = [p for p in helpers if re.search(rf"\b{p.stem}\.py\b|^(import|from) {p.stem}\b", text, re.M)]
        files += [p for p in named if p not in files]
    return "\n".join(f"# {p.relative_to(ROOT)}\n{p.read_text(encoding='utf-8')}" for p in files)


def changed_modules(changed: set[str]) -> set[str]:
    "Changed modules of the package, and those that name a changed table, template or profile"
    package = {p.relative_to(ROOT).as_posix(): p for p in (ROOT / "iqa_repro").rglob("*.py")}
    files = {name for name in changed if name.startswith("iqa_repro/") and not name.endswith("_modidx.py")}
    for data in map(Path, sorted(name for name in files if not name.endswith(".py"))):
        for word in (data.name, f'"{data.parent.name}"'):
            if users := {name for name, path in package.items() if word in path.read_text(encoding="utf-8")}:
                files |= users
                break
    names = {name[:-3].replace("/", ".") for name in files if name.endswith(".py")}
    return {name.removesuffix(".__init__") for name in names}


def reached(changed: set[str]) -> list[tuple[int, str]]:
    "Notebooks and tests that a change reaches: 0 changed itself, 1 direct user, then one more per module on the way"
    from iqa_repro.batch.graph import imported_modules

    modules, found = changed_modules(changed), []
    stems = "|".join(
        rf"{m}\b|{m.rpartition('.')[0]} import .*\b{m.rpartition('.')[2]}\b" for m in sorted(modules)
    )
    helpers = "|".join(
        rf"# {re.escape(p)}\n" for p in sorted(changed) if re.match(r"t(ests|ools)/\w+\.py$", p)
    )
    touches = {}  # module → whether it reaches a changed one
    for path in sorted(
        [*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("nbs/[0-9]*/**/*.ipynb"), *ROOT.glob("tests/test_*.py")]
    ):
        name, code = path.relative_to(ROOT).as_posix(), code_of(path)
        if name in changed:
            found.append((0, name))
        elif path.suffix == ".py" and SLOW.search(name + code):
            continue
        elif any(re.search(pattern, code) for pattern in (stems, helpers) if pattern):
            found.append((1, name))
        elif name == HOUSE and (modules or any(p.endswith(".ipynb") for p in changed)):
            found.append((1, name))
        elif modules:
            strings = sorted(set(re.findall(r"\biqa_repro(?:\.\w+)+", code)))  # code for other processes, say
            for module in (closure := imported_modules("\n".join([code, *(f"import {m}" for m in strings)]))):
                if module not in touches:
                    touches[module] = bool(modules & {module, *imported_modules(f"import {module}")})
            if steps := sum(touches[module] for module in closure):
                found.append((1 + steps, name))
    return sorted(found)


def run_file(name: str) -> int:
    "Run a notebook as nbdev_test does, or a file of tests; 0 when it passed"
    multiprocessing.set_start_method(
        None, force=True
    )  # the system's own way for processes of the file itself
    if name.endswith(".py"):
        return int(import_module("pytest").main(["-q", "-p", "no:cacheprovider", str(ROOT / name)]))
    skipped = import_module("nbdev.config").get_config().tst_flags.split()
    return int(not import_module("nbdev.test").test_nb(ROOT / name, skip_flags=skipped, basepath=ROOT)[0])


def inside(name: str, log: str) -> None:
    "Run one file in a process of its own, with its output in a file"
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    sys.exit(run_file(name))


def run(title: str, due: float, log: Path, command: tuple[str, ...] = ()) -> tuple[str, bool, float] | None:
    "Title, whether the command or file passed, and its seconds; None where it is too late to start"
    if (start := time.monotonic()) > due:
        return None
    if command:
        with log.open("w") as said:
            status = subprocess.call([sys.executable, "-m", *command], cwd=ROOT, stdout=said, stderr=said)
    else:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=inside, args=(title, str(log)))
        process.start()
        process.join(HANGS)
        process.kill()
        process.join()
        status = process.exitcode
    seconds = time.monotonic() - start
    said = log.read_text(errors="replace").splitlines()[-60:] if status else []
    print(f"{'FAILED' if status else 'passed'} {seconds:6.1f} s  {title}", *said, sep="\n", flush=True)
    return title, not status, seconds


def main() -> int:
    "0 when all that ran has passed"
    begin, base = time.monotonic(), find_base()
    changed, budget = changed_files(base), float(os.environ.get("BUDGET", 90))
    print(f"{len(changed)} files differ from {base[:12]}", flush=True)
    last = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    if "--list" in sys.argv:
        print(*(f"{steps} {name}" for steps, name in reached(changed)), sep="\n")
        return 0
    os.environ.pop("IN_TEST", None)  # set, it would make nbdev_export do nothing
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        new_log = lambda: Path(tempfile.mkstemp(dir=folder)[1])
        jobs = [pool.submit(run, title, math.inf, new_log(), command) for title, command in STEPS.items()]
        if any(name.startswith(("iqa_repro/", "nbs/", "tests/", "tools/")) for name in changed):
            multiprocessing.get_context("forkserver").set_forkserver_preload(
                ["torch", "open_clip", "nbdev.test"]
            )
            forkserver.ensure_running()  # imports these once, for all files
        files = sorted((steps, last.get(name, GUESS), name) for steps, name in reached(changed))
        for steps, seconds, name in files:
            due = begin + budget + 20 * (steps == 1) - seconds if steps else math.inf
            jobs.append(pool.submit(run, name, due, new_log()))
        results = [result for job in jobs if (result := job.result())]
    ran = {title: round(seconds, 1) for title, _, seconds in results if (ROOT / title).is_file()}
    SECONDS.parent.mkdir(exist_ok=True)
    SECONDS.write_text(json.dumps(last | ran, indent=1, sort_keys=True), encoding="utf-8")
    print("\n=== summary")
    for title, passed, seconds in results:
        if title not in ran:
            print(f"{'passed' if passed else 'FAILED'} {seconds:6.1f} s  {title}")
    failed = [title for title, passed, _ in results if not passed]
    for kind, folder in (("notebooks", "nbs/"), ("test files", "tests/")):
        here = {name: steps for steps, _, name in files if name.startswith(folder)}
        done, left = [name for name in here if name in ran], [here[name] for name in here if name not in ran]
        verdict = "FAILED" if set(done) & set(failed) else "passed"
        more = (
            f"; {len(left)} further reached, {left.count(1)} of them directly: `make test` runs them"
            if left
            else ""
        )
        print(f"{verdict} {sum(ran[name] for name in done):6.1f} s  {len(done)} {kind}{more}")
    print(
        f"make check: {f'{len(failed)} FAILED' if failed else 'passed'} in {time.monotonic() - begin:.0f} s, slow tests left out"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
