"""Hybrid Monte Carlo with many parallel chains (Duane, Kennedy, Pendleton and Roweth 1987)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .._arrays import as_integer, as_seed, checked_count
from .energy import Potential, gradient_of

# Fraction of accepted moves for which step sizes are adapted, near the optimum in many dimensions, and the
# change of the step size at one move.
ACCEPTED, HASTE = 0.8, 0.2


@dataclass(frozen=True)
class States:
    """States of the chains: points ``[C, *event]``, their energies ``[C]`` and gradients ``[C, *event]``."""

    x: torch.Tensor
    energy: torch.Tensor
    gradient: torch.Tensor

    @classmethod
    def at(cls, potential: Potential, x: torch.Tensor) -> States:
        return cls(x, *gradient_of(potential, x))


def move(
    potential: Potential, states: States, step: float, leapfrog: int, generator: torch.Generator
) -> tuple[States, float]:
    """Make one move of every chain. Returns the states and the mean acceptance probability.

    A move makes ``leapfrog`` steps with new momenta, and is accepted or rejected by Metropolis' rule. The
    step size varies by a fifth from move to move, so that no oscillation returns to its start.
    """
    vary = 0.8 + 0.4 * torch.rand((), generator=generator, dtype=torch.float64).item()
    size = step * vary
    momentum = torch.randn(states.x.shape, generator=generator, dtype=states.x.dtype)
    before = states.energy + _kinetic(momentum)
    end = states
    for _ in range(leapfrog):
        momentum = momentum - 0.5 * size * end.gradient
        end = States.at(potential, end.x + size * momentum)
        momentum = momentum - 0.5 * size * end.gradient
    # A path with values that are not finite is rejected.
    gain = torch.nan_to_num(before - end.energy - _kinetic(momentum), nan=-torch.inf)
    chance = gain.clamp(max=0.0).exp()
    accepted = torch.rand(chance.shape, generator=generator, dtype=chance.dtype) < chance
    wide = accepted.reshape(-1, *[1] * (states.x.ndim - 1))
    moved = States(
        torch.where(wide, end.x, states.x),
        torch.where(accepted, end.energy, states.energy),
        torch.where(wide, end.gradient, states.gradient),
    )
    return moved, chance.mean().item()


def adapted(step: float, acceptance: float) -> float:
    """The step size, slightly increased if moves were accepted too often, and decreased otherwise."""
    return step * math.exp(HASTE * (acceptance - ACCEPTED) / ACCEPTED)


def hybrid_monte_carlo(
    potential: Potential,
    start: torch.Tensor,
    *,
    moves: int,
    burn_in: int = 200,
    every: int = 1,
    leapfrog: int = 10,
    step: float = 0.1,
    seed: int | None = 0,
) -> torch.Tensor:
    """Draw states ``[moves // every, C, *event]`` of chains with the stationary density ``exp(-potential)``.

    Parameters
    ----------
    potential : callable
        Differentiable function from points ``[C, *event]`` to energies ``[C]``, such as an :class:`Energy`.
    start : tensor ``[C, *event]``
        Initial states of the chains, on the CPU; float64 is recommended. Chains share only the step size.
    moves, burn_in, every : int
        Number of moves after the first ``burn_in`` moves. Every ``every``-th of their states is kept. Only
        the first ``burn_in`` moves adapt the step size.
    leapfrog : int
        Number of leapfrog steps of one move.
    step : float
        Initial step size.
    seed : int or None
        Random seed; None draws one.
    """
    moves, every = checked_count(moves, "moves"), checked_count(every, "every")
    leapfrog = checked_count(leapfrog, "leapfrog")
    burn_in = as_integer(burn_in, "burn_in", least=0)
    generator = torch.Generator().manual_seed(as_seed(seed))
    states = States.at(potential, start.detach())
    for _ in range(burn_in):
        states, acceptance = move(potential, states, step, leapfrog, generator)
        step = adapted(step, acceptance)
    kept = []
    for number in range(1, moves + 1):
        states, _ = move(potential, states, step, leapfrog, generator)
        if number % every == 0:
            kept.append(states.x)
    return torch.stack(kept) if kept else start.new_empty((0, *start.shape))


def _kinetic(momentum: torch.Tensor) -> torch.Tensor:
    return 0.5 * momentum.flatten(1).square().sum(dim=1)
