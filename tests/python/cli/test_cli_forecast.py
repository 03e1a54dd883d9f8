"""forecast: what it prints and writes is what the Python API says."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanForecaster
from koopflow.cli import main

TIMES = 0.1 * np.arange(60)
SMALL = ("--observables", 40, "--quiet")


def run(*arguments):
    return main([str(argument) for argument in ("forecast", *arguments)])


@pytest.fixture(scope="module")
def paths():
    """Points that turn, seen with noise."""
    random = np.random.default_rng(0)
    phases = random.uniform(0.0, 6.0, 10)[:, None]
    turning = np.stack([np.cos(TIMES + phases), np.sin(TIMES + phases)], axis=2)
    return turning + 0.05 * random.normal(size=turning.shape)


@pytest.fixture
def file(paths, tmp_path):
    np.savez(tmp_path / "paths.npz", paths=paths, times=TIMES)
    return tmp_path / "paths.npz"


def linear(*arguments, history=1, **keywords):
    """A forecaster that is fitted in no time."""
    model = KoopmanForecaster(basis="polynomial", degree=1, history=history)
    return model.fit(*arguments, **keywords, progress=False)


LINEAR = ("--basis", "polynomial", "--degree", 1, "--quiet")


def test_it_fits_saves_and_forecasts(file, paths, tmp_path, capsys):
    found, kept = tmp_path / "found.npz", tmp_path / "model.safetensors"
    assert run(file, *SMALL, "--ahead", 12, "--members", 6, "--seed", 3, "-o", found, "--save", kept) == 0
    model = KoopmanForecaster(observables=40, seed=3).fit(paths, TIMES, progress=False)
    assert capsys.readouterr().out == f"{model.summary()}\nwrote {kept}\nwrote {found}\n"
    # Of noisy rows those before the last are filtered as well.
    steps = model.step_ * np.arange(1, 13)
    members = model.forecast(paths, steps, members=6, seed=3)
    with np.load(found) as arrays:
        assert sorted(arrays) == ["mean", "members", "times"]
        np.testing.assert_allclose(arrays["times"], steps)
        np.testing.assert_array_equal(arrays["members"], members)
        np.testing.assert_array_equal(arrays["mean"], members.mean(axis=0))
    # The model that was kept says the same.
    again = tmp_path / "again.npy"
    assert run(file, "--model", kept, "--ahead", 12, "--members", 0, "-o", again, "--quiet") == 0
    np.testing.assert_allclose(np.load(again), model.forecast(paths, steps), rtol=1e-9, atol=1e-12)
    assert run(file, "--model", kept, "--ahead", 9, "-o", tmp_path / "fan.png", "--quiet") == 0
    assert (tmp_path / "fan.png").read_bytes()[:4] == b"\x89PNG"


def test_errors_where_it_was_not_fitted(file, paths, tmp_path, capsys):
    assert run(file, *LINEAR, "--evaluate", "--ahead", 8, "--members", 4) == 0
    model = linear(paths[:8], TIMES)
    report = model.evaluate(paths[8:], TIMES, ahead=8, members=4)
    said = capsys.readouterr().out
    assert said.startswith(f"{model.summary()}\n\nerrors on the last 2 paths, held out\n{report}\n")
    # A model that is fitted is evaluated on everything.
    model.save(tmp_path / "model.safetensors")
    evaluate = ("--model", tmp_path / "model.safetensors", "--evaluate", "--quiet")
    assert run(file, *evaluate, "--ahead", 8, "--members", 4) == 0
    loaded = KoopmanForecaster.load(tmp_path / "model.safetensors")
    report = loaded.evaluate(paths, TIMES, ahead=8, members=4)
    assert f"errors on 10 paths\n{report}\n" in capsys.readouterr().out


def test_the_end_of_a_single_path_is_held_out(paths, tmp_path, capsys):
    np.save(tmp_path / "one.npy", paths[0])
    assert run(tmp_path / "one.npy", *LINEAR, "--evaluate", "--ahead", 20, "--members", 0) == 0
    report = linear(paths[:1, :48]).evaluate(paths[:1, 48:], np.arange(48, 60), ahead=5, members=0)
    assert f"errors on the last 12 rows, held out\n{report}\n" in capsys.readouterr().out


def test_a_series_of_numbers_is_printed(paths, tmp_path, capsys):
    series = paths[0, :, 0]
    np.save(tmp_path / "series.npy", series)
    assert run(tmp_path / "series.npy", *LINEAR, "--history", 4, "--ahead", 3, "--members", 0) == 0
    model = linear([series], history=4)
    expected = model.forecast(series[None], [1.0, 2.0, 3.0])[:, 0]
    title, head, *rows = capsys.readouterr().out.splitlines()[-5:]
    assert title == "forecast of the series"
    assert head.split() == ["time", "mean"]
    shown = np.array([row.split() for row in rows], dtype=float)
    np.testing.assert_allclose(shown[:, 0], [60.0, 61.0, 62.0])
    np.testing.assert_allclose(shown[:, 1], expected, atol=1e-3)


def test_a_table_has_times_names_and_gaps(paths, tmp_path, capsys):
    rows = paths[0].copy()
    rows[::9, 1] = np.nan
    lines = ["\ufefftime,height,width"]
    lines += [f"{t},{x},{y}".replace("nan", "") for t, (x, y) in zip(TIMES, rows.tolist(), strict=True)]
    (tmp_path / "path.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    options = (*LINEAR, "--ahead", 4, "--members", 5)
    assert run(tmp_path / "path.csv", *options, "-o", tmp_path / "found.npz") == 0
    model = linear(rows[None], TIMES)
    with np.load(tmp_path / "found.npz") as arrays:
        members = model.forecast(rows[None], model.step_ * np.arange(1, 5), members=5)
        np.testing.assert_allclose(arrays["members"], members, rtol=1e-7, atol=1e-9)
    capsys.readouterr()
    assert run(tmp_path / "path.csv", *options, "--coordinate", 1, "--level", 0.5) == 0
    title, head, first = capsys.readouterr().out.splitlines()[-6:-3]
    assert title == "forecast of width"
    assert head.split() == ["time", "mean", "25%", "75%"]
    assert float(first.split()[0]) == pytest.approx(6.0)
    assert run(tmp_path / "path.csv", *options, "-o", tmp_path / "path.svg") == 0
    assert (tmp_path / "path.svg").stat().st_size > 1000


def test_paths_that_end_early_are_forecast_from_their_ends(paths, tmp_path):
    mask = np.ones((10, 60), dtype=bool)
    mask[0, 40:] = mask[3, 20:25] = False
    np.savez(tmp_path / "gaps.npz", paths=paths, times=TIMES, mask=mask)
    assert run(tmp_path / "gaps.npz", *LINEAR, "--ahead", 3, "--members", 0, "-o", tmp_path / "out.npy") == 0
    found = np.load(tmp_path / "out.npy")
    model = linear(paths, TIMES, mask=mask)
    steps = model.step_ * np.arange(1, 4)
    np.testing.assert_allclose(found[:, 1], model.forecast(paths[1:2], steps)[:, 0], atol=1e-9)
    np.testing.assert_allclose(found[:, 0], model.forecast(paths[:1, :40], steps)[:, 0], atol=1e-3)


def test_what_is_done_and_conditions(tmp_path, capsys):
    random = np.random.default_rng(1)
    turn, push = np.array([[0.98, 0.1], [-0.1, 0.98]]), random.normal(size=(10, 50, 1))
    paths = np.zeros((10, 50, 2))
    paths[:, 0] = random.normal(size=(10, 2))
    for row in range(49):
        paths[:, row + 1] = paths[:, row] @ turn + push[:, row] * [0.0, 0.1]
    np.savez(tmp_path / "pushed.npz", paths=paths[:, :40], inputs=push)
    options = (*LINEAR, "--members", 0, "--overwrite", "-o", tmp_path / "out.npy")
    assert run(tmp_path / "pushed.npz", *options, "--ahead", 10) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), paths[:, 40:].swapaxes(0, 1), atol=1e-6)
    capsys.readouterr()
    assert run(tmp_path / "pushed.npz", *options, "--ahead", 12) == 2
    assert "expected inputs of 51 rows or more" in capsys.readouterr().err
    labels = np.arange(10) % 2
    np.savez(tmp_path / "kinds.npz", paths=paths, condition=labels)
    assert run(tmp_path / "kinds.npz", *options, "--ahead", 2, "--evaluate") == 0
    model = linear(paths[:8], condition=labels[:8])
    expected = model.forecast(paths[:, -1], [1.0, 2.0], condition=labels)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-9)


def test_a_file_gives_the_same_options(file, tmp_path, capsys):
    text = '[run]\npaths = "{}"\n[forecaster]\nbasis = "polynomial"\ndegree = 1\nmargin = "none"\n'
    (tmp_path / "run.toml").write_text(text.format(file) + "[forecast]\nahead = 0\n")
    assert run("--config", tmp_path / "run.toml", "--quiet") == 0
    assert capsys.readouterr().out.startswith("KoopmanForecaster: 3 observables")


def test_ctrl_c_keeps_the_best_model(file, tmp_path, monkeypatch, capsys):
    fit = KoopmanForecaster.fit

    def interrupted(self, *arguments, **keywords):
        fit(self, *arguments, **keywords)
        self.history_["stopped"] = "interrupted"

    monkeypatch.setattr(KoopmanForecaster, "fit", interrupted)
    assert run(file, *LINEAR, "--save", tmp_path / "best.safetensors") == 130
    assert "the best forecaster so far is" in capsys.readouterr().err
    assert KoopmanForecaster.load(tmp_path / "best.safetensors").n_observables_ == 3
    assert run(file, *LINEAR) == 130


def test_what_is_wrong_is_one_line(file, paths, tmp_path, capsys):
    FlowTeacher.gaussian([0.0], [[1.0]]).save(tmp_path / "teacher.safetensors")
    linear(paths, TIMES).save(tmp_path / "model.safetensors")
    np.savez(tmp_path / "other.npz", x=paths)
    np.savez(tmp_path / "mask.npz", paths=paths, mask=np.ones((3, 3)))
    np.savez(tmp_path / "times.npz", paths=paths, times=TIMES[::-1])
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "unseen.npy", np.full((2, 9, 2), np.nan))
    for name, text in (("head", "1,2\n3,4\n"), ("cell", "t,x\n0,1\n1,warm\n"), ("row", "t,x\n0\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    teacher, model = tmp_path / "teacher.safetensors", tmp_path / "model.safetensors"
    for arguments, said in (
        ((), "paths: expected a file of paths, got nothing"),
        ((tmp_path / "none.npy",), "which does not exist"),
        ((teacher,), "expected a file that ends in .npy, .npz, .csv"),
        ((tmp_path / "other.npz",), "expected arrays named paths and optionally times, mask, inputs"),
        ((tmp_path / "mask.npz",), "expected mask of shape (10, 60, 2), got (3, 3)"),
        ((tmp_path / "times.npz",), "expected times that are finite and increase"),
        ((tmp_path / "words.npy",), "expected numbers [N, T, *event], [T, d] or [T]"),
        ((tmp_path / "unseen.npy",), "expected every path in"),
        ((tmp_path / "head.csv",), "expected a header of names"),
        ((tmp_path / "cell.csv",), "line 3, column 'x': expected a number, got 'warm'"),
        ((tmp_path / "row.csv",), "line 2: expected 2 cells, got 1"),
        ((file, "--basis", "cubic"), "basis"),
        ((file, "--degrees", 2), "--degrees: no option 'degrees': did you mean 'degree'?"),
        ((file, "--ahead", -1), "--ahead: expected an integer of at least 0"),
        ((file, "--level", 2), "--level: expected a share in (0, 1)"),
        ((file, "--coordinate", 2), "--coordinate: expected an integer from 0 to 1"),
        ((file, "-o", tmp_path / "out.txt"), "--output: expected a file that ends in .npz, .npy, .png"),
        ((file, "-o", tmp_path / "out.npy", "--ahead", 0), "--output: expected none with --ahead 0"),
        ((file, "-o", file), "already exists"),
        ((file, "-o", file, "--overwrite"), "--output: expected another file than that of --paths"),
        ((file, "--save", tmp_path / "out.npz"), "--save: expected a file that ends in .safetensors"),
        ((file, "--save", model), "already exists: --overwrite replaces it"),
        ((file, "--save", teacher, "--overwrite"), "--save: expected a new file or one of a forecaster"),
        (
            (file, "--save", model, "--model", model, "--overwrite"),
            "--save: expected either --save or --model",
        ),
        ((file, "--model", teacher), "forecaster"),
        ((file, "--model", model, "--degree", 2), "--degree: expected no option of a fit with --model"),
    ):
        assert run(*arguments, "--quiet") == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
