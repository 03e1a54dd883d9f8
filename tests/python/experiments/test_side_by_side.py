"""The bench of koopflow beside PyTorch: that both do the same work, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from experiments.benches.side_by_side import __main__ as command
from experiments.benches.side_by_side import models, page, sampling, timing
from experiments.benches.side_by_side.paper import PaperStep
from experiments.benches.side_by_side.recipe import RecipeStep
from koopflow import FlowTeacher, datasets

# torch's own, when it first takes a derivative forwards.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is:FutureWarning")

SMALL = {"width": 16, "depth": 1, "observables": 8}


@pytest.mark.parametrize("dimension", [2, 12])
def test_the_recipe_in_pytorch_has_the_loss_of_the_core(dimension):
    teacher = models.teacher_of((dimension,), 0, width=16)
    batch = 2048
    student = models.student_of(teacher, 1, 0, batch_size=batch, learning_rate=1e-9, **SMALL)
    first = student.history_["log"][0]
    step = RecipeStep(student.to_torch(), models.stored_paths(teacher, 1), batch)
    with torch.no_grad():
        draws = [step.named_terms(step.draw()) for _ in range(3)]
    for name in draws[0]:
        mean = float(torch.stack([draw[name] for draw in draws]).mean())
        # Other paths by another solver, and other rows of them.
        assert mean == pytest.approx(first[name], rel=0.3), name


def test_the_best_and_the_plain_objective_are_the_same():
    teacher = models.teacher_of((2,), 0, width=16)
    paths = models.stored_paths(teacher, 0)
    options = {"generator": "dense", "architecture": {"lifts": 1}, **SMALL}
    module = models.student_of(teacher, 1, 0, batch_size=16, **options).to_torch()
    best, plain = (PaperStep(module, teacher.to_torch(), paths, 8, best=best) for best in (True, False))
    plain.generator.data = best.matrix().detach()
    t, x0, x1 = torch.rand(4), paths[:8, 0], paths[:8, -1]
    one, other = (step.objective(t, x0[:4], x1[:4], x0, x1).detach() for step in (best, plain))
    assert float(one) == pytest.approx(float(other), rel=1e-5)


def test_every_solver_solves_the_flow_of_the_teacher():
    teacher = FlowTeacher((2,), width=16, steps=200).fit(datasets.moons(500), progress=False)
    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    expected = teacher.sample(x0=x0)
    # Trajectories hold all times, the last one at the end.
    ends = {
        label: torch.as_tensor(found[1] if isinstance(found, tuple) else found).reshape(-1, 16, 2)[-1]
        for label, (solve, _) in sampling.solutions(teacher, x0, 50).items()
        for found in [solve()]
    }
    assert len(ends) >= 3
    for label, end in ends.items():
        tolerance = 1e-3 if label.startswith("dopri5") else 0.1
        assert float((end - torch.as_tensor(expected)).abs().max()) < tolerance, label


def test_a_quick_run_writes_rows_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "alone", lambda threads: None)
    output, text = tmp_path / "speed.json", tmp_path / "speed.md"
    text.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    command.main(["--quick", "--parts", "dense", "network", "--output", str(output), "--page", str(text)])
    found = json.loads(output.read_text())
    assert {row["other"] for row in found["rows"]} >= {"plain PyTorch", "the bare network"}
    assert all(row["ratio"] > 0 and row["koopflow_ms"] > 0 for row in found["rows"])
    lines = text.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert sum(line.startswith("| ") for line in lines) >= len(found["rows"])
    assert "times as fast" in capsys.readouterr().out


def test_ratios_are_of_turns_and_targets_are_least_ones():
    row = timing.row("part", "case", "other", [1.0, 2.0, 1.0], [3.0, 2.0, 2.0], 2.0)
    assert (row["ratio"], row["met"]) == (2.0, True)
    assert row["quartiles"] == [1.5, 2.5]
    assert timing.row("part", "case", "other", [1.0], [1.9], 2.0)["met"] is False
    with pytest.raises(ValueError, match="one block"):
        page.rewritten("a page without a block", {"rows": []})


@pytest.mark.slow
def test_every_part_runs(tmp_path):
    run = [sys.executable, "-m", "experiments.benches.side_by_side", "--quick"]
    done = subprocess.run([*run, "--output", str(tmp_path / "x.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = {row["part"].split(",")[0] for row in json.loads((tmp_path / "x.json").read_text())["rows"]}
    assert {"training step", "one sample", "width 16"} <= parts
