"""Smoke test of an installed koopflow without optional packages: ``python smoke.py 0.2.0 2.13.0``.

The arguments are the versions of koopflow and of the torch that it was built for.
"""

import sys
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("error")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import koopflow  # noqa: E402

_, version, built_for = sys.argv
assert koopflow.__version__ == koopflow._core.__version__ == version
assert torch.__version__.split("+")[0] == koopflow._core.TORCH_VERSION == built_for

data = koopflow.datasets.moons(2_000, seed=0)
teacher = koopflow.FlowTeacher(event_shape=(2,), steps=200, seed=0).fit(data)
student = koopflow.KoopmanDistiller(steps=200, seed=0).fit(teacher)
samples = student.sample(1_000, seed=1)
assert np.isfinite(samples).all()
assert np.abs(samples.std(0) - data.std(0)).max() < 0.3

model = torch.nn.Sequential(torch.nn.Linear(2, 2))
own = koopflow.FlowTeacher.from_torch(lambda t, x: model(x), event_shape=(2,), convention="torchcfm")
assert own.sample(5, seed=0).shape == (5, 2)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "student.safetensors")
    student.save(path)
    again = koopflow.KoopmanDistiller.load(path)
np.testing.assert_array_equal(again.sample(1_000, seed=1), samples)
print("smoke test passed")
