"Wrong names, parameters, files and scores: refused with what came and what to do, and nothing is left behind."

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from iqa_repro.clip.backbone import load_clip
from iqa_repro.clip.tiny import build_tiny, load_tiny
from iqa_repro.core.checkpoints import load_checkpoint, read_foreign, save_checkpoint
from iqa_repro.core.profiles import load_profile
from iqa_repro.data.catalog import load_dataset
from iqa_repro.grmp.finetune import FinetuneSettings, Labelled, finetune
from iqa_repro.grmp.model import GRMPIQA, get_recipe, load_model, save_model
from iqa_repro.grmp.prompts import TextPrompt, VisualPrompt
from iqa_repro.study import protocols, runs
from iqa_repro.study.figures import save_figure
from iqa_repro.study.metrics import krcc, plcc, rmse, srcc

ROOT = Path(__file__).resolve().parent.parent
FIG14 = ROOT / "nbs" / "experiments" / "uniqa" / "fig14.ipynb"


def refused(kind, function, *parts):
    "The call raises `kind`, and its message has every part; so the message can be read whole when one is missing."
    with pytest.raises(kind) as error:
        function()
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


def left(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fig14_without_tag(path):
    notebook = nbformat.read(FIG14, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def papermill(tmp_path_factory):
    "Two plain papermill runs, started first and read last, so that they run beside the other tests."
    folder = tmp_path_factory.mktemp("papermill")
    wrong = {
        "misspelt": (FIG14, "alpa", "2"),
        "untagged": (fig14_without_tag(folder / "source.ipynb"), "alpha", "2"),
    }
    started = {}
    for name, (source, *parameter) in wrong.items():
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", source, folder / f"{name}.ipynb"]
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        started[name] = subprocess.Popen([*command, "-p", *parameter], cwd=ROOT, **pipes)
    yield folder, started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def clip():
    return build_tiny()


def small_model(clip, context=2):
    draw = torch.Generator().manual_seed(0)
    return GRMPIQA(clip, TextPrompt(clip, context, generator=draw), VisualPrompt(clip, 2, generator=draw))


# --- names ---------------------------------------------------------------------------------------------------------


def test_profile(tmp_path):
    known = "Known profiles: ['embedded', 'full']; for your own give the path of a .toml file."
    refused(ValueError, lambda: load_profile("embeded"), "'embeded', did you mean 'embedded'? " + known)
    refused(ValueError, lambda: load_profile("tiny"), "no profile 'tiny'. " + known)
    refused(FileNotFoundError, lambda: load_profile(tmp_path / "mine.toml"), "mine.toml; copy one of the")
    (tmp_path / "mine.toml").write_text("splits = ")
    refused(ValueError, lambda: load_profile(tmp_path / "mine.toml"), "mine.toml is not a TOML file: ")
    (tmp_path / "mine.toml").write_text("[meta]\nepochs = 3\n")
    epoch = "has no setting 'epoch', did you mean 'epochs'? It has ['epochs']"
    refused(AttributeError, lambda: load_profile(tmp_path / "mine.toml").meta.epoch, epoch, "mine.toml")


def test_data_set():
    refused(ValueError, lambda: load_dataset("livc"), "'livc', did you mean 'livec'? There are ['agiqa3k', ")
    refused(ValueError, lambda: load_dataset("embedded:ava"), "unknown data set 'embedded:ava'. There are [")
    refused(TypeError, lambda: load_dataset(None), "asked for by name, such as 'livec' or 'embedded:livec', got None")


def test_recipe_and_variant(tmp_path, monkeypatch, clip):
    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path))
    monkeypatch.setattr(protocols, "backbone_of", lambda profile: clip)
    text = "unknown recipe 'papr', did you mean 'paper'? This version has ["
    refused(ValueError, lambda: get_recipe("papr"), text)
    refused(ValueError, lambda: protocols.meta_model("GRMP-IQA", "embedded", 0, "papr"), text)
    refused(ValueError, lambda: get_recipe("paper", restrt=False), "no setting ['restrt']; it has ['per',")
    refused(ValueError, lambda: protocols.meta_model("grmp", "embedded", 0), "'grmp'; Table 4 has ['CLIP',")
    assert left(tmp_path) == []


