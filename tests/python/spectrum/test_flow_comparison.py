"""Two flows side by side, and what several share: against spans, correlations and shuffles in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from koopflow import FlowSpectrum
from koopflow.analysis import consensus, flow_spectrum
from koopflow.exceptions import ArgumentError, ShapeError

from .reference import TIMES, Known, cosine, known, trapezium

RATES = (0.6, -1.5 + 3.0j, -1.5 - 3.0j)


def read(flow: Known, **options) -> FlowSpectrum:
    return flow_spectrum(flow.paths, times=flow.times, **options)


def rebuilt(flow: Known, modes: np.ndarray, amplitudes: np.ndarray) -> Known:
    """The same flow with other modes and amplitudes."""
    nonlinear = np.einsum("nk,ktd->tnd", flow.amplitudes, flow.modes)
    paths = flow.paths - nonlinear + np.einsum("nk,ktd->tnd", amplitudes, modes)
    return replace(flow, paths=paths, modes=modes, amplitudes=amplitudes)


def span(spec: FlowSpectrum, places: np.ndarray) -> np.ndarray:
    """V_k at all times, ``[K, T, d]``."""
    return np.stack([spec[places].modes_at(t).reshape(len(places), -1) for t in TIMES], axis=1)


def canonical(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared correlation between amplitudes ``[n, K]``, over the larger number."""
    a, b = (part - part.mean(axis=0) for part in (a, b))
    products = (a / np.linalg.norm(a, axis=0)).T @ (b / np.linalg.norm(b, axis=0))
    return float((products**2).sum() / max(products.shape))


@pytest.fixture(scope="module")
def flow() -> Known:
    return known((0.5, 0.2, 0.05), d=6)


@pytest.fixture(scope="module")
def spec(flow) -> FlowSpectrum:
    return read(flow)


def test_a_flow_is_found_again_in_itself(spec):
    compared = spec.compare(spec)
    np.testing.assert_allclose(compared.rates, spec.rates)
    np.testing.assert_allclose(compared.others, spec.rates)
    np.testing.assert_allclose(compared.distance, 0.0, atol=1e-12)
    for first, second, group in zip(compared.first, compared.second, spec.groups, strict=True):
        np.testing.assert_array_equal(first, group)
        np.testing.assert_array_equal(second, group)
    np.testing.assert_allclose(compared.cosine, 1.0, atol=1e-9)
    np.testing.assert_allclose(compared.amplitude, 1.0, atol=1e-9)
    np.testing.assert_allclose(compared.chance, 1.0 / (6 * 3))
    np.testing.assert_allclose(compared.p, 1.0 / 200.0)
    np.testing.assert_allclose(np.abs(compared.cosines), np.eye(3), atol=1e-9)
    assert np.all(np.diag(compared.correlations) == pytest.approx(1.0))
    assert compared.found.all()
    assert compared.found_energy == pytest.approx(1.0)
    assert compared.energy.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(compared.energy, spec.energy / spec.energy.sum())
    assert "3 of 3 groups are found again, 100.0% of the energy" in compared.summary()
    assert "100.0%" in repr(compared)


def test_a_flow_is_found_again_from_other_noise(spec):
    other = read(known((0.5, 0.2, 0.05), d=6, seed=7))
    compared = spec.compare(other)
    # The modes of the paths are the flow's own, the noise is not.
    assert compared.found.all()
    assert compared.cosine.min() > 0.98
    for optional in (compared.amplitude, compared.shuffled, compared.p, compared.correlations):
        assert optional is None
    assert "p" not in compared.summary(1).splitlines()[2].split()


def test_cosines_are_those_between_spans(flow, spec):
    mixed = 0.8 * flow.modes + 0.6 * known((1.0, 1.0, 1.0), d=6, flow=9).modes
    other = read(rebuilt(flow, mixed, flow.amplitudes))
    compared = spec.compare(other)
    for first, second, seen in zip(compared.first, compared.second, compared.cosine, strict=True):
        if len(second):
            assert seen == pytest.approx(cosine(span(spec, first), span(other, second), TIMES), abs=1e-6)
    each = span(spec, np.arange(3)), span(other, np.arange(len(other)))
    for a in range(3):
        for b in range(len(other)):
            pair = cosine(each[0][a : a + 1], each[1][b : b + 1], TIMES)
            assert compared.cosines[a, b] ** 2 == pytest.approx(pair, abs=1e-6)


def test_both_directions_agree(flow, spec):
    other = read(rebuilt(flow, known((1.0, 1.0, 1.0), d=6, flow=0).modes[::-1], flow.amplitudes))
    there, back = spec.compare(other), other.compare(spec)
    np.testing.assert_allclose(there.cosines, back.cosines.T, atol=1e-9)
    np.testing.assert_allclose(there.correlations, back.correlations.T, atol=1e-9)


