"""Diffusion models as teachers, on Gaussian data, where every prediction is known in closed form."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import ArgumentError, CheckpointError, DtypeError, ShapeError, TeacherError

MEAN = np.array([0.6, -0.4])
COV = np.array([[0.9, 0.4], [0.4, 0.5]])
SIGMA_DATA = 0.7
PREDICTIONS = ("eps", "score", "x0", "v")
SCHEDULES = ("vp", "ve", "edm")


def vp(r):
    """alpha and sigma of Song et al. with beta from 0.1 to 20."""
    alpha = torch.exp(-0.5 * (0.1 * r + 9.95 * r**2))
    return alpha, torch.sqrt(1.0 - alpha**2)


def exploding(sigma):
    return torch.ones_like(sigma), sigma


class Perfect(torch.nn.Module):
    """The best prediction for N(MEAN, COV) of what is asked for, told r (vp) or sigma."""

    def __init__(self, prediction, schedule):
        super().__init__()
        self.prediction, self.marginal = prediction, vp if schedule == "vp" else exploding
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("cov", torch.tensor(COV))

    def forward(self, z, noise):
        alpha, sigma = (part[:, None] for part in self.marginal(noise.double()))
        eye = torch.eye(2, dtype=torch.float64)
        spread = alpha[..., None] ** 2 * self.cov + sigma[..., None] ** 2 * eye
        white = torch.linalg.solve(spread, (z.double() - alpha * self.mean)[..., None])
        eps = sigma * white[..., 0]
        data = self.mean + alpha * (self.cov @ white)[..., 0]
        answers = {"eps": eps, "score": -white[..., 0], "x0": data, "v": alpha * eps - sigma * data}
        # k-diffusion's v, where alpha is 1.
        answers["v"] = answers["v"] / torch.sqrt(alpha**2 + sigma**2)
        return answers[self.prediction].to(z.dtype)


def teacher_of(prediction, schedule, **options):
    options = {"dtype": "float64", **options}
    return FlowTeacher.from_diffusion(
        Perfect(prediction, schedule), (2,), parametrisation=prediction, schedule=schedule, **options
    )


def probability_flow(schedule, t, x):
    """dx/dt by the textbook: dz/dr = f z - g^2 score / 2 (Song et al., eq. 13), x = z / c, r = 1 - t."""
    if schedule == "vp":
        r = 1.0 - t
        alpha, sigma = (part.item() for part in vp(torch.tensor(r, dtype=torch.float64)))
        c, c_rate, drift, diffusion = 1.0, 0.0, -0.5 * (0.1 + 19.9 * r), 0.1 + 19.9 * r
    else:
        low, high, alpha, drift = (0.01, 50.0, 1.0, 0.0) if schedule == "ve" else (0.002, 80.0, 1.0, 0.0)
        if schedule == "ve":
            sigma = high * (low / high) ** t
            rate = sigma * np.log(low / high)
        else:
            root = high ** (1 / 7) + t * (low ** (1 / 7) - high ** (1 / 7))
            sigma, rate = root**7, 7 * root**6 * (low ** (1 / 7) - high ** (1 / 7))
        diffusion = -2.0 * sigma * rate  # g^2 = d sigma^2 / dr
        share = (high**2 - 1) / (high**2 - low**2)
        c = np.sqrt(1 + share * (sigma**2 - low**2))
        c_rate = share * sigma * rate / c
    z = c * x
    score = -(z - alpha * MEAN) @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(2))
    return -(drift * z - 0.5 * diffusion * score) / c - c_rate / c * x


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_velocity_is_that_of_the_probability_flow(prediction, schedule):
    teacher = teacher_of(prediction, schedule)
    x = np.random.default_rng(0).normal(size=(6, 2))
    for t in (0.01, 0.3, 0.7, 0.95, 0.998):
        expected = probability_flow(schedule, t, x)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(teacher.velocity(t, x), expected, atol=1e-10 * scale, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_flow_carries_noise_to_data(prediction, schedule):
    teacher = teacher_of(prediction, schedule)
    # Affine maps are known by three points.
    ends = teacher.sample(x0=np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), rtol=1e-8, atol=1e-8)
    root = ends[1:] - ends[0]
    # N(0, I) lacks what the noise at t = 0 still holds of the data: 0.0066, 1 / 50, 1 / 80 of it.
    left = {"vp": 0.0066, "ve": 1 / 50, "edm": 1 / 80}[schedule]
    np.testing.assert_allclose(ends[0], MEAN, atol=1.5 * left * np.linalg.norm(MEAN))
    np.testing.assert_allclose(root.T @ root, COV, atol=2.0 * left**2 + 2e-4)
    np.testing.assert_allclose(root, np.real(sqrtm(COV)), atol=1e-3)


def test_densities_are_the_gaussians():
    x = np.random.default_rng(1).multivariate_normal(MEAN, COV, size=16)
    for prediction, schedule in (("eps", "vp"), ("x0", "edm")):
        log_prob = teacher_of(prediction, schedule).log_prob(x, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(log_prob, multivariate_normal(MEAN, COV).logpdf(x), atol=0.05)


def test_the_raw_network_of_edm_and_its_denoiser_are_one_teacher():
    denoise = Perfect("x0", "edm")

    def raw(y, c_noise):
        """F, from D = c_skip z + c_out F(c_in z, log(sigma) / 4)."""
        sigma = torch.exp(4.0 * c_noise)[:, None]
        square = sigma**2 + SIGMA_DATA**2
        z = y * torch.sqrt(square)
        data = denoise(z, sigma[:, 0])
        return (data - SIGMA_DATA**2 / square * z) / (sigma * SIGMA_DATA / torch.sqrt(square))

    options = {"schedule": "edm", "dtype": "float64"}
    network = FlowTeacher.from_diffusion(raw, (2,), parametrisation="F", sigma_data=SIGMA_DATA, **options)
    denoiser = FlowTeacher.from_diffusion(denoise, (2,), parametrisation="x0", **options)
    x, t = np.random.default_rng(2).normal(size=(7, 2)), np.linspace(0.0, 1.0, 7)
    np.testing.assert_allclose(network.velocity(t, x), denoiser.velocity(t, x), rtol=1e-9, atol=1e-9)


def test_files_and_teachers_may_be_the_model(tmp_path):
    model = Perfect("eps", "vp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.randn(2, 2, dtype=torch.float64), torch.rand(2, dtype=torch.float64))
        torch.jit.trace(model, example).save(str(tmp_path / "eps.pt"))
    x = np.random.default_rng(3).normal(size=(5, 2))
    expected = teacher_of("eps", "vp").velocity(0.4, x)
    from_file = FlowTeacher.from_diffusion(tmp_path / "eps.pt", (2,), dtype="float64")
    np.testing.assert_allclose(from_file.velocity(0.4, x), expected, rtol=1e-12)
    assert repr(from_file) == "<FlowTeacher(event_shape=(2,), dtype='float64'): diffusion>"
    rows = {0: torch.export.Dim("B", min=1)}
    program = torch.export.export(model, example, dynamic_shapes=(rows, rows))
    torch.export.save(program, tmp_path / "eps.pt2")
    for exported in (program, tmp_path / "eps.pt2"):
        teacher = FlowTeacher.from_diffusion(exported, (2,), dtype="float64")
        np.testing.assert_allclose(teacher.velocity(0.4, x), expected, rtol=1e-12)
    # A teacher that answers the prediction, here in torchcfm's order (t, x).
    raw = FlowTeacher.from_torch(lambda t, x: model(x, t), (2,), dtype="float64")
    np.testing.assert_allclose(FlowTeacher.from_diffusion(raw).velocity(0.4, x), expected, rtol=1e-12)


def test_discrete_models_get_whole_steps_and_labels_by_their_name():
    seen = []

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.steps, self.classes = torch.nn.Embedding(1000, 2), torch.nn.Embedding(4, 2)

        def forward(self, sample, timestep, class_labels):
            seen.append(timestep)
            return (self.steps(timestep) + self.classes(class_labels) + sample,)

    teacher = FlowTeacher.from_diffusion(Table(), (2,), noise_argument="index", num_classes=4)
    teacher.velocity([0.0, 0.2506, 1.0], np.zeros((3, 2), np.float32), np.array([0, 1, 3]))
    assert seen[-1].dtype == torch.int64
    # Within time_clip of the ends the field stands still: 999 (1 - 0.001) rounds to 998.
    assert seen[-1].tolist() == [998, 749, 1]
    with pytest.raises(ArgumentError, match="condition"):
        teacher.sample(3)


def test_evaluations_are_the_models():
    teacher = teacher_of("eps", "vp")
    before = teacher.evaluations
    teacher.sample(4, solver="euler", steps=9)
    assert teacher.evaluations == before + 9


def test_a_student_of_a_diffusion_model(tmp_path):
    teacher = teacher_of("v", "vp", dtype="float32")
    student = KoopmanDistiller(observables=16, width=32, depth=2, steps=400, trajectories=2048, seed=0)
    student.fit(teacher, progress=False)
    noise = np.random.default_rng(4).normal(size=(200, 2)).astype("f4")
    np.testing.assert_allclose(student.sample(x0=noise), teacher.sample(x0=noise), atol=0.15)
    with pytest.raises(TeacherError, match="'diffusion' .* save the wrapped module itself"):
        teacher.save(tmp_path / "teacher.safetensors")


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_model_that_is_no_prediction_is_refused():
    def raises(z, noise):
        raise ZeroDivisionError("mine")

    for model, message in (
        (lambda z, noise: z[:, :1], r"a tensor of shape \(3, 1\)"),
        (lambda z, noise: z * float("nan"), "6 NaN"),
        (lambda z: z, "raised TypeError"),
        (raises, "raised ZeroDivisionError: mine"),
        (lambda z, noise: torch.rand_like(z), "gave different velocities"),
    ):
        with pytest.raises(TeacherError, match=message) as caught:
            FlowTeacher.from_diffusion(model, (2,))
        assert str(caught.value).startswith("schedule 'vp' and parametrisation 'eps' call model(x, noise)")
    with pytest.raises(TeacherError) as caught:
        FlowTeacher.from_diffusion(raises, (2,))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def zero(z, noise):
    return torch.zeros_like(z)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"parametrisation": "epsilon"}, ArgumentError, "parametrisation.*unknown variant `epsilon`"),
        ({"schedule": "linear"}, ArgumentError, "schedule.*unknown variant `linear`"),
        ({"noise_argument": "t"}, ArgumentError, "noise_argument.*unknown variant `t`"),
        ({"sigma_max": 3.0}, ArgumentError, "unknown field `sigma_max`, expected one of `beta_min`"),
        ({"schedule": "edm", "beta_min": 3.0}, ArgumentError, "unknown field `beta_min`"),
        ({"beta_min": 30.0}, ArgumentError, "beta_min, beta_max: expected positive"),
        ({"schedule": "ve", "sigma_min": 60.0}, ArgumentError, "sigma_min, sigma_max: expected positive"),
        ({"schedule": "edm", "rho": 0.0}, ArgumentError, "rho: expected a finite number"),
        ({"time_clip": 0.0}, ArgumentError, "time_clip: expected a number between 0 and 0.5"),
        ({"sigma_data": -1.0}, ArgumentError, "sigma_data: expected a positive"),
        ({"num_timesteps": 1}, ArgumentError, "num_timesteps: expected at least 2"),
        ({"dtype": "float16"}, DtypeError, "dtype: expected 'float32' or 'float64'"),
        ({"event_shape": ()}, ShapeError, "event_shape"),
        ({"event_shape": None}, ArgumentError, "event_shape: expected the shape of one sample, got None"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        FlowTeacher.from_diffusion(zero, **{"event_shape": (2,), **options})


def test_wrong_models_are_named(gaussian, tmp_path):
    with pytest.raises(TypeError, match="model: expected a torch"):
        FlowTeacher.from_diffusion(3, (2,))
    with pytest.raises(ArgumentError, match="num_classes: expected nothing for a FlowTeacher"):
        FlowTeacher.from_diffusion(gaussian, num_classes=3)
    with pytest.raises(ArgumentError, match=r"event_shape: expected the teacher's \(2,\), got \(3,\)"):
        FlowTeacher.from_diffusion(gaussian, (3,))
    with pytest.raises(FileNotFoundError):
        FlowTeacher.from_diffusion(tmp_path / "missing.pt", (2,))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError):
        FlowTeacher.from_diffusion(tmp_path / "text.pt", (2,))
    with pytest.raises(ArgumentError, match="guidance: expected nothing for a TorchScript file"):
        FlowTeacher.from_diffusion(tmp_path / "text.pt", (2,), guidance=3.0)
