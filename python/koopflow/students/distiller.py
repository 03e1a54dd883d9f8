"""The student: a flow lifted to observables that evolve linearly, sampled in one step."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_batch, as_condition
from ..exceptions import ArgumentError, CheckpointError, DivergenceError
from ..metrics.feature_distance import feature_distance
from ..options import UNet, plain, unet_of
from ..progress import ProgressFunction, ProgressMeter
from ..teachers.flow import Flow, check_checkpointing, checked_count, checked_teacher
from ..tensorboard import logged
from .evaluation import EvaluationReport, evaluate
from .student import FittedStudent


class KoopmanDistiller(FittedStudent):
    """Distils a flow-matching teacher into a Koopman student.

    The student's observables g(t, x) = [1, t, x, phi(t, x)] evolve by one linear generator, dg/dt = g L, so
    g(t + tau) = g(t) exp(tau L) and the state is a slice of g: data in one step from noise, whole paths in
    closed form, the noise that data came from, and a spectrum to read (Turan et al., arXiv 2506.22304).
    Every option that is None is chosen by the dimension of the data.

    Parameters
    ----------
    observables : int, optional
        How many learnt observables phi there are: 64 up to eight dimensions, 128 beyond. A polynomial basis
        has as many as its degree says.
    basis : {"network", "fourier", "polynomial", "unet", "hierarchy"}, default "network"
        What phi is made of: a network; cosines of random frequencies; all monomials of t, the data's
        principal coordinates and the condition from degree 2 to ``degree``. For images ``(C, H, W)`` also
        ``"unet"``, the pixels of an image that a U-Net answers, as many channels as the image has unless
        ``observables``, a multiple of H W, says otherwise (the paper's observables for images); and
        ``"hierarchy"``: the feature maps of every level of a U-Net's way down, each of whose channels evolves
        by eigenvalues of its own, and a U-Net's way up as the decoder (after Hierarchical Koopman Diffusion,
        arXiv 2510.12220).
    inputs : {"standardised", "raw"}, default "standardised"
        What the network of the first basis sees: t and x in the data's principal axes, raw and standardised
        by the running mean and deviation of x_t, with a linear skip to the features; or t and x as they are
        and no skip, as in the paper, for comparison.
    unet : UNet or mapping, optional
        Of the last two bases; see :class:`koopflow.UNet`.
    per_pixel : bool, default False
        Every pixel of a hierarchy's maps has its own eigenvalues, instead of sharing its channel's.
    warm_start : bool, default False
        U-Nets begin with the weights of the teacher's, a native one of the same architecture.
    degree : int, optional
        Of a polynomial basis, 2 to 12: 4 in a few dimensions, 2 beyond.
    generator : {"spectral", "dense"}, default "spectral"
        ``"spectral"``: phi evolves by 2x2 blocks of bounded growth, everything in closed form. ``"dense"``:
        a full matrix, as in the paper. See :meth:`to_spectral` and :meth:`to_dense`.
    frame : {"moving", "fixed"}, optional
        ``"moving"``: the network gives each feature as it was at time 0, h(t, x), and phi = h exp(t L): an
        eigenfunction is exp(lambda t) times a constant of motion, so that the network has no rotation to
        learn. ``"fixed"``: it gives phi itself. None moves with a spectral generator whose network is
        trained.
    stability : {"free", "dissipative", "bounded"}, default "free"
        Of a dense generator: ``"dissipative"`` lets no eigenvalue grow, ``"bounded"`` keeps real parts
        within 8, as a spectral generator always does.
    decoder : {"slice", "linear", "network"}, default "slice"
        How :meth:`readout` reads states from observables: the coordinates of x among them, exact at once;
        a learnt linear map; or the coordinates and a learnt network's correction.
    width, depth : int, optional
        Of the network behind phi.
    lifts : {1, 2}, default 2
        Two observables networks under one generator, one for decoding forwards and one for backwards, or
        one for both.
    steps : int, optional
        Training steps: 10,000 up to eight dimensions, 6,200 up to 256 (11,000 and 8,200 where ``fidelity`` is
        ``"endpoint"``), 8,000 beyond, 5,000 with a U-Net. It is about a minute in the plane and three on 64
        pixels, on two cores.
    batch_size : int, optional
        Noise samples a step: 256 from nine dimensions to 256 without a U-Net, 128 otherwise. As many data
        go back to noise and half as many pairs of times join them; in nine to 256 dimensions three quarters
        and an eighth, and a quarter for each of ``path`` and ``round_trip``.
    learning_rate : float, optional
        Peak of the schedule, for the observables.
    generator_learning_rate : float, optional
        Peak for the generator; that of the observables by default.
    schedule : {"cosine", "constant", "plateau"}, default "cosine"
        After a warm-up: a half cosine to zero over the budget, the peak throughout, or the peak halved
        whenever five held-out evaluations bring no improvement.
    warmup_steps : int, optional
        Steps of linear warm-up; 50 by default.
    optimizer : {"adam", "adamw"}, default "adam"
        With weight decay in the gradient, or of the weights themselves.
    weight_decay : float, default 0.0
        At least 0.
    clip_norm : float, optional
        The largest norm of the gradient that is applied; 1 by default.
    ema_decay : float, optional
        Of averaged weights, in [0, 1): they are what is evaluated, kept, sampled with and saved; see
        :meth:`use_weights`. 0, the default, does not average.
    precision : {"float32", "bf16", "fp16"}, default "float32"
        What the network's products run in while training. ``"fp16"``, with dynamic loss scaling, needs
        CUDA. Evaluation and sampling are in ``dtype``.
    accumulate : int, default 1
        Micro-batches that one step's batch is cut into, at most as many as leave two pairs of times in each.
        When a GPU runs out of memory the number doubles, and ``history_["notes"]`` says so.
    evaluate_every : int, optional
        Steps between two held-out evaluations; twenty of them by default.
    metric : str, default "score"
        What best-model keeping, plateaus and ``patience`` look at: ``"endpoint_error"``, ``"path_error"``,
        ``"inversion_error"``, ``"phase_error"``, ``"consistency_residual"``, or ``"score"``, the sum of the
        first three, without those that no term of the loss asks for.
    patience : int, optional
        Evaluations without improvement that end fitting.
    max_restarts : int, default 3
        How often a fit that diverges goes back to its best state, at half the learning rate.
    trajectories : int, optional
        How many of the teacher's trajectories to store and learn from: 65,536 up to eight dimensions, 131,072
        up to 256, 16,384 beyond.
    path_steps : int, optional
        Steps of each stored trajectory: 32 up to eight dimensions, 16 beyond.
    trajectory_memory : float, default 2
        GiB that stored trajectories may take; where they would take more, fewer are stored, and
        ``history_["trajectories"]`` says how many. Trajectories in a file are not bounded.
    pairs : {"trajectory", "endpoints", "time_grouped"}, default "trajectory"
        Which points of a trajectory the ``target`` and ``phase`` terms connect: two random times, half of the
        later ones being 1; noise and endpoint; or one difference of times for each batch, from random starts.
    curriculum : {"forward", "reverse"}, optional
        For ``pairs="time_grouped"``: the difference grows from one step of the path to all of it as training
        goes on, or shrinks. None draws it at random.
    coupling : {"ot", "independent"}, optional
        How the teacher's noise and data were paired, for the ``consistency`` term. None takes it from a
        teacher that was trained here, and ``"independent"`` for any other.
    path : {"linear", "vp"}, optional
        The teacher's probability path, for the same. None takes it from a teacher that was trained here, and
        ``"linear"`` for any other.
    fidelity : {"balanced", "endpoint", "spectral"}, default "balanced"
        What the student is to be good at; sets the weights. ``"balanced"``: points in data space, with
        observables that follow the flow. ``"endpoint"``: points only, a little more exactly; the eigenvalues
        are then a basis of the student's own. ``"spectral"``: the observables first.
    weights : dict, optional
        Weights of the loss by term name, over those of ``fidelity``; 0 turns a term off.
        Targets in data space: ``endpoint`` (noise to data), ``path`` (noise to a random time), ``target``
        (over the source of pairs), ``inverse`` (data to noise), ``round_trip`` (data to the student's noise
        and back), ``re_encoding`` (to data from where the student's own sampler of 2, 4 or 8 steps encodes
        anew), ``feature_distance`` (see :meth:`fit`), ``reconstruction`` (for readouts that are no exact
        slice). In observable space: ``phase`` (g(s) exp((t - s) L) against g(t)), ``consistency`` (J g (1, v)
        against g L; alone it is simulation-free). Regularisers: ``unitarity`` (squared growth), ``stability``
        (squared positive growth), ``orthogonality`` (squared cosines between modes), ``latent_moments``
        (feature means from 0 and deviations from 1).
    scaling : {"relative", "absolute"}, default "relative"
        Errors over the variance of what they are compared with, or plain mean squares.
    method : {"gradient", "closed_form", "refine"}, default "gradient"
        ``"closed_form"``: no gradient steps but a linear solve in seconds, for the dense generator, or the
        spectral readout, of random observables (one lift: nothing but training tells two apart).
        ``"refine"``: gradient steps, then the same solve for the trained observables; whichever has the lower
        held-out errors is kept. The solve comes after ``max_seconds``.
    ridge : float, optional
        Of the linear solve, relative to the mean square of the regressors; None chooses by the residuals and
        errors on held-out trajectories.
    max_seconds : float, optional
        Ends fitting early, trajectories included, keeping the best student.
    seed : int, default 0
        Fixes everything random.
    device : str, default "cpu"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``.
    dtype : {"float32", "float64"}, default "float32"
        Of parameters and samples.

    Attributes
    ----------
    event_shape_ : tuple of int
        The shape of one sample.
    n_observables_ : int
        m, the constant, time and state included.
    config_ : dict
        The configuration with every None resolved.
    history_ : dict
        ``steps``, ``seconds``, ``trajectory_seconds``, ``teacher_evaluations``, ``best_step`` (0 is the
        untrained student), ``skipped_steps`` and ``restarts`` (after losses that were not finite),
        ``notes`` (a list of ``step`` and ``text``), ``stopped`` (``"completed"``, ``"interrupted"``,
        ``"budget"``, ``"patience"`` or ``"diverged"``; ``"interrupted"`` in a checkpoint of a fit that had
        not ended) and ``log``, a list of dictionaries: ``step``, ``seconds``, every loss term, the held-out
        errors and the learning rate, those that are not finite left out.
        After a linear solve also ``closed_form``: ``ridge``, ``residual``, the held-out scores before and
        after, and which was ``kept``.
    teacher_ : dict
        What the teacher was: ``kind``, ``event_shape``, ``conditioning``.
    conversion_ : dict
        Only after :meth:`to_spectral` or :meth:`to_dense`: ``condition_number`` of the eigenvectors,
        ``residual``, largest ``growth``, ``smallest`` eigenvalue, ``observables``, ``dropped``,
        ``affine_residual``; empty for ``to_dense``, which changes no number.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, KoopmanDistiller
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> student = KoopmanDistiller(observables=8, width=16, steps=50, trajectories=256)
    >>> student.fit(teacher, progress=False).sample(4).shape
    (4, 2)
    """

    def __init__(
        self,
        *,
        observables: int | None = None,
        basis: str = "network",
        inputs: str = "standardised",
        unet: UNet | Mapping[str, Any] | None = None,
        per_pixel: bool = False,
        warm_start: bool = False,
        degree: int | None = None,
        generator: str = "spectral",
        frame: str | None = None,
        stability: str = "free",
        decoder: str = "slice",
        width: int | None = None,
        depth: int | None = None,
        lifts: int = 2,
        steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        generator_learning_rate: float | None = None,
        schedule: str = "cosine",
        warmup_steps: int | None = None,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        precision: str = "float32",
        accumulate: int = 1,
        evaluate_every: int | None = None,
        metric: str = "score",
        patience: int | None = None,
        max_restarts: int = 3,
        trajectories: int | None = None,
        path_steps: int | None = None,
        trajectory_memory: float = 2.0,
        pairs: str = "trajectory",
        curriculum: str | None = None,
        coupling: str | None = None,
        path: str | None = None,
        fidelity: str = "balanced",
        weights: dict[str, float] | None = None,
        scaling: str = "relative",
        method: str = "gradient",
        ridge: float | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        # Nothing is checked here: scikit-learn clones and sets parameters, and fit checks them.
        self.observables = observables
        self.basis = basis
        self.inputs = inputs
        self.unet = unet
        self.per_pixel = per_pixel
        self.warm_start = warm_start
        self.degree = degree
        self.generator = generator
        self.frame = frame
        self.stability = stability
        self.decoder = decoder
        self.width = width
        self.depth = depth
        self.lifts = lifts
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.generator_learning_rate = generator_learning_rate
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.ema_decay = ema_decay
        self.precision = precision
        self.accumulate = accumulate
        self.evaluate_every = evaluate_every
        self.metric = metric
        self.patience = patience
        self.max_restarts = max_restarts
        self.trajectories = trajectories
        self.path_steps = path_steps
        self.trajectory_memory = trajectory_memory
        self.pairs = pairs
        self.curriculum = curriculum
        self.coupling = coupling
        self.path = path
        self.fidelity = fidelity
        self.weights = weights
        self.scaling = scaling
        self.method = method
        self.ridge = ridge
        self.max_seconds = max_seconds
        self.seed = seed
        self.device = device
        self.dtype = dtype

    def fit(
        self,
        teacher: Flow,
        y: None = None,
        *,
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
    ) -> KoopmanDistiller:
        """Distil a teacher.

        Parameters
        ----------
        teacher : FlowTeacher
            Fitted or attached.
        y : None
            Ignored; scikit-learn passes it.
        condition : array, optional
            For a conditional teacher: labels ``[P]`` or vectors ``[P, dim]`` that training draws from. Given
            with ``data``, the condition of each of its rows. None: every class equally often, or the vectors
            that the teacher was trained with.
        data : array, ``[N, *event]``, optional
            The teacher's training data, between which and noise the ``consistency`` term draws its points.
            None takes those that the teacher was trained with in this process; where there are none, points
            of the solved trajectories serve.
        trajectory_file : path, optional
            Where solved trajectories are kept, as a safetensors file that grows under the name
            ``<file>.partial``. It is mapped rather than read, so it may be larger than memory. A later fit of
            the same teacher, with the same ``trajectories`` and ``path_steps`` and any ``seed``, uses it
            again; what was cut off, by Ctrl-C or worse, continues.
        refresh : bool, default False
            Solve the trajectories of that file anew.
        progress : bool or callable, default True
            A bar where somebody is looking, nothing, or a function: see :mod:`koopflow.progress`.
        callback : callable, optional
            Called with every progress event besides.
        log_dir : path, optional
            Writes every value as a TensorBoard scalar into this folder: see
            :class:`koopflow.TensorBoardLogger`.
        features : torch.nn.Module, callable or path, optional
            A network of images' features, or a TorchScript file of one, on the student's device: the loss
            then has a term ``"feature_distance"``, of weight 1 unless ``weights`` says otherwise. It is
            called with a torch tensor ``[B, *event]``, must be differentiable in it, and answers a tensor
            ``[B, ...]`` or several.
        checkpoint : path, optional
            A file to write the state of training to, atomically, while it goes on and when it ends. At any
            moment it is a whole student, the best so far, that :meth:`load` reads.
        checkpoint_every : int, optional
            Steps between two files.
        checkpoint_minutes : float, optional
            Minutes between two files; 10 where ``checkpoint_every`` is not given either.
        resume : path, optional
            A file that ``checkpoint`` wrote, to go on from; on a CPU exactly as if fitting had never been
            cut. Teacher, condition and options must be those of the file, except for ``steps``,
            ``max_seconds`` (which counts what was spent before) and ``device``. Trajectories are solved
            again. With more ``steps`` the cosine goes back up to where the longer schedule has it.

        Returns
        -------
        KoopmanDistiller
            Itself. Ctrl-C ends fitting early: the best student so far is kept, a warning says so, and
            ``history_["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        TypeError
            When the teacher is not a FlowTeacher. A bare function does not say its event shape; wrap it with
            ``FlowTeacher.from_torch``.
        TeacherError
            When the teacher's velocity fails, or is not finite.
        DivergenceError
            When the loss kept blowing up after ``max_restarts`` restarts. The best student is kept, and this
            object is fitted with it.
        CheckpointError
            When ``resume`` is no file of a fit, or ``trajectory_file`` is damaged, or was made by another
            teacher or for other options.
        ArgumentError
            When an option is out of its range, or is not that of the file to resume.
        """
        check_checkpointing(checkpoint, checkpoint_every, checkpoint_minutes)
        field = checked_teacher(teacher).field
        config = {**teacher._pairing(), **self._config(tuple(field.event_shape))}
        if features is not None:
            config["weights"] = {"feature_distance": 1.0, **config.get("weights", {})}
        data_noise, data_condition = None, None
        if data is None and teacher._training is not None:
            data, data_condition = teacher._training
            # Other pairs may be asked for, where points are drawn from data.
            data_noise = teacher._training_noise if config["coupling"] == "given" else None
        facts = {
            "kind": field.kind,
            "event_shape": list(field.event_shape),
            "conditioning": json.loads(field.conditioning),
        }
        with (
            logged(log_dir, callback) as listener,
            ProgressMeter(progress=progress, callback=listener) as meter,
        ):
            student = _core.Student.distill(
                field,
                json.dumps(config),
                condition=as_condition(condition),
                data=None if data is None else as_batch(data),
                data_noise=None if data_noise is None else as_batch(data_noise),
                data_condition=as_condition(data_condition),
                trajectory_file=None if trajectory_file is None else fspath(trajectory_file),
                refresh=refresh,
                monitor=meter.monitor,
                checkpoint=None if checkpoint is None else fspath(checkpoint),
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=None if checkpoint_minutes is None else 60.0 * checkpoint_minutes,
                header=self._header(teacher=facts),
                resume=None if resume is None else fspath(resume),
                features=None if features is None else feature_distance(features, field.device),
            )
        self._adopt(student, facts)
        self._teacher = teacher
        if self.history_.get("stopped") == "interrupted":
            warnings.warn(
                f"interrupted after {self.history_.get('steps')} steps; the best student so far is kept",
                RuntimeWarning,
                stacklevel=2,
            )
        if self.history_.get("stopped") == "diverged":
            raise DivergenceError(
                f"training diverged: {self.history_['notes'][-1]['text']} (try a smaller learning_rate)"
            )
        return self

    def use_weights(self, weights: str) -> KoopmanDistiller:
        """Choose between the averaged weights and those of the last step.

        A fit with ``ema_decay`` keeps both, in its file too, and begins with the averaged ones; without it
        there is one kind, and nothing changes.

        Parameters
        ----------
        weights : {"ema", "raw"}
            Which to use from now on.

        Returns
        -------
        KoopmanDistiller
            Itself.
        """
        self._student = self._fitted().with_weights(weights)
        self._spectrum = None
        return self

    def evaluate(
        self,
        teacher: Flow,
        data: Array,
        *,
        n: int = 2000,
        seed: int = 987_654_321,
        condition: Array | None = None,
    ) -> EvaluationReport:
        """Compare with a teacher on fresh noise, and both with held-out data.

        Parameters
        ----------
        teacher : FlowTeacher
            Usually the one that was distilled; solved by dopri5 at tolerances of 1e-5.
        data : array, ``[N, *event]``
            Held-out data. With ``N >= 2 n`` the sampling floor has the size of the comparison.
        n : int, default 2000
            How many samples.
        seed : int, default 987654321
            Of the noise. It must differ from the seeds that trained teacher and student, or the noise is
            not fresh.
        condition : array, optional
            ``n`` labels or vectors for conditional fields.

        Returns
        -------
        EvaluationReport
            Prints as a table; ``to_dict()`` for JSON.
        """
        self._fitted()
        teacher = checked_teacher(teacher)
        return evaluate(self, teacher, data, n=checked_count(n), seed=seed, condition=as_condition(condition))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the student to one safetensors file, atomically."""
        student = self._fitted()
        more = {"conversion": self.conversion_} if hasattr(self, "conversion_") else {}
        student.save(fspath(path), self._header(teacher=self.teacher_, **more))

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> KoopmanDistiller:
        """Read a student that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        CheckpointError
            When the file is not a whole koopflow student.
        """
        student, text = _core.Student.load(fspath(path), device=device)
        header = json.loads(text)
        try:
            distiller = cls(**{**header.get("params", {}), "device": student.device})
        except TypeError as error:
            raise CheckpointError(
                f"{fspath(path)}: the header holds options that are not a student's"
            ) from error
        distiller._adopt(student, header.get("teacher", {}))
        if "conversion" in header:
            distiller.conversion_ = header["conversion"]
        return distiller

    def _header(self, **more: Any) -> str:
        """What a file says about the estimator."""
        params = {**self.get_params(), "unet": plain(self.unet)}
        return json.dumps({"params": params, **more})

    def _config(self, event_shape: tuple[int, ...]) -> dict[str, Any]:
        """What was set, for the core, which resolves the rest."""
        config = {name: value for name, value in self.get_params().items() if value is not None}
        unet = None if self.unet is None else unet_of("unet", self.unet, "")
        if unet is not None:
            config["unet"] = unet.options()
        # An estimator cannot have a method and a parameter of one name.
        config["readout"] = config.pop("decoder", "slice")
        weights = config.get("weights", {})
        known = json.loads(_core.student_defaults(int(np.prod(event_shape))))["weights"]
        unknown = sorted(set(weights) - set(known))
        if unknown:
            raise ArgumentError(f"weights: expected names among {sorted(known)}, got {unknown}")
        return config
