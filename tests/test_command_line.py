"""The command `iqa-repro` with good and bad words: each subcommand in a process of its own, their many ways to go wrong in this one.

Good: status 0, tables on the output. Wrong input: status 2, one line `error: …` on the error stream, no traceback.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from download_server import serve
from miniatures import write_miniature
from typer.testing import CliRunner

import iqa_repro
from iqa_repro.app.cli import make_app
from iqa_repro.app.cli.root import COMMANDS
from iqa_repro.data.catalog import DATASETS
from iqa_repro.data.downloads import DOWNLOADS

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(sys.executable).with_name("iqa-repro")  # made by `pip install -e .`
CODE = "import sys; sys.argv[0] = 'iqa-repro'; from iqa_repro.app.cli import main; main()"
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-c", CODE]


def run(*words, status=0, answer=None, cwd=ROOT, **environment):
    "What the real command writes, in a process of its own"
    told = subprocess.run(
        [*COMMAND, *map(str, words)],
        input=answer,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
    )
    assert told.returncode == status, told.stdout + told.stderr
    return told.stdout, told.stderr


def here(*words, status=0, answer=None, **environment):
    "The same in this process, which has loaded the library already"
    env = {"COLUMNS": "80", **environment}
    told = CliRunner().invoke(make_app(), [str(word) for word in words], input=answer, env=env)
    assert told.exit_code == status, (told.stdout, told.stderr, told.exception)
    return told.stdout, told.stderr


def one_line(error):
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    "A whole set, a part of one, one with an official split"
    root = tmp_path_factory.mktemp("sets")
    write_miniature("agin", root / "agin", full=True)  # its scores are not compared with published ones
    write_miniature("csiq", root / "csiq")
    write_miniature("koniq10k", root / "koniq10k")
    return root


def test_help_and_version():
    out, error = run("--version")
    assert out == f"iqa-repro {iqa_repro.__version__}\n" and error == ""
    out, _ = run("data", "--help")
    assert all(word in out for word in ("list", "get", "check", "splits"))


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_explains_itself(word):
    out, error = run(word, "--help")
    assert (
        error == "" and f"Example: {COMMANDS[word][1]}"[:40] in " ".join(out.split()) and "--debug" not in out
    )
    _, error = here(word, "--colour", status=2)
    assert "--colour" in error and "Traceback" not in error


def test_unknown_words():
    _, error = here("date", status=2)
    assert "No such command 'date'" in error
    _, error = here("data", "list", "--colour", status=2)
    assert "--colour" in error and "Traceback" not in error


def test_list():
    out, error = run("data", "list")
    assert error == "" and max(map(len, out.splitlines())) <= 80
    first = out.split("\n\n")[0]
    rows = {line.split()[0]: line for line in first.splitlines()[2:]}
    assert set(rows) == {name for name, facts in DATASETS.items() if not getattr(facts, "folder", "embedded")}
    assert rows["csiq"].endswith("get csiq") and rows["agin"].endswith("by hand")
    assert "10,125" in rows["kadid10k"] and "3.07 GB" in rows["kadid10k"]
    narrow, _ = here("data", "list", COLUMNS="60")
    assert max(len(line) for line in narrow.splitlines() if "─" in line) <= 60


def test_output_that_nobody_reads_is_no_error():
    shell = f"{' '.join(COMMAND)} data list | head -1" if SCRIPT.exists() else None
    if not shell or os.name != "posix":
        pytest.skip("the console script is not installed")
    told = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert told.stdout.startswith("name") and "error" not in told.stderr and "Traceback" not in told.stderr


def test_check(sets, tmp_path):
    out, error = run("data", "check", sets)
    assert error == "" and re.search(r"^agin +complete +6,049 +6,049$", out, re.M)
    assert re.search(r"^csiq +other version", out, re.M) and re.search(r"^ava +missing +255,530$", out, re.M)
    out, _ = here("data", "check", IQA_REPRO_DATA=str(sets))
    assert str(sets) in out
    write_miniature("livec", tmp_path / "livec")
    (tmp_path / "livec/Images/3.JPG").unlink()
    out, error = here("data", "check", tmp_path, status=1)
    assert "incomplete" in out and "first ['3.JPG']" in out and error == ""
    _, error = run("data", "check", tmp_path / "nowhere", status=2)
    assert "no folder at" in one_line(error)


def test_get_asks_first(tmp_path):
    out, _ = here("data", "get", "csiq", "--root", tmp_path / "data", status=1, answer="n\n")
    assert "terms   not stated" in out and "csiq.tgz (379 MB) from huggingface.co" in out and "986 MB" in out
    out, error = run("data", "get", "csiq", "--root", tmp_path / "data", status=1, answer="")
    assert not (tmp_path / "data").exists() and "Traceback" not in error


def test_get_brought_archive(tmp_path):
    archive = shutil.make_archive(
        str(tmp_path / "brought"), "zip", write_miniature("csiq", tmp_path / "small")
    )
    words = ["data", "get", "csiq", "--root", tmp_path / "data", "--yes"]
    out, error = run(*words, "--file", archive)
    assert "87 rows can be read, 866 pictures were published" in out and (tmp_path / "data/csiq").is_dir()
    out, error = here(*words)
    assert error.startswith("note: ") and "is there already, nothing was fetched" in error
    (tmp_path / "cut.zip").write_bytes(Path(archive).read_bytes()[:-50])
    words[4] = tmp_path / "data2"
    _, error = here(*words, "--file", tmp_path / "cut.zip", status=2)
    assert "was the download cut short?" in one_line(error) and not (tmp_path / "data2/csiq").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["konic10k"], "did you mean 'koniq10k'?"),
        (["embedded:livec"], "stand-ins are made here"),
        (["agin"], "Open https://github.com/zijianchen98/AGIN"),
        (["live", "--from", "authors"], "ask there for the password"),
        (["csiq", "--yes", "--file", "nowhere.zip"], "no file at nowhere.zip"),
        (["csiq", "--from", "mirror", "--file", "a.zip"], "give one of them"),
    ],
    ids=lambda words: "_".join(words) if isinstance(words, list) else "",
)
def test_get_wrong(words, says, tmp_path):
    _, error = here("data", "get", *words, "--root", tmp_path / "data", status=2)
    assert says in one_line(error) and not list(tmp_path.glob("data/[a-z]*"))


def test_get_without_a_network(tmp_path):
    home = dict(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))  # read when the client is imported
    _, error = run("data", "get", "tid2013", "--yes", "--root", tmp_path / "data", status=2, **home)
    assert "tid2013.tgz is not in the cache" in one_line(error) and "HF_HUB_OFFLINE is set" in error


def test_debug_shows_where(tmp_path):
    _, error = here("--debug", "data", "check", tmp_path / "nowhere", status=2)
    assert "Traceback" in error and error.splitlines()[-1].startswith("error: no folder at")


def test_get_from_the_hub(tmp_path):
    "The whole way with the catalogue's own address, at a hub of ours; the catalogue knows that it is not the archive"
    address = DOWNLOADS["csiq"]["mirror"][0].url
    path, revision = address.removeprefix("https://huggingface.co"), address.split("/")[-2]
    with serve({path: b"another file"}) as server:
        sha = hashlib.sha256(b"another file").hexdigest()
        server.headers[path] = {"X-Repo-Commit": revision, "ETag": f'"{sha}"'}
        there = dict(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
        _, error = run("data", "get", "csiq", "--root", tmp_path / "data", "--yes", status=2, **there)
    last = error.splitlines()[-1]
    assert last.startswith("error: ") and "379062485 bytes were expected, 12 came" in last


def test_splits(sets, tmp_path):
    words = ["data", "splits", "csiq", "--root", sets, "--out", tmp_path / "a", "--count", "3"]
    out, error = run(*words)
    assert error.startswith("note: ") and "87 rows, 866 were published" in error
    files = sorted((tmp_path / "a/csiq").iterdir())
    assert [file.name for file in files] == [f"reference_test20_seed{2024 + i}.txt" for i in range(3)]
    for file in files:
        digest = re.search(r"sha256 ([0-9a-f]{16})$", file.read_text().splitlines()[0])[1]
        assert re.search(rf"^{file.name} +58 +29 +{digest}$", out, re.M), out
    words[6] = tmp_path / "b"
    assert here(*words)[0].splitlines()[2:] == out.splitlines()[2:]  # the same hashes elsewhere
    out, _ = here("data", "splits", "koniq10k", "--root", sets, "--out", tmp_path)
    assert re.search(r"^official.txt +8 +2 +2 +[0-9a-f]{16}$", out, re.M), out
    out, _ = run(
        "data", "splits", "koniq10k", "--root", sets, "--out", tmp_path, "--seed", "7", "--count", "1"
    )
    assert (tmp_path / "koniq10k/image_test20_seed7.txt").exists()


def test_splits_of_a_stand_in(tmp_path):
    out, error = run("data", "splits", "embedded:livec", "--test-share", "0.3", "--count", "2", cwd=tmp_path)
    assert error == "" and "splits of embedded:livec, 330 pictures" in out
    assert len(list((tmp_path / "splits/embedded_livec").glob("image_test30_seed20??.txt"))) == 2


@pytest.mark.parametrize(
    "words, says",
    [
        (["livec"], "LIVEC is not in"),
        (["csiq", "--by", "author"], "by must be 'reference' or 'image', got 'author'"),
        (["koniq10k", "--by", "reference"], "the table has no column 'reference'"),
        (["csiq", "--test-share", "1.5"], "a share lies between 0 and 1"),
        (["embedded:livec"], "--root is for real data sets"),
    ],
    ids=lambda words: "_".join(words) if isinstance(words, list) else "",
)
def test_splits_wrong(words, says, sets, tmp_path):
    _, error = here("data", "splits", *words, "--root", sets, "--out", tmp_path, status=2)
    assert says in one_line("error: " + error.split("error: ")[-1]) and not list(tmp_path.iterdir())
