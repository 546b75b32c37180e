"""Sending: one script call a batch, stored once however often it is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Op, load_script

__all__ = ["chunks", "receipts", "send"]

_SEND = load_script("send")

CHUNK_MESSAGES = 500
CHUNK_BYTES = 512 * 1024
"""Bounds of a batch. Beyond some hundred messages a larger one is no faster."""

REMEMBERED_MS = 600_000
"""How long a batch is recognised when it is repeated: far longer than any driver goes on."""


def send(
    keys: QueueKeys,
    producer: str,
    number: int,
    bodies: Sequence[bytes],
    headers: Sequence[bytes] | None = None,
) -> Op[bytes]:
    """Append a batch of messages; the result is the id of the first.

    Args:
        keys: of the queue.
        producer: who sends; it has one batch on the wire at a time.
        number: of the batch; a repeated one stores nothing and returns its first result.
        bodies: at least one.
        headers: encoded, one for each body, empty where there are none; None: nowhere any.

    Guarantee: the messages are stored together, in this order, once.
    """
    arguments: list[Argument] = [number, REMEMBERED_MS]
    if headers is None:
        arguments += ["b", *bodies]
    else:
        arguments.append("bh")
        for pair in zip(bodies, headers, strict=True):
            arguments += pair
    command = _SEND.call([keys.ready, keys.counters, keys.producer(producer)], arguments)
    return Op((command,), decode=_first)


def _first(replies: Sequence[bytes]) -> bytes:
    return replies[0]


def receipts(prefix: str, first: int, count: int) -> list[Receipt]:
    """Return the receipts of a batch, whose ids follow one another.

    Args:
        prefix: the milliseconds of their ids, with the dash.
        first: sequence number of the first.
        count: how many.
    """
    return [Receipt(f"{prefix}{number}") for number in range(first, first + count)]


def chunks(
    bodies: Sequence[bytes], headers: Sequence[bytes] | None
) -> Iterator[tuple[Sequence[bytes], Sequence[bytes] | None]]:
    """Divide many messages into batches that keep the server busy for about a millisecond."""
    start = 0
    size = 0
    for index, body in enumerate(bodies):
        size += len(body) + (len(headers[index]) if headers else 0)
        if index + 1 - start == CHUNK_MESSAGES or size >= CHUNK_BYTES:
            yield bodies[start : index + 1], headers and headers[start : index + 1]
            start, size = index + 1, 0
    if start < len(bodies):
        yield bodies[start:], headers and headers[start:]
