"""Teachers in plain PyTorch: the velocities of the core, gradients, and the way back."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from koopflow import FlowTeacher, UNet
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

FOLDER = Path(__file__).parents[2] / "fixtures" / "before_redesign"
FILES = sorted(path.stem for path in FOLDER.glob("teacher_*.safetensors"))
TIMES = [0.0, 0.1, 0.5, 0.93, 1.0]


def fitted(shape=(2,), *, far=False, condition=None, **options):
    """A small network teacher; ``far`` is of data in units of their own."""
    torch.manual_seed(0)
    data = torch.randn(64, *shape, dtype=torch.float64)
    data = 300.0 + 40.0 * data if far else data
    teacher = FlowTeacher(shape, width=16, depth=2, steps=20, batch_size=32, **options)
    return teacher.fit(data, condition=condition, progress=False)


LABELS, VECTORS = torch.arange(64) % 3, torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
NETWORKS = {
    "linear": fitted,
    "vp": partial(fitted, path="vp", coupling="independent"),
    "float64": partial(fitted, dtype="float64"),
    "far": partial(fitted, far=True),
    "far vp": partial(fitted, far=True, path="vp", coupling="independent"),
    "labels": partial(fitted, condition=LABELS, num_classes=3, label_dropout=0.2),
    "vectors": partial(fitted, condition=VECTORS, condition_dim=4),
    "images": partial(fitted, (1, 8, 8), network=UNet(channels=8), far=True),
}


class Model(nn.Module):
    """v(t, x) in the order and sign of a convention; batch normalisation shows the mode it is asked in."""

    def __init__(self, convention="torchcfm", dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.convention = convention
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 2)).to(
            dtype
        )

    def forward(self, *given, t=None, x=None, y=None):
        if given:
            t, x = given if self.convention == "torchcfm" else given[::-1]
        t = 1.0 - t / 1000.0 if self.convention == "diffusers" else t
        v = self.layers(torch.cat([x, t[:, None].to(x.dtype)], 1))
        v = v if y is None else v * (1 + y[:, None])
        return -v if self.convention == "diffusers" else v


def jitted(path, convention="torchcfm"):
    example = torch.rand(2), torch.rand(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(
            Model(convention).eval(), example if convention == "torchcfm" else example[::-1]
        )
        scripted.save(str(path))
    return path


def exported():
    batch = {0: torch.export.Dim.DYNAMIC}
    given = torch.rand(2), torch.rand(2, 2)
    return torch.export.export(Model().eval(), given, dynamic_shapes=[(batch, batch)])


def diffusion(schedule, prediction="eps", argument=None, **options):
    options |= {"schedule": schedule, "parametrisation": prediction, "noise_argument": argument}
    return FlowTeacher.from_diffusion(Model("flow_matching"), (2,), **options)


ATTACHED = {
    **{
        c: lambda c=c: FlowTeacher.from_torch(Model(c), (2,), convention=c)
        for c in ("torchcfm", "flow_matching", "diffusers")
    },
    "data": lambda: FlowTeacher.from_torch(Model(), (2,), prediction="data"),
    "half": lambda: FlowTeacher.from_torch(Model(dtype=torch.bfloat16), (2,)),
    "batches": lambda: FlowTeacher.from_torch(Model(), (2,), max_batch=2),
    "guided": lambda: FlowTeacher.from_torch(Model(), (2,), num_classes=3).guided(1.5, null_condition=7),
    "program": lambda: FlowTeacher.from_torch(exported(), (2,)),
    "function": lambda: FlowTeacher.from_torch(lambda t, x: (1.0 - x) * t[:, None], (2,)),
}
CLOSED = {
    "gaussian": lambda: FlowTeacher.gaussian([1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]]),
    "flat gaussian": lambda: FlowTeacher.gaussian([1.0, -2.0], [[1e4, 0.0], [0.0, 1e-3]], dtype="float64"),
    "empirical": lambda: FlowTeacher.empirical(np.random.default_rng(0).normal(3.0, 2.0, (50, 2))),
}
SCHEDULES = {
    **{f"{s} {p}": partial(diffusion, s, p) for s in ("vp", "edm") for p in ("eps", "score", "x0", "v", "F")},
    **{s: partial(diffusion, s) for s in ("scaled_linear", "cosine", "ve")},
    **{a: partial(diffusion, "vp", argument=a) for a in ("timestep", "index", "sigma", "c_noise", "log_snr")},
    "constants": partial(diffusion, "edm", sigma_min=0.01, sigma_max=20.0, rho=3.0),
    "clip": partial(diffusion, "cosine", time_clip=0.05, offset=0.02),
    "of a teacher": lambda: FlowTeacher.from_diffusion(NETWORKS["linear"](), num_timesteps=50),
    "of a guided one": lambda: FlowTeacher.from_diffusion(NETWORKS["labels"]().guided(2.0)),
}


def given(teacher, n=10):
    """Times, states and a condition of n samples."""
    rng = torch.Generator().manual_seed(2)
    dtype = getattr(torch, teacher.field.dtype)
    t = torch.tensor(TIMES, dtype=dtype).repeat(n // len(TIMES))
    x = torch.randn(n, *teacher.event_shape_, generator=rng, dtype=dtype) * 2.0
    condition = None
    if teacher.num_classes is not None:
        condition = torch.arange(n) % teacher.num_classes
    elif teacher.condition_dim is not None:
        condition = torch.randn(n, teacher.condition_dim, generator=rng)
    return t, x, condition


def assert_agrees(teacher, module, tolerance=1e-6):
    t, x, condition = given(teacher)
    expected = teacher.velocity(t, x, condition)
    answer = module(t, x, condition)
    assert answer.dtype == x.dtype
    # Velocities of ten thousands are rounded with their own size, near t = 1 say.
    size = expected.abs().flatten(1).amax(1).clamp(min=1.0).view(-1, *[1] * (x.ndim - 1))
    torch.testing.assert_close(answer.detach() / size, expected / size, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("name", FILES)
def test_files_of_before(name):
    teacher = FlowTeacher.load(FOLDER / f"{name}.safetensors")
    assert_agrees(teacher, teacher.to_torch())


@pytest.mark.parametrize("kind", [*NETWORKS, *CLOSED, *ATTACHED, *SCHEDULES])
def test_it_answers_as_the_core(kind):
    teacher = {**NETWORKS, **CLOSED, **ATTACHED, **SCHEDULES}[kind]()
    assert_agrees(teacher, teacher.to_torch(), 1e-12 if teacher.field.dtype == "float64" else 1e-6)


@pytest.mark.parametrize("convention", ["torchcfm", "flow_matching", "diffusers"])
def test_files_of_torchscript(tmp_path, convention):
    path = jitted(tmp_path / "model.pt", convention)
    teacher = FlowTeacher.from_torchscript(path, (2,), convention=convention)
    module = teacher.to_torch()
    assert_agrees(teacher, module)
    assert all(weight.grad_fn is None for weight in module.parameters())
    module(*given(teacher)).sum().backward()
    assert all(weight.grad is not None for weight in module.parameters())
    noise = FlowTeacher.from_diffusion(jitted(tmp_path / "noise.pt", "flow_matching"), (2,))
    assert_agrees(noise, noise.to_torch())


def test_options_of_torchscript_that_python_carries_out(tmp_path):
    path = jitted(tmp_path / "model.pt")
    plain = FlowTeacher.from_torchscript(path, (2,))
    kept = FlowTeacher.from_torchscript(path, (2,), time_range=(0.2, 0.8), max_batch=3)
    t, x, _ = given(plain)
    torch.testing.assert_close(kept.velocity(t, x), plain.velocity(t.clamp(0.2, 0.8), x))
    assert_agrees(kept, kept.to_torch())
    by_differences = FlowTeacher.from_torchscript(path, (2,), gradients="differences")
    density = plain.log_prob(x, solver="rk4", steps=10)
    torch.testing.assert_close(
        by_differences.log_prob(x, solver="rk4", steps=10), density, rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("kind", ["float64", "flat gaussian", "empirical", "torchcfm", "vp v"])
def test_gradients_agree_with_differences(kind):
    teacher = {**NETWORKS, **CLOSED, **ATTACHED, **SCHEDULES}[kind]()
    module = teacher.to_torch().double()
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.1, 0.3, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (t, x), eps=1e-6, atol=1e-4)


def test_the_jacobian_is_the_core_s():
    teacher = NETWORKS["float64"]()
    module, (_, x, _) = teacher.to_torch(), given(teacher)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: module(0.5, x[None])[0]))(x)
    small = 1e-5 * torch.eye(2, dtype=torch.float64)
    columns = [(teacher.velocity(0.5, x + e) - teacher.velocity(0.5, x - e)) / 2e-5 for e in small]
    torch.testing.assert_close(jacobian, torch.stack(columns, -1), rtol=1e-6, atol=1e-6)


def test_gradients_of_each_sample_go_through_labels():
    teacher = NETWORKS["labels"]()
    module, (t, x, condition) = teacher.to_torch(), given(teacher)
    weights = dict(module.named_parameters())

    def loss(weights, t, x, label):
        return torch.func.functional_call(module, weights, (t[None], x[None], label[None])).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(weights, t, x, condition)
    module(t, x, condition).square().sum().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(each[name].sum(0), weight.grad, rtol=1e-4, atol=1e-4)


def test_it_is_a_vector_field_for_solvers_that_pass_one_time():
    teacher = NETWORKS["float64"]()
    module, x0 = teacher.to_torch(), np.random.default_rng(0).normal(size=(5, 2))

    def field(t, y):
        return module(t, torch.as_tensor(y).view(5, 2)).detach().numpy().ravel()

    ends = solve_ivp(field, (0.0, 1.0), x0.ravel(), rtol=1e-8, atol=1e-8).y[:, -1].reshape(5, 2)
    np.testing.assert_allclose(teacher.sample(x0=x0, rtol=1e-7, atol=1e-7), ends, rtol=1e-5, atol=1e-5)
    x = torch.from_numpy(x0)
    assert torch.equal(module(torch.tensor(0.25), x), module(torch.full((5,), 0.25), x))


@pytest.mark.parametrize("kind", NETWORKS)
def test_exported_networks_take_any_batch(kind):
    teacher = NETWORKS[kind]()
    module = teacher.to_torch()
    few = [rows for rows in given(teacher, 5) if rows is not None]
    shapes = {"t": {0: torch.export.Dim.DYNAMIC}, "x": {0: torch.export.Dim.DYNAMIC}}
    if len(few) == 3:
        shapes["condition"] = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, tuple(few), dynamic_shapes=shapes)
    assert_agrees(teacher, lambda t, x, c: program.module()(*(r for r in (t, x, c) if r is not None)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_compiled_networks_are_one_graph(kind):
    teacher = NETWORKS[kind]()
    assert_agrees(teacher, torch.compile(teacher.to_torch(), backend="eager", fullgraph=True))


@pytest.mark.parametrize("kind", [*NETWORKS, *CLOSED, "file"])
def test_tuned_weights_come_back(kind):
    if kind == "file":
        teacher = FlowTeacher.load(FOLDER / "teacher_guided.safetensors")
    else:
        teacher = {**NETWORKS, **CLOSED}[kind]()
    module = teacher.to_torch()
    optimiser = torch.optim.SGD([*module.parameters(), torch.zeros(1, requires_grad=True)], lr=1e-3)
    before = module(*given(teacher))
    if any(True for _ in module.parameters()):
        before.square().mean().sqrt().backward()
        optimiser.step()
        assert not torch.equal(module(*given(teacher)), before)
    back = FlowTeacher.from_torch_module(module)
    assert_agrees(back, module, 1e-12 if teacher.field.dtype == "float64" else 1e-6)
    assert repr(back) == repr(teacher)
    assert back.history_ == teacher.history_
    assert back.pairing_ == teacher.pairing_


def test_a_tuned_teacher_is_saved_and_guided_like_any_other(tmp_path):
    module = NETWORKS["labels"]().to_torch()
    with torch.no_grad():
        module.network[-1].bias += 1.0
    back = FlowTeacher.from_torch_module(torch.compile(module, backend="eager"))
    back.save(tmp_path / "tuned.safetensors")
    assert_agrees(FlowTeacher.load(tmp_path / "tuned.safetensors"), module)
    guided = back.guided(2.0)
    assert_agrees(guided, guided.to_torch())


def test_the_teacher_keeps_its_weights_and_the_random_numbers_go_on():
    teacher = NETWORKS["linear"]()
    before = teacher.velocity(0.5, np.ones((2, 2)))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    module = teacher.to_torch()
    assert torch.equal(torch.rand(2), expected)
    nn.init.zeros_(module.network[-1].weight)
    np.testing.assert_array_equal(teacher.velocity(0.5, np.ones((2, 2))), before)


def test_an_attached_module_is_inside_and_stays_in_its_mode():
    model = Model().train()
    teacher = FlowTeacher.from_torch(model, (2,))
    module = teacher.to_torch()
    assert module.module is model
    assert model.training
    running = model.layers[1].running_mean.clone()
    module(*given(teacher)).sum().backward()
    assert model.training
    assert torch.equal(model.layers[1].running_mean, running)
    assert model.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["labels", "images", "gaussian", "torchcfm", "guided"])
def test_copies_and_pickles(kind):
    teacher = {**NETWORKS, **CLOSED, **ATTACHED}[kind]()
    module = teacher.to_torch()
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_agrees(teacher, again)
        with torch.no_grad():
            for weight in again.parameters():
                weight.zero_()
        assert_agrees(teacher, module)


def test_what_does_not_fit_is_named():
    module = NETWORKS["labels"]().to_torch()
    t, x, labels = torch.rand(4), torch.randn(4, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"x: expected shape \(B, 2\), got \(4, 3\)"):
        module(t, torch.randn(4, 3), labels)
    with pytest.raises(DtypeError, match=r"x: expected"):
        module(t, x.long(), labels)
    with pytest.raises(DtypeError, match=r"x: expected a torch tensor, got float"):
        module(x, 0.5, labels)
    with pytest.raises(ArgumentError, match=r"t: expected numbers, got None"):
        module(None, x, labels)
    with pytest.raises(ShapeError, match=r"t: expected .* got \(3,\)"):
        module(t[:3], x, labels)
    for wrong in (None, labels[:2], labels - 1, labels + 3, labels.float(), 2, [0, 1, 2, 0]):
        with pytest.raises(
            ArgumentError, match=r"condition: expected integer labels below 3 of shape \(4,\)"
        ):
            module(t, x, wrong)
    with pytest.raises(ArgumentError, match="condition: expected none"):
        NETWORKS["linear"]().to_torch()(t, x, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_answers_are_of_the_dtype_of_the_states(dtype):
    module = NETWORKS["linear"]().to_torch()
    assert module(0.5, torch.randn(3, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", FILES)
def test_modules_of_another_precision_come_back_in_the_teacher_s(name):
    teacher = FlowTeacher.load(FOLDER / f"{name}.safetensors")
    back = FlowTeacher.from_torch_module(teacher.to_torch().double())
    assert back.field.dtype == teacher.field.dtype
    assert_agrees(teacher, back.to_torch())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_gaussian_s_covariance_can_be_loaded(dtype):
    """What follows from it follows the loaded one."""
    other = FlowTeacher.gaussian([0.5, 0.0], [[0.25, 0.0], [0.0, 9.0]])
    module = CLOSED["gaussian"]().to_torch().to(dtype)
    nn.ModuleDict({"teacher": module}).load_state_dict(
        {f"teacher.{name}": tensor for name, tensor in other.to_torch().state_dict().items()}
    )
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    found = module(0.3, x.to(dtype)).float()
    torch.testing.assert_close(found, other.velocity(0.3, x), rtol=1e-2, atol=1e-2)


def test_other_modules_do_not_come_back():
    with pytest.raises(ArgumentError, match=r"module: expected a module of to_torch\(\), got Linear"):
        FlowTeacher.from_torch_module(nn.Linear(2, 2))
    for teacher in (ATTACHED["torchcfm"](), SCHEDULES["of a teacher"](), ATTACHED["guided"]()):
        with pytest.raises(ArgumentError, match="module: expected the twin of a teacher that can be saved"):
            FlowTeacher.from_torch_module(teacher.to_torch())
    module = NETWORKS["linear"]().to_torch()
    nn.init.constant_(module.network[0].bias, np.nan)
    with pytest.raises(NonFiniteError, match=r"module: .*network.0.bias"):
        FlowTeacher.from_torch_module(module)
