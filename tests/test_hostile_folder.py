"""A folder in which everything is wrong that can be: it is scored to its end, and every file gets what it deserves.

Scored by the real command in a process of its own, once; the tests look at what it wrote.
"""

import csv
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iqa_repro.app.scorer import load
from iqa_repro.app.scoring import find_pictures, read_scores, score_files
from iqa_repro.data.world.photographs import cut_scene

ROOT = Path(__file__).resolve().parent.parent
PHOTO = Image.fromarray((255 * cut_scene("flower", seed=0, size=96)).round().astype(np.uint8))


def png_of(width, height):
    "A PNG that says it is as large as one likes, in a hundred bytes"

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def build(folder):
    "Files by what should become of them: name -> None (a score), or words of the reason"
    whole = folder / "whole.png"
    PHOTO.save(whole)
    exif = Image.Exif()
    exif[0x0112] = 6
    PHOTO.save(folder / "turned.jpg", exif=exif)
    PHOTO.convert("CMYK").save(folder / "ink.jpg")
    PHOTO.quantize(16).save(folder / "palette.png", transparency=3)
    PHOTO.convert("L").save(folder / "grey.bmp")
    Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    PHOTO.save(folder / "moving.gif", save_all=True, append_images=[PHOTO.rotate(90), PHOTO.rotate(180)])
    PHOTO.save(folder / "pages.tiff", save_all=True, append_images=[PHOTO.rotate(90)])
    PHOTO.crop((0, 0, 1, 1)).save(folder / "dot.png")
    (folder / "really_a.jpg").write_bytes(whole.read_bytes())  # a PNG
    (folder / 'new\nline, "quoted" ☃.png').write_bytes(whole.read_bytes())
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write(whole.read_bytes())
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "inside.PNG").write_bytes(whole.read_bytes())
    (folder / "deep" / "up").symlink_to(folder)  # a loop of folders
    (folder / "link.png").symlink_to(whole)

    good = sorted(path for path in find_pictures([folder]) if not path.endswith("loop.png"))
    PHOTO.save(folder / "cut.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "cut.png").write_bytes(whole.read_bytes()[:3000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "strip.png").write_bytes(b"")
    Image.new("RGB", (30_000, 2)).save(folder / "strip.png")
    (folder / "bomb.png").write_bytes(png_of(20_000, 20_000))
    (folder / "lie.png").write_bytes(png_of(400, 300))
    (folder / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (folder / "new.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(64))
    (folder / "float.tiff").write_bytes(b"")
    Image.new("F", (20, 20), 0.5).save(folder / "float.tiff")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    bad = {
        "cut.jpg": "truncated",
        "cut.png": "cannot be read",
        "empty.png": "0 bytes",
        "text.jpg": "no known format",
        "strip.png": "over the limit of 1:100",
        "bomb.png": "limit",
        "lie.png": "cannot be read",
        "drawing.png": "no known format",
        "phone.heic": "",
        "new.avif": "",
        "float.tiff": "no stated white",
        "gone.png": "no picture at",
        "loop.png": "no picture at",
        "pipe.png": "no picture at",
    }
    return good, bad


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    good, bad = build(folder)
    target = tmp_path_factory.mktemp("out") / "scores.csv"
    call = [sys.executable, "-c", "from iqa_repro.app.cli import main; main()", "score", folder, "-o", target]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, cwd=ROOT)
    return folder, good, bad, target, done


def test_the_run_ends_and_says_what_came_of_it(scored):
    _, good, bad, target, done = scored
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"{len(good)} of {len(good) + len(bad)} pictures scored" in done.stderr
    assert f"{len(bad)} could not be scored" in done.stderr and "demonstration weights" in done.stderr
    with open(target, newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert len(list(csv.reader(file))) == 1 + len(good) + len(bad)  # whatever stands in a name


def test_every_file_gets_what_it_deserves(scored):
    folder, good, bad, target, _ = scored
    rows = {row.path: row for row in read_scores(target).itertuples()}
    assert rows.keys() == {*good, *(str(folder / name) for name in bad)}
    for path in good:
        assert 0 <= rows[path].score <= 1 and rows[path].error == "", ascii(path)
    for name, words in bad.items():
        row = rows[str(folder / name)]
        assert np.isnan(row.score) and words in row.error and len(row.error) > 20, (name, row.error)
        assert "\n" not in row.error and len(row.error) < 1000


def test_the_same_pixels_have_the_same_score_and_the_library_gives_it_too(scored):
    folder, _, _, target, _ = scored
    rows = dict(zip((table := read_scores(target)).path, table.score, strict=True))
    same = [
        path
        for path in rows
        if path.endswith(("whole.png", "really_a.jpg", "☃.png", "inside.PNG", "link.png")) or "caf" in path
    ]
    assert len(same) == 6 and len({rows[path] for path in same}) == 1
    names = [
        "whole.png",
        "turned.jpg",
        "ink.jpg",
        "palette.png",
        "grey.bmp",
        "deep.png",
        "moving.gif",
        "pages.tiff",
        "dot.png",
    ]
    scorer = load("clipiqa")
    together = scorer([folder / name for name in names])
    for name, score in zip(names, together.tolist(), strict=True):
        assert abs(rows[str(folder / name)] - score) < 1e-5, name
        assert abs(scorer(Image.open(folder / name)).item() - score) < 1e-5, name
        assert scorer(folder / name).item() == scorer(folder / name).item()
    assert len({round(score, 6) for score in together.tolist()}) > 5  # and it looks at them


def test_files_that_vanish_or_are_replaced_meanwhile(tmp_path):
    for number in range(12):
        PHOTO.crop((number, 0, number + 60, 60)).save(tmp_path / f"{number:02}.png")
    paths = find_pictures([tmp_path])

    def disturb(done):
        (tmp_path / "10.png").unlink(missing_ok=True)
        (tmp_path / "11.png").write_bytes(b"")

    count = score_files(load("clipiqa", batch=2), paths, tmp_path / "scores.csv", disturb)
    table = read_scores(tmp_path / "scores.csv")
    assert count == (10, 2) and table.path.tolist() == paths
    assert "no picture at" in table.error[10] and "0 bytes" in table.error[11]


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody with fewer rights"
)
def test_files_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        secret = Path(folder, "secret.png")
        PHOTO.save(secret)
        os.chmod(secret, 0)
        os.makedirs(closed := Path(folder, "closed"))
        PHOTO.save(closed / "in.png")
        os.chmod(closed, 0)
        code = (
            "import os, sys; from iqa_repro.app.scoring import _read, Scorer; from threading import Lock; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "for path in sys.argv[1:]: print(_read(Scorer, Lock(), path)[2])"
        )
        call = [sys.executable, "-c", code, secret, closed / "in.png"]
        told = subprocess.run(call, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert told.returncode == 0 and told.stdout.count("ermission denied") == 2, told.stdout + told.stderr


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    "Tensors alive at the end of each portion; ten thousand pictures are in the benchmark"
    for number in range(60):
        PHOTO.resize((300, 200)).save(tmp_path / f"{number:02}.jpg")
    alive = []

    def count(done):
        import gc

        alive.append(sum(one.numel() for one in gc.get_objects() if isinstance(one, torch.Tensor)))

    score_files(load("clipiqa", batch=4), find_pictures([tmp_path]), tmp_path / "scores.csv", count)
    assert len(alive) == 16 and max(alive[2:]) <= alive[1] + 16 * 3 * 48 * 48
