"""The U-Net against torchcfm's, layer by layer and whole: values, tangents, weights by name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.func import jvp
from torchcfm.models.unet.unet import UNetModel

import koopflow
from koopflow import FlowTeacher, UNet, _core
from koopflow.exceptions import ArgumentError, CheckpointError, KoopflowError

# torchcfm's own names, and koopflow's.
ARCHITECTURES = {
    "plain": ({}, {}),
    "attention": (
        {"attention_resolutions": (2,), "num_heads": 4},
        {"attention": [2], "heads": 4},
    ),
    "head channels, new order": (
        {"attention_resolutions": (1, 2), "num_head_channels": 16, "use_new_attention_order": True},
        {"attention": [1, 2], "head_channels": 16, "qkv_first": True},
    ),
    "scale and shift": ({"use_scale_shift_norm": True}, {"scale_shift": True}),
    "residual resampling": ({"resblock_updown": True}, {"residual_resampling": True}),
    "three levels, two blocks": (
        {"channel_mult": (1, 2, 3), "num_res_blocks": 2, "attention_resolutions": (4,)},
        {"multipliers": [1.0, 2.0, 3.0], "blocks": 2, "attention": [4]},
    ),
    "labels": ({"num_classes": 7}, {}),
}


def torchcfm_model(options: dict, *, channels: int = 2, dtype: torch.dtype = torch.float64) -> UNetModel:
    """Every weight random: torchcfm starts its last layers at zero, which would hide what is before them."""
    defaults = {"channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": ()}
    torch.manual_seed(0)
    model = UNetModel(8, channels, 32, channels, **{**defaults, **options}).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * (0.2 if weight.dim() == 1 else weight[0].numel() ** -0.5))
    if dtype == torch.float64:
        # torchcfm rounds its time features to float32 wherever it runs; a test of derivatives must not.
        model.dtype = dtype
    return model


def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcfm's modules without their float32 casts, so that both sides can be compared to 1e-10."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    features = _double_features
    monkeypatch.setattr("torchcfm.models.unet.unet.timestep_embedding", features)


def _double_features(t: torch.Tensor, dim: int) -> torch.Tensor:
    frequencies = torch.exp(-np.log(10_000) * torch.arange(dim // 2, dtype=t.dtype) / (dim // 2))
    phases = t[:, None] * frequencies[None]
    return torch.cat([phases.cos(), phases.sin()], dim=-1)


def images(seed: int, *, batch: int = 3, channels: int = 2, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, 8, 8)
    x, x_rate = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    t, t_rate = (torch.rand(batch, generator=generator, dtype=dtype) for _ in range(2))
    return t, x, t_rate, x_rate


# torch.func imports parts of torch that warn about other parts of torch.
@pytest.mark.probe
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_and_tangents_are_those_of_an_independent_build(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = ARCHITECTURES[name]
    model = torchcfm_model(theirs)
    in_double(monkeypatch)
    t, x, t_rate, x_rate = images(1)
    labels = torch.tensor([0, 3, 6]) if "num_classes" in theirs else None
    value, tangent = jvp(lambda t, x: model(t, x, labels), (t, x), (t_rate, x_rate))

    plain = {"channels": 32, "multipliers": [1.0, 2.0], "blocks": 1, "time_scale": 1.0}
    config = {**plain, "groups": 32, "scale_shift": False, **ours}
    state = model.state_dict()
    condition = None if labels is None else torch.nn.functional.one_hot(labels, 7).to(x.dtype)
    alone, both, rate = _core._unet(
        json.dumps(config), list(state), list(state.values()), t, x, t_rate, x_rate, condition
    )
    scale = value.abs().max().item()
    assert scale > 0.1
    assert tangent.abs().max() > 0.1
    torch.testing.assert_close(alone, value, rtol=0, atol=1e-10 * scale)
    torch.testing.assert_close(both, value, rtol=0, atol=1e-10 * scale)
    torch.testing.assert_close(rate, tangent, rtol=0, atol=1e-9 * tangent.abs().max().item())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_torchcfm_model_answers_the_same_velocity_here(name: str, tmp_path: Path) -> None:
    theirs, _ = ARCHITECTURES[name]
    model = torchcfm_model(theirs, dtype=torch.float32)
    t, x, _, _ = images(2, dtype=torch.float32)
    labels = torch.tensor([5, 0, 2]) if "num_classes" in theirs else None
    attention = {
        "heads": theirs.get("num_heads", 1),
        "head_channels": theirs.get("num_head_channels"),
        "new_attention_order": theirs.get("use_new_attention_order", False),
    }
    teacher = FlowTeacher.from_torchcfm(model.state_dict(), (2, 8, 8), **attention)
    expected = model(t, x, labels).detach()
    got = teacher.velocity(t, x, labels)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5 * expected.abs().max().item())

    # And through a file of koopflow's own, and back to torchcfm.
    teacher.save(tmp_path / "teacher.safetensors")
    again = FlowTeacher.load(tmp_path / "teacher.safetensors")
    torch.testing.assert_close(again.velocity(t, x, labels), got, rtol=0, atol=0)
    back = torchcfm_model(theirs, dtype=torch.float32)
    for weight in back.parameters():
        weight.data.zero_()
    back.load_state_dict(again.state_dict())
    torch.testing.assert_close(back(t, x, labels).detach(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["safetensors", "torch.save", "training checkpoint", "compiled"])
def test_weights_are_read_as_users_have_them(kind: str, tmp_path: Path) -> None:
    model = torchcfm_model({}, dtype=torch.float32)
    t, x, _, _ = images(3, dtype=torch.float32)
    state = model.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "torch.save":
        torch.save(state, path)
    elif kind == "training checkpoint":
        raw = {name: torch.zeros_like(value) for name, value in state.items()}
        torch.save({"net_model": raw, "ema_model": state, "step": 7}, path)
    else:
        torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, path)
    teacher = FlowTeacher.from_torchcfm(path, (2, 8, 8))
    torch.testing.assert_close(teacher.velocity(t, x), model(t, x).detach(), rtol=2e-5, atol=2e-5)
    if kind == "training checkpoint":
        raw_teacher = FlowTeacher.from_torchcfm(path, (2, 8, 8), key="net_model")
        assert np.abs(np.asarray(raw_teacher.velocity(t, x))).max() == 0.0


def test_what_is_wrong_with_weights_is_said(tmp_path: Path) -> None:
    state = torchcfm_model({}, dtype=torch.float32).state_dict()
    with pytest.raises(ArgumentError, match="event_shape.*channels.* 2 and 2"):
        FlowTeacher.from_torchcfm(state, (1, 8, 8))
    with pytest.raises(ArgumentError, match="event_shape.*multiples of 2"):
        FlowTeacher.from_torchcfm(state, (2, 7, 8))
    with pytest.raises(ArgumentError, match="state_dict.*UNetModel"):
        FlowTeacher.from_torchcfm({"0.weight": torch.zeros(2, 2)}, (2, 8, 8))
    with pytest.raises(KoopflowError, match="weights"):
        FlowTeacher.from_torchcfm({**state, "extra": torch.zeros(3)}, (2, 8, 8))
    missing = {name: value for name, value in state.items() if name != "out.0.bias"}
    with pytest.raises(KoopflowError, match="weights|out.0.bias"):
        FlowTeacher.from_torchcfm(missing, (2, 8, 8))
    with pytest.raises(KoopflowError, match=r"out\.0\.bias.*NaN"):
        FlowTeacher.from_torchcfm({**state, "out.0.bias": state["out.0.bias"] * float("nan")}, (2, 8, 8))
    with pytest.raises(ArgumentError, match="heads.*divisor of 64"):
        FlowTeacher.from_torchcfm(state, (2, 8, 8), heads=5)
    with pytest.raises(FileNotFoundError, match="nothing"):
        FlowTeacher.from_torchcfm(tmp_path / "nothing.pt", (2, 8, 8))
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="broken"):
        FlowTeacher.from_torchcfm(tmp_path / "broken.pt", (2, 8, 8))


class Callback:
    """Something that only the user's program knows."""


