"""The Rust extension: velocity fields, teacher training, students, metrics.

Arrays are NumPy arrays or torch tensors. Outputs follow the kind (and, for torch, the device) of the first
array argument, and are NumPy arrays if there is none. Batch first: ``t`` is ``[B]``, ``x`` is
``[B, *event]``; time 0 is noise and time 1 is data.

A *monitor* is called with ``{"stage", "step", "total", "seconds", "values"}``, where the stage is
``"teacher"``,
``"trajectories"``, ``"student"`` or ``"sample"`` and the values are named floats; ``"note"`` holds a text
where something happened that a person should read. An exception that it raises
stops the computation and comes back unchanged.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

from numpy import complex128, float32, float64
from numpy.typing import NDArray
from torch import Tensor

_Array: TypeAlias = Any
# Rank, number of ranks, and a function that adds a tensor up over all of them, in place, and answers whether
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

    Built by the static methods or by :func:`train_teacher`, never by calling the class.
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

        ``mean`` is ``[*event]`` or flat, ``cov`` is ``[d, d]`` over the flattened event, symmetric and
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

        ``function(t, x, condition)`` answers v, ``[B, *event]``; ``vjp(t, x, cotangent, condition)`` answers
        ``(v, J^T cotangent)``. ``conditioning`` is JSON: ``"none"``, ``{"labels": {"classes": 10}}`` or
        ``{"vector": {"dim": 4}}``. An exception in the function becomes a ``TeacherError`` with it as its
        cause.
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

        ``convention``: ``"torchcfm"``, ``"flow_matching"`` or ``"diffusers"``; a condition comes third.
        Raises ``FileNotFoundError`` (``OSError``) or ``CheckpointError`` for a file that holds no whole
        module.
        """

    @staticmethod
    def diffusion(model: VelocityField, config: str = "{}") -> VelocityField:
        """The probability-flow ODE of a field that answers a diffusion model's prediction for (noise, z).

        ``config`` is JSON: ``{"parametrisation": "eps", "schedule": {"name": "vp", ...}, "noise_argument",
        "num_timesteps", "sigma_data"}``, possibly a part of it.
        """

    def window(self, start: float, end: float) -> VelocityField:
        """Its flow from one time to another, both in [0, 1], as one from 0 to 1."""

    def as_source(self, event_shape: Sequence[int]) -> Source:
        """The end of its flow, as what another one starts from."""

    def starting_from(self, source: Source) -> VelocityField:
        """This field, from something else than noise."""

    @property
    def source(self) -> Source:
        """What its flow starts from."""

    def guided(self, scale: float, null_condition: _Array) -> VelocityField:
        """Classifier-free guidance; ``null_condition`` is an integer label ``[]`` or a vector ``[dim]``."""

    @staticmethod
    def chain(fields: Sequence[VelocityField], *, breaks: Sequence[float] | None = None) -> VelocityField:
        """Fields one after the other, on equal parts of [0, 1] or between ``breaks``, ``len(fields) + 1``
        rising times from 0 to 1.

        Raises ``ArgumentError``, ``ShapeError`` or ``DtypeError`` naming ``teachers`` or ``breaks``.
        """

    def reversed(self) -> VelocityField:
        """v(t, x) = -u(1 - t, x) for this field u."""

    @property
    def breaks(self) -> list[float]:
        """Times in (0, 1) at which the velocity jumps."""

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
        """A torchcfm ``UNetModel`` by the names and tensors of its state dict.

        Raises ``ValueError`` naming ``state_dict``, ``event_shape`` or the tensor that does not fit.
        """

    def tensors(self) -> list[tuple[str, Any]]:
        """The field's own torch tensors by name, as copies on the CPU; none for a field that has none."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def kind(self) -> str:
        """``"network"``, ``"gaussian"``, ``"empirical"``, ``"torch"``, ``"torchscript"``, ``"diffusion"`` or
        ``"guided"``."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""

    @property
    def dtype(self) -> str:
        """``"float32"`` or ``"float64"``."""

    @property
    def conditioning(self) -> str:
        """What the field is conditioned on, as the JSON that :meth:`callable` takes."""

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations so far (NFE)."""

    def velocity(self, t: _Array, x: _Array, condition: _Array | None = None) -> _Array:
        """v(t, x), ``[B, *event]``; ``t`` is ``[B]`` or a scalar."""

    def growth(self, t: _Array, x: _Array) -> _Array | None:
        """The rate ``[B]`` at which mass grows at t, ``[B]`` or a scalar, and x; None where mass stays as it
        is."""

    def log_masses(self, times: Sequence[float], states: _Array) -> _Array:
        """Log-masses ``[T, B]``, float64 and 0 at first, along states ``[T, B, *event]`` at rising times, by
        the trapezoidal rule.

        Raises ``ArgumentError`` for a field that does not grow, ``ShapeError``, ``DivergenceError``.
        """

    @property
    def mixing(self) -> str | None:
        """How states mix noise and data, x_t = a x1 + s x0, as JSON: ``{"path": "linear"}``,
        ``{"path": "vp"}`` or ``{"schedule": {"name": ...}}``; None where no one holds at all times."""

    def denoise(self, t: _Array, x: _Array, *, of: str = "data", condition: _Array | None = None) -> _Array:
        """E[x1 | x_t = x], or with ``of="noise"`` E[x0 | x_t = x], ``[B, *event]``; ``t`` is ``[B]`` or a
        scalar.

        Raises ``ValueError`` naming ``teacher`` where states are no such mixture.
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

        The first entry is ``x``. Solvers: ``euler``, ``midpoint``, ``heun``, ``rk4``, ``ab2``, ``ab3`` and
        ``dpm2m`` take ``steps`` steps over the whole span, on a ``grid``: ``uniform``, ``tau``, ``log_snr``
        or rising times; ``dopri5`` adapts to ``rtol`` and ``atol``, and takes no grid. Raises
        ``DivergenceError`` when it cannot.
        """

    def step_times(
        self, *, solver: str, steps: int = 100, grid: str | Sequence[float] | None = None
    ) -> list[float]:
        """Ends of the fixed steps of :meth:`solve` from time 0 to 1, both included."""

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
        """Covectors ``[B, K, *event]`` at data times the derivative of the flow's map from noise."""

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
        """The bytes of a file of it, without a header; pickles and deep copies hold them."""

    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> VelocityField:
        """What :meth:`to_bytes` wrote. Raises ``CheckpointError`` on any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...
    def save(self, path: str, header: str = "{}") -> None:
        """Write a safetensors file atomically; ``header`` is JSON that :meth:`load` gives back."""

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[VelocityField, str]:
        """The field and the header that :meth:`save` wrote. Raises ``CheckpointError`` on any other file."""

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

    ``config`` is JSON in the form of :func:`teacher_defaults`, possibly a part of it. The second result is a
    JSON history ``{"steps", "seconds", "stopped", "config", "loss": [[step, loss], ...], "skipped_steps",
    "restarts", "notes"}``, where stopped is ``"completed"``, ``"interrupted"``, ``"budget"`` or
    ``"diverged"``: the last good field is answered then. ``noise`` ``[N, *event]`` is that of each row where
    the coupling is ``"given"``. Files as in :meth:`Student.distill`. ``portions`` answers the next data and
    their condition: they take the place of those before after every pass over these. ``source`` is what the
    flow starts from, noise where it is None. ``initial`` is a network of the same shape whose weights
    training begins with.
    """

