"""Teachers from TorchScript files, which run without Python."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import ArgumentError, CheckpointError, DeviceError, KoopflowError, TeacherError

BATCH = (np.array([0.0, 0.3, 1.0], np.float32), np.array([[0, 1], [2, 3], [-1, 0.5]], np.float32))


class Model(torch.nn.Module):
    """v(t, x) with parameters and a nonlinearity."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

    def velocity(self, t, x):
        return self.layers(torch.cat([x, t[:, None]], 1))


class TorchCfm(Model):
    def forward(self, t, x):
        return self.velocity(t, x)


class FlowMatching(Model):
    def forward(self, x, t):
        return self.velocity(t, x)


class Diffusers(Model):
    def forward(self, x, timestep):
        return (-self.velocity(1.0 - timestep / 1000.0, x),)


class Labelled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(4, 2)

    def forward(self, t, x, y):
        return self.table(y) * t[:, None] - x


def save(module, path, *extra, dtype=torch.float32, batch=2):
    """Traced, because scripts need the source of this file to be importable."""
    example = (torch.rand(batch, dtype=dtype), torch.rand(batch, 2, dtype=dtype))
    if isinstance(module, FlowMatching | Diffusers):
        example = example[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, (*example, *extra)).save(str(path))
    return path


@pytest.fixture
def path(tmp_path):
    return save(TorchCfm(), tmp_path / "teacher.pt")


