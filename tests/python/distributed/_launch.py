"""Runs a program on several ranks, each a process with the environment that torchrun would give it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Ended:
    """How a rank ended."""

    code: int
    out: str
    error: str


def start(arguments: Sequence[str], size: int) -> list[subprocess.Popen[str]]:
    """Processes of ``python ARGUMENTS``, one for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(size):
        own = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": size,
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in own.items()}}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **pipes))
    return processes


def finish(processes: Sequence[subprocess.Popen[str]], timeout: float = 240.0) -> list[Ended]:
    """What they print and how they end; none outlives this call."""
    ended = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=timeout)
            ended.append(Ended(process.returncode, out, error))
    finally:
        for process in processes:
            process.kill()
    return ended


def run(arguments: Sequence[str], size: int = 2) -> list[Ended]:
    """Run to the end; every rank has to end well."""
    ended = finish(start(arguments, size))
    for rank, one in enumerate(ended):
        assert one.code == 0, f"rank {rank}: {one.error}"
    return ended
