"""What people attach, and how it goes wrong."""

import functools
import gc
import weakref

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError, CheckpointError, DeviceError, KoopflowError, TeacherError

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


class Normed(torch.nn.Module):
    """Batch norm, dropout and a part that the user has frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5)
        )
        self.frozen = torch.nn.BatchNorm1d(8).eval()
        self.last = torch.nn.Linear(8, 2)

    def forward(self, t, x):
        return self.last(self.frozen(self.first(torch.cat([x, t[:, None]], 1))))


def test_a_module_in_training_is_asked_in_evaluation_mode_and_left_as_it_was():
    module = Normed()
    module(torch.rand(64), torch.randn(64, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    teacher = FlowTeacher.from_torch(module, (2,))
    alone, together = teacher.velocity(0.5, NOISE[:2]), teacher.velocity(0.5, NOISE)
    density = teacher.log_prob(NOISE)
    assert modes == [part.training for part in module.modules()]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    np.testing.assert_allclose(alone, together[:2], atol=1e-6)
    x = torch.from_numpy(NOISE)
    module.eval()
    np.testing.assert_allclose(together, module(torch.full((16,), 0.5), x).detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(density, teacher.log_prob(NOISE), atol=1e-5)


def test_a_model_goes_with_its_teacher():
    module = Normed()
    teacher = FlowTeacher.from_torch(module, (2,))
    teacher.sample(x0=NOISE, solver="euler", steps=2)
    alive = weakref.ref(module)
    del module, teacher
    gc.collect()
    assert alive() is None


def test_a_module_that_fails_is_left_as_it_was():
    class Failing(torch.nn.Module):
        def forward(self, t, x):
            raise ZeroDivisionError("mine")

    module = Failing()
    with pytest.raises(TeacherError, match="mine"):
        FlowTeacher.from_torch(module, (2,))
    assert module.training


def test_a_batch_norm_hidden_in_a_function_is_noticed():
    module = Normed()
    module.first[2].eval()
    with pytest.raises(TeacherError, match=r"changes by .* others in their batch.*model\.eval\(\)"):
        FlowTeacher.from_torch(lambda t, x: module(t, x), (2,))


# --- what a model predicts, and when it is asked ----------------------------------------------------


def denoiser(t, x):
    """E[x1 | x_t] of the linear path to N(1, 0.25 I)."""
    t = t[:, None]
    return 1.0 + 0.25 * t * (x - t) / (0.25 * t**2 + (1.0 - t) ** 2)


def velocity_of_the_denoiser(t, x):
    return (denoiser(t, x) - x) / (1.0 - t)[:, None]


def test_a_model_of_the_data_is_attached():
    exact = FlowTeacher.gaussian([1.0, 1.0], 0.25 * np.eye(2))
    teacher = FlowTeacher.from_torch(denoiser, (2,), prediction="data")
    for t in (0.0, 0.4, 0.99):
        np.testing.assert_allclose(teacher.velocity(t, NOISE), exact.velocity(t, NOISE), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(teacher.sample(x0=NOISE), exact.sample(x0=NOISE), atol=2e-3)
    np.testing.assert_allclose(teacher.log_prob(NOISE), exact.log_prob(NOISE), atol=2e-2)
    reversed_time = FlowTeacher.from_torch(
        lambda x, timestep: denoiser(1.0 - timestep / 1000.0, x),
        (2,),
        convention="diffusers",
        prediction="data",
    )
    np.testing.assert_allclose(reversed_time.velocity(0.4, NOISE), teacher.velocity(0.4, NOISE), atol=1e-4)


def test_a_velocity_that_is_infinite_at_the_end_is_asked_no_later():
    with pytest.raises(
        TeacherError, match=r"expected finite values.*; time_range=\(0, 0\.999\).*prediction='data'"
    ):
        FlowTeacher.from_torch(velocity_of_the_denoiser, (2,))
    teacher = FlowTeacher.from_torch(velocity_of_the_denoiser, (2,), time_range=(0.0, 0.999))
    exact = FlowTeacher.gaussian([1.0, 1.0], 0.25 * np.eye(2))
    np.testing.assert_allclose(teacher.sample(x0=NOISE), exact.sample(x0=NOISE), atol=2e-3)
    np.testing.assert_array_equal(teacher.velocity(1.0, NOISE), teacher.velocity(0.999, NOISE))


def test_timesteps_that_are_looked_up_are_whole():
    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = torch.nn.Embedding(1000, 2)

        def forward(self, x, timestep):
            return self.steps(timestep) - x

    module = Table()
    with pytest.raises(TeacherError, match="whole_timesteps=True"):
        FlowTeacher.from_torch(module, (2,), convention="diffusers")
    teacher = FlowTeacher.from_torch(module, (2,), convention="diffusers", whole_timesteps=True)
    v = teacher.velocity([0.0, 0.2504, 1.0], NOISE[:3])
    np.testing.assert_allclose(v, NOISE[:3] - module.steps.weight[[999, 750, 0]].detach().numpy(), atol=1e-6)


# --- precision, place and batch ---------------------------------------------------------------------


class Rounded(torch.nn.Module):
    """A module that joins times to its half-precision input, so that they cannot be in float32."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2, dtype=dtype)

    def forward(self, t, x):
        return self.layer(torch.cat([x, t[:, None]], 1))


