"""The layout of the authors' UniQA_weight.pt at full size, with random numbers: none of their files is needed."""

import torch

from iqa_repro.clip.backbone import encode_images, load_clip
from iqa_repro.methods.uniqa.adapter import PROMPT_GROUPS
from iqa_repro.methods.uniqa.released_weights import load_released_uniqa, load_uniqa_weights

HALF = (
    "weight",
    "bias",
    "in_proj_weight",
    "in_proj_bias",
    "proj",
    "text_projection",
)  # of linear, conv, attention


def test_full_size_layout(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        clip = load_clip("ViT-B-16-quickgelu", "random")
    state = {
        name: value.half()
        if name.split(".")[-1] in HALF and "ln_" not in name and "embedding" not in name
        else value
        for name, value in clip.model.state_dict().items()
    }
    assert len(state) == 302 and {value.dtype for value in state.values()} == {torch.float16, torch.float32}
    torch.save(state, tmp_path / "UniQA_weight.pt")
    loaded = load_uniqa_weights(tmp_path / "UniQA_weight.pt")
    own = loaded.model.state_dict()
    assert own.keys() == state.keys() and all(
        torch.equal(own[name], value.float()) for name, value in state.items()
    )
    draw = torch.Generator().manual_seed(2)
    adapter = {
        "adapter.fc.0.weight": torch.randn(256, 512, generator=draw) / 512**0.5,
        "adapter.fc.2.weight": torch.randn(512, 256, generator=draw) / 256**0.5,
        "score_level": torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]),
    }
    assert sum(value.numel() for value in adapter.values()) == 262_149
    torch.save({"params": adapter}, tmp_path / "adapter.pth")
    model = load_released_uniqa(
        tmp_path / "adapter.pth", loaded, PROMPT_GROUPS["default"], positions=True, crops=1
    )
    picture = torch.rand(1, 3, 224, 224, generator=draw)
    with torch.no_grad():
        score, feature = model(picture), encode_images(loaded, picture)
        torch.testing.assert_close(model.quality(feature[:, None]), score)
    assert score.shape == (1,) and 0.2 <= score.item() <= 1.0
