"""The loader of the authors' GRMP-IQA files on layouts with random tensors; none of their files is needed."""

import math
import os

import pytest
import torch
from open_clip import SimpleTokenizer
from open_clip.model import CLIP

from iqa_repro.clip.backbone import OPENAI_MEAN, OPENAI_STD, Backbone, load_clip
from iqa_repro.methods.grmp.model import build_model, load_model, save_model
from iqa_repro.methods.grmp.recipes import RECIPES, get_recipe
from iqa_repro.methods.grmp.released import load_released, read_released, to_released


def make_backbone(seed: int = 0, name: str = "small", quick_gelu: bool = True, **sizes) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 3, "head_width": 64}
        text = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
        vision |= {key: value for key, value in sizes.items() if key in vision}
        text |= {key: value for key, value in sizes.items() if key in text and key not in vision}
        model = CLIP(32, vision, text, quick_gelu=quick_gelu).eval().requires_grad_(False)
    return Backbone(model, SimpleTokenizer(context_length=12), OPENAI_MEAN, OPENAI_STD, name, "random")


@pytest.fixture(scope="module")
def clip() -> Backbone:
    return make_backbone()


@pytest.fixture(scope="module")
def model(clip):
    made = build_model(
        clip, get_recipe("released", visual_tokens=3), draw=lambda part: torch.Generator().manual_seed(1)
    )
    with torch.no_grad():  # no tensor keeps a start value of zeros or ones, which could hide a swap
        generator = torch.Generator().manual_seed(2)
        for parameter in made.parameters():
            if parameter.dim():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    made.text = build_model(made.clip, made.recipe).text  # words of the changed token embedding
    return made.eval()


def write(tensors: dict, path):
    torch.save(tensors, path)
    return path


def equal(one, two) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


PICTURES = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_fine_tuned_file_needs_nothing_else(model, tmp_path, prefix):
    tensors = {prefix + name.removeprefix("module."): value for name, value in to_released(model).items()}
    path = write(tensors, tmp_path / "tuned.pt")
    state = torch.get_rng_state()
    loaded = load_released(path, crops=2)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the caller's stream
    assert equal(loaded, model) and loaded.crops == 2 and not loaded.training
    assert loaded.recipe.name == "released+visual_tokens=3"
    with torch.no_grad():
        assert torch.equal(load_released(path)(PICTURES), model(PICTURES))


def test_a_meta_file_takes_the_words_from_its_backbone(model, tmp_path):
    path = write(to_released(model, meta=True), tmp_path / "meta.pt")
    loaded = load_released(path, model.clip)
    assert equal(loaded, model)
    with torch.no_grad():
        assert torch.equal(loaded(PICTURES), model(PICTURES))
    with pytest.raises(ValueError, match="another CLIP, or with other words"):
        load_released(path, make_backbone(seed=5))
    with pytest.raises(
        ValueError, match="no token embedding.*embed_dim 32 for 512.*image_layers 3 for 12.*pass its CLIP"
    ):
        load_released(path)


def test_halves_are_read_and_the_words_still_agree(model, tmp_path):
    "CLIP on a GPU keeps matrices in half precision"
    tensors = {name: value.half() for name, value in to_released(model).items()}
    loaded = load_released(write(tensors, tmp_path / "half.pt"), model.clip)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    assert torch.equal(loaded.text.context, model.text.context.half().float())


def test_there_and_back(model, tmp_path):
    path = write(to_released(model), tmp_path / "tuned.pt")
    back = to_released(load_released(path))
    assert back.keys() == to_released(model).keys()
    assert all(torch.equal(value, back[name]) for name, value in to_released(model).items())


def test_a_loaded_model_keeps_in_our_format(model, tmp_path):
    loaded = load_released(write(to_released(model), tmp_path / "tuned.pt"))
    save_model(loaded, tmp_path / "own.safetensors", backbone=True)
    again = load_model(tmp_path / "own.safetensors", loaded.clip)
    assert equal(again, loaded) and again.recipe == loaded.recipe
    with torch.no_grad():
        assert torch.equal(again(PICTURES), model(PICTURES))


def test_more_prompts_than_layers_are_kept_and_unused(model, tmp_path):
    tensors = to_released(model)
    name = "module.image_encoder.deep_prompt_embeddings"
    path = write(tensors | {name: torch.cat([tensors[name], torch.ones(4, 3, 64)])}, tmp_path / "deep.pt")
    loaded = load_released(path)
    assert loaded.visual.prompts.shape == (7, 3, 64)
    assert loaded.recipe.name == "released+visual_layers=7+visual_tokens=3"
    with torch.no_grad():
        assert torch.equal(loaded(PICTURES), model(PICTURES))
    save_model(loaded, tmp_path / "own.safetensors", backbone=True)
    assert equal(load_model(tmp_path / "own.safetensors", loaded.clip), loaded)


