"""Chains of teachers and reversed ones, against affine maps and densities in closed form."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, KoopmanDistiller, Trajectories
from koopflow.exceptions import ArgumentError, DtypeError, ShapeError

LAWS = [([1.0, -2.0], 0.5), ([0.5, 3.0], 2.0), ([-1.0, 0.0], 1.5)]
BLOCKS = [FlowTeacher.gaussian(mean, scale**2 * np.eye(2), dtype="float64") for mean, scale in LAWS]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def mapped(x: np.ndarray) -> np.ndarray:
    """Where the chain leads: the maps of Gaussian flows are affine."""
    for mean, scale in LAWS:
        x = mean + scale * x
    return x


@pytest.fixture(scope="module")
def chain() -> FlowTeacher:
    return FlowTeacher.chain(BLOCKS)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((40, 2))


def test_samples_are_those_of_one_flow_after_the_other(chain, noise):
    np.testing.assert_allclose(chain.sample(x0=noise, **TIGHT), mapped(noise), atol=1e-6)
    path = chain.trajectory(noise, times=[0.0, 1 / 3, 0.4, 1.0], **TIGHT)
    np.testing.assert_allclose(path[1], LAWS[0][0] + LAWS[0][1] * noise, atol=1e-6)
    np.testing.assert_allclose(chain.trajectory(path[-1], times=[1.0, 0.0], **TIGHT)[-1], noise, atol=1e-6)
    assert chain.field.breaks == pytest.approx([1 / 3, 2 / 3])
    assert chain.field.kind == "chain"
    assert chain.training_data_ is None


def test_log_densities_add_up(chain):
    x = mapped(np.random.default_rng(2).standard_normal((20, 2)))
    exact = multivariate_normal(mapped(np.zeros(2)), 1.5**2 * np.eye(2)).logpdf(x)
    np.testing.assert_allclose(chain.log_prob(x, **TIGHT), exact, atol=1e-5)
    total, state, base = 0.0, x, multivariate_normal([0.0, 0.0])
    for block in reversed(BLOCKS):
        before = block.trajectory(state, times=[1.0, 0.0], **TIGHT)[-1]
        total = total + block.log_prob(state, **TIGHT) - base.logpdf(before)
        state = before
    np.testing.assert_allclose(chain.log_prob(x, **TIGHT), total + base.logpdf(state), atol=1e-5)


def test_evaluations_are_counted(chain, noise):
    before = chain.evaluations
    chain.sample(x0=noise, solver="euler", steps=9)
    assert chain.evaluations - before == 9
    before = chain.evaluations
    chain.velocity(np.linspace(0.0, 1.0, 40), noise)
    assert chain.evaluations - before == 3


def test_clocks_that_follow_on_each_other_are_kept(noise):
    parts = [
        FlowTeacher.from_torch(lambda t, x: 0.002 * t[:, None] * x, (2,), horizon=ends, dtype="float64")
        for ends in [(12.0, 18.0), (18.0, 48.0)]
    ]
    chain = FlowTeacher.chain(parts)
    assert (chain.clock.start, chain.clock.end) == (12.0, 48.0)
    path = chain.trajectory(noise, times=[12.0, 15.0, 20.0, 48.0], **TIGHT)
    for state, time in zip(path, (12.0, 15.0, 20.0, 48.0), strict=True):
        np.testing.assert_allclose(state, noise * np.exp(0.001 * (time**2 - 144.0)), rtol=1e-6)
    np.testing.assert_allclose(chain.velocity(30.0, noise), 0.06 * noise)
    given = FlowTeacher.chain(BLOCKS[:2], breaks=[2.0, 3.0, 10.0])
    middle = given.trajectory(noise, times=[2.0, 3.0], **TIGHT)[-1]
    np.testing.assert_allclose(middle, LAWS[0][0] + LAWS[0][1] * noise, atol=1e-6)


@pytest.mark.parametrize("name", ["save", "pickle"])
def test_chains_are_kept(chain, noise, tmp_path, name):
    if name == "save":
        chain.save(tmp_path / "chain.safetensors")
        again = FlowTeacher.load(tmp_path / "chain.safetensors")
    else:
        again = pickle.loads(pickle.dumps(chain))
    np.testing.assert_array_equal(again.sample(x0=noise), chain.sample(x0=noise))


def attached_velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x + t[:, None]


def test_attached_models_are_chained_copied_and_not_saved(noise, tmp_path):
    attached = FlowTeacher.from_torch(attached_velocity, (2,), dtype="float64")
    chain = FlowTeacher.chain([BLOCKS[0], attached])
    again = copy.deepcopy(chain)
    np.testing.assert_array_equal(again.sample(x0=noise), chain.sample(x0=noise))
    with pytest.raises(ValueError, match="'chain'"):
        chain.save(tmp_path / "chain.safetensors")


@pytest.mark.parametrize("kind", ["stored", "attached"])
def test_twins_answer_alike(noise, kind):
    last = BLOCKS[2] if kind == "stored" else FlowTeacher.from_torch(attached_velocity, (2,), dtype="float64")
    chain = FlowTeacher.chain([BLOCKS[0], BLOCKS[1].reversed(), last], breaks=[0.0, 0.2, 0.9, 1.0])
    module, times = chain.to_torch(), np.linspace(0.0, 1.0, 40)
    x = torch.from_numpy(noise).requires_grad_()
    np.testing.assert_allclose(
        module(torch.from_numpy(times), x).detach(), chain.velocity(times, noise), atol=1e-10
    )
    (slopes,) = torch.autograd.grad(module(torch.from_numpy(times), x).sum(), x)
    assert torch.isfinite(slopes).all()
    if kind == "stored":
        again = FlowTeacher.from_torch_module(module)
        np.testing.assert_array_equal(again.velocity(times, noise), chain.velocity(times, noise))


def test_reversed_flows_lead_back_and_count_in_the_same_clock(chain, noise):
    back = chain.reversed()
    np.testing.assert_allclose(back.sample(x0=mapped(noise), **TIGHT), noise, atol=1e-6)
    np.testing.assert_allclose(back.velocity(0.1, noise), -chain.velocity(0.9, noise), atol=1e-12)
    drawn = back.trajectory(n=2000, times=[0.0, 1.0])
    np.testing.assert_allclose(drawn[0].mean(0), mapped(np.zeros(2)), atol=0.15)
    np.testing.assert_allclose(drawn[1].std(0), 1.0, atol=0.06)
    exact = multivariate_normal([0.0, 0.0]).logpdf(noise)
    np.testing.assert_allclose(back.log_prob(noise, **TIGHT), exact, atol=1e-3)
    np.testing.assert_allclose(back.reversed().velocity(0.3, noise), chain.velocity(0.3, noise), atol=1e-12)


def test_the_source_is_the_first_ones(noise):
    rows = noise.astype(np.float32) + 7.0
    options = {"width": 8, "depth": 1, "steps": 5}
    first = FlowTeacher((2,), source=rows, **options).fit(noise, progress=False)
    second = FlowTeacher((2,), source=first, **options).fit(noise, progress=False)
    begun = FlowTeacher.chain([first, second]).trajectory(n=20, times=[0.0, 1.0])[0]
    assert np.abs(begun[:, None] - rows[None]).max(2).min(1).max() == 0.0
    assert FlowTeacher.chain([second, first]).field.source.kind == "flow"


def test_students_have_the_kinks_among_their_points(chain):
    options = {"observables": 8, "width": 16, "depth": 1, "steps": 10}
    notes = []
    for path_steps in (12, 16):
        student = KoopmanDistiller(trajectories=Trajectories(64, path_steps=path_steps), **options)
        student.fit(chain, progress=False)
        notes.append(" ".join(str(note) for note in student.history_["notes"]))
    assert "kinks" not in notes[0]
    assert "path_steps=16" in notes[1]
    assert "0.3333, 0.6667" in notes[1]
    assert "a multiple of 3" in notes[1]


def test_windows_and_chains_undo_each_other(chain, noise):
    whole = BLOCKS[1]
    again = FlowTeacher.chain([whole.window(0.0, 0.4), whole.window(0.4, 1.0)])
    np.testing.assert_allclose(again.velocity(0.7, noise), whole.velocity(0.7, noise), atol=1e-12)
    np.testing.assert_allclose(again.sample(x0=noise, **TIGHT), whole.sample(x0=noise, **TIGHT), atol=1e-6)
    # Windows that end at a break see one side of it alone.
    for place, block in enumerate(BLOCKS):
        part = chain.window(place / 3, (place + 1) / 3)
        for solver in ({"solver": "rk4", "steps": 30}, TIGHT):
            found = part.sample(x0=noise, **solver)
            np.testing.assert_allclose(found, block.sample(x0=noise, **TIGHT), atol=1e-5)
    twin = chain.window(0.2, 0.9).to_torch()
    again = FlowTeacher.from_torch_module(FlowTeacher.chain([chain.window(0.2, 0.9), BLOCKS[0]]).to_torch())
    half = again.velocity(0.1, noise)
    expected = twin(torch.full((40,), 0.2 + 0.2 * 0.7), torch.from_numpy(noise)) * 0.7 / 0.5
    np.testing.assert_allclose(half, expected.detach(), atol=1e-6)


def test_multistep_methods_begin_anew_at_kinks(noise):
    chain = FlowTeacher.chain(BLOCKS, breaks=[0.0, 0.37, 0.8, 1.0])
    gaps = [
        np.abs(chain.sample(x0=noise, solver="ab2", steps=steps) - mapped(noise)).max() for steps in (80, 160)
    ]
    assert gaps[0] / gaps[1] > 3.3


def labelled(classes: int) -> FlowTeacher:
    return FlowTeacher.from_torch(lambda t, x, y: y[:, None] - x, (2,), num_classes=classes, dtype="float64")


def test_labels_reach_all_parts(noise):
    chain = FlowTeacher.chain([labelled(3), labelled(3)])
    labels = np.arange(40) % 3
    found = chain.sample(x0=noise, condition=labels, **TIGHT)
    for _ in range(2):
        noise = labels[:, None] + (noise - labels[:, None]) * np.exp(-1.0)
    np.testing.assert_allclose(found, noise, atol=1e-6)


@pytest.mark.parametrize(
    ("teachers", "error", "text"),
    [
        ([], ArgumentError, "teachers: expected at least one teacher, got none"),
        (BLOCKS[0], ArgumentError, "teachers: expected a sequence"),
        ([BLOCKS[0], "moons"], TypeError, r"teachers\[1\]: expected a FlowTeacher"),
        (
            [BLOCKS[0], FlowTeacher.gaussian(np.zeros(3), np.eye(3), dtype="float64")],
            ShapeError,
            r"teachers\[1\]",
        ),
        ([BLOCKS[0], FlowTeacher.gaussian(np.zeros(2), np.eye(2))], DtypeError, r"teachers\[1\]"),
        ([BLOCKS[0], labelled(3)], ArgumentError, r"teachers\[1\]: .*no condition.*labels of 3 classes"),
        ([labelled(2), labelled(3)], ArgumentError, r"teachers\[1\]: .*2 classes.*3 classes"),
    ],
)
def test_what_does_not_go_together_is_named(teachers, error, text):
    with pytest.raises(error, match=text):
        FlowTeacher.chain(teachers)


@pytest.mark.parametrize("breaks", [[0.0, 1.0], [0.0, 0.5, 0.5], [1.0, 0.5, 0.0], "half", [0.0, np.nan, 1.0]])
def test_breaks_that_do_not_fit_are_named(breaks):
    with pytest.raises(ArgumentError, match="breaks: expected"):
        FlowTeacher.chain(BLOCKS[:2], breaks=breaks)
