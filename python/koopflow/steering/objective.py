"""The objective of steering, as a weight of the noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_number
from ..exceptions import ArgumentError
from .function import SampleFunction
from .observation import Observation, Residuals
from .one_step import OneStep

Real = NDArray[np.float64]
COLDEST = 1e-9
ROWS = 4096  # Largest number of samples that functions get at once.


@dataclass
class Evaluated:
    """Noise ``[B, d]``, its samples ``[B, *event]``, l ``[B]`` and optionally dl/dz ``[B, d]``."""

    noise: Real
    x: NDArray[Any]
    values: Real
    slopes: Real | None = None

    @classmethod
    def joined(cls, parts: Sequence[Evaluated]) -> Evaluated:
        """The concatenation of several."""
        slopes = [part.slopes for part in parts if part.slopes is not None]
        return cls(
            np.concatenate([part.noise for part in parts]),
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate(slopes) if len(slopes) == len(parts) else None,
        )


class Objective:
    """l(z), the log ratio of a target density in noise space to the standard normal density.

    For a reward r and an observation, l(z) = r(S(z)) / T + log p(y | S(z)); for an energy,
    l(z) = -E(S(z)) / T - log p(S(z)), where p is the density of the model.
    """

    def __init__(
        self,
        step: OneStep,
        *,
        reward: Callable[[Any], Any] | None,
        observation: Observation | None,
        energy: Callable[[Any], Any] | None,
        temperature: float,
    ) -> None:
        given = [
            name for name, part in (("reward", reward), ("observation", observation)) if part is not None
        ]
        if (energy is None) == (not given):
            got = f"{' and '.join([*given, 'energy'])}" if given else "none"
            raise ArgumentError(f"expected an energy, or else a reward or an observation or both, got {got}")
        if observation is not None and not isinstance(observation, Observation):
            raise TypeError(f"observation: expected an Observation, got {type(observation).__name__}")
        self.step = step
        self.temperature = as_number(
            temperature, "temperature", f"a number from {COLDEST:g} on", lambda t: COLDEST <= t < float("inf")
        )
        if reward is None and energy is None and self.temperature != 1.0:
            raise ArgumentError(
                f"temperature: expected 1 for an observation, whose noise determines its weight, got "
                f"{temperature!r}"
            )
        self.reward = None if reward is None else SampleFunction(reward, "reward", step.device)
        self.energy = None if energy is None else SampleFunction(energy, "energy", step.device)
        self.residuals = (
            None if observation is None else Residuals(observation, step.event_shape, step.device)
        )

    def slopes_known(self, x: NDArray[Any]) -> bool:
        """Whether moves can use gradients, since all functions are differentiable."""
        if self.energy is not None:
            return self.energy.is_differentiable(x)
        if self.reward is not None and not self.reward.is_differentiable(x):
            return False
        return self.residuals is None or self.residuals.is_differentiable(x)

    def at(self, noise: Real, *, slopes: bool = False) -> Evaluated:
        """l at noise ``[B, d]``."""
        parts = [self._at(noise[begin : begin + ROWS], slopes=slopes) for begin in range(0, len(noise), ROWS)]
        return parts[0] if len(parts) == 1 else Evaluated.joined(parts)

    def _at(self, noise: Real, *, slopes: bool) -> Evaluated:
        if self.energy is not None:
            x, log_prob = self.step.density(noise)
            if not slopes:
                values = self.energy.values(x, sign=-1.0) / self.temperature
                return Evaluated(noise, x, values - log_prob)
            values, force = (part / self.temperature for part in self.energy.gradients(x, sign=-1.0))
            # The determinant's gradient is left out. Any drift is valid, since l itself decides acceptance.
            drift = noise + self.step.pull_back(noise, x, force[:, None].astype(x.dtype))[:, 0]
            return Evaluated(noise, x, values - log_prob, drift)
        x = self.step.sample(noise)
        values = np.zeros(len(x))
        slope: NDArray[Any] = np.zeros_like(x)
        if self.reward is not None and slopes:
            values, slope = self.reward.gradients(x)
            values, slope = values / self.temperature, slope / self.temperature
        elif self.reward is not None:
            values = self.reward.values(x) / self.temperature
        if self.residuals is not None:
            residuals = self.residuals(x)
            values = values + (self.residuals.log_scale - 0.5 * (residuals**2).sum(axis=1))
            if slopes:
                slope = slope + self.residuals.slopes(x, residuals)
        pulled = self.step.pull_back(noise, x, slope[:, None].astype(x.dtype))[:, 0] if slopes else None
        return Evaluated(noise, x, values, pulled)
