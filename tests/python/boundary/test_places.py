"""Places of files: a wrong one is found before any work, and a disk that fills up takes no model with it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, TensorBoardLogger, baselines, datasets, plotting
from koopflow.cli import main
from koopflow.exceptions import ArgumentError

TINY = {"width": 8, "depth": 1, "steps": 12, "trajectories": 64}
DATA = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)

Fit = Callable[[FlowTeacher, object], object]
FITS: dict[str, tuple[str, Fit]] = {
    "student's checkpoint": (
        "checkpoint",
        lambda teacher, path: KoopmanDistiller(**TINY).fit(teacher, checkpoint=path, progress=False),
    ),
    "student's trajectories": (
        "trajectory_file",
        lambda teacher, path: KoopmanDistiller(**TINY).fit(teacher, trajectory_file=path, progress=False),
    ),
    "teacher's checkpoint": (
        "checkpoint",
        lambda _, path: FlowTeacher((2,), width=8, depth=1, steps=12).fit(
            DATA, checkpoint=path, progress=False
        ),
    ),
    "baseline's trajectories": (
        "trajectory_file",
        lambda teacher, path: baselines.PlainNetwork(**TINY).fit(
            teacher, trajectory_file=path, progress=False
        ),
    ),
}
WRONG: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "no folder": (lambda folder: folder / "no" / "run.safetensors", FileNotFoundError),
    "a folder": (lambda folder: folder, ArgumentError),
    "in a file": (lambda folder: folder / "file" / "run.safetensors", FileNotFoundError),
    "link to nowhere": (lambda folder: folder / "link", FileNotFoundError),
    "too long": (lambda folder: folder / ("x" * 300), OSError),
    "empty": (lambda _: "", ArgumentError),
    "with a null": (lambda _: "run\0", ArgumentError),
    "a number": (lambda _: 3, ArgumentError),
    # Nobody can make a file there, not even root.
    "no files allowed": (lambda _: "/proc/run.safetensors", OSError),
}


@pytest.mark.parametrize("place", WRONG)
@pytest.mark.parametrize("fit", FITS)
def test_a_wrong_place_is_found_before_any_work(fit: str, place: str, tmp_path: Path) -> None:
    if place == "no files allowed" and not sys.platform.startswith("linux"):
        pytest.skip("the folder /proc is Linux's")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to(tmp_path / "no" / "run.safetensors")
    calls = 0

    def velocity(t: object, x: object) -> object:
        nonlocal calls
        calls += 1
        return -x  # type: ignore[operator]

    teacher = FlowTeacher.from_torch(velocity, (2,))
    calls = 0
    (where, kind), (argument, run) = WRONG[place], FITS[fit]
    with pytest.raises(kind, match=argument):
        run(teacher, where(tmp_path))
    assert calls == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0 and not os.environ.get("KOOPFLOW_READ_ONLY"),
    reason="permissions do not bind root; KOOPFLOW_READ_ONLY names a folder of a read-only mount",
)
@pytest.mark.parametrize("fit", FITS)
def test_a_folder_that_cannot_be_written_is_found_before_any_work(fit: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("KOOPFLOW_READ_ONLY", tmp_path))
    if folder == tmp_path:
        tmp_path.chmod(0o500)
    argument, run = FITS[fit]
    with pytest.raises(OSError, match=argument):
        run(FlowTeacher.gaussian([0.0, 0.0], np.eye(2)), folder / "run.safetensors")


def test_a_log_that_has_no_place_is_found_before_any_work(gaussian: FlowTeacher, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("in the way")
    before = gaussian.evaluations
    with pytest.raises(OSError, match="log_dir"):
        KoopmanDistiller(**TINY).fit(gaussian, log_dir=tmp_path / "file" / "log", progress=False)
    assert gaussian.evaluations == before


def test_trajectories_on_a_full_or_read_only_disk_are_read(gaussian: FlowTeacher, tmp_path: Path) -> None:
    file = tmp_path / "paths.safetensors"
    first = KoopmanDistiller(**TINY).fit(gaussian, trajectory_file=file, progress=False)
    with full_disk():
        again = KoopmanDistiller(**TINY).fit(gaussian, trajectory_file=file, progress=False)
    np.testing.assert_array_equal(again.sample(x0=DATA), first.sample(x0=DATA))


def test_paths_may_be_bytes(student: KoopmanDistiller, gaussian: FlowTeacher, tmp_path: Path) -> None:
    file = os.fsencode(tmp_path / "file.safetensors")
    for model in (student, gaussian, baselines.OdeSolver().fit(gaussian)):
        model.save(file)
        loaded = type(model).load(file)
        np.testing.assert_array_equal(loaded.sample(x0=DATA), model.sample(x0=DATA))
    os.remove(file)
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8), dtype=np.uint8))
    assert len(datasets.arrays(os.fsencode(tmp_path / "images.npy"), labels=False)) > 0
    (tmp_path / "images.npy").unlink()
    for read in (datasets.arrays, datasets.mnist, datasets.image_folder, FlowTeacher.load):
        with pytest.raises(ArgumentError, match="expected a path, got 3"):
            read(3)  # type: ignore[arg-type]
    KoopmanDistiller(**TINY).fit(gaussian, checkpoint=file, trajectory_file=file + b"2", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["file.safetensors", "file.safetensors2"]


def test_names_may_be_as_long_as_the_file_system_allows(gaussian: FlowTeacher, tmp_path: Path) -> None:
    checkpoint, *longest = "c" * 255, "p" * 252, "q" * 253, "r" * 255
    for name in longest:
        files = {"trajectory_file": tmp_path / name, "progress": False}
        KoopmanDistiller(**TINY).fit(gaussian, checkpoint=tmp_path / checkpoint, **files)
        first = baselines.PlainNetwork(**TINY).fit(gaussian, refresh=True, **files)
        again = baselines.PlainNetwork(**TINY).fit(gaussian, **files)
        # One evaluation tells whether it is the same teacher.
        assert again.history_["teacher_evaluations"] == 1 < first.history_["teacher_evaluations"]
    assert sorted(os.listdir(tmp_path)) == [checkpoint, *longest]


def test_a_folder_is_not_read_as_a_file(tmp_path: Path) -> None:
    for read in (KoopmanDistiller.load, FlowTeacher.load, baselines.load):
        with pytest.raises(OSError, match=tmp_path.name):
            read(tmp_path)


@contextlib.contextmanager
def full_disk(room: int = 512) -> Iterator[None]:
    """No file grows beyond ``room`` bytes: a write fails half way, as on a disk that fills up."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_old_files_whole(
    student: KoopmanDistiller, gaussian: FlowTeacher, tmp_path: Path
) -> None:
    trained = FlowTeacher((2,), width=8, depth=1, steps=3).fit(DATA, progress=False)
    network = baselines.PlainNetwork(**TINY).fit(gaussian, progress=False)
    images = datasets.digits()[0][:4].reshape(4, 1, 8, 8)
    writers = {
        "student": student.save,
        "teacher": trained.save,
        "baseline": network.save,
        "solver": baselines.OdeSolver().fit(trained).save,
        "images": lambda path: plotting.save_image_grid(path, np.tile(images, (40, 1, 1, 1))),
    }
    for name, write in writers.items():
        file = tmp_path / name
        write(file)
        before = file.read_bytes()
        with full_disk(), pytest.raises(OSError, match=name):
            write(file)
        assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted(writers)


