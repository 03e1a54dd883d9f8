"""Students one after another: each beside the exact map of its part of a linear flow."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from koopflow import FlowTeacher, KoopmanDistiller, SegmentedDistiller
from koopflow.exceptions import ArgumentError, CheckpointError, NotFittedError

TURN = torch.tensor([[0.0, 1.5], [-1.5, 0.4]])
SMALL = KoopmanDistiller(observables=16, width=32, depth=2, steps=400, trajectories=1024, seed=3)


def turned(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ TURN.to(x.dtype)


def exact(time: float) -> np.ndarray:
    return torch.linalg.matrix_exp(time * TURN).numpy()


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.from_torch(turned, (2,), horizon=(0.0, 2.0))


@pytest.fixture(scope="module")
def chain(teacher) -> SegmentedDistiller:
    return SegmentedDistiller([0.0, 0.5, 2.0], student=SMALL).fit(teacher, progress=False)


def noise(n: int = 400, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def test_windows_are_parts_of_the_flow(teacher):
    part = teacher.window(0.5, 2.0)
    x = noise(50)
    np.testing.assert_allclose(part.sample(x0=x), x @ exact(1.5), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(part.velocity(1.0, x), teacher.velocity(1.0, x), rtol=1e-5)
    # It starts where the whole flow is at that time.
    begun = part.trajectory(n=50, times=[0.5, 2.0], seed=7)
    np.testing.assert_allclose(begun, teacher.trajectory(n=50, times=[0.0, 0.5, 2.0], seed=7)[1:], atol=2e-3)
    density = part.log_prob(x[:5], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(density, teacher.log_prob(x[:5], rtol=1e-7, atol=1e-7), atol=1e-3)
    with pytest.raises(ArgumentError, match="window: expected rising times, got 1.0 and 0.5"):
        teacher.window(1.0, 0.5)
    with pytest.raises(ArgumentError, match=r"window: expected times in \[0, 2\]"):
        teacher.window(1.0, 3.0)


def test_windows_of_stored_teachers_are_stored(tmp_path):
    whole = FlowTeacher.gaussian([1.0, 2.0], np.diag([4.0, 0.25]))
    part = whole.window(0.3, 0.9)
    part.save(tmp_path / "part.safetensors")
    loaded = FlowTeacher.load(tmp_path / "part.safetensors")
    np.testing.assert_array_equal(loaded.sample(5), part.sample(5))
    x = noise(4)
    module = part.to_torch()
    np.testing.assert_allclose(module(0.6, torch.as_tensor(x)), part.velocity(0.6, x), rtol=1e-5)
    again = FlowTeacher.from_torch_module(module)
    np.testing.assert_array_equal(again.sample(5), part.sample(5))


def test_each_segment_is_its_part(chain):
    x0 = noise()
    assert relative(chain.sample(x0=x0), x0 @ exact(2.0)) < 0.1
    path = chain.sample_path(x0, times=[2.0, 0.25, 0.5, 1.2, 0.0])
    for state, time in zip(path, [2.0, 0.25, 0.5, 1.2, 0.0], strict=True):
        # Between the ends of a part, whose turn is large, little was asked.
        assert relative(state, x0 @ exact(time)) < (0.1 if time in (0.0, 0.5, 2.0) else 0.25)
    np.testing.assert_allclose(path[0], chain.sample(x0=x0), atol=1e-5)
    assert relative(chain.invert(x0 @ exact(2.0)), x0) < 0.15
    first, second = chain.students_
    np.testing.assert_allclose(second.sample(x0=first.sample(x0=x0)), path[0], atol=1e-6)
    assert (second.clock.start, second.clock.end) == (0.5, 2.0)
    assert second.spectrum().eigenvalues.shape[0] > 0


@pytest.mark.parametrize("method", ["newton", "fixed_point", "anderson"])
def test_polished_inverses_are_those_of_the_chain(chain, method):
    """Each part's inverse is brought to its own forward map, from the last part to the first."""
    x0 = noise(200)
    x = chain.sample(x0=x0)
    plain, before = chain.invert(x, residuals=True)
    np.testing.assert_allclose(plain, chain.invert(x), atol=1e-6)
    np.testing.assert_allclose(before, np.linalg.norm(chain.sample(x0=plain) - x, axis=1), atol=1e-5)
    polished, after = chain.invert(x, polish=20, method=method, residuals=True)
    assert np.mean(after) < 0.02 * np.mean(before)
    # A map of the plane that is nearly linear has one inverse.
    assert relative(polished, x0) < 0.02 * relative(plain, x0)
    by_hand = x
    for student in reversed(chain.students_):
        by_hand = student.invert(by_hand, polish=2, method=method)
    np.testing.assert_allclose(chain.invert(x, polish=2, method=method), by_hand, atol=1e-6)
    # Beside the exact flow, polish leaves only what the forward map is wrong by.
    assert relative(chain.invert(x0 @ exact(2.0), polish=8, method=method), x0) < 0.1


