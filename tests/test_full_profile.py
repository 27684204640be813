"No notebook fails under `full` for a reason other than missing data: all of them, on miniatures of the real sets, with random weights."

import json
import shutil

from full_trial import prepare, run_trial

from iqa_repro.core.paths import figures_root
from iqa_repro.study.runs import list_experiments


def test_every_experiment_runs_on_miniatures_with_random_weights(tmp_path):
    profile, leads = prepare(tmp_path, "tiny")  # ViT-B/16 takes hours on a CPU: python tests/full_trial.py
    shutil.rmtree(figures_root(profile.stem, smoke=True), ignore_errors=True)  # of an earlier trial
    done = run_trial(list_experiments(), profile, leads, jobs=2)
    assert done.returncode == 0, "what failed is in the output above"
    for name in list_experiments():
        folder = figures_root(profile.stem, smoke=True) / name
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert facts["weights"] == "random" and "table.csv" in {path.name for path in folder.iterdir()}, name
        assert "weights" in (folder / "table.csv").read_text(encoding="utf-8").splitlines()[0]
        for drawing in folder.glob("figure.svg"):
            assert "random weights: no result" in drawing.read_text(encoding="utf-8"), name
