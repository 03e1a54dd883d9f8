"""Pictures of the spectra of flows: drawn data against paths whose parts are known."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from koopflow import FlowTeacher, datasets, plotting
from koopflow.analysis import flow_spectrum
from koopflow.exceptions import ArgumentError, ShapeError

TIMES = np.linspace(0.0, 1.0, 17)
# A stroke that all samples gain, and two images that modes add.
DRIFT, FIRST, SECOND = np.zeros((3, 4, 4))
DRIFT[:, 1], FIRST[0], SECOND[3, :2] = -1.0, (1.0, -2.0, 1.0, 0.5), (2.0, 1.0)
PATHS = 2000


def rising(rate: float) -> np.ndarray:
    return (np.exp(rate * TIMES) - 1.0) / rate


def paths(
    event: tuple[int, ...], directions: tuple[np.ndarray, ...], drift: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Noise that is halved at rate -1 and moved at rate 2 by a square and a product of its coordinates."""
    d = int(np.prod(event))
    noise = np.random.default_rng(seed).standard_normal((PATHS, d))
    square, product = (noise[:, 0] ** 2 - 1.0) / np.sqrt(2.0), noise[:, 0] * noise[:, 1]
    bent = square[:, None] * directions[0].ravel() + product[:, None] * directions[1].ravel()
    affine = -0.5 * noise / rising(-1.0)[-1]
    moved = [
        noise + t * drift.ravel() + slow * affine + fast * bent
        for t, slow, fast in zip(TIMES, rising(-1.0), rising(2.0), strict=True)
    ]
    return np.stack(moved).reshape(len(TIMES), PATHS, *event)


STATES = paths((4, 4), (FIRST, 0.5 * SECOND), DRIFT)


@pytest.fixture(scope="module")
def flow():
    """Of images of 4 x 4 pixels, with two modes whose energies differ."""
    return flow_spectrum(STATES, times=TIMES)


@pytest.fixture(scope="module")
def plane():
    """Of a teacher in the plane, with its modes."""
    return flow_spectrum(FlowTeacher.empirical(datasets.moons(12, seed=1)), n=256, times=TIMES[:-1] * 0.9)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def canvas_of(ax):
    """Rows of pictures of 4 x 4 pixels, below captions of 3 and beside gaps of one."""
    canvas = np.ma.filled(ax.images[0].get_array(), np.nan)
    return [
        [canvas[top : top + 4, left : left + 4] for left in range(1, canvas.shape[1], 5)]
        for top in range(4, canvas.shape[0], 8)
    ]


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


