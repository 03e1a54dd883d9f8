"""What commands read: data, models, conditions and the places of files."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, datasets
from .._batches import as_batch
from .._conditioning import Conditioning
from ..datasets.arrays import contents
from ..exceptions import ArgumentError, KoopflowError
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .options import UsageError

READERS = {
    **datasets.TWO_DIMENSIONAL,
    "8gaussians": datasets.eight_gaussians,
    "digits": datasets.digits,
}
BUILT_IN = "8gaussians, checkerboard, digits, moons, swiss_roll"
# Samples that are drawn of the sets in the plane.
DRAWN = 20_000
# Samples of each class, and columns of a grid of images.
EACH = 8


@dataclass(frozen=True)
class DataOptions:
    """Data, and which part of them is held out of training.

    Parameters
    ----------
    source : str, optional
        Data: 8gaussians, checkerboard, digits, moons, swiss_roll; an .npy or .npz file; or a file or folder
        of images. ``--data`` for short.
    labels : bool, default False
        Whether to condition on the labels that come with the data. ``--labels`` for short.
    held_out : float, default 0.1
        Share of the data that is not trained on, with which ``evaluate`` compares. ``--held-out`` for short.
    split_seed : int, default 0
        Random seed of that share.
    n : int, optional
        Number of samples that are drawn of a set in the plane; 20,000 by default.
    noise : float, optional
        Noise of a set in the plane.
    seed : int, optional
        Random seed of a set in the plane.
    size : int or (int, int), optional
        Size that images are brought to. ``--size`` for short.
    resample : str, optional
        Method of resizing: bicubic or box.
    channels : int, optional
        Channels of pictures, 1 or 3. ``--channels`` for short.
    split : str, optional
        Part of MNIST or CIFAR-10: train or test.
    layout : str, optional
        Order of the axes of arrays of images: NCHW or NHWC.
    limits : (float, float), optional
        Values of black and white in arrays of images.
    """

    source: str | None = None
    labels: bool = False
    held_out: float = 0.1
    split_seed: int = 0
    n: int | None = None
    noise: float | None = None
    seed: int | None = None
    size: int | tuple[int, int] | None = None
    resample: str | None = None
    channels: int | None = None
    split: str | None = None
    layout: str | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Data:
    """Samples ``[N, *event]`` and their labels ``[N]`` or vectors ``[N, dim]``, if those were asked for."""

    train: NDArray[Any]
    held_out: NDArray[Any]
    train_labels: NDArray[Any] | None = None
    held_out_labels: NDArray[Any] | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.train.shape[1:]

    @property
    def conditioning(self) -> dict[str, int]:
        """The keywords of a teacher of these labels: ``num_classes`` or ``condition_dim``."""
        if self.train_labels is None or self.held_out_labels is None:
            return {}
        if self.train_labels.ndim > 1:
            return {"condition_dim": int(self.train_labels.shape[1])}
        return {"num_classes": int(max(self.train_labels.max(), self.held_out_labels.max())) + 1}


def load(given: Mapping[str, Any], *, labels: bool | None = None) -> Data:
    """The data that the table [data] asks for, split; ``labels`` goes before what it says of them.

    Raises ``UsageError`` when there are no such data, or options belong to others.
    """
    options = DataOptions(**(given if labels is None else {**given, "labels": labels}))
    source, share = options.source, options.held_out
    if source is None or not (source in READERS or Path(source).exists()):
        got = "nothing" if source is None else f"{source!r}, where there is nothing"
        raise UsageError(f"--data: expected one of {BUILT_IN}, or a file or folder, got {got}")
    try:
        samples, found = _read(options, source)
    except (KoopflowError, OSError) as error:
        said = str(error) if source in str(error) else f"{source}: {error}"
        raise UsageError(f"--data: {said}") from error
    arrays = [samples]
    if options.labels:
        if found is None:
            raise UsageError(f"--labels: {source} brings no labels along")
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
        return Data(*datasets.split(*arrays, held_out=share, seed=options.split_seed))
    except ArgumentError as error:
        raise UsageError(f"--held-out: {error}") from error


def _read(options: DataOptions, source: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    own = ("source", "labels", "held_out", "split_seed")
    given = {key: value for key, value in vars(options).items() if key not in own and value is not None}
    reader: Any = READERS.get(source, datasets.images)
    known = [key for key in inspect.signature(reader).parameters if key not in ("path", "labels")]
    flat = None
    if source not in READERS and Path(source).suffix in (".npy", ".npz"):
        samples, labels = array_file(Path(source), "--data")
        flat = samples if samples.ndim == 2 else None
        known = ["size", "resample", "layout", "limits"] if flat is None else []
    for key in given:
        if key not in known:
            raise UsageError(f"data.{key}: no option of {source}, which has {', '.join(known) or 'none'}")
    if flat is not None:
        return np.asarray(as_batch(flat, "samples"), np.float32), labels
    if source not in READERS:
        samples, labels = reader(source, labels=None if options.labels else False, **given)
    elif source == "digits":
        samples, labels = reader(**given)
    else:
        samples, labels = reader(**{"n": DRAWN, **given}), None
    return samples, labels


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
    """A file that has to be there."""
    if given is None:
        raise UsageError(f"{flag}: expected {what}, got nothing")
    if not Path(given).is_file():
        raise UsageError(f"{flag}: expected {what}, got {given!r}, where there is no file")
    return Path(given)


def load_teacher(given: str | None, device: str) -> FlowTeacher:
    """The teacher of ``--teacher``."""
    return FlowTeacher.load(input_file(given, "--teacher", "a teacher's file"), device=device)


def load_student(given: str | None, device: str, flag: str = "student") -> KoopmanDistiller:
    """The student of a file."""
    return KoopmanDistiller.load(input_file(given, flag, "a student's file"), device=device)


def load_either(given: str | None, device: str) -> KoopmanDistiller | FlowTeacher:
    """The student, or else the teacher, of a file."""
    kind, _ = _core.describe_file(fspath(input_file(given, "student", "a student's file")))
    return load_teacher(given, device) if kind == "teacher" else load_student(given, device)


def conditioning_of(model: KoopmanDistiller | FlowTeacher) -> Conditioning:
    """What a model is conditioned on."""
    if isinstance(model, FlowTeacher):
        return Conditioning.of(model.field)
    return Conditioning.from_plain(model.teacher_.get("conditioning", "none"))


def conditions(
    model: KoopmanDistiller | FlowTeacher,
    n: int | None = None,
    labels: int | list[int] | None = None,
    file: str | None = None,
) -> tuple[int, NDArray[Any] | None]:
    """The number of samples and the condition of each: labels in rows, those of a file, or every class."""
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
    # In the order asked for, each as often as any other to within one.
    return n, np.asarray(asked, dtype=np.int64)[np.arange(n) * len(asked) // n]


def output_folder(given: str | None) -> Path:
    """The folder of ``--output``, made."""
    if given is None:
        raise UsageError("--output: expected a folder, got nothing")
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: expected a folder, got the file {folder}")
    make(folder)
    return folder


def make(folder: Path) -> None:
    """Make a folder and prove that it can be written, before anything long begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output: cannot write to {folder}: {error.strerror or error}") from error


def refuse_existing(paths: Iterable[Path], *, overwrite: bool, hint: str = "") -> None:
    """Raises ``UsageError`` for a result that is there already."""
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise UsageError(f"--output: {there[0]} is there already: --overwrite replaces it{hint}")


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    _core._write_atomically(fspath(path), content)
    return path


def write_text(path: Path, text: str) -> Path:
    """As :func:`write_bytes`."""
    return write_bytes(path, text.encode(errors="surrogateescape"))
