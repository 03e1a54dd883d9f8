"""Keys, TOML files and flags, without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import pytest

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.cli import distill, main, train_teacher
from koopflow.cli.errors import UsageError
from koopflow.cli.options import Key, accepts, keys_of
from koopflow.cli.settings import tomllib


@pytest.fixture
def settings():
    return distill.command().settings()


def config(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_every_keyword_of_the_estimators_and_their_fits_can_be_set():
    for command, estimator, table in (
        (train_teacher.command(), FlowTeacher, "teacher"),
        (distill.command(), KoopmanDistiller, "student"),
    ):
        tables = command.settings().tables
        keywords = set(estimator.__init__.__kwdefaults__)
        assert keywords == set(tables[table].keys)
        left_out = {"y", "data", "condition", "teacher", "progress", "callback", "checkpoint", "resume"}
        of_fit = {key.name for key in keys_of(estimator.fit)}
        assert of_fit - left_out - keywords == set(tables["fit"].keys)
        # Nothing without its words.
        assert all(key.help for key in tables[table].keys.values())


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(settings, tmp_path):
    settings.read(
        config(
            tmp_path,
            """
            [student]
            steps = 7
            width = 16
            weights = {phase = 0.3, path = 0.1}
            [fit]
            refresh = true
            """,
        )
    )
    settings.assign("width=24")
    settings.assign("student.weights.phase = 0.5")
    settings.flag("student", settings.tables["student"].keys["depth"], "3", "--depth")
    values = settings["student"]
    assert (values["steps"], values["width"], values["depth"], values["lifts"]) == (7, 24, 3, 2)
    assert values["weights"] == {"phase": 0.5, "path": 0.1}
    assert settings.given("fit") == {"refresh": True}


def test_what_is_written_is_read_back(settings, tmp_path):
    settings.assign("fidelity=endpoint")
    settings.assign("weights.phase=0.25")
    settings.assign('fit.log_dir="a folder/with \\" in it"')
    text = settings.to_toml({"width": 64})
    again = distill.command().settings()
    again.read(config(tmp_path, text))
    assert again.to_toml({"width": 64}) == text
    for table in settings.tables:
        assert again[table] == settings[table]
    content = tomllib.loads(text)
    assert content["command"] == "distill"
    assert content["resolved"] == {"width": 64}
    # Complete: all that has a value is there, and the rest is named.
    assert set(content["student"]) == {k for k, v in settings["student"].items() if v is not None}
    assert "# not set: observables, unet, degree, frame, " in text


def test_none_can_be_said_in_toml():
    settings = train_teacher.command().settings()
    settings.assign("clip_norm=none")
    assert settings["teacher"]["clip_norm"] is None
    again = train_teacher.command().settings()
    content = tomllib.loads(settings.to_toml())
    assert content["teacher"]["clip_norm"] == "none"
    again._take("teacher", content["teacher"], "")
    assert again["teacher"]["clip_norm"] is None


def test_one_file_can_be_for_all_commands(tmp_path):
    path = config(
        tmp_path,
        """
        [run]
        output = "out"
        teacher = "out/teacher.safetensors"
        [teacher]
        steps = 5
        [student]
        steps = 6
        [sample]
        n = 9
        """,
    )
    for command, table, steps in ((train_teacher, "teacher", 5), (distill, "student", 6)):
        settings = command.command().settings()
        settings.read(path)
        assert settings[table]["steps"] == steps
        assert settings["run"]["output"] == "out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[student]\nwidht = 3", "student: no such key as 'widht', the nearest is 'width'"),
        ("[studnet]\nwidth = 3", "no such table as 'studnet', the nearest is 'student'"),
        ("[student]\nwidth = 'wide'", "student.width: expected an integer or none, got 'wide'"),
        ("[student]\nwidth = true", "student.width: expected an integer or none, got True"),
        ("[student]\nweights = {phase = 'x'}", "student.weights: expected a table or none"),
        ("[student]\nfidelity = 3", "student.fidelity: expected text, got 3"),
        ("student = 3", "student: expected a table, got 3"),
        ("[student", "is not TOML"),
        ("command = 'train-teacher'", "expected a file of koopflow distill"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(text, message, tmp_path, capsys):
    assert main(["distill", "--config", str(config(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("koopflow distill: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "widht=3"], "--set: no such key as 'widht', the nearest is 'width'"),
        (["--set", "student.widht=3"], "--set student: no such key as 'widht', the nearest is 'width'"),
        (["--set", "width"], "--set: expected key=value, got 'width'"),
        (["--set", "width=wide"], "--set student.width: expected an integer or none, got 'wide'"),
        (["--width", "wide"], "--width: expected an integer or none, got 'wide'"),
        (["--learning-rate", "fast"], "--learning-rate: expected a number or none, got 'fast'"),
        (["--config", "nowhere.toml"], "--config: cannot read nowhere.toml: No such file or directory"),
        ([], "--teacher: expected a teacher's file, got nothing"),
        (["--teacher", "nowhere"], "--teacher: expected a teacher's file, got 'nowhere'"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(arguments, message, capsys):
    assert main(["distill", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("none", None), ("3", 3), (".5", 0.5), ("1_000", 1000)]
)
def test_numbers_on_the_command_line(text, value):
    parsed = Key("rate", float | None).parsed(text, "--rate")
    assert parsed == value


def test_text_on_the_command_line_is_taken_as_it_is():
    assert Key("file", str).parsed("2024", "--file") == "2024"
    assert Key("file", str | PathLike[str] | None).parsed("run/[1].npy", "--file") == "run/[1].npy"
    with pytest.raises(UsageError, match="expected true or false, got 1"):
        Key("labels", bool).parsed("1", "--labels")


def test_annotations():
    assert accepts(dict[str, float] | None, {"a": 1})
    assert not accepts(dict[str, float], {"a": "x"})
    assert accepts(Sequence[int], [1])
    assert accepts(Any, object())
    assert accepts(float, 1)
    assert not accepts(int, 1.5)
    assert not accepts(Sequence[int], "text")
