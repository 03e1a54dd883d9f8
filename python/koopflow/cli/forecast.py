"""``koopflow forecast``: fits a forecaster to observed sequences, and forecasts them."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plotting
from .._arrays import as_integer, as_number
from .._checkpointing import check_apart, check_place
from .._tables import text_table
from ..forecasting import KoopmanForecaster
from .inputs import input_file
from .observed import Observed
from .options import Keywords, Option, Settings, Stopped, UsageError, command
from .results import PICTURES, RESULTS, keep, output_file, progress, say, write

ENDINGS = (".npz", ".npy", *PICTURES)
# Options of a forecaster that also apply to a fitted one.
HEEDED = ("seed", "device")


@command(
    positional="paths",
    run=(
        Option(
            "paths",
            "File of paths: .npy [N, T, *event], [T, d] for one path or [T] for one series; .npz with paths "
            "and optionally times, mask, inputs and condition; or .csv with a header, for one path.",
        ),
        Option(
            "output",
            "File for the forecast: .npz with times, mean and members, .npy with the mean, or a picture of "
            "the first path's forecast. Without it a few rows of the first path's forecast are printed.",
        ),
        Option("model", "File of a fitted forecaster, to use in place of fitting one."),
        Option("save", "File for the fitted forecaster."),
    ),
    forecaster=(Keywords(KoopmanForecaster),),
    forecast=(
        Option("ahead", "Number of steps to forecast from the end of every path; 0 for none.", int, 50),
        Option("members", "Number of members of the ensemble; 0 for one forecast without noise.", int, 32),
        Option(
            "evaluate",
            "Whether to hold out the last fifth of the paths, or of the rows of a single path, and to print "
            "the errors on it. With --model all paths are used for the errors.",
            bool,
            False,
        ),
        Option("coordinate", "Index in the flattened row of the value that is drawn or printed.", int, 0),
        Option("level", "Share of the members inside the outer band, or the printed one.", float, 0.9),
    ),
    alone=RESULTS,
)
def forecast(settings: Settings) -> int:
    """Fits a forecaster to observed sequences, or loads one with --model, and forecasts from the end of every
    path. Times of a forecast are relative to that end. The mean is [T, N, *event], and the members are
    [M, T, N, *event]."""
    asked = settings.table("forecast")
    ahead = as_integer(asked["ahead"], "--ahead", least=0)
    members = as_integer(asked["members"], "--members", least=0)
    level = as_number(asked["level"], "--level", "a share in (0, 1)", lambda share: 0.0 < share < 1.0)
    path = None if settings["output"] is None else output_file(settings, ENDINGS)
    if path is not None and not ahead:
        raise UsageError(f"--output: expected none with --ahead 0 (no forecast), got {str(path)!r}")
    save = _place_of_model(settings)
    given = Observed.of(input_file(settings["paths"], "paths", "a file of paths"), ahead)
    coordinate = as_integer(asked["coordinate"], "--coordinate", least=0, most=given.size - 1)
    model = _model(settings, given, save)
    if not ahead:
        return 0
    rows, steps = given.beginnings(model), model.step_ * np.arange(1, ahead + 1)
    keywords = {"inputs": given.inputs_ahead(ahead), "condition": given.condition, "seed": settings["seed"]}
    shown = progress(quiet=settings["quiet"])
    found = np.asarray(model.forecast(rows, steps, members=members, **keywords, progress=shown))
    arrays = {"times": steps, "mean": found.mean(axis=0) if members else found}
    if members:
        arrays["members"] = found
    if path is None:
        say(_printed(given, arrays, coordinate, level))
    elif path.suffix in PICTURES:
        say(f"wrote {write(path, _drawn(given, arrays, coordinate, level))}")
    else:
        content = BytesIO()
        if path.suffix == ".npy":
            np.save(content, arrays["mean"])
        else:
            np.savez(content, **arrays)  # type: ignore[arg-type]
        say(f"wrote {write(path, content.getvalue())}")
    return 0


def _place_of_model(settings: Settings) -> Path | None:
    """The file of ``--save``, after checks: it can be written, does not exist and is not an input."""
    given = settings["save"]
    if given is None:
        return None
    if settings["model"] is not None:
        raise UsageError("--save: expected either --save or --model, got both")
    path = Path(given)
    if path.suffix != ".safetensors":
        raise UsageError(f"--save: expected a file that ends in .safetensors, got {given!r}")
    if path.exists() and not settings["overwrite"]:
        raise UsageError(f"--save: {path} already exists: --overwrite replaces it")
    check_apart(**{"paths": settings["paths"], "--output": settings["output"], "--save": given})
    check_place("--save", path, "a forecaster")
    return path


def _model(settings: Settings, given: Observed, save: Path | None) -> KoopmanForecaster:
    """The forecaster of ``--model``, or a fitted one. Prints its summary and evaluation.

    Raises ``Stopped`` after Ctrl-C if the best model so far was saved.
    """
    evaluate = settings["evaluate"]
    learnt = held_out = given
    if settings["model"] is not None:
        for name in settings.table("forecaster", given=True):
            if name not in HEEDED:
                raise UsageError(f"--{name}: expected no option of a fit with --model, which is fitted")
        file = input_file(settings["model"], "--model", "a forecaster's file")
        model = KoopmanForecaster.load(file, device=settings["device"])
    else:
        if evaluate:
            learnt, held_out = given.split()
        model = KoopmanForecaster(**settings.table("forecaster"))
        shown = progress(quiet=settings["quiet"])
        model.fit(learnt.paths, learnt.times, **learnt.beside(), progress=shown)
        if save is not None:
            keep(model, save)
        if model.history_.get("stopped") == "interrupted":
            if save is None:
                raise KeyboardInterrupt
            raise Stopped(f"interrupted: the best forecaster so far is {save}")
    say(model.summary())
    if evaluate:
        say(f"\n{_report(settings, model, held_out, whole=learnt is held_out)}\n")
    if save is not None:
        say(f"wrote {save}")
    return model


def _report(settings: Settings, model: KoopmanForecaster, given: Observed, *, whole: bool) -> str:
    """Errors on held-out paths, for as many steps ahead as their length allows."""
    count, length = given.rows.shape[:2]
    longest = max(given.longest_run() - model.history, 1)
    # On a single path, forecasts start within its first half.
    half = max(longest // 2, 1)
    ahead = min(settings["ahead"] or half, longest if count > 1 else half)
    keywords = {"ahead": ahead, "members": settings["members"], "seed": settings["seed"]}
    report = model.evaluate(given.paths, given.times, **given.beside(), **keywords)
    kind = f"{count} paths" if count > 1 else f"{length} rows"
    return f"{f'errors on {kind}' if whole else f'errors on the last {kind}, held out'}\n{report}"


def _first(states: NDArray[Any], coordinate: int) -> NDArray[Any]:
    """One coordinate of the first path, ``[T]``, from states ``[T, N, *event]``."""
    chosen: NDArray[Any] = states[:, 0].reshape(len(states), -1)[:, coordinate]
    return chosen


def _printed(given: Observed, arrays: dict[str, Any], coordinate: int, level: float) -> str:
    """A few rows of the first path's forecast, geometrically spaced."""
    steps = arrays["times"]
    columns = {"time": given.end_time(0) + steps, "mean": _first(arrays["mean"], coordinate)}
    if "members" in arrays:
        members = np.stack([_first(states, coordinate) for states in arrays["members"]])
        tail = (1.0 - level) / 2
        low, high = np.quantile(members, [tail, 1.0 - tail], axis=0)
        columns |= {f"{100 * tail:.3g}%": low, f"{100 * (1.0 - tail):.3g}%": high}
    places = np.unique(np.geomspace(1, len(steps), min(8, len(steps))).round().astype(int)) - 1
    rows = [{name: float(column[place]) for name, column in columns.items()} for place in places]
    largest = max(abs(value) for row in rows for name, value in row.items() if name != "time")
    digits = 4 if not 0 < largest < math.inf else max(0, 3 - math.floor(math.log10(largest)))
    table = text_table(rows, decimals={name: digits if name != "time" else 4 for name in columns})
    return f"forecast of {given.name_of(coordinate)}\n{table}"


def _drawn(given: Observed, arrays: dict[str, Any], coordinate: int, level: float) -> Any:
    """Axes with the forecast fan of the first path, after up to twice as many observed rows."""
    steps, members = arrays["times"], arrays.get("members")
    until = int(given.ends[0]) + 1
    since = max(0, until - 2 * len(steps))
    ax = plotting.forecast_fan(
        given.end_time(0) + steps,
        arrays["mean"][:, 0] if members is None else None,
        members=None if members is None else members[:, :, 0],
        history=given.rows[0, since:until],
        history_times=given.times[0, since:until],
        coordinate=coordinate,
        level=level,
        title=f"the first of {len(given.rows)} paths" if len(given.rows) > 1 else None,
    )
    if given.names is not None:
        ax.set_ylabel(given.names[coordinate])
    return ax
