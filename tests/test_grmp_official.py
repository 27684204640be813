"""Our GRMP-IQA parts against numbers that the authors' own code gave for weights that anyone can regenerate.

Every weight is drawn from a generator seeded by its name (`weight` below), so the fixture holds results only. Tolerances are the
fixture's: relative 1e-4 on features and logits, 1e-3 on gradients. A relative tolerance says nothing about entries near zero, so
`check` also allows the same fraction of the array's scale: its root mean square, for gradients ‖g‖ / √n from the stored norm, and
for a dot product the product of the two norms.
"""

import json
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from iqa_repro.clip.backbone import (
    OPENAI_MEAN,
    OPENAI_STD,
    Backbone,
    encode_images,
    encode_prompts,
    image_tokens,
    pool_image,
    require_quickgelu,
    run_image_blocks,
    tokenize,
)
from iqa_repro.clip.partial import image_states
from iqa_repro.clip.text_prompt import TextPrompt
from iqa_repro.methods.grmp.finetune import scene_prompts, step_gradients
from iqa_repro.methods.grmp.model import GRMPIQA, unfreeze_last_blocks, upper_features
from iqa_repro.methods.grmp.prompts import VisualPrompt
from iqa_repro.methods.grmp.qgr import gradient_angle, quality_loss, regularize_gradients, semantic_loss
from iqa_repro.methods.grmp.recipes import RECIPES, get_recipe
from iqa_repro.methods.grmp.released import load_released

SHARED = Path(os.environ.get("IQA_REPRO_SHARED") or Path(__file__).resolve().parents[2] / "shared")
FIXTURE = SHARED / "fixtures" / "grmp_official_step.json"
pytestmark = pytest.mark.skipif(
    not FIXTURE.is_file(),
    reason=f"the authors' numbers are not at {FIXTURE}; set IQA_REPRO_SHARED to the folder that holds fixtures/",
)

FEATURES, GRADIENTS = 1e-4, 1e-3  # relative tolerances, fixture's README
SCENES = scene_prompts(RECIPES["released"])  # no full stop, still_life
NORMS = ("ln_1", "ln_2", "ln_pre", "ln_post", "ln_final", "prompt_norm")


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    "The fixture's tensor of that name: normal numbers seeded by it, the first rule that fits gives their spread"
    if name == "logit_scale":
        return torch.tensor(2.5)
    last, noise = name.split(".")[-1], np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(tuple(f"{norm}.weight" for norm in NORMS)):
        return torch.tensor(1 + 0.1 * noise, dtype=torch.float32)
    if len(shape) == 4:
        std = 1 / math.sqrt(math.prod(shape[1:]))
    elif last in ("bias", "in_proj_bias"):
        std = 0.02
    elif last in ("proj", "text_projection"):
        std = 1 / math.sqrt(shape[0])
    elif name in ("token_embedding.weight", "prompt_learner2.ctx"):
        std = 0.5
    elif "positional_embedding" in name or "class_embedding" in name:
        std = 0.3
    elif "prompt_embeddings" in name:
        std = 0.5
    else:
        std = 1 / math.sqrt(shape[-1])
    return torch.tensor(noise * std, dtype=torch.float32)


def our_name(official: str) -> str:
    "The authors' parameter name as GRMPIQA.named_parameters() has it"
    if official == "prompt_learner2.ctx":
        return "text.context"
    tower, rest = official.split(".", 1)
    return {"image_encoder": "model.visual.", "text_encoder": "model."}[tower] + rest


def check(actual, expected, relative: float, scale: float | None = None) -> None:
    "Equal within relative · (|expected| + scale); scale None: root mean square of what is expected"
    actual, expected = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (actual, expected))
    scale = expected.square().mean().sqrt().item() if scale is None else scale
    assert_close(actual, expected, rtol=relative, atol=relative * scale)


def length(gradient: Tensor) -> Tensor:
    "Norm summed in double: torch's float32 norm of a million entries is itself off by 2e-4, and so are the stored ones"
    return gradient.double().norm()