def test_times_are_rounded_only_for_a_module_that_refuses_them():
    module = Rounded()
    teacher = FlowTeacher.from_torch(module, (2,))
    x = torch.from_numpy(NOISE)
    expected = module(torch.full((16,), 0.3).bfloat16(), x.bfloat16()).float().detach()
    np.testing.assert_allclose(teacher.velocity(0.3, NOISE), expected, atol=1e-6)
    seen = []
    FlowTeacher.from_torch(Scaled(torch.float16, seen), (2,))
    assert set(seen) == {(torch.float32, torch.float16)}


class Scaled(torch.nn.Module):
    """Two layers of one precision behind a scale of another one."""

    def __init__(self, dtype, seen, scale=torch.float32):
        super().__init__()
        self.seen, self.scale = seen, torch.nn.Parameter(torch.ones(1, dtype=scale))
        self.layer = torch.nn.Linear(2, 2, dtype=dtype)

    def forward(self, t, x):
        self.seen.append((t.dtype, x.dtype))
        return self.layer(x)


@pytest.mark.parametrize("change", [torch.nn.Module.double, torch.nn.Module.bfloat16])
def test_a_module_that_changes_its_precision_is_followed(change):
    module = Rounded(torch.float32)
    teacher = FlowTeacher.from_torch(module, (2,))
    before = teacher.velocity(0.5, NOISE)
    change(module)
    np.testing.assert_allclose(teacher.velocity(0.5, NOISE), before, atol=3e-2)
    assert teacher.velocity(0.5, NOISE).dtype == np.float32
    assert np.isfinite(teacher.log_prob(NOISE)).all()


def test_buffers_have_a_precision_too():
    class Buffered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("matrix", torch.eye(2, dtype=torch.float64))

        def forward(self, t, x):
            return x @ self.matrix

    assert FlowTeacher.from_torch(Buffered(), (2,)).field.dtype == "float64"
    single = FlowTeacher.from_torch(Buffered(), (2,), dtype="float32")
    np.testing.assert_array_equal(single.velocity(0.5, NOISE), NOISE)


def test_a_batch_is_cut_into_pieces():
    seen = []

    def model(t, x, y):
        seen.append(len(x))
        return affine(t, x) + y[:, None]

    labels = np.arange(16) % 3
    whole = FlowTeacher.from_torch(model, (2,), num_classes=3)
    cut = FlowTeacher.from_torch(model, (2,), num_classes=3, max_batch=5)
    seen.clear()
    np.testing.assert_array_equal(cut.velocity(0.5, NOISE, labels), whole.velocity(0.5, NOISE, labels))
    assert seen == [5, 5, 5, 1, 16]
    np.testing.assert_allclose(
        cut.log_prob(NOISE, condition=labels), whole.log_prob(NOISE, condition=labels), rtol=1e-5
    )
    with pytest.raises(ArgumentError, match="max_batch: expected an integer"):
        FlowTeacher.from_torch(model, (2,), num_classes=3, max_batch=0)


