"""The term ``levels``: a hierarchy's feature maps along a path against those of the teacher's U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from koopflow import FlowTeacher, KoopmanDistiller, Objective, UNet
from koopflow.exceptions import ArgumentError
from koopflow.twins.unet import feature_maps

SHAPE = (1, 8, 8)
NETWORK = UNet(channels=8, multipliers=(1, 2))
NONE = dict.fromkeys(("endpoint", "path", "target", "inverse", "round_trip", "phase", "reconstruction"), 0.0)


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    random = np.random.default_rng(0)
    data = 0.1 * random.standard_normal((128, *SHAPE)).astype("f4") - 0.7
    for image, row in zip(data, random.integers(0, 7, 128), strict=True):
        image[0, row : row + 2] += 1.4
    labels = random.integers(0, 2, 128)
    flow = FlowTeacher(SHAPE, network=NETWORK, num_classes=2, steps=30, batch_size=16, seed=0)
    return flow.fit(data, condition=labels, progress=False)


def distiller(weights: dict[str, float] | None = None, **options: Any) -> KoopmanDistiller:
    small = {
        "basis": "hierarchy",
        "unet": NETWORK,
        "steps": 4,
        "batch_size": 16,
        "trajectories": 64,
        "trajectories__path_steps": 2,
        "trajectories__solver": "ab2",
        "trajectories__solver_steps": 4,
        "objective": Objective(weights={"levels": 0.1} if weights is None else weights),
        "seed": 1,
    }
    return KoopmanDistiller().set_params(**{**small, **options})


def values(student: KoopmanDistiller) -> list[float]:
    return [entry["levels"] for entry in student.history_["log"] if "levels" in entry]


def carried(field: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, end: float) -> torch.Tensor:
    """States at time ``end`` of noise ``x``, by the midpoint rule."""
    step = end / 16
    for t in (index * step for index in range(16)):
        middle = x + step / 2 * field(t, x, labels)
        x = x + step * field(t + step / 2, middle, labels)
    return x


@torch.no_grad()
@pytest.mark.parametrize(("scaling", "accumulate"), [("relative", 1), ("absolute", 2)])
def test_the_term_is_what_it_says(teacher: FlowTeacher, scaling: str, accumulate: int) -> None:
    """Means over many batches against the PyTorch twins of both models, on fresh noise and equal classes."""
    objective = Objective(weights={**NONE, "levels": 1.0}, scaling=scaling)
    options = {
        "steps": 3,
        "batch_size": 384,
        "trajectories": 512,
        # The student stays what it was, and its heads the identity.
        "learning_rate": 1e-9,
        "objective": objective,
        "training__evaluate_every": 1,
        "training__accumulate": accumulate,
    }
    student = distiller(**options).fit(teacher, progress=False)
    module, field = student.to_torch(), teacher.to_torch()
    assert module.units is None

    noise = torch.randn(256, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(256) % 2
    g = module._observables(torch.zeros(256), noise.flatten(1), labels)
    sizes = [c * (8 // factor) ** 2 for c, factor in feature_maps(student.config_["unet"])]
    classes = torch.nn.functional.one_hot(labels, 2).float()
    errors = []
    for time in (0.5, 1.0):
        x, t = carried(field, noise, labels, time), torch.full((256,), time)
        # On the linear path x_t has mean t m and variance t^2 d^2 + (1 - t)^2.
        mean, deviation = time * field.data.mean, time * field.data.scale
        seen = (x.flatten(1) - mean) / (deviation**2 + (1 - time) ** 2).sqrt()
        theirs = field.network.features(seen.view_as(x), field.network.embedding(t, classes))
        ours = torch.split(module.generator(g, torch.tensor([time]).double()).phi[0], sizes, dim=-1)
        errors.append([(a, b.flatten(1)) for a, b in zip(ours, theirs, strict=True)])
    expected = 0.0
    for (a, b), (c, d) in zip(*errors, strict=True):
        own, target = torch.cat([a, c]), torch.cat([b, d])
        error = (own - target).square().sum(1).mean()
        unit = target.var(0, correction=0).sum() if scaling == "relative" else target.shape[1]
        expected += float(error / unit) / len(sizes)
    assert np.mean(values(student)) == pytest.approx(expected, rel=0.05)


def test_training_brings_maps_nearer_and_leaves_no_heads(teacher: FlowTeacher, tmp_path: Path) -> None:
    """Of a student with half the teacher's channels: the heads make up for the difference."""
    weights = {**NONE, "levels": 1.0}
    small = UNet(channels=4, multipliers=(1, 2))
    options = {"steps": 24, "learning_rate": 1e-2, "training__warmup_steps": 0, "training__ema_decay": 0.5}
    student = distiller(weights, unet=small, training__evaluate_every=12, **options)
    student.fit(teacher, progress=False)
    course = values(student)
    assert course[-1] < 0.6 * course[0]
    assert "heads" not in student.config_
    student.save(tmp_path / "student.safetensors")
    assert not [name for name in load_file(tmp_path / "student.safetensors") if "heads" in name]
    again = KoopmanDistiller.load(tmp_path / "student.safetensors")
    noise = np.random.default_rng(0).standard_normal((4, *SHAPE)).astype("f4")
    labels = np.array([0, 1, 0, 1])
    sample = np.asarray(student.sample(x0=noise, condition=labels))
    for kind in ("raw", "ema"):
        ours, theirs = (
            model.use_weights(kind).sample(x0=noise, condition=labels) for model in (student, again)
        )
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(theirs, sample)
    module = student.to_torch()
    with torch.no_grad():
        answer = module(torch.from_numpy(noise), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(answer, sample, rtol=0, atol=1e-4)


def test_a_run_with_heads_goes_on_as_if_it_had_never_stopped(teacher: FlowTeacher, tmp_path: Path) -> None:
    def cut(event: dict) -> None:
        if event["stage"] == "student" and event["step"] >= 2:
            raise KeyboardInterrupt

    options = {"training__evaluate_every": 1, "training__ema_decay": 0.5}
    whole = distiller(**options).fit(teacher, progress=False)
    file = tmp_path / "run.safetensors"
    with pytest.warns(RuntimeWarning, match="interrupt"):
        distiller(**options).fit(teacher, progress=False, checkpoint=file, callback=cut)
    noise = np.random.default_rng(1).standard_normal((4, *SHAPE)).astype("f4")
    # The file is a whole student at any moment.
    part = KoopmanDistiller.load(file)
    assert "heads" not in part.config_
    part.to_torch()
    resumed = distiller(**options).fit(teacher, progress=False, resume=file)
    assert values(resumed) == values(whole)
    labels = np.zeros(4, dtype="i8")
    ours, theirs = (model.sample(x0=noise, condition=labels) for model in (resumed, whole))
    np.testing.assert_array_equal(ours, theirs)


def test_a_run_is_not_resumed_with_a_teacher_of_another_network(teacher: FlowTeacher, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    distiller().fit(teacher, progress=False, checkpoint=file)
    data, labels = np.random.default_rng(1).standard_normal((32, *SHAPE)).astype("f4"), np.arange(32) % 2
    network = UNet(channels=16, multipliers=(1, 2))
    wider = FlowTeacher(SHAPE, network=network, num_classes=2, steps=2, batch_size=8, seed=0)
    wider.fit(data, condition=labels, progress=False)
    with pytest.raises(ArgumentError, match="resume.*same network as that of.*term 'levels'"):
        distiller(steps=8).fit(wider, progress=False, resume=file)


def test_what_has_no_such_maps_is_said(teacher: FlowTeacher) -> None:
    def fit(teacher: FlowTeacher, **options: Any) -> None:
        distiller(**options).fit(teacher, progress=False)

    with pytest.raises(ArgumentError, match="weights.*hierarchy.*levels 0.1"):
        fit(teacher, basis="unet")
    with pytest.raises(ArgumentError, match="weights.*native U-Net.*2 levels.*3 levels of 1 blocks"):
        fit(teacher, unet=UNet(channels=4, multipliers=(1, 2, 2)))
    with pytest.raises(ArgumentError, match="weights.*native U-Net.*2 levels of 2 blocks"):
        fit(teacher, unet=UNet(channels=4, multipliers=(1, 2), blocks=2))
    gaussian = FlowTeacher.gaussian(np.zeros(SHAPE), np.eye(64))
    with pytest.raises(ArgumentError, match="weights.*native U-Net.*'gaussian' teacher without a U-Net"):
        fit(gaussian)
    attached = FlowTeacher.from_torch(lambda t, x: -x, SHAPE)
    with pytest.raises(ArgumentError, match="weights.*native U-Net.*'torch' teacher without a U-Net"):
        fit(attached)
    with pytest.raises(ArgumentError, match=r"weights\[\"levels\"\].*>= 0"):
        fit(teacher, weights={"levels": -1.0})
