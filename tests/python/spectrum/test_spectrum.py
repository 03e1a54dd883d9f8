"""Spectra from Python: identities by NumPy, a flow whose spectrum is known, and what is done with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from koopflow import Architecture, FlowTeacher, KoopmanDistiller, Training, _core
from koopflow.analysis import compare_spectra, find_directions, measure_signatures, permutation_test
from koopflow.exceptions import ArgumentError, ShapeError

NOISE = np.random.default_rng(5).normal(size=(40, 2))
SMALL = {"width": 16, "depth": 2, "steps": 80, "trajectories": 256, "dtype": "float64"}


@pytest.fixture(scope="module", params=["spectral", "dense", "linear", "network"])
def fitted(request, gaussian):
    decoder = request.param if request.param in ("linear", "network") else "slice"
    generator = "dense" if request.param == "dense" else "spectral"
    student = KoopmanDistiller(
        generator=generator, architecture=Architecture(decoder=decoder), observables=9, seed=2, **SMALL
    )
    return student.fit(gaussian, progress=False)


@pytest.fixture(scope="module")
def spec(student, gaussian):
    return student.spectrum(gaussian)


def test_eigenfunctions_and_modes_solve_the_eigenvalue_problem(fitted):
    spec = fitted.spectrum()
    generator = fitted.generator_matrix()
    np.testing.assert_allclose(generator @ spec.weights, spec.weights * spec.eigenvalues, atol=1e-9)
    own = np.linalg.eigvals(generator)
    for value in spec.eigenvalues:
        assert np.abs(own - value).min() < 1e-6
    # Conjugates stand side by side, the positive frequency first.
    turning = np.flatnonzero(spec.frequency > 0)
    np.testing.assert_array_equal(spec.eigenvalues[turning + 1], spec.eigenvalues[turning].conj())
    assert spec.condition_number >= 1.0
    assert not spec.nearly_defective
    assert np.all(np.diff(spec.energy) <= 1e-12)
    assert spec.energy.sum() == pytest.approx(1.0)


def test_contributions_add_up_to_the_sample(fitted):
    spec = fitted.spectrum()
    if fitted.architecture.decoder == "network":
        with pytest.raises(ArgumentError, match="decoder"):
            spec.contributions(NOISE)
        return
    for t in (0.3, 1.0):
        parts = spec.contributions(NOISE, t=t).sum(axis=1)
        assert np.abs(parts.imag).max() < 1e-10
        expected = fitted.sample_path(NOISE, times=[t])[0]
        np.testing.assert_allclose(spec.base(NOISE, t=t) + parts.real, expected, atol=1e-9)


def test_modes_are_what_eigenfunctions_put_into_the_state(fitted):
    """A unit of Re psi_k, put into g by the spectral projector, moves the readout by the mode."""
    spec = fitted.spectrum()
    assert spec.modes.shape == (len(spec), 2)
    np.testing.assert_allclose(spec.mode_rates, spec.eigenvalues[:, None] * spec.modes, atol=1e-10)
    if fitted.architecture.decoder != "slice":
        return
    rows = np.linalg.pinv(np.column_stack([spec.weights, _rest(fitted, spec)]))[: len(spec)]
    np.testing.assert_allclose(spec.modes, rows[:, 2:4], atol=1e-7)


def _rest(student, spec):
    """A basis of the generalised null space of L, which completes the eigenvectors."""
    power = np.linalg.matrix_power(student.generator_matrix(), 3)
    return np.linalg.svd(power)[2][len(spec) - len(power) :].T


def test_sampling_with_all_modes_is_sampling_and_with_some_is_not(fitted):
    whole = fitted.sample(x0=NOISE)
    np.testing.assert_allclose(fitted.sample(x0=NOISE, modes=slice(None)), whole, atol=1e-10)
    spec = fitted.spectrum()
    part = fitted.sample(x0=NOISE, modes=spec[:3])
    assert part.dtype == whole.dtype
    assert np.abs(part - whole).max() > 1e-4
    np.testing.assert_array_equal(part, fitted.sample(x0=NOISE, modes=spec[:3].indices))
    mask = np.zeros(len(spec), dtype=bool)
    mask[spec[:3].indices] = True
    np.testing.assert_array_equal(part, fitted.sample(x0=NOISE, modes=mask))
    path = fitted.sample_path(NOISE, times=[0.5, 1.0], modes=spec[:3])
    np.testing.assert_allclose(path[1], part, atol=1e-12)


def test_truncation_leaves_the_others_where_they_are(fitted):
    """By SciPy's exponential of a generator whose other modes have eigenvalue 0."""
    spec = fitted.spectrum()
    keep = spec.select(count=3)
    gone = np.setdiff1d(spec.indices, keep.indices)
    weights, values = spec.weights, spec.eigenvalues
    # The projector needs left eigenvectors of L, not a pseudo-inverse: those of L^T, paired and scaled.
    own, vectors = np.linalg.eig(fitted.generator_matrix().T)
    still = np.zeros_like(fitted.generator_matrix(), dtype=complex)
    for k in gone:
        row = vectors[:, np.abs(own - values[k]).argmin()]
        still += values[k] * np.outer(weights[:, k], row) / (row @ weights[:, k])
    moved = fitted.encode(0.0, NOISE) @ expm(fitted.generator_matrix() - still)
    assert np.abs(moved.imag).max() < 1e-8
    np.testing.assert_allclose(fitted.sample(x0=NOISE, modes=keep), fitted.readout(moved.real), atol=1e-8)


