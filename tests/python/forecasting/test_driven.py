"""Inputs and conditions: what is done to a path, and what kind of path it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import KoopmanForecaster
from koopflow.exceptions import ArgumentError, NonFiniteError, ShapeError

from .reference import driven, fitted, flow, starts, turning

PATHS, TIMES, INPUTS = driven()
STEP = 0.5
ONE = np.array([[0.3]])


@pytest.fixture(scope="module")
def pushed() -> KoopmanForecaster:
    return fitted(PATHS, TIMES, inputs=INPUTS)


def irregular(**options) -> KoopmanForecaster:
    """dx/dt = u - x at irregular times."""
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.05, 0.15, size=(10, 60)), axis=1)
    inputs, paths = random.normal(size=(10, 60, 1)), np.zeros((10, 60, 1))
    paths[:, 0] = random.normal(size=(10, 1))
    for row in range(59):
        kept = np.exp(-(times[:, row + 1] - times[:, row]))[:, None]
        paths[:, row + 1] = kept * paths[:, row] + (1.0 - kept) * inputs[:, row]
    return fitted(paths, times, inputs=inputs, **options)


def held(x, inputs, step=STEP):
    """The flow with inputs held for a step each."""
    rows = []
    for u in inputs:
        x = np.exp(-step) * x + (1.0 - np.exp(-step)) * u
        rows.append(x)
    return np.array(rows)


def test_inputs_act_from_the_last_row_on(pushed):
    steps = np.array([1.0, -2.0, 0.0, 5.0])
    found = pushed.forecast(ONE, [0.5, 1.0, 1.5, 2.0], inputs=steps[None, :, None])
    np.testing.assert_allclose(found[:, 0, 0], held(0.3, steps), atol=1e-9)
    # More of them than are needed, whole numbers and tensors.
    more = np.concatenate([steps, [9.0]]).astype(int)[None, :, None]
    np.testing.assert_array_equal(pushed.forecast(ONE, [2.0], inputs=more)[0], found[3])
    np.testing.assert_array_equal(pushed.forecast(ONE, [2.0], inputs=torch.from_numpy(more))[0], found[3])


def test_lists_of_inputs_are_taken_beside_lists_of_paths(pushed):
    lengths = [40, 12, 33, 5, 40, 40, 2, 20]
    paths = [path[:n] for path, n in zip(PATHS, lengths, strict=True)]
    inputs = [own[:n, 0] for own, n in zip(INPUTS, lengths, strict=True)]
    model = fitted(paths, TIMES, inputs=inputs)
    asked = {"inputs": np.ones((1, 2, 1))}
    np.testing.assert_allclose(
        model.forecast(ONE, [1.0], **asked), pushed.forecast(ONE, [1.0], **asked), atol=1e-9
    )


def test_inputs_act_between_steps(pushed):
    found = pushed.forecast(ONE, [0.25, 0.75], inputs=np.ones((1, 2, 1)))[:, 0, 0]
    np.testing.assert_allclose(found, 1.0 - 0.7 * np.exp([-0.25, -0.75]), atol=1e-6)


def test_inputs_act_on_irregular_times():
    model = irregular()
    times = model.step_ * np.arange(1, 21)
    found = model.forecast(np.zeros((1, 1)), times, inputs=np.ones((1, 20, 1)))[:, 0, 0]
    np.testing.assert_allclose(found, 1.0 - np.exp(-times), atol=0.02)


def test_times_do_not_depend_on_what_else_is_asked():
    model = irregular(re_encode=1)
    options = {"inputs": np.array([[[0.0], [10.0], [0.0]]]), "re_encode": 1}
    alone = model.forecast(np.zeros((1, 1)), [1.5 * model.step_], **options)
    beside = model.forecast(np.zeros((1, 1)), [model.step_, 1.5 * model.step_], **options)
    np.testing.assert_allclose(alone[0], beside[1], atol=1e-3)


def test_members_of_irregular_times_differ():
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.05, 0.15, size=(6, 40)), axis=1)
    paths = np.stack([flow(x, own) for x, own in zip(starts(), times, strict=True)])
    model = fitted(paths + 0.1 * random.normal(size=paths.shape), times)
    assert model.covariance_matrix().max() > 1e-4
    assert model.forecast(paths[:, -1], [1.0], members=8).std(axis=0).min() > 0.0


@pytest.mark.parametrize(
    ("inputs", "kind", "words"),
    [
        (None, ArgumentError, "^inputs"),
        (np.ones((1, 1, 1)), ArgumentError, "^inputs: .*more than 1 steps"),
        (np.ones((1, 2, 2)), ShapeError, "^inputs"),
        (np.ones((2, 2, 1)), ShapeError, "^inputs"),
        (np.ones((1, 2)), ShapeError, "^inputs"),
        (np.full((1, 2, 1), np.nan), NonFiniteError, "^inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(pushed, inputs, kind, words):
    with pytest.raises(kind, match=words):
        pushed.forecast(ONE, [1.0], inputs=inputs)


def test_evaluation_hands_each_start_the_inputs_that_followed(pushed):
    paths, times, inputs = driven(seed=4)
    report = pushed.evaluate(paths, times, inputs=inputs, members=0)
    assert report.nrmse["model"].max() < 1e-9
    assert report.nrmse["persistence"].min() > 0.1
    wrong = pushed.evaluate(paths, times, inputs=inputs[::-1], members=0)
    assert wrong.nrmse["model"].min() > 0.1


def test_a_spectrum_along_other_paths_of_a_driven_model_asks_for_their_inputs(pushed):
    with pytest.raises(ArgumentError, match="inputs"):
        pushed.spectrum(PATHS, TIMES)


# --- conditions -----------------------------------------------------------------------------------

LABELS = np.arange(8) % 2
CENTRES = np.where(LABELS, 5.0, -5.0)


def settling(noise=0.0, seed=0):
    """Paths that go to 5 or to -5, by their label."""
    random = np.random.default_rng(seed)
    x = random.normal(size=8)
    rows = [x]
    for _ in range(59):
        x = 0.8 * x + 0.2 * CENTRES + noise * random.normal(size=8)
        rows.append(x)
    return np.stack(rows, axis=1)[..., None]


@pytest.fixture(scope="module")
def two() -> KoopmanForecaster:
    return fitted(settling(), condition=LABELS)


def test_paths_that_differ_by_their_labels_alone_are_told_apart(two):
    assert two.classes_ == [0, 1]
    x = np.zeros((2, 1))
    expected = 5.0 * (1.0 - 0.8 ** np.array([1.0, 3.0, 40.0]))
    found = two.forecast(x, [1, 3, 40], condition=[0, 1])[..., 0]
    np.testing.assert_allclose(found, expected[:, None] * [-1.0, 1.0], atol=1e-6)
    # One label is that of all, of any kind.
    for label in (1, np.int64(1), torch.tensor(1), True):
        np.testing.assert_array_equal(two.forecast(x, [3], condition=label)[0, :, 0], found[1, [1, 1]])
    np.testing.assert_array_equal(two.forecast(x, [3], condition=torch.tensor([0, 1]))[..., 0], found[1:2])


def test_labels_may_be_any_integers():
    model = fitted(settling(), condition=np.where(LABELS, 1000, -7))
    assert model.classes_ == [-7, 1000]
    np.testing.assert_allclose(model.forecast(np.zeros((1, 1)), [80], condition=[1000]), [[[5.0]]], atol=1e-5)


def test_numbers_are_conditions_as_they_are():
    model = fitted(settling(), condition=CENTRES)
    assert model.classes_ is None
    # Between those of the data, as the model is linear.
    found = model.forecast(np.zeros((2, 1)), [80], condition=[2.5, -4.0])[0, :, 0]
    np.testing.assert_allclose(found, [2.5, -4.0], atol=1e-5)
    np.testing.assert_allclose(model.forecast(np.zeros((3, 1)), [80], condition=2.5), 2.5, atol=1e-5)
    columns = fitted(settling(), condition=np.stack([CENTRES, 0.5 * CENTRES + 1.0], axis=1))
    ahead = columns.forecast(np.zeros((3, 1)), [80], condition=[5.0, 3.5])
    np.testing.assert_allclose(ahead, 5.0, atol=1e-5)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [(None, ArgumentError), ([2, 0], ArgumentError), ([0, 1, 0], ShapeError), ([0.0, 1.0], ShapeError)],
)
def test_conditions_that_do_not_fit_are_refused(two, condition, kind):
    with pytest.raises(kind, match="^condition"):
        two.forecast(np.zeros((2, 1)), [1], condition=condition)


def test_evaluation_knows_the_condition_of_each_start(two):
    assert two.evaluate(settling(seed=5), condition=LABELS, members=0).nrmse["model"].max() < 1e-6
    assert two.evaluate(settling(seed=5), condition=1 - LABELS, members=0).nrmse["model"].min() > 0.1


def smoothed(**options):
    """Where two paths are after a while of which nothing but the beginning was seen, at 0."""
    model = fitted(settling(0.3), condition=LABELS, noise=0.02, **options)
    seen = np.full((2, 12, 1), np.nan)
    seen[:, 0] = 0.0
    return model.smooth(seen, condition=[0, 1], re_encode="never").mean[-1, :, 0]


def test_smoothing_knows_the_condition():
    np.testing.assert_allclose(smoothed(), [-4.6, 4.6], atol=0.5)


def test_smoothing_over_observables_knows_the_condition():
    np.testing.assert_allclose(smoothed(degree=2, margin=None), [-4.6, 4.6], atol=0.5)


def test_eigenfunctions_take_labels_as_encode_does(two):
    spectrum = two.spectrum()
    x = np.zeros((2, 1))
    expected = two.encode(x, condition=[0, 1]) @ spectrum.weights
    np.testing.assert_allclose(spectrum.eigenfunctions(x, condition=np.array([0, 1])), expected)


def test_a_spectrum_without_the_conditions_is_refused(two):
    with pytest.raises(ArgumentError, match="condition"):
        two.spectrum(settling())


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    model = fitted(settling(), condition=LABELS)
    with pytest.raises(ShapeError):
        model.fit(settling()[0], progress=False)
    assert model.forecast(np.zeros((2, 1)), [1], condition=[0, 1]).shape == (1, 2, 1)


def test_turning_paths_need_no_condition():
    """A condition that says nothing changes nothing."""
    paths, times = turning()
    x = paths[:2, -1]
    model = fitted(paths, times, condition=np.zeros(6, dtype=int))
    np.testing.assert_allclose(model.forecast(x, [1.0], condition=0)[0], flow(x, [1.0])[:, 0], atol=1e-8)