def test_clip():
    gelu = "Ask for 'ViT-B-16-quickgelu'"
    refused(ValueError, lambda: load_clip("ViT-B-16", "openai"), "'ViT-B-16' uses plain GELU", gelu)
    refused(
        ValueError, lambda: load_clip("ViT-B/16", "openai"), "unknown CLIP model 'ViT-B/16'; use 'tiny' or"
    )
    refused(
        ValueError, lambda: load_clip("ViT-B-16-quickgelu"), "'embedded' belongs to name='tiny'", "'openai'"
    )
    refused(FileNotFoundError, lambda: load_clip("tiny", "embeded"), "no checkpoint at embeded")
    tags = "pretrained='opnai' is neither a file nor a tag of 'ViT-B-16-quickgelu'; its tags are ['openai',"
    refused(ValueError, lambda: load_clip("ViT-B-16-quickgelu", "opnai"), tags)
    refused(
        ValueError, lambda: load_clip("RN50", "random"), "'RN50' is not CLIP's pair", "(ResNet)", "use a ViT"
    )


# --- experiments ---------------------------------------------------------------------------------------------------


def test_run_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "figures_root", lambda *_, **__: tmp_path / "figures")
    run = runs.run_experiment
    refused(ValueError, lambda: run("uniqa/fig41"), "'uniqa/fig41', did you mean 'uniqa/fig14'? Known: [")
    refused(ValueError, lambda: run("uniqa/fig14", "embeded"), "did you mean 'embedded'?")
    hint = "fig14.ipynb has no parameter 'alpa', did you mean 'alpha'? It declares ['alpha', 'beta', 'k',"
    refused(ValueError, lambda: run("uniqa/fig14", alpa=2), hint)
    fig14_without_tag(tmp_path / "nbs" / "experiments" / "uniqa" / "fig14.ipynb")
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    lost = "no cell tagged 'parameters', so ['alpha', 'profile', 'smoke'] would be ignored. Tag the cell"
    refused(ValueError, lambda: run("uniqa/fig14", alpha=2), lost)
    assert not (tmp_path / "figures").exists()


def test_command_line(capsys):
    refused(SystemExit, lambda: runs.main(["uniqa/fig41"]), "2")
    assert "there is no experiment ['uniqa/fig41']; known: [" in capsys.readouterr().err
    assert runs.main(["uniqa/fig14", "--profile", "embeded"]) == 1
    assert "failed: uniqa/fig14: there is no profile 'embeded', did you mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    "default, injected, message",
    [
        (
            "smoke = False",
            "smoke = 'false'",
            "smoke='false' was injected, a str where the default False is a",
        ),
        ("smoke = False", "smoke = 1", "smoke=1 was injected, a int where the default False is a bool"),
        ("k = 4", "k = 2.5", "k=2.5 was injected, a float where the default 4 is a int"),
        ("seed = 7", "sead = 8", "no parameter 'sead', did you mean 'seed'?"),
    ],
)
def test_injected(default, injected, message):
    passed = {"smoke": False, "k": 4, "seed": 7}
    cells = [f"import os\n{default}", f"# Parameters\n{injected}\n"]
    refused(ValueError, lambda: runs.check_injected(passed, cells), message)


# --- rows ----------------------------------------------------------------------------------------------------------


def measured(folder, splits, **changes):
    run = runs.start_run("test/rows", folder=folder, **dict(profile="embedded", seed=7, smoke=True) | changes)
    for split in splits:
        key = {"dataset": "embedded:livec", "method": "λ = 5", "split": split, "seed": 7 + split}
        run.append({**key, "metric": "srcc", "value": split / 4})
    return (folder / "rows.csv").read_bytes()


def test_killed_anywhere_and_resumed(tmp_path):
    whole = measured(tmp_path, range(3))
    second, third = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")][1:3]
    inside_lambda = whole.index("λ".encode(), second) + 1  # half a character
    for cut in (0, 5, second + 3, inside_lambda, third - 1, third):
        (tmp_path / "rows.csv").write_bytes(whole[:cut])
        assert measured(tmp_path, range(3)) == whole, cut


def test_resumed_under_other_parameters(tmp_path):
    before = measured(tmp_path, [0])
    anew = f"delete the folder {tmp_path.name!r} to start anew, or run with the former parameters to resume"
    refused(ValueError, lambda: measured(tmp_path, [1], seed=8), "holds 1 rows of other parameters", anew)
    refused(ValueError, lambda: measured(tmp_path, [1], strength=5.0), "holds 1 rows of other parameters")
    refused(ValueError, lambda: measured(tmp_path, [1], profile="full"), "holds 1 rows of other parameters")
    refused(TypeError, lambda: measured(tmp_path, [1], smoke="no"), "smoke must be True or False, got 'no'")
    assert (tmp_path / "rows.csv").read_bytes() == before and left(tmp_path) == ["rows.csv"]


def test_undefined_value_leaves_no_row(tmp_path):
    run = runs.start_run("test/rows", folder=tmp_path / "run", profile="embedded", seed=7, smoke=True)
    row = dict(dataset="livec", method="CLIP", split=0, seed=7, metric="srcc")
    refused(ValueError, lambda: run.append({**row, "value": float("nan")}), "a row cannot hold nan")
    refused(ValueError, lambda: run.claims([{"margin": float("nan")}]), "claims.json is not written", "nan")
    refused(FileNotFoundError, lambda: run.rows(), "no rows in", "run the experiment first")
    assert left(tmp_path) == []


