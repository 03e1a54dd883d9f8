"""The forecaster: observables with a linear evolution, fitted to observed sequences."""

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

# Options that the core does not have under this name.
NOT_OF_THE_CORE = ("max_seconds",)
MOST_STARTS = 256


@dataclass(eq=False, repr=False, kw_only=True)
class KoopmanForecaster(FittedForecaster):
    """Forecasts and smooths observed sequences by observables that evolve linearly.

    The observables g(x) = [1, z, psi(z)] of the last ``history`` standardised rows evolve by one matrix: to
    g K after a step of the data, or by dg/dt = g L over irregular times (extended dynamic mode decomposition:
    Williams, Kevrekidis and Rowley, 2015). The state is a slice of g. A forecast decodes the state and
    encodes it again after a number of steps, which is chosen on held-out paths. Chaotic systems need that at
    every step.

    Parameters
    ----------
    basis : {"fourier", "polynomial", "kernel", "network"}, default "fourier"
        Kind of the functions psi. ``"fourier"``: cosines with random frequencies. ``"polynomial"``: all
        monomials up to ``degree``; degree 1 is a linear model (dynamic mode decomposition). ``"kernel"``:
        Gaussians around rows of the data (Nyström). ``"network"``: a multilayer perceptron, with
        ``method="gradient"``.
    method : {"closed_form", "refine", "gradient"}, default "closed_form"
        Fitting method. ``"closed_form"``: one linear regression over all pairs of neighbouring rows, with
        lengths and ridge chosen on held-out paths. ``"refine"``: the same, followed by ``rounds`` rounds in
        which the model smooths all paths and is fitted again; this removes noise from the observations and
        fills gaps. ``"gradient"``: the linear regression, followed by gradient descent on the errors of
        forecasts over several steps.
    observables : int, optional
        Number of functions psi; by default 600, or 32 for a network, but at most half the number of rows. For
        polynomials ``degree`` determines it.
    degree : int, default 3
        Largest degree of the monomials.
    lengths : (float, float), optional
        Smallest and largest length of the random frequency vectors, in inverse deviations of the data; for a
        kernel, its width in median distances. Chosen on held-out paths by default.
    components : int, optional
        Number of principal components to which rows are reduced first. This is for fields and images, whose
        many values move in few directions. Rows must then be observed completely or not at all.
    history : int, default 1
        Number of rows that one encoding uses. Use more than one if a single row does not determine the next.
    rank : int, optional
        Number of linear combinations of the observables that are kept, in addition to the constant, by
        reduced-rank regression: those that predict the next row best. They are uncorrelated over the data. By
        default all are kept.
    ridge : float, optional
        Ridge parameter, in mean squares of the observables; chosen on held-out paths by default.
    re_encode : {"auto", "never"} or int, default "auto"
        Number of steps between encodings of a forecast; ``"auto"`` chooses it on held-out paths.
    max_rows : int, optional
        Largest number of rows used in the fit, spread over all paths. The default takes about a minute:
        139,000 rows with 600 observables, and at least 50 rows for each observable. A note says if rows are
        left out.
    margin : float or None, default 0.1
        Margin around the range of the data within which forecasts are kept, as a fraction of that range. It
        stops forecasts from diverging outside the data. None sets no limit. Linear models have no limit.
    horizon : float, optional
        Lead time up to which forecasts are compared when options are chosen; by default up to 256 steps.
    held_out : float, default 0.2
        Fraction of the paths on which options are chosen, or of a single path, at its end. The final fit uses
        all paths.
    noise : float, optional
        Standard deviation of the observations' noise, in deviations of the data; estimated by default.
    rounds : int, default 4
        Number of rounds of ``method="refine"``.
    unroll : int, default 8
        Number of steps ahead over which ``method="gradient"`` takes errors.
    width, depth : int, default 64 and 2
        Number of units of each hidden layer of a network, and number of hidden layers.
    steps, batch_size, learning_rate : optional
        Number of steps, number of windows in a batch and learning rate of ``method="gradient"``; by default
        2,000, 128 and 1e-3.
    training : Training or mapping, optional
        Further options of gradient steps: see :class:`koopflow.Training`.
    seed : int or None, default 0
        Random seed; None draws one.
    device : str or torch.device, default "cpu"
        Device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``. All computations are in float64.

    Attributes
    ----------
    event_shape_ : tuple of int
        Shape of a row; () if rows are single numbers.
    n_observables_ : int
        Number m of observables.
    step_ : float
        Duration of a step.
    re_encode_ : int or None
        Number of steps between encodings; None if a forecast is encoded only once.
    noise_ : float
        Standard deviation of the observations' noise, in deviations of the data.
    config_, history_ : dict
        The chosen options; and facts about the fit: ``trials``, ``error``, ``horizon``, ``pairs``, ``notes``
        and ``generator``, the reason why there is no generator, if there is none.

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
        """Fit the forecaster to paths.

        Parameters
        ----------
        paths : array, ``[N, T, *event]``, or list of arrays ``[T, *event]``
            Observed sequences of equal or unequal lengths; for series of numbers a list of arrays ``[T]``.
            NaN marks values that were not observed.
        times : array, ``[T]`` or ``[N, T]``, or list of arrays, optional
            Increasing times of the rows; 0, 1, 2, ... by default. If all times lie on a grid, the model has
            steps, also with gaps; otherwise the times are irregular.
        mask : array or list, of booleans, optional
            True where something was observed: of the shape of the paths, or one value for each row.
        inputs : array, ``[N, T, u]``, or list, optional
            Inputs u from each row to the next: dg/dt = g L + u B.
        condition : array, optional
            Label ``[N]`` or numbers ``[N, c]`` of each path.
        progress, callback, distributed
            As in :meth:`FlowTeacher.fit`.

        Returns
        -------
        KoopmanForecaster
            The fitted forecaster itself. Ctrl-C ends the rounds of ``"refine"`` and the steps of
            ``"gradient"``; the best model is kept, with a RuntimeWarning.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, ArgumentError
            For invalid paths, times or options, and for too few rows. The message names the argument.
        DivergenceError
            If observables of the data are not finite.
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
        """Fit a distribution over whole sequences.

        A one-step student samples the first ``history`` rows, and the forecaster continues them. ``paths``
        are as in :meth:`fit`, and by default those of the fit. ``teacher`` and ``student`` may be given
        unfitted, with the options that they are to have.
        """
        self._fitted()
        known = self._paths if paths is None else self._given(paths, times, None, None, None)
        if known is None:
            raise ArgumentError("paths: expected paths, since a model from a file has none, got None")
        history = self._sizes["history"]
        begin = [rows[:history] for _, rows in known]
        begin = [rows for rows in begin if len(rows) == history and np.isfinite(rows).all()]
        if len(begin) < 2:
            raise ArgumentError(
                f"paths: expected at least two paths whose first {history} rows were observed completely, "
                "got fewer"
            )
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
        """Measure forecast errors on held-out paths, compared with persistence, climatology and analogues.

        Parameters
        ----------
        paths, times, condition, inputs, mask
            As in :meth:`fit`. Rows must be one step of the model apart, and without ``times`` they are.
        ahead : int, optional
            Number of steps ahead; by default half of the longest path.
        members : int, default 32
            Number of members of the ensembles for the probability score and the coverage; 0 omits these.
        starts : int, default 256
            Largest number of starts, spread over all paths.
        seed : int or None, default 0
            Random seed of the starts and members.
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
                f"paths: expected a path with {history + steps} completely observed rows in succession, and "
                f"their times one step of the model ({self.step_:g}) apart, got none"
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
        """Minus the mean error over lead times of :meth:`evaluate`, in deviations of the data; at most 0.

        scikit-learn's searches maximise it. ``y`` is ignored.
        """
        return -float(self.evaluate(paths, times, members=0).nrmse["model"].mean())

    def summary(self) -> str:
        """The fit, the chosen options and the error on held-out paths, as text."""
        model, history, config = self._fitted(), self.history_, self.config_
        noise = "not estimated" if history["noise"] is None else "none found"
        noise = f"{self.noise_:.3g} deviations of the data" if self.noise_ else noise
        kept = "never" if self.re_encode_ is None else f"every {self.re_encode_} steps"
        lines = [
            f"KoopmanForecaster: {model.size} observables of {self.history} rows of {self.event_shape_}",
            f"fitted to {history['pairs']:,} pairs of {history['rows']:,} rows, {history['paths']:,} paths, "
            f"step {self.step_:g}",
            f"lengths {config['lengths']}, ridge {config['ridge']:g}; encoded again {kept}",
            f"noise of observations: {noise}",
        ]
        if history["error"] is not None:
            lines.append(
                f"held-out error: {history['error']:.3g} deviations, mean over the logarithm of "
                f"leads up to {history['horizon']:.3g}"
            )
        if history["generator"]:
            lines.append(f"no generator: {history['generator']}; times must be multiples of the step")
        lines += [f"note: {note['text']}" for note in history["notes"]]
        return "\n".join(lines)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to one safetensors file, atomically. Paths are not included."""
        facts = {"params": self._written(), "scalar": self.scalar_, "classes": self.classes_}
        self._fitted().save(as_path(path), to_json(facts))

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> KoopmanForecaster:
        """Read a model that :meth:`save` wrote.

        Raises ``FileNotFoundError``, or ``CheckpointError`` for a file that is not a complete forecaster.
        """
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
        """The options that are set, under the core's flat names."""
        flat = {
            name: value
            for name in self._get_param_names()
            if name not in (*self._nested, *NOT_OF_THE_CORE) and (value := getattr(self, name)) is not None
        }
        if self.margin is None:
            flat["margin"] = None
        return {**flat, **Training.of("training", self.training).given(), "seed": as_seed(self.seed)}


def learnt_condition(condition: Array | None) -> tuple[NDArray[Any] | None, list[int] | None]:
    """Numbers ``[N, c]`` of a condition to fit to, and its classes if it consists of labels."""
    if condition is None:
        return None, None
    array = np.asarray(to_numpy(condition))
    if array.ndim == 1 and array.dtype.kind in "iub":
        classes = [int(label) for label in np.unique(array)]
        return np.asarray(array[:, None] == np.asarray(classes), dtype=np.float64), classes
    return array.reshape(len(array), -1), None
