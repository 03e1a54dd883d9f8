"""koopflow.compare: numbers against formulas, advice against its rows, and what ends early."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import signal

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import koopflow
from koopflow import Comparison, FlowTeacher, KoopmanDistiller, compare
from koopflow.exceptions import ArgumentError, DivergenceError, NonFiniteError, ShapeError

# koopflow.compare is the function.
MODULE = importlib.import_module("koopflow.compare")
MEAN, COV = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
ROOT = np.real(sqrtm(COV))
DATA = np.random.default_rng(1).multivariate_normal(MEAN, COV, 400).astype(np.float32)
SCALE = np.sqrt(DATA.astype(np.float64).var(axis=0).sum())
QUICK = {"n": 100, "progress": False}


class Shifted:
    """The exact map of the Gaussian teacher, off by a vector; its inverse off by another."""

    def __init__(self, shift=(0.0, 0.0), back=(0.0, 0.0)):
        self.shift, self.back, self.seen = np.array(shift), np.array(back), []

    def fit(self, teacher):
        return self

    def sample(self, *, x0, condition=None):
        self.seen.append(x0)
        return (MEAN + x0 @ ROOT + self.shift).astype(np.float32)

    def sample_path(self, x0, *, times, condition=None):
        # x_t of the flow between two Gaussians: the root of (1 - t)^2 I + t^2 C, about t times the mean.
        roots = [np.real(sqrtm((1 - t) ** 2 * np.eye(2) + t**2 * COV)) for t in times]
        return np.stack([t * MEAN + x0 @ root + self.shift for t, root in zip(times, roots, strict=True)])

    def invert(self, x1, *, condition=None):
        return ((x1 - MEAN) @ np.linalg.inv(ROOT) + self.back).astype(np.float32)


def wasserstein2(a, b):
    """By SciPy's assignment."""
    squares = cdist(a.astype(np.float64), b.astype(np.float64), "sqeuclidean")
    return np.sqrt(squares[linear_sum_assignment(squares)].mean())


def energy_distance(a, b):
    """Unbiased, by SciPy's distances."""
    within = sum(cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b))
    return 2 * cdist(a, b).mean() - within


def euler(x, steps):
    """Euler's method with the velocity of the flow from N(0, I) to N(MEAN, COV)."""
    x = x.astype(np.float64)
    for step in range(steps):
        t = step / steps
        spread = (1 - t) ** 2 * np.eye(2) + t**2 * COV
        rate = (t * COV - (1 - t) * np.eye(2)) @ np.linalg.inv(spread)
        x = x + (MEAN + (x - t * MEAN) @ rate.T) / steps
    return x


def test_errors_and_distances_are_those_of_formulas(gaussian):
    shifted = Shifted(shift=(0.3, 0.4), back=(0.0, 0.2))
    table = compare(gaussian, DATA, methods={"exact": Shifted(), "shifted": shifted}, **QUICK)
    teacher, exact, off = table.rows
    noise = shifted.seen[0]
    assert noise.shape == (100, 2)
    for name in ("endpoint_error", "path_error", "inversion_error"):
        assert exact[name] < 1e-3
    assert off["endpoint_error"] == pytest.approx(0.5 / SCALE, rel=1e-3)
    assert off["path_error"] == pytest.approx(0.5 / SCALE, rel=1e-3)
    norm = np.sqrt((noise.astype(np.float64) ** 2).sum(axis=1).mean())
    assert off["inversion_error"] == pytest.approx(0.2 / norm, rel=1e-3)
    ends = MEAN + noise @ ROOT
    assert teacher["endpoint_error"] < 1e-3
    assert teacher["wasserstein2"] == pytest.approx(wasserstein2(ends, DATA[:100]), rel=1e-3)
    expected = wasserstein2(ends + shifted.shift, DATA[:100])
    assert off["wasserstein2"] == pytest.approx(expected, rel=1e-4)
    assert teacher["energy"] == pytest.approx(energy_distance(ends, DATA), rel=1e-2, abs=1e-5)
    assert off["energy"] == pytest.approx(energy_distance(ends + shifted.shift, DATA), rel=1e-4, abs=1e-6)
    assert all(limit > teacher[name] for name, limit in table.limits.items())
    assert off["speedup"] == pytest.approx(teacher["milliseconds"] / off["milliseconds"])


