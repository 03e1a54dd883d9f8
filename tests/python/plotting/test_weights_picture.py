"""The picture of weights shows the figures that it is about."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import plotting
from koopflow.exceptions import DivergenceError


def test_the_curve_is_the_share_of_the_heaviest(gaussian):
    found = gaussian.tilt(reward=lambda x: 2.0 * x[:, 1]).sample(512, method="importance")
    ax = plotting.weights(found, title="tilted")
    curve = ax.lines[1].get_xydata()
    heaviest = np.sort(found.weights)[::-1]
    np.testing.assert_allclose(curve[:, 0], np.arange(1, 513))
    np.testing.assert_allclose(curve[:, 1], np.cumsum(heaviest))
    words = " ".join(text.get_text() for text in ax.texts)
    assert f"{found.ess:.0f} effective" in words
    assert f"Pareto k {found.pareto_k:.2f}" in words
    assert ("unreliable" in words) is not found.reliable


def test_what_cannot_be_trusted_is_said(gaussian):
    far = gaussian.tilt(reward=lambda x: -50.0 * (x[:, 0] - 9.0) ** 2).sample(256, method="importance")
    assert any("unreliable" in text.get_text() for text in plotting.weights(far).texts)
    with pytest.raises(TypeError, match="found: expected TiltedSamples"):
        plotting.weights(far.weights)
    never = gaussian.tilt(reward=lambda x: x[:, 0] * 0 - float("inf")).sample(64, method="importance")
    with pytest.raises(DivergenceError, match="no sample"):
        plotting.weights(never)
