"""Versions and machine, which are printed with published numbers."""

from __future__ import annotations

import os
import platform

import torch

import koopflow


def machine() -> str:
    """Processor, number of CPUs and of torch's threads."""
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads"


def versions() -> str:
    """Versions of koopflow and torch, and the machine."""
    return f"koopflow {koopflow.__version__}, torch {torch.__version__}, {machine()}"
