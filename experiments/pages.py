"""Makes the pictures of pages by the code that the pages show: ``python -m experiments.pages``.

A page's blocks of Python run from top to bottom, like the cells of a notebook. If a picture follows a block,
the value of the block's last expression is saved as that picture's file. All pictures of ``docs/start.md``
and ``docs/examples.md`` are made in this way. It takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("start.md", "examples.md")
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*!\[[^\]]*\]\(pictures/([\w-]+\.png)\))?", re.DOTALL)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("pages", nargs="*", default=PAGES, help="names of pages in docs/")
    options.add_argument("--output", type=Path, default=DOCS / "pictures", help="folder of the pictures")
    given = options.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for page in given.pages:
        for picture in run(DOCS / page, given.output)[1]:
            print(f"wrote {given.output / picture}")


def run(page: Path, output: Path) -> tuple[dict[str, Any], list[str]]:
    """Run a page and save its pictures in ``output``. Returns its variables and the pictures' names."""
    names: dict[str, Any] = {}
    drawn, output = [], output.resolve()
    with torch.random.fork_rng(devices=[]), elsewhere():
        for code, picture in blocks(page):
            value = execute(code, page, names)
            if picture:
                figure = np.ravel(value)[0].get_figure()
                figure.savefig(output / picture, dpi=110, bbox_inches="tight", pad_inches=0.05)
                drawn.append(picture)
    return names, drawn


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """A context with a temporary working folder for the files that a page writes."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Each block of code, with the name of the picture below it or an empty string."""
    for found in BLOCK.finditer(page.read_text()):
        yield found[1], found[2] or ""


def execute(code: str, page: Path, names: dict[str, Any]) -> Any:
    """Run a block. Returns the value of its last line, if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(page), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(page), "eval"), names)


if __name__ == "__main__":
    main()
