"""The paper's ablation of the terms of the loss, the number of observables and the generator.

    python -m experiments.ablation                          # moons and digits, seeds 0 1 2
    python -m experiments.ablation --quick                  # minutes: small students, one seed
    python -m experiments.ablation --cases moons --studies terms --output runs

There is one teacher for each data set (seed 0). Every student is measured on the same noise and on held-out
data. Every cell is the mean over the seeds, with the sample standard deviation. Seconds are the wall-clock
time of ``KoopmanDistiller.fit``, including trajectories. With ``--output`` every finished run is appended to
a CSV file in that folder, and a second call continues where the first was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from koopflow import FlowTeacher, _core, datasets

from ..environment import versions
from .run import ablate

# All students of a study have the same number of steps, so that only the terms differ.
FULL: dict[str, dict[str, Any]] = {
    "moons": {"steps": 3_000, "trajectories": 8_192},
    "digits": {"steps": 2_000, "trajectories": 16_384},
}
QUICK: dict[str, dict[str, Any]] = {
    "moons": {"steps": 200, "trajectories": 1_024, "width": 64},
    "digits": {"steps": 150, "trajectories": 1_024, "width": 128},
}
# 2**k observables, limited by the memory and time of a dense generator.
SIZES = {"moons": [2**k for k in range(2, 8)], "digits": [2**k for k in range(4, 9)]}
PAPER = ("consistency", "target", "phase")


def data(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out samples."""
    if case == "moons":
        return datasets.moons(20_000, seed=0), datasets.moons(4_000, seed=1)
    train, held_out = datasets.split(datasets.digits()[0], held_out=500, seed=0)
    return train, held_out


def studies(case: str, kinds: list[str], *, quick: bool) -> dict[str, dict[str, Any]]:
    """The arguments of ``ablate`` by study; the first two are the paper's design."""
    settings = (QUICK if quick else FULL)[case]
    sizes = SIZES[case][1:4:2] if quick else SIZES[case]
    # The paper has one lift and pairs of endpoints. None of its terms would train a second lift, for decoding
    # backwards.
    options = {
        **settings,
        "trajectories": {"count": settings["trajectories"], "pairs": "endpoints"},
        "architecture": {"lifts": 1},
    }
    paper = {"options": options, "generators": kinds}
    return {
        "terms": paper,
        "observables": {**paper, "terms": {"the paper's three": PAPER}, "observables": sizes},
        "defaults": {"options": settings, "generators": kinds, "terms": {"defaults": default_weights(case)}},
    }


def default_weights(case: str) -> dict[str, float]:
    """The weights of koopflow's own loss."""
    return json.loads(_core.student_defaults({"moons": 2, "digits": 64}[case]))["weights"]


TITLES = {
    "terms": "Terms of the paper's loss, weight 1 each",
    "observables": "Learnt observables, the paper's three terms",
    "defaults": "koopflow's own loss, the same number of steps",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=FULL, default=list(FULL))
    parser.add_argument("--studies", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--generators", nargs="+", default=["spectral", "dense"])
    parser.add_argument("--quick", action="store_true", help="small students, one seed")
    parser.add_argument("--output", type=Path, help="folder for a CSV of every run and the tables")
    options = parser.parse_args()
    seeds = options.seeds[:1] if options.quick else options.seeds
    text = [f"{versions()}, seeds {seeds}"]
    print(text[0], flush=True)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    for case in options.cases:
        train, held_out = data(case)
        teacher = FlowTeacher(train.shape[1:], seed=0, steps=500 if options.quick else None)
        teacher.fit(train, progress=False)
        for study in options.studies:
            table = ablate(
                teacher,
                held_out,
                seeds=seeds,
                n=500,
                csv=options.output / f"{case}-{study}.csv" if options.output else None,
                **studies(case, options.generators, quick=options.quick)[study],
            )
            text += [f"\n### {case}: {TITLES[study]}\n", table.summary().to_text("pipe")]
            print("\n".join(text[-2:]), flush=True)
            if options.output:
                (options.output / "ablation.md").write_text("\n".join(text) + "\n")
            if table.interrupted:
                return


if __name__ == "__main__":
    main()
