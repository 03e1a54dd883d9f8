"""Students: what is distilled from a teacher, and what a fitted one can do."""

from .density import StudentDensity
from .distiller import KoopmanDistiller
from .evaluation import EvaluationReport
from .segmented import SegmentedDistiller
from .student import FittedStudent

__all__ = ["EvaluationReport", "FittedStudent", "KoopmanDistiller", "SegmentedDistiller", "StudentDensity"]