def check_snapshots(snapshots: Sequence[_Array], times: Sequence[float]) -> None:
    """Raises what :func:`train_on_snapshots` would of snapshots and times."""

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
    """Flow matching through snapshots ``[N_k, *event]`` at rising times (Huguet et al. 2206.14928, Tong et
    al. 2302.00482), from the rows of the first at 0 to the last at 1; the rest is as in
    :func:`train_teacher`.

    ``plans`` ``[N_k, N_{k+1}]`` are followed instead of the coupling of ``config``; with ``sizes`` of the
    population the field also learns rates of growth (Wang et al. 2505.13413).

    Raises ``ArgumentError``, ``ShapeError`` or ``NonFiniteError`` naming ``snapshots``, ``times``,
    ``coupling`` or ``growth``.
    """

def teacher_defaults() -> str:
    """The default configuration of :func:`train_teacher`, as JSON."""

def normal(shape: Sequence[int], seed: int) -> NDArray[float32]:
    """Standard normal noise of a shape from koopflow's own seeded generator."""

@final
class Source:
    """What a flow starts from."""

    @staticmethod
    def normal(event_shape: Sequence[int]) -> Source:
        """N(0, I)."""

    @staticmethod
    def rows(rows: _Array, event_shape: Sequence[int]) -> Source:
        """Rows ``[N, *event]``, each as likely as any other, of which copies are kept."""

    def with_noise(self, noise: float) -> Source:
        """These rows with normal noise of a deviation >= 0. Raises ``ArgumentError`` naming ``source_noise``
        for another number, and for one above 0 where the source is not rows."""

    @property
    def noise(self) -> float:
        """Deviation of the noise on rows; 0 for every other source."""

    @staticmethod
    def sampler(
        draw: Callable[..., _Array],
        log_prob: Callable[[NDArray[Any]], _Array] | None,
        *,
        event_shape: Sequence[int],
        conditional: bool = False,
    ) -> Source:
        """``draw(count, seed)`` answers samples ``[count, *event]``, ``log_prob`` log-densities ``[B]`` in
        nats of ``[B, *event]``. A conditional one is called with the conditions of the samples, or None, as
        a third argument. No file holds it."""

    @property
    def kind(self) -> str:
        """``"normal"``, ``"rows"``, ``"flow"`` or ``"sampler"``."""

    def draw(
        self, count: int, seed: int, *, condition: _Array | None = None, monitor: _Monitor = None
    ) -> NDArray[float32]:
        """``count`` samples ``[count, *event]``, the same for the same seed. Raises ``ArgumentError`` naming
        ``x0`` for a sampler that a file could not hold."""

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
        """Distil a field; ``config`` is JSON in the form of :func:`student_defaults`, possibly a part of it.

        A conditional field needs a pool of conditions, labels ``[P]`` or vectors ``[P, dim]``, to draw from.
        ``data`` ``[N, *event]`` are the teacher's, for simulation-free points; ``data_condition`` holds the
        condition of each row, ``condition`` where it is left out, and ``data_noise`` the noise of each row
        where the coupling is ``"given"``. ``trajectory_file`` keeps the solved trajectories for
        later fits; ``refresh`` solves them anew.
        ``checkpoint`` is written at an interval of steps or seconds and at the end, with ``header`` in it;
        ``resume`` goes on from such a file. A fit that diverged returns the best student, and its history
        says ``"diverged"``. ``features`` answers the distance of two batches ``[B, *event]`` and its gradient
        in the first, for the term of weight ``feature_distance``.
        """

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Student, str]:
        """The student and the header that :meth:`save` wrote; ``CheckpointError`` on any other file."""

    def to_bytes(self) -> bytes:
        """The bytes of a file of it, without a header; pickles and deep copies hold them."""

    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Student:
        """What :meth:`to_bytes` wrote. Raises ``CheckpointError`` on any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...
    def save(self, path: str, header: str = "{}") -> None:
        """Write a safetensors file atomically; ``header`` is JSON that :meth:`load` gives back."""

    def with_weights(self, weights: str) -> Student:
        """The same student with its averaged (``"ema"``) or its last (``"raw"``) weights."""

    def with_average(self, decay: float) -> Student:
        """The same student with one of several averages of its weights, by its decay."""

    @property
    def source(self) -> Source:
        """What samples start from."""

    @property
    def conditioning(self) -> str:
        """What samples are conditioned on, as JSON: see :meth:`VelocityField.callable`."""

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
        """m, the number of observables, the constant, time and state included."""

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
        """Observables g(t, x), ``[B, m]``; ``direction``: forward or backward (the lift for decoding so)."""

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
        """A time of the data's path as one of the observables' own."""

    def propagate(self, g: _Array, tau: _Array | float) -> _Array:
        """Observables g exp(tau L), ``[B, m]``; ``tau`` is a scalar or ``[B]``, of either sign."""

    def readout(self, g: _Array) -> _Array:
        """The state that observables carry, ``[B, *event]``."""

    def sample(
        self, x0: _Array, *, steps: int = 1, condition: _Array | None = None, monitor: _Monitor = None
    ) -> _Array:
        """Data from noise ``x0`` ``[B, *event]`` by ``steps`` encodings at equal distances in time."""

    def sample_count(
        self,
        n: int,
        *,
        seed: int = 0,
        steps: int = 1,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> NDArray[Any]:
        """``n`` fresh samples, in chunks of bounded memory; ``condition`` has one row for each."""

    def sample_path(self, x0: _Array, times: Sequence[float], *, condition: _Array | None = None) -> _Array:
        """The states at ``times`` from one encoding at time 0, ``[T, B, *event]``."""

    def denoise(
        self, t: _Array, x0: _Array, mixing: str, *, of: str = "data", condition: _Array | None = None
    ) -> _Array:
        """E[x1 | x_t], or with ``of="noise"`` E[x0 | x_t], at the states that paths from noise ``x0`` reach
        at ``t``, ``[B]`` or a scalar; ``mixing`` is that of :attr:`VelocityField.mixing`."""

    def invert(self, x: _Array, *, condition: _Array | None = None) -> _Array:
        """The noise that data ``x`` came from, ``[B, *event]``."""

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
        """The noise behind data ``[B, *event]`` after ``polish`` steps against the forward map, and residuals
        ``[B]``.

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
        """Samples, and their log-densities, log-determinants and standard errors of those in float64."""

    def pull_back(
        self,
        x0: _Array,
        covectors: _Array,
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """Covectors ``[B, K, *event]`` at samples times the Jacobian at their noise."""

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
        """By the change of variables: log-densities ``[B]``, noise ``[B, *event]``, residuals,
        log-determinants and their standard errors ``[B]``; and the total deviation of the student's data.

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
        """L ``[m, m]``, in the row convention dg/dt = g L, whatever the parametrisation."""

    def phase_error(
        self, x0: _Array, x1: _Array, *, condition: _Array | None = None, monitor: _Monitor = None
    ) -> float:
        """RMS of ``phi(0, x0) exp(L) - phi(1, x1)`` over the total standard deviation of the second, in
        bounded memory; NaN where features do not vary."""

    def consistency_residual(
        self,
        t: _Array | float,
        x: _Array,
        velocity: _Array,
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> float:
        """RMS of ``J phi (1, velocity) - (g L)_phi`` over that of the first, in bounded memory; NaN where no
        feature changes."""

    @property
    def feature_maps(self) -> list[tuple[int, int, int, int, int]]:
        """(channels, height, width, pixels that share eigenvalues, complex pairs) of each feature map of a
        hierarchy; empty for other students."""

    def eigenvalues(self) -> NDArray[complex128]:
        """The eigenvalues of L ``[m]``, conjugate pairs side by side."""

@final
class Segments:
    """Students one after another, each for a part of a flow's time."""

    def __new__(cls, students: Sequence[Student], breaks: Sequence[float]) -> Segments:
        """Students in the order of time, and the times between them, 0 and 1 included."""

    def student(self, place: int, history: str, config: str) -> Student:
        """One of the students, with the history and the options of its fit, JSON both."""

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
        """Data for states of the source ``[B, *event]``: one evaluation a segment."""

    def sample_count(
        self, n: int, *, seed: int = 0, condition: _Array | None = None, monitor: _Monitor = None
    ) -> NDArray[Any]:
        """``n`` fresh samples ``[n, *event]``."""

    def sample_path(
        self,
        x0: _Array,
        times: Sequence[float],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> Any:
        """States ``[T, B, *event]`` at times in any order, from one encoding a segment."""

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
        """The same after ``polish`` steps of each student against its own forward map, and residuals ``[B]``
        of all of them together. ``method`` is ``"newton"``, ``"fixed_point"`` or ``"anderson"``."""

    def save(self, path: str, header: str = "{}") -> None:
        """Write a safetensors file atomically; ``header`` is JSON that :meth:`load` gives back."""

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Segments, str]:
        """What :meth:`save` wrote. Raises ``CheckpointError`` on any other file."""

    def to_bytes(self) -> bytes: ...
    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Segments: ...
    def __reduce__(self) -> tuple[Any, tuple[bytes, str]]: ...

@final
class Baseline:
    """A flow distilled in another way than koopflow's: a map from noise to data, with a path or without."""

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
        ``"mean_velocity"``. Conditions, trajectories and the monitor as in :meth:`Student.distill`.
        """

    @staticmethod
    def load(path: str, *, device: str = "cpu") -> tuple[Baseline, str]:
        """The baseline and the facts that :meth:`save` wrote; ``CheckpointError`` on any other file."""

    def to_bytes(self) -> bytes:
        """The bytes of a file of it, without a header; pickles and deep copies hold them."""

    @classmethod
    def from_bytes(cls, bytes: bytes, device: str = "cpu") -> Baseline:
        """What :meth:`to_bytes` wrote. Raises ``CheckpointError`` on any other bytes."""

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
        """The number of trainable values."""

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
        """Data from noise ``x0`` ``[B, *event]`` by ``steps`` maps; more than one needs a path."""

    def sample_path(
        self,
        x0: _Array,
        times: Sequence[float],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """States at ``times`` in [0, 1] by one map each, ``[T, B, *event]``; ``ValueError`` where there is
        no path."""

    def operator(self) -> NDArray[float64]:
        """K of a KDM, ``[m, m]``: latents of data are those of noise times K."""

def describe_file(path: str) -> tuple[str, str]:
    """The kind of thing that a koopflow file holds (``"student"``, ``"teacher"``, ``"baseline"`` or
    ``"trajectories"``), and the facts in it as JSON. Reads the header only."""

@final
class Spectrum:
    """All r eigenvalues of a student's generator but the structural zeros, conjugates side by side.

    Measured over ``n`` samples of noise, with the conditions that :meth:`conditions` spreads over them, and
    along the teacher's paths from it. Raises ``DivergenceError`` for a defective generator and ``ShapeError``
    for a teacher of other events.
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
        """The spectrum of a student of which this was measured. Raises ``ShapeError`` if it does not fit."""

    @property
    def eigenvalues(self) -> NDArray[complex128]:
        """``[r]``."""

    @property
    def partners(self) -> list[int]:
        """The place of the other of each conjugate pair, ``[r]``; real modes are their own."""

    @property
    def weights(self) -> NDArray[complex128]:
        """Right eigenvectors as columns, ``[m, r]``: psi = g @ weights."""

    @property
    def modes(self) -> NDArray[complex128]:
        """What a unit of each psi puts into the state that is read, ``[r, d]``; 0 where lambda vanishes."""

    @property
    def mode_rates(self) -> NDArray[complex128]:
        """What a unit of each psi puts into the state's rate, ``[r, d]``, always finite."""

    def displacements(self, t: float) -> NDArray[complex128]:
        """(e^{lambda t} - 1) times the modes, ``[r, d]``."""

    @property
    def condition_numbers(self) -> NDArray[float64]:
        """``||w_k|| ||q_k||``, ``[r]``."""

    @property
    def power(self) -> NDArray[float64]:
        """Mean of ``|psi(0, x0)|²`` over noise, ``[r]``."""

    @property
    def spread(self) -> NDArray[float64]:
        """Standard deviation of psi(0, x0) over noise, ``[r]``."""

    @property
    def residuals(self) -> NDArray[float64] | None:
        """How badly each psi obeys its equation along the teacher's paths, ``[r]``; None without one."""

    @property
    def residual(self) -> float:
        """``||L W - W diag(lambda)|| / ||L||``."""

    @property
    def linear(self) -> bool:
        """Whether samples are linear in the observables: no network decodes them."""

    def energy(self, times: Sequence[float]) -> NDArray[float64]:
        """Mean square over noise of what each mode has moved by each time, ``[T, r]``.

        In units of the sum over all modes at t = 1.
        """

    def order(self, sort: str) -> list[int]:
        """Places sorted by ``"energy"`` (descending), ``"frequency"``, ``"growth"``, ``"modulus"`` or
        ``"residual"``, the two of a pair side by side."""

    def conditions(self, n: int, condition: _Array | None = None) -> NDArray[Any] | None:
        """Conditions for ``n`` samples: those given, repeated; else every class in turn; None for a student
        without conditions."""

    def eigenfunctions(
        self,
        t: _Array | float,
        x: _Array,
        places: Sequence[int] | None = None,
        *,
        condition: _Array | None = None,
    ) -> NDArray[complex128]:
        """psi(t, x), ``[B, r]``, or of some places, ``[B, len(places)]``."""

    def sample(
        self,
        x0: _Array,
        times: Sequence[float],
        keep: Sequence[bool],
        *,
        condition: _Array | None = None,
        monitor: _Monitor = None,
    ) -> _Array:
        """States at ``times`` with only the kept modes moving, ``[T, B, *event]``; ``keep`` is ``[r]``."""

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

        ``gains`` ``[r, 2]`` and ``shifts`` ``[r, 2]`` or ``[B, r, 2]`` hold real and imaginary parts; of
        each pair the second is taken to be the conjugate of the first. ``x`` is noise or, with
        ``noise=False``, data.
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
    """Observed sequences, one after the other."""

    def __new__(
        cls,
        values: _Array,
        lengths: Sequence[int],
        *,
        times: _Array | None = None,
        inputs: _Array | None = None,
        conditions: _Array | None = None,
    ) -> Observed:
        """Rows ``[R, d]``, times ``[R]``, inputs ``[R, u]``, conditions ``[N, c]``; lengths of N paths."""

    @property
    def spacing(self) -> float | None:
        """Distance of the grid of times; None where they are irregular."""

    def __len__(self) -> int: ...

@final
class Forecaster:
    """Observables of observed sequences, and how they evolve."""

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
        """Number of observables, m."""

    @property
    def facts(self) -> str:
        """``sizes`` and ``facts`` as JSON."""

    @property
    def history(self) -> str: ...
    @property
    def config(self) -> str: ...
    def transition(self) -> NDArray[float64]:
        """K, ``[m, m]``."""

    def generator(self) -> NDArray[float64] | None:
        """L, ``[m, m]``, where there is one."""

    def readout(self) -> NDArray[float64]:
        """C, ``[m, d]``."""

    def covariance(self) -> NDArray[float64]:
        """Q, ``[m, m]``."""

    def statistics(self) -> NDArray[float64]:
        """Mean and deviation of rows of the data, ``[2, D]``."""

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
        """States ``[T, B, *event]``, or ``[members, T, B, *event]``; ``re_encode=0`` never encodes anew."""

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
        """Means and deviations ``[T, B, *event]`` and log-likelihoods ``[B]``."""

    def spectrum(
        self, paths: Observed | None = None, *, monitor: _Monitor = None
    ) -> tuple[
        tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[float64]],
        tuple[NDArray[float64], NDArray[float64], NDArray[float64], list[int], NDArray[float64]] | None,
    ]:
        """Rates, weights, modes, condition numbers; power, residuals, energy, order, share explained."""

