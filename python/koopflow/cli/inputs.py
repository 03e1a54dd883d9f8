"""Inputs of commands: data, models and conditions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import _core, datasets
from .._batches import as_batch
from .._conditioning import Conditioning
from ..datasets.arrays import contents
from ..exceptions import ArgumentError, KoopflowError
from ..students import KoopmanDistiller, SegmentedDistiller
from ..teachers import FlowTeacher
from .options import Keywords, Option, Settings, UsageError

Model: TypeAlias = KoopmanDistiller | SegmentedDistiller | FlowTeacher

READERS: dict[str, Any] = {
    **datasets.TWO_DIMENSIONAL,
    "8gaussians": datasets.eight_gaussians,
    "digits": datasets.digits,
}
BUILT_IN = "8gaussians, checkerboard, digits, moons, swiss_roll, tree"
# Default number of samples of the data sets in the plane.
DRAWN = 20_000
# Default number of samples of each class, and of columns in a grid of images.
EACH = 8

SOURCE = f"Data set ({BUILT_IN}), .npy or .npz file, or file or folder of images."
DATA = (
    Option("source", SOURCE),
    Option("labels", "Whether to condition on the labels of the data.", bool, False),
    Option("held_out", "Share of the data that is held out for evaluate and compare.", float, 0.1),
    Option("split_seed", "Random seed of the held-out share.", int, 0),
    Option("n", f"Number of samples of a data set in the plane; {DRAWN:,} by default.", int | None),
    Option("noise", "Noise of a data set in the plane.", float | None),
    Option("seed", "Random seed of a data set in the plane.", int | None),
    Keywords(datasets.resize, skip=("images",)),
    Keywords(datasets.image_folder, skip=("path",)),
    Keywords(datasets.arrays, skip=("path", "images", "labels")),
    Keywords(datasets.images, skip=("path",)),
)
"""The table [data]: the data, and the share that is held out of training."""


@dataclass(frozen=True)
class Data:
    """Samples ``[N, *event]``, and their labels ``[N]`` or vectors ``[N, dim]`` if those are wanted."""

    train: NDArray[Any]
    held_out: NDArray[Any]
    train_labels: NDArray[Any] | None = None
    held_out_labels: NDArray[Any] | None = None

    @property
    def conditioning(self) -> dict[str, int]:
        """The keyword of a teacher that is conditioned on these labels: ``num_classes`` or
        ``condition_dim``."""
        if self.train_labels is None or self.held_out_labels is None:
            return {}
        if self.train_labels.ndim > 1:
            return {"condition_dim": int(self.train_labels.shape[1])}
        return {"num_classes": int(max(self.train_labels.max(), self.held_out_labels.max())) + 1}


def load(settings: Settings, *, labels: bool) -> Data:
    """The data of the table [data], split, with their labels if those are wanted.

    Raises ``UsageError`` if there are no such data, or an option does not apply to them.
    """
    source, share = settings["data.source"], settings["data.held_out"]
    if source is None or not (source in READERS or Path(source).exists()):
        got = "nothing" if source is None else f"{source!r}, which does not exist"
        raise UsageError(f"--data: expected one of {BUILT_IN}, or a file or folder, got {got}")
    given = settings.table("data", given=True)
    for key in ("source", "labels", "held_out", "split_seed"):
        given.pop(key, None)
    try:
        samples, found = _read(source, given, labels=labels)
    except (KoopflowError, OSError) as error:
        said = str(error) if source in str(error) else f"{source}: {error}"
        raise UsageError(f"--data: {said}") from error
    arrays = [samples]
    if labels:
        if found is None:
            raise UsageError(f"--labels: expected data with labels, got {source}, which has none")
        if found.dtype.kind in "iu" and found.shape == (len(samples), 1):
            found = found[:, 0]
        if (found.ndim == 1) != (found.dtype.kind in "iu"):
            raise UsageError(
                f"--labels: expected integers of shape (N,) or vectors (N, dim) in {source}, "
                f"got {found.dtype} of shape {found.shape}"
            )
        arrays.append(found)
    if share == 0.0:
        return Data(*(array for array in arrays for _ in range(2)))
    if not 0.0 < share < 1.0:
        raise UsageError(f"--held-out: expected a share from 0 to below 1, got {share:g}")
    try:
        return Data(*datasets.split(*arrays, held_out=share, seed=settings["data.split_seed"]))
    except ArgumentError as error:
        raise UsageError(f"--held-out: {error}") from error


def _read(source: str, given: dict[str, Any], *, labels: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    reader = READERS.get(source, datasets.images)
    known = [key for key in inspect.signature(reader).parameters if key not in ("path", "labels")]
    flat = None
    if source not in READERS and Path(source).suffix in (".npy", ".npz"):
        samples, found = array_file(Path(source), "--data")
        flat = samples if samples.ndim == 2 else None
        known = ["size", "resample", "layout", "limits"] if flat is None else []
    for key in given:
        if key not in known:
            raise UsageError(f"data.{key}: {source} has no such option, only {', '.join(known) or 'none'}")
    if flat is not None:
        return np.asarray(as_batch(flat, "samples"), np.float32), found
    if source in datasets.TWO_DIMENSIONAL or reader is datasets.eight_gaussians:
        return reader(**{"n": DRAWN, **given}), None
    read: tuple[NDArray[Any], NDArray[Any] | None]
    read = reader(**given) if source in READERS else reader(source, labels=None if labels else False, **given)
    return read


def array_file(path: Path, flag: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The samples and labels of an .npy or .npz file."""
    try:
        arrays = contents(path)
    except (KoopflowError, OSError) as error:
        raise UsageError(f"{flag}: cannot read {path} as an array file: {error}") from error
    labels = next((arrays.pop(name) for name in ("labels", "y") if name in arrays), None)
    name = next((name for name in ("samples", "images", "data", "x") if name in arrays), None)
    if name is None and len(arrays) != 1:
        names = ", ".join(arrays) or "none"
        raise UsageError(f"{flag}: {path}: expected an array named samples, images, data or x, got {names}")
    return arrays.get(name or "", next(iter(arrays.values()))), labels


