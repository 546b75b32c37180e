"""Sending: one script call a batch, stored once however often it is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from functools import partial
from typing import Any, TypeVar

from millstream.errors import MillstreamError
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Op, load_script

__all__ = ["REMEMBERED_MS", "Batch", "chunks", "in_a_row", "plain", "send", "sending"]

R = TypeVar("R")
S = TypeVar("S", bound=Sized)

_SEND = load_script("send")
_SEND_LIST = load_script("list_send")

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
) -> Op[list[Receipt]]:
    """Append a batch of messages; the result is their receipts, in order.

    Args:
        keys: of the queue.
        producer: who sends; it has one batch on the wire at a time.
        number: of the batch; a repeated one stores nothing and returns its first result.
        bodies: at least one.
        headers: encoded, one for each body, empty where there are none; None: nowhere any.

    Guarantee: the messages are stored together, in this order, once.
    """
    arguments = [number, REMEMBERED_MS, *plain(bodies, headers)]
    script = _SEND_LIST if keys.store == "list" else _SEND
    command = script.call([keys.ready, keys.counters, keys.producer(producer)], arguments)
    return Op((command,), partial(in_a_row, len(bodies)))


def plain(bodies: Sequence[bytes], headers: Sequence[bytes] | None) -> list[Argument]:
    """Return messages as the scripts take them, with the word that says how."""
    if headers is None:
        return ["b", *bodies]
    arguments: list[Argument] = ["bh"]
    for pair in zip(bodies, headers, strict=True):
        arguments += pair
    return arguments


def in_a_row(count: int, replies: Sequence[bytes]) -> list[Receipt]:
    """Return the receipts of messages whose ids follow the first one's."""
    if count == 1:
        return [Receipt(replies[0].decode())]
    milliseconds, _, sequence = replies[0].decode().partition("-")
    first = int(sequence)
    prefix = f"{milliseconds}-"
    return [Receipt(f"{prefix}{number}") for number in range(first, first + count)]


Batch = Callable[
    [str, int, Sequence[Any], Sequence[bytes] | None], Op[Sequence[R | MillstreamError]]
]
"""Makes the operation that sends a batch: of which producer, its number, messages, their headers.

Its result tells what came of each message."""


def sending(keys: QueueKeys) -> Batch[Receipt]:
    """Return how a queue's plain messages are sent."""
    return partial(send, keys)


def chunks(
    messages: Sequence[S], headers: Sequence[bytes] | None
) -> Iterator[tuple[Sequence[S], Sequence[bytes] | None]]:
    """Divide many messages into batches that keep the server busy for about a millisecond.

    Args:
        messages: bodies, or whatever tells its size in bytes by ``len``.
        headers: of each, or None.
    """
    few = 0 < len(messages) <= CHUNK_MESSAGES
    if few and headers is None and sum(map(len, messages)) < CHUNK_BYTES:
        # As nearly all are. A copy: the caller takes out of its list what it sends.
        yield messages[:], None
        return
    start = 0
    size = 0
    for index, message in enumerate(messages):
        size += len(message) + (len(headers[index]) if headers else 0)
        if index + 1 - start == CHUNK_MESSAGES or size >= CHUNK_BYTES:
            yield messages[start : index + 1], headers and headers[start : index + 1]
            start, size = index + 1, 0
    if start < len(messages):
        yield messages[start:], headers and headers[start:]