def forecaster_defaults() -> str:
    """Every option of a forecaster and its default, as JSON."""

@final
class Population:
    """Particles in noise space that move under N(z) exp(temperature l(z))."""

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
        """Noise ``[N, d]``, samples ``[N, ...]``, l ``[N]`` and dl/dz ``[N, d]``, which ``"mala"`` needs."""

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
        """Makes moves relative to the Gaussian of particles ``[M, d]`` of the same target."""

    def warm(self, share: float) -> float:
        """Raises the temperature as far as ``share`` of the effective size is kept, and answers with it."""

    def resample(self) -> None:
        """Draws islands anew. Raises ``DivergenceError`` where no particle has a weight above zero."""

    def propose(self) -> NDArray[float64]: ...
    def decide(
        self, samples: _Array, values: _Array, slopes: _Array | None = None, *, adapt: bool = True
    ) -> float:
        """Moves where proposals are accepted; the share of them."""

@final
class Laplace:
    """A mixture of Gaussians about modes in noise space."""

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
    """Effective size, its 5% and 95% quantiles over resamples, and the log of the mean weight."""

def systematic_resample(log_weights: _Array, count: int, seed: int) -> list[int]: ...

@final
class Displacements:
    """States of paths at fixed times, taken in chunk by chunk."""

    def __new__(cls, event_shape: Sequence[int], times: Sequence[float]) -> Displacements:
        """``times`` are four or more, rising from 0. Raises ``ArgumentError`` for others."""

    def add(self, paths: _Array) -> None:
        """Adds states ``[T, B, *event]``; many in the first call, which settles the functions of time.
        Raises ``ShapeError`` or ``NonFiniteError``."""

    def spectrum(self, reading: str, header: str = "{}", monitor: _Monitor = None) -> FlowSpectrum:
        """The spectrum of the flow of all paths that were added, after which there are none.

        ``reading`` is JSON: ``{"rates": 3 or null, "tolerance": 1e-4, "components": 256, "seed": 0}``,
        possibly a part of it. Raises ``ArgumentError`` for fewer than 16 paths and ``DivergenceError`` where
        all move alike.
        """

