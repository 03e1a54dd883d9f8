"""A hook of mkdocs for files at the root of the repository as pages, and for links to them.

A line ``--8<-- "CONTRIBUTING.md"`` is replaced by the file. Its links into ``docs/``, and links of other
pages to files at the root, become links of the site. Links to files that are not on the site are replaced by
their text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^--8<-- "(\w+\.md)"$', re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "CITATION.cff": "citing.md"}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    if "/" in page.file.src_uri:
        return markdown
    return INCLUDE.sub(_file, LINK.sub(_upwards, markdown))


def _file(found: re.Match[str]) -> str:
    """The text of a file at the root, with links relative to ``docs/``."""
    return LINK.sub(lambda link: _link(link[1], link[2]), (ROOT / found[1]).read_text())


def _upwards(found: re.Match[str]) -> str:
    text, target = found.groups()
    return _link(text, target.removeprefix("../")) if target.startswith("../") else found[0]


def _link(text: str, target: str) -> str:
    """A link to a path relative to the root."""
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')})"
    return f"[{text}]({PAGES[target]})" if target in PAGES else text