def test_polish_out_of_range_is_named(chain):
    x = noise(3)
    with pytest.raises(ArgumentError, match="polish: expected an integer from 0 to 1000, got -1"):
        chain.invert(x, polish=-1)
    with pytest.raises(ArgumentError, match="damping: expected a number >= 0"):
        chain.invert(x, polish=1, damping=-1.0)
    with pytest.raises(ArgumentError, match="method: expected 'newton', 'fixed_point' or 'anderson'"):
        chain.invert(x, polish=1, method="secant")


def test_an_evaluation_for_each_segment(chain):
    before = chain.evaluations
    chain.sample(100)
    assert chain.evaluations - before == 2


def test_fresh_samples_are_repeatable(chain):
    np.testing.assert_array_equal(chain.sample(6, seed=1), chain.sample(6, seed=1))
    np.testing.assert_allclose(
        chain.sample(6, seed=1), chain.sample_path(6, times=[2.0], seed=1)[0], atol=1e-5
    )


def test_reports(chain, teacher):
    report = chain.evaluate(teacher, n=300, resamples=20)
    assert set(report) == {"endpoint_error", "path_error", "inversion_error", "round_trip_error"}
    assert all(0.0 < estimate.value < 0.15 for estimate in report.values())
    assert chain.score(teacher) == pytest.approx(-report["endpoint_error"].value, rel=0.3)


def test_histories_are_sums(chain):
    whole, parts = chain.history_, [one.history_ for one in chain.students_]
    assert whole["steps"] == 800
    assert whole["seconds"] == pytest.approx(parts[0]["seconds"] + parts[1]["seconds"])
    assert whole["teacher_evaluations"] == sum(part["teacher_evaluations"] for part in parts) > 0
    assert whole["stopped"] == "completed"
    with pytest.raises(NotFittedError):
        _ = SegmentedDistiller(2).history_


def test_later_segments_learn_from_those_before(teacher, monkeypatch):
    """Half of what the second one starts from is where the first one leads, half where the flow is."""
    from koopflow.students import segmented

    drawn = []
    plain = segmented._led

    def led(model):
        inner = plain(model)

        def watched(x, condition):
            drawn.append(len(x))
            return inner(x, condition)

        return watched

    monkeypatch.setattr(segmented, "_led", led)
    options = {**SMALL.get_params(deep=False), "steps": 2, "trajectories": 64}
    SegmentedDistiller(2, student=KoopmanDistiller(**options)).fit(teacher, progress=False)
    assert 32 in drawn
    drawn.clear()
    SegmentedDistiller(2, student=KoopmanDistiller(**options), predecessors=0.0).fit(teacher, progress=False)
    assert not drawn


def test_conditions_reach_every_segment():
    means = torch.tensor([[2.0, 0.0], [-2.0, 1.0]])
    teacher = FlowTeacher.from_torch(lambda t, x, y: means[y].to(x.dtype), (2,), num_classes=2)
    options = {"observables": 8, "width": 24, "depth": 1, "steps": 150, "trajectories": 512}
    chain = SegmentedDistiller(2, student=KoopmanDistiller(**options)).fit(teacher, progress=False)
    x0, labels = noise(60), np.arange(60) % 2
    np.testing.assert_allclose(chain.sample(x0=x0, condition=labels), x0 + means.numpy()[labels], atol=0.3)
    np.testing.assert_allclose(chain.sample(40, condition=1).mean(axis=0), means[1], atol=0.5)


def test_files_and_copies(chain, tmp_path):
    chain.save(tmp_path / "chain.safetensors")
    loaded = SegmentedDistiller.load(tmp_path / "chain.safetensors")
    expected = chain.sample(5)
    for other in (loaded, copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        np.testing.assert_array_equal(other.sample(5), expected)
        assert other.segments == [0.0, 0.5, 2.0]
        assert other.student.observables == 16
        assert other.students_[1].history_["steps"] == 400
    with pytest.raises(CheckpointError):
        KoopmanDistiller.load(tmp_path / "chain.safetensors")
    with pytest.raises(NotFittedError):
        clone(chain).sample(2)
    assert json.loads(json.dumps(chain.get_params(deep=False)["segments"])) == [0.0, 0.5, 2.0]


def test_events_name_the_segment(teacher):
    heard = set()
    options = {**SMALL.get_params(deep=False), "steps": 2, "trajectories": 32}
    SegmentedDistiller(3, student=KoopmanDistiller(**options)).fit(
        teacher, progress=False, callback=lambda event: heard.add(event.get("values", {}).get("segment"))
    )
    assert {1.0, 2.0, 3.0} <= heard


@pytest.mark.parametrize("segments", [0, 1.5, [0.0, 2.0, 1.0], [0.0, 1.0], [0.0], "two", [0.5, 2.0]])
def test_bad_segments_are_named(segments, teacher):
    with pytest.raises(ArgumentError, match="segments: expected"):
        SegmentedDistiller(segments).fit(teacher, progress=False)


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan, "half"])
def test_bad_shares_are_named(share, teacher):
    with pytest.raises(ArgumentError, match="predecessors: expected"):
        SegmentedDistiller(2, predecessors=share).fit(teacher, progress=False)


def test_what_is_no_teacher_is_named():
    with pytest.raises(TypeError, match="teacher: expected"):
        SegmentedDistiller(2).fit(lambda t, x: x, progress=False)
