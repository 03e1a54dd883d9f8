from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from koopflow import FlowTeacher, KoopmanDistiller, datasets, plotting
from koopflow.analysis import measure_signatures
from koopflow.exceptions import ArgumentError, ShapeError

SPECTRUM = np.array([0.0, -0.5 + 2.0j, -0.5 - 2.0j, 0.1 + 1.0j, 0.1 - 1.0j, -0.7])


@pytest.fixture
def ax():
    return Figure().add_subplot()


PATH = np.random.default_rng(0).normal(size=(5, 3, 2))
DRAWINGS = {
    "samples": lambda ax=None: plotting.samples(datasets.moons(50), ax=ax),
    "paths": lambda ax=None: plotting.paths(PATH, PATH, ax=ax, background=datasets.moons(50)),
    "image_grid": lambda ax=None: plotting.image_grid(datasets.digits()[0][:6], ax=ax),
    "eigenvalues": lambda ax=None: plotting.eigenvalues(SPECTRUM, ax=ax),
    "loss_history": lambda ax=None: plotting.loss_history({"loss": [[1, 2.0], [2, 1.0]]}, ax=ax),
    "generator": lambda ax=None: plotting.generator(
        np.random.default_rng(1).normal(size=(7, 7)), ax=ax, dimension=2
    ),
    "edit_strip": lambda ax=None: plotting.edit_strip(datasets.digits()[0][:6].reshape(3, 2, 64), ax=ax),
    "inversion_strip": lambda ax=None: plotting.inversion_strip(*[datasets.digits()[0][:4]] * 3, ax=ax),
    "edit_trails": lambda ax=None: plotting.edit_strip(PATH, ax=ax, strengths=range(5)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_function_draws_on_the_axes_that_it_is_given(name, ax):
    assert DRAWINGS[name](ax) is ax
    assert ax.has_data()


def test_side_by_side_draws_on_the_axes_that_it_is_given(ax):
    pair = [ax, Figure().add_subplot()]
    panels = plotting.side_by_side({"data": datasets.moons(20), "student": datasets.moons(20)}, axes=pair)
    assert list(panels) == pair


@pytest.mark.parametrize("name", DRAWINGS)
def test_without_axes_no_figure_is_left_in_pyplot(name, tmp_path):
    before = plt.get_fignums()
    DRAWINGS[name]().figure.savefig(tmp_path / f"{name}.png")
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert plt.get_fignums() == before


def test_samples_are_drawn_where_they_are_from_torch_too(ax):
    points = datasets.moons(40)
    plotting.samples(torch.from_numpy(points), ax=ax, title="moons")
    np.testing.assert_allclose(ax.collections[0].get_offsets(), points, rtol=1e-6)
    assert ax.get_title(loc="left") == "moons"


def test_density_counts_every_sample_within_its_limits(ax):
    points = datasets.checkerboard(3000)
    plotting.samples(points, ax=ax, kind="density", limits=(-4.0, 4.0, -4.0, 4.0))
    counts = ax.images[0].get_array()
    assert counts.sum() == 3000
    # The row is y from below: the lower left square is full, the one to its right is empty.
    assert counts[:32, :32].sum() > 0
    assert counts[:32, 32:64].sum() == 0


def test_side_by_side_shares_one_scale_and_colours_by_name():
    wide = 10.0 * datasets.moons(100)
    panels = plotting.side_by_side({"data": datasets.moons(100), "teacher": wide, "student": wide})
    assert len({ax.get_xlim() for ax in panels}) == 1
    colours = [tuple(ax.collections[0].get_facecolor()[0][:3]) for ax in panels]
    expected = [to_rgba(plotting.COLOURS[name])[:3] for name in ("data", "teacher", "student")]
    assert colours == expected


def test_paths_are_one_line_for_each_sample(ax):
    student = np.random.default_rng(1).normal(size=(7, 3, 2))
    teacher = student + 0.1
    plotting.paths(student, teacher, ax=ax)
    lines = {
        c.get_label(): c.get_segments() for c in ax.collections if c.get_label() in ("student", "teacher")
    }
    np.testing.assert_allclose(np.stack(lines["student"], axis=1), student)
    np.testing.assert_allclose(np.stack(lines["teacher"], axis=1), teacher)


def test_image_grid_puts_images_in_rows(ax):
    images = np.arange(3.0)[:, None, None] / 4 + np.zeros((3, 2, 2))
    plotting.image_grid(images, ax=ax, columns=2)
    canvas = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert canvas.shape == (7, 7)
    np.testing.assert_array_equal(canvas[1:3, 1:3], 0.0)
    np.testing.assert_array_equal(canvas[1:3, 4:6], 0.25)
    np.testing.assert_array_equal(canvas[4:6, 1:3], 0.5)
    assert np.isnan(canvas[4:6, 4:6]).all()


def test_image_grid_keeps_colours(ax):
    images = np.full((2, 3, 1, 2), -1.0)
    images[1, 2] = 1.0
    plotting.image_grid(images, ax=ax, columns=2)
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas.shape == (3, 7, 3)
    np.testing.assert_array_equal(canvas[1, 1:3], 0.0)
    np.testing.assert_array_equal(canvas[1, 4:6], [[0.0, 0.0, 1.0]] * 2)
    np.testing.assert_allclose(canvas[0], [to_rgba("#e4eaf1")[:3]] * 7)


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_grids_hold_every_pixel(tmp_path, channels):
    levels = np.random.default_rng(0).integers(0, 256, (5, channels, 3, 4), dtype=np.uint8)
    plotting.save_image_grid(tmp_path / "grid.png", torch.from_numpy(levels / 127.5 - 1.0), columns=2)
    grid = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    assert grid.shape == (3 * 4 + 1, 2 * 5 + 1, 3)
    for index, image in enumerate(levels):
        top, left = 1 + index // 2 * 4, 1 + index % 2 * 5
        pixels = np.broadcast_to(image.transpose(1, 2, 0), (3, 4, 3))
        np.testing.assert_array_equal(grid[top : top + 3, left : left + 4], pixels)
    gap = [0xE4, 0xEA, 0xF1]
    for line in (grid[0], grid[4], grid[-1], grid[:, 0], grid[:, 5], grid[9:12, 6:10].reshape(-1, 3)):
        np.testing.assert_array_equal(line, [gap] * len(line))
    with pytest.raises(ShapeError, match="1 or 3 channels, got 2"):
        plotting.save_image_grid(tmp_path / "grid.png", np.zeros((1, 2, 3, 3)))


def test_eigenvalues_mark_the_boundary_and_colour_pairs_alike(ax):
    plotting.eigenvalues(SPECTRUM, ax=ax)
    markers = ax.collections[-1]
    np.testing.assert_allclose(markers.get_offsets(), np.stack([SPECTRUM.real, SPECTRUM.imag], axis=1))
    colours = [tuple(c) for c in markers.get_facecolors()]
    assert colours[1] == colours[2]
    assert colours[3] == colours[4]
    assert len({colours[0], colours[1], colours[3]}) == 3
    assert colours[0] == colours[5]
    assert any(list(line.get_xdata()) == [0.0, 0.0] for line in ax.lines)


def test_eigenvalue_markers_grow_with_amplitude(ax):
    plotting.eigenvalues(SPECTRUM, ax=ax, amplitudes=np.arange(6.0))
    assert np.all(np.diff(ax.collections[-1].get_sizes()) > 0)


def test_many_curves_look_different_and_their_names_lie_outside():
    log = [
        {"step": step, **{f"term {place}": 1.0 / (place + step) for place in range(12)}} for step in (1, 2)
    ]
    ax = plotting.loss_history({"log": log})
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}) == 12
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_loss_history_takes_both_histories(ax):
    log = [{"step": 10 * i, "endpoint": 1.0 / i, "learning_rate": 1e-3} for i in (1, 2, 4)]
    plotting.loss_history({"log": log}, ax=ax)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), [10, 20, 40])
    np.testing.assert_allclose(line.get_ydata(), [1.0, 0.5, 0.25])
    assert ax.get_yscale() == "log"
    trained = plotting.loss_history({"loss": [[1, 4.0], [2, 3.0]]})
    np.testing.assert_allclose(trained.lines[0].get_ydata(), [4.0, 3.0])