def test_selections(spec):
    assert len(spec[3]) == 1
    assert len(spec[:5]) == 5
    assert len(spec[spec.growth < 0]) == int((spec.growth < 0).sum())
    np.testing.assert_array_equal(spec[[4, 2]].indices, [4, 2])
    np.testing.assert_array_equal(spec[2:6][[0, 1]].indices, spec.indices[2:4])
    assert len(spec[-1:]) == 1
    assert len(spec[[]]) == 0
    with pytest.raises(IndexError):
        spec[len(spec)]
    with pytest.raises(ShapeError, match="modes"):
        spec[np.ones(3, dtype=bool)]
    with pytest.raises(ArgumentError, match="modes"):
        spec[[0.5]]
    most = spec.select(energy=0.9)
    assert most.energy.sum() >= 0.9
    slow = spec.select(frequency=(0.0, 2.0), growth=(-10.0, 0.0))
    assert np.all((np.abs(slow.frequency) < 2.0) & (slow.growth < 0.0))
    # No pair is parted.
    for count in range(1, len(spec) + 1):
        chosen = spec.select(count=count)
        assert set(chosen.eigenvalues) == set(chosen.eigenvalues.conj())
        assert count <= len(chosen) <= count + 1
    for options in ({"count": 0}, {"count": 99}, {"energy": 1.5}):
        with pytest.raises(ArgumentError):
            spec.select(**options)


def test_places_are_those_by_energy_whatever_the_order(student, gaussian):
    spec = student.spectrum(gaussian, sort="residual")
    by_energy = student.spectrum(gaussian)
    np.testing.assert_array_equal(by_energy.eigenvalues[spec.indices], spec.eigenvalues)
    with pytest.raises(ArgumentError, match="sort"):
        student.spectrum(sort="size")


LINEAR = torch.tensor([[-0.5, 0.3], [0.0, 0.4]], dtype=torch.float64)


@pytest.fixture(scope="module")
def linear_flow():
    """dx/dt = x A, Gaussian at every time: polynomial eigenvalues are sums of those of A, -0.5 and 0.4."""

    def velocity(t, x):
        return x @ LINEAR.to(x.dtype)

    return FlowTeacher.from_torch(velocity, event_shape=(2,), convention="torchcfm", dtype="float64")


