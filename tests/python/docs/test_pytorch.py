"""The page on the way from PyTorch and back: its code runs, and does what the page says of it."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.notebook
# torch's own, when it reads a program.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_the_page_runs_from_top_to_bottom(run_page, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    monkeypatch.chdir(tmp_path)
    _, names = run_page("pytorch.md")
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
