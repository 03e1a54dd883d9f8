"""Arguments that are no arrays, counts or seeds are named before NumPy or the core sees them."""

import numpy as np
import pytest

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError, ShapeError


@pytest.mark.parametrize("seed", [-1, 2**64, None, 3.5, "0", True])
def test_seeds(gaussian, student, seed):
    for model in (gaussian, student):
        with pytest.raises(ArgumentError, match="seed: expected an integer"):
            model.sample(4, seed=seed)
    np.testing.assert_array_equal(gaussian.sample(4, seed=np.int64(3)), gaussian.sample(4, seed=3))


def test_rows_of_different_lengths(gaussian):
    ragged = [[1.0, 2.0], [3.0]]
    for call in (lambda: gaussian.sample(x0=ragged), lambda: FlowTeacher((2,)).fit(ragged, progress=False)):
        with pytest.raises(ShapeError, match="rows of different lengths"):
            call()
