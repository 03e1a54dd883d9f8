"""The comparison: rows, parts, files, claims. What the numbers say is for python -m experiments.compare."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import ot
import pytest
from scipy.linalg import sqrtm

from experiments.compare import METHODS, ComparisonTable, claims, compare, to_markdown, write
from experiments.compare.__main__ import main
from experiments.compare.figures import comparison as picture
from experiments.compare.measure import Reference, measured
from koopflow import FlowTeacher, KoopmanDistiller, _core
from koopflow.exceptions import ArgumentError
from koopflow.metrics.errors import PATH_TIMES

from ..conftest import COV, MEAN

SMALL = {
    "seconds": None,
    "steps": 30,
    "seeds": [0, 1],
    "trajectories": 256,
    "teacher_steps": 60,
    "n": 64,
    "progress": False,
}
FEW = ["Euler, 2 steps", "straight line", "koopflow", "plain network"]


@pytest.fixture(scope="module")
def table():
    return compare(["moons/ot", "checkerboard/vp"], methods=FEW, **SMALL)


def test_there_is_a_row_for_every_problem_seed_and_method(table):
    rows = {(row["problem"], row["seed"], row["method"]) for row in table}
    assert rows == {
        (problem, seed, method)
        for problem in ("moons/ot", "checkerboard/vp")
        for seed in (0, 1)
        for method in ("dopri5", *FEW)
    }
    assert {row["curved"] for row in table.where(problem="moons/ot")} == {False}
    assert {row["curved"] for row in table.where(problem="checkerboard/vp")} == {True}
    assert {row["budget"] for row in table.where(method="koopflow")} == {"30 steps"}
    assert {row["steps"] for row in table.where(method="plain network")} == {30.0}


def test_the_teacher_is_its_own_measure(table):
    for row in table.where(method="dopri5"):
        assert row["endpoint_error"] < 1e-3
        assert row["w2_over_teacher"] == 1.0
        assert row["teacher_w2_low"] <= row["teacher_w2_high"]
        assert row["evaluations"] > 10


def test_exact_endpoints_and_a_straight_path(table):
    for row in table.where(method="straight line"):
        assert row["endpoint_error"] < 1e-3
        assert row["path_over_line"] == pytest.approx(1.0, abs=0.05)
        assert math.isnan(row["inversion_error"])
    curved = {row["straight_line_path_error"] for row in table.where(problem="checkerboard/vp")}
    straight = {row["straight_line_path_error"] for row in table.where(problem="moons/ot")}
    values = [{value for value in each if not math.isnan(value)} for each in (curved, straight)]
    assert min(values[0]) > max(values[1])


def test_what_a_method_has_is_what_it_is_measured_by(table):
    for row in table:
        assert math.isnan(row["inversion_error"]) == (row["method"] != "koopflow")
        assert row["evaluations"] == {"koopflow": 1, "plain network": 1, "Euler, 2 steps": 2}.get(
            row["method"], row["evaluations"]
        )
    assert {curve["method"] for curve in table.curves} >= {"koopflow", "straight line"}
    assert all(len(curve["path"]) == len(PATH_TIMES) for curve in table.curves)


def test_measures_are_those_of_pot_and_the_closed_form(gaussian):
    student = KoopmanDistiller(observables=8, width=16, depth=1, steps=200, trajectories=512, seed=3).fit(
        gaussian, progress=False
    )
    data = np.asarray(gaussian.sample(1000, seed=5))
    reference = Reference.of(gaussian, data, 300, 0)
    numbers, curves = measured(student, reference, reference, steps=None)
    noise, scale = (
        np.asarray(_core.normal((300, 2), 900_000_000)),
        np.sqrt(data.astype("f8").var(axis=0).sum()),
    )

    def exact(t):
        """The flow map of the Gaussian teacher, t m + (t^2 C + (1 - t)^2 I)^(1/2) x0."""
        return t * MEAN + noise @ np.real(sqrtm(t**2 * COV + (1 - t) ** 2 * np.eye(2)))

    def rms(difference):
        return np.sqrt((difference.astype("f8") ** 2).sum(axis=1).mean())

    samples, recovered = (
        np.asarray(a) for a in (student.sample(x0=noise), student.invert(exact(1.0).astype("f4")))
    )
    again = np.asarray(student.sample(x0=recovered))
    path = [rms(np.asarray(student.sample_path(noise, times=[t]))[0] - exact(t)) / scale for t in PATH_TIMES]
    line = [rms(noise + t * (exact(1.0) - noise) - exact(t)) / scale for t in PATH_TIMES]
    np.testing.assert_allclose(curves["path"], path, atol=1e-3)
    np.testing.assert_allclose(curves["straight line"], line, atol=1e-3)
    assert numbers["endpoint_error"] == pytest.approx(rms(samples - exact(1.0)) / scale, abs=1e-3)
    assert numbers["path_error"] == pytest.approx(np.mean(path), abs=1e-3)
    assert numbers["inversion_error"] == pytest.approx(rms(recovered - noise) / rms(noise), abs=1e-3)
    assert numbers["round_trip_error"] == pytest.approx(rms(again - exact(1.0)) / scale, abs=1e-3)
    rows = [samples.astype("f8"), data[:300].astype("f8")]
    assert numbers["wasserstein2"] == pytest.approx(np.sqrt(ot.emd2([], [], ot.dist(*rows))), rel=1e-6)


def test_finished_parts_are_taken_from_the_folder(table, tmp_path):
    options = {**SMALL, "seeds": [0]}
    compare("moons/ot", methods=FEW, output=tmp_path, **options)
    part = tmp_path / "parts" / "moons-ot-0.json"
    content = json.loads(part.read_text())
    content["rows"][0]["energy"] = 123.0
    part.write_text(json.dumps(content))
    again = compare("moons/ot", methods=FEW, output=tmp_path, **options)
    assert again[0]["energy"] == 123.0
    with pytest.raises(ArgumentError, match="other settings"):
        compare("moons/ot", methods=FEW, output=tmp_path, **{**options, "steps": 31})
    part.write_text("{")
    with pytest.raises(ArgumentError, match="not a part of a comparison"):
        compare("moons/ot", methods=FEW, output=tmp_path, **options)
    anew = compare("moons/ot", methods=FEW, output=tmp_path, resume=False, **options)
    assert anew[0]["energy"] == pytest.approx(table[0]["energy"], rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_teacher_that_was_cut_short_leaves_no_part(tmp_path, monkeypatch, seed):
    fit = FlowTeacher.fit

    def interrupted(self, data, **options):
        def press(event):
            if self.seed == seed:
                raise KeyboardInterrupt

        return fit(self, data, **{**options, "progress": press})

    monkeypatch.setattr(FlowTeacher, "fit", interrupted)
    with pytest.warns(RuntimeWarning, match=f"interrupted after {seed} of 2 parts") as caught:
        cut = compare("moons/ot", methods=["straight line"], output=tmp_path, **SMALL)
    assert len(caught) == 1
    assert cut.interrupted
    assert sorted({row["seed"] for row in cut}) == list(range(seed))
    assert [file.stem for file in tmp_path.rglob("*.json")] == [f"moons-ot-{k}" for k in range(seed)]


def test_files(table, tmp_path):
    written = write(table, tmp_path)
    assert sorted(file.name for file in written) == [
        "checkerboard-vp.png",
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "moons-ot.png",
    ]
    assert all(file.stat().st_size > 500 for file in written)
    with open(tmp_path / "comparison.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["endpoint_error"]) for line in lines] == [row["endpoint_error"] for row in table]
    back = ComparisonTable.from_json(tmp_path / "comparison.json")
    assert to_markdown(back) == to_markdown(table)
    assert "NaN" not in (tmp_path / "comparison.json").read_text()
    assert "## moons/ot, 30 steps" in (tmp_path / "comparison.md").read_text()


def row(method, **values):
    return {
        "problem": "moons/vp",
        "method": method,
        "budget": "" if "Euler" in method or method == "dopri5" else "8 s",
        "curved": True,
        "seed": 0,
        "teacher_w2_high": 1.1,
        **values,
    }


def test_claims_are_decided_by_the_rows():
    rows = [
        row("dopri5", wasserstein2=1.0, milliseconds=100.0, evaluations=60.0),
        row("Euler, 4 steps", wasserstein2=1.5, milliseconds=4.0, evaluations=4.0),
        row(
            "koopflow",
            endpoint_error=0.03,
            path_over_line=0.1,
            inversion_error=0.01,
            path_error=0.1,
            wasserstein2=1.05,
            milliseconds=8.0,
            evaluations=1.0,
        ),
        row("plain network", endpoint_error=0.02, wasserstein2=1.0, milliseconds=1.0, evaluations=1.0),
    ]
    found = {claim.text: claim for claim in claims(ComparisonTable(rows))}
    assert found["path error over the straight line's"].holds is True
    assert found["endpoint error"].holds is False
    assert found["endpoint error over the plain network's"].got == pytest.approx(1.5)
    assert found["W2 over that of Euler, 4 steps"].got == pytest.approx(0.7)
    assert found["milliseconds over those of Euler, 4 steps"].holds is False
    assert found["W2 over the upper end of the teacher's interval"].got == pytest.approx(1.05 / 1.1)
    assert found["other one-step methods with a path and an inverse"].got == 0.0
    rival = row("plain network", path_error=0.1, inversion_error=0.1, evaluations=1.0, budget="8 s")
    found = {claim.text: claim for claim in claims(ComparisonTable([*rows, rival]))}
    assert found["other one-step methods with a path and an inverse"].holds is False


@pytest.mark.parametrize(
    ("problems", "options", "words"),
    [
        ("moons", {}, "slash"),
        ("moons/straight", {}, "ot"),
        ("stars/ot", {}, "moons"),
        ("moons/ot", {"methods": ["koopflow", "magic"]}, "magic"),
        ([], {}, "at least one"),
        ("moons/ot", {"n": 0}, "n: "),
    ],
)
def test_what_there_is_not_is_said(problems, options, words):
    with pytest.raises(ArgumentError, match=words):
        compare(problems, **{**SMALL, **options})


def test_the_command_line(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--seeds", "0", "--steps", "10", "--problems", "moons/ot"]
    arguments += ["--seconds", "0", "--n", "32", "--methods", "koopflow", "--trajectories", "128"]
    arguments += ["--teacher-steps", "20"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "comparison.md" in out
    assert "inversion error" in out
    part = tmp_path / "parts" / "moons-ot-0.json"
    content = json.loads(part.read_text())
    assert content["settings"]["steps"] == 10
    assert content["settings"]["seconds"] is None
    # A second call takes the part that is there, unless it is told not to.
    content["rows"][0]["energy"] = 123.0
    part.write_text(json.dumps(content))
    main(arguments)
    assert ",123.0," in (tmp_path / "comparison.csv").read_text()
    assert main([*arguments, "--fresh"]) == 0
    assert ",123.0," not in (tmp_path / "comparison.csv").read_text()
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path), "--problems", "stars/ot"])
    assert stopped.value.code == 2
    assert "stars/ot" in capsys.readouterr().err


def test_methods_that_do_not_train_take_the_evaluations_of_their_names(gaussian):
    expected = {"Euler, 1 step": 1, "Euler, 4 steps": 4, "Heun, 10 steps": 20, "AB2, 4 steps": 4}
    for name, evaluations in expected.items():
        solver = METHODS[name].make(seconds=1.0).fit(gaussian)
        before = gaussian.evaluations
        solver.sample(x0=np.zeros((3, 2), np.float32))
        assert gaussian.evaluations - before == evaluations
    idle = {name for name, method in METHODS.items() if not method.trains}
    assert idle == {name for name in METHODS if name.startswith(("Euler", "Heun", "AB"))} | {
        "dopri5",
        "straight line",
    }


TRAINED = [name for name, method in METHODS.items() if method.trains and not method.images_only]


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_samples_the_teacher_that_it_was_fitted_to(gaussian, name):
    method = METHODS[name]
    budget = {"steps": 2, "seed": 0, "device": "cpu"}
    given = {} if method.distils else {"data": gaussian.sample(64)}
    student = method.make(**budget, **({"trajectories": 64} if method.distils else {}))
    student.fit(gaussian, **given, progress=False)
    noise = _core.normal((5, 2), 0)
    for steps in method.steps:
        before = student.evaluations
        chosen = {} if method.steps == (1,) else {"steps": steps}
        assert student.sample(x0=noise, **chosen).shape == (5, 2)
        assert student.evaluations - before == steps * method.segments


def test_pictures_have_every_method_but_the_line(table):
    axes = picture(table.where(problem="checkerboard/vp"), curves=table.curves, title="checkerboard")
    assert axes[0].get_title(loc="left") == "checkerboard"
    koopflow = [
        np.mean([row[column] for row in table.where(problem="checkerboard/vp", method="koopflow")])
        for column in ("evaluations", "w2_over_teacher")
    ]
    drawn = [line.get_xydata() for line in axes[0].lines]
    assert any(len(xy) == 1 and np.allclose(xy[0], koopflow) for xy in drawn)
    # The teacher, Euler, koopflow and the plain network, and the level of the teacher.
    assert len(drawn) == 5
    assert len(axes[2].lines) == 2


def test_pictures_need_rows():
    with pytest.raises(ArgumentError, match="rows"):
        picture([])
    with pytest.raises(ArgumentError, match="axes"):
        picture([row("koopflow")], axes=[None])
