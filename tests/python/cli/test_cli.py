from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import koopflow
from koopflow import KoopmanDistiller
from koopflow.cli import COMMANDS, demo, main

TRAINING = ("train-teacher", "distill")


def one_line(text):
    return text.endswith("\n") and text.count("\n") == 1


def help_of(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_names_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    names = {
        "train-teacher",
        "distill",
        "sample",
        "invert",
        "spectrum",
        "flow-spectrum",
        "tilt",
        "forecast",
        "evaluate",
        "compare",
        "export",
    }
    names.add("demo")
    assert names | {"versions"} == set(COMMANDS)
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"versions"}))
def test_help_of_a_command_names_its_flags(command, capsys):
    shown = help_of(command, capsys)
    own = {"export": "--check", "invert": "--states"}
    flags = {"--output", "--device", own.get(command, "--seed")}
    flags |= {"--quick"} if command == "demo" else {"--config", "--set", "--overwrite", "--quiet"}
    flags |= {"--resume", "--steps", "--max_seconds", "--training", "[fit]"} if command in TRAINING else set()
    assert all(flag in shown for flag in flags)


def test_help_has_the_words_of_docstrings(capsys):
    pytest.importorskip("docstring_parser")
    shown = " ".join(help_of("distill", capsys).split())
    assert "Number of learnt observables" in shown
    assert "``" not in shown
    assert ":class:" not in shown
    with pytest.raises(SystemExit):
        main(["distill", "--training.help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--training.ema_decay" in shown
    assert "Decay of the exponential moving average" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected a command (see koopflow --help)"),
        (["dance"], "no command 'dance' (see koopflow --help)"),
        (["distil"], "did you mean 'distill'?"),
        (["demo", "--fast"], "--fast: no option"),
        (["demo", "--seed", "-1"], "--seed: expected a non-negative integer, got -1"),
        (["demo", "--seed", "x"], "--seed: expected int, got x"),
        (["versions", "now"], "unrecognized arguments: now"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert one_line(error)
    assert error.startswith("koopflow")
    assert words in error


def test_an_unwritable_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--quick", "--output", str(tmp_path / "file" / "folder")]) == 2
    captured = capsys.readouterr()
    assert one_line(captured.err)
    assert "cannot write to" in captured.err
    assert captured.out == ""


def test_an_unknown_device_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["demo", "--device", "abacus", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert one_line(error)
    assert "abacus" in error


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "koopflow: interrupted"),
        (koopflow.exceptions.DivergenceError("the loss is not finite"), 1, "the loss is not finite"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_what_ends_the_demo_is_one_line(raised, code, message, tmp_path, monkeypatch, capsys):
    def end(*_, **__):
        raise raised

    monkeypatch.setattr(demo, "run_case", end)
    assert main(["demo", "--output", str(tmp_path)]) == code
    error = capsys.readouterr().err
    assert one_line(error)
    assert message in error


def test_a_warning_is_one_line(tmp_path, monkeypatch, capsys):
    def warn(*_, **__):
        warnings.warn("the checkpoint could not be written:\nno space", RuntimeWarning, stacklevel=1)
        warnings.warn("interrupted after 3 steps", RuntimeWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_case", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["demo", "--output", str(tmp_path)]) == 130
    lines = capsys.readouterr().err.splitlines()
    said = "koopflow demo: warning: the checkpoint could not be written: no space"
    assert lines == [said, "koopflow: interrupted"]


def test_versions(capsys):
    assert main(["versions"]) == 0
    shown = capsys.readouterr().out
    assert koopflow.__version__ in shown
    assert torch.__version__ in shown


def test_the_module_is_the_command():
    run = subprocess.run(
        [sys.executable, "-m", "koopflow", "demo", "--fast"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert run.returncode == 2
    assert one_line(run.stderr)
    assert "koopflow demo: error:" in run.stderr
    assert "--fast" in run.stderr


@pytest.fixture(scope="module")
def short_demo():
    """The demo with a handful of steps."""
    every, monkeypatch = demo.cases, pytest.MonkeyPatch()

    def shorter(seed, *, quick):
        assert quick
        student = {"steps": 30, "trajectories": 256}
        return [replace(case, teacher={"steps": 40}, student=student) for case in every(seed, quick=quick)]

    monkeypatch.setattr(demo, "cases", shorter)
    monkeypatch.setattr(demo, "SAMPLES", 200)
    yield
    monkeypatch.undo()


@pytest.fixture(scope="module")
def demonstrated(short_demo, tmp_path_factory):
    """The folder of one demo, and what it said."""
    folder, said = tmp_path_factory.mktemp("demo") / "new" / "folder", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["demo", "--quick", "--seed", "4", "--output", str(folder)]) == 0
    return folder, said.getvalue()


def timeless(value):
    """Results without what depends on the clock."""
    if isinstance(value, dict):
        clock = ("seconds", "speedup", "milliseconds")
        return {key: timeless(item) for key, item in value.items() if not key.endswith(clock)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_the_demo_writes_table_pictures_and_students(demonstrated):
    folder, shown = demonstrated
    results = json.loads((folder / "results.json").read_text())
    assert results["seed"] == 4
    for name in ("moons", "digits"):
        case = results["cases"][name]
        rows = {row["method"]: row for row in case["rows"]}
        assert rows["student, 1 step"]["evaluations"] == 1
        assert rows["teacher, Euler 20"]["evaluations"] == 20
        assert rows["teacher, Euler 100"]["endpoint_error"] < rows["teacher, Euler 4"]["endpoint_error"]
        assert rows["teacher (dopri5)"]["endpoint_error"] < 1e-3
        assert rows["data against data"]["wasserstein2"] > 0.0
        assert f"{rows['student, 1 step']['endpoint_error']:.4f}" in shown
        assert (case["teacher"]["steps"], case["student"]["steps"]) == (40, 30)
        # A student of 30 steps is none.
        assert case["verdict"].startswith("The student is NOT as it should be: endpoint error ")
        assert case["verdict"] in shown
        for picture in ("samples", "paths", "spectrum", "training"):
            assert (folder / f"{name}-{picture}.png").read_bytes()[:4] == b"\x89PNG"
        student = KoopmanDistiller.load(folder / f"{name}-student.safetensors")
        assert student.sample(2).shape == (2, *student.event_shape_)


def test_the_numbers_of_the_demo_do_not_depend_on_the_clock(demonstrated, tmp_path, monkeypatch, capsys):
    every = demo.cases
    monkeypatch.setattr(demo, "cases", lambda *seed, **quick: every(*seed, **quick)[:1])
    assert main(["demo", "--quick", "--seed", "4", "--output", str(tmp_path)]) == 0
    first, second = (
        timeless(json.loads((folder / "results.json").read_text())) for folder in (demonstrated[0], tmp_path)
    )
    (name,) = second["cases"]
    assert second["cases"][name] == first["cases"][name]
    assert {**second, "cases": None} == {**first, "cases": None}


@pytest.mark.parametrize(
    ("error", "energy", "good"),
    [(0.09, 0.2, True), (0.11, 0.2, False), (0.09, 0.31, False), (0.1, 0.29, True)],
)
def test_the_verdict_of_the_demo_follows_from_its_numbers(error, energy, good):
    case = SimpleNamespace(endpoint_error=0.1, energy_above=0.05)
    said = demo.verdict(case, {"energy": 0.25}, {"endpoint_error": error, "energy": energy})
    assert said.startswith("The student is as it should be" if good else "The student is NOT as it should be")
    assert f"endpoint error {error:.3f} (at most 0.1)" in said
    assert f"energy distance {energy:.4f} (at most 0.05 above the teacher's 0.2500)" in said


def test_an_interrupt_during_training_ends_the_demo():
    history = {"steps": 3, "seconds": 1.0, "stopped": "budget", "loss": []}
    assert demo.finished(history) == {"steps": 3, "seconds": 1.0, "stopped": "budget"}
    with pytest.raises(KeyboardInterrupt):
        demo.finished({**history, "stopped": "interrupted"})
