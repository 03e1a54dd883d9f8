"""What people attach, and how it goes wrong."""

import functools

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError, DeviceError, TeacherError

NOISE = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)


def affine(t, x):
    return 2.0 - 1.5 * x


def detached(t, x):
    return affine(t, x).detach()


def without_gradients(t, x):
    with torch.no_grad():
        return affine(t, x)


def inferred(t, x):
    with torch.inference_mode():
        return affine(t, x)


@pytest.mark.parametrize("model", [detached, without_gradients, inferred])
def test_a_density_needs_gradients(model):
    """Cut gradients would give the density of a flow that does not change volumes, in silence."""
    teacher = FlowTeacher.from_torch(model, (2,))
    whole = FlowTeacher.from_torch(affine, (2,))
    np.testing.assert_allclose(teacher.sample(x0=NOISE), whole.sample(x0=NOISE), rtol=1e-6)
    with pytest.raises(TeacherError, match="carries no gradient"):
        teacher.log_prob(NOISE)
    assert np.isfinite(whole.log_prob(NOISE)).all()


def test_a_velocity_that_does_not_depend_on_x_needs_none():
    teacher = FlowTeacher.from_torch(lambda t, x: torch.full_like(x, 2.0), (2,))
    expected = FlowTeacher.gaussian([2.0, 2.0], np.eye(2)).log_prob(NOISE)
    # Noise moved by a constant: a Gaussian of the same covariance.
    np.testing.assert_allclose(teacher.log_prob(NOISE), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2,), (3,), (1, 2, 2), (2, 3)])
def test_times_that_broadcast_over_the_event_are_noticed(shape):
    with pytest.raises(TeacherError, match="raised RuntimeError"):
        FlowTeacher.from_torch(lambda t, x: t * x, shape)


class Labelled(torch.nn.Module):
    """A diffusion U-Net as diffusers names its arguments."""

    def forward(self, sample, timestep, class_labels=None):
        return sample * 0 + class_labels.to(sample.dtype)[:, None]


def test_wrappers_do_not_hide_what_a_model_takes():
    module = Labelled()
    average = torch.optim.swa_utils.AveragedModel(module)
    labels = np.arange(16) % 3
    for model in (module, torch.nn.DataParallel(module), average, functools.partial(module), module.forward):
        teacher = FlowTeacher.from_torch(model, (2,), convention="diffusers", num_classes=3)
        np.testing.assert_array_equal(teacher.velocity(0.5, NOISE, labels)[:, 0], -labels)
        FlowTeacher.from_diffusion(model, (2,), noise_argument="timestep", num_classes=3)


def test_timesteps_of_a_half_precision_model_are_exact():
    seen = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2, dtype=torch.bfloat16)

        def forward(self, hidden_states, timestep):
            seen.append(timestep)
            return self.layer(hidden_states)

    teacher = FlowTeacher.from_torch(Model(), (2,), convention="diffusers")
    t = np.linspace(0.0, 1.0, 16)
    teacher.velocity(t, NOISE)
    np.testing.assert_allclose(seen[-1].float().numpy(), 1000.0 * (1.0 - t), rtol=1e-6)


def test_batch_norms_belong_in_evaluation_mode():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, t, x):
            return self.inner(x)

    before = module[1].running_mean.clone()
    with pytest.raises(TeacherError, match=r"inner\.1 is a batch norm in training mode.*model\.eval\(\)"):
        FlowTeacher.from_torch(Model(), (2,))
    assert torch.equal(module[1].running_mean, before)
    FlowTeacher.from_torch(Model().eval(), (2,))


def test_devices_and_dtypes_are_named_by_text_or_object():
    for device in ("cpu", torch.device("cpu")):
        for dtype in ("float64", torch.float64, np.float64, np.dtype("float64")):
            assert FlowTeacher.gaussian([0.0], [[1.0]], device=device, dtype=dtype).field.dtype == "float64"
            assert FlowTeacher.from_torch(affine, (2,), device=device, dtype=dtype).field.dtype == "float64"
    with pytest.raises(DeviceError, match="device"):
        FlowTeacher.from_torch(affine, (2,), device="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3.0}, "num_classes: expected an integer"),
        ({"condition_dim": (4, 8)}, "condition_dim: expected an integer"),
        ({"num_classes": 0}, "num_classes: expected an integer of at least 1, got 0"),
        ({"num_classes": 2, "condition_dim": 2}, "at most one of num_classes and condition_dim"),
    ],
)
def test_conditions_are_counted_in_whole_numbers(options, message):
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher.from_torch(lambda t, x, y: x, (2,), **options)
    assert FlowTeacher.from_torch(lambda t, x, y: x, (2,), num_classes=np.int64(3)).num_classes == 3
