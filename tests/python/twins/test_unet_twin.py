"""U-Nets in plain PyTorch, against those of the core, with random weights in every layer."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save
from torch.func import jvp

from koopflow import FlowTeacher, UNet, _core
from koopflow.twins.stored import KEY, Stored
from koopflow.twins.unet import UNetDecoder, UNetEncoder, feature_maps

KINDS = {
    "plain": (UNet(channels=8), (1, 8, 8), {}),
    "labels": (
        UNet(9, blocks=2, multipliers=(1, 2), attention=(1, 2), heads=3, scale_shift=False, groups=4),
        (2, 8, 4),
        {"num_classes": 3},
    ),
    "vectors": (
        UNet(8, multipliers=(1, 1.5, 2), attention=(2,), head_channels=4, residual_resampling=True),
        (3, 16, 16),
        {"condition_dim": 4},
    ),
    "dropout": (UNet(8, multipliers=(1,), dropout=0.3, heads=2, time_scale=1.0), (3, 5, 7), {}),
}


def teacher_of(kind, *, qkv_first=False, dtype="float32"):
    """A teacher whose weights are all random: fresh ones have zeros, through which nothing is seen."""
    options, shape, conditional = KINDS[kind]
    torch.manual_seed(0)
    data, condition = torch.randn(8, *shape), None
    if conditional:
        condition = torch.arange(8) % 3 if kind == "labels" else torch.randn(8, 4)
    teacher = FlowTeacher(shape, network=options, steps=1, batch_size=4, dtype=dtype, **conditional)
    teacher.fit(data, condition=condition, progress=False)
    stored = Stored.from_bytes(teacher.field.to_bytes())
    stored.header["model"]["description"]["unet"]["qkv_first"] = qkv_first
    for name, tensor in stored.tensors.items():
        if name.startswith("network."):
            tensor.normal_(0.0, 0.2)
    field = _core.VelocityField.from_bytes(save(stored.tensors, {KEY: json.dumps(stored.header)}))
    x, t = torch.randn(5, *shape, dtype=getattr(torch, dtype)), torch.rand(5, dtype=getattr(torch, dtype))
    return FlowTeacher._around(field), t, x, None if condition is None else condition[:5]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("qkv_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_the_core(kind, qkv_first, dtype):
    teacher, t, x, condition = teacher_of(kind, qkv_first=qkv_first, dtype=dtype)
    expected = teacher.velocity(t, x, condition)
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    answer = teacher.to_torch()(t, x, condition)
    assert answer.dtype == x.dtype
    torch.testing.assert_close(
        answer.detach(), expected, rtol=tolerance, atol=tolerance * expected.abs().max()
    )


def test_weights_have_the_names_of_torchcfm():
    teacher, *_ = teacher_of("labels")
    state = teacher.to_torch().network.state_dict()
    assert state.keys() == teacher.state_dict().keys()
    assert {
        "time_embed.0.weight",
        "label_emb.weight",
        "input_blocks.1.1.qkv.weight",
        "out.2.bias",
    } < state.keys()


# torch itself scripts what it derives forwards.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", ["labels", "vectors"])
def test_derivatives_forwards_and_twice_agree_with_differences(kind):
    teacher, t, x, condition = teacher_of(kind, dtype="float64")
    module, along = teacher.to_torch(), torch.randn_like(x)

    def field(x):
        return module(t, x, condition)

    _, tangent = jvp(field, (x,), (along,))
    differences = (field(x + 1e-5 * along) - field(x - 1e-5 * along)) / 2e-5
    torch.testing.assert_close(tangent, differences, rtol=1e-6, atol=1e-6)
    small = x[:2].requires_grad_()
    t, condition = t[:2], condition[:2]
    assert torch.autograd.gradcheck(field, small, fast_mode=True)
    assert torch.autograd.gradgradcheck(field, small, fast_mode=True)


def test_gradients_of_weights_agree_with_differences():
    teacher, t, x, _ = teacher_of("plain", dtype="float64")
    module = teacher.to_torch()
    module(t, x).square().sum().backward()
    for parameter in module.network.parameters():
        along = torch.randn_like(parameter)
        losses = []
        for way in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += way * along
                losses.append(module(t, x).square().sum())
                parameter -= way * along
        slope = (losses[0] - losses[1]) / 2e-5
        torch.testing.assert_close((parameter.grad * along).sum(), slope, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_alone():
    teacher, t, x, _ = teacher_of("dropout")
    module = teacher.to_torch()
    assert not module.training
    assert torch.equal(module(t, x), module(t, x))
    module.train()
    assert not torch.equal(module(t, x), module(t, x))


def test_any_batch_goes_through_an_exported_one():
    teacher, t, x, condition = teacher_of("labels")
    module, batch = teacher.to_torch(), torch.export.Dim.DYNAMIC
    program = torch.export.export(module, (t, x, condition), dynamic_shapes=[{0: batch}] * 3).module()
    many = (t.repeat(3), x.repeat(3, 1, 1, 1), condition.repeat(3))
    torch.testing.assert_close(program(*many), module(*many), rtol=1e-5, atol=1e-5)


def test_maps_of_a_hierarchy_are_those_that_its_encoder_gives():
    unet = teacher_of("vectors")[0].to_torch().header["model"]["description"]["unet"]
    maps = UNetEncoder(unet, 3)(torch.rand(2), torch.randn(2, 3, 16, 16))
    assert [(m.shape[1], 16 // m.shape[2]) for m in maps] == feature_maps(unet)
    assert UNetDecoder(unet, 5)(torch.rand(2), maps).shape == (2, 5, 16, 16)
