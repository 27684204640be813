"""Tables, captions and checkpoints of strangers: whatever the bytes are, they are read, or one of our own errors names the file and the reason.

Small and the same in every run; with IQA_REPRO_TRIAL=all thousands of examples, others in each run. Memory is limited meanwhile, so that a file that asks for terabytes fails here and not by chance.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

from iqa_repro.captions.captioners import BackendError, ServerCaptioner, Traffic, text_of
from iqa_repro.captions.files import (
    caption_line,
    cut_torn_end,
    fault_of,
    open_requests,
    read_captions,
    write_captions,
)
from iqa_repro.captions.instructions import CaptionRequest
from iqa_repro.captions.purification import check_captions, purify
from iqa_repro.clip.backbone import OPENAI_MEAN, OPENAI_STD, Backbone
from iqa_repro.core.checkpoints import HEADER_KEY, load_checkpoint, read_foreign, read_metadata
from iqa_repro.data.own_tables import read_meta_csv, read_own
from iqa_repro.data.split_files import (
    read_liqe_scenes,
    read_liqe_split,
    read_pyiqa_split,
    read_split,
    write_split,
)
from iqa_repro.data.tables import TableFacts, read_table
from iqa_repro.data.world.comments import comments_of
from iqa_repro.figures.gmad import read_scores
from iqa_repro.methods.grmp.model import build_model, load_model, save_model
from iqa_repro.methods.grmp.recipes import get_recipe
from iqa_repro.methods.grmp.released import load_released, to_released
from iqa_repro.methods.uniqa.adapter import MultiCueAdapter, build_uniqa, load_uniqa, save_uniqa
from iqa_repro.methods.uniqa.released_weights import load_released_uniqa, load_uniqa_weights

LONG = os.environ.get("IQA_REPRO_TRIAL") == "all"
ROOM = 3 * 2**30  # bytes that a test may ask for beside what the process has
SECONDS = 20  # for one file
OWN = (
    ValueError,
    TypeError,
    FileNotFoundError,
)  # to the letter: a UnicodeDecodeError is a ValueError, too, and not ours


def fuzz(short=12, long=1000):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=long if LONG else short,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=quiet,
        print_blob=True,
    )


@pytest.fixture(autouse=True)
def little_room():
    "What is asked for beyond ROOM fails at once"
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc").is_dir() else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_there_is_little_room():
    if not Path("/proc").is_dir():
        pytest.skip("memory is not limited here")
    with pytest.raises(RuntimeError, match="memory"):
        torch.zeros(2 * ROOM, dtype=torch.uint8)


def read_or_refuse(read, path, told=None):
    "What `read` gives, or None where it refuses in our own words"
    started = time.monotonic()
    try:
        return read(path)
    except Exception as error:
        assert type(error) in OWN, f"{type(error).__name__}: {str(error)[:500]}"
        assert str(told or path) in str(error), f"no path in: {str(error)[:500]}"
        assert len(str(error)) > len(str(path)) + 10 and len(str(error)) < 20_000, str(error)[:500]
        return None
    finally:
        assert time.monotonic() - started < SECONDS


# --- bytes that nobody wrote -----------------------------------------------------------------------------------------

NASTY = [
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\r",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"\\",
        b"\xed\xa0\x80",
    ),
    *(
        "\u2028".encode(),
        "é\u0301👍".encode(),
        b"\\ud800",
        b"NaN",
        b"-inf",
        b"1e308",
        b"1e999",
        b"9" * 400,
        b"-1",
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"../../../etc/passwd",
        b"," * 3000,
        b"x" * 140_000,
    ),
    *(b"image,mos\n", b"\x80\x04", b"PK\x03\x04", struct.pack("<Q", 2**63), struct.pack("<I", 2**31)),
]


@st.composite
def spoiled(draw, whole):
    "A file with a few places flipped, cut, doubled, exchanged or filled with what readers trip over"
    data = bytes(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 1, 3, 20, 400])))
        how = draw(st.sampled_from(["flip", "cut", "drop", "double", "nasty", "nasty", "random"]))
        if how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at]
        elif how == "drop":
            data = data[:at] + data[end:]
        elif how == "double":
            data = data[:end] + data[at:]
        elif how == "nasty":
            data = data[:at] + draw(st.sampled_from(NASTY)) + data[end:]
        else:
            data = data[:at] + draw(st.binary(max_size=40)) + data[end:]
    return data


def bytes_like(whole):
    "Spoiled files most of the time, else anything"
    return st.one_of(spoiled(whole), spoiled(whole), spoiled(whole), st.binary(max_size=300))


numbers = st.one_of(
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, -1, 10**12, 2**63, -(2**63), 10**400, 1e308, -0.0, 2.5]),
    st.floats(allow_nan=True, allow_infinity=True),
)
text = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "nan", "a\0b", "\ud800", "a\nb", "../x", "x" * 5000, "tiny", "paper", "{0.__class__}"]
    ),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=12,
)


# --- tables ----------------------------------------------------------------------------------------------------------

PICTURES = [f"p/{n}.bmp" for n in range(6)]
LEVELS = dict(zip(PICTURES, (1.5, 2, 3, 4, 4.5, 5), strict=True))
TABLE = "image,mos,distortion,std\n" + "".join(f"{n},{m},blur,0.2\n" for n, m in LEVELS.items())
LISTED = "name,mos,std,official_split\n" + "".join(f"{n},{m},0.2,train\n" for n, m in LEVELS.items())
LEVELLED = "".join(f"r.png,i{n:02d}_01_{n + 1}.bmp,{m}\n" for n, m in enumerate(LEVELS.values()))
SCORES = "image,score\n" + "".join(f"{n},{m}\n" for n, m in LEVELS.items())
SCENES = "".join(f"{n}\t{m}\tblur\tanimal\n" for n, m in LEVELS.items())


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    "A folder of six pictures, and a place for files"
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "p").mkdir()
    for name in PICTURES:
        Image.new("RGB", (4, 3)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def table(there):
    (there / "good.csv").write_text(TABLE)
    made = read_table(there / "good.csv", facts=TableFacts(low=1, high=5))
    (there / "good.csv").unlink()
    return made


def put(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


@fuzz()
@given(data=bytes_like(TABLE.encode()), low=st.sampled_from([None, 1, 0, -1e308]))
@example(data=b"image,mos\n" + b"a,1\n" * 3, low=1)
@example(data=b"image,mos" + b",a" * 2000 + b"\n", low=1)
@example(data=b'image,mos,"a\n' + b"x\n" * 10**5 + b'"\n', low=1)
@example(data=b"image,mos\na.png," + b"9" * 5000 + b"\n", low=None)
@example(data=b"image,mos,image\na,1,b\n", low=None)
@example(data=b"image,mos," + b"{" * 5000 + b"\na,1,b\n", low=None)
@example(data=b"image,mos\n" + b"x" * 140_000 + b",good\n", low=None)
@example(data=b"image,mos,quality\na,1,good\n", low=None)
def test_picture_tables(there, data, low):
    path = put(there, "t.csv", data)
    facts = TableFacts(low=low, high=None if low is None else 5)
    if (found := read_or_refuse(lambda p: read_table(p, facts=facts), path)) is not None:
        assert (
            len(found) and np.isfinite(found["mos"]).all() and all(isinstance(n, str) for n in found["image"])
        )


@pytest.mark.filterwarnings("ignore")
@fuzz()
@given(data=bytes_like(TABLE.encode()))
def test_own_tables(there, data):
    path = put(there, "own.csv", data)
    try:
        read_or_refuse(lambda p: read_own(p, 1, 5), path, told=there)  # pictures are looked for in the folder
        read_or_refuse(
            lambda p: read_own(p, 1, 5, strict=False), there
        )  # a folder that should hold one table
    finally:
        path.unlink()


@pytest.mark.filterwarnings("ignore")
@fuzz()
@given(
    data=st.one_of(bytes_like(LISTED.encode()), bytes_like(b"r,i,mos\n" + LEVELLED.encode())),
    name=st.sampled_from(["livec", "tid2013"]),
)
@example(data=b"r,i,mos\nr.png,x.bmp,3\n", name="tid2013")
@example(data=b"name,mos,std\na.png,3,wide\n", name="livec")
@example(data=b"name,mos\n,3\n", name="tid2013")
@example(data=b"r,i,mos\n,x.bmp,3\n", name="livec")
def test_lists_of_pyiqa(there, data, name):
    read_or_refuse(lambda p: read_meta_csv(name, there / "p", p), put(there, "meta.csv", data), told=there)


@fuzz()
@given(data=bytes_like(SCORES.encode()))
@example(data=b"image,score\na,True\n")
@example(data=b"image,score\n")
@example(data=b"image,score\n,3\n")
@example(data=b"image,score,score\na,1,2\n")
def test_tables_of_scores(there, data):
    if (found := read_or_refuse(read_scores, put(there, "scores.csv", data))) is not None:
        assert len(found) and found.dtype == float


# --- splits ----------------------------------------------------------------------------------------------------------


@fuzz()
@given(data=st.data())
def test_splits(there, table, data):
    path = there / "split.txt"
    write_split(path, {"train": table[:4], "test": table[4:]})
    spoilt = data.draw(bytes_like(path.read_bytes()))
    if data.draw(st.booleans()):  # whoever changes a split can also compute its hash
        head, *lines = spoilt.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        lines = lines[:-1] if lines and not lines[-1] else lines
        digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
        spoilt = "\n".join([f"# split of x, sha256 {digest}", *lines, ""]).encode()
    path.write_bytes(spoilt)
    if (parts := read_or_refuse(lambda p: read_split(p, table), path)) is not None:
        names = [name for part in parts.values() for name in part["image"]]
        assert len(names) == len(set(names))


@fuzz()
@given(data=bytes_like(SCENES.encode()))
def test_splits_and_scenes_of_liqe(there, table, data):
    read_or_refuse(lambda p: read_liqe_scenes(p, table), put(there, "x_all_clip.txt", data))
    folder = there / "liqe"
    folder.mkdir(exist_ok=True)
    for word in ("train", "val", "test"):
        put(folder, f"x_{word}.txt", data if word == "val" else b"")
    read_or_refuse(lambda p: read_liqe_split(p, table), folder)


@fuzz()
@given(data=bytes_like(LISTED.encode()))
@example(data=b"name,official_split\n,train\np/0.bmp,test\n")
@example(data=b"official_split\ntrain\n")
def test_splits_of_pyiqa(there, table, data):
    read_or_refuse(lambda p: read_pyiqa_split(p, "official_split", table), put(there, "pyiqa.csv", data))


# --- captions --------------------------------------------------------------------------------------------------------

REQUESTS = [CaptionRequest(n, "quality", 0, f"Look at {n}.", "good") for n in PICTURES]
LINES = b"".join(caption_line(r, f"Sharp.\n清晰 {r.image}", "toy") for r in REQUESTS)


class Toy:
    name = "toy"

    def __init__(self, answer="Fine."):
        self.answer = answer

    def __call__(self, requests):
        return ((request, self.answer) for request in requests)


@fuzz()
@given(data=bytes_like(LINES))
def test_caption_files(there, data):
    path = put(there, "captions.jsonl", data)
    if (found := read_or_refuse(read_captions, path)) is not None:
        assert all(isinstance(caption, str) for caption in found["caption"])
        check_captions(found)
    read_or_refuse(lambda p: open_requests(REQUESTS, "toy", p), path)
    cut_torn_end(path)
    read_or_refuse(lambda p: write_captions(REQUESTS, Toy(), p, progress=False), path)


@fuzz(30, 400)
@given(
    field=st.sampled_from(["key", "image", "task", "number", "level", "prompt", "caption", "captioner"]),
    value=anything,
)
def test_caption_files_with_other_fields(there, field, value):
    first, *rest = LINES.splitlines(keepends=True)
    path = put(
        there,
        "fields.jsonl",
        json.dumps(json.loads(first) | {field: value}).encode() + b"\n" + b"".join(rest),
    )
    read_or_refuse(read_captions, path)
    read_or_refuse(lambda p: write_captions(REQUESTS, Toy(), p, progress=False), path)


@fuzz(30, 400)
@given(answer=anything)
@example(answer="x" * (2**20 + 1))
@example(answer="half \ud83d")
def test_whatever_a_captioner_says_can_be_read_again(there, answer):
    path = there / "said.jsonl"
    path.unlink(missing_ok=True)
    summary = write_captions(REQUESTS, Toy(answer), path, progress=False)
    assert summary.written == (0 if fault_of(answer) else len(REQUESTS))
    if summary.written:
        assert set(read_captions(path)["caption"]) == {answer}
    else:
        assert summary.failed == len(REQUESTS) and summary.failures.stat().st_size < 10_000


@fuzz(60)
@given(content=anything, shape=st.sampled_from(["content", "message", "choices", "answer"]))
def test_replies_of_servers(content, shape):
    build = {
        "content": lambda: SimpleNamespace(
            choices=[SimpleNamespace(message=SimpleNamespace(content=content))]
        ),
        "message": lambda: SimpleNamespace(choices=[SimpleNamespace(message=content)]),
        "choices": lambda: SimpleNamespace(choices=content),
        "answer": lambda: content,
    }
    try:
        assert text_of(build[shape]()).strip()
    except ValueError as error:
        assert type(error) is ValueError and "expected" in str(error) and len(str(error)) < 1000


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self.server.fault(self)
        except OSError:
            pass  # the client has gone

    def send(self, body, **headers):
        self.send_response(200)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def chat(content):
    return json.dumps({"id": "1", "choices": [{"message": {"content": content}}]}).encode()


def endless(handler):
    handler.send(b'{"id": "')
    while True:
        handler.wfile.write(b"x" * 2**20)


def drip(handler):
    handler.send(b"{")
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


REPLIES = {
    "endless": (endless, "a reply of more than 16777216 bytes"),
    "drip": (drip, "a reply that takes more than 1 s"),
    "packed": (
        lambda h: h.send(gzip.compress(chat("x" * 10**6)), Content_Encoding="gzip"),
        "packed with 'gzip'",
    ),
    "deep": (lambda h: h.send(b"[" * 10**5), "RecursionError"),
    "long": (lambda h: h.send(chat("x" * (2**20 + 1))), "expected at most 1048576 characters"),
    "no Unicode": (lambda h: h.send(b"\xff\xfe\x00"), "a.png: expected a caption"),
    "object": (lambda h: h.send(b'{"choices": {"0": 1}}'), "expected an answer with choices"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_hostile_server_costs_one_caption(tmp_path, monkeypatch, name):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.fault, message = REPLIES[name]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        traffic = Traffic(concurrency=1, retries=0, timeout_s=1)
        captioner = ServerCaptioner(f"http://127.0.0.1:{server.server_port}/v1", "m", traffic=traffic)
        ((_, answer),) = captioner([CaptionRequest(str(tmp_path / "a.png"), "quality", 0, "hi", None)])
    finally:
        server.shutdown()
        server.server_close()
    assert isinstance(answer, BackendError) and message in str(answer) and len(str(answer)) < 1000


columns = st.sampled_from(["image", "caption", "relevance", "captions", "relevant", "extra"])


@fuzz(60)
@given(
    data=st.dictionaries(columns, st.lists(anything, min_size=3, max_size=3), max_size=6),
    k=st.one_of(st.integers(-1, 5), anything),
    weights=st.tuples(st.floats(), st.floats()),
)
@example(
    data={"image": ["a"] * 3, "caption": ["x", "yy", "z"], "relevance": [1, 2, "wide"]},
    k=1,
    weights=(1.0, 1.0),
)
@example(
    data={"image": ["a"] * 3, "caption": ["x", "yy", "z"], "relevance": [10**400] * 3},
    k=1,
    weights=(1e308, 1e308),
)
@example(
    data={"image": [["a"]] * 3, "caption": ["x", "yy", "z"], "relevance": [1.0] * 3}, k=1, weights=(1.0, 1.0)
)
def test_purification(data, k, weights):
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in data.items()})
    for call in (lambda: purify(frame, k, *weights), lambda: comments_of(frame)):
        try:
            call()
        except OWN as error:
            assert type(error) in OWN and str(error), error


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    vision = {"image_size": 16, "patch_size": 8, "width": 8, "layers": 2, "head_width": 8}
    written = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(8, vision, written, quick_gelu=True).eval().requires_grad_(False)
    return Backbone(model, SimpleTokenizer(context_length=16), OPENAI_MEAN, OPENAI_STD, "small", "random")


@pytest.fixture(scope="module")
def grmp(clip, there):
    model = build_model(clip, get_recipe("released", visual_tokens=2), 3)
    save_model(model, there / "grmp.safetensors", seed=1)
    return model


@pytest.fixture(scope="module")
def files(clip, grmp, there):
    "name -> (whole file, its reader)"
    save_uniqa(build_uniqa(clip, crops=2), there / "uniqa.safetensors")
    adapter = MultiCueAdapter(8, 4, "released")
    own = {f"adapter.{k}" if k.startswith("fc") else k: v for k, v in adapter.state_dict().items()}
    torch.save({"params": own}, there / "adapter.pt")
    torch.save(to_released(grmp, meta=True), there / "released.pt")
    torch.save(to_released(grmp, meta=True), there / "released_old.pt", _use_new_zipfile_serialization=False)
    save_file({k: v.clone() for k, v in own.items()}, there / "foreign.safetensors")
    readers = {
        "grmp.safetensors": lambda p: load_model(p, clip),
        "uniqa.safetensors": lambda p: load_uniqa(p, clip),
        "adapter.pt": lambda p: load_released_uniqa(p, clip),
        "released.pt": lambda p: load_released(p, clip, head_width=8),
        "released_old.pt": lambda p: load_released(p, clip, head_width=8),
        "foreign.safetensors": read_foreign,
    }
    return {name: ((there / name).read_bytes(), read) for name, read in readers.items()}


PICTURE = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def score(model):
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            assert model(PICTURE).shape == (1,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "grmp.safetensors",
        "uniqa.safetensors",
        "adapter.pt",
        "released.pt",
        "released_old.pt",
        "foreign.safetensors",
    ],
)
@fuzz(12, 400)
@given(data=st.data())
def test_spoiled_checkpoints(there, files, name, data):
    whole, read = files[name]
    score(read(put(there, f"odd_{name}", whole)))
    path = put(there, f"odd_{name}", data.draw(bytes_like(whole)))
    score(read_or_refuse(read, path))
    if path.suffix == ".safetensors":
        read_or_refuse(read_metadata, path)
        read_or_refuse(load_checkpoint, path)
    read_or_refuse(load_uniqa_weights, path)


def write_raw(path, tensors, header):
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={HEADER_KEY: header}
    )
    return path


@pytest.mark.parametrize("name", ["grmp.safetensors", "uniqa.safetensors"])
@fuzz(40, 400)
@given(data=st.data())
def test_metadata_that_lie(there, files, name, data):
    whole, read = files[name]
    tensors, facts = load_checkpoint(put(there, f"told_{name}", whole))
    place = data.draw(st.sampled_from([facts, facts["recipe"]]))
    key = data.draw(st.one_of(st.sampled_from(sorted(place)), text))
    value = data.draw(anything)
    place[key] = value
    if data.draw(st.booleans()):
        facts.pop(data.draw(st.sampled_from(sorted(facts))))
    try:
        header = json.dumps({"format": 1, "metadata": facts})
    except ValueError:
        return  # a whole number of more than 4300 digits cannot even be written
    path = write_raw(there / f"told_{name}", tensors, header)
    score(read_or_refuse(read, path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["grmp.safetensors", "uniqa.safetensors", "released.pt", "adapter.pt"])
@fuzz(25, 400)
@given(data=st.data())
def test_tensors_that_do_not_fit(there, files, name, data):
    whole, read = files[name]
    path = put(there, f"other_{name}", whole)
    ours = path.suffix == ".safetensors"
    tensors = load_checkpoint(path)[0] if ours else read_foreign(path)
    key = data.draw(st.sampled_from(sorted(tensors)))
    old = tensors[key]
    new = {
        "nan": lambda: old * torch.nan,
        "inf": lambda: old.float() + torch.inf,
        "huge": lambda: old.float() * 1e38,
        "empty": lambda: torch.zeros(0),
        "wide": lambda: torch.zeros(10**9, 0),
        "scalar": lambda: torch.tensor(1.0),
        "flat": lambda: old.flatten(),
        "other": lambda: torch.zeros(data.draw(st.lists(st.integers(0, 6), max_size=5))),
        "whole": lambda: old.nan_to_num().long(),
        "bool": lambda: old > 0,
        "complex": lambda: old + 1j,
        "double": lambda: old.double(),
        "half": lambda: old.half(),
        "none": lambda: None,
    }[
        data.draw(
            st.sampled_from(
                "nan inf huge empty wide scalar flat other whole bool complex double half none".split()
            )
        )
    ]()
    tensors = {n: t for n, t in (tensors | {key: new}).items() if t is not None}
    if data.draw(st.booleans()):
        tensors[data.draw(text.filter(lambda word: word.isprintable() and word))] = torch.zeros(2)
    if ours:
        write_raw(path, tensors, json.dumps({"format": 1, "metadata": read_metadata(path)}))
    else:
        torch.save(tensors, path)
    score(read_or_refuse(read, path))


@fuzz(60)
@given(
    header=st.one_of(
        anything,
        st.fixed_dictionaries(
            {
                "w": st.fixed_dictionaries(
                    {
                        "dtype": text,
                        "shape": st.lists(numbers, max_size=3),
                        "data_offsets": st.lists(numbers, max_size=3),
                    }
                )
            },
            optional={"__metadata__": st.one_of(anything, st.dictionaries(st.just(HEADER_KEY), text))},
        ),
        st.dictionaries(
            st.just("__metadata__"), st.dictionaries(st.just(HEADER_KEY), text, min_size=1), min_size=1
        ),
    ),
    claim=st.sampled_from([0, 1, -1, 2**24, 2**40, 2**63]),
    rest=st.binary(max_size=16),
)
def test_headers_made_by_hand(there, header, claim, rest):
    body = json.dumps(header).encode()
    path = put(there, "hand.safetensors", struct.pack("<Q", max(0, len(body) + claim) % 2**64) + body + rest)
    for read in (read_metadata, load_checkpoint, read_foreign):
        read_or_refuse(read, path)


@pytest.mark.parametrize(
    "kind",
    ["F8_E4M3", "F8_E5M2", "F8_E8M0", "U16", "U32", "U64", "C64", "F4", "F6_E2M3", "BOOL", "I8", "F64", "Q9"],
)
def test_every_kind_of_number(there, kind):
    size = {
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "F8_E8M0": 1,
        "U16": 2,
        "U32": 4,
        "U64": 8,
        "C64": 8,
        "BOOL": 1,
        "I8": 1,
        "F64": 8,
    }.get(kind, 1)
    story = {HEADER_KEY: json.dumps({"format": 1, "metadata": {}})}
    facts = {"w": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}, "__metadata__": story}
    body = json.dumps(facts).encode()
    path = put(there, "kind.safetensors", struct.pack("<Q", len(body)) + body + bytes(2 * size))
    read_or_refuse(load_checkpoint, path)
    read_or_refuse(read_foreign, path)


class Trap:
    "Runs as soon as somebody unpickles it as usual"

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


odd_tensors = st.sampled_from(
    [
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
        lambda: torch.nn.Parameter(torch.zeros(2)),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: torch.zeros(0, 10**9),
        lambda: torch.float32,
        lambda: {"deep": {"deeper": torch.zeros(2)}},
        lambda: torch.zeros(2).as_strided((2**20, 2), (0, 1)),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ]
)


@pytest.mark.filterwarnings("ignore")
@fuzz(40, 1000)
@given(
    key=st.one_of(text, st.integers(), st.tuples(text, text), st.none()),
    value=st.one_of(odd_tensors, anything.map(lambda value: lambda: value)),
    wrap=st.sampled_from([None, "state_dict", "params", "model"]),
    old=st.booleans(),
)
def test_pickles_with_odd_contents(there, key, value, wrap, old):
    content = {key: value(), "w": torch.zeros(2)}
    path, buffer = there / "pickled.pt", io.BytesIO()
    try:
        torch.save({wrap: content} if wrap else content, buffer, _use_new_zipfile_serialization=not old)
    except Exception:  # what PyTorch does not write is no file
        return
    path.write_bytes(buffer.getvalue())
    for read in (read_foreign, load_uniqa_weights, load_released):
        read_or_refuse(read, path)


@pytest.mark.parametrize(
    "write", ["torch", "torch old", "pickle 0", "pickle 2", "pickle 4", "in the key", "in a tensor's story"]
)
def test_no_pickle_runs_code(there, write):
    sprung, path, buffer = there / "sprung", there / "trap.pt", io.BytesIO()
    content = {"w": Trap(sprung)}
    if write == "in the key":
        content = {Trap(sprung): torch.zeros(2)}
    if write == "in a tensor's story":
        content = {"w": torch.nn.Parameter(torch.zeros(2))}
        content["w"].story = Trap(sprung)
    if write.startswith("pickle"):
        buffer.write(pickle.dumps(content, protocol=int(write[-1])))
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=write != "torch old")
    path.write_bytes(buffer.getvalue())
    for read in (read_foreign, load_uniqa_weights, load_released):
        with pytest.raises(ValueError, match="trap.pt"):
            read(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap is a good one
    assert sprung.is_dir()
    sprung.rmdir()


def test_bombs_in_archives(there):
    stored = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, stored)
    with zipfile.ZipFile(stored) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    path = there / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in parts.items():
            bomb.writestr(name, content)
        bomb.writestr("archive/data/1", bytes(10**8))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match="bomb.pt.*compressed, and PyTorch compresses nothing"):
        read_foreign(path)
    with zipfile.ZipFile(path, "w") as bomb:
        for name, content in parts.items():
            bomb.writestr(name, content)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack(
        "<II", 2**31, 2**31
    )  # the last member's size, as the directory states it
    path.write_bytes(data)
    with pytest.raises(ValueError, match="bomb.pt.*its members claim"):
        read_foreign(path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"image_encoder.positional_embedding": (2, 40_000), "image_encoder.conv1.weight": (40_000, 3, 1, 1)},
        {"image_encoder.positional_embedding": (10**9, 0)},
        {"text_encoder.positional_embedding": (16, 0)},
        {"image_encoder.proj": (0, 0)},
        {"prompt_learner2.ctx": (10**10, 0)},
        {"prompt_learner2.ctx": (40_000, 1)},
        {"image_encoder.prompt_embeddings": (1, 10**9, 0)},
        {"image_encoder.deep_prompt_embeddings": (10**6, 2, 1)},
        {"text_encoder.token_embedding.weight": (49408,)},
        {"text_encoder.token_embedding.weight": (49408, 0)},
        {"image_encoder.transformer.resblocks.0.mlp.c_fc.weight": (10**6, 1)},
    ],
    ids=str,
)
def test_a_small_file_cannot_ask_for_a_large_model(there, grmp, clip, sizes):
    tensors = {name.removeprefix("module."): t for name, t in to_released(grmp).items()}
    path = there / "large.pt"
    torch.save(tensors | {name: torch.zeros(shape) for name, shape in sizes.items()}, path)
    with pytest.raises(ValueError, match="large.pt"):
        load_released(path, head_width=8)
    with pytest.raises(ValueError, match="large.pt"):
        load_released(path, clip, head_width=8)


def test_layers_without_number(there, grmp):
    tensors = {name.removeprefix("module."): t for name, t in to_released(grmp).items()}
    many = {f"image_encoder.transformer.resblocks.{n}.x": torch.zeros(1) for n in range(2000)}
    torch.save(tensors | many, there / "deep.pt")
    with pytest.raises(ValueError, match="deep.pt has impossible sizes"):
        load_released(there / "deep.pt", head_width=8)


@pytest.mark.parametrize(
    "read",
    [
        read_metadata,
        load_checkpoint,
        read_foreign,
        read_table,
        read_own,
        read_scores,
        load_released,
        load_uniqa_weights,
        read_captions,
    ],
)
def test_places_that_are_no_files(there, read):
    os.mkfifo(there / "pipe") if not (there / "pipe").exists() else None
    (there / "empty").mkdir(exist_ok=True)
    names = [
        there / "absent",
        there / "pipe",
        there / "empty",
        Path(f"{there}/a\0b"),
        Path(f"{there}/caf\udce9"),
        Path("/dev/zero"),
    ]
    for path in names:
        with pytest.raises(FileNotFoundError) as error:
            read(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "read, name",
    [(load_checkpoint, "x.safetensors"), (read_foreign, "x.safetensors"), (read_foreign, "x.pt")],
)
def test_a_path_that_is_no_unicode(there, files, read, name):
    whole = files["grmp.safetensors" if "safe" in name else "adapter.pt"][0]
    path = put(there, f"caf\udce9 {name}", whole)
    read_or_refuse(read, path)
    path.unlink()


@pytest.mark.parametrize(
    "read, limit",
    [
        (read_table, 2**28),
        (read_scores, 2**28),
        (read_captions, 2**31),
        (load_checkpoint, 2**34),
        (read_foreign, 2**34),
    ],
)
def test_files_over_the_limit_are_not_opened(tmp_path, read, limit):
    path = tmp_path / "large.csv"
    with open(path, "wb") as file:
        try:
            file.truncate(limit + 1)  # a hole, which takes no place on the disk
        except OSError:
            pytest.skip("this disk has no holes in files")
    started = time.monotonic()
    with pytest.raises(ValueError, match=f"large.csv has {limit + 1} bytes, a .* has at most {limit}"):
        read(path)
    assert time.monotonic() - started < 1
