"""Fits and samples that several processes share, joined by ``torch.distributed`` (docs/distributed.md).

``fit`` of teachers, students, forecasters and baselines notices a process group: under ``torchrun``, call
:func:`join` first, or ``torch.distributed.init_process_group`` yourself. Every rank then makes the same calls
with the same data; each step's rows are shared out, one sum over all ranks makes up its gradient, and all
ranks end with the same model. Only rank 0 shows progress, calls callbacks and writes checkpoints.

>>> from koopflow import distributed
>>> distributed.world().size  # Nobody has joined anything here.
1
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from . import _core
from ._arrays import Array, as_condition, as_number, checked_count, to_numpy
from ._conditioning import Conditioning
from .exceptions import ArgumentError, DistributedError

__all__ = ["World", "join", "launched", "sample", "world"]

# Rows that one call samples: the same whatever the number of ranks, and so are the samples, bit for bit.
BLOCK_ROWS = 1024
# Larger than what rounding makes of a velocity on other machines, less than other teachers differ by.
SAME_VELOCITY = 1e-3
# Points at which velocities are compared.
POINTS = 4


class World:
    """The ranks of a process group; one rank where there is none. :func:`world` finds it.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes and speaks for all."""
        return self.rank == 0

    @property
    def core(self) -> tuple[int, int, Callable[[torch.Tensor], bool]] | None:
        """What the core's fits take as ``world``; None for one rank."""
        return None if self.size == 1 else (self.rank, self.size, self._sum_undisturbed)

    def _sum_undisturbed(self, x: torch.Tensor) -> bool:
        """:meth:`sum`, which Ctrl-C does not cut: others wait in it. Answers whether it was pressed."""
        if threading.current_thread() is not threading.main_thread():
            self.sum(x)
            return False
        pressed: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
        try:
            self.sum(x)
        finally:
            signal.signal(signal.SIGINT, before)
        return bool(pressed)

    def sum(self, x: torch.Tensor) -> None:
        """Add a tensor up over all ranks, in place. Raises ``DistributedError`` where a rank is gone."""
        if self.size == 1:
            return
        # NCCL sums what is on a GPU only.
        there = x.cuda() if dist.get_backend() == "nccl" and not x.is_cuda else x
        self._call("a sum over all ranks", lambda: dist.all_reduce(there))
        if there is not x:
            x.copy_(there)

    def gather(self, value: Any) -> list[Any]:
        """What each rank has, in the order of ranks: anything that can be pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        self._call("an exchange between ranks", lambda: dist.all_gather_object(found, value))
        return found

    def _call(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            line = str(error).strip().partition("\n")[0]
            raise DistributedError(
                f"{what} failed on rank {self.rank} of {self.size}: another rank is gone, or did not answer "
                f"within the timeout of the process group ({line})"
            ) from error

    def agree(self, **facts: Any) -> None:
        """Raise ``DistributedError``, on every rank, for facts that are not the same on all of them.

        Arrays are compared by their digests; a name says which fact it is.
        """
        if self.size == 1:
            return
        own = {name: _digest(fact) for name, fact in facts.items()}
        first, *others = self.gather(own)
        for rank, other in enumerate(others, start=1):
            for name in first:
                if first[name] != other.get(name):
                    got = f"{_shown(first[name])} on rank 0 and {_shown(other.get(name))} on rank {rank}"
                    raise DistributedError(f"{name}: expected the same on every rank, got {got}")

    def options(self, given: Mapping[str, Any], *, seeded: bool = True) -> dict[str, Any]:
        """Options of a fit on this rank: those given, which have to be the same on all, on its own device.

        Without ``seeded`` the seed was drawn, and rank 0's counts.
        """
        options = dict(given)
        if self.size == 1:
            return options
        if not seeded:
            options["seed"] = self.gather(options["seed"])[0]
        self.agree(**{name: repr(value) for name, value in options.items() if name != "device"})
        return {**options, "device": self.place(options.get("device", "cpu"))}

    def agree_on_teacher(self, field: _core.VelocityField) -> None:
        """Raise ``DistributedError`` where ranks have teachers of other velocities at a few fixed points."""
        if self.size == 1:
            return
        random, shape = np.random.default_rng(0), tuple(field.event_shape)
        x = random.standard_normal((POINTS, *shape)).astype(np.float32)
        kind = Conditioning.of(field)
        condition: Array | None = None
        if kind.classes is not None:
            condition = np.zeros(POINTS, np.int64)
        elif kind.dim is not None:
            condition = np.zeros((POINTS, kind.dim), np.float32)
        own = to_numpy(field.velocity(np.full(POINTS, 0.5, np.float32), x, condition))
        first, *others = self.gather(own)
        for rank, other in enumerate(others, start=1):
            gap = np.linalg.norm(first - other) if first.shape == other.shape else np.inf
            if not gap <= SAME_VELOCITY * max(float(np.linalg.norm(first)), 1e-6):
                raise DistributedError(
                    f"teacher: expected the same on every rank, got another velocity on rank {rank}"
                )

    def place(self, device: str) -> str:
        """A rank's own GPU for ``"cuda"`` and ``"auto"``; any other device as it is."""
        if self.size == 1 or device not in ("cuda", "auto") or not torch.cuda.is_available():
            return device
        return f"cuda:{_local_rank() % torch.cuda.device_count()}"

    def leading(
        self, files: Mapping[str, Any], progress: Any, callback: Any = None
    ) -> tuple[dict[str, Any], Any, Any]:
        """Files to write, progress and callback of a fit: rank 0's alone."""
        if self.leads:
            return dict(files), progress, callback
        return {**files, "checkpoint": None}, False, None