def test_a_known_spectrum_is_recovered(linear_flow):
    student = KoopmanDistiller(
        training=Training(method="closed_form"),
        basis="polynomial",
        architecture=Architecture(degree=2),
        generator="dense",
        dtype="float64",
    ).fit(linear_flow, progress=False)
    spec = student.spectrum()
    for exact in (-0.5, 0.4, -1.0, -0.1, 0.8):
        assert np.abs(spec.eigenvalues - exact).min() < 1e-2
    # t, t² and t x make Jordan blocks, so that single modes mean nothing, and the table says it.
    assert spec.nearly_defective
    assert "nearly defective" in spec.summary()
    assert spec.caveat


def test_eigenfunctions_follow_a_flow_with_a_known_spectrum(linear_flow):
    """psi(t, x_t) = e^{lambda t} psi(0, x_0) for the eigenfunctions of states and their products."""
    student = KoopmanDistiller(
        training=Training(method="closed_form"),
        basis="polynomial",
        architecture=Architecture(degree=2),
        generator="dense",
        dtype="float64",
    ).fit(linear_flow, progress=False)
    spec = student.spectrum(linear_flow)
    times = [0.0, 0.3, 1.0]
    path = np.stack([NOISE @ expm(t * LINEAR.numpy()) for t in times])
    for exact in (-1.0, -0.1, 0.8):
        mode = spec[int(np.abs(spec.eigenvalues - exact).argmin())]
        psi = np.stack([mode.eigenfunctions(t, x)[:, 0] for t, x in zip(times, path, strict=True)])
        for index, t in enumerate(times):
            np.testing.assert_allclose(
                psi[index], np.exp(exact * t) * psi[0], atol=2e-2 * np.abs(psi[0]).max()
            )
        assert mode.residuals[0] < 0.05


def test_what_is_said_about_the_flow(student, gaussian):
    followed = student.spectrum(gaussian)
    assert followed.residuals.shape == (len(followed),)
    assert 0.0 <= followed.trusted_energy <= 1.0
    good = followed.select(residual=0.5)
    assert not good.spurious.any()
    assert "follow the teacher's flow" in good.verdict
    assert good.caveat is None
    bad = followed[followed.spurious]
    assert len(bad) > 0
    assert "a basis of the student, not of the teacher's flow" in bad.verdict
    assert bad.caveat
    assert "spurious" in bad.summary()
    assert repr(bad).startswith("Spectrum(")


def test_a_loaded_student_has_no_teacher_to_check_against(student, tmp_path, gaussian):
    student.save(tmp_path / "student.safetensors")
    loaded = KoopmanDistiller.load(tmp_path / "student.safetensors")
    spec = loaded.spectrum()
    assert spec.residuals is None
    assert spec.spurious is None
    assert spec.trusted_energy is None
    assert "not checked" in spec.summary()
    with pytest.raises(ArgumentError, match="residual"):
        spec.select(residual=0.5)
    with pytest.raises(ArgumentError, match="sort"):
        loaded.spectrum(sort="residual")
    np.testing.assert_allclose(loaded.spectrum(gaussian).residuals, student.spectrum().residuals)


def test_wrong_teachers_and_foreign_selections_are_refused(student, fitted):
    with pytest.raises(TypeError, match="teacher"):
        student.spectrum(lambda t, x: x)
    with pytest.raises(ShapeError, match="teacher"):
        student.spectrum(FlowTeacher.gaussian(np.zeros(3), np.eye(3)))
    with pytest.raises(ArgumentError, match="another student"):
        student.sample(x0=NOISE, modes=fitted.spectrum()[:2])
    with pytest.raises(ArgumentError, match="steps"):
        student.sample(x0=NOISE, modes=[0], steps=2)


