"""The boundary: what crosses it, in both directions, and what must not."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import koopflow
from koopflow import _core, exceptions

SHAPE = (4, 3)


def field(function, vjp=None, *, event_shape=(2,), **options):
    return _core.VelocityField.callable(function, vjp or function, event_shape=event_shape, **options)


def numbers(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def run_python(code, timeout=60):
    """Run code in a fresh interpreter; a hang fails the test by its time limit."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and its forked children
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


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


CLASSES = {
    "shape": (exceptions.ShapeError, ValueError),
    "dtype": (exceptions.DtypeError, TypeError, ValueError),
    "device": (exceptions.DeviceError, ValueError),
    "non-finite": (exceptions.NonFiniteError, ValueError),
    "argument": (exceptions.ArgumentError, ValueError),
    "teacher": (exceptions.TeacherError, ValueError),
    "checkpoint": (exceptions.CheckpointError, ValueError),
    "not fitted": (exceptions.NotFittedError, ValueError, AttributeError),
    "divergence": (exceptions.DivergenceError, RuntimeError),
    "internal": (exceptions.KoopflowError,),
    "torch": (exceptions.KoopflowError,),
}


@pytest.mark.gpu
class TestCuda:
    @pytest.fixture(autouse=True)
    def need_cuda(self):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")

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


