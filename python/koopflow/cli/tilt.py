"""``koopflow tilt``: samples of a student or teacher, given an observation or an energy."""

from __future__ import annotations

import inspect
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import energies, plotting
from ..steering import Observation, Tilted, TiltedSamples
from .inputs import array_file, input_file, load_either
from .options import Keywords, Option, Settings, UsageError, command
from .results import DEVICE, PICTURES, RESULTS, can_be_drawn, drawn, output_file, progress, say, write

ENDINGS = (".npz", ".npy", *PICTURES)
DRAWN = 64  # Samples in a picture.
TARGETS = tuple(
    name
    for name in energies.__all__
    if inspect.isfunction(getattr(energies, name)) and name not in ("annealed_log_z", "hybrid_monte_carlo")
)


@command(
    positional="model",
    run=(
        Option("model", "File of a student or a teacher."),
        Option(
            "output",
            "File for samples: .npz with weights and noise, .npy with samples of equal weight, or a picture. "
            "Without it only the diagnostics are printed.",
        ),
    ),
    tilt=(
        Option(
            "observe",
            "Two .npy files: the observed values (a mask, indices into the flattened sample, or a matrix), "
            "and the observations.",
            tuple[str, str] | None,
        ),
        Option("noise", "Standard deviation of the noise of the observations.", float, 0.1),
        Option("energy", f"Energy E of the target exp(-E / temperature): {', '.join(TARGETS)}."),
        Option("temperature", "Temperature that divides the energy.", float, 1.0),
        Option("label", "Class to sample, for a model with classes.", int | None),
        Option("n", "Number of samples.", int, 1024),
        DEVICE,
        Keywords(Tilted.sample, skip=("n", "reference", "progress")),
    ),
    alone=RESULTS,
)
def tilt(settings: Settings) -> int:
    """Draws samples from a student or teacher given an observation (--observe MASK VALUES --noise 0.1) or an
    energy. Prints diagnostics of their reliability."""
    keywords = settings.table("tilt")
    device, label = keywords.pop("device"), keywords.pop("label")
    given = {name: keywords.pop(name) for name in ("observe", "noise", "energy", "temperature")}
    if (given["observe"] is None) == (given["energy"] is None):
        got = "neither" if given["observe"] is None else "both"
        raise UsageError(f"--observe: expected either --observe or --energy, got {got}")
    asked: dict[str, Any] = {"temperature": given["temperature"], "condition": label}
    if given["observe"] is not None:
        operator, y = (_array(file) for file in given["observe"])
        asked["observation"] = Observation(operator, y, noise=given["noise"])
    elif given["energy"] in TARGETS:
        asked["energy"] = getattr(energies, given["energy"])()
    else:
        raise UsageError(f"--energy: expected one of {', '.join(TARGETS)}, got {given['energy']!r}")
    path = None if settings["output"] is None else output_file(settings, ENDINGS)
    model = load_either(settings["model"], device)
    found = model.tilt(**asked).sample(**keywords, progress=progress(quiet=settings["quiet"]))
    say(found.summary())
    if path is not None:
        say(f"wrote {_written(path, found, settings['seed'])}")
    return 0


def _array(file: str) -> NDArray[Any]:
    return array_file(input_file(file, "--observe", "two .npy files"), "--observe")[0]


def _written(path: Path, found: TiltedSamples, seed: int | None) -> Path:
    """Write samples in the format of the file's ending."""
    if path.suffix in PICTURES:
        shape = found.x.shape[1:]
        picture = (
            drawn(found.resample(DRAWN, seed=seed), None) if can_be_drawn(shape) else plotting.weights(found)
        )
        return write(path, picture)
    content = BytesIO()
    if path.suffix == ".npy":
        np.save(content, found.resample(seed=seed))
    else:
        np.savez(content, samples=found.x, log_weights=found.log_weights, noise=found.noise)
    return write(path, content.getvalue())