def test_solvers_count_their_evaluations_and_err_as_much_as_by_hand(gaussian):
    names = ["Euler, 4 steps", "Euler, 20 steps", "Heun, 10 steps"]
    probe = Shifted()
    compare(gaussian, DATA, methods={"probe": probe}, seed=3, **QUICK)
    noise = probe.seen[0]
    table = compare(gaussian, DATA, methods=names, seed=3, **QUICK)
    assert [row["method"] for row in table.rows] == ["teacher (dopri5)", *names]
    assert [row["evaluations"] for row in table.rows[1:]] == [4, 20, 20]
    for row, steps in zip(table.rows[1:3], (4, 20), strict=True):
        distance = np.sqrt((((euler(noise, steps) - MEAN - noise @ ROOT) ** 2).sum(axis=1)).mean())
        assert row["endpoint_error"] == pytest.approx(distance / SCALE, rel=1e-3, abs=2e-5)
        assert row["inversion_error"] is None
        assert row["fit_seconds"] is None


def test_students_share_trajectories_and_are_given_the_time(gaussian, monkeypatch):
    made, fits = [], []
    fit = KoopmanDistiller.fit

    def recorded(self, teacher, **options):
        made.append(self)
        fits.append(options)
        return fit(self, teacher, **options)

    monkeypatch.setattr(KoopmanDistiller, "fit", recorded)
    methods = ["koopflow", "plain network"]
    table = compare(gaussian, DATA, methods=methods, seconds=0.5, trajectories=512, seed=7, **QUICK)
    solved, student = made
    assert (solved.max_seconds, student.max_seconds) == (None, 0.5)
    assert (solved.seed, student.seed, student.trajectories) == (7, 7, 512)
    assert fits[0]["trajectory_file"] == fits[1]["trajectory_file"]
    assert student.history_["teacher_evaluations"] < solved.history_["teacher_evaluations"]
    for row in table.rows[1:]:
        assert row["evaluations"] == 1
        assert row["steps"] >= 1
        assert row["fit_seconds"] > 0
    assert table.rows[1]["inversion_error"] is not None
    assert table.rows[2]["inversion_error"] is None
    assert (table.trajectories, table.seconds, table.n, table.seed) == (512, 0.5, 100, 7)


def timeless(table):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in table.rows]


TIMES = ("milliseconds", "speedup", "fit_seconds")


def test_steps_in_place_of_seconds_repeat_the_numbers_of_a_seed(gaussian):
    given = {"methods": ["koopflow", "plain network"], "steps": 20, "trajectories": 256, "seed": 2, **QUICK}
    first, second = (compare(gaussian, DATA, **given) for _ in range(2))
    assert timeless(first) == timeless(second)
    assert [row["steps"] for row in first.rows[1:]] == [20, 20]
    assert (first.seconds, first.steps) == (None, 20)
    assert "students trained for 20 steps" in str(first)
    assert "or train for longer than 20 steps" in first.advice or "Use " in first.advice
    # As many trajectories as 20 batches can use, and the same on every machine.
    used = json.loads(koopflow._core.student_defaults(2))["batch_size"] * 20
    assert compare(gaussian, DATA, methods=[], steps=20, **QUICK).trajectories == used


def test_a_training_of_few_steps_is_marked(gaussian, monkeypatch):
    given = {"steps": 30, "trajectories": 256, **QUICK}
    default = json.loads(koopflow._core.student_defaults(2))["steps"]
    table = compare(gaussian, DATA, methods=["Euler, 4 steps", "koopflow"], **given)
    assert table.rows[1]["reason"] is None
    assert table.rows[2]["reason"] == f"few steps: {default} are the default"
    assert table.rows[2]["reason"] in str(table)
    # An estimator of one's own has its own training.
    own = KoopmanDistiller(steps=30, trajectories=256, width=8, depth=1)
    monkeypatch.setattr(own, "fit", lambda teacher: KoopmanDistiller.fit(own, teacher, progress=False))
    assert compare(gaussian, DATA, methods={"own": own}, **QUICK).rows[1]["reason"] is None
    # A quarter of the default is enough.
    monkeypatch.setattr(MODULE, "ENOUGH", 30 / default)
    assert compare(gaussian, DATA, methods=["koopflow"], **given).rows[1]["reason"] is None


