"""Export of a student's one-step map, as ONNX files and as programs of ``torch.export``."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from .. import _core
from .._arrays import StrOrBytesPath, as_path
from .._checkpointing import OTHER, check_place
from ..exceptions import ArgumentError, KoopflowError
from .generator import DenseGenerator
from .student import StudentModule

# Number of rows of the traced example and of the check. They differ, since any batch size must work.
TRACED, CHECKED = 2, 5
TOLERANCE = 1e-5
# Version of ONNX's operators, the same for every version of torch.
OPERATORS = 18
# Protocol buffers are limited to 2 GiB. The graph is small compared with the weights.
LARGEST = 2**31 - 2**24


class _OneStepGenerator(DenseGenerator):
    """A dense generator for the one step only. exp(L) is a constant, since ONNX has no matrix exponential."""

    def __init__(self, generator: DenseGenerator) -> None:
        nn.Module.__init__(self)
        self.dimension = generator.dimension
        self.register_buffer(
            "propagator", generator.exponential(torch.ones(1, dtype=torch.float64, device="cpu"))
        )

    def exponential(self, tau: Tensor) -> Tensor:
        return self.get_buffer("propagator")


def write_pt2(module: StudentModule, path: StrOrBytesPath) -> None:
    """Write a twin's forward as a .pt2 file."""
    file = _place(path)
    module, content = _frozen(module), BytesIO()
    program = torch.export.export(module, _example(module, TRACED), dynamic_shapes=_dynamic(module))
    for node in program.graph.nodes:
        # Stack traces contain folder names of the user.
        node.meta.pop("stack_trace", None)
    torch.export.save(program, content)
    _core._write_atomically(file, content.getvalue())


def write_onnx(module: StudentModule, path: StrOrBytesPath, *, check: bool) -> None:
    """Write a twin's forward as an .onnx file. With ``check``, onnxruntime runs it before it is written."""
    file = _place(path)
    needed = [_package(name) for name in ("onnx", "onnxscript", *(["onnxruntime"] if check else []))]
    size = sum(x.numel() * x.element_size() for x in module.state_dict().values())
    if size > LARGEST:
        raise ArgumentError(
            f"path: expected a student of at most {LARGEST / 2**30:.2f} GiB for an .onnx file, got one of "
            f"{size / 2**30:.2f} GiB; to_pt2 has no such limit"
        )
    module = _frozen(module).cpu()
    if module.images and module.coordinates.center.dtype == torch.float64:
        said = "the .onnx file is in float32: onnxruntime has no convolutions in float64"
        warnings.warn(said, UserWarning, stacklevel=3)
        module = module.float()
    example = _example(module, TRACED)
    names = ["x0", "condition"][: len(example)]
    with _quiet():
        program = torch.onnx.export(
            module,
            example,
            input_names=names,
            output_names=["x1"],
            opset_version=OPERATORS,
            dynamo=True,
            dynamic_shapes=_dynamic(module),
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]
    for node in model.graph.node:
        node.ClearField("metadata_props")
    model.metadata_props.add(key="koopflow_version", value=_core.__version__)
    conditioning = module.header["model"]["config"]["conditioning"]
    for key, fact in {"event_shape": module.event_shape, "conditioning": conditioning}.items():
        model.metadata_props.add(key=key, value=json.dumps(fact))
    content = model.SerializeToString()
    if check:
        _check(needed[-1], content, names, module)
    _core._write_atomically(file, content)


def _place(path: StrOrBytesPath) -> str:
    file = as_path(path)
    check_place("path", file, OTHER)
    return file


def _check(onnxruntime: Any, content: bytes, names: list[str], module: StudentModule) -> None:
    """Raise ``KoopflowError`` unless onnxruntime gives the module's samples."""
    by = f"onnxruntime {onnxruntime.__version__}"
    without = "No file is written unless check=False"
    inputs, options = _example(module, CHECKED), onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (got,) = session.run(["x1"], {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    except Exception as error:
        raise KoopflowError(f"{by} cannot run the student: {error}. {without}") from error
    with torch.no_grad():
        expected = module(*inputs)
    off = float((torch.from_numpy(got) - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise KoopflowError(
            f"{by} gives samples that differ from the student's by {off:.1e} of their size; expected at most "
            f"{TOLERANCE:.0e}. {without}"
        )


def _frozen(module: StudentModule) -> StudentModule:
    """A copy without gradients, for the one step only."""
    module = copy.deepcopy(module).requires_grad_(requires_grad=False)
    if isinstance(module.generator, DenseGenerator):
        module.generator = _OneStepGenerator(module.generator)
    return module


def _example(module: StudentModule, rows: int) -> tuple[Tensor, ...]:
    """Noise, and conditions for a conditional student, from a separate random generator."""
    random, weight = torch.Generator().manual_seed(0), module.coordinates.center
    classes, size = module.conditions.classes, module.conditions.size
    shapes = [module.event_shape, *([(size,)] if size and not classes else [])]
    drawn = [torch.randn(rows, *shape, generator=random, device="cpu") for shape in shapes]
    inputs = [x.to(weight.device, weight.dtype) for x in drawn]
    if classes:
        inputs.append(torch.arange(rows, device=weight.device) % classes)
    return tuple(inputs)


def _dynamic(module: StudentModule) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in _example(module, TRACED))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        without = ", or check=False" if name == "onnxruntime" else ""
        raise ImportError(
            f"{name} is needed for .onnx files: pip install 'koopflow[onnx]'{without}", name=name
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the exporter's deprecation warnings and its messages about constant folding."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
