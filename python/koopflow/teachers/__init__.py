"""Teachers: velocity fields whose flow carries noise (time 0) to data (time 1)."""

from .flow import Flow, TrainingData, checked_teacher
from .reflow import reflow
from .teacher import FlowTeacher

__all__ = ["Flow", "FlowTeacher", "TrainingData", "checked_teacher", "reflow"]
