"""The grid, the table and the file of an ablation, on students of a few steps."""

from __future__ import annotations

import csv
import json
import math
import sys

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from experiments.ablation import AblationTable, ablate
from experiments.ablation.run import EVALUATION_SEED
from koopflow import FlowTeacher, KoopmanDistiller, _core
from koopflow.exceptions import ArgumentError, DivergenceError

TINY = {"width": 8, "depth": 1, "steps": 6, "trajectories": {"count": 64, "path_steps": 4}}
DEFAULTS = json.loads(_core.student_defaults(2))
# The exact flow to the Gaussian of conftest.py ends at the mean plus the covariance's root times the noise.
MEAN, ROOT = np.array([1.0, -2.0]), np.real(sqrtm(np.array([[2.0, 0.5], [0.5, 1.0]])))
SMALL = {"observables": 4, "options": TINY, "n": 64, "progress": False}


@pytest.fixture(scope="module")
def data(gaussian):
    return gaussian.sample(128, seed=1)


@pytest.fixture
def fits(monkeypatch):
    """Counts the students that are fitted."""
    counted = []
    fit = KoopmanDistiller.fit

    def counting(self, teacher, *args, **kwargs):
        counted.append(self)
        return fit(self, teacher, *args, **kwargs)

    monkeypatch.setattr(KoopmanDistiller, "fit", counting)
    return counted


# --- the grid -------------------------------------------------------------------------------------


def test_the_default_terms_are_the_papers_ablation(gaussian, data):
    table = ablate(gaussian, data, **SMALL)
    assert [row["name"] for row in table] == [
        "consistency",
        "target",
        "phase",
        "consistency + target",
        "consistency + phase",
        "target + phase",
        "consistency + target + phase",
    ]
    assert [row["weights"] for row in table[3:5]] == [
        {"consistency": 1.0, "target": 1.0},
        {"consistency": 1.0, "phase": 1.0},
    ]


def test_the_grid_is_a_product_in_order(gaussian, data, fits):
    table = ablate(
        gaussian,
        data,
        terms={"ends": {"endpoint": 2.0, "path": 0}, "both": ("endpoint", "inverse")},
        observables=[2, 4],
        generators=["spectral", "dense"],
        seeds=range(2),
        options=TINY,
        n=64,
        progress=False,
    )
    design = [(row["name"], row["observables"], row["generator"], row["seed"]) for row in table]
    expected = [
        (name, k, kind, seed)
        for name in ("ends", "both")
        for k in (2, 4)
        for kind in ("spectral", "dense")
        for seed in (0, 1)
    ]
    assert design == expected
    # What was fitted is what the rows say: every other term is off.
    for row, student in zip(table, fits, strict=True):
        on = {term: weight for term, weight in student.config_["weights"].items() if weight}
        assert on == row["weights"]
        assert student.n_observables_ == row["observables"] + 4
        assert (student.generator, student.seed, student.steps) == (row["generator"], row["seed"], 6)
    assert table[0]["weights"] == {"endpoint": 2.0}


def test_variants_are_named_after_their_terms(gaussian, data):
    table = ablate(gaussian, data, terms=["path", {"endpoint": 1, "phase": 0.5, "path": 0}], **SMALL)
    assert [row["name"] for row in table] == ["path", "endpoint + 0.5 phase"]
    only = ablate(gaussian, data, terms="path", **SMALL)
    assert [row["weights"] for row in only] == [{"path": 1.0}]


def rms(difference):
    return np.sqrt((np.asarray(difference, dtype=np.float64) ** 2).sum(axis=1).mean())


def wasserstein2(a, b):
    """By SciPy's assignment."""
    squares = cdist(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), "sqeuclidean")
    return np.sqrt(squares[linear_sum_assignment(squares)].mean())


