"""Messages and dead letters as people see them: decoded where that is possible."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millstream.codec import NotDecodable
from millstream.message import LAST_MS, DeadLetter, InFlight, Message
from millstream.protocol.envelope import Envelope
from millstream.protocol.partitions import public_id
from millstream.topic import Source

__all__ = ["dead_letter", "in_flight", "message"]


def message(queue: Source[Any], partition: int, envelope: Envelope, due: int | None) -> Message:
    """Return an entry of a lane or of the delayed messages; due: its time in ms, if it has one."""
    state = envelope.state
    return Message(
        id=public_id(state.id, partition),
        body=_readable(queue, envelope),
        headers=envelope.headers,
        attempts=state.attempts,
        crashes=state.crashes,
        due=None if due is None else _time(due),
        key=envelope.key,
        subject=envelope.subject,
        priority=envelope.priority,
        expires=None if envelope.expiry is None else _time(envelope.expiry),
    )


def in_flight(
    queue: Source[Any], partition: int, envelope: Envelope, consumer: str, idle_ms: int
) -> InFlight:
    """Return what a consumer has in hand; idle_ms: how much of the lease is used up."""
    state = envelope.state
    return InFlight(
        id=public_id(state.id, partition),
        body=_readable(queue, envelope),
        headers=envelope.headers,
        # In each partition a worker's name has more behind it.
        consumer=consumer.partition("/")[0],
        idle=idle_ms / 1000,
        attempts=state.attempts,
        crashes=state.crashes,
        key=envelope.key,
        subject=envelope.subject,
        priority=envelope.priority,
    )


def dead_letter(queue: Source[Any], partition: int, envelope: Envelope) -> DeadLetter:
    """Return an entry of the dead letters."""
    state = envelope.state
    return DeadLetter(
        id=public_id(state.id, partition),
        body=_readable(queue, envelope),
        headers=envelope.headers,
        reason=state.reason,
        error=state.error,
        traceback=state.traceback,
        attempts=state.attempts,
        crashes=state.crashes,
        died_at=datetime.fromtimestamp(state.at / 1000, UTC),
        cursor=public_id(envelope.token.decode(), partition),
        key=envelope.key,
        subject=envelope.subject,
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(min(milliseconds, LAST_MS) / 1000, UTC)


def _readable(queue: Source[Any], envelope: Envelope) -> Any:
    """Decode a body for people: one that does not fit is shown as it is."""
    data = envelope.body
    if data is None:
        return None
    try:
        return queue.codec.decode(data)
    except NotDecodable:
        return data
