"""The ``koopflow`` command line."""

from .errors import FAILURE, INTERRUPTED, USAGE_ERROR
from .main import main, parser

__all__ = ["FAILURE", "INTERRUPTED", "USAGE_ERROR", "main", "parser"]
