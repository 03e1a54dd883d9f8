"""The page on sources, clocks and segments: its code runs, and does what the page says of it."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.notebook
def test_the_page_runs_from_top_to_bottom(run_page):
    _, names = run_page("sources.md")
    assert names["path"].shape == (3, 8, 2)
    # Samples are nearer to moons than what they start from.
    moons, gaussians = names["moons"], names["gaussians"]

    def distance(x: np.ndarray) -> float:
        return float(np.linalg.norm(x[:, None] - moons[None, :1000], axis=2).min(axis=1).mean())

    assert distance(gaussians[:200]) > 2.0 * distance(names["path"][2])
    assert names["early"].clock.end == names["late"].clock.start == 0.5
    assert names["x"].shape == names["back"].shape == (100, 2)