def test_figure_is_whole_or_absent(tmp_path):
    figure, axes = plt.subplots()
    refused(ValueError, lambda: save_figure(figure, tmp_path, data=pd.DataFrame()), "an empty table")
    axes.set_title(r"$\frac{1$")
    refused(ValueError, lambda: save_figure(figure, tmp_path, data=pd.DataFrame({"a": [1]})), "Expected")
    plt.close(figure)
    assert left(tmp_path) == []


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path, good = tmp_path / "a.safetensors", {"w": torch.ones(2)}
    nan = {"w": torch.tensor([1.0, torch.nan])}
    refused(ValueError, lambda: save_checkpoint(path, nan, {}), "a.safetensors is not written: 'w' holds NaN")
    refused(TypeError, lambda: save_checkpoint(path, good, {"at": path}), "metadata of", "JSON")

    def full_disk(tensors, part, metadata):
        Path(part).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("iqa_repro.core.checkpoints.save_file", full_disk)
    refused(OSError, lambda: save_checkpoint(path, good, {}), "no space left")
    assert left(tmp_path) == []


def test_grmp_checkpoint(tmp_path, clip):
    path = tmp_path / "model.safetensors"
    save_model(small_model(clip), path)
    assert load_model(path, clip).clip.name == "tiny"
    other = replace(clip, name="ViT-B-16-quickgelu")
    refused(
        ValueError,
        lambda: load_model(path, other),
        "for backbone 'tiny' with weights 'random', but",
        "'ViT-B-16-quickgelu'",
    )
    refused(
        ValueError,
        lambda: load_model(path, replace(clip, pretrained="embedded")),
        "with weights 'embedded' is wanted",
    )
    refused(ValueError, lambda: load_tiny(path), "the tiny CLIP does not fit CLIP (0 of", "98 missing")

    whole, (tensors, facts) = path.read_bytes(), load_checkpoint(path)
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(ValueError, lambda: load_model(path, clip), f"model.safetensors ({size} bytes) is truncated")
    save_checkpoint(path, tensors, facts | {"method": "UniQA"})
    refused(ValueError, lambda: load_model(path, clip), "holds 'UniQA'", "but a GRMP-IQA model for 'tiny'")
    save_checkpoint(path, tensors, facts | {"n_context": 3})
    shapes = "1 of another shape: ['text.context: (2, 128) for (3, 128)']"
    refused(ValueError, lambda: load_model(path, clip), "model.safetensors does not fit GRMPIQA", shapes)
    save_checkpoint(path, {"text.context": tensors["text.context"]}, facts)
    refused(ValueError, lambda: load_model(path, clip), "1 missing: ['visual.prompts']")
    save_file(tensors, path)
    refused(ValueError, lambda: load_model(path, clip), "without 'iqa_repro' metadata, so not ours")
    save_file(tensors, path, metadata={"iqa_repro": "hello"})
    refused(ValueError, lambda: load_model(path, clip), "header that save_checkpoint did not write: 'hello'")
    refused(FileNotFoundError, lambda: load_model(tmp_path / "absent", clip), "no checkpoint at", "absent")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_foreign_pickle(tmp_path):
    path = tmp_path / "theirs.pt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "optimizer": Trap(tmp_path / "sprung")}, path)
    trust = "Where you trust it, save its state_dict() alone with its own project and give that file."
    refused(ValueError, lambda: read_foreign(path), "theirs.pt is refused", "(GLOBAL ", trust)
    torch.save(torch.nn.Linear(2, 1), path)
    refused(
        ValueError,
        lambda: read_foreign(path),
        "theirs.pt is refused",
        "(GLOBAL torch.nn.modules.linear.Linear",
    )
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"hello world"):
        path.write_bytes(content)
        refused(ValueError, lambda: read_foreign(path), f"theirs.pt ({len(content)} bytes) is truncated")
    path.write_bytes(b"<html>404</html>")
    refused(ValueError, lambda: read_foreign(path), "is refused: it is damaged (download it again)")
    assert left(tmp_path) == ["theirs.pt"]


# --- pictures, labels and scores -----------------------------------------------------------------------------------