def test_a_batch_that_runs_out_of_memory_is_halved_for_good():
    seen = []

    def model(t, x):
        seen.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return affine(t, x)

    teacher = FlowTeacher.from_torch(model, (2,))
    seen.clear()
    with pytest.warns(
        RuntimeWarning, match="ran out of memory with 16 samples: it gets at most 8 per call"
    ) as said:
        v = teacher.velocity(0.5, NOISE)
    assert len(said) == 1
    np.testing.assert_array_equal(v, affine(0.5, NOISE))
    assert seen == [16, 8, 4, 4, 4, 4]
    seen.clear()
    teacher.velocity(0.5, NOISE)
    assert seen == [4, 4, 4, 4]


def test_a_model_without_memory_for_one_sample_says_so():
    def model(t, x):
        if len(x) > 5:
            full.append(True)
        if full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return affine(t, x)

    full = []
    teacher = FlowTeacher.from_torch(model, (2,))
    with pytest.warns(RuntimeWarning, match="out of memory"), pytest.raises(KoopflowError, match="of memory"):
        teacher.velocity(0.5, NOISE)


# --- densities by finite differences ----------------------------------------------------------------


@pytest.mark.parametrize("model", [detached, without_gradients, inferred])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_differences_stand_in_for_gradients(model, divergence):
    teacher = FlowTeacher.from_torch(model, (2,), gradients="differences")
    expected = FlowTeacher.from_torch(affine, (2,)).log_prob(NOISE)
    np.testing.assert_allclose(teacher.log_prob(NOISE, divergence=divergence), expected, atol=2e-3)


def test_differences_of_a_curved_field():
    def curved(t, x):
        return torch.sin(2.0 * x.flip(1)) + x * torch.cos(x + t[:, None])

    by_autograd = FlowTeacher.from_torch(curved, (2,)).log_prob(NOISE)
    by_differences = FlowTeacher.from_torch(curved, (2,), gradients="differences").log_prob(NOISE)
    np.testing.assert_allclose(by_differences, by_autograd, atol=2e-3)


# --- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        lambda t, x, y: x * 0 + y[:, None],
        lambda t, x, labels: x * 0 + labels[:, None],
        lambda t, x, scale=1.0, cond=None: x * 0 + scale * cond[:, None],
        lambda t, x, *, context=None: x * 0 + context[:, None],
        lambda t, x, c, /: x * 0 + c[:, None],
        lambda t, x, what: x * 0 + what[:, None],
        lambda t, x, **keywords: x * 0 + keywords["y"][:, None],
    ],
)
def test_a_condition_is_passed_as_the_model_names_it(model):
    teacher = FlowTeacher.from_torch(model, (2,), num_classes=3)
    labels = np.arange(16) % 3
    np.testing.assert_array_equal(teacher.velocity(0.5, NOISE, labels)[:, 1], labels)


def test_a_condition_of_an_unknown_name_is_hinted_at():
    def model(t, x, genre=None):
        return x + genre[:, None]

    with pytest.raises(TeacherError, match="passed as 'y': condition_name= sets which of genre, t, x it is"):
        FlowTeacher.from_torch(model, (2,), num_classes=3)
    FlowTeacher.from_torch(model, (2,), num_classes=3, condition_name="genre")


def test_torchcfms_toy_models_are_hinted_at():
    class MLP(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.net(x)

    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, t, x, *args, **kwargs):
            return self.model(torch.cat([x, t.repeat(x.shape[0])[:, None]], 1))

    mlp = MLP()
    for model, hint in (
        (mlp, "takes x and t as one input"),
        (Wrapper(mlp), r"one time only: t\.view\(-1, 1\)"),
    ):
        with pytest.raises(TeacherError, match=rf"{hint}.*lambda t, x: mlp\(torch\.cat\(\[x, t"):
            FlowTeacher.from_torch(model, (2,))
    FlowTeacher.from_torch(lambda t, x: mlp(torch.cat([x, t[:, None]], 1)), (2,))


