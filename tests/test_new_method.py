"""A method is registered once: a toy method in a module of its own goes through a table, a figure and `iqa-repro score`."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TOY = """
"A method that is no part of the package: how bright an image is, shifted by what the labels say"
import torch
from torch import nn
from iqa_repro.clip.inputs import images_of
from iqa_repro.data.tables import quality_of
from iqa_repro.methods.registry import Fitted, Method


class Brightness(nn.Module):
    def __init__(self, shift=0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.shift = shift

    def forward(self, images):
        return (self.scale * images.mean((1, 2, 3)) + self.shift).clamp(0, 1)


def fit(jobs):
    fitted = []
    for job in jobs:
        model = Brightness(float(quality_of(job.train).mean()) if len(job.train) else 0.0)
        score = lambda dataset, part, model=model, job=job: model(
            images_of(dataset, part, job.settings.profile)
        ).detach()
        fitted.append(Fitted(model, score))
    return fitted


METHODS = (
    Method("toy", "brightness", ("#123456", "*"), fit, command="toy", scorer=lambda clip, crops=1: Brightness()),
)
"""
TABLE = """
import json, sys
from iqa_repro.clip.inputs import load_settings
from iqa_repro.figures.panels import split_panels
from iqa_repro.study.claims import compare
from iqa_repro.study.printed import printed
from iqa_repro.study.protocol import run_trials
from iqa_repro.study.rows import RowLog
from iqa_repro.study.trial import Trial

settings = load_settings(smoke=True)
run = RowLog(sys.argv[1], {"artefact": "toy", "profile": "embedded", "stand_in": True, "params": "0"})
run_trials(run, [Trial("livec", name, 20, split) for name in ("toy", "zero-shot CLIP") for split in (0, 1)], settings)
rows = run.rows().drop(columns="recipe")
table = compare(rows, printed("grmp_iqa", "table1"))
figure = split_panels(rows, ["toy", "zero-shot CLIP"])
colours = {line.get_color() for ax in figure.axes for line in ax.lines}
print(json.dumps({"methods": sorted(set(table["method"]) & {"toy"}), "rows": len(rows), "drawn": "#123456" in colours}))
"""


def call(tmp_path, *words):
    "A process that finds the toy's module, with the results of this test apart"
    (tmp_path / "toy_method.py").write_text(TOY)
    places = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "IQA_REPRO_METHODS": "toy_method"}
    command = [sys.executable, "-W", "ignore", *words]
    return subprocess.run(command, env=os.environ | places, capture_output=True, text=True)


def test_toy_method_goes_through_a_table_and_a_figure(tmp_path):
    done = call(tmp_path, "-c", TABLE, str(tmp_path / "rows.csv"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '{"methods": ["toy"], "rows": 8, "drawn": true}'


def test_toy_method_scores_on_the_command_line(tmp_path):
    Image.fromarray(np.full((64, 64, 3), 51, np.uint8)).save(tmp_path / "grey.png")
    main = "import sys; sys.argv[0] = 'iqa-repro'; from iqa_repro.app.cli import main; main()"
    words = ("score", str(tmp_path / "grey.png"), "--method", "toy", "-o", str(tmp_path / "scores.csv"))
    done = call(tmp_path, "-c", main, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "scores.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert abs(float(row["score"]) - 51 / 255) < 1e-5 and row["method"] == "toy", row


def test_unknown_method_is_answered_with_those_that_there_are(tmp_path):
    code = "from iqa_repro.study.trial import Trial; Trial('livec', 'toi', 20)"
    said = call(tmp_path, "-c", code).stderr
    assert "ValueError: unknown method 'toi', did you mean 'toy'?" in said
