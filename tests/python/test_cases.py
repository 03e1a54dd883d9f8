"""The programs of tests/cases, each in a fresh process: what people have met is answered as it should be."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

CASES = Path(__file__).parents[1] / "cases"
# Debatable ones, and the page and words that give the answer.
ANSWERED = {
    "045_torchcfm_toy_models": ("teachers.md", "torchcfm's `torch_wrapper`"),
    "047_x_prediction": ("teachers.md", '`prediction="data"` attaches'),
    "050_integer_timesteps": ("teachers.md", "`whole_timesteps=True`"),
    "058_gradients_through_the_student": ("distillation.md", "carry no gradients"),
    "064_disk_full": ("files.md", "before the first step"),
    "077_conditions_are_vectors_only": ("teachers.md", "For a label and a vector, or a sequence of vectors"),
    "078_other_sources_than_noise": ("teachers.md", "The source is N(0, I) unless `source=` names another"),
}
# One that measures a time limit has the machine to itself.
ALONE = {"036_budget_with_a_slow_teacher"}

Run = subprocess.CompletedProcess[str]


def run(case: str) -> Run:
    return subprocess.run(
        [sys.executable, str(CASES / f"{case}.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Run]]]:
    """The cases that were asked for: two at a time, since most of their time is imports."""
    asked = [item.callspec.params["case"] for item in request.session.items if item.path == Path(__file__)]
    with ThreadPoolExecutor(1) as alone:
        first = {case: alone.submit(run, case) for case in asked if case in ALONE}
    with ThreadPoolExecutor(2) as pool:
        yield first | {case: pool.submit(run, case) for case in asked if case not in ALONE}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(path.stem for path in CASES.glob("[0-9]*.py")))
def test_case(case: str, runs: dict[str, Future[Run]]) -> None:
    done = runs[case].result()
    verdict = (done.stdout.splitlines() or ["no answer"])[-1]
    expected = "PASS"
    if case in ANSWERED:
        page, words = ANSWERED[case]
        # Whatever the lines of the page are broken at.
        assert words in " ".join((CASES.parents[1] / "docs" / page).read_text(encoding="utf-8").split())
        expected = "ODD"
    assert verdict.startswith(expected), f"{verdict}\n{done.stderr[-2000:]}"