def test_energy_grows_from_nothing_and_bands_fill_up(student, spec):
    energy = spec.energy_over_time([0.0, 0.5, 1.0])
    assert np.all(energy[0] == 0.0)
    np.testing.assert_allclose(energy[2], spec.energy)
    # By hand: mean square of the contributions of the same noise.
    same = student.spectrum(n=300, seed=1)
    moved = (np.abs(same.contributions(_core.normal((300, 2), 1))) ** 2).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(moved / moved.sum(), same.energy, rtol=1e-6)
    edges = [0.5, 3.0, np.inf]
    bands = spec.bands(NOISE.astype("f4"), edges=edges, times=[0.5, 1.0])
    assert bands.shape == (3, 2, 40, 2)
    np.testing.assert_allclose(bands[2, 1], student.sample(x0=NOISE.astype("f4")), atol=1e-5)
    counts, errors = spec.truncation_curve(NOISE.astype("f4"))
    assert counts[0] == 0
    assert counts[-1] == len(spec)
    assert errors[0] == pytest.approx(1.0)
    assert errors[-1] < 1e-5
    nothing = spec[:0].truncation_curve(NOISE.astype("f4"))
    assert [values.tolist() for values in nothing] == [[0], [1.0]]
    report = spec.stability()
    assert report.growing + report.decaying + report.neutral == pytest.approx(1.0)
    assert report.largest_growth == spec.growth.max()
    assert np.all(spec.lifetime[spec.growth < 0] == -1.0 / spec.growth[spec.growth < 0])
    assert np.all(np.isinf(spec.lifetime[spec.growth >= 0]))


def test_edits_change_what_they_say(student, spec):
    x0 = NOISE.astype("f4")
    x = student.sample(x0=x0)
    # Twice a mode's eigenfunction is its contribution, and its conjugate's, once more.
    place = int(np.flatnonzero(spec.frequency > 0)[0])
    own = spec.contributions(x0)[:, place]
    np.testing.assert_allclose(student.edit(x0=x0, modes=[place], scale=2.0) - x, 2.0 * own.real, atol=1e-4)
    np.testing.assert_allclose(
        student.edit(x0=x0, modes=[place], rotate=np.pi / 2) - x, 2.0 * ((1j - 1.0) * own).real, atol=1e-4
    )
    others = np.setdiff1d(np.arange(len(spec)), [place, place + 1])
    np.testing.assert_allclose(
        student.edit(x0=x0, modes=[place], scale=0.0), student.sample(x0=x0, modes=others), atol=1e-5
    )
    # Additive edits do not depend on when.
    early = student.edit(x0=x0, modes=[place], shift=0.5)
    growth = np.exp(1j * spec.frequency[place] * 0.7)
    late = student.edit(x0=x0, modes=[place], shift=0.5 * growth, at=0.7)
    np.testing.assert_allclose(early, late, atol=1e-4)
    for options in ({"scale": 1.0}, {"shift": 0.0}):
        for at in (0.0, 0.5, 1.0):
            np.testing.assert_allclose(student.edit(x, modes=[place], at=at, **options), x, atol=1e-6)
    torch_x = torch.from_numpy(x)
    assert isinstance(student.edit(torch_x, modes=[place], scale=2.0), torch.Tensor)
    projected = student.edit(x, modes=[place], scale=1.2, at=0.5, project=True)
    assert np.abs(projected - x).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "scale, shift or rotate"),
        ({"scale": 2.0, "x0": NOISE}, "one of x and x0"),
        ({"scale": 2.0, "at": 2.0}, "at"),
        ({"scale": 2.0, "project": True}, "at"),
        ({"rotate": 1.0}, "rotate"),
        ({"scale": float("nan")}, "scale: expected finite"),
    ],
)
def test_impossible_edits_are_refused(student, options, message):
    with pytest.raises(ValueError, match=message):
        student.edit(NOISE, **options)


