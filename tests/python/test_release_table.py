"""The table of torch versions in docs/install.md: made from what the gate printed."""

from __future__ import annotations

import re
from pathlib import Path

from release import table

PAGE = Path(__file__).parents[2] / "docs" / "install.md"
PASSED = """
=== virtual environment (0s)

=== cargo test (200s)
test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.50s
test result: ok. 30 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.50s

=== pytest (300s)
1290 passed, 3 skipped, 12 deselected in 410.20s (0:06:50)

=== pytest, the heavier set (720s)
==== 25 passed, 1278 deselected in 100.00s (0:01:40) ====

=== pytest with the probe (830s)
4 passed in 3.00s

=== all passed (900s)
"""


def test_a_gate_that_passed():
    row = table.row("2.13.0", PASSED, "abc1234", "2026-01-31")
    assert row == "| 2.13.0 | passed | 37; 1290 passed, 3 skipped; 25 passed | 15 | abc1234, 2026-01-31 |"


def test_a_gate_that_failed_says_where():
    log = PASSED[: PASSED.index("=== pytest, the heavier")].replace("1290 passed", "2 failed, 1288 passed")
    row = table.row("2.13.0", log, "abc1234", "2026-01-31")
    assert row.split(" | ")[1:3] == [
        "**failed** in: pytest",
        "37; 2 failed, 1288 passed, 3 skipped; not run",
    ]
    stopped = table.row("2.13.0", log[: log.index("2 failed")], "abc1234", "2026-01-31")
    assert "| 37; not finished; not run |" in stopped
    assert "**failed** in: nothing" in table.row("2.13.0", "", "abc1234", "2026-01-31")


def test_a_row_replaces_the_one_of_its_version_and_leaves_the_rest():
    page = PAGE.read_text()
    first = table.with_row(table.with_row(page, "2.15.0", "| 2.15.0 | old |"), "2.11.0", "| 2.11.0 | old |")
    second = table.with_row(first, "2.15.0", "| 2.15.0 | new |")
    assert [line for line in second.splitlines() if re.match(r"\| 2\.1[15]", line)] == [
        "| 2.11.0 | old |",
        "| 2.15.0 | new |",
    ]
    assert set(page.splitlines()) - set(second.splitlines()) <= {
        x for x in page.splitlines() if x[:3] == "| 2"
    }


def test_the_table_reads_the_steps_that_the_gate_has():
    gate = (PAGE.parent.parent / ".ci" / "run").read_text()
    assert {*table.SETS, "cargo test", "all passed"} <= set(re.findall(r'^step "(.*)"$', gate, re.MULTILINE))
