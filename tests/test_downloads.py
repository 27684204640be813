"""Downloads from a real server that behaves badly, from a hub that is a copy of ours, and from no network at all.

`download_server.py` is the server. Nothing here leaves this machine.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from download_server import serve
from miniatures import write_miniature

from iqa_repro.data import downloads, fetch
from iqa_repro.data.catalog import load_dataset
from iqa_repro.data.downloads import Archive, Transfer, fetch_file, get_dataset

QUICK = dict(pause=0.0, progress=False)
CERTIFICATES = httpx.create_ssl_context()
ONCE = Transfer(retries=0, **QUICK)
CONTENT = np.random.default_rng(0).bytes(1500)
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MIRROR = downloads.DOWNLOADS["csiq"]["mirror"][0].url


@pytest.fixture(autouse=True)
def one_ssl_context(monkeypatch):
    "A client reads all certificates when it is made; some hundred clients need not"
    monkeypatch.setattr(fetch.httpx, "Client", partial(httpx.Client, verify=CERTIFICATES))


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def sent(server):
    return sum(n for *_, n in server.log)


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def run_python(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- cut ------------------------------------------------------------------------------------------------------------


def test_cut_at_every_byte(tmp_path):
    content = CONTENT[:120]
    with serve({"/a": content}) as server:
        for cut in range(len(content)):
            server.log, server.cuts = [], [cut, None]
            path = fetch_file(f"{server.url}/a", tmp_path / f"{cut}", transfer=Transfer(retries=1, **QUICK))
            assert path.read_bytes() == content, cut
            assert sent(server) == len(content) and len(server.log) == 2, cut
            assert server.log[1][1] == (f"bytes={cut}-" if cut else None)
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("version", ["etag", "date", "weak", ""])
def test_cut_then_another_call(tmp_path, version):
    "Another process, another day: the record beside the part is all that is left"
    for cut in range(1, len(CONTENT), 211):
        with serve({"/a": CONTENT}, version=version) as server:
            server.cuts = [cut, 0]
            with pytest.raises(ConnectionError, match=f"{cut} bytes stay in"):
                fetch_file(f"{server.url}/a", tmp_path / "a", checksum=SHA, transfer=ONCE)
            assert left(tmp_path) == ["a.part", "a.part.json"]
            fetch_file(f"{server.url}/a", tmp_path / "a", checksum=SHA, transfer=ONCE)
            assert sent(server) == len(CONTENT)
            (tmp_path / "a").unlink()


def test_without_version_or_hash_nothing_is_glued(tmp_path):
    with serve({"/a": CONTENT}, version="weak") as server:
        server.cuts = [700]
        with pytest.warns(UserWarning, match="cannot be told to be the beginning of"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=Transfer(**QUICK))
    assert (tmp_path / "a").read_bytes() == CONTENT and sent(server) == 700 + 1500


@pytest.mark.parametrize("version", ["etag", "date"])
def test_changed_between_two_calls(tmp_path, version):
    with serve({"/a": CONTENT}, version=version) as server:
        server.cuts = [700, 0]
        with pytest.raises(ConnectionError):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
        server.files["/a"] = CONTENT[::-1][:900]
        with pytest.warns(UserWarning, match="has changed; it is fetched from the start"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1][:900]


def test_changed_and_the_server_knows_no_if_range(tmp_path):
    "The answer's own ETag gives it away"
    with serve({"/a": CONTENT}, version="unchecked") as server:
        server.headers["/a"] = {"ETag": '"one"'}
        server.cuts = [700, 0]
        with pytest.raises(ConnectionError):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
        server.files["/a"], server.headers["/a"] = CONTENT[::-1], {"ETag": '"two"'}
        with pytest.warns(UserWarning, match="has changed"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=Transfer(**QUICK))
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_grown_shorter_than_the_part(tmp_path):
    with serve({"/a": CONTENT}, version="unchecked") as server:
        server.headers["/a"] = {"ETag": '"same"'}
        server.cuts = [700, 0]
        with pytest.raises(ConnectionError):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
        server.files["/a"] = CONTENT[:300]
        with pytest.warns(UserWarning, match="has changed"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=Transfer(**QUICK))
    assert (tmp_path / "a").read_bytes() == CONTENT[:300]


def test_all_bytes_came_but_not_the_name(tmp_path):
    "Killed between the last byte and the name: nobody is asked again"
    with serve({"/a": CONTENT}) as server:
        (tmp_path / "a.part").write_bytes(CONTENT)
        record = {"url": f"{server.url}/a", "version": '"v"', "total": 1500}
        (tmp_path / "a.part.json").write_text(json.dumps(record))
        fetch_file(f"{server.url}/a", tmp_path / "a", 1500, SHA, ONCE)
    assert server.log == [] and left(tmp_path) == ["a"]


@pytest.mark.parametrize("record", [None, "", "{}", '{"url": "http://other/a", "version": "v", "total": 9}'])
def test_part_of_unknown_origin(tmp_path, record):
    (tmp_path / "a.part").write_bytes(b"something else")
    if record is not None:
        (tmp_path / "a.part.json").write_text(record)
    with serve({"/a": CONTENT}) as server, pytest.warns(UserWarning, match="from the start"):
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_killed_process_goes_on(tmp_path):
    content = CONTENT * 20
    with serve({"/a": content}, slow=0.02) as server:
        code = f"from iqa_repro.data.downloads import fetch_file; fetch_file('{server.url}/a', {str(tmp_path / 'a')!r})"
        child, part = run_python(code), tmp_path / "a.part"
        while child.poll() is None and not (part.exists() and part.stat().st_size > 5000):
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        kept = part.stat().st_size
        assert 5000 < kept < len(content)
        server.slow, before = 0, len(server.log)
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
    assert server.log[before:] == [["/a", f"bytes={kept}-", len(content) - kept]]
    assert (tmp_path / "a").read_bytes() == content and left(tmp_path) == ["a"]


def test_two_processes_fetch_once(tmp_path):
    content = CONTENT * 20
    with serve({"/a": content}, slow=0.01) as server:
        code = f"from iqa_repro.data.downloads import fetch_file; fetch_file('{server.url}/a', {str(tmp_path / 'a')!r})"
        child = run_python(code)
        while child.poll() is None and not (tmp_path / "a.part").exists():
            time.sleep(0.01)
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)  # waits for the other one
        assert child.wait(60) == 0 and len(server.log) == 1
    assert sent(server) == len(content) and (tmp_path / "a").read_bytes() == content


# --- what is no file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, error, words",
    [
        (401, PermissionError, "may not be fetched"),
        (403, PermissionError, "may not be fetched"),
        (404, FileNotFoundError, "is not there any more"),
        (410, FileNotFoundError, "is not there any more"),
        (400, OSError, "answered with status 400"),
        (503, ConnectionError, "broke off 1 times without a new byte .status 503"),
    ],
)
def test_refused(tmp_path, status, error, words):
    with (
        serve({}, status={"/a": status}) as server,
        pytest.raises(error, match=f"{words}.*" + ("" if status == 503 else "open https://example.org")),
    ):
        how = Transfer(retries=0, page="https://example.org/form", **QUICK)
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=how)
    assert left(tmp_path) == []


def test_busy_server_is_asked_again(tmp_path):
    with serve({"/a": CONTENT}, status={"/a": 503}) as server:
        asked = []

        def sleep(seconds):
            asked.append(seconds)
            if len(asked) == 3:
                server.status.clear()

        how = Transfer(retries=4, pause=1.0, progress=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetch, "time", SimpleNamespace(sleep=sleep))
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=how)
    assert asked == [2.0, 4.0, 8.0] and (tmp_path / "a").read_bytes() == CONTENT


def test_redirect_to_a_login_page(tmp_path):
    with serve({"/login": b"<!DOCTYPE html><form>"}, status={"/a": 302}) as server:
        server.headers["/a"] = {"Location": "/login"}
        with pytest.raises(ValueError, match="sent a page and no file; open https://example.org"):
            fetch_file(
                f"{server.url}/a", tmp_path / "a", transfer=Transfer(page="example.org", retries=0, **QUICK)
            )
        server.headers["/a"] = {"Location": "/a"}
        with pytest.raises(OSError, match="leads in a circle"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
    assert left(tmp_path) == []


def test_page_that_calls_itself_a_file(tmp_path):
    with (
        serve({"/a": b"  <HTML><body>too many downloads today"}) as server,
        pytest.raises(ValueError, match="sent a page"),
    ):
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
    assert left(tmp_path) == []


def test_length_that_is_too_long(tmp_path):
    "The server promises more than it has; asked for the rest, it says how long the file is"
    with serve({"/a": CONTENT}, length=2000) as server:
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=Transfer(**QUICK))
        with pytest.raises(ValueError, match="2000 bytes were expected, 1500 came"):
            fetch_file(f"{server.url}/a", tmp_path / "b", 2000, transfer=Transfer(**QUICK))
    assert (tmp_path / "a").read_bytes() == CONTENT and left(tmp_path) == ["a"]


def test_no_length_at_all(tmp_path):
    with serve({"/a": CONTENT}, length="") as server:
        with pytest.raises(OSError, match="does not say how long it is"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
        assert left(tmp_path) == []
        fetch_file(f"{server.url}/a", tmp_path / "a", checksum=SHA[:20], transfer=ONCE)
        server.cuts = [800]
        with pytest.raises(ValueError, match="1500 bytes were expected, 800 came"):
            fetch_file(f"{server.url}/a", tmp_path / "b", 1500, transfer=ONCE)
    assert left(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "checksum", ["sha256:" + "0" * 64, "sha256:00000000", "md5:" + "0" * 32], ids=["whole", "begin", "md5"]
)
def test_wrong_hash_leaves_nothing(tmp_path, checksum):
    with serve({"/a": CONTENT}) as server:
        with pytest.raises(ValueError, match="0 was expected, .* came.*thrown away.*another version"):
            fetch_file(f"{server.url}/a", tmp_path / "a", 1500, checksum, ONCE)
        assert left(tmp_path) == []
        fetch_file(f"{server.url}/a", tmp_path / "a", 1500, SHA, ONCE)
        with pytest.raises(ValueError, match="an earlier download is not the file"):
            fetch_file(f"{server.url}/a", tmp_path / "a", 1500, checksum, ONCE)


def test_nobody_there(tmp_path):
    with serve({}) as server:
        url = server.url
    with pytest.raises(ConnectionError, match="broke off 3 times without a new byte"):
        fetch_file(f"{url}/a", tmp_path / "a", transfer=Transfer(retries=2, **QUICK))


# --- disk -----------------------------------------------------------------------------------------------------------


def test_disk_fills_and_is_emptied(tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, block):
            self.file.write(block[:600])
            raise OSError(errno.ENOSPC, "No space left on device")

    with serve({"/a": CONTENT}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(fetch, "open", lambda *how, **more: Full(open(*how, **more)), raising=False)
            with pytest.raises(OSError, match="disk is full after 600 bytes.*goes on from there") as error:
                fetch_file(f"{server.url}/a", tmp_path / "a", transfer=Transfer(**QUICK))
        assert error.value.errno == errno.ENOSPC and len(server.log) == 1
        fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
    assert (tmp_path / "a").read_bytes() == CONTENT and server.log[1][1] == "bytes=600-"


def test_room_is_asked_for_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage._replace(free=1400))
    with serve({"/a": CONTENT}) as server:
        with pytest.raises(OSError, match="needs 1.50 kB in .*, 1.40 kB are free"):
            fetch_file(f"{server.url}/a", tmp_path / "a", transfer=ONCE)
        archive = Archive(f"{server.url}/a.zip", 1000)
        with pytest.raises(OSError, match="CSIQ, archive and unpacked, needs 2.60 kB"):
            get_dataset("csiq", tmp_path / "data", True, [archive], ONCE)
    assert left(tmp_path) == ["data"] and len(server.log) == 1


# --- data sets ------------------------------------------------------------------------------------------------------


def pack(name, place, inside, mirror=True, suffix=".tgz", without=()):
    "A miniature as archive: (bytes, rows that its reader finds)"
    root = write_miniature(name, place / inside, mirror=mirror)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = len(load_dataset(name, root))
    for file in without:
        (root / file).unlink()
    if suffix == ".zip":
        path = Path(shutil.make_archive(str(place / inside), "zip", place, inside))
    else:
        path = place / f"{inside}{suffix}"
        with tarfile.open(path, "w:gz" if suffix == ".tgz" else "w", dereference=True) as file:
            file.add(root, inside)
    return path.read_bytes(), rows


def archive(server, name, content):
    server.files[f"/{name}"] = content
    return Archive(f"{server.url}/{name}", len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


@pytest.mark.parametrize(
    "name, inside, suffix",
    [
        ("tid2013", "tid2013", ".tgz"),
        ("kadid10k", "kadid10k", ".zip"),
        ("pipal", "PIPAL", ".tar"),
        ("livec", "LIVEC", ".tgz"),
        ("spaq", "SPAQ", ".tgz"),
        ("waterloo", "exploration_database_and_code", ".tar"),
    ],
)
def test_whole_set(tmp_path, name, inside, suffix):
    content, rows = pack(name, tmp_path, inside, suffix=suffix)
    with serve({}, cut=len(content) // 3) as server:
        source = [archive(server, f"{name}{suffix}", content)]
        folder = get_dataset(name, tmp_path / "data", True, source, Transfer(**QUICK))
        assert sent(server) == len(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(load_dataset(name, folder)) == rows
    assert folder == tmp_path / "data" / name and not list((tmp_path / "data/.downloads").iterdir())


def test_label_file_that_the_archive_lacks(tmp_path):
    content, rows = pack("live", tmp_path, "LIVEIQA_release2", without=["dmos_realigned.mat"])
    labels = (write_miniature("live", tmp_path / "x") / "dmos_realigned.mat").read_bytes()
    with serve({"/dmos_realigned.mat": labels, "/dmos.mat": b"never asked for"}) as server:
        extras = [
            Archive(f"{server.url}/{name}", extra=True)
            for name in ("dmos_realigned.mat", "dmos.mat", "gone.txt")
        ]
        with pytest.warns(UserWarning, match="gone.txt could not be added"):
            folder = get_dataset(
                "live", tmp_path / "data", True, [archive(server, "live.tgz", content), *extras], ONCE
            )
        assert not [path for path, *_ in server.log if path == "/dmos.mat"]
    assert (folder / "dmos_realigned.mat").read_bytes() == labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(load_dataset("live", folder)) == rows


def test_several_archives(tmp_path):
    root = write_miniature("koniq10k", tmp_path / "all")
    pictures = shutil.make_archive(str(tmp_path / "koniq10k_1024x768"), "zip", root, "1024x768")
    small = shutil.make_archive(str(tmp_path / "koniq10k_512x384"), "zip", root, "512x384")
    with serve(
        {"/koniq10k_distributions_sets.csv": (root / "koniq10k_distributions_sets.csv").read_bytes()}
    ) as server:
        source = [archive(server, Path(path).name, Path(path).read_bytes()) for path in (pictures, small)]
        source += [Archive(f"{server.url}/koniq10k_distributions_sets.csv", extra=True)]
        folder = get_dataset("koniq10k", tmp_path / "data", True, source, ONCE)
    with pytest.warns(UserWarning, match="12 rows, 10073 were published"):
        assert load_dataset("koniq10k", folder)["split"].value_counts()["train"] == 8


def test_damaged_archive_leaves_no_folder(tmp_path):
    content, _ = pack("csiq", tmp_path, "CSIQ")
    with serve({}) as server:
        with pytest.raises(ValueError, match="damaged or not whole|no whole .zip"):
            get_dataset("csiq", tmp_path / "data", True, [archive(server, "csiq.tgz", content[:-900])], ONCE)
        assert left(tmp_path / "data/.downloads/csiq") == []  # the next call asks the server again
    assert not (tmp_path / "data/csiq").exists() and not list((tmp_path / "data").glob(".csiq-coming*"))


def test_leftover_of_a_killed_unpacking_is_cleared(tmp_path):
    content, _ = pack("csiq", tmp_path, "CSIQ")
    (tmp_path / "data/.csiq-coming/set/half").mkdir(parents=True)
    with serve({}) as server:
        folder = get_dataset("csiq", tmp_path / "data", True, [archive(server, "csiq.tgz", content)], ONCE)
    assert left(tmp_path / "data") == [".downloads", "csiq"] and not (folder / "half").exists()


def test_wrong_archive_says_what_the_reader_misses(tmp_path):
    content, _ = pack("csiq", tmp_path, "CSIQ")
    with serve({}) as server, pytest.warns(UserWarning, match="cannot be read yet.*has no label file"):
        get_dataset("tid2013", tmp_path / "data", True, [archive(server, "tid2013.tgz", content)], ONCE)


# --- the hub's client -----------------------------------------------------------------------------------------------

HUB_CODE = """
from iqa_repro.data.downloads import Archive, get_dataset
for name, root, archive in {jobs!r}:
    try:
        print("FOLDER", get_dataset(name, root, True, archive and [Archive(*archive)]))
    except Exception as error:
        print("ERROR", type(error).__name__, error)
