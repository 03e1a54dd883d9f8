"""How a command ends: exit codes, and the error that is a person's own."""

from __future__ import annotations

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


class UsageError(Exception):
    """A wrong flag, key or file: one line that names it, what was got and what was expected."""


class Stopped(Exception):
    """Ctrl-C ended a training whose result has been kept; the line says where."""
