"""Pictures of forecasts show the numbers that they are about."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from koopflow import KoopmanForecaster, plotting
from koopflow.exceptions import ArgumentError, DtypeError, ShapeError
from koopflow.forecasting import ForecastReport, SequenceSpectrum, SmoothedPaths

TIMES = np.linspace(0.1, 2.0, 20)
MEMBERS = np.random.default_rng(0).normal(size=(16, 20, 2))


@pytest.fixture(scope="module")
def fitted():
    """A forecaster of turning points, their paths and times."""
    random, times = np.random.default_rng(0), 0.1 * np.arange(60)
    phases = random.uniform(0.0, 6.0, 8)[:, None]
    paths = np.stack([np.cos(times + phases), np.sin(times + phases)], axis=2)
    paths += 0.05 * random.normal(size=paths.shape)
    model = KoopmanForecaster(observables=40).fit(paths[:6], times, progress=False)
    return model, paths, times


def line(ax, label):
    return next(line for line in ax.lines if line.get_label() == label).get_xydata()


def words(ax):
    return " | ".join(text.get_text() for text in ax.texts)


def edges(band):
    """Lower and upper ends of a band, by time."""
    points = band.get_paths()[0].vertices
    return [
        np.array([end(points[points[:, 0] == t, 1]) for t in np.unique(points[:, 0])])
        for end in (np.min, np.max)
    ]


def test_the_fan_is_the_mean_and_the_intervals_of_the_members():
    truth = np.stack([np.sin(TIMES), np.cos(TIMES)], axis=1)
    before, earlier = np.ones((5, 2)), np.linspace(-0.4, 0.0, 5)
    ax = plotting.forecast_fan(
        TIMES,
        members=MEMBERS,
        truth=truth,
        history=before,
        history_times=earlier,
        coordinate=1,
        level=0.8,
        title="fan",
    )
    np.testing.assert_allclose(
        line(ax, "mean of the members"), np.stack([TIMES, MEMBERS.mean(0)[:, 1]], axis=1)
    )
    np.testing.assert_allclose(line(ax, "came"), np.stack([TIMES, truth[:, 1]], axis=1))
    np.testing.assert_allclose(line(ax, "seen"), np.stack([earlier, before[:, 1]], axis=1))
    assert [band.get_label() for band in ax.collections] == ["80% of 16 members", "50%"]
    for band, share in zip(ax.collections, (0.8, 0.5), strict=True):
        expected = np.quantile(MEMBERS[..., 1], [(1 - share) / 2, (1 + share) / 2], axis=0)
        np.testing.assert_allclose(edges(band), expected)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("time", "coordinate 1", "fan")
    assert {text.get_text() for text in ax.get_legend().get_texts()} >= {"seen", "came", "50%"}


def test_a_fan_without_members_is_a_line_in_the_order_of_time():
    order = np.random.default_rng(1).permutation(20)
    ax = plotting.forecast_fan(torch.from_numpy(TIMES[order]), torch.from_numpy(np.sin(TIMES[order])))
    np.testing.assert_allclose(line(ax, "forecast"), np.stack([TIMES, np.sin(TIMES)], axis=1))
    assert not ax.collections
    assert ax.get_ylabel() == "value"
    # One member has no intervals.
    assert not plotting.forecast_fan(TIMES, members=MEMBERS[:1]).collections
    own = plotting.forecast_fan(TIMES, np.sin(TIMES), members=MEMBERS[..., 0])
    np.testing.assert_allclose(line(own, "forecast")[:, 1], np.sin(TIMES))


def test_what_was_seen_before_ends_a_step_before_the_forecast():
    ax = plotting.forecast_fan(TIMES, np.sin(TIMES), history=[1.0, np.nan, 2.0])
    np.testing.assert_allclose(line(ax, "seen")[:, 0], [-0.2, -0.1, 0.0], atol=1e-12)
    # Rows between gaps are dots.
    assert ax.lines[0].get_marker() == "."


def test_a_forecast_that_is_not_finite_says_so():
    lost = np.sin(TIMES)
    lost[12:] = np.inf
    ax = plotting.forecast_fan(TIMES, lost, members=np.stack([lost, lost]))
    assert f"not finite from time {TIMES[12]:g} on" in words(ax)
    assert np.isfinite(line(ax, "forecast")[:, 1]).sum() == 12
    assert np.isfinite(ax.get_ylim()).all()


def test_what_is_believed_and_what_was_seen(fitted):
    model, paths, times = fitted
    seen = np.where(np.arange(60)[None, :, None] % 3 == 0, paths, np.nan)
    found = model.smooth(seen, times)
    truth = paths.swapaxes(0, 1)
    ax = plotting.smoothed(
        found, observations=seen, truth=truth, path=7, coordinate=1, level=0.95, title="path 7"
    )
    np.testing.assert_allclose(line(ax, "mean")[:, 1], found.mean[:, 7, 1])
    np.testing.assert_allclose(line(ax, "truth"), np.stack([times, truth[:, 7, 1]], axis=1))
    wide, narrow, dots = ax.collections
    assert [band.get_label() for band in (wide, narrow, dots)] == ["95%", "50%", "seen"]
    np.testing.assert_allclose(edges(wide), [end[:, 7, 1] for end in found.interval(0.95)])
    np.testing.assert_allclose(edges(narrow), [end[:, 7, 1] for end in found.interval(0.5)])
    shown = np.ma.filled(dots.get_offsets().astype(float), np.nan)
    np.testing.assert_allclose(shown[:, 1], seen[7, :, 1])
    assert ax.get_title(loc="left") == "path 7"


def test_observations_at_times_of_their_own(fitted):
    model, paths, times = fitted
    found = model.smooth(paths[:, ::4], times[::4], at=times)
    ax = plotting.smoothed(found, observations=paths[:, ::4], observed_times=times[::4])
    np.testing.assert_allclose(ax.collections[2].get_offsets(), np.stack([times, paths[0, :, 0]], 1)[::4])
    with pytest.raises(ShapeError, match=r"observations: expected \(8, 60, 2\), got \(8, 15, 2\)"):
        plotting.smoothed(found, observations=paths[:, ::4])
    with pytest.raises(ShapeError, match=r"observed_times: expected \(15,\), got \(60,\)"):
        plotting.smoothed(found, observations=paths[:, ::4], observed_times=times)


def test_errors_by_lead_time_of_everything_that_was_measured(fitted):
    model, paths, times = fitted
    report = model.evaluate(paths[6:], times, ahead=12)
    ax = plotting.forecast_errors(report, title="turning")
    for name, errors in report.nrmse.items():
        np.testing.assert_allclose(line(ax, name), np.stack([report.lead_times, errors], axis=1))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(report.nrmse)
    assert f"{report.starts} starts" in ax.get_xlabel()
    assert f"skill {report.skill:.2f}" in ax.get_xlabel()
    assert f"90% intervals hold {report.coverage.mean():.0%}" in ax.get_xlabel()
    until = np.median(report.valid_time["model"])
    assert f"{until:.3g}" in words(ax)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[until, 0.4]])


def test_errors_that_run_away_do_not_hide_the_others():
    leads, flat = np.arange(1.0, 5.0), np.ones(4)
    errors = {"model": np.array([0.1, 1.0, 1e6, np.inf]), "persistence": 1.5 * flat, "climatology": flat}
    valid = dict.fromkeys(errors, flat)
    ax = plotting.forecast_errors(ForecastReport(leads, errors, valid, None, None, 9))
    assert 1.5 < ax.get_ylim()[1] < 3.0
    assert "intervals" not in ax.get_xlabel()


def test_eigenvalues_in_view_are_drawn_and_others_counted(fitted):
    model, paths, times = fitted
    spectrum = model.spectrum(paths[6:], times)
    ax = plotting.sequence_eigenvalues(spectrum, title="turning")
    dots = next(found for found in ax.collections if len(found.get_offsets()) > 1)
    shown = np.asarray(dots.get_offsets()) @ [1.0, 1.0j]
    assert f"{len(spectrum) - len(shown)} of {len(spectrum)} further out" in words(ax)
    left, right = ax.get_xlim()
    assert left < 0.0 < right
    # All of the energy's weight is in view, in the order of the spectrum.
    heavy = spectrum.eigenvalues[spectrum.energy >= 0.01 * spectrum.energy.max()]
    assert np.isin(heavy, shown).all()
    kept = np.isin(spectrum.eigenvalues, shown)
    np.testing.assert_allclose(dots.get_array(), np.minimum(spectrum.residuals[kept], 1.0))
    largest = int(np.argmax(spectrum.energy * (spectrum.frequency >= 0)))
    assert f"{largest}: period {spectrum.period[largest]:.3g}" in words(ax)
    assert ("only" in words(ax)) == spectrum.verdict.startswith("only")
    assert any(line.get_xdata()[0] == 0.0 for line in ax.lines)


def made_up(fitted, values, **columns):
    """A spectrum with eigenvalues of one's own."""
    tables = {"eigenvalues": np.asarray(values), "condition_numbers": np.ones(len(values)), **columns}
    return SequenceSpectrum(fitted[0].spectrum().core, tables)


