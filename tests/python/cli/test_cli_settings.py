"""Options, TOML files and flags, without training anything."""

from __future__ import annotations

import inspect
import sys

import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Objective, Training, Trajectories, UNet, datasets
from koopflow.cli import main
from koopflow.cli.options import UsageError
from koopflow.cli.training import FILLED, distill, train_teacher

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def config(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return str(path)


def test_every_keyword_of_the_estimators_and_their_fits_is_an_option():
    for command, estimator, table in (
        (train_teacher(), FlowTeacher, "teacher"),
        (distill(), KoopmanDistiller, "student"),
    ):
        keywords = set(inspect.signature(estimator).parameters) - {"event_shape"}
        assert set(command.tables[table]) == keywords
        of_fit = set(inspect.signature(estimator.fit).parameters) - {"self", *FILLED}
        assert of_fit - keywords == set(command.tables["fit"])


def test_every_keyword_of_the_readers_is_an_option():
    known = set(train_teacher().tables["data"])
    for reader in (datasets.images, datasets.digits, *datasets.TWO_DIMENSIONAL.values()):
        assert set(inspect.signature(reader).parameters) - {"path"} <= known


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    path = config(
        tmp_path,
        """
        [data]
        source = "moons"
        seed = 9
        [student]
        steps = 7
        width = 16
        unet = {attention = [2], channels = 8}
        [student.training]
        ema_decay = 0.9
        schedule = "plateau"
        [student.objective]
        weights = {phase = 0.3, path = 0.1}
        [fit]
        refresh = true
        """,
    )
    settings = distill().parse(
        ["--depth", "3", "--training.ema-decay=0.5", "--set", "width=24", "--config", path]
        + ["--set", "student.objective.weights.phase = 0.5", "--set", "steps=8", "--steps", "9"]
    )
    student = settings.table("student")
    assert (student["steps"], student["width"], student["depth"], student["basis"]) == (9, 24, 3, "network")
    assert student["training"] == Training(ema_decay=0.5, schedule="plateau")
    assert student["objective"] == Objective(weights={"phase": 0.5, "path": 0.1})
    assert student["unet"] == UNet(channels=8, attention=(2,))
    assert settings.table("fit", given=True) == {"refresh": True}
    assert settings.table("data", given=True) == {"source": "moons", "seed": 9}
    assert student["seed"] == 0
    KoopmanDistiller(**student)


def test_short_flags_and_dashes():
    settings = train_teacher().parse(
        [
            "--data",
            "digits",
            "--labels",
            "--held-out=0.2",
            "--size",
            "16",
            "--batch-size",
            "8",
            "--data.n",
            "5",
        ]
        + ["--network.channels", "4", "--flip", "--quiet", "--overwrite", "false"]
    )
    given = {"source": "digits", "labels": True, "held_out": 0.2, "size": 16, "n": 5}
    assert settings.table("data", given=True) == given
    assert settings["network"] == UNet(channels=4)
    assert (settings["batch_size"], settings["flip"], settings["quiet"]) == (8, True, True)
    assert not settings["overwrite"]


def test_what_is_written_is_read_back(tmp_path):
    arguments = ["--fidelity", "endpoint", "--trajectories.count", "64", "--unet.multipliers", "[1, 2]"]
    arguments += [
        "--objective.weights.phase",
        "0.25",
        "--log-dir",
        'a folder/with " in it',
        "--size",
        "[8, 9]",
    ]
    settings = distill().parse(arguments)
    text = settings.to_toml({"width": 64, "frame": None})
    again = distill().parse(["--config", config(tmp_path, text)])
    assert again.to_toml({"width": 64}) == text
    for table in settings.tables:
        assert again.table(table) == settings.table(table)
    content = tomllib.loads(text)
    assert content["command"] == "distill"
    assert content["resolved"] == {"width": 64}
    assert content["student"]["trajectories"] == {"count": 64}
    # Complete: all that has a value is there, and the rest is named.
    values = {key: value for key, value in settings.table("student").items() if value is not None}
    assert set(content["student"]) == set(values)
    assert "# not set: observables, width, depth, architecture, " in text


def test_none_takes_a_value_back(tmp_path):
    path = config(tmp_path, "[student]\nmax_seconds = 3.0\nsteps = 'none'\ntraining = {patience = 'none'}")
    assert distill().parse(["--config", path])["max_seconds"] == 3.0
    settings = distill().parse(["--config", path, "--set", "max_seconds=none"])
    assert (settings["max_seconds"], settings["steps"]) == (None, None)
    assert settings["training"] == Training()
    assert distill().parse(["--config", path, "--max-seconds", "none"])["max_seconds"] is None


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
    for command, steps in ((train_teacher(), 5), (distill(), 6)):
        settings = command.parse(["--config", path])
        assert settings["steps"] == steps
        assert settings["output"] == "out"


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "notepad.toml"
    path.write_text("[student]\nwidth = 3\n", encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert distill().parse(["--config", str(path)])["width"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[student]\nwidht = 3", "student: no option 'widht': did you mean 'width'?"),
        ("[studnet]\nwidth = 3", "no table 'studnet': did you mean 'student'?"),
        ("[student]\nwidth = 'wide'", "width: expected int or none, got wide"),
        ("[student]\nwidth = true", "width: expected int or none, got True"),
        (
            "[student]\nobjective = {weights = {phase = 'x'}}",
            "objective.weights: expected float or none, got x",
        ),
        ("[student]\ntraining = {ema = 0.9}", "training: no option 'ema': did you mean"),
        ("[student]\nema_decay = 0.9", "student: no option 'ema_decay': it is 'training.ema_decay'"),
        ("[student]\nfidelity = 3", "fidelity: expected str, got 3"),
        ("[student.unet]\nclass_path = 'os.system'", "unet: "),
        ("[data]\nnoize = 3", "data: no option 'noize': did you mean 'noise'?"),
        ("[run]\noutptu = 'x'", "run: no option 'outptu': did you mean 'output'?"),
        ("student = 3", "student: expected a table, got 3"),
        ("[student", "is not TOML"),
        ("command = 'train-teacher'", "expected a file of koopflow distill"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(text, message, tmp_path, capsys):
    assert main(["distill", "--config", config(tmp_path, text)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("koopflow distill: error: ")


@pytest.mark.parametrize("value", ["imported_by_a_file", "imported_by_a_file.Net"])
def test_nothing_that_a_file_names_is_imported(value, tmp_path, monkeypatch, capsys):
    (tmp_path / "imported_by_a_file.py").write_text("class Net: pass")
    monkeypatch.syspath_prepend(tmp_path)
    for text in (f"[student]\nunet = '{value}'", f"[student]\nunet = {{class_path = '{value}'}}"):
        assert main(["distill", "--config", config(tmp_path, text)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    for key in ("fit.features", "student.basis"):
        distill().parse(["--set", f"{key}={value}"])
    assert "imported_by_a_file" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "widht=3"], "--widht: no option 'widht': did you mean 'width'?"),
        (["--set", "student.widht=3"], "no option 'widht': did you mean 'width'?"),
        (["--set", "width"], "--set: expected key=value, got 'width'"),
        (["--set", "width=wide"], "--width: expected int or none, got wide"),
        (["--set"], "--set: expected a value, got nothing"),
        (["--width", "wide"], "--width: expected int or none, got wide"),
        (["--learning-rate", "fast"], "--learning_rate: expected float or none, got fast"),
        (["--training.ema_decay", "x"], "--training.ema_decay: expected float or none, got x"),
        (["--training.ema-decai", "1"], "--training: no option 'ema_decai': did you mean"),
        (["--training", "3"], "--training: expected a table or none, got 3"),
        (["--seed", "-1"], "--seed: expected a non-negative integer, got -1"),
        (["--step", "3"], "--step: no option 'step': did you mean 'steps'?"),
        (["--steps"], "--steps: expected one argument"),
        (["--steps", "3", "4"], "unrecognized arguments: 4"),
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
    ("old", "new"),
    [
        ("ema_decay", "training.ema_decay"),
        ("method", "training.method"),
        ("path_steps", "trajectories.path_steps"),
        ("trajectory_memory", "trajectories.memory"),
        ("weights.phase", "objective.weights"),
        ("coupling", "objective.coupling"),
        ("inputs", "architecture.inputs"),
        ("n", "data.n"),
    ],
)
def test_an_old_name_says_the_new_one(old, new):
    for arguments in (["--set", f"{old}=3"], [f"--{old.replace('_', '-')}", "3"]):
        with pytest.raises(UsageError, match=rf"no option '\w+': it is '{new}'"):
            distill().parse(arguments)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("none", None), ("3", 3.0), (".5", 0.5), ("1_000", 1000.0)]
)
def test_numbers_on_the_command_line(text, value):
    assert distill().parse(["--learning-rate", text])["learning_rate"] == value


def test_text_on_the_command_line_is_taken_as_it_is():
    settings = distill().parse(
        ["--output", "2024", "--trajectory-file", "run/[1].npy", "--set", "log_dir=a=b"]
    )
    assert (settings["output"], settings["trajectory_file"]) == ("2024", "run/[1].npy")
    assert settings["log_dir"] == "a=b"


def test_trajectories_are_a_count_or_options():
    assert distill().parse(["--trajectories", "64"])["trajectories"] == 64
    options = distill().parse(["--trajectories.count", "64", "--trajectories.path-steps", "4"])
    assert options["trajectories"] == Trajectories(count=64, path_steps=4)