def input_file(given: str | None, flag: str, what: str) -> Path:
    """The path of a file that must exist."""
    if given is None or not Path(given).is_file():
        got = "nothing" if given is None else f"{given!r}, which does not exist or is no file"
        raise UsageError(f"{flag}: expected {what}, got {got}")
    return Path(given)


def load_teacher(given: str | None, device: str) -> FlowTeacher:
    """The teacher of ``--teacher``."""
    return FlowTeacher.load(input_file(given, "--teacher", "a teacher's file"), device=device)


def source_of(given: Any, device: str) -> Any:
    """The source of ``--source``: "normal", rows of an array, or another teacher."""
    if given == "normal":
        return given
    if given in READERS:
        return _read(given, {}, labels=False)[0]
    expected = f"normal, one of {BUILT_IN}, an .npy or .npz file, or a teacher's file"
    path = input_file(str(given), "--source", expected)
    if path.suffix in (".npy", ".npz"):
        return array_file(path, "--source")[0]
    return FlowTeacher.load(path, device=device)


def load_student(given: str | None, device: str, flag: str = "student") -> KoopmanDistiller:
    """The student of a file."""
    return KoopmanDistiller.load(input_file(given, flag, "a student's file"), device=device)


def load_whole_or_segments(
    given: str | None, device: str, flag: str = "student"
) -> KoopmanDistiller | SegmentedDistiller:
    """The student of a file, or its sequence of students."""
    kind, _ = _core.describe_file(fspath(input_file(given, flag, "a student's file")))
    if kind == "segments":
        return SegmentedDistiller.load(str(given), device=device)
    return load_student(given, device, flag)


def load_either(given: str | None, device: str) -> Model:
    """The student, or else the teacher, of a file."""
    kind, _ = _core.describe_file(fspath(input_file(given, "student", "a student's file")))
    return load_teacher(given, device) if kind == "teacher" else load_whole_or_segments(given, device)


def snapshots_of(paths: list[str] | None) -> list[NDArray[Any]]:
    """The snapshots of ``--snapshots``, one per file."""
    expected = "an .npy or .npz file of each snapshot"
    files = [input_file(path, "--snapshots", expected) for path in paths or []]
    for file in files:
        if file.suffix not in (".npy", ".npz"):
            raise UsageError(f"--snapshots: expected {expected}, got {str(file)!r}")
    return [array_file(file, "--snapshots")[0] for file in files]


def conditioning_of(model: Model) -> Conditioning:
    """The conditioning of a model."""
    if isinstance(model, FlowTeacher):
        return Conditioning.of(model.field)
    if isinstance(model, SegmentedDistiller):
        model = model.students_[0]
    return Conditioning.from_plain(model.teacher_.get("conditioning", "none"))


def conditions(
    model: Model,
    n: int | None = None,
    labels: int | list[int] | None = None,
    file: str | None = None,
) -> tuple[int, NDArray[Any] | None]:
    """The number of samples, and their conditions: the given labels, the rows of a file, or all classes."""
    conditioning = conditioning_of(model)
    classes, dim = conditioning.classes, conditioning.dim
    if n is not None and n < 1:
        raise UsageError(f"-n: expected at least 1, got {n}")
    if labels is not None and classes is None:
        raise UsageError("--label: expected a model with classes, got one without")
    if file is not None:
        if not conditioning:
            raise UsageError("--condition: expected a conditional model, got an unconditional one")
        rows, _ = array_file(input_file(file, "--condition", "an .npy file"), "--condition")
        n = len(rows) if n is None else n
        return n, np.resize(rows, (n, *rows.shape[1:]))
    if dim is not None:
        raise UsageError(f"--condition: expected an .npy file of vectors of length {dim}, got nothing")
    if classes is None:
        return EACH**2 if n is None else n, None
    asked = list(range(classes)) if labels is None else [labels] if isinstance(labels, int) else labels
    for label in asked:
        if not 0 <= label < classes:
            raise UsageError(f"--label: expected labels from 0 to {classes - 1}, got {label}")
    if n is None:
        n = EACH * len(asked) if 1 < len(asked) <= 2 * EACH else EACH**2
    # In the given order, with numbers that differ by at most one.
    return n, np.asarray(asked, dtype=np.int64)[np.arange(n) * len(asked) // n]
