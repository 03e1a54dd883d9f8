"""Speed of training steps, samples, solvers and teachers, compared with optimised PyTorch.

    python -m experiments.benches.side_by_side --output speed.json --page docs/speed.md      # half an hour
    python -m experiments.benches.side_by_side --quick                                       # whether it runs
    python -m experiments.benches.side_by_side --from speed.json --page docs/speed.md        # the page alone

koopflow and the others take turns in one process, on as many processors as threads. Every value is the median
over repetitions, with the quartiles of the ratio. Seconds are processor time, or wall-clock time with more
than one thread. A training step of koopflow is timed by the difference between a longer and a shorter
training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...environment import versions
from . import page, sampling, training
from .timing import Bench, alone

PARTS = ["dense", "spectral", "recipe", "teacher", "network", "solvers", "products"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and no torch.compile")
    parser.add_argument("--output", help="JSON file; its rows of other parts are kept")
    parser.add_argument("--page", help="page whose marked block is rewritten")
    parser.add_argument("--from", dest="known", help="earlier JSON file, instead of measuring")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    alone(options.threads)
    repetitions = min(options.repetitions, 2) if options.quick else options.repetitions
    bench = Bench(
        threads=options.threads,
        repetitions=repetitions,
        seed=options.seed,
        quick=options.quick,
        compiled=not (options.quick or options.no_compile),
    )
    print(versions(), flush=True)
    training.all_parts(bench, options.parts)
    sampling.all_parts(bench, options.parts)
    return {
        "command": "python -m experiments.benches.side_by_side",
        "machine": versions(),
        "threads": options.threads,
        "seed": options.seed,
        "repetitions": repetitions,
        "rows": bench.rows,
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old results with the rows of measured parts replaced, in the old order."""
    measured = {row["part"] for row in new["rows"]}
    kept = [row for row in old["rows"] if row["part"] not in measured]
    return {**new, "rows": [*kept, *new["rows"]]}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    known = Path(options.known) if options.known else None
    found = json.loads(known.read_text(encoding="utf-8")) if known else measure(options)
    if options.output:
        output = Path(options.output)
        if output.exists():
            found = merged(json.loads(output.read_text(encoding="utf-8")), found)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.page:
        page.write(options.page, found)


if __name__ == "__main__":
    main()