def test_a_fitted_student_is_measured_as_it_is(gaussian, student, monkeypatch):
    monkeypatch.setattr(KoopmanDistiller, "fit", None)
    with pytest.raises(TypeError, match="method fit"):
        compare(gaussian, DATA, methods={"mine": student}, **QUICK)
    monkeypatch.setattr(KoopmanDistiller, "fit", lambda *_, **__: pytest.fail("fitted again"))
    probe = Shifted()
    table = compare(gaussian, DATA, methods={"probe": probe, "mine": student}, **QUICK)
    noise = probe.seen[0]
    off = student.sample(x0=noise) - gaussian.sample(x0=noise)
    error = np.sqrt((off.astype(np.float64) ** 2).sum(axis=1).mean()) / SCALE
    assert table.rows[2]["endpoint_error"] == pytest.approx(error, rel=1e-3)
    assert table.rows[2]["steps"] == student.history_["steps"]


def test_a_slow_teacher_gets_fewer_trajectories(gaussian):
    few = compare(gaussian, DATA, methods=[], seconds=1e-6, **QUICK)
    assert few.trajectories == MODULE.FEWEST_TRAJECTORIES
    many = compare(gaussian, DATA, methods=[], seconds=1e6, **QUICK)
    assert many.trajectories == json.loads(koopflow._core.student_defaults(2))["trajectories"]


def test_segments_share_the_budget_of_one(gaussian, monkeypatch):
    given = []
    fit = KoopmanDistiller.fit

    def recorded(self, teacher, **options):
        given.append((self.steps, self.max_seconds, self.get_params()["trajectories__count"]))
        return fit(self, teacher, **options)

    monkeypatch.setattr(KoopmanDistiller, "fit", recorded)
    names = ["koopflow, 2 segments", "AB2, 4 steps"]
    table = compare(gaussian, DATA, methods=names, steps=41, trajectories=128, **QUICK)
    assert given == [(20, None, 128)] * 2
    both, solver = table.rows[1:]
    assert (both["evaluations"], both["steps"], solver["evaluations"]) == (2, 40, 4)
    assert both["fit_seconds"] > 0.0
    assert both["path_error"] > 0.0
    assert both["inversion_error"] > 0.0
    timed = MODULE.METHODS["koopflow, 4 segments"](steps=None, max_seconds=2.0)
    assert (timed.segments, timed.student.max_seconds) == (4, 0.5)


def test_methods_suit_the_samples():
    models = MODULE._models
    plain, pictures = models(None, images=False), models(None, images=True)
    assert "koopflow, U-Net" not in plain
    assert set(plain) < set(pictures)
    assert {"koopflow", "plain network", "KDM", "mean velocity", "Euler, 4 steps"} <= set(plain)


@pytest.mark.parametrize("native", [True, False])
def test_image_students_have_the_network_of_a_native_teacher(native, monkeypatch):
    images = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)
    network = {"channels": 4, "multipliers": (1, 2)}
    if native:
        teacher = FlowTeacher((1, 4, 4), network=network, steps=1).fit(images, progress=False)
    else:
        teacher = FlowTeacher.from_torch(lambda t, x: -0.5 * x, event_shape=(1, 4, 4))
    fitted = {}
    fit = KoopmanDistiller.fit

    def recorded(self, teacher, **options):
        fitted[self.basis] = self.unet, self.warm_start
        return fit(self, teacher, **options)

    monkeypatch.setattr(KoopmanDistiller, "fit", recorded)
    methods = ["koopflow, hierarchy", "koopflow, U-Net"]
    table = compare(teacher, images, methods=methods, seconds=0.2, trajectories=64, n=16, progress=False)
    assert all(row["wasserstein2"] is not None for row in table.rows)
    own = network if native else None
    assert (fitted["hierarchy"], fitted["unet"]) == ((own, native), (own, False))


