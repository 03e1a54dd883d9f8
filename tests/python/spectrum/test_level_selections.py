"""Samples and edits with some eigenfunctions of a hierarchy, computed again from the student's twin."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, LevelSpectrum, UNet, _core
from koopflow.exceptions import ArgumentError, ShapeError
from koopflow.twins.generator import Observables

FILE = Path(__file__).parents[2] / "fixtures/before_redesign/student_hierarchy.safetensors"
SHAPE = (1, 4, 4)
N, SEED = 32, 3


def small(**options) -> KoopmanDistiller:
    """A hierarchy that has seen its teacher for two steps."""
    teacher = FlowTeacher.gaussian(np.linspace(-1.0, 1.0, 16).reshape(SHAPE), 0.3 * np.eye(16))
    student = KoopmanDistiller(
        basis="hierarchy",
        unet=UNet(channels=4, multipliers=(1, 2), groups=2),
        steps=2,
        batch_size=8,
        trajectories=16,
        seed=1,
    )
    return student.set_params(trajectories__path_steps=4, **options).fit(teacher, progress=False)


@pytest.fixture(scope="module", params=["shared", "per pixel"])
def student(request) -> KoopmanDistiller:
    if request.param == "shared":
        return KoopmanDistiller.load(FILE)
    return small(architecture__per_pixel=True)


@pytest.fixture(scope="module")
def spec(student) -> LevelSpectrum:
    return student.spectrum(n=N, seed=SEED)


@pytest.fixture(scope="module")
def twin(student, spec) -> Twin:
    return Twin(student, spec)


@pytest.fixture(scope="module")
def x0() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, *SHAPE)).astype("f4")


class Twin:
    """What a student does with its maps, in double precision."""

    def __init__(self, student: KoopmanDistiller, spec: LevelSpectrum) -> None:
        self.module = student.to_torch().double()
        shared = self.module.generator.shared
        self.sizes = [
            (level.channels * level.height * level.width // pixels, pixels)
            for level, pixels in zip(spec, shared, strict=True)
        ]
        self.values = [torch.from_numpy(level.eigenvalues) for level in spec]
        noise = torch.from_numpy(np.asarray(_core.normal((N, *SHAPE), SEED))).double()
        start = self.psi(self.encode(0.0, noise))
        self.means = [psi.mean(0) for psi in start]
        self.spreads = [
            (psi - mean).abs().square().mean((0, 2)).sqrt()
            for psi, mean in zip(start, self.means, strict=True)
        ]

    def encode(self, t: float, x, direction: str = "forward") -> torch.Tensor:
        with torch.no_grad():
            x = torch.as_tensor(np.asarray(x)).double()
            return self.module.encode(t, x, direction=direction)[:, 2:]

    def psi(self, phi: torch.Tensor) -> list[torch.Tensor]:
        """Complex ``[B, r, pixels]``, map by map."""
        found = []
        parts = phi.split([features * pixels for features, pixels in self.sizes], dim=1)
        for part, (features, pixels), values in zip(parts, self.sizes, self.values, strict=True):
            rows, pairs = part.reshape(len(phi), features, pixels), features - len(values)
            z = torch.complex(rows[:, :pairs], rows[:, pairs : 2 * pairs])
            found.append(torch.cat([z, rows[:, 2 * pairs :].to(z.dtype)], dim=1))
        return found

    def phi(self, psi: list[torch.Tensor]) -> torch.Tensor:
        parts = []
        for z, (features, _), values in zip(psi, self.sizes, self.values, strict=True):
            pairs = features - len(values)
            parts.append(torch.cat([z[:, :pairs].real, z[:, :pairs].imag, z[:, pairs:].real], 1).flatten(1))
        return torch.cat(parts, dim=1)

    def decoded(self, t: float, psi: list[torch.Tensor]) -> np.ndarray:
        with torch.no_grad():
            phi = self.phi(psi)
            time = torch.full((1, len(phi)), t, dtype=torch.float64)
            x = self.module.readout(Observables(time, phi[None, :, :0], phi[None]))
        return x[0].reshape(-1, *SHAPE).numpy()

    def carried(self, psi: list[torch.Tensor], tau: float) -> list[torch.Tensor]:
        return [z * (v * tau).exp()[:, None] for z, v in zip(psi, self.values, strict=True)]

    def edited(self, psi, at: float, gains, shifts) -> list[torch.Tensor]:
        """Numbers for each map's eigenfunctions, at time ``at``."""
        means = self.carried(self.means, at)
        each = zip(psi, means, gains, shifts, strict=True)
        return [m + g[:, None] * (z - m) + s[..., None] for z, m, g, s in each]

    def truncated(self, x0, keep, t: float = 1.0) -> np.ndarray:
        gains = [torch.as_tensor(k).double() for k in keep]
        changed = self.edited(self.psi(self.encode(0.0, x0)), 0.0, gains, [0.0 * g for g in gains])
        return self.decoded(t, self.carried(changed, t))


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1.0, np.abs(expected).max()))


