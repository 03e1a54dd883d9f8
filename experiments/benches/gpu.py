"""All measurements on a GPU, in less than 12 minutes.

    python -m experiments.benches.gpu > gpu.md
    python -m experiments.benches.gpu --device cpu --quick        # whether it runs

The tests that need a device (``pytest -m gpu``) run first. Then samples and training steps per second, memory
and a comparison with PyTorch (:mod:`experiments.benches.image_speed`) are measured at two sizes: 28x28 with
about a million weights, and 32x32 in colour with about 35 million, the U-Net of CIFAR-10. A part that fails
or exceeds its time limit is reported, and the other parts still run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from ..environment import versions

SPEED = [sys.executable, "-m", "experiments.benches.image_speed"]
QUICK = ["--channels", "8", "--batch", "8", "--training-steps", "1", "--repeats", "1"]
MNIST = ["--multipliers", "1", "2", "2", "--attention", "4", "--heads", "4", "--compare"]
CIFAR = ["--shape", "3", "32", "32", "--channels", "128", "--multipliers", "1", "2", "2", "2"]
CIFAR += ["--blocks", "2", "--attention", "2", "--heads", "4", "--batch", "128", "--compare"]
# Time limits of the parts in seconds: tests, the small network, the large one.
SHARES = (150, 200, 340)


def part(title: str, command: list[str], limit: float) -> None:
    """Run a command with a time limit, pass on its output as it comes, and print how it ended."""
    print(f"\n## {title}\n", flush=True)
    started = time.monotonic()
    try:
        code = subprocess.run(command, timeout=limit, check=False).returncode
        ending = "done" if code == 0 else f"exit status {code}"
    except subprocess.TimeoutExpired:
        ending = f"stopped at its limit of {limit:.0f} s"
    print(f"\n({ending}; {time.monotonic() - started:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and no tests")
    options = parser.parse_args()
    print(versions())
    device = ["--device", options.device]
    if options.quick:
        small = [*device, *QUICK, "--compare"]
        part("28x28, quick", [*SPEED, *small, "--shape", "1", "8", "8"], SHARES[1])
        return
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--durations=5"]
    part("Tests that need a device", tests, SHARES[0])
    part("28x28, about 1 million weights", [*SPEED, *device, *MNIST], SHARES[1])
    part("32x32 in colour, about 35 million weights", [*SPEED, *device, *CIFAR], SHARES[2])


if __name__ == "__main__":
    main()
