"""Teachers and students do not depend on the units of the data, and answer in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import Architecture, FlowTeacher, KoopmanDistiller, Objective, Training, baselines, datasets
from koopflow.exceptions import CheckpointError
from koopflow.metrics import endpoint_error

# Standard to begin with, so that it is learnt as it is.
COVARIANCE = np.array([[1.2, 0.4], [0.4, 0.8]])
UNITS = {"1e-4": (1e-4, 0.0), "60": (60.0, 128.0), "1e3": (1e3, 0.0), "plus 1e3": (1.0, 1e3)}
NOISE = np.random.default_rng(1).normal(size=(400, 2)).astype(np.float32)
SMALL = {"observables": 8, "width": 16, "depth": 2, "steps": 120, "trajectories": 1024}


def root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values)) @ vectors.T


def log_density(x, mean, covariance):
    gap = np.asarray(x, dtype=np.float64) - mean
    squares = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(covariance), gap)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])


def distilled(teacher, **options):
    return KoopmanDistiller(**{**SMALL, **options}).fit(teacher, progress=False)


def rms(gap):
    return np.sqrt(np.mean(np.sum(np.square(gap), axis=1)))


class Gaussian:
    """One Gaussian in some units: its closed form, by NumPy alone."""

    def __init__(self, scale=1.0, shift=0.0):
        self.scale, self.mean = scale, np.full(2, shift)
        self.covariance = COVARIANCE * scale**2
        self.ends = self.mean + NOISE @ root(self.covariance)
        self.spread = np.sqrt(np.trace(self.covariance))

    def teacher(self):
        return FlowTeacher.gaussian(self.mean, self.covariance)

    def velocity(self, t, x):
        """The field as somebody else's model."""
        mean, covariance = torch.from_numpy(self.mean), torch.from_numpy(self.covariance)
        times = t.double()[:, None, None]
        spread = times**2 * covariance + (1 - times) ** 2 * torch.eye(2)
        pull = times * covariance - (1 - times) * torch.eye(2)
        gap = (x.double() - t.double()[:, None] * mean)[..., None]
        return (mean + (pull @ torch.linalg.solve(spread, gap))[..., 0]).to(x.dtype)

    def error(self, student):
        return rms(student.sample(x0=NOISE) - self.ends) / self.spread


@pytest.fixture(scope="module")
def standard():
    return distilled(Gaussian().teacher())


@pytest.fixture(scope="module")
def fitted():
    """A problem and its student in each of the units."""
    problems = {name: Gaussian(*units) for name, units in UNITS.items()}
    return {name: (problem, distilled(problem.teacher())) for name, problem in problems.items()}


