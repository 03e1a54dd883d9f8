"""The Rust extension: velocity fields, teacher training, students, forecasters, metrics.

Arrays are NumPy arrays or torch tensors. Outputs have the kind (and, for torch, the device) of the first
array argument, and are NumPy arrays if there is none. The batch dimension comes first: ``t`` is ``[B]`` and
``x`` is ``[B, *event]``. Time 0 is noise and time 1 is data.

A *monitor* is called with ``{"stage", "step", "total", "seconds", "values"}``. The stage is ``"teacher"``,
``"trajectories"``, ``"student"`` or ``"sample"``, and the values are named floats. For an event that the user
should read about, ``"note"`` holds a text. An exception raised by the monitor stops the computation and is
raised again unchanged.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

from numpy import complex128, float32, float64
from numpy.typing import NDArray
from torch import Tensor

_Array: TypeAlias = Any
# The rank, the number of ranks, and a function that sums a tensor over all ranks in place and returns whether
# Ctrl-C was pressed meanwhile.
_World: TypeAlias = tuple[int, int, Callable[[Tensor], bool]] | None
_Monitor: TypeAlias = Callable[[dict[str, Any]], object] | None

TORCH_VERSION: str
"""The torch version that the extension was built for, for instance ``"2.11.0"``."""

__version__: str
"""The version of the Rust crate."""

@final
class VelocityField:
    """A velocity field v(t, x) over samples of a fixed event shape: dx/dt = v.

    It is built by the static methods or by :func:`train_teacher`, not by calling the class.
    """

    @staticmethod
    def gaussian(
        mean: _Array,
        cov: _Array,
        *,
        event_shape: Sequence[int],
        device: str = "cpu",
        dtype: str = "float32",
    ) -> VelocityField:
        """The exact field from N(0, I) to N(mean, cov) under the linear path.

        ``mean`` is ``[*event]`` or flat. ``cov`` is ``[d, d]`` over the flattened event, symmetric and
        positive semi-definite. Raises ``ShapeError`` or ``ValueError`` otherwise.
        """

    @staticmethod
    def empirical(data: _Array, *, device: str = "cpu", dtype: str = "float32") -> VelocityField:
        """The exact field of a finite data set ``[N, *event]`` under the linear path."""

    @staticmethod
    def callable(
        function: Callable[..., Any],
        vjp: Callable[..., Any],
        *,
        event_shape: Sequence[int],
        conditioning: str = '"none"',
        device: str = "cpu",
        dtype: str = "float32",
        label: str = "callable",
    ) -> VelocityField:
        """A field that calls Python with torch tensors on ``device``.

        ``function(t, x, condition)`` returns v, ``[B, *event]``; ``vjp(t, x, cotangent, condition)`` returns
        ``(v, J^T cotangent)``. ``conditioning`` is JSON: ``"none"``, ``{"labels": {"classes": 10}}`` or
        ``{"vector": {"dim": 4}}``. An exception in either function is the cause of the ``TeacherError`` that
        is raised.
        """

    @staticmethod
    def torchscript(
        path: str,
        *,
        event_shape: Sequence[int],
        convention: str = "torchcfm",
        timestep_scale: float = 1000.0,
        conditioning: str = '"none"',
        device: str = "cpu",
        dtype: str | None = None,
    ) -> VelocityField:
        """The module of a TorchScript file, run without Python.

        ``convention`` is ``"torchcfm"``, ``"flow_matching"`` or ``"diffusers"``; a condition is the third
        argument. Raises ``FileNotFoundError`` (``OSError``) if there is no such file, and ``CheckpointError``
        if it does not hold a complete module.
        """

    @staticmethod
    def diffusion(model: VelocityField, config: str = "{}") -> VelocityField:
        """The probability-flow ODE of a diffusion model, whose prediction at (noise, z) ``model`` returns.

        ``config`` is JSON: ``{"parametrisation": "eps", "schedule": {"name": "vp", ...}, "noise_argument",
        "num_timesteps", "sigma_data"}``. Every entry is optional.
        """

    def window(self, start: float, end: float) -> VelocityField:
        """The flow of this field between two times in [0, 1], rescaled to run from 0 to 1."""

    def as_source(self, event_shape: Sequence[int]) -> Source:
        """The distribution at the end of this field's flow, as the source of another flow."""

    def starting_from(self, source: Source) -> VelocityField:
        """The same field with another source."""

    @property
    def source(self) -> Source:
        """The distribution that the flow starts from."""

    def guided(self, scale: float, null_condition: _Array) -> VelocityField:
        """Classifier-free guidance; ``null_condition`` is an integer label ``[]`` or a vector ``[dim]``."""

    @staticmethod
    def chain(fields: Sequence[VelocityField], *, breaks: Sequence[float] | None = None) -> VelocityField:
        """A sequence of fields, each on one interval of time.

        The intervals are equal unless ``breaks`` are given: ``len(fields) + 1`` increasing times from 0 to 1.
        Raises ``ArgumentError``, ``ShapeError`` or ``DtypeError`` naming ``teachers`` or ``breaks``.
        """

    def reversed(self) -> VelocityField:
        """The reversed flow v(t, x) = -u(1 - t, x) of this field u."""

    @property
    def breaks(self) -> list[float]:
        """Times in (0, 1) at which the velocity is discontinuous."""

    @staticmethod
    def torchcfm(
        names: Sequence[str],
        tensors: Sequence[_Array],
        *,
        event_shape: Sequence[int],
        heads: int = 1,
        head_channels: int | None = None,
        qkv_first: bool = False,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> VelocityField:
        """A torchcfm ``UNetModel`` with the names and tensors of its state dict.

        Raises ``ValueError`` naming ``state_dict``, ``event_shape`` or the tensor that does not fit.
        """

    def tensors(self) -> list[tuple[str, Any]]:
        """The names and torch tensors of the field, copied to the CPU; empty for a field without tensors."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def kind(self) -> str:
        """The kind of field: ``"network"``, ``"gaussian"``, ``"empirical"``, ``"torch"``, ``"torchscript"``,
        ``"diffusion"``, ``"guided"``, ``"chain"``, ``"reversed"`` or ``"window"``."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""

    @property
    def dtype(self) -> str:
        """``"float32"`` or ``"float64"``."""

    @property
    def conditioning(self) -> str:
        """The conditioning of the field, as the JSON that :meth:`callable` takes."""

    @property
    def evaluations(self) -> int:
        """The number of batched function evaluations so far (NFE)."""

    def velocity(self, t: _Array, x: _Array, condition: _Array | None = None) -> _Array:
        """v(t, x), ``[B, *event]``; ``t`` is ``[B]`` or a scalar."""

    def growth(self, t: _Array, x: _Array) -> _Array | None:
        """The growth rate ``[B]`` of mass at t and x; None for a field that conserves mass.

        ``t`` is ``[B]`` or a scalar.
        """

    def log_masses(self, times: Sequence[float], states: _Array) -> _Array:
        """Log-masses ``[T, B]`` in float64 along states ``[T, B, *event]`` at increasing times.

        They are 0 at the first time and integrate the growth rate by the trapezoidal rule. Raises
        ``ArgumentError`` for a field without growth, ``ShapeError`` and ``DivergenceError``.
        """

    @property
    def mixing(self) -> str | None:
        """The mixture x_t = a x1 + s x0 of noise and data that states are, as JSON.

        It is ``{"path": "linear"}``, ``{"path": "vp"}`` or ``{"schedule": {"name": ...}}``; None if no single
        mixture holds at every time.
        """

    def denoise(self, t: _Array, x: _Array, *, of: str = "data", condition: _Array | None = None) -> _Array:
        """E[x1 | x_t = x], or E[x0 | x_t = x] with ``of="noise"``, ``[B, *event]``.

        ``t`` is ``[B]`` or a scalar. Raises ``ValueError`` naming ``teacher`` if states are no such mixture.
        """

    def solve(
        self,
        x: _Array,
        times: Sequence[float],
        *,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Integrate dx/dt = v from ``x`` at ``times[0]`` through monotone ``times``; ``[T, B, *event]``.

        The first entry is ``x``. The solvers ``euler``, ``midpoint``, ``heun``, ``rk4``, ``ab2``, ``ab3`` and
        ``dpm2m`` take ``steps`` steps over the whole span, on a ``grid``: ``uniform``, ``tau``, ``log_snr``
        or increasing times. ``dopri5`` adapts its steps to ``rtol`` and ``atol``, and takes no grid. Raises
        ``DivergenceError`` if the tolerances cannot be met.
        """

    def step_times(
        self, *, solver: str, steps: int = 100, grid: str | Sequence[float] | None = None
    ) -> list[float]:
        """The ends of the fixed steps of :meth:`solve` from time 0 to 1, including both."""

    def pull_back(
        self,
        x: _Array,
        covectors: _Array,
        *,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """The product of covectors ``[B, K, *event]`` at the data and the Jacobian of the flow map."""

    def log_prob(
        self,
        x: _Array,
        *,
        divergence: str = "auto",
        probes: int = 1,
        seed: int = 0,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Log-density in nats, ``[B]``, from d log p / dt = -div v.

        ``divergence`` is ``"exact"``, ``"hutchinson"`` or ``"auto"`` (exact up to 32 dimensions).
        """

    def to_bytes(self) -> bytes:
        """The field as the bytes of a file without a header. Pickle and deep copies use them."""

    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> VelocityField:
        """Read the bytes of :meth:`to_bytes`. Raises ``CheckpointError`` for any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...
    def save(self, path: str, header: str = "{}") -> None:
        """Write a safetensors file atomically; ``header`` is JSON that :meth:`load` gives back."""

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[VelocityField, str]:
        """The field and the header that :meth:`save` wrote. Raises ``CheckpointError`` for any other file."""

def train_teacher(
    data: _Array,
    config: str,
    *,
    noise: _Array | None = None,
    condition: _Array | None = None,
    monitor: _Monitor = None,
    checkpoint: str | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    header: str = "{}",
    resume: str | None = None,
    portions: Callable[[], tuple[_Array, _Array | None]] | None = None,
    source: Source | None = None,
    initial: VelocityField | None = None,
    world: _World = None,
) -> tuple[VelocityField, str]:
    """Conditional flow matching on data ``[N, *event]`` (Lipman et al. 2210.02747, Tong et al. 2302.00482).

    ``config`` is JSON in the form of :func:`teacher_defaults`; every entry is optional. The second result is
    a JSON history ``{"steps", "seconds", "stopped", "config", "loss": [[step, loss], ...], "skipped_steps",
    "restarts", "notes"}``. ``"stopped"`` is ``"completed"``, ``"interrupted"``, ``"budget"`` or
    ``"diverged"``; a training that diverged returns the last good field. ``noise`` ``[N, *event]`` is the
    noise of each row, for the coupling ``"given"``. Checkpoints are written and resumed as in
    :meth:`Student.distill`. ``portions`` returns the next data and their conditions; it is called after every
    pass over the present data, which the new data replace. ``source`` is the distribution that the flow
    starts from, noise if None. ``initial`` is a network of the same shape, whose weights training starts
    from.
    """

def check_snapshots(snapshots: Sequence[_Array], times: Sequence[float]) -> None:
    """Raises the errors of :func:`train_on_snapshots` about snapshots and times."""

def train_on_snapshots(
    snapshots: Sequence[_Array],
    times: Sequence[float],
    config: str,
    *,
    interpolant: str = "linear",
    plans: Sequence[_Array] | None = None,
    sizes: Sequence[float] | None = None,
    monitor: _Monitor = None,
    checkpoint: str | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    header: str = "{}",
    resume: str | None = None,
    world: _World = None,
) -> tuple[VelocityField, str]:
    """Flow matching through snapshots ``[N_k, *event]`` at increasing times (Huguet et al. 2206.14928, Tong
    et al. 2302.00482).

    The flow leads from the rows of the first snapshot at time 0 to those of the last at time 1. The other
    arguments are those of :func:`train_teacher`. ``plans`` ``[N_k, N_{k+1}]`` replace the coupling of
    ``config``. With ``sizes`` of the population the field also learns growth rates (Wang et al. 2505.13413).

    Raises ``ArgumentError``, ``ShapeError`` or ``NonFiniteError`` naming ``snapshots``, ``times``,
    ``coupling`` or ``growth``.
    """

def teacher_defaults() -> str:
    """The default configuration of :func:`train_teacher`, as JSON."""

def normal(shape: Sequence[int], seed: int) -> NDArray[float32]:
    """Standard normal noise in float32 from koopflow's own seeded generator."""

@final
class Source:
    """The distribution that a flow starts from."""

    @staticmethod
    def normal(event_shape: Sequence[int]) -> Source:
        """The standard normal distribution N(0, I)."""

    @staticmethod
    def rows(rows: _Array, event_shape: Sequence[int]) -> Source:
        """The uniform distribution over rows ``[N, *event]``, which are copied."""

    def with_noise(self, noise: float) -> Source:
        """The same rows with normal noise of standard deviation ``noise`` >= 0.

        Raises ``ArgumentError`` naming ``source_noise`` for other numbers, and for a number above 0 if the
        source is not rows.
        """

    @property
    def noise(self) -> float:
        """The standard deviation of the noise on rows; 0 for every other source."""

    @staticmethod
    def sampler(
        draw: Callable[..., _Array],
        log_prob: Callable[[NDArray[Any]], _Array] | None,
        *,
        event_shape: Sequence[int],
        conditional: bool = False,
    ) -> Source:
        """A source that calls Python.

        ``draw(count, seed)`` returns samples ``[count, *event]``. ``log_prob(x)`` returns log-densities
        ``[B]`` in nats of ``x`` ``[B, *event]``, or is None if they are not known. With ``conditional``,
        ``draw`` takes the conditions of the samples, or None, as a third argument. Files do not store the
        functions.
        """

    @property
    def kind(self) -> str:
        """The kind of source: ``"normal"``, ``"rows"``, ``"flow"`` or ``"sampler"``."""

    def draw(
        self, count: int, seed: int, *, condition: _Array | None = None, monitor: _Monitor = None
    ) -> NDArray[float32]:
        """Draw ``count`` samples ``[count, *event]``. The same seed gives the same samples.

        Raises ``ArgumentError`` naming ``x0`` for a sampler that was loaded from a file, which does not store
        its functions.
        """

@final
class Student:
    """A lift and a linear generator: g(t + tau) = g(t) exp(tau L), x = g C."""

    @staticmethod
    def distill(
        teacher: VelocityField,
        config: str,
        *,
        condition: _Array | None = None,
        data: _Array | None = None,
        data_noise: _Array | None = None,
        data_condition: _Array | None = None,
        trajectory_file: str | None = None,
        refresh: bool = False,
        monitor: _Monitor = None,
        checkpoint: str | None = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float | None = None,
        header: str = "{}",
        resume: str | None = None,
        features: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        world: _World = None,
    ) -> Student:
        """Distil a field; ``config`` is JSON in the form of :func:`student_defaults`, every entry optional.

        ``condition`` is the pool of conditions that a conditional field needs, labels ``[P]`` or vectors
        ``[P, dim]``. ``data`` ``[N, *event]`` are the teacher's data, for simulation-free points.
        ``data_condition`` holds the condition of each row (default: ``condition``), and ``data_noise`` the
        noise of each row for the coupling ``"given"``. ``trajectory_file`` stores the solved trajectories for
        later fits; ``refresh`` solves them again. ``checkpoint`` is a file that is written at an interval of
        steps or seconds and at the end, with ``header`` in it. ``resume`` is such a file to continue from. A
        fit that diverged returns the best student, and its history says ``"diverged"``. ``features`` returns
        the distance of two batches ``[B, *event]`` and its gradient with respect to the first, for the loss
        term ``feature_distance``.
        """

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Student, str]:
        """The student and the header that :meth:`save` wrote. Raises ``CheckpointError`` for any other
        file."""

    def to_bytes(self) -> bytes:
        """The student as the bytes of a file without a header. Pickle and deep copies use them."""

    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Student:
        """Read the bytes of :meth:`to_bytes`. Raises ``CheckpointError`` for any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...
    def save(self, path: str, header: str = "{}") -> None:
        """Write a safetensors file atomically; ``header`` is JSON that :meth:`load` gives back."""

    def with_weights(self, weights: str) -> Student:
        """The same student with its averaged (``"ema"``) or last (``"raw"``) weights."""

    def with_average(self, decay: float) -> Student:
        """The same student with the average of its weights that has this decay."""

    @property
    def source(self) -> Source:
        """The distribution that sampling starts from."""

    @property
    def conditioning(self) -> str:
        """The conditioning of the student, as JSON: see :meth:`VelocityField.callable`."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""

    @property
    def dtype(self) -> str:
        """``"float32"`` or ``"float64"``."""

    @property
    def size(self) -> int:
        """m, the number of observables, including the constant, time and state."""

    @property
    def history(self) -> str:
        """JSON: ``{"steps", "seconds", "trajectory_seconds", "stopped", "best_step", "log", ...}``.

        The log is a list of ``{"step", "seconds", "values": [[name, value], ...]}``.
        """

    @property
    def config(self) -> str:
        """JSON of the configuration that was used, with every default resolved."""

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the lift so far (NFE)."""

    def encode(
        self, t: _Array, x: _Array, *, direction: str = "forward", condition: _Array | None = None
    ) -> _Array:
        """Observables g(t, x), ``[B, m]``.

        ``direction`` selects the lift: ``"forward"`` for sampling or ``"backward"`` for inversion.
        """

    def encode_with_tangent(
        self,
        t: _Array,
        x: _Array,
        velocity: _Array,
        *,
        direction: str = "forward",
        condition: _Array | None = None,
    ) -> tuple[_Array, _Array]:
        """Observables and their derivative J g (1, v) along ``velocity`` ``[B, *event]``, each ``[B, m]``."""

    def own_time(self, t: float) -> float:
        """Convert a time of the data's path to the time of the observables."""

    def propagate(self, g: _Array, tau: _Array | float) -> _Array:
        """Observables g exp(tau L), ``[B, m]``; ``tau`` is a scalar or ``[B]``, of either sign."""

    def readout(self, g: _Array) -> _Array:
        """The state ``[B, *event]`` that is decoded from observables."""

    def sample(
        self, x0: _Array, *, steps: int = 1, condition: _Array | None = None, monitor: _Monitor = None
    ) -> _Array:
        """Data from noise ``x0`` ``[B, *event]`` in ``steps`` steps of equal length, with one encoding
        each."""

    def sample_count(
        self,
        n: int,
        *,
        seed: int = 0,
        steps: int = 1,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> NDArray[Any]:
        """``n`` new samples, in chunks of bounded memory; ``condition`` has one row for each sample."""

    def sample_path(self, x0: _Array, times: Sequence[float], *, condition: _Array | None = None) -> _Array:
        """States at ``times`` from one encoding at time 0, ``[T, B, *event]``."""

    def denoise(
        self, t: _Array, x0: _Array, mixing: str, *, of: str = "data", condition: _Array | None = None
    ) -> _Array:
        """E[x1 | x_t], or E[x0 | x_t] with ``of="noise"``, where x_t is the state at ``t`` of the path from
        noise ``x0``.

        ``t`` is ``[B]`` or a scalar. ``mixing`` is JSON as in :attr:`VelocityField.mixing`.
        """

    def invert(self, x: _Array, *, condition: _Array | None = None) -> _Array:
        """The noise ``[B, *event]`` that leads to data ``x``."""

    def invert_polished(
        self,
        x: _Array,
        *,
        method: str = "newton",
        polish: int = 0,
        damping: float = 0.0,
        start: _Array | None = None,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> tuple[_Array, _Array]:
        """The noise that leads to data ``[B, *event]``, after ``polish`` steps against the forward map, and
        the residuals ``[B]``.

        ``method`` is ``"newton"``, ``"fixed_point"`` or ``"anderson"``.
        """

    def sample_with_density(
        self,
        x0: _Array,
        *,
        determinant: str = "auto",
        probes: int = 8,
        products: int = 32,
        seed: int = 0,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> list[Any]:
        """Samples from noise ``x0``, and their log-densities, log |det| and its standard errors in
        float64."""

    def pull_back(
        self,
        x0: _Array,
        covectors: _Array,
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """The product of covectors ``[B, K, *event]`` at the samples and the Jacobian at their noise."""

    def density(
        self,
        x: _Array,
        *,
        determinant: str = "auto",
        polish: int = 10,
        probes: int = 8,
        products: int = 32,
        seed: int = 0,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> tuple[tuple[_Array, _Array, _Array, _Array, _Array], float]:
        """Log-densities ``[B]`` by the change of variables, noise ``[B, *event]``, residuals, log |det| and
        its standard errors ``[B]``; and the total standard deviation of the student's data.

        ``determinant`` is ``"exact"``, ``"lanczos"`` or ``"auto"`` (exact up to 1024 dimensions).
        """

    def to_spectral(self) -> tuple[Student, str]:
        """This dense student with a spectral generator, and a report as JSON.

        The report is ``{"condition_number", "residual", "growth", "smallest", "observables", "dropped",
        "affine_residual"}``. Raises ``DivergenceError`` when there is no spectral form.
        """

    def to_dense(self) -> tuple[Student, str]:
        """This spectral student with a dense generator over the same observables, and an empty report."""

    def generator_matrix(self) -> NDArray[float64]:
        """L ``[m, m]`` in the row convention dg/dt = g L, for every parametrisation."""

    def phase_error(
        self, x0: _Array, x1: _Array, *, condition: _Array | None = None, monitor: _Monitor = None
    ) -> float:
        """RMS of ``phi(0, x0) exp(L) - phi(1, x1)`` over the total standard deviation of ``phi(1, x1)``.

        Computed in bounded memory. NaN if the features do not vary.
        """

    def consistency_residual(
        self,
        t: _Array | float,
        x: _Array,
        velocity: _Array,
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> float:
        """RMS of ``J phi (1, velocity) - (g L)_phi`` over the RMS of ``J phi (1, velocity)``.

        Computed in bounded memory. NaN if no feature changes.
        """

    @property
    def feature_maps(self) -> list[tuple[int, int, int, int, int]]:
        """(channels, height, width, pixels that share eigenvalues, complex pairs) of each feature map of a
        hierarchical student; empty for other students."""

    def eigenvalues(self) -> NDArray[complex128]:
        """The eigenvalues of L ``[m]``; the two of a conjugate pair are adjacent."""

@final
class Segments:
    """A sequence of students, each for one interval of time."""

    def __new__(cls, students: Sequence[Student], breaks: Sequence[float]) -> Segments:
        """Combine students in the order of time; ``breaks`` are the ends of their intervals, from 0 to 1."""

    def student(self, place: int, history: str, config: str) -> Student:
        """One of the students, with the history and options of its fit, both as JSON."""

    @property
    def breaks(self) -> list[float]: ...
    @property
    def event_shape(self) -> tuple[int, ...]: ...
    @property
    def conditioning(self) -> str: ...
    @property
    def source(self) -> Source: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def evaluations(self) -> int: ...
    def sample(self, x0: _Array, *, condition: _Array | None = None, monitor: _Monitor = None) -> Any:
        """Data for states of the source ``[B, *event]``, with one evaluation per segment."""

    def sample_count(
        self, n: int, *, seed: int = 0, condition: _Array | None = None, monitor: _Monitor = None
    ) -> NDArray[Any]:
        """``n`` new samples ``[n, *event]``."""

    def sample_path(
        self,
        x0: _Array,
        times: Sequence[float],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> Any:
        """States ``[T, B, *event]`` at times in any order, with one encoding per segment."""

    def invert(self, x: _Array, *, condition: _Array | None = None, monitor: _Monitor = None) -> Any:
        """States of the source that lead to data ``[B, *event]``."""

    def invert_polished(
        self,
        x: _Array,
        *,
        method: str = "newton",
        polish: int = 0,
        damping: float = 0.0,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> tuple[Any, Any]:
        """States of the source that lead to data ``[B, *event]``, and the residuals ``[B]`` of the whole map.

        Each student is polished by ``polish`` steps against its own forward map. ``method`` is ``"newton"``,
        ``"fixed_point"`` or ``"anderson"``.
        """

    def save(self, path: str, header: str = "{}") -> None:
        """Write a safetensors file atomically; ``header`` is JSON that :meth:`load` gives back."""

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Segments, str]:
        """The segments and the header that :meth:`save` wrote. Raises ``CheckpointError`` for any other
        file."""

    def to_bytes(self) -> bytes: ...
    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Segments: ...
    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...

@final
class Baseline:
    """A flow distilled with one of the baseline methods: a map from noise to data, with or without a path."""

    @staticmethod
    def fit(
        teacher: VelocityField,
        config: str,
        *,
        condition: _Array | None = None,
        trajectory_file: str | None = None,
        refresh: bool = False,
        monitor: _Monitor = None,
        world: _World = None,
    ) -> Baseline:
        """Distil a field; ``config`` is JSON whose ``method`` is ``"plain_network"``, ``"kdm"`` or
        ``"mean_velocity"``. The other arguments are those of :meth:`Student.distill`.
        """

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Baseline, str]:
        """The baseline and the facts that :meth:`save` wrote. Raises ``CheckpointError`` for any other
        file."""

    def to_bytes(self) -> bytes:
        """The baseline as the bytes of a file without further facts. Pickle and deep copies use them."""

    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Baseline:
        """Read the bytes of :meth:`to_bytes`. Raises ``CheckpointError`` for any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...
    def save(self, path: str, facts: str = "{}") -> None:
        """Write a safetensors file atomically; ``facts`` is a JSON object that :meth:`load` gives back."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""

    @property
    def dtype(self) -> str:
        """``"float32"`` or ``"float64"``."""

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the map so far (NFE)."""

    @property
    def parameter_count(self) -> int:
        """The number of trainable parameters."""

    @property
    def history(self) -> str:
        """JSON: ``{"steps", "seconds", "trajectory_seconds", "trajectories", "teacher_evaluations",
        "stopped", "loss": [[step, loss], ...]}``."""

    @property
    def config(self) -> str:
        """JSON of the configuration that was used, with every default resolved."""

    def sample(
        self, x0: _Array, *, steps: int = 1, condition: _Array | None = None, monitor: _Monitor = None
    ) -> _Array:
        """Data from noise ``x0`` ``[B, *event]`` in ``steps`` evaluations; more than one needs a path."""

    def sample_path(
        self,
        x0: _Array,
        times: Sequence[float],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """States at ``times`` in [0, 1], one evaluation each, ``[T, B, *event]``.

        Raises ``ValueError`` for a method without a path.
        """

    def operator(self) -> NDArray[float64]:
        """The operator K of a KDM, ``[m, m]``: the latents of data are the latents of noise times K."""

def describe_file(path: str) -> tuple[str, str]:
    """The kind of content of a koopflow file and the facts in it as JSON. Reads only the header.

    Kinds are ``"student"``, ``"segments"``, ``"teacher"``, ``"baseline"``, ``"forecaster"``,
    ``"flow spectrum"`` and ``"trajectories"``.
    """

@final
class Spectrum:
    """The r eigenvalues of a student's generator without the structural zeros, and their modes.

    The two of a conjugate pair are adjacent. Statistics are measured over ``n`` noise samples, whose
    conditions :meth:`conditions` assigns, and along the teacher's paths from that noise. Raises
    ``DivergenceError`` for a defective generator and ``ShapeError`` for a teacher with another event shape.
    """

    def __new__(
        cls,
        student: Student,
        *,
        n: int = 512,
        seed: int = 0,
        condition: _Array | None = None,
        teacher: VelocityField | None = None,
        monitor: _Monitor = None,
    ) -> Spectrum: ...
    @staticmethod
    def known(student: Student, power: _Array, spread: _Array, residuals: _Array | None = None) -> Spectrum:
        """Rebuild a spectrum from its student and its measured values.

        Raises ``ShapeError`` if the values do not fit the student.
        """

    @property
    def eigenvalues(self) -> NDArray[complex128]:
        """The eigenvalues lambda, ``[r]``."""

    @property
    def partners(self) -> list[int]:
        """The index of each mode's complex conjugate, ``[r]``; a real mode is its own partner."""

    @property
    def weights(self) -> NDArray[complex128]:
        """Right eigenvectors as columns, ``[m, r]``: psi = g @ weights."""

    @property
    def modes(self) -> NDArray[complex128]:
        """The contribution of a unit of each psi to the decoded state, ``[r, d]``; 0 if lambda is 0."""

    @property
    def mode_rates(self) -> NDArray[complex128]:
        """The contribution of a unit of each psi to the rate of the state, ``[r, d]``; always finite."""

    def displacements(self, t: float) -> NDArray[complex128]:
        """(e^{lambda t} - 1) times the modes, ``[r, d]``."""

    @property
    def condition_numbers(self) -> NDArray[float64]:
        """The condition numbers of the eigenvalues, ``||w_k|| ||q_k||``, ``[r]``."""

    @property
    def power(self) -> NDArray[float64]:
        """Mean of ``|psi(0, x0)|²`` over noise, ``[r]``."""

    @property
    def spread(self) -> NDArray[float64]:
        """Standard deviation of psi(0, x0) over noise, ``[r]``."""

    @property
    def residuals(self) -> NDArray[float64] | None:
        """The relative residual of each psi's equation along the teacher's paths, ``[r]``; None without a
        teacher."""

    @property
    def residual(self) -> float:
        """The relative residual of the eigenvalue problem, ``||L W - W diag(lambda)|| / ||L||``."""

    @property
    def linear(self) -> bool:
        """Whether a sample is a sum over modes. This holds if no network decodes the observables."""

    def energy(self, times: Sequence[float]) -> NDArray[float64]:
        """Mean square over noise of the displacement by each mode up to each time, ``[T, r]``.

        The unit is the sum over all modes at t = 1.
        """

    def order(self, sort: str) -> list[int]:
        """Indices sorted by ``"energy"`` (descending), ``"frequency"``, ``"growth"``, ``"modulus"`` or
        ``"residual"``. The two of a pair stay adjacent."""

    def conditions(self, n: int, condition: _Array | None = None) -> NDArray[Any] | None:
        """Conditions for ``n`` samples; None for a student without conditions.

        The given conditions are repeated. Without them, the classes are used in turn.
        """

    def eigenfunctions(
        self,
        t: _Array | float,
        x: _Array,
        places: Sequence[int] | None = None,
        *,
        condition: _Array | None = None,
    ) -> NDArray[complex128]:
        """psi(t, x), ``[B, r]``, or ``[B, len(places)]`` for the modes at indices ``places``."""

    def sample(
        self,
        x0: _Array,
        times: Sequence[float],
        keep: Sequence[bool],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """States ``[T, B, *event]`` at ``times`` in which only the kept modes evolve; ``keep`` is ``[r]``."""

    def edit(
        self,
        x: _Array,
        gains: _Array,
        shifts: _Array,
        *,
        noise: bool,
        at: float,
        project: bool = False,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Samples with psi -> gain psi + shift at time ``at``, ``[B, *event]``.

        ``gains`` ``[r, 2]`` and ``shifts`` ``[r, 2]`` or ``[B, r, 2]`` hold real and imaginary parts. The
        second of each pair is replaced by the conjugate of the first. ``x`` is noise, or data with
        ``noise=False``.
        """

    def shift(
        self,
        x: _Array,
        shift: _Array,
        *,
        noise: bool,
        at: float,
        project: bool = False,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Samples with the observables at time ``at`` shifted by ``[m]`` or ``[B, m]``, ``[B, *event]``."""

@final
class Observed:
    """Observed sequences, stored one after the other."""

    def __new__(
        cls,
        values: _Array,
        lengths: Sequence[int],
        *,
        times: _Array | None = None,
        inputs: _Array | None = None,
        conditions: _Array | None = None,
    ) -> Observed:
        """Take rows ``[R, d]``, the lengths of N paths, times ``[R]``, inputs ``[R, u]``, conditions ``[N,
        c]``."""

    @property
    def spacing(self) -> float | None:
        """The spacing of the time grid; None if the times are irregular."""

    def __len__(self) -> int: ...

@final
class Forecaster:
    """A model of observed sequences: their observables and the evolution of these."""

    @staticmethod
    def fit(
        paths: Observed,
        config: str,
        event_shape: Sequence[int],
        *,
        monitor: _Monitor = None,
        world: _World = None,
    ) -> Forecaster: ...
    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Forecaster, str]: ...
    def to_bytes(self) -> bytes: ...
    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Forecaster: ...
    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...
    def save(self, path: str, facts: str = "{}") -> None: ...
    @property
    def event_shape(self) -> tuple[int, ...]: ...
    @property
    def device(self) -> str: ...
    @property
    def size(self) -> int:
        """The number of observables, m."""

    @property
    def facts(self) -> str:
        """``sizes`` and ``facts`` as JSON."""

    @property
    def history(self) -> str: ...
    @property
    def config(self) -> str: ...
    def transition(self) -> NDArray[float64]:
        """The transition matrix K of one step, ``[m, m]``."""

    def generator(self) -> NDArray[float64] | None:
        """The generator L, ``[m, m]``, or None."""

    def readout(self) -> NDArray[float64]:
        """The readout C, ``[m, d]``, of states in the data's units with their mean subtracted."""

    def covariance(self) -> NDArray[float64]:
        """The noise covariance Q of one step, ``[m, m]``."""

    def statistics(self) -> NDArray[float64]:
        """Mean and standard deviation of the rows of the data, ``[2, D]``."""

    def encode(self, x: _Array, *, condition: _Array | None = None) -> Any:
        """Observables ``[B, m]`` of rows ``[B, history, *event]``."""

    def forecast(
        self,
        x: _Array,
        times: _Array,
        *,
        re_encode: int = 1,
        members: int = 0,
        seed: int = 0,
        inputs: _Array | None = None,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> Any:
        """Forecasts ``[T, B, *event]``, or ``[members, T, B, *event]``, at times counted from the last row of
        ``x``.

        ``re_encode`` is the number of steps between two encodings; 0 encodes only once.
        """

    def smooth(
        self,
        values: _Array,
        times: _Array,
        wanted: _Array,
        *,
        noise: float,
        re_encode: bool = True,
        backwards: bool = True,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> tuple[Any, Any, Any]:
        """Mean and standard deviation ``[T, B, *event]`` at the ``wanted`` times given rows ``[B, T',
        *event]``, and the log-likelihoods ``[B]`` of the rows."""

    def spectrum(
        self, paths: Observed | None = None, *, monitor: _Monitor = None
    ) -> tuple[
        tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[float64]],
        tuple[NDArray[float64], NDArray[float64], NDArray[float64], list[int], NDArray[float64]] | None,
    ]:
        """Rates, weights, modes and condition numbers; with ``paths`` also power, residuals, energy, order
        and explained share."""

def forecaster_defaults() -> str:
    """The default options of a forecaster, as JSON."""

@final
class Population:
    """Particles in noise space whose target is N(z) exp(temperature l(z))."""

    def __new__(
        cls,
        noise: _Array,
        samples: _Array,
        values: _Array,
        slopes: _Array | None = None,
        *,
        islands: int = 1,
        temperature: float = 0.0,
        kind: str = "pcn",
        seed: int = 0,
    ) -> Population:
        """Take noise ``[N, d]``, samples ``[N, ...]``, l ``[N]`` and, for ``"mala"``, dl/dz ``[N, d]``."""

    @property
    def noise(self) -> NDArray[float64]: ...
    @property
    def samples(self) -> NDArray[Any]: ...
    @property
    def values(self) -> NDArray[float64]: ...
    @property
    def log_weights(self) -> NDArray[float64]: ...
    @property
    def temperature(self) -> float: ...
    @property
    def step(self) -> float: ...
    def refer(self, noise: _Array) -> None:
        """Makes proposals relative to the Gaussian fitted to particles ``[M, d]`` of the same target."""

    def warm(self, share: float) -> float:
        """Raises the temperature so that ``share`` of the effective size is kept, and returns it."""

    def resample(self) -> None:
        """Resamples every island by its weights. Raises ``DivergenceError`` if no weight is above zero."""

    def propose(self) -> NDArray[float64]: ...
    def decide(
        self, samples: _Array, values: _Array, slopes: _Array | None = None, *, adapt: bool = True
    ) -> float:
        """Accepts or rejects the proposals, and returns the share that was accepted."""

@final
class Laplace:
    """A mixture of Gaussians around modes in noise space."""

    def __new__(cls, means: _Array, jacobians: _Array, objectives: _Array) -> Laplace: ...
    @property
    def count(self) -> int: ...
    def means(self) -> tuple[NDArray[float64], list[float]]: ...
    def draw(self, count: int, seed: int) -> NDArray[float64]: ...
    def log_density(self, noise: _Array) -> NDArray[float64]: ...

def gauss_newton_step(
    noise: _Array, residuals: _Array, jacobians: _Array, damping: _Array
) -> NDArray[float64]: ...
def weighed(
    log_weights: _Array, resamples: int = 200, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Effective sample size, its 5% and 95% quantiles over resamples, and the log of the mean weight."""

def systematic_resample(log_weights: _Array, count: int, seed: int) -> list[int]: ...

@final
class Displacements:
    """States of paths at fixed times, added in chunks."""

    def __new__(cls, event_shape: Sequence[int], times: Sequence[float]) -> Displacements:
        """``times`` are at least four increasing times from 0. Raises ``ArgumentError`` otherwise."""

    def add(self, paths: _Array) -> None:
        """Adds states ``[T, B, *event]``.

        The first call determines the functions of time, so it should hold many paths. Raises ``ShapeError``
        or ``NonFiniteError``.
        """

    def spectrum(self, reading: str, header: str = "{}", monitor: _Monitor = None) -> FlowSpectrum:
        """The spectrum of the flow of all paths that were added. No path can be added afterwards.

        ``reading`` is JSON: ``{"rates": 3 or null, "tolerance": 1e-4, "components": 256, "seed": 0}``, every
        entry optional. Raises ``ArgumentError`` for fewer than 16 paths and ``DivergenceError`` if all paths
        move alike.
        """

@final
class FlowSpectrum:
    """A decomposition of the paths of a flow: drift, affine part, rates and space-time components."""

    @property
    def facts(self) -> str:
        """Numbers as JSON: rates, energies, groups."""

    @property
    def header(self) -> str:
        """The ``header`` that was passed to :meth:`Displacements.spectrum`."""

    def array(self, name: str) -> NDArray[float64]:
        """A copy of an array by name: ``times``, ``drift``, ``shares``, ``cloud``, ``axes``, ``axis_values``,
        ``axis_modes``, ``energies``, ``interval``, ``modes``, ``amplitudes`` and others."""

    def functions(self, times: Sequence[float]) -> NDArray[float64]:
        """The orthonormal functions of time that modes are sums of, ``[T, r]``."""

    def amplitudes(self, paths: _Array) -> NDArray[float64]:
        """Amplitudes of all components, ``[B, K]``, for states ``[T, B, *event]``."""

    def axis_amplitudes(self, x0: _Array) -> NDArray[float64]:
        """Amplitudes of the affine axes, ``[B, A]``, for noise ``[B, *event]``."""

    def states(
        self, x0: _Array, amplitudes: _Array, t: float, drift: bool = True, affine: bool = True
    ) -> _Array:
        """States ``[B, *event]`` at t: the sum of the noise, the requested parts, and the components times
        their amplitudes ``[B, K]``."""

    def with_rates(self, paths: _Array, keep: Sequence[bool], t: float) -> _Array:
        """States ``[B, *event]`` at t of paths ``[T, B, *event]``: noise, drift, and the kept functions of
        the rates."""

    def agreement(
        self, other: FlowSpectrum, permutations: int, seed: int, monitor: _Monitor = None
    ) -> tuple[str, list[float], NDArray[float64], NDArray[float64] | None]:
        """A comparison of this flow and another.

        Returns the matching groups as JSON, the share of each flow's motion that its own rates leave
        unexplained, the cosines between all components ``[K, K']``, and the correlations of their amplitudes
        (None if the noise differs). Raises ``ShapeError`` for another event shape.
        """

    def save(self, path: str) -> None:
        """Write a safetensors file atomically."""

    @classmethod
    def load(cls, path: str) -> FlowSpectrum:
        """Read the file of :meth:`save`. Raises ``CheckpointError`` for any other file."""

    def to_bytes(self) -> bytes:
        """The spectrum as the bytes of a file."""

    @classmethod
    def from_bytes(cls, bytes: bytes) -> FlowSpectrum:
        """Read the bytes of :meth:`to_bytes`. Raises ``CheckpointError`` for any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes]]: ...

@final
class LevelSpectrum:
    """Eigenvalues of the feature maps of a hierarchical student, from full resolution to the middle block.

    The arguments and errors are those of :class:`Spectrum`.
    """

    def __new__(
        cls,
        student: Student,
        *,
        n: int = 512,
        seed: int = 0,
        condition: _Array | None = None,
        teacher: VelocityField | None = None,
        monitor: _Monitor = None,
    ) -> LevelSpectrum: ...
    @staticmethod
    def known(
        student: Student, maps: Sequence[tuple[_Array, _Array, _Array, _Array | None]]
    ) -> LevelSpectrum:
        """Rebuild a spectrum from its student and the measured values of each map: see :attr:`measured`."""

    @property
    def maps(self) -> list[tuple[str, int, int, int]]:
        """Name, channels, height and width of each map."""

    @property
    def eigenvalues(self) -> list[NDArray[complex128]]:
        """The eigenvalues ``[r]`` of each map: one of each pair, then the real ones."""

    @property
    def measured(
        self,
    ) -> list[tuple[NDArray[float64], NDArray[float64], NDArray[float64], NDArray[float64] | None]]:
        """Energy ``[r]``, spread ``[r]``, mean ``[r, pixels, 2]`` and residual ``[r]`` of each map.

        The mean holds real and imaginary parts. ``pixels`` is 1 for a map whose pixels share no eigenvalues.
        """

    @property
    def partners(self) -> list[int]:
        """The partners ``[R]``: only one of each pair is listed, so each eigenfunction is its own partner."""

    def eigenfunctions(
        self, t: _Array | float, x: _Array, index: int, *, condition: _Array | None = None
    ) -> NDArray[complex128]:
        """psi(t, x) of one map, ``[B, r, height, width]``, or ``[B, r]`` if pixels share no eigenvalues."""

    def sample(
        self,
        x0: _Array,
        times: Sequence[float],
        keep: Sequence[bool],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """States ``[T, B, *event]`` from the kept ones of all R eigenfunctions; the others have their mean
        over noise."""

    def edit(
        self,
        x: _Array,
        gains: _Array,
        shifts: _Array,
        *,
        noise: bool,
        at: float,
        project: bool = False,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Samples with psi -> mean + gain (psi - mean) + shift at time ``at``, at every pixel.

        The arguments and errors are those of :meth:`Spectrum.edit`, for the ``[R]`` eigenfunctions of all
        maps in order.
        """

    def shift(
        self,
        x: _Array,
        shift: _Array,
        *,
        noise: bool,
        at: float,
        project: bool = False,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Samples with shifted observables, as in :meth:`Spectrum.shift`."""

def student_defaults(event_size: int) -> str:
    """The default options for events of ``event_size`` numbers, as JSON."""

def mean_shift(
    data: _Array, bandwidth: float, *, max_steps: int = 1000, monitor: _Monitor = None
) -> tuple[_Array, _Array, _Array, int, bool]:
    """Mean shift from every row of data ``[N, *event]``.

    Returns the modes ``[K, *event]`` (highest first), the mode of each row ``[N]``, the log-densities of the
    modes ``[K]``, the number of steps of the slowest row, and whether all rows converged.
    """

def path_geometry(paths: _Array) -> list[NDArray[float64]]:
    """Chord, length, deviation, curvature and torsion ``[B]``, and energies ``[B, 3]``, of paths
    ``[T, B, *event]``."""

def sliced_wasserstein(a: _Array, b: _Array, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance between ``[N, *event]`` and ``[M, *event]``."""

def energy_distance(a: _Array, b: _Array) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, the unbiased U-statistic (so it can be slightly negative)."""

def wasserstein2(a: _Array, b: _Array) -> float:
    """Exact Wasserstein-2 distance between equally many points, by linear assignment."""

def frechet_distance(a: _Array, b: _Array) -> float:
    """Squared Fréchet distance of the Gaussians fitted to ``[N, F]`` and ``[M, F]``."""

def mmd(samples: _Array, data: _Array, *, bandwidths: Sequence[float] | None = None) -> float:
    """Squared maximum mean discrepancy with a sum of Gaussian kernels, the unbiased U-statistic.

    The default bandwidths are the :func:`median_bandwidths` of the data.
    """

def median_bandwidths(data: _Array) -> list[float]:
    """The median distance between rows of ``[N, *event]``, times 1/2, 1 and 2."""

def precision_recall(samples: _Array, data: _Array, *, k: int = 3) -> tuple[float, float]:
    """The share of samples within the ``k`` nearest neighbours of data, and of data within those of
    samples."""

def total_std(data: _Array) -> float:
    """Total standard deviation of ``[N, *event]``: the root of the summed variances of the dimensions."""

@final
class Statistic:
    """A statistic of N independent samples, which can also be computed on a resample of them."""

    @property
    def value(self) -> float:
        """The statistic of all samples."""

    @property
    def samples(self) -> int:
        """The number of samples, N."""

    def value_of(self, rows: _Array) -> float:
        """The statistic of the samples at the indices ``rows``, int64 ``[R]``; repeated indices count
        repeatedly."""

def endpoint_error(samples: _Array, ends: _Array, scale: float) -> Statistic:
    """RMS of ``||samples - ends||`` over ``scale``; ``[N, *event]`` each."""

def path_error(path: _Array, exact: _Array, scale: float) -> Statistic:
    """The endpoint error of the states at each time, averaged over times; ``[T, N, *event]`` each."""

def inversion_error(recovered: _Array, noise: _Array) -> Statistic:
    """RMS of ``||recovered - noise||`` over the RMS norm of the noise; ``[N, *event]`` each."""

def round_trip_error(again: _Array, data: _Array, scale: float) -> Statistic:
    """RMS of ``||again - data||`` over ``scale``; ``[N, *event]`` each."""

def straightness(path: _Array, times: Sequence[float]) -> Statistic:
    """The deviation of paths ``[T, B, *event]`` from straight lines.

    It is the mean over paths of the integral of ``||(x1 - x0) - dx/ds||^2``, divided by the mean of
    ``||x1 - x0||^2``. The unit of time is the span of the times. NaN if no path moves.
    """

def lower_precision(name: str) -> str:
    """Set the precision of this thread's matrix products in networks, and return the previous one.

    The precision is ``"float32"`` (the network's own dtype), ``"bf16"`` or ``"fp16"``.
    """

def _write_atomically(path: str, content: bytes) -> None:
    """Writes a whole file atomically: after a failure the old file is unchanged. A symbolic link keeps
    pointing to its target, which is replaced."""

# Functions for the tests of the boundary, compiled only with the cargo feature `probe`.
def _roundtrip(array: _Array) -> _Array: ...
def _fail(what: str) -> None: ...
def _watch(seconds: float, monitor: _Monitor = None) -> None: ...
def _unet(
    config: str,
    names: Sequence[str],
    tensors: Sequence[_Array],
    t: _Array,
    x: _Array,
    t_rate: _Array,
    x_rate: _Array,
    condition: _Array | None = None,
) -> tuple[_Array, _Array, _Array]: ...
