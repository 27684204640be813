"The server back end against a real server process, and against that server behind a proxy that misbehaves on command."

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import torch
from tiny_captioner import make_tiny_captioner

from iqa_repro.captions.captioners import BackendError, Decoding, LocalCaptioner, ServerCaptioner, Traffic
from iqa_repro.captions.files import caption_lines, read_captions, write_captions
from iqa_repro.captions.instructions import CaptionRequest
from iqa_repro.data.images import write_image

SHORT = Decoding(max_tokens=8)
QUICK = dict(concurrency=4, retries=1, timeout_s=20)


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "(address, model) of `transformers serve` on loopback with the tiny captioner, ended afterwards"
    folder = tmp_path_factory.mktemp("server")
    model = str(make_tiny_captioner(folder / "tiny-llava"))
    (folder / "hf" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu"]
    env = os.environ | dict(HF_HUB_OFFLINE="1", HF_HOME=str(folder / "hf"), OMP_NUM_THREADS="1")
    with pytest.MonkeyPatch.context() as patch, open(folder / "log.txt", "wb") as log:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process, folder / "log.txt")
            yield f"http://127.0.0.1:{port}/v1", model
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_healthy(url, process, log, seconds=180):
    for _ in range(2 * seconds):
        try:
            with urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            pass
        assert process.poll() is None, (
            f"the server ended with {process.returncode}:\n{log.read_text()[-2000:]}"
        )
        time.sleep(0.5)
    raise TimeoutError(f"no answer from {url} in {seconds} s:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    "Six pictures, two prompts each"
    folder = tmp_path_factory.mktemp("pictures")
    draw = torch.Generator().manual_seed(0)
    for i in range(6):
        write_image(folder / f"{i}.png", torch.rand(3, 1, 1, generator=draw).expand(3, 30 + i, 40))
    prompts = ["describe this photo", "what is the quality ?"]
    return [
        CaptionRequest(str(folder / f"{i}.png"), "quality", n, f"{prompt} {i}", None)
        for i in range(6)
        for n, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def expected(server, requests):
    "What the real server answers undisturbed"
    return dict(ServerCaptioner(*server, decoding=SHORT, traffic=Traffic(**QUICK))(requests))


def test_real_server_answers_as_the_local_model(server, requests, expected):
    assert set(expected) == set(requests) and all(isinstance(text, str) for text in expected.values())
    assert len(set(expected.values())) > 3  # the pictures matter
    one = ServerCaptioner(*server, decoding=SHORT, traffic=Traffic(concurrency=1))
    assert list(one(requests[:3])) == [(request, expected[request]) for request in requests[:3]]
    assert dict(LocalCaptioner(server[1], device="cpu", decoding=SHORT)(requests)) == expected


def test_real_server_refuses_another_model(server, requests):
    wrong = ServerCaptioner(server[0], "gpt-9", traffic=Traffic(concurrency=2, retries=5, patience=4))
    answers = []
    with pytest.raises(RuntimeError, match=r"gave up after 4 failure.*'gpt-9'.*pinned to"):
        for pair in wrong(requests):
            answers.append(pair)
    assert len(answers) <= 6 and all(isinstance(answer, BackendError) for _, answer in answers)


def test_real_server_without_the_v1(server, requests):
    wrong = ServerCaptioner(server[0].removesuffix("/v1"), server[1], traffic=Traffic(concurrency=1))
    with pytest.raises(RuntimeError, match="gave up after 1 failure.*does base_url end in /v1"):
        list(wrong(requests))


# --- a proxy that misbehaves -----------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        prompt = json.loads(body)["messages"][0]["content"][1]["text"]
        proxy = self.server
        with proxy.lock:
            attempt, proxy.seen[prompt] = proxy.seen[prompt], proxy.seen[prompt] + 1
            proxy.busy += 1
            proxy.peak = max(proxy.peak, proxy.busy)
            proxy.moments.append(time.monotonic())
        try:
            fault = proxy.fault(prompt, attempt)
            fault(self) if fault else self.forward(body)
        except OSError:
            pass  # the client has gone
        finally:
            with proxy.lock:
                proxy.busy -= 1

    def forward(self, body):
        connection = http.client.HTTPConnection(self.server.target.netloc, timeout=30)
        connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.reply(answer.status, answer.read(), {"Content-Type": answer.getheader("Content-Type")})
        connection.close()

    def reply(self, status, body, headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Proxy(ThreadingHTTPServer):
    "The real server, but `fault(prompt, attempt)` may give something else to do with a request"

    def __init__(self, target, fault=lambda prompt, attempt: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.fault = urlsplit(target), fault
        self.lock, self.seen, self.busy, self.peak, self.moments = threading.Lock(), Counter(), 0, 0, []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def die(self):
        self.shutdown()
        self.server_close()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server[0])
    yield proxy
    proxy.die()


def reply(status, body, **headers):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    kind = "text/html" if isinstance(body, str) else "application/json"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(status, data, {"Content-Type": kind} | names)


def chat(content):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return reply(
        200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    )


def torn(handler):
    "The connection ends in the middle of the answer"
    handler.reply(200, b'{"id": "1", "choi', {"Content-Type": "application/json", "Content-Length": "900"})


FAULTS = {
    "429": (reply(429, {"error": {"message": "slow down"}}), "RateLimitError.*429.*slow down"),
    "500": (reply(500, "Internal Server Error"), "InternalServerError.*Internal Server Error"),
    "400": (reply(400, {"error": {"message": "picture too large"}}), "BadRequestError.*picture too large"),
    "slow": (lambda handler: time.sleep(6), "APITimeoutError"),
    "hangs up": (lambda handler: None, "APIConnectionError"),
    "torn": (torn, "APIConnectionError"),
    "empty": (chat(" \n"), "expected a caption, got the empty text"),
    "nothing": (chat(None), "expected a caption, got the empty text None"),
    "number": (chat(7), "expected text, got 7"),
    "no choices": (reply(200, {"choices": []}), "expected an answer with choices"),
    "other json": (reply(200, {"caption": "a cat"}), "expected an answer with choices.*a cat"),
    "list": (reply(200, [1, 2]), "expected an answer with choices"),
    "page": (reply(200, "<html>busy</html>"), "expected an answer with choices.*busy"),
    "bad json": (
        lambda h: h.reply(200, b"{", {"Content-Type": "application/json"}),
        "JSONDecodeError|Expecting",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_misbehaviour_costs_one_caption(proxy, server, requests, expected, name):
    fault, message = FAULTS[name]
    proxy.fault = lambda prompt, attempt: fault if prompt == requests[2].prompt else None
    traffic = Traffic(**QUICK | dict(timeout_s=2.5 if name == "slow" else 20))
    got = dict(ServerCaptioner(proxy.url, server[1], decoding=SHORT, traffic=traffic)(requests[:6]))
    failure = got.pop(requests[2])
    assert isinstance(failure, BackendError) and not failure.for_all
    assert requests[2].image in str(failure) and proxy.url in str(failure)
    assert re.search(message, str(failure), re.DOTALL), str(failure)
    assert got == {request: expected[request] for request in requests[:6] if request is not requests[2]}
    assert proxy.seen[requests[2].prompt] == (
        1 if name == "400" else 2
    )  # asked again, unless that is useless


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "400"])
def test_a_passing_misbehaviour_costs_nothing(proxy, server, requests, expected, name):
    fault, _ = FAULTS[name]
    proxy.fault = lambda prompt, attempt: fault if attempt == 0 else None
    traffic = Traffic(**QUICK | dict(timeout_s=2.5 if name == "slow" else 20))
    got = dict(ServerCaptioner(proxy.url, server[1], decoding=SHORT, traffic=traffic)(requests[:4]))
    assert got == {request: expected[request] for request in requests[:4]}
    assert set(proxy.seen.values()) == {2}


def test_retry_after_is_honoured(proxy, server, requests, expected):
    busy = reply(429, {"error": {"message": "slow down"}}, Retry_After="2")
    proxy.fault = lambda prompt, attempt: busy if attempt == 0 else None
    captioner = ServerCaptioner(proxy.url, server[1], decoding=SHORT, traffic=Traffic(**QUICK))
    assert list(captioner(requests[:1])) == [(requests[0], expected[requests[0]])]
    first, second = proxy.moments
    assert second - first >= 2  # without the header it would be half a second


def test_a_server_that_wants_an_hour_is_not_waited_for(proxy, server, requests):
    proxy.fault = lambda prompt, attempt: reply(429, {"error": {"message": "quota"}}, Retry_After="3600")
    traffic = Traffic(concurrency=1, retries=5, patience=3)
    with pytest.raises(RuntimeError, match="gave up after 3 failure.*RateLimitError 429: .*quota"):
        list(ServerCaptioner(proxy.url, server[1], traffic=traffic)(requests))
    assert len(proxy.moments) == 3


def test_requests_per_minute_count_repetitions(proxy, server, requests):
    proxy.fault = lambda prompt, attempt: reply(500, "no") if attempt == 0 else None
    traffic = Traffic(**QUICK | dict(requests_per_minute=240))
    got = dict(ServerCaptioner(proxy.url, server[1], decoding=SHORT, traffic=traffic)(requests[:4]))
    assert all(isinstance(text, str) for text in got.values()) and len(proxy.moments) == 8
    assert max(proxy.moments) - min(proxy.moments) >= 7 * 0.25 - 0.1


def test_never_more_requests_or_pictures_than_allowed(proxy, server, requests):
    proxy.fault = lambda prompt, attempt: time.sleep(0.1)
    taken, answered = [], 0
    captioner = ServerCaptioner(
        proxy.url, server[1], decoding=SHORT, traffic=Traffic(**QUICK | dict(concurrency=3))
    )
    for _ in captioner(taken.append(request) or request for request in requests):
        answered += 1
        assert len(taken) - answered <= 3
    assert answered == len(requests) and proxy.peak == 3


def test_a_broken_picture_is_not_sent(proxy, server, requests, expected, tmp_path):
    (tmp_path / "torn.png").write_bytes(Path(requests[0].image).read_bytes()[:60])
    bad = [
        CaptionRequest(str(tmp_path / name), "quality", 0, "bad", None) for name in ("torn.png", "none.png")
    ]
    captioner = ServerCaptioner(
        proxy.url, server[1], decoding=SHORT, traffic=Traffic(**QUICK | dict(patience=1))
    )
    got = dict(captioner([*bad, requests[0]]))
    assert [type(got[request]) for request in bad] == [ValueError, FileNotFoundError]
    assert got[requests[0]] == expected[requests[0]] and set(proxy.seen) == {requests[0].prompt}


def test_a_wrong_key_stops_at_once(proxy, server, requests, expected):
    "Three answers are there when the key is withdrawn; those under way are passed on"
    refused = reply(401, {"error": {"message": "no such key"}})
    early = {request.prompt for request in requests[:3]}
    proxy.fault = lambda prompt, attempt: None if prompt in early else refused
    captioner = ServerCaptioner(
        proxy.url, server[1], "sk-secret", SHORT, Traffic(**QUICK | dict(concurrency=2))
    )
    got = {}
    with pytest.raises(RuntimeError, match="no such key.*Set api_key") as error:
        for request, answer in captioner(requests):
            got[request] = answer
    good = {request: answer for request, answer in got.items() if isinstance(answer, str)}
    assert good == {request: expected[request] for request in requests[:3]} and len(got) <= 5
    assert "sk-secret" not in str(error.value) + captioner.name


# --- the whole job ---------------------------------------------------------------------------------------------------


def test_a_server_that_dies_half_way_costs_nothing(server, requests, expected, tmp_path):
    class Dying(ServerCaptioner):
        def __call__(self, todo):
            for count, pair in enumerate(super().__call__(todo)):
                if count == 4:
                    proxy.die()
                yield pair

    path, traffic = tmp_path / "captions.jsonl", Traffic(concurrency=2, retries=0, patience=3)
    proxy = Proxy(server[0])
    with pytest.raises(RuntimeError, match="gave up after 3 failure.*Connection error"):
        write_captions(
            requests, Dying(proxy.url, server[1], decoding=SHORT, traffic=traffic), path, progress=False
        )
    before = list(caption_lines(path))
    assert 5 <= len(before) <= 7
    proxy = Proxy(server[0])  # up again, at another address
    captioner = ServerCaptioner(proxy.url, server[1], decoding=SHORT, traffic=traffic)
    summary = write_captions(requests, captioner, path, progress=False)
    proxy.die()
    assert (summary.present, summary.written, summary.failed) == (len(before), 12 - len(before), 0)
    assert sum(proxy.seen.values()) == summary.written  # nothing was asked twice
    lines = list(caption_lines(path))
    assert lines[: len(before)] == before
    assert {line["key"]: line["caption"] for line in lines} == {r.key: text for r, text in expected.items()}
    assert len(read_captions(path)) == 12