@pytest.mark.parametrize(
    ("draw", "kind", "message"),
    [
        (lambda: plotting.samples(np.zeros((3, 3))), ShapeError, r"points: expected shape \(N, 2\)"),
        (lambda: plotting.samples(np.zeros((3, 2)), kind="pie"), ArgumentError, "kind: expected"),
        (lambda: plotting.paths(np.zeros((3, 2))), ShapeError, r"student: expected shape \(T, B, 2\)"),
        (lambda: plotting.image_grid(np.zeros((3, 7))), ShapeError, "images: expected square images"),
        (lambda: plotting.image_grid(np.zeros((0, 4))), ArgumentError, "at least one image"),
        (lambda: plotting.eigenvalues([]), ArgumentError, "at least one eigenvalue"),
        (lambda: plotting.eigenvalues([1.0], amplitudes=[1.0, 2.0]), ShapeError, "amplitudes: expected"),
        (lambda: plotting.loss_history({}), ArgumentError, "history: expected"),
        (lambda: plotting.loss_history({"loss": [[1, 1.0]]}, terms=["x"]), ArgumentError, "terms: expected"),
        (lambda: plotting.side_by_side({}), ArgumentError, "sets: expected"),
    ],
)
def test_wrong_arguments_are_named(draw, kind, message):
    with pytest.raises(kind, match=message):
        draw()