DRAWINGS = {
    "rates": lambda flow, ax=None: plotting.flow_rates(flow, ax=ax, title="title"),
    "profiles": lambda flow, ax=None: plotting.flow_profiles(flow, ax=ax, title="title"),
    "functions": lambda flow, ax=None: plotting.flow_profiles(flow, ax=ax, rates=True, title="title"),
    "groups": lambda flow, ax=None: plotting.flow_groups(flow, ax=ax, title="title"),
    "energy": lambda flow, ax=None: plotting.flow_energy(flow, ax=ax, title="title"),
    "agreement": lambda flow, ax=None: plotting.flow_agreement(
        flow.compare(flow, permutations=9), ax=ax, title="title"
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_each_draws_where_it_is_told_and_leaves_no_figure_behind(name, flow, plane, ax, tmp_path):
    before = plt.get_fignums()
    assert DRAWINGS[name](flow, ax) is ax
    assert ax.has_data()
    assert ax.get_title(loc="left") == "title"
    for other in (flow, flow[1], plane, plane[:1]):
        drawn = DRAWINGS[name](other)
        drawn.figure.savefig(tmp_path / "picture.png")
    assert plt.get_fignums() == before


def test_rates_are_where_those_of_the_paths_are(flow, ax):
    plotting.flow_rates({"one": flow, "again": flow}, ax=ax)
    crosses = [dots for dots in ax.collections if dots.get_label() in ("one", "again")]
    for dots in crosses:
        # Drift is no motion: it is the same for all samples.
        np.testing.assert_allclose(sorted(dots.get_offsets()[:, 0]), [-1.0, 2.0], atol=0.02)
        np.testing.assert_allclose(dots.get_offsets()[:, 1], 0.0, atol=1e-9)
    clouds = [dots for dots in ax.collections if len(dots.get_offsets()) == 40 * len(flow.rates)]
    assert len(clouds) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "again"]
    assert plotting.flow_rates([flow]).get_legend().get_texts()[0].get_text() == "0"
    assert plotting.flow_rates(flow).get_legend() is None


def test_a_rate_that_other_paths_move_is_circled(ax):
    noisy = STATES[:, :40] + 0.3 * np.random.default_rng(5).standard_normal((len(TIMES), 40, 4, 4)).cumsum(0)
    noisy[0] = STATES[0, :40]
    vague = flow_spectrum(noisy, times=TIMES, rates=3)
    assert (vague.uncertainty > 0.1).any()
    plotting.flow_rates(vague, ax=ax)
    assert any("circled" in text for text in texts_of(ax))


def test_profiles_are_how_far_modes_move_samples(flow, ax):
    plotting.flow_profiles(flow, ax=ax)
    for line, image in zip(ax.lines, (FIRST, 0.5 * SECOND), strict=True):
        np.testing.assert_allclose(line.get_xdata(), TIMES)
        # The amplitude of either has variance 1; 2,000 draws of a square are right to several percent.
        expected = np.linalg.norm(image) * rising(2.0)
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=0.15, atol=0.02)
    plotting.flow_profiles(flow, ax=(other := Figure().add_subplot()), times=[0.0, 0.5], count=1)
    assert len(other.lines) == 1
    assert list(other.lines[0].get_xdata()) == [0.0, 0.5]


def test_functions_of_rates_are_integrals_of_exponentials(plane, ax):
    plotting.flow_profiles(plane, ax=ax, rates=True, times=[0.0, 0.2, 0.4])
    nodes = np.linspace(0.0, 0.4, 4001)
    for rate in plane.rates[plane.rates.imag >= 0]:
        values = np.exp(rate * nodes)
        whole = ((values[1:] + values[:-1]) / 2).sum() * (nodes[1] - nodes[0])
        parts = [whole.real, whole.imag] if rate.imag else [whole.real]
        for part in parts:
            assert any(line.get_ydata()[-1] == pytest.approx(part, rel=1e-4) for line in ax.lines)


def test_the_blueprint_stacks_what_has_moved(flow):
    panels = plotting.blueprint(flow, title="title")
    assert panels[0].get_title(loc="left") == "title"
    moved = (STATES - STATES[0]).reshape(len(TIMES), PATHS, -1)
    motion = moved[-1].var(axis=0).sum()
    # The stack's upper edge is all that has moved.
    whole: dict[float, float] = {}
    for x, y in panels[0].collections[-1].get_paths()[0].vertices:
        whole[round(x, 6)] = max(whole.get(round(x, 6), 0.0), y)
    for t, state in zip(TIMES, moved, strict=True):
        expected = (state**2).sum(axis=1).mean() / motion
        assert whole[round(t, 6)] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    drift = (moved[-1].mean(axis=0) ** 2).sum() / motion
    assert f"drift\n{drift:.2f}" in texts_of(panels[0])


def test_the_blueprint_shows_drift_and_modes(flow):
    rows = canvas_of(plotting.blueprint(flow, count=4)[1])
    assert len(rows) == 3
    mean = (STATES - STATES[0]).mean(axis=1)[[4, 8, 12, 16]]
    np.testing.assert_allclose(rows[0], mean / np.abs(mean).max(), atol=1e-6)
    for picture, image in zip(rows[2], (FIRST, SECOND), strict=False):
        expected = image / np.abs(image).max()
        assert min(np.abs(picture - expected).max(), np.abs(picture + expected).max()) < 0.1
    assert np.isnan(rows[2][2]).all()


