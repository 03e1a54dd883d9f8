"""Pages whose pictures their own code draws: the code runs, and draws every picture that the page shows."""

from __future__ import annotations

import re

import matplotlib.image
import numpy as np
import pytest

from experiments.pages import DOCS, PAGES, blocks, run

SHOWN = re.compile(r"!\[[^\]]*\]\(pictures/([\w-]+\.png)\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_follows_its_code(page):
    drawn = [picture for _, picture in blocks(DOCS / page) if picture]
    assert drawn == SHOWN.findall((DOCS / page).read_text())
    assert len(drawn) >= 6


@pytest.mark.parametrize(
    "page", sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"]), ids=lambda page: page.stem
)
def test_no_table_is_wider_than_five_columns(page):
    rulers = re.findall(r"^\s*(\|(?:[ :-]+\|)+)\s*$", page.read_text(), re.MULTILINE)
    assert max((ruler.count("|") - 1 for ruler in rulers), default=0) <= 5


def test_a_block_draws_its_last_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom koopflow import plotting\nx = [[0.0, 1.0], [1.0, 0.0]]\n```\n\n"
        "```python\nplotting.samples(x)\n```\n\n![two points](pictures/two.png)\n"
    )
    names, drawn = run(page, tmp_path)
    assert drawn == ["two.png"]
    assert names["x"] == [[0.0, 1.0], [1.0, 0.0]]
    assert matplotlib.image.imread(tmp_path / "two.png").std() > 0.01


@pytest.mark.notebook
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_and_draws_its_pictures(page, tmp_path):
    names, drawn = run(DOCS / page, tmp_path)
    for picture in drawn:
        assert matplotlib.image.imread(tmp_path / picture).std() > 0.01
    if page == "start.md":
        assert names["off"] < 0.1
        assert names["report"].endpoint_error < 0.1
        np.testing.assert_array_equal(names["student"].sample(x0=names["noise"]), names["samples"])
