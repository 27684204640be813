"""Every experiment under the `full` profile without any of the real things: miniatures of the data sets and random weights.

`python tests/full_trial.py` runs all of them with a randomly initialised ViT-B/16, one split and a few steps each, which shows that no
notebook fails for a reason other than missing data. That takes hours on a CPU; `--clip tiny` puts the small architecture in its place,
everything else being the same, and takes minutes. Its numbers mean nothing, and every output says "random".

    python tests/full_trial.py [NAME …] [--clip ViT-B-16-quickgelu|tiny] [--keep FOLDER] [--jobs N]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from miniatures import BUILDERS, KINDS, write_miniature
from PIL import Image

import iqa_repro
from iqa_repro.batch.execution import list_experiments
from iqa_repro.captions.describing import Describer
from iqa_repro.captions.files import write_captions
from iqa_repro.captions.instructions import caption_requests
from iqa_repro.core.paths import figures_root
from iqa_repro.core.profiles import load_profile
from iqa_repro.data.catalog import LIQE_SCENES, load_dataset
from iqa_repro.data.world.photographs import SCENES
from iqa_repro.methods.uniqa.corpus import captioned_pictures

TIMES = dict.fromkeys(BUILDERS, 4) | {
    "livec": 10,
    "live": 2,
    "csiq": 2,
    "tid2013": 2,
    "kadid10k": 2,
    "pipal": 4,
}
SMALLER = {  # settings of full.toml -> of the trial, where a count is not cut by smoke=True
    'pretrained = "openai" ': 'pretrained = "random" ',
    "views = 10 ": "views = 2 ",
    "test_crops = 10 ": "test_crops = 2 ",
}
TINY = {  # what another architecture needs
    'name = "ViT-B-16-quickgelu"': 'name = "tiny"',
    "image_size = 224": "image_size = 48",
    "blocks = 4 ": "blocks = 2 ",
    "visual_tokens = 100": "visual_tokens = 18",
}


def write_data(root: Path) -> None:
    "Miniatures of all sets in the authors' layouts, with pictures that differ in content and size"
    for name in BUILDERS:
        folder = write_miniature(name, root / name, times=TIMES[name])
        for i, path in enumerate(sorted(p for p in folder.rglob("*") if p.suffix.lower() in KINDS)):
            coarse = np.random.default_rng(i).integers(0, 256, (4 + i % 3, 6, 3), dtype=np.uint8)
            path.unlink()  # it is a link to the picture of all
            Image.fromarray(coarse).resize((60, 40 + 8 * (i % 3)), Image.BICUBIC).save(
                path, KINDS[path.suffix.lower()]
            )
    names = sorted(path.name for path in (root / "livec" / "Images").glob("*.*"))
    lines = [
        f"Images/{name}\t50.0\trealistic blur\t{SCENES[i % 9]}\tinvalid\tinvalid"
        for i, name in enumerate(names)
    ]
    (root / "livec" / LIQE_SCENES["livec"]).write_text("\n".join(lines) + "\n")
    (root / "agin" / "scale.toml").write_text("low = 1\nhigh = 5\n")
    own = root / "eciqad"
    own.mkdir()
    for i in range(36):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(
            own / f"{i}.png"
        )
    (own / "eciqad.csv").write_text("image,mos\n" + "".join(f"{i}.png,{i / 8}\n" for i in range(36)))
    (own / "scale.toml").write_text("low = 0\nhigh = 5\n")


def write_profile(path: Path, clip: str) -> Path:
    "full.toml with random weights and fewer crops"
    text = (Path(iqa_repro.__file__).parent / "profiles" / "full.toml").read_text(encoding="utf-8")
    changes = SMALLER | (TINY if clip == "tiny" else {})
    for old, new in (changes | {'"captions/{task}': f'"{path.parent}/captions/{{task}}'}).items():
        assert old in text, f"full.toml has no {old!r} any more"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def write_all_captions(profile: Path) -> None:
    "Caption files of two of the captioners of Table 6, with and without the level, in the form of a real captioner's"
    for task in ("quality", "aesthetics"):
        table, choice = captioned_pictures(task, load_profile(profile)), load_profile(profile).captions
        requests = [
            r
            for guided in (True, False)
            for r in caption_requests(table, task, guided, choice.order, choice.wording)
        ]
        for number, suffix in enumerate(("", "-qwen-vl")):
            write_captions(
                requests,
                Describer(number),
                profile.parent / "captions" / f"{task}{suffix}.jsonl",
                progress=False,
            )


def prepare(place: Path, clip: str) -> tuple[Path, dict[str, str]]:
    "A folder with everything; its profile, and the environment that leads to it"
    leads = {"IQA_REPRO_DATA": str(place / "data"), "IQA_REPRO_CACHE": str(place / "cache")}
    os.environ |= leads
    profile = write_profile(place / f"trial_{clip.split('-')[0].lower()}.toml", clip)
    if not (place / "data").exists():
        write_data(place / "data")
        (place / "captions").mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few rows
            write_all_captions(profile)
            load_dataset("eciqad")
    return profile, leads


def run_trial(
    names: list[str], profile: Path, leads: dict[str, str], jobs: int = 1
) -> subprocess.CompletedProcess:
    "The batch as a user runs it"
    call = "import sys; from iqa_repro.app.cli import main; sys.argv[0] = 'iqa-repro'; main()"
    words = [
        "reproduce",
        *names,
        "--profile",
        str(profile),
        "--smoke",
        "--force",
        "--overwrite",
        "--jobs",
        str(jobs),
    ]
    command = [sys.executable, "-W", "ignore", "-c", call, *words]
    return subprocess.run(command, env=os.environ | leads, text=True, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="paper/artefact; all where none is given")
    parser.add_argument("--clip", default="ViT-B-16-quickgelu", choices=["ViT-B-16-quickgelu", "tiny"])
    parser.add_argument(
        "--keep", type=Path, help="folder for data, captions and cache, used again if it is there"
    )
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep.absolute() if given.keep else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        start, (profile, leads) = time.time(), prepare(place, given.clip)
        done = run_trial(given.names or list_experiments(), profile, leads, given.jobs)
        print(f"{time.time() - start:.0f} s; outputs in {figures_root(profile.stem, smoke=True)}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
