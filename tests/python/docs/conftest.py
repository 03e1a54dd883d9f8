"""Pages whose code runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def run_page() -> Callable[[str], tuple[str, dict[str, Any]]]:
    """Runs a page's code from top to bottom; answers the code, and the names that it leaves."""

    def run(name: str) -> tuple[str, dict[str, Any]]:
        page = DOCS / name
        code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
        names: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]):
            exec(compile(code, str(page), "exec"), names)
        return code, names

    return run
