"""Arguments that are no arrays, counts or seeds are named before NumPy or the core sees them."""

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError, ShapeError


@pytest.mark.parametrize("seed", [-1, 2**64, 3.5, "0", True])
def test_seeds(gaussian, student, seed):
    for model in (gaussian, student):
        with pytest.raises(ArgumentError, match="seed: expected an integer"):
            model.sample(4, seed=seed)
    np.testing.assert_array_equal(gaussian.sample(4, seed=np.int64(3)), gaussian.sample(4, seed=3))


def test_no_seed_is_a_fresh_one(gaussian, student):
    for model in (gaussian, student):
        assert not np.array_equal(model.sample(4, seed=None), model.sample(4, seed=None))


def test_tensors_that_require_gradients_are_warned_of(gaussian, student):
    x = torch.zeros(2, 2, requires_grad=True)
    calls = [lambda x: gaussian.velocity(0.5, x), lambda x: gaussian.sample(x0=x), gaussian.log_prob]
    for call in [*calls, lambda x: student.sample(x0=x)]:
        with pytest.warns(
            UserWarning, match=r"x0?: expected a tensor without gradients.*to_torch\(\).*detach\(\)"
        ):
            assert not call(x).requires_grad
        call(x.detach())
        with torch.no_grad():
            call(x)


@pytest.mark.parametrize(
    "times", ["01", None, 0.5, [], [[0.0, 1.0]], ["0", "1"], [[0.0], [0.5, 1.0]], [True]]
)
def test_times_of_a_path_are_a_row_of_numbers(gaussian, times):
    with pytest.raises(ArgumentError, match="times: expected a sequence of numbers"):
        gaussian.trajectory(n=3, times=times)


@pytest.mark.parametrize(
    "times", [np.linspace(0, 1, 3), torch.linspace(0, 1, 3), range(2), (0, np.float32(1))]
)
def test_times_of_a_path_are_of_any_kind(gaussian, times):
    path = gaussian.trajectory(n=3, times=times)
    np.testing.assert_array_equal(path, gaussian.trajectory(n=3, times=[float(t) for t in times]))


@pytest.mark.parametrize("t", ["0.5", None, [[0.5]], {"t": 0.5}])
def test_times_of_samples_are_numbers(gaussian, t):
    with pytest.raises(ArgumentError, match="t: expected a number or one time for each sample"):
        gaussian.velocity(t, np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("t", [0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25), [0.25, 0.25]])
def test_times_of_samples_are_of_any_kind(gaussian, t):
    x = np.ones((2, 2), np.float32)
    np.testing.assert_allclose(gaussian.velocity(t, x), gaussian.velocity(np.full(2, 0.25), x))


@pytest.mark.parametrize("t", [-0.5, 1.5, np.nan, np.inf])
def test_times_outside_the_unit_interval_are_asked_for(gaussian, t):
    x = np.zeros((1, 2), np.float32)
    calls = [lambda **k: gaussian.velocity(t, x, **k), lambda **k: gaussian.trajectory(x, times=[1, t], **k)]
    for call in calls:
        with pytest.raises(ArgumentError, match=r"expected times in \[0, 1\], got"):
            call()
        if np.isfinite(t):
            assert np.isfinite(call(extrapolate=True)).all()


def test_rows_of_different_lengths(gaussian):
    ragged = [[1.0, 2.0], [3.0]]
    for call in (lambda: gaussian.sample(x0=ragged), lambda: FlowTeacher((2,)).fit(ragged, progress=False)):
        with pytest.raises(ShapeError, match="rows of different lengths"):
            call()
