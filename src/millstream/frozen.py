"""Declarations are values: what is assigned to one is refused, also by the classes with parameters."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import TypeVar

__all__ = ["immutable"]

C = TypeVar("C", bound=type)


def immutable(kind: C) -> C:
    """Have a frozen dataclass with slots refuse assignments as one without does.

    ``Queue[Order]("orders")`` notes the type at its instance, and leaves that be if it is refused; but
    the refusal of such a dataclass fails in a way of its own, since the class was made twice.
    """
    kind.__setattr__ = _refuse  # type: ignore[assignment] # to replace it is the point
    return kind


def _refuse(_: object, name: str, __: object) -> None:
    message = f"cannot assign to field {name!r}"
    raise FrozenInstanceError(message)
