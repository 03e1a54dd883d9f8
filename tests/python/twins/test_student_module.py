"""Every kind of student as a plain PyTorch module: the core's numbers, true gradients, and the way back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.func import functional_call, jacrev, jvp
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from koopflow import FlowTeacher, KoopmanDistiller, Training, UNet
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, NotFittedError, ShapeError

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(64, 2)).astype("f4")
IMAGES = RNG.normal(size=(64, 2, 4, 4)).astype("f4")
LABELS = np.arange(64) % 3
VECTORS = RNG.normal(size=(64, 3)).astype("f4")
FOLDER = Path(__file__).parents[2] / "fixtures" / "before_redesign"

TEACHERS = {
    "plane": lambda: FlowTeacher.gaussian([1.0, -1.0], [[1.0, 0.2], [0.2, 0.5]]),
    "far": lambda: FlowTeacher.gaussian([300.0, -100.0], [[400.0, 20.0], [20.0, 900.0]]),
    "far, vp": lambda: trained(ROWS * 50.0 + 100.0, path="vp"),
    "classes": lambda: trained(ROWS, LABELS, num_classes=3),
    "vectors": lambda: trained(ROWS, VECTORS, condition_dim=3),
    "images": lambda: trained(IMAGES),
    "image classes": lambda: trained(IMAGES, LABELS, num_classes=3),
}
NETWORK = UNet(channels=8, multipliers=(1, 2), attention=(2,))
DENSE: dict[str, Any] = {"generator": "dense"}
HIERARCHY: dict[str, Any] = {"basis": "hierarchy", "unet": NETWORK, "observables": None}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "spectral": ("plane", {}),
    "one lift": ("plane", {"architecture__lifts": 1}),
    "fixed frame": ("plane", {"architecture__frame": "fixed"}),
    "raw inputs": ("plane", {"architecture__inputs": "raw"}),
    "float64": ("plane", {"dtype": "float64"}),
    "linear decoder": ("plane", {"architecture__decoder": "linear"}),
    "network decoder": ("plane", {"architecture__decoder": "network"}),
    "averaged": ("plane", {"training": Training(ema_decay=0.9)}),
    "dense": ("plane", DENSE),
    "dense, dissipative": ("plane", {**DENSE, "architecture__stability": "dissipative"}),
    "dense, bounded": ("plane", {**DENSE, "architecture__stability": "bounded"}),
    "dense, network decoder": ("plane", {**DENSE, "architecture__decoder": "network"}),
    "dense, float64": ("plane", {**DENSE, "dtype": "float64"}),
    "made dense": ("plane", {}),
    "made spectral": ("plane", {**DENSE, "architecture__decoder": "linear"}),
    "fourier": ("plane", {"basis": "fourier"}),
    "polynomial": ("plane", {"basis": "polynomial", "observables": None, "architecture__degree": 3}),
    "other units": ("far", {}),
    "other units, vp": ("far, vp", {**DENSE}),
    "classes": ("classes", {}),
    "vectors": ("vectors", {}),
    "classes, polynomial": ("classes", {"basis": "polynomial", "observables": None}),
    "unet": ("images", {"basis": "unet", "unet": NETWORK, "observables": 48}),
    "hierarchy": ("image classes", {**HIERARCHY}),
    "per pixel": ("images", {**HIERARCHY, "architecture__per_pixel": True}),
}
SMALL = {"observables": 7, "width": 12, "depth": 2, "steps": 2, "trajectories": 64, "batch_size": 16}


def trained(data, condition=None, **options):
    teacher = FlowTeacher(data.shape[1:], width=8, depth=1, steps=3, **options)
    return teacher.fit(data, condition=condition, progress=False)


def tuned(module):
    """The module with every weight moved, as training would: zeros at the start hide what they multiply."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=random, dtype=weight.dtype)
    return module


class Pair:
    """A student of random weights and its twin, with noise and a condition for them."""

    def __init__(self, student: KoopmanDistiller, condition: str = "", *, tune: bool = True) -> None:
        self.module = tuned(student.to_torch()) if tune else student.to_torch()
        self.student = KoopmanDistiller.from_torch_module(self.module)
        shape = (6, *student.event_shape_)
        # What a conversion mixes cancels when it is read: there the core is as far from float64's numbers.
        # U-Nets are normalised by other sums here and there, each near float64's: see below.
        self.limit = 3e-6 if self.module.mixing is not None or len(student.event_shape_) == 3 else None
        self.noise = torch.from_numpy(RNG.normal(size=shape)).to(getattr(torch, student.dtype))
        conditions = {"classes": LABELS, "vectors": VECTORS}
        given = next((value for name, value in conditions.items() if name in condition), None)
        self.condition = None if given is None else torch.from_numpy(given[:6])

    @property
    def data(self) -> torch.Tensor:
        return self.student.sample(x0=self.noise, condition=self.condition)

    def one_step(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x, self.condition)

    def exact(self) -> torch.nn.Module:
        return copy.deepcopy(self.module).double()


