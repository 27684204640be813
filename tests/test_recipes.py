"Each setting of a recipe changes what it names and nothing else: every value is turned, every observable is compared to the bit."

import itertools
from dataclasses import fields
from functools import cache, lru_cache
from hashlib import sha256

import open_clip
import pandas as pd
import pytest
import torch
from open_clip.model import CLIP

from iqa_repro.clip import inputs
from iqa_repro.clip.backbone import Backbone
from iqa_repro.data.labelled import Labelled
from iqa_repro.methods.grmp import finetune as tuning_module
from iqa_repro.methods.grmp import finetune_crops as crops_module
from iqa_repro.methods.grmp import meta as meta_module
from iqa_repro.methods.grmp import meta_tasks as tasks_module
from iqa_repro.methods.grmp import network as model_module
from iqa_repro.methods.grmp import pretraining
from iqa_repro.methods.grmp.finetune import FinetuneSettings, finetune, recipe_settings
from iqa_repro.methods.grmp.meta import MetaSettings, Task, half_steps, meta_pretrain
from iqa_repro.methods.grmp.model import build_model
from iqa_repro.methods.grmp.recipes import Recipe, get_recipe
from iqa_repro.methods.registry import Rules
from iqa_repro.study import trial

SETTINGS = {field.name: field for field in fields(Recipe)[1:]}

# What each setting changes: names of the probes below. All others must stay as they are, to the bit.
CHANGES = {
    "visual_tokens": {"prompts", "entering", "score"},
    "visual_layers": {"prompts", "entering", "score"},
    "prompt_proj": {"prompt modules", "entering", "score"},
    "prompt_dropout": {"meta noise", "tune noise"},  # scores are without noise
    "prompt_norm": {"prompt modules", "score"},
    "full_stop": {"quality tokens", "score"},
    "pixels": {"student pixels", "teacher pixels", "score"},
    "restart": {"start of the second task"},
    "query_point": {"half-steps"},
    "inner_optimizer": {"half-steps", "moments forgotten", "meta rate"},
    "moments": {"moments forgotten"},
    "outer_optimizer": {"outer Adam", "outer rate"},
    "held_types": {"types kept out"},
    "must_learn": {"learned nothing"},
    "outer_tasks": {"tasks of outer steps"},
    "kadid_types": {"meta tasks"},
    "task_split": {"meta batches", "meta sizes"},
    "meta_labels": {"meta labels"},
    "meta_resize": {"meta scale"},
    "meta_select": {"meta epoch"},
    "train_visual": {"trained"},
    "per": {"regularization"},
    "scene_word": {"scene tokens"},
    "momentum": {"momentum"},
    "weight_decay": {"weight decay"},
    "rate": {"rate"},
    "batch": {"batches"},
    "schedule": {"schedule"},
    "length": {"epochs", "schedule", "chosen epoch"},  # a cosine over more epochs, of which the last is kept
    "select": {"chosen epoch"},
    "tune_labels": {"tune labels"},
    "tune_resize": {"tune scale", "crops", "scoring view", "score"},
    "crop_offset": {"crops", "offsets of a batch"},
    "stream": {"crops", "crops of another run"},
    "precision": {"autocast"},
    "split_by": {"references on both sides", "test pictures", "labelled"},
    "livec_training": {"pictures", "test pictures", "labelled"},
    "nested": {"fewer shots within more", "labelled"},
}
ALSO = {("select", "validation"): {"held out"}}  # nothing is held out that does not choose
OTHER = {"visual_layers": [2], "query_point": ["start"]}  # where paper and released code agree
NEEDS: dict[str, dict] = {}  # what else must be turned so that a setting matters


def turns():
    "(setting, value): every value that is not the paper's"
    for name, field in SETTINGS.items():
        values = field.metadata["values"] or (field.metadata["released"],)
        for value in OTHER.get(name, [v for v in values if v != field.default]):
            yield name, value


