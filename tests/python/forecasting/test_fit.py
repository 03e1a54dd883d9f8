"""Fits: determinism, interrupts, options, and what each way of fitting is for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, KoopmanForecaster
from koopflow.exceptions import ArgumentError, DeviceError

from ..conftest import PRINT_PEAK_MEMORY
from .reference import LINEAR, bent, fitted, flow, noisy, turning

PATHS, TIMES = turning()
NOISY, _ = noisy(0.1)
BENT = bent()
SMALL = {
    "fourier": {"basis": "fourier", "observables": 6},
    "kernel": {"basis": "kernel", "observables": 6},
    "polynomial": {"basis": "polynomial", "degree": 2},
    "refined": {"basis": "polynomial", "degree": 2, "method": "refine", "rounds": 2, "noise": 0.1},
    "trained": {
        "basis": "fourier",
        "observables": 6,
        "method": "gradient",
        "steps": 5,
        "lengths": (0.5, 2.0),
    },
    "network": {"basis": "network", "observables": 4, "method": "gradient", "steps": 5, "width": 8},
    "ranked": {"basis": "fourier", "observables": 6, "rank": 4, "lengths": (0.5, 2.0)},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_is_the_same_model_and_no_one_else_s_numbers_move(name):
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    model, again = (fitted(BENT, **SMALL[name]) for _ in range(2))
    np.testing.assert_array_equal(model.transition_matrix(), again.transition_matrix())
    x = BENT[:3, -1]
    np.testing.assert_array_equal(model.forecast(x, [1, 5], members=3), again.forecast(x, [1, 5], members=3))
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.random.get_rng_state())
    assert np.isfinite(model.evaluate(BENT, members=4).crps).all()
    if name in ("fourier", "network"):
        other = fitted(BENT, **SMALL[name], seed=1)
        assert not np.array_equal(model.forecast(x, [1]), other.forecast(x, [1]))


def test_more_observables_than_rows_or_than_differ():
    model = fitted(BENT[:2, :6], basis="kernel", observables=500)
    assert model.n_observables_ <= 3 + 12
    assert np.isfinite(model.forecast(BENT[:, 0], [1, 10])).all()
    repeated = np.repeat(BENT[:1], 4, axis=0)
    twins = fitted(repeated, basis="kernel", observables=50, lengths=(1.0, 1.0))
    assert twins.n_observables_ <= 3 + 30
    with pytest.raises(ArgumentError, match="rank: .*observables that differ"):
        fitted(repeated[:, :6], basis="polynomial", degree=4, rank=14, held_out=0.0)
    with pytest.raises(ArgumentError, match="rank: expected at most 2, the number of observables"):
        fitted(BENT, rank=4)


def test_all_combinations_are_the_whole_model():
    options = {"basis": "polynomial", "degree": 2, "margin": None, "ridge": 0.0, "held_out": 0.0}
    whole, ranked = fitted(BENT, **options), fitted(BENT, rank=5, **options)
    x = BENT[:4, 3]
    np.testing.assert_allclose(
        ranked.forecast(x, [1, 3], re_encode="never"), whole.forecast(x, [1, 3], re_encode="never"), atol=1e-6
    )


def test_refining_takes_noise_out_of_a_linear_model():
    """Noise shrinks a regression on noisy rows, and whole paths have no such bias."""
    seen, _ = noisy(0.2, count=20, seed=4)
    shrunk, refined = (
        np.abs(np.linalg.eigvals(fitted(seen, TIMES, method=method).transition_matrix()[1:, 1:])).max()
        for method in ("closed_form", "refine")
    )
    assert abs(refined - np.exp(-0.01)) < 0.2 * abs(shrunk - np.exp(-0.01))


@pytest.mark.parametrize("basis", [LINEAR, {"basis": "polynomial", "degree": 2}])
def test_refining_fills_gaps_alone(basis):
    gaps = np.where(np.random.default_rng(0).random(PATHS.shape) < 0.2, np.nan, PATHS)
    model = fitted(gaps, TIMES, method="refine", **basis)
    x = PATHS[:3, -1]
    np.testing.assert_allclose(model.forecast(x, [1.0])[0], flow(x, [1.0])[:, 0], atol=1e-6)
    if basis != LINEAR:
        # All rows of the grid are there once they are smoothed.
        assert model.history_["pairs"] == 6 * 39


@pytest.mark.parametrize("held_out", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_share_of_any_number_of_paths_may_be_held_out(count, held_out):
    model = fitted(PATHS[:count], TIMES, held_out=held_out)
    assert model.history_["pairs"] == 39 * count
    assert (model.history_["error"] is None) == (held_out == 0.0)
    x = PATHS[:1, -1]
    np.testing.assert_allclose(model.forecast(x, [1.0])[0], flow(x, [1.0])[:, 0], atol=1e-5)


# --- ends -----------------------------------------------------------------------------------------

STAGES = {
    "closed_form": ("choose", {"basis": "polynomial", "degree": 2}),
    "refine": ("refine", {**SMALL["refined"], "rounds": 4}),
    "gradient": ("forecaster", {**SMALL["trained"], "steps": 40}),
}


def stopping(method, error):
    """A fit whose callback raises at the second report of its own stage."""
    stage, options = STAGES[method]

    def callback(event):
        if event["stage"] == stage and event["step"] >= 2:
            raise error

    return KoopmanForecaster(**options).fit(BENT, progress=False, callback=callback)


@pytest.mark.parametrize("method", STAGES)
def test_what_a_callback_raises_comes_back(method):
    error = LookupError("stop here")
    with pytest.raises(LookupError) as caught:
        stopping(method, error)
    assert caught.value is error


def test_ctrl_c_before_there_is_a_model_is_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        stopping("closed_form", KeyboardInterrupt())


@pytest.mark.parametrize(
    "method",
    [
        "gradient",
        pytest.param(
            "refine",
        ),
    ],
)
def test_ctrl_c_keeps_the_best_model(method):
    try:
        with pytest.warns(RuntimeWarning, match="interrupted.*best model so far is kept"):
            model = stopping(method, KeyboardInterrupt())
    except KeyboardInterrupt:
        pytest.fail("the model was lost")
    assert model.history_["stopped"] == "interrupted"
    assert np.isfinite(model.forecast(BENT[:, -1], [3])).all()


def test_progress_is_told_stage_by_stage():
    told = []
    options = {"basis": "polynomial", "degree": 2, "method": "refine", "rounds": 2, "noise": 0.1}
    KoopmanForecaster(**options).fit(BENT, progress=False, callback=told.append)
    stages = [event["stage"] for event in told]
    assert list(dict.fromkeys(stages)) == ["choose", "fit", "refine"]
    assert all(0 <= event["step"] <= event["total"] for event in told)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"basis": "wavelets"}, "^basis"),
        ({"basis": "network"}, "^method"),
        ({"method": "guess"}, "^method"),
        ({**LINEAR, "method": "gradient"}, "^method"),
        ({"observables": -1}, "^observables"),
        ({"observables": 2.5}, "^observables"),
        ({"degree": 0}, "^degree"),
        ({"lengths": (2.0, 1.0)}, "^lengths"),
        ({"lengths": 1.0}, "^lengths"),
        ({"history": 0}, "^history"),
        ({"history": 40}, "^paths: expected 41 neighbouring rows"),
        ({"rank": 0}, "^rank"),
        ({"ridge": -1.0}, "^ridge"),
        ({"ridge": float("nan")}, "^ridge"),
        ({"re_encode": 0}, "^re_encode"),
        ({"re_encode": "often"}, "^re_encode"),
        ({"margin": -0.1}, "^margin"),
        ({"horizon": 0.0}, "^horizon"),
        ({"held_out": 1.0}, "^held_out"),
        ({"noise": -0.1}, "^noise"),
        ({"unroll": 0}, "^unroll"),
        ({"seed": -1}, "^seed"),
        ({"training": {"speed": 1}}, "^training"),
    ],
)
def test_options_out_of_their_range_are_named(options, words):
    with pytest.raises(ArgumentError, match=words):
        fitted(PATHS, TIMES, **{"basis": "fourier", **options})


def test_devices_that_there_are_not_are_named():
    with pytest.raises(DeviceError, match="^device"):
        fitted(PATHS, TIMES, device="abacus")


def test_irregular_times_have_no_history():
    with pytest.raises(ArgumentError, match="^history"):
        fitted(PATHS, np.cumsum(np.random.default_rng(0).uniform(1, 2, size=40)), history=2)


def test_a_prior_begins_as_paths_begin():
    begin = np.random.default_rng(0).normal(size=(64, 2)) * 0.3 + [2.0, -1.0]
    model = fitted(flow(begin, TIMES[:8]), TIMES[:8])
    teacher = FlowTeacher((2,), width=16, depth=1, steps=300)
    student = KoopmanDistiller(observables=8, width=16, depth=1, steps=150, trajectories=128, batch_size=64)
    prior = model.prior(teacher=teacher, student=student)
    found = prior.sample(50, [0.0, 0.5, 2.0], seed=1)
    assert found.shape == (3, 50, 2)
    np.testing.assert_allclose(found, flow(found[0], [0.0, 0.5, 2.0]).swapaxes(0, 1), atol=1e-5)
    np.testing.assert_array_equal(found, prior.sample(50, [0.0, 0.5, 2.0], seed=1))
    assert not np.array_equal(found, prior.sample(50, [0.0, 0.5, 2.0], seed=2))
    # As far as so short a training goes.
    np.testing.assert_allclose(found[0].mean(axis=0), [2.0, -1.0], atol=0.5)
    assert prior.sample(5, [0.0], noisy=True).shape == (1, 5, 2)


@pytest.mark.slow
def test_long_irregular_paths_need_no_square_of_their_rows():
    code = """
import numpy as np
from koopflow import KoopmanForecaster
times = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, size=2500))
rows, model = [np.sin(0.1 * times)], KoopmanForecaster(basis="polynomial", degree=1, noise=0.0)
model.fit([rows[0][:50]], [times[:50]], progress=False)
PEAK
model.fit(rows, [times], progress=False)
PEAK
"""
    code = code.replace("PEAK", PRINT_PEAK_MEMORY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    few, many = map(int, done.stdout.split())
    # In KiB: 2,500 rows are 20 KiB, their square is 49 MiB.
    assert many - few < 24 * 1024
