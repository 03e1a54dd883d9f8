"""Ablation of the terms of the loss, the number of observables and the generator, by a grid of students."""

from .run import ablate
from .table import AblationTable

__all__ = ["AblationTable", "ablate"]