@final
class FlowSpectrum:
    """What the paths of a flow determine: drift, affine part, rates and space-time components."""

    @property
    def facts(self) -> str:
        """Numbers as JSON: rates, energies, groups."""

    @property
    def header(self) -> str:
        """What :meth:`Displacements.spectrum` was given as such."""

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
        """Noise, the parts asked for, and components times amplitudes ``[B, K]``, at t: ``[B, *event]``."""

    def with_rates(self, paths: _Array, keep: Sequence[bool], t: float) -> _Array:
        """States at t where only the kept functions of the rates move beside the drift, ``[B, *event]``."""

    def agreement(
        self, other: FlowSpectrum, permutations: int, seed: int, monitor: _Monitor = None
    ) -> tuple[str, list[float], NDArray[float64], NDArray[float64] | None]:
        """Groups that hold the same as JSON; shares of this flow's motion that its own rates leave, and as
        many of the other's; cosines between all components ``[K, K']``, and correlations of their amplitudes
        if the noise was the same. Raises ``ShapeError`` for other events."""

    def save(self, path: str) -> None:
        """Write a safetensors file atomically."""

    @classmethod
    def load(cls, path: str) -> FlowSpectrum:
        """What :meth:`save` wrote. Raises ``CheckpointError`` on any other file."""

    def to_bytes(self) -> bytes:
        """The bytes of a file of it."""

    @classmethod
    def from_bytes(cls, bytes: bytes) -> FlowSpectrum:
        """What :meth:`to_bytes` wrote. Raises ``CheckpointError`` on any other bytes."""

    def __reduce__(self) -> tuple[Any, tuple[bytes]]: ...

