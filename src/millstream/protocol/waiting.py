"""Messages that nobody has read yet: cancel one, or give it another time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millstream.errors import NotConnected, TimedOut, UsageError
from millstream.protocol import lists
from millstream.protocol.keys import LANES, QueueKeys
from millstream.protocol.op import Op, Plan, Script, load_script

__all__ = ["cancel", "find", "reschedule"]

_CANCEL = load_script("cancel")
_RESCHEDULE = load_script("reschedule")
_FIND = load_script("find")

ENTRIES_A_CALL = 1000
"""Bounds the time that one call keeps the server busy: about a millisecond."""


def find(keys: QueueKeys, message_id: str) -> Plan[str | None]:
    """Look through the lanes for a message that has been moved, read or not; return its token.

    It looks at every entry, some a call; messages that move meanwhile may be missed.
    """
    # What was handed back first: these lanes are short.
    for prefix in sorted(LANES, reverse=True):
        # No message has moved to where it stands in a topic's log.
        start = "" if keys.subscription and not prefix else "-"
        while start:
            command = _FIND.call([keys.lane(prefix)], [message_id, start, ENTRIES_A_CALL])
            entry, following = yield Op((command,), decode=_first)
            if entry:
                return f"{prefix}{entry.decode()}"
            start = following.decode()
    return None


def cancel(keys: QueueKeys, message_id: str, *, now_ms: int | None = None) -> Plan[bool]:
    """Delete a message that nobody has read; the result is whether it was there."""
    if keys.store == "list":
        return (yield from lists.cancel(keys, message_id, now_ms=now_ms))
    try:
        return (
            yield from _wherever(_CANCEL, keys, message_id, [_time(now_ms), 0], repeatable=False)
        )
    except (NotConnected, TimedOut):
        # Repeated as it is, it would not find what it has deleted.
        return (yield from _wherever(_CANCEL, keys, message_id, [_time(now_ms), 1]))


def reschedule(
    keys: QueueKeys, message_id: str, time: str, *, now_ms: int | None = None
) -> Plan[bool]:
    """Give a message that nobody has read another time; the result is whether it was there.

    Args:
        keys: of the queue.
        message_id: which message.
        time: ``+`` and a delay in ms, or the ms since 1970.
        now_ms: the time, for tests; None: the server's clock.
    """
    if keys.store == "list":
        return lists.reschedule(keys, message_id, time, now_ms=now_ms)
    return _wherever(_RESCHEDULE, keys, message_id, [_time(now_ms), time])


def _wherever(
    script: Script,
    keys: QueueKeys,
    message_id: str,
    arguments: Sequence[str | int],
    *,
    repeatable: bool = True,
) -> Plan[bool]:
    token: str | None = ""
    while token is not None:
        line = keys.queueing if script is _CANCEL else ()
        command = script.call([*keys.common, *line], [keys.group, message_id, token, *arguments])
        done: int = yield Op((command,), decode=_first, repeatable=repeatable)
        if done < 0:
            message = (
                f"message {message_id} waits in the log of topic {keys.name!r}, which other "
                f"subscriptions read, too: it cannot be taken out for {keys.subscription!r}. What "
                "is in flight, or waits for another try, can be cancelled"
            )
            raise UsageError(message)
        if done or token:
            return bool(done)
        # Not where a message is that was never moved.
        token = yield from find(keys, message_id)
    return False


def _time(now_ms: int | None) -> int | str:
    return "" if now_ms is None else now_ms


def _first(replies: list[Any]) -> Any:
    return replies[0]
