"""Environments of other libraries, made on demand, since their requirements are in conflict.

python -m experiments.benches.forecasting.environments --environments runs/forecasting-environments
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path("runs/forecasting-environments")
# Requirements for pip, in addition to those of the libraries themselves.
REQUIREMENTS = {
    "pykoopman": ("pykoopman==1.2.1",),
    "pydmd": ("pydmd==2025.8.1",),
    "kooplearn": ("kooplearn==2.0.3",),
    "dlkoopman": ("dlkoopman==1.2.1",),
    "dysts": ("dysts==0.96",),
    "statsmodels": ("statsmodels==0.15.0",),
    "sergio": ("sergio-scsim==1.9.3",),  # For the bench of populations.
}
SECONDS = 1800.0  # Time limit of one installation.


class Unavailable(RuntimeError):
    """Another library could not do something. The message is one line with the reason."""


def last_line(text: str, fallback: str) -> str:
    """The last line that is not empty, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    found = (errors or lines or [fallback])[-1]
    return found.replace("|", "/")[:160]


def interpreter(name: str, folder: Path = FOLDER) -> Path:
    """The Python of an environment, which is made if it does not exist. Raises ``Unavailable``.

    A failed installation is recorded in its folder. Delete the folder to try again.
    """
    place = folder.resolve() / name
    python, ready, failed = place / "bin" / "python", place / "ready.txt", place / "failed.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if ready.exists() and ready.read_text() == wanted:
        return python
    if failed.exists():
        raise Unavailable(failed.read_text())
    print(f"making an environment of {name} in {place}", flush=True)
    place.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    commands = (
        [sys.executable, "-m", "venv", str(place)],
        [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]],
    )
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            reason = f"not installed in {SECONDS:.0f} s"
        else:
            if done.returncode == 0:
                continue
            reason = f"not installed: {last_line(done.stderr, 'pip failed')}"
        failed.write_text(reason)
        raise Unavailable(reason)
    ready.write_text(wanted)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path, default=FOLDER, help="folder of all environments")
    options = parser.parse_args()
    for name in REQUIREMENTS:
        try:
            print(f"{name}: {interpreter(name, options.environments)}", flush=True)
        except Unavailable as error:
            print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    main()