@pytest.mark.parametrize("units", UNITS)
class TestOfAGaussian:
    def test_students_err_as_much_as_in_standard_units(self, units, fitted, standard):
        problem, student = fitted[units]
        assert problem.error(student) == pytest.approx(Gaussian().error(standard), rel=0.1)
        assert Gaussian().error(standard) < 0.1

    def test_paths_and_inverses_are_those_of_standard_units_moved(self, units, fitted, standard):
        problem, student = fitted[units]
        np.testing.assert_allclose(student.invert(problem.ends.astype(np.float32)), NOISE, atol=0.2)
        path = student.sample_path(x0=NOISE, times=[0.0, 0.3, 1.0])
        np.testing.assert_array_equal(path[0], standard.sample_path(x0=NOISE, times=[0.0])[0])
        np.testing.assert_allclose(path[2], student.sample(x0=NOISE), atol=1e-4 * problem.spread)
        # The linear path between N(0, I) and N(m, C) has x_t = t m + (t^2 C + (1 - t)^2 I)^(1/2) x0.
        between = 0.3 * problem.mean + NOISE @ root(0.09 * problem.covariance + 0.49 * np.eye(2))
        spread = np.sqrt(0.09 * np.trace(problem.covariance) + 2 * 0.49)
        assert rms(path[1] - between) / spread < 0.25

    def test_densities_are_the_closed_ones(self, units, fitted):
        problem, student = fitted[units]
        x = problem.ends[:100].astype(np.float32)
        expected = log_density(x, problem.mean, problem.covariance)
        teacher = problem.teacher()
        np.testing.assert_allclose(teacher.log_prob(x), expected, atol=0.01)
        assert np.mean(np.abs(student.log_prob(x) - expected)) < 0.2
        found = student.density(x)
        assert found.spread == pytest.approx(problem.spread, rel=0.1)
        reached = np.linalg.norm(student.sample(x0=found.noise) - x, axis=1)
        np.testing.assert_allclose(found.residuals, reached, atol=2e-4 * problem.spread)

    def test_modes_are_scaled_exactly(self, units, fitted, standard):
        problem, student = fitted[units]
        ours, theirs = student.spectrum(), standard.spectrum()
        np.testing.assert_allclose(ours.eigenvalues, theirs.eigenvalues, rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(ours.residuals, theirs.residuals, atol=0.05)
        largest = np.abs(theirs.modes).max()
        np.testing.assert_allclose(ours.modes / problem.scale, theirs.modes, atol=2e-2 * largest)
        # States are sums over modes, at every time.
        path = student.sample_path(x0=NOISE[:5], times=[0.3, 1.0])
        for time, states in zip([0.3, 1.0], path, strict=True):
            parts = ours.contributions(NOISE[:5], t=time).sum(axis=1).real
            whole = ours.base(NOISE[:5], t=time) + parts
            np.testing.assert_allclose(whole, states, atol=1e-3 * problem.spread)
        # The states behind data, at the data's time 0.4, are those of the standard student at its own.
        ends = ((problem.ends[:50] - problem.mean) / problem.scale).astype(np.float32)
        length = 0.6 + 0.4 * problem.scale
        own = 0.4 * problem.scale / length
        assert student.own_time(0.4) == pytest.approx(own)
        expected = 0.4 * problem.mean + length * theirs.states_at(ends, own)
        found = ours.states_at((ends * problem.scale + problem.mean).astype(np.float32), 0.4)
        np.testing.assert_allclose(found, expected, atol=0.02 * length)

    def test_observables_are_read_out_and_follow_the_teacher(self, units, fitted):
        problem, student = fitted[units]
        teacher = problem.teacher()
        path = teacher.trajectory(NOISE[:50], times=[0.0, 0.4, 1.0])
        for time, x in zip([0.0, 0.4, 1.0], path, strict=True):
            np.testing.assert_allclose(
                student.readout(student.encode(time, x)), x, atol=1e-3 * problem.spread, rtol=1e-3
            )

    def test_files_keep_the_units(self, units, fitted, tmp_path):
        problem, student = fitted[units]
        student.save(tmp_path / "student.safetensors")
        again = KoopmanDistiller.load(tmp_path / "student.safetensors")
        x = problem.ends.astype(np.float32)
        np.testing.assert_array_equal(again.sample(x0=NOISE), student.sample(x0=NOISE))
        np.testing.assert_array_equal(again.invert(x), student.invert(x))
        np.testing.assert_array_equal(again.log_prob(x[:9]), student.log_prob(x[:9]))


@pytest.mark.parametrize("units", UNITS)
def test_attached_models_are_learnt_in_any_units(units, standard):
    problem = Gaussian(*UNITS[units])
    student = distilled(FlowTeacher.from_torch(problem.velocity, event_shape=(2,)))
    assert problem.error(student) == pytest.approx(Gaussian().error(standard), rel=0.1, abs=5e-3)


@pytest.mark.parametrize("path", [pytest.param("linear", marks=pytest.mark.slow), "vp"])
def test_trained_teachers_and_their_students_do_not_depend_on_units(path):
    data = np.random.default_rng(0).normal(size=(1000, 2)) ** 3
    data = (data - data.mean(0)) / np.sqrt(data.var(0).mean())
    found = {}
    for scale, shift in [(1.0, 0.0), (60.0, 128.0), (1e-4, 0.0)]:
        teacher = FlowTeacher((2,), width=16, depth=2, steps=120, path=path)
        teacher.fit((data * scale + shift).astype(np.float32), progress=False)
        student = distilled(teacher)
        x = teacher.sample(x0=NOISE)
        density = teacher.log_prob(x[:50]) + 2 * np.log(scale)
        error = endpoint_error(student, teacher, NOISE).value
        found[scale] = (x - shift) / scale, density, error, teacher.history_["loss"][-1][1]
        # The field that Python sees is that of the path in the data's own units.
        before, between, after = teacher.trajectory(NOISE, times=[0.0, 0.49, 0.5, 0.51])[1:]
        slope = (after - before) / 0.02
        np.testing.assert_allclose(slope, teacher.velocity(0.5, between), atol=0.1 * max(scale, 1.0))
    for scale in (60.0, 1e-4):
        for ours, theirs in zip(found[scale], found[1.0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=0.03)


def test_a_conditional_teacher_of_pixels_in_bytes():
    images, labels = datasets.digits()
    bytes_ = ((images[:400].reshape(-1, 1, 8, 8) + 1) * 127.5).astype(np.float32)
    teacher = FlowTeacher((1, 8, 8), width=32, depth=2, steps=60, num_classes=10, label_dropout=0.1)
    teacher.fit(bytes_, condition=labels[:400], progress=False)
    guided = teacher.guided(1.5)
    for each in (teacher, guided):
        student = distilled(each, steps=60, trajectories=256)
        samples = student.sample(64, condition=np.full(64, 3))
        theirs = each.sample(64, condition=np.full(64, 3))
        assert np.abs(samples.mean() - theirs.mean()) < 0.2 * bytes_.std()
        assert 0.3 < samples.std() / theirs.std() < 2


def test_teachers_of_other_units_are_kept_in_files(tmp_path):
    data = (np.random.default_rng(0).normal(size=(300, 2)) * 60 + 128).astype(np.float32)
    options = {"width": 8, "depth": 1, "steps": 30}
    teacher = FlowTeacher((2,), **options).fit(data, progress=False)
    teacher.save(tmp_path / "teacher.safetensors")
    again = FlowTeacher.load(tmp_path / "teacher.safetensors")
    np.testing.assert_array_equal(again.sample(x0=NOISE), teacher.sample(x0=NOISE))
    np.testing.assert_array_equal(again.velocity(0.3, NOISE), teacher.velocity(0.3, NOISE))
    # A resumed training is the one that was not cut.
    files = {"checkpoint": tmp_path / "run.safetensors", "progress": False}
    FlowTeacher((2,), **options).fit(data, steps=20, **files)
    options["steps"] = 30
    resumed = FlowTeacher((2,), **options).fit(data, resume=tmp_path / "run.safetensors", progress=False)
    assert np.std(resumed.sample(x0=NOISE) - 128) == pytest.approx(60, rel=0.2)


def test_students_of_other_units_resume_to_the_last_bit(tmp_path):
    teacher = FlowTeacher.from_torch(Gaussian(60.0, 128.0).velocity, event_shape=(2,))
    options = {**SMALL, "steps": 40, "training": Training(schedule="constant", evaluate_every=10)}
    whole = KoopmanDistiller(**options).fit(teacher, progress=False)
    file = tmp_path / "run.safetensors"
    half = KoopmanDistiller(**{**options, "steps": 20})
    half.fit(teacher, progress=False, checkpoint=file, checkpoint_every=20)
    resumed = KoopmanDistiller(**options).fit(teacher, progress=False, resume=file)
    np.testing.assert_array_equal(resumed.sample(x0=NOISE), whole.sample(x0=NOISE))


def test_standard_data_are_learnt_as_they_are(standard):
    teacher = Gaussian().teacher()
    off = distilled(teacher, architecture=Architecture(standardise=False))
    np.testing.assert_array_equal(off.sample(x0=NOISE), standard.sample(x0=NOISE))
    data = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    options = {"width": 8, "depth": 1, "steps": 20}
    one = FlowTeacher((2,), **options).fit(data, progress=False)
    other = FlowTeacher((2,), standardise=False, **options).fit(data, progress=False)
    np.testing.assert_array_equal(one.sample(x0=NOISE), other.sample(x0=NOISE))


def test_it_can_be_turned_off():
    problem = Gaussian(1.0, 1e3)
    raw = distilled(problem.teacher(), architecture=Architecture(standardise=False))
    assert problem.error(raw) > 0.5


def test_in_double_precision_too(standard):
    problem = Gaussian(60.0, 128.0)
    teacher = FlowTeacher.gaussian(problem.mean, problem.covariance, dtype="float64")
    student = distilled(teacher, dtype="float64")
    x = student.sample(x0=NOISE.astype(np.float64))
    assert x.dtype == np.float64
    assert problem.error(student) == pytest.approx(Gaussian().error(standard), rel=0.1)


def test_points_of_the_path_are_drawn_in_standard_units_too():
    """The consistency term alone, which sees no solved trajectories."""
    errors = {}
    for scale, shift in [(1.0, 0.0), (60.0, 128.0)]:
        data = np.random.default_rng(0).normal(size=(800, 2)) * scale + shift
        teacher = FlowTeacher((2,), width=16, depth=2, steps=60, coupling="independent")
        teacher.fit(data.astype(np.float32), progress=False)
        weights = {"consistency": 1.0, **dict.fromkeys(("endpoint", "path", "target", "inverse"), 0.0)}
        weights |= dict.fromkeys(("round_trip", "re_encoding", "phase"), 0.0)
        student = distilled(teacher, objective=Objective(weights=weights))
        errors[scale] = student.history_["log"][-1]["consistency_residual"]
    assert errors[60.0] == pytest.approx(errors[1.0], rel=0.1)


def test_edits_are_at_times_of_the_data_and_in_its_units(standard):
    problem = Gaussian(60.0, 128.0)
    student = distilled(problem.teacher())
    x = problem.ends[:20].astype(np.float32)
    # Nothing changes: the data come back.
    np.testing.assert_allclose(student.edit(x, modes=[0], scale=1.0), x, atol=1e-2)
    ours = student.edit(x, modes=[0], scale=1.5)
    theirs = standard.edit(((x - 128) / 60).astype(np.float32), modes=[0], scale=1.5)
    np.testing.assert_allclose((ours - 128) / 60, theirs, atol=0.05)


def test_trajectories_are_shared_by_students_and_baselines_of_one_teacher(tmp_path):
    problem = Gaussian(60.0, 128.0)
    teacher, file = problem.teacher(), tmp_path / "paths.safetensors"
    options = {"trajectories": 512, "steps": 60, "width": 16, "depth": 2}
    student = KoopmanDistiller(observables=8, **options).fit(teacher, progress=False, trajectory_file=file)
    plain = baselines.PlainNetwork(**options).fit(teacher, progress=False, trajectory_file=file)
    assert plain.history_["teacher_evaluations"] < 5 < student.history_["teacher_evaluations"]
    # Little is learnt in 60 steps, but from bytes it would be nothing.
    assert np.abs(plain.sample(x0=NOISE).mean() - 128) < 30
    with pytest.raises(CheckpointError, match="other units"):
        raw = KoopmanDistiller(observables=8, architecture=Architecture(standardise=False), **options)
        raw.fit(teacher, progress=False, trajectory_file=file)


def test_a_mean_velocity_has_paths_in_the_data_s_units():
    problem = Gaussian(60.0, 128.0)
    teacher = problem.teacher()
    model = baselines.MeanVelocity(trajectories=512, steps=300, width=32, depth=2).fit(
        teacher, progress=False
    )
    path = model.sample_path(x0=NOISE, times=[0.0, 0.3, 1.0])
    exact = teacher.trajectory(NOISE, times=[0.0, 0.3, 1.0])
    np.testing.assert_array_equal(path[0], NOISE)
    for ours, theirs in zip(path[1:], exact[1:], strict=True):
        assert rms(ours - theirs) < 0.3 * np.sqrt(theirs.var(0).sum())