@pytest.fixture(scope="module")
def teachers():
    made: dict[str, FlowTeacher] = {}
    return lambda name: made.setdefault(name, made.get(name) or TEACHERS[name]())


def pair_of(kind: str, teachers) -> Pair:
    name, options = KINDS[kind]
    student = KoopmanDistiller().set_params(**{**SMALL, **options}).fit(teachers(name), progress=False)
    if kind == "made dense":
        student = student.to_dense()
    if kind == "made spectral":
        # With other weights than a conversion's its mixture would be of nothing that belongs together.
        student = KoopmanDistiller.from_torch_module(tuned(student.to_torch())).to_spectral()
    return Pair(student, name, tune=kind != "made spectral")


@pytest.fixture(scope="module")
def pair(request, teachers) -> Pair:
    return pair_of(request.param, teachers)


@pytest.fixture(scope="module")
def plain(teachers) -> Pair:
    return pair_of("spectral", teachers)


every_kind = pytest.mark.parametrize("pair", KINDS, indirect=True)
QUICK = {"spectral", "dense", "network decoder", "classes", "other units"}
a_few_kinds = pytest.mark.parametrize(
    "pair",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK)) for kind in KINDS],
    indirect=True,
)


def assert_same(got: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> None:
    """Within 1e-6 of the values' size, or within what float64 rounds."""
    assert got.dtype == expected.dtype
    tolerance = tolerance or (1e-6 if got.dtype == torch.float32 else 1e-13)
    scale = float(expected.abs().max())
    torch.testing.assert_close(got.detach(), expected, rtol=0.0, atol=tolerance * scale)


@every_kind
def test_numbers(pair):
    module, student, noise, given = pair.module, pair.student, pair.noise, {"condition": pair.condition}
    limit = pair.limit
    assert_same(module(noise, **given), student.sample(x0=noise, **given), limit)
    times = [0.0, 0.3, 1.0, 1.1]
    path = student.sample_path(noise, times=times, **given)
    assert_same(module.path(noise, times, **given), path, limit)
    assert_same(module.path(noise, torch.tensor(times, dtype=torch.float64), **given), path, limit)
    x = pair.data
    assert_same(module.inverse(x, **given), student.invert(x, **given), limit)
    for t in (0.4, torch.linspace(0.0, 1.0, 6)):
        for direction in ("forward", "backward"):
            given["direction"] = direction
            assert_same(module.encode(t, x, **given), student.encode(t, x, **given), limit)


@pytest.mark.parametrize("pair", ["unet", "hierarchy", "per pixel"], indirect=True)
def test_unets_of_both_are_near_those_of_double_precision(pair):
    given = {"condition": pair.condition}
    exact = pair.exact()(pair.noise.double(), **given).detach()
    for found in (pair.module(pair.noise, **given), pair.student.sample(x0=pair.noise, **given)):
        assert_same(found.detach().double(), exact, 1.2e-6)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("student_*")), ids=lambda path: path.stem)
def test_numbers_of_files_of_before(path):
    expected = np.load(FOLDER / "expected.npz")
    module = KoopmanDistiller.load(path).to_torch()
    dtype = module.coordinates.center.dtype
    noise = torch.from_numpy(expected[f"{path.stem}/x0"]).to(dtype)
    condition = expected.get(f"{path.stem}/condition")
    condition = None if condition is None else torch.from_numpy(condition)
    answers = {
        "sample": module(noise, condition),
        "path": module.path(noise, [0.0, 0.5, 1.0], condition),
        "invert": module.inverse(noise, condition),
    }
    for key, answer in answers.items():
        assert_same(answer, torch.from_numpy(expected[f"{path.stem}/{key}"]).to(dtype), 2e-5)