def make_clip(config: dict, quick_gelu: bool = True) -> Backbone:
    "The fixture's small CLIP without prompts: the semantic teacher, and what the student starts from"
    sizes = {
        tower: {key: config[f"{tower}_{key}"] for key in ("width", "layers")} for tower in ("vision", "text")
    }
    vision = dict(image_size=config["image_size"], patch_size=config["patch_size"], **sizes["vision"])
    vision["head_width"] = config["vision_width"] // config["vision_heads"]
    text = dict(context_length=config["context_length"], vocab_size=config["vocab_size"], **sizes["text"])
    text["heads"] = config["text_heads"]
    model = open_clip.model.CLIP(config["embed_dim"], vision, text, quick_gelu=quick_gelu)
    model.load_state_dict({name: weight(name, tuple(old.shape)) for name, old in model.state_dict().items()})
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    return Backbone(
        model.eval().requires_grad_(False), tokenizer, OPENAI_MEAN, OPENAI_STD, "official", "by name"
    )


def make_student(config: dict, clip: Backbone) -> GRMPIQA:
    "The authors' prompted model from our parts, dropout off"
    text = TextPrompt(clip, config["context_tokens"])
    width, tokens, deep = (
        config[key] for key in ("vision_width", "visual_prompt_tokens", "deep_prompt_layers")
    )
    released = dict(project=True, dropout=0.1, norm=True)
    visual = VisualPrompt(clip, tokens, 1 + deep, **released)  # more layers than the tower has
    first = weight("visual.prompt_embeddings", (1, tokens, width))
    later = weight("visual.deep_prompt_embeddings", (deep, tokens, width))
    parts = {"project": "prompt_proj", "norm": "prompt_norm"}
    tensors = {"prompts": torch.cat([first, later])}
    for name, old in visual.state_dict().items():
        if name != "prompts":
            part, kind = name.split(".")
            tensors[name] = weight(f"visual.{parts[part]}.{kind}", tuple(old.shape))
    visual.load_state_dict(tensors)
    text.load_state_dict({"context": weight("prompt_learner2.ctx", tuple(text.context.shape))})
    return GRMPIQA(
        clip, text, visual, get_recipe("released", visual_layers=1 + deep, precision="float32")
    ).eval()


@dataclass(frozen=True)
class Step:
    "One fine-tuning step of the fixture, recomputed"

    official: dict  # the authors' numbers
    clip: Backbone  # teacher
    model: GRMPIQA  # student
    images: Tensor  # (b, 3, s, s), as they enter the tower
    quality: Tensor  # (b,)
    trained: dict[str, torch.nn.Parameter]  # our names
    features: Tensor  # (b, d) with gradient
    teacher: Tensor  # (b, scenes) logits
    g_quality: list[Tensor]
    g_semantic: list[Tensor | None]

    def table(self) -> dict[str, dict]:
        "The fixture's gradients by our names"
        return {our_name(row["name"]): row for row in self.official["trained"]}


@pytest.fixture(scope="module")
def step() -> Step:
    official = json.loads(FIXTURE.read_text())
    config = official["config"]
    shape, seed = (config["images"], 3, config["image_size"], config["image_size"]), config["image_seed"]
    images = torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)
    labels = np.random.default_rng(seed + 1).random((config["images"], 1))
    quality = torch.tensor(labels[:, 0], dtype=torch.float32)
    clip = make_clip(config)
    model = make_student(config, clip)
    trained = unfreeze_last_blocks(model, config["trained_last_blocks"])
    features = model.image_features(images, preprocess=False)
    with torch.no_grad():
        scenes = encode_prompts(clip, SCENES)
        teacher = clip.temperature * encode_images(clip, images, normalize=False) @ scenes.T
    parameters, scale = list(trained.values()), model.clip.temperature
    loss = quality_loss(scale * features @ model.text(model.clip).T, quality)
    student = scale * features @ encode_prompts(model.clip, SCENES).T
    g_quality = torch.autograd.grad(loss, parameters, retain_graph=True)
    g_semantic = torch.autograd.grad(
        semantic_loss(student, teacher), parameters, retain_graph=True, allow_unused=True
    )
    return Step(
        official, clip, model, images, quality, trained, features, teacher, list(g_quality), list(g_semantic)
    )


