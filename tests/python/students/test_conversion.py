"""Bases, decoders and conversions from Python."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from koopflow import KoopmanDistiller
from koopflow.exceptions import ArgumentError

NOISE = np.random.default_rng(11).normal(size=(64, 2))


def fitted(teacher, **options):
    options = {"observables": 8, "width": 16, "steps": 60, "trajectories": 256, "dtype": "float64", **options}
    return KoopmanDistiller().set_params(**options).fit(teacher, progress=False)


def same(a, b, tolerance):
    times = [0.0, 0.4, 1.0]
    np.testing.assert_allclose(
        b.sample_path(NOISE, times=times), a.sample_path(NOISE, times=times), atol=tolerance
    )
    np.testing.assert_allclose(b.invert(NOISE), a.invert(NOISE), atol=tolerance)


@pytest.mark.parametrize("decoder", ["slice", "linear", "network"])
def test_a_dense_student_becomes_spectral(gaussian, decoder, tmp_path):
    dense = fitted(
        gaussian,
        generator="dense",
        architecture__stability="bounded",
        architecture__decoder=decoder,
        learning_rate=0.02,
    )
    spectral = dense.to_spectral()
    assert spectral.generator == "spectral"
    assert dense.generator == "dense"
    assert spectral.config_["generator"] == "spectral"
    condition = spectral.conversion_["condition_number"]
    assert condition >= 1
    same(dense, spectral, 1e-10 * condition)
    ours, theirs = spectral.eigenvalues(), np.linalg.eigvals(dense.generator_matrix())
    for value in theirs:
        assert np.abs(ours - value).min() < 1e-9
    spectral.save(tmp_path / "spectral.safetensors")
    again = KoopmanDistiller.load(tmp_path / "spectral.safetensors")
    assert again.conversion_ == spectral.conversion_
    same(spectral, again, 0)
    same(dense, again.to_dense(), 1e-10 * condition)


def test_a_spectral_student_becomes_dense(gaussian):
    spectral = fitted(gaussian)
    dense = spectral.to_dense()
    assert dense.generator == "dense"
    assert dense.conversion_ == {}
    np.testing.assert_allclose(dense.generator_matrix(), spectral.generator_matrix(), atol=1e-14)
    same(spectral, dense, 1e-10)
    with pytest.raises(ArgumentError, match="generator"):
        spectral.to_spectral()
    with pytest.raises(ArgumentError, match="generator"):
        dense.to_dense()


@pytest.mark.parametrize("basis", ["fourier", "polynomial"])
def test_other_bases_follow_the_same_algebra(gaussian, basis):
    student = fitted(gaussian, basis=basis, observables=None, architecture__degree=3)
    assert student.config_["observables"] == (64 if basis == "fourier" else 16)
    g = student.encode(0.0, NOISE)
    moved = g @ expm(student.generator_matrix())
    np.testing.assert_allclose(moved[:, 2:4], student.sample(x0=NOISE), atol=1e-9)


def test_stable_generators_stay_in_bounds(gaussian):
    for stability, bound in [("dissipative", 1e-10), ("bounded", 8.0)]:
        student = fitted(gaussian, generator="dense", architecture__stability=stability, learning_rate=0.05)
        assert student.eigenvalues().real.max() <= bound


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("degree", {"architecture__degree": 1}),
        ("basis", {"basis": "wavelet"}),
        ("stability", {"architecture__stability": "bounded"}),
        ("observables", {"basis": "polynomial", "observables": 5}),
        ("readout", {"architecture__decoder": "mean"}),
    ],
)
def test_bad_options_are_named(gaussian, name, options):
    with pytest.raises(ArgumentError, match=name):
        fitted(gaussian, **options)
