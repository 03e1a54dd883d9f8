"""Progress of long computations: a bar on a terminal or in a notebook, nothing, or calls of a function.

Every long computation of koopflow reports events of type :class:`ProgressEvent`. ``progress=True`` draws a
bar if standard error is a terminal or the code runs in a notebook. ``progress=False`` draws nothing, and
``progress=function`` calls the function with each event instead. A ``callback=function``, for logging, is
called in addition. An exception that one of these functions raises stops the computation and is passed on
unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TextIO, TypeAlias, TypedDict

from tqdm.auto import tqdm

LABELS = {
    "teacher": "training the teacher",
    "trajectories": "teacher trajectories",
    "student": "distilling",
    "closed_form": "linear solve",
    "sample": "sampling",
    "choose": "choosing",
    "fit": "linear solve",
    "refine": "smoothing and fitting",
    "forecaster": "training the forecaster",
    "tilt": "tilted sampling",
    "ablation": "ablation",
    "compare": "comparing",
}


class ProgressEvent(TypedDict, total=False):
    """One report of a long computation, a plain dictionary.

    ``stage`` is a key of ``LABELS``. ``step`` is the number of steps done of ``total``, and ``seconds`` the
    time since the stage began. ``values`` are named floats: each loss term, the learning rate, the held-out
    errors. A ``note`` is a message for the user, for instance about a restart after a divergence. An event
    with a note has no values.
    """

    stage: str
    step: int
    total: int
    seconds: float
    values: dict[str, float]
    note: str


ProgressFunction: TypeAlias = Callable[[ProgressEvent], object]


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel, where bars are widgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def somebody_is_looking(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal, or the code runs in a notebook."""
    if in_notebook():
        return True
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):
        # The stream was replaced by a logger, or is closed.
        return False


class ProgressMeter(AbstractContextManager["ProgressMeter"]):
    """A context manager that shows progress events. Its :attr:`monitor` is passed to the core.

    ``stream`` is where the bar is drawn, standard error by default. Nothing is drawn unless it is a terminal.

    Examples
    --------
    >>> seen = []
    >>> with ProgressMeter(progress=False, callback=seen.append) as meter:
    ...     meter({"stage": "student", "step": 1, "total": 2, "seconds": 0.1, "values": {"loss": 0.5}})
    >>> seen[0]["values"]["loss"]
    0.5
    """

    def __init__(
        self,
        *,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
        stream: TextIO | None = None,
    ) -> None:
        for name, function in (("progress", progress), ("callback", callback)):
            if not (function is None or isinstance(function, bool) or callable(function)):
                kinds = "True, False or a function" if name == "progress" else "None or a function"
                raise TypeError(f"{name}: expected {kinds}, got {type(function).__name__}")
        self._stream = sys.stderr if stream is None else stream
        self._listeners = [f for f in (progress, callback) if callable(f)]
        self._draws = progress is True and somebody_is_looking(self._stream)
        self._bar: Any = None
        self._stage = ""

    @property
    def monitor(self) -> Callable[[dict[str, Any]], object] | None:
        """The function that the core calls with each event, or None if no event is shown or passed on.

        None spares the core the calls of Python.
        """
        return self if self._draws or self._listeners else None  # type: ignore[return-value]

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event."""
        for listener in self._listeners:
            listener(event)
        if self._draws:
            try:
                self._draw(event)
            except (OSError, ValueError):
                # The terminal was closed; training goes on without a bar.
                self._draws, self._bar = False, None

    def _draw(self, event: ProgressEvent) -> None:
        if event["stage"] != self._stage or self._bar is None:
            self.close()
            self._stage = event["stage"]
            self._bar = tqdm(
                total=event["total"],
                desc=LABELS.get(self._stage, self._stage),
                file=None if in_notebook() else self._stream,
                dynamic_ncols=True,
                # The core decides when to report; tqdm's own throttle would drop the last values.
                mininterval=0.0,
                leave=self._stage != "sample",
            )
        bar = self._bar
        bar.total = event["total"]
        if "note" in event:
            bar.write(event["note"], file=self._stream)
            return
        bar.set_postfix_str(format_values(event["values"]), refresh=False)
        bar.n = event["step"]
        bar.refresh()

    def close(self) -> None:
        """Finish the bar that is drawn, if any."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(self, *_: object) -> None:
        self.close()


def format_values(values: dict[str, float]) -> str:
    """Named values on one line, three significant digits each.

    Examples
    --------
    >>> format_values({"loss": 0.12345, "endpoint_error": 2e-5})
    'loss 0.123, endpoint error 2e-05'
    """
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
