"""What a sender may ask for beside the body: checked, and turned into a placement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict

from millstream.checks import check_options
from millstream.declare import Queue
from millstream.errors import UsageError
from millstream.policy import Duration, milliseconds
from millstream.protocol.place import Placement

__all__ = [
    "SendManyOptions",
    "SendOptions",
    "check_for_many",
    "check_key",
    "ms_of",
    "placement",
    "time_argument",
]

HIGHEST_PRIORITY = 9

# It becomes part of a member of a sorted set, after which a zero byte stands, and of a key's name.
_KEY = re.compile(r"[^\x00\ud800-\udfff]{1,500}")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class SendManyOptions(TypedDict, total=False):
    """What may be asked for many messages at once; see ``Client.send``."""

    delay: Duration | None
    at: datetime | None
    priority: int
    ttl: Duration | None


class SendOptions(SendManyOptions, total=False):
    """What may be asked for one message; see ``Client.send``."""

    key: str | None
    unique: str | None
    unique_for: Literal["done", "started"] | Duration


def check_for_many(options: Mapping[str, object]) -> None:
    """Refuse what there is not, and what no two messages can share: all but the first would vanish.

    Raises:
        UsageError: it names the option.
        TypeError: there is no such option.
    """
    for name in ("unique", "unique_for"):
        if name in options:
            message = f"{name} is for one message: call send for each, send_many does not take it"
            raise UsageError(message)
    check_options("send_many", options, SendManyOptions.__optional_keys__)


def placement(  # noqa: PLR0913 - the options of a send
    queue: Queue[Any],
    body: bytes,
    headers: bytes,
    *,
    delay: Duration | None = None,
    at: datetime | None = None,
    key: str | None = None,
    priority: int = 0,
    unique: str | None = None,
    unique_for: Literal["done", "started"] | Duration | None = None,
    ttl: Duration | None = None,
    result: bool = False,
) -> Placement:
    """Say where a message belongs.

    Raises:
        UsageError: an option makes no sense; it names the option.
    """
    if (
        not isinstance(priority, int)
        or isinstance(priority, bool)
        or not 0 <= priority <= HIGHEST_PRIORITY
    ):
        message = f"priority must be a whole number from 0 (normal) to {HIGHEST_PRIORITY}, not {priority!r}"
        raise UsageError(message)
    if queue.store == "list":
        _check_for_list(queue, priority, unique)
    if unique_for is not None and unique is None:
        message = "unique_for needs a unique key: pass unique= as well"
        raise UsageError(message)
    return Placement(
        body=body,
        headers=headers,
        key="" if key is None else check_key(key),
        gate=_gate(queue) if key is not None else "",
        priority=priority,
        time="" if delay is None and at is None else time_argument(delay=delay, at=at),
        ttl="" if ttl is None else _ttl(queue, ttl, delay),
        unique="" if unique is None else check_key(unique, "unique"),
        unique_for=_unique_for(unique_for),
        result_ms=_result_ms(queue) if result else 0,
    )


def _check_for_list(queue: Queue[Any], priority: int, unique: str | None) -> None:
    if priority:
        message = (
            f"queue {queue.name!r}: priority={priority} needs a stream queue: a list hands out messages "
            "in the order in which they came"
        )
        raise UsageError(message)
    if unique is not None:
        message = (
            f"queue {queue.name!r}: unique needs a stream queue: whoever pushes to a list by other "
            "means would not see the key"
        )
        raise UsageError(message)


def time_argument(*, delay: Duration | None, at: datetime | None) -> str:
    """Return a time as the scripts take it: ``+`` and a delay in ms, or the ms since 1970.

    Raises:
        UsageError: both or none are given, the delay is negative, or the time has no zone.
    """
    if (delay is None) == (at is None):
        which = "one of them" if delay is None else "not both"
        message = f"pass delay (seconds from now) or at (a time), {which}"
        raise UsageError(message)
    if delay is not None:
        return f"+{milliseconds(delay, 'delay')}"
    if not isinstance(at, datetime):
        message = f"at must be a datetime, not {at!r}"
        raise UsageError(message)
    return str(ms_of(at, "at"))


def ms_of(time: datetime, name: str) -> int:
    """Return the first whole ms since 1970 that is not before a time.

    Args:
        time: a time before 1970 is as much in the past as any other.
        name: the parameter's name, for the error.

    Raises:
        UsageError: it has no zone.
    """
    if time.utcoffset() is None:
        message = f"{name} must have a time zone, or nobody knows when {time.isoformat()} is: pass for example datetime.now(UTC) + ..."
        raise UsageError(message)
    return max(0, -((_EPOCH - time) // _MILLISECOND))


def check_key(text: object, name: str = "key") -> str:
    """Return a key.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(text, str) or not _KEY.fullmatch(text):
        message = f"{name} must be a text of 1 to 500 characters without zero bytes, not {text!r}"
        raise UsageError(message)
    return text


def _gate(queue: Queue[Any]) -> str:
    if queue.ordered:
        return "ordered"
    return "" if queue.max_running_per_key is None else str(queue.max_running_per_key)


def _result_ms(queue: Queue[Any]) -> int:
    if queue.results is None:
        message = (
            f"queue {queue.name!r}: result=True needs a queue that keeps results: declare it with "
            "results=ms.Results()"
        )
        raise UsageError(message)
    return queue.results.keep_ms


def _ttl(queue: Queue[Any], ttl: Duration, delay: Duration | None) -> str:
    lives = milliseconds(ttl, "ttl", minimum=0.001)
    if delay is not None and milliseconds(delay, "delay") >= lives:
        message = f"ttl ({ttl!r}) must be longer than delay ({delay!r}), or the message expires before it is due"
        raise UsageError(message)
    return f"{lives} drop" if queue.expired == "drop" else str(lives)


def _unique_for(unique_for: Literal["done", "started"] | Duration | None) -> str:
    if unique_for is None:
        return "done"
    if isinstance(unique_for, str):
        if unique_for not in ("done", "started"):
            message = f"unique_for must be 'done', 'started' or seconds, not {unique_for!r}"
            raise UsageError(message)
        return unique_for
    return f"window:{milliseconds(unique_for, 'unique_for', minimum=0.001)}"
