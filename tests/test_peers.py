"""pyiqa's networks with random weights: each scores pictures, and one goes through a trial. Needs the extra `peers`; nothing is downloaded."""

import pytest
import torch

from iqa_repro.clip.inputs import load_settings
from iqa_repro.methods.peers import NETWORKS, PeerOptions, load_peer
from iqa_repro.study.protocol import trial_results
from iqa_repro.study.trial import Trial

pytest.importorskip("pyiqa", reason="pyiqa is not installed: pip install '.[peers]'")
IMAGES = torch.rand(2, 3, 224, 240, generator=torch.Generator().manual_seed(0))


def test_metaiqa_with_random_weights_is_a_row():
    options = PeerOptions("metaiqa", pretrained=False)
    assert torch.equal(load_peer(options)(IMAGES), load_peer(options)(IMAGES))
    [result] = trial_results(
        [Trial("livec", "pyiqa network", 20, options=options)], load_settings(smoke=True)
    )
    assert set(result["values"]["livec"]) == {"plcc", "srcc"}


@pytest.fixture
def without_downloads(monkeypatch):
    "pyiqa's builders fetch backbones whatever is asked; here they keep their random weights"
    import timm
    import torchvision
    from pyiqa.archs import clip_model, clipiqa_arch, dbcnn_arch, hypernet_arch, liqe_arch, maniqa_arch

    create, vgg = timm.create_model, torchvision.models.vgg16
    random_timm = lambda *names, pretrained=True, **more: create(*names, pretrained=False, **more)
    for module in (hypernet_arch, maniqa_arch):
        monkeypatch.setattr(module.timm, "create_model", random_timm)
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights=None: vgg(weights=None))
    monkeypatch.setattr(dbcnn_arch, "load_pretrained_network", lambda *_, **__: None)
    towers = {"ViT-B/32": (512, 224, 2, 768, 32), "RN50": (1024, 224, (1, 1, 1, 1), 64, None)}
    texts = {"ViT-B/32": (512, 8, 2), "RN50": (512, 8, 2)}
    small = lambda name, device: clip_model.CLIP(*towers[name], 77, 49408, *texts[name]).float()
    for module in (clipiqa_arch, liqe_arch):
        monkeypatch.setattr(module, "load", small)
    monkeypatch.setattr(liqe_arch.os.path, "exists", lambda path: False)  # of text features of an earlier run
    monkeypatch.setattr(liqe_arch.torch, "save", lambda *_, **__: None)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_scores_with_random_weights(network, without_downloads):
    scores = load_peer(PeerOptions(network, pretrained=False))(IMAGES)
    assert scores.shape == (2,) and scores.isfinite().all()
