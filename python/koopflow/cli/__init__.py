"""The ``koopflow`` command line."""

from .main import COMMANDS, FAILURE, INTERRUPTED, USAGE_ERROR, main

__all__ = ["COMMANDS", "FAILURE", "INTERRUPTED", "USAGE_ERROR", "main"]