@every_kind
def test_names_are_those_of_the_file(pair, tmp_path):
    pair.student.save(tmp_path / "student.safetensors")
    with safe_open(tmp_path / "student.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    names = {"forward_lift": "forward", "backward_lift": "backward"}
    for name, value in pair.module.state_dict().items():
        first, _, rest = name.partition(".")
        assert torch.equal(stored.pop(".".join(filter(None, (names.get(first, first), rest)))), value)
    assert not stored


@every_kind
def test_derivatives_in_the_inputs_are_finite_differences(pair):
    """In float64, of everything that the module answers, along one direction of the states."""
    module, h = pair.exact(), 1e-6
    x, direction = pair.noise.double(), torch.from_numpy(RNG.normal(size=pair.noise.shape))
    calls = [
        lambda x: module(x, pair.condition),
        lambda x: module.path(x, [0.2, 0.7], pair.condition),
        lambda x: module.inverse(x, pair.condition),
        lambda x: module.encode(0.37, x, pair.condition),
    ]
    for call in calls:
        leaf = x.clone().requires_grad_()
        answer = call(leaf)
        weight = torch.from_numpy(RNG.normal(size=answer.shape))
        (gradient,) = torch.autograd.grad((answer * weight).sum(), leaf)
        with torch.no_grad():
            rate = (call(x + h * direction) - call(x - h * direction)) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(), (rate * weight).sum(), rtol=1e-5, atol=1e-6)


@every_kind
def test_gradients_reach_every_weight(pair):
    """In float64, against a finite difference along one direction of each part's weights."""
    module, h = pair.exact(), 1e-6
    weights = {name: weight.detach().requires_grad_() for name, weight in module.named_parameters()}

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.twin = module

        def forward(self, x):
            answers = self.twin.path(x, [0.4, 1.0], pair.condition), self.twin.inverse(x, pair.condition)
            return sum(answer.sin().sum() for answer in answers)

    def loss(weights):
        named = {f"twin.{name}": weight for name, weight in weights.items()}
        return functional_call(Loss(), named, (pair.noise.double(),))

    gradients = dict(zip(weights, torch.autograd.grad(loss(weights), list(weights.values())), strict=True))
    for part in {name.partition(".")[0] for name in weights}:
        along = {name: torch.from_numpy(RNG.normal(size=weights[name].shape)) for name in weights}
        along = {name: way for name, way in along.items() if name.partition(".")[0] == part}
        with torch.no_grad():
            ahead, behind = (
                loss({**weights, **{name: weights[name] + sign * h * way for name, way in along.items()}})
                for sign in (1.0, -1.0)
            )
        slope = sum((gradients[name] * way).sum() for name, way in along.items())
        torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-4, atol=1e-6)
    # A linear decoder that was converted does not read the state.
    unread = {"generator.readout", "generator.drift"} if module.mixing is not None else set()
    assert {name for name, gradient in gradients.items() if not gradient.any()} == unread


@every_kind
@pytest.mark.filterwarnings("ignore:the inverse of:RuntimeWarning")
# torch's own, when forward-mode differentiation is first asked for.
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_jacobians_are_the_core_s(pair):
    """log |det| of the one-step map, and the rate of the observables along a velocity."""
    x, given = pair.data, {"condition": pair.condition}
    density = pair.student.density(x, determinant="exact", polish=0, **given)
    noise = density.noise
    for row in range(2):
        at = {} if pair.condition is None else {"condition": pair.condition[row : row + 1]}
        jacobian = jacrev(lambda z, at=at: pair.module(z[None], **at)[0].flatten())(noise[row])
        found = torch.linalg.slogdet(jacobian.flatten(1).double()).logabsdet
        torch.testing.assert_close(found.to(noise.dtype), density.log_determinant[row], rtol=1e-4, atol=1e-4)
    if pair.module.units is None:
        t, velocity = torch.full((6,), 0.37, dtype=x.dtype), torch.ones_like(x)
        g, rate = jvp(
            lambda t, x: pair.module.encode(t, x, pair.condition), (t, x), (torch.ones_like(t), velocity)
        )
        value, tangent = pair.student.encode_with_tangent(0.37, x, velocity, **given)
        assert_same(g, value, 1e-5)
        assert_same(rate, tangent, 1e-5)


