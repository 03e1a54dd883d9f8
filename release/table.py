"""Writes the result of .ci/run for one torch to docs/install.md: ``python table.py 2.13.0 LOG``."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "install.md"
STEP = re.compile(r"^=== (.*) \((\d+)s\)$")
#: The steps of pytest in .ci/run: the fast tests, then the slow ones and the notebooks.
SETS = ("pytest", "pytest, the heavier set")


def steps(log: str) -> list[tuple[str, int, str]]:
    """The steps of .ci/run in its log: name, second at which it began, and output."""
    found: list[tuple[str, int, str]] = []
    for line in log.splitlines():
        if begins := STEP.match(line):
            found.append((begins[1], int(begins[2]), ""))
        elif found:
            name, second, text = found[-1]
            found[-1] = (name, second, f"{text}{line}\n")
    return found


def outcome(text: str) -> str:
    """pytest's last line without its time: ``1312 passed, 3 skipped``."""
    ends = re.findall(r"^=* ?(\d+ (?:passed|failed|skipped|error)\b.*?) in [\d.]+s", text, flags=re.MULTILINE)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", ends[-1]) if ends else []
    return ", ".join(counts) or "not finished"


def row(torch: str, log: str, commit: str, day: str) -> str:
    """One row of the table."""
    done = steps(log)
    texts = {name: text for name, _, text in done}
    name, seconds, _ = done[-1] if done else ("nothing", 0, "")
    rust = sum(
        map(int, re.findall(r"^test result: ok\. (\d+) passed", texts.get("cargo test", ""), re.MULTILINE))
    )
    result = "passed" if name == "all passed" else f"**failed** in: {name}"
    sets = [outcome(texts[step]) if step in texts else "not run" for step in SETS]
    tests = "; ".join([str(rust), *sets])
    minutes = f"{seconds / 60:.0f}"
    return "| " + " | ".join([torch, result, tests, minutes, f"{commit}, {day}"]) + " |"


def with_row(page: str, torch: str, new: str) -> str:
    """The page with this version's row replaced, or added in the order of versions."""
    lines = page.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| torch |"))
    end = next(
        (number for number in range(head, len(lines)) if not lines[number].startswith("|")), len(lines)
    )
    rows = [line for line in lines[head + 2 : end] if line.split("|")[1].strip() != torch] + [new]
    rows.sort(key=lambda line: [int(part) for part in line.split("|")[1].strip().split(".")])
    return "\n".join([*lines[: head + 2], *rows, *lines[end:]]) + "\n"


def main(torch: str, log: Path) -> None:
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = (
        subprocess.run(git, cwd=PAGE.parent, capture_output=True, text=True).stdout.strip() or "no commit"
    )
    new = row(torch, log.read_text(errors="replace"), commit, date.today().isoformat())
    PAGE.write_text(with_row(PAGE.read_text(), torch, new))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
