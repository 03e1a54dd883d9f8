"""Local flow matching (Xu et al. 2410.02548): a chain of flows, each over a short distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np

from .._arrays import Array, as_batch, as_condition, as_integer, as_number, as_numbers, as_seed, to_numpy
from .._clock import Clock
from ..exceptions import ArgumentError
from ..progress import ProgressFunction
from .joining import Joinable

Teacher = TypeVar("Teacher", bound="Local")

# A block learns from at least this many noised rows. With fewer data, each row is noised several times.
_FEWEST_STARTS = 65_536
_MOST_COPIES = 16


class Local(Joinable):
    """A teacher that can be trained block by block."""

    @classmethod
    def local(
        cls: type[Teacher],
        data: Array,
        *,
        steps: Sequence[float],
        condition: Array | None = None,
        block_steps: int | None = None,
        progress: bool | ProgressFunction = True,
        **options: Any,
    ) -> Teacher:
        """Train a chain of flows, each over a short distance: Local Flow Matching (Xu et al. 2410.02548).

        Let p_0 be the data. Block k is a flow between p_{k-1} and its noised version p_k, by one step of an
        Ornstein-Uhlenbeck process: x -> m + exp(-g) (x - m) + s sqrt(1 - exp(-2 g)) z, with g =
        ``steps[k-1]``, the data's mean m and deviation s, and fresh noise z. Each row is paired with its own
        noised version. The rows are then transported by the trained block and are the data of the next one,
        whose network starts from this block's weights. One more block leads from there to N(0, I). The
        teacher is the chain of all ``len(steps) + 1`` blocks in reverse order, with noise at time 0 and data
        at time 1.

        Parameters
        ----------
        data : array, ``[N, *event]``
            Finite data.
        steps : sequence of float
            Steps g > 0 of the process, starting at the data. A sum of 1 to 2 removes most of the data.
        condition : array, optional
            Labels ``[N]`` or vectors ``[N, condition_dim]``.
        block_steps : int, optional
            Number of training steps of each block: the ``steps`` of :class:`koopflow.FlowTeacher`.
        progress : bool or callable, default True
            As in :meth:`koopflow.FlowTeacher.fit`. Each block reports separately.
        **options
            Options of :class:`koopflow.FlowTeacher` for every block. ``coupling`` applies to the last block
            only, ``max_seconds`` is divided equally, and ``horizon`` is that of the chain, which is divided
            into equal parts. There is no ``source``.

        Returns
        -------
        FlowTeacher
            Fitted chain: see :meth:`chain`. ``history_["blocks"]`` are the histories of its blocks, in the
            order of training.

        Raises
        ------
        ArgumentError, ShapeError
            If steps are not positive or options do not fit, and the errors of ``fit``.
        KeyboardInterrupt
            If any block but the last is interrupted.

        Examples
        --------
        >>> from koopflow import FlowTeacher, datasets
        >>> options = {"width": 16, "depth": 1, "block_steps": 20, "progress": False}
        >>> teacher = FlowTeacher.local(datasets.checkerboard(256), steps=[0.3, 0.6], **options)
        >>> len(teacher.history_["blocks"]), teacher.sample(5).shape
        (3, (5, 2))
        """
        noising = _checked_steps(steps)
        for name in ("source", "source_noise"):
            if name in options:
                raise ArgumentError(f"{name}: expected none, for noise, got {options[name]!r}")
        rows = to_numpy(as_batch(data, "data"))
        condition = None if condition is None else to_numpy(as_condition(condition))
        clock = Clock.of(options.pop("horizon", (0.0, 1.0)))
        seed, count = as_seed(options.pop("seed", 0)), len(noising) + 1
        if (limit := options.pop("max_seconds", None)) is not None:
            options["max_seconds"] = as_number(limit, "max_seconds") / count
        if block_steps is not None:
            options["steps"] = as_integer(block_steps, "block_steps", least=1)
        blocks: list[Any] = []
        noise = _Noising(rows, seed)
        for place in range(count):
            block = cast(Any, cls)(rows.shape[1:], seed=(seed + place) % 2**63, **options)
            given: dict[str, Any] = {"initial": blocks[-1] if blocks else None, "progress": progress}
            if place == count - 1:
                blocks.append(block.fit(rows, condition=condition, **given))
                break
            copies, starts = noise(rows, noising[place])
            # Each row is paired with its own noised version, which has the same condition and is close to it.
            labels = None if condition is None else np.tile(condition, _axes(copies, condition))
            block.set_params(source=starts)
            block.fit(np.tile(rows, _axes(copies, rows)), noise=starts, condition=labels, **given)
            if block.history_["stopped"] == "interrupted":
                raise KeyboardInterrupt
            rows = to_numpy(block.trajectory(rows, times=[1.0, 0.0], condition=condition))[-1]
            blocks.append(block)
        times = np.linspace(clock.start, clock.end, count + 1)
        teacher = cls.chain(blocks[::-1], breaks=times)
        teacher._history = {**teacher._history, **_history([block.history_ for block in blocks], seed)}
        return teacher


class _Noising:
    """The Ornstein-Uhlenbeck process around the data's mean, whose limit has the data's deviation."""

    def __init__(self, data: Any, seed: int) -> None:
        wide = np.asarray(data, dtype=np.float64)
        self._mean = wide.mean(0)
        self._deviation = float(np.sqrt(wide.var(0).mean())) or 1.0
        self._random = np.random.default_rng(np.random.SeedSequence([seed, 2410]))

    def __call__(self, rows: Any, step: float) -> tuple[int, Any]:
        """The number of noised copies of each row, and the copies, one pass over all rows after another."""
        copies = int(np.clip(_FEWEST_STARTS // len(rows), 1, _MOST_COPIES))
        repeated = np.tile(rows, _axes(copies, rows))
        noise = self._random.standard_normal(repeated.shape)
        keep, spread = np.exp(-step), self._deviation * np.sqrt(-np.expm1(-2.0 * step))
        return copies, (self._mean + keep * (repeated - self._mean) + spread * noise).astype(rows.dtype)


def _axes(copies: int, rows: Any) -> tuple[int, ...]:
    return (copies, *(1,) * (rows.ndim - 1))


def _checked_steps(steps: Any) -> list[float]:
    found = as_numbers(steps, "steps", "[0.3, 0.6]")
    if not found or not all(0.0 < step < np.inf for step in found):
        raise ArgumentError(
            f"steps: expected positive steps of the noising process such as [0.3, 0.6], got {steps!r}; "
            "training steps of each block are block_steps"
        )
    return found


def _history(blocks: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "steps": sum(block["steps"] for block in blocks),
        "seconds": sum(block["seconds"] for block in blocks),
        "stopped": blocks[-1]["stopped"],
        "notes": [note for block in blocks for note in block["notes"]],
        "blocks": list(blocks),
    }