def test_the_affine_pictures_of_a_gaussian_are_the_axes_of_its_covariance():
    sizes = np.array([3.0, 2.0, 1.5, *[0.2] * 13])
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    teacher = FlowTeacher.gaussian(np.zeros((4, 4)), (axes * sizes**2) @ axes.T)
    panel = plotting.blueprint(flow_spectrum(teacher, n=256), count=3)[1]
    told = [float(text[1:]) for text in texts_of(panel) if text.startswith("±")]
    # Three shared rates leave a ten thousandth of the motion, a hundredth of its size.
    np.testing.assert_allclose(told, sizes[:3], rtol=0.02)
    rows = canvas_of(panel)
    assert len(rows) == 2
    expected = axes[:, :3] * sizes[:3] / np.abs(axes[:, :3] * sizes[:3]).max()
    for picture, axis in zip(rows[1], expected.T, strict=True):
        np.testing.assert_allclose(np.abs(picture.ravel()), np.abs(axis), atol=0.03)


def test_the_blueprint_of_other_events_has_the_panels_that_fit(plane):
    assert len(plotting.blueprint(plane)) == 2
    flat = flow_spectrum(STATES.reshape(len(TIMES), PATHS, 16)[:, :, :11], times=TIMES)
    assert len(plotting.blueprint(flat)) == 1
    with pytest.raises(ArgumentError, match="axes: expected 1 axes"):
        plotting.blueprint(flat, axes=Figure().subplots(1, 2))
    wide = flow_spectrum(STATES.reshape(len(TIMES), PATHS, 16), times=TIMES)
    canvas = plotting.blueprint(wide, image_shape=(2, 8), count=2)[1].images[0].get_array()
    assert canvas.shape == (1 + 3 * (3 + 2 + 1), 1 + 2 * 9)


def test_curves_in_the_plane_end_where_modes_have_moved_samples(plane, ax):
    plotting.flow_groups(plane, ax=ax, count=2)
    end = float(plane.times[-1])
    noise = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32)
    contributions = plane[:2].contributions(noise, t=end)
    for place, line in enumerate(ax.lines[:2]):
        reached = np.hypot(line.get_xdata()[-1], line.get_ydata()[-1])
        rms = np.sqrt((contributions[:, place] ** 2).sum(axis=1).mean())
        assert reached == pytest.approx(rms, rel=0.25)


def test_groups_are_bracketed_and_named_by_their_energy(ax):
    # Two modes of one energy cannot be told apart.
    even = flow_spectrum(paths((4, 4), (FIRST, SECOND * 2.5 / np.sqrt(5.0)), DRIFT), times=TIMES)
    assert [len(group) for group in even.groups] == [2]
    plotting.flow_groups(even, ax=ax)
    assert texts_of(ax) == ["0 to 1: 100%"]
    assert len(ax.lines) == 1
    single = plotting.flow_groups(even[:1])
    assert not single.lines
    # A group is drawn whole where it begins, and says so where it is not.
    assert texts_of(plotting.flow_groups(even, count=1)) == ["0 to 1: 100%"]
    assert texts_of(plotting.flow_groups(even, columns=1)) == ["0 to 1: 100%"]
    teacher = FlowTeacher.empirical(np.random.default_rng(0).standard_normal((12, 4, 4)))
    many = flow_spectrum(teacher, n=64, times=np.linspace(0.0, 0.8, 9))
    (largest,) = [group for group in many.groups if len(group) == max(map(len, many.groups))][:1]
    assert len(largest) > 3
    captions = texts_of(plotting.flow_groups(many, count=len(many), columns=3))
    assert any(caption.endswith(f"(3 of {len(largest)})") for caption in captions)


def test_pictures_carry_what_is_not_determined(flow):
    shaken = STATES + np.sin(15.0 * TIMES)[:, None, None, None] * STATES[0]
    crude = flow_spectrum(shaken, times=TIMES, rates=1)
    (caveat,) = [text for text in crude.caveats if "unexplained" in text]
    for draw in (plotting.flow_profiles, plotting.flow_groups, plotting.flow_energy):
        assert caveat in texts_of(draw(crude))
        assert caveat not in texts_of(draw(flow))
    assert caveat in texts_of(plotting.blueprint(crude)[0])
    # Pictures with brackets say by them what cannot be told apart; others in words.
    even = flow_spectrum(paths((4, 4), (FIRST, SECOND * 2.5 / np.sqrt(5.0)), DRIFT), times=TIMES)
    (mixed,) = even.caveats
    assert mixed in texts_of(plotting.flow_profiles(even))
    assert mixed not in texts_of(plotting.flow_groups(even))
    # Samples of a part of a group are not determined, those of all of it are.
    even = even.of(FlowTeacher.gaussian(np.zeros((4, 4)), np.eye(16)).field)
    noise = np.zeros((2, 4, 4), np.float32)
    assert mixed in texts_of(plotting.build_up(even, noise))
    assert mixed not in texts_of(plotting.build_up(even, noise, counts=[2]))


