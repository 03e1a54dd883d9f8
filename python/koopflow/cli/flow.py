"""``koopflow flow-spectrum``: the canonical spectrum of the flow of a teacher or student."""

from __future__ import annotations

import contextlib
import csv
from io import StringIO
from typing import Any

import numpy as np

from .. import plotting
from ..analysis import flow_spectrum as read_flow_spectrum
from ..exceptions import ArgumentError, ShapeError
from .inputs import load_either
from .options import Keywords, Option, Settings, command
from .results import DEVICE, RESULTS, output_folder, progress, refuse_existing, say, write

FILES = (
    "flow.safetensors",
    "summary.txt",
    "modes.csv",
    "rates.png",
    "energy.png",
    "blueprint.png",
    "groups.png",
    "flow_spectrum.toml",
)


@command(
    positional="model",
    run=(
        Option("model", "File of a teacher or a student."),
        Option("against", "File of another teacher or student, whose spectrum is compared with the first."),
        Option("output", "Folder for the results."),
    ),
    flow_spectrum=(
        Option("rows", "Number of groups that the summary lists.", int, 12),
        DEVICE,
        Keywords(read_flow_spectrum, skip=("source", "condition", "progress")),
    ),
    alone=RESULTS,
)
def flow_spectrum(settings: Settings) -> int:
    """Prints the canonical spectrum of a flow: the rates that all paths share, the share of the motion that
    is affine in the noise, and the modes of the rest. With --against it is compared with that of another
    model. With --output the spectrum is also written as a file, text, CSV and pictures."""
    keywords = settings.table("flow_spectrum")
    rows, device = keywords.pop("rows"), keywords.pop("device")
    models = [load_either(settings[name], device) for name in ("model", "against") if settings[name]]
    folder = None if settings["output"] is None else output_folder(settings, FILES)
    if folder is not None:
        refuse_existing(settings, [folder / name for name in FILES])
    shown = progress(quiet=settings["quiet"])
    spectra = [read_flow_spectrum(model, **keywords, progress=shown) for model in models]
    whole, text = spectra[0], spectra[0].summary(rows=rows)
    if len(spectra) > 1:
        text += f"\n\nagainst {settings['against']}\n{whole.compare(spectra[1]).summary(rows=rows)}"
    say(text)
    if folder is None:
        return 0
    whole.save(folder / FILES[0])
    lines, table = StringIO(), whole.records()
    # A flow that is affine has no modes.
    writer = csv.DictWriter(lines, fieldnames=list(table[0]) if table else ["mode"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    named = dict(zip(("model", "against"), spectra, strict=False))
    pictures: list[Any] = [plotting.flow_rates(named if len(named) > 1 else whole), None, None, None]
    draws: list[Any] = [plotting.flow_energy, plotting.blueprint, plotting.flow_groups]
    for place, draw in enumerate(draws, 1):
        # A flow without modes has no such picture, nor has one of colour images.
        with contextlib.suppress(ArgumentError, ShapeError):
            pictures[place] = np.ravel(draw(whole))[0]
    contents = (text + "\n", lines.getvalue(), *pictures, settings.to_toml())
    results = zip(FILES[1:], contents, strict=True)
    written = [write(folder / name, content) for name, content in results if content is not None]
    say(f"wrote {', '.join(map(str, [folder / FILES[0], *written]))}")
    return 0