def test_checkpoints_hold_other_things_too(tmp_path: Path) -> None:
    weights = torchcfm_model({}, dtype=torch.float32).state_dict()
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    path = tmp_path / "training.pt"
    for stored in (
        {"ema_model": weights, "args": argparse.Namespace(lr=1e-4), "folder": Path("runs")},
        {"ema_model": weights, "best_fid": np.float64(3.2), "step": np.int64(5), "done": np.bool_(1)},
        {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 3},
        {"state_dict": {**prefixed("net.", zeros), **prefixed("ema.module.", weights), "x": torch.zeros(1)}},
        prefixed("module._orig_mod.", weights),
    ):
        torch.save(stored, path)
        teacher = FlowTeacher.from_torchcfm(path, (2, 8, 8))
        for name, value in teacher.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_what_may_run_when_a_checkpoint_is_read_is_named_in_a_line(tmp_path: Path) -> None:
    stored = {"model": torchcfm_model({}, dtype=torch.float32).state_dict(), "callback": Callback()}
    torch.save(stored, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match="got also .*Callback.*weights_only=False") as caught:
        FlowTeacher.from_torchcfm(tmp_path / "training.pt", (2, 8, 8))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300
    FlowTeacher.from_torchcfm(stored, (2, 8, 8))


def prefixed(prefix, weights):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def test_a_teacher_trains_and_its_options_are_kept(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    # Two kinds of images: bright above or bright below.
    rows = random.integers(0, 2, 256)
    data = np.full((256, 1, 8, 8), -0.8, dtype=np.float32)
    data[rows == 0, :, :4] = 0.8
    data[rows == 1, :, 4:] = 0.8
    data += 0.05 * random.standard_normal(data.shape).astype(np.float32)
    options = {"network": UNet(channels=16, multipliers=(1, 2)), "steps": 150, "batch_size": 32, "seed": 1}
    teacher = FlowTeacher((1, 8, 8), **options).fit(data, progress=False)
    samples = np.asarray(teacher.sample(64, seed=3, solver="midpoint", steps=20))
    split = samples[:, 0, :4].mean((1, 2)) - samples[:, 0, 4:].mean((1, 2))
    # Almost every sample is one of the two, and both are there.
    assert np.mean(np.abs(split) > 1.0) > 0.9
    assert 0.2 < np.mean(split > 0) < 0.8
    one, same = (FlowTeacher((1, 8, 8), **{**options, "steps": 10}).fit(data, progress=False) for _ in "ab")
    np.testing.assert_array_equal(one.velocity(0.3, data[:8]), same.velocity(0.3, data[:8]))
    teacher.save(tmp_path / "t.safetensors")
    loaded = FlowTeacher.load(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(np.asarray(loaded.sample(64, seed=3, solver="midpoint", steps=20)), samples)
    assert "multipliers" in repr(loaded)


def test_dropout_belongs_to_training_and_to_its_seed() -> None:
    data = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)

    def fit(dropout: float) -> FlowTeacher:
        network = UNet(channels=8, multipliers=(1,), dropout=dropout)
        options = {"steps": 20, "batch_size": 8, "training": {"ema_decay": 0.0}, "learning_rate": 0.01}
        return FlowTeacher((1, 8, 8), network=network, **options).fit(data, progress=False)

    state = torch.random.get_rng_state()
    dropped, again, kept = fit(0.5), fit(0.5), fit(0.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = data[:4]
    np.testing.assert_array_equal(dropped.velocity(0.3, x), again.velocity(0.3, x))
    np.testing.assert_array_equal(dropped.velocity(0.3, x), dropped.velocity(0.3, x))
    assert np.abs(dropped.velocity(0.3, x) - kept.velocity(0.3, x)).max() > 1e-3


def test_labels_and_times_reach_small_networks() -> None:
    """With one channel a group a shift alone is normalised away; the default scales too."""
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 64)
    data = random.standard_normal((64, 1, 8, 8)).astype(np.float32) + labels[:, None, None, None]
    data = data.astype(np.float32)
    network = UNet(channels=8, multipliers=(1,))
    training = {"steps": 40, "batch_size": 16, "training": {"ema_decay": 0.0}, "learning_rate": 0.01}
    teacher = FlowTeacher((1, 8, 8), network=network, num_classes=2, **training)
    teacher.fit(data, condition=labels, progress=False)
    x, zeros = data[:4], np.zeros(4, dtype=np.int64)
    base = teacher.velocity(0.5, x, zeros)
    assert np.abs(base - teacher.velocity(0.5, x, zeros + 1)).max() > 1e-4
    assert np.abs(base - teacher.velocity(0.52, x, zeros)).max() > 1e-4


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (UNet(multipliers=(1, 2, 2)), (1, 6, 6), "event_shape.*multiples of 4"),
        (UNet(), (64,), r"event_shape.*\(C, H, W\)"),
        (UNet(attention=(3,)), (1, 8, 8), "attention.*factors"),
        (UNet(dropout=1.0), (1, 8, 8), "dropout"),
        (UNet(blocks=0), (1, 8, 8), "blocks"),
        (UNet(groups=0), (1, 8, 8), "groups"),
        (UNet(multipliers=(0.001,)), (1, 8, 8), "multipliers"),
    ],
)
def test_options_out_of_range_are_named(network: UNet, shape: tuple[int, ...], message: str) -> None:
    data = np.zeros((4, *shape), dtype=np.float32)
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher(shape, network=network, steps=1).fit(data, progress=False)