def test_groups_of_flat_events_are_rows(ax):
    flat = flow_spectrum(STATES.reshape(len(TIMES), PATHS, 16)[:, :, :11], times=TIMES)
    plotting.flow_groups(flat, ax=ax)
    rows = np.asarray(ax.images[0].get_array())
    expected = FIRST.ravel()[:11] / 2.0
    assert min(np.abs(rows[0] - expected).max(), np.abs(rows[0] + expected).max()) < 0.1
    assert len(ax.get_yticklabels()) == len(flat.groups)


def test_energies_are_shares_and_the_edge_is_told(flow, plane, ax):
    plotting.flow_energy(flow, ax=ax)
    dots = next(line for line in ax.lines if line.get_label() == "energy")
    energies = np.array([np.linalg.norm(FIRST), np.linalg.norm(0.5 * SECOND)]) ** 2
    np.testing.assert_allclose(dots.get_ydata(), energies / energies.sum(), rtol=0.15)
    assert any("2 modes stand above sampling noise" in text for text in texts_of(ax))
    assert len(ax.patches) == -(-len(flow.groups) // 2)
    random = np.random.default_rng(8).standard_normal((64, 12))
    walk = np.einsum("t,nd->tnd", TIMES, random * (3.0, *[1.0] * 11))
    drawn = plotting.flow_energy(flow_spectrum(random[::-1] + walk, times=TIMES, rates=1))
    assert any(line.get_linestyle() == "--" for line in drawn.lines)


def test_agreement_is_one_for_the_same_flow_and_none_for_another(flow, ax):
    again = flow_spectrum(paths((4, 4), (FIRST, 0.5 * SECOND), DRIFT, seed=1), times=TIMES)
    plotting.flow_agreement(flow.compare(again), ax=ax)
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shown, np.eye(2), atol=0.1)
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [(box.get_width(), box.get_linestyle()) for box in boxes] == [(1, "-")] * 2
    other = flow_spectrum(paths((4, 4), (FIRST.T, 0.5 * SECOND[::-1, ::-1]), DRIFT, seed=2), times=TIMES)
    panel = plotting.flow_agreement(flow.compare(other))
    assert {patch.get_linestyle() for patch in panel.patches} == {"--"}
    with pytest.raises(ArgumentError, match="amplitudes: expected flows"):
        plotting.flow_agreement(flow.compare(again), amplitudes=True)
    same = plotting.flow_agreement(flow.compare(flow), amplitudes=True, count=1)
    np.testing.assert_allclose(same.images[0].get_array(), [[1.0]], atol=1e-6)


def test_samples_are_built_up_from_noise(ax):
    teacher = FlowTeacher.empirical(np.stack([DRIFT, FIRST, SECOND])[:, None])
    spectrum = flow_spectrum(teacher, n=256, times=np.linspace(0.0, 0.8, 13))
    noise = np.random.default_rng(3).standard_normal((3, 1, 4, 4)).astype(np.float32)
    plotting.build_up(spectrum, noise, ax=ax, counts=[1, len(spectrum)], limits=(-9.0, 9.0))
    canvas = np.ma.filled(ax.images[0].get_array(), np.nan)
    rows = [[canvas[1 + 5 * r : 5 + 5 * r, 1 + 5 * c : 5 + 5 * c] for c in range(6)] for r in range(3)]
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["noise", "+ drift", "+ affine", "+ 1 mode", f"+ {len(spectrum)}", "sample"]
    ends = teacher.trajectory(x0=noise, times=[0.0, 0.8])[-1]
    for row, start, end in zip(rows, noise, ends, strict=True):
        np.testing.assert_allclose(row[0], start[0], atol=1e-6)
        np.testing.assert_allclose(row[5], end[0], atol=1e-3)
        np.testing.assert_allclose(row[1] - row[0], spectrum.drift[-1, 0], atol=1e-5)
        # All modes are nearly the sample, and more so than none.
        off = [np.linalg.norm(picture - row[5]) for picture in row]
        assert off[4] < 0.25 * off[2]