@every_kind
def test_tuned_weights_come_back_as_a_student(pair, tmp_path):
    module = copy.deepcopy(pair.module)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    module(pair.noise, pair.condition).square().mean().backward()
    optimizer.step()
    student = KoopmanDistiller.from_torch_module(module)
    samples = student.sample(x0=pair.noise, condition=pair.condition)
    assert not torch.equal(samples, pair.data)
    assert_same(module(pair.noise, pair.condition), samples, pair.limit)
    student.save(tmp_path / "tuned.safetensors")
    again = KoopmanDistiller.load(tmp_path / "tuned.safetensors")
    assert torch.equal(again.sample(x0=pair.noise, condition=pair.condition), samples)
    assert student.get_params() == pair.student.get_params()
    assert (student.teacher_, student.config_) == (pair.student.teacher_, pair.student.config_)
    assert student.history_["log"] == pair.student.history_["log"]
    assert "PyTorch module" in student.history_["notes"][-1]["text"]


def test_the_weights_are_a_copy(plain):
    before = plain.student.sample(x0=plain.noise)
    tuned(plain.student.to_torch())
    assert torch.equal(plain.student.sample(x0=plain.noise), before)


def test_making_a_twin_draws_no_random_numbers(plain):
    """Nor puts any back, which another thread would see."""

    class Draws(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert torch.Tag.nondeterministic_seeded not in func.tags or args[0].is_meta
            return func(*args, **(kwargs or {}))

    state = torch.random.get_rng_state()
    with Draws():
        plain.student.to_torch()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_averaged_and_last_weights(gaussian):
    options = {**SMALL, "training": Training(ema_decay=0.9), "steps": 8}
    student = KoopmanDistiller(**options).fit(gaussian, progress=False)
    x0 = torch.zeros(3, 2)
    for kind in ("raw", "ema"):
        module = student.use_weights(kind).to_torch()
        assert_same(module(x0), student.sample(x0=x0))
    back = KoopmanDistiller.from_torch_module(module)
    assert torch.equal(back.use_weights("raw").sample(x0=x0), student.sample(x0=x0))


@every_kind
def test_copies(pair):
    expected = pair.one_step(pair.noise)
    for other in (copy.deepcopy(pair.module), pickle.loads(pickle.dumps(pair.module))):
        assert torch.equal(other(pair.noise, pair.condition), expected)
        KoopmanDistiller.from_torch_module(other)


def test_a_module_of_another_dtype_comes_back_in_the_student_s(plain):
    back = KoopmanDistiller.from_torch_module(plain.exact())
    assert torch.equal(back.sample(x0=plain.noise), plain.data)


@a_few_kinds
def test_export_takes_batches_of_any_size(pair):
    arguments = (pair.noise,) if pair.condition is None else (pair.noise, pair.condition)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        pair.module, arguments, dynamic_shapes=tuple({0: batch} for _ in arguments)
    ).module()
    expected = pair.one_step(pair.noise).detach()
    # Convolutions of batches of other sizes add in another order.
    for rows in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0] * 2, [3]):
        assert_same(program(*(argument[rows] for argument in arguments)), expected[rows], 1e-5)


