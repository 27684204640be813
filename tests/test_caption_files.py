"A captioning job that is killed, starved of disk or started twice: nothing lost, repeated or half-written."

import multiprocessing
import os
import random
import resource
import signal
import time
import tracemalloc

import pytest

from iqa_repro.captions.files import caption_lines, only_writer, read_captions, write_captions
from iqa_repro.captions.instructions import CaptionRequest

KILLS = 12
# children of a process that has made the imports, but has no threads as this one may have: a fork would copy their locks
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["iqa_repro.captions.files"])


def run(requests, captioner, path):
    return CLEAN.Process(target=write_captions, args=(requests, captioner, path, False), daemon=True)


def make_requests(n):
    return [CaptionRequest(f"{i}.jpg", "quality", 0, f"Describe picture {i}.", "fair") for i in range(n)]


class Toy:
    "Captions of several lines and scripts, in an order that depends on the keys; notes what it was asked"

    name = "toy"

    def __init__(self, asked, seconds=0.0, broken=()):
        self.asked, self.seconds, self.broken = asked, seconds, broken

    def __call__(self, requests):
        for request in sorted(requests, key=lambda request: request.key[::-1]):
            with open(self.asked, "a", errors="backslashreplace") as file:
                file.write(request.image + "\n")
            time.sleep(self.seconds)
            yield request, OSError("torn") if request.image in self.broken else caption(request)


def caption(request):
    draw = random.Random(ascii(request.key))
    return "\n".join("".join(draw.choices('ab é清👍\\"\t', k=draw.randrange(1, 900))) for _ in range(2)) + "."


def captions(path):
    return sorted((line["key"], line["caption"]) for line in caption_lines(path))


@pytest.mark.parametrize("power_cut", [False, True])
def test_killed_at_random_moments(tmp_path, power_cut):
    requests, draw, kills = make_requests(400), random.Random(power_cut), 0
    path, asked = tmp_path / "captions.jsonl", tmp_path / "asked.txt"
    broken = {"7.jpg", "99.jpg"}
    for _ in range(KILLS):
        before = path.read_bytes() if path.exists() else b""
        child = run(requests, Toy(asked, 0.002, broken), path)
        child.start()
        while child.is_alive() and (not path.exists() or path.stat().st_size == len(before)):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        child.join(60)
        kills += child.exitcode == -signal.SIGKILL
        after = path.read_bytes()
        assert after.startswith(before[: before.rfind(b"\n") + 1])  # what was whole is never written again
        if power_cut:  # the disk lacks the end of what the job had handed over
            path.write_bytes(after[: max(len(after) - draw.randrange(3000), 0)])
    assert kills > KILLS / 2  # the others came after the end
    write_captions(requests, Toy(asked, 0, broken), path, progress=False)
    assert len(captions(path)) == 398
    if not power_cut:  # the caption under way at a kill is asked again, and the broken pictures in each run
        names = [name for name in asked.read_text().splitlines() if name not in broken]
        assert len(names) <= 398 + kills
    summary = write_captions(requests, Toy(asked), path, progress=False)
    assert (summary.present, summary.written, summary.failed) == (398, 2, 0)
    undisturbed = tmp_path / "undisturbed.jsonl"
    write_captions(requests, Toy(asked), undisturbed, progress=False)
    assert captions(path) == captions(undisturbed) == sorted((r.key, caption(r)) for r in requests)
    assert read_captions(path).equals(read_captions(undisturbed))


def write_on_a_full_disk(requests, captioner, path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a write then ends in the middle of a line
    try:
        write_captions(requests, captioner, path, progress=False)
    except OSError:
        os._exit(7)


def test_a_full_disk_stops_the_job_and_costs_nothing(tmp_path):
    requests, path, asked = make_requests(40), tmp_path / "captions.jsonl", tmp_path / "asked.txt"

    child = CLEAN.Process(target=write_on_a_full_disk, args=(requests, Toy(asked), path), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 7 and path.stat().st_size == 20_000 and not path.read_bytes().endswith(b"\n")
    present = len(captions(path))
    summary = write_captions(requests, Toy(asked), path, progress=False)
    assert 0 < present < 40 and (summary.present, summary.written) == (present, 40 - present)
    assert captions(path) == sorted((r.key, caption(r)) for r in requests)


def test_a_second_process_is_refused_and_a_dead_one_does_not_block(tmp_path):
    requests, path, asked = make_requests(50), tmp_path / "captions.jsonl", tmp_path / "asked.txt"
    child = run(requests, Toy(asked, 0.5), path)
    child.start()
    while child.is_alive() and not asked.exists():
        time.sleep(0.01)
    with pytest.raises(
        RuntimeError, match=f"captions.jsonl is being written by process {child.pid} on .* since 2"
    ):
        write_captions(requests, Toy(asked), path, progress=False)
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert write_captions(requests, Toy(asked), path, progress=False).failed == 0
    assert len(captions(path)) == 50
    with only_writer(path):
        pass


def test_answers_are_not_kept_in_memory(tmp_path):
    class Long(Toy):
        def __call__(self, requests):
            return ((request, request.key + "x" * 200_000) for request in requests)

    requests, path = make_requests(300), tmp_path / "captions.jsonl"
    write_captions(requests[:1], Long(None), path, progress=False)
    tracemalloc.start()
    try:
        write_captions(requests, Long(None), path, progress=False)  # 60 MB
        assert write_captions(requests, Long(None), path, progress=False).present == 300  # read once
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 60e6


def test_a_picture_whose_name_is_no_unicode_is_one_failure(tmp_path):
    requests = [*make_requests(2), CaptionRequest("caf\udce9.jpg", "quality", 0, "Describe.", "fair")]
    summary = write_captions(requests, Toy(os.devnull), tmp_path / "captions.jsonl", progress=False)
    assert (summary.written, summary.failed) == (2, 1)
    assert "expected valid Unicode" in summary.failures.read_text()