@pytest.fixture(scope="module")
def spec(student, gaussian):
    return student.spectrum(gaussian)


@pytest.fixture(scope="module")
def images():
    """A student of 4 x 4 images, its spectrum and some data of two classes."""
    random = np.random.default_rng(3)
    teacher = FlowTeacher.gaussian(random.normal(size=(1, 4, 4)), np.eye(16) * 0.3)
    student = KoopmanDistiller(observables=8, width=16, depth=1, steps=30, trajectories=64)
    student.fit(teacher, progress=False)
    return student, student.spectrum(), student.sample(30), np.arange(30) % 3


SPECTRAL = {
    "spectrum": lambda spec, ax=None: plotting.spectrum(spec, ax=ax),
    "modes": lambda spec, ax=None: plotting.modes(spec, ax=ax),
    "weights": lambda spec, ax=None: plotting.modes(spec, ax=ax, weights=True),
    "mode_energy": lambda spec, ax=None: plotting.mode_energy(spec, ax=ax),
}


@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_pictures_draw_where_they_are_told(name, spec, images, ax, tmp_path):
    assert SPECTRAL[name](spec, ax) is ax
    assert ax.has_data() or ax.texts
    before = plt.get_fignums()
    for selection in (spec, spec[:1], images[1]):
        SPECTRAL[name](selection).figure.savefig(tmp_path / "picture.png")
    assert plt.get_fignums() == before
    with pytest.raises(ArgumentError, match="spectrum"):
        SPECTRAL[name](spec[:0])


