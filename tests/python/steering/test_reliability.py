"""Figures that say how far to trust weights, against NumPy and laws that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import Observation, TiltedSamples, _core
from koopflow.exceptions import (
    ArgumentError,
    DivergenceError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    SteeringError,
)
from koopflow.steering.chains import mixing
from koopflow.steering.one_step import OneStep
from koopflow.steering.reliability import multiplicity, pareto_k
from koopflow.teachers.weighting import weighted_rows


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_tails_are_found(shape):
    found = [
        pareto_k(np.log(np.random.default_rng(seed).pareto(1.0 / shape, size=20_000) + 1.0))
        for seed in range(5)
    ]
    assert np.mean(found) == pytest.approx(shape, abs=0.08)


def test_tails_of_few_and_of_equal_weights():
    assert np.isnan(pareto_k(np.zeros(10)))
    assert pareto_k(np.zeros(1000)) == -np.inf
    assert pareto_k(np.random.default_rng(0).uniform(size=5000)) < 0.5
    assert pareto_k(np.r_[np.zeros(5), np.full(995, -np.inf)]) == np.inf


def test_effective_sizes_are_those_of_numpy():
    logs = np.random.default_rng(0).normal(size=500) * 2.0
    size, (low, high), mean = _core.weighed(logs, seed=1)
    weights = np.exp(logs)
    assert size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert mean == pytest.approx(np.log(weights.mean()))
    rng = np.random.default_rng(5)
    sizes = []
    for _ in range(400):
        drawn = weights[rng.integers(0, 500, 500)]
        sizes.append(drawn.sum() ** 2 / (drawn**2).sum())
    assert low == pytest.approx(np.quantile(sizes, 0.05), rel=0.15)
    assert high == pytest.approx(np.quantile(sizes, 0.95), rel=0.15)
    with pytest.raises(NonFiniteError, match="log_weights"):
        _core.weighed(np.array([0.0, np.nan]))


def test_chains_are_judged_by_their_means():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(100, 64, 1))
    size, spread = mixing(apart)
    assert size == pytest.approx(6400, rel=0.4)
    assert spread == pytest.approx(1.0, abs=0.02)
    stuck = np.repeat(rng.normal(size=(1, 64, 1)), 100, axis=0) + 0.01 * rng.normal(size=(100, 64, 1))
    size, spread = mixing(stuck)
    assert size == pytest.approx(64, rel=0.3)
    assert spread > 5.0


class Fold(OneStep):
    """x = z^2 in one dimension: two noises for every sample."""

    def __init__(self) -> None:
        self.event_shape, self.dimension = (1,), 1

    def density(self, noise):
        log_noise = -0.5 * noise[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
        return noise**2, log_noise - np.log(np.abs(2.0 * noise[:, 0]))

    def inverses(self, x, start, steps):
        return np.sign(start) * np.sqrt(x), np.zeros(len(x))


def test_a_map_that_folds_is_found_out():
    step = Fold()
    noise = np.random.default_rng(0).normal(size=(32, 1))
    x, log_prob = step.density(noise)
    assert multiplicity(step, x, noise, log_prob) == pytest.approx(2.0, abs=0.1)


def test_a_reward_far_away_is_not_believed(student):
    found = student.tilt(reward=lambda x: -50.0 * (x[:, 0] - 9.0) ** 2).sample(1024, method="importance")
    assert not found.reliable
    assert found.verdict.startswith("unreliable")
    assert "Pareto" in found.verdict
    assert found.pareto_k > 0.7
    assert found.ess < 5
    assert found.verdict in found.summary()
    assert repr(found) == f"<TiltedSamples: {found.verdict}>"


def test_standard_errors_cover(student):
    """Over seeds, the truth lies within two standard errors as often as it should."""
    tilted = student.tilt(reward=lambda x: 0.5 * x[:, 0])
    truth, _ = tilted.sample(200_000, method="importance", seed=99).expectation(lambda x: x[:, 0])
    inside = []
    for seed in range(60):
        found = tilted.sample(1000, method="importance", seed=seed)
        value, error = found.expectation(lambda x: x[:, 0])
        inside.append(abs(value - truth) < 2.0 * error)
    assert 0.85 <= np.mean(inside) <= 1.0


def plain(log_weights, x=None) -> TiltedSamples:
    count = len(log_weights)
    x = np.arange(count, dtype=float)[:, None] if x is None else x
    return TiltedSamples(
        x=x,
        noise=x,
        log_weights=np.asarray(log_weights, dtype=float),
        method="importance",
        ess=float(count),
        ess_interval=(1.0, float(count)),
        pareto_k=0.1,
        log_evidence=0.0,
        log_evidence_error=0.1,
        acceptance=float("nan"),
        evaluations=count,
        blocks=np.arange(count),
    )


def test_resampling_keeps_shares():
    shares = np.array([0.5, 0.25, 0.2, 0.05, 0.0])
    with np.errstate(divide="ignore"):
        found = plain(np.log(shares))
    drawn = found.resample(2000, seed=3)
    counts = np.bincount(drawn[:, 0].astype(int), minlength=5)
    assert np.all(np.abs(counts - 2000 * shares) <= 1.0)
    assert not np.array_equal(np.sort(drawn[:, 0]), drawn[:, 0])
    np.testing.assert_array_equal(drawn, found.resample(2000, seed=3))
    assert len(found.resample()) == 5
    np.testing.assert_allclose(found.weights, shares)


def test_expectations_check_what_they_get():
    found = plain(np.zeros(4))
    assert found.expectation(lambda x: x[:, 0])[0] == pytest.approx(1.5)
    value, error = found.expectation(lambda x: torch.stack([x[:, 0], -x[:, 0]], dim=1))
    assert value.shape == error.shape == (2,)
    for wrong in (lambda x: 3.0, lambda x: x[:2]):
        with pytest.raises(ShapeError, match="function"):
            found.expectation(wrong)
    with pytest.raises(DivergenceError, match="no sample"):
        _ = plain(np.full(3, -np.inf)).weights


def fails(x):
    raise RuntimeError("the sensor is off")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (fails, "reward: expected a number for each sample, got RuntimeError: the sensor is off"),
        (lambda x: x, r"reward: expected numbers of shape \(\d+,\), got shape"),
        (lambda x: x[:, 0].sum(), "reward: expected numbers of shape"),
        (lambda x: x[:, 0] * float("nan"), "reward: expected finite values or -inf, got nan"),
        (lambda x: x[:, 0] * 0 + float("inf"), "reward: expected finite values or -inf, got inf"),
        (lambda x: ["a"] * len(x), "reward: expected numbers"),
        (lambda x: None, "reward: expected numbers"),
    ],
)
def test_functions_that_fail_are_named(student, function, words):
    with pytest.raises(SteeringError, match=words) as raised:
        student.tilt(reward=function).sample(64)
    assert raised.value.found is None
    if function is fails:
        assert isinstance(raised.value.__cause__, RuntimeError)


def test_samples_made_before_a_failure_are_kept(student):
    calls = []

    def late(x):
        calls.append(len(x))
        if sum(calls) > 6000:
            raise ValueError("out of quota")
        return x[:, 0]

    with pytest.raises(SteeringError, match="out of quota") as raised:
        student.tilt(reward=late).sample(20_000, method="importance")
    kept = raised.value.found
    assert isinstance(kept, TiltedSamples)
    assert len(kept) == 4096  # The functions see so many at once.
    assert kept.ess > 100
    calls.clear()
    with pytest.raises(SteeringError) as raised:
        student.tilt(reward=late).sample(1000, method="mcmc")
    assert len(raised.value.found) > 0


def test_energies_may_be_infinite_but_not_minus_infinite(student):
    found = student.tilt(
        energy=lambda x: torch.where(x[:, 0] > 0, 0.5 * (x**2).sum(dim=1), torch.inf)
    ).sample(256, method="importance")
    assert np.isinf(found.log_weights).any()
    with pytest.raises(SteeringError, match="energy: expected finite values or inf, got -inf"):
        student.tilt(energy=lambda x: x[:, 0] * 0 - float("inf")).sample(16)


def test_nothing_possible_is_said(student):
    never = student.tilt(reward=lambda x: torch.full((len(x),), -torch.inf))
    assert not never.sample(64, method="importance").reliable
    for method in ("smc", "mcmc", "auto"):
        with pytest.raises(DivergenceError, match="no sample"):
            never.sample(64, method=method)


def test_arguments_are_checked(student, gaussian):
    def reward(x):
        return x[:, 0]

    for given in ({}, {"reward": reward, "energy": reward}):
        with pytest.raises(ArgumentError, match="expected an energy, or else"):
            student.tilt(**given)
    with pytest.raises(TypeError, match="reward: expected a function"):
        student.tilt(reward=3)
    with pytest.raises(TypeError, match="observation: expected an Observation"):
        student.tilt(observation=np.ones(2))
    with pytest.raises(ArgumentError, match="temperature"):
        student.tilt(reward=reward, temperature=0.0)
    with pytest.raises(ArgumentError, match="condition: expected None"):
        student.tilt(reward=reward, condition=1)
    tilted = student.tilt(reward=reward)
    for wrong, words in (
        ({"n": 0}, "n"),
        ({"n": 8, "method": "hmc"}, "method"),
        ({"n": 8, "method": "laplace"}, "method: expected a method that applies, got 'laplace'"),
        ({"n": 8, "move": "gibbs"}, "move"),
        ({"n": 8, "moves": 0}, "moves"),
        ({"n": 8, "chains": 1}, "chains"),
        ({"n": 8, "reference": np.zeros((3, 2))}, "reference: expected None"),
    ):
        with pytest.raises(ArgumentError, match=words):
            tilted.sample(**wrong)
    with pytest.raises(ArgumentError, match="move: expected 'pcn'"):
        gaussian.tilt(energy=lambda x: x[:, 0].numpy()).sample(8, move="mala")
    seen = []
    tilted.sample(600, method="smc", moves=1, progress=seen.append)
    assert {event["stage"] for event in seen} == {"tilt"}
    assert seen[-1]["step"] == seen[-1]["total"]


def test_few_samples_are_never_reliable(student):
    tilted = student.tilt(reward=lambda x: x[:, 0])
    for method in ("importance", "smc", "mcmc"):
        for n in (1, 7):
            found = tilted.sample(n, method=method, burn_in=2)
            assert found.x.shape == (n, 2)
            assert not found.reliable


def test_particles_that_hardly_move_are_not_believed(student):
    found = student.tilt(reward=lambda x: -400.0 * (x**2).sum(dim=1).sqrt().sub(4.0).abs())
    stuck = found.sample(512, method="smc", moves=1, move="pcn")
    assert stuck.memory > 0.3
    assert "earlier positions" in stuck.verdict


def test_weighted_rows_are_refused_or_counted():
    data = np.arange(4.0)[:, None]
    (rows, none, labels) = weighted_rows(np.array([0.0, 1.0, 2.0, 1.0]), 0, data, None, np.arange(4))
    assert none is None
    np.testing.assert_array_equal(np.bincount(labels, minlength=4), [0, 4, 8, 4])
    np.testing.assert_array_equal(rows[:, 0], labels)
    for wrong, kind in (
        (np.ones(3), ShapeError),
        (np.array([1.0, np.nan, 1.0, 1.0]), NonFiniteError),
        (np.array([1.0, -1.0, 1.0, 1.0]), ArgumentError),
        (np.zeros(4), ArgumentError),
    ):
        with pytest.raises(kind, match="weights"):
            weighted_rows(wrong, 0, data)


def test_functions_may_write_to_what_they_get(student):
    def careless(x):
        x -= 1.0
        return x[:, 0]

    careful = student.tilt(reward=lambda x: x[:, 0] - 1.0)
    for method in ("importance", "smc"):
        one = student.tilt(reward=careless).sample(256, method=method)
        two = careful.sample(256, method=method)
        np.testing.assert_allclose(one.x, two.x, atol=1e-5)
        np.testing.assert_allclose(one.log_weights, two.log_weights, atol=1e-5)
    before = one.x.copy()
    one.expectation(lambda x: x.mul_(2.0)[:, 0])
    np.testing.assert_array_equal(one.x, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_followed_whatever_the_caller_switched_off(student, mode):
    tilted = student.tilt(reward=lambda x: -((x[:, 0] - 2.0) ** 2))
    with mode():
        inside = tilted.sample(128, method="smc")
    outside = tilted.sample(128, method="smc")
    np.testing.assert_allclose(inside.x, outside.x, atol=1e-6)
    assert inside.notes == outside.notes == []


def test_errors_are_never_those_of_one_part(student):
    """Numbers of particles that no number of islands divides, and few chains."""
    tilted = student.tilt(reward=lambda x: x[:, 0])
    for n in (127, 257):
        found = tilted.sample(n, method="smc")
        assert len(np.unique(found.blocks)) == 8
        assert found.x.shape == (n, 2)
        assert found.expectation(lambda x: x[:, 0])[1] > 1e-3
        assert np.isfinite(found.log_evidence_error)
    few = tilted.sample(200, method="mcmc", chains=2, burn_in=5)
    assert "independent" in few.verdict


def test_chains_that_have_not_met_are_not_believed(gaussian):
    far = torch.tensor([2.5, 0.0])

    def two(x):
        return torch.logaddexp(-200 * ((x - far) ** 2).sum(1), -200 * ((x + far) ** 2).sum(1))

    found = gaussian.tilt(reward=two).sample(256, method="mcmc", burn_in=20, chains=128, thin=2)
    assert "have not converged" in found.verdict


def test_modes_that_were_not_looked_for_are_missed_by_the_evidence(student):
    """Far more modes than starts: the mean over draws of the model says so."""

    def waves(x):
        return torch.stack([torch.sin(8 * x[:, 0]), torch.sin(8 * x[:, 1])], dim=1)

    tilted = student.tilt(observation=Observation(waves, [0.5, 0.5], noise=0.02))
    assert not tilted.sample(2000, method="laplace").reliable
    assert tilted.sample(512).method == "smc"


def test_rewards_that_only_forbid_are_judged_by_what_moves(student):
    only = student.tilt(reward=lambda x: torch.where(x[:, 0] > 1.0, 0.0, -torch.inf))
    for method in ("importance", "smc", "mcmc"):
        found = only.sample(2048, method=method, thin=10)
        assert found.ess > 100
        assert not found.pareto_k > 0.7
    assert np.isfinite(found.expectation(lambda x: x[:, 0].log())[0])


def test_expectations_of_what_has_no_weight_do_not_count(student):
    only = student.tilt(reward=lambda x: torch.where(x[:, 0] > 1.0, 0.0, -torch.inf))
    found = only.sample(512, method="importance")
    value, error = found.expectation(lambda x: x[:, 0].log())
    assert np.isfinite(value)
    assert np.isfinite(error)
    with pytest.raises(TypeError, match="function: expected a function of samples"):
        found.expectation(5)
    with pytest.raises(DtypeError, match="function"):
        found.expectation(lambda x: x[:, 0].to(torch.complex64))


def test_seeds_are_all_different(student):
    tilted = student.tilt(reward=lambda x: x[:, 0])
    firsts = {
        float(tilted.sample(16, method="importance", seed=s).x[0, 0]) for s in (0, 1, 7919, 2**63, 2**64 - 1)
    }
    assert len(firsts) == 5
    assert tilted.sample(64, method="mcmc", seed=2**64 - 1, burn_in=1).x.shape == (64, 2)


def test_a_reference_is_checked_first(student):
    tilted = student.tilt(energy=lambda x: 0.5 * (x**2).sum(dim=1))
    for wrong, kind in (
        (np.zeros((3, 3)), ShapeError),
        (np.zeros((0, 2)), ShapeError),
        (np.zeros(2), ShapeError),
        (np.full((3, 2), np.nan), NonFiniteError),
    ):
        with pytest.raises(kind, match="reference"):
            tilted.sample(10**9, reference=wrong)
