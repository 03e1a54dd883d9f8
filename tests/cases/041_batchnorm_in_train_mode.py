#!/usr/bin/env python
"""situation: a teacher with BatchNorm is attached while still in training mode
expected: noticed (as dropout is), or put into evaluation mode; the user's running statistics are not changed
"""
import copy, io, os, pickle, sys, tempfile, threading, time, warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy as np
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller


def small(**options):
    """A student that trains in a second."""
    base = dict(observables=8, width=16, depth=1, steps=30, trajectories=256, path_steps=8)
    return KoopmanDistiller(**{**base, **options})


def gaussian(d=2):
    return FlowTeacher.gaussian(np.linspace(1.0, 2.0, d), np.diag(np.linspace(0.5, 1.5, d)))


def told(function):
    """The exception of a call, or None."""
    try:
        function()
    except Exception as error:
        return error
    return None


def text(error):
    return f"{type(error).__module__}.{type(error).__name__}: {str(error).splitlines()[0][:220] if str(error) else ''}"


def ours(error):
    return isinstance(error, koopflow.exceptions.KoopflowError)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.BatchNorm1d(32), torch.nn.Tanh(), torch.nn.Linear(32, 2))

    def forward(self, t, x):
        return self.net(torch.cat([x, t[:, None]], 1))


def main():
    torch.manual_seed(0); net = Net()
    for _ in range(50): net(torch.rand(64), torch.randn(64, 2))
    before = net.net[1].running_mean.clone(); count = int(net.net[1].num_batches_tracked)
    e = told(lambda: FlowTeacher.from_torch(net, (2,)))
    if e is not None: return f"PASS refused: {text(e)}"
    teacher = FlowTeacher.from_torch(net, (2,))
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    alone, together = teacher.velocity(0.5, x[:2])[0], teacher.velocity(0.5, x)[0]
    small().fit(teacher, progress=False)
    changed = float((net.net[1].running_mean - before).abs().max()); calls = int(net.net[1].num_batches_tracked) - count
    by = float(np.abs(alone - together).max())
    if by < 1e-6 and changed == 0 and calls == 0 and net.training:
        return "PASS asked in evaluation mode, and left as it was"
    return f"FAIL the velocity of one sample depends on its batch (by {by:.2g}), and koopflow's {calls} calls moved the user's running mean by {changed:.2g}"


if __name__ == "__main__":
    try:
        verdict = main()
    except BaseException as error:
        import traceback

        traceback.print_exc()
        verdict = f"FAIL unexpected {text(error)}"
    print(verdict, flush=True)
