"""Training and sampling on several processes with ``torch.distributed`` (docs/distributed.md).

``fit`` of teachers, students, forecasters and baselines uses the process group if there is one. Under
``torchrun``, first call :func:`join`, or ``torch.distributed.init_process_group``. Every rank then makes the
same calls with the same data. The rows of each step are divided among the ranks, their gradients are summed,
and all ranks end with the same model. Only rank 0 shows progress, calls callbacks and writes checkpoints.

>>> from koopflow import distributed
>>> distributed.world().size  # There is no process group here.
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

# Number of rows that one call samples. It does not depend on the number of ranks, so neither do the samples.
BLOCK_ROWS = 1024
# Relative difference of equal velocities: above rounding between machines, below that of different teachers.
SAME_VELOCITY = 1e-3
# Number of points at which velocities are compared.
POINTS = 4


class World:
    """The ranks of a process group, or a single rank without one. :func:`world` returns it.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress for all."""
        return self.rank == 0

    @property
    def core(self) -> tuple[int, int, Callable[[torch.Tensor], bool]] | None:
        """The argument ``world`` of the core's fits; None for one rank."""
        return None if self.size == 1 else (self.rank, self.size, self._sum_undisturbed)

    def _sum_undisturbed(self, x: torch.Tensor) -> bool:
        """:meth:`sum`, which Ctrl-C does not interrupt, since other ranks wait in it.

        Returns whether Ctrl-C was pressed.
        """
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
        """Sum a tensor over all ranks, in place. Raises ``DistributedError`` if a rank is gone."""
        if self.size == 1:
            return
        # NCCL sums only tensors on a GPU.
        there = x.cuda() if dist.get_backend() == "nccl" and not x.is_cuda else x
        self._call("a sum over all ranks", lambda: dist.all_reduce(there))
        if there is not x:
            x.copy_(there)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in the order of ranks. A value may be anything that can be pickled."""
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
        """Raise ``DistributedError`` on every rank if a fact differs between ranks.

        Arrays are compared by their digests. The message names the fact.
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
        """Options of a fit on this rank: the given ones, which must agree on all ranks, with its own device.

        With ``seeded=False`` the seed was drawn at random, and that of rank 0 is used.
        """
        options = dict(given)
        if self.size == 1:
            return options
        if not seeded:
            options["seed"] = self.gather(options["seed"])[0]
        self.agree(**{name: repr(value) for name, value in options.items() if name != "device"})
        return {**options, "device": self.place(options.get("device", "cpu"))}

    def agree_on_teacher(self, field: _core.VelocityField) -> None:
        """Raise ``DistributedError`` if the ranks' teachers differ in their velocities at some points."""
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
        """The rank's own GPU for ``"cuda"`` and ``"auto"``; any other device unchanged."""
        if self.size == 1 or device not in ("cuda", "auto") or not torch.cuda.is_available():
            return device
        return f"cuda:{_local_rank() % torch.cuda.device_count()}"

    def leading(
        self, files: Mapping[str, Any], progress: Any, callback: Any = None
    ) -> tuple[dict[str, Any], Any, Any]:
        """Files, progress and callback of a fit. Only rank 0 gets the checkpoint, progress and callback."""
        if self.leads:
            return dict(files), progress, callback
        return {**files, "checkpoint": None}, False, None


def _digest(fact: Any) -> Any:
    """A small value that is equal for equal facts."""
    if fact is None or isinstance(fact, str | int | float | bool):
        return fact
    array = np.ascontiguousarray(to_numpy(fact))
    digest = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
    return f"{array.dtype} {array.shape} {digest}"


def _shown(fact: Any) -> str:
    """A digest for a message: dtype and shape of an array, the value of anything else."""
    text = fact if isinstance(fact, str) else repr(fact)
    return f"an array {text.rsplit(' ', 1)[0]}" if len(text) > 32 and text.count("(") == 1 else text


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched() -> bool:
    """Whether ``torchrun``, or a launcher with the same environment variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def join(*, backend: str | None = None, timeout: float = 600.0) -> World:
    """Initialise the process group of the ranks that ``torchrun`` started, if it is not yet initialised.

    In a process that ``torchrun`` did not start, nothing is initialised.

    Parameters
    ----------
    backend : str, optional
        Backend of ``torch.distributed.init_process_group``; by default gloo on CPUs and NCCL on GPUs.
    timeout : float, default 600
        Seconds after which a rank that does not respond is a ``DistributedError``.
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
        # The group's threads end with the last reference to it. This must happen before the interpreter shuts
        # down: a thread that releases a tensor then would abort the process.
        gc.collect()


def world(*, distributed: bool | None = None) -> World:
    """The ranks of ``torch.distributed`` if it is initialised, else a single rank.

    Parameters
    ----------
    distributed : bool, optional
        False returns a single rank in any case. True joins the ranks that ``torchrun`` started, and raises
        ``ArgumentError`` if there are none. By default an existing process group is used.
    """
    if distributed not in (None, True, False):
        raise ArgumentError(f"distributed: expected True, False or None, got {distributed!r}")
    if distributed and not (dist.is_available() and dist.is_initialized()):
        if not launched():
            raise ArgumentError(
                "distributed: expected a process group or torchrun's environment with True, got neither"
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
    """Draw samples ``[n, *event]`` of a teacher, a student or a baseline on all ranks together.

    Every rank calls it with the same arguments and gets all samples. The noise is that of
    ``model.sample(n, seed=seed)``. Each rank makes blocks of 1,024 rows, so the samples are the same, bit for
    bit, for any number of ranks.

    Parameters
    ----------
    model : FlowTeacher, KoopmanDistiller or baseline
        Fitted model, the same on every rank.
    n, seed, condition
        Arguments of ``model.sample``. The seed must be a number, since None would draw a different one on
        every rank.
    distributed : bool, optional
        As in :func:`world`.
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
    # Rows of other ranks are zeros here, and adding zeros changes no bit.
    ranks.sum(torch.from_numpy(found))
    return found