def test_conditions_reach_fits_and_samples():
    import torch

    shifts = torch.tensor([[5.0, 0.0], [0.0, -5.0]])
    teacher = FlowTeacher.from_torch(lambda t, x, y: shifts[y].expand_as(x), event_shape=(2,), num_classes=2)
    data = np.random.default_rng(0).normal([0.0, -5.0], 1.0, (200, 2))
    pool = np.ones(8, dtype=np.int64)
    table = compare(
        teacher,
        data,
        methods=["Euler, 4 steps", "plain network"],
        seconds=0.3,
        trajectories=256,
        condition=pool,
        **QUICK,
    )
    # A constant velocity: Euler is exact, and the second class is where the data are.
    assert table.rows[1]["endpoint_error"] < 1e-5
    assert abs(table.rows[0]["energy"]) < 0.1
    assert table.rows[2]["endpoint_error"] is not None


# --- what ends early ------------------------------------------------------------------------------


class Raises(Shifted):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def fit(self, teacher):
        raise self.error


def test_a_method_that_diverges_says_why(gaussian):
    methods = {"bad": Raises(DivergenceError("the loss\nis NaN")), "exact": Shifted()}
    table = compare(gaussian, DATA, methods=methods, **QUICK)
    assert table.rows[1]["reason"] == "the loss is NaN"
    assert table.rows[1]["wasserstein2"] is None
    assert table.rows[2]["endpoint_error"] < 1e-3
    assert "the loss is NaN" in str(table)
    assert "exact" in table.advice


def test_ctrl_c_keeps_the_finished_rows(gaussian):
    methods = {"exact": Shifted(), "stopped": Raises(KeyboardInterrupt()), "never": Shifted()}
    with pytest.warns(RuntimeWarning, match="interrupted after 1 of 3 methods"):
        table = compare(gaussian, DATA, methods=methods, **QUICK)
    assert [row["method"] for row in table.rows] == ["teacher (dopri5)", "exact"]
    assert table.interrupted
    assert "Interrupted" in str(table)


@pytest.mark.parametrize("stage", ["trajectories", "student"])
def test_a_signal_in_the_middle_of_a_fit_keeps_the_finished_rows(gaussian, stage):
    class Student(Shifted):
        """A student of the core, which a signal stops early."""

        def fit(self, teacher):
            def press(event):
                if event["stage"] == stage:
                    signal.raise_signal(signal.SIGINT)

            student = KoopmanDistiller(width=8, depth=1, steps=10**6, trajectories=256)
            self.history_ = student.fit(teacher, progress=press).history_

    methods = {"first": Shifted(), "second": Student()}
    with pytest.warns(RuntimeWarning, match="interrupted after 1 of 2 methods") as caught:
        table = compare(gaussian, DATA, methods=methods, **QUICK)
    assert len(caught) == 1
    assert [row["method"] for row in table.rows] == ["teacher (dopri5)", "first"]


def test_progress_hears_of_every_method(gaussian):
    events = []
    compare(gaussian, DATA, methods={"a": Shifted(), "b": Shifted()}, n=50, progress=events.append)
    assert [(event["stage"], event["step"], event["total"]) for event in events] == [
        ("compare", 1, 2),
        ("compare", 2, 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"methods": ["koopflow", "magic"]}, ArgumentError, r"methods: .*got \['magic'\]"),
        (
            {"methods": {"mine": 3}},
            TypeError,
            r"methods\['mine'\]: expected a model with a method fit, got int",
        ),
        ({"seconds": 0.0}, ArgumentError, "seconds: expected"),
        ({"seconds": float("nan")}, ArgumentError, "seconds: expected"),
        ({"steps": 0}, ArgumentError, "steps: expected an integer of at least 1, got 0"),
        ({"steps": 5, "seconds": 5.0}, ArgumentError, r"steps: expected None with seconds=5.0, got 5"),
        ({"seed": -1}, ArgumentError, "seed: expected an integer from 0"),
        ({"n": 0}, ArgumentError, "n: expected"),
        ({"data": DATA[:, :1]}, ShapeError, r"data: .*shape \(2,\)"),
        ({"data": DATA[:4]}, ShapeError, "at least 8 samples"),
        ({"data": np.ones((20, 2))}, ArgumentError, "not all equal"),
        ({"data": np.full((20, 2), np.nan)}, NonFiniteError, "data: 40 NaN"),
        ({"teacher": lambda t, x: x}, TypeError, "FlowTeacher"),
    ],
)
def test_what_cannot_be_compared_is_refused(gaussian, arguments, kind, words):
    with pytest.raises(kind, match=words):
        compare(**{"teacher": gaussian, "data": DATA, "methods": [], **QUICK, **arguments})


