"""Estimated time of one sum of a gradient between GPUs, by the usual model of a ring (not a measurement).

A ring of W ranks sends 2 (W - 1) / W of the bytes through each link, in 2 (W - 1) turns, each with a latency
(Patarasu and Yuan, J. Parallel Distrib. Comput. 69, 2009). Up to eight GPUs of one machine are connected by
NVLink. More are connected by a network between machines, whose slower links determine the time.
"""

from __future__ import annotations

from collections.abc import Sequence

SIZES = (2, 4, 8, 16, 32, 64)
WITHIN, MACHINE = 8, "NVLink"
# Bytes per second and latency in seconds of one link: NVLink 4 in one direction, and a network of 400 Gbit/s.
LINKS = {"NVLink": (450e9, 3e-6), "network": (50e9, 10e-6)}
# Other values sent with a gradient (losses, state of the step) are negligible.
BYTES = 4


def seconds(parameters: int, ranks: int) -> float:
    """Seconds of one sum."""
    bandwidth, latency = LINKS[MACHINE if ranks <= WITHIN else "network"]
    turns = 2 * (ranks - 1)
    return turns * (latency + BYTES * parameters / ranks / bandwidth)


def table(models: Sequence[tuple[str, int]]) -> str:
    """A table of milliseconds in Markdown."""
    lines = [f"| gradient of | values | {' | '.join(f'{size} GPUs' for size in SIZES)} |"]
    lines.append("|---" * (2 + len(SIZES)) + "|")
    for name, parameters in [*models, ("a U-Net of 100 M", 100_000_000)]:
        cells = [f"{1e3 * seconds(parameters, size):.2f} ms" for size in SIZES]
        lines.append(f"| {name} | {parameters:,} | {' | '.join(cells)} |")
    return "\n".join(lines)
