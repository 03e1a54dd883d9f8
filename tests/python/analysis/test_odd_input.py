"""Whatever metrics, spectra and analyses are given: a finite answer, or an error that names the argument."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koopflow import FlowTeacher, KoopmanDistiller, Trajectories, analysis, metrics
from koopflow.exceptions import DivergenceError, KoopflowError, NonFiniteError

from ..conftest import COV, MEAN

BASE = np.random.default_rng(0).normal(size=(12, 2))
LABELS = np.arange(12) % 2


class OwnTensor(torch.Tensor):
    pass


def with_one(value):
    array = BASE.copy()
    array[3] = value
    return array


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# Each is made anew: generators run dry.
ARRAYS = {
    "float64": lambda: BASE,
    "constant": lambda: np.ones((12, 2)),
    "zeros": lambda: np.zeros((12, 2)),
    "huge": lambda: BASE * 1e20,
    "vast": lambda: BASE * 1e200,
    "tiny": lambda: BASE * 1e-30,
    "NaN": lambda: with_one(np.nan),
    "infinite": lambda: with_one(np.inf),
    "no rows": lambda: BASE[:0],
    "one row": lambda: BASE[:1],
    "two rows": lambda: BASE[:2],
    "three rows": lambda: BASE[:3],
    "other events": lambda: np.ones((12, 3)),
    "wide": lambda: np.random.default_rng(1).normal(size=(12, 40)),
    "images": lambda: BASE.reshape(12, 1, 1, 2),
    "vector": lambda: BASE[:, 0],
    "labels": lambda: LABELS,
    "labels as a column": lambda: LABELS[:, None],
    "one label": lambda: LABELS * 0,
    "text labels": lambda: np.where(LABELS > 0, "cat", "dog"),
    "scalar": lambda: np.float64(0.5),
    "float32": lambda: BASE.astype("f4"),
    "float16": lambda: BASE.astype("f2"),
    "int64": lambda: (3 * BASE).astype("i8"),
    "bytes": lambda: np.abs(30 * BASE).astype("u1"),
    "bool": lambda: BASE > 0,
    "big-endian": lambda: BASE.astype(">f4"),
    "longdouble": lambda: BASE.astype(np.longdouble),
    "complex": lambda: BASE.astype(complex),
    "object": lambda: BASE.astype(object),
    "text": lambda: BASE.astype("U4"),
    "dates": lambda: BASE.astype("i8").astype("M8[s]"),
    "Fortran": lambda: np.asfortranarray(BASE),
    "reversed": lambda: BASE[::-1, ::-1],
    "strided": lambda: np.repeat(BASE, 2, axis=0)[::2],
    "read-only": lambda: read_only(BASE),
    "masked": lambda: np.ma.masked_array(BASE, mask=BASE > 1),
    "list": lambda: BASE.tolist(),
    "tuple": lambda: tuple(map(tuple, BASE)),
    "list of tensors": lambda: list(torch.tensor(BASE)),
    "ragged": lambda: [[1.0, 2.0], [3.0]],
    "nothing": lambda: [],
    "generator": lambda: (row for row in BASE),
    "mapping": lambda: {"x": BASE},
    "sparse matrix": lambda: scipy.sparse.csr_matrix(BASE),
    "torch": lambda: torch.tensor(BASE),
    "bfloat16": lambda: torch.tensor(BASE).bfloat16(),
    "half": lambda: torch.tensor(BASE).half(),
    "torch int": lambda: torch.tensor(BASE).long(),
    "torch bool": lambda: torch.tensor(BASE) > 0,
    "torch complex": lambda: torch.tensor(BASE).to(torch.complex64),
    "with gradient": lambda: torch.tensor(BASE).requires_grad_(),
    "parameter": lambda: torch.nn.Parameter(torch.tensor(BASE).float()),
    "own tensor": lambda: torch.tensor(BASE).float().as_subclass(OwnTensor),
    "transposed": lambda: torch.tensor(BASE).float().t().contiguous().t(),
    "expanded": lambda: torch.ones(1, 2).expand(12, 2),
    "sparse": lambda: torch.tensor(BASE).to_sparse(),
    "meta": lambda: torch.zeros(12, 2, device="meta"),
    "None": lambda: None,
    "word": lambda: "energy",
    "number": lambda: 3,
}
OPTIONS = {
    repr(value): lambda value=value: value
    for value in (
        *(0, 1, -1, 2, 5, 0.5, 2.5, -0.0, 1e-320, 1e300, 2**63, 10**20, 10**400, 1j, True),
        *(np.int64(2), np.int32(3), np.float32(0.5), np.float64(0.9), np.bool_(True), np.array(2)),
        *(torch.tensor(2), torch.tensor(0.5), torch.tensor([0.2, 0.7]), float("nan"), float("inf")),
        *([0.2, 0.7], [0.7, 0.2], (0.0, 1.0), [0, 0.5, 1], np.array([0.25, 0.5]), [], [[0.5]], [None], ["a"]),
        *([np.nan], slice(None), slice(2), b"2", "3", {}, SimpleNamespace()),
    )
}


@pytest.fixture(scope="module")
def model():
    teacher = FlowTeacher.gaussian(MEAN, COV)
    options = {"observables": 6, "width": 16, "depth": 1, "steps": 30, "trajectories": Trajectories(256)}
    student = KoopmanDistiller(**options).fit(teacher, progress=False)
    spectrum = student.spectrum(teacher)
    return SimpleNamespace(
        teacher=teacher,
        student=student,
        spectrum=spectrum,
        directions=analysis.find_directions(spectrum, BASE, labels=LABELS),
        signatures=analysis.measure_signatures(spectrum, BASE, LABELS),
    )


def ends(x):
    return x.double().flatten(1)


FEW = {"resamples": 3}
SETS = {
    "wasserstein2": metrics.wasserstein2,
    "sliced_wasserstein": metrics.sliced_wasserstein,
    "energy_distance": metrics.energy_distance,
    "mmd": metrics.mmd,
    "frechet_distance": metrics.frechet_distance,
    "precision_recall": metrics.precision_recall,
    "measured": lambda a, b: metrics.measured(metrics.energy_distance, a, b, **FEW),
}
OF_SETS = {
    f"{name}, {side}": call
    for name, distance in SETS.items()
    for side, call in {
        "first": lambda m, v, distance=distance: distance(v, 2.0 * BASE),
        "second": lambda m, v, distance=distance: distance(2.0 * BASE, v),
        "both": lambda m, v, distance=distance: distance(v, v),
    }.items()
}
OF_ARRAYS = {
    "median_bandwidths": lambda m, v: metrics.median_bandwidths(v),
    "extract_features": lambda m, v: metrics.extract_features(v, ends),
    "extract_features of a module": lambda m, v: metrics.extract_features(v, torch.nn.Flatten()),
    "endpoint_error": lambda m, v: metrics.endpoint_error(m.student, m.teacher, v, **FEW),
    "path_error": lambda m, v: metrics.path_error(m.student, m.teacher, v, times=[0.3, 0.6], **FEW),
    "inversion_error": lambda m, v: metrics.inversion_error(m.student, m.teacher, v, **FEW),
    "round_trip_error": lambda m, v: metrics.round_trip_error(m.student, v, **FEW),
    "straightness": lambda m, v: metrics.straightness(m.student, v, times=[0, 0.5, 1], **FEW),
    "log_likelihood": lambda m, v: metrics.log_likelihood(m.teacher, v),
    "eigenfunctions": lambda m, v: m.spectrum.eigenfunctions(0.5, v),
    "amplitudes": lambda m, v: m.spectrum.amplitudes(v),
    "contributions": lambda m, v: m.spectrum.contributions(v),
    "base": lambda m, v: m.spectrum.base(v),
    "sample_path": lambda m, v: m.spectrum.sample_path(v, times=[0.5, 1.0]),
    "states_at": lambda m, v: m.spectrum.states_at(v, 0.5),
    "bands": lambda m, v: m.spectrum.bands(v, edges=[1.0, 9.0]),
    "truncation_curve": lambda m, v: m.spectrum.truncation_curve(v, counts=[0, 2, 6]),
    "find_directions": lambda m, v: analysis.find_directions(m.spectrum, v, labels=LABELS),
    "labels of directions": lambda m, v: analysis.find_directions(m.spectrum, BASE, labels=v),
    "scores": lambda m, v: analysis.find_directions(m.spectrum, BASE, scores=v),
    "edit": lambda m, v: m.directions.edit(v, 1, 0.5),
    "edit of noise": lambda m, v: m.directions.edit(x0=v, name=0),
    "strength of each": lambda m, v: m.directions.edit(BASE, 1, v),
    "sweep": lambda m, v: m.directions.sweep(v, 1, [0.0, 1.0]),
    "measure_signatures": lambda m, v: analysis.measure_signatures(m.spectrum, v, LABELS),
    "labels of signatures": lambda m, v: analysis.measure_signatures(m.spectrum, BASE, v),
    "classify": lambda m, v: m.signatures.classify(v),
    "accuracy": lambda m, v: m.signatures.accuracy(v, LABELS),
    "labels of accuracy": lambda m, v: m.signatures.accuracy(BASE, v),
    "time of each": lambda m, v: m.spectrum.eigenfunctions(v, BASE),
    "condition": lambda m, v: m.spectrum.eigenfunctions(0.0, BASE, condition=v),
}
SIZES = {
    "projections": lambda m, v: metrics.sliced_wasserstein(BASE, 2 * BASE, projections=v),
    "resamples": lambda m, v: metrics.measured(metrics.energy_distance, BASE, BASE, resamples=v),
    "resamples of errors": lambda m, v: metrics.endpoint_error(m.student, m.teacher, BASE, resamples=v),
    "n": lambda m, v: m.student.spectrum(n=v),
    "permutations": lambda m, v: analysis.permutation_test(m.signatures, v),
    "n of a comparison": lambda m, v: analysis.compare_spectra(m.spectrum, m.spectrum, n=v),
}
OF_OPTIONS = {
    "seed of sliced_wasserstein": lambda m, v: metrics.sliced_wasserstein(BASE, 2 * BASE, seed=v),
    "k": lambda m, v: metrics.precision_recall(BASE, 2 * BASE, k=v),
    "batch_size": lambda m, v: metrics.extract_features(BASE, ends, batch_size=v),
    "features": lambda m, v: metrics.extract_features(BASE.astype("f4"), v),
    "features of frechet_distance": lambda m, v: metrics.frechet_distance(BASE, BASE, v),
    "bandwidths": lambda m, v: metrics.mmd(BASE, 2 * BASE, bandwidths=v),
    "confidence": lambda m, v: metrics.measured(metrics.energy_distance, BASE, BASE, confidence=v, **FEW),
    "seed": lambda m, v: metrics.measured(metrics.energy_distance, BASE, BASE, seed=v, **FEW),
    "metric": lambda m, v: metrics.measured(v, BASE, BASE, **FEW),
    "confidence of errors": lambda m, v: metrics.inversion_error(
        m.student, m.teacher, BASE, confidence=v, **FEW
    ),
    "seed of errors": lambda m, v: metrics.round_trip_error(m.student, BASE, seed=v, **FEW),
    "scale": lambda m, v: metrics.endpoint_error(m.student, m.teacher, BASE, scale=v, **FEW),
    "times of path_error": lambda m, v: metrics.path_error(m.student, m.teacher, BASE, times=v, **FEW),
    "times of straightness": lambda m, v: metrics.straightness(m.teacher, BASE, times=v, **FEW),
    "model": lambda m, v: metrics.straightness(v, BASE),
    "student": lambda m, v: metrics.endpoint_error(v, m.teacher, BASE),
    "t": lambda m, v: m.spectrum.eigenfunctions(v, BASE),
    "t of contributions": lambda m, v: m.spectrum.contributions(BASE, t=v),
    "t of base": lambda m, v: m.spectrum.base(BASE, t=v),
    "t of states": lambda m, v: m.spectrum.states_at(BASE, v),
    "times": lambda m, v: m.spectrum.sample_path(BASE, times=v),
    "times of energies": lambda m, v: m.spectrum.energy_over_time(v),
    "edges": lambda m, v: m.spectrum.bands(BASE, edges=v),
    "times of bands": lambda m, v: m.spectrum.bands(BASE, edges=[1.0], times=v),
    "counts": lambda m, v: m.spectrum.truncation_curve(BASE, counts=v),
    "count": lambda m, v: m.spectrum.select(count=v),
    "energy": lambda m, v: m.spectrum.select(energy=v),
    "frequency": lambda m, v: m.spectrum.select(frequency=v),
    "growth": lambda m, v: m.spectrum.select(growth=v),
    "residual": lambda m, v: m.spectrum.select(residual=v),
    "modes": lambda m, v: m.spectrum[v],
    "rows": lambda m, v: m.spectrum.summary(v),
    "seed of a spectrum": lambda m, v: m.student.spectrum(seed=v),
    "sort": lambda m, v: m.student.spectrum(sort=v),
    "condition": lambda m, v: m.student.spectrum(condition=v),
    "at": lambda m, v: analysis.find_directions(m.spectrum, BASE, labels=LABELS, at=v),
    "spectrum": lambda m, v: analysis.find_directions(v, BASE, labels=LABELS),
    "spectrum of signatures": lambda m, v: analysis.measure_signatures(v, BASE, LABELS),
    "name": lambda m, v: m.directions.edit(BASE, v),
    "name of an image": lambda m, v: m.directions.image(v),
    "strength": lambda m, v: m.directions.edit(BASE, 1, v),
    "strengths": lambda m, v: m.directions.sweep(BASE, 1, v),
    "seed of permutations": lambda m, v: analysis.permutation_test(m.signatures, 3, seed=v),
    "signatures": lambda m, v: analysis.permutation_test(v, 3),
    "times of signatures": lambda m, v: analysis.measure_signatures(m.spectrum, BASE, LABELS, times=v),
    "seed of a comparison": lambda m, v: analysis.compare_spectra(m.spectrum, m.spectrum, seed=v),
    "other": lambda m, v: analysis.compare_spectra(m.spectrum, v),
}


def finite(found) -> bool:
    """Whether all numbers of an answer are; fields of result objects too, and what they hold of arrays."""
    if found is None or isinstance(found, str | KoopmanDistiller) or hasattr(found, "places"):
        return True
    if isinstance(found, torch.Tensor):
        return found.device.type != "meta" and bool(torch.isfinite(found).all())
    if isinstance(found, list | tuple | dict):
        return all(map(finite, found.values() if isinstance(found, dict) else found))
    if hasattr(found, "__dataclass_fields__"):
        return all(map(finite, vars(found).values()))
    array = np.asarray(found)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def check(call, model, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = call(model, value)
        except KoopflowError as error:
            named = ": " in str(error) or str(error).startswith("expected one of")
            assert named or isinstance(error, DivergenceError)  # noqa: PT017
        except TypeError as error:
            # What is no model or spectrum at all.
            assert ": expected a " in str(error)  # noqa: PT017
        except (FileNotFoundError, IndexError) as error:
            assert str(error).startswith(("features: ", "modes: "))  # noqa: PT017
        else:
            assert finite(found), found


@settings(max_examples=400, deadline=None, derandomize=True)
@given(call=st.sampled_from(sorted(OF_ARRAYS | OF_SETS)), value=st.sampled_from(sorted(ARRAYS)))
def test_odd_arrays_have_a_finite_answer_or_a_named_error(model, call, value):
    check((OF_ARRAYS | OF_SETS)[call], model, ARRAYS[value]())


@settings(max_examples=400, deadline=None, derandomize=True)
@given(call=st.sampled_from(sorted(OF_OPTIONS | SIZES)), value=st.sampled_from(sorted(OPTIONS)))
def test_odd_options_have_a_finite_answer_or_a_named_error(model, call, value):
    value = OPTIONS[value]()
    if call in SIZES and isinstance(value, int) and 10**6 < value < 2**63:
        return
    check((OF_OPTIONS | SIZES)[call], model, value)


def test_directions_do_not_depend_on_the_unit_of_scores(model):
    near = analysis.find_directions(model.spectrum, BASE, scores=BASE[:, 0])
    far = analysis.find_directions(model.spectrum, BASE, scores=1e200 * BASE[:, 0])
    np.testing.assert_allclose(far.r2, near.r2)
    np.testing.assert_allclose(1e200 * far.shifts, near.shifts)
    with pytest.raises(NonFiniteError, match="scores: expected larger numbers"):
        analysis.find_directions(model.spectrum, BASE, scores=1e-310 * BASE[:, 0])