@pytest.mark.parametrize(
    "pair",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in {"dense", "classes"})) for kind in KINDS],
    indirect=True,
)
# torch's own, when it reads a program.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_exported_files_give_the_core_s_samples(pair, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    pair.student.to_pt2(tmp_path / "student.pt2")
    pair.student.to_onnx(tmp_path / "student.onnx")
    program = torch.export.load(tmp_path / "student.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    arguments = (pair.noise,) if pair.condition is None else (pair.noise, pair.condition)
    for rows in ([4], [0, 1, 2], [5, 4, 3, 2, 1, 0, 0]):
        batch = [argument[rows] for argument in arguments]
        assert_same(program(*batch), pair.data[rows], 1e-5)
        named = zip(["x0", "condition"], (argument.numpy() for argument in batch), strict=False)
        (samples,) = session.run(["x1"], dict(named))
        assert_same(torch.from_numpy(samples), pair.data[rows], 1e-5)


# torch's own, when its compiler is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spectral", "dense"])
def test_compiled_forward(teachers, kind):
    pair = pair_of(kind, teachers)
    compiled = torch.compile(pair.module, fullgraph=True)
    leaf, other = pair.noise.clone().requires_grad_(), pair.noise.clone().requires_grad_()
    got, expected = compiled(leaf), pair.module(other)
    assert_same(got, expected.detach())
    got.sum().backward()
    expected.sum().backward()
    assert_same(leaf.grad, other.grad, 1e-5)
    assert torch.equal(KoopmanDistiller.from_torch_module(compiled).sample(x0=pair.noise), pair.data)


def test_an_unfitted_student_has_none():
    with pytest.raises(NotFittedError, match="not fitted"):
        KoopmanDistiller().to_torch()


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ShapeError, r"x0: expected shape \(B, 2\)", lambda m: m(torch.zeros(4, 3))),
        (ShapeError, r"x0: expected shape \(B, 2\)", lambda m: m(torch.zeros(()))),
        (DtypeError, "x0: expected a torch tensor", lambda m: m(np.zeros((4, 2)))),
        (DtypeError, "x0: expected floating", lambda m: m(torch.zeros(4, 2, dtype=torch.int64))),
        (ShapeError, "x: expected shape", lambda m: m.inverse(torch.zeros(4))),
        (ShapeError, "times: expected", lambda m: m.path(torch.zeros(4, 2), 0.5)),
        (ArgumentError, "times: expected numbers, got None", lambda m: m.path(torch.zeros(4, 2), None)),
        (ArgumentError, "times: expected numbers", lambda m: m.path(torch.zeros(4, 2), [[0.0], [0.5, 1.0]])),
        (ArgumentError, "t: expected numbers, got 'half'", lambda m: m.encode("half", torch.zeros(4, 2))),
        (ShapeError, "t: expected a number or", lambda m: m.encode(torch.zeros(3), torch.zeros(4, 2))),
        (ArgumentError, "direction", lambda m: m.encode(0.0, torch.zeros(4, 2), direction="up")),
        (ArgumentError, "condition: expected none", lambda m: m(torch.zeros(4, 2), torch.zeros(4))),
    ],
)
def test_arguments_that_do_not_fit_are_named(plain, error, message, call):
    with pytest.raises(error, match=message):
        call(plain.module)


def test_a_time_that_is_not_a_number_is_answered_with_none(plain):
    """As states that are not finite, and without an index out of range, which ends CUDA for the process."""
    assert plain.module.encode(torch.nan, plain.noise)[:, -1].isnan().all()


def test_conditions_that_do_not_fit_are_named(teachers):
    student = KoopmanDistiller().set_params(**SMALL).fit(teachers("classes"), progress=False)
    module, x0 = student.to_torch(), torch.zeros(4, 2)
    of_other_kinds = torch.zeros(3, dtype=torch.int64), torch.zeros(4), torch.full((4,), 3)
    for wrong in (None, *of_other_kinds, 2, [0, 1, 2, 0], np.zeros(4, int)):
        with pytest.raises(
            ArgumentError, match=r"condition: expected integer labels below 3 of shape \(4,\)"
        ):
            module(x0, wrong)
    assert torch.equal(module(x0, torch.tensor(2)), module(x0, torch.full((4,), 2)))


@pytest.mark.parametrize("module", [torch.nn.Linear(2, 2), None, lambda x: x])
def test_foreign_modules_are_refused(module):
    with pytest.raises(ArgumentError, match="module: expected a module of to_torch"):
        KoopmanDistiller.from_torch_module(module)


def adapted(module):
    parametrizations.weight_norm(module.forward_lift[0])


def widened(module):
    module.forward_lift[0] = torch.nn.Linear(5, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            adapted,
            r"more or fewer: forward_lift\.0\.parametrizations.*forward_lift\.0\.weight; merge param",
        ),
        (widened, r"expected forward_lift\.0\.weight of shape \(12, 5\), got \(40, 5\)"),
        (lambda module: module.to("meta"), "got .* on meta"),
    ],
)
def test_weights_that_are_not_a_student_s_are_named(plain, change, message):
    module = copy.deepcopy(plain.module)
    change(module)
    with pytest.raises(ArgumentError, match="module: .*" + message):
        KoopmanDistiller.from_torch_module(module)


def test_merged_and_tied_weights_come_back(plain):
    module = copy.deepcopy(plain.module)
    for layer in module.forward_lift:
        prune.l1_unstructured(layer, "weight", 0.5)
        prune.remove(layer, "weight")
    module.backward_lift = module.forward_lift
    back = KoopmanDistiller.from_torch_module(module)
    assert_same(module(plain.noise), back.sample(x0=plain.noise))
    assert_same(module.inverse(plain.noise), back.invert(plain.noise))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(plain, value):
    module = copy.deepcopy(plain.module)
    with torch.no_grad():
        module.generator.growth[0] = value
    with pytest.raises(NonFiniteError, match=r"module: expected finite weights.*generator\.growth"):
        KoopmanDistiller.from_torch_module(module)
