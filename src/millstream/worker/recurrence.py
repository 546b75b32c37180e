"""A schedule as declared: the function that makes the bodies, when it runs, and where to send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millstream.declare import Queue, check_name
from millstream.errors import UsageError
from millstream.policy import Duration
from millstream.schedule import Missed, Timing, check_missed, timing_of
from millstream.worker.functions import (
    check_arguments,
    check_plain,
    returning,
    suspends,
    yields,
)

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
    check_plain(function, where)
    if yields(function):
        message = f"{where}: it yields; it must return the body to send"
        raise UsageError(message)
    check_arguments(function, where)
    is_async = suspends(function)
    return Recurrence(
        name=check_name(called if name is None else name, f"{where}: name"),
        queue=queue,
        function=function if is_async else returning(function, "every"),
        is_async=is_async,
        timing=timing_of(spec, tz, where),
        missed=check_missed(missed, where),
    )
