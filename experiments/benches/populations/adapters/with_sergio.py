"""Cells along two branches by SERGIO (Dibaeinia and Sinha 2020), in its own environment:
``python with_sergio.py answer.npz seed``.

Ten master regulators drive ninety genes through two layers. SERGIO 1.9.3 simulates steady states of cell
types but no differentiation. Each branch is therefore a sequence of cell types, whose regulators change from
values that the branches share to values of the branch. The answer has ``stage_k`` [N, genes] for each stage,
logarithms of one plus expression.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from SERGIO import sergio
from SERGIO.GRN import grn_from_file
from SERGIO.MR import mrProfile

STAGES, BRANCHES, CELLS = 5, 2, 120
MASTERS, LAYERS, DECAY = 10, (30, 60), 0.8


def main() -> None:
    answer, seed = Path(sys.argv[1]), int(sys.argv[2])
    random = np.random.default_rng([seed, 4])
    np.random.seed(seed)  # noqa: NPY002 (SERGIO's own)
    with tempfile.TemporaryDirectory() as place:
        network = Path(place) / "network.csv"
        network.write_text(edges(random))
        grn = grn_from_file(network)
    masters = [f"m{k}" for k in range(MASTERS)]
    profile = mrProfile(masters, STAGES * BRANCHES)
    common, own = random.uniform(1.0, 4.0, MASTERS), random.uniform(1.0, 4.0, (BRANCHES, MASTERS))
    for stage in range(STAGES):
        # The branches separate after their first stage.
        apart = stage / (STAGES - 1)
        for branch in range(BRANCHES):
            rates = (1.0 - apart) * common + apart * own[branch]
            for name, rate in zip(masters, rates, strict=True):
                profile.profile[name][stage * BRANCHES + branch] = rate
    grn.init(profile, update_half_resp=True)
    simulation = sergio(grn)
    simulation.simulate(CELLS, noise_s=0.3, safety_iter=200, scale_iter=20, dt=0.05)
    cells = np.log1p(simulation.getSimExpr().to_numpy().T)
    np.savez(answer, **{f"stage_{k}": part for k, part in enumerate(np.split(cells, STAGES))})


def edges(random: np.random.Generator) -> str:
    """Each gene has three regulators in the layer above; one in four represses."""
    lines, above = [], [f"m{k}" for k in range(MASTERS)]
    for layer, count in enumerate(LAYERS):
        genes = [f"g{layer}_{k}" for k in range(count)]
        for gene in genes:
            for regulator in random.choice(above, 3, replace=False):
                strength = random.uniform(1.0, 5.0) * random.choice([1.0, 1.0, 1.0, -1.0])
                lines.append(f"{len(lines)},{regulator},0,{gene},{strength},2.0,,{DECAY},{DECAY}")
        above = genes
    return "index,reg,coop,tar,k,n,h,reg_decay,tar_decay\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
