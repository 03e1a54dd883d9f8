"""One lift for both directions of time that is told which: ``Architecture(directed=True)``."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from koopflow import Architecture, FlowTeacher, KoopmanDistiller, UNet
from koopflow.exceptions import ArgumentError

SHAPE = (1, 8, 8)
NETWORK = UNet(channels=4, multipliers=(1, 2))
BASES = ["network", "unet", "hierarchy"]


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    random = np.random.default_rng(0)
    data = random.standard_normal((96, *SHAPE)).astype("f4")
    labels = random.integers(0, 2, 96)
    flow = FlowTeacher(SHAPE, network=NETWORK, num_classes=2, steps=20, batch_size=16, seed=0)
    return flow.fit(data, condition=labels, progress=False)


def distiller(basis: str, **options: Any) -> KoopmanDistiller:
    small = {
        "basis": basis,
        "unet": None if basis == "network" else NETWORK,
        "steps": 4,
        "batch_size": 16,
        "trajectories": 64,
        "trajectories__path_steps": 2,
        "trajectories__solver": "ab2",
        "trajectories__solver_steps": 4,
        "architecture": Architecture(directed=True),
        "learning_rate": 2e-2,
        "training__warmup_steps": 0,
        "seed": 1,
    }
    small |= {"observables": 12, "width": 16, "depth": 1} if basis == "network" else {}
    return KoopmanDistiller().set_params(**{**small, **options})


@pytest.fixture(scope="module", params=BASES)
def student(request, teacher: FlowTeacher) -> KoopmanDistiller:
    return distiller(request.param).fit(teacher, progress=False)


def some(count: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    t, x = random.uniform(0.1, 0.9, count).astype("f4"), random.standard_normal((count, *SHAPE))
    return t, x.astype("f4"), np.arange(count) % 2


@torch.no_grad()
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_observables_are_those_of_the_definition(student: KoopmanDistiller, direction: str) -> None:
    """The layers are the twin's; how they are told the direction is written again."""
    t, x, labels = some()
    module, sign = student.to_torch(), 1.0 if direction == "forward" else -1.0
    time, z = torch.from_numpy(t), torch.from_numpy(x).flatten(1)
    classes = torch.nn.functional.one_hot(torch.from_numpy(labels), 2).float()
    lift = module.forward_lift
    assert module.backward_lift is None
    if student.config_["basis"] == "network":
        phi = lift(torch.cat([module.coordinates(time, z), classes, torch.full((len(t), 1), sign)], dim=1))
    else:
        waves = time[:, None] * torch.exp(-math.log(10_000) * torch.arange(2) / 2) * 100.0
        embedding = lift.time_embed(torch.cat([waves.cos(), waves.sin()], dim=1))
        embedding = embedding + classes @ lift.label_emb.weight + sign * lift.direction
        image = module.coordinates.standardised(time, z).view(-1, *SHAPE)
        maps = hidden = lift.features(image, embedding)
        if student.config_["basis"] == "unet":
            *skips, hidden = maps
            for stage, skip in zip(lift.output_blocks, reversed(skips), strict=True):
                hidden = stage(torch.cat([hidden, skip], 1), embedding)
            phi = (lift.out(hidden) + torch.einsum("oc,bchw->bohw", lift.skip, image)).flatten(1)
        else:
            phi = torch.cat([one.flatten(1) for one in maps], dim=1)
    # The moving frame.
    phi = module.generator.carry(phi, time).numpy()
    got = np.asarray(student._student.encode(t, x, direction=direction, condition=labels))
    np.testing.assert_allclose(got[:, -phi.shape[1] :], phi, rtol=0, atol=3e-5 * np.abs(phi).max())
    ours = module.encode(time, torch.from_numpy(x), torch.from_numpy(labels), direction=direction).numpy()
    np.testing.assert_allclose(got, ours, rtol=0, atol=3e-5 * np.abs(ours).max())


def test_the_directions_differ(student: KoopmanDistiller) -> None:
    t, x, labels = some()
    ways = [student._student.encode(t, x, direction=d, condition=labels) for d in ("forward", "backward")]
    assert np.abs(np.asarray(ways[0]) - np.asarray(ways[1])).max() > 1e-4


def test_files_copies_and_modules_know_it(student: KoopmanDistiller, tmp_path: Path) -> None:
    _, x, labels = some()
    student.save(tmp_path / "student.safetensors")
    module = student.to_torch()
    copies = [
        KoopmanDistiller.load(tmp_path / "student.safetensors"),
        pickle.loads(pickle.dumps(student)),
        KoopmanDistiller.from_torch_module(module),
    ]
    for method in ("sample", "invert"):
        name = "x0" if method == "sample" else "x"
        expected = np.asarray(getattr(student, method)(**{name: x}, condition=labels))
        for copy in copies:
            np.testing.assert_array_equal(getattr(copy, method)(**{name: x}, condition=labels), expected)
        with torch.no_grad():
            answer = module if method == "sample" else module.inverse
            theirs = answer(torch.from_numpy(x), torch.from_numpy(labels)).numpy()
        np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("basis", BASES)
def test_a_run_goes_on_as_if_it_had_never_stopped(teacher: FlowTeacher, basis: str, tmp_path: Path) -> None:
    def cut(event: dict) -> None:
        if event["stage"] == "student" and event["step"] >= 2:
            raise KeyboardInterrupt

    options, file = {"training__evaluate_every": 1}, tmp_path / "run.safetensors"
    with pytest.warns(RuntimeWarning, match="interrupt"):
        distiller(basis, **options).fit(teacher, progress=False, checkpoint=file, callback=cut)
    resumed = distiller(basis, **options).fit(teacher, progress=False, resume=file)
    whole = distiller(basis, **options).fit(teacher, progress=False)
    _, x, labels = some()
    ours, theirs = (model.invert(x, condition=labels) for model in (resumed, whole))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_unet_begins_without_a_direction(teacher: FlowTeacher, *, warm_start: bool) -> None:
    """So that before training it is the student of one lift that is told nothing."""
    options = {"learning_rate": 1e-9, "steps": 2, "warm_start": warm_start}
    told = distiller("hierarchy", **options).fit(teacher, progress=False)
    plain = distiller("hierarchy", **options, architecture=Architecture(lifts=1))
    plain.fit(teacher, progress=False)
    _, x, labels = some()
    for ask in (lambda s: s.sample(x0=x, condition=labels), lambda s: s.invert(x, condition=labels)):
        np.testing.assert_allclose(ask(told), ask(plain), rtol=0, atol=1e-4)
    if warm_start:
        weights = told.to_torch().forward_lift.label_emb.weight
        theirs = teacher.to_torch().network.label_emb.weight
        torch.testing.assert_close(weights.detach(), theirs.detach(), rtol=0, atol=1e-6)


def test_what_does_not_go_together_is_said(teacher: FlowTeacher) -> None:
    with pytest.raises(ArgumentError, match="lifts.*directed.*2"):
        Architecture(lifts=2, directed=True)
    for basis in ("fourier", "polynomial"):
        with pytest.raises(ArgumentError, match="directed.*network, U-Net or hierarchy.*" + basis):
            KoopmanDistiller(basis=basis, architecture=Architecture(directed=True), steps=2).fit(
                FlowTeacher.gaussian([0.0, 1.0], np.eye(2)), progress=False
            )
    with pytest.raises(ArgumentError, match="directed.*closed_form"):
        distiller("network", training__method="closed_form").fit(teacher, progress=False)