@pytest.mark.parametrize(
    "options",
    [
        {"prediction": "x0"},
        {"gradients": "none"},
        {"whole_timesteps": True},
        {"time_range": (0.5,)},
        {"time_range": (0.9, 0.1)},
        {"time_range": (0.0, 2.0)},
        {"max_batch": 2.5},
    ],
)
def test_wrong_options_are_named(options):
    with pytest.raises(ArgumentError, match=f"{next(iter(options))}: expected"):
        FlowTeacher.from_torch(affine, (2,), **options)


# --- exported programs ------------------------------------------------------------------------------


def export(module, example, path, **options):
    torch.export.save(torch.export.export(module, example, **options), path)
    return path


@pytest.mark.parametrize("convention", ["torchcfm", "flow_matching"])
def test_an_exported_program_is_attached(tmp_path, convention):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

        def forward(self, first, second):
            t, x = (first, second) if convention == "torchcfm" else (second, first)
            return self.net(torch.cat([x, t[:, None]], 1))

    module, rows = Model(), {0: torch.export.Dim("B", min=1)}
    example = (
        (torch.rand(4), torch.rand(4, 2)) if convention == "torchcfm" else (torch.rand(4, 2), torch.rand(4))
    )
    path = export(module, example, tmp_path / "model.pt2", dynamic_shapes=(rows, rows))
    attached = FlowTeacher.from_torch(
        lambda t, x: module(t, x) if convention == "torchcfm" else module(x, t), (2,)
    )
    for model in (path, str(path), torch.export.export(module, example, dynamic_shapes=(rows, rows))):
        teacher = FlowTeacher.from_torch(model, (2,), convention=convention)
        np.testing.assert_allclose(teacher.sample(x0=NOISE), attached.sample(x0=NOISE), atol=1e-5)
        np.testing.assert_allclose(teacher.log_prob(NOISE), attached.log_prob(NOISE), atol=1e-4)


def test_files_that_are_no_programs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model: no file .*missing\.pt2"):
        FlowTeacher.from_torch(tmp_path / "missing.pt2", (2,))
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt2: expected a \.pt2 file.*complete"):
        FlowTeacher.from_torch(tmp_path / "text.pt2", (2,))
    (tmp_path / "script.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="from_torchscript reads TorchScript files"):
        FlowTeacher.from_torch(tmp_path / "script.pt", (2,))

    class Model(torch.nn.Module):
        def forward(self, t, x):
            return x - t[:, None]

    fixed = export(Model(), (torch.rand(4), torch.rand(4, 2)), tmp_path / "fixed.pt2")
    with pytest.raises(TeacherError, match="exported for one batch size.*dynamic_shapes"):
        FlowTeacher.from_torch(fixed, (2,))


def test_devices_and_dtypes_are_named_by_text_or_object():
    for device in ("cpu", "CPU", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)):
        for dtype in ("float64", torch.float64, np.float64, np.dtype("float64")):
            assert FlowTeacher.gaussian([0.0], [[1.0]], device=device, dtype=dtype).field.dtype == "float64"
            assert FlowTeacher.from_torch(affine, (2,), device=device, dtype=dtype).field.dtype == "float64"
    with pytest.raises(DeviceError, match="device"):
        FlowTeacher.from_torch(affine, (2,), device="nowhere")
    for options in ({"device": 0}, {"dtype": 32}):
        with pytest.raises(ArgumentError, match="device or dtype: expected a name such as 'cpu'"):
            FlowTeacher.from_torch(affine, (2,), **options)


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


def changes_x(t, x):
    return x.mul_(-1.5).add_(2.0)


def changes_t(t, x):
    return affine(t, x) + 0.0 * t.zero_()[:, None]


@pytest.mark.parametrize("model", [changes_x, changes_t])
@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("gradients", ["autograd", "differences"])
def test_models_may_change_their_inputs_in_place(model, prediction, gradients):
    options = {"event_shape": (2,), "prediction": prediction, "gradients": gradients}
    teacher, pure = (FlowTeacher.from_torch(each, **options) for each in (model, affine))
    np.testing.assert_array_equal(teacher.velocity(0.5, NOISE), pure.velocity(0.5, NOISE))
    fixed = {"solver": "euler", "steps": 3}
    np.testing.assert_array_equal(teacher.log_prob(NOISE, **fixed), pure.log_prob(NOISE, **fixed))
