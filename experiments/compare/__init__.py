"""koopflow beside what a user would pick in its place, measured alike.

data set → teacher → every student → the same noise, the same held-out data → a table.
"""

from .claims import Claim, claims
from .methods import METHODS, Budget, Method
from .problems import SETS, TEACHERS, Problem
from .report import figures, to_markdown, write
from .runner import PROBLEMS, compare
from .table import ComparisonTable

__all__ = [
    "METHODS",
    "PROBLEMS",
    "SETS",
    "TEACHERS",
    "Budget",
    "Claim",
    "ComparisonTable",
    "Method",
    "Problem",
    "claims",
    "compare",
    "figures",
    "to_markdown",
    "write",
]