@final
class LevelSpectrum:
    """Eigenvalues of the feature maps of a hierarchical student, from full resolution down to the middle.

    Arguments and errors as those of :class:`Spectrum`.
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
        """The spectrum of a student whose maps had these: see :attr:`measured`."""

    @property
    def maps(self) -> list[tuple[str, int, int, int]]:
        """Name, channels, height and width of each map."""

    @property
    def eigenvalues(self) -> list[NDArray[complex128]]:
        """One of each pair, then the real ones, ``[r]``, of each map."""

    @property
    def measured(
        self,
    ) -> list[tuple[NDArray[float64], NDArray[float64], NDArray[float64], NDArray[float64] | None]]:
        """Energy and spread ``[r]``, mean as real and imaginary parts ``[r, pixels, 2]``, where pixels that
        share no eigenvalues are 1, and residual ``[r]`` of each map."""

    @property
    def partners(self) -> list[int]:
        """``[R]``: each its own, since one of each pair is listed."""

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
        """States ``[T, B, *event]`` with the kept of all R eigenfunctions, and the mean over noise of the
        others."""

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

        Arguments and errors as those of :meth:`Spectrum.edit`, for ``[R]`` eigenfunctions, map by map.
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
        """As :meth:`Spectrum.shift`."""

def student_defaults(event_size: int) -> str:
    """The configuration that unset options resolve to for events of ``event_size`` numbers, as JSON."""

def mean_shift(
    data: _Array, bandwidth: float, *, max_steps: int = 1000, monitor: _Monitor = None
) -> tuple[_Array, _Array, _Array, int, bool]:
    """Mean shift from every row of data ``[N, *event]``: modes ``[K, *event]``, highest first, the mode of
    each row ``[N]``, log-densities of the modes ``[K]``, steps of the slowest row, and whether all came to
    rest."""

def path_geometry(paths: _Array) -> list[NDArray[float64]]:
    """Chord, length, deviation, curvature and torsion ``[B]`` and energies ``[B, 3]`` of paths
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
    """Squared maximum mean discrepancy by a sum of Gaussian kernels, the unbiased U-statistic; the bandwidths
    are those of :func:`median_bandwidths` of the data where none are given."""