def test_labels_and_token_ids_are_the_fixtures(step):
    check(step.quality, step.official["labels"], 1e-7)
    words = tokenize(step.clip, ["X X X X high quality.", "X X X X low quality."])[:, :9].tolist()
    ids = [
        49406,
        343,
        343,
        343,
        343,
        1400,
        3027,
        269,
        49407,
    ]  # DIFFERENCES.md G, token ids of the released code
    assert words == [ids, [1042 if i == 1400 else i for i in ids]]
    assert tokenize(step.clip, SCENES[7:8])[0, 5:8].tolist() == [1170, 318, 970]  # still _ life


def test_features(step):
    check(step.features, step.official["image_features"], FEATURES)
    check(step.model.text(step.model.clip), step.official["quality_text_features"], FEATURES)
    check(encode_prompts(step.model.clip, SCENES), step.official["scene_text_features"], FEATURES)
    teacher = encode_images(step.clip, step.images, normalize=False)
    check(teacher, step.official["teacher_image_features"], FEATURES)


def test_features_block_by_block_and_from_cached_tokens(step):
    clip, prompts, norm = step.model.clip, step.model.visual_prompts(), step.model.visual.norm
    cached = run_image_blocks(clip, image_tokens(clip, step.images, normalize=False), prompts, stop=1)
    assert cached.shape[1] == 1 + step.official["config"]["visual_prompt_tokens"] + (224 // 32) ** 2
    by_hand = pool_image(clip, run_image_blocks(clip, cached, prompts, start=1), norm)
    check(by_hand, step.official["image_features"], FEATURES)
    alone = image_states(clip, image_tokens(clip, step.images, normalize=False), prompts, stop=1)
    assert alone.shape[1] == 1 + (224 // 32) ** 2  # the prompts' places are not kept
    check(upper_features(step.model, alone, blocks=1), step.official["image_features"], FEATURES)


def test_logits_probability_and_losses(step):
    logits = step.model.quality_logits(step.images, preprocess=False)
    check(logits, step.official["quality_logits"], FEATURES)
    check(logits.softmax(-1)[:, 0], step.official["quality_probability"], FEATURES)
    check(quality_loss(logits, step.quality), step.official["quality_loss"], FEATURES)
    scenes = step.model.clip.temperature * step.features @ encode_prompts(step.model.clip, SCENES).T
    check(scenes, step.official["scene_logits"], FEATURES)
    check(step.teacher, step.official["teacher_scene_logits"], FEATURES)
    entropy = torch.distributions.Categorical(logits=step.teacher).entropy().mean()
    cross_entropy = semantic_loss(scenes, step.teacher) + entropy  # theirs is the cross-entropy, ours the KL
    check(cross_entropy, step.official["semantic_loss"], FEATURES)


def test_the_same_tensors_are_trained(step):
    table = step.table()
    assert set(step.trained) == set(table) and len(table) == 29
    for name, parameter in step.trained.items():
        assert list(parameter.shape) == table[name]["shape"], name
    unreached = [name for name, g in zip(step.trained, step.g_semantic, strict=True) if g is None]
    assert step.model.visual.norm.eps == 1e-6  # as released; too small to show in the features
    assert unreached == [name for name, row in table.items() if row["sem_norm"] is None] == ["text.context"]


def test_raw_gradients_and_their_angle(step):
    for name, q, s in zip(step.trained, step.g_quality, step.g_semantic, strict=True):
        row, n = step.table()[name], q.numel()
        check(length(q), row["qua_norm"], GRADIENTS, scale=0)
        check(q.flatten()[:5], row["qua_head"], GRADIENTS, scale=row["qua_norm"] / math.sqrt(n))
        if s is not None:
            check(length(s), row["sem_norm"], GRADIENTS, scale=0)
            check((q * s).sum(), row["dot"], GRADIENTS, scale=row["qua_norm"] * row["sem_norm"])
    angle = gradient_angle(step.g_quality, step.g_semantic)
    check(angle, step.official["gradient_angle_degrees"], GRADIENTS, scale=0)


def test_regularized_gradients_tensor_by_tensor(step):
    tokens = tokenize(step.model.clip, SCENES)
    features = step.model.image_features(step.images, preprocess=False)
    strength = step.official["config"]["lambda_"]
    result = step_gradients(step.model, features, step.quality, (tokens, step.teacher), strength)
    check(result.quality_loss, step.official["quality_loss"], FEATURES)
    check(result.angle, step.official["gradient_angle_degrees"], GRADIENTS, scale=0)
    for name, g in zip(step.trained, result.gradients, strict=True):
        row = step.table()[name]
        kind = "qua" if row["sem_norm"] is None else "qgr"  # the semantic loss does not reach the context
        check(length(g), row[f"{kind}_norm"], GRADIENTS, scale=0)
        check(
            g.flatten()[:5], row[f"{kind}_head"], GRADIENTS, scale=row[f"{kind}_norm"] / math.sqrt(g.numel())
        )


def test_one_vector_for_the_model_is_something_else(step):
    "Eq. 8 on the whole gradient: its norms follow from the fixture's own numbers, and are not the released ones"
    reached = {name: row for name, row in step.table().items() if row["sem_norm"] is not None}
    strength = step.official["config"]["lambda_"]
    share = sum(row["dot"] for row in reached.values()) / sum(
        row["sem_norm"] ** 2 for row in reached.values()
    )
    assert share > 0  # so the whole gradient is regularized, tensors of negative dot product included
    whole = regularize_gradients(step.g_quality, step.g_semantic, strength, per="model")
    single = regularize_gradients(step.g_quality, step.g_semantic, strength, per="tensor")
    other = []
    for name, q, w, t in zip(step.trained, step.g_quality, whole, single, strict=True):
        if name not in reached:
            assert w is q and t is q
            continue
        row, c = reached[name], strength * share
        square = row["qua_norm"] ** 2 - 2 * c * row["dot"] + (c * row["sem_norm"]) ** 2
        check(length(w), math.sqrt(square), GRADIENTS, scale=0)
        if abs(math.sqrt(square) / row["qgr_norm"] - 1) > 10 * GRADIENTS:
            other.append(name)
            assert not torch.allclose(w, t, rtol=10 * GRADIENTS, atol=0), name
        if row["dot"] <= 0:
            assert torch.equal(t, q) and not torch.allclose(w, q, rtol=10 * GRADIENTS, atol=0), name
    assert len(other) >= 20, other  # nearly everywhere


# --- the authors' files ---------------------------------------------------------------------------------------------


def official_state(config: dict, clip: Backbone) -> dict[str, Tensor]:
    "What the authors' fine-tuned model saves: every tensor by the fixture's rule, under the authors' own names"
    names = {name: tuple(old.shape) for name, old in clip.model.state_dict().items()}
    width, tokens, deep = (
        config[key] for key in ("vision_width", "visual_prompt_tokens", "deep_prompt_layers")
    )
    names |= {"visual.prompt_embeddings": (1, tokens, width)}
    names |= {"visual.deep_prompt_embeddings": (deep, tokens, width)}
    names |= {"visual.prompt_proj.weight": (width, width), "visual.prompt_proj.bias": (width,)}
    names |= {"visual.prompt_norm.weight": (width,), "visual.prompt_norm.bias": (width,)}
    state, count = {}, config["context_tokens"]
    for name, shape in names.items():
        tower, rest = name.split(".", 1) if name.startswith("visual.") else ("text", name)
        key = name if name == "logit_scale" else f"{'image' if tower == 'visual' else tower}_encoder.{rest}"
        state[key] = weight(name, shape)
    state["prompt_learner2.ctx"] = weight("prompt_learner2.ctx", (count, config["text_width"]))
    words = clip.tokenizer([" ".join(["X"] * count) + f" {word} quality." for word in ("high", "low")])
    embedded = state["text_encoder.token_embedding.weight"][words]
    state["prompt_learner2.token_prefix"] = embedded[:, :1]
    state["prompt_learner2.token_suffix"] = embedded[:, 1 + count :]
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.fixture(scope="module", params=["fine-tuned", "meta"])
def loaded(request, step, tmp_path_factory) -> GRMPIQA:
    state = official_state(step.official["config"], step.clip)
    if request.param == "meta":
        del state["module.text_encoder.token_embedding.weight"]
    path = tmp_path_factory.mktemp("released") / "best_prompt.pt"
    torch.save(state, path)
    return load_released(path, step.clip if request.param == "meta" else None)


def test_a_released_file_gives_the_fixtures_numbers(step, loaded):
    official = step.official
    with torch.no_grad():
        check(loaded.image_features(step.images, preprocess=False), official["image_features"], FEATURES)
        check(loaded.text_features(), official["quality_text_features"], FEATURES)
        check(encode_prompts(loaded.clip, SCENES), official["scene_text_features"], FEATURES)
        logits = loaded.quality_logits(step.images, preprocess=False)
    check(logits, official["quality_logits"], FEATURES)
    check(logits.softmax(-1)[:, 0], official["quality_probability"], FEATURES)
    check(quality_loss(logits, step.quality), official["quality_loss"], FEATURES)


def test_a_released_file_is_the_student_of_the_gradient_tests(step, loaded):
    config, own = step.official["config"], loaded.state_dict()
    expected = step.model.state_dict()
    assert own.keys() == expected.keys()
    assert [name for name in own if not torch.equal(own[name], expected[name])] == []
    assert loaded.recipe == get_recipe("released", visual_layers=1 + config["deep_prompt_layers"])
    assert loaded.clip.model.visual.transformer.resblocks[0].attn.num_heads == config["vision_heads"]
    assert loaded.visual.norm.eps == 1e-6 and not loaded.training


# --- what must not match, so that the tests above can fail ---------------------------------------------------------


def test_plain_gelu_does_not_match(step):
    config = step.official["config"]
    plain = make_clip(config, quick_gelu=False)
    with pytest.raises(ValueError, match="plain GELU"):
        require_quickgelu(plain.model, plain.name)
    model = make_student(config, plain)
    with torch.no_grad():
        wrong = {
            "image_features": model.image_features(step.images, preprocess=False),
            "teacher_image_features": encode_images(plain, step.images, normalize=False),
            "quality_text_features": model.text(model.clip),
            "scene_text_features": encode_prompts(plain, SCENES),
        }
    for name, features in wrong.items():
        with pytest.raises(AssertionError, match="not close"):
            check(features, step.official[name], FEATURES)
        assert (features - torch.tensor(step.official[name])).abs().max() > 10 * FEATURES, name


@pytest.mark.parametrize(
    "mistake", ["no prompt_norm", "no prompts", "swapped layers", "no projection", "pixels"]
)
def test_a_wrong_image_tower_does_not_match(step, mistake):
    clip, prompts, norm = step.model.clip, step.model.visual_prompts(), step.model.visual.norm
    arguments = {
        "no prompt_norm": (prompts, None, False),
        "no prompts": (None, norm, False),
        "swapped layers": (prompts[:2][::-1], norm, False),
        "no projection": (list(step.model.visual.prompts.unbind()), norm, False),
        "pixels": (prompts, norm, True),
    }[mistake]
    with torch.no_grad(), pytest.raises(AssertionError, match="not close"):
        check(encode_images(clip, step.images, *arguments), step.official["image_features"], FEATURES)


@pytest.mark.parametrize("sentence", ["a photo of a still-life", "a photo of a still_life."])
def test_the_papers_scene_sentences_are_other_sentences(step, sentence):
    with pytest.raises(AssertionError, match="not close"):
        check(encode_prompts(step.clip, [sentence]), step.official["scene_text_features"][7:8], FEATURES)


def test_a_released_file_needs_quickgelu_and_the_right_heads(step, tmp_path):
    config = step.official["config"]
    torch.save(official_state(config, step.clip), tmp_path / "tuned.pt")
    with pytest.raises(ValueError, match="plain GELU"):
        load_released(tmp_path / "tuned.pt", make_clip(config, quick_gelu=False))
    other = load_released(tmp_path / "tuned.pt", head_width=32)
    with torch.no_grad(), pytest.raises(AssertionError, match="not close"):
        check(other.image_features(step.images, preprocess=False), step.official["image_features"], FEATURES)
