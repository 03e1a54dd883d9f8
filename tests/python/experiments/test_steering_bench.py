"""The pure parts of the bench of steering: its problems, its baseline and its tables."""

from __future__ import annotations

import numpy as np
import torch

from experiments.benches.steering import gaussian, plane
from experiments.benches.steering.__main__ import by_dimension, parsed
from experiments.benches.steering.guidance import guided, of_observation, of_reward
from koopflow import FlowTeacher


def test_a_gaussian_problem_knows_its_posterior():
    teacher, observed, mean, cov, evidence = gaussian.problem(2, seed=3)
    x = np.asarray(teacher.sample(200_000, seed=1))
    gaps = (x @ observed.operator.T - observed.y) / observed.noise
    logs = (
        -0.5 * (gaps**2).sum(axis=1)
        - np.log(observed.noise).sum()
        - 0.5 * len(observed.y) * np.log(2 * np.pi)
    )
    weights = np.exp(logs)
    assert abs(np.log(weights.mean()) - evidence) < 0.03
    weights /= weights.sum()
    np.testing.assert_allclose(weights @ x, mean, atol=0.03)
    away = x - weights @ x
    np.testing.assert_allclose((away * weights[:, None]).T @ away, cov, atol=0.03)


def test_guidance_finds_the_posterior_of_a_gaussian():
    """Where the guess of the clean sample is exact and so is its variance: data N(0, I)."""
    teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
    operator, y = np.array([[1.0, 0.0]]), np.array([1.0])
    noise = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    found = guided(teacher, of_observation(operator, y, 0.5, 1.0), noise, 200, 1.0)
    # The posterior's mean is 1 / (1 + 0.25).
    assert abs(found[:, 0].mean() - 0.8) < 0.1
    assert abs(found[:, 1].mean()) < 0.1
    pulled = guided(teacher, of_reward(lambda x: 0.5 * x[:, 1]), noise, 100, 1.0)
    assert pulled[:, 1].mean() > 0.2


def test_wishes_agree_with_what_rejection_keeps():
    data = plane.PROBLEMS["moons"](1)[:2000]
    pool = np.tile(data, (40, 1))
    for wish in plane.wishes(data, seed=0).values():
        first, second = plane.rejected(pool, wish, seed=0)
        assert first.shape == second.shape == (plane.COUNT, 2)
        shares = wish.log_share(pool.astype(np.float64))
        assert shares.max() <= 0.0
        # What is kept is likelier than the rest.
        assert wish.log_share(first.astype(np.float64)).mean() > shares.mean()
    likelihood = plane.wishes(data, seed=0)["half_plane"].likelihood
    assert likelihood(torch.from_numpy(data[:4]), 0.5).shape == (4,)


def test_rows_are_gathered_by_dimension():
    table = {"dimension": [2, 4], "mean": [0.1, 0.2], "evidence": [1.0, 5.0]}
    rows = by_dimension([table, table])
    assert [row["mean"] for row in rows["2"]] == [0.1, 0.1]
    assert any("2 of 4 log evidences" in name for name in rows)


def test_quick_is_quick():
    options = parsed(["--quick", "--parts", "plane"])
    assert options.steps == 40
    assert options.seeds == [0]
