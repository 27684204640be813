"""A new data set is one module: it is found, read, imitated, listed and fetched without a change to any other file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

MODULE = """
"Two pictures of pets."

from pathlib import Path

import pandas as pd

from iqa_repro.data.dataset import Archive, DataSet, StandIn
from iqa_repro.data.folders import DataFolder, finish_table


def read_pets(root: str | Path, strict: bool = True) -> pd.DataFrame:
    folder = DataFolder(root)
    labels = folder.label_file("pets.txt")
    table = pd.read_csv(labels, sep=" ", header=None, names=["image", "mos"])
    return finish_table(table, folder, labels, SET.facts(), 2, strict=strict)


SET = DataSet(
    name="pets",
    title="Pets",
    pictures=2,
    low=1,
    high=5,
    home="example.org/pets",
    reader=read_pets,
    places={"authors": (Archive("https://example.org/pets.zip", 1000),)},
    stand_in=StandIn("Pets", "authentic", "judge", "left", 1, 5, (1, 10, 11), 6),
)
"""
CODE = """
import json, sys
import iqa_repro.data.sets

iqa_repro.data.sets.__path__.append(sys.argv[1])  # as if the module lay in the package
from iqa_repro.data.catalog import DATASETS, check_datasets, load_dataset
from iqa_repro.data.downloads import describe_folder, download_terms, find_download

real, ours = load_dataset("pets", f"{sys.argv[2]}/pets"), load_dataset("embedded:pets")
told = {
    "facts": [DATASETS["pets"].title, DATASETS["embedded:pets"].title, DATASETS["embedded:pets"].pictures],
    "real": [real["quality"].tolist(), real.attrs["facts"]["name"]],
    "stand-in": [len(ours), ours["mos"].between(1, 5).all().item(), ours.attrs["facts"]["name"]],
    "state": check_datasets(sys.argv[2])["state"]["pets"],
    "url": find_download("pets")[0].url,
    "terms": download_terms("pets"),
    "described": describe_folder("pets", f"{sys.argv[2]}/pets"),
}
print(json.dumps(told))
"""
LISTED = """
import sys
import iqa_repro.data.sets

iqa_repro.data.sets.__path__.append(sys.argv[1])
from iqa_repro.app.cli import main

sys.argv = ["iqa-repro", "data", "list"]
main()
"""


def run(code, tmp_path, module=MODULE):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/pets.py").write_text(module)
    (tmp_path / "data/pets").mkdir(parents=True)
    for name in ("cat.png", "dog.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "data/pets" / name)
    (tmp_path / "data/pets/pets.txt").write_text("Cat.png 5\nDog.png 2\n")
    command = [sys.executable, "-c", code, str(tmp_path / "more"), str(tmp_path / "data")]
    where = {"IQA_REPRO_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    root = Path(__file__).parent.parent
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, **where})


def test_a_module_is_all_that_a_new_data_set_needs(tmp_path):
    done = run(CODE, tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["facts"] == ["Pets", "stand-in of Pets", 6]
    assert told["real"] == [[1.0, 0.25], "Pets"] and told["stand-in"] == [6, True, "embedded:pets"]
    assert told["state"] == "complete" and told["url"] == "https://example.org/pets.zip"
    assert "Pets: 2 pictures" in told["terms"] and "https://example.org/pets" in told["terms"]
    assert told["described"].endswith("pets: 2 rows can be read, 2 pictures were published")


def test_the_command_line_lists_a_new_data_set(tmp_path):
    done = run(LISTED, tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line.split() for line in done.stdout.splitlines() if "get pets" in line]
    assert line[:2] == ["pets", "Pets"]


@pytest.mark.parametrize("wrong", ["TITLE = 'Pets'\n", MODULE.replace('name="pets"', 'name="pet"')])
def test_a_module_without_its_set_is_an_error(tmp_path, wrong):
    done = run(CODE, tmp_path, wrong)
    assert done.returncode == 1 and "pets should define SET = DataSet('pets', …)" in done.stderr
