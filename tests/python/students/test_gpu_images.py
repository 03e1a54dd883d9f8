"""U-Nets on a CUDA device: the answers of the CPU, also in bfloat16, and students that train there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller, Training, Trajectories, UNet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

SHAPE = (3, 16, 16)
NETWORK = UNet(channels=32, multipliers=(1, 2), attention=(2,), heads=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[FlowTeacher, FlowTeacher]:
    """One teacher, on the GPU and on the CPU."""
    data = np.random.default_rng(0).standard_normal((256, *SHAPE)).astype("f4")
    teacher = FlowTeacher(SHAPE, network=NETWORK, steps=30, batch_size=32, device="cuda", flip=True)
    teacher.fit(data, progress=False)
    path = tmp_path_factory.mktemp("gpu") / "teacher.safetensors"
    teacher.save(path)
    return teacher, FlowTeacher.load(path)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.cpu() - wanted.cpu()).norm() / wanted.cpu().norm())


def test_a_unet_answers_as_on_the_cpu(trained) -> None:
    on_gpu, on_cpu = trained
    x, t = torch.randn(16, *SHAPE), torch.rand(16)
    wanted = on_cpu.velocity(t, x)
    got = on_gpu.velocity(t.cuda(), x.cuda())
    assert got.is_cuda
    assert relative(got, wanted) < 5e-3  # convolutions may run in TF32
    with koopflow.autocast("bf16"):
        assert relative(on_gpu.velocity(t.cuda(), x.cuda()), wanted) < 5e-2


@pytest.mark.parametrize("basis", ["unet", "hierarchy"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_students_train_and_sample_there(trained, basis: str, precision: str, tmp_path) -> None:
    teacher, _ = trained
    student = KoopmanDistiller(
        basis=basis,
        unet=NETWORK,
        steps=20,
        batch_size=32,
        trajectories=Trajectories(count=256, path_steps=4),
        training=Training(precision=precision),
        device="cuda",
    ).fit(teacher, progress=False)
    x0 = torch.randn(8, *SHAPE)
    sample = student.sample(x0=x0.cuda())
    assert sample.is_cuda
    assert torch.isfinite(sample).all()
    student.save(tmp_path / "s.safetensors")
    on_cpu = KoopmanDistiller.load(tmp_path / "s.safetensors")
    assert relative(sample, on_cpu.sample(x0=x0)) < 1e-2
