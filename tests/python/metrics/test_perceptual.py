"""LPIPS and DINOv2 in the loss: what their networks see, weights on this machine alone, and what is wrong."""

from __future__ import annotations

import json
import socket
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import functional as pictures

from koopflow import FlowTeacher, KoopmanDistiller, metrics
from koopflow.exceptions import ArgumentError, CheckpointError, ShapeError
from koopflow.metrics.features import feature_distance

GREY = (1, 8, 6)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing may so much as look up a name."""

    def refuse(*_args, **_options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


class Slices(nn.Module):
    """A network under LPIPS as its package names it: layers by their numbers in torchvision's."""

    def __init__(self):
        super().__init__()
        self.slice1, self.slice2 = nn.Sequential(), nn.Sequential()
        self.slice1.add_module("0", nn.Conv2d(3, 4, 3, stride=2))
        self.slice1.add_module("1", nn.ReLU())
        self.slice2.add_module("3", nn.Conv2d(4, 5, 3))


class TinyLpips(nn.Module):
    """A distance with the constructor and the answer of the package's."""

    seen: ClassVar[list[tuple[str, tuple[int, ...]]]] = []

    def __init__(self, net="alex", *, pnet_rand=False, verbose=True):
        super().__init__()
        assert pnet_rand, "weights would be downloaded"
        assert not verbose
        self.name, self.net = net, Slices()

    def forward(self, x, target):
        self.seen.append((self.name, tuple(x.shape)))
        ours, theirs = (self.net.slice2(self.net.slice1(images)) for images in (x, target))
        return (ours - theirs).square().sum(1, keepdim=True).mean((2, 3), keepdim=True)


@pytest.fixture
def lpips(monkeypatch, tmp_path):
    """A file of weights for the package, whose network they become."""
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=TinyLpips))
    monkeypatch.setattr(TinyLpips, "seen", [])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(1)
    network = Slices()
    weights = {
        "features.0.weight": network.slice1[0].weight,
        "features.0.bias": network.slice1[0].bias,
        "features.3.weight": network.slice2[0].weight,
        "features.3.bias": network.slice2[0].bias,
        "classifier.1.weight": torch.zeros(2, 2),
    }
    torch.save({key: value.detach() for key, value in weights.items()}, tmp_path / "weights.pth")
    return network, tmp_path / "weights.pth"


def batch(shape=GREY, seed=0):
    x, target = torch.rand(2, 5, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return x, target


@pytest.mark.parametrize(("shape", "size"), [(GREY, (85, 64)), ((3, 64, 70), (64, 70))])
def test_lpips_sees_colours_of_a_size_that_it_knows(lpips, shape, size):
    network, path = lpips
    state = torch.get_rng_state()
    measure = feature_distance("lpips-vgg", "cpu", weights=path, event_shape=shape)
    assert torch.equal(torch.get_rng_state(), state)
    x, target = (images.double() for images in batch(shape))
    value, gradient = measure(x, target)
    assert TinyLpips.seen == [("vgg", (5, 3, *size))]

    x.requires_grad_()
    ours, theirs = (
        network.slice2(
            network.slice1(pictures.resize(images.float(), size, antialias=False).expand(-1, 3, -1, -1))
        )
        for images in (x, target)
    )
    expected = (ours - theirs).square().sum(1).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradient.dtype == torch.float64
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0], rtol=1e-4, atol=1e-7)


def test_lpips_looks_where_torch_hub_keeps_weights(lpips):
    _, path = lpips
    with pytest.raises(ArgumentError, match=r"feature_weights.*alexnet-owt-7be5be79\.pth.*downloads nothing"):
        feature_distance("lpips", "cpu", event_shape=GREY)
    (path.parent / "checkpoints").mkdir()
    path.rename(path.parent / "checkpoints" / "alexnet-owt-7be5be79.pth")
    value, _ = feature_distance("lpips", "cpu", event_shape=GREY)(*batch())
    assert value > 0
    assert TinyLpips.seen[0][0] == "alex"


def test_a_student_learns_by_lpips(lpips):
    teacher = FlowTeacher.from_torch(lambda t, x: -0.5 * x, event_shape=GREY, convention="torchcfm")
    distiller = KoopmanDistiller(observables=4, width=8, depth=1, steps=3, trajectories=32, batch_size=8)
    student = distiller.fit(teacher, features="lpips", feature_weights=lpips[1], progress=False)
    assert student.history_["log"][-1]["feature_distance"] > 0
    with pytest.raises(ArgumentError, match="feature_weights: expected None without features"):
        distiller.fit(teacher, feature_weights=lpips[1], progress=False)


