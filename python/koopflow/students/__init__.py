"""Students: models distilled from a teacher, their densities and their evaluation."""

from .density import StudentDensity
from .distiller import KoopmanDistiller
from .evaluation import EvaluationReport
from .segmented import SegmentedDistiller
from .student import FittedStudent

__all__ = ["EvaluationReport", "FittedStudent", "KoopmanDistiller", "SegmentedDistiller", "StudentDensity"]
