"""A rival's files become rows of a table: perfect scores give SRCC 1 on exactly our test parts, and features are learned from our labels alone."""

import json

import numpy as np
import pandas as pd
import pytest

from iqa_repro.clip.inputs import load_settings, table_of
from iqa_repro.data.tables import quality_of, relative_names
from iqa_repro.methods.rivals import find_rivals
from iqa_repro.papers.grmp_iqa import table1, table2, table3
from iqa_repro.study.protocol import run_trials, trial_entry, trial_results
from iqa_repro.study.rows import RowLog
from iqa_repro.study.style import method_look
from iqa_repro.study.trial import trial_job

SMOKE = load_settings(smoke=True)
TABLES = {"table1": table1, "table2": table2, "table3": table3}


def perfect(dataset):
    table = table_of(dataset, SMOKE.profile)
    return pd.DataFrame({"image": relative_names(table), "score": quality_of(table)})


def folder_of(tmp_path, name="Perfect"):
    folder = tmp_path / "rivals" / name
    folder.mkdir(parents=True)
    return folder


def given(table, tmp_path):
    trials = TABLES[table](SMOKE, rivals=str(tmp_path / "rivals"))
    return [trial for trial in trials if trial.method.startswith("given")]


def rows_of(trials, path):
    log = RowLog(path, {"artefact": "rivals", "profile": "embedded", "stand_in": True, "params": "0"})
    run_trials(log, trials, SMOKE)
    return log.rows()


@pytest.mark.parametrize(
    "table, datasets", [("table1", ["livec"]), ("table2", ["livec"]), ("table3", ["live", "csiq"])]
)
def test_perfect_scores_give_srcc_1_in_every_table(tmp_path, table, datasets):
    folder = folder_of(tmp_path)
    for dataset in datasets:
        perfect(dataset).sample(frac=1, random_state=0).to_csv(folder / f"{dataset}.csv", index=False)
    rows = rows_of(given(table, tmp_path), tmp_path / "rows.csv")
    assert set(rows["method"]) == {"Perfect (scores given)"} and set(rows["dataset"]) == set(datasets)
    assert np.allclose(rows["value"], 1, atol=1e-6) and method_look("Perfect (scores given)")[1] == "$P$"


def test_scores_of_a_split_are_judged_on_our_test_part_and_no_more(tmp_path):
    folder = folder_of(tmp_path) / "livec" / "20"
    folder.mkdir(parents=True)
    ours, *_ = [trial for trial in table1(SMOKE, datasets=("livec",)) if trial.method == "GRMP-IQA"]
    test = trial_job(ours, SMOKE).test
    names = set(relative_names(test))
    scores = perfect("livec")
    scores[scores["image"].isin(names)].to_csv(folder / "split0.csv", index=False)
    [trial] = given("table1", tmp_path)
    [result] = trial_results([trial], SMOKE)
    assert abs(result["values"]["livec"]["srcc"] - 1) < 1e-9

    lacking = scores[scores["image"].isin(names - {min(names)})]
    lacking.to_csv(folder / "split0.csv", index=False)  # the memo sees the change
    with pytest.raises(ValueError, match=rf"split0.csv lacks 1 of {len(test)} pictures"):
        trial_results([trial], SMOKE)


def test_features_are_learned_from_the_labels_of_the_split(tmp_path):
    folder, table = folder_of(tmp_path, "Encoder"), table_of("livec", SMOKE.profile)
    features = np.random.default_rng(0).normal(size=(len(table), 8))
    features[:, 3] = quality_of(table)
    image = np.array(relative_names(table))
    np.savez(folder / "livec.npz", image=image, features=features)
    [trial] = given("table1", tmp_path)
    [ridge] = trial_results([trial], SMOKE)
    assert trial.name == "Encoder (features given)" and ridge["values"]["livec"]["srcc"] > 0.85

    (folder / "rival.toml").write_text('regressor = "svr"')
    [other] = given("table1", tmp_path)
    assert trial_entry(other, SMOKE).digest != trial_entry(trial, SMOKE).digest
    job = trial_job(other, SMOKE)
    held = set(relative_names(job.test))
    features[np.isin(image, list(held)), 3] = np.nan  # nothing of the test part may reach the fit
    np.savez(folder / "livec.npz", image=image, features=features)
    with pytest.raises(ValueError, match=f"has no finite number for {len(held)} pictures"):
        trial_results([other], SMOKE)


def test_faults_of_a_folder_are_named(tmp_path):
    folder = folder_of(tmp_path)
    cases = {
        "has no files; expected <dataset>.csv": {},
        "named after no data set, did you mean 'livec'": {"livecc.csv": "image,score\n"},
        "has scores and features": {"livec.csv": "image,score\n", "csiq.csv": "image,f0\n"},
        "has \\['model'\\]; it may have": {"rival.toml": 'model = "x"'},
        "chooses a regressor, but the files of 'Perfect' are scores": {
            "rival.toml": 'regressor = "svr"',
            "livec.csv": "image,score\n",
        },
    }
    for said, files in cases.items():
        for path in folder.iterdir():
            path.unlink()
        for name, text in files.items():
            (folder / name).write_text(text)
        with pytest.raises(ValueError, match=said):
            find_rivals(tmp_path / "rivals")


def test_network_is_not_judged_where_it_learned(tmp_path):
    (folder_of(tmp_path, "DBCNN") / "rival.toml").write_text('network = "dbcnn"')
    [rival] = find_rivals(tmp_path / "rivals")
    assert rival.label == "DBCNN (pyiqa)" and "koniq10k" not in rival.datasets and "livec" in rival.datasets
    trials = [t for t in table1(SMOKE, rivals=str(tmp_path / "rivals")) if t.method == "pyiqa network"]
    assert {trial.dataset for trial in trials} == {"livec", "csiq", "live", "pipal"}
    assert json.dumps(trial_entry(trials[0], SMOKE).parts["story"]).count("pyiqa") == 1