def test_null_eigenvalues_are_out_of_view(fitted):
    values = np.array([-0.1 + 1j, -0.1 - 1j, -np.inf, -1e300, 50.0, complex(-np.inf, 31.4)])
    energy = np.array([1.0, 1.0, 0.0, 0.0, 0.0, np.nan])
    columns = {"energy": energy, "residuals": np.array([0.01, 0.01, 1.0, 1.0, 1.0, np.nan])}
    ax = plotting.sequence_eigenvalues(made_up(fitted, values, **columns))
    assert "4 of 6 further out, 1 of them growing" in words(ax)
    assert -1.0 < ax.get_xlim()[0] < -0.1
    # Without paths: what outlives a third of a step.
    ax = plotting.sequence_eigenvalues(made_up(fitted, values[:4]))
    assert "2 of 4 further out" in words(ax)
    # Whatever the unit of time.
    slow = plotting.sequence_eigenvalues(made_up(fitted, 1e-7 * values[:2]))
    assert abs(slow.get_ylim()[1]) < 2e-7
    with pytest.raises(ArgumentError, match="spectrum: expected at least one finite eigenvalue"):
        plotting.sequence_eigenvalues(made_up(fitted, values[2:3]))
    with pytest.raises(ArgumentError, match="spectrum: expected at least one mode"):
        plotting.sequence_eigenvalues(made_up(fitted, values)[:0])


