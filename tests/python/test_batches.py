"""Data as people have them, and what is refused by name."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from koopflow import FlowTeacher, _batches, metrics
from koopflow._batches import as_batch, as_condition
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(48, 2)).astype(np.float32)
LABELS = np.arange(48) % 3


def fitted(data, **options):
    condition = options.pop("condition", None)
    options = {"width": 8, "depth": 1, "steps": 4, **options}
    return FlowTeacher((2,), **options).fit(data, condition=condition, progress=False)


def losses(teacher):
    return teacher.history_["loss"]


@pytest.mark.parametrize(
    "given",
    [
        ROWS.tolist(),
        list(ROWS),
        list(torch.tensor(ROWS)),
        tuple(map(tuple, ROWS.tolist())),
        np.asfortranarray(ROWS),
        np.repeat(ROWS, 2, axis=0)[::2],
        ROWS[::-1][::-1],
        ROWS.astype(">f4"),
        torch.tensor(ROWS),
        torch.tensor(ROWS.T.copy()).T,
        torch.tensor(ROWS, requires_grad=True),
        torch.tensor(ROWS).double(),
    ],
)
def test_arrays_of_any_kind(given):
    np.testing.assert_array_equal(fitted(given).sample(5), fitted(ROWS).sample(5))
    assert metrics.wasserstein2(given, ROWS) == pytest.approx(0.0, abs=1e-6)


def test_half_precision_is_read_as_numbers():
    half = torch.tensor(ROWS).bfloat16()
    np.testing.assert_allclose(_batches.to_numpy(half), ROWS, rtol=1e-2)
    assert np.isfinite(metrics.energy_distance(half, ROWS))


def test_frames_are_their_numbers():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    table = pandas.DataFrame(ROWS.astype(np.float64), columns=["a", "b"])
    mixed = {"a": [1.5, 2.0], "b": [True, False], "c": [3, 4]}
    for frame in (table, table.convert_dtypes(), polars.DataFrame(ROWS.astype(np.float64))):
        np.testing.assert_array_equal(as_batch(frame), ROWS)
        np.testing.assert_array_equal(fitted(frame).sample(5), fitted(ROWS).sample(5))
    for frame in (pandas.DataFrame(mixed), pandas.DataFrame(mixed).convert_dtypes(), polars.DataFrame(mixed)):
        np.testing.assert_array_equal(as_batch(frame), [[1.5, 1, 3], [2, 0, 4]])
    for column in (pandas.Series(LABELS, index=range(5, 53)), polars.Series(LABELS)):
        same = fitted(ROWS, num_classes=3, condition=column)
        assert losses(same) == losses(fitted(ROWS, num_classes=3, condition=LABELS))


def test_missing_values_and_text_of_frames_are_named():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    holes = {"a": [1, None], "b": [2.5, 1.0]}
    for frame in (pandas.DataFrame(holes).convert_dtypes(), polars.DataFrame(holes)):
        np.testing.assert_array_equal(np.isnan(as_batch(frame)), [[False, False], [True, False]])
        with pytest.raises(NonFiniteError, match="data"):
            fitted(frame)
    words = {"a": [1.0, 2.0], "b": ["x", "y"]}
    for frame in (pandas.DataFrame(words), polars.DataFrame(words)):
        with pytest.raises(DtypeError, match="data: expected numbers, got column 'b' of .*codes"):
            fitted(frame)
    for column in (
        pandas.Series(list("ab")),
        pandas.Series(pandas.Categorical(list("ab"))),
        polars.Series(["a"]),
    ):
        with pytest.raises(
            DtypeError, match="condition: expected numbers, got a column of .*: integer codes"
        ):
            as_condition(column)


class Sparse:
    """What SciPy's sparse matrices look like."""

    shape = (2, 2)

    def toarray(self):
        raise AssertionError("nobody asked")


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (np.ma.masked_array(ROWS, ROWS > 0), DtypeError, r"got a masked array: \.filled\(value\)"),
        (Sparse(), DtypeError, r"got a sparse Sparse: \.toarray\(\)"),
        (torch.eye(2).to_sparse(), DtypeError, r"got a sparse tensor: \.to_dense\(\)"),
        ([[1.0, 2.0], [3.0]], ShapeError, "rows of different lengths"),
        (
            np.array([[1.0, 2.0], [3.0, None]], dtype=object),
            DtypeError,
            r"Python objects: .*\.astype\(float\)",
        ),
        ([[1.0, None]], DtypeError, "got list of object"),
        (np.array(["a"]), DtypeError, "got an array of <U1"),
        ([["1.0", "2.0"]], DtypeError, "got list of <U3"),
        (np.array(["2020-01-01"], "M8[D]"), DtypeError, r"got an array of datetime64"),
        ({"x": ROWS}, DtypeError, "got a dict with 'x': one of its arrays"),
        ("moons", DtypeError, r"got 'moons': koopflow.datasets.images\(path\)"),
        (b"moons", DtypeError, "got b'moons'"),
        (object(), DtypeError, "got object"),
    ],
)
def test_what_is_no_array_is_named_and_so_is_what_would_do(given, kind, message):
    for call in (lambda: fitted(given), lambda: as_batch(given, "data")):
        with pytest.raises(kind, match=f"data: expected .*{message}"):
            call()
    with pytest.raises(kind, match=message):
        metrics.energy_distance(given, ROWS)


