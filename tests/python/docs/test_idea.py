"""The page that tells the whole idea: its code runs, and what it says of the result is so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm


@pytest.mark.notebook
def test_the_idea_runs_from_top_to_bottom(run_page, capsys):
    code, names = run_page("idea.md")
    assert len(code.splitlines()) <= 110
    assert "import torch" not in code
    error, exact = names["error"], names["exact"]
    assert error(names["sample"], exact[-1]) < 0.15
    assert error(names["halfway"], exact[16]) < 0.1
    assert error(names["back"], names["noise"]) < 0.15
    g = names["lift"](0, names["noise"])
    np.testing.assert_allclose(names["propagate"](g, 0.7), g @ expm(0.7 * names["L"]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(names["noise"] + names["moved"] @ names["modes"], names["sample"], atol=1e-9)
    assert "end of the path" in capsys.readouterr().out
