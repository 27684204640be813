"""A method is registered once: a toy in a module of its own goes through a table, a figure, `score`, `adapt` and `explain`."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
TOY = """
"A method that is no part of the package: how bright an image is, shifted by what the labels say"
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from iqa_repro.clip.identity import backbone_facts
from iqa_repro.clip.inputs import images_of
from iqa_repro.core.checkpoints import load_checkpoint, load_into, save_checkpoint
from iqa_repro.data.pictures import PictureFiles
from iqa_repro.data.tables import quality_of
from iqa_repro.methods.learning import Learner, named_clip
from iqa_repro.methods.registry import Fitted, Method, NoOptions, score_images


class Brightness(nn.Module):
    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, images):
        return (images.mean((1, 2, 3)) + self.shift).clamp(0, 1)


def fit(jobs):
    fitted = []
    for job in jobs:
        model = Brightness(float(quality_of(job.train).mean()) if len(job.train) else 0.0)
        score = lambda dataset, part, model=model, job=job: model(
            images_of(dataset, part, job.settings.profile)
        ).detach()
        fitted.append(Fitted(model, score))
    return fitted


def read(path, clip):
    return load_into(Brightness(), load_checkpoint(path)[0], what=str(path))


def learner(options):
    clip, weights = named_clip(options)

    def fit(model, rows, generator):
        with torch.no_grad():
            model.shift.fill_(0.1 * float(quality_of(rows).mean()))
        return pd.DataFrame({"epoch": [0, 1], "chosen": [False, True]})

    def save(model, path, card):
        save_checkpoint(path, model.state_dict(), {"method": "toy", "card": card, **backbone_facts(clip, False)})

    score = lambda model, rows: score_images(model, PictureFiles(rows["image"])).numpy()
    return Learner("toy", clip, NoOptions(), "nothing", weights, Brightness, fit, score, save)


toy = Method(
    "toy", "brightness", ("#123456", "*"), fit, command="toy", scorer=lambda clip, crops=1: Brightness(),
    reader=read, learner=learner,
)
METHODS = (toy, replace(toy, name="a toy that learns nothing", command="still", reader=None, learner=""))
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


def command(tmp_path, *words):
    "`iqa-repro` with these words"
    main = "import sys; sys.argv[0] = 'iqa-repro'; from iqa_repro.app.cli import main; main()"
    return call(tmp_path, "-c", main, *map(str, words))


def grey(path, level):
    Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(path)
    return path


def scores(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_toy_method_scores_on_the_command_line(tmp_path):
    words = ("score", grey(tmp_path / "grey.png", 51), "--method", "toy", "-o", tmp_path / "scores.csv")
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = scores(tmp_path / "scores.csv")
    assert abs(float(row["score"]) - 51 / 255) < 1e-5 and row["method"] == "toy", row


def labels(tmp_path):
    rows = [f"{grey(tmp_path / f'{level}.png', level)},{1 + level / 60}" for level in range(0, 240, 12)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,mos", *rows]))
    return tmp_path / "labels.csv"


def test_toy_method_is_adapted_and_scores_from_its_own_checkpoint(tmp_path):
    words = ("adapt", labels(tmp_path), "--low", 1, "--high", 5, "--folds", 2, "-o", tmp_path / "mine")
    done = command(tmp_path, *words, "--method", "toy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SRCC is 1.00," in done.stdout, done.stdout  # brightness is what these labels follow
    checkpoint = tmp_path / "mine" / "checkpoint.safetensors"
    shift = load_file(checkpoint)["shift"].item()
    assert 0 < shift < 0.1
    words = ("score", grey(tmp_path / "grey.png", 51), "--weights", checkpoint, "-o", tmp_path / "scores.csv")
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = scores(tmp_path / "scores.csv")
    assert abs(float(row["score"]) - 51 / 255 - shift) < 1e-5 and row["method"] == "toy", row


def test_what_a_method_does_not_bring_is_said_in_plain_words(tmp_path):
    table = labels(tmp_path)
    done = command(tmp_path, "adapt", table, "--method", "still", "-o", tmp_path / "mine")
    assert done.returncode == 2 and not (tmp_path / "mine").exists()
    said = " ".join(done.stderr.split())
    assert "method 'still' cannot be adapted: it brings no learner. Those that do are" in said, said
    assert "'grmp', 'uniqa', 'toy'" in said, said
    done = command(tmp_path, "explain", tmp_path / "12.png", "--method", "toy")
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert "there is no explanation for Brightness yet, only for CoOp, GRMP-IQA, UniQA" in said, said


def test_unknown_method_is_answered_with_those_that_there_are(tmp_path):
    code = "from iqa_repro.study.trial import Trial; Trial('livec', 'toi', 20)"
    said = call(tmp_path, "-c", code).stderr
    assert "ValueError: unknown method 'toi', did you mean 'toy'?" in said
