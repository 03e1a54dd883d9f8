"""Measurements of the canonical spectrum of flows: the tables of docs/spectrum.md.

    python -m experiments.benches.flow_spectrum                       # three seeds, hours on one core
    python -m experiments.benches.flow_spectrum --problems moons eight_gaussians
    python -m experiments.benches.flow_spectrum --problems digits --steps 1500
    python -m experiments.benches.flow_spectrum --parts images --mnist ../shared/data/mnist
    python -m experiments.benches.flow_spectrum --quick               # whether it runs

The parts are:

- *known*: eigenvalues of linear flows, and affine shares of Gaussian ones.
- *agreement*: agreement between the spectra of teachers of several seeds and of their students, with
controls.
- *cases*: a student compared with its teacher on the cases of ``experiments.benches.quality``.
- *truncation*: errors by k modes against the optimum for k components, on fresh noise; numbers of modes.
- *edits*: class directions in canonical amplitudes against those of a student's generator (digits only).
- *images*: time and memory at 28x28, for a native U-Net and an attached one of torchcfm.

Every trained model is kept in the folder ``--models``, so that an interrupted run can continue. Held-out
digits and fresh noise are used for measurements only, not for any choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...environment import machine, versions
from . import agreement, edits, images, tables, truncation
from .cases import measure_cases
from .models import PROBLEMS, Models

PARTS = ("known", "agreement", "cases", "truncation", "edits", "images")


def say(title: str, text: str) -> None:
    print(f"\n### {title}\n\n{text}", flush=True)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the teachers")
    parser.add_argument("--students", type=int, default=2, help="number of students of each teacher")
    parser.add_argument("--steps", type=int, help="training steps of every student, instead of its default")
    parser.add_argument("--teacher-steps", type=int, help="training steps of teachers except those of images")
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases that contain one of these")
    parser.add_argument("-n", type=int, default=4096, help="number of paths of a spectrum")
    parser.add_argument(
        "--models", type=Path, default=Path("runs/flow_spectrum"), help="folder of all models"
    )
    parser.add_argument("--mnist", type=Path, help="folder with the test images of MNIST, IDX")
    for kind, steps, paths in (("perceptron", 2000, 4096), ("unet", 600, 1024), ("torchcfm", 200, 64)):
        parser.add_argument(
            f"--{kind}-steps", type=int, default=steps, help="training steps; 0 leaves it out"
        )
        parser.add_argument(f"--{kind}-paths", type=int, default=paths, help="paths of its spectrum")
    parser.add_argument("--pictures", type=Path, help="folder for samples and modes of the image teachers")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.teacher_steps, options.n, options.seeds = 40, 200, 512, options.seeds[:2]
        options.perceptron_steps = options.unet_steps = options.torchcfm_steps = 4
        options.perceptron_paths = options.unet_paths = options.torchcfm_paths = 32
        options.cases = ["moons, OT"]
    return options


def main() -> None:
    options = parsed()
    print(f"{versions()}, seeds {options.seeds}, {options.students} students each, {options.n} paths")
    results: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}}

    def keep(part: str, found: Any) -> None:
        results[part] = found
        if options.output:
            options.output.write_text(json.dumps(results, indent=2) + "\n")

    every = {
        name: Models(
            PROBLEMS[name],
            options.models,
            steps=options.steps,
            teacher_steps=options.teacher_steps,
            n=options.n,
        )
        for name in options.problems
    }
    if "known" in options.parts:
        known = agreement.known(options.seeds, options.n)
        keep("known", known)
        say("Known spectra", tables.table(tables.KNOWN, {"mean (range)": known}))
    if "agreement" in options.parts:
        both = {name: agreement.measure(of, options.seeds, options.students) for name, of in every.items()}
        keep("agreement", both)
        say("Agreement", tables.table(tables.AGREEMENT, both))
    if "cases" in options.parts:
        rows = measure_cases(options.cases, options.models, options.steps, options.n)
        keep("cases", rows)
        say("Students compared with their teachers, one seed", tables.plain(rows))
    if "truncation" in options.parts:
        cut = {name: truncation.measure(of, options.seeds, options.students) for name, of in every.items()}
        keep("truncation", cut)
        say("Errors over all times, of the remainder's RMS", tables.truncation(cut))
        say("Numbers of modes of students", tables.table(tables.NEEDED, cut))
    if "edits" in options.parts and "digits" in every:
        moved = edits.measure(every["digits"], options.seeds, options.students)
        keep("edits", moved)
        say("Edits of held-out digits along class directions", tables.plain(moved))
    if "images" in options.parts:
        if options.mnist is None or not options.mnist.is_dir():
            print("\nimages: skipped, since --mnist is no folder")
            return
        steps = {kind: getattr(options, f"{kind}_steps") for kind in images.BATCH}
        paths = {kind: getattr(options, f"{kind}_paths") for kind in images.BATCH}
        timings = images.measure(options.models, options.mnist, steps, paths, options.pictures)
        keep("images", timings)
        say("Time and memory at 28x28", tables.plain({name: [row] for name, row in timings.items()}))


if __name__ == "__main__":
    main()
