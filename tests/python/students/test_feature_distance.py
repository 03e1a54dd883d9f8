"""The user's own network in the loss: its value, its gradient, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from koopflow import Architecture, FlowTeacher, KoopmanDistiller, Objective, Training
from koopflow.exceptions import ArgumentError, KoopflowError, ShapeError
from koopflow.metrics.features import feature_distance

TINY = {"observables": 8, "width": 16, "depth": 1, "trajectories": 256, "batch_size": 32, "seed": 0}


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.gaussian(np.array([1.0, -1.0]), np.array([[2.0, 0.3], [0.3, 0.5]]))


def test_value_and_gradient_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
    x, target = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)

    def by_hand(points: np.ndarray) -> float:
        ours = network(torch.from_numpy(points)).detach().numpy()
        theirs = network(target).detach().numpy()
        return float(((ours - theirs) ** 2).sum(1).mean() / theirs.var(axis=0).sum())

    value, gradient = feature_distance(network, "cpu")(x, target)
    # Features are compared in single precision.
    assert value.item() == pytest.approx(by_hand(x.numpy()), rel=1e-5)
    step = 1e-5
    for row, column in ((0, 0), (3, 2), (6, 1)):
        moved = x.numpy().copy()
        moved[row, column] += step
        back = x.numpy().copy()
        back[row, column] -= step
        slope = (by_hand(moved) - by_hand(back)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_distance_alone_is_an_objective(teacher: FlowTeacher) -> None:
    """With a network that answers its input, the student follows the teacher by this term alone."""
    only = {"endpoint": 0, "path": 0, "target": 0, "inverse": 0, "round_trip": 0, "phase": 0}
    distiller = KoopmanDistiller(
        **TINY,
        steps=800,
        architecture=Architecture(lifts=1),
        objective=Objective(weights=only),
        training=Training(metric="endpoint_error"),
    )
    events: list[dict] = []
    student = distiller.fit(teacher, features=lambda x: x, progress=False, callback=events.append)
    values = [
        event["values"]["feature_distance"] for event in events if "feature_distance" in event["values"]
    ]
    assert values[-1] < 0.05 * values[0]
    noise = np.random.default_rng(1).standard_normal((500, 2)).astype("f4")
    ends = np.asarray(teacher.sample(x0=noise))
    error = np.sqrt(((np.asarray(student.sample(x0=noise)) - ends) ** 2).sum(axis=1).mean())
    assert error < 0.15 * np.sqrt(ends.var(axis=0).sum())


def test_a_torchscript_file_serves_as_well(teacher: FlowTeacher, tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    options = {**TINY, "steps": 5}
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.save(torch.jit.trace(network, torch.zeros(2, 2)), tmp_path / "features.pt")
    noise = np.zeros((3, 2), dtype="f4")
    with_module, with_file = (
        KoopmanDistiller(**options).fit(teacher, features=features, progress=False).sample(x0=noise)
        for features in (network, tmp_path / "features.pt")
    )
    without = KoopmanDistiller(**options).fit(teacher, progress=False).sample(x0=noise)
    np.testing.assert_allclose(with_module, with_file, rtol=0, atol=1e-6)
    assert np.abs(np.asarray(with_module) - np.asarray(without)).max() > 1e-6


def test_a_network_keeps_the_mode_that_it_was_in(teacher: FlowTeacher) -> None:
    """Dropout and batch statistics are off while it measures; a part that was frozen stays frozen."""
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    )
    network.train()
    network[1].eval()
    modes: list[list[bool]] = []
    network[3].register_forward_hook(lambda *_: modes.append([part.training for part in network]))
    buffers = [buffer.clone() for buffer in network.buffers()]
    KoopmanDistiller(**{**TINY, "steps": 3}).fit(teacher, features=network, progress=False)
    assert network.training
    assert [part.training for part in network] == [True, False, True, True]
    assert modes
    assert not any(any(each) for each in modes)
    assert all(torch.equal(x, y) for x, y in zip(buffers, network.buffers(), strict=True))
    x = torch.randn(5, 2)
    with pytest.raises(ShapeError):
        feature_distance(torch.nn.Sequential(network, torch.nn.Flatten(0)), "cpu")(x, x)
    assert [part.training for part in network] == [True, False, True, True]


def test_what_is_wrong_with_features_is_said(teacher: FlowTeacher, tmp_path: Path) -> None:
    def fit(features, **weights):
        student = KoopmanDistiller(**TINY, steps=2, objective=Objective(weights=weights or None))
        return student.fit(teacher, features=features, progress=False)

    with pytest.raises(FileNotFoundError, match="features.*nothing"):
        fit(tmp_path / "nothing.pt")
    (tmp_path / "foreign.pt").write_bytes(b"not a module")
    with pytest.raises(ArgumentError, match="features.*TorchScript"):
        fit(tmp_path / "foreign.pt")
    with pytest.raises(ArgumentError, match="features.*int"):
        fit(3)
    with pytest.raises(KoopflowError, match=r"features.*\(32, ...\)"):
        fit(lambda x: x.sum())
    with pytest.raises(RuntimeError, match="^no such layer"):
        fit(_raises)
    with pytest.raises(ArgumentError, match="features.*both or neither"):
        fit(None, feature_distance=1.0)
    with pytest.raises(ArgumentError, match="features.*both or neither"):
        fit(lambda x: x, feature_distance=0.0)
    with pytest.raises(ShapeError):
        feature_distance(lambda x: x[:1], "cpu")(torch.zeros(2, 2), torch.zeros(2, 2))


def _raises(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no such layer")
