"""Replay: the history of a topic, or what a queue keeps, page by page, beside everybody who reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from millstream.codec import NotDecodable
from millstream.declare import Queue
from millstream.errors import UsageError
from millstream.message import Message, time_of
from millstream.message_id import check_id
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.op import Command, Op, load_script
from millstream.protocol.options import ms_of
from millstream.protocol.partitions import bare_id, public_id
from millstream.topic import Topic

__all__ = ["Entry", "Page", "Pages", "Span", "message", "order_of", "span"]

_REPLAY = load_script("replay")

Entry = tuple[bytes, Sequence[bytes]]
"""Id and fields."""

FIRST_PAGE = 16
LARGEST_PAGE = 1000
PAGE_BYTES = 256 * 1024
"""About what a page may have: it is in memory, with the one that is asked for meanwhile."""

LOOKED_AT = 2000
"""Bounds the time that one call with a filter keeps the server busy: about two milliseconds."""

SAMPLE = 16

NO_ID = "0-0"

PLAIN = 2
"""Name and value of one field."""

NO_HEADERS: Mapping[str, str] = {}


class Span(msgspec.Struct, frozen=True):
    """A part of a stream, with the bounds as XRANGE takes them."""

    first: str
    last: str


class Page(msgspec.Struct, frozen=True):
    """Some entries, and where the next page begins; None: nowhere."""

    entries: Sequence[Entry]
    start: str | bytes | None


def span(since: datetime | str | None, until: datetime | str | None, partition: int) -> Span:
    """Say which entries of a partition somebody wants.

    Args:
        since: from this time on, or from the message with this id on; None: from the first.
        until: before this time, or up to the message with this id; None: to the last.
        partition: whose ids are meant where they name another one: all ids are in one order.

    Raises:
        UsageError: one of them is neither a time with a zone nor an id.
    """
    first, last = "-", "+"
    if since is not None:
        at, number = _place(since, "since")
        first = at if number <= partition else f"({at}"
    if until is not None:
        at, number = _place(until, "until")
        inclusive = isinstance(until, str) and partition <= number
        # No entry is the first possible one, and nothing is before it.
        last = at if inclusive or at == NO_ID else f"({at}"
    return Span(first, last)


def _place(moment: object, name: str) -> tuple[str, int]:
    """Return the id of an entry, and its partition."""
    if isinstance(moment, datetime):
        return f"{ms_of(moment, name)}-0", 0
    if not isinstance(moment, str):
        message = f"{name} must be a datetime or the id of a message, not {moment!r}"
        raise UsageError(message)
    return bare_id(check_id(moment, name))


class Pages:
    """The pages of a stream, one after the other. It ends with what was there at the beginning.

    Args:
        stream: key of the stream.
        span: which part of it.
        filter: only entries whose subject matches.
        limit: of them at most.
        share: the part of the memory for pages that this stream may use, up to 1.
    """

    def __init__(
        self,
        stream: str,
        span: Span,
        *,
        filter: str | None = None,  # noqa: A002 - the field's word
        limit: int | None = None,
        share: float = 1,
    ) -> None:
        self._stream = stream
        self._start: str | bytes = span.first
        self._last: str | bytes = span.last
        self._filter = filter
        self._left = limit
        self._bytes = PAGE_BYTES * share
        self._size = FIRST_PAGE

    def end(self) -> Op[bool]:
        """See where the last entry is: it ends there; the result is whether there is any.

        Who reads as fast as others write would never come to an end.
        """
        command = Command(("XREVRANGE", self._stream, self._last, self._start, "COUNT", 1))

        def decode(replies: list[Any]) -> bool:
            if replies[0]:
                self._last = replies[0][0][0]
            return bool(replies[0])

        return Op((command,), decode, readonly=True)

    def ask(self) -> Op[Page]:
        """Ask for the next page."""
        most = self._size if self._left is None else min(self._size, self._left)
        if self._filter is not None:
            arguments = [self._start, self._last, self._filter, most, LOOKED_AT]
            command = _REPLAY.call([self._stream], arguments)
            return Op((command,), decode=_filtered, readonly=True)
        command = Command(("XRANGE", self._stream, self._start, self._last, "COUNT", most))

        def decode(replies: list[Any]) -> Page:
            entries = replies[0]
            # Retention deletes from the front: a short page is the last one, all the same.
            start = b"(" + entries[-1][0] if len(entries) == most else None
            return Page(entries, start)

        return Op((command,), decode, readonly=True)

    def turn(self, page: Page) -> bool:
        """Go on behind a page; the result is whether there may be more."""
        entries = page.entries
        if self._left is not None:
            self._left -= len(entries)
        if page.start is None or self._left == 0:
            return False
        self._start = page.start
        if entries:
            sample = entries[:: max(1, len(entries) // SAMPLE)]
            size = sum(len(part) for _, fields in sample for part in fields) / len(sample) + 1
            self._size = max(1, min(LARGEST_PAGE, 8 * self._size, int(self._bytes / size)))
        return True


def _filtered(replies: list[Any]) -> Page:
    entries, start = replies[0]
    return Page(entries, start or None)


def message(source: Topic[Any] | Queue[Any], partition: int, entry: Entry) -> Message:
    """Return an entry of a topic's log, or of what a queue keeps, as a message.

    Raises:
        Undecodable: it is no message, or its body does not fit the declared type.
    """
    id, fields = entry
    # Most messages are a body and nothing else, and there may be millions.
    if len(fields) == PLAIN and fields[0] == b"b" and not partition:
        try:
            body = source.codec.decode(fields[1])
        except NotDecodable:
            pass
        else:
            return Message(id=id.decode(), body=body, headers=NO_HEADERS)
    envelope = Envelope(id, fields)
    body = read_body(envelope, source.codec.decode, source, partition)
    state = envelope.state
    return Message(
        id=public_id(state.id, partition),
        body=body,
        headers=envelope.headers,
        attempts=state.attempts,
        crashes=state.crashes,
        key=envelope.key,
        subject=envelope.subject,
        priority=envelope.priority,
        handled_at=time_of(id.decode()) if isinstance(source, Queue) else None,
    )


def order_of(partition: int, entry: Entry) -> tuple[int, int, int]:
    """Return what sorts the entries of all partitions by the time at which they came."""
    ms, _, number = entry[0].partition(b"-")
    return int(ms), int(number), partition
