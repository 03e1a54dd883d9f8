"""The student: a flow lifted to observables that evolve linearly, sampled in one step."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import torch

from .. import _core
from .._arrays import Array, as_condition, as_flag, as_integer, as_number, as_path, as_seed, to_numpy
from .._batches import with_condition
from .._checkpointing import check_apart, check_place, checkpointing
from .._conditioning import Conditioning
from .._ending import tell_ending
from ..distributed import world
from ..exceptions import ArgumentError
from ..hub import HubFolder
from ..metrics.features import feature_distance
from ..options import Architecture, Objective, Options, Training, Trajectories, UNet, name_of, to_json
from ..progress import ProgressFunction, ProgressMeter
from ..teachers.flow import Flow, checked_teacher
from ..tensorboard import logged
from ..twins import Stored, StudentModule, write_onnx, write_pt2
from .evaluation import SAMPLES, SEED, EvaluationReport, endpoint_error, evaluate
from .student import FittedStudent

# What the core calls options that have a better name among their own.
CORE_NAMES = {"decoder": "readout", "count": "trajectories", "memory": "trajectory_memory"}


@dataclass(eq=False, repr=False, kw_only=True)
class KoopmanDistiller(HubFolder, FittedStudent):
    """Distils a flow-matching teacher into a Koopman student.

    The student's observables g(t, x) = [1, t, x, phi(t, x)] evolve by one linear generator, dg/dt = g L, so
    g(t + tau) = g(t) exp(tau L) and the state is a slice of g: data in one step from noise, whole paths in
    closed form, the noise that data came from, and a spectrum to read (Turan et al., arXiv 2506.22304).
    Every option that is None is chosen by the dimension of the data.

    Parameters
    ----------
    observables : int, optional
        Number of learnt observables phi: 64 up to eight dimensions, 128 beyond. The degree of a polynomial
        basis decides its number.
    basis : {"network", "fourier", "polynomial", "unet", "hierarchy"}, default "network"
        What phi is made of. ``"network"``: a perceptron. ``"fourier"``: cosines of random frequencies.
        ``"polynomial"``: all monomials of t, the data's principal coordinates and the condition from degree 2
        up. For images ``(C, H, W)`` also ``"unet"``: the pixels of an image that a U-Net gives, with as many
        channels as the image unless ``observables``, a multiple of H W, says otherwise (the paper's
        observables for images); and ``"hierarchy"``: the feature maps of every level of a U-Net's way down,
        each of whose channels evolves by eigenvalues of its own, with a U-Net's way up as the decoder (after
        Hierarchical Koopman Diffusion, arXiv 2510.12220).
    generator : {"spectral", "dense"}, default "spectral"
        ``"spectral"``: phi evolves by 2x2 blocks of bounded growth, everything in closed form. ``"dense"``:
        a full matrix, as in the paper. See :meth:`to_spectral` and :meth:`to_dense`.
    fidelity : {"balanced", "endpoint", "spectral"}, default "balanced"
        What the student should be good at; sets the weights of the loss. ``"balanced"``: points in data
        space, with observables that follow the flow. ``"endpoint"``: points only, a little more exactly; the
        eigenvalues are then a basis of the student's own. ``"spectral"``: the observables first.
    width, depth : int, optional
        Units of each hidden layer and number of hidden layers of the perceptron behind phi.
    unet : UNet or mapping, optional
        U-Net of the last two bases.
    warm_start : bool, default False
        Whether U-Nets begin with the weights of the teacher's, a native one of the same architecture.
    architecture : Architecture or mapping, optional
        Everything else about the model: see :class:`koopflow.Architecture`.
    steps : int, optional
        Training steps: 10,000 up to eight dimensions, 6,200 up to 256 (11,000 and 8,200 with
        ``fidelity="endpoint"``), 8,000 beyond, 5,000 with a U-Net. That is about a minute in the plane and
        three on 64 pixels, on two cores.
    batch_size : int, optional
        Noise samples of one step: 256 from nine to 256 dimensions without a U-Net, 128 otherwise. Rows for
        other terms of the loss are added in proportion (docs/distillation.md).
    learning_rate : float, optional
        Peak learning rate of the observables.
    training : Training or mapping, optional
        Options of gradient steps: see :class:`koopflow.Training`.
    trajectories : Trajectories, mapping or int, optional
        The teacher's trajectories to learn from, or their number: see :class:`koopflow.Trajectories`.
    objective : Objective or mapping, optional
        Single terms of the loss: see :class:`koopflow.Objective`.
    max_seconds : float, optional
        Time limit of the whole fit: trajectories, statistics, training, evaluations and linear solves. The
        best student is kept. A step or an evaluation of the teacher that is under way is finished; a teacher
        too slow for the limit gives a poor student and a warning, or an ``ArgumentError`` if there is no time
        for a single evaluation.
    seed : int or None, default 0
        Random seed of everything; None draws one, which ``history_["seed"]`` says.
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
            Teacher, fitted or attached. Or rows of data, as scikit-learn passes them: they are ``data``,
            which few losses look at, and ``teacher`` is the teacher.
        y : array, optional
            With rows of data, their condition; passed over for an unconditional teacher.
        teacher : FlowTeacher, optional
            Teacher, where ``source`` is rows of data or not given.
        condition : array, optional
            Labels ``[P]`` or vectors ``[P, dim]`` that training draws from, for a conditional teacher; with
            ``data``, the condition of each of its rows. By default every class equally often, or the vectors
            of ``teacher.training_data_``.
        data : array, ``[N, *event]``, or batches as in :meth:`FlowTeacher.fit`, optional
            The teacher's training data: the ``consistency`` term draws its points between them and noise. By
            default ``teacher.training_data_``, which a teacher has in the process that trained it and not
            after :meth:`FlowTeacher.load`: then points of the solved trajectories serve, with a UserWarning.
        trajectory_file : path, optional
            File that solved trajectories are kept in, mapped rather than read, so that it may be larger than
            memory; it grows under the name ``<file>.partial``. A later fit of the same teacher with the same
            ``trajectories``, whatever its seed, uses it again; an unfinished one is continued.
        refresh : bool, default False
            Whether to solve the trajectories of that file anew.
        progress, callback, checkpoint, checkpoint_every, checkpoint_minutes
            As in :meth:`FlowTeacher.fit`; the file is at any moment a whole student, the best so far.
        resume : path, optional
            File that ``checkpoint`` wrote, to go on from; on a CPU exactly as if fitting had never stopped.
            Teacher, condition and options must be those of the file, except for ``steps``, ``max_seconds``
            (which counts what was spent before) and ``device``. Trajectories are solved again. With more
            ``steps`` the cosine continues at its place in the longer schedule.
        log_dir : path, optional
            Folder for TensorBoard scalars of every value: see :class:`koopflow.TensorBoardLogger`.
        features : torch.nn.Module, callable or path, optional
            Network of images' features, or a TorchScript file of one, on the student's device: the loss then
            has a term ``"feature_distance"``, of weight 1 unless ``objective`` says otherwise. It is called
            with a torch tensor ``[B, *event]``, must be differentiable in it, and answers a tensor
            ``[B, ...]`` or several. ``"lpips"`` and ``"lpips-vgg"`` are the package of that name, and
            ``"dinov2"`` that network, for images ``(1 or 3, H, W)`` in [-1, 1] (docs/images.md).
        feature_weights : path, optional
            Weights of features that are named: of LPIPS torchvision's file of AlexNet or VGG16, by default
            the one that torch.hub keeps; of DINOv2 a folder of transformers, or a checkout of
            facebookresearch/dinov2 with a file of weights, whose code is run. Nothing is downloaded.
        distributed : bool, optional
            Whether the ranks of ``torch.distributed`` share the fit: noticed by default, asked for by True,
            and never by False. See :mod:`koopflow.distributed`.

        Returns
        -------
        KoopmanDistiller
            Itself. Ctrl-C ends fitting early: the best student is kept, with a RuntimeWarning, and
            ``history_["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        TypeError, TeacherError
            For a teacher that is not a FlowTeacher (wrap a function with ``FlowTeacher.from_torch``), and for
            one whose velocity fails, or is not finite.
        DivergenceError
            When the loss kept blowing up after ``max_restarts`` restarts; this object is fitted with the best
            student.
        ArgumentError, CheckpointError, FileNotFoundError
            When an option is out of its range; when ``resume`` is not a file of a fit with these options, or
            ``trajectory_file`` is damaged or was made by another teacher; when there is no folder for a file.
        DistributedError
            When ranks have other teachers, data or options, or one fails or is gone.
        Exception
            What ``callback``, ``features`` or a function as ``progress`` raises, unchanged: fitting ends,
            ``checkpoint`` keeps what was trained, and this object stays as it was.
        """
        teacher, data, condition = _learnt(source, y, teacher, data, condition)
        files = checkpointing("a student", checkpoint, checkpoint_every, checkpoint_minutes, resume)
        trajectories = check_place("trajectory_file", trajectory_file, "trajectories", reads=not refresh)
        check_apart(checkpoint=files["checkpoint"], trajectory_file=trajectories)
        field = teacher.field
        config = {**teacher.pairing_, **self._config(), "seed": self._seed(resume)}
        distance = None
        if features is None and feature_weights is not None:
            raise ArgumentError(
                f"feature_weights: expected None without features by name, got {feature_weights!r}"
            )
        if features is not None:
            distance = feature_distance(
                features, field.device, weights=feature_weights, event_shape=field.event_shape
            )
            config["weights"] = {"feature_distance": 1.0, **config.get("weights", {})}
        kind = Conditioning.of(field)
        facts = {"kind": field.kind, "event_shape": list(field.event_shape), "conditioning": kind.plain()}
        if not teacher.clock.is_unit:
            facts["horizon"] = teacher.clock.plain()
        facts["mixing"] = None if field.mixing is None else json.loads(field.mixing)
        condition = as_condition(condition)
        if kind.classes is not None:
            learnt = teacher.history_.get("classes", range(kind.classes))
            if condition is None and data is None and len(learnt) < kind.classes:
                condition = learnt
            labels = to_numpy(as_condition(condition))
            seen = np.unique(labels) if labels.dtype.kind in "iub" else learnt
            facts["classes"] = [int(label) for label in seen]
        points = _points(teacher, data, condition, config)
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

        A fit with ``ema_decay`` keeps both, in its file too, and begins with the averaged ones; without it
        there is one kind, and nothing changes.
        """
        self._student = self._fitted().with_weights(str(weights))
        self._spectrum = None
        return self

    def use_average(self, decay: float) -> KoopmanDistiller:
        """Choose one of the averages that a fit with ``Training(averages=...)`` kept, by its decay.

        Its weights are those of its own best evaluation, which ``history_["averages"]`` tells; a linear solve
        after them (``method="refine"``) is not among them. ``use_weights("ema")`` goes back to what was kept.
        Raises ``ArgumentError`` for another decay, and for a student of one average or none.
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
            Teacher, usually the one that was distilled; solved by dopri5 at tolerances of 1e-5.
        data : array, ``[N, *event]``, optional
            Held-out data. With ``N >= 2 n`` the sampling floor has the size of the comparison; without data
            there are no distances, and the teacher's samples are the unit of errors.
        n : int, default 2000
            Number of samples, at least 2.
        seed : int, default 987654321
            Random seed of the noise; those that trained teacher and student would not make fresh noise.
        condition : array, optional
            Labels or vectors for conditional fields, of the samples or of the data: however many there are,
            they are spread evenly over the ``n`` samples. By default every class that training had, or the
            vectors of ``teacher.training_data_``.

        Returns
        -------
        EvaluationReport
            Prints as a table; ``to_dict()`` for JSON.
        """
        self._fitted()
        count, seed = as_integer(n, "n", least=2), as_seed(seed)
        return evaluate(self, checked_teacher(teacher), data, n=count, seed=seed, condition=condition)

    def score(
        self, source: Flow | Array | None = None, y: Array | None = None, *, teacher: Flow | None = None
    ) -> float:
        """Minus the ``endpoint_error`` of :meth:`evaluate`: how well noise goes where the teacher takes it.

        What scikit-learn's ``GridSearchCV`` and ``cross_val_score`` maximise; at most 0, and the same number
        at every call.

        Parameters
        ----------
        source : FlowTeacher or array, ``[N, *event]``
            Teacher; or at least 4 rows of held-out data, whose number is that of the noise samples and whose
            total standard deviation is the unit of the error.
        y : array, optional
            With rows of data, their condition; passed over for an unconditional teacher.
        teacher : FlowTeacher, optional
            Teacher, where ``source`` is no teacher; by default that of ``fit`` in this process.
        """
        self._fitted()
        if teacher is None and not isinstance(source, Flow):
            teacher = self._teacher
        teacher, data, condition = _learnt(source, y, teacher, None, None)
        return -endpoint_error(self, teacher, data, condition=condition)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the student to one safetensors file, atomically."""
        self._fitted().save(as_path(path), self._about())

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> KoopmanDistiller:
        """Read a student that :meth:`save` wrote. Raises ``FileNotFoundError``, or ``CheckpointError`` for
        what is not a whole koopflow student."""
        student, text = _core.Student.load(as_path(path), device=name_of(device))
        return cls._made(path, student, json.loads(text))

    def to_torch(self) -> StudentModule:
        """The student as a module in plain PyTorch, of the same numbers and on the same device.

        Its ``forward``, ``path``, ``inverse`` and ``encode`` are differentiable in inputs and weights, which
        are a copy of the student's. See :class:`koopflow.twins.StudentModule`.
        """
        student = self._fitted()
        stored = Stored.from_bytes(student.to_bytes())
        stored.header["facts"]["header"] = json.loads(self._about())
        module = StudentModule(stored).to(student.device)
        module.clock = (self.clock.start, self.clock.end)
        return module

    def to_onnx(self, path: str | PathLike[str], *, check: bool = True) -> None:
        """Write the one-step map as an ONNX file, which runs without koopflow and torch.

        From ``x0``, ``[B, *event]``, and for a conditional student ``condition``, labels ``[B]`` (int64, not
        checked) or vectors ``[B, D]``, to ``x1``; B is any number. Metadata are ``koopflow_version``, and as
        JSON ``event_shape`` and ``conditioning``. Of a float64 student with a U-Net, which onnxruntime cannot
        run, the file is in float32, with a UserWarning. Atomic; models of koopflow are not replaced.

        Parameters
        ----------
        path : path
            File.
        check : bool, default True
            Whether onnxruntime has to give the samples of :meth:`to_torch`, to 1e-5 of their size, before
            anything is written; a KoopflowError says that it does not.

        Raises
        ------
        ImportError
            Without the packages of ``pip install 'koopflow[onnx]'``.
        ArgumentError, OSError
            For weights beyond the 2 GiB of an ONNX file, and for a place that cannot be written.
        """
        write_onnx(self.to_torch(), path, check=as_flag(check, "check"))

    def to_pt2(self, path: str | PathLike[str]) -> None:
        """Write the one-step map as a program of ``torch.export``, which runs with torch alone.

        ``torch.export.load(path).module()`` takes ``x0`` and the condition of each row, as :meth:`to_onnx`
        says, on the device of this student; gradients reach ``x0``. Raises ``ArgumentError`` or ``OSError``
        for a place that cannot be written.
        """
        write_pt2(self.to_torch(), path)

    @classmethod
    def from_torch_module(cls, module: torch.nn.Module) -> KoopmanDistiller:
        """A fitted student of the weights of a module that :meth:`to_torch` made, on the module's device.

        Options and history are those of the student that the module was made of, with a note that the weights
        are a module's; of averaged and last weights, if it had both, only the module's are left. Raises
        ``ArgumentError`` for other modules and for layers that were put in or replaced, and
        ``NonFiniteError`` for weights that are not finite.
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
        """A student of the core, with what its file says about the estimator."""
        distiller = cls._read(path, header.get("params", {}), device=student.device)
        distiller._adopt(student, header.get("teacher", {}))
        if "conversion" in header:
            distiller.conversion_ = header["conversion"]
        return distiller

    def _about(self) -> str:
        """What a file of the fitted student says about the estimator."""
        more = {"conversion": self.conversion_} if hasattr(self, "conversion_") else {}
        return self._header(teacher=self.teacher_, **more)

    def _header(self, **more: Any) -> str:
        """What a file says about the estimator."""
        return to_json({"params": self._written(), **more})

    def _seed(self, resume: str | PathLike[str] | None) -> int:
        """The seed of a fit; None draws one, and goes on with that of a file to resume."""
        if self.seed is None and resume is not None:
            return int(json.loads(_core.describe_file(as_path(resume))[1])["config"]["seed"])
        return as_seed(self.seed)

    def _config(self) -> dict[str, Any]:
        """The options that are set, by the core's flat names; the core decides on the others."""
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


def _learnt(
    source: Flow | Array | None,
    y: Array | None,
    teacher: Flow | None,
    data: Array | None,
    condition: Array | None,
) -> tuple[Flow, Array | None, Array | None]:
    """Teacher, data and their condition, whichever of the two ways of ``fit`` they were given in."""
    if teacher is None and hasattr(source, "__len__") and not callable(source):
        raise TypeError(
            "teacher: expected a FlowTeacher, or one beside rows of data (data, teacher=teacher), since "
            f"copies and files of students do not hold theirs; got None beside a {type(source).__name__}"
        )
    if isinstance(source, Flow) or teacher is None:
        if teacher is not None:
            raise ArgumentError("teacher: expected None beside a teacher as the first argument, got another")
        return checked_teacher(source), data, condition
    if source is not None and data is not None:
        raise ArgumentError("data: expected None beside rows of data as the first argument, got an array")
    known = Conditioning.of(checked_teacher(teacher).field)
    return teacher, data if source is None else source, known.of_rows(y, condition)


def _points(
    teacher: Flow, data: Array | None, condition: Array | None, config: dict[str, Any]
) -> dict[str, Any]:
    """Data that points are drawn from, and the condition and noise of each row."""
    if data is not None:
        kind = Conditioning.of(teacher.field)
        data, brought = with_condition(data, condition, teacher.event_shape_, conditional=bool(kind))
        return {"data": data, "data_condition": as_condition(brought)}
    known = teacher.training_data_
    if known is not None:
        # Somebody may ask for other pairs than the given ones.
        noise = known.noise if config["coupling"] == "given" else None
        return {"data": known.data, "data_condition": known.condition, "data_noise": noise}
    if teacher.history_ and config.get("weights", {}).get("consistency"):
        given = config["coupling"] == "given"
        warnings.warn(
            "the teacher was loaded from a file, which does not hold "
            + ("the pairs that it was trained on" if given else "its training data")
            + ": the consistency term uses points of solved trajectories"
            + ("" if given else "; fit(teacher, data=...) draws them from the teacher's probability path"),
            UserWarning,
            stacklevel=3,
        )
    return {}