def _digest(fact: Any) -> Any:
    """What tells a fact from another."""
    if fact is None or isinstance(fact, str | int | float | bool):
        return fact
    array = np.ascontiguousarray(to_numpy(fact))
    digest = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
    return f"{array.dtype} {array.shape} {digest}"


def _shown(fact: Any) -> str:
    """A digest as messages have it: the shape of an array."""
    text = fact if isinstance(fact, str) else repr(fact)
    return f"an array {text.rsplit(' ', 1)[0]}" if len(text) > 32 and text.count("(") == 1 else text


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched() -> bool:
    """Whether ``torchrun``, or another launcher with its environment, started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def join(*, backend: str | None = None, timeout: float = 600.0) -> World:
    """Join the ranks that ``torchrun`` started, once; a process that it did not start stays alone.

    Parameters
    ----------
    backend : str, optional
        As of ``torch.distributed.init_process_group``; by default gloo on CPUs and NCCL on GPUs.
    timeout : float, default 600
        Seconds after which a rank that does not answer is given up, with a ``DistributedError``.
    """
    seconds = as_number(timeout, "timeout", "a positive number", lambda value: value > 0)
    if launched() and not dist.is_initialized():
        gpus = torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
        if backend is None:
            backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
        atexit.register(_leave)
    return world()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
        # Its threads end with the last reference to the group. While the interpreter ends it is too late: a
        # thread that lets a tensor go then aborts the process.
        gc.collect()


def world(*, distributed: bool | None = None) -> World:
    """The ranks of this process: those of ``torch.distributed``, where it is initialised.

    Parameters
    ----------
    distributed : bool, optional
        False is one rank whatever there is; True joins what ``torchrun`` started and raises
        ``ArgumentError`` where there is nothing to join; by default a process group is noticed.
    """
    if distributed not in (None, True, False):
        raise ArgumentError(f"distributed: expected True, False or None, got {distributed!r}")
    if distributed and not (dist.is_available() and dist.is_initialized()):
        if not launched():
            raise ArgumentError(
                "distributed: expected a process group, or torchrun's environment, with True; got neither"
            )
        return join()
    if distributed is False or not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size())


def sample(
    model: Any,
    n: int,
    *,
    seed: int | None = 0,
    condition: Array | None = None,
    distributed: bool | None = None,
    **options: Any,
) -> np.ndarray[Any, Any]:
    """Samples of a teacher, a student or a baseline, made by all ranks and handed to each: ``[n, *event]``.

    Every rank calls it with the same arguments. The noise is that of ``model.sample(n, seed=seed)``, and the
    samples are the same, bit for bit, whatever the number of ranks: each makes blocks of 1,024 rows.

    Parameters
    ----------
    model : FlowTeacher, KoopmanDistiller or baseline
        Fitted model, the same on every rank.
    n, seed, condition
        As of ``model.sample``; a seed, since None would be another on every rank.
    distributed : bool, optional
        As of :func:`world`.
    **options
        Further options of ``model.sample``, such as ``steps`` or ``solver``.
    """
    ranks, count = world(distributed=distributed), checked_count(n)
    if seed is None:
        raise ArgumentError("seed: expected a number that all ranks share, got None")
    condition = as_condition(condition)
    x0 = to_numpy(model._fresh(count, seed, condition))
    blocks = [slice(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS)]
    rows = condition is not None and np.ndim(to_numpy(condition)) > 0 and len(condition) == count
    found = np.zeros(x0.shape, x0.dtype)
    for block in blocks[ranks.rank :: ranks.size]:
        own = condition[block] if rows and condition is not None else condition
        found[block] = to_numpy(model.sample(x0=x0[block], condition=own, **options))
    # Where a rank has nothing it adds zeros, which change no bit.
    ranks.sum(torch.from_numpy(found))
    return found
