"""``--data``: a built-in set by its name, an array file, or images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from .. import datasets
from ..exceptions import ArgumentError
from .errors import UsageError
from .options import Key, Table, keys_of, table

NAMES = {
    **{name: name for name in datasets.TWO_DIMENSIONAL},
    "8gaussians": "eight_gaussians",
    "digits": "digits",
}
# Of the sets that are drawn rather than stored.
DRAWN = 20_000
_OWN = (
    Key(
        "source",
        str | None,
        None,
        f"{', '.join(sorted(NAMES))}, an .npy or .npz file, or images: a file or a folder.",
    ),
    Key("held_out", float, 0.1, "Share that is not trained on; what evaluate compares with."),
    Key("labels", bool, False, "Condition on the labels that the data bring along."),
    Key("split_seed", int, 0, "Fixes which samples are held out."),
)
# Flags for keys that a source may or may not have.
FLAGS = {
    "--data": ("data", "source"),
    "--size": ("data", "size"),
    "--channels": ("data", "channels"),
    "--held-out": ("data", "held_out"),
}
_GIVEN = ("path", "n", "seed")


@dataclass(frozen=True)
class Data:
    """Samples ``[N, *event]`` and, where they were asked for, labels ``[N]``; no sample is in both parts."""

    train: NDArray[Any]
    held_out: NDArray[Any]
    train_labels: NDArray[Any] | None = None
    held_out_labels: NDArray[Any] | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.shape[1:])

    @property
    def conditioning(self) -> dict[str, int]:
        """What a teacher of these labels is told: ``num_classes``, or ``condition_dim`` for vectors."""
        if self.train_labels is None or self.held_out_labels is None:
            return {}
        if self.train_labels.ndim > 1:
            return {"condition_dim": int(self.train_labels.shape[1])}
        return {"num_classes": int(max(self.train_labels.max(), self.held_out_labels.max())) + 1}


def data_table() -> Table:
    """The keys of all sources; each source takes those that are its own."""
    readers: list[Callable[..., Any]] = [
        datasets.images,
        datasets.digits,
        *datasets.TWO_DIMENSIONAL.values(),
    ]
    keys = {
        "n": Key("n", int | None, None, f"How many samples to draw of a two-dimensional set ({DRAWN})."),
        "seed": Key("seed", int | None, None, "Fixes what is drawn of a two-dimensional set."),
    }
    # Defaults differ from source to source: what is not set is left to each.
    for reader in readers:
        for key in keys_of(reader, leave_out=_GIVEN):
            before = keys.get(key.name)
            kind = Union[key.kind, None] if before is None else Union[before.kind, key.kind]  # noqa: UP007
            keys[key.name] = Key(key.name, kind, None, key.help if before is None else before.help)
    return table("data", _OWN, keys.values())


def load(values: dict[str, Any], *, flag: str = "--data") -> Data:
    """The data that ``[data]`` asks for, split."""
    source = values["source"]
    if source is None:
        raise UsageError(f"{flag}: expected {_expected()}, got nothing")
    samples, labels = _read(source, values, flag)
    if not values["labels"]:
        labels = None
    elif labels is None:
        raise UsageError(f"--labels: {source} brings no labels along")
    share = float(values["held_out"])
    if share == 0.0:
        return Data(samples, samples, labels, labels)
    if not 0.0 < share < 1.0:
        raise UsageError(f"--held-out: expected a share from 0 to below 1, got {share:g}")
    try:
        parts = datasets.split(
            samples, *([] if labels is None else [labels]), held_out=share, seed=values["split_seed"]
        )
    except ArgumentError as error:
        raise UsageError(f"--held-out: {error}") from error
    return Data(*parts)


def _read(source: str, values: dict[str, Any], flag: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    options = {
        name: value
        for name, value in values.items()
        if value is not None and name not in {key.name for key in _OWN}
    }
    name = NAMES.get(source)
    if name == "digits":
        return _call(datasets.digits, source, options)  # type: ignore[no-any-return]
    if name is not None:
        options.setdefault("n", DRAWN)
        return _call(datasets.TWO_DIMENSIONAL[name], source, options), None
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{flag}: expected {_expected()}, got {source!r}, where there is nothing")
    vectors = _vectors(path)
    if vectors is not None:
        _refuse(options, source, [])
        return vectors
    answer: tuple[NDArray[Any], NDArray[Any] | None] = _call(datasets.images, source, options, path)
    return answer


def _call(function: Callable[..., Any], source: str, options: dict[str, Any], *arguments: Any) -> Any:
    """A reader's answer; its own complaints are about ``--data``."""
    keys = keys_of(function)
    _refuse(options, source, [key.name for key in keys if key.name != "path"])
    for key in keys:
        if key.name in options:
            key.checked(options[key.name], f"data.{key.name}")
            # TOML has lists only.
            if isinstance(options[key.name], list):
                options[key.name] = tuple(options[key.name])
    try:
        return function(*arguments, **options)
    except (ValueError, OSError) as error:
        named = str(error) if str(Path(source)) in str(error) else f"{source}: {error}"
        raise UsageError(f"--data: {named}") from error


def _refuse(options: dict[str, Any], source: str, known: list[str]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"data.{name}: no option of {source}, which has {', '.join(known) or 'none'}")


def _vectors(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """An array file of ``[N, d]``; None for everything else, which is for the reader of images."""
    if path.suffix not in (".npy", ".npz"):
        return None
    samples, labels = array_file(path)
    if samples.ndim != 2:
        return None
    return samples.astype(np.float32), labels


def array_file(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The samples and labels of an .npy or .npz file; nothing is ever unpickled."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content, None
        with content:
            arrays = {name: content[name] for name in content.files}
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"--data: cannot read {path} as an array file: {error}") from error
    labels = next((arrays.pop(name) for name in ("labels", "y") if name in arrays), None)
    for name in ("samples", "images", "data", "x"):
        if name in arrays:
            return arrays[name], labels
    if len(arrays) != 1:
        raise UsageError(
            f"--data: {path}: expected an array named samples, images, data or x, "
            f"got {', '.join(arrays) or 'none'}"
        )
    return next(iter(arrays.values())), labels


def _expected() -> str:
    return f"one of {', '.join(sorted(NAMES))}, or a file or folder"