def test_rows_hold_the_errors_of_the_student(gaussian, data):
    row = ablate(gaussian, data, terms=["endpoint"], seeds=3, evaluation_seed=17, **SMALL)[0]
    # The same student, measured by hand against the exact flow.
    weights = {**dict.fromkeys(DEFAULTS["weights"], 0), "endpoint": 1}
    student = KoopmanDistiller(observables=4, seed=3, objective={"weights": weights}, **TINY)
    student.fit(gaussian, progress=False)
    noise = np.asarray(_core.normal((64, 2), 17), dtype=np.float64)
    ends = MEAN + noise @ ROOT
    scale = np.sqrt(np.asarray(data, dtype=np.float64).var(axis=0).sum())
    samples = student.sample(x0=noise.astype(np.float32))
    assert row["endpoint_error"] == pytest.approx(rms(samples - ends) / scale, rel=1e-3)
    recovered = student.invert(ends.astype(np.float32))
    assert row["inversion_error"] == pytest.approx(rms(recovered - noise) / rms(noise), rel=1e-3)
    again = student.sample(x0=recovered)
    assert row["round_trip_error"] == pytest.approx(rms(again - ends) / scale, rel=1e-3)
    times = np.linspace(0.1, 0.9, 17)
    states = student.sample_path(noise.astype(np.float32), times=times)
    errors, lines = [], []
    for t, state in zip(times, states, strict=True):
        exact = t * MEAN + noise @ np.real(sqrtm((1 - t) ** 2 * np.eye(2) + t**2 * ROOT @ ROOT))
        errors.append(rms(state - exact) / scale)
        lines.append(rms(noise + t * (ends - noise) - exact) / scale)
    assert row["path_error"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert row["straight_line_path_error"] == pytest.approx(np.mean(lines), rel=1e-2)
    assert row["wasserstein2"] == pytest.approx(wasserstein2(samples, data[:64]), rel=1e-4)
    assert row["teacher_wasserstein2"] == pytest.approx(wasserstein2(ends, data[:64]), rel=1e-3)
    assert row["steps"] == 6
    assert row["teacher_evaluations"] > 0
    assert row["seconds"] > 0
    assert row["reason"] == ""


def test_observables_default_to_the_dimensions(gaussian, data):
    table = ablate(gaussian, data, terms=["endpoint"], options=TINY, n=64, progress=False)
    assert table[0]["observables"] == DEFAULTS["observables"]


def test_conditional_teachers(data):
    import torch

    shifts = torch.tensor([[5.0, 0.0], [0.0, -5.0]])
    teacher = FlowTeacher.from_torch(lambda t, x, y: shifts[y].expand_as(x), event_shape=(2,), num_classes=2)
    # Only the second class is asked for, so the teacher's samples are the noise below.
    ones = np.ones(8, dtype=np.int64)
    table = ablate(teacher, data, terms=["endpoint"], condition=ones, **SMALL)
    noise = _core.normal((64, 2), EVALUATION_SEED)
    expected = wasserstein2(noise + shifts[1].numpy(), data[:64])
    assert table[0]["teacher_wasserstein2"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"terms": ["endpoints"]}, r"terms: expected names among .*got \['endpoints'\]"),
        ({"terms": [{"endpoint": 0}]}, "at least one weight"),
        ({"terms": []}, "terms: expected at least one"),
        ({"seeds": []}, "seeds: expected at least one"),
        ({"options": {"seed": 1}}, "seeds="),
        ({"options": {"objective": {"weights": {"path": 1}}}}, "terms="),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_first_run(gaussian, data, fits, arguments, match):
    with pytest.raises(ArgumentError, match=match):
        ablate(gaussian, data, **{**SMALL, **arguments})
    assert fits == []


def test_other_types_are_refused(gaussian, data, fits):
    with pytest.raises(TypeError, match="FlowTeacher"):
        ablate(lambda t, x: x, data)
    with pytest.raises(TypeError, match="speed"):
        ablate(gaussian, data, options={"speed": 1}, progress=False)
    assert fits == []


# --- runs that end early --------------------------------------------------------------------------


