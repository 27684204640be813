"""A result does not hang on the processor: the same small table under the plainest and the best arithmetic of this machine.

Each process draws the pictures anew and trains on them. Rounding differs in the last digit; rows may differ by 0.005, pictures not at all.
"""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from iqa_repro.study.claims import Claim, all_differences, judge

PLAIN = {  # PyTorch, oneDNN, MKL and OpenBLAS without the vector units that only some processors have
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
}
SETTINGS = (*PLAIN, "NPY_DISABLE_CPU_FEATURES")  # of a caller, which both processes would follow
FARTHEST = 0.005
TABLE = """
import hashlib, json, sys
import torch
torch.set_num_threads(1)
from iqa_repro.clip.inputs import load_settings, pictures_of
from iqa_repro.methods.grmp.method import GRMPOptions
from iqa_repro.methods.uniqa.corpus import Corpus
from iqa_repro.methods.uniqa.method import UniQAOptions
from iqa_repro.study.protocol import trial_results
from iqa_repro.study.trial import Trial, side_by_side

settings, options = load_settings(), {"CoOp": None, "linear probe": None}
options |= {"GRMP-IQA": GRMPOptions("no pre-training"), "UniQA": UniQAOptions(Corpus(()))}
trials = [Trial("livec", name, 50, i, options=own) for name, own in options.items() for i in range(3)]
rows = [
    {"method": trial.method, "dataset": "livec", "metric": metric, "split": trial.split, "value": value}
    for group in side_by_side(trials)
    for trial, result in zip(group, trial_results(group, settings), strict=True)
    for metric, value in result["values"]["livec"].items()
]
pixels = (pictures_of("livec", settings.profile)[1] * 255).round().byte().numpy()
made = {"rows": rows, "pictures": [hashlib.sha256(one.tobytes()).hexdigest() for one in pixels]}
made["arithmetic"] = torch.backends.cpu.get_cpu_capability()
json.dump(made, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    "The table of both processes"
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor's best arithmetic is the plainest: nothing to compare")
    own = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    running = []
    for name, how in (("best", {}), ("plain", PLAIN)):
        place = tmp_path_factory.mktemp(name)
        environment = own | how | {"IQA_REPRO_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", TABLE, str(place / "table.json")]
        running.append((subprocess.Popen(command, env=environment), place / "table.json"))
    assert [process.wait(900) for process, _ in running] == [0, 0]
    return [json.loads(path.read_text()) for _, path in running]


def test_the_arithmetic_differs_and_the_pictures_do_not(tables):
    best, plain = tables
    assert plain["arithmetic"] == "DEFAULT" != best["arithmetic"]
    assert best["pictures"] == plain["pictures"] and len(best["pictures"]) == 330


def test_rows_and_verdicts_do_not_hang_on_the_processor(tables):
    best, plain = (pd.DataFrame(table["rows"]) for table in tables)
    keys = ["method", "metric", "split"]
    assert best[keys].equals(plain[keys]) and len(best) == 24
    away = (best["value"] - plain["value"]).abs()
    assert away.max() <= FARTHEST, best.assign(plain=plain["value"])[away > FARTHEST].to_string()
    pairs = [("UniQA", "CoOp"), ("GRMP-IQA", "CoOp"), ("linear probe", "UniQA")]
    where = {"dataset": "livec", "metric": "srcc"}
    parts = [all_differences(rows, pairs, **where) for rows in (best, plain)]
    verdicts = [
        [judge(Claim(name, part, "ours"))["verdict"] for name, part in some.items()] for some in parts
    ]
    assert verdicts[0] == verdicts[1]
