"""The page that tells the whole idea: its code runs, and what it says of the result is so."""

from __future__ import annotations

import pytest


@pytest.mark.notebook
# torch's own forward mode scripts its decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_the_idea_runs_from_top_to_bottom(run_page, capsys):
    code, names = run_page("idea.md")
    assert len(code.splitlines()) < 130
    assert names["error"] < 0.15
    # Modes and one drift for all make up the samples that the matrix exponential gave.
    drift = names["drift"]
    assert drift.std(0).max() < 1e-3 * names["sample"].std()
    assert names["moved"].std() > 0.1
    assert "endpoint error" in capsys.readouterr().out