def test_independent_modes_are_at_chance():
    """Random directions in six dimensions and three functions of time: 1/18 of the square each."""
    specs = [read(known((0.5, 0.2, 0.05), d=6, n=100, flow=flow)) for flow in range(8)]
    squares, found = [], 0
    for place, one in enumerate(specs):
        for two in specs[place + 1 :]:
            compared = one.compare(two, permutations=19)
            squares.append(np.mean(compared.cosines**2))
            found += int(compared.found.sum())
            np.testing.assert_allclose(
                compared.chance[[len(group) > 0 for group in compared.second]] * 18, 1.0
            )
    assert np.mean(squares) == pytest.approx(1.0 / 18.0, rel=0.3)
    assert found == 0


def test_amplitudes_of_other_samples_are_not_found(flow, spec):
    """The same modes driven by other functions of the noise."""
    order = np.random.default_rng(3).permutation(len(flow.amplitudes))
    other = read(rebuilt(flow, flow.modes, flow.amplitudes[order]))
    compared = spec.compare(other)
    assert compared.cosine.min() > 0.9
    assert compared.amplitude.max() < 0.05
    assert compared.p.min() > 0.05
    assert not compared.found.any()
    assert compared.found_energy == 0.0
    # The square of a correlation between n independent pairs is 1 / (n - 1) on average.
    np.testing.assert_allclose(compared.shuffled * (len(order) - 1), 1.0, atol=0.4)


def test_amplitudes_are_compared_as_correlations(flow, spec):
    noisy = flow.amplitudes + np.random.default_rng(4).normal(size=flow.amplitudes.shape) * 0.3
    other = read(rebuilt(flow, flow.modes, noisy))
    compared = spec.compare(other)
    own, theirs = (part.core.array("amplitudes") for part in (spec, other))
    expected = np.corrcoef(own.T, theirs.T)[: len(spec), len(spec) :]
    np.testing.assert_allclose(compared.correlations, expected, atol=1e-9)
    for first, second, seen in zip(compared.first, compared.second, compared.amplitude, strict=True):
        if len(second):
            assert seen == pytest.approx(canonical(own[:, first], theirs[:, second]), abs=1e-9)
    assert compared.p[0] == pytest.approx(1.0 / 200.0)


def test_modes_that_are_rotated_within_a_group_are_found_as_one():
    flow = known((0.31, 0.30, 0.29), d=6)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    energies = np.sqrt([0.31, 0.30, 0.29])
    modes = np.einsum("kl,ltd->ktd", turn, flow.modes)
    one, two = read(flow), read(rebuilt(flow, modes, (flow.amplitudes / energies) @ turn.T * energies))
    compared = one.compare(two)
    assert len(compared.first) == 1
    assert compared.cosine[0] > 0.99
    assert compared.amplitude[0] > 0.95
    assert compared.p[0] == pytest.approx(1.0 / 200.0)
    # Mode by mode nothing much is the same.
    assert np.abs(compared.cosines).max() < 0.95


def test_a_group_that_only_overlaps_in_part_counts_the_larger(flow, spec):
    """Two modes whose energies are apart in one flow and equal in the other are read together."""
    scaled = flow.amplitudes / flow.amplitudes.std(axis=0) * np.sqrt([0.3, 0.3, 0.05])
    other = read(rebuilt(flow, flow.modes, scaled))
    assert [len(group) for group in other.groups] == [2, 1]
    for compared in (spec.compare(other), other.compare(spec)):
        assert [len(group) for group in compared.first] == [2, 1]
        assert [len(group) for group in compared.second] == [2, 1]
        assert compared.cosine.min() > 0.99
        assert compared.found.all()


def test_rates_are_matched_one_to_one(spec):
    moved = (0.63, -1.5 + 3.3j, -1.5 - 3.3j)
    compared = spec.compare(read(known((0.5, 0.2, 0.05), d=6, rates=moved)))
    np.testing.assert_allclose(compared.others, moved, rtol=1e-4)
    np.testing.assert_allclose(
        compared.distance, np.abs(np.subtract(moved, RATES)) / np.abs(RATES), rtol=1e-3
    )
    fewer = spec.compare(read(known((0.5, 0.2), d=6, rates=(0.6, -2.0))))
    assert len(fewer.rates) == len(fewer.others) == 2
    assert isinstance(fewer.summary(), str)


