"""Pipelines of diffusers as teachers, against the steps of diffusers' own schedulers."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError, CheckpointError, ShapeError, TeacherError

diffusers = pytest.importorskip("diffusers")

# Of diffusers' own schedulers, with newer versions of NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHAPE = (1, 8, 8)


def unet(**options):
    torch.manual_seed(0)
    options = {"sample_size": 8, "in_channels": 1, "out_channels": 1, **options}
    return diffusers.UNet2DModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        **options,
    ).eval()


def noise(n=2, seed=1):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def stepped(teacher, x, times, condition=None):
    """Euler steps of the teacher between rising times."""
    for now, then in itertools.pairwise(times):
        x = x + (then - now) * teacher.velocity(float(now), x, condition)
    return x


def own_steps(model, scheduler, z, first=0, **options):
    """What the scheduler makes of a state by its own steps, from the ``first`` on."""
    for timestep in scheduler.timesteps[first:]:
        with torch.no_grad():
            seen = scheduler.scale_model_input(z, timestep) if hasattr(scheduler, "scale_model_input") else z
            answer = model(seen, timestep, **options).sample
        z = scheduler.step(answer[:, : z.shape[1]], timestep, z).prev_sample
    return z


def alphas(scheduler, timesteps):
    alpha = scheduler.alphas_cumprod[timesteps].double()
    return alpha.sqrt(), (1.0 - alpha).sqrt()


def ddim(prediction="epsilon", **options):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, clip_sample=False, **{"timestep_spacing": "trailing", **options}
    )
    scheduler.set_timesteps(8)
    return scheduler


@pytest.mark.parametrize(
    ("prediction", "options"),
    [
        ("epsilon", {}),
        ("epsilon", {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400}),
        ("epsilon", {"trained_betas": np.geomspace(1e-3, 0.3, 48).tolist(), "num_train_timesteps": 48}),
        ("sample", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("v_prediction", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("v_prediction", {"rescale_betas_zero_snr": True}),
    ],
)
def test_euler_steps_are_those_of_ddim(prediction, options):
    model, scheduler = unet(), ddim(prediction, **options)
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    assert teacher.event_shape_ == SHAPE
    alpha, sigma = alphas(scheduler, scheduler.timesteps)
    z = noise()
    times = [*(alpha / (alpha + sigma)).tolist(), 1.0]
    x = stepped(teacher, (z / (alpha[0] + sigma[0])).float(), times)
    expected = own_steps(model, scheduler, z)
    # Predictions of a model of noise are divided by alpha at the first step: what is small there is not.
    np.testing.assert_allclose(x, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_velocity_and_the_estimates_are_those_of_the_table(prediction):
    model, scheduler = unet(), diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=False)
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    timesteps = torch.tensor([5, 300, 720])
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in alphas(scheduler, timesteps))
    z = noise(3)
    with torch.no_grad():
        said = model(z, timesteps).sample.double()
    data, eps = {
        "epsilon": ((z - sigma * said) / alpha, said),
        "sample": (said, (z - alpha * said) / sigma),
        "v_prediction": (alpha * z - sigma * said, sigma * z + alpha * said),
    }[prediction]
    t, x = (alpha / (alpha + sigma)).flatten(), (z / (alpha + sigma)).float()
    scale = float((data - eps).abs().max())
    np.testing.assert_allclose(teacher.velocity(t.float(), x), data - eps, atol=1e-5 * scale)
    np.testing.assert_allclose(teacher.denoise(t.float(), x), data, atol=1e-5 * scale)
    # Beyond the table the field stands still.
    first = 1.0 - 1.0 / (1.0 + (alphas(scheduler, 0)[0] / alphas(scheduler, 0)[1]).item())
    later = [teacher.velocity(t, x) for t in (first, 0.5 * (1.0 + first), 1.0)]
    np.testing.assert_allclose(later[1], later[2], rtol=1e-6)
    np.testing.assert_allclose(later[0], later[2], atol=1e-3 * scale)


@pytest.mark.parametrize(
    "options",
    [
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "leading", "use_karras_sigmas": True},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "timestep_type": "continuous"},
    ],
)
def test_euler_steps_are_those_of_the_euler_scheduler(options):
    model, scheduler = unet(), diffusers.EulerDiscreteScheduler(**options)
    scheduler.set_timesteps(8)
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    # At a terminal SNR of zero this scheduler has 4096 instead, with the timestep of infinite noise.
    first = int("rescale_betas_zero_snr" in options)
    sigmas = scheduler.sigmas.double()[first:]
    z = noise() * sigmas[0].float()
    x = stepped(teacher, (z / (1.0 + sigmas[0])).float(), (1.0 / (1.0 + sigmas)).tolist())
    expected = own_steps(model, scheduler, z, first)
    np.testing.assert_allclose(x, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_steps_are_those_of_edm(prediction):
    model = unet()
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=0.7, sigma_max=40.0)
    scheduler.set_timesteps(8)
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    sigmas = scheduler.sigmas.double()
    z = noise() * 40.0
    x = stepped(teacher, (z / (1.0 + sigmas[0])).float(), (1.0 / (1.0 + sigmas)).tolist())
    expected = own_steps(model, scheduler, z)
    np.testing.assert_allclose(x, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"num_train_timesteps": 100}])
def test_flow_matching_is_sampled_at_the_schedulers_levels(options):
    model, scheduler = unet(), diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(6)
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    z = noise()
    grid = (1.0 - scheduler.sigmas.double()).tolist()
    grid[0], grid[-1] = 0.0, 1.0
    x = teacher.sample(x0=z, solver="euler", grid=grid)
    np.testing.assert_allclose(x, own_steps(model, scheduler, z), atol=1e-4)


def test_the_flow_ends_where_many_steps_do():
    model, scheduler = unet(), ddim("v_prediction", num_train_timesteps=200, beta_end=0.1)
    scheduler.set_timesteps(200)
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    z = noise()
    expected = own_steps(model, scheduler, z)
    np.testing.assert_allclose(teacher.sample(x0=z), expected, atol=0.05 * expected.abs().max().item())


# --- folders and pipelines ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_folders_and_pipelines_are_read(tmp_path, kind):
    model = unet()
    if kind == "DDPM":
        pipeline = diffusers.DDPMPipeline(model, diffusers.DDPMScheduler(num_train_timesteps=100))
    else:
        pipeline = diffusers.DDIMPipeline(model, ddim(num_train_timesteps=100))
    pipeline.save_pretrained(tmp_path / "pipeline")
    model.save_pretrained(tmp_path / "model")
    expected = FlowTeacher.from_diffusers(model, scheduler=pipeline.scheduler).velocity(0.4, noise())
    for source, scheduler in (
        (pipeline, None),
        (tmp_path / "pipeline", None),
        (str(tmp_path / "model"), tmp_path / "pipeline" / "scheduler"),
        (tmp_path / "model", tmp_path / "pipeline"),
        (tmp_path / "pipeline" / "unet", pipeline.scheduler),
    ):
        teacher = FlowTeacher.from_diffusers(source, scheduler=scheduler)
        np.testing.assert_allclose(teacher.velocity(0.4, noise()), expected, atol=1e-6)
    again = pickle.loads(pickle.dumps(teacher))
    np.testing.assert_allclose(again.velocity(0.4, noise()), expected, atol=1e-6)
    x = noise().requires_grad_()
    teacher.to_torch()(0.4, x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_classes_are_those_of_the_configuration():
    model, scheduler = unet(num_class_embeds=3), ddim()
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler)
    labels = torch.tensor([2, 0])
    alpha, sigma = alphas(scheduler, scheduler.timesteps)
    z = noise()
    times = [*(alpha / (alpha + sigma)).tolist(), 1.0]
    x = stepped(teacher, (z / (alpha[0] + sigma[0])).float(), times, labels)
    expected = own_steps(model, scheduler, z, class_labels=labels)
    np.testing.assert_allclose(x, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    with pytest.raises(ArgumentError, match="condition"):
        teacher.sample(2)
    # The last class as the one that stands for none.
    guided = FlowTeacher.from_diffusers(model, scheduler=scheduler, num_classes=2).guided(3.0)
    one, none = (teacher.velocity(0.5, z, torch.full((2,), label)) for label in (1, 2))
    np.testing.assert_allclose(
        guided.velocity(0.5, z, torch.ones(2).long()), none + 3 * (one - none), atol=2e-3
    )


def test_vectors_are_taken_as_class_labels():
    model = unet(class_embed_type="identity")
    teacher = FlowTeacher.from_diffusers(model, scheduler=ddim())
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    v = teacher.velocity(0.5, noise(), vectors)
    assert np.abs(np.asarray(v) - np.asarray(teacher.velocity(0.5, noise(), 0 * vectors))).max() > 1e-3
    with pytest.raises(ArgumentError, match="condition_dim: .*'timestep'"):
        FlowTeacher.from_diffusers(unet(class_embed_type="timestep"), scheduler=ddim())


def test_dit_has_latents_classes_and_a_variance_that_is_ignored(tmp_path):
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=5, norm_num_groups=2,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    scheduler = ddim()
    diffusers.DiTPipeline(dit, vae, scheduler).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="latents|ignored") as caught:
        teacher = FlowTeacher.from_diffusers(tmp_path)
    said = " ".join(str(w.message) for w in caught)
    assert "8 channels for 4" in said
    assert "latents (4, 8, 8): the pipeline's vae" in said
    assert {w.filename for w in caught} == {__file__}
    z, labels = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([4, 1])
    alpha, sigma = alphas(scheduler, scheduler.timesteps)
    times = [*(alpha / (alpha + sigma)).tolist(), 1.0]
    x = stepped(teacher, (z / (alpha[0] + sigma[0])).float(), times, labels)
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            answer = dit(z, timestep=timestep.expand(2), class_labels=labels).sample[:, :4]
        z = scheduler.step(answer, timestep, z).prev_sample
    np.testing.assert_allclose(x, z, atol=1e-4 * z.abs().max().item(), rtol=0)


def conditional_unet(**options):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=6, **options,
    ).eval()  # fmt: skip


def test_a_model_that_attends_to_a_text_takes_one_for_all():
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 4}
    model = conditional_unet(**blocks, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    with pytest.raises(ArgumentError, match="encoder_hidden_states: expected the embedding"):
        FlowTeacher.from_diffusers(model, scheduler=ddim())
    text = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(3))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    teacher = FlowTeacher.from_diffusers(model, scheduler=scheduler, encoder_hidden_states=text)
    with torch.no_grad():
        expected = -model(noise(), 600.0, text.expand(2, -1, -1)).sample
    np.testing.assert_allclose(teacher.velocity(0.4, noise()), expected, atol=1e-5)


def test_a_conditional_unet_without_text_needs_none():
    plain = {"down_block_types": ("DownBlock2D",) * 2, "mid_block_type": None}
    model = conditional_unet(**plain, up_block_types=("UpBlock2D",) * 2, num_class_embeds=4)
    teacher = FlowTeacher.from_diffusers(model, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    labels = torch.tensor([3, 1])
    with torch.no_grad():
        expected = -model(noise(), 600.0, None, class_labels=labels).sample
    np.testing.assert_allclose(teacher.velocity(0.4, noise(), labels), expected, atol=1e-5)


def test_models_of_a_table_get_whole_timesteps():
    model = unet(time_embedding_type="learned", num_train_timesteps=1000)
    teacher = FlowTeacher.from_diffusers(model, scheduler=ddim())
    v = teacher.velocity(0.4321, noise())
    assert np.isfinite(np.asarray(v)).all()
    # A staircase: times that are nearer than half a timestep have one velocity but for the state's share.
    near = teacher.velocity(0.4321 + 1e-6, noise())
    np.testing.assert_allclose(v, near, atol=1e-3)


def test_half_precision_is_asked_in_its_own():
    teacher = FlowTeacher.from_diffusers(unet(), scheduler=ddim())
    half = FlowTeacher.from_diffusers(unet().to(torch.bfloat16), scheduler=ddim())
    v, rough = (np.asarray(t.velocity(0.5, noise())) for t in (teacher, half))
    np.testing.assert_allclose(rough, v, atol=0.05 * np.abs(v).max())


# --- what goes wrong ------------------------------------------------------------------------------


def test_wrong_sources_are_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"source: .*'google/ddpm-cifar10-32'.*nothing is downloaded"):
        FlowTeacher.from_diffusers("google/ddpm-cifar10-32")
    with pytest.raises(CheckpointError, match=r"expected model_index.json .* got neither"):
        FlowTeacher.from_diffusers(tmp_path)
    with pytest.raises(ArgumentError, match="source: expected a folder, or a pipeline or model"):
        FlowTeacher.from_diffusers(3)
    with pytest.raises(ArgumentError, match="scheduler: expected a scheduler of diffusers or a folder"):
        FlowTeacher.from_diffusers(unet())
    with pytest.raises(ArgumentError, match=r"scheduler: expected a folder with scheduler_config.json"):
        FlowTeacher.from_diffusers(unet(), scheduler="google/ddpm-cifar10-32")
    diffusers.DDIMPipeline(unet(), ddim()).save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"expected a UNet2DModel of diffusers; diffusers says"):
        FlowTeacher.from_diffusers(tmp_path)
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "Mine"}))
    with pytest.raises(CheckpointError, match="expected a class of diffusers as _class_name, got 'Mine'"):
        FlowTeacher.from_diffusers(tmp_path)


def test_a_pipeline_without_a_scheduler_is_named(tmp_path):
    diffusers.DDIMPipeline(unet(), ddim()).save_pretrained(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ArgumentError, match=r"source: expected a folder with scheduler_config.json"):
        FlowTeacher.from_diffusers(tmp_path)
    (tmp_path / "scheduler").rmdir()
    with pytest.raises(ArgumentError, match="scheduler: expected a scheduler of diffusers"):
        FlowTeacher.from_diffusers(tmp_path)
    assert FlowTeacher.from_diffusers(tmp_path, scheduler=ddim()).event_shape_ == SHAPE


def test_wrong_schedulers_and_models_are_named():
    with pytest.raises(ArgumentError, match="scheduler: expected one of .*got ScoreSdeVeScheduler"):
        FlowTeacher.from_diffusers(unet(), scheduler=diffusers.ScoreSdeVeScheduler())
    odd = ddim()
    odd.register_to_config(prediction_type="score")
    with pytest.raises(ArgumentError, match="prediction_type of 'epsilon', .*DDIMScheduler, got 'score'"):
        FlowTeacher.from_diffusers(unet(), scheduler=odd)
    with pytest.raises(ArgumentError, match="rescale_betas_zero_snr, got 'epsilon'"):
        FlowTeacher.from_diffusers(unet(), scheduler=ddim(rescale_betas_zero_snr=True))
    inverted = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    with pytest.raises(ArgumentError, match="invert_sigmas"):
        FlowTeacher.from_diffusers(unet(), scheduler=inverted)
    with pytest.raises(ArgumentError, match="as many output as input channels, .* got 1 for 2"):
        FlowTeacher.from_diffusers(unet(in_channels=2), scheduler=ddim())
    with pytest.raises(ShapeError, match="event_shape: .* sample_size None"):
        FlowTeacher.from_diffusers(unet(sample_size=None), scheduler=ddim())
    assert FlowTeacher.from_diffusers(
        unet(sample_size=None), scheduler=ddim(), event_shape=(1, 4, 4)
    ).event_shape_ == (1, 4, 4)
    with pytest.raises(TeacherError, match="DDIMScheduler and UNet2DModel call"):
        FlowTeacher.from_diffusers(unet(), scheduler=ddim(), event_shape=(3, 8, 8))
    with pytest.raises(ArgumentError, match="source: .*Linear without config"):
        FlowTeacher.from_diffusers(torch.nn.Linear(2, 2), scheduler=ddim())
    with pytest.raises(ArgumentError, match="scheduler: .*int without config"):
        FlowTeacher.from_diffusers(unet(), scheduler=3)


def test_folders_say_what_they_need(tmp_path, monkeypatch):
    diffusers.DDIMPipeline(unet(), ddim()).save_pretrained(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'koopflow\[diffusers\]'"):
        FlowTeacher.from_diffusers(tmp_path)