def test_what_was_measured_is_that_of_the_noise(spec, twin):
    for level, mean, spread in zip(spec, twin.means, twin.spreads, strict=True):
        np.testing.assert_allclose(level.mean.reshape(mean.shape), mean, rtol=0, atol=1e-5)
        np.testing.assert_allclose(level.spread, spread, rtol=1e-4)
    np.testing.assert_array_equal(spec.spread, np.concatenate([level.spread for level in spec]))
    assert spec.levels.tolist() == [0, 0, 1, 1, 1]


def test_samples_of_some_maps_have_the_mean_of_the_others(student, spec, twin, x0):
    counts = [len(level.eigenvalues) for level in spec]
    for maps, kept in {"middle": [4], (0, 3): [0, 3], (-1, -2): [3, 4]}.items():
        maps = list(maps) if isinstance(maps, tuple) else maps
        keep = [np.full(count, float(index in kept)) for index, count in enumerate(counts)]
        part = spec.select(maps=maps)
        assert part.names == [spec.names[index] for index in kept]
        path = student.sample_path(x0=x0, times=[0.0, 0.4, 1.0], modes=part)
        for t, states in zip([0.0, 0.4, 1.0], path, strict=True):
            close(states, twin.truncated(x0, keep, t))
        np.testing.assert_array_equal(student.sample(x0=x0, modes=part), path[2])
    # All of them are the student's own, to the last bit.
    np.testing.assert_array_equal(student.sample(x0=x0, modes=spec), student.sample(x0=x0))
    tensor = student.sample(x0=torch.from_numpy(x0), modes=spec[1:])
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor, student.sample(x0=x0, modes=spec[1:]))
    # Without a spectrum of one's own, places are those of one that is measured by default.
    own = student.spectrum()
    np.testing.assert_array_equal(
        student.sample(x0=x0, modes=["middle", 0]), student.sample(x0=x0, modes=own[[0, 4]])
    )
    np.testing.assert_array_equal(student.sample(x0=x0, modes=2), student.sample(x0=x0, modes=own[2:3]))


def test_bands_levels_and_energies_select(student, spec, twin, x0):
    turning, growth = np.abs(spec.frequency), spec.growth
    middle = float(np.median(turning)) + 1e-9
    ends = np.cumsum([len(level.eigenvalues) for level in spec])[:-1]
    coarse = np.repeat(spec.levels == 1, [len(level.eigenvalues) for level in spec])
    order = np.argsort(-spec.energy, kind="stable")
    shares = np.cumsum(spec.energy[order])
    cases = {
        "frequency": (spec.select(frequency=(0.0, middle)), turning < middle),
        "growth": (spec.select(growth=(0.0, 9.0)), growth >= 0.0),
        "level": (spec.select(levels=-1), coarse),
        "both": (spec.select(levels=[1], frequency=(0.0, middle)), coarse & (turning < middle)),
        "of a selection": (spec[2:].select(levels=0, growth=(0.0, 9.0)), coarse & (growth >= 0.0)),
        "count": (spec.select(count=3), np.isin(np.arange(len(order)), order[:3])),
        "energy": (
            spec.select(energy=0.6),
            np.isin(np.arange(len(order)), order[: int(np.argmax(shares >= 0.6)) + 1]),
        ),
    }
    for part, mask in cases.values():
        np.testing.assert_array_equal(part.places, np.flatnonzero(mask))
        np.testing.assert_array_equal(part.eigenvalues, spec.eigenvalues[mask])
        np.testing.assert_array_equal(part.energy, spec.energy[mask])
        assert len(part.indices) == len(part.places)
        close(student.sample(x0=x0, modes=part), twin.truncated(x0, np.split(mask, ends)))
        again = pickle.loads(pickle.dumps(part))
        np.testing.assert_array_equal(again.places, part.places)
        np.testing.assert_array_equal(again.sample_path(x0, times=[1.0]), part.sample_path(x0, times=[1.0]))
    band = spec.bands(x0, edges=[middle, 1e9], times=[0.5])
    np.testing.assert_array_equal(band[1, 0], student.sample_path(x0=x0, times=[0.5])[0])
    close(band[0, 0], twin.truncated(x0, np.split(turning < middle, ends), 0.5))
    part = spec[3:]
    psi = part.select(growth=(float(part.growth.min()), float(part.growth.max()))).eigenfunctions(0.3, x0, 0)
    whole = spec.eigenfunctions(0.3, x0, 3)
    assert psi.shape[0] == 5
    assert set(map(complex, psi[0].reshape(-1))) <= set(map(complex, whole[0].reshape(-1)))


