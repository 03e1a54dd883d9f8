"""Which terms of the loss, how many observables and which generator matter, by a grid of students."""

from .run import ablate
from .table import AblationTable

__all__ = ["AblationTable", "ablate"]
