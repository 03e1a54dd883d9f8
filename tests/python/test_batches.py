"""Data as people have them, and what is refused by name."""

from collections import deque

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from koopflow import FlowTeacher, KoopmanDistiller, _batches, metrics
from koopflow._batches import as_batch, as_condition
from koopflow.baselines import ConsistencyFlow
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
        deque(ROWS),
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


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ([[1.0, 2.0], [3.0]], ShapeError, "rows of different lengths"),
        (np.ma.masked_array(LABELS, LABELS > 1), DtypeError, r"got a masked array: \.filled"),
        (Sparse(), DtypeError, r"got a sparse Sparse: \.toarray\(\)"),
        (list("abc"), DtypeError, "got an array of <U1"),
        (LABELS.astype(object), DtypeError, r"Python objects: .*\.astype"),
        ({"label": 1}, DtypeError, "got a dict with 'label'"),
    ],
)
def test_what_is_no_condition_is_named(given, kind, message):
    with pytest.raises(kind, match=f"condition: .*{message}"):
        fitted(ROWS, num_classes=3, condition=given)
    with pytest.raises(kind, match=f"condition: .*{message}"):
        FlowTeacher.gaussian([0.0], [[1.0]]).sample(2, condition=given)


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
    expected = r"condition: expected int64 labels of shape \(48,\) from 0 to 2, got none"
    with pytest.raises(ArgumentError, match=expected):
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
        fitted(Plain(*batches), num_classes=3)


def test_data_sets_need_a_length():
    class Endless(Dataset):
        def __getitem__(self, index):
            return ROWS[index % 48]

    with pytest.raises(ArgumentError, match="data: expected a data set with a length"):
        fitted(Endless())


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


# --- more than fits into memory -------------------------------------------------------------------


class Counted:
    """``n`` batches of 64 samples at +-1 around ``centre(k)``, and how often the k-th was asked for."""

    def __init__(self, n, centre, labels=None):
        self.n, self.centre, self.labels, self.asked = n, centre, labels, []

    def __iter__(self):
        for k in range(self.n):
            self.asked.append(k)
            x = self.centre(k) + np.random.default_rng(k).uniform(-1, 1, (64, 2)).astype(np.float32)
            yield x if self.labels is None else (x, np.full(64, self.labels[k]))


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(_batches, "MOST_ROWS", 128)


def test_streams_are_read_in_portions_again_and_again(small_memory):
    batches = Counted(6, lambda k: k)
    teacher = fitted(batches, steps=30, batch_size=16)
    # Portions of two batches make 8 steps each: four of them, and the batch after each is looked at.
    assert batches.asked == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    np.testing.assert_array_equal(teacher.training_data_.data, np.concatenate(list(Counted(2, lambda k: k))))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_every_portion_is_learnt_from(small_memory, offset):
    # The first portion lies in [-2, 0] alone: only the second tells of [0, 2].
    batches = Counted(4, lambda k: offset + (-1.0 if k < 2 else 1.0))
    teacher = fitted(batches, width=64, depth=2, steps=600, batch_size=64, seed=0)
    drawn = teacher.sample(400, seed=1)[:, 0] - offset
    assert abs(drawn).max() < 4
    assert 0.3 < (drawn > 0).mean() < 0.7
    whole = fitted(np.concatenate(list(batches)), width=64, depth=2, steps=600, batch_size=64, seed=0)
    assert abs((whole.sample(400, seed=1)[:, 0] > offset).mean() - (drawn > 0).mean()) < 0.2


def test_labels_stay_with_their_portions(small_memory):
    labels = [0, 0, 1, 1]
    batches = Counted(4, lambda k: 8.0 * labels[k] - 4.0, labels)
    teacher = fitted(batches, num_classes=2, width=64, depth=2, steps=600, batch_size=64)
    assert teacher.history_["classes"] == [0, 1]
    for label in (0, 1):
        drawn = teacher.sample(200, condition=np.full(200, label))
        assert abs(drawn.mean() - (8 * label - 4)) < 1.5


def test_large_files_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(_batches, "BATCH", 8)
    monkeypatch.setattr(_batches, "MOST_ROWS", 16)
    monkeypatch.setattr("koopflow.teachers.teacher.MOST_BYTES", 100)
    np.save(tmp_path / "rows.npy", ROWS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    known = fitted(mapped, num_classes=3, condition=LABELS.tolist(), batch_size=4, steps=20).training_data_
    with pytest.raises(ShapeError, match="condition: expected a row for each of 48 samples, got 5"):
        fitted(mapped, num_classes=3, condition=LABELS[:5])
    assert known.data.shape == (16, 2)
    order = [int(np.flatnonzero((row == ROWS).all(axis=1))[0]) for row in known.data]
    assert len(set(order)) == 16
    np.testing.assert_array_equal(known.condition, LABELS[order])


def test_what_ends_a_stream_is_said(small_memory, tmp_path):
    with pytest.raises(ArgumentError, match="data: expected batches that can be read again.*generator"):
        fitted(batch for batch in [ROWS, ROWS, ROWS, ROWS])
    with pytest.raises(ArgumentError, match="resume: expected None for data that are streamed"):
        FlowTeacher((2,)).fit(Counted(4, float), resume=tmp_path / "some.safetensors", progress=False)

    class Broken(Counted):
        def __iter__(self):
            yield from super().__iter__()
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fitted(Broken(4, float), steps=30, batch_size=16)
    shapes = [ROWS, ROWS, ROWS, ROWS[:, :1]]
    with pytest.raises(ShapeError, match=r"data: expected .*got"):
        fitted(Plain(*shapes), steps=30, batch_size=16)
    with pytest.raises(NonFiniteError, match="data"):
        fitted(Plain(ROWS, ROWS, ROWS, np.full_like(ROWS, np.nan)), steps=60, batch_size=16)
    labels = Counted(4, float, [0, 0, 2, 2])
    with pytest.raises(ArgumentError, match="condition: .*from 0 to 1"):
        fitted(labels, num_classes=2, steps=30, batch_size=16)


def test_students_take_a_sample_of_a_stream_with_its_labels():
    weights = {"consistency": 1.0, "endpoint": 0.0}
    options = {"observables": 8, "width": 16, "depth": 1, "steps": 5, "trajectories": 64}
    teacher = fitted(ROWS, num_classes=3, condition=LABELS)
    student = KoopmanDistiller(objective={"weights": weights}, **options)
    given = student.fit(teacher, data=Plain((ROWS, LABELS)), progress=False).sample(
        6, condition=np.arange(6) % 3
    )
    known = student.fit(teacher, progress=False).sample(6, condition=np.arange(6) % 3)
    np.testing.assert_array_equal(given, known)
    baseline = ConsistencyFlow(steps=5, width=8, depth=1)
    given = baseline.fit(teacher, data=Plain((ROWS, LABELS)), progress=False).sample(3, condition=[0, 1, 2])
    np.testing.assert_array_equal(given, baseline.fit(teacher, progress=False).sample(3, condition=[0, 1, 2]))
