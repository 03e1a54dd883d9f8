"""The page on the way from PyTorch and back: its code runs, and does what the page says of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

PAGE = Path(__file__).parents[3] / "docs" / "pytorch.md"


@pytest.mark.notebook
# torch's own, when it reads a program.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    state = torch.get_rng_state()
    names: dict = {}
    try:
        exec(compile(code, str(PAGE), "exec"), names)
    finally:
        torch.set_rng_state(state)
    for student in (names["student"], names["tuned"]):
        noise = names["noise"][:1000]
        off = student.invert(student.sample(x0=noise)) - noise
        assert np.sqrt(np.square(off).mean()) < 0.1
    height = names["guided"][:, 1]
    assert abs(height.mean() - 0.25) < 0.05
    assert height.std() < 0.1
    assert names["after"] < names["before"]
    expected = names["tuned"].sample(x0=names["x0"])
    for samples in (names["from_torch"], names["from_onnx"]):
        np.testing.assert_allclose(samples, expected, rtol=0.0, atol=1e-5)