def test_a_run_that_diverges_is_a_row(gaussian, data, monkeypatch, tmp_path):
    fit = KoopmanDistiller.fit

    def diverging(self, teacher, *args, **kwargs):
        if self.seed == 1:
            raise DivergenceError("the phase loss is NaN\nat step 3")
        return fit(self, teacher, *args, **kwargs)

    monkeypatch.setattr(KoopmanDistiller, "fit", diverging)
    file = tmp_path / "runs.csv"
    table = ablate(gaussian, data, terms=["phase"], seeds=[0, 1, 2], csv=file, **SMALL)
    assert math.isnan(table[1]["endpoint_error"])
    assert table[1]["reason"] == "the phase loss is NaN at step 3"
    summary = table.summary()[0]
    assert (summary["runs"], summary["failed"]) == (3, 1)
    errors = [table[0]["endpoint_error"], table[2]["endpoint_error"]]
    assert summary["endpoint_error"] == pytest.approx(np.mean(errors))
    assert summary["endpoint_error_spread"] == pytest.approx(np.std(errors, ddof=1))
    # A run that diverged is finished, and comes back from the file as it went in.
    monkeypatch.setattr(KoopmanDistiller, "fit", None)
    again = ablate(gaussian, data, terms=["phase"], seeds=[0, 1, 2], csv=file, **SMALL)
    assert str(again) == str(table)
    assert again[0] == table[0]


@pytest.mark.parametrize("when", ["trajectories", "student"])
def test_ctrl_c_returns_the_runs_that_finished(gaussian, data, monkeypatch, tmp_path, when):
    fit = KoopmanDistiller.fit

    def interrupted(self, teacher, *args, **kwargs):
        def press(event):
            if self.seed == 2 and event["stage"] == when:
                raise KeyboardInterrupt

        return fit(self, teacher, *args, callback=press, **kwargs)

    monkeypatch.setattr(KoopmanDistiller, "fit", interrupted)
    file = tmp_path / "runs.csv"
    with pytest.warns(RuntimeWarning, match="interrupted after 2 of 3 runs") as caught:
        table = ablate(gaussian, data, terms=["endpoint"], seeds=[0, 1, 2], csv=file, **SMALL)
    assert len(caught) == 1
    assert [row["seed"] for row in table] == [0, 1]
    assert table.interrupted
    assert len(file.read_text().splitlines()) == 3


def test_progress_hears_of_every_run(gaussian, data):
    events = []
    table = ablate(gaussian, data, terms=["endpoint", "path"], **{**SMALL, "progress": events.append})
    assert [(event["stage"], event["step"], event["total"]) for event in events] == [
        ("ablation", 1, 2),
        ("ablation", 2, 2),
    ]
    assert events[1]["values"]["endpoint_error"] == table[1]["endpoint_error"]


# --- the file -------------------------------------------------------------------------------------


def test_a_file_resumes_with_what_is_missing(gaussian, data, fits, tmp_path):
    file = tmp_path / "runs.csv"
    first = ablate(gaussian, data, terms=["endpoint"], seeds=[0, 1], csv=file, **SMALL)
    assert len(fits) == 2
    assert not first.interrupted
    more = ablate(gaussian, data, terms=["path", "endpoint"], seeds=[1, 2], csv=file, **SMALL)
    assert [(s.seed, s.objective.weights["path"]) for s in fits[2:]] == [(1, 1.0), (2, 1.0), (2, 0.0)]
    assert more[2] == first[1]
    with file.open() as lines:
        assert len(list(csv.DictReader(lines))) == 5
    ablate(gaussian, data, terms=["endpoint"], seeds=[0, 1], csv=file, resume=False, **SMALL)
    assert len(fits) == 7
    assert len(file.read_text().splitlines()) == 3


def test_other_settings_are_other_runs(gaussian, data, fits, tmp_path):
    file = tmp_path / "runs.csv"
    ablate(gaussian, data, terms=["endpoint"], csv=file, **SMALL)
    ablate(gaussian, data, terms=["endpoint"], csv=file, **{**SMALL, "options": {**TINY, "steps": 7}})
    ablate(gaussian, data, terms=["endpoint"], csv=file, **{**SMALL, "n": 65})
    assert len(fits) == 3