def test_half_precision_is_near_and_ends_with_its_block() -> None:
    model = torchcfm_model({"attention_resolutions": (2,)}, dtype=torch.float32)
    teacher = FlowTeacher.from_torchcfm(model.state_dict(), (2, 8, 8))
    t, x, _, _ = images(6, dtype=torch.float32)
    whole = teacher.velocity(t, x)
    with koopflow.autocast("bf16"):
        half = teacher.velocity(t, x)
        with koopflow.autocast("float32"):
            torch.testing.assert_close(teacher.velocity(t, x), whole, rtol=0, atol=0)
        torch.testing.assert_close(teacher.velocity(t, x), half, rtol=0, atol=0)
    torch.testing.assert_close(teacher.velocity(t, x), whole, rtol=0, atol=0)
    assert half.dtype == torch.float32
    error = ((half - whole).norm() / whole.norm()).item()
    # Eight bits of mantissa, some twenty layers.
    assert 1e-4 < error < 5e-2
    with pytest.raises(ArgumentError, match="precision.*int8"), koopflow.autocast("int8"):
        pass


def test_network_names() -> None:
    images = np.zeros((4, 1, 8, 8), np.float32)
    with pytest.raises(ArgumentError, match="network.*'mlp', 'unet'"):
        FlowTeacher((1, 8, 8), network="vit").fit(images, progress=False)
    with pytest.raises(ArgumentError, match="network.*chanels"):
        FlowTeacher((1, 8, 8), network={"chanels": 3}).fit(images, progress=False)
