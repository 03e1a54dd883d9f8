"""Conditional flows: a classifier judges digits by class, closed forms judge vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.svm import SVC

from koopflow import FlowTeacher, KoopmanDistiller, Objective, Trajectories, datasets

COV = np.array([[0.5, 0.3], [0.3, 0.8]])


# --- digits by class ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    images, labels = datasets.digits()
    train, held_out, labels, held_out_labels = datasets.split(images, labels, held_out=400, seed=0)
    return train, labels, held_out, held_out_labels


@pytest.fixture(scope="module")
def classifier(digits):
    train, labels, held_out, held_out_labels = digits
    fitted = SVC(C=10.0).fit(train, labels)
    assert fitted.score(held_out, held_out_labels) > 0.95
    return fitted


@pytest.fixture(scope="module")
def by_class(digits):
    """A teacher of digits by class and its student, as small as the classifier lets them be."""
    train, labels, *_ = digits
    # Optimal transport would pair noise with images across the classes: given its class, noise would no
    # longer be Gaussian.
    teacher = FlowTeacher(
        (64,),
        num_classes=10,
        coupling="independent",
        width=192,
        depth=2,
        steps=1_000,
        learning_rate=3e-3,
        seed=0,
    ).fit(train, condition=labels, progress=False)
    student = KoopmanDistiller(
        observables=64,
        width=192,
        depth=2,
        steps=1_200,
        batch_size=64,
        trajectories=Trajectories(count=6_144, path_steps=8),
        learning_rate=4e-3,
        objective=Objective(weights={"path": 0.25, "inverse": 0.2, "round_trip": 0.0}),
        seed=0,
    ).fit(teacher, progress=False)
    return teacher, student


@pytest.mark.slow
def test_a_classifier_recognises_the_digits_that_were_asked_for(by_class, classifier):
    teacher, student = by_class
    asked = np.tile(np.arange(10), 100)
    by_teacher = classifier.score(teacher.sample(1_000, condition=asked, seed=5), asked)
    evaluations = student.evaluations
    samples = student.sample(1_000, condition=asked, seed=5)
    assert student.evaluations == evaluations + 1
    by_student = classifier.score(samples, asked)
    print(f"recognised: teacher {by_teacher:.3f}, student in one step {by_student:.3f}")
    assert by_teacher >= 0.9
    assert by_student >= 0.9


@pytest.mark.slow
def test_the_same_noise_becomes_whatever_digit_is_asked_for(by_class, classifier):
    _, student = by_class
    noise = np.random.default_rng(6).normal(size=(20, 64)).astype("f4")
    asked = np.repeat(np.arange(10), 20)
    samples = student.sample(x0=np.tile(noise, (10, 1)), condition=asked)
    assert classifier.score(samples, asked) >= 0.9
    # Nor is it ten pictures: within a class, samples differ as images of that class do.
    spread = samples.reshape(10, 20, 64).std(axis=1).mean()
    assert 0.5 < spread / digit_spread() < 1.5


def digit_spread() -> float:
    images, labels = datasets.digits()
    return float(np.mean([images[labels == digit].std(axis=0).mean() for digit in range(10)]))


# --- continuous vectors ---------------------------------------------------------------------------


def mean_of(c):
    """A mean that is not linear in the condition, for NumPy and torch alike."""
    sin, stack = (torch.sin, torch.stack) if isinstance(c, torch.Tensor) else (np.sin, np.stack)
    return stack([2.0 * sin(2.0 * c[:, 0]), c[:, 0] - 2.0 * c[:, 1] ** 2], -1)


def gaussian_field(t, x, c):
    """The exact field from N(0, I) to N(mean_of(c), COV): m + (t C - (1 - t) I) S_t^-1 (x - t m)."""
    eye, cov = torch.eye(2, dtype=x.dtype), torch.tensor(COV, dtype=x.dtype)
    t = t[:, None]
    mean = mean_of(c)
    spread = t[..., None] ** 2 * cov + (1 - t[..., None]) ** 2 * eye
    growth = t[..., None] * cov - (1 - t[..., None]) * eye
    return mean + (growth @ torch.linalg.solve(spread, (x - t * mean)[..., None]))[..., 0]


@pytest.fixture(scope="module")
def by_vector():
    teacher = FlowTeacher.from_torch(gaussian_field, event_shape=(2,), condition_dim=2, condition_name="c")
    pool = np.random.default_rng(0).uniform(-1.0, 1.0, size=(1_024, 2)).astype("f4")
    student = KoopmanDistiller(
        observables=16,
        width=64,
        depth=2,
        steps=1_000,
        trajectories=Trajectories(count=2_048, path_steps=8),
        seed=0,
    ).fit(teacher, condition=pool, progress=False)
    return teacher, student


@pytest.mark.parametrize("c", [(0.0, 0.0), (0.7, -0.35), (-0.55, 0.8)])
def test_samples_have_the_mean_and_covariance_of_an_unseen_condition(by_vector, c):
    _, student = by_vector
    condition = np.tile(np.float32(c), (4_000, 1))
    samples = student.sample(4_000, condition=condition, seed=2).astype("f8")
    # A mean of 4,000 samples errs by about 0.014.
    np.testing.assert_allclose(samples.mean(axis=0), mean_of(condition[:1])[0], atol=0.08)
    np.testing.assert_allclose(np.cov(samples.T), COV, atol=0.08)


def test_each_sample_is_where_the_flow_of_its_condition_ends(by_vector):
    """Unseen conditions, a different one for each sample: x1 = m(c) + C^(1/2) x0."""
    teacher, student = by_vector
    random = np.random.default_rng(3)
    c = random.uniform(-0.9, 0.9, size=(500, 2)).astype("f4")
    noise = random.normal(size=(500, 2)).astype("f4")
    exact = mean_of(c) + noise @ np.real(sqrtm(COV))
    scale = np.sqrt(exact.var(axis=0).sum())

    def error(samples, target, unit):
        return np.sqrt(((samples - target) ** 2).sum(axis=1).mean()) / unit

    np.testing.assert_allclose(teacher.sample(x0=noise, condition=c), exact, atol=1e-3)
    assert error(student.sample(x0=noise, condition=c), exact, scale) < 0.05
    assert error(student.invert(exact.astype("f4"), condition=c), noise, np.sqrt(2.0)) < 0.1
    middle = student.sample_path(noise, times=[0.5], condition=c)[0]
    assert error(middle, teacher.trajectory(noise, times=[0.0, 0.5], condition=c)[1], scale) < 0.05
