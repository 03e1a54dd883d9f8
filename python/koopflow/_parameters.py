"""Constructor parameters of teachers and students: names, nested options, and parameters in files."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from abc import ABCMeta
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.base import BaseEstimator

from ._arrays import as_path
from .exceptions import ArgumentError, CheckpointError
from .options import Options, nearest

if TYPE_CHECKING:
    from typing_extensions import Self


class _Regrouping(ABCMeta):
    """Metaclass that also accepts former keyword arguments, from before options were grouped."""

    @property
    def __signature__(cls) -> inspect.Signature:
        made = inspect.signature(cls.__init__)  # type: ignore[misc]
        return made.replace(parameters=list(made.parameters.values())[1:])

    def __call__(cls, *args: Any, **keywords: Any) -> Any:
        return super().__call__(*args, **cls._regrouped(keywords))  # type: ignore[attr-defined]


class Parameters(BaseEstimator, metaclass=_Regrouping):  # type: ignore[misc]
    """A scikit-learn estimator in which some parameters are option dataclasses.

    A double underscore addresses a single option: ``set_params(training__ema_decay=0.9)``. As scikit-learn
    requires, the constructor checks only names; ``fit`` checks values.
    """

    # The option dataclass of each such parameter.
    _nested: ClassVar[Mapping[str, type[Options]]] = {}

    @classmethod
    def _regrouped(cls, keywords: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
        """Keywords of the constructor. Options of a group are moved into the group, with a warning."""
        known = inspect.signature(cls.__init__).parameters
        found = {name: value for name, value in keywords.items() if name in known}
        for name in (name for name in keywords if name not in known):
            outer, option = cls._home(name)
            if not outer:
                # Python's own message would not suggest the nearest name.
                raise TypeError(f"{cls.__name__}() has no parameter {name!r}{cls._hint(name)}")
            kind = cls._nested[outer]
            if warn:
                now = f"{outer}={kind.__name__}({option}=...)"
                warnings.warn(f"{cls.__name__}: write {now} instead of {name}=", FutureWarning, stacklevel=3)
            found[outer] = kind.of(outer, found.get(outer)).replaced(**{option: keywords[name]})
        return found

    @classmethod
    def _home(cls, name: str) -> tuple[str, str]:
        """The group of an option and the option's name in it; the group is empty if none has the option."""
        for outer, kind in cls._nested.items():
            option = kind.renamed.get(name, name)
            if option in kind.names():
                return outer, option
        return "", name

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 (scikit-learn's)
        """Parameters by name. ``deep`` adds each option of a group, such as ``training__ema_decay``."""
        params = {name: getattr(self, name) for name in self._get_param_names()}
        if deep:
            for name, kind in self._nested.items():
                with contextlib.suppress(ArgumentError):
                    options = None if params[name] is None else kind.of(name, params[name])
                    for option in kind.names():
                        params[f"{name}__{option}"] = getattr(options, option, None)
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, and their options by double underscore.

        Raises ``ArgumentError`` for a name that does not exist; the message suggests the nearest one.
        """
        single: dict[str, dict[str, Any]] = {}
        for name in params:
            outer, _, option = name.partition("__")
            if option and outer in self._nested and option in self._nested[outer].names():
                single.setdefault(outer, {})[option] = params[name]
            elif name not in self._get_param_names():
                raise ArgumentError(f"{type(self).__name__} has no parameter {name!r}{self._hint(name)}")
        for name in params.keys() - {f"{outer}__{option}" for outer in single for option in single[outer]}:
            setattr(self, name, params[name])
        for outer, options in single.items():
            setattr(self, outer, self._nested[outer].of(outer, getattr(self, outer)).replaced(**options))
        return self

    @classmethod
    def _hint(cls, name: str) -> str:
        """The end of a message about an unknown name: what to write instead, if that is known."""
        outer, option = cls._home(name)
        if outer:
            return f": write {outer}={cls._nested[outer].__name__}({option}=...)"
        inner = {option: outer for outer, kind in cls._nested.items() for option in kind.names()}
        if "__" in name:
            return nearest(name, {f"{outer}__{option}" for option, outer in inner.items()})
        found = nearest(name, [*cls._get_param_names(), *inner])
        for option, outer in inner.items():
            if found == nearest(name, [option]) != "":
                return f": did you mean {outer}={cls._nested[outer].__name__}({option}=...)?"
        return found

    def _written(self, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """The parameters for a file, without options that are not set."""
        params = {name: getattr(self, name) for name in self._get_param_names() if name not in without}
        for name, kind in self._nested.items():
            if isinstance(params.get(name), kind | Mapping):
                params[name] = kind.of(name, params[name]).given()
        return params

    @classmethod
    def _read(cls, path: str | PathLike[str], written: Mapping[str, Any], **known: Any) -> Self:
        """An unfitted estimator with the parameters in a file; ``known`` ones come from the file's model.

        Files from before options were grouped have flat names. Raises ``CheckpointError`` for parameters that
        this class does not have.
        """
        # Flat names include options that were not set.
        params = {name: v for name, v in written.items() if v is not None or not cls._home(name)[0]}
        try:
            for name, kind in cls._nested.items():
                if isinstance(params.get(name), Mapping):
                    params[name] = kind.of(name, params[name])
            return cls(**cls._regrouped({**params, **known}, warn=False))
        except (TypeError, ArgumentError) as error:
            raise CheckpointError(f"{as_path(path)}: {error}") from error
