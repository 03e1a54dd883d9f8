"""Hybrid Monte Carlo: many chains side by side (Duane, Kennedy, Pendleton and Roweth 1987)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .._arrays import as_integer, as_seed, checked_count
from .energy import Potential, gradient_of

# The share of accepted moves that steps are adapted to, near the best for many dimensions, and how much the
# step changes at one move.
ACCEPTED, HASTE = 0.8, 0.2


@dataclass(frozen=True)
class States:
    """Where chains are: points ``[C, *event]``, their energies ``[C]`` and gradients ``[C, *event]``."""

    x: torch.Tensor
    energy: torch.Tensor
    gradient: torch.Tensor

    @classmethod
    def at(cls, potential: Potential, x: torch.Tensor) -> States:
        return cls(x, *gradient_of(potential, x))


def move(
    potential: Potential, states: States, step: float, leapfrog: int, generator: torch.Generator
) -> tuple[States, float]:
    """One move of every chain, and the mean probability that it is accepted.

    It is ``leapfrog`` steps with fresh momenta, which Metropolis' rule accepts or not. The step varies by a
    fifth from move to move, so that no vibration comes back to where it was.
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
    # A path that left the finite numbers is rejected.
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
    """A step that is a little longer or shorter, as moves were accepted more or less often than wanted."""
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
    """States of chains that leave ``exp(-potential)`` as it is: ``[moves // every, C, *event]``.

    Parameters
    ----------
    potential : callable
        Energies ``[C]`` of points ``[C, *event]``, differentiable; an :class:`Energy` is one.
    start : tensor ``[C, *event]``
        Where the chains start, on the CPU; float64 is advised. Chains share the step, and nothing else.
    moves, burn_in, every : int
        Moves after the first ``burn_in``, of which every so many-th is kept. Only these first moves adapt the
        step.
    leapfrog : int
        Steps of one move.
    step : float
        The first length of a step.
    seed : int or None
        None draws one.
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