def change(tensors: dict, **new) -> dict:
    "Tensors with some replaced, or with None taken out; names with __ for a dot"
    new = {f"module.{name.replace('__', '.')}": value for name, value in new.items()}
    return {name: value for name, value in (tensors | new).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_learner2__ctx": None}, r"prompt_learner2.ctx is missing, expected 2-dimensional"),
        ({"prompt_learner2__ctx": torch.zeros(2, 4, 64)}, r"ctx is 3-dimensional, expected 2-dimensional"),
        ({"prompt_learner2__token_suffix": None}, r"token_suffix is missing, expected \(2, 7, 64\)"),
        ({"image_encoder__ln_pre__bias": None, "x__y": torch.zeros(7)}, r"ln_pre.bias is missing, expected \(64,\); "
            r"x.y is \(7,\), expected no such tensor"),
        ({"text_encoder__ln_final__bias": torch.zeros(9)}, r"ln_final.bias is \(9,\), expected \(64,\)"),
        ({"logit_scale": torch.tensor(math.nan)}, r"NaN or infinite numbers in \['logit_scale'\]"),
        ({"image_encoder__prompt_embeddings": torch.full((1, 3, 64), math.inf)}, r"\['image_encoder.prompt_embeddings'\]"),
        ({"image_encoder__deep_prompt_embeddings": torch.zeros(1, 3, 64)}, r"prompts for 2 of 3 layers"),
        ({"prompt_learner2__token_suffix": torch.zeros(2, 7, 64)}, r"token_suffix of .* off what"),
        ({"text_encoder__token_embedding__weight": torch.zeros(99, 64)}, r"has 99 tokens, CLIP's tokenizer 49408"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(model, tmp_path, changes, message):
    path = write(change(to_released(model), **changes), tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message):
        load_released(path)


def test_the_wrong_backbone_is_named_with_both_sizes(model, tmp_path):
    path = write(to_released(model), tmp_path / "tuned.pt")
    wide = make_backbone(name="deep", layers=4, patch_size=8)
    with pytest.raises(ValueError, match="than 'deep': patch_size 16 for 8, image_layers 3 for 4"):
        load_released(path, wide)
    with pytest.raises(ValueError, match="than 'tiny': embed_dim 32 for 128.*vocab_size 49408 for 4610"):
        load_released(path, load_clip("tiny"))
    with pytest.raises(ValueError, match="plain GELU"):
        load_released(path, make_backbone(quick_gelu=False))
    with pytest.raises(ValueError, match="{'image': 64, 'text': 64} .*head_width=24"):
        load_released(path, head_width=24)


def test_other_files_are_called_what_they_are(clip, tmp_path):
    others = {
        "a plain CLIP": clip.model.state_dict(),
        "an adapter of UniQA": {"params": {"adapter.fc.0.weight": torch.zeros(4, 8)}},
        "prompts of CoOp": {"state_dict": {"ctx": torch.zeros(16, 512)}},
        "something else": {"weight": torch.zeros(2)},
    }
    for kind, tensors in others.items():
        with pytest.raises(ValueError, match=f"no GRMP-IQA checkpoint but {kind}"):
            load_released(write(tensors, tmp_path / "other.pt"))
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        load_released(tmp_path / "nowhere.pt")


def test_damaged_and_dangerous_files_are_refused(model, tmp_path):
    path = write(to_released(model), tmp_path / "tuned.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated"):
        load_released(tmp_path / "cut.pt")
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {ran}",)

    with pytest.raises(ValueError, match="refused: .* would run code on loading"):
        load_released(write(to_released(model) | {"module.x": Payload()}, tmp_path / "bad.pt"))
    assert not ran.exists()


def test_only_what_the_layout_can_hold_is_written(clip):
    for recipe in (
        RECIPES["paper"],
        get_recipe("released", full_stop=False),
        get_recipe("released", pixels="clip"),
    ):
        with pytest.raises(ValueError, match="build the model with the recipe 'released'"):
            to_released(build_model(clip, recipe))
    with pytest.raises(ValueError, match=r"got \[\]"):
        to_released(build_model(clip, RECIPES["released"], visual_tokens=0))


@pytest.mark.skipif(
    not os.environ.get("IQA_REPRO_SLOW"), reason="4 GiB and up to 30 s; set IQA_REPRO_SLOW=1 to run it"
)
def test_the_real_size(tmp_path, monkeypatch):
    "ViT-B/16: numbers of tensors and elements as counted in the authors' files (DIFFERENCES.md G)"
    clip = load_clip("ViT-B-16-quickgelu", "random")
    model = build_model(clip, RECIPES["released"])
    tuned, meta = to_released(model), to_released(model, meta=True)
    assert (len(tuned), len(meta)) == (311, 310)
    assert sum(tensor.numel() for tensor in tuned.values()) == 149_620_737 + 1_515_776 + 74_752 == 151_211_265
    assert sum(p.numel() for part in (model.text, model.visual) for p in part.parameters()) == 1_515_776
    shapes = {name.removeprefix("module."): tuple(value.shape) for name, value in tuned.items()}
    assert shapes["prompt_learner2.token_suffix"] == (2, 72, 512)
    assert shapes["image_encoder.deep_prompt_embeddings"] == (11, 100, 768)
    loaded = load_released(write(tuned, tmp_path / "tuned.pt"))  # builds its own backbone, downloads nothing
    assert equal(loaded, model) and loaded.recipe == RECIPES["released"]
    assert (loaded.clip.name, loaded.clip.pretrained) == ("ViT-B-16-quickgelu", "openai")
    del loaded
    path = write(meta, tmp_path / "tuned.pt")  # in the same place: a file has 600 MB
    asked = []
    monkeypatch.setattr(
        "iqa_repro.methods.grmp.released.load_clip", lambda *names: asked.append(names) or clip
    )
    assert equal(load_released(path), model) and asked == [("ViT-B-16-quickgelu", "openai")]
    assert len(read_released(path)) == 310
    path.unlink()
