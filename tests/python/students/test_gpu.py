"""On a CUDA device: nothing but single numbers leaves it while a flow is followed."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from koopflow import FlowTeacher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

EVENT = (3, 64, 64)


class Field(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, t, x):
        assert t.is_cuda
        assert x.is_cuda
        return self.layer(x) * t[:, None, None, None]


class Labelled(Field):
    def forward(self, t, x, y):
        assert y.is_cuda
        return super().forward(t, x) + y[:, None, None, None]


def copied(tmp_path, work):
    """The bytes that ``work`` moves between host and device, both ways."""
    work()  # libraries load, allocators fill
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=activities) as profile:
            work()
            torch.cuda.synchronize()
        profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    copies = [e for e in events if any(way in str(e.get("name")) for way in ("Memcpy DtoH", "Memcpy HtoD"))]
    return sum(int(e.get("args", {}).get("bytes", 0)) for e in copies)


def noise():
    return torch.randn(8, *EVENT, device="cuda")


def test_an_attached_module_stays_on_its_device(tmp_path):
    teacher = FlowTeacher.from_torch(Field().cuda().eval(), EVENT)
    assert teacher.field.device == "cuda:0"
    x, t = noise(), torch.rand(8, device="cuda")
    assert teacher.velocity(t, x).is_cuda
    assert teacher.sample(x0=x, solver="euler", steps=4).is_cuda
    assert teacher.log_prob(x, solver="euler", steps=2).is_cuda
    size = x.numel() * x.element_size()
    assert copied(tmp_path, lambda: teacher.velocity(t, x)) < size / 100
    assert copied(tmp_path, lambda: teacher.sample(x0=x, solver="euler", steps=4)) < size / 100
    # Random probes are drawn on the host, once, so that they are the same everywhere.
    assert copied(tmp_path, lambda: teacher.log_prob(x, solver="euler", steps=2)) < 1.1 * size


def test_a_torchscript_file_is_loaded_to_the_device(tmp_path):
    module = Field().cuda().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, (torch.rand(8, device="cuda"), noise())).save(str(tmp_path / "m.pt"))
    teacher = FlowTeacher.from_torchscript(tmp_path / "m.pt", EVENT, device="cuda")
    x, t = noise(), torch.rand(8, device="cuda")
    torch.testing.assert_close(teacher.velocity(t, x), module(t, x).detach(), atol=1e-4, rtol=1e-3)
    size = x.numel() * x.element_size()
    assert copied(tmp_path, lambda: teacher.sample(x0=x, solver="euler", steps=4)) < size / 100


def test_wrappers_stay_on_the_device(tmp_path):
    teacher = FlowTeacher.from_torch(Labelled().cuda().eval(), EVENT, num_classes=3)
    x, y = noise(), torch.arange(8, device="cuda") % 3
    guided = teacher.guided(2.0)
    assert guided.sample(x0=x, condition=y, solver="euler", steps=4).is_cuda
    diffusion = FlowTeacher.from_diffusion(
        lambda z, sigma: z / (1.0 + sigma[:, None, None, None]), EVENT, schedule="edm", device="cuda"
    )
    assert diffusion.sample(x0=x, solver="euler", steps=4).is_cuda
    size = x.numel() * x.element_size()
    assert copied(tmp_path, lambda: diffusion.sample(x0=x, solver="euler", steps=4)) < size / 100
