"""Diffusion models as velocity fields: the probability-flow ODE (Song et al. 2011.13456, eq. 13).

The input of the model is z = alpha x1 + sigma x0, with data x1 and noise x0, and the state is x = z / c.
docs/teachers.md has the formula of each schedule. The values of a schedule are float64, with the shape of t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .teacher import Condition, TeacherModule


class DiffusionField(TeacherModule):
    """The field of a model whose velocity(noise argument, z) predicts noise, score, data or a mixture."""

    def __init__(self, model: TeacherModule, config: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.model, self.training, self._config = model, False, dict(config)
        self.event_shape, self.conditions = model.event_shape, model.conditions

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        level = noise_level(t.double(), **self._config["schedule"])
        told = _argument(level, self._config)
        numbers = reading(level, self._config["parametrisation"], self._config["sigma_data"])
        linear, weight, inside = (number.to(x.dtype)[:, None] for number in numbers)
        told = told.to(t.dtype) if told.is_floating_point() else told
        return x * linear + self.model.velocity(told, x * inside, condition).to(x.dtype) * weight


class NoiseLevel(NamedTuple):
    """A schedule at some times; rates are d log / dt."""

    time: Tensor
    """The diffusion time, 1 at the noise and 0 at the data."""
    alpha: Tensor
    sigma: Tensor
    c: Tensor
    alpha_rate: Tensor
    sigma_rate: Tensor
    c_rate: Tensor

    @property
    def noise(self) -> Tensor:
        return self.sigma / self.alpha


def noise_level(t: Tensor, name: str, **constants: float) -> NoiseLevel:
    """The schedule called ``name`` at times, which are clipped to its domain."""
    if name in _EXPLODING:
        return _EXPLODING[name](t.clamp(0.0, 1.0), **constants)
    clip = constants.pop("time_clip", 1e-3)
    r = (1.0 - t).clamp(clip, 1.0 - clip)
    beta, integral = _PRESERVING[name](r, **constants)
    alpha, variance = torch.exp(-0.5 * integral), -torch.expm1(-integral)
    sigma_rate = -0.5 * beta * alpha.square() / variance
    one = torch.ones_like(r)
    return NoiseLevel(r, alpha, variance.sqrt(), one, 0.5 * beta, sigma_rate, 0.0 * one)


def _vp(r: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> tuple[Tensor, Tensor]:
    """beta and its integral B, with alpha^2 = exp(-B) and sigma^2 = 1 - alpha^2 (eq. 32). The functions below
    return the same quantities."""
    rise = beta_max - beta_min
    return beta_min + rise * r, r * (beta_min + 0.5 * rise * r)


def _scaled_linear(r: Tensor, beta_min: float = 0.85, beta_max: float = 12.0) -> tuple[Tensor, Tensor]:
    low, rise = math.sqrt(beta_min), math.sqrt(beta_max) - math.sqrt(beta_min)
    return (low + rise * r).square(), r * (low * low + r * (low * rise + r * (rise * rise / 3.0)))


def _cosine(r: Tensor, offset: float = 0.008) -> tuple[Tensor, Tensor]:
    turn = math.pi / (2.0 * (1.0 + offset))
    angle = turn * (r + offset)
    return 2.0 * turn * angle.tan(), 2.0 * math.log(math.cos(turn * offset)) - 2.0 * angle.cos().log()


def _ve(t: Tensor, sigma_min: float = 0.01, sigma_max: float = 50.0) -> NoiseLevel:
    rate = math.log(sigma_min / sigma_max)
    return _exploding(t, sigma_max * torch.exp(rate * t), torch.full_like(t, rate), sigma_min, sigma_max)


def _edm(t: Tensor, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> NoiseLevel:
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    root = high + (low - high) * t
    return _exploding(t, root**rho, rho * (low - high) / root, sigma_min, sigma_max)


def _exploding(
    t: Tensor, sigma: Tensor, sigma_rate: Tensor, sigma_min: float, sigma_max: float
) -> NoiseLevel:
    """A schedule whose c goes from sigma_max at t = 0 to 1 at t = 1, so that x starts as N(0, I)."""
    k = (sigma_max**2 - 1.0) / (sigma_max**2 - sigma_min**2)
    square, one = 1.0 + k * (sigma.square() - sigma_min**2), torch.ones_like(t)
    c_rate = k * sigma_rate * sigma.square() / square
    return NoiseLevel(1.0 - t, one, sigma, square.sqrt(), 0.0 * one, sigma_rate, c_rate)


_PRESERVING: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "vp": _vp,
    "scaled_linear": _scaled_linear,
    "cosine": _cosine,
}
_EXPLODING: dict[str, Callable[..., NoiseLevel]] = {"ve": _ve, "edm": _edm}


def _argument(level: NoiseLevel, config: Mapping[str, Any]) -> Tensor:
    """The argument of the model for the noise level."""
    natural = "sigma" if config["schedule"]["name"] in _EXPLODING else "time"
    natural = "c_noise" if config["parametrisation"] == "F" else natural
    steps: Tensor = level.time * (config["num_timesteps"] - 1)
    match config["noise_argument"] or natural:
        case "time":
            return level.time
        case "timestep":
            return steps
        case "index":
            return steps.round().long()
        case "sigma":
            return level.noise
        case "c_noise":
            return 0.25 * level.noise.log()
        case _:
            return -2.0 * level.noise.log()  # log_snr


def reading(level: NoiseLevel, prediction: str, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """The factors (linear, weight, inside) of v = linear x + weight model(inside x).

    v = A x + s K E[x0|x] = S x - a K E[x1|x], with a = alpha / c, s = sigma / c, their logarithmic rates A
    and S, and K = S - A. Every prediction is linear in x and one of the two expectations.
    """
    a, s = level.alpha / level.c, level.sigma / level.c
    data_rate, noise_rate = level.alpha_rate - level.c_rate, level.sigma_rate - level.c_rate
    gap = level.sigma_rate - level.alpha_rate
    if prediction == "eps":
        return data_rate, s * gap, level.c
    if prediction == "score":
        return data_rate, -s * gap * level.sigma, level.c
    if prediction == "x0":
        return noise_rate, -a * gap, level.c
    if prediction == "v":
        square = level.alpha.square() + level.sigma.square()
        linear = data_rate + gap * level.sigma.square() / square
        return linear, s * gap * level.alpha / square.sqrt(), level.c
    # Karras et al. (2206.00364, eq. 7): x1 = c_skip y + c_out F(c_in y) with y = z / alpha.
    square = level.noise.square() + sigma_data**2
    skip, out = sigma_data**2 / square, sigma_data * level.noise / square.sqrt()
    return noise_rate - gap * skip, -a * gap * out, level.c / level.alpha / square.sqrt()
