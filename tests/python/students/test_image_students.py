"""Students of images: a U-Net's pixels as observables, and a hierarchy of feature maps with a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchcfm.models.unet.unet import UNetModel

from koopflow import FlowTeacher, KoopmanDistiller, LevelSpectrum, Training, UNet, _core, plotting
from koopflow.exceptions import ArgumentError, KoopflowError

SHAPE = (1, 8, 8)
SMALL = UNet(channels=8, multipliers=(1, 2))
# As torchcfm has it.
NETWORK = UNet(channels=32, multipliers=(1, 2), groups=32, scale_shift=False, time_scale=1.0)


@pytest.fixture(scope="module")
def bars() -> np.ndarray:
    """Images of one bright bar, whose place and height vary."""
    random = np.random.default_rng(0)
    data = np.full((512, *SHAPE), -0.7, dtype=np.float32)
    for image, row, height in zip(data, random.integers(0, 6, 512), random.integers(1, 3, 512), strict=True):
        image[0, row : row + height] = 0.7
    return data + 0.05 * random.standard_normal(data.shape).astype(np.float32)


@pytest.fixture(scope="module")
def teacher(bars: np.ndarray) -> FlowTeacher:
    return FlowTeacher(
        SHAPE, network=NETWORK, steps=60, batch_size=32, training=Training(ema_decay=0.9), seed=0
    ).fit(bars, progress=False)


def student_of(teacher: FlowTeacher, **options: Any) -> KoopmanDistiller:
    small = {
        "unet": NETWORK,
        "steps": 6,
        "batch_size": 16,
        "trajectories": 64,
        "trajectories__path_steps": 4,
        "seed": 1,
        "learning_rate": 5e-3,
    }
    return KoopmanDistiller().set_params(**{**small, **options}).fit(teacher, progress=False)


@pytest.fixture(scope="module")
def hierarchy(teacher: FlowTeacher) -> KoopmanDistiller:
    return student_of(teacher, basis="hierarchy")


@pytest.fixture(scope="module", params=["unet", "hierarchy", "hierarchy per pixel"])
def student(request, teacher: FlowTeacher, hierarchy: KoopmanDistiller) -> KoopmanDistiller:
    basis, *per_pixel = request.param.split(" ", 1)
    if request.param == "hierarchy":
        return hierarchy
    return student_of(teacher, basis=basis, architecture__per_pixel=bool(per_pixel))


class Reference(torch.nn.Module):
    """What a student computes, written again over torchcfm's modules and complex numbers."""

    def __init__(self, path: Path, direction: str, *, per_pixel: bool) -> None:
        super().__init__()
        self.tensors = load_file(path)
        self.direction, self.per_pixel = direction, per_pixel
        self.hierarchy = "generator.0.growth" in self.tensors
        self.model = UNetModel(8, 1, 32, 1, 1, (), channel_mult=(1, 2)).eval()
        own = dict(self.part(f"{direction}.").items())
        if self.hierarchy:
            decoder = self.part("readout.")
            self.decoder = UNetModel(8, 1, 32, 1, 1, (), channel_mult=(1, 2)).eval()
            self.decoder.load_state_dict({**self.decoder.state_dict(), **decoder})
            self.model.load_state_dict({**self.model.state_dict(), **own})
        else:
            self.skip = own.pop("skip")
            self.model.load_state_dict(own)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {n[len(prefix) :]: v for n, v in self.tensors.items() if n.startswith(prefix)}

    def embed(self, model: UNetModel, t: torch.Tensor) -> torch.Tensor:
        half = 16
        frequencies = torch.exp(-np.log(10_000) * torch.arange(half) / half)
        waves = t[:, None] * frequencies
        return model.time_embed(torch.cat([waves.cos(), waves.sin()], dim=1))

    def standardised(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        means, deviations = (self.tensors[f"coordinates.{name}"] for name in ("means", "deviations"))
        place = t * (len(means) - 1)
        left = place.floor().clamp(max=len(means) - 2).long()
        weight = (place - left)[:, None]
        mean = (1 - weight) * means[left] + weight * means[left + 1]
        deviation = (1 - weight) * deviations[left] + weight * deviations[left + 1]
        return ((x.flatten(1) - mean) / deviation).view_as(x)

    def features(self, t: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
        """h(t, x), map by map."""
        image = self.standardised(t, x)
        if not self.hierarchy:
            return [self.model(t, image) + torch.einsum("oc,bchw->bohw", self.skip, image)]
        embedding, hidden, maps = self.embed(self.model, t), image, []
        for block in self.model.input_blocks:
            hidden = block(hidden, embedding)
            maps.append(hidden)
        return [*maps, self.model.middle_block(hidden, embedding)]

    def turned(self, maps: list[torch.Tensor], tau: torch.Tensor) -> list[torch.Tensor]:
        """Each map times e^{tau Λ}: features in pairs (a, b) are complex numbers."""
        moved = []
        for index, one in enumerate(maps):
            name = f"generator.{index}." if self.hierarchy else "generator."
            growth = 8.0 * torch.tanh(self.tensors[f"{name}growth"] / 8.0)
            frequency = self.tensors[f"{name}frequency"]
            shared = self.hierarchy and not self.per_pixel
            rows = one.flatten(2) if shared else one.flatten(1)[:, :, None]
            pairs, scale = len(frequency), tau[:, None, None]
            rates = torch.complex(growth[:pairs], frequency)[None, :, None]
            z = torch.complex(rows[:, :pairs], rows[:, pairs : 2 * pairs]) * torch.exp(scale * rates)
            rest = rows[:, 2 * pairs :] * torch.exp(scale * growth[pairs:][None, :, None])
            moved.append(torch.cat([z.real, z.imag, rest], dim=1).reshape(one.shape))
        return moved

    def observables(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        maps = self.turned(self.features(t, x), t)
        ones = torch.ones(len(t), 1)
        state = x.flatten(1)[:, : 0 if self.hierarchy else None]
        return torch.cat([ones, t[:, None], state, *(one.flatten(1) for one in maps)], dim=1)

    def decoded(self, t: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
        embedding, hidden = self.embed(self.decoder, t), maps[-1]
        rest = list(maps[:-1])
        for block in self.decoder.output_blocks:
            hidden = block(torch.cat([hidden, rest.pop()], dim=1), embedding)
        return self.decoder.out(hidden)


@pytest.fixture
def reference(student: KoopmanDistiller, tmp_path: Path):
    student.save(tmp_path / "student.safetensors")
    per_pixel = bool(student.config_["per_pixel"])
    return lambda direction: Reference(tmp_path / "student.safetensors", direction, per_pixel=per_pixel)


def some(seed: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    # Off the knots of the table of running statistics, where the derivative is one-sided.
    t = (random.integers(0, 4, count) + random.uniform(0.2, 0.8, count)).astype("f4") / 4
    return t, random.standard_normal((count, *SHAPE)).astype("f4")


@torch.no_grad()
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_observables_are_an_independent_builds(student, reference, direction: str) -> None:
    t, x = some(2)
    expected = reference(direction).observables(torch.from_numpy(t), torch.from_numpy(x)).numpy()
    got = np.asarray(student._student.encode(t, x, direction=direction))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


def test_tangents_are_derivatives(student) -> None:
    """Central differences of the student's own observables: the layers' tangents are held against autograd in
    test_unet.py."""
    t, x = some(3)
    velocity = np.random.default_rng(4).standard_normal(x.shape).astype("f4")
    g, tangent = student._student.encode_with_tangent(t, x, velocity)
    np.testing.assert_allclose(g, student.encode(t, x), rtol=0, atol=1e-5)
    step = 2e-3
    later, earlier = (
        np.asarray(student.encode(t + sign * step, x + np.float32(sign * step) * velocity), dtype="f8")
        for sign in (1, -1)
    )
    numeric = (later - earlier) / (2 * step)
    # Single precision: a few parts in a thousand of the largest derivative.
    np.testing.assert_allclose(tangent, numeric, rtol=0, atol=1e-2 * np.abs(numeric).max())


@torch.no_grad()
def test_one_step_is_encode_turn_and_decode(student, reference) -> None:
    _, x = some(5)
    model = reference("forward")
    zero, one = torch.zeros(len(x)), torch.ones(len(x))
    maps = model.features(zero, torch.from_numpy(x))
    got = np.asarray(student.sample(x0=x))
    if not model.hierarchy:
        L = np.asarray(student.generator_matrix(), dtype="f8")
        g = model.observables(zero, torch.from_numpy(x)).numpy().astype("f8")
        import scipy.linalg

        expected = (g @ scipy.linalg.expm(L))[:, 2 : 2 + x[0].size].reshape(x.shape)
    else:
        expected = model.decoded(one, model.turned(maps, one)).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
    path = np.asarray(student.sample_path(x0=x, times=[0.0, 0.5, 1.0]))
    np.testing.assert_allclose(path[2], got, rtol=0, atol=1e-5)


def test_everything_a_student_does_works_on_images(student, teacher, bars, tmp_path: Path) -> None:
    _, x = some(6)
    sample = np.asarray(student.sample(x0=x))
    assert sample.shape == x.shape
    fresh = np.asarray(_core.normal((3, *SHAPE), 2))
    np.testing.assert_allclose(student.sample(3, seed=2), student.sample(x0=fresh), rtol=0, atol=1e-5)
    assert np.asarray(student.sample(x0=x, steps=4)).shape == x.shape
    assert np.asarray(student.invert(sample)).shape == x.shape
    student.save(tmp_path / "s.safetensors")
    again = KoopmanDistiller.load(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(again.sample(x0=x), sample)
    # The report's errors, by NumPy from the student's and the teacher's own answers.
    report = student.evaluate(teacher, bars, n=16, seed=11)
    noise = np.asarray(_core.normal((16, *SHAPE), 11))
    end, recovered = (
        np.asarray(a) for a in (teacher.sample(x0=noise), student.invert(teacher.sample(x0=noise)))
    )

    def size(difference: np.ndarray) -> float:
        return float(np.sqrt((difference.astype("f8") ** 2).sum((1, 2, 3)).mean()))

    deviation = np.sqrt(bars.astype("f8").var(axis=0).sum())
    expected = size(np.asarray(student.sample(x0=noise)) - end) / deviation
    assert report.endpoint_error == pytest.approx(expected, rel=1e-4)
    assert report.inversion_error == pytest.approx(size(recovered - noise) / size(noise), rel=1e-4)


@pytest.mark.parametrize("basis", ["unet", pytest.param("hierarchy", marks=pytest.mark.slow)])
def test_training_follows_the_teacher(basis: str, teacher: FlowTeacher) -> None:
    """A short fit already beats doing nothing."""
    student = student_of(teacher, basis=basis, steps=80, trajectories=256, unet=SMALL)
    noise = np.random.default_rng(7).standard_normal((64, *SHAPE)).astype("f4")
    end = np.asarray(teacher.sample(x0=noise))
    error = np.sqrt(np.mean((np.asarray(student.sample(x0=noise)) - end) ** 2))
    still = np.sqrt(np.mean((end.mean(0) - end) ** 2))
    assert error < 0.8 * still


@pytest.mark.parametrize("basis", ["unet", "hierarchy"])
def test_the_same_seed_gives_the_same_student(basis: str, teacher: FlowTeacher) -> None:
    first, second = (student_of(teacher, basis=basis, steps=3, trajectories=32, unet=SMALL) for _ in range(2))
    _, x = some(7, 4)
    np.testing.assert_array_equal(first.sample(x0=x), second.sample(x0=x))


def test_a_warm_start_is_the_teachers_network(teacher: FlowTeacher, tmp_path: Path) -> None:
    options = {
        "basis": "unet",
        "warm_start": True,
        "architecture__frame": "fixed",
        "learning_rate": 1e-12,
        "steps": 1,
    }
    student = student_of(teacher, **options)
    student.save(tmp_path / "s.safetensors")
    weights, theirs = load_file(tmp_path / "s.safetensors"), teacher.state_dict()
    for direction in ("forward", "backward"):
        for name, value in theirs.items():
            torch.testing.assert_close(weights[f"{direction}.{name}"], value, rtol=0, atol=1e-8)
        assert weights[f"{direction}.skip"].abs().max() < 1e-8
    hierarchy = student_of(teacher, **{**options, "basis": "hierarchy"})
    hierarchy.save(tmp_path / "h.safetensors")
    weights = load_file(tmp_path / "h.safetensors")
    for name, value in theirs.items():
        half = "readout" if name.startswith(("output_blocks", "out.")) else "forward"
        torch.testing.assert_close(weights[f"{half}.{name}"], value, rtol=0, atol=1e-8)


def test_a_warm_hierarchy_has_the_mean_class_and_a_generator_near_rest(
    bars: np.ndarray, tmp_path: Path
) -> None:
    """Its decoder is told of no class, and its maps at data are nearly those at noise."""
    labels = np.arange(len(bars)) % 2
    teacher = FlowTeacher(SHAPE, network=SMALL, num_classes=2, steps=20, batch_size=16).fit(
        bars, condition=labels, progress=False
    )
    options = {"basis": "hierarchy", "unet": SMALL, "warm_start": True, "learning_rate": 1e-12, "steps": 1}
    student = student_of(teacher, **options)
    student.save(tmp_path / "h.safetensors")
    weights, theirs = load_file(tmp_path / "h.safetensors"), teacher.state_dict()
    mean = theirs["time_embed.2.bias"] + theirs["label_emb.weight"].mean(dim=0)
    torch.testing.assert_close(weights["readout.time_embed.2.bias"], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        weights["forward.time_embed.2.bias"], theirs["time_embed.2.bias"], rtol=0, atol=1e-8
    )
    assert np.abs(student.spectrum().eigenvalues).max() < 0.05 * 7
    cold = student_of(teacher, **{**options, "warm_start": False})
    assert np.abs(cold.spectrum().eigenvalues).max() > 6


def test_labels_condition_the_hierarchy(bars: np.ndarray) -> None:
    labels = (bars[:, 0, :4].mean((1, 2)) > bars[:, 0, 4:].mean((1, 2))).astype("i8")
    teacher = FlowTeacher(SHAPE, network=SMALL, num_classes=2, steps=20, batch_size=16).fit(
        bars, condition=labels, progress=False
    )
    student = student_of(teacher, basis="hierarchy", unet=SMALL, steps=20)
    _, x = some(8, 4)
    zeros, ones = np.zeros(4, "i8"), np.ones(4, "i8")
    first, second = (np.asarray(student.sample(x0=x, condition=c)) for c in (zeros, ones))
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "hierarchy", "generator": "dense"}, "generator.*spectral.*hierarchy"),
        ({"basis": "hierarchy", "architecture__decoder": "linear"}, "decoder.*hierarchy"),
        ({"basis": "hierarchy", "training__method": "refine"}, "method.*gradient"),
        ({"basis": "hierarchy", "objective__weights": {"orthogonality": 1.0}}, "orthogonality"),
        ({"basis": "unet", "observables": 65}, "observables.*multiple of the number of pixels, 64"),
        ({"basis": "hierarchy", "observables": 65}, "observables.*all feature maps"),
        ({"basis": "network", "unet": NETWORK}, "unet.*None unless"),
        ({"basis": "network", "unet": None, "warm_start": True}, "warm_start"),
        ({"basis": "unet", "unet": UNet(channels=8), "warm_start": True}, "warm_start.*architecture"),
        ({"basis": "unet", "unet": {"chanels": 8}}, "unet.*chanels"),
    ],
)
def test_what_does_not_go_together_is_said(teacher: FlowTeacher, options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        student_of(teacher, **options)


def test_flat_samples_have_no_unet() -> None:
    teacher = FlowTeacher.gaussian(np.zeros(4), np.eye(4))
    with pytest.raises(KoopflowError, match=r"event_shape.*\(C, H, W\)"):
        KoopmanDistiller(basis="unet", steps=1).fit(teacher, progress=False)


def test_the_spectrum_is_that_of_every_level(hierarchy: KoopmanDistiller, teacher: FlowTeacher) -> None:
    spec = hierarchy.spectrum(teacher, n=24, seed=3)
    assert isinstance(spec, LevelSpectrum)
    sizes = [(level.channels, level.height) for level in spec]
    # The first convolution, one block, the convolution that halves, one block, the middle.
    assert sizes == [(32, 8), (32, 8), (32, 4), (64, 4), (64, 4)]
    assert [level.name for level in spec] == ["8x8, 1", "8x8, 2", "4x4, 1", "4x4, 2", "middle"]
    # The spectrum of the whole generator, its 0 of constant and time left out, each as often as it occurs.
    L = np.asarray(hierarchy.eigenvalues())
    for value in spec.eigenvalues:
        assert np.abs(L - value).min() < 1e-12
    assert sum(level.energy.sum() for level in spec) == pytest.approx(1.0)
    noise = np.asarray(_core.normal((24, *SHAPE), 3))
    first, last = (
        np.asarray(hierarchy.encode(time, at)) for time, at in ((0.0, noise), (1.0, teacher.sample(x0=noise)))
    )
    t, x = some(9)
    for index, level in enumerate(spec):
        psi = spec.eigenfunctions(t, x, index)
        assert psi.shape == (len(x), len(level.eigenvalues), level.height, level.width)
        # d psi / dtau = lambda psi: exactly so for observables carried by the student itself.
        g = np.asarray(hierarchy.encode(t, x))
        moved = np.asarray(hierarchy.propagate(g, 0.3))
        later = level_of(moved, spec, index)
        turned = level_of(g, spec, index) * np.exp(0.3 * level.eigenvalues)[None, :, None, None]
        np.testing.assert_allclose(later, turned, rtol=0, atol=2e-5 * np.abs(turned).max())
        # How far psi(1, x1) is from e^lambda psi(0, x0) along the teacher's flow.
        before, after = level_of(first, spec, index), level_of(last, spec, index)
        gap = np.abs(after - before * np.exp(level.eigenvalues)[None, :, None, None]) ** 2
        spread = np.abs(after - after.mean(axis=0)) ** 2
        expected = np.sqrt(gap.mean(axis=(0, 2, 3)) / spread.mean(axis=(0, 2, 3)))
        np.testing.assert_allclose(level.residual, expected, rtol=1e-4)
    text = spec.summary()
    assert text.count("\n") == len(spec)
    assert "middle" in text


def level_of(g: np.ndarray, spec: LevelSpectrum, index: int) -> np.ndarray:
    """Of observables: real parts, imaginary parts and real features of one map, written again."""
    start = 2 + sum(level.channels * level.height * level.width for level in spec[:index])
    level = spec[index]
    size = level.channels * level.height * level.width
    rows = g[:, start : start + size].reshape(len(g), level.channels, level.height, level.width)
    pairs = level.channels - len(level.eigenvalues)
    return np.concatenate([rows[:, :pairs] + 1j * rows[:, pairs : 2 * pairs], rows[:, 2 * pairs :]], axis=1)


def test_pictures_of_a_hierarchys_spectrum(hierarchy: KoopmanDistiller) -> None:
    spec = hierarchy.spectrum(n=8)
    ax = plotting.level_eigenvalues(spec)
    drawn = sum(len(collection.get_offsets()) for collection in ax.collections)
    assert drawn >= len(spec.eigenvalues)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"8 x 8", "4 x 4"}
    with pytest.raises(ArgumentError, match="index.*5 feature maps"):
        spec.eigenfunctions(0.0, some(1)[1], 7)
