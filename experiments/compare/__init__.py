"""Comparison of koopflow's students with alternative methods: the tables of docs/results.md.

For every data set and seed a teacher is trained, every method is fitted to it, and all are measured on the
same noise and held-out data. To compare methods on a given teacher, use :func:`koopflow.compare`.
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