def test_samples_are_built_up_from_the_middle_on(student, spec, twin, x0):
    counts = [len(level.eigenvalues) for level in spec]
    names, levels = spec.build_up(x0)
    assert names == ["2x2", "+ 4x4"]
    close(levels[0], twin.truncated(x0, [np.full(c, float(i > 1)) for i, c in enumerate(counts)]))
    np.testing.assert_array_equal(levels[1], student.sample(x0=x0))
    names, maps = spec.build_up(x0, by="map")
    assert names == ["middle", "+ 2x2, 2", "+ 2x2, 1", "+ 4x4, 2", "+ 4x4, 1"]
    np.testing.assert_array_equal(maps[2], levels[0])
    kept, errors = spec.truncation_curve(x0, counts=[0, 2, sum(counts)])
    none = twin.truncated(x0, [np.zeros(c) for c in counts])
    whole = student.sample(x0=x0)
    assert kept.tolist() == [0, 2, sum(counts)]
    assert errors[[0, 2]].tolist() == [1.0, 0.0]
    some = student.sample(x0=x0, modes=spec.select(count=2))
    expected = np.sqrt(((some - whole) ** 2).mean() / ((none - whole) ** 2).mean())
    assert errors[1] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ArgumentError, match="by: expected 'level' or 'map', got 'pixel'"):
        spec.build_up(x0, by="pixel")


@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("project", [False, True])
def test_edits_scale_turn_and_shift_about_the_mean(student, spec, twin, x0, at, project):
    part = spec.select(maps=[1, 4])
    pairs = [len(level.eigenvalues[level.frequency > 0]) for level in part]
    scale, shift = np.linspace(0.2, 1.7, len(part.places)), np.linspace(-1.0, 1.0, len(part.places)) + 0.3j
    counts = [len(level.eigenvalues) for level in part]
    gains = [torch.ones(len(v), dtype=torch.complex128) for v in twin.values]
    shifts = [torch.zeros(len(v), dtype=torch.complex128) for v in twin.values]
    for index, g, s, two in zip(
        (1, 4), np.split(scale, counts[:1]), np.split(shift, counts[:1]), pairs, strict=True
    ):
        gains[index] = torch.from_numpy(g).to(torch.complex128)
        units = twin.spreads[index] * (twin.values[index].real * at).exp()
        shifts[index] = torch.from_numpy(s) * units
        # Real eigenfunctions have no imaginary part to be shifted.
        shifts[index][two:].imag.zero_()

    def ends(psi):
        if not project:
            return twin.decoded(1.0, twin.carried(psi, 1.0 - at))
        again = twin.psi(twin.encode(at, twin.decoded(at, psi)))
        return twin.decoded(1.0, twin.carried(again, 1.0 - at))

    how = {"scale": scale, "shift": shift, "at": at, "project": project}
    there = twin.carried(twin.psi(twin.encode(0.0, x0)), at)
    close(student.edit(x0=x0, modes=part, **how), ends(twin.edited(there, at, gains, shifts)))
    # Of data, what is changed is added to what they are.
    back = x0
    if at < 1.0:
        back = twin.decoded(at, twin.carried(twin.psi(twin.encode(1.0, x0, "backward")), at - 1.0))
    there = twin.psi(twin.encode(at, back))
    expected = x0 + ends(twin.edited(there, at, gains, shifts)) - ends(there)
    close(student.edit(x0, part, **how), expected)


def test_an_edit_that_changes_nothing_is_exact(student, spec, x0):
    for at in (0.0, 0.3, 1.0):
        for project in (False, True):
            same = student.edit(x0, spec, scale=1.0, shift=0.0, at=at, project=project)
            np.testing.assert_array_equal(same, x0)
    np.testing.assert_array_equal(student.edit(x0=x0, modes=spec[1:], scale=1.0), student.sample(x0=x0))


def test_a_turn_is_that_of_complex_numbers(student, spec, twin, x0):
    pairs = spec.select(frequency=(1e-6, 1e9), maps="middle")
    turned = student.edit(x0=x0, modes=pairs, rotate=0.7)
    psi = twin.psi(twin.encode(0.0, x0))
    gain = torch.ones(len(twin.values[4]), dtype=torch.complex128)
    gain[twin.values[4].imag > 0] = np.exp(0.7j)
    psi[4] = twin.means[4] + gain[:, None] * (psi[4] - twin.means[4])
    close(turned, twin.decoded(1.0, twin.carried(psi, 1.0)))
    with pytest.raises(ArgumentError, match="rotate: expected complex modes only"):
        student.edit(x0=x0, modes=spec, rotate=0.7)


