"""The verbs `caption` and `purify`: each once in a process of its own, killed and resumed, with a server that dies, and with wrong words.

They are called through the group that answers wrong input with one line and status 2, as `iqa-repro` does.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import typer
from PIL import Image
from tiny_captioner import make_tiny_captioner
from typer.testing import CliRunner

from iqa_repro.app.cli import ErrorsInOneLine
from iqa_repro.app.cli.captions import caption_pictures, purify_captions
from iqa_repro.captions.files import read_caption_table

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import typer
from iqa_repro.app.cli.captions import caption_pictures, purify_captions
from iqa_repro.app.cli import ErrorsInOneLine
app = typer.Typer(cls=ErrorsInOneLine, add_completion=False, pretty_exceptions_enable=False)
app.command("caption")(caption_pictures)
app.command("purify")(purify_captions)
app()
"""


def process(*words, **options):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CODE, *map(str, words)], env=env, text=True, **options)


def here(*words, status=0):
    app = typer.Typer(cls=ErrorsInOneLine, add_completion=False, pretty_exceptions_enable=False)
    app.command("caption")(caption_pictures)
    app.command("purify")(purify_captions)
    told = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert told.exit_code == status, (told.stdout, told.stderr, told.exception)
    return told.stderr


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def photos(tmp_path):
    "Four pictures in two folders, and their scores"
    for n in range(4):
        place = tmp_path / "photos" / ("old", "new")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + n, 16), (60 * n, 90, 200 - 40 * n)).save(place / f"{n // 2}.png")
    rows = "old/0.png,1.2\nnew/0.png,3.1\nold/1.png,4.9\nnew/1.png,2\n"
    (tmp_path / "photos/labels.csv").write_text("image,mos\n" + rows)
    return tmp_path / "photos"


def test_help_shows_an_example_and_loads_nothing_heavy():
    code = CODE.replace("app()", "") + (
        "from typer.testing import CliRunner\nimport sys\n"
        "for verb in ('caption', 'purify'):\n"
        "    told = CliRunner().invoke(app, [verb, '--help'], env={'COLUMNS': '200'})\n"
        "    assert told.exit_code == 0 and 'such as: iqa-repro ' + verb in told.output, told.output\n"
        "assert not {'torch', 'pandas', 'openai', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60
    )


def test_guided_by_a_table(photos, tmp_path):
    output = tmp_path / "captions.jsonl"
    told = here("caption", photos / "labels.csv", "--low", 1, "--high", 5, "-o", output)
    assert "12 of 12 captions by embedded describer" in told
    levels = {line["image"]: line["level"] for line in lines(output)}
    assert levels == {"old/0.png": "bad", "new/0.png": "fair", "old/1.png": "perfect", "new/1.png": "poor"}
    before = output.read_bytes()
    here("caption", photos / "labels.csv", "--low", 1, "--high", 5, "-o", output)
    assert output.read_bytes() == before
    turned = tmp_path / "turned.jsonl"
    here(
        "caption",
        photos / "labels.csv",
        "--low",
        1,
        "--high",
        5,
        "--lower-better",
        "-o",
        turned,
        "--task",
        "aesthetics",
    )
    assert {line["image"]: line["level"] for line in lines(turned)}["old/0.png"] == "perfect"


def test_names_start_at_the_output_whatever_is_asked_first(photos, tmp_path):
    "Two folders with the same names in them, one after the other into one file"
    output = tmp_path / "captions.jsonl"
    here("caption", photos / "old", "-o", output, "--task", "aesthetics")
    told = here("caption", photos / "old", photos / "new", "-o", output, "--task", "aesthetics")
    assert "4 of 4 captions" in told
    assert sorted(line["image"] for line in lines(output)) == [
        "photos/new/0.png",
        "photos/new/1.png",
        "photos/old/0.png",
        "photos/old/1.png",
    ]
    assert {line["level"] for line in lines(output)} == {None}
    here("caption", photos / "old", "--root", tmp_path, "-o", tmp_path / "b.jsonl", "--task", "aesthetics")
    assert [line["image"] for line in lines(tmp_path / "b.jsonl")] == ["photos/old/0.png", "photos/old/1.png"]


