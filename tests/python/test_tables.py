"""Tables of results, against text written by hand and pandas itself."""

import sys

import numpy as np
import pytest

from koopflow._tables import text_table, to_frame
from koopflow.exceptions import ArgumentError

ROWS = [
    {"name": "student", "error": np.float32(0.125), "evaluations": 1},
    {"name": "teacher", "error": float("nan"), "evaluations": 50},
]


def test_text_is_aligned_to_the_left_and_numbers_to_the_right():
    assert text_table(ROWS, {"name": "method", "evaluations": "NFE", "error": "error"}, missing="-") == (
        "method      NFE    error\nstudent       1   0.1250\nteacher      50        -"
    )


def test_decimals_are_those_of_the_column_and_strings_are_never_read_as_numbers():
    rows = [{"label": "007", "a": 1 / 3, "b": 2 / 3}]
    assert text_table(rows, decimals={"a": 1}).splitlines()[1].split() == ["007", "0.3", "0.6667"]


def test_markdown_and_html_are_styles():
    assert text_table(ROWS, style="github").splitlines()[0].split("|")[1].strip() == "name"
    assert text_table(ROWS, style="html").startswith("<table>")


def test_no_rows_print_their_headings():
    assert text_table([], ["name", "error"]).split() == ["name", "error"]
    assert text_table([]) == ""


def test_a_frame_has_the_rows_under_their_names():
    pandas = pytest.importorskip("pandas")
    expected = pandas.DataFrame(
        {"error": [0.125, np.nan], "evaluations": [1, 50]}, index=["student", "teacher"]
    )
    expected.index.name = "name"
    pandas.testing.assert_frame_equal(to_frame(ROWS, index="name"), expected, check_dtype=False)


def test_a_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ArgumentError, match="pip install pandas"):
        to_frame(ROWS)