# --- toys ----------------------------------------------------------------------------------------------------------


def draw(seed):
    return torch.Generator().manual_seed(seed)


@lru_cache(maxsize=1)
def small_clip():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(
            embed_dim=32,
            vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=3, head_width=16),
            text_cfg=dict(context_length=16, vocab_size=49408, width=32, heads=2, layers=1),
            quick_gelu=True,
        )
    clip = clip.eval().requires_grad_(False)
    words = open_clip.SimpleTokenizer(context_length=16)
    return Backbone(clip, words, (0.5,) * 3, (0.25,) * 3, "small", "random")


PICTURE = torch.rand(
    3, 40, 44, generator=draw(0)
)  # all pictures alike, so that no draw of pictures is seen in pixels


def digest(tensor):
    return tuple(tensor.shape), sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:12]


def noise_of(model):
    return model.visual.dropout.p if model.visual.training else 0.0


def recorded(patch, module, name, record):
    "Let `record(*arguments)` see each call of a function."
    original = getattr(module, name)

    def seen(*args, **kwargs):
        record(*args, **kwargs)
        return original(*args, **kwargs)

    patch.setattr(module, name, seen)


# --- probes of the model -------------------------------------------------------------------------------------------


def model_of(recipe):
    return build_model(small_clip(), recipe, visual_tokens=4, draw=lambda part: draw(len(part)))


def model_probes(recipe):
    model, views, normalised = model_of(recipe), [], []
    handle = model.model.visual.conv1.register_forward_pre_hook(
        lambda _, inputs: normalised.append(inputs[0])
    )
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        cut = model_module.test_crops
        patch.setattr(model_module, "test_crops", lambda *args: views.append(cut(*args)) or views[-1])
        model.image_features(PICTURE[None, :, :32, :32])
        pictures = torch.rand(8, 3, 40, 44, generator=draw(4))
        scores = torch.cat([model(pictures)[:, None], model.image_features(pictures[..., :32, :32])], 1)
    handle.remove()
    return {
        "prompts": digest(model.visual.prompts),
        "entering": digest(torch.stack(model.visual_prompts())),
        "prompt modules": [name for name, _ in model.visual.named_parameters() if name != "prompts"],
        "quality tokens": model.text.tokens.tolist(),
        "student pixels": digest(normalised[0]),
        "scoring view": digest(views[0]),
        "score": digest(scores),
    }


# --- probes of meta-training ---------------------------------------------------------------------------------------

SIZES = MetaSettings(inner_lr=0.1, outer_lr=0.5, epochs=3, tasks_per_step=2, support=4, query=4)


def toy_tasks():
    labels, pictures = torch.linspace(0.2, 0.6, 20), PICTURE.expand(20, -1, -1, -1)
    return [Task(name, pictures, labels) for name in ("tid2013/a", "tid2013/b", "kadid10k/a", "kadid10k/b")]


def batch_probes(recipe):
    pictures = (torch.arange(20.0) / 20)[:, None, None, None].expand(
        -1, 3, 4, 4
    )  # a picture's level is its number
    quality = torch.linspace(0.2, 0.6, 20)
    visits = [
        ((images[:, 0, 0, 0] * 20).round().long(), labels)
        for images, labels in half_steps(Task("a", pictures, quality), SIZES, recipe, draw(0))
    ]
    return {
        "meta batches": [rows.tolist() for rows, _ in visits],
        "meta labels": max((labels - quality[rows]).abs().max().item() for rows, labels in visits) > 0,
    }


