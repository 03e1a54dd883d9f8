"""The forecaster: observables and a linear evolution, fitted to observed sequences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_integer, as_path, as_seed, to_numpy
from .._ending import tell_ending
from ..distributed import world
from ..exceptions import ArgumentError
from ..options import Options, Training, name_of, to_json
from ..progress import ProgressFunction, ProgressMeter
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .fitted import FittedForecaster
from .paths import Paths
from .prior import SequencePrior, fitted_prior
from .report import LIBRARY, ForecastReport, Starts, measure

# Options that the core does not know by this name.
NOT_OF_THE_CORE = ("max_seconds",)
MOST_STARTS = 256


@dataclass(eq=False, repr=False, kw_only=True)
class KoopmanForecaster(FittedForecaster):
    """Forecasts, smooths and explains observed sequences by observables that evolve linearly.

    Observables g(x) = [1, z, psi(z)] of the last ``history`` standardised rows evolve by one matrix, g K over
    a step of the data, or dg/dt = g L over irregular times (extended dynamic mode decomposition: Williams,
    Kevrekidis and Rowley, 2015). The state is a slice of g. A forecast reads it off and encodes it anew as
    often as held-out paths say, which chaos needs at every step.

    Parameters
    ----------
    basis : {"fourier", "polynomial", "kernel", "network"}, default "fourier"
        What psi is made of. ``"fourier"``: cosines of random frequencies. ``"polynomial"``: all monomials up
        to ``degree``; degree 1 is a linear model (dynamic mode decomposition). ``"kernel"``: Gaussians about
        rows of the data (Nyström). ``"network"``: a perceptron, with ``method="gradient"``.
    method : {"closed_form", "refine", "gradient"}, default "closed_form"
        ``"closed_form"``: one linear regression over all pairs of neighbouring rows, with lengths and ridge
        chosen on held-out paths. ``"refine"``: then smoothing all paths by the model and fitting again,
        ``rounds`` times, which takes noise out of observations and fills gaps. ``"gradient"``: then descent
        on errors of forecasts over several steps.
    observables : int, optional
        Number of psi: 600, or 32 of a network, and no more than half of the rows. ``degree`` decides that of
        polynomials.
    degree : int, default 3
        Largest degree of monomials.
    lengths : (float, float), optional
        Least and largest length of random frequencies, in inverse deviations of the data; of a kernel its
        width in median distances. Chosen on held-out paths by default.
    components : int, optional
        Number of principal components that rows are reduced to first, for fields and images: of the many
        numbers of a row few directions move. Rows are seen whole or not at all then.
    history : int, default 1
        Number of rows that one encoding reads: more where single rows do not say what comes next.
    rank : int, optional
        Number of combinations of the observables that are kept beside the constant, those that tell most of
        what comes next (reduced-rank regression); uncorrelated over the data. By default all.
    ridge : float, optional
        Ridge, in mean squares of the observables; chosen on held-out paths by default.
    re_encode : {"auto", "never"} or int, default "auto"
        Steps between encodings of a forecast; ``"auto"`` is chosen on held-out paths.
    max_rows : int, optional
        Most rows that are fitted to, spread over all paths: as many as take about a minute, 139,000 with 600
        observables, and at least 50 for each. A note says so.
    margin : float or None, default 0.1
        Room about the data that forecasts may enter, in the data's range, so that one that leaves where data
        are does not run away; None does not hold them. Linear models never are held.
    horizon : float, optional
        Time ahead that choices are made for; up to 256 steps by default.
    held_out : float, default 0.2
        Share of the paths that choices are made on, or the last part of a single one. All of them are
        fitted to in the end.
    noise : float, optional
        Deviation of the observations' noise in deviations of the data; estimated by default.
    rounds : int, default 4
        Of ``method="refine"``.
    unroll : int, default 8
        Steps ahead that errors of ``method="gradient"`` are of.
    width, depth : int, default 64 and 2
        Units of each hidden layer of a network, and their number.
    steps, batch_size, learning_rate : optional
        Of ``method="gradient"``: 2,000 steps, 128 windows and 1e-3 by default.
    training : Training or mapping, optional
        Further options of gradient steps: see :class:`koopflow.Training`.
    seed : int or None, default 0
        Random seed of everything; None draws one.
    device : str or torch.device, default "cpu"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``. Everything is in float64.

    Attributes
    ----------
    event_shape_ : tuple of int
        Shape of a row; () where rows are numbers.
    n_observables_ : int
        m.
    step_ : float
        Time of a step.
    re_encode_ : int or None
        Steps between encodings; None never encodes anew.
    noise_ : float
        Deviation of the observations' noise, in deviations of the data.
    config_, history_ : dict
        Options as they were chosen; ``trials``, ``error``, ``horizon``, ``pairs``, ``notes`` and why there is
        no ``generator``, if there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import KoopmanForecaster
    >>> t = 0.1 * np.arange(60)
    >>> phases = np.linspace(0, 5, 8)[:, None]
    >>> paths = np.stack([np.cos(t + phases), np.sin(t + phases)], axis=2)
    >>> model = KoopmanForecaster(basis="polynomial", degree=1).fit(paths, t, progress=False)
    >>> ahead = model.forecast(paths[:, -1], [1.0])
    >>> bool(np.allclose(ahead[0, :, 0], np.cos(t[-1] + 1.0 + phases[:, 0]), atol=1e-4))
    True
    """

    _kind: ClassVar[str] = "forecaster"
    _nested: ClassVar[Mapping[str, type[Options]]] = {"training": Training}

    basis: str = "fourier"
    method: str = "closed_form"
    observables: int | None = None
    degree: int = 3
    lengths: tuple[float, float] | None = None
    components: int | None = None
    history: int = 1
    rank: int | None = None
    ridge: float | None = None
    re_encode: str | int = "auto"
    max_rows: int | None = None
    margin: float | None = 0.1
    horizon: float | None = None
    held_out: float = 0.2
    noise: float | None = None
    rounds: int = 4
    unroll: int = 8
    width: int = 64
    depth: int = 2
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    training: Training | Mapping[str, Any] | None = None
    seed: int | None = 0
    device: str = "cpu"

    def fit(
        self,
        paths: Any,
        times: Any = None,
        *,
        mask: Any = None,
        inputs: Any = None,
        condition: Array | None = None,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
        distributed: bool | None = None,
    ) -> KoopmanForecaster:
        """Fit to paths.

        Parameters
        ----------
        paths : array, ``[N, T, *event]``, or list of arrays ``[T, *event]``
            Observed sequences, of equal or unequal lengths; a list of ``[T]`` for series of numbers. NaN says
            that nothing was seen.
        times : array, ``[T]`` or ``[N, T]``, or list of arrays, optional
            Time of each row, increasing; 0, 1, 2, ... by default. Rows on a grid make steps, also with gaps;
            others are irregular.
        mask : array or list, of booleans, optional
            True where something was seen: of the shape of the paths, or of their rows.
        inputs : array, ``[N, T, u]``, or list, optional
            What is done from each row to the next: dg/dt = g L + u B.
        condition : array, optional
            Label ``[N]`` or numbers ``[N, c]`` of each path.
        progress, callback, distributed
            As in :meth:`FlowTeacher.fit`.

        Returns
        -------
        KoopmanForecaster
            Itself. Ctrl-C ends the rounds of ``"refine"`` and the steps of ``"gradient"``, with the best
            model kept and a RuntimeWarning.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, ArgumentError
            For paths, times and options that are not as above, or too few rows; names which.
        DivergenceError
            When observables of the data are not finite.
        """
        numbers, classes = learnt_condition(condition)
        given = Paths.of(paths, times, mask=mask, inputs=inputs, condition=numbers)
        ranks = world(distributed=distributed)
        config = ranks.options(self._config(), seeded=self.seed is not None)
        ranks.agree(**{f"paths[{k}]": rows for k, (_, rows) in enumerate(given)}, condition=numbers)
        _, progress, callback = ranks.leading({}, progress, callback)
        with ProgressMeter(progress=progress, callback=callback) as meter:
            model = _core.Forecaster.fit(
                given.core,
                to_json(config),
                list(given.event_shape),
                monitor=meter.monitor,
                world=ranks.core,
            )
        self._adopt(model, scalar=given.scalar)
        self._paths, self.classes_ = given, classes
        tell_ending(self.history_, "the best model so far")
        return self

    def prior(
        self,
        paths: Any = None,
        times: Any = None,
        *,
        teacher: FlowTeacher | None = None,
        student: KoopmanDistiller | None = None,
        progress: bool | ProgressFunction = False,
    ) -> SequencePrior:
        """A distribution over whole sequences: a one-step student of how paths begin, carried on.

        ``paths`` are as in :meth:`fit`, those of the fit by default; their first ``history`` rows are learnt.
        ``teacher`` and ``student`` are unfitted ones with options of your own.
        """
        self._fitted()
        known = self._paths if paths is None else self._given(paths, times, None, None, None)
        if known is None:
            raise ArgumentError("paths: expected paths, as a model from a file knows none; got None")
        history = self._sizes["history"]
        begin = [rows[:history] for _, rows in known]
        begin = [rows for rows in begin if len(rows) == history and np.isfinite(rows).all()]
        if len(begin) < 2:
            raise ArgumentError(f"paths: expected two that begin with {history} rows seen whole")
        flat = np.stack(begin).reshape(len(begin), -1)
        teacher = FlowTeacher((flat.shape[1],), seed=self.seed) if teacher is None else teacher
        return fitted_prior(self, flat, teacher, student, progress=progress)

    def evaluate(
        self,
        paths: Any,
        times: Any = None,
        *,
        ahead: int | None = None,
        members: int = 32,
        starts: int = MOST_STARTS,
        condition: Array | None = None,
        inputs: Any = None,
        mask: Any = None,
        seed: int | None = 0,
    ) -> ForecastReport:
        """Errors of forecasts on held-out paths, beside persistence, climatology and analogues.

        Parameters
        ----------
        paths, times, condition, inputs, mask
            As in :meth:`fit`; rows must be a step of the fit apart.
        ahead : int, optional
            Number of steps ahead; half of the longest path by default.
        members : int, default 32
            Members of ensembles for the probability score and coverage; 0 leaves these out.
        starts : int, default 256
            Largest number of starts, spread over all paths.
        seed : int or None, default 0
            Random seed of starts and members.
        """
        self._fitted()
        given = self._given(paths, times, mask, inputs, condition)
        history = self._sizes["history"]
        longest = max(given.lengths) - history
        if longest < 1:
            raise ArgumentError(f"paths: expected more than {history} rows in some path, got fewer")
        steps = max(longest // 2, 1) if ahead is None else as_integer(ahead, "ahead", least=1, most=longest)
        seed, count = as_seed(seed), as_integer(starts, "starts", least=1)
        found = Starts.of(given, history, steps, self.step_, count, seed)
        if not len(found):
            raise ArgumentError(
                f"paths: expected {history + steps} rows seen whole, one step ({self.step_:g}) after "
                "the other, in some path"
            )
        known = self._paths
        library = None
        if known is not None:
            library = Starts.of(known, history, steps, self.step_, LIBRARY, seed)
        lead_times = np.asarray(self.step_ * np.arange(1, steps + 1), dtype=np.float64)
        numbers = np.stack(found.conditions) if found.conditions else None
        driven = np.stack(found.inputs) if found.inputs else None

        def forecast(windows: NDArray[Any], members: int) -> NDArray[Any]:
            rows = windows[:, 0] if history == 1 else windows
            states = self._fitted().forecast(
                np.asarray(rows, dtype=np.float64),
                lead_times,
                re_encode=self._steps("auto"),
                members=members,
                seed=seed,
                inputs=driven,
                condition=numbers,
            )
            return np.asarray(states)

        event = self._fitted().event_shape
        mean, scale = self._fitted().statistics().reshape(2, *event)
        members = as_integer(members, "members", least=0)
        return measure(found, forecast, lead_times, mean, scale, library=library, members=members)

    def score(self, paths: Any, y: Any = None, *, times: Any = None) -> float:
        """Minus the mean error by lead time of :meth:`evaluate`, in deviations of the data: at most 0.

        What scikit-learn's searches maximise; ``y`` is passed over.
        """
        return -float(self.evaluate(paths, times, members=0).nrmse["model"].mean())

    def summary(self) -> str:
        """What was fitted, how it was chosen and how good it is on held-out paths."""
        model, history, config = self._fitted(), self.history_, self.config_
        noise = "not estimated" if history["noise"] is None else "none found"
        noise = f"{self.noise_:.3g} deviations of the data" if self.noise_ else noise
        kept = "never" if self.re_encode_ is None else f"every {self.re_encode_} steps"
        lines = [
            f"KoopmanForecaster: {model.size} observables of {self.history} rows of {self.event_shape_}",
            f"fitted to {history['pairs']:,} pairs of {history['rows']:,} rows, {history['paths']:,} paths, "
            f"step {self.step_:g}",
            f"lengths {config['lengths']}, ridge {config['ridge']:g}; encoded anew {kept}",
            f"noise of observations: {noise}",
        ]
        if history["error"] is not None:
            lines.append(
                f"held-out error: {history['error']:.3g} deviations, over leads up to "
                f"{history['horizon']:.3g}, near and far alike"
            )
        if history["generator"]:
            lines.append(f"no generator: {history['generator']}; times between steps cannot be asked for")
        lines += [f"note: {note['text']}" for note in history["notes"]]
        return "\n".join(lines)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to one safetensors file, atomically. Paths are not in it."""
        facts = {"params": self._written(), "scalar": self.scalar_, "classes": self.classes_}
        self._fitted().save(as_path(path), to_json(facts))

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> KoopmanForecaster:
        """Read a model that :meth:`save` wrote. Raises ``FileNotFoundError``, or ``CheckpointError`` for what
        is not a whole koopflow forecaster."""
        model, text = _core.Forecaster.load(as_path(path), device=name_of(device))
        facts = json.loads(text)
        params = dict(facts.get("params", {}))
        if isinstance(params.get("lengths"), list):
            params["lengths"] = tuple(params["lengths"])
        own = cls._read(path, params, device=model.device)
        own._adopt(model, scalar=bool(facts.get("scalar", False)))
        own.classes_ = facts.get("classes")
        return own

    def _config(self) -> dict[str, Any]:
        """The options that are set, by the core's flat names."""
        flat = {
            name: value
            for name in self._get_param_names()
            if name not in (*self._nested, *NOT_OF_THE_CORE) and (value := getattr(self, name)) is not None
        }
        if self.margin is None:
            flat["margin"] = None
        # A basis that gradients make is trained by them.
        return {**flat, **Training.of("training", self.training).given(), "seed": as_seed(self.seed)}


def learnt_condition(condition: Array | None) -> tuple[NDArray[Any] | None, list[int] | None]:
    """Numbers ``[N, c]`` of a condition to fit to, and its classes where it is labels."""
    if condition is None:
        return None, None
    array = np.asarray(to_numpy(condition))
    if array.ndim == 1 and array.dtype.kind in "iub":
        classes = [int(label) for label in np.unique(array)]
        return np.asarray(array[:, None] == np.asarray(classes), dtype=np.float64), classes
    return array.reshape(len(array), -1), None
