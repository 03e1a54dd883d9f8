"""Copies of teachers that wrap somebody's code: Python pickles the code, and the copy attaches it again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])


class Attachable:
    """A teacher whose field may be code of others, which ``pickle`` and ``copy.deepcopy`` treat as they do
    anywhere; a model that they refuse, such as a lambda, is Python's own error."""

    # What makes the field's twin where the core cannot write the field: None for koopflow's own fields.
    _attached: Callable[[], Any] | None = None
    # Whose method attached the field, its name, and its arguments.
    _origin: tuple[Any, str, tuple[Any, ...], Mapping[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[misc]
        return (
            {**state, "_origin": None}
            if self._attached is None
            else {**state, "_field": None, "_attached": None}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if self._origin is not None:
            owner, method, arguments, keywords = self._origin
            other = getattr(owner, method)(*arguments, **keywords)
            self._field, self._attached = other._field, other._attached


def attaching(method: Method) -> Method:
    """Has a method that makes a teacher say how, for copies."""

    @functools.wraps(method)
    def attach(owner: Any, *arguments: Any, **keywords: Any) -> Any:
        teacher = method(owner, *arguments, **keywords)
        if teacher._attached is not None:
            teacher._origin = (owner, method.__name__, arguments, keywords)
        return teacher

    return cast(Method, attach)
