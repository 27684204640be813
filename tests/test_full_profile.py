"""No notebook fails under `full` for a reason other than missing data: on miniatures of the real sets, with random weights.

Here a small architecture and one notebook for each way through the code; with IQA_REPRO_TRIAL=all every notebook (five minutes
more), and `python tests/full_trial.py` runs them with ViT-B/16.
"""

import json
import os
import shutil

from full_trial import prepare, run_trial

from iqa_repro.batch.execution import list_experiments
from iqa_repro.core.paths import figures_root

GRMP = ("fig1", "fig5", "table1", "table2", "table4")  # scenes, pairs, few labels, many labels, meta-training
UNIQA = (
    "fig2",
    "fig4",
    "fig5",
    "table2",
    "table6",
    "table11",
)  # captions, search, maps, AVA, ablations, whole model
SOME = [*(f"grmp_iqa/{name}" for name in GRMP), *(f"uniqa/{name}" for name in UNIQA), "beyond/together"]


def test_experiments_run_on_miniatures_with_random_weights(tmp_path):
    names = list_experiments() if os.environ.get("IQA_REPRO_TRIAL") == "all" else SOME
    profile, leads = prepare(tmp_path, "tiny")
    shutil.rmtree(figures_root(profile.stem, smoke=True), ignore_errors=True)  # of an earlier trial
    done = run_trial(names, profile, leads, jobs=2)
    assert done.returncode == 0, "what failed is in the output above"
    for name in names:
        folder = figures_root(profile.stem, smoke=True) / name
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert facts["weights"] == "random" and (folder / "table.csv").is_file(), name
        assert "weights" in (folder / "table.csv").read_text(encoding="utf-8").splitlines()[0]
        for drawing in folder.glob("figure.svg"):
            assert "random weights: no result" in drawing.read_text(encoding="utf-8"), name