def median_bandwidths(data: _Array) -> list[float]:
    """The median distance within ``[N, *event]`` times 1/2, 1 and 2."""

def precision_recall(samples: _Array, data: _Array, *, k: int = 3) -> tuple[float, float]:
    """Shares of samples within the ``k`` nearest neighbours of data, and of data within those of samples."""

def total_std(data: _Array) -> float:
    """Total standard deviation of ``[N, *event]``: the root of the summed variances of the dimensions."""

@final
class Statistic:
    """A number measured on N independent samples, which can be taken of a resample of them."""

    @property
    def value(self) -> float:
        """The statistic of all samples."""

    @property
    def samples(self) -> int:
        """N."""

    def value_of(self, rows: _Array) -> float:
        """The statistic of the samples at these places, int64 ``[R]``, each as often as it is named."""

def endpoint_error(samples: _Array, ends: _Array, scale: float) -> Statistic:
    """RMS of ``||samples - ends||`` over ``scale``; ``[N, *event]`` each."""

def path_error(path: _Array, exact: _Array, scale: float) -> Statistic:
    """The endpoint error of the states at each time, averaged over times; ``[T, N, *event]`` each."""

def inversion_error(recovered: _Array, noise: _Array) -> Statistic:
    """RMS of ``||recovered - noise||`` over the RMS norm of the noise; ``[N, *event]`` each."""

def round_trip_error(again: _Array, data: _Array, scale: float) -> Statistic:
    """RMS of ``||again - data||`` over ``scale``; ``[N, *event]`` each."""

def straightness(path: _Array, times: Sequence[float]) -> Statistic:
    """The mean over paths ``[T, B, *event]`` of the integral of ``||(x1 - x0) - dx/ds||^2``, with the span of
    the times as the unit of time, over the mean of ``||x1 - x0||^2``; NaN where nothing moves."""

def lower_precision(name: str) -> str:
    """What the network products of this thread run in from now on: ``"float32"`` (the network's own),
    ``"bf16"`` or ``"fp16"``. Answers what they ran in before.
    """

def _write_atomically(path: str, content: bytes) -> None:
    """Writes a file whole, or leaves the old one as it was. Of a symbolic link, the target is replaced."""

# For the tests of the boundary: only in an extension compiled with the cargo feature `probe`.
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
