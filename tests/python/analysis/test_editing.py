"""Editing real digits: class directions against blending pixels, exact inversion, signatures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from koopflow import FlowTeacher, KoopmanDistiller, datasets
from koopflow.analysis import find_directions, measure_signatures, permutation_test

STRENGTHS = np.linspace(0.0, 1.5, 7)


@pytest.fixture(scope="module")
def digits():
    images, labels = datasets.digits()
    order = np.random.default_rng(0).permutation(len(images))
    return images[order].reshape(len(images), -1), labels[order]


@pytest.fixture(scope="module")
def student(digits):
    teacher = FlowTeacher(event_shape=(64,), steps=800, width=256, seed=0)
    teacher.fit(digits[0][:1300], progress=False)
    student = KoopmanDistiller(steps=500, width=128, depth=2, trajectories=2048, seed=0)
    return student.fit(teacher, progress=False)


@pytest.fixture(scope="module")
def spectrum(student):
    return student.spectrum()


@pytest.mark.slow
def test_directions_of_classes_edit_held_out_digits(digits, spectrum):
    images, labels = digits
    train, train_labels, held_out = images[:1300], labels[:1300], images[1300:]
    classifier = LogisticRegression(C=0.1, max_iter=2000).fit(train, train_labels)
    directions = find_directions(spectrum, train, labels=train_labels, at=0.5)
    assert np.median(directions.r2) > 0.4
    ours, pixels = np.zeros((10, 7, 2)), np.zeros((10, 7, 2))
    for target in range(10):
        x = held_out[labels[1300:] != target][:60]
        mean = train[train_labels == target].mean(axis=0)
        across = mean - train.mean(axis=0)
        across /= np.linalg.norm(across)
        for step, strength in enumerate(STRENGTHS):
            edited = directions.edit(x, target, strength, project=True)
            for rows, image in ((ours, edited), (pixels, x + step / 6 * (mean - x))):
                rest = (image - x) - np.outer((image - x) @ across, across)
                probability = classifier.predict_proba(image)[:, target].mean()
                rows[target, step] = probability, np.sqrt((rest**2).sum(axis=1).mean())
    probability, rest = ours.mean(axis=0).T
    assert np.all(np.diff(probability) > 0.0)
    assert probability[-1] > probability[0] + 0.4
    # At the probability of the middle strength, and of the last.
    for step in (3, 6):
        assert rest[step] < np.interp(probability[step], *pixels.mean(axis=0).T)


@pytest.mark.slow
def test_held_out_digits_are_inverted_exactly(digits, student):
    x = digits[0][1300:1400]
    before = student.invert(x, residuals=True)[1]
    noise, after = student.invert(x, polish=12, residuals=True)
    size = np.linalg.norm(x, axis=1)
    assert np.all(after <= before)
    assert np.sqrt((after**2).mean() / (size**2).mean()) < 0.02
    np.testing.assert_allclose(np.linalg.norm(student.sample(x0=noise) - x, axis=1), after, atol=1e-3)


@pytest.mark.slow
def test_signatures_separate_classes(digits, spectrum):
    images, labels = digits
    signatures = measure_signatures(spectrum, images[:1300], labels[:1300])
    p = permutation_test(signatures, 99)[np.triu_indices(10, 1)]
    assert np.median(p) == 0.01
    assert signatures.accuracy(images[1300:], labels[1300:]) > 0.3
