"""The law of training times, as people say it, and what comes of it; its quantiles: tests/rust/flow.rs."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError

DATA = np.random.default_rng(0).normal(size=(512, 2)).astype(np.float32)
SMALL = {"width": 16, "depth": 1, "steps": 40, "batch_size": 64}


def test_a_name_is_the_law_with_the_numbers_of_the_docs():
    def trained(sampler):
        return FlowTeacher((2,), time_sampler=sampler, **SMALL).fit(DATA, progress=False).sample(8)

    assert np.array_equal(trained("logit_normal"), trained({"logit_normal": {"mean": 0, "deviation": 1}}))
    assert np.array_equal(trained("power"), trained({"power": {"exponent": 1.0}}))
    assert not np.array_equal(trained("uniform"), trained("logit_normal"))


def test_a_power_near_the_data_fits_there_better():
    """Times near 1 only, against times near 0 only: each knows v where it was trained."""
    options = {"width": 64, "depth": 2, "steps": 300, "coupling": "independent", "seed": 1}
    late = FlowTeacher((2,), time_sampler={"power": {"exponent": 20.0}}, **options)
    early = FlowTeacher((2,), time_sampler={"power": {"exponent": -0.95}}, **options)
    data = DATA + np.float32(2)
    late.fit(data, progress=False)
    early.fit(data, progress=False)
    # Standard normal data about 2: v is in closed form.
    exact = FlowTeacher.gaussian([2.0, 2.0], np.eye(2))
    x = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)

    def error(teacher, t):
        at = x + np.float32(2 * t)
        return float(np.mean((teacher.velocity(t, at) - exact.velocity(t, at)) ** 2))

    assert error(late, 0.98) < error(early, 0.98)
    assert error(early, 0.02) < error(late, 0.02)


def test_files_and_copies_keep_it(tmp_path):
    teacher = FlowTeacher((2,), time_sampler={"power": {"exponent": 2.0}}, **SMALL)
    teacher.fit(DATA, progress=False).save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    assert loaded.time_sampler == {"power": {"exponent": 2.0}}
    assert np.array_equal(loaded.sample(4), teacher.sample(4))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("normal", "time_sampler: expected 'uniform', 'logit_normal'"),
        (None, "time_sampler: expected 'uniform'"),
        ({"power": 2.0}, "time_sampler: expected 'uniform'"),
        ({"power": {"exponent": -1.0}}, "time_sampler: expected a power with an exponent above -1, got -1"),
        (
            {"logit_normal": {"deviation": 0}},
            "time_sampler: expected a logit_normal with a deviation above 0",
        ),
        ({"logit_normal": {"spread": 1.0}}, "time_sampler"),
    ],
)
def test_wrong_laws_are_named(sampler, message):
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher((2,), time_sampler=sampler, **SMALL).fit(DATA, progress=False)


def test_snapshots_refuse_it():
    with pytest.raises(ArgumentError, match="time_sampler: expected 'uniform' for snapshots"):
        FlowTeacher.snapshots([DATA, DATA + 1], [0.0, 1.0], time_sampler="power", progress=False, **SMALL)