def test_directions_move_what_they_read(student, spec):
    random = np.random.default_rng(1)
    x = student.sample(x0=random.normal(size=(400, 2)).astype("f4"))
    labels = np.where(x[:, 0] > 1.0, "right", "left")
    directions = find_directions(spec, x, labels=labels, at=1.0)
    assert directions.names == ["left", "right"]
    assert np.all(directions.r2 > 0.4)
    sweep = directions.sweep(x, "right", [-1.0, 0.0, 1.0])
    assert sweep.shape == (3, 400, 2)
    np.testing.assert_allclose(sweep[1], x, atol=1e-6)
    assert np.all(sweep[2, :, 0] > x[:, 0])
    added = np.broadcast_to(directions.image("right"), x.shape)
    np.testing.assert_allclose(sweep[2] - x, added, atol=1e-4)
    # A score that is linear in the state rises by the strength.
    scores = x @ np.array([0.5, -1.0])
    for at in (0.0, 1.0):
        scored = find_directions(spec, x, scores=scores, at=at)
        assert scored.r2[0] > 0.9
        risen = (scored.edit(x, strength=0.3) - x) @ np.array([0.5, -1.0])
        np.testing.assert_allclose(risen, 0.3, rtol=0.1)
    again = directions.edit(x, "right", 0.5, project=True)
    assert np.all(again[:, 0] > x[:, 0])
    shuffled = find_directions(spec, x, labels=random.permutation(labels), at=1.0)
    assert np.all(shuffled.r2 < 0.1)
    from_noise = directions.edit(x0=NOISE.astype("f4"), name="right", strength=np.linspace(0, 1, 40))
    assert from_noise.shape == (40, 2)


def test_directions_need_labels_that_fit(student, spec):
    x = student.sample(50)
    for options in ({}, {"labels": np.arange(50), "scores": np.arange(50)}, {"labels": [0, 1]}):
        with pytest.raises(ValueError, match="labels|scores"):
            find_directions(spec, x, **options)
    with pytest.raises(ArgumentError, match="name"):
        find_directions(spec, x, labels=x[:, 0] > 1).edit(x, "nobody")


def test_signatures_tell_real_classes_from_made_up_ones(student, spec):
    random = np.random.default_rng(2)
    x = student.sample(x0=random.normal(size=(300, 2)).astype("f4"))
    labels = (x[:, 1] > -2.0).astype(int)
    real = measure_signatures(spec, x[:200], labels[:200])
    assert real.mean.shape == real.spread.shape == real.energy.shape == (2, 3, len(spec))
    np.testing.assert_allclose(real.energy, real.mean**2 + real.spread**2, rtol=1e-9)
    assert permutation_test(real, 99)[0, 1] == 0.01
    assert real.accuracy(x[200:], labels[200:]) > 0.7
    made_up = measure_signatures(spec, x, random.integers(0, 2, 300))
    assert permutation_test(made_up, 99)[0, 1] > 0.05
    assert made_up.distances[0, 1] < 0.5 * real.distances[0, 1]
    with pytest.raises(ArgumentError, match="labels"):
        measure_signatures(spec, x, np.zeros(300))
    with pytest.raises(ShapeError, match="labels"):
        measure_signatures(spec, x, labels[:10])


def test_a_spectrum_is_its_own_best_match(student, spec, gaussian):
    same = compare_spectra(spec, student.spectrum(gaussian, sort="frequency"))
    np.testing.assert_allclose(same.distance, 0.0, atol=1e-12)
    np.testing.assert_allclose(same.correlation, 1.0)
    assert same.reproducible_energy == pytest.approx(1.0)
    dense = compare_spectra(spec, student.to_dense().spectrum())
    assert dense.reproducible.sum() >= len(spec) - 1
    other = KoopmanDistiller(observables=6, seed=9, **SMALL).fit(gaussian, progress=False)
    against = compare_spectra(spec, other.spectrum())
    assert len(against.first) == 6
    assert not against.reproducible.all()
    assert "reproducible" in against.summary()
    assert "SpectrumComparison" in repr(against)
    with pytest.raises(ShapeError, match="other"):
        third = FlowTeacher.gaussian(np.zeros(3), np.eye(3))
        compare_spectra(spec, KoopmanDistiller(observables=4, **SMALL).fit(third, progress=False).spectrum())


