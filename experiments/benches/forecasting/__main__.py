"""Measurements of forecasts: the tables of docs/forecasting.md.

    python -m experiments.benches.forecasting                           # three seeds, hours on one core
    python -m experiments.benches.forecasting --parts chaos oscillators --rivals pykoopman pydmd
    python -m experiments.benches.forecasting --parts linear --seeds 0 --output linear.json
    python -m experiments.benches.forecasting --quick --rivals          # whether it runs, without others

The parts are:

- *chaos*: Lorenz-63 and Lorenz-96: valid time in Lyapunov times (relative error below 0.4), also for noisy
  data and starts.
- *oscillators*: pendulum, Duffing and van der Pol: MSE inside the window of the fit, and beyond it.
- *attractors*: ten attractors of the package dysts, chosen by a rule, without tuning.
- *linear*: eigenvalues of a linear system at irregular times with noise, compared with PyDMD's BOP-DMD.
- *size*: seconds and memory of ten thousand paths of a thousand rows.
- *series*: sunspots and CO2, a season ahead: MASE and CRPS, compared with seasonal naive and ARIMA.
- *convection*: fields of Rayleigh-Bénard convection, by some principal components.

``python -m experiments.benches.forecasting.hopper`` is the benchmark of latent ODEs.

Each other library runs in its own environment, which is made in the folder ``--environments`` when it is
first needed (``python -m experiments.benches.forecasting.environments`` makes all). If a library cannot be
installed or fails, the table has the reason instead of a number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...environment import machine, versions
from ..flow_spectrum.tables import plain
from . import attractors, chaos, convection, environments, linear, oscillators, rivals, series, size
from .systems import OSCILLATORS

PARTS = ("chaos", "oscillators", "attractors", "linear", "size", "series", "convection")
Table = dict[str, list[dict[str, float]]]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--problems", nargs="+", choices=list(chaos.PROBLEMS), default=list(chaos.PROBLEMS))
    parser.add_argument("--systems", nargs="+", choices=list(OSCILLATORS), default=list(OSCILLATORS))
    parser.add_argument("--attractors", nargs="+", help="names in dysts; by default ten, by a rule")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    names = list(rivals.CONFIGURATIONS)
    parser.add_argument("--rivals", nargs="*", choices=names, default=names, help="libraries; by default all")
    parser.add_argument("--environments", type=Path, default=environments.FOLDER, help="their folder")
    parser.add_argument(
        "--seconds", type=float, default=900.0, help="processor time for each configuration of a rival"
    )
    parser.add_argument("--quick", action="store_true", help="a few rows of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds = options.seeds[:1]
    return options


def gathered(measured: Sequence[Mapping[str, dict[str, float]]]) -> Table:
    """The rows of all seeds by name."""
    rows: Table = {}
    for table in measured:
        for name, row in table.items():
            rows.setdefault(name, []).append(row)
    return rows


def main() -> None:
    options = parsed()
    print(f"{versions()}, seeds {options.seeds}")
    results: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}}
    found = rivals.Rivals(tuple(options.rivals), options.environments, options.seconds)
    others = found if options.rivals else None
    seeds, quick = options.seeds, options.quick

    def say(part: str, rows: Table) -> None:
        results[part] = rows
        print(f"\n### {part}\n\n{plain(rows)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=2) + "\n")

    if "chaos" in options.parts:
        for name in options.problems:
            say(f"chaos, {name}", gathered([chaos.measure(name, s, others, quick=quick) for s in seeds]))
    if "oscillators" in options.parts:
        for name in options.systems:
            rows = gathered([oscillators.measure(name, s, others, quick=quick) for s in seeds])
            say(f"oscillators, {name}", rows)
    if "attractors" in options.parts:
        tables: dict[str, Table] = {}
        for name in options.attractors or attractors.names(found, quick=quick):
            tables[name] = gathered([attractors.measure(name, s, found, quick=quick) for s in seeds])
            say(f"attractors, {name}", tables[name])
        say("attractors, medians", attractors.medians(tables))
    if "linear" in options.parts:
        say("linear", gathered([linear.measure(s, others, quick=quick) for s in seeds]))
    if "size" in options.parts:
        say("size", gathered([size.measure(s, quick=quick) for s in seeds]))
    if "series" in options.parts:
        say("series", gathered([series.measure(s, found, quick=quick) for s in seeds]))
    if "convection" in options.parts:
        for rayleigh in convection.PROBLEMS:
            rows = gathered([convection.measure(rayleigh, s, others, quick=quick) for s in seeds])
            say(f"convection, Ra {rayleigh:g}", rows)


if __name__ == "__main__":
    main()