class TinyDino(nn.Module):
    """Three tokens of pictures in patches."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 14, stride=14)

    def tokens(self, images):
        assert images.shape[1:] == (3, 224, 224)
        return self.patches(images).flatten(2).transpose(1, 2)[:, :3]


class OfTransformers(TinyDino):
    def forward(self, images):
        return types.SimpleNamespace(last_hidden_state=self.tokens(images))


HUBCONF = """
import torch

def dinov2_vits14_reg(*, pretrained=True):
    assert not pretrained
    return torch.nn.Sequential(torch.nn.Conv2d(3, 6, 14, stride=14), torch.nn.Flatten(2), First())

class First(torch.nn.Module):
    def forward(self, x):
        return x[:, :, 0]
"""


@pytest.fixture
def transformers(monkeypatch, tmp_path):
    """A folder of transformers, and the network that it becomes."""
    torch.manual_seed(2)
    network = OfTransformers()

    def from_pretrained(folder, *, local_files_only=False):
        assert local_files_only
        assert Path(folder) == tmp_path
        return network

    auto = types.SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoModel=auto))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    return network, tmp_path


@pytest.fixture
def checkout(tmp_path):
    """A checkout of DINOv2 with weights, and its network."""
    torch.manual_seed(2)
    network = TinyDino()
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    weights = {f"0.{key}": value for key, value in network.patches.state_dict().items()}
    torch.save(weights, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    return network, tmp_path


@pytest.mark.parametrize("kind", ["transformers", "checkout"])
def test_dinov2_sees_pictures_as_it_was_trained(kind, request):
    network, folder = request.getfixturevalue(kind)
    x, target = batch()
    value, gradient = feature_distance("dinov2", "cpu", weights=folder, event_shape=GREY)(x, target)

    def tokens(images):
        grey = pictures.resize(
            (images + 1) / 2, [224, 224], pictures.InterpolationMode.BICUBIC, antialias=True
        )
        colour = torch.cat([grey, grey, grey], 1)
        return network.tokens(pictures.normalize(colour, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))[:, 0]

    x.requires_grad_()
    ours, theirs = tokens(x), tokens(target)
    expected = (ours - theirs).square().sum(1).mean() / theirs.var(0, unbiased=False).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0], rtol=1e-3, atol=1e-6)
    features = metrics.extract_features(target, "dinov2", feature_weights=folder)
    np.testing.assert_allclose(features, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_wrong_with_lpips_is_said(lpips, monkeypatch, tmp_path):
    _, path = lpips

    def distance(weights=path, *, shape=GREY):
        return feature_distance("lpips", "cpu", weights=weights, event_shape=shape)

    with pytest.raises(FileNotFoundError, match="feature_weights: no file"):
        distance(tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(CheckpointError, match=r"text\.pth: expected a file of weights"):
        distance(tmp_path / "text.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: expected torchvision's weights of 'alex'"):
        distance(tmp_path / "other.pth")
    for shape in ((2,), (4, 8, 8)):
        with pytest.raises(ShapeError, match=r"features: 'lpips' expects images \(1 or 3, H, W\)"):
            distance(shape=shape)
    x, target = batch()
    with pytest.raises(
        ArgumentError, match=r"features: 'lpips' expects images in \[-1, 1\], got values up to"
    ):
        distance()(x, 100 * target)
    # A student that is far off is not the user's mistake.
    assert distance()(100 * x, target)[0] > 0
    with pytest.raises(ArgumentError, match="features: expected a network that gives features, got 'lpips'"):
        metrics.extract_features(target, "lpips", feature_weights=path)
    with pytest.raises(ArgumentError, match="feature_weights: expected None unless features is a name"):
        feature_distance(nn.Identity(), "cpu", weights=path)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="pip install lpips"):
        distance()


def test_what_is_wrong_with_dinov2_is_said(transformers, monkeypatch, tmp_path):
    def distance(weights):
        return feature_distance("dinov2", "cpu", weights=weights, event_shape=GREY)

    with pytest.raises(ArgumentError, match="feature_weights: expected a folder.*downloads nothing"):
        distance(None)
    with pytest.raises(FileNotFoundError, match="feature_weights: no folder"):
        distance(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        distance(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="expected a model of type 'dinov2', got 'vit'"):
        distance(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="expected a model's configuration"):
        distance(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"expected a config\.json of transformers or a hubconf\.py"):
        distance(tmp_path)
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    with pytest.raises(CheckpointError, match="expected one file dinov2_<size>_pretrain.pth, got none"):
        distance(tmp_path)
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    with pytest.raises(CheckpointError, match="'dinov2_vits14_reg' has these weights"):
        distance(tmp_path)