def test_modes_of_images_have_their_imaginary_part_on_the_right(images, ax):
    spectrum = images[1]
    plotting.modes(spectrum, ax=ax, columns=3)
    canvas = np.ma.filled(ax.images[0].get_array(), np.nan)
    # 4 x 4 pixels twice, two rows for the caption, a column and a row between pictures.
    captions = [text.get_text() for text in ax.texts if ": " in text.get_text()]
    assert canvas.shape == (1 + 7 * -(-len(captions) // 3), 1 + 10 * 3)
    for index, caption in enumerate(captions):
        mode = spectrum.modes[np.flatnonzero(spectrum.indices == int(caption.split(":")[0]))[0], 0]
        top, left = 1 + index // 3 * 7 + 2, 1 + index % 3 * 10
        largest = np.abs(mode).max()
        np.testing.assert_allclose(canvas[top : top + 4, left : left + 4], mode.real / largest)
        right = canvas[top : top + 4, left + 4 : left + 8]
        if "±" in caption:
            np.testing.assert_allclose(right, mode.imag / largest)
        else:
            assert np.isnan(right).all()


def test_a_spectrum_that_is_not_the_flows_says_so_in_every_picture(spec):
    bad = spec[spec.spurious]
    assert bad.caveat
    for draw in SPECTRAL.values():
        assert bad.caveat in [text.get_text() for text in draw(bad).texts]
        assert bad.caveat not in [text.get_text() for text in draw(spec[~spec.spurious]).texts]


def test_the_spectrums_markers_are_its_eigenvalues_energies_and_residuals(spec, ax):
    plotting.spectrum(spec, ax=ax)
    dots = ax.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), np.column_stack([spec.growth, spec.frequency]))
    np.testing.assert_allclose(dots.get_array(), np.minimum(spec.residuals, 1.0))
    assert np.all(np.diff(dots.get_sizes()) <= 1e-9)


def test_eigenfunctions_are_drawn_over_the_plane(spec, images):
    panels = plotting.eigenfunctions(spec, mode=1, times=[0.0, 1.0], resolution=16)
    psi = spec[1].eigenfunctions(0.0, np.array([[-3.0, -3.0], [3.0, 3.0]]))[:, 0].real
    shown = np.asarray(panels[0].images[0].get_array())
    assert shown[0, 0] / shown[-1, -1] == pytest.approx(psi[0] / psi[1], rel=1e-3)
    with pytest.raises(ShapeError, match="event shape"):
        plotting.eigenfunctions(images[1])


def test_truncation_falls_to_nothing(student, spec, ax):
    plotting.truncation(spec, np.random.default_rng(0).normal(size=(64, 2)).astype("f4"), ax=ax)
    errors = ax.lines[0].get_ydata()
    assert errors[0] == pytest.approx(1.0)
    assert errors[-1] < 1e-4


def test_classes_are_drawn(images, ax, tmp_path):
    _, spectrum, x, labels = images
    signatures = measure_signatures(spectrum, x, labels)
    assert plotting.signatures(signatures, ax=ax) is ax
    assert sorted(tick.get_text() for tick in ax.get_yticklabels()) == ["0", "1", "2"]
    ax.figure.savefig(tmp_path / "signatures.png")
    for method in ("pca", "tsne"):
        panel = plotting.embedding(spectrum, x, labels, method=method)
        assert sum(len(dots.get_offsets()) for dots in panel.collections) == 30
    with pytest.raises(ArgumentError, match="method"):
        plotting.embedding(spectrum, x, labels, method="umap")
    with pytest.raises(ShapeError, match="labels"):
        plotting.embedding(spectrum, x, labels[:3])


def test_strips_and_generators_refuse_what_does_not_fit():
    with pytest.raises(ShapeError, match="sweep"):
        plotting.edit_strip(np.zeros((3, 2)))
    with pytest.raises(ArgumentError, match="strengths"):
        plotting.edit_strip(PATH, strengths=[0.0])
    with pytest.raises(ShapeError, match="one shape"):
        plotting.inversion_strip(np.zeros((3, 64)), np.zeros((3, 64)), np.zeros((2, 64)))
    with pytest.raises(ShapeError, match="matrix"):
        plotting.generator(np.zeros((3, 2)))
    with pytest.raises(ArgumentError, match="finite"):
        plotting.generator([[np.nan]])


@pytest.mark.slow
def test_two_thousand_modes_are_drawn(tmp_path):
    teacher = FlowTeacher.gaussian(np.zeros(2), np.eye(2))
    student = KoopmanDistiller(observables=2000, width=8, depth=1, steps=1, trajectories=32)
    spectrum = student.fit(teacher, progress=False).spectrum()
    assert len(spectrum) == 2000
    for draw in SPECTRAL.values():
        draw(spectrum).figure.savefig(tmp_path / "many.png")
