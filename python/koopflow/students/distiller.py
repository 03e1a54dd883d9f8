"""KoopmanDistiller: distils a teacher's flow into observables that evolve linearly, sampled in one step."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import torch

from .. import _core
from .._arrays import Array, as_condition, as_flag, as_integer, as_number, as_path, as_seed
from .._checkpointing import check_apart, check_place, checkpointing
from .._ending import tell_ending
from ..distributed import world
from ..hub import HubFolder
from ..options import Architecture, Objective, Options, Training, Trajectories, UNet, name_of, to_json
from ..progress import ProgressFunction, ProgressMeter
from ..teachers.flow import Flow, checked_teacher
from ..tensorboard import logged
from ..twins import Stored, StudentModule, write_onnx, write_pt2
from .evaluation import SAMPLES, SEED, EvaluationReport, endpoint_error, evaluate
from .learnt import distance_of, facts_of, learnt, points_of
from .student import FittedStudent

# The core's names of options that have a shorter name within their group.
CORE_NAMES = {"decoder": "readout", "count": "trajectories", "memory": "trajectory_memory"}


@dataclass(eq=False, repr=False, kw_only=True)
class KoopmanDistiller(HubFolder, FittedStudent):
    """Distils a flow-matching teacher into a Koopman student.

    The student's observables g(t, x) = [1, t, x, phi(t, x)] evolve by one linear generator, dg/dt = g L.
    Hence g(t + tau) = g(t) exp(tau L), and the state is a slice of g. This gives data from noise in one step,
    whole paths in closed form, the inverse map from data to noise, and a spectrum (Turan et al., arXiv
    2506.22304). Options that are None are chosen from the dimension of the data.

    Parameters
    ----------
    observables : int, optional
        Number of learnt observables phi, by default 64 in up to eight dimensions and 128 beyond. With a
        polynomial basis the number follows from the degree.
    basis : {"network", "fourier", "polynomial", "unet", "hierarchy"}, default "network"
        Type of the observables phi. ``"network"``: a perceptron. ``"fourier"``: cosines with random
        frequencies. ``"polynomial"``: all monomials, of degree 2 and higher, of t, the data's principal
        coordinates and the condition. Two more are for images ``(C, H, W)``. ``"unet"``: the output pixels of
        a U-Net, the paper's observables for images. The output has as many channels as the image, unless
        ``observables``, a multiple of H W, says otherwise. ``"hierarchy"``: the feature maps at every level
        of a U-Net's encoder. Each channel evolves with its own eigenvalues, and a U-Net's decoder maps them
        to the image (after Hierarchical Koopman Diffusion, arXiv 2510.12220).
    generator : {"spectral", "dense"}, default "spectral"
        Form of the generator. ``"spectral"``: phi evolves by 2x2 blocks of bounded growth, and everything is
        in closed form. ``"dense"``: a full matrix, as in the paper. See :meth:`to_spectral` and
        :meth:`to_dense`.
    fidelity : {"balanced", "endpoint", "spectral"}, default "balanced"
        Goal that sets the weights of the loss. ``"balanced"``: accurate points in data space, with
        observables that follow the flow. ``"endpoint"``: points only, which become slightly more accurate;
        the eigenvalues then describe the student rather than the teacher's flow. ``"spectral"``: the
        observables come first.
    width, depth : int, optional
        Units of each hidden layer, and number of hidden layers, of the perceptron behind phi.
    unet : UNet or mapping, optional
        U-Net of the bases ``"unet"`` and ``"hierarchy"``.
    warm_start : bool, default False
        Whether the student's U-Nets start from the weights of the teacher's. The teacher must be a native
        U-Net of the same architecture.
    architecture : Architecture or mapping, optional
        Further options of the model: see :class:`koopflow.Architecture`.
    steps : int, optional
        Number of training steps: by default 10,000 in up to eight dimensions, 6,200 in up to 256 (11,000 and
        8,200 with ``fidelity="endpoint"``), 8,000 beyond, and 5,000 with a U-Net. On two cores this takes
        about a minute in the plane and three minutes on 64 pixels.
    batch_size : int, optional
        Number of noise samples per step: 256 for 9 to 256 dimensions without a U-Net, 128 otherwise. Other
        terms of the loss add rows in proportion (docs/distillation.md).
    learning_rate : float, optional
        Peak learning rate of the observables.
    training : Training or mapping, optional
        Options of the gradient steps: see :class:`koopflow.Training`.
    trajectories : Trajectories, mapping or int, optional
        Trajectories of the teacher to learn from, or their number: see :class:`koopflow.Trajectories`.
    objective : Objective or mapping, optional
        Individual terms of the loss: see :class:`koopflow.Objective`.
    max_seconds : float, optional
        Time limit of the whole fit: trajectories, statistics, training, evaluations and linear solves. The
        best student so far is kept. A step or an evaluation of the teacher that has begun is finished. If the
        teacher is too slow for the limit, the student is poor and a warning is given. If there is no time for
        a single evaluation, ``ArgumentError`` is raised.
    seed : int or None, default 0
        Random seed of everything. None draws a seed, which is stored in ``history_["seed"]``.
    device : str or torch.device, default "cpu"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``.
    dtype : {"float32", "float64"}, default "float32"
        Precision of parameters and samples.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, KoopmanDistiller
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> student = KoopmanDistiller(observables=8, width=16, steps=50, trajectories=256)
    >>> student.fit(teacher, progress=False).sample(4).shape
    (4, 2)
    """

    _kind: ClassVar[str] = "student"
    _nested: ClassVar[Mapping[str, type[Options]]] = {
        "unet": UNet,
        "architecture": Architecture,
        "training": Training,
        "trajectories": Trajectories,
        "objective": Objective,
    }

    observables: int | None = None
    basis: str = "network"
    generator: str = "spectral"
    fidelity: str = "balanced"
    width: int | None = None
    depth: int | None = None
    unet: UNet | Mapping[str, Any] | None = None
    warm_start: bool = False
    architecture: Architecture | Mapping[str, Any] | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    training: Training | Mapping[str, Any] | None = None
    trajectories: Trajectories | Mapping[str, Any] | int | None = None
    objective: Objective | Mapping[str, Any] | None = None
    max_seconds: float | None = None
    seed: int | None = 0
    device: str = "cpu"
    dtype: str = "float32"

    def fit(
        self,
        source: Flow | Array | None = None,
        y: Array | None = None,
        *,
        teacher: Flow | None = None,
        condition: Array | None = None,
        data: Array | None = None,
        trajectory_file: str | PathLike[str] | None = None,
        refresh: bool = False,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_minutes: float | None = None,
        resume: str | PathLike[str] | None = None,
        log_dir: str | PathLike[str] | None = None,
        features: Callable[[Any], Any] | str | PathLike[str] | None = None,
        feature_weights: str | PathLike[str] | None = None,
        distributed: bool | None = None,
    ) -> KoopmanDistiller:
        """Distil a teacher.

        Parameters
        ----------
        source : FlowTeacher or array, ``[N, *event]``
            Teacher, fitted or attached. It may also be rows of data, as scikit-learn passes them. They are
            then used as ``data``, which few losses need, and the teacher is ``teacher``.
        y : array, optional
            Condition of each row of data in ``source``. It is ignored for an unconditional teacher.
        teacher : FlowTeacher, optional
            Teacher, if ``source`` is rows of data or omitted.
        condition : array, optional
            Labels ``[P]`` or vectors ``[P, dim]`` that training draws from, for a conditional teacher. With
            ``data``, the condition of each row. By default every class is drawn equally often, and vectors
            are those of ``teacher.training_data_``.
        data : array, ``[N, *event]``, or batches as in :meth:`FlowTeacher.fit`, optional
            Training data of the teacher. The ``consistency`` term draws its points between them and noise.
            The default is ``teacher.training_data_``, which exists only in the process that trained the
            teacher, not after :meth:`FlowTeacher.load`. Without data the term uses points of the solved
            trajectories, with a UserWarning.
        trajectory_file : path, optional
            File that keeps the solved trajectories. It is memory-mapped, so it may be larger than memory.
            While it is written its name is ``<file>.partial``. A later fit of the same teacher with the same
            ``trajectories`` reuses it, whatever its seed, and continues an unfinished file.
        refresh : bool, default False
            Whether to solve the trajectories again and replace those in the file.
        progress, callback, checkpoint, checkpoint_every, checkpoint_minutes
            As in :meth:`FlowTeacher.fit`. The checkpoint is at any moment a complete student, the best so
            far.
        resume : path, optional
            File that ``checkpoint`` wrote, from which fitting continues. On a CPU the result is exactly that
            of an uninterrupted fit. Teacher, condition and options must be those of the file, except for
            ``steps``, ``max_seconds`` (which includes the time spent before) and ``device``. Trajectories are
            solved again. With more ``steps`` the cosine continues at the same step of the longer schedule.
        log_dir : path, optional
            Folder for TensorBoard scalars of every reported value: see :class:`koopflow.TensorBoardLogger`.
        features : torch.nn.Module, callable or path, optional
            Network of image features on the student's device, or a TorchScript file of one. The loss then has
            a term ``"feature_distance"``, with weight 1 unless ``objective`` says otherwise. The network is
            called with a torch tensor ``[B, *event]``, must be differentiable in it, and returns one tensor
            ``[B, ...]`` or several. Named networks are ``"lpips"`` and ``"lpips-vgg"``, of the package lpips,
            and ``"dinov2"``; they take images ``(1 or 3, H, W)`` in [-1, 1] (docs/images.md).
        feature_weights : path, optional
            Weights of a named network. For LPIPS: torchvision's file of AlexNet or VGG16, by default the one
            in the cache of torch.hub. For DINOv2: a folder of transformers, or a checkout of
            facebookresearch/dinov2 with a file of weights; the code of the checkout is run. Nothing is
            downloaded.
        distributed : bool, optional
            Whether the ranks of ``torch.distributed`` share the fit. By default they do if there is a process
            group. True requires one, and False ignores it. See :mod:`koopflow.distributed`.

        Returns
        -------
        KoopmanDistiller
            The fitted distiller itself. Ctrl-C ends fitting early with a RuntimeWarning. The best student is
            kept, and ``history_["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        TypeError, TeacherError
            If the teacher is not a FlowTeacher (wrap a function with ``FlowTeacher.from_torch``), or if its
            velocity fails or is not finite.
        DivergenceError
            If the loss still diverges after ``max_restarts`` restarts. This object is then fitted with the
            best student.
        ArgumentError, CheckpointError, FileNotFoundError
            If an option is out of range, ``resume`` is not a file of a fit with these options,
            ``trajectory_file`` is damaged or was made by another teacher, or the folder of a file does not
            exist.
        DistributedError
            If ranks have different teachers, data or options, or if a rank fails or ends.
        Exception
            Any exception raised by ``callback``, ``features`` or a function given as ``progress``, unchanged.
            Fitting ends, ``checkpoint`` keeps what was trained, and this object does not change.
        """
        teacher, data, condition = learnt(source, y, teacher, data, condition)
        files = checkpointing("a student", checkpoint, checkpoint_every, checkpoint_minutes, resume)
        trajectories = check_place("trajectory_file", trajectory_file, "trajectories", reads=not refresh)
        check_apart(checkpoint=files["checkpoint"], trajectory_file=trajectories)
        field = teacher.field
        config = {**teacher.pairing_, **self._config(), "seed": self._seed(resume)}
        distance = distance_of(features, feature_weights, field)
        if distance is not None:
            config["weights"] = {"feature_distance": 1.0, **config.get("weights", {})}
        facts, condition = facts_of(teacher, data, as_condition(condition))
        points = points_of(teacher, data, condition, config)
        ranks = world(distributed=distributed)
        config = ranks.options(config, seeded=self.seed is not None)
        ranks.agree(condition=condition, data=points.get("data"))
        ranks.agree_on_teacher(field)
        files, progress, callback = ranks.leading(files, progress, callback)
        with (
            logged(log_dir if ranks.leads else None, callback) as listener,
            ProgressMeter(progress=progress, callback=listener) as meter,
        ):
            student = _core.Student.distill(
                field,
                to_json(config),
                condition=condition,
                **points,
                trajectory_file=trajectories,
                refresh=refresh,
                monitor=meter.monitor,
                header=self._header(teacher=facts),
                features=distance,
                world=ranks.core,
                **files,
            )
        self._adopt(student, facts)
        self._teacher = teacher
        tell_ending(self.history_, "the best student so far")
        return self

    def use_weights(self, weights: str) -> KoopmanDistiller:
        """Choose between the averaged weights (``"ema"``) and those of the last step (``"raw"``).

        A fit with ``ema_decay`` keeps both, also in its file, and the averaged ones are used first. Without
        ``ema_decay`` there is only one kind, and this method changes nothing.
        """
        self._student = self._fitted().with_weights(str(weights))
        self._spectrum = None
        return self

    def use_average(self, decay: float) -> KoopmanDistiller:
        """Choose one of the averages that a fit with ``Training(averages=...)`` kept, by its decay.

        The weights are those of that average's best evaluation, which ``history_["averages"]`` lists. They do
        not include a later linear solve (``method="refine"``). ``use_weights("ema")`` returns to the average
        that the fit selected. Raises ``ArgumentError`` for a decay that was not kept, and for a student with
        one average or none.
        """
        student, decay = self._fitted(), as_number(decay, "decay", "a decay that training had")
        self._student = student.with_average(decay)
        self._spectrum = None
        return self

    def evaluate(
        self,
        teacher: Flow,
        data: Array | None = None,
        *,
        n: int = SAMPLES,
        seed: int | None = SEED,
        condition: Array | None = None,
    ) -> EvaluationReport:
        """Compare with a teacher on fresh noise, and both with held-out data.

        Parameters
        ----------
        teacher : FlowTeacher
            Teacher, usually the one that was distilled. It is solved by dopri5 with tolerances of 1e-5.
        data : array, ``[N, *event]``, optional
            Held-out data. With ``N >= 2 n`` the sampling floor is measured on sets of ``n`` samples, as the
            distances are. Without data there are no distances, and errors are relative to the spread of the
            teacher's samples.
        n : int, default 2000
            Number of samples, at least 2.
        seed : int, default 987654321
            Random seed of the noise. It should differ from the seeds that trained teacher and student, whose
            noise is not fresh.
        condition : array, optional
            Labels or vectors for conditional models, of the samples or of the data. Any number of them is
            spread evenly over the ``n`` samples. By default every class that training had, or the vectors of
            ``teacher.training_data_``.

        Returns
        -------
        EvaluationReport
            Report that prints as a table. ``to_dict()`` gives values for JSON.
        """
        self._fitted()
        count, seed = as_integer(n, "n", least=2), as_seed(seed)
        return evaluate(self, checked_teacher(teacher), data, n=count, seed=seed, condition=condition)

    def score(
        self, source: Flow | Array | None = None, y: Array | None = None, *, teacher: Flow | None = None
    ) -> float:
        """Minus the ``endpoint_error`` of :meth:`evaluate`, the distance of samples from the teacher's.

        scikit-learn's ``GridSearchCV`` and ``cross_val_score`` maximise it. It is at most 0, and the same at
        every call.

        Parameters
        ----------
        source : FlowTeacher or array, ``[N, *event]``
            Teacher, or at least 4 rows of held-out data. As many noise samples are drawn as there are rows,
            and the total standard deviation of the rows is the unit of the error.
        y : array, optional
            Condition of each row of data in ``source``. It is ignored for an unconditional teacher.
        teacher : FlowTeacher, optional
            Teacher, if ``source`` is not one. The default is the teacher of ``fit`` in this process.
        """
        self._fitted()
        if teacher is None and not isinstance(source, Flow):
            teacher = self._teacher
        teacher, data, condition = learnt(source, y, teacher, None, None)
        return -endpoint_error(self, teacher, data, condition=condition)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the student to one safetensors file, atomically."""
        self._fitted().save(as_path(path), self._about())

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> KoopmanDistiller:
        """Read a student that :meth:`save` wrote. Raises ``FileNotFoundError`` if there is no such file, and
        ``CheckpointError`` if it is not a complete koopflow student."""
        student, text = _core.Student.load(as_path(path), device=name_of(device))
        return cls._made(path, student, json.loads(text))

    def to_torch(self) -> StudentModule:
        """The student as a plain PyTorch module, with the same weights and on the same device.

        The weights are a copy of the student's. The methods ``forward``, ``path``, ``inverse`` and ``encode``
        are differentiable in inputs and weights. See :class:`koopflow.twins.StudentModule`.
        """
        student = self._fitted()
        stored = Stored.from_bytes(student.to_bytes())
        stored.header["facts"]["header"] = json.loads(self._about())
        module = StudentModule(stored).to(student.device)
        module.clock = (self.clock.start, self.clock.end)
        return module

    def to_onnx(self, path: str | PathLike[str], *, check: bool = True) -> None:
        """Write the one-step map as an ONNX file, which runs without koopflow and torch.

        The input is ``x0``, ``[B, *event]``, and for a conditional student also ``condition``: labels ``[B]``
        (int64, not checked) or vectors ``[B, D]``. The output is ``x1``. B is any number. The metadata are
        ``koopflow_version``, and ``event_shape`` and ``conditioning`` as JSON. onnxruntime cannot run U-Nets
        in float64: the file of such a student is in float32, with a UserWarning. The file is written
        atomically, and never replaces a koopflow model.

        Parameters
        ----------
        path : path
            File to write.
        check : bool, default True
            Whether to run the model in onnxruntime before the file is written. KoopflowError is raised if the
            samples differ from those of :meth:`to_torch` by more than 1e-5 of their size.

        Raises
        ------
        ImportError
            If the packages of ``pip install 'koopflow[onnx]'`` are missing.
        ArgumentError, OSError
            If the weights exceed the 2 GiB of an ONNX file, or the path cannot be written.
        """
        write_onnx(self.to_torch(), path, check=as_flag(check, "check"))

    def to_pt2(self, path: str | PathLike[str]) -> None:
        """Write the one-step map as a program of ``torch.export``, which runs with torch alone.

        ``torch.export.load(path).module()`` takes ``x0`` and the condition of each row as in :meth:`to_onnx`,
        on the device of this student. It is differentiable in ``x0``. Raises ``ArgumentError`` or ``OSError``
        if the path cannot be written.
        """
        write_pt2(self.to_torch(), path)

    @classmethod
    def from_torch_module(cls, module: torch.nn.Module) -> KoopmanDistiller:
        """A fitted student with the weights of a module that :meth:`to_torch` made, on the module's device.

        Options and history are those of the student that the module was made from. A note in the history says
        that the weights come from a module. The student has only these weights, even if the original kept
        averaged and last ones. Raises ``ArgumentError`` for other modules and for layers that were added or
        replaced, and ``NonFiniteError`` for weights that are not finite.
        """
        module = StudentModule.of(module)
        stored, header = module.stored(), copy.deepcopy(module.header)
        history = header["facts"]["history"]
        note = "the weights are those of a PyTorch module, which may have been trained further"
        history["notes"] = [*history.get("notes", []), {"step": history["steps"], "text": note}]
        content = Stored(header, stored.tensors).to_bytes()
        student = _core.Student.from_bytes(content, device=str(next(module.parameters()).device))
        return cls._made("module", student, header["facts"]["header"])

    @classmethod
    def _made(
        cls, path: str | PathLike[str], student: _core.Student, header: dict[str, Any]
    ) -> KoopmanDistiller:
        """The estimator of a student in the core, with the parameters and facts of its file."""
        distiller = cls._read(path, header.get("params", {}), device=student.device)
        distiller._adopt(student, header.get("teacher", {}))
        if "conversion" in header:
            distiller.conversion_ = header["conversion"]
        return distiller

    def _about(self) -> str:
        """The header of a file of the fitted student."""
        more = {"conversion": self.conversion_} if hasattr(self, "conversion_") else {}
        return self._header(teacher=self.teacher_, **more)

    def _header(self, **more: Any) -> str:
        """The header of a file: the parameters of the estimator and further facts, as JSON."""
        return to_json({"params": self._written(), **more})

    def _seed(self, resume: str | PathLike[str] | None) -> int:
        """The seed of a fit. If the parameter is None, the seed of the file to resume, or else a new one."""
        if self.seed is None and resume is not None:
            return int(json.loads(_core.describe_file(as_path(resume))[1])["config"]["seed"])
        return as_seed(self.seed)

    def _config(self) -> dict[str, Any]:
        """The options that are set, by the core's flat names. The core chooses the others."""
        flat = {
            name: value
            for name in self._get_param_names()
            if name not in self._nested and (value := getattr(self, name)) is not None
        }
        parts = {name: kind.of(name, getattr(self, name)) for name, kind in self._nested.items()}
        unet = parts.pop("unet").options()  # type: ignore[attr-defined]
        grouped = {name: value for part in parts.values() for name, value in part.given().items()}
        if self.unet is not None:
            flat["unet"] = unet
        return {**flat, **{CORE_NAMES.get(name, name): value for name, value in grouped.items()}}
