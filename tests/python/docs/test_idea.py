"""The page that tells the whole idea: its code runs, and what it says of the result is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[3] / "docs" / "idea.md"


@pytest.mark.notebook
# torch's own forward mode scripts its decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_the_idea_runs_from_top_to_bottom(capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    assert len(code.splitlines()) < 130
    state = torch.get_rng_state()
    names: dict = {}
    try:
        exec(compile(code, str(PAGE), "exec"), names)
    finally:
        torch.set_rng_state(state)
    assert names["error"] < 0.15
    # Modes and one drift for all make up the samples that the matrix exponential gave.
    drift = names["drift"]
    assert drift.std(0).max() < 1e-3 * names["sample"].std()
    assert names["moved"].std() > 0.1
    assert "endpoint error" in capsys.readouterr().out