def test_wrong_arguments_are_named(fitted):
    model, paths, times = fitted
    found = model.smooth(paths, times)
    fan, smoothed = plotting.forecast_fan, plotting.smoothed
    mean = MEMBERS.mean(0)
    for draw, error, said in (
        (lambda: fan(TIMES), ArgumentError, "mean, members: expected at least one of them"),
        (lambda: fan("soon", mean), ArgumentError, "times: expected a sequence"),
        (lambda: fan(TIMES[:9], mean), ShapeError, r"mean: expected \(9, \*event\), got \(20, 2\)"),
        (lambda: fan(TIMES, members=mean), ShapeError, r"members: expected \(M, 20, \*event\)"),
        (
            lambda: fan(TIMES, mean, members=MEMBERS[..., :1]),
            ShapeError,
            r"members: expected \(M, 20, 2\), got \(16, 20, 1\)",
        ),
        (lambda: fan(TIMES, mean, truth=mean[:3]), ShapeError, r"truth: expected \(20, 2\), got \(3, 2\)"),
        (lambda: fan(TIMES, mean, history=mean[:, 0]), ShapeError, r"history: expected \(H, 2\)"),
        (
            lambda: fan(TIMES, mean, history=mean, history_times=TIMES[:3]),
            ShapeError,
            r"history_times: expected \(20,\)",
        ),
        (lambda: fan(TIMES, mean, history_times=TIMES), ArgumentError, "history_times: expected history="),
        (
            lambda: fan(TIMES, mean, coordinate=2),
            ArgumentError,
            "coordinate: expected an integer from 0 to 1",
        ),
        (lambda: fan(TIMES, mean, level=1.0), ArgumentError, r"level: expected a share in \(0, 1\), got 1.0"),
        (lambda: fan(TIMES, np.full((20, 2), "x")), DtypeError, "mean: expected"),
        (lambda: smoothed(found.mean), TypeError, "found: expected SmoothedPaths, got ndarray"),
        (lambda: smoothed(found, path=8), ArgumentError, "path: expected an integer from 0 to 7"),
        (lambda: smoothed(found, truth=paths), ShapeError, r"truth: expected \(60, 8, 2\), got \(8, 60, 2\)"),
        (
            lambda: smoothed(found, observed_times=times),
            ArgumentError,
            "observed_times: expected observations=",
        ),
        (lambda: plotting.forecast_errors({}), TypeError, "report: expected ForecastReport, got dict"),
        (lambda: plotting.sequence_eigenvalues(model), TypeError, "spectrum: expected SequenceSpectrum"),
    ):
        with pytest.raises(error, match=said):
            draw()


def test_they_draw_on_the_axes_that_they_are_given_and_leave_no_figure(fitted):
    model, paths, times = fitted
    before = plt.get_fignums()
    found: SmoothedPaths = model.smooth(paths, times)
    for draw in (
        lambda **ax: plotting.forecast_fan(TIMES, members=MEMBERS, **ax),
        lambda **ax: plotting.smoothed(found, **ax),
        lambda **ax: plotting.forecast_errors(model.evaluate(paths, times, ahead=3), **ax),
        lambda **ax: plotting.sequence_eigenvalues(model.spectrum(), **ax),
    ):
        ax = Figure().add_subplot()
        assert draw(ax=ax) is ax
        assert draw().figure is not ax.figure
    assert plt.get_fignums() == before
