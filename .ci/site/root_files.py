"""A hook of mkdocs: pages of files at the root, whose links lead from there.

A line ``--8<-- "CONTRIBUTING.md"`` stands for the file. Links into ``docs/`` become links of the site. Of links
to other files of the repository the text remains.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^--8<-- "(\w+\.md)"$', re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "CITATION.cff": "citing.md"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    return INCLUDE.sub(lambda found: LINK.sub(_from_docs, (ROOT / found[1]).read_text()), markdown)


def _from_docs(found: re.Match[str]) -> str:
    text, target = found.groups()
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')})"
    return f"[{text}]({PAGES[target]})" if target in PAGES else text