def test_another_seed_is_another_captioner(photos, tmp_path):
    output = tmp_path / "captions.jsonl"
    here("caption", photos, "-o", output)
    told = here("caption", photos, "-o", output, "--seed", 7, status=2)
    assert (
        "holds captions by 'embedded describer 1', these would be by 'embedded describer 1, seed 7'" in told
    )


def test_a_file_of_somebody_elses_is_left_alone(photos, tmp_path):
    output = tmp_path / "notes.jsonl"
    for text in (
        '{"my": "precious data"}',
        "remember the milk",
    ):  # one line without an end: not ours, so not torn
        output.write_text(text)
        assert "is no caption of ours; name another file" in here("caption", photos, "-o", output, status=2)
        assert output.read_text() == text


def test_carriage_returns_in_captions_come_back(photos, tmp_path):
    table = pd.DataFrame({"image": ["old/0.png"] * 2, "caption": ["nice\rcrop", 'a "quoted", longer one']})
    table.to_csv(photos / "comments.csv", index=False, quoting=csv.QUOTE_ALL)
    here("purify", photos / "comments.csv", "--alpha", 0, "-o", tmp_path / "kept.csv")
    assert sorted(read_caption_table(tmp_path / "kept.csv")["caption"]) == sorted(table["caption"])


def test_a_broken_picture_is_a_line_with_its_reason(photos, tmp_path):
    output = tmp_path / "captions.jsonl"
    whole = (photos / "new/1.png").read_bytes()
    (photos / "new/1.png").write_bytes(whole[:40])
    told = here("caption", photos, "-o", output, status=1)
    assert "9 of 12 captions" in told and "3 failed" in told
    failed = lines(tmp_path / "captions.failed.jsonl")
    assert len(failed) == 3 and all(
        "new/1.png cannot be read as a picture" in line["error"] for line in failed
    )
    (photos / "new/1.png").write_bytes(whole)
    here("caption", photos, "-o", output)
    assert len(lines(output)) == 12 and not (tmp_path / "captions.failed.jsonl").exists()


def test_killed_and_resumed(tmp_path):
    (tmp_path / "many").mkdir()
    for n in range(40):
        Image.effect_noise((300, 260), 40 + n).save(tmp_path / "many" / f"{n:02d}.png")
    output = tmp_path / "captions.jsonl"
    child = process("caption", tmp_path / "many", "-o", output, stderr=subprocess.DEVNULL)
    while child.poll() is None and (not output.exists() or not output.stat().st_size):
        time.sleep(0.005)
    child.kill()
    assert child.wait(60) == -signal.SIGKILL and 0 < len(output.read_bytes().splitlines()) < 120
    told = here("caption", tmp_path / "many", "-o", output)
    assert "120 of 120" in told and len({line["key"] for line in lines(output)}) == 120
    here("caption", tmp_path / "many", "-o", tmp_path / "once.jsonl")
    said = lambda path: sorted((line["key"], line["caption"]) for line in lines(path))
    assert said(output) == said(tmp_path / "once.jsonl")