# --- the advice and the table ---------------------------------------------------------------------


FEW = "few steps: 10000 are the default"


def row(method, energy, speedup, inversion=None, w2=None, reason=None):
    names = MODULE.COLUMNS
    return {
        **dict.fromkeys(names),
        "reason": reason,
        "method": method,
        "energy": energy,
        "wasserstein2": energy if w2 is None else w2,
        "speedup": speedup,
        "inversion_error": inversion,
    }


TEACHER = row("teacher (dopri5)", 1.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("fast", 1.05, 50.0), row("slow", 1.0, 2.0)], "Use fast, at 50 times"),
        ([row("fast but bad", 1.2, 50.0), row("slow", 1.0, 2.0)], "Use slow, at 2 times"),
        ([row("one is bad", 1.0, 50.0, w2=1.2), row("slow", 1.0, 2.0)], "Use slow, at 2 times"),
        ([row("other is bad", 1.2, 50.0, w2=0.1), row("slow", 1.0, 2.0)], "Use slow, at 2 times"),
        (
            [row("bad", 1.2, 50.0), row("worse", 1.3, 80.0)],
            "Keep the teacher.* 30 s.* bad comes closest, at 50 ",
        ),
        ([row("as good and slower", 1.0, 0.5)], "Keep the teacher"),
        ([row("fast", 1.05, 50.0), row("both", 1.0, 9.0, 0.01)], "Use fast.*noise from data, use both, at 9"),
        ([row("both", 1.05, 50.0, 0.01), row("slow", 1.0, 2.0)], r"Use both[^.]*\.[^U]*$"),
        ([row("fast", 1.05, 50.0), row("bad", 1.2, 9.0, 0.01)], r"Use fast[^b]*$"),
        ([], "No method but the teacher"),
        (
            [row("fast", 1.05, 50.0), row("early", 1.2, 60.0, reason=FEW)],
            "Use fast.* Too few steps to judge early",
        ),
        ([row("good and early", 1.0, 60.0, 0.01, reason=FEW)], r"Use good and early[^.]*\.$"),
        ([row("early", 1.2, 60.0, reason=FEW)], "Keep the teacher.* Too few steps to judge early: train for"),
    ],
)
def test_advice_follows_from_the_rows(rows, words):
    table = Comparison(
        [TEACHER, *rows],
        limits={"energy": 1.1, "wasserstein2": 1.1},
        seconds=30.0,
        trajectories=64,
        n=10,
        seed=0,
    )
    assert re.search(words, table.advice)
    assert table.advice in str(table)
    assert table.to_dict()["advice"] == table.advice


def test_blurred_samples_are_not_advised():
    """In many dimensions the mean of the data is nearer to samples in W2 than other samples are."""

    class Mean(Shifted):
        has_path = has_inverse = False

        def sample(self, *, x0, condition=None):
            return np.zeros_like(x0)

    teacher = FlowTeacher.gaussian(np.zeros(64), np.eye(64))
    data = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    table = compare(teacher, data, methods={"mean": Mean()}, **QUICK)
    assert table.rows[1]["wasserstein2"] < table.rows[0]["wasserstein2"]
    assert "Keep the teacher" in table.advice


def test_the_table_prints_and_is_plain_data(gaussian):
    table = compare(gaussian, DATA, methods=["Euler, 4 steps"], **QUICK)
    lines = str(table).splitlines()
    assert lines[1].startswith("method")
    # No column that has nothing to say.
    assert "steps" not in lines[1]
    assert lines[3].split()[:5] == ["Euler,", "4", "steps", "4", f"{table.rows[1]['milliseconds']:.2f}"]
    content = json.loads(json.dumps(table.to_dict()))
    assert content.pop("advice") == table.advice
    assert Comparison(**content) == table
    assert dataclasses.replace(table, interrupted=True).advice == table.advice


def test_the_table_as_a_data_frame(gaussian):
    pytest.importorskip("pandas", reason="pandas is not a dependency")
    table = compare(gaussian, DATA, methods=["Euler, 4 steps"], **QUICK)
    frame = table.to_frame()
    assert list(frame.index) == ["teacher (dopri5)", "Euler, 4 steps"]
    assert frame.loc["Euler, 4 steps", "evaluations"] == 4
