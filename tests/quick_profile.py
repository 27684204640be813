"""The embedded profile, with fewer and shorter trainings: for tests and trials of the batch.

usage: python tests/quick_profile.py FILE.toml
"""

import sys
from pathlib import Path

EMBEDDED = Path(__file__).resolve().parent.parent / "iqa_repro" / "profiles" / "embedded.toml"
QUICK = {  # settings of embedded.toml -> of the quick one
    "epochs = 5          # passes over the tasks": "epochs = 1  # passes over the tasks",
    "epochs = 6      # passes over the labelled": "epochs = 2  # passes over the labelled",
    "splits = 10             # random 80": "splits = 1  # random 80",
    "shots = [50, 100, 200]": "shots = [20]",
}


def write_quick_profile(path, changes=()):
    "A profile file; `changes` are further pieces of embedded.toml and what they become"
    text = EMBEDDED.read_text(encoding="utf-8")
    for old, new in (QUICK | dict(changes)).items():
        assert text.count(old) == 1, f"embedded.toml has no {old!r} any more"
        text = text.replace(old, new)
    Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_quick_profile(sys.argv[1])