def meta_probes(recipe):
    model, events, visits, scales, noises, contexts = model_of(recipe), [], [], [], [], []
    marks, rules = iter([1.0, 7.0, 3.0]), []

    def visit(task, *_):
        visits.append([])
        events.append(task.name)

    def crop(images, *_):
        scales.append(digest(images[0]))
        noises.append(noise_of(model))

    def watch(_):
        contexts.append(model.text.context.clone())
        events.append("end of epoch")
        return next(marks)

    step = meta_module.inner_step

    def inner_step(theta, loss, lr, at=None, adam=None):
        with torch.no_grad():
            loss(
                list(theta)
            )  # the loss that is reported; the step is that of a parabola, whatever the pictures
        end = step(theta, lambda values: sum((v - 0.3).square().sum() / 2 for v in values), lr, at, adam)
        visits[-1].append((theta[0], end[0]))
        return end

    with pytest.MonkeyPatch.context() as patch:
        recorded(patch, tasks_module, "half_steps", visit)
        recorded(patch, tasks_module, "train_crops", crop)
        recorded(
            patch,
            meta_module,
            "outer_step",
            lambda *given: events.append("outer step") or rules.append(given[3]),
        )
        recorded(patch, meta_module.AdamStep, "forget", lambda _: events.append("forget"))
        patch.setattr(meta_module, "inner_step", inner_step)
        meta_pretrain(model, toy_tasks(), SIZES, draw(1), watch=watch)
    first, second = visits[:2]
    epoch = events[: events.index("end of epoch")]
    settings = pretraining.meta_settings(inputs.load_settings(), "GRMP-IQA", recipe)
    return batch_probes(recipe) | {
        "tasks of outer steps": [event for event in epoch if event != "forget"],
        "half-steps": [digest(end) for _, end in first[:2]],
        "start of the second task": torch.equal(first[0][0], second[0][0]),
        "moments forgotten": sorted(task for task, forget in itertools.pairwise(epoch) if forget == "forget"),
        "meta scale": scales[0],
        "meta noise": set(noises),
        "meta epoch": [torch.equal(model.text.context, context) for context in contexts],
        "meta rate": settings.inner_lr,
        "outer rate": settings.outer_lr,
        "outer Adam": {rule is not None for rule in rules},
        "types kept out": [
            task.name for task in pretraining.hold_types(4 * toy_tasks(), recipe.held_types)[1]
        ],
        "learned nothing": refused(recipe),
        "meta sizes": (settings.epochs, settings.support, settings.query),
    }


def refused(recipe) -> bool:
    "Whether a loss that does not fall stops meta-training"
    try:
        pretraining.check_learned(torch.ones(3), torch.ones(3), must=recipe.must_learn)
    except ValueError:
        return True
    return False


# --- probes of fine-tuning -----------------------------------------------------------------------------------------


class Enough(Exception):
    "Ends a run that has shown what was asked"


