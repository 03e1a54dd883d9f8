"""Twins: plain PyTorch modules with the weights of a model.

A twin is differentiable. It can be compiled, exported and fine-tuned, and converted back to a model. It is
built only from the stored form of a model, which is the header and the tensors of its file, and is written
back in the same form.
"""

from .export import write_onnx, write_pt2
from .stored import Stored, Twin
from .student import StudentModule
from .teacher import TeacherModule

__all__ = ["Stored", "StudentModule", "TeacherModule", "Twin", "write_onnx", "write_pt2"]
