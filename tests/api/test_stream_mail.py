"""What a caller makes of the mail of a stream, whoever has written it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.support.mail import EXPIRY, Correspondent
from tests.support.wait import auntil
from tests.worker.running import PATIENCE

ASKED: ms.Endpoint[Any, Any] = ms.Endpoint("asked", timeout=PATIENCE)


class Producer(Correspondent):
    """Serves `ASKED`, and sends what a test likes."""

    def __init__(self, admin: redis.Redis, namespace: str) -> None:
        super().__init__(admin, namespace, "first")
        self.second = Correspondent(admin, namespace, "second")
        self.keys = queue_keys(namespace, ASKED.name)
        self.admin.zadd(self.keys.members, {"by-hand": 2**50})
        self.admin.expire(self.keys.members, EXPIRY)
        self.caller = ""

    async def asked(self) -> str:
        """Wait for a request; the result is what it says of the stream."""
        entries: Any = await auntil(lambda: self.admin.xrange(self.keys.ready), PATIENCE)
        client, slot, *words = entries[-1][1][b"r"].decode().split()
        self.caller = f"{client} {slot}"
        return " ".join(words)

    def send(self, kind: str, number: Any, content: bytes = b"", sender: str = "first 1") -> None:
        """Write to the caller."""
        more = {"w": sender} if sender else {}
        self.write(self.caller, kind, content or str(number).encode(), n=number, **more)


@pytest.fixture
def producer(admin: redis.Redis, namespace: str) -> Producer:
    """Who answers, by hand."""
    return Producer(admin, namespace)


async def taking(parts: AsyncGenerator[Any, None], taken: list[Any]) -> None:
    """Take all parts."""
    async with asyncio.timeout(PATIENCE), aclosing(parts):
        async for part in parts:
            taken.append(part)  # noqa: PERF401 - what came before an error is kept


async def test_half_a_window_is_told(mq: ms.AsyncClient, producer: Producer) -> None:
    """The request says its window; what was taken is told after half of it, and when the producer asks."""
    taken: list[Any] = []
    task = asyncio.create_task(taking(mq.request_stream(ASKED, 1, window=6), taken))
    assert await producer.asked() == "stream=6"
    for number in range(1, 6):
        producer.send("part", number)
    (told,) = await producer.gets("taken", 1)
    assert told == {b"taken": b"3", b"c": b"1"}
    producer.send("waiting", 6)
    assert (await producer.gets("taken", 2))[1] == {b"taken": b"5", b"c": b"1"}
    producer.send("end", 6)
    await task
    assert taken == [1, 2, 3, 4, 5]
    assert producer.of("cancel") == []


async def test_what_comes_twice(mq: ms.AsyncClient, producer: Producer) -> None:
    """Repetitions, what is of no known kind, and what has no number or no sender, are passed over."""
    taken: list[Any] = []
    task = asyncio.create_task(taking(mq.request_stream(ASKED, 1), taken))
    await producer.asked()
    for number in (1, 2, 1, 2, 3, 1):
        producer.send("part", number)
    producer.send("part", 4, sender="")
    producer.send("end", 4, sender="")
    producer.send("part", "x")
    producer.send("part", "-1")
    producer.send("note", 4)
    producer.send("unheard-of", 4)
    producer.send("waiting", 2)
    producer.send("end", 2)
    producer.send("part", 4)
    producer.send("end", 5)
    await task
    assert taken == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["part", "end", "error", "lost", "waiting"])
async def test_a_gap(mq: ms.AsyncClient, producer: Producer, kind: str) -> None:
    """Whatever shows that a part is missing ends the stream there, and the producer is told to stop."""
    taken: list[Any] = []
    task = asyncio.create_task(taking(mq.request_stream(ASKED, 1), taken))
    await producer.asked()
    producer.send("part", 1)
    producer.send(kind, 3)
    with pytest.raises(ms.ResponderLost) as caught:
        await task
    assert (caught.value.reason, taken) == ("unknown", [1])
    await auntil(lambda: producer.of("cancel"), PATIENCE)


@pytest.mark.parametrize("kind", ["part", "end", "waiting", "reply", "error"])
async def test_another_producer(mq: ms.AsyncClient, producer: Producer, kind: str) -> None:
    """When another one begins after parts were taken, the stream is broken, and nobody goes on with it."""
    taken: list[Any] = []
    task = asyncio.create_task(taking(mq.request_stream(ASKED, 1), taken))
    await producer.asked()
    producer.send("part", 1)
    producer.send("part", 2)
    alone = kind in {"reply", "error"}
    producer.send(kind, 1, sender="" if alone else "second 5")
    with pytest.raises(ms.ResponderLost) as caught:
        await task
    assert (caught.value.reason, taken) == ("crashed", [1, 2])
    if not alone:
        await auntil(lambda: producer.second.of("cancel"), PATIENCE)
        assert producer.second.of("cancel")[0][b"c"] == b"5"


async def test_another_producer_from_the_start(mq: ms.AsyncClient, producer: Producer) -> None:
    """When nothing was taken of the first one, the caller does not notice."""
    taken: list[Any] = []
    task = asyncio.create_task(taking(mq.request_stream(ASKED, 1), taken))
    await producer.asked()
    producer.send("waiting", 1)
    producer.send("part", 1, sender="second 5")
    producer.send("end", 2, sender="second 5")
    await task
    assert taken == [1]


async def test_a_producer_that_begins_too_late(mq: ms.AsyncClient, producer: Producer) -> None:
    """When its caller has left, it is told to stop as soon as something comes from it."""
    with pytest.raises(ms.TimedOut):
        await taking(mq.request_stream(ASKED, 1, timeout=1), [])
    # As one that had it nevertheless.
    for slot in (1, 2):
        producer.caller = f"{mq.requests.mailbox.client} {slot}"
        producer.send("part", 1, sender="second 5")
    await auntil(lambda: producer.second.of("cancel"), PATIENCE)


@pytest.mark.parametrize("sender", ["nobody", "no body 1", "nobody x", "nobody 1", " ", "é 1"])
async def test_senders_that_are_nobody(mq: ms.AsyncClient, producer: Producer, sender: str) -> None:
    """Who has no mailbox is told nothing; its parts are parts."""
    taken: list[Any] = []
    task = asyncio.create_task(taking(mq.request_stream(ASKED, 1, window=2), taken))
    await producer.asked()
    producer.send("part", 1, sender=sender)
    producer.send("part", 2, sender=sender)
    producer.send("end", 3, sender=sender)
    await task
    assert taken == [1, 2]


async def test_what_ends_a_stream(mq: ms.AsyncClient, producer: Producer) -> None:
    """A word of loss has its reason, and an error that cannot be read is one."""
    for kind, content, expected in (
        ("lost", b"stopped", ms.ResponderLost),
        ("error", b"{", ms.DeliveryError),
        ("part", b"{", ms.Undecodable),
    ):
        taken: list[Any] = []
        task = asyncio.create_task(taking(mq.request_stream(ASKED, 1), taken))
        await producer.asked()
        producer.admin.delete(producer.keys.ready)
        producer.send("part", 1)
        producer.send(kind, 2, content)
        with pytest.raises(expected) as caught:
            await task
        assert taken == [1]
        if isinstance(caught.value, ms.ResponderLost):
            assert caught.value.reason == "stopped"


async def test_a_slow_caller_of_a_request_that_is_gone(
    mq: ms.AsyncClient, producer: Producer
) -> None:
    """It takes what is there, and hears once that there is no more; nothing gathers meanwhile."""
    async with asyncio.timeout(PATIENCE), aclosing(mq.request_stream(ASKED, 1)) as parts:
        first = asyncio.ensure_future(anext(parts))
        await producer.asked()
        producer.send("part", 1)
        producer.send("part", 2)
        assert await first == 1
        (pending,) = mq.requests._pending.values()
        producer.admin.delete(producer.keys.ready)
        await auntil(lambda: pending.told, PATIENCE)
        assert pending.looks == 2
        assert await anext(parts) == 2
        with pytest.raises(ms.ResponderLost) as caught:
            await anext(parts)
        assert caught.value.reason == "unknown"
