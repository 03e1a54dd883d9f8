"""Versions and machine, which are printed with published numbers."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

import koopflow


def machine() -> str:
    """Processor, number of CPUs and of torch's threads."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads"


def commit() -> str | None:
    """Short name of the checkout's commit, with a ``+`` if files have changed since; None without git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        name, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changes else "")


def versions() -> str:
    """Versions of koopflow and torch, and the machine."""
    at = f" (commit {name})" if (name := commit()) else ""
    return f"koopflow {koopflow.__version__}{at}, torch {torch.__version__}, {machine()}"
