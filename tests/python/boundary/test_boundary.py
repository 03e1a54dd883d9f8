"""Arrays across the boundary, in both directions."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from koopflow import _core, exceptions

SHAPE = (4, 3)


def field(function, vjp=None, *, event_shape=(2,), **options):
    return _core.VelocityField.callable(function, vjp or function, event_shape=event_shape, **options)


def numbers(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.probe
class TestNumpyIn:
    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
    def test_floats_keep_their_width(self, dtype):
        array = numbers().astype(dtype)
        back = _core._roundtrip(array)
        assert type(back) is np.ndarray
        assert back.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, array)

    @pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4"])
    def test_integers_become_int64(self, dtype):
        array = np.arange(12).reshape(SHAPE).astype(dtype)
        back = _core._roundtrip(array)
        assert back.dtype == np.int64
        np.testing.assert_array_equal(back, array)

    def test_booleans(self):
        array = numbers() > 0
        back = _core._roundtrip(array)
        assert back.dtype == np.bool_
        np.testing.assert_array_equal(back, array)

    def test_extended_precision_becomes_float64(self):
        array = numbers().astype(np.longdouble)
        back = _core._roundtrip(array)
        assert back.dtype == np.float64
        np.testing.assert_array_equal(back, array.astype(np.float64))

    @pytest.mark.parametrize(
        "layout",
        [
            lambda a: a[::-1],
            lambda a: a[:, ::-2],
            lambda a: a.T,
            lambda a: a[::2, 1:],
            np.asfortranarray,
            lambda a: np.broadcast_to(a[0], SHAPE),
            lambda a: a[..., None],
            lambda a: a[:0],
            lambda a: a[0, 0],
        ],
        ids=["reversed", "reversed columns", "transposed", "strided", "column-major", "broadcast"]
        + ["extra dimension", "empty", "scalar"],
    )
    def test_layouts(self, layout):
        array = layout(numbers())
        back = _core._roundtrip(array)
        assert back.shape == array.shape
        np.testing.assert_array_equal(back, array)

    def test_unaligned(self):
        raw = np.zeros(8 * 5 + 1, dtype=np.uint8)
        array = raw[1:].view(np.float64)
        array[:] = np.arange(5)
        assert not array.flags.aligned
        np.testing.assert_array_equal(_core._roundtrip(array), np.arange(5.0))

    def test_read_only(self):
        array = numbers()
        array.flags.writeable = False
        np.testing.assert_array_equal(_core._roundtrip(array), array)

    def test_lists_and_scalars(self):
        np.testing.assert_array_equal(_core._roundtrip([[1, 2], [3, 4]]), [[1, 2], [3, 4]])
        assert _core._roundtrip(0.25).shape == ()
        assert _core._roundtrip([[0.5], (1.5,)]).dtype == np.float64

    def test_is_a_copy_both_ways(self):
        array = numbers()
        kept = array.copy()
        back = _core._roundtrip(array)
        array[:] = 0
        np.testing.assert_array_equal(back, kept)
        back[:] = 7
        assert (array == 0).all()

    @pytest.mark.parametrize(
        "array",
        [
            np.array(["a"]),
            np.array([object()]),
            np.array([1j]),
            np.array([2**64 - 1], dtype=np.uint64),
            np.array(["2026-01-01"], dtype="M8[D]"),
            np.zeros(2, dtype=[("a", "f4")]),
            None,
        ],
        ids=["text", "object", "complex", "large uint64", "date", "record", "None"],
    )
    def test_other_dtypes_are_refused_by_name(self, array):
        with pytest.raises(exceptions.DtypeError, match=r"^array: expected .*, got "):
            _core._roundtrip(array)

    def test_ragged_lists_are_refused_by_name(self):
        with pytest.raises(exceptions.ArgumentError, match=r"^array: expected an array, got list"):
            _core._roundtrip([[1.0], [2.0, 3.0]])


@pytest.mark.probe
class TestTorchIn:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floats_keep_their_width(self, dtype):
        tensor = torch.from_numpy(numbers()).to(dtype)
        back = _core._roundtrip(tensor)
        assert isinstance(back, torch.Tensor)
        assert back.dtype == dtype
        assert torch.equal(back, tensor)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
    def test_integers_become_int64(self, dtype):
        tensor = torch.arange(12, dtype=dtype).reshape(SHAPE)
        back = _core._roundtrip(tensor)
        assert back.dtype == torch.int64
        assert torch.equal(back, tensor.long())

    def test_booleans(self):
        tensor = torch.tensor([True, False])
        assert torch.equal(_core._roundtrip(tensor), tensor)

    @pytest.mark.parametrize(
        "layout",
        [
            lambda a: a.T,
            lambda a: a[::2, 1:],
            lambda a: a[0].expand(SHAPE),
            lambda a: a.flip(0),
            lambda a: a[:0],
            lambda a: a[0, 0],
            lambda a: a.reshape(1, 4, 3, 1).to(memory_format=torch.channels_last),
            lambda a: torch.as_strided(a, (3, 3), (2, 1), 1),
            lambda a: torch.complex(a, a).conj().imag,
            lambda a: torch.nn.Parameter(a),
            lambda a: a.requires_grad_() * 2,
        ],
        ids=["transposed", "strided", "expanded", "flipped", "empty", "scalar", "channels last"]
        + ["overlapping", "negative bit", "parameter", "with a graph"],
    )
    def test_layouts(self, layout):
        tensor = layout(torch.from_numpy(numbers()))
        back = _core._roundtrip(tensor)
        assert back.shape == tensor.shape
        assert not back.requires_grad
        assert torch.equal(back, tensor.detach())

    def test_is_a_copy(self):
        tensor = torch.from_numpy(numbers())
        kept = tensor.clone()
        back = _core._roundtrip(tensor)
        tensor.zero_()
        assert torch.equal(back, kept)

    @pytest.mark.parametrize(
        "tensor",
        [torch.eye(2).to_sparse(), torch.empty(2, device="meta")],
        ids=["sparse", "meta"],
    )
    def test_data_without_strides_is_refused_by_name(self, tensor):
        with pytest.raises(exceptions.ArgumentError, match=r"^array: expected a dense tensor, got "):
            _core._roundtrip(tensor)

    def test_complex_is_refused(self):
        with pytest.raises(exceptions.DtypeError, match="complex64"):
            _core._roundtrip(torch.ones(2, dtype=torch.complex64))

    def test_other_dlpack_producers(self):
        class Foreign:
            """An array of a library that is neither NumPy nor torch."""

            def __init__(self, tensor):
                self.tensor = tensor

            def __dlpack__(self, *, stream=None):
                return self.tensor.__dlpack__()

            def __dlpack_device__(self):
                return self.tensor.__dlpack_device__()

        back = _core._roundtrip(Foreign(torch.arange(3.0)))
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, [0.0, 1.0, 2.0])

    def test_a_lying_dlpack_producer_is_refused(self):
        class Foreign:
            def __dlpack__(self, **options):
                return "no capsule"

            def __dlpack_device__(self):
                return (1, 0)

        with pytest.raises(exceptions.ArgumentError, match="^array: "):
            _core._roundtrip(Foreign())


class TestOut:
    @pytest.mark.probe
    @pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
    def test_results_outlive_everything_else(self, make):
        expected = numbers(shape=(64, 64))[3:5]
        source = make(numbers(shape=(64, 64)))
        back = _core._roundtrip(source)
        part = back[3:5]
        del source, back
        gc.collect()
        churn = [_core._roundtrip(make(numbers(shape=(64, 64)))) for _ in range(20)]
        assert len(churn) == 20
        np.testing.assert_array_equal(np.asarray(part), expected)

    @pytest.mark.probe
    def test_results_can_be_written(self):
        for make in (np.asarray, torch.as_tensor):
            back = _core._roundtrip(make(numbers()))
            back[0] = 5.0
            assert (back[0] == 5.0).all()

    def test_follows_x_not_t(self):
        f = field(lambda t, x, condition: x)
        x = numbers(shape=(4, 2))
        assert isinstance(f.velocity(torch.tensor(0.5), x), np.ndarray)
        assert isinstance(f.velocity(0.5, torch.from_numpy(x)), torch.Tensor)


@pytest.mark.probe
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_fifty_thousand_crossings_hold_memory(make):
    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cross(count):
        array = make(numbers(shape=(64, 16)).astype(np.float32))  # 4 KiB
        for _ in range(count):
            _core._roundtrip(array)

    cross(2_000)
    before = resident()
    cross(50_000)
    # One leaked array a crossing would be 200 MiB.
    assert resident() - before < 8 * 2**20


def test_unused_capsules_and_callables_hold_memory():
    def answer(t, x, condition):
        return x * 2

    f = field(answer)
    x = numbers(shape=(8, 2))
    before = sys.getrefcount(answer)
    for _ in range(1000):
        f.velocity(0.5, x)
    assert sys.getrefcount(answer) == before
    del f
    gc.collect()
    assert sys.getrefcount(answer) < before


@pytest.mark.gpu
class TestCuda:
    @pytest.fixture(autouse=True)
    def need_cuda(self):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")

    @pytest.mark.probe
    def test_roundtrip_stays_on_the_device(self):
        for tensor in (torch.arange(12.0).reshape(SHAPE), torch.ones(3).expand(4, 3), torch.tensor(1)):
            given = tensor.cuda()
            back = _core._roundtrip(given.T)
            assert back.device == given.device
            assert torch.equal(back, given.T)

    def test_outputs_follow_the_input(self):
        f = field(lambda t, x, condition: x * 2, device="cuda")
        x = torch.ones(4, 2)
        assert f.device == "cuda:0"
        assert f.velocity(0.5, x).device == x.device
        assert f.velocity(0.5, x.cuda()).device == torch.device("cuda:0")
        assert isinstance(f.velocity(0.5, x.numpy()), np.ndarray)

    def test_an_answer_on_another_device_is_told(self):
        f = field(lambda t, x, condition: x.cpu(), device="cuda")
        with pytest.raises(exceptions.TeacherError, match=r"a tensor on cpu, given one on cuda:0"):
            f.velocity(0.5, torch.ones(4, 2))


@pytest.mark.probe
@settings(max_examples=150, deadline=None)
@given(
    arrays(
        dtype=st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "i8", "u2", "?"]),
        shape=array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    st.data(),
)
def test_any_layout_of_any_array_crosses_unchanged(array, data):
    """Transposed, reversed and strided views; integers come back as int64, floats as they were."""
    view = array.transpose(data.draw(st.permutations(range(array.ndim))))
    view = view[tuple(slice(None, None, data.draw(st.sampled_from([1, -1, 2]))) for _ in view.shape)]
    back = _core._roundtrip(view)
    np.testing.assert_array_equal(back, view)
    assert back.dtype.kind == view.dtype.kind or (view.dtype.kind == "u" and back.dtype == np.int64)
    assert back.dtype.isnative
