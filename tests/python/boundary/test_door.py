"""The door between Python and Rust: errors, panics, signals, progress, forks, versions."""

from __future__ import annotations

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

import koopflow
from koopflow import _core, exceptions


def field(function, vjp=None, *, event_shape=(2,), **options):
    return _core.VelocityField.callable(function, vjp or function, event_shape=event_shape, **options)


def numbers(seed=0, shape=(4, 3)):
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
    "out of memory": (exceptions.OutOfMemoryError, MemoryError),
    "panic out of memory": (exceptions.OutOfMemoryError, MemoryError),
}


class TestErrors:
    @pytest.mark.probe
    @pytest.mark.parametrize("what", CLASSES)
    def test_every_error_has_its_class(self, what):
        exact, *bases = CLASSES[what]
        with pytest.raises(exceptions.KoopflowError) as caught:
            _core._fail(what)
        assert type(caught.value) is exact
        for base in bases:
            assert isinstance(caught.value, base)
        assert "\n" not in str(caught.value)

    @pytest.mark.probe
    def test_internal_errors_tell_the_whole_chain(self):
        with pytest.raises(exceptions.KoopflowError, match="outer: inner"):
            _core._fail("internal")

    @pytest.mark.probe
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

    @pytest.mark.probe
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

    @pytest.mark.parametrize("shape", [(1 << 45,), (1 << 40, 3)])
    def test_more_than_there_is_memory_for_is_an_error(self, shape):
        with pytest.raises(exceptions.OutOfMemoryError, match="out of memory") as caught:
            _core.normal(shape, 0)
        assert isinstance(caught.value, MemoryError)

    @pytest.mark.probe
    def test_each_panic_is_reported_where_it_happened(self):
        with pytest.raises(exceptions.KoopflowError, match=r"a deliberate panic \(at .*probe\.rs:"):
            _core._fail("panic during another")

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


@pytest.mark.probe
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


@pytest.mark.probe
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_workers_fit_and_sample_after_their_parent_did():
    """With two of libtorch's threads in the parent, which its children do not have."""
    done = run_python(
        """
        import multiprocessing, os, warnings
        from concurrent.futures import ProcessPoolExecutor
        import numpy as np, torch
        from koopflow import FlowTeacher, KoopmanDistiller

        warnings.simplefilter("ignore")  # Python 3.12 warns of forking with threads, as libtorch has them
        torch.set_num_threads(2)
        torch.ones(1000, 1000) @ torch.ones(1000, 1000)
        data = np.random.default_rng(0).normal(size=(256, 2)).astype("f4")
        noise = np.random.default_rng(1).normal(size=(30_000, 2)).astype("f4")

        def made():
            teacher = FlowTeacher((2,), width=8, depth=1, steps=4).fit(data, progress=False)
            student = KoopmanDistiller(observables=4, width=8, steps=4, trajectories=64)
            return teacher, student.fit(teacher, progress=False)

        teacher, student = made()

        def answers():
            # Of the parent's models, and of some made here.
            others = made()
            return [
                student.sample(x0=noise), others[1].sample(x0=noise), student.invert(noise),
                teacher.sample(x0=noise[:500]), others[0].log_prob(data), student.spectrum(teacher).energy,
            ]

        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            found = [pool.submit(answers).result() for _ in range(2)]
        for other in found:
            for own, theirs in zip(answers(), other, strict=True):
                np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-4)
        print("both done")
        """,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both done\n"


class TestVersions:
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
        assert "KOOPFLOW_TORCH=2.99.0" in error

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
