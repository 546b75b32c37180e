"""What follows behind a middleware: the handler, or the next middleware."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any

__all__ = ["Following"]


class Following:
    """What a middleware gets as ``call_next``.

    Args:
        call: what it stands for.
        body: what that is called with.
        delivery: what that is called with, too.
    """

    __slots__ = ("_begun", "_body", "_call", "_delivery")

    def __init__(self, call: Callable[[Any, Any], Any], body: Any, delivery: Any) -> None:
        self._call = call
        self._body = body
        self._delivery = delivery
        self._begun: list[Any] = []

    def __call__(self) -> Awaitable[Any]:
        """Return what is to be awaited."""
        begun: Awaitable[Any] = self._call(self._body, self._delivery)
        self._begun.append(begun)
        return begun

    def close(self) -> bool:
        """Close what was never awaited, when the middleware is over; tell whether there was any."""
        forgotten = False
        for one in self._begun:
            # What has ended has no frame any more.
            if (
                getattr(one, "cr_frame", None) is not None
                and getcoroutinestate(one) == CORO_CREATED
            ):
                one.close()
                forgotten = True
        return forgotten
