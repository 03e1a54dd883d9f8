"""``koopflow export``: a student's one-step map for programs without koopflow."""

from __future__ import annotations

from ..students import KoopmanDistiller
from .inputs import load_student
from .options import Keywords, Option, Settings, command
from .results import DEVICE, RESULTS, output_file, say


@command(
    positional="student",
    run=(Option("student", "File of the student."), Option("output", "File for the program, .onnx or .pt2.")),
    alone=(Keywords(KoopmanDistiller.to_onnx, skip=("path",)), DEVICE, *RESULTS),
)
def export(settings: Settings) -> int:
    """Writes the one-step map of a student for programs without koopflow. The ending of --output sets the
    format: an ONNX file (.onnx), or a program of torch.export (.pt2) for --device."""
    student = load_student(settings["student"], settings["device"])
    path = output_file(settings, (".onnx", ".pt2"))
    if path.suffix == ".onnx":
        student.to_onnx(path, check=settings["check"])
    else:
        student.to_pt2(path)
    say(f"wrote {path}")
    return 0
