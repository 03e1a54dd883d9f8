"""Local flow matching, compared with one flow of equal size and training: the tables of docs/chains.md.

    python -m experiments.benches.local_flows                     # three seeds, an hour on one core
    python -m experiments.benches.local_flows --cases tree --seeds 0
    python -m experiments.benches.local_flows --quick             # whether it runs

The width of the single network is chosen so that it has as many weights as a chain of K blocks of width 64.
Each block trains for a K-th of the steps, with the same batch size. ``seconds`` is the time of training.
Negative log-likelihoods, in nats, are those of 2,000 held-out samples under the flow's own density. W2 is
between 2,000 samples and held-out data; the W2 between data and data is given too. A seed determines data,
teachers and samples. Cells are means over the seeds, with their range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from koopflow import FlowTeacher, datasets
from koopflow.metrics import wasserstein2

from ..environment import versions

CASES = {"tree": datasets.tree, "checkerboard": datasets.checkerboard}
# Times of the noising process by name of the chain.
CHAINS = {"2 blocks": [0.3], "4 blocks": [0.1, 0.2, 0.5]}
WIDTH, DEPTH, TRAINED, HELD_OUT = 64, 3, 20_000, 2_000
COLUMNS = {"nll": "NLL", "w2": "W2", "seconds": "training, s", "weights": "weights"}
DECIMALS = {"weights": 0, "seconds": 0}


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--chains", nargs="+", choices=list(CHAINS), default=list(CHAINS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, default=6_000, help="training steps of all blocks together, and of the one flow"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.seeds = 40, options.seeds[:1]
    return options


def weights(width: int) -> int:
    """Number of weights of a network for the plane: hidden layers, output and skip connection of 9 inputs."""
    return 10 * width + (DEPTH - 1) * width * (width + 1) + 2 * (width + 1) + 2 * 9


def width_of(count: int) -> int:
    """The width at which a network has about ``count`` weights."""
    return min(range(1, 1000), key=lambda width: abs(weights(width) - count))


def measured(teacher: FlowTeacher, case: str, seed: int) -> dict[str, float]:
    held_out, others = (CASES[case](HELD_OUT, seed=3 * seed + part) for part in (1, 2))
    samples = teacher.sample(HELD_OUT, seed=seed + 1)
    return {
        "nll": -float(np.mean(teacher.log_prob(held_out))),
        "w2": float(wasserstein2(samples, held_out)),
        "floor": float(wasserstein2(others, held_out)),
        "seconds": teacher.history_["seconds"],
    }


def runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for seed, case, name in itertools.product(options.seeds, options.cases, options.chains):
        data, count = CASES[case](TRAINED, seed=3 * seed), len(CHAINS[name]) + 1
        given: dict[str, Any] = {"depth": DEPTH, "seed": seed}
        whole = width_of(count * weights(WIDTH))
        one = FlowTeacher((2,), width=whole, steps=options.steps, **given).fit(data, progress=False)
        given |= {"width": WIDTH, "block_steps": options.steps // count}
        chain = FlowTeacher.local(data, steps=CHAINS[name], progress=False, **given)
        found = ((f"one flow, width {whole}", one, weights(whole)), (name, chain, count * weights(WIDTH)))
        for model, teacher, size in found:
            row = {"case": case, "model": model, "seed": seed, "weights": size}
            rows.append({**row, **measured(teacher, case, seed)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def cell(rows: list[dict[str, Any]], column: str) -> str:
    """The mean of a column over the seeds, with its range."""
    values, decimals = [row[column] for row in rows], DECIMALS.get(column, 3)
    spread = f" ({min(values):.3f} to {max(values):.3f})" if decimals and len(values) > 1 else ""
    return f"{statistics.fmean(values):.{decimals}f}{spread}"


def table(rows: list[dict[str, Any]]) -> str:
    """One table for each set of data, under its name and the distance of data to data."""
    texts = []
    for case in sorted({row["case"] for row in rows}):
        of_case = [row for row in rows if row["case"] == case]
        lines = ["| model | " + " | ".join(COLUMNS.values()) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
        for model in sorted({row["model"] for row in of_case}):
            own = [row for row in of_case if row["model"] == model]
            lines.append("| " + " | ".join([model, *(cell(own, column) for column in COLUMNS)]) + " |")
        texts.append(f"{case}, W2 of data {cell(of_case, 'floor')}:\n\n" + "\n".join(lines))
    return "\n\n".join(texts)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    print(f"{versions()}, seeds {options.seeds}")
    rows = runs(options)
    print(table(rows))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
