"""Inpainting with hierarchies: hidden pixels, against importance weights of the student's twin."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, Observation, UNet
from koopflow.exceptions import ShapeError

FILE = Path(__file__).parents[2] / "fixtures/before_redesign/student_hierarchy.safetensors"
SHAPE = (1, 4, 4)
SEEN = np.zeros(SHAPE, dtype=bool)
SEEN[0, 0] = True


@pytest.fixture(scope="module")
def student() -> KoopmanDistiller:
    """A hierarchy whose samples differ much: the fixture, with a larger last convolution."""
    module = KoopmanDistiller.load(FILE).to_torch()
    with torch.no_grad():
        spread = module(torch.randn(256, *SHAPE, generator=torch.Generator().manual_seed(0))).std()
        for weight in module.readout.out[-1].parameters():
            weight.mul_(1.0 / float(spread))
    return KoopmanDistiller.from_torch_module(module)


def test_hidden_pixels_are_those_of_the_posterior(student):
    truth = np.asarray(student.sample(1, seed=7))[0]
    noise = 0.5
    module = student.to_torch()
    z = torch.randn(8000, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = module(z).double().numpy()
    log = -0.5 * (((x - truth) / noise) ** 2)[:, SEEN].sum(axis=1)
    log -= SEEN.sum() * math.log(noise * math.sqrt(2 * math.pi))
    weights = np.exp(log - log.max())
    evidence = math.log(weights.mean()) + log.max()
    weights /= weights.sum()
    assert 1.0 / (weights**2).sum() > 400
    mean = np.tensordot(weights, x, axes=1)
    spread = np.sqrt(np.tensordot(weights, (x - mean) ** 2, axes=1))
    found = student.tilt(observation=Observation(SEEN, truth, noise=noise)).sample(
        512, method="smc", seed=2, moves=3
    )
    assert found.x.shape == (512, *SHAPE)
    # Samples are the twin's own, of their noise.
    with torch.no_grad():
        again = module(torch.from_numpy(found.noise)).numpy()
    np.testing.assert_allclose(found.x, again, rtol=0, atol=1e-4)
    share = found.weights / found.weights.sum()
    own = np.tensordot(share, found.x, axes=1)
    assert np.abs(own - mean).max() < 0.2 * spread.max()
    deviation = np.sqrt(np.tensordot(share, (found.x - own) ** 2, axes=1))
    np.testing.assert_allclose(deviation, spread, rtol=0.25)
    assert found.log_evidence == pytest.approx(evidence, abs=0.15)
    # What was seen is nearer than in samples that were not asked.
    assert np.abs(own - truth)[SEEN].mean() < 0.7 * np.abs(x.mean(axis=0) - truth)[SEEN].mean()


def test_slopes_of_the_one_step_map_are_autograds(student):
    random = np.random.default_rng(3)
    z, covectors = random.normal(size=(4, *SHAPE)).astype("f4"), random.normal(size=(4, 2, *SHAPE))
    module = student.to_torch().double()
    given = torch.from_numpy(z).double().requires_grad_()
    x = module(given)
    expected = [
        torch.autograd.grad(x, given, torch.from_numpy(covectors[:, place]), retain_graph=True)[0].numpy()
        for place in (0, 1)
    ]
    pulled = student._fitted().pull_back(z, covectors.astype("f4"))
    expected = np.stack(expected, axis=1).reshape(pulled.shape)
    np.testing.assert_allclose(pulled, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_masks_of_other_events_are_refused(student):
    with pytest.raises(ShapeError, match=r"operator: expected a mask of shape \(1, 4, 4\)"):
        student.tilt(observation=Observation(np.ones((1, 2, 2), bool), np.zeros((1, 2, 2)), noise=0.1))


@pytest.mark.slow
def test_the_other_half_of_a_gaussian_image_is_its_conditional_mean():
    """The lower half is nearly the upper one, and a trained student knows what follows from it."""
    half = np.eye(8)
    cov = np.block([[half, 0.9 * half], [0.9 * half, half]]) + 0.01 * np.eye(16)
    mean = np.linspace(-0.5, 0.5, 16)
    teacher = FlowTeacher.gaussian(mean.reshape(SHAPE), cov)
    student = KoopmanDistiller(
        basis="hierarchy",
        unet=UNet(channels=8, multipliers=(1, 2)),
        steps=300,
        batch_size=32,
        trajectories=512,
        learning_rate=3e-3,
        seed=0,
    ).set_params(trajectories__path_steps=8)
    student.fit(teacher, progress=False)
    seen = np.zeros(SHAPE, dtype=bool)
    seen[0, :2] = True
    errors, blind = [], []
    for seed in range(4):
        truth = np.asarray(teacher.sample(1, seed=seed))[0]
        observation = Observation(seen, truth, noise=0.3)
        found = student.tilt(observation=observation).sample(256, method="laplace", seed=seed)
        gain = cov[8:, :8] @ np.linalg.inv(cov[:8, :8] + 0.09 * np.eye(8))
        expected = mean[8:] + gain @ (truth.reshape(-1)[:8] - mean[:8])
        own = np.tensordot(found.weights / found.weights.sum(), found.x, axes=1).reshape(-1)[8:]
        errors.append(np.sqrt(((own - expected) ** 2).mean()))
        blind.append(np.sqrt(((mean[8:] - expected) ** 2).mean()))
    assert np.mean(errors) < 0.4 * np.mean(blind)
