"""What the core measures of a spectrum, computed again by NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eig

from koopflow import Architecture, FlowTeacher, KoopmanDistiller, _core
from koopflow.exceptions import ArgumentError, ShapeError

N, SEED = 48, 7
OPTIONS = {"width": 16, "depth": 2, "steps": 60, "trajectories": 256, "dtype": "float64"}


@pytest.fixture(scope="module", params=["spectral", "dense", "linear", "network"])
def fitted(request, gaussian):
    decoder = request.param if request.param in ("linear", "network") else "slice"
    generator = "dense" if request.param == "dense" else "spectral"
    student = KoopmanDistiller(
        generator=generator, architecture=Architecture(decoder=decoder), observables=9, seed=2, **OPTIONS
    )
    return student.fit(gaussian, progress=False)


@pytest.fixture(scope="module")
def spec(fitted, gaussian):
    return fitted.spectrum(gaussian, n=N, seed=SEED)


def noise(event=(2,)):
    return _core.normal((N, *event), SEED)


def decoder_of(student):
    """C of x = g C by differences of a linear readout; the slice, for what a network decodes."""
    m = student.n_observables_
    if student.architecture.decoder == "network":
        return np.eye(m)[:, 2:4]
    still = np.eye(m)[:1]
    return student.readout(still + np.vstack([0 * still, np.eye(m)[1:]])) - student.readout(still)


def left_eigenvectors(matrix, spec):
    """Rows q with q L = lambda q and q w = 1, by SciPy."""
    values, vectors = eig(matrix.T)
    rows = vectors.T[[np.abs(values - value).argmin() for value in spec.eigenvalues]]
    return rows / (rows * spec.weights.T).sum(axis=1, keepdims=True)


def moved(spec, rows, power, t):
    """Mean square over noise of psi (e^{lambda t} - 1) v."""
    return power * (np.abs(rows) ** 2).sum(axis=1) * np.abs(np.exp(spec.eigenvalues * t) - 1.0) ** 2


def test_modes_are_left_eigenvectors_read_by_the_decoder(fitted, spec):
    rows = left_eigenvectors(fitted.generator_matrix(), spec)
    modes = rows @ decoder_of(fitted)
    np.testing.assert_allclose(spec.modes, modes, atol=1e-6 * np.abs(modes).max())
    np.testing.assert_allclose(spec.mode_rates, spec.eigenvalues[:, None] * modes, atol=1e-6)
    np.testing.assert_allclose(
        spec.displacements, (np.exp(spec.eigenvalues) - 1.0)[:, None] * modes, atol=1e-6
    )
    numbers = np.linalg.norm(spec.weights, axis=0) * np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(spec.condition_numbers, numbers, rtol=1e-6)


def test_energies_are_mean_squares_over_the_noise(fitted, spec):
    psi = fitted.encode(0.0, noise()) @ spec.weights
    power = (np.abs(psi) ** 2).mean(axis=0)
    np.testing.assert_allclose(spec.amplitudes(noise()), psi, atol=1e-12)
    np.testing.assert_allclose(spec.power, power, rtol=1e-10)
    np.testing.assert_allclose(spec.spread, psi.std(axis=0), rtol=1e-10)
    times = [0.0, 0.3, 1.0]
    energy = np.stack([moved(spec, spec.modes, power, t) for t in times])
    energy /= energy[-1].sum()
    np.testing.assert_allclose(spec.energy_over_time(times), energy, atol=1e-8)
    np.testing.assert_allclose(spec.energy, energy[-1], atol=1e-8)
    np.testing.assert_allclose(spec[2:5].energy, energy[-1][2:5], atol=1e-8)


def test_residuals_compare_rates_along_the_teachers_paths(fitted, spec, gaussian):
    times = np.linspace(0.0, 1.0, 9)
    path = gaussian.trajectory(noise(), times=times)
    gap, scale = 0.0, 0.0
    for t, x in zip(times, path, strict=True):
        velocity = gaussian.velocity(float(t), x)
        g, tangent = fitted.encode_with_tangent(float(t), x, velocity)
        psi, rate = g @ spec.weights, tangent @ spec.weights
        gap = gap + (np.abs(rate - psi * spec.eigenvalues) ** 2).mean(axis=0)
        scale = scale + (np.abs(rate) ** 2).mean(axis=0) + psi.var(axis=0)
    np.testing.assert_allclose(spec.residuals, np.sqrt(gap / scale), rtol=1e-6)


@pytest.mark.parametrize("sort", ["energy", "frequency", "growth", "modulus", "residual"])
def test_orders_keep_pairs_side_by_side(fitted, spec, gaussian, sort):
    found = fitted.spectrum(gaussian, sort=sort, n=N, seed=SEED)
    key = {
        "energy": -found.energy,
        "frequency": np.abs(found.frequency),
        "growth": found.growth,
        "modulus": np.abs(found.eigenvalues),
        "residual": found.residuals,
    }[sort]
    assert np.all(np.diff(key) >= -1e-12)
    for place in np.flatnonzero(found.frequency > 0):
        assert found.eigenvalues[place + 1] == found.eigenvalues[place].conj()
    assert sorted(found.places) == list(range(len(spec)))
    np.testing.assert_array_equal(found.indices, np.argsort(spec.places)[found.places])


def test_a_spectrum_asks_the_fitted_student_how_it_decodes(gaussian):
    student = KoopmanDistiller(observables=6, seed=1, **OPTIONS).fit(gaussian, progress=False)
    before = student.spectrum()
    student.set_params(architecture=Architecture(decoder="network"))
    np.testing.assert_array_equal(student.spectrum().modes, before.modes)
    assert student.spectrum().contributions(noise()).shape == (N, 6, 2)


def test_selections_share_what_was_measured(spec):
    assert spec.energy is spec.energy
    assert spec[:3].core is spec.core
    rows = spec.records()
    assert [row["mode"] for row in rows] == spec.indices.tolist()
    np.testing.assert_array_equal([row["residual"] for row in rows], spec.residuals)
    assert all(type(value) in (int, float, bool) for row in rows for value in row.values())
    lines = spec.summary(rows=3).splitlines()
    assert len(lines) == 1 + 1 + 3 + 1
    assert f"{spec.growth[1]:.3f}" in lines[3]
    assert lines[-1].startswith(f"{len(spec) - 3} more, {spec.energy[3:].sum():.1%}")


def test_frames_have_a_row_a_mode(spec):
    pytest.importorskip("pandas")
    frame = spec[:4].to_frame()
    assert frame.index.tolist() == spec[:4].indices.tolist()
    np.testing.assert_array_equal(frame["energy"], spec[:4].energy)


def conditional(gaussian_data, **teacher):
    condition = teacher.pop("condition")
    field = FlowTeacher(event_shape=(2,), width=16, depth=2, steps=20, **teacher)
    field.fit(gaussian_data, condition=condition, progress=False)
    student = KoopmanDistiller(observables=6, **OPTIONS)
    return field, student.fit(field, condition=condition, progress=False)


def test_every_class_is_measured_in_turn_and_given_conditions_are_repeated():
    data = np.random.default_rng(0).normal(size=(300, 2)).astype("f4")
    teacher, student = conditional(data, num_classes=3, condition=np.arange(300) % 3)
    for given, each in ((None, np.arange(N) % 3), (np.array([2, 0]), np.resize([2, 0], N))):
        spec = student.spectrum(teacher, n=N, seed=SEED, condition=given)
        psi = student.encode(0.0, noise(), condition=each) @ spec.weights
        np.testing.assert_allclose(spec.power, (np.abs(psi) ** 2).mean(axis=0), rtol=1e-10)
        np.testing.assert_array_equal(spec.core.conditions(N, given), each)
    with pytest.raises(ArgumentError, match="condition"):
        student.spectrum(condition=np.array([3]))
    with pytest.raises(ArgumentError, match="condition: expected at least one"):
        student.spectrum(condition=np.zeros(0, dtype=int))


def test_vectors_are_asked_for():
    random = np.random.default_rng(0)
    data, vectors = random.normal(size=(200, 2)).astype("f4"), random.normal(size=(200, 3)).astype("f4")
    _, student = conditional(data, condition_dim=3, condition=vectors)
    with pytest.raises(ArgumentError, match=r"condition: expected vectors of shape \(P, 3\)"):
        student.spectrum(None, n=N)
    spec = student.spectrum(n=N, seed=SEED, condition=vectors[:5])
    each = vectors[np.arange(N) % 5]
    psi = student.encode(0.0, noise(), condition=each) @ spec.weights
    np.testing.assert_allclose(spec.power, (np.abs(psi) ** 2).mean(axis=0), rtol=1e-10)


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_counts_that_are_none_are_refused(student, n):
    with pytest.raises(ArgumentError, match="n: expected an integer of at least 1"):
        student.spectrum(n=n)


def test_the_core_refuses_what_does_not_fit(student):
    spec = student.spectrum(n=8)
    with pytest.raises(ShapeError, match="x"):
        spec.eigenfunctions(0.0, np.zeros((3, 5), dtype="f4"))
    with pytest.raises(ShapeError, match="teacher"):
        student.spectrum(FlowTeacher.gaussian(np.zeros(3), np.eye(3)), n=8)
    with pytest.raises(ArgumentError, match="times"):
        spec.energy_over_time([])
    with pytest.raises(ArgumentError, match="sort: expected 'energy'"):
        spec.core.order("size")
    with pytest.raises(ArgumentError, match="student: expected a hierarchy"):
        _core.LevelSpectrum(student._fitted())
