"""Other libraries, each in its own environment, on the same paths and starts.

An adapter (``adapters/with_*.py``) runs in that environment as ``python with_x.py task.npz answer.npz
configuration``. A task has ``paths`` [N, T, D], ``dt``, ``contexts`` [B, H, D], whose last rows are the
starts, and ``leads`` [L], all one step ``dt`` apart. The answer has ``forecasts`` [L, B, D], and the
``seconds`` and processor time, ``worked``, of the fit.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clock import WALL, WORKED
from .environments import FOLDER, Unavailable, interpreter, last_line
from .scores import Real

ADAPTERS = Path(__file__).parent / "adapters"
# Configurations of each library, by the names in its adapter.
CONFIGURATIONS = {
    "pykoopman": (
        "EDMD, random Fourier features, predict",
        "EDMD, random Fourier features, simulate",
        "EDMD, polynomials, predict",
        "EDMD, polynomials, simulate",
    ),
    "pydmd": (
        "DMD of all pairs",
        "Hankel DMD of each context",
        "EDMD, Gaussian kernel",
        "LANDO, Gaussian kernel",
    ),
    "kooplearn": ("Nyström reduced rank, n_steps", "Nyström reduced rank, one step repeated"),
    "dlkoopman": ("TrajPred",),
}


@dataclass(frozen=True)
class Task:
    """Paths to fit to, and starts with their contexts to forecast from."""

    paths: Real
    dt: float
    contexts: Real
    leads: Real


def ask(
    name: str, words: list[str], task: Mapping[str, Any], folder: Path, seconds: float
) -> dict[str, NDArray[Any]]:
    """The results of an adapter. Raises ``Unavailable`` with the reason if there are none."""
    python = interpreter(name, folder)
    # The adapter runs without this package's folder, and on one thread like everything else.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "CUDA_VISIBLE_DEVICES": ""}
    limit = int(seconds)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))

    with tempfile.TemporaryDirectory() as place:
        given, answer = Path(place) / "task.npz", Path(place) / "answer.npz"
        np.savez(given, **dict(task))
        command = [str(python), "-W", "ignore", str(ADAPTERS / f"with_{name}.py"), str(given), str(answer)]
        done = subprocess.run(
            [*command, *words],
            capture_output=True,
            text=True,
            env=environment,
            cwd=place,
            check=False,
            preexec_fn=limited,
        )
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise Unavailable(f"not done in {seconds:.0f} s of the processor, or out of memory")
        if done.returncode or not answer.exists():
            raise Unavailable(last_line(done.stderr, f"ended with {done.returncode}"))
        with np.load(answer) as found:
            return dict(found)


@dataclass(frozen=True)
class Rivals:
    """Libraries to compare with, the folder of their environments, and the processor time for each."""

    names: tuple[str, ...] = tuple(CONFIGURATIONS)
    folder: Path = FOLDER
    seconds: float = 900.0

    def forecasts(self, task: Task) -> Iterator[tuple[str, Real | None, dict[str, float]]]:
        """Label, forecasts ``[L, B, D]`` and time of the fit, for every configuration.

        Forecasts are None if a library failed; the label then says why.
        """
        shape = (len(task.leads), len(task.contexts), task.paths.shape[2])
        for name in self.names:
            for words in CONFIGURATIONS[name]:
                label = f"{name}, {words}"
                try:
                    found = ask(name, [words], vars(task), self.folder, self.seconds)
                    if found["forecasts"].shape != shape:
                        raise Unavailable(f"forecasts of shape {found['forecasts'].shape}, not {shape}")
                except Unavailable as error:
                    yield f"{label}: {error}", None, {}
                else:
                    took = {WALL: float(found["seconds"]), WORKED: float(found["worked"])}
                    yield label, found["forecasts"], took
