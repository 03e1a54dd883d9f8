"""Reference samples, from long parallel chains, of targets that cannot be sampled exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .energy import Energy
from .hybrid import States, adapted, move
from .path import AnnealingPath


@dataclass(frozen=True)
class Chains:
    """Options for sampling a target by hybrid Monte Carlo in many parallel chains.

    Every chain starts from its own draw of a Gaussian, is annealed to the target, equilibrates there, and
    then gives a sample after every ``apart`` moves. Chains are independent of each other; the samples of one
    chain are not quite.

    Attributes
    ----------
    deviation : float
        Standard deviation of the Gaussian, similar to that of the target.
    annealed, settled, apart : int
        Number of moves of the annealing, of moves at the target before the first sample, and of moves between
        two samples.
    leapfrog : int
        Number of leapfrog steps of a move.
    most : int
        Largest number of chains. For fewer samples there is one chain for each.
    """

    deviation: float
    annealed: int
    settled: int
    apart: int
    leapfrog: int = 8
    most: int = 1024

    def draw(self, energy: Energy, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw samples ``[n, *event]``."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        path, step = AnnealingPath(energy, self.deviation), 0.5 * self.deviation
        x = path.start(min(n, self.most), generator)
        # Only these first moves adapt the step size.
        for beta in [*np.linspace(0.0, 1.0, self.annealed) ** 2, *[1.0] * (self.settled // 2)]:
            potential = path.at(float(beta))
            states, acceptance = move(potential, States.at(potential, x), step, self.leapfrog, generator)
            x, step = states.x, adapted(step, acceptance)
        states, kept = States.at(energy, x), []
        waits = [self.settled - self.settled // 2] + [self.apart] * (-(-n // len(x)) - 1)
        for wait in waits:
            for _ in range(wait):
                states, _ = move(energy, states, step, self.leapfrog, generator)
            kept.append(states.x)
        return torch.cat(kept)[:n].numpy()