def test_nan_pictures_and_labels(clip):
    images, quality = torch.rand(4, 3, 60, 60, generator=torch.Generator().manual_seed(0)), torch.rand(4)
    broken = images.clone()
    broken[1, 0, 0, 0] = torch.nan
    model = small_model(clip)
    refused(ValueError, lambda: model(broken), "pictures must lie in [0, 1], got nan")
    refused(ValueError, lambda: model(images * 255), "pictures must lie in [0, 1], got ")
    refused(TypeError, lambda: model((images * 255).byte()), "got torch.uint8; divide bytes by 255")
    refused(ValueError, lambda: model(images[0]), "got (3, 60, 60); add the batch with [None]")
    for labels in (quality / 0, torch.tensor([0.5, torch.nan, 0.5, 0.5]), quality + 1):
        refused(ValueError, lambda labels=labels: Labelled(images, labels), "[0, 1] without NaN", "to_unit")
    refused(ValueError, lambda: Labelled(images, quality[:3]), "got (4, 3, 60, 60) and (3,)")


def test_finetune_refuses_before_it_changes_anything(clip):
    images, draw = torch.rand(4, 3, 60, 60), torch.Generator().manual_seed(0)
    good, settings = Labelled(images, torch.rand(4)), FinetuneSettings(epochs=1, blocks=1, strength=0)
    model = small_model(clip)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def train(train=good, validation=good, **changes):
        return lambda: finetune(model, train, validation, replace(settings, **changes), draw)

    refused(
        ValueError, lambda: train(Labelled(images * torch.nan, good.quality))(), "must lie in [0, 1]", "nan"
    )
    refused(ValueError, train(validation=None), "on validation pictures, got none; hold some out")
    refused(ValueError, train(strength=5.0), "strength=5.0 regularizes against the original CLIP; pass it")
    refused(ValueError, train(blocks=9), "blocks must lie in 1 … 3 for 'tiny', got 9")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("measure", [srcc, krcc, plcc])
def test_fewer_than_two_distinct_scores(measure):
    text = "a correlation is undefined: prediction has 1 distinct scores in 3 ([0.5]), needs 2"
    refused(ValueError, lambda: measure(torch.full((3,), 0.5), [1, 2, 3]), text)
    refused(ValueError, lambda: measure([1, 2, 3], [5, 5, 5]), "undefined: target has 1 distinct scores in 3")
    refused(ValueError, lambda: measure([1], [2]), "undefined: prediction has 1 distinct scores in 1")
    refused(ValueError, lambda: measure([1, np.nan, 3], [1, 2, 3]), "1 NaN or infinite scores of 3", "[1]")


def test_rounding_is_no_spread():
    scores = np.array([0.5, np.nextafter(0.5, 1), 0.5])
    refused(ValueError, lambda: plcc(scores, [1, 2, 3]), "PLCC is undefined", "differ by rounding only")
    assert rmse([2, 2], [1, 3]) == 1  # an error needs no spread


def test_correlations_of_a_table():
    table = pd.DataFrame({"image": list("abc"), "mos": [1.0, 2, 3], "quality": [0.0, 0.5, 1]})
    refused(
        ValueError,
        lambda: protocols.correlations(torch.zeros(3), table),
        "undefined: prediction has 1 distinct",
    )
    refused(ValueError, lambda: protocols.correlations(torch.zeros(2), table), "got lengths 2 and 3")
    flat = table.assign(quality=0.5)
    refused(
        ValueError, lambda: protocols.correlations(torch.rand(3), flat), "undefined: target has 1 distinct"
    )


def test_more_shots_than_pictures(monkeypatch):
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(10)], "mos": np.arange(10.0)})
    table["quality"] = table["mos"] / 9
    monkeypatch.setattr(protocols, "pictures_of", lambda *_: (table, torch.zeros(10, 3, 8, 8)))
    split = lambda shots: lambda: protocols.few_shot_split("livec", "embedded", shots, 0)
    assert len(split(5)()[2]) == 2
    refused(ValueError, split(9), "9 shots were asked for, the table has 8 pictures; ask for 1 … 8")
    refused(ValueError, split(0), "0 shots were asked for")
    refused(ValueError, split(1), "at least 2 different values of 'image' are needed to split")
    refused(TypeError, split(2.5), "shots are counted in whole numbers, got 2.5 (float)")


# --- plain papermill, started at the top ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "misspelt",
            "the notebook has no parameter 'alpa', did you mean 'alpha'? It passes ['alpha', 'beta',",
        ),
        ("untagged", "alpha=2 was injected, but the run has 1.0: a later cell overwrites it. Tag the cell"),
    ],
)
def test_plain_papermill(papermill, name, message):
    folder, started = papermill
    _, errors = started[name].communicate(timeout=120)
    assert started[name].returncode == 1 and message in errors, errors[-2000:]
    counts = [
        c.execution_count for c in nbformat.read(folder / f"{name}.ipynb", 4).cells if c.cell_type == "code"
    ]
    assert counts.count(None) >= 5  # no cell behind start_run was executed, so nothing was written