def test_in_the_plane_samples_are_clouds_side_by_side(plane, ax):
    noise = np.random.default_rng(3).standard_normal((50, 2)).astype(np.float32)
    plotting.build_up(plane, noise, ax=ax)
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert len(ax.collections) == len(names)
    assert names[:4] == ["noise", "+ drift", "+ affine", "+ 1 mode"]
    # A noise in the same box is where it is.
    first = ax.collections[0].get_offsets()
    assert all(np.abs(noise - point).sum(axis=1).min() < 1e-6 for point in first)


def test_amplitudes_colour_the_noise(plane):
    noise = np.random.default_rng(3).standard_normal((60, 2)).astype(np.float32)
    panels = plotting.flow_amplitudes(plane, noise, count=2)
    assert len(panels) == 2
    for place, panel in enumerate(panels):
        dots = panel.collections[0]
        np.testing.assert_allclose(dots.get_offsets(), noise)
        own = plane.amplitudes(noise)[:, place]
        assert np.corrcoef(dots.get_array(), own)[0, 1] == pytest.approx(1.0)
        assert np.sqrt(np.mean(np.square(dots.get_array()))) == pytest.approx(1.0, rel=0.5)


@pytest.mark.parametrize("draw", [plotting.flow_profiles, plotting.flow_groups, plotting.flow_energy])
def test_pictures_of_modes_need_one(draw, flow):
    with pytest.raises(ArgumentError, match="at least one mode"):
        draw(flow[:0])


@pytest.mark.parametrize(
    ("draw", "kind", "message"),
    [
        (lambda flow: plotting.flow_rates(3.0), TypeError, "spectra: expected FlowSpectrum objects"),
        (lambda flow: plotting.flow_rates({"a": 1}), TypeError, "spectra: expected a FlowSpectrum, got int"),
        (lambda flow: plotting.flow_rates([]), ArgumentError, "at least one flow"),
        (lambda flow: plotting.flow_profiles("flow"), TypeError, "expected a FlowSpectrum, got str"),
        (lambda flow: plotting.flow_profiles(flow, count=0), ArgumentError, "count: expected"),
        (lambda flow: plotting.flow_profiles(flow, rates=1), ArgumentError, "rates: expected True or False"),
        (lambda flow: plotting.flow_energy(None), TypeError, "expected a FlowSpectrum, got NoneType"),
        (lambda flow: plotting.flow_groups(flow.core), TypeError, "expected a FlowSpectrum"),
        (lambda flow: plotting.flow_groups(flow, image_shape=(3, 3)), ShapeError, "expected 3 x 3 pixels"),
        (lambda flow: plotting.blueprint(np.zeros(3)), TypeError, "expected a FlowSpectrum, got ndarray"),
        (lambda flow: plotting.blueprint(flow, axes=[Figure().add_subplot()]), ArgumentError, "2 axes"),
        (lambda flow: plotting.flow_agreement(flow), TypeError, "comparison: expected a FlowComparison"),
        (lambda flow: plotting.flow_agreement(flow[:0].compare(flow), count=0), ArgumentError, "count"),
        (lambda flow: plotting.flow_amplitudes(flow, np.zeros((1, 4, 4))), ShapeError, r"event shape \(2,\)"),
        (lambda flow: plotting.build_up(flow, np.zeros((1, 4, 4))), ArgumentError, "source: expected"),
        (lambda flow: plotting.build_up(flow, np.zeros((1, 4, 4)), counts=[99]), ArgumentError, "counts"),
        (lambda flow: plotting.build_up({}, np.zeros((1, 4, 4))), TypeError, "expected a FlowSpectrum"),
    ],
)
def test_wrong_arguments_are_named(draw, kind, message, flow):
    with pytest.raises(kind, match=message):
        draw(flow)
