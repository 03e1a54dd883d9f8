"""``koopflow versions``: what a bug report needs."""

from __future__ import annotations

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to subparsers."""
    versions = commands.add_parser(
        "versions",
        help="print what a bug report needs",
        description="Prints the versions of koopflow and of what it runs on.",
    )
    versions.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from .._versions import show_versions

    show_versions()
    return 0
