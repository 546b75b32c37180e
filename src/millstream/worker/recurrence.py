"""A schedule as declared: the function that makes the bodies, when it runs, and where to send."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from millstream.declare import Queue, check_name
from millstream.errors import UsageError
from millstream.policy import Duration
from millstream.schedule import Missed, Timing, check_missed, timing_of

__all__ = ["Recurrence", "declare_recurrence"]


class Recurrence(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent at each tick.

    Attributes:
        name: of the schedule; unique in its queue.
        queue: where to send.
        function: ``async def`` or ``def`` without parameters; it returns a body.
        is_async: which of the two.
        timing: when it ticks.
        missed: what becomes of missed ticks.
    """

    name: str
    queue: Queue[Any]
    function: Callable[[], Any]
    is_async: bool
    timing: Timing
    missed: Missed


def declare_recurrence(
    spec: str | Duration,
    queue: Queue[Any],
    function: Callable[[], Any],
    *,
    tz: object,
    missed: object,
    name: str | None,
) -> Recurrence:
    """Check what was declared.

    Raises:
        UsageError: it names the function and the parameter.
    """
    called = getattr(function, "__name__", None)
    where = f"worker.every({called or repr(function)})"
    if not isinstance(queue, Queue):
        message = f"{where}: expected a Queue, not {type(queue).__name__}"
        raise UsageError(message)
    if queue.store == "list":
        message = (
            f"{where}: queue {queue.name!r} is a list, whose messages no schedule can send: use a "
            "stream queue, whose handler sends to the list"
        )
        raise UsageError(message)
    if name is None and (called is None or called == "<lambda>"):
        message = f"{where}: this function has no name of its own: pass name="
        raise UsageError(message)
    kinds = (function, getattr(function, "__call__", None))  # noqa: B004 - an object may be a function
    if any(inspect.isgeneratorfunction(it) or inspect.isasyncgenfunction(it) for it in kinds):
        message = f"{where}: it yields; it must return the body to send"
        raise UsageError(message)
    _check_parameters(function, where)
    return Recurrence(
        name=check_name(called if name is None else name, f"{where}: name"),
        queue=queue,
        function=function,
        is_async=any(inspect.iscoroutinefunction(it) for it in kinds),
        timing=timing_of(spec, tz, where),
        missed=check_missed(missed, where),
    )


def _check_parameters(function: Callable[..., Any], where: str) -> None:
    """Refuse a function that cannot be called with nothing."""
    if not callable(function):
        message = f"{where}: it is no function"
        raise UsageError(message)
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some that are written in C do not tell
    try:
        signature.bind()
    except TypeError as error:
        message = f"{where}: it must have no parameters, not {signature}"
        raise UsageError(message) from error
