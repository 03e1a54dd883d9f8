"""A fit that never ends by itself: ``python long_fit.py CHECKPOINT TIMEOUT``; rank 0 prints steps done."""

from __future__ import annotations

import sys

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller, distributed


def main(checkpoint: str, timeout: str) -> None:
    torch.set_num_threads(1)
    distributed.join(timeout=float(timeout))
    teacher = FlowTeacher.gaussian(np.zeros(2), np.eye(2))
    small = {"observables": 8, "width": 16, "depth": 1, "batch_size": 32, "trajectories": 256}
    student = KoopmanDistiller(steps=10**6, training={"evaluate_every": 5}, **small)
    tell = lambda event: print(event["stage"], event["step"], flush=True)  # noqa: E731
    student.fit(teacher, checkpoint=checkpoint, checkpoint_every=1, callback=tell, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
