"""Declarations are values: what is assigned to one is refused, also by the classes with parameters."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, TypeVar

__all__ = ["immutable"]

C = TypeVar("C", bound=type)


def immutable(kind: C) -> C:
    """Have a frozen dataclass with slots refuse assignments as one without does.

    ``Queue[Order]("orders")`` notes the type at its instance, and leaves that be if it is refused; but
    the refusal of such a dataclass fails in a way of its own, since the class was made twice.

    A copy of what cannot change is the thing itself, and types that msgspec has marks for cannot be copied.
    """
    kind.__setattr__ = _refuse  # type: ignore[assignment] # to replace it is the point
    kind.__copy__ = kind.__deepcopy__ = _itself  # type: ignore[attr-defined] # see above
    return kind


def _itself(one: Any, _: object = None) -> Any:
    return one


def _refuse(_: object, name: str, __: object) -> None:
    message = f"cannot assign to field {name!r}"
    raise FrozenInstanceError(message)
