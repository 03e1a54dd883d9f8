from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, Training, datasets
from koopflow.exceptions import (
    ArgumentError,
    CheckpointError,
    KoopflowError,
    NotFittedError,
    ShapeError,
    TeacherError,
)

from ..conftest import COV, MEAN


def affine(t, x):
    """An arbitrary velocity that depends on time and state."""
    return (1.0 + t)[:, None] * torch.tensor([1.0, -2.0], dtype=x.dtype) - 0.5 * x


class Linear(torch.nn.Module):
    """torchcfm's convention, with parameters of a chosen precision."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2, dtype=dtype)

    def forward(self, t, x, y=None):
        return self.layer(x) * (1.0 + t[:, None]) + (0.0 if y is None else y[:, None])


class Output:
    def __init__(self, sample):
        self.sample = sample


BATCH = (np.array([0.0, 0.3, 1.0], np.float32), np.array([[0, 1], [2, 3], [-1, 0.5]], np.float32))


# --- closed forms ---------------------------------------------------------------------------------


def test_gaussian_samples_are_the_affine_image_of_their_noise(gaussian):
    noise = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    expected = MEAN + noise @ np.real(sqrtm(COV))
    np.testing.assert_allclose(gaussian.sample(x0=noise), expected, atol=2e-4)
    np.testing.assert_allclose(gaussian.sample(x0=noise, solver="rk4", steps=50), expected, atol=2e-4)


def test_trajectories_run_both_ways(gaussian):
    noise = np.random.default_rng(1).normal(size=(16, 2)).astype(np.float32)
    times = [0.0, 0.25, 1.0]
    forth = gaussian.trajectory(noise, times=times)
    back = gaussian.trajectory(forth[-1], times=times[::-1])
    assert forth.shape == (3, 16, 2)
    np.testing.assert_array_equal(forth[0], noise)
    np.testing.assert_allclose(back[::-1], forth, atol=2e-3)


def test_log_density_is_the_gaussians(gaussian):
    x = np.random.default_rng(2).multivariate_normal(MEAN, COV, size=32).astype(np.float32)
    np.testing.assert_allclose(gaussian.log_prob(x), multivariate_normal(MEAN, COV).logpdf(x), atol=5e-3)


def test_the_empirical_flow_ends_on_its_data():
    data = np.array([[0.0, 3.0], [2.0, -1.0], [-4.0, 0.0]], np.float32)
    ends = FlowTeacher.empirical(data).sample(50, seed=1)
    distance = np.linalg.norm(ends[:, None] - data[None], axis=2).min(axis=1)
    assert distance.max() < 0.05


# --- arrays in and out ----------------------------------------------------------------------------


def test_outputs_follow_the_kind_of_the_input(gaussian):
    noise = np.random.default_rng(3).normal(size=(4, 2)).astype(np.float32)
    from_numpy = gaussian.sample(x0=noise)
    from_torch = gaussian.sample(x0=torch.from_numpy(noise))
    assert isinstance(from_numpy, np.ndarray)
    assert isinstance(from_torch, torch.Tensor)
    np.testing.assert_array_equal(from_torch.numpy(), from_numpy)
    assert isinstance(gaussian.sample(3), np.ndarray)
    assert isinstance(gaussian.log_prob(torch.from_numpy(noise)), torch.Tensor)


def test_fresh_samples_are_fixed_by_their_seed_and_leave_torch_alone(gaussian):
    state = torch.get_rng_state()
    first = gaussian.sample(20, seed=5)
    np.testing.assert_array_equal(first, gaussian.sample(20, seed=5))
    assert not np.array_equal(first, gaussian.sample(20, seed=6))
    assert torch.equal(state, torch.get_rng_state())


def test_evaluations_are_counted():
    teacher = FlowTeacher.gaussian(MEAN, COV)
    teacher.sample(5, solver="euler", steps=7)
    assert teacher.evaluations == 7
    teacher.sample(5, solver="rk4", steps=3)
    assert teacher.evaluations == 7 + 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.sample(), "one of n and x0, got neither"),
        (lambda t: t.sample(3, x0=np.zeros((3, 2))), "one of n and x0, got both"),
        (lambda t: t.sample(0), "n: expected an integer of at least 1"),
        (lambda t: t.sample(2.5), "n: expected an integer of at least 1"),
        (lambda t: t.trajectory(n=2, times=[0.5, 1.0]), "times: expected to begin at 0"),
    ],
)
def test_wrong_calls_are_named(gaussian, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(gaussian)


@pytest.mark.parametrize("call", ["sample", "velocity", "log_prob"])
def test_a_wrong_event_shape_is_a_shape_error(gaussian, call):
    x = np.zeros((4, 3), np.float32)
    arguments = {"sample": {"x0": x}, "velocity": {"t": 0.5, "x": x}, "log_prob": {"x": x}}[call]
    with pytest.raises(ShapeError, match="3"):
        getattr(gaussian, call)(**arguments)


# --- mirrored images ------------------------------------------------------------------------------


def test_flips_double_the_images_of_teacher_and_student():
    data = np.array([-3.0, 3.0], np.float32).reshape(1, 1, 1, 2).repeat(64, axis=0)
    teacher = FlowTeacher(
        (1, 1, 2),
        flip=True,
        width=32,
        depth=2,
        steps=400,
        training=Training(warmup_steps=10),
        learning_rate=5e-3,
    )
    samples = teacher.fit(data, progress=False).sample(200).reshape(200, 2)
    falling = samples[:, 0] > samples[:, 1]
    assert 0.35 < falling.mean() < 0.65
    np.testing.assert_allclose(np.abs(samples).mean(axis=0), 3.0, atol=0.7)
    assert teacher.pairing_["flip"] is True
    assert "flip=True" in repr(teacher)


def test_only_images_are_mirrored():
    with pytest.raises(ArgumentError, match=r"flip: expected samples of shape \(channels, height, width\)"):
        FlowTeacher((2,), flip=True, steps=1).fit(datasets.moons(64), progress=False)


# --- attached models ------------------------------------------------------------------------------


def test_three_conventions_say_the_same_velocity():
    t, x = BATCH
    models = {
        "torchcfm": affine,
        "flow_matching": lambda *, x, t: affine(t, x),
        "diffusers": lambda sample, timestep: (-affine(1.0 - timestep / 1000.0, sample),),
    }
    expected = affine(torch.from_numpy(t), torch.from_numpy(x)).numpy()
    for convention, model in models.items():
        teacher = FlowTeacher.from_torch(model, event_shape=(2,), convention=convention)
        np.testing.assert_allclose(teacher.velocity(t, x), expected, atol=1e-5, err_msg=convention)


def test_diffusers_outputs_and_keywords():
    t, x = BATCH
    seen = []

    def positional(sample, s, /):
        return Output(sample * 0 + s[:, None])

    def keyword(hidden_states, encoder_hidden_states=None, timestep=None, guidance=1.0):
        seen.append(guidance)
        return hidden_states * 0 + timestep[:, None]

    for model, extras in ((positional, {}), (keyword, {"guidance": 4.0})):
        teacher = FlowTeacher.from_torch(
            model, event_shape=(2,), convention="diffusers", timestep_scale=10.0, **extras
        )
        np.testing.assert_allclose(teacher.velocity(t, x), -10.0 * (1.0 - t)[:, None] + 0 * x, atol=1e-5)
    assert set(seen) == {4.0}


def test_a_module_brings_its_precision_and_its_gradient():
    module = Linear(torch.float64)
    teacher = FlowTeacher.from_torch(module, event_shape=(2,))
    t, x = BATCH
    v = teacher.velocity(t.astype(np.float64), x.astype(np.float64))
    assert v.dtype == np.float64
    expected = module(torch.from_numpy(t).double(), torch.from_numpy(x).double()).detach().numpy()
    np.testing.assert_allclose(v, expected, rtol=1e-12)
    # The log-density needs the Jacobian: the trace of a linear field is known.
    trace = float(torch.trace(module.layer.weight.detach())) * 1.5
    base = multivariate_normal(np.zeros(2), np.eye(2))
    noise = teacher.trajectory(x.astype(np.float64), times=[1.0, 0.0], rtol=1e-9, atol=1e-9)[-1]
    log_prob = teacher.log_prob(x.astype(np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(log_prob, base.logpdf(noise) - trace, atol=1e-6)


def test_a_half_precision_module_is_solved_in_single():
    teacher = FlowTeacher.from_torch(Linear(torch.bfloat16), event_shape=(2,))
    assert teacher.velocity(0.5, BATCH[1]).dtype == np.float32


def test_labels_reach_the_model():
    def model(t, x, y):
        return x * 0 + y[:, None].to(x.dtype)

    teacher = FlowTeacher.from_torch(model, event_shape=(2,), num_classes=10)
    noise = np.zeros((3, 2), np.float32)
    ends = teacher.sample(x0=noise, condition=np.array([0, 4, 9]))
    np.testing.assert_allclose(ends, [[0, 0], [4, 4], [9, 9]], atol=1e-4)
    with pytest.raises(KoopflowError, match="condition"):
        teacher.sample(x0=noise)


def raises(t, x):
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda t, x: x[:, :1], r"tensor of shape \(3, 1\); expected a floating-point torch tensor \(3, 2\)"),
        (
            lambda t, x: x * float("nan"),
            "6 NaN and 0 infinite values among 6 at t .*; expected finite",
        ),
        (lambda t, x: x.long(), "a tensor of dtype int64; expected a floating-point torch tensor"),
        (lambda t, x: x.numpy(), "expected a torch.Tensor, got ndarray"),
        (lambda t, x: x.to("meta"), "tensors on meta"),
        (lambda x: x, "raised TypeError"),
        (raises, "velocity raised ZeroDivisionError: mine"),
    ],
)
def test_a_model_that_is_no_velocity_is_refused_when_attached(model, message):
    with pytest.raises(TeacherError, match=message) as caught:
        FlowTeacher.from_torch(model, event_shape=(2,))
    assert "convention 'torchcfm' calls model(t, x) with x (3, 2) and t (3,)" in str(caught.value)


def test_the_models_own_exception_is_chained():
    with pytest.raises(TeacherError) as caught:
        FlowTeacher.from_torch(raises, event_shape=(2,))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_dropout_is_noticed():
    module = torch.nn.Sequential(torch.nn.Dropout(0.5))
    with pytest.raises(TeacherError, match=r"model\.eval\(\)"):
        FlowTeacher.from_torch(lambda t, x: module(x), event_shape=(64,))
    module.eval()
    FlowTeacher.from_torch(lambda t, x: module(x), event_shape=(64,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"convention": "other"}, ArgumentError, "convention: expected one of 'torchcfm'"),
        ({"num_classes": 0}, ArgumentError, "num_classes: expected an integer of at least 1"),
        ({"num_classes": 2, "condition_dim": 3}, ArgumentError, "at most one of num_classes"),
        ({"event_shape": ()}, ShapeError, "event_shape: expected positive integers"),
    ],
)
def test_wrong_options_of_attached_models_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        FlowTeacher.from_torch(affine, **{"event_shape": (2,), **arguments})


# --- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    data = 0.3 * np.random.default_rng(0).normal(size=(4000, 2)) + [2.0, -1.0]
    teacher = FlowTeacher(
        (2,), width=32, depth=2, steps=600, learning_rate=5e-3, training=Training(ema_decay=0.95), seed=1
    )
    return teacher.fit(data.astype(np.float32), progress=False)


def test_a_trained_teacher_samples_its_data(trained):
    samples = trained.sample(2000, seed=9)
    np.testing.assert_allclose(samples.mean(axis=0), [2.0, -1.0], atol=0.1)
    np.testing.assert_allclose(samples.std(axis=0), 0.3, atol=0.1)


def test_the_history_tells_of_training(trained):
    history = trained.history_
    assert history["steps"] == 600
    assert history["stopped"] == "completed"
    losses = [loss for _, loss in history["loss"]]
    assert np.mean(losses[-3:]) < losses[0]


def test_a_trained_teacher_survives_a_file(trained, tmp_path):
    path = tmp_path / "teacher.safetensors"
    trained.save(path)
    loaded = FlowTeacher.load(path)
    t, x = BATCH
    np.testing.assert_array_equal(loaded.velocity(t, x), trained.velocity(t, x))
    assert repr(loaded) == repr(trained)
    assert loaded.history_ == trained.history_


def test_closed_forms_survive_a_file(gaussian, tmp_path):
    gaussian.save(tmp_path / "gaussian.safetensors")
    loaded = FlowTeacher.load(tmp_path / "gaussian.safetensors")
    t, x = BATCH
    np.testing.assert_array_equal(loaded.velocity(t, x), gaussian.velocity(t, x))


def test_files_that_are_no_teachers(tmp_path):
    with pytest.raises(FileNotFoundError):
        FlowTeacher.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("not a checkpoint at all, just text")
    with pytest.raises(CheckpointError, match=r"text\.safetensors"):
        FlowTeacher.load(tmp_path / "text.safetensors")
    with pytest.raises(TeacherError, match="save the wrapped module itself"):
        FlowTeacher.from_torch(affine, event_shape=(2,)).save(tmp_path / "attached.safetensors")


def test_training_reports_progress_and_a_callbacks_exception_comes_back():
    events = []
    data = datasets.moons(300)
    FlowTeacher((2,), width=8, depth=1, steps=30).fit(data, progress=False, callback=events.append)
    assert {event["stage"] for event in events} == {"teacher"}
    assert events[-1]["step"] == events[-1]["total"] == 30
    assert "loss" in events[-1]["values"]

    def refuse(_):
        raise LookupError("enough")

    teacher = FlowTeacher((2,), width=8, depth=1, steps=30)
    with pytest.raises(LookupError, match="enough"):
        teacher.fit(data, progress=False, callback=refuse)
    with pytest.raises(NotFittedError):
        teacher.sample(1)


def test_fit_takes_steps_over_those_of_the_constructor():
    teacher = FlowTeacher((2,), width=8, depth=1, steps=10_000).fit(
        datasets.moons(300), steps=5, progress=False
    )
    assert teacher.history_["steps"] == 5


def test_before_fit_nothing_works():
    teacher = FlowTeacher((2,))
    for call in (
        lambda: teacher.sample(3),
        lambda: teacher.velocity(0.0, np.zeros((1, 2))),
        lambda: teacher.history_,
        lambda: teacher.evaluations,
        lambda: teacher.save("never.safetensors"),
    ):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call()


@pytest.mark.parametrize("data", [np.zeros((10, 3), np.float32), np.zeros(10, np.float32)])
def test_data_of_another_shape_are_refused(data):
    with pytest.raises(ShapeError, match=r"data: expected shape \(N, 2\)"):
        FlowTeacher((2,)).fit(data, progress=False)


def test_wrong_training_options_are_named():
    with pytest.raises(ArgumentError, match="unknown variant `none`, expected one of `independent`, `ot`"):
        FlowTeacher((2,), coupling="none").fit(datasets.moons(100), progress=False)
    with pytest.raises(ArgumentError, match="steps"):
        FlowTeacher((2,), steps=0).fit(datasets.moons(100), progress=False)


def test_repr_shows_what_was_changed():
    assert repr(FlowTeacher((2,), coupling="independent", seed=3)) == (
        "<FlowTeacher(event_shape=(2,), coupling='independent', seed=3): not fitted>"
    )


def test_a_constant_velocity_has_a_density():
    """x1 = x0 + shift: a normal density about the shift."""
    shift = torch.tensor([1.0, -2.0])
    teacher = FlowTeacher.from_torch(lambda t, x: shift.expand_as(x), event_shape=(2,))
    x = np.array([[1.0, -2.0], [2.0, 0.0]], dtype=np.float32)
    expected = -0.5 * ((x - shift.numpy()) ** 2).sum(axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(teacher.log_prob(x), expected, atol=1e-5)