def tune_probes(recipe):
    probes, seen = (
        {},
        {name: [] for name in ("cut", "labels", "names", "noise", "scenes", "groups", "qgr", "autocast")},
    )
    train = Labelled(PICTURE.expand(36, -1, -1, -1), torch.linspace(0.2, 0.8, 36))
    held = Labelled(PICTURE.expand(3, -1, -1, -1), torch.full((3,), 0.5))
    sizes = FinetuneSettings(lr=0.01, epochs=1, blocks=1, views=2, check=1, strength=1.0, cache_gib=0.0)
    settings = recipe_settings(sizes, recipe)
    losses = itertools.chain([0.3], itertools.repeat(0.4))  # of the held-out pictures: epoch 0 is best
    marks = itertools.chain([0.9], itertools.repeat(0.1))  # of the test pictures: epoch 0, too
    watch = (lambda model: next(marks)) if recipe.select == "test" else None

    def step(model, features, quality, semantic, strength):
        if strength:  # not a look
            seen["labels"].append(quality)
            seen["names"].append([name for name, p in model.named_parameters() if p.requires_grad])
            seen["noise"].append(noise_of(model))
            seen["scenes"].append(semantic[0].tolist())

    def tower(name):
        return lambda *_: seen["autocast"].append((name, torch.is_autocast_enabled("cpu")))

    with pytest.MonkeyPatch.context() as patch:
        recorded(
            patch,
            crops_module,
            "fit_crop",
            lambda images, _: probes.setdefault("tune scale", digest(images[0])),
        )
        recorded(patch, crops_module, "lower_tokens", lambda _, crops, __: seen["cut"].append(crops))
        recorded(patch, tuning_module, "step_gradients", step)
        for module, name in (
            (tuning_module, "upper_features"),
            (tuning_module, "finish_text"),
            (crops_module, "lower_tokens"),
        ):
            recorded(patch, module, name, tower(name))
        constants = lambda clip, *_: probes.setdefault("teacher pixels", (clip.mean, clip.std))
        recorded(patch, tuning_module, "image_tokens", constants)  # the student enters by lower_tokens
        fixed = [torch.tensor([3.0]), torch.tensor([1.0])], [torch.tensor([2.0]), torch.tensor([-1.0])]
        regularize = tuning_module.regularize_gradients

        def rule(quality, semantic, strength, per):
            if strength:
                seen["qgr"].append([g.item() for g in regularize(*fixed, strength, per)])
            return regularize(quality, semantic, strength, per)

        patch.setattr(tuning_module, "regularize_gradients", rule)
        loss = tuning_module.quality_loss
        scripted = lambda logits, y: torch.tensor(next(losses)) if len(y) == 3 else loss(logits, y)
        patch.setattr(tuning_module, "quality_loss", scripted)
        recorded(patch, torch.optim.SGD, "step", lambda sgd: seen["groups"].append(dict(sgd.param_groups[0])))
        history = finetune(model_of(recipe), train, held, settings, draw(2), small_clip(), watch)
        cut = seen["cut"][1][:32]  # the first was a look
        seen["cut"].clear()
        stop = lambda *_: (_ for _ in ()).throw(Enough) if len(seen["cut"]) == 2 else None
        recorded(patch, tuning_module, "upper_features", stop)
        with pytest.raises(Enough):
            finetune(model_of(recipe), train, held, settings, draw(3), small_clip(), watch)
    steps = -(-36 // settings.batch)
    group = seen["groups"][0]
    return probes | {
        "trained": seen["names"][0],
        "regularization": seen["qgr"][0],
        "scene tokens": seen["scenes"][0],
        "rate": group["lr"],
        "momentum": group["momentum"],
        "weight decay": group["weight_decay"],
        "batches": [len(labels) for labels in seen["labels"][:steps]],
        "schedule": (history["lr"] / history["lr"][0]).tolist()[:2],
        "epochs": int(history["epoch"].max()),
        "chosen epoch": int(history["epoch"][history["chosen"]].iloc[0]),
        "tune labels": digest(torch.cat(seen["labels"][:steps]).sort().values),
        "tune noise": set(seen["noise"]),
        "crops": digest(cut),
        "offsets of a batch": len(cut.flatten(1).unique(dim=0)) > 1,
        "crops of another run": torch.equal(cut, seen["cut"][1][:32]),
        "autocast": sorted(set(seen["autocast"])),
    }


# --- probes of the protocol ----------------------------------------------------------------------------------------


def toy_table(n=120, types=0):
    columns = {"image": [f"{i:03d}.png" for i in range(n)], "quality": [i / n for i in range(n)]}
    if types:
        columns["distortion"] = [f"type {i % types:02d}" for i in range(n)]
    else:
        columns |= {"reference": [f"{i // 4:02d}" for i in range(n)], "training": [i < 7 for i in range(n)]}
    table = pd.DataFrame(columns).assign(mos=lambda t: t["quality"])
    table.attrs["facts"] = {"name": "toy", "low": 0, "high": 1}
    return table, (torch.arange(float(n)) / n)[:, None, None, None].expand(-1, 3, 2, 2)


def toy_parts(recipe, shots, **changes):
    "Labelled and held-out images with their labels, and the test table, as a recipe splits the toy set"
    rules = Rules(recipe.split_by, recipe.livec_training, recipe.nested, recipe.select, recipe.label)
    settings = inputs.load_settings()
    train, held, test = trial.trial_parts(trial.Trial("toy", "GRMP-IQA", shots, **changes), rules, settings)
    pair = lambda part: inputs.labelled_of("toy", part, settings.profile)
    return pair(train), None if held is None else pair(held), test


def protocol_probes(recipe):
    def numbers(*parts):
        return sorted(
            round(120 * level) for part in parts if part for level in part.images[:, 0, 0, 0].tolist()
        )

    def split(shots, **changes):
        train, held, test = toy_parts(recipe, shots, **changes)
        return train, held, [int(name[:3]) for name in test["image"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "pictures_of", lambda *_: toy_table())
        patch.setattr(trial, "table_of", lambda *_: toy_table()[0])
        types = {"tid2013": 24, "kadid10k": 25}
        patch.setattr(pretraining, "pictures_of", lambda name, _: toy_table(50, types[name]))
        few, more, (*whole, test) = split(10), split(20), split(0.8)
        everything = split(1.0, judges=("another",))
        tasks = pretraining.meta_tasks(inputs.load_settings().profile, recipe)
    return {
        "meta tasks": [task.name for task in tasks],
        "pictures": numbers(*everything[:2]),
        "test pictures": test,
        "references on both sides": bool({i // 4 for i in numbers(*whole)} & {i // 4 for i in test}),
        "labelled": numbers(*few[:2]),
        "fewer shots within more": set(numbers(*few[:2])) <= set(numbers(*more[:2])),
        "held out": len(numbers(few[1])),
    }


@cache
def probes(recipe):
    parts = (model_probes, meta_probes, tune_probes, protocol_probes)
    return {name: value for part in parts for name, value in part(recipe).items()}


def changed(one, two):
    one, two = probes(one), probes(two)
    assert one.keys() == two.keys()
    return {name for name in one if one[name] != two[name]}


# --- tests ---------------------------------------------------------------------------------------------------------


def test_every_setting_and_every_probe_is_named():
    assert CHANGES.keys() == SETTINGS.keys()  # a new setting needs a line in the table
    assert {name for name, _ in turns()} == SETTINGS.keys()
    named = set().union(*CHANGES.values(), *ALSO.values())
    assert named == probes(get_recipe("paper")).keys()  # a probe that nothing changes proves nothing


def test_probes_repeat():
    before = probes(get_recipe("paper"))
    probes.cache_clear()
    assert probes(get_recipe("paper")) == before


@pytest.mark.parametrize("name, value", list(turns()), ids=str)
def test_setting_changes_what_it_names_and_nothing_else(name, value):
    needs = NEEDS.get(name, {})
    expected = CHANGES[name] | ALSO.get((name, value), set())
    assert changed(get_recipe("paper", **needs), get_recipe("paper", **needs, **{name: value})) == expected


@pytest.mark.parametrize("name", ["split_by", "livec_training", "nested", "select"])
def test_pictures_keep_their_labels(name, monkeypatch):
    monkeypatch.setattr(inputs, "pictures_of", lambda *_: toy_table())  # a picture's level is its label
    monkeypatch.setattr(trial, "table_of", lambda *_: toy_table()[0])
    for value in SETTINGS[name].metadata["values"]:
        recipe = get_recipe("paper", **{name: value})
        train, held, test = toy_parts(recipe, 10)
        judged = inputs.labelled_of("toy", test, inputs.load_settings().profile)
        for part in filter(None, (train, held, judged)):
            assert torch.equal(part.quality, part.images[:, 0, 0, 0]), (name, value)


def test_released_differs_by_its_settings():
    released = get_recipe(
        "released", visual_tokens=6, length=2.0
    )  # 100 and 40 are turned above; here they would only take time
    differ = {name for name, field in SETTINGS.items() if field.default != field.metadata["released"]}
    assert changed(get_recipe("paper"), released) == set().union(*(CHANGES[name] for name in differ))
