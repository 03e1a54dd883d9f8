"""The observables against a PyTorch re-implementation with the same weights, read from the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.linalg import expm

from koopflow import KoopmanDistiller

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


def reference(path, direction):
    """phi(t, x) in plain PyTorch: principal axes raw and standardised, SiLU layers, linear skip."""
    with safe_open(path, framework="pt") as file:
        w = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    depth = sum(name.startswith(f"{direction}.") and name.endswith(".bias") for name in w)
    has_skip = f"{direction}.skip" in w

    def coordinates(t, x):
        times = len(w["coordinates.means"]) - 1
        left = int(t * times)
        part = t * times - left
        mean, deviation = (
            (1 - part) * table[left] + part * table[left + 1]
            for table in (w["coordinates.means"], w["coordinates.deviations"])
        )
        rotated = (x - w["coordinates.center"]) @ w["coordinates.axes"]
        standardised = (rotated - mean) / deviation
        return torch.cat([t.reshape(1), rotated * w["coordinates.scale"], standardised])

    def phi(t, x):
        row = coordinates(t, x) if has_skip else torch.cat([t.reshape(1), x])
        hidden = row
        for layer in range(depth):
            if layer > 0:
                hidden = torch.nn.functional.silu(hidden)
            weight, bias = (w[f"{direction}.{layer}.{part}"] for part in ("weight", "bias"))
            hidden = torch.nn.functional.linear(hidden, weight, bias)
        basis = hidden + w[f"{direction}.skip"] @ row if has_skip else hidden
        # The moving frame: features in pairs (a, b) turn and grow by exp(t (a + i b)).
        growth = 8.0 * torch.tanh(w["generator.growth"] / 8.0)
        pairs = len(w["generator.frequency"])
        turned = torch.complex(basis[:pairs], basis[pairs : 2 * pairs])
        turned = turned * torch.exp(t * torch.complex(growth[:pairs], w["generator.frequency"]))
        rest = basis[2 * pairs :] * torch.exp(t * growth[pairs:])
        return torch.cat([turned.real, turned.imag, rest])

    return phi


@pytest.fixture(scope="module", params=["float32", "float64", "float64 raw"])
def fitted(request, gaussian, tmp_path_factory):
    dtype, *raw = request.param.split()
    options = {"dtype": dtype, "architecture": {"inputs": "raw" if raw else "standardised"}}
    student = KoopmanDistiller(
        observables=7, width=24, depth=2, steps=60, trajectories=256, seed=1, **options
    ).fit(gaussian, progress=False)
    path = tmp_path_factory.mktemp("students") / f"{request.param}.safetensors"
    student.save(path)
    return student, path, dtype


# torch.func imports parts of torch that warn about other parts of torch.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_observables_and_tangents_are_pytorchs(fitted, direction):
    student, path, dtype = fitted
    random = np.random.default_rng(4)
    # Off the knots of the table of running statistics, where the derivative is one-sided.
    t = (random.integers(0, 32, 40) + random.uniform(0.2, 0.8, 40)).astype(dtype) / 32
    x, velocity = (random.normal(size=(40, 2)).astype(dtype) for _ in range(2))
    g, tangent = student._student.encode_with_tangent(t, x, velocity, direction=direction)

    phi = reference(path, direction)
    inputs = torch.from_numpy(t), torch.from_numpy(x)
    rates = torch.ones(40, dtype=inputs[0].dtype), torch.from_numpy(velocity)
    for row in range(40):
        at = inputs[0][row], inputs[1][row]
        value, rate = torch.func.jvp(phi, at, (rates[0][row], rates[1][row]))
        tolerance = TOLERANCE[dtype]
        scale = max(1.0, rate.abs().max().item())
        np.testing.assert_allclose(g[row, 4:], value, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(tangent[row, 4:], rate, rtol=10 * tolerance, atol=10 * tolerance * scale)
    # The exact part of the lift: d/dt [1, t, x] = [0, 1, v].
    np.testing.assert_array_equal(g[:, :4], np.column_stack([np.ones(40), t, x]).astype(dtype))
    np.testing.assert_array_equal(
        tangent[:, :4], np.column_stack([np.zeros(40), np.ones(40), velocity]).astype(dtype)
    )


def test_the_layout_is_time_then_state(fitted):
    """[t, x] everywhere: exchanging them must change the observables, and 1, t, x lead."""
    student, _, _ = fitted
    x = np.array([[0.25, 0.75]])
    g = student.encode(0.5, x)
    np.testing.assert_allclose(g[0, :4], [1.0, 0.5, 0.25, 0.75])
    assert np.abs(g[0, 4:] - student.encode(0.25, np.array([[0.5, 0.75]]))[0, 4:]).max() > 1e-3


def test_the_header_rebuilds_the_architecture(fitted):
    _, path, dtype = fitted
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["koopflow"])
    assert header["version"] == 1
    config = header["model"]["config"]
    assert (config["observables"], config["width"], config["depth"]) == (7, 24, 2)
    assert config["dtype"] == dtype


@pytest.fixture(scope="module", params=["spectral", "dense"])
def precise(request, gaussian):
    return KoopmanDistiller(
        generator=request.param, observables=9, width=16, steps=80, trajectories=256, dtype="float64"
    ).fit(gaussian, progress=False)


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_propagation_is_scipys_exponential(precise, tau, sign):
    g = precise.encode(0.0, np.random.default_rng(5).normal(size=(20, 2)))
    expected = g @ expm(sign * tau * precise.generator_matrix())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(precise.propagate(g, sign * tau), expected, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(
        precise.readout(precise.propagate(g, sign * tau)), expected[:, 2:4], rtol=0, atol=1e-10 * scale
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_re_encoding_averages_observables(precise, steps):
    """Encodings carried by SciPy's exponential: the first has three votes a step, each later one has one."""
    noise = np.random.default_rng(6).normal(size=(20, 2))
    motion = expm(precise.generator_matrix() / steps)
    votes, encodings, x = [], [], noise
    for step in range(steps):
        votes.append(1.0 if step else 3.0 * steps)
        encodings.append(precise.encode(step / steps, x))
        encodings = [g @ motion for g in encodings]
        x = np.average(encodings, axis=0, weights=votes)[:, 2:4]
    np.testing.assert_allclose(precise.sample(x0=noise, steps=steps), x, rtol=0, atol=1e-9)
