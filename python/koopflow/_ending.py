"""Warnings and errors about the end of a fit, common to teachers, students and baselines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from .exceptions import DivergenceError


def tell_ending(history: Mapping[str, Any], kept: str) -> None:
    """Warn of a fit that was interrupted, ran out of time or could not write its checkpoint.

    ``history`` is the fit's ``history_``, and ``kept`` names the result, for instance "the teacher so far".
    Call this last, when the result is in place. Raises ``DivergenceError`` for a fit that diverged.
    """
    steps, notes = history.get("steps"), history.get("notes") or []
    last: Mapping[str, Any] = notes[-1] if notes else {"step": None, "text": ""}
    if last["step"] == steps and last["text"].startswith("the checkpoint could not be written"):
        warnings.warn(last["text"], RuntimeWarning, stacklevel=3)
    for note in notes:
        if note["text"].startswith("max_seconds"):
            warnings.warn(note["text"], RuntimeWarning, stacklevel=3)
    if history.get("stopped") == "interrupted":
        warnings.warn(f"interrupted after {steps} steps; {kept} is kept", RuntimeWarning, stacklevel=3)
    if history.get("stopped") == "diverged":
        raise DivergenceError(f"training diverged: {last['text']} (try a smaller learning_rate)")
