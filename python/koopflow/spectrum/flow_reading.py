"""The numbers that the paths of a flow determine: rates, parts, and how well they are resolved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_number, as_times, checked_count
from .._tables import text_table, to_frame
from ..exceptions import ArgumentError
from .flow_comparison import SLOWEST, nearest
from .paths import Paths, core_of
from .places import chosen_places
from .spectrum import Complex, Places, Real

if TYPE_CHECKING:
    from typing_extensions import Self

EXACT = 1e-9  # A smaller unexplained share of the motion is rounding error.
ILL_CONDITIONED = 1e4
UNCERTAIN = 0.1  # A rate whose RMS change over resampled paths exceeds this, relatively, is not resolved.


class FlowReading:
    """The numbers of a :class:`koopflow.FlowSpectrum`, which documents them."""

    def __init__(
        self,
        core: _core.FlowSpectrum,
        source: Any = None,
        places: Places | None = None,
        condition: Array | None = None,
        solving: Mapping[str, Any] | None = None,
    ) -> None:
        facts = json.loads(core.facts)
        self.core, self._facts = core, facts
        # The given model, which can be pickled, and its core, which computes paths.
        self._owner = source
        self._source = None if source is None else Paths(core_of(source), solving or {})
        self._solving = solving
        self.condition = condition
        self.event_shape: tuple[int, ...] = tuple(facts["event_shape"])
        self.paths: int = facts["paths"]
        self._count = int(facts["sizes"][3])
        self.times: Real = core.array("times")
        self.rates: Complex = eigenvalues(facts["rates"])
        self.basis_rates: Complex = eigenvalues(facts["basis"])
        self.affine_rates: Complex = eigenvalues(facts["affine_rates"])
        self.unexplained: Real = np.asarray(facts["unexplained"])
        self.bound: float = facts["bound"]
        motion = max(facts["motion"], 1e-300)
        self.affine: float = facts["affine"] / motion
        self.nonlinear: float = facts["nonlinear"] / motion
        self.drift_energy: float = facts["drift"] / motion
        self.unresolved: float = facts["unresolved"] / motion
        self._energies, self._intervals = core.array("energies"), core.array("interval")
        self._whole = max(float(self._energies.sum()), 1e-300)
        self.edge: float = facts["edge"] / self._whole
        self.standing: int = facts["standing"]
        self._choose(np.arange(self._count) if places is None else np.asarray(places, dtype=np.int64))

    def _choose(self, places: Places) -> None:
        self.places: Places = places
        self.energy: Real = self._energies[places] / self._whole
        self.low, self.high = (self._intervals[places] / self._whole).T

    def _with(self, places: Places) -> Self:
        # Skip the constructor, which reads everything from the core: loops make many selections.
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        for own in ("_modes", "_split"):
            chosen.__dict__.pop(own, None)
        chosen._choose(places)
        return chosen

    # Motion of the paths in time.

    @property
    def cloud(self) -> Complex:
        """The rates of resampled paths, complex ``[40, r]``, in the columns of the rates that they match."""
        cloud = self.core.array("cloud")
        values = cloud[..., 0] + 1j * cloud[..., 1]
        return np.stack([nearest(self.rates, row) for row in values])

    @property
    def candidates(self) -> list[Complex]:
        """The best 1, 2, ... rates. Flows are compared by the same number of rates."""
        return [eigenvalues(rates) for rates in self._facts["candidates"]]

    def best_rates(self, number: int) -> Complex:
        """The best ``number`` rates, or fewer if those of this flow are already exact."""
        own = len(self.rates)
        exact = own < number and self.unexplained[own - 1] <= EXACT
        return self.rates if exact else self.candidates[min(number, len(self.candidates)) - 1]

    @property
    def halves(self) -> Complex:
        """The rates of two random halves of the paths, complex ``[2, r]``."""
        return np.stack([nearest(self.rates, eigenvalues(half)) for half in self._facts["halves"]])

    @property
    def uncertainty(self) -> Real:
        """RMS change of each rate over :attr:`cloud`, divided by its modulus or by 0.1 if larger, ``[r]``."""
        distance = np.sqrt((np.abs(self.cloud - self.rates) ** 2).mean(axis=0))
        return np.asarray(distance / np.maximum(np.abs(self.rates), SLOWEST))

    @property
    def regions(self) -> Complex:
        """Farthest values of each rate in 16 directions while the other rates adapt, complex ``[r, 16]``.

        At these values all rates together leave a share :attr:`bound` of the motion unexplained. Sums of
        different exponentials can be nearly equal, so they may be far away even if the best rates have
        little uncertainty.
        """
        regions = self.core.array("regions")
        return np.asarray(regions[..., 0] + 1j * regions[..., 1])

    @property
    def reach(self) -> Real:
        """Largest distance of :attr:`regions` from each rate, over its modulus or 0.1 if larger, ``[r]``."""
        farthest = np.abs(self.regions - self.rates[:, None]).max(axis=1)
        return np.asarray(farthest / np.maximum(np.abs(self.rates), SLOWEST))

    def functions(self, times: Sequence[float]) -> Complex:
        """The functions (e^{lambda_j t} - 1) / lambda_j of :attr:`rates` at ``times``, complex ``[T, r]``."""
        t = np.asarray(as_times(times))[:, None]
        small = np.abs(self.rates) < 1e-9
        rates = np.where(small, 1.0, self.rates)
        return np.asarray(np.where(small, t, np.expm1(rates * t) / rates))

    @cached_property
    def shares(self) -> Real:
        """Drift, affine and nonlinear energy of the displacement at each of :attr:`times`, ``[T, 3]``.

        They are divided by the energy of the motion at the last time.
        """
        shares = self.core.array("shares")
        return np.asarray(shares / max(float(shares[-1, 1:].sum()), 1e-300))

    # Parts in space.

    @property
    def drift(self) -> Real:
        """The drift b at each of :attr:`times`, ``[T, *event]``."""
        return self.core.array("drift").reshape(-1, *self.event_shape)

    @property
    def axes(self) -> Real:
        """Orthonormal axes of the noise, ``[A, *event]``, by decreasing :attr:`axis_values`.

        They are singular vectors of the affine map from noise to data. For a Gaussian they are its principal
        axes.
        """
        return self.core.array("axes").reshape(-1, *self.event_shape)

    @property
    def axis_values(self) -> Real:
        """Singular values of the affine map, ``[A]``: the deviation of samples along each axis."""
        return self.core.array("axis_values")

    @property
    def axis_groups(self) -> list[Places]:
        """Positions of axes in groups whose singular values do not differ significantly."""
        return groups_of(self._facts["axis_groups"], len(self.axis_values))

    def axis_modes(self, t: float | None = None) -> Real:
        """Displacement ``[A, *event]`` of a unit of noise along each axis at time t, by default the last.

        The state is then ``axes + axis_modes(t)``.
        """
        at = self.core.functions([self._at(t)])[0]
        moved = np.einsum("ard,r->ad", self._axis_modes, at)
        return np.asarray(moved.reshape(-1, *self.event_shape))

    def modes_at(self, t: float | None = None) -> Real:
        """Modes V_k(t), ``[K, *event]``: the displacement by a unit of a_k at time t, by default the last."""
        at = self.core.functions([self._at(t)])[0]
        return np.asarray(np.einsum("krd,r->kd", self._modes, at).reshape(-1, *self.event_shape))

    def _at(self, t: float | None) -> float:
        """The time t after a check, or the last time of the paths if it is None."""
        last = float(self.times[-1])
        if t is None:
            return last
        return as_number(t, "t", f"a time in [0, {last:g}]", lambda time: 0.0 <= time <= last)

    @cached_property
    def _axis_modes(self) -> Real:
        return self.core.array("axis_modes")

    @cached_property
    def _modes(self) -> Real:
        return np.asarray(self.core.array("modes")[self.places])

    @cached_property
    def _split(self) -> tuple[Real, Real, Real]:
        """Each mode's best product of a function of time and an image: weights, images, shares."""
        left, values, right = np.linalg.svd(self._modes, full_matrices=False)
        share = values[:, 0] ** 2 / np.maximum((values**2).sum(axis=1), 1e-300)
        image = right[:, 0]
        # The sign is chosen so that the profile is positive at the end.
        end = np.einsum("kr,r->k", left[:, :, 0], self.core.functions([float(self.times[-1])])[0])
        sign = np.where(end < 0.0, -1.0, 1.0)[:, None]
        return left[:, :, 0] * sign * values[:, :1], image * sign, share

    @property
    def images(self) -> Real:
        """Images, ``[K, *event]``, of norm 1: each mode is best approximated by image times profile."""
        return self._split[1].reshape(-1, *self.event_shape)

    @property
    def separability(self) -> Real:
        """Share of each mode that this product explains, ``[K]``. With 1, an image grows without changing."""
        return self._split[2]

    def profiles(self, times: Sequence[float] | None = None) -> Real:
        """Profile in time of that product, ``[T, K]``, by default at :attr:`times`."""
        at = self.core.functions(as_times(self.times if times is None else times))
        return np.asarray(at @ self._split[0].T)

    # Groups and reliability.

    @property
    def groups(self) -> list[Places]:
        """Groups of modes with energies that do not differ significantly, as positions in this selection."""
        whole = groups_of(self._facts["groups"], self._count)
        own = [np.flatnonzero(np.isin(self.places, group)) for group in whole]
        return [group for group in own if len(group)]

    @property
    def agreement(self) -> Real:
        """Mean squared cosine between each group in two random halves of the paths, ``[G]``."""
        whole = groups_of(self._facts["groups"], self._count)
        found = np.asarray(self._facts["agreement"])
        return found[[bool(np.isin(self.places, group).any()) for group in whole]]

    @property
    def single(self) -> NDArray[np.bool_]:
        """One of each conjugate pair, ``[K]``: all modes, since they are real."""
        return np.ones(len(self), dtype=bool)

    @property
    def indices(self) -> Places:
        """The :attr:`places`, by which plots name modes."""
        return self.places

    @property
    def caveat(self) -> str | None:
        """The first of :attr:`caveats`, which a plot must show; None if there is none."""
        return next(iter(self.caveats), None)

    @property
    def caveats(self) -> list[str]:
        """Sentences about what is not well determined; empty if everything is."""
        found = []
        if (vague := int((self.uncertainty > UNCERTAIN).sum())) > 0:
            found.append(f"{vague} of {len(self.rates)} rates change by more than 10% with other paths")
        if self.unexplained[len(self.rates) - 1] > 1e-2:
            share = self.unexplained[len(self.rates) - 1]
            found.append(f"{len(self.rates)} rates leave {share:.1%} of the motion unexplained")
        functions = self.functions(self.times[1:].tolist())
        if np.linalg.cond(functions / np.linalg.norm(functions, axis=0)) > ILL_CONDITIONED:
            found.append("rates are so close to each other that their shares in a mode are not determined")
        if self.paths < 2 * self._dimension:
            found.append(f"{self.paths} paths are too few for an affine map in {self._dimension} dimensions")
        return [*found, self.mixing] if self.mixing else found

    @property
    def looseness(self) -> str | None:
        """A sentence that different rates fit as well; None if all rates are well determined."""
        if (loose := int((self.reach > UNCERTAIN).sum())) == 0:
            return None
        return (
            f"{loose} of {len(self.rates)} rates can change by more than 10% and still leave at most "
            f"{self.bound:.2g} of the motion unexplained: do not rely on their digits"
        )

    @property
    def mixing(self) -> str | None:
        """A sentence that the first modes form one group; None if they do not."""
        first = len(self.groups[0]) if len(self) else 0
        return (
            f"the first {first} modes have nearly equal energies: read them as one group"
            if first > 1
            else None
        )

    @property
    def _dimension(self) -> int:
        return int(np.prod(self.event_shape))

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Self]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> Self:
        chosen = self.places[chosen_places(key, len(self))]
        # A mode that is named twice is taken once.
        return self._with(np.asarray(list(dict.fromkeys(chosen.tolist())), dtype=np.int64))

    def select(self, *, count: int | None = None, energy: float | None = None) -> Self:
        """The first modes of this selection: ``count`` of them, or as few as hold a share ``energy``.

        ``energy`` is a share of the selection's energy, in (0, 1].
        """
        if (count is None) == (energy is None):
            raise ArgumentError(
                f"expected one of count and energy, got {'neither' if count is None else 'both'}"
            )
        if count is None:
            energy = as_number(energy, "energy", "a share in (0, 1]", lambda share: 0.0 < share <= 1.0)
            shares = np.cumsum(self.energy) / max(float(self.energy.sum()), 1e-300)
            return self[: int(np.searchsorted(shares, energy - 1e-12)) + 1]
        if (number := checked_count(count, "count")) > len(self):
            raise ArgumentError(f"count: expected at most {len(self)}, got {count}")
        return self[:number]

    # Tables.

    def records(self) -> list[dict[str, Any]]:
        """One dictionary of plain numbers for each mode."""
        whole = groups_of(self._facts["groups"], self._count)
        group = np.zeros(self._count, dtype=np.int64)
        for place, members in enumerate(whole):
            group[members] = place
        columns = {
            "mode": self.places,
            "group": group[self.places],
            "energy": self.energy,
            "low": self.low,
            "high": self.high,
            "separability": self.separability,
        }
        return [
            dict(zip(columns, row, strict=True))
            for row in zip(*(column.tolist() for column in columns.values()), strict=True)
        ]

    def to_frame(self) -> Any:
        """:meth:`records` as a ``pandas.DataFrame``, indexed by mode; an ``ArgumentError`` without pandas."""
        return to_frame(self.records(), index="mode")

    def summary(self, rows: int = 12) -> str:
        """Caveats, rates, shares and a table of the first groups, as text."""
        rows = checked_count(rows, "rows")
        rates = [
            (f"{rate.real:.3g}" if rate.imag == 0 else f"{rate.real:.3g} ± {rate.imag:.3g}i")
            + f" (within {reach:.1%})"
            for rate, reach in zip(self.rates, self.reach, strict=True)
            if rate.imag >= 0
        ]
        lines = [
            f"rates {', '.join(rates)} leave {self.unexplained[len(self.rates) - 1]:.2g} of held-out motion",
            f"motion: {self.affine:.1%} affine in the noise, {self.nonlinear:.1%} not; drift "
            f"{self.drift_energy:.2f} times the motion",
            f"{len(self)} of {self._count} modes in {len(self.groups)} groups",
        ]
        lines += [f"caution: {text}" for text in (*self.caveats, self.looseness) if text]
        table = [
            {
                "group": place,
                "modes": _span(self.places[group]),
                "energy (%)": 100.0 * float(self.energy[group].sum()),
                "of halves": float(agreement),
            }
            for place, (group, agreement) in enumerate(zip(self.groups, self.agreement, strict=True))
        ]
        lines.append(text_table(table[:rows], decimals={"energy (%)": 1, "of halves": 2}))
        if len(table) > rows:
            left = sum(float(self.energy[group].sum()) for group in self.groups[rows:])
            lines.append(f"{len(table) - rows} more groups, {left:.1%} of the energy")
        return "\n".join(lines)


def eigenvalues(rates: list[dict[str, float]]) -> Complex:
    values: list[complex] = []
    for rate in rates:
        pair = rate["growth"] + 1j * rate["frequency"]
        values += [pair] if rate["frequency"] == 0 else [pair, pair.conjugate()]
    return np.asarray(values, dtype=np.complex128)


def groups_of(begins: list[int], count: int) -> list[Places]:
    ends = [*begins[1:], count]
    return [np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)] if count else []


def _span(places: Places) -> str:
    if len(places) > 1 and np.all(np.diff(places) == 1):
        return f"{places[0]}-{places[-1]}"
    return ", ".join(map(str, places))