class Plain:
    """Batches that can be asked for as often as one likes."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Samples(IterableDataset):
    def __iter__(self):
        return iter(torch.tensor(ROWS))


class Pairs(Dataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return ROWS[index], int(LABELS[index])


@pytest.mark.parametrize(
    "batches",
    [
        lambda: DataLoader(TensorDataset(torch.tensor(ROWS)), 7),
        lambda: DataLoader(torch.tensor(ROWS), 7),
        lambda: DataLoader(Pairs(), 7),
        lambda: Samples(),
        lambda: Plain(ROWS[:20], ROWS[20:]),
        lambda: Plain(torch.tensor(ROWS[:20]), ROWS[20:]),
        lambda: [ROWS[:20], ROWS[20:]],
        lambda: [(ROWS[:24], LABELS[:24]), (ROWS[24:], LABELS[24:])],
        lambda: (part for part in (ROWS[:1], ROWS[1:])),
    ],
)
def test_batches_are_the_array_that_they_make_up(batches):
    teacher = fitted(batches())
    np.testing.assert_array_equal(teacher.sample(5), fitted(ROWS).sample(5))
    np.testing.assert_array_equal(teacher.training_data_.data, ROWS)


def test_data_sets_are_shuffled_with_their_labels():
    for data in (Pairs(), TensorDataset(torch.tensor(ROWS), torch.tensor(LABELS))):
        known = fitted(data, num_classes=3).training_data_
        order = [int(np.flatnonzero((row == ROWS).all(axis=1))[0]) for row in np.asarray(known.data)]
        assert sorted(order) == list(range(48)) != order
        np.testing.assert_array_equal(known.condition, LABELS[order])
        assert fitted(data).training_data_.condition is None


def test_labels_of_batches_are_conditions():
    whole = fitted(ROWS, num_classes=3, condition=LABELS)
    assert losses(fitted(DataLoader(Pairs(), 7), num_classes=3)) == losses(whole)
    with pytest.raises(ArgumentError, match=r"condition: expected int64 labels \(48,\) in 0..3, got none"):
        fitted(Plain(ROWS), num_classes=3)
    with pytest.raises(ArgumentError, match="condition: expected None with batches of data"):
        fitted(Plain(ROWS), num_classes=3, condition=LABELS)


@pytest.mark.parametrize(
    ("batches", "kind", "message"),
    [
        ([], ArgumentError, "expected batches of samples, got none"),
        ([{"image": ROWS}], DtypeError, "batches x or .*, got a mapping of 'image'"),
        ([(ROWS, LABELS, LABELS)], ArgumentError, "got 3 parts"),
        ([(ROWS, LABELS[:5])], ShapeError, "expected 48 conditions with 48 samples, got 5"),
        ([(ROWS, LABELS), ROWS], ArgumentError, "conditions with all batches or with none"),
        ([ROWS, ROWS[:, :1]], ShapeError, r"batches of one event shape, got \[\(1,\), \(2,\)\]"),
        ([ROWS[:, 0]], ShapeError, r"arrays \(B, \*event\) as batches, got \(48,\)"),
        ([ROWS[:, :1]], ShapeError, r"expected shape \(N, 2\), got \(48, 1\)"),
        (["abc"], DtypeError, "got 'abc'"),
    ],
)
def test_wrong_batches_are_named(batches, kind, message):
    with pytest.raises(kind, match=f"data: .*{message}"):
        fitted(Plain(*batches))


def test_what_does_not_fit_into_memory_is_sampled_and_said(monkeypatch):
    monkeypatch.setattr(_batches, "MOST_ROWS", 20)
    drawn = []

    class Endless:
        def __iter__(self):
            while True:
                drawn.append(8)
                yield ROWS[:8]

    with pytest.warns(UserWarning, match="the first 24 samples of the stream"):
        assert metrics.wasserstein2(Endless(), np.tile(ROWS[:8], (3, 1))) == pytest.approx(0.0, abs=1e-6)
    assert len(drawn) == 4