@pytest.mark.parametrize(
    ("model", "convention"),
    [(TorchCfm, "torchcfm"), (FlowMatching, "flow_matching"), (Diffusers, "diffusers")],
)
def test_three_conventions_say_the_same_velocity(tmp_path, model, convention):
    t, x = BATCH
    module = model()
    teacher = FlowTeacher.from_torchscript(
        save(module, tmp_path / "m.pt"), event_shape=(2,), convention=convention
    )
    expected = module.velocity(torch.from_numpy(t), torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(teacher.velocity(t, x), expected, atol=1e-5)
    assert repr(teacher) == "<FlowTeacher(event_shape=(2,)): torchscript>"


def test_it_flows_like_the_module_that_was_saved(path):
    module = TorchCfm()
    saved = FlowTeacher.from_torchscript(path, (2,), dtype="float64")
    attached = FlowTeacher.from_torch(module, (2,), dtype="float64")
    noise = np.random.default_rng(0).normal(size=(32, 2))
    np.testing.assert_allclose(saved.sample(x0=noise), attached.sample(x0=noise), atol=1e-5)
    # Densities need vector-Jacobian products: libtorch's autograd through the module.
    np.testing.assert_allclose(saved.log_prob(noise), attached.log_prob(noise), atol=1e-5)
    assert not any(p.grad is not None for p in module.parameters())


def test_precision_is_the_modules_own(tmp_path):
    path = save(TorchCfm().double(), tmp_path / "double.pt", dtype=torch.float64)
    t, x = BATCH
    teacher = FlowTeacher.from_torchscript(path, (2,))
    assert teacher.field.dtype == "float64"
    module = TorchCfm().double()
    expected = module(torch.from_numpy(t).double(), torch.from_numpy(x).double()).detach().numpy()
    np.testing.assert_allclose(teacher.velocity(t.astype("f8"), x.astype("f8")), expected, rtol=1e-12)
    half = save(TorchCfm().bfloat16(), tmp_path / "half.pt", dtype=torch.bfloat16)
    assert FlowTeacher.from_torchscript(half, (2,)).velocity(0.5, x).dtype == np.float32


class Told(torch.nn.Module):
    """Answers the time that it is told."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, timestep):
        return 0.0 * self.layer(x) + timestep[:, None].float()


def test_timesteps_of_a_half_precision_module_are_exact(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.rand(2, 2, dtype=torch.bfloat16), torch.rand(2))
        torch.jit.trace(Told().bfloat16(), example).save(str(tmp_path / "half.pt"))
    teacher = FlowTeacher.from_torchscript(tmp_path / "half.pt", (2,), convention="diffusers")
    t, x = BATCH
    np.testing.assert_allclose(teacher.velocity(t, x)[:, 0], -1000.0 * (1.0 - t), rtol=1e-6)


class Cut(TorchCfm):
    def forward(self, t, x):
        return self.velocity(t, x).detach()


class Constant(torch.nn.Module):
    def forward(self, t, x):
        return torch.full_like(x, 2.0)


def test_a_density_needs_gradients(tmp_path):
    x = BATCH[1]
    cut = FlowTeacher.from_torchscript(save(Cut(), tmp_path / "cut.pt"), (2,))
    assert np.isfinite(cut.sample(x0=x)).all()
    with pytest.raises(TeacherError, match="depends on x but carries no gradient.*gradients='differences'"):
        cut.log_prob(x)
    whole = FlowTeacher.from_torchscript(save(TorchCfm(), tmp_path / "whole.pt"), (2,)).log_prob(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(tmp_path / "cut.pt")
    by_differences = FlowTeacher.from_torch(module, (2,), gradients="differences")
    np.testing.assert_allclose(by_differences.log_prob(x), whole, atol=2e-3)
    constant = FlowTeacher.from_torchscript(save(Constant(), tmp_path / "constant.pt"), (2,))
    expected = -0.5 * ((x - 2.0) ** 2).sum(1) - np.log(2.0 * np.pi)
    np.testing.assert_allclose(constant.log_prob(x), expected, atol=1e-5)


def test_evaluations_are_counted_and_threads_share_a_module(path):
    teacher = FlowTeacher.from_torchscript(path, (2,))
    tried = teacher.evaluations
    results = {}

    def work(index):
        results[index] = teacher.sample(x0=np.full((8, 2), index, np.float32), solver="euler", steps=10)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert teacher.evaluations == tried + 30
    for index in range(3):
        np.testing.assert_array_equal(results[index], results[index][:1].repeat(8, axis=0))


def test_labels_come_third(tmp_path):
    module = Labelled()
    path = save(module, tmp_path / "labelled.pt", torch.zeros(2, dtype=torch.int64))
    teacher = FlowTeacher.from_torchscript(path, (2,), num_classes=3)
    x = np.zeros((3, 2), np.float32)
    v = teacher.velocity(1.0, x, np.array([0, 1, 2]))
    np.testing.assert_allclose(v, module.table.weight[:3].detach().numpy(), atol=1e-6)
    guided = teacher.guided(2.0)
    table = module.table.weight.detach().numpy()
    expected = table[3] + 2.0 * (table[:3] - table[3])
    np.testing.assert_allclose(guided.velocity(1.0, x, np.array([0, 1, 2])), expected, atol=1e-5)


def test_a_frozen_module_and_one_in_training_mode(tmp_path):
    t, x = BATCH
    module = torch.nn.Sequential(torch.nn.Dropout(0.5))

    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = module

        def forward(self, t, x):
            return self.drop(x)

    path = save(Dropping().eval(), tmp_path / "dropping.pt")
    np.testing.assert_array_equal(FlowTeacher.from_torchscript(path, (2,)).velocity(t, x), x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(TorchCfm().eval(), (torch.rand(2), torch.rand(2, 2)))
        torch.jit.freeze(traced).save(str(tmp_path / "frozen.pt"))
    frozen = FlowTeacher.from_torchscript(tmp_path / "frozen.pt", (2,))
    expected = TorchCfm()(torch.from_numpy(t), torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(frozen.velocity(t, x), expected, atol=1e-5)
    assert np.isfinite(frozen.log_prob(x)).all()


def test_a_student_is_distilled_and_saved_and_the_teacher_says_why_it_is_not(path, tmp_path):
    teacher = FlowTeacher.from_torchscript(path, (2,))
    student = KoopmanDistiller(observables=8, width=16, depth=1, steps=20, trajectories=256)
    student.fit(teacher, progress=False).save(tmp_path / "student.safetensors")
    again = KoopmanDistiller.load(tmp_path / "student.safetensors")
    np.testing.assert_array_equal(again.sample(3), student.sample(3))
    with pytest.raises(TeacherError, match="'torchscript' .* keep its TorchScript file"):
        teacher.save(tmp_path / "teacher.safetensors")


# --- what goes wrong ------------------------------------------------------------------------------


def test_files_that_are_no_modules_are_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        FlowTeacher.from_torchscript(tmp_path / "missing.pt", (2,))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save(TorchCfm().state_dict(), tmp_path / "weights.pt")
    FlowTeacher.gaussian([0.0], [[1.0]]).save(tmp_path / "own.safetensors")
    for name in ("text.pt", "empty.pt", "cut.pt", "weights.pt", "own.safetensors", "."):
        with pytest.raises(CheckpointError, match="expected a (complete )?TorchScript") as caught:
            FlowTeacher.from_torchscript(tmp_path / name, (2,))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


class Wide(torch.nn.Module):
    def forward(self, t, x):
        return x[:, :1] * t[:, None]


class NotANumber(torch.nn.Module):
    def forward(self, t, x):
        return x / (x - x)


class Whole(torch.nn.Module):
    def forward(self, t, x):
        return x.long()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Wide, r"forward returned a tensor of shape \(3, 1\); expected .* \(3, 2\)"),
        (NotANumber, "forward returned .* infinite values among 6"),
        (Whole, "forward returned a tensor of dtype int64"),
        (FlowMatching, "forward raised RuntimeError: "),
    ],
)
def test_a_module_that_is_no_velocity_is_refused(tmp_path, module, message):
    path = save(module(), tmp_path / "wrong.pt")
    with pytest.raises(TeacherError, match=message) as caught:
        FlowTeacher.from_torchscript(path, (2,))
    tried = f"{path}: convention 'torchcfm' calls forward(t, x) with x (3, 2) and t (3,), float32 on cpu"
    assert str(caught.value).startswith(tried)


def test_a_module_with_other_arguments_is_refused(tmp_path, path):
    with pytest.raises(
        TeacherError, match=r"forward\(t, x, condition\) with .*; .*forward raised .*argument"
    ):
        FlowTeacher.from_torchscript(path, (2,), num_classes=3)
    labelled = save(Labelled(), tmp_path / "labelled.pt", torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TeacherError, match=r"missing value for argument 'y'"):
        FlowTeacher.from_torchscript(labelled, (2,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"convention": "other"}, ArgumentError, "convention: expected one of 'torchcfm'"),
        ({"dtype": "float16"}, KoopflowError, "dtype"),
        ({"device": "tpu"}, DeviceError, "device"),
        ({"device": "mps"}, DeviceError, "device: expected 'cpu', 'cuda', 'cuda:N' or 'auto', got \"mps\""),
        ({"num_classes": 0}, ArgumentError, "num_classes"),
    ],
)
def test_wrong_options_are_named(path, options, error, message):
    with pytest.raises(error, match=message):
        FlowTeacher.from_torchscript(path, (2,), **options)