class TestErrors:
    @pytest.mark.parametrize("what", CLASSES)
    def test_every_error_has_its_class(self, what):
        exact, *bases = CLASSES[what]
        with pytest.raises(exceptions.KoopflowError) as caught:
            _core._fail(what)
        assert type(caught.value) is exact
        for base in bases:
            assert isinstance(caught.value, base)
        assert "\n" not in str(caught.value)

    def test_internal_errors_tell_the_whole_chain(self):
        with pytest.raises(exceptions.KoopflowError, match="outer: inner"):
            _core._fail("internal")

    def test_missing_files(self):
        with pytest.raises(FileNotFoundError) as caught:
            _core._fail("no file")
        assert caught.value.filename == "some/path"
        assert caught.value.errno == 2
        with pytest.raises(PermissionError, match="Permission denied: 'some/path'"):
            _core._fail("no permission")
        with pytest.raises(FileNotFoundError, match="some/path: nothing there"):
            _core._fail("missing")

    @pytest.mark.parametrize("name", exceptions.__all__)
    def test_exceptions_are_documented_and_pickle(self, name):
        made = getattr(exceptions, name)("x: expected 1, got 2")
        back = pickle.loads(pickle.dumps(made))
        assert type(back) is type(made)
        assert back.args == made.args
        assert isinstance(made, exceptions.KoopflowError)
        assert type(made).__doc__

    @pytest.mark.parametrize("what", ["panic", "panic in a worker", "panic in torch"])
    def test_panics_become_koopflow_errors_and_print_nothing(self, what):
        done = run_python(
            f"""
            import torch
            from koopflow import _core, exceptions
            try:
                _core._fail({what!r})
            except exceptions.KoopflowError as error:
                print(error)
            assert torch.is_grad_enabled()
            """
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        expected = "mat1 and mat2|size mismatch|shapes" if what == "panic in torch" else "a deliberate panic"
        assert re.match(rf"internal error: .*({expected}).* \(at .*\.rs:\d+:\d+\)\n$", done.stdout), (
            done.stdout
        )

    def test_bad_options_are_named(self):
        def function(t, x, condition):
            return x

        with pytest.raises(exceptions.ArgumentError, match="^event_shape: "):
            field(function, event_shape=())
        with pytest.raises(exceptions.ArgumentError, match="^event_shape: "):
            field(function, event_shape=(2, 0))
        with pytest.raises(exceptions.DeviceError, match="^device: .*'quantum'|^device: .*\"quantum\""):
            field(function, device="quantum")
        with pytest.raises(exceptions.DtypeError, match="^dtype: "):
            field(function, dtype="float8")
        with pytest.raises(exceptions.ArgumentError, match="^conditioning: "):
            field(function, conditioning="{")
        f = field(function)
        with pytest.raises(exceptions.ShapeError, match=r"^x: expected shape \(B, 2\), got \(4, 3\)$"):
            f.velocity(0.5, numbers())
        with pytest.raises(exceptions.ShapeError, match="^t: "):
            f.velocity([0.5, 0.5], numbers(shape=(4, 2)))
        with pytest.raises(exceptions.NonFiniteError, match="^x: "):
            f.velocity(0.5, np.full((4, 2), np.nan))
        with pytest.raises(exceptions.ArgumentError, match="^x: .*empty"):
            f.velocity(0.5, np.zeros((0, 2)))
        with pytest.raises(exceptions.ArgumentError, match="^condition: "):
            f.velocity(0.5, numbers(shape=(4, 2)), [0, 1, 2, 3])


class TestCallable:
    def test_arguments_and_result(self):
        seen = []

        def function(t, x, condition):
            seen.append((t, x, condition))
            return x * t[:, None] + condition[:, None]

        f = field(function, conditioning='{"labels": {"classes": 4}}', dtype="float64", label="mine")
        x, labels = numbers(shape=(4, 2)), np.arange(4, dtype=np.int32)
        v = f.velocity([0.0, 0.25, 0.5, 1.0], x, labels)
        np.testing.assert_allclose(v, x * [[0.0], [0.25], [0.5], [1.0]] + labels[:, None], rtol=1e-15)
        t, given, condition = seen[0]
        assert (t.shape, given.shape, condition.shape) == ((4,), (4, 2), (4,))
        assert (t.dtype, given.dtype, condition.dtype) == (torch.float64, torch.float64, torch.int64)
        assert (f.evaluations, f.kind, f.device, f.dtype) == (1, "torch", "cpu", "float64")
        assert f.event_shape == (2,)
        assert f.conditioning == '{"labels":{"classes":4}}'
        assert "event_shape=(2,)" in repr(f)

    def test_integers_are_taken_as_floats(self):
        f = field(lambda t, x, condition: x)
        v = f.velocity(0, np.arange(8, dtype=np.uint8).reshape(4, 2))
        assert v.dtype == np.float32
        np.testing.assert_array_equal(v, np.arange(8).reshape(4, 2))

    def test_answers_are_cast_to_the_dtype(self):
        f = field(lambda t, x, condition: x.double())
        assert f.velocity(0.5, numbers(shape=(4, 2))).dtype == np.float32

    def test_writing_to_the_arguments_harms_nobody(self):
        x = torch.ones(4, 2)
        field(lambda t, x, condition: x.mul_(0)).velocity(0.5, x)
        assert (x == 1).all()

    def test_a_network_leaves_no_graph(self):
        network = torch.nn.Linear(2, 2)
        v = field(lambda t, x, condition: network(x)).velocity(0.5, torch.ones(4, 2))
        assert not v.requires_grad
        assert torch.equal(v, network(torch.ones(4, 2)).detach())
        assert torch.is_grad_enabled()

    def test_modes_of_the_caller_come_back(self):
        f = field(lambda t, x, condition: x @ torch.eye(2))
        x = torch.full((4, 2), 1 + 2.0**-12)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            v = f.velocity(0.5, x)
            assert torch.is_autocast_enabled("cpu")
            assert not torch.is_grad_enabled()
        assert torch.equal(v, x)

    def test_inference_mode_of_the_caller_is_set_aside(self):
        inside = []

        def function(t, x, condition):
            inside.append(torch.is_inference_mode_enabled())
            return x

        with torch.inference_mode():
            field(function).velocity(0.5, torch.ones(4, 2))
            assert torch.is_inference_mode_enabled()
        assert inside == [False]

    def test_the_users_exception_is_the_cause(self):
        raised = KeyError("no such layer")

        def function(t, x, condition):
            raise raised

        with pytest.raises(
            exceptions.TeacherError, match=r"^teacher 'mine': velocity raised KeyError"
        ) as caught:
            field(function, label="mine").velocity(0.5, numbers(shape=(4, 2)))
        assert caught.value.__cause__ is raised
        assert raised.__traceback__.tb_frame.f_code is function.__code__ or raised.__traceback__.tb_next

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
    def test_stops_pass_through_unchanged(self, stop):
        raised = stop("enough")

        def function(t, x, condition):
            raise raised

        with pytest.raises(stop) as caught:
            field(function).velocity(0.5, numbers(shape=(4, 2)))
        assert caught.value is raised

    @pytest.mark.parametrize(
        ("answer", "got"),
        [
            (lambda x: x[:, :1], r"a tensor of shape \(4, 1\)"),
            (lambda x: x[0], r"a tensor of shape \(2,\)"),
            (lambda x: x * float("nan"), "8 NaN and 0 infinite values among 8"),
            (lambda x: x / 0, "infinite values among 8"),
            (lambda x: x.long(), "a tensor of dtype int64"),
            (lambda x: torch.complex(x, x), "a tensor that cannot be used .*complex64"),
            (lambda x: x.to_sparse(), "a tensor that cannot be used"),
            (lambda x: x.numpy(), r"numpy\.ndarray"),
            (lambda x: None, "NoneType"),
            (lambda x: (x, x), "tuple"),
        ],
        ids=["wide", "flat", "nan", "inf", "integer", "complex", "sparse", "numpy", "None", "tuple"],
    )
    def test_wrong_answers_are_told(self, answer, got):
        f = field(lambda t, x, condition: answer(x), label="mine")
        expected = rf"^teacher 'mine': velocity returned .*{got}.*; expected .* \(4, 2\)$"
        with pytest.raises(exceptions.TeacherError, match=expected):
            f.velocity(0.5, numbers(shape=(4, 2)) + 3)

    def test_reentrant(self):
        inner = field(lambda t, x, condition: x + 1)
        outer = field(lambda t, x, condition: inner.velocity(t, x) * 2)
        np.testing.assert_allclose(outer.velocity(0.5, np.zeros((4, 2))), 2.0)

    def test_threads(self):
        f = field(lambda t, x, condition: x * 2)
        results = {}

        def work(index):
            for _ in range(50):
                results[index] = f.velocity(0.5, np.full((16, 2), float(index)))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index, v in results.items():
            np.testing.assert_array_equal(v, 2.0 * index)
        assert f.evaluations == 200


class TestAnalytic:
    def test_gaussian_and_empirical_fields_cross(self):
        mean, cov = np.array([1.0, -1.0]), np.eye(2)
        f = _core.VelocityField.gaussian(mean, cov, event_shape=(2,), dtype="float64")
        # x_t = (1 - t) z + t (mean + z') has variance (1 - t)^2 + t^2, so at t = 0 v = mean - x.
        x = numbers(shape=(5, 2))
        np.testing.assert_allclose(f.velocity(0.0, x), mean - x, rtol=1e-12)
        data = np.array([[2.0, 3.0]])
        g = _core.VelocityField.empirical(data.tolist(), dtype="float64")
        np.testing.assert_allclose(g.velocity(0.5, x), (data - x) / 0.5, rtol=1e-12)
        assert (f.kind, g.kind) == ("gaussian", "empirical")

    def test_bad_data_is_named(self):
        with pytest.raises(exceptions.ShapeError, match="^data: "):
            _core.VelocityField.empirical(np.zeros(3))
        with pytest.raises(exceptions.NonFiniteError, match="^data"):
            _core.VelocityField.empirical(np.full((3, 2), np.inf))
        with pytest.raises(exceptions.KoopflowError, match="^cov"):
            _core.VelocityField.gaussian(np.zeros(2), np.zeros((3, 3)), event_shape=(2,))


class TestDoor:
    def test_monitor_is_told(self):
        events = []
        _core._watch(0.1, events.append)
        assert events
        first = events[0]
        assert set(first) == {"stage", "step", "total", "seconds", "values"}
        assert (first["stage"], first["step"], first["total"]) == ("student", 10, 1000)
        assert first["values"] == {"loss": 0.5}
        assert first["seconds"] > 0

    def test_monitor_exceptions_come_back_unchanged(self):
        raised = LookupError("stop here")

        def monitor(event):
            raise raised

        with pytest.raises(LookupError) as caught:
            _core._watch(30.0, monitor)
        assert caught.value is raised

    def test_ctrl_c_stops_long_work_that_lets_the_interpreter_go(self):
        # A process started in the background ignores Ctrl-C, and this may be one.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            # The timer's thread can only run while the door holds no interpreter lock.
            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                _core._watch(30.0)
            timer.join()
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_forked_child_can_use_the_library():
    done = run_python(
        """
        import os, warnings
        import numpy as np, torch
        from koopflow import _core

        warnings.simplefilter("ignore")  # Python 3.12 warns of forking with threads, as libtorch has them
        f = _core.VelocityField.callable(
            lambda t, x, c: x @ torch.full((256, 256), 0.5), lambda *a: None, event_shape=(256,)
        )
        x = np.ones((2000, 256), dtype=np.float32)
        assert f.velocity(0.5, x)[0, 0] == 128.0  # libtorch's threads exist now
        try:
            _core._fail("panic in a worker")  # and so does koopflow's pool
        except Exception:
            pass
        child = os.fork()
        if child == 0:
            ok = f.velocity(0.5, x)[0, 0] == 128.0
            try:
                _core._fail("panic in a worker")
                ok = False
            except Exception as error:
                ok = ok and "deliberate" in str(error)
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        print("both done")
        """,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both done\n"


class TestVersions:
    def test_the_pin_is_one(self):
        text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
        pins = set(re.findall(r'"torch==([^"]+)"', text))
        assert pins == {_core.TORCH_VERSION}
        assert koopflow.__version__ == _core.__version__
        assert f'version = "{koopflow.__version__}"' in text

    def test_another_torch_is_refused_with_the_command(self):
        done = run_python(
            """
            import torch
            torch.__version__ = torch.torch_version.TorchVersion("2.99.0+cu999")
            import koopflow
            """
        )
        assert done.returncode != 0
        error = done.stderr.strip().splitlines()[-1]
        assert error.startswith("ImportError: ")
        assert "2.99.0+cu999" in error
        assert f"pip install 'torch=={_core.TORCH_VERSION}'" in error

    def test_show_versions(self, capsys):
        koopflow.show_versions()
        out = capsys.readouterr().out
        for part in ("koopflow: ", "built for torch: ", "torch: ", "CUDA: ", "python: ", "numpy: "):
            assert part in out

    def test_no_absolute_paths_and_no_libpython_in_the_extension(self):
        data = Path(_core.__file__).read_bytes()
        assert b"$ORIGIN/../torch/lib" in data
        dynamic = subprocess.run(["readelf", "-d", _core.__file__], capture_output=True, text=True)
        if dynamic.returncode:
            pytest.skip("no readelf")
        needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic.stdout)
        assert "libtorch_cpu.so" in needed
        assert not [name for name in needed if "python" in name]
