"""Which observed sequences are taken, and as what."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from koopflow import KoopmanForecaster
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError
from koopflow.forecasting import Paths

from .reference import LINEAR, STEP, TURN, fitted, flow, noisy, starts, turning

PATHS, TIMES = turning()
NOISY, _ = noisy()


def same(model, other, atol=1e-12):
    np.testing.assert_allclose(model.transition_matrix(), other.transition_matrix(), atol=atol)


@pytest.mark.parametrize(
    "given",
    [
        list(NOISY),
        tuple(NOISY),
        [pd.DataFrame(path, columns=["x", "y"]) for path in NOISY],
        torch.from_numpy(NOISY),
        [torch.from_numpy(path).requires_grad_() for path in NOISY],
        np.asfortranarray(NOISY),
    ],
    ids=["list", "tuple", "frames", "tensor", "tensors with gradients", "columns first"],
)
def test_paths_of_any_kind_are_the_same_paths(given):
    same(fitted(given, TIMES), fitted(NOISY, TIMES), atol=0.0)


@pytest.mark.parametrize(
    "times", [TIMES, list(TIMES), [TIMES] * 6, np.tile(TIMES, (6, 1)), torch.tensor(TIMES)]
)
def test_times_are_shared_or_of_each_path(times):
    model = fitted(NOISY, times)
    assert model.step_ == pytest.approx(STEP, rel=1e-9)
    same(model, fitted(NOISY))


def test_times_begin_anywhere():
    same(fitted(NOISY, TIMES - 100.0), fitted(NOISY, TIMES))
    same(fitted(NOISY, [TIMES + 7.0 * place for place in range(6)]), fitted(NOISY, TIMES))


def test_whole_numbers_are_numbers():
    rounded = np.round(100.0 * NOISY)
    same(fitted(rounded.astype(np.int64), TIMES), fitted(rounded, TIMES), atol=0.0)
    model = fitted(np.abs(rounded) > 50, TIMES)
    assert np.isfinite(model.forecast(np.array([[0, 1]]), [STEP])).all()


def test_float32_is_fitted_to_in_float64():
    small = NOISY.astype(np.float32)
    same(fitted(small, TIMES), fitted(small.astype(np.float64), TIMES), atol=1e-10)


def test_lengths_may_differ_and_a_row_alone_adds_nothing_to_the_pairs():
    model = fitted([NOISY[0], NOISY[1][:9], NOISY[2][:2]], TIMES, held_out=0)
    assert model.history_["pairs"] == 39 + 8 + 1
    # Nothing but the statistics of rows changes for a path of one.
    more = fitted([NOISY[0], NOISY[1][:9], NOISY[2][:2], NOISY[3][:1]], TIMES, held_out=0, ridge=0.0)
    less = fitted([NOISY[0], NOISY[1][:9], NOISY[2][:2]], TIMES, held_out=0, ridge=0.0)
    assert more.history_["pairs"] == model.history_["pairs"]
    x = NOISY[:3, -1]
    np.testing.assert_allclose(more.forecast(x, [1.0]), less.forecast(x, [1.0]), atol=1e-10)


def test_two_paths_are_never_joined():
    assert fitted(NOISY[:2], TIMES).history_["pairs"] == 2 * 39
    assert fitted(list(NOISY[:2]), [TIMES, TIMES + 4.0]).history_["pairs"] == 2 * 39


def test_a_path_of_one_row_does_not_decide_whether_there_is_a_fit():
    for seed in range(4):
        fitted([PATHS[0], PATHS[1][:1]], TIMES, seed=seed)


def test_a_gap_splits_a_path():
    """A grid with missing rows is fitted to as the pieces that it leaves."""
    kept = np.delete(np.arange(40), [7, 8, 20])
    gap = fitted([path[kept] for path in NOISY], [TIMES[kept]] * 6, held_out=0, ridge=0.0)
    pieces = [piece for path in NOISY for piece in (path[:7], path[9:20], path[21:])]
    assert gap.step_ == pytest.approx(STEP)
    assert gap.history_["pairs"] == 6 * (6 + 10 + 18)
    apart = fitted(pieces, [STEP * np.arange(len(piece)) for piece in pieces], held_out=0, ridge=0.0)
    same(gap, apart, atol=1e-10)


@pytest.mark.parametrize("kind", ["rows", "values", "NaN"])
def test_what_was_not_seen_is_not_fitted_to(kind):
    """Rows that are hidden hold nonsense; the fit to the others is exact all the same."""
    hidden = np.random.default_rng(1).random((6, 40)) < 0.2
    wrong = np.where(hidden[..., None], 1e6, PATHS)
    if kind == "rows":
        model = fitted(wrong, TIMES, mask=~hidden)
    elif kind == "values":
        mask = np.ones(PATHS.shape, dtype=bool)
        mask[..., 1] = ~hidden
        model = fitted(np.where(mask, PATHS, np.inf), TIMES, mask=list(mask))
    else:
        model = fitted(np.where(hidden[..., None], np.nan, PATHS), TIMES)
    x = PATHS[:3, -1]
    np.testing.assert_allclose(model.forecast(x, [1.0])[0], flow(x, [1.0])[:, 0], atol=1e-9)
    both = ~hidden[:, 1:] & ~hidden[:, :-1]
    assert model.history_["pairs"] == both.sum()


def test_series_of_numbers_have_no_axis_of_their_own():
    series = [np.cos(0.3 * np.arange(50.0) + phase) for phase in (0.0, 1.0, 2.0)]
    model = fitted(series, history=2)
    assert model.event_shape_ == ()
    ahead = model.forecast(np.stack([row[-2:] for row in series]), [1.0, 2.0])
    assert ahead.shape == (2, 3)
    np.testing.assert_allclose(ahead[1], np.cos(0.3 * 51.0 + np.arange(3)), atol=1e-6)
    column = fitted([row[:, None] for row in series], history=2)
    same(model, column, atol=0.0)
    assert column.event_shape_ == (1,)
    x = np.stack([row[-2:, None] for row in series])
    np.testing.assert_array_equal(column.forecast(x, [1.0])[..., 0], ahead[:1])


def test_events_of_any_shape_are_flat_inside():
    wide = flow(starts(5, 6), TIMES, np.diag([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]))
    model = fitted(wide.reshape(5, 40, 2, 3), TIMES)
    assert model.event_shape_ == (2, 3)
    assert model.spectrum().modes.shape == (7, 2, 3)
    x = wide[:, -1].reshape(5, 2, 3)
    expected = fitted(wide, TIMES).forecast(wide[:, -1], [STEP])
    np.testing.assert_allclose(model.forecast(x, [STEP]).reshape(1, 5, 6), expected, atol=1e-12)


def test_a_constant_coordinate_stays():
    model = fitted(np.concatenate([PATHS, np.full((6, 40, 1), 0.1)], axis=2), TIMES)
    x = np.array([[1.0, 0.5, 0.1]])
    found = model.forecast(x, [2.0])[0, 0]
    np.testing.assert_allclose(found, [*flow(x[:, :2], [2.0])[0, 0], 0.1], atol=1e-9)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1e-9), (0.0, 1e9), (1e8, 1.0), (-1e8, 1e-3)])
def test_units_do_not_matter(shift, scale):
    model = fitted(shift + scale * PATHS, TIMES)
    x = PATHS[:3, -1]
    found = (model.forecast(shift + scale * x, [1.0])[0] - shift) / scale
    np.testing.assert_allclose(found, flow(x, [1.0])[:, 0], atol=1e-8 + 1e-8 * abs(shift) * 4e-8 / scale)


def test_lists_of_numbers_are_not_rounded():
    series = (1e8 + 0.25 * np.arange(40.0) % 1.0).tolist()
    assert float(Paths.of([series]).values[1, 0]) == series[1]


def test_rounded_times_do_not_bend_the_step():
    times = (np.arange(10001) * np.float32(0.01)).astype(np.float32)
    angle = 0.01 * np.arange(10001)
    model = fitted([np.stack([np.cos(angle), np.sin(angle)], axis=1)], times)
    assert model.step_ == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("paths", "options", "kind", "words"),
    [
        ([], {}, ArgumentError, "paths: .*empty list"),
        (PATHS[0], {}, ShapeError, r"write x\[None\] for one path"),
        (PATHS[0, :, 0], {}, ShapeError, r"write \[series\]"),
        (PATHS[:, :0], {}, ArgumentError, "at least one path"),
        ([PATHS[0], PATHS[1][:, :1]], {}, ShapeError, "events of one shape"),
        ([PATHS[0], PATHS[1][:0]], {}, ArgumentError, "a path without rows"),
        ("a path", {}, DtypeError, "paths"),
        ({"x": PATHS}, {}, DtypeError, "paths"),
        (np.array([PATHS[0], PATHS[1][:3]], dtype=object), {}, DtypeError, "objects"),
        (np.ma.masked_array(PATHS, PATHS > 1), {}, DtypeError, "mask="),
        (np.where(PATHS > 1, np.inf, PATHS), {}, NonFiniteError, "infinite"),
        (PATHS[:1, :1], {}, ArgumentError, "paths: expected 2 neighbouring rows"),
        (PATHS, {"times": TIMES[::-1]}, ArgumentError, "times: expected increasing"),
        (PATHS, {"times": np.zeros(40)}, ArgumentError, "times: expected increasing"),
        (PATHS, {"times": TIMES[1:]}, ShapeError, "times"),
        (PATHS, {"times": np.where(TIMES > 1, np.nan, TIMES)}, NonFiniteError, "times"),
        (PATHS, {"times": np.arange(40).astype("M8[s]")}, ShapeError, "times"),
        (PATHS, {"mask": np.ones((6, 40))}, DtypeError, "mask"),
        (PATHS, {"mask": np.ones((6, 40, 3), dtype=bool)}, ShapeError, "mask"),
        (PATHS, {"mask": np.zeros((6, 40), dtype=bool)}, NonFiniteError, "paths: coordinate 0"),
        (PATHS, {"inputs": np.ones((6, 39, 1))}, ShapeError, "inputs"),
        (PATHS, {"inputs": np.full((6, 40, 1), np.nan)}, NonFiniteError, "inputs"),
        (PATHS, {"condition": np.ones(5)}, ShapeError, "condition"),
        (PATHS, {"condition": np.full(6, np.nan)}, NonFiniteError, "condition"),
        (PATHS, {"condition": list("abcdef")}, DtypeError, "condition"),
    ],
)
def test_what_is_no_path_is_refused(paths, options, kind, words):
    with pytest.raises(kind, match=words):
        KoopmanForecaster(**LINEAR).fit(paths, progress=False, **options)


def test_a_coordinate_that_was_never_seen_is_named():
    with pytest.raises(NonFiniteError, match="coordinate 1"):
        fitted(np.where(np.arange(2) == 1, np.nan, PATHS), TIMES)


@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_complex_tensors_are_refused_as_complex_arrays_are():
    with pytest.raises(DtypeError):
        fitted(torch.complex(torch.from_numpy(PATHS), torch.from_numpy(PATHS)), TIMES)


def test_a_model_keeps_its_own_rows():
    rows = PATHS[:1].copy()
    model = fitted(rows, TIMES)
    held = noisy(seed=3)[0]
    before = model.score(held, times=TIMES)
    rows *= 100.0
    assert model.score(held, times=TIMES) == before


def test_the_rate_of_the_reference_is_the_turn():
    """What the other files compare with: a step of the flow obeys its equation."""
    slope = (flow(starts(), [1e-6])[:, 0] - starts()) / 1e-6
    np.testing.assert_allclose(slope, starts() @ TURN.T, atol=1e-5)