def test_a_line_that_was_cut_off_is_done_again(gaussian, data, fits, tmp_path):
    file = tmp_path / "runs.csv"
    whole = ablate(gaussian, data, terms=["endpoint"], seeds=[0, 1], csv=file, **SMALL)
    text = file.read_bytes()
    file.write_bytes(text[:-40])
    again = ablate(gaussian, data, terms=["endpoint"], seeds=[0, 1], csv=file, **SMALL)
    assert [student.seed for student in fits] == [0, 1, 1]
    assert again[0] == whole[0]
    # The same seed gives the same student, so the same row but for the clock.
    assert {**again[1], "seconds": 0} == {**whole[1], "seconds": 0}
    assert file.read_bytes().count(b"\n") == text.count(b"\n")


def test_files_of_something_else_are_refused(gaussian, data, fits, tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ArgumentError, match=r"csv: expected the columns .*\['a', 'b'\]"):
        ablate(gaussian, data, csv=file, **SMALL)
    assert file.read_text() == "a,b\n1,2\n"
    ablate(gaussian, data, terms=["endpoint"], csv=file, resume=False, **SMALL)
    other = FlowTeacher.gaussian([3.0, 3.0], np.eye(2))
    with pytest.raises(ArgumentError, match="csv: expected runs of this teacher and data"):
        ablate(other, data, terms=["endpoint"], csv=file, **SMALL)
    assert len(fits) == 1


# --- the table ------------------------------------------------------------------------------------


@pytest.fixture
def table():
    row = {
        "name": "a|b",
        "weights": {"phase": 1.0},
        "observables": 8,
        "generator": "dense",
        "seed": 0,
        "endpoint_error": 0.25,
        "reason": "",
    }
    return AblationTable([row, {**row, "seed": 1, "endpoint_error": math.nan, "reason": "<diverged>"}])


def test_a_table_is_a_sequence(table):
    assert len(table) == 2
    assert table[-1]["seed"] == 1
    assert isinstance(table[:1], AblationTable)
    assert [row["seed"] for row in table] == [0, 1]
    assert next(reversed(table))["reason"] == "<diverged>"


def test_a_table_prints(table):
    lines = str(table).splitlines()
    assert lines[0].split() == ["terms", "observables", "generator", "seed", "endpoint", "reason"]
    ends = [
        line.index(value) + len(value) for line, value in zip(lines, ["endpoint", "0.2500"], strict=False)
    ]
    assert ends[0] == ends[1]
    # What was not measured is left empty.
    assert lines[2].split() == ["a|b", "8", "dense", "1", "<diverged>"]
    assert "2 rows" in repr(table)
    assert table.to_text("pipe").splitlines()[1].startswith("|:")
    assert "reason" not in str(table[:1])


def test_a_summary_has_means_and_deviations():
    row = {"name": "a", "weights": {"phase": 1.0}, "observables": 8, "generator": "dense", "reason": ""}
    values = [0.25, 0.5, 1.5, math.nan]
    rows = [{**row, "seed": k, "path_error": value} for k, value in enumerate(values)]
    summary = AblationTable([*rows, {**row, "name": "b", "seed": 0, "path_error": 2.0}]).summary()
    assert [(line["name"], line["runs"]) for line in summary] == [("a", 4), ("b", 1)]
    assert summary[0]["path_error"] == pytest.approx(np.mean(values[:3]))
    assert summary[0]["path_error_spread"] == pytest.approx(np.std(values[:3], ddof=1))
    assert math.isnan(summary[1]["path_error_spread"])
    assert "0.7500 ± 0.6614" in str(summary)


def test_a_table_as_csv(table, tmp_path):
    table.to_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert json.loads(rows[0]["weights"]) == {"phase": 1.0}
    assert float(rows[0]["endpoint_error"]) == 0.25
    assert rows[1]["reason"] == "<diverged>"


def test_a_table_as_columns_and_data_frame(table, monkeypatch):
    assert table.to_dict()["seed"] == [0, 1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ArgumentError, match="pip install pandas"):
        table.to_frame()
    monkeypatch.undo()
    pytest.importorskip("pandas", reason="pandas is not a dependency")
    frame = table.to_frame()
    assert list(frame["seed"]) == [0, 1]
    assert tuple(frame.columns) == table.columns