def test_a_pipe_or_device_is_no_place_for_a_file(student: KoopmanDistiller, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for place in (pipe, link):
        with pytest.raises(OSError, match="expected a regular file .* got a device, a pipe or a socket"):
            student.save(place)
        with pytest.raises(OSError, match="pipe"):
            plotting.save_image_grid(place, np.zeros((4, 1, 8, 8), np.float32))
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_full_disk_during_training_loses_no_model(kind: str, gaussian: FlowTeacher, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    model = KoopmanDistiller(**TINY) if kind == "student" else FlowTeacher((2,), width=8, depth=1, steps=12)
    data, disk = gaussian if kind == "student" else DATA, contextlib.ExitStack()

    def fill(event: dict) -> None:
        if event["stage"] == kind and "note" not in event:
            disk.enter_context(full_disk())

    with disk, pytest.warns(RuntimeWarning, match=f"could not be written: .*{file.name}"):
        model.fit(data, checkpoint=file, checkpoint_every=4, progress=False, callback=fill)
    assert (model.history_["steps"], model.history_["stopped"]) == (12, "completed")
    assert np.isfinite(model.sample(x0=DATA)).all()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_disk_that_is_full_at_first_is_told_before_the_first_step(
    kind: str, gaussian: FlowTeacher, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    model = KoopmanDistiller(**TINY) if kind == "student" else FlowTeacher((2,), width=8, depth=1, steps=12)
    data, steps = gaussian if kind == "student" else DATA, []

    def count(event: dict) -> None:
        steps.extend([event["step"]] if event["stage"] == kind else [])

    with full_disk(), pytest.raises(OSError, match=file.name):
        model.fit(data, checkpoint=file, progress=False, callback=count)
    assert steps == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint_that_was_whole(gaussian: FlowTeacher, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    options = {"checkpoint": file, "checkpoint_every": 4, "progress": False}
    long = {**TINY, "steps": 24, "training": {"evaluate_every": 6}}

    def cut(event: dict) -> None:
        if event["stage"] == "student" and event["step"] >= 12:
            raise RuntimeError("cut")

    whole = KoopmanDistiller(**long).fit(gaussian, progress=False)
    with pytest.raises(RuntimeError, match="cut"):
        KoopmanDistiller(**long).fit(gaussian, callback=cut, **options)
    before = file.read_bytes()
    with full_disk(), pytest.warns(RuntimeWarning, match="could not be written"):
        full = KoopmanDistiller(**long).fit(gaussian, resume=file, **options)
    assert file.read_bytes() == before
    again = KoopmanDistiller(**long).fit(gaussian, resume=file, **options)
    for student in (full, again, KoopmanDistiller.load(file)):
        np.testing.assert_array_equal(student.sample(x0=DATA), whole.sample(x0=DATA))


def test_a_full_disk_while_trajectories_are_kept_is_an_error_that_names_the_file(
    gaussian: FlowTeacher, tmp_path: Path
) -> None:
    file = tmp_path / "paths.safetensors"
    for model in (KoopmanDistiller(**TINY), baselines.PlainNetwork(**TINY)):
        with full_disk(), pytest.raises(OSError, match="paths"):
            model.fit(gaussian, trajectory_file=file, progress=False)
    # With room again, the fit goes on from what is there.
    KoopmanDistiller(**TINY).fit(gaussian, trajectory_file=file, progress=False)
    assert list(tmp_path.iterdir()) == [file]


# TensorBoard's own thread dies, which it says on standard error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_ends_a_log_and_not_the_fit(gaussian: FlowTeacher, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    before = set(threading.enumerate())
    with full_disk(100), pytest.warns(RuntimeWarning, match=r"log_dir: .*its curves end here"):
        student = KoopmanDistiller(**TINY).fit(gaussian, log_dir=tmp_path / "log", progress=False)
    # What the thread says is said in this test.
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert np.isfinite(student.sample(x0=DATA)).all()
    with pytest.raises(ArgumentError, match="log_dir"):
        TensorBoardLogger("\0")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.safetensors", "x.png"])
def test_a_full_disk_is_one_line_of_the_command(
    name: str, student: KoopmanDistiller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student.save(tmp_path / "student.safetensors")
    with full_disk():
        code = main(
            ["sample", str(tmp_path / "student.safetensors"), "-n", "500", "--output", str(tmp_path / name)]
        )
    assert code == 1
    assert name in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


# --- one place for two purposes, and files of another kind ------------------------------------------


def test_one_file_for_two_purposes_is_refused(gaussian: FlowTeacher, tmp_path: Path) -> None:
    path, link = tmp_path / "run.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(path)
    words = "trajectory_file: expected another file than that of checkpoint"
    for other in (path, str(path), os.fsencode(path), link):
        with pytest.raises(ArgumentError, match=words):
            KoopmanDistiller(**TINY).fit(gaussian, checkpoint=path, trajectory_file=other, progress=False)
    assert not path.exists()


def test_a_file_of_another_kind_is_not_replaced(gaussian: FlowTeacher, tmp_path: Path) -> None:
    def teach(file: str) -> None:
        FlowTeacher((2,), width=8, depth=1, steps=2).fit(DATA, checkpoint=tmp_path / file, progress=False)

    def distil(file: str) -> None:
        KoopmanDistiller(**TINY).fit(gaussian, checkpoint=tmp_path / file, progress=False)

    def solve(file: str) -> None:
        fit = baselines.PlainNetwork(**TINY).fit
        fit(gaussian, trajectory_file=tmp_path / file, refresh=True, progress=False)

    fits = {"teacher": teach, "student": distil, "trajectories": solve}
    for file, fit in fits.items():
        fit(file)
        # An empty file, such as tempfile makes, is a new one.
        (tmp_path / "empty").write_bytes(b"")
        fit("empty")
    (tmp_path / "notes").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for own, fit in fits.items():
        for file in {"teacher", "student", "trajectories", "notes"} - {own}:
            with pytest.raises(
                ArgumentError, match=rf": expected a new file or one of (a )?{own}, got .*{file}'"
            ):
                fit(file)
        fit(own)
    assert before["notes"] == b"mine"
    for path in tmp_path.iterdir():
        assert path.name in fits or path.read_bytes() == before[path.name]