"""


def hub(*jobs, **environment):
    "What the jobs (data set, folder, fields of its archive or None) say, each in one line, in a fresh process"
    child = run_python(HUB_CODE.format(jobs=jobs), **environment)
    told = child.communicate(timeout=180)[0]
    assert child.returncode == 0, told
    return [line for line in told.splitlines() if line.startswith(("FOLDER", "ERROR"))]


def hub_cache(home, content):
    'The folders that the client makes: blobs, refs, snapshots (documentation of huggingface_hub, "manage your cache")'
    owner, name, _, revision, file = MIRROR.removeprefix("https://huggingface.co/datasets/").split("/")
    place, digest = home / "hub" / f"datasets--{owner}--{name}", hashlib.sha256(content).hexdigest()
    for folder in ("blobs", "refs", f"snapshots/{revision}"):
        (place / folder).mkdir(parents=True)
    (place / "blobs" / digest).write_bytes(content)
    (place / "refs/main").write_text(revision)
    (place / f"snapshots/{revision}/{file}").symlink_to(f"../../blobs/{digest}")


def test_hub_offline(tmp_path):
    content, rows = pack("csiq", tmp_path, "CSIQ")
    hub_cache(tmp_path / "home", content)
    archive = (MIRROR, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
    cached, real, absent = hub(
        ("csiq", str(tmp_path / "data"), archive),
        ("csiq", str(tmp_path / "real"), None),  # the real archive has another size
        ("tid2013", str(tmp_path / "data"), None),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "home"),
    )
    assert cached == f"FOLDER {tmp_path / 'data/csiq'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(load_dataset("csiq", tmp_path / "data/csiq")) == rows
    assert (
        "379062485 bytes were expected" in real and "Remove" in real and not (tmp_path / "real/csiq").exists()
    )
    assert absent.startswith("ERROR FileNotFoundError tid2013.tgz is not in the cache")
    assert "HF_HUB_OFFLINE is set" in absent and "--file tid2013.tgz" in absent


def test_hub_at_another_address(tmp_path):
    "The client's own protocol, spoken by our server under HF_ENDPOINT"
    content, rows = pack("csiq", tmp_path, "CSIQ")
    path, revision = MIRROR.removeprefix("https://huggingface.co"), MIRROR.split("/")[-2]
    sha = hashlib.sha256(content).hexdigest()
    with serve({path: content}) as server:
        server.headers[path] = {"X-Repo-Commit": revision, "ETag": f'"{sha}"'}
        other = path.replace("csiq", "other")
        server.status[other], server.headers[other] = 404, {"X-Error-Code": "EntryNotFound"}
        server.cuts = [None, 1000]  # the client's own first question; then the archive, cut
        there = dict(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
        got, refused = hub(
            ("csiq", str(tmp_path / "data"), (MIRROR, len(content), f"sha256:{sha}")),
            ("csiq", str(tmp_path / "other"), (MIRROR.replace("csiq", "other"), 5)),
            **there,
        )
        assert got == f"FOLDER {tmp_path / 'data/csiq'}"
        pieces = [n for asked, _, n in server.log if asked == path]
        assert pieces[0] == 1000 and len(pieces) > 1  # cut, and the client asked again
        assert (
            "ERROR FileNotFoundError" in refused
            and "was refused" in refused
            and "csiq.html in a browser" in refused
        )
