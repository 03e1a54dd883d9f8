"""Methods of a fitted forecaster: forecasting, smoothing, encoding, its matrices and its spectrum."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_flag, as_integer, as_number, as_seed, as_states, to_numpy
from .._parameters import Parameters
from ..exceptions import ArgumentError, NonFiniteError, NotFittedError, ShapeError
from ..progress import ProgressFunction, ProgressMeter
from .paths import Paths, as_lead_times, as_mask
from .smoothing import SmoothedPaths
from .spectrum import SequenceSpectrum

# Largest number of values of a state for which filters run over the state by default.
LARGEST = 128


class FittedForecaster(Parameters):
    """A forecaster of the core. :class:`koopflow.KoopmanForecaster` fits it and documents it."""

    history: int
    _model: _core.Forecaster | None = None
    # The paths of fit, known only in this process.
    _paths: Paths | None = None
    scalar_: bool = False
    classes_: list[int] | None = None

    def forecast(
        self,
        x: Array,
        times: Sequence[float] | Array,
        *,
        members: int = 0,
        re_encode: str | int = "auto",
        inputs: Array | None = None,
        condition: Array | None = None,
        seed: int | None = 0,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Forecast states ``[T, B, *event]``, or ``[members, T, B, *event]``, as the kind of array of ``x``.

        Parameters
        ----------
        x : array, ``[B, *event]``, or ``[B, H, *event]``
            The last row of each path, or its last rows, at least ``history`` of them, one step apart. More
            rows than ``history`` are filtered first (with NaN for gaps), which improves the start if the data
            are noisy.
        times : sequence of float, ``[T]``
            Times since the last row, in any order. Times between steps need a generator.
        members : int, default 0
            Number of members of a random ensemble. Every step of a member adds noise with the covariance of
            the data's steps.
        re_encode : {"auto", "never"} or int
            Number of steps between encodings; by default as fitted.
        inputs : array, ``[B, steps, u]``, optional
            Inputs of each step, from the last row on.
        condition : array, optional
            Label or numbers of each path.
        seed : int or None, default 0
            Random seed of the members; None draws one.
        progress : bool or callable, default False
            Progress bar or function: see :mod:`koopflow.progress`.
        """
        model, rows = self._fitted(), self._rows(x)
        members = as_integer(members, "members", least=0)
        leads, numbers = as_lead_times(times), self._condition(condition, len(rows))
        with ProgressMeter(progress=progress) as meter:
            rows = self._started(rows, numbers, meter.monitor)
            found = model.forecast(
                rows,
                leads,
                re_encode=self._steps(re_encode),
                members=members,
                seed=as_seed(seed),
                inputs=inputs,
                condition=numbers,
                monitor=meter.monitor,
            )
        return self._out(found)

    def smooth(
        self,
        observations: Array,
        times: Sequence[float] | Array | None = None,
        *,
        mask: Array | None = None,
        noise: float | None = None,
        at: Sequence[float] | Array | None = None,
        filter_only: bool = False,
        re_encode: str | int = "auto",
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> SmoothedPaths:
        """Estimate paths from noisy, partial observations of them.

        The methods are the Kalman filter and the Rauch-Tung-Striebel smoother. By default they run over the
        state, which is encoded again at every step. With ``re_encode="never"``, and for states of more than
        128 values, they run over the observables. Their evolution is linear, so the posterior is then exact
        for the model at any times.

        Parameters
        ----------
        observations : array, ``[B, T, *event]``
            Observed rows; NaN where nothing was observed.
        times : sequence of float, ``[T]``, optional
            Times of the rows; by default they are one step apart.
        mask : array, ``[B, T]`` or ``[B, T, *event]``, optional
            True where something was observed.
        noise : float, optional
            Standard deviation of the observations' noise, in deviations of the data; by default ``noise_``.
        at : sequence of float, optional
            Times of the estimates; by default ``times``. They may lie before and after ``times``.
        filter_only : bool, default False
            Whether each estimate uses only the observations up to its time.
        re_encode, condition, progress
            As in :meth:`forecast`.
        """
        model = self._fitted()
        given = as_states(observations, "observations")
        rows = self._lifted(given)
        event = tuple(model.event_shape)
        if rows.ndim != 2 + len(event) or tuple(rows.shape[2:]) != event or 0 in rows.shape:
            raise ShapeError(f"observations: expected (B, T, *{self.event_shape_}), got {tuple(given.shape)}")
        if mask is not None:
            seen = np.asarray(to_numpy(mask))
            if tuple(seen.shape) not in {tuple(given.shape[:2]), tuple(given.shape)}:
                raise ShapeError(
                    f"mask: expected shape {tuple(given.shape)} or {tuple(given.shape[:2])}, got {seen.shape}"
                )
            seen = as_mask(seen).reshape(*seen.shape, *[1] * (rows.ndim - seen.ndim))
            if isinstance(rows, torch.Tensor):
                rows = rows.masked_fill(torch.from_numpy(~seen).to(rows.device), math.nan)
            else:
                rows = np.where(seen, rows, math.nan)
        seen_at = self.step_ * np.arange(rows.shape[1]) if times is None else as_lead_times(times)
        if len(seen_at) != rows.shape[1]:
            raise ShapeError(f"times: expected ({rows.shape[1]},), got ({len(seen_at)},)")
        wanted = seen_at if at is None else as_lead_times(at)
        level = self.noise_ if noise is None else as_number(noise, "noise", "at least 0", lambda v: v >= 0)
        with ProgressMeter(progress=progress) as meter:
            mean, std, log_likelihood = model.smooth(
                rows,
                seen_at,
                wanted,
                noise=level,
                re_encode=self._over_states if re_encode == "auto" else self._steps(re_encode) > 0,
                backwards=not as_flag(filter_only, "filter_only"),
                condition=self._condition(condition, len(rows)),
                monitor=meter.monitor,
            )
        return SmoothedPaths(wanted, self._out(mean), self._out(std), log_likelihood, level)

    def encode(self, x: Array, *, condition: Array | None = None) -> Array:
        """The observables g, ``[B, m]``, of rows ``[B, *event]`` or ``[B, history, *event]``."""
        rows = self._rows(x)
        history = self._sizes["history"]
        if rows.ndim == 2 + len(self._fitted().event_shape) and rows.shape[1] != history:
            got = tuple(as_states(x).shape)
            single = f"(B, *{self.event_shape_}) or " if history == 1 else ""
            expected = f"{single}(B, {history}, *{self.event_shape_})"
            raise ShapeError(f"x: expected {expected}, got {got}")
        return self._fitted().encode(rows, condition=self._condition(condition, len(rows)))

    def transition_matrix(self) -> NDArray[np.float64]:
        """The matrix K of one step, ``[m, m]``: g(t + step) = g(t) K."""
        return self._table("transition")

    def generator_matrix(self) -> NDArray[np.float64]:
        """The generator L, ``[m, m]``: dg/dt = g L.

        Raises ``ArgumentError`` with the reason if K has no logarithm.
        """
        found = self._fitted().generator()
        if found is None:
            raise ArgumentError(f"generator: this model has none: {self.history_['generator']}")
        return np.asarray(found)

    def readout_matrix(self) -> NDArray[np.float64]:
        """The readout matrix C, ``[m, prod(event)]``: the flattened state is mean + g C."""
        return self._table("readout")

    def covariance_matrix(self) -> NDArray[np.float64]:
        """The covariance Q, ``[m, m]``, of the difference between g after a step of the data and g K."""
        return self._table("covariance")

    def _table(self, name: str) -> NDArray[np.float64]:
        return np.asarray(getattr(self._fitted(), name)())

    def spectrum(
        self,
        paths: Any = None,
        times: Any = None,
        *,
        mask: Any = None,
        inputs: Any = None,
        condition: Array | None = None,
    ) -> SequenceSpectrum:
        """Eigenvalues, eigenfunctions and modes, with their residuals along paths.

        ``paths`` are as in :meth:`fit`. By default they are those of the fit, if it ran in this process.
        ``times`` are those of the rows; by default rows are one step of the model apart.
        Raises ``DivergenceError`` for a K whose eigenvectors are linearly dependent.
        """
        model = self._fitted()
        known = self._paths if paths is None else self._given(paths, times, mask, inputs, condition)
        with ProgressMeter(progress=False) as meter:
            core = None if known is None else known.core
            return SequenceSpectrum.measure(
                model, core, meter.monitor, scalar=self.scalar_, numbered=self._condition
            )

    def _adopt(self, model: _core.Forecaster, *, scalar: bool) -> None:
        self._model, self._paths, self.scalar_ = model, None, scalar
        self.event_shape_ = () if scalar else tuple(model.event_shape)
        self.n_observables_ = model.size
        self.config_: dict[str, Any] = json.loads(model.config)
        self.history_: dict[str, Any] = json.loads(model.history)
        facts = json.loads(model.facts)["facts"]
        self.step_: float = facts["step"]
        self.re_encode_: int | None = facts["re_encode"]
        self.noise_: float = facts["noise"]

    def _fitted(self) -> _core.Forecaster:
        if self._model is None:
            raise NotFittedError("this KoopmanForecaster is not fitted: call fit(paths) or load(path)")
        return self._model

    def __sklearn_is_fitted__(self) -> bool:
        return self._model is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_paths": None}

    @property
    def _sizes(self) -> dict[str, Any]:
        """The numbers of observables, inputs and so on."""
        return dict(json.loads(self._fitted().facts)["sizes"])

    @property
    def _over_states(self) -> bool:
        """Whether filters run over states by default, whose covariance is then small enough."""
        sizes = self._sizes
        numbers = sizes["components"] or math.prod(sizes["event_shape"])
        return bool(sizes["history"] * numbers <= LARGEST)

    def _steps(self, re_encode: str | int) -> int:
        """Number of steps between encodings, 0 for never."""
        if isinstance(re_encode, str):
            if re_encode not in ("auto", "never"):
                raise ArgumentError(f"re_encode: expected 'auto', 'never' or a number, got {re_encode!r}")
            return 0 if re_encode == "never" else self.re_encode_ or 0
        return as_integer(re_encode, "re_encode", least=1)

    def _lifted(self, x: Array) -> Array:
        return x[..., None] if self.scalar_ else x

    def _out(self, states: Array) -> Array:
        return states[..., 0] if self.scalar_ else states

    def _rows(self, x: Array) -> Array:
        """Rows ``[B, H, *event]`` with H at least ``history``, or ``[B, *event]`` if ``history`` is 1."""
        model = self._fitted()
        rows = self._lifted(as_states(x))
        event = tuple(model.event_shape)
        history = self._sizes["history"]
        single = history == 1 and tuple(rows.shape[1:]) == event
        several = tuple(rows.shape[2:]) == event and rows.ndim == 2 + len(event)
        if len(rows) == 0 or not (single or (several and rows.shape[1] >= history)):
            least = "" if history == 1 else f"at least {history} of them in "
            expected = f"(B, *{self.event_shape_}) or rows of it, {least}(B, H, *{self.event_shape_})"
            raise ShapeError(f"x: expected {expected}, got {tuple(as_states(x).shape)}")
        return rows

    def _started(self, rows: Array, condition: Any, monitor: Any) -> Array:
        """The rows that a forecast starts from, which are filtered if there are more than ``history``."""
        sizes, model = self._sizes, self._fitted()
        count = rows.shape[1] if rows.ndim == 2 + len(model.event_shape) else 1
        unseen = np.isnan(to_numpy(rows)).reshape(len(rows), -1).any(axis=1)
        if unseen.any() and (count == 1 or sizes["inputs"]):
            remedy = "; rows with gaps are not filtered in models with inputs" if sizes["inputs"] else ""
            raise NonFiniteError(f"x: expected completely observed rows, got NaN{remedy}")
        if count == 1:
            return rows
        last = rows[:, -sizes["history"] :]
        longer = count > sizes["history"] and self.noise_ > 0 and not sizes["inputs"]
        filtered = np.flatnonzero(unseen | longer)
        if not len(filtered):
            return last
        own = None if condition is None else condition[filtered]
        times = self.step_ * np.arange(count)
        options: dict[str, Any] = {"noise": self.noise_, "backwards": False, "condition": own}
        mean, _, _ = model.smooth(
            rows[filtered], times, times[-sizes["history"] :], **options, monitor=monitor
        )
        last = last.clone() if isinstance(last, torch.Tensor) else last.copy()
        last[filtered] = mean.swapaxes(0, 1)
        return last

    def _given(self, paths: Any, times: Any, mask: Any, inputs: Any, condition: Array | None) -> Paths:
        """The given paths after a check. Without times their rows are one step of the model apart."""
        if isinstance(paths, Paths):
            return paths
        numbers = None if condition is None else self._numbered(to_numpy(condition))
        given = Paths.of(paths, times, mask=mask, inputs=inputs, condition=numbers, step=self.step_)
        if given.event_shape != tuple(self._fitted().event_shape):
            raise ShapeError(
                f"paths: expected rows of shape {self.event_shape_}, as fitted, got {given.event_shape}"
            )
        return given

    def _numbered(self, array: NDArray[Any]) -> NDArray[Any]:
        """Labels in one-hot encoding; vectors unchanged."""
        if array.ndim == 1 and self.classes_ is not None and array.dtype.kind in "iub":
            classes = np.asarray(self.classes_)
            if unknown := set(array.tolist()) - set(self.classes_):
                raise ArgumentError(f"condition: expected labels of the fit, {self.classes_}, got {unknown}")
            return np.asarray(array[:, None] == classes, dtype=np.float64)
        return np.asarray(array.reshape(len(array), -1))

    def _condition(self, condition: Array | None, batch: int) -> NDArray[Any] | None:
        if condition is None:
            return None
        array = np.asarray(to_numpy(condition))
        single = array.ndim == 0 or (array.ndim == 1 and self.classes_ is None and len(array) != batch)
        numbers = self._numbered(array[None] if single else array)
        repeated: NDArray[Any] = np.repeat(numbers, batch if single else 1, axis=0)
        return repeated
