"Wrong names, parameters, files and scores: refused with what came and what to do, and nothing is left behind."

import itertools
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
from open_clip.model import CLIP
from safetensors.torch import save_file

from iqa_repro.batch import execution
from iqa_repro.batch.reproduce import reproduce
from iqa_repro.clip.backbone import load_clip
from iqa_repro.clip.inputs import load_settings
from iqa_repro.clip.tiny import build_tiny, load_tiny
from iqa_repro.core.checkpoints import load_checkpoint, read_foreign, save_checkpoint
from iqa_repro.core.profiles import load_profile
from iqa_repro.data.catalog import load_dataset
from iqa_repro.data.labelled import Labelled
from iqa_repro.methods.grmp import pretraining
from iqa_repro.methods.grmp.finetune import FinetuneSettings, finetune, recipe_settings
from iqa_repro.methods.grmp.meta import (
    MetaSettings,
    Task,
    distortion_tasks,
    half_steps,
    meta_pretrain,
    plain_pretrain,
)
from iqa_repro.methods.grmp.model import GRMPIQA, load_model, save_model
from iqa_repro.methods.grmp.prompts import TextPrompt, VisualPrompt
from iqa_repro.methods.grmp.qgr import gradient_angle, regularize_gradient, regularize_gradients
from iqa_repro.methods.grmp.recipes import get_recipe
from iqa_repro.methods.registry import Rules
from iqa_repro.study import protocol, runs, trial
from iqa_repro.study.metrics import krcc, plcc, rmse, srcc
from iqa_repro.study.style import save_figure

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
    refused(ValueError, lambda: load_dataset("livc"), "'livc', did you mean 'livec'? There are ['aadb', ")
    refused(ValueError, lambda: load_dataset("embedded:zzz"), "unknown data set 'embedded:zzz'. There are [")
    refused(
        TypeError,
        lambda: load_dataset(None),
        "asked for by name, such as 'livec' or 'embedded:livec', got None",
    )


def test_recipe_and_variant(tmp_path, monkeypatch, clip):
    monkeypatch.setenv("IQA_REPRO_CACHE", str(tmp_path))
    monkeypatch.setattr(pretraining, "backbone_of", lambda profile: clip)
    text = "unknown recipe 'papr', did you mean 'paper'? There are ['paper', 'released']."
    refused(ValueError, lambda: get_recipe("papr"), text)
    refused(ValueError, lambda: pretraining.meta_model("GRMP-IQA", load_settings(), 0, "papr"), text)
    refused(ValueError, lambda: get_recipe("paper", restrt=False), "no setting ['restrt']; it has ['batch',")
    refused(
        ValueError,
        lambda: pretraining.meta_model("grmp", load_settings(), 0),
        "'grmp'; Tables 4 and 5 have ['CLIP',",
    )
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
    monkeypatch.setattr(execution, "figures_root", lambda *_, **__: tmp_path / "figures")
    run = execution.run_experiment
    refused(
        ValueError, lambda: run("beyond/leakge"), "'beyond/leakge', did you mean 'beyond/leakage'? Known: ["
    )
    refused(ValueError, lambda: run("uniqa/fig14", "embeded"), "did you mean 'embedded'?")
    hint = "fig14.ipynb has no parameter 'alpa', did you mean 'alpha'? It declares ['alpha', 'beta', 'k',"
    refused(ValueError, lambda: run("uniqa/fig14", alpa=2), hint)
    fig14_without_tag(tmp_path / "nbs" / "experiments" / "uniqa" / "fig14.ipynb")
    monkeypatch.setattr(execution, "experiments_root", lambda: tmp_path / "nbs" / "experiments")
    lost = "no cell tagged 'parameters', so ['alpha', 'profile', 'smoke'] would be ignored. Tag the cell"
    refused(ValueError, lambda: run("uniqa/fig14", alpha=2), lost)
    assert not (tmp_path / "figures").exists()


