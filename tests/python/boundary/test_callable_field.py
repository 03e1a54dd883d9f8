"""Velocity fields that ask Python, and the analytic ones, from Python."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from koopflow import _core, exceptions


def field(function, vjp=None, *, event_shape=(2,), **options):
    return _core.VelocityField.callable(function, vjp or function, event_shape=event_shape, **options)


def numbers(seed=0, shape=(4, 2)):
    return np.random.default_rng(seed).normal(size=shape)


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
            (lambda x: x.long(), "a tensor of dtype int64"),
            (lambda x: torch.complex(x, x), "a tensor that cannot be used .*complex64"),
            (lambda x: x.to_sparse(), "a tensor that cannot be used"),
            (lambda x: x.numpy(), r"numpy\.ndarray"),
            (lambda x: None, "NoneType"),
            (lambda x: (x, x), "tuple"),
        ],
        ids=["wide", "flat", "integer", "complex", "sparse", "numpy", "None", "tuple"],
    )
    def test_wrong_answers_are_told(self, answer, got):
        f = field(lambda t, x, condition: answer(x), label="mine")
        expected = rf"^teacher 'mine': velocity returned .*{got}.*; expected .* \(4, 2\)$"
        with pytest.raises(exceptions.TeacherError, match=expected):
            f.velocity(0.5, numbers(shape=(4, 2)) + 3)

    @pytest.mark.parametrize(
        ("answer", "got"),
        [
            (lambda x: x * float("nan"), "8 NaN and 0 infinite values among 8"),
            (lambda x: x / 0, "0 NaN and 8 infinite values among 8"),
        ],
        ids=["nan", "inf"],
    )
    def test_answers_that_are_not_finite_are_told(self, answer, got):
        f = field(lambda t, x, condition: answer(x), label="mine")
        expected = (
            rf"^teacher 'mine': velocity returned .*{got} at t = 0.5; expected finite values, also at t = 0"
        )
        with pytest.raises(exceptions.TeacherError, match=expected):
            f.velocity(0.5, numbers(shape=(4, 2)) + 3)

    def test_a_velocity_that_is_infinite_at_its_end_says_when_and_what_to_do(self):
        f = field(lambda t, x, condition: (1 - x) / (1 - t)[:, None], label="mine")
        assert np.isfinite(f.velocity(0.999, np.zeros((4, 2)))).all()
        with pytest.raises(exceptions.TeacherError, match=r"at t = 1; .* min\(t, 1 - eps\)"):
            f.velocity(np.array([0.5, 1.0, 0.25, 1.0]), np.zeros((4, 2)))
        with pytest.raises(exceptions.TeacherError, match="at t from 0.5 to 0.75; expected finite values"):
            nan = field(lambda t, x, condition: x + torch.log(0.4 - t)[:, None])
            nan.velocity(np.array([0.5, 0.25, 0.75, 0.0]), np.zeros((4, 2)))

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
