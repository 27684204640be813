"""Our adapter against scores that the authors' own classes gave, and their file layout against ours.

The adapter's weights are drawn from generators seeded by their names, so the fixture holds scores only (relative tolerance 1e-5).
"""

import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from iqa_repro.methods.uniqa.adapter import MultiCueAdapter, adapter_recipe

SHARED = Path(os.environ.get("IQA_REPRO_SHARED") or Path(__file__).resolve().parents[2] / "shared")
FIXTURE = SHARED / "fixtures" / "uniqa_official_adapter.json"
pytestmark = pytest.mark.skipif(
    not FIXTURE.is_file(),
    reason=f"the authors' numbers are not at {FIXTURE}; set IQA_REPRO_SHARED to the folder that holds fixtures/",
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def weight(name: str, *shape: int) -> Tensor:
    return normal(zlib.crc32(name.encode()), *shape) / math.sqrt(shape[1])


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads(FIXTURE.read_text())


@pytest.fixture(scope="module")
def state(facts) -> dict[str, Tensor]:
    shapes = {"adapter.fc.0.weight": (256, facts["dim"]), "adapter.fc.2.weight": (facts["dim"], 256)}
    return {name: weight(name, *shape) for name, shape in shapes.items()} | {
        "score_level": torch.tensor(facts["score_level"])
    }


@pytest.mark.parametrize(("kind", "sentences"), [("single", 5), ("ensemble", 20)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_scores_are_the_authors(facts, state, kind, sentences, wrapped):
    adapter = MultiCueAdapter.from_released({"params": state} if wrapped else state)
    image = normal(facts["feature_seed"], facts["images"], facts["dim"])
    text = normal(facts["feature_seed"] + 1, 20, facts["dim"])[:sentences]
    expected = torch.tensor(facts["quality"][kind])
    with torch.no_grad():
        assert_close(adapter(image, text, math.exp(facts["logit_scale_log"])), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("change", [{"last_relu": False}, {"bias": True}])
def test_each_setting_decides_alone(facts, state, change):
    "The parity above is not an accident of the settings: without the second ReLU the scores differ, a zero bias changes nothing"
    adapter = MultiCueAdapter(facts["dim"], 256, adapter_recipe("released", **change)).eval()
    values = {name.removeprefix("adapter."): value for name, value in state.items()}
    adapter.load_state_dict(adapter.state_dict() | values)
    image = normal(facts["feature_seed"], facts["images"], facts["dim"])
    text = normal(facts["feature_seed"] + 1, 20, facts["dim"])
    with torch.no_grad():
        scores = adapter(image, text, math.exp(facts["logit_scale_log"]))
    same = torch.allclose(scores, torch.tensor(facts["quality"]["ensemble"]), rtol=1e-5, atol=0)
    assert same is ("bias" in change)
