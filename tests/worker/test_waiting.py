"""What waits in a worker: what is over leaves, and the rest keeps its order and its time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from millstream.protocol.envelope import Envelope
from millstream.worker.waiting import Batches, Singles
from tests.support.wait import auntil

PATIENCE = 20.0


def some(*tokens: bytes) -> list[Envelope]:
    return [Envelope(token, [b"b", b"1"]) for token in tokens]


def tokens(envelopes: Sequence[Envelope]) -> list[bytes]:
    return [one.token for one in envelopes]


def test_single_messages() -> None:
    """Those that are named leave; others are no matter."""
    waiting = Singles()
    waiting.add(some(b"1-0", b"2-0", b"f3-0", b"4-0"))
    waiting.forget([b"2-0", b"9-0"])
    assert tokens(waiting.messages) == [b"f3-0", b"1-0", b"4-0"]
    waiting.forget([b"9-0"])
    assert waiting.take().token == b"f3-0"


async def test_batches() -> None:
    """The rest is no full batch any more, and begins when its first has waited, not later."""
    due = asyncio.Event()
    waiting = Batches(3, 1.0, due.set)
    waiting.add(some(b"s1-0", b"s2-0", b"1-0", b"2-0", b"3-0"))
    assert len(waiting) == 3

    waiting.forget([b"s1-0", b"2-0", b"9-0"])

    assert tokens(waiting.take()) == [b"s2-0"]
    assert len(waiting) == 0
    async with asyncio.timeout(PATIENCE):
        await due.wait()
    assert tokens(waiting.take()) == [b"1-0", b"3-0"]


async def test_a_batch_whose_time_is_over() -> None:
    """Who begins with it is told, also if nobody could be when its time came."""
    told: list[None] = []
    waiting = Batches(3, 0.0, lambda: told.append(None))
    waiting.add(some(b"1-0", b"2-0"))
    waiting.forget([b"1-0"])
    await auntil(lambda: told, PATIENCE)
    assert tokens(waiting.take()) == [b"2-0"]
