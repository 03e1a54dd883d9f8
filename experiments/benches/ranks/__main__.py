"""Times and results of fits on one rank and on several, each rank with one thread and one core.

    python -m experiments.benches.ranks --output runs/ranks
    python -m experiments.benches.ranks --output runs/ranks --seeds 0 1 2
    python -m experiments.benches.ranks --output runs/quick --quick             # whether it runs

One rank and several ranks take turns, each in new processes. Each value is the median, over rounds, of the
ratio within a round. Seconds are wall-clock time of the slowest rank, without the start of Python, so the
machine must be otherwise idle. *Floor* is the time of the same number of independent processes, divided by
the time of one and by their number. It shows the cost of shared resources such as memory, which no division
of a fit can avoid. Errors are those of ``evaluate`` on fresh noise. The last table is not a measurement: it
estimates the time of one sum of gradients of these sizes by a model of the network between GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...environment import versions
from .estimate import table
from .fits import FITS

Row = dict[str, Any]


def on_ranks(size: int, name: str, seed: int, options: argparse.Namespace, *, strangers: bool = False) -> Row:
    """The report of rank 0 about one fit; with ``strangers``, about independent processes."""
    world = 1 if strangers else size
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", f"{__package__}.fits", name, str(seed), str(options.share)]
    processes = []
    for rank in range(size):
        own = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{key: str(n) for key, n in own.items()}}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in processes]
    if codes := [process.returncode for process in processes if process.returncode]:
        raise SystemExit(f"{name} failed on {size} ranks, with {codes}")
    rows: list[Row] = [json.loads(text.strip().splitlines()[-1]) for text in told if text.strip()]
    return {**rows[0], "seconds": max(row["seconds"] for row in rows)}


def compared(name: str, options: argparse.Namespace) -> Row:
    """One fit on one rank and on several, for every seed."""
    ratios, floors, errors = [], [], {1: [], options.ranks: []}  # type: ignore[var-annotated]
    row: Row = {}
    for turn in range(options.rounds):
        seed = options.seeds[turn % len(options.seeds)]
        # The order alternates between rounds.
        sizes = [1, options.ranks] if turn % 2 == 0 else [options.ranks, 1]
        found = {size: on_ranks(size, name, seed, options) for size in sizes}
        ratios.append(found[options.ranks]["seconds"] / found[1]["seconds"])
        apart = on_ranks(options.ranks, name, seed, options, strangers=True)
        floors.append(apart["seconds"] / found[1]["seconds"] / options.ranks)
        for size, of_size in errors.items():
            of_size.append(found[size]["error"])
        row = {"parameters": found[1]["parameters"], "sums": found[options.ranks]["sum"]}
    low, high = min(ratios), max(ratios)
    return {
        "fit": name,
        **row,
        "time": statistics.median(ratios),
        "range": [low, high],
        "floor": statistics.median(floors),
        "error, one rank": errors[1],
        f"error, {options.ranks} ranks": errors[options.ranks],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(FITS), default=list(FITS))
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the steps of each fit")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.share = 1, 0.01
    options.rounds = max(options.rounds, len(options.seeds))
    options.output.mkdir(parents=True, exist_ok=True)
    print(versions(), flush=True)
    rows = []
    for name in options.only:
        rows.append(compared(name, options))
        print(json.dumps(rows[-1]), flush=True)
    estimate = table([(row["fit"], row["parameters"]) for row in rows])
    print(estimate)
    (options.output / "results.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