def test_reproduce_refuses_before_anything_runs():
    refused(
        ValueError,
        lambda: reproduce(["beyond/leakge"]),
        "no artefact 'beyond/leakge', did you mean 'beyond/leakage'",
    )
    refused(
        ValueError,
        lambda: reproduce(["uniqa/fig14"], "embeded"),
        "no profile 'embeded', did you mean 'embedded'?",
    )
    refused(ValueError, lambda: reproduce(["uniqa/fig14"], jobs=0), "jobs must be at least 1, got 0")


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
    run.finish()
    return (folder / "rows.csv").read_bytes()


def test_killed_anywhere_and_resumed(tmp_path):
    whole, new = measured(tmp_path, range(3)), tmp_path / ".new"
    second, third = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")][1:3]
    inside_lambda = whole.index("λ".encode(), second) + 1  # half a character
    for cut in (0, 5, second + 3, inside_lambda, third - 1, third):
        new.mkdir()
        (new / "rows.csv").write_bytes(whole[:cut])  # what a killed run leaves
        assert (tmp_path / "rows.csv").read_bytes() == whole, cut  # the former results
        assert measured(tmp_path, range(3)) == whole and not new.exists(), cut


def test_resumed_under_other_parameters(tmp_path):
    before = measured(tmp_path, [0])
    anew = f"delete the folder {tmp_path.name!r} to replace them, or run with the former parameters"
    refused(ValueError, lambda: measured(tmp_path, [1], seed=8), "holds 1 rows of other parameters", anew)
    refused(ValueError, lambda: measured(tmp_path, [1], strength=5.0), "holds 1 rows of other parameters")
    refused(ValueError, lambda: measured(tmp_path, [1], profile="full"), "holds 1 rows of other parameters")
    refused(TypeError, lambda: measured(tmp_path, [1], smoke="no"), "smoke must be True or False, got 'no'")
    assert (tmp_path / "rows.csv").read_bytes() == before and left(tmp_path) == ["rows.csv", "run.json"]


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
        "for backbone 'tiny', but",
        "'ViT-B-16-quickgelu'",
    )
    refused(
        ValueError,
        lambda: load_model(path, load_tiny()),
        "model.safetensors was made with weights",
        "('random') of 'tiny', got",
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
    model.recipe = get_recipe("paper", select="validation")
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


# --- training ------------------------------------------------------------------------------------------------------


def toy(clip, n, **settings):
    "A model, labelled and held-out pictures, and settings of a short training"
    draw = torch.Generator().manual_seed(1)
    images, quality = torch.rand(n + 4, 3, 52, 52, generator=draw), torch.rand(n + 4, generator=draw)
    short = FinetuneSettings(**dict(lr=0.01, epochs=2, blocks=1, views=1, check=1, strength=0) | settings)
    parts = Labelled(images[:n], quality[:n]), Labelled(images[n:], quality[n:])
    return small_model(clip), *parts, short, draw


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strength(strength):
    vector = torch.ones(2)
    text = f"strength (λ of Eq. 8) must be a number of at least 0, got {strength}; 0 switches QGR off"
    refused(ValueError, lambda: regularize_gradient(vector, vector, strength), text)
    for per in ("model", "tensor"):
        refused(ValueError, lambda per=per: regularize_gradients([vector], [vector], strength, per), text)
        refused(ValueError, lambda per=per: regularize_gradients([vector], [None], strength, per), text)
    refused(ValueError, lambda: FinetuneSettings(strength=strength), f"{strength}")


@pytest.mark.parametrize("per", ["model", "tensor"])
@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_no_semantic_gradient(per, size):
    quality = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    after = regularize_gradients(quality, [size * torch.ones(2), size * torch.ones(1)], 5.0, per)
    assert all(torch.equal(a, q) for a, q in zip(after, quality, strict=True))
    angle = gradient_angle(quality, [size * torch.ones(2), None])
    assert angle == 90 if not size else 0 <= angle <= 180


def test_finetune_diverges(clip):
    model, train, held, settings, draw = toy(clip, 6, lr=1e30, epochs=5, batch=4)
    before = state_of(model)
    where = ("training diverged in epoch 0, step 1, on pictures [", "lr=1e+30", "weights of epoch 0")
    refused(ValueError, lambda: finetune(model, train, held, settings, draw), *where)
    assert same(model, before) and not any(p.requires_grad for p in model.parameters())
    last = replace(settings, epochs=1, batch=8)  # one step, and no step after it that would notice
    seen = ("training diverged in the last step before a look", "training pictures became", "of epoch 0")
    refused(ValueError, lambda: finetune(model, train, held, last, draw), *seen)
    assert same(model, before)


def test_finetune_with_a_watch_that_fails(clip):
    model, train, held, settings, draw = toy(clip, 6)
    model.recipe = get_recipe("paper", select="test")
    before = state_of(model)
    nan = "after 0 epochs: what chooses the epoch (select='test') is nan"
    refused(ValueError, lambda: finetune(model, train, held, settings, draw, None, lambda m: np.nan), nan)
    looks = iter([0.5])
    refused(StopIteration, lambda: finetune(model, train, held, settings, draw, None, lambda m: next(looks)))
    assert same(model, before) and not model.training and not any(p.requires_grad for p in model.parameters())


def test_another_teacher(clip):
    model, train, held, settings, draw = toy(clip, 6, strength=1.0)
    before = state_of(model)
    vision = dict(image_size=32, patch_size=8, width=64, layers=3, head_width=32)
    words = dict(context_length=16, vocab_size=49408, width=48, heads=2, layers=2)
    other = CLIP(embed_dim=32, vision_cfg=vision, text_cfg=words, quick_gelu=True).eval()
    other = replace(clip, model=other, name="small")
    text = (
        "must be the original of the CLIP that is tuned: 'tiny' with",
        "input 48, got 'small' with 3 and 32",
    )
    refused(ValueError, lambda: finetune(model, train, held, settings, draw, other), *text)
    assert same(model, before)


@pytest.mark.parametrize("n, batch, labels", [(6, 192, "range"), (1, 32, "range"), (1, 32, "sample")])
def test_few_pictures(clip, n, batch, labels):
    model, train, held, settings, draw = toy(clip, n, batch=batch, strength=1.0)
    model.recipe, before = get_recipe("paper", tune_labels=labels), state_of(model)
    history = finetune(model, train, held, settings, draw, clip)
    assert history["epoch"].tolist() == [0, 1, 2] and history[["loss", "validation"]].notna().all(axis=None)
    assert history["chosen"].sum() == 1 and same(model, before) == bool(history["chosen"][0])


def test_equal_labels_cannot_be_stretched(clip):
    curves = []
    for labels in ("range", "sample"):
        model, train, held, settings, draw = toy(clip, 6)
        model.recipe = get_recipe("paper", tune_labels=labels)
        train = Labelled(train.images, torch.full((6,), 0.4))
        curves.append(finetune(model, train, held, settings, draw))
    assert curves[0].equals(curves[1]) and curves[0]["loss"].notna().all()


def test_meta_tasks(clip):
    images, quality = torch.rand(12, 3, 52, 52), torch.rand(12)
    sizes, draw, model = MetaSettings(support=4, query=4), torch.Generator().manual_seed(0), small_model(clip)
    before = state_of(model)
    table = pd.DataFrame({"image": list("abcdefghijkl"), "distortion": "blur", "quality": quality.numpy()})
    one = "needs at least two tasks, got 1: ['table/blur']; for one type use finetune"
    two = [Task("a", images, quality), Task("b", images[:7], quality[:7])]
    few = "task 'b' has 7 pictures, support + query need 8; lower them in [meta]"
    for pretrain in (meta_pretrain, plain_pretrain):
        refused(ValueError, lambda f=pretrain: f(model, distortion_tasks(table, images), sizes, draw), one)
        refused(ValueError, lambda f=pretrain: f(model, two, sizes, draw), few)
        for labels in (quality + 0.9, quality - 0.9, quality * torch.nan):
            bad = [two[0], Task("b", images, labels)]
            refused(
                ValueError, lambda f=pretrain, b=bad: f(model, b, sizes, draw), "labels of task 'b' must lie"
            )
    refused(ValueError, lambda: half_steps(two[1], sizes, get_recipe("paper"), draw), few)
    whole = get_recipe("paper", task_split="80/20")
    pair = Task("c", images[:2], quality[:2])
    refused(
        ValueError, lambda: half_steps(pair, sizes, whole, draw), "'c' has 2 pictures, support + query need 3"
    )
    assert [
        len(y)
        for _, y in half_steps(replace(pair, images=images[:3], quality=quality[:3]), sizes, whole, draw)
    ] == [2, 1]
    assert same(model, before)


def test_meta_training_diverges(clip, tmp_path):
    images, quality = torch.rand(8, 3, 52, 52), torch.rand(8)
    tasks, keep = [Task(name, images, quality) for name in "ab"], tmp_path / "kept.safetensors"
    sizes, model = MetaSettings(0.01, 1.0, 3, 2, 4, 4), small_model(clip)
    looks, sound = itertools.count(), []

    def watch(m):  # poisons a task after two sound epochs; the watch chooses nothing
        sound.append(state_of(m))
        if next(looks) == 1:
            quality.fill_(torch.nan)
        return 0.0

    draw = torch.Generator().manual_seed(0)
    where = (
        "meta-training diverged in epoch 2: loss nan at half-step 0 of task '",
        "θ of the end of epoch 1",
        str(keep),
    )
    refused(ValueError, lambda: meta_pretrain(model, tasks, sizes, draw, watch=watch, keep=keep), *where)
    assert same(model, sound[1]) and not model.training and left(tmp_path) == ["kept.safetensors"]
    kept, facts = load_checkpoint(keep)
    assert facts["epoch"] == 2 and torch.equal(kept["theta.0"], model.text.context)
    start, wild = small_model(clip), replace(sizes, inner_lr=1e30)
    before = state_of(start)
    text = "plain training diverged: loss nan in step 1 with inner_lr=1e+30"
    refused(
        ValueError,
        lambda: plain_pretrain(start, [Task(n, images, torch.rand(8)) for n in "ab"], wild, draw),
        text,
    )
    assert same(start, before)
    start.recipe = get_recipe("paper", meta_select="test")
    tasks = [Task(n, images, torch.rand(8)) for n in "ab"]
    nan = "watch chooses the prompts (meta_select='test') and gave nan after epoch 0"
    refused(ValueError, lambda: meta_pretrain(start, tasks, sizes, draw, watch=lambda m: np.nan), nan)


def test_recipe_numbers():
    for name, value in (("batch", 2.5), ("batch", None), ("visual_tokens", True), ("length", float("inf"))):
        refused(
            ValueError,
            lambda n=name, v=value: get_recipe("paper", **{n: v}),
            f"{name} must be a",
            f"got {value}",
        )
    refused(
        ValueError, lambda: recipe_settings(FinetuneSettings(), get_recipe("paper+batch=0")), "{'batch': 0}"
    )
    refused(ValueError, lambda: recipe_settings(FinetuneSettings(), get_recipe("paper+rate=0")), "(0.0, 5.0)")


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
        lambda: protocol.correlations(torch.zeros(3), table),
        "undefined: prediction has 1 distinct",
    )
    refused(ValueError, lambda: protocol.correlations(torch.zeros(2), table), "got lengths 2 and 3")
    flat = table.assign(quality=0.5)
    refused(
        ValueError, lambda: protocol.correlations(torch.rand(3), flat), "undefined: target has 1 distinct"
    )


def test_more_shots_than_pictures(monkeypatch):
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(10)], "mos": np.arange(10.0)})
    table["quality"] = table["mos"] / 9
    monkeypatch.setattr(trial, "table_of", lambda *_: table)
    rules = Rules(select="validation")
    parts = lambda shots: trial.trial_parts(trial.Trial("livec", "CoOp", shots), rules, load_settings())
    split = lambda shots: lambda: parts(shots)
    assert len(split(5)()[2]) == 2
    refused(ValueError, split(9), "9 shots were asked for, the table has 8 pictures; ask for 1 … 8")
    refused(ValueError, split(1), "at least 2 different values of 'image' are needed to split")
    for shots in (0, 2.5, -1, True):
        refused(ValueError, split(shots), "a whole number of pictures, or a share above 0", f"got {shots}")


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