def test_a_comparison_is_determined_by_its_seed(flow, spec):
    noisy = flow.amplitudes + np.random.default_rng(6).normal(size=flow.amplitudes.shape) * 3.0
    other = read(rebuilt(flow, flow.modes, noisy))
    one, two = (spec.compare(other, permutations=49, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.p, two.p)
    np.testing.assert_array_equal(one.shuffled, two.shuffled)
    other_seed = spec.compare(other, permutations=49, seed=4)
    assert not np.array_equal(one.shuffled, other_seed.shuffled)
    np.testing.assert_array_equal(one.amplitude, other_seed.amplitude)


def test_a_selection_is_compared_as_a_whole(spec):
    compared = spec[1:2].compare(spec[:0], permutations=19)
    assert [group.tolist() for group in compared.first] == [[0], [1], [2]]


@pytest.mark.parametrize("permutations", [0, 9])
def test_few_shuffles_cannot_hide_what_is_found(spec, permutations):
    """With nine of them no p is below 0.1, however alike two flows are."""
    assert spec.compare(spec, permutations=permutations).found.all()


def test_paths_at_other_times_are_compared_over_the_same_span():
    fine = read(known((0.5, 0.2), d=4, times=np.linspace(0.0, 1.0, 65)))
    coarse = read(known((0.5, 0.2), d=4, times=np.linspace(0.0, 1.0, 17) ** 1.5))
    for compared in (fine.compare(coarse), coarse.compare(fine)):
        assert compared.found.all()
        assert np.abs(compared.cosines).max() < 1.0 + 1e-6
    with pytest.raises(ArgumentError, match=r"other: expected paths up to time 1"):
        fine.compare(read(known((0.5, 0.2), d=4, times=0.5 * TIMES)))


def test_what_cannot_be_compared_is_refused(spec):
    with pytest.raises(ShapeError, match="other"):
        spec.compare(read(known((0.5,), d=5)))
    with pytest.raises(TypeError, match="other: expected a FlowSpectrum, got NoneType"):
        spec.compare(None)
    for permutations in (-1, 1.5, "many"):
        with pytest.raises(ArgumentError, match="permutations"):
            spec.compare(spec, permutations=permutations)
    with pytest.raises(ArgumentError, match="seed"):
        spec.compare(spec, seed=-1)


# Consensus.


def sharing(own: int, d: int = 6) -> Known:
    """Two modes that all such flows share, and a third of each one's own."""
    flow = known((0.5, 0.2, 0.02), d=d)
    modes = flow.modes.copy()
    fresh = known((1.0,), d=d, flow=50 + own).modes[0]
    root = np.sqrt(trapezium(TIMES))[:, None]
    basis = np.linalg.qr((modes[:2] * root).reshape(2, -1).T)[0]
    flat = (fresh * root).ravel()
    flat = flat - basis @ (basis.T @ flat)
    modes[2] = (flat / np.linalg.norm(flat)).reshape(fresh.shape) / root
    return rebuilt(flow, modes, flow.amplitudes)


def test_a_consensus_holds_the_modes_that_all_share():
    specs = [read(sharing(own)) for own in range(3)]
    shared = consensus(specs)
    assert shared.spectrum.places.tolist() == [0, 1]
    assert shared.energy == pytest.approx(0.7 / 0.72, rel=0.02)
    assert len(shared.comparisons) == 2
    np.testing.assert_allclose(shared.rates, RATES, rtol=1e-4)
    assert shared.spread.max() < 1e-4
    np.testing.assert_allclose(shared.affine, [spec.affine for spec in specs])
    assert "2 modes are shared by 3 flows" in shared.summary()
    assert "2 modes" in repr(shared)


def test_a_consensus_of_strangers_is_empty():
    shared = consensus([read(known((0.5, 0.2), d=8, flow=flow)) for flow in (1, 2)])
    assert len(shared.spectrum) == 0
    assert shared.energy == 0.0
    assert "0 modes are shared" in shared.summary()


def test_a_consensus_says_how_far_rates_are_apart():
    moved = (0.66, -1.5 + 3.0j, -1.5 - 3.0j)
    shared = consensus([read(known((0.5, 0.2), d=4, rates=rates)) for rates in (RATES, moved)])
    np.testing.assert_allclose(shared.spread, [0.1, 0.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(shared.rates, np.mean([RATES, moved], axis=0), rtol=1e-3)
    assert "within 10.0%" in shared.summary()


def test_flows_that_are_nearly_straight_agree_on_rate_zero():
    """Rates of 1e-4 and -1e-4 move samples alike to 1e-4, which is no difference of 200%."""
    specs = []
    for bend in (1e-4, -1e-4):
        x0 = np.random.default_rng(0).normal(size=(100, 2))
        moved = np.expm1(bend * TIMES) / bend
        specs.append(flow_spectrum(x0 + moved[:, None, None] * np.tanh(2.0 * x0), times=TIMES))
    assert max(np.abs(spec.rates).max() for spec in specs) < 2e-4
    assert specs[0].compare(specs[1]).distance.max() < 0.05
    assert consensus(specs).spread.max() < 0.05


def test_a_consensus_needs_two_spectra(spec):
    for wrong in ([], [spec], [spec, "another"]):
        with pytest.raises(ArgumentError, match="spectra: expected two or more of FlowSpectrum"):
            consensus(wrong)
    with pytest.raises(ShapeError, match="other"):
        consensus([spec, read(known((0.5,), d=5))])
