"""Classifier-free guidance, on class-conditional Gaussians, whose guided velocity is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, KoopmanDistiller, Training
from koopflow.exceptions import ArgumentError, DtypeError, NotFittedError, ShapeError, TeacherError

# Of two classes, and of "no class".
MEANS = np.array([[2.0, 0.0], [-2.0, 1.0], [0.0, 0.5]])
VARIANCES = np.array([0.25, 0.25, 1.0])


def velocity(t, x, y):
    """From N(0, I) to N(MEANS[y], VARIANCES[y] I) under the linear path; for arrays and tensors."""
    means, variances = (torch.tensor(a, dtype=x.dtype) if isinstance(x, torch.Tensor) else a for a in TABLES)
    t, mean, variance = t[:, None], means[y], variances[y][:, None]
    rate = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)
    return mean + rate * (x - t * mean)


TABLES = (MEANS, VARIANCES)


@pytest.fixture(scope="module")
def teacher():
    return FlowTeacher.from_torch(velocity, (2,), num_classes=2, dtype="float64")


def batch(size=8):
    rng = np.random.default_rng(0)
    return rng.uniform(size=size), rng.normal(size=(size, 2)), rng.integers(0, 2, size=size)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 4.0, -1.0])
def test_the_velocity_is_the_known_one(teacher, scale):
    t, x, y = batch()
    none = velocity(t, x, np.full(len(y), 2))
    expected = none + scale * (velocity(t, x, y) - none)
    np.testing.assert_allclose(teacher.guided(scale).velocity(t, x, y), expected, rtol=1e-12, atol=1e-12)


def test_the_model_is_asked_once_and_counted_twice():
    sizes = []

    def model(t, x, y):
        sizes.append(len(x))
        return velocity(t, x, y)

    guided = FlowTeacher.from_torch(model, (2,), num_classes=2, dtype="float64").guided(2.0)
    before = guided.evaluations
    sizes.clear()
    t, x, y = batch()
    guided.velocity(t, x, y)
    assert (sizes, guided.evaluations - before) == ([16], 2)
    guided.sample(x0=x, condition=y, solver="euler", steps=5)
    assert guided.evaluations - before == 12


def test_densities_follow_the_guided_flow(teacher):
    """Where classes share a variance, guidance only moves the mean: to none + scale (mean - none)."""

    def shared(t, x, y):
        rate = (0.5 * t - (1 - t)) / (0.5 * t**2 + (1 - t) ** 2)
        mean = torch.tensor(MEANS, dtype=x.dtype)[y]
        return mean + rate[:, None] * (x - t[:, None] * mean)

    guided = FlowTeacher.from_torch(shared, (2,), num_classes=2, dtype="float64").guided(3.0)
    x, y = np.random.default_rng(1).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
    means = MEANS[2] + 3.0 * (MEANS[:2] - MEANS[2])
    expected = [
        multivariate_normal(means[k], 0.5 * np.eye(2)).logpdf(row) for k, row in zip(y, x, strict=True)
    ]
    for divergence in ("exact", "hutchinson"):
        log_prob = guided.log_prob(x, condition=y, rtol=1e-8, atol=1e-8, divergence=divergence)
        np.testing.assert_allclose(log_prob, expected, atol=1e-5)
    ends = guided.sample(x0=np.zeros((2, 2)), condition=np.array([0, 1]), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ends, means, atol=1e-5)


def test_vectors_have_the_null_vector_that_they_are_given():
    def model(t, x, y):
        return 3.0 * y - x

    teacher = FlowTeacher.from_torch(model, (2,), condition_dim=2, dtype="float64")
    guided = teacher.guided(2.0, null_condition=np.array([1.0, 0.0]))
    x, c = np.zeros((1, 2)), np.array([[0.5, 1.0]])
    np.testing.assert_allclose(guided.velocity(0.5, x, c), [[0.0, 6.0]])
    with pytest.raises(ArgumentError, match=r"null_condition: expected a vector \(2,\), got None"):
        teacher.guided(2.0)
    with pytest.raises(ShapeError, match=r"null_condition: expected shape \(2,\), got \(3,\)"):
        teacher.guided(2.0, null_condition=np.zeros(3))


def test_guidance_of_a_diffusion_model_is_guidance_of_its_prediction():
    def eps(z, r, y, scale=None):
        def answer(y):
            return torch.tensor(MEANS, dtype=z.dtype)[y] * r[:, None] + 0.3 * z

        none = answer(torch.full_like(y, 2))
        return answer(y) if scale is None else none + scale * (answer(y) - none)

    options = {"event_shape": (2,), "num_classes": 2, "dtype": "float64"}
    t, x, y = batch()
    outside = FlowTeacher.from_diffusion(eps, **options).guided(2.5)
    inside = FlowTeacher.from_diffusion(eps, scale=2.5, **options)
    np.testing.assert_allclose(outside.velocity(t, x, y), inside.velocity(t, x, y), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_a_guided_teacher_is_distilled(teacher):
    guided = teacher.guided(2.0)
    student = KoopmanDistiller(observables=16, width=64, depth=2, steps=400, trajectories=2048, seed=0)
    student.fit(guided, progress=False)
    noise = np.random.default_rng(2).normal(size=(300, 2)).astype("f4")
    y = np.arange(300) % 2
    gap = student.sample(x0=noise, condition=y) - guided.sample(x0=noise, condition=y)
    assert np.sqrt((gap**2).mean()) < 0.15


# --- teachers that were trained here --------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, size=4000)
    data = (MEANS[y] + 0.3 * rng.normal(size=(4000, 2))).astype("f4")
    teacher = FlowTeacher(
        (2,),
        num_classes=2,
        label_dropout=0.2,
        coupling="independent",
        width=48,
        depth=2,
        steps=1200,
        training=Training(ema_decay=0.97),
        seed=0,
    )
    return teacher.fit(data, condition=y, progress=False)


def test_a_teacher_trained_with_hidden_labels_knows_both_laws(trained):
    y = np.repeat([0, 1], 500)
    alone = trained.sample(1000, condition=y, seed=1)
    np.testing.assert_allclose([alone[y == k].mean(axis=0) for k in (0, 1)], MEANS[:2], atol=0.15)
    # Without a label, half of the samples fall to each class, whatever label was asked for.
    free = trained.guided(0.0).sample(1000, condition=np.zeros(1000, dtype=np.int64), seed=1)
    near = np.linalg.norm(free[:, None] - MEANS[:2], axis=2).argmin(axis=1)
    assert 0.4 < near.mean() < 0.6
    pushed = trained.guided(2.5).sample(1000, condition=y, seed=1)
    spread = [np.linalg.norm(sample[y == 0].mean(0) - sample[y == 1].mean(0)) for sample in (alone, pushed)]
    assert spread[1] > spread[0]


def test_a_guided_teacher_survives_a_file(trained, tmp_path):
    guided = trained.guided(2.5)
    guided.guided(1.5).save(tmp_path / "guided.safetensors")
    loaded = FlowTeacher.load(tmp_path / "guided.safetensors")
    t, x, y = batch()
    np.testing.assert_array_equal(loaded.velocity(t, x, y), guided.guided(1.5).velocity(t, x, y))
    assert repr(loaded).endswith("guided>")
    assert loaded.history_ == trained.history_


def test_training_without_dropout_is_as_before():
    data, y = np.random.default_rng(4).normal(size=(300, 2)).astype("f4"), np.arange(300) % 2
    plain = FlowTeacher((2,), num_classes=2, width=8, depth=1, steps=20).fit(
        data, condition=y, progress=False
    )
    with pytest.raises(ArgumentError, match=r"label_dropout: expected above 0 .* got 0"):
        plain.guided(2.0)
    with pytest.raises(ArgumentError, match=r"label_dropout: expected above 0"):
        plain.guided(2.0, null_condition=2)
    # Another class may stand for none.
    negative = plain.guided(2.0, null_condition=1)
    t, x, _ = batch()
    ones = np.ones(len(t), dtype=np.int64)
    np.testing.assert_allclose(negative.velocity(t, x, ones), plain.velocity(t, x, ones), atol=1e-5)
    with pytest.raises(ArgumentError, match=r"null_condition: expected a label in 0\.\.=2, got 5"):
        plain.guided(2.0, null_condition=5)
    with pytest.raises(ArgumentError, match=r"condition: expected int64 labels of shape \(1,\) from 0 to 1"):
        plain.velocity(0.5, np.zeros((1, 2)), np.array([2]))


# --- what goes wrong ------------------------------------------------------------------------------


def test_wrong_guidance_is_named(teacher, gaussian):
    with pytest.raises(ArgumentError, match="teacher: expected a conditional one for guidance"):
        gaussian.guided(2.0)
    with pytest.raises(ArgumentError, match="scale: expected a finite number, got nan"):
        teacher.guided(float("nan"))
    with pytest.raises(DtypeError, match=r"null_condition: expected an integer label"):
        teacher.guided(2.0, null_condition=0.5)
    with pytest.raises(ShapeError, match=r"null_condition: expected shape \(\), got \(2,\)"):
        teacher.guided(2.0, null_condition=np.array([2, 2]))
    with pytest.raises(TeacherError, match="guidance with null_condition 7; .*IndexError") as caught:
        teacher.guided(2.0, null_condition=7)
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(NotFittedError):
        FlowTeacher((2,), num_classes=2).guided(2.0)
    with pytest.raises(ArgumentError, match="condition"):
        teacher.guided(2.0).sample(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_dropout": 1.0, "num_classes": 2}, "label_dropout: expected 0 to below 1, got 1"),
        ({"label_dropout": -0.1, "num_classes": 2}, "label_dropout: expected 0 to below 1"),
        ({"label_dropout": 0.1}, "label_dropout: expected 0 without class labels, got 0.1"),
    ],
)
def test_wrong_dropout_is_named(options, message):
    data = np.zeros((10, 2), np.float32)
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher((2,), **options).fit(data, condition=np.zeros(10, dtype=np.int64), progress=False)