def test_inversion_is_polished(student):
    x = student.sample(x0=NOISE.astype("f4"))
    plain = student.invert(x, residuals=True)
    np.testing.assert_allclose(plain[0], student.invert(x), atol=1e-7)
    np.testing.assert_allclose(plain[1], np.linalg.norm(student.sample(x0=plain[0]) - x, axis=1), atol=1e-5)
    newton = student.invert(x, polish=8, residuals=True)
    assert newton[1].max() < 1e-5
    np.testing.assert_allclose(newton[0], NOISE, atol=1e-3)
    fixed = student.invert(x, polish=3, method="fixed_point", damping=0.5, residuals=True)
    assert np.all(fixed[1] <= plain[1] + 1e-6)
    for options in ({"method": "magic"}, {"damping": -1.0}, {"polish": -1}):
        with pytest.raises(ArgumentError):
            student.invert(x, **{"polish": 1, "residuals": True, **options})


def test_interpolation_ends_at_the_data_and_keeps_the_norm(student):
    x = student.sample(x0=NOISE.astype("f4"))
    path = student.interpolate(x[:20], x[20:], weights=[0.0, 0.5, 1.0], polish=8)
    np.testing.assert_allclose(path[0], x[:20], atol=1e-3)
    np.testing.assert_allclose(path[2], x[20:], atol=1e-3)
    middle = np.linalg.norm(student.invert(path[1], polish=8), axis=1)
    ends = np.linalg.norm(NOISE, axis=1)
    np.testing.assert_allclose(middle, (ends[:20] + ends[20:]) / 2, rtol=0.02, atol=0.02)
    with pytest.raises(ShapeError, match="b"):
        student.interpolate(x[:3], x[:2])


def test_classes_are_averaged_over_and_vectors_asked_for():
    data = np.random.default_rng(0).normal(size=(600, 2)).astype("f4")
    labels = np.arange(600) % 3
    teacher = FlowTeacher(event_shape=(2,), num_classes=3, width=16, depth=2, steps=30)
    teacher.fit(data + 3.0 * labels[:, None], condition=labels, progress=False)
    student = KoopmanDistiller(observables=6, **SMALL).fit(teacher, progress=False)
    spec = student.spectrum()
    assert spec.residuals is not None
    x0 = NOISE.astype("f4")
    condition = np.zeros(40, dtype=int)
    whole = student.sample(x0=x0, condition=condition)
    np.testing.assert_allclose(student.sample(x0=x0, condition=condition, modes=spec), whole, atol=1e-5)
    parts = spec.base(x0, condition=condition) + spec.contributions(x0, condition=condition).sum(axis=1).real
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    assert student.edit(whole, modes=spec[:2], scale=1.1, condition=condition).shape == whole.shape


def test_images_of_one_channel_go_through_all_of_it():
    """A [1, 4, 4] event: shapes follow it everywhere."""
    random = np.random.default_rng(3)
    teacher = FlowTeacher.gaussian(random.normal(size=(1, 4, 4)), np.eye(16) * 0.3)
    student = KoopmanDistiller(observables=8, width=16, depth=1, steps=30, trajectories=64)
    student.fit(teacher, progress=False)
    spec = student.spectrum()
    x0 = random.normal(size=(24, 1, 4, 4)).astype("f4")
    x = student.sample(x0=x0)
    labels = np.arange(24) % 2
    assert spec.modes.shape == spec.weight_images.shape == (8, 1, 4, 4)
    assert spec.contributions(x0).shape == (24, 8, 1, 4, 4)
    assert student.edit(x, modes=[0], scale=0.5).shape == x.shape
    assert find_directions(spec, x, labels=labels).sweep(x, 1, [0.0, 1.0]).shape == (2, 24, 1, 4, 4)
    assert measure_signatures(spec, x, labels).classify(x).shape == (24,)
    assert student.invert(x, polish=2, residuals=True)[0].shape == x.shape
    assert student.interpolate(x[:2], x[2:4]).shape == (5, 2, 1, 4, 4)
    assert spec.bands(x0, edges=[1.0, 9.0]).shape == (2, 4, 24, 1, 4, 4)