@pytest.mark.parametrize(
    "words, says",
    [
        (["labels.csv"], "give --low and --high, or --no-guide"),
        (["labels.csv", "--low", 5, "--high", 1], "a score range needs low < high"),
        (["labels.csv", "--low", 2, "--high", 5], "scores lie outside the published range 2.0 … 5.0"),
        (["labels.csv", "old", "--no-guide"], "give one table of labels, or pictures"),
        (["none.csv", "--no-guide"], "no table at"),
        (["old", "--low", 1, "--high", 5], "give a CSV with image,mos"),
        (["old", "--task", "beauty"], "no task 'beauty'; there are ['aesthetics', 'quality']"),
        (["old", "--captioner", "descrbe"], "no captioner 'descrbe', did you mean 'describe'?"),
        (
            ["old", "--url", "http://127.0.0.1:8000/v1"],
            "--captioner describe takes neither --url nor --model",
        ),
        (["old", "--captioner", "server", "--model", "m"], "--captioner server takes --url and --model"),
        (
            ["old", "--captioner", "server", "--url", "localhost", "--model", "m"],
            "must begin with http:// or https://",
        ),
        (["old", "--captioner", "local", "--model", "old"], "no image-text-to-text model at"),
        (["old", "-o", "captions.csv"], "to a file that ends in .jsonl, got captions.csv"),
    ],
    ids=lambda value: "_".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_words_for_caption(photos, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(photos)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = words if "-o" in words else [*words, "-o", tmp_path / "out.jsonl"]
    told = here("caption", *words, status=2)
    assert told.startswith("error: ") and told.count("\n") == 1 and says in told
    assert not list(tmp_path.glob("*.jsonl")) and not list(photos.glob("*.jsonl"))


def test_another_captioners_file_is_refused(photos, tmp_path):
    output = tmp_path / "captions.jsonl"
    here("caption", photos, "-o", output)
    model = ["--captioner", "server", "--url", "http://127.0.0.1:9/v1", "--model", "llava"]
    told = here("caption", photos, "-o", output, *model, status=2)
    assert "holds captions by 'embedded describer 1', these would be by 'llava (server" in told
    output.write_text("not a caption\n")
    assert "line 1 is no JSON of ours" in here("caption", photos, "-o", output, status=2)


def test_a_model_in_this_process(photos, tmp_path):
    model, output = make_tiny_captioner(tmp_path / "tiny-llava"), tmp_path / "captions.jsonl"
    words = ["--captioner", "local", "--model", model, "--device", "cpu", "--max-tokens", 8]
    told = here("caption", photos / "old", "-o", output, "--task", "aesthetics", *words)
    assert "2 of 2 captions by tiny-llava (local, float32, greedy, at most 8 tokens)" in told
    assert all(line["caption"] for line in lines(output))


class Handler(BaseHTTPRequestHandler):
    "Speaks as much of OpenAI's chat protocol as the client reads; after `server.good` answers it knows the model no more"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture, prompt = asked["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        self.server.seen.append((asked["model"], prompt["text"], self.headers["Authorization"]))
        good = len(self.server.seen) <= self.server.good
        message = {"role": "assistant", "content": f"Caption {len(self.server.seen)}."}
        reply = {"choices": [{"index": 0, "message": message}]} if good else {"error": {"message": "gone"}}
        body = json.dumps(reply).encode()
        self.send_response(200 if good else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_server_that_goes_away_and_comes_back(photos, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.good = [], 0
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    output, url = tmp_path / "captions.jsonl", f"http://127.0.0.1:{server.server_port}/v1"
    words = ["caption", photos, "-o", output, "--captioner", "server", "--url", url, "--model", "llava"]
    try:
        told = here(*words, status=2)  # nothing was written
        assert "gave up after" in told and "gone" in told and not output.read_bytes()
        server.seen.clear()
        server.good = 5
        assert "gave up after" in here(*words, status=1)  # some were
        assert len(lines(output)) == 5
        server.good = 10**6
        assert "12 of 12 captions by llava (server" in here(*words)
    finally:
        server.shutdown()
        server.server_close()
    assert len(lines(output)) == 12 and {line["captioner"] for line in lines(output)} == {
        "llava (server, greedy, at most 256 tokens)"
    }
    assert {seen[::2] for seen in server.seen} == {("llava", "Bearer sk-secret")}
    assert "sk-secret" not in output.read_text() + told


# --- purify ----------------------------------------------------------------------------------------------------------


def comments(folder, extra=None):
    rows = [
        (f"{place}/{n}.png", words)
        for place in ("old", "new")
        for n in (0, 1)
        for words in ("Nice.", "Sharp and clear.", 'I own, the same "camera", too; thanks!\nReally.')
    ]
    table = pd.DataFrame(rows, columns=["image", "caption"])
    (table if extra is None else table.assign(**extra)).to_csv(folder / "comments.csv", index=False)
    return folder / "comments.csv"


def test_purified_by_a_clip(photos, tmp_path):
    told = here("purify", comments(photos), "-k", 2, "-o", tmp_path / "kept.csv")
    assert "8 of 12 captions of 4 pictures, by CLIP tiny, embedded (demonstration weights)" in told
    kept = pd.read_csv(tmp_path / "kept.csv")
    assert (
        list(kept) == ["image", "caption", "relevance", "air"]
        and kept.groupby("image").size().tolist() == [2] * 4
    )
    here("purify", comments(photos), "-k", 2, "-o", tmp_path / "kept.jsonl")
    again = pd.read_json(tmp_path / "kept.jsonl", lines=True)
    assert again["caption"].tolist() == kept["caption"].tolist()


def test_purified_without_looking(tmp_path):
    path = comments(tmp_path, {"relevance": [3, 2, 1] * 4, "who": "x"})
    here("purify", path, "-k", 1, "--beta", 0, "-o", tmp_path / "kept.csv")
    kept = pd.read_csv(tmp_path / "kept.csv")
    assert set(kept["caption"]) == {"Nice."} and set(kept["who"]) == {"x"}
    told = here("purify", comments(tmp_path), "-k", 1, "--alpha", 0, "-o", tmp_path / "kept.csv")
    assert (
        "by length alone" in told
        and pd.read_csv(tmp_path / "kept.csv")["caption"].str.contains("camera").all()
    )


def test_captions_of_the_first_verb_go_into_the_second(photos, tmp_path):
    here("caption", photos / "labels.csv", "--low", 1, "--high", 5, "-o", tmp_path / "captions.jsonl")
    told = here(
        "purify", tmp_path / "captions.jsonl", "-k", 1, "--root", photos, "-o", tmp_path / "kept.jsonl"
    )
    kept = pd.read_json(tmp_path / "kept.jsonl", lines=True)
    assert "4 of 12 captions" in told and kept["air"].tolist() == [1] * 4


@pytest.mark.parametrize(
    "words, says",
    [
        (["none.csv"], "no caption table at none.csv; it should be a CSV with the columns image,caption"),
        (["labels.csv"], "the table lacks the columns ['caption']"),
        (["comments.csv", "-o", "kept.txt"], "written as .csv or .jsonl, got kept.txt"),
        (["comments.csv", "-k", 0, "--alpha", 0], "k must be an integer ≥ 1, got 0"),
        (["comments.csv", "--alpha", -1], "alpha and beta must be finite, ≥ 0"),
        (["comments.csv", "--alpha", "nan"], "alpha and beta must be finite, ≥ 0"),
        (["comments.csv", "--root", "/nowhere"], "4 of 4 pictures are not there"),
        (["comments.csv", "--clip", "ViT-B-61"], "unknown CLIP model 'ViT-B-61'"),
        (["comments.csv", "--clip", "ViT-B-16", "--pretrained", "embedded"], "belongs to name='tiny'"),
        (["comments.csv", "--weights", "labels.csv"], "labels.csv"),
        (["comments.csv", "--weights", "none.pt"], "no checkpoint at none.pt"),
        (["comments.csv", "--weights", "none.pt", "--pretrained", "openai"], "give one of them"),
        (["odd.csv"], "1 of 1 relevances are no finite numbers"),
        (["torn.jsonl"], "no captions in torn.jsonl"),
    ],
    ids=lambda value: "_".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_words_for_purify(photos, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(photos)
    comments(photos)
    (photos / "odd.csv").write_text("image,caption,relevance\na.png,Good.,much\n")
    (photos / "torn.jsonl").write_text('{"key": ')
    words = words if "-o" in words else [*words, "-o", tmp_path / "out.csv"]
    told = here("purify", *words, status=2)
    assert told.splitlines()[-1].startswith("error: ") and says in told.splitlines()[-1]
    assert not (tmp_path / "out.csv").exists()
