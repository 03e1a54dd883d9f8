"""Fitting that is cut, killed, averaged or blown up, through Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, datasets
from koopflow.exceptions import ArgumentError, CheckpointError, DivergenceError

from ..conftest import COV, MEAN

NOISE = np.random.default_rng(11).normal(size=(64, 2)).astype(np.float32)

OPTIONS = {
    "observables": 8,
    "width": 16,
    "depth": 1,
    "steps": 60,
    "batch_size": 32,
    "trajectories": 256,
    "trajectories__path_steps": 8,
    "training__evaluate_every": 5,
}
AVERAGED = {
    "training__optimizer": "adamw",
    "training__weight_decay": 1e-3,
    "training__generator_learning_rate": 1e-3,
    "training__schedule": "plateau",
    "training__ema_decay": 0.9,
    "training__accumulate": 2,
    "training__metric": "endpoint_error",
}


def small(**options):
    return KoopmanDistiller().set_params(**{**OPTIONS, **options})


def losses(student):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in student.history_["log"]]


def cut_after(step):
    """A callback that stops a fit as Ctrl-C does."""

    def callback(event):
        if event["stage"] == "student" and event["step"] >= step:
            raise KeyboardInterrupt

    return callback


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, AVERAGED], ids=["default", "averaged"])
def test_a_fit_that_was_cut_goes_on_as_if_it_had_not_been(gaussian, tmp_path, options):
    path = tmp_path / "fit.safetensors"
    whole = small(**options).fit(gaussian, progress=False)
    with pytest.warns(RuntimeWarning, match="the best student so far is kept"):
        part = small(**options).fit(
            gaussian, progress=False, callback=cut_after(25), checkpoint=path, checkpoint_every=1000
        )
    loaded = KoopmanDistiller.load(path)
    np.testing.assert_array_equal(loaded.sample(x0=NOISE), part.sample(x0=NOISE))
    assert loaded.history_["stopped"] == "interrupted"
    assert loaded.teacher_["kind"] == "gaussian"
    assert loaded.get_params() == small(**options).get_params()
    again = small(**options).fit(gaussian, progress=False, resume=path)
    assert losses(again) == losses(whole)
    np.testing.assert_array_equal(again.sample(x0=NOISE), whole.sample(x0=NOISE))
    assert again.history_["best_step"] == whole.history_["best_step"]
    assert again.history_["seconds"] > loaded.history_["seconds"]


def test_a_finished_fit_leaves_its_file_and_can_be_made_longer(gaussian, tmp_path):
    path = tmp_path / "fit.safetensors"
    first = small(training__schedule="constant").fit(gaussian, progress=False, checkpoint=path)
    loaded = KoopmanDistiller.load(path)
    assert loaded.history_["stopped"] == "completed"
    np.testing.assert_array_equal(loaded.sample(x0=NOISE), first.sample(x0=NOISE))
    longer = small(training__schedule="constant", steps=80).fit(gaussian, progress=False, resume=path)
    whole = small(training__schedule="constant", steps=80).fit(gaussian, progress=False)
    assert losses(longer) == losses(whole)


def test_what_cannot_be_resumed_says_why(gaussian, tmp_path):
    path = tmp_path / "fit.safetensors"
    student = small().fit(gaussian, progress=False, checkpoint=path)
    with pytest.raises(ArgumentError, match=r"learning_rate: expected .*, as in .*fit\.safetensors, got 0.5"):
        small(learning_rate=0.5).fit(gaussian, progress=False, resume=path)
    with pytest.raises(ArgumentError, match=r"resume: expected a teacher of samples \(2,\)"):
        small().fit(FlowTeacher.gaussian(np.zeros(3), np.eye(3)), progress=False, resume=path)
    student.save(tmp_path / "finished.safetensors")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        small().fit(gaussian, progress=False, resume=tmp_path / "finished.safetensors")
    with pytest.raises(FileNotFoundError):
        small().fit(gaussian, progress=False, resume=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_every": 5},
        {"checkpoint_minutes": 1.0},
        {"checkpoint": "fit", "checkpoint_every": 0},
        {"checkpoint": "fit", "checkpoint_minutes": 0.0},
    ],
)
def test_wrong_checkpoint_options_are_named(gaussian, options):
    with pytest.raises(ArgumentError, match="checkpoint"):
        small().fit(gaussian, progress=False, **options)


def test_places_of_files_are_looked_at_before_anything_is_trained(gaussian, tmp_path):
    events = []
    fit = {"progress": False, "callback": events.append}
    lost = tmp_path / "no" / "such" / "folder" / "fit.safetensors"
    for options in ({"checkpoint": lost}, {"trajectory_file": lost}):
        with pytest.raises(FileNotFoundError, match=f"{next(iter(options))}: no folder .*folder"):
            small().fit(gaussian, **fit, **options)
    with pytest.raises(ArgumentError, match="checkpoint: expected a file, got the folder"):
        small().fit(gaussian, checkpoint=tmp_path, **fit)
    with pytest.raises(FileNotFoundError, match="checkpoint: no folder"):
        FlowTeacher((2,), steps=2).fit(NOISE, checkpoint=lost, **fit)
    assert events == []


# --- real processes -------------------------------------------------------------------------------

CHILD = textwrap.dedent(
    """
    import sys
    import numpy as np
    import torch
    torch.set_num_threads(1)
    from koopflow import FlowTeacher, KoopmanDistiller

    options, mean, cov, path, every = eval(sys.argv[1])

    def say(event):
        print(event["stage"], event["step"], flush=True)

    student = KoopmanDistiller().set_params(**options)
    student.fit(FlowTeacher.gaussian(np.array(mean), np.array(cov)), progress=False, callback=say,
                checkpoint=path, checkpoint_every=every)
    print("stopped", student.history_["stopped"], flush=True)
    """
)


def child(path, every, **options):
    arguments = repr(({**OPTIONS, **options}, MEAN.tolist(), COV.tolist(), os.fspath(path), every))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, arguments], stdout=subprocess.PIPE, text=True
    )


# The line of step n is written before the file of step n: from the third on there is a file.
KILLED_AT, *KILLED_AT_TOO = map(int, np.random.default_rng(5).integers(3, 55, size=4))


@pytest.mark.parametrize(
    "lines", [KILLED_AT, *(pytest.param(each, marks=pytest.mark.slow) for each in KILLED_AT_TOO)]
)
def test_a_killed_process_leaves_a_file_that_loads_and_resumes(gaussian, tmp_path, lines):
    whole = small(training__evaluate_every=1).fit(gaussian, progress=False)
    path = tmp_path / "fit.safetensors"
    process = child(path, 1, training__evaluate_every=1)
    seen = 0
    for line in process.stdout:
        seen += line.startswith("student")
        if seen == lines:
            process.kill()
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    loaded = KoopmanDistiller.load(path)
    assert lines - 2 <= loaded.history_["steps"] <= 60
    assert np.isfinite(loaded.sample(10)).all()
    again = small(training__evaluate_every=1).fit(gaussian, progress=False, resume=path)
    assert losses(again) == losses(whole)
    np.testing.assert_array_equal(again.sample(x0=NOISE), whole.sample(x0=NOISE))


def test_ctrl_c_in_a_real_process_keeps_the_best_and_writes_it(gaussian, tmp_path):
    path = tmp_path / "fit.safetensors"
    process = child(path, 10**9, steps=10**7, training__evaluate_every=20)
    for line in process.stdout:
        if line.startswith("student"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate()
    assert process.returncode == 0
    assert "stopped interrupted" in rest
    loaded = KoopmanDistiller.load(path)
    assert loaded.history_["stopped"] == "interrupted"
    # It goes on, to an end that is near.
    steps = loaded.history_["steps"] + 3
    again = small(steps=steps, training__evaluate_every=20).fit(gaussian, progress=False, resume=path)
    assert (again.history_["steps"], again.history_["stopped"]) == (steps, "completed")


# --- the loop's options ---------------------------------------------------------------------------


def test_both_kinds_of_weights_are_kept(gaussian, tmp_path):
    path = tmp_path / "student.safetensors"
    plain = small(training__evaluate_every=60).fit(gaussian, progress=False).sample(x0=NOISE)
    student = small(training__evaluate_every=60, training__ema_decay=0.95).fit(gaussian, progress=False)
    averaged = student.sample(x0=NOISE)
    assert not np.array_equal(averaged, plain)
    np.testing.assert_array_equal(student.use_weights("raw").sample(x0=NOISE), plain)
    student.save(path)
    loaded = KoopmanDistiller.load(path)
    np.testing.assert_array_equal(loaded.sample(x0=NOISE), plain)
    np.testing.assert_array_equal(loaded.use_weights("ema").sample(x0=NOISE), averaged)
    with pytest.raises(ArgumentError, match="weights: expected 'ema' or 'raw'"):
        loaded.use_weights("best")


def test_the_callback_gets_everything_that_is_logged(gaussian):
    events = []
    student = small(objective__weights={"phase": 0.1, "consistency": 0.1}).fit(
        gaussian, progress=False, callback=events.append
    )
    events = [event for event in events if event["stage"] == "student"]
    logged = [{"step": e["step"], "seconds": e["seconds"], **e["values"]} for e in events]
    assert logged == student.history_["log"]
    assert set(logged[-1]) == {
        *("step", "seconds", "learning_rate"),
        *("endpoint", "path", "target", "inverse", "round_trip", "phase", "consistency"),
        *("endpoint_error", "path_error", "inversion_error", "phase_error", "consistency_residual", "score"),
    }
    assert [entry["step"] for entry in logged] == [1, *range(5, 61, 5)]


def test_divergence_keeps_the_best_student(gaussian):
    events = []
    student = small(learning_rate=1e25, training__warmup_steps=0, training__max_restarts=1)
    with pytest.raises(DivergenceError, match="stopped after 1 restarts"):
        student.fit(gaussian, progress=False, callback=events.append)
    assert student.history_["stopped"] == "diverged"
    assert student.history_["restarts"] == 1
    assert np.isfinite(student.sample(10)).all()
    notes = [event["note"] for event in events if "note" in event]
    assert notes == [note["text"] for note in student.history_["notes"]]
    assert len(notes) == 2


def test_patience_ends_a_fit(gaussian):
    student = small(learning_rate=1e-30, training__patience=2).fit(gaussian, progress=False)
    assert student.history_["stopped"] == "patience"
    assert student.history_["steps"] < 60


def test_low_precision_trains_on_a_cpu_where_it_can(gaussian):
    student = small(training__precision="bf16", steps=300, observables=16, width=32).fit(
        gaussian, progress=False
    )
    assert student.history_["log"][-1]["endpoint_error"] < 0.2
    with pytest.raises(ArgumentError, match="precision"):
        small(training__precision="fp16").fit(gaussian, progress=False)


def test_the_users_random_state_is_left_alone_and_does_not_matter(gaussian):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = small().fit(gaussian, progress=False).sample(x0=NOISE)
    assert torch.equal(torch.get_rng_state(), expected[0])
    np.testing.assert_array_equal(np.random.get_state()[1], expected[1][1])  # noqa: NPY002
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    np.testing.assert_array_equal(small().fit(gaussian, progress=False).sample(x0=NOISE), first)


def test_a_fresh_seed_is_recorded_and_resumed(tmp_path):
    data = datasets.moons(128)
    options = {"width": 8, "depth": 1, "steps": 6, "seed": None}
    first, second = (FlowTeacher((2,), **options).fit(data, progress=False) for _ in range(2))
    seed = first.history_["seed"]
    assert seed != second.history_["seed"]
    assert first.seed is None
    again = FlowTeacher((2,), **{**options, "seed": seed}).fit(data, progress=False)
    np.testing.assert_array_equal(again.sample(4), first.sample(4))
    path = tmp_path / "run.safetensors"
    FlowTeacher((2,), **options).fit(data, steps=3, progress=False, checkpoint=path)
    resumed = FlowTeacher((2,), **options).fit(data, progress=False, resume=path)
    assert resumed.history_["steps"] == 6
    assert resumed.history_["seed"] == FlowTeacher.load(path).seed


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ArgumentError, match=r"seed: expected an integer from 0 to 2\*\*64 - 1 or None"):
        FlowTeacher((2,), seed=seed, steps=1).fit(datasets.moons(64), progress=False)
