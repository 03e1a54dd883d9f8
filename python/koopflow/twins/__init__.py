"""Plain PyTorch modules with a model's numbers: differentiable, compiled, exported, tuned and brought back.

A twin is built from the stored form of a model alone, the header and the tensors of its file, and is written
back in the same form. It knows nothing else of the core, and imports no model.
"""

from .export import write_onnx, write_pt2
from .stored import Stored, Twin
from .student import StudentModule
from .teacher import TeacherModule

__all__ = ["Stored", "StudentModule", "TeacherModule", "Twin", "write_onnx", "write_pt2"]