def test_no_gain_is_truncation(student, spec, x0):
    np.testing.assert_allclose(
        student.edit(x0=x0, modes=spec[:2], scale=0.0), student.sample(x0=x0, modes=spec[2:]), atol=1e-6
    )
    rows = np.linspace(-1.0, 1.0, 5)[:, None] * np.ones(len(spec[-1:].places))
    each = student.edit(x0=x0, modes=spec[-1:], shift=rows)
    np.testing.assert_allclose(each[3:4], student.edit(x0=x0[3:4], modes=spec[-1:], shift=rows[3]), atol=1e-6)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.select(maps="5x5, 1"), r"maps: expected some of \['4x4, 1', .*'middle'\], got '5x5, 1'"),
        (lambda s: s.select(maps=5), "maps: expected places from -5 to 4, got 5"),
        (lambda s: s.select(maps=[0, 7]), "maps: expected places from -5 to 4"),
        (lambda s: s.select(maps=0.5), "maps: expected an integer, a slice"),
        (lambda s: s[[True, False]], r"maps: expected a mask of shape \(5,\)"),
        (lambda s: s.select(maps=slice(5, None)), "maps: expected at least one eigenfunction, got none"),
        (lambda s: s[[]].select(levels=0), "levels: expected places"),
        (lambda s: s[:0].select(), "modes: expected at least one eigenfunction, got none of an empty"),
        (lambda s: s[:0].build_up(np.zeros((1, *SHAPE))), "modes: expected at least one mode, got none"),
        (lambda s: s.select(levels=2), "levels: expected places from -2 to 1, got 2"),
        (lambda s: s.select(frequency=(90.0, 99.0)), r"frequency: .* got none of \d+, whose growth is .* to"),
        (lambda s: s[-1:].select(levels=0, growth=(7.9, 8.0)), "growth, levels: expected at least one"),
        (lambda s: s.select(growth=(1.0, 0.0)), "growth: expected two numbers, low and high"),
        (lambda s: s.select(count=999), "count: expected at most"),
        (lambda s: s.select(residual=-1.0), "residual: expected"),
    ],
)
def test_what_is_not_there_is_said(spec, ask, message):
    with pytest.raises((ArgumentError, ShapeError), match=message):
        ask(spec)


def test_a_spectrum_is_of_one_student(student, spec, x0, gaussian):
    vectors = KoopmanDistiller(observables=8, width=8, steps=1, trajectories=16).fit(gaussian, progress=False)
    other = KoopmanDistiller.load(FILE)
    for model, modes in ((other, spec), (vectors, spec), (other, vectors.spectrum())):
        noise = np.zeros((2, *model.event_shape_), "f4")
        for ask in (model.sample, model.edit):
            how = {} if ask == model.sample else {"scale": 0.0}
            with pytest.raises(ArgumentError, match="modes: expected this student's spectrum"):
                ask(x0=noise, modes=modes, **how)
    with pytest.raises(ArgumentError, match=r"modes: expected a selection such as spectrum\[\[2\]\]"):
        student.sample(x0=x0, modes=spec[2])
    assert list(spec[:0]) == [] == spec[:0].eigenvalues.tolist()
    for ask in (student.sample, student.edit):
        how = {} if ask == student.sample else {"scale": 0.0}
        with pytest.raises(ArgumentError, match="modes: expected at least one mode, got none"):
            ask(x0=x0, modes=spec[5:], **how)
    with pytest.raises(ArgumentError, match="steps: expected 1 with modes"):
        student.sample(x0=x0, modes=spec, steps=2)
    with pytest.raises(ArgumentError, match=r"maps: .* got 'midle'"):
        student.sample(x0=x0, modes="midle")
    with pytest.raises(ArgumentError, match="scale: expected a number or one for each of"):
        student.edit(x0=x0, modes=spec, scale=[1.0, 2.0])
    with pytest.raises(ShapeError, match="shifts"):
        student.edit(x0=x0, modes=spec, shift=np.zeros((2, len(spec.places))))
    with pytest.raises(ShapeError, match="keep|gains"):
        spec.core.sample(x0, [1.0], [True])
    with pytest.raises(ArgumentError, match="maps: expected those of this student"):
        _core.LevelSpectrum.known(student._fitted(), spec.core.measured[:2])
