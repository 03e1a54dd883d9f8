"""Metrics against POT, SciPy, PyTorch, plain NumPy and closed forms; their floors and intervals."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist
from scipy.stats import energy_distance as scipy_energy
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, _core, metrics
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

from ..conftest import COV, MEAN


def sets(n=80, m=60, dim=5):
    random = np.random.default_rng(2)
    return random.normal(size=(n, dim)), random.normal(0.5, 1.3, size=(m, dim))


def noise(n=500, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2)).astype("f4")


def rms(difference):
    return np.sqrt((difference**2).sum(axis=1).mean())


# --- distances ------------------------------------------------------------------------------------


class TestDistances:
    def test_wasserstein_is_pots(self):
        a, b = sets(m=80)
        exact = np.sqrt(ot.emd2([], [], ot.dist(a, b)))
        assert metrics.wasserstein2(a, b) == pytest.approx(exact, rel=1e-9)
        assert metrics.wasserstein2(a, b[::-1] * 0 + a + 3.0) == pytest.approx(3.0 * np.sqrt(5))

    def test_sliced_wasserstein_is_pots(self):
        a, b = sets()
        # Both average over random directions, each over its own.
        sliced = ot.sliced_wasserstein_distance(a, b, n_projections=20_000, seed=0)
        assert metrics.sliced_wasserstein(a, b, projections=20_000) == pytest.approx(sliced, rel=0.02)
        # On the line there is only one.
        line = ot.wasserstein_1d(a[:, 0], b[:, 0], p=2)
        assert metrics.sliced_wasserstein(a[:, :1], b[:, :1]) ** 2 == pytest.approx(line, rel=1e-9)

    def test_energy_distance_is_scipys(self):
        a, b = (x[:, 0] for x in sets())
        # SciPy counts the pairs of a sample with itself, and takes the root.
        within = [cdist(x[:, None], x[:, None]).sum() for x in (a, b)]
        own = sum(w / (len(x) * (len(x) - 1)) - w / len(x) ** 2 for w, x in zip(within, (a, b), strict=True))
        expected = scipy_energy(a, b) ** 2 - own
        assert metrics.energy_distance(a[:, None], b[:, None]) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("dim", [2, 40])
    def test_mmd_is_that_of_its_definition(self, dim):
        a, b = sets(dim=dim)

        def by_hand(bandwidths):
            def k(x, y):
                return sum(np.exp(-(cdist(x, y) ** 2) / (2 * s**2)) for s in bandwidths)

            def within(x):
                return (k(x, x).sum() - np.trace(k(x, x))) / (len(x) * (len(x) - 1))

            return within(a) + within(b) - 2 * k(a, b).mean()

        assert metrics.mmd(a, b, bandwidths=[0.7, 3.0]) == pytest.approx(by_hand([0.7, 3.0]), rel=1e-6)
        median = np.median(pdist(b))
        assert metrics.median_bandwidths(b) == pytest.approx([median / 2, median, 2 * median])
        assert metrics.mmd(a, b) == pytest.approx(by_hand(metrics.median_bandwidths(b)), rel=1e-6)

    def test_many_data_have_the_median_of_some(self):
        data = np.random.default_rng(0).normal(size=(20_000, 2))
        found = metrics.median_bandwidths(data)
        assert found == metrics.median_bandwidths(data)
        # The distance of two standard normal points in the plane is Rayleigh with deviation sqrt(2).
        assert found[1] == pytest.approx(2 * np.sqrt(np.log(2)), rel=0.05)

    @pytest.mark.parametrize(("n", "m", "dim"), [(80, 60, 5), (20, 500, 64), (30, 30, 3)])
    def test_frechet_distance_is_scipys(self, n, m, dim):
        a, b = sets(n, m, dim)
        covariances = [np.cov(x, rowvar=False) for x in (a, b)]
        # SciPy's root of a singular product is complex, and off by the root of a rounding error.
        root = np.real(sqrtm(covariances[0] @ covariances[1]))
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
        assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9 if n > dim else 1e-4)

    def test_frechet_distance_approaches_that_of_the_gaussians(self):
        random = np.random.default_rng(0)
        a = random.multivariate_normal([0, 0], np.diag([1.0, 4.0]), size=100_000)
        b = random.multivariate_normal([3, 4], np.diag([4.0, 1.0]), size=100_000)
        assert metrics.frechet_distance(a, b) == pytest.approx(25 + 1 + 1, rel=0.01)

    @pytest.mark.parametrize("k", [1, 3, 5])
    @pytest.mark.parametrize("dim", [2, 40])
    def test_precision_and_recall_are_those_of_their_definition(self, k, dim):
        a, b = sets(dim=dim)
        a = a * 0.8

        def share_inside(points, centres):
            radii = [np.sort(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
            inside = [
                any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)) for p in points
            ]
            return np.mean(inside)

        found = metrics.precision_recall(a, b, k=k)
        assert found == (share_inside(a, b), share_inside(b, a))
        assert found.precision == found[0]

    def test_events_lists_and_tensors(self):
        a, b = sets(m=80, dim=6)
        images = [torch.from_numpy(x.reshape(80, 1, 2, 3)).float() for x in (a, b)]
        for name in ("wasserstein2", "sliced_wasserstein", "energy_distance", "mmd", "frechet_distance"):
            distance = getattr(metrics, name)
            assert distance(*images) == pytest.approx(distance(a, b), rel=1e-4)
            assert distance(a.tolist(), b.tolist()) == pytest.approx(distance(a, b), rel=1e-4)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda a, b: metrics.wasserstein2(a, b[:9]), ArgumentError, "b: expected 10 samples"),
            (lambda a, b: metrics.energy_distance(a, b[:, :1]), ShapeError, "b: expected shape"),
            (lambda a, b: metrics.frechet_distance(a[0], b), ShapeError, "a: expected shape"),
            (lambda a, b: metrics.frechet_distance(a, b[:1]), ArgumentError, "b: expected at least two"),
            (lambda a, b: metrics.mmd(a * np.nan, b), NonFiniteError, "samples: 20 NaN"),
            (lambda a, b: metrics.mmd(a, b, bandwidths=[]), ArgumentError, "bandwidths: expected"),
            (lambda a, b: metrics.mmd(a, b, bandwidths=[-1.0]), ArgumentError, "bandwidths: expected"),
            (lambda a, b: metrics.mmd(a, b * 0), ArgumentError, "data: expected.*median distance of 0"),
            (lambda a, b: metrics.precision_recall(a, b, k=10), ArgumentError, "k: expected.*below 10"),
            (lambda a, b: metrics.precision_recall(a, b.astype("U4")), DtypeError, "data: expected"),
            (lambda a, b: metrics.sliced_wasserstein(a, b, projections=0), ArgumentError, "projections"),
        ],
    )
    def test_what_is_wrong_is_said(self, call, error, message):
        with pytest.raises(error, match=message):
            call(*sets(10, 10, 2))


SYMMETRIC = {
    "wasserstein2": metrics.wasserstein2,
    "sliced_wasserstein": metrics.sliced_wasserstein,
    "energy_distance": metrics.energy_distance,
    "mmd": lambda a, b: metrics.mmd(a, b, bandwidths=[1.0, 30.0]),
    "frechet_distance": metrics.frechet_distance,
}
POINTS = arrays(np.float64, (9, 3), elements=st.floats(-100, 100, width=16))


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=25, deadline=None)
@given(a=POINTS, b=POINTS, seed=st.integers(0, 99))
def test_distances_are_symmetric_and_know_no_order(name, a, b, seed):
    distance = SYMMETRIC[name]
    random = np.random.default_rng(seed)
    found = distance(a, b)
    # Roots of what rounds to nothing are not as small as that.
    close = {"rel": 1e-6, "abs": 1e-5}
    assert distance(b, a) == pytest.approx(found, **close)
    assert distance(random.permutation(a), random.permutation(b)) == pytest.approx(found, **close)
    assert distance(a + 7.0, b + 7.0) == pytest.approx(found, **close)
    if name not in ("energy_distance", "mmd"):
        assert found >= 0.0
        assert distance(a, random.permutation(a)) == pytest.approx(0.0, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(a=POINTS, b=POINTS, k=st.integers(1, 8), seed=st.integers(0, 99))
def test_precision_and_recall_are_shares_that_know_no_order(a, b, k, seed):
    random = np.random.default_rng(seed)
    found = metrics.precision_recall(a, b, k=k)
    assert metrics.precision_recall(random.permutation(a), random.permutation(b), k=k) == found
    assert metrics.precision_recall(b, a, k=k) == found[::-1]
    assert all(0.0 <= share <= 1.0 and float(9 * share).is_integer() for share in found)
    assert metrics.precision_recall(a, random.permutation(a), k=k) == (1.0, 1.0)


# --- features -------------------------------------------------------------------------------------


class TestFeatures:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Tanh(), torch.nn.Dropout(0.5)
    )
    images = np.random.default_rng(0).normal(size=(10, 1, 5, 5))

    def test_are_those_of_the_network_in_evaluation_mode(self):
        network = self.network.train()
        network[1].eval()  # a frozen part stays frozen
        before = [buffer.clone() for buffer in network.buffers()]
        found = metrics.extract_features(self.images, network, batch_size=4)
        assert [part.training for part in network] == [True, False, True, True]
        assert all(torch.equal(x, y) for x, y in zip(before, network.buffers(), strict=True))
        with torch.no_grad():
            expected = network.eval()(torch.from_numpy(self.images).float()).flatten(1).double()
        assert found.shape == (10, 36)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)

    def test_feed_the_distances(self):
        network = self.network.eval()
        a, b = self.images, self.images[::-1] * 1.5
        features = [metrics.extract_features(x, network) for x in (a, b)]
        assert metrics.frechet_distance(a, b, network) == metrics.frechet_distance(*features)
        assert metrics.precision_recall(a, b, features=network) == metrics.precision_recall(*features)

    def test_functions_get_batches_as_they_are(self):
        seen = []

        def pool(x):
            seen.append((x.dtype, len(x), torch.is_grad_enabled()))
            return [x.double().mean(dim=(2, 3), keepdim=True)]  # as Inception networks of PyTorch's FID do

        pixels = np.random.default_rng(1).integers(0, 256, size=(5, 3, 4, 4), dtype=np.uint8)
        found = metrics.extract_features(pixels, pool, batch_size=2)
        np.testing.assert_allclose(found, pixels.mean(axis=(2, 3)))
        assert seen == [(torch.uint8, 2, False), (torch.uint8, 2, False), (torch.uint8, 1, False)]

    def test_files_serve_as_well(self, tmp_path):
        network = torch.nn.Linear(2, 3)
        with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
            torch.jit.save(torch.jit.trace(network, torch.zeros(2, 2)), tmp_path / "features.pt")
        a, b = sets(dim=2)
        expected = metrics.frechet_distance(a, b, network)
        assert metrics.frechet_distance(a, b, tmp_path / "features.pt") == pytest.approx(expected, rel=1e-6)

    def test_what_is_wrong_is_said(self, tmp_path):
        def extract(features, samples=self.images, **options):
            return metrics.extract_features(samples, features, **options)

        with pytest.raises(FileNotFoundError, match="features.*nothing"):
            extract(tmp_path / "nothing.pt")
        with pytest.raises(ArgumentError, match="features.*int"):
            extract(3)
        with pytest.raises(ShapeError, match=r"features: expected tensors \(10, ...\), got \(9,"):
            extract(lambda x: x[1:])
        with pytest.raises(ShapeError, match="features: expected one tensor, got 2"):
            extract(lambda x: (x, x))
        with pytest.raises(ShapeError, match="features.*ndarray"):
            extract(lambda x: x.numpy())
        with pytest.raises(ShapeError, match=r"samples: expected \(N, "):
            extract(self.network, self.images[:0])
        with pytest.raises(ArgumentError, match="batch_size"):
            extract(self.network, batch_size=0)
        with pytest.raises(ZeroDivisionError):
            extract(lambda x: 1 / 0)


# --- errors of models -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    """The flow map of the Gaussian teacher, x_t = t m + S_t^(1/2) x0 with S_t = t^2 C + (1 - t)^2 I."""

    def state(t, x0):
        return t * MEAN + x0 @ np.real(sqrtm(t**2 * COV + (1 - t) ** 2 * np.eye(2)))

    return state


class TestErrors:
    def test_are_those_of_their_definitions(self, student, gaussian, exact):
        x0 = noise()
        ends = exact(1.0, x0)
        scale = np.sqrt(ends.var(axis=0).sum())
        endpoint = metrics.endpoint_error(student, gaussian, x0)
        assert endpoint.value == pytest.approx(rms(student.sample(x0=x0) - ends) / scale, abs=1e-4)
        times = [0.25, 0.5]
        states = student.sample_path(x0, times=times)
        expected = np.mean([rms(x - exact(t, x0)) for t, x in zip(times, states, strict=True)]) / scale
        assert metrics.path_error(student, gaussian, x0, times=times).value == pytest.approx(
            expected, abs=1e-4
        )
        data = ends.astype("f4")
        recovered = student.invert(data)
        inversion = metrics.inversion_error(student, gaussian, x0)
        assert inversion.value == pytest.approx(rms(recovered - x0) / rms(x0), abs=1e-4)
        again = student.sample(x0=recovered)
        found = metrics.round_trip_error(student, data, scale=2.0)
        assert found.value == pytest.approx(rms(again - data) / 2.0, rel=1e-5)
        for estimate in (endpoint, inversion, found):
            assert estimate.low < estimate.value < estimate.high
            assert (estimate.floor, estimate.samples) == (0.0, len(x0))

    def test_are_those_of_the_report(self, student, gaussian):
        data = gaussian.sample(400, seed=1)
        report = student.evaluate(gaussian, data, n=200, seed=5)
        x0, scale = _core.normal((200, 2), 5), np.sqrt(data.astype("f8").var(axis=0).sum())
        ends = gaussian.sample(x0=x0)
        for name, estimate in {
            "endpoint_error": metrics.endpoint_error(student, gaussian, x0, scale=scale),
            "path_error": metrics.path_error(student, gaussian, x0, scale=scale),
            "inversion_error": metrics.inversion_error(student, gaussian, x0),
            "round_trip_error": metrics.round_trip_error(student, ends, scale=scale),
        }.items():
            assert estimate.value == pytest.approx(getattr(report, name), rel=1e-3)
            assert (estimate.low, estimate.high) == pytest.approx(report.intervals[name], rel=1e-3)

    def test_conditions_reach_both_models(self):
        def shifted(by):
            return SimpleNamespace(sample=lambda x0, condition: x0 + by * condition[:, None])

        labels = np.array([0, 1, 2, 2])
        found = metrics.endpoint_error(shifted(1.0), shifted(2.0), noise(4), condition=labels, scale=1.0)
        assert found.value == pytest.approx(rms(np.outer(labels, [1.0, 1.0])), rel=1e-6)

    def test_intervals_cover(self):
        """A student that is a tenth too far out errs by 0.1 sqrt(d) in the mean square, exactly."""
        teacher = SimpleNamespace(sample=lambda x0, condition: x0)
        student = SimpleNamespace(sample=lambda x0, condition: 1.1 * x0)
        truth, covered = 0.1 * np.sqrt(2), []
        for seed in range(200):
            x0 = noise(200, 1000 + seed).astype("f8")
            found = metrics.endpoint_error(student, teacher, x0, scale=1.0, seed=seed)
            covered.append(found.low <= truth <= found.high)
        assert 0.9 < np.mean(covered) < 0.99

    def test_straightness_of_a_gaussian_flow_is_known(self):
        variances = np.array([4.0, 0.01])
        teacher = FlowTeacher.gaussian([1.0, -2.0], np.diag(variances), dtype="float64")
        x0 = noise(50).astype("f8")
        move = np.sqrt(variances) - 1.0

        def bend(t):
            # s = sqrt(t^2 c + (1 - t)^2) is each coordinate's deviation, and s x0 bends with s'.
            slope = (t * variances - (1 - t)) / np.sqrt(t**2 * variances + (1 - t) ** 2)
            return (slope - move) ** 2

        integrals = np.array([quad(lambda t, i=i: bend(t)[i], 0, 1)[0] for i in range(2)])
        displacement = ((np.array([1.0, -2.0]) + move * x0) ** 2).sum(axis=1).mean()
        expected = (x0**2 @ integrals).mean() / displacement
        found = metrics.straightness(teacher, x0)
        assert found.value == pytest.approx(expected, rel=1e-3)
        assert found.low < found.value < found.high

    def test_straight_flows_are_straight(self, student, gaussian):
        straight = FlowTeacher.from_torch(lambda t, x: torch.ones_like(x), event_shape=(2,))
        assert metrics.straightness(straight, noise(20)).value == pytest.approx(0.0, abs=1e-9)
        # A student's own paths are measured as well.
        own, taught = (metrics.straightness(model, noise(200)).value for model in (student, gaussian))
        assert own == pytest.approx(taught, rel=0.3)

    def test_log_likelihood_is_scipys(self, gaussian):
        data = np.random.default_rng(3).multivariate_normal(MEAN, COV, size=200).astype("f4")
        expected = multivariate_normal(MEAN, COV).logpdf(data)
        found = metrics.log_likelihood(gaussian, data)
        assert found.nats == pytest.approx(expected.mean(), abs=1e-3)
        assert found.standard_error == pytest.approx(expected.std(ddof=1) / np.sqrt(200), rel=1e-2)
        assert found.bits_per_dimension == pytest.approx(-expected.mean() / np.log(2) / 2, abs=1e-3)
        assert found.samples == 200
        torchs = torch.distributions.MultivariateNormal(torch.tensor(MEAN), torch.tensor(COV))
        again = metrics.log_likelihood(torchs, torch.from_numpy(data).double())
        assert again.nats == pytest.approx(expected.mean(), rel=1e-9)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
    def test_arrays_on_a_gpu_have_the_errors_of_arrays(self):
        a, b = (np.random.default_rng(seed).normal(size=(5, 40, 2)) for seed in (0, 1))
        on_gpu = [torch.from_numpy(x).cuda() for x in (a, b)]
        rows = np.random.default_rng(2).integers(0, 40, 40)
        for here, there in (
            (_core.path_error(a, b, 2.0), _core.path_error(*on_gpu, 2.0)),
            (_core.endpoint_error(a[0], b[0], 2.0), _core.endpoint_error(*(x[0] for x in on_gpu), 2.0)),
            (_core.straightness(a, list(range(5))), _core.straightness(on_gpu[0], list(range(5)))),
        ):
            assert there.value == pytest.approx(here.value, rel=1e-12)
            assert there.value_of(rows) == pytest.approx(here.value_of(rows), rel=1e-12)

    def test_what_is_wrong_is_said(self, student, gaussian):
        x0 = noise(8)
        with pytest.raises(TypeError, match="student: expected a model with a method sample, got int"):
            metrics.endpoint_error(3, gaussian, x0)
        with pytest.raises(TypeError, match="teacher: expected a model with a method trajectory"):
            metrics.path_error(student, object(), x0)
        with pytest.raises(TypeError, match="student: expected a model with a method invert"):
            metrics.inversion_error(gaussian, gaussian, x0)
        with pytest.raises(TypeError, match="model: expected a model with a method log_prob"):
            metrics.log_likelihood(object(), x0)
        with pytest.raises(ArgumentError, match="scale"):
            metrics.endpoint_error(student, gaussian, x0, scale=0.0)
        with pytest.raises(ArgumentError, match="times"):
            metrics.path_error(student, gaussian, x0, times=[0.5, 1.0])
        with pytest.raises(ArgumentError, match="times"):
            metrics.straightness(gaussian, x0, times=[0.0, 1.0])
        still = FlowTeacher.from_torch(lambda t, x: torch.zeros_like(x), event_shape=(2,))
        with pytest.raises(ArgumentError, match="model: expected paths that move"):
            metrics.straightness(still, x0)
        with pytest.raises(ShapeError, match=r"log_prob: expected \(8,\)"):
            metrics.log_likelihood(SimpleNamespace(log_prob=lambda x: x), x0)
        with pytest.raises(NonFiniteError, match="log_prob: expected finite values, got 8 of 8"):
            metrics.log_likelihood(SimpleNamespace(log_prob=lambda x: np.full(len(x), -np.inf)), x0)
        with pytest.raises(ArgumentError, match="confidence"):
            metrics.endpoint_error(student, gaussian, x0, confidence=1.5)


# --- floors and intervals -------------------------------------------------------------------------


class TestMeasured:
    def test_the_same_seed_gives_the_same_estimate(self):
        a, b = noise(60, 1), noise(120, 2)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        first = metrics.measured(metrics.energy_distance, a, b, resamples=20)
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        assert metrics.measured(metrics.energy_distance, a, b, resamples=20) == first
        assert metrics.measured(metrics.energy_distance, a, b, resamples=20, seed=1) != first
        tensors = metrics.measured(
            metrics.energy_distance, torch.from_numpy(a), torch.from_numpy(b), resamples=20
        )
        assert tensors == first

    @pytest.mark.parametrize("answer", [None, np.nan, "1", [1.0, 2.0]])
    def test_metrics_that_are_no_numbers_are_named(self, answer):
        with pytest.raises(ArgumentError, match="metric: expected a finite number"):
            metrics.measured(lambda a, b: answer, noise(8), noise(16))

    def test_the_floor_has_the_size_of_the_comparison(self):
        calls = []

        def metric(a, b):
            calls.append((len(a), len(b)))
            if len(calls) <= 2:
                assert len(np.unique(a)) == len(np.unique(b)) == len(a)
                shared = len(np.intersect1d(a, b))
                assert shared == 0
            return float(a.mean() - b.mean())

        data = np.arange(101.0)[:, None]
        for samples, n in ((1000 + np.arange(30.0), 30), (1000 + np.arange(200.0), 50)):
            calls.clear()
            found = metrics.measured(metric, samples[:, None], data, resamples=7)
            assert calls == [(n, n)] * 2 + [(n // 2, n // 2)] * 7
            assert found.samples == n
            assert abs(found.floor) < 40 < 900 < found.value

    def test_perfect_samples_score_the_floor(self):
        a, b = noise(400, 3), noise(800, 4)
        for metric in (metrics.sliced_wasserstein, metrics.wasserstein2, metrics.frechet_distance):
            perfect = metrics.measured(metric, a, b, resamples=20)
            worse = metrics.measured(metric, 1.5 * a, b, resamples=20)
            assert perfect.value == pytest.approx(perfect.floor, rel=0.8)
            assert worse.floor == perfect.floor
            assert worse.low > max(perfect.high, worse.floor)

    def test_the_bootstrap_with_replacement_would_not_do(self):
        """Why halves: copies within a set shift an unbiased distance upwards, by more than its deviation."""
        a, b = noise(100, 5), noise(200, 6)
        found = metrics.measured(metrics.energy_distance, a, b)
        random = np.random.default_rng(0)
        naive = [
            metrics.energy_distance(a[random.integers(0, 100, 100)], b[:100][random.integers(0, 100, 100)])
            for _ in range(100)
        ]
        assert np.quantile(naive, 0.05) > found.value
        assert found.low < 0.0 < found.high

    @pytest.mark.parametrize("n", [20, 41])
    def test_intervals_of_a_difference_of_means_cover(self, n):
        """The truth is 0.5; the deviation of a difference of means of two sets of n is sqrt(2 / n)."""
        covered, widths = [], []
        for seed in range(200):
            random = np.random.default_rng(seed)
            a, b = random.normal(0.5, size=(n, 1)), random.normal(size=(2 * n, 1))
            found = metrics.measured(lambda x, y: float(x.mean() - y.mean()), a, b, seed=seed)
            covered.append(found.low <= 0.5 <= found.high)
            widths.append(found.high - found.low)
        assert 0.89 < np.mean(covered) < 0.99
        assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(2 / n), rel=0.1)

    @pytest.mark.parametrize("shift", [0.0, 1.0])
    def test_intervals_of_the_energy_distance_cover(self, shift):
        """Also where it vanishes, by more than they should: its deviation falls with 1/N there."""
        # E|X - Y| of N(shift, 1) and N(0, 1) is that of a folded normal of mean shift and deviation sqrt(2).
        kink = -shift / np.sqrt(2)
        folded, _ = quad(lambda z: np.sqrt(2) * abs(z - kink) * np.exp(-(z**2) / 2), -9, 9, points=[kink])
        truth = 2 * folded / np.sqrt(2 * np.pi) - 2 * 2 / np.sqrt(np.pi)
        covered = []
        for seed in range(150):
            random = np.random.default_rng(seed)
            a, b = random.normal(shift, size=(40, 1)), random.normal(size=(80, 1))
            found = metrics.measured(metrics.energy_distance, a, b, resamples=100, seed=seed)
            covered.append(found.low <= truth <= found.high)
        assert 0.87 < np.mean(covered) <= 1.0

    def test_estimates_print_and_count_as_numbers(self):
        estimate = metrics.Estimate(0.5, 0.4, 0.6, 0.1, 100)
        assert float(estimate) == 0.5
        assert str(estimate) == "0.5 (95% interval 0.4 to 0.6; floor 0.1; 100 samples)"
        assert "floor" not in str(metrics.Estimate(0.5, 0.4, 0.6, None, 100))

    def test_what_is_wrong_is_said(self):
        with pytest.raises(ShapeError, match="samples: expected at least 4.*got 10 and 7"):
            metrics.measured(metrics.energy_distance, noise(10), noise(7))
        with pytest.raises(ArgumentError, match="resamples"):
            metrics.measured(metrics.energy_distance, noise(10), noise(20), resamples=1)
        with pytest.raises(ArgumentError, match="confidence"):
            metrics.measured(metrics.energy_distance, noise(10), noise(20), confidence=0.0)
