"""A worker that streams replies: what it sends to whom, and when its generators end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.requests import Address
from millstream.worker.streaming import open_stream
from tests.support.mail import Correspondent
from tests.support.served import serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, running

COUNT: ms.Endpoint[int, int] = ms.Endpoint("count", int, int, timeout=PATIENCE)
DONE = (0, 0, 0, 0)


@pytest.fixture
def caller(admin: redis.Redis, namespace: str) -> Correspondent:
    """A caller that does nothing by itself."""
    return Correspondent(admin, namespace)


def count_on(worker: ms.Worker, endpoint: ms.Endpoint[int, int] = COUNT) -> list[str]:
    """Have the worker count; the result tells when a generator was closed."""
    closed: list[str] = []

    @worker.on(endpoint)
    async def count(most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                yield number
        finally:
            closed.append("closed")

    return closed


def ask(mq: ms.AsyncClient, caller: Correspondent, most: int, words: str) -> None:
    """Send a request as any client would."""
    ready = mq.keys_of(COUNT.queue).ready
    caller.admin.xadd(ready, {"b": str(most), "r": f"{caller.client} 7{words}"})


# --- what is on the wire ------------------------------------------------------------------------


async def test_the_mail_of_a_stream(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent
) -> None:
    """Parts have numbers from 1, the end has the next one, and all say where to answer."""
    count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 3, " stream=8")
        (end,) = await caller.gets("end", 1)
    sender = end[b"w"]
    client, slot = sender.split(b" ")
    assert client
    assert slot.isdigit()
    expected = [
        {b"part": str(number - 1).encode(), b"c": b"7", b"n": str(number).encode(), b"w": sender}
        for number in (1, 2, 3)
    ]
    assert caller.mail == [*expected, {b"end": b"", b"c": b"7", b"n": b"4", b"w": sender}]


async def test_a_window_and_what_was_taken(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent
) -> None:
    """The worker sends a window of parts, then as many as were taken; senseless counts give no room."""
    count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 20, " stream=4")
        sender = (await caller.gets("part", 4))[0][b"w"].decode()
        for content in (b"x", b"", b"-3", b"0", b"9" * 30, "٣".encode()):
            caller.write(sender, "taken", content)
        caller.write(sender, "unheard-of", b"20")
        caller.write(sender, "taken", b"3")
        await caller.gets("part", 7)
        # An old count that comes late, and one that is more than was sent.
        caller.write(sender, "taken", b"1")
        caller.write(sender, "taken", b"1000")
        for sent, taken in ((11, b"11"), (15, b"15"), (19, b"19")):
            await caller.gets("part", sent)
            caller.write(sender, "taken", taken)
        (end,) = await caller.gets("end", 1)
        assert end[b"n"] == b"21"
        await becomes(mq, COUNT.queue, DONE)


async def test_a_worker_that_has_waited_for_long_asks(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent
) -> None:
    """What its caller has said may be lost: a caller that says it again has the rest."""
    count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 4, " stream=2")
        await auntil(lambda: caller.of("waiting"), PATIENCE)
        waiting = caller.of("waiting")[0]
        assert (waiting[b"n"], len(caller.of("part"))) == (b"3", 2)
        caller.write(waiting[b"w"].decode(), "taken", b"2")
        await caller.gets("part", 4)
        caller.write(waiting[b"w"].decode(), "taken", b"4")
        await caller.gets("end", 1)


async def test_a_caller_that_is_gone(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent
) -> None:
    """When its mailbox is not there any more, the generator is closed and the request settled."""
    closed = count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 20, " stream=4")
        await caller.gets("part", 4)
        caller.admin.delete(caller.key)
        await auntil(lambda: closed, PATIENCE)
        await becomes(mq, COUNT.queue, DONE)
        assert not caller.admin.exists(caller.key)


async def test_a_caller_that_cancels(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent
) -> None:
    """The generator that waits for room is closed, and nothing more is sent."""
    closed = count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 20, " stream=4")
        sender = (await caller.gets("part", 4))[0][b"w"].decode()
        caller.write(sender, "cancel")
        caller.write(sender, "cancel")
        await auntil(lambda: closed, PATIENCE)
        await becomes(mq, COUNT.queue, DONE)
        caller.write(sender, "taken", b"4")
        ask(mq, caller, 0, " stream=4")
        await caller.gets("end", 1)
    assert len(caller.of("part")) == 4


@pytest.mark.parametrize("address", ["", "by-hand", "by-hand x stream=4", "by-hand 7x"])
async def test_nobody_waits(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent, address: str
) -> None:
    """A request without an address that is one runs to its end, and its parts are dropped."""
    closed = count_on(worker)
    async with running(worker, mq):
        caller.admin.xadd(mq.keys_of(COUNT.queue).ready, {"b": "50", "r": address})
        await auntil(lambda: closed, PATIENCE)
        await becomes(mq, COUNT.queue, DONE)
    assert caller.mail == []


@pytest.mark.parametrize("words", ["", " stream=0", " stream=x", " stream", " progress"])
async def test_one_reply_is_wanted(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent, words: str
) -> None:
    """Without a window the reply is an error, and the generator does not run."""
    closed = count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 5, words)
        (error,) = await caller.gets("error", 1)
    assert b"ask it by request_stream" in error[b"error"]
    assert closed == []


async def test_callers_that_ask_for_very_much(
    mq: ms.AsyncClient, worker: ms.Worker, caller: Correspondent
) -> None:
    """A window beyond all bounds is brought within them."""
    count_on(worker)
    async with running(worker, mq):
        ask(mq, caller, 10_050, " stream=999999999")
        parts = await caller.gets("part", 10_000)
        caller.write(parts[0][b"w"].decode(), "cancel")
        await becomes(mq, COUNT.queue, DONE)


# --- the worker's own business ------------------------------------------------------------------


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_worker_that_stops(
    mq: ms.AsyncClient, other: ms.AsyncClient, in_thread: bool, idempotent: bool
) -> None:
    """Its callers hear that it was stopped, behind the parts before it; generators are closed."""
    worker, closed = ms.Worker(shutdown_timeout=0), threading.Event()
    endpoint = ms.Endpoint("endless", int, int, idempotent=idempotent, timeout=PATIENCE)

    async def endless(_: int) -> AsyncIterator[int]:
        try:
            for number in range(10**9):
                yield number
        finally:
            closed.set()

    def endless_in_thread(_: int) -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    worker.on(endpoint)(endless_in_thread if in_thread else endless)
    taken: list[int] = []

    async def take() -> None:
        async for part in other.request_stream(endpoint, 0):
            taken.append(part)  # noqa: PERF401 - what came before the error is kept

    async with serving(worker, mq, endpoint):
        taking = asyncio.create_task(take())
        await auntil(lambda: len(taken) > 40, PATIENCE)
    with pytest.raises(ms.ResponderLost, match="was stopped") as caught:
        await asyncio.wait_for(taking, PATIENCE)
    assert caught.value.reason == "stopped"
    assert taken == list(range(len(taken)))
    await auntil(closed.is_set, PATIENCE)


async def test_an_idempotent_stream_goes_to_another_worker(
    mq: ms.AsyncClient, other: ms.AsyncClient
) -> None:
    """When a worker stops before the first part, another one begins, and the caller does not notice."""
    endpoint = ms.Endpoint("steady", int, int, idempotent=True, timeout=PATIENCE)
    begun = asyncio.Event()
    first, second = ms.Worker(shutdown_timeout=0), ms.Worker()

    @first.on(endpoint)
    async def stuck(_: int) -> AsyncIterator[int]:
        begun.set()
        await asyncio.sleep(60)  # the work itself
        yield 0

    count_on(second, endpoint)
    async with serving(first, mq, endpoint):
        asked = asyncio.ensure_future(_all(other.request_stream(endpoint, 5)))
        await asyncio.wait_for(begun.wait(), PATIENCE)
    async with running(second, mq):
        assert await asyncio.wait_for(asked, PATIENCE) == [0, 1, 2, 3, 4]


async def _all(parts: Any) -> list[Any]:
    return [part async for part in parts]


async def test_somebody_cancels_the_request(
    mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker
) -> None:
    """The generator is closed, and the caller hears that it was cancelled."""
    closed = count_on(worker)
    async with serving(worker, mq, COUNT), asyncio.timeout(PATIENCE):
        parts = other.request_stream(COUNT, 10**9)
        assert await anext(parts) == 0
        (pending,) = other.requests._pending.values()
        assert await other.cancel(COUNT.queue, pending.id)
        with pytest.raises(ms.ResponderLost) as caught:
            await _all(parts)
        assert caught.value.reason == "cancelled"
        await auntil(lambda: closed, PATIENCE)


@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_timeout_of_a_handler(
    mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker, in_thread: bool
) -> None:
    """It is for all of the stream; the caller gets the parts before it, and a TimeoutError."""
    closed = threading.Event()

    async def count(most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                yield number
            await asyncio.sleep(60)  # the work itself
        finally:
            closed.set()

    def count_in_thread(most: int) -> Iterator[int]:
        try:
            yield from range(most)
            while True:
                time.sleep(0.01)  # the work itself
        finally:
            closed.set()

    worker.on(COUNT, timeout=1)(count_in_thread if in_thread else count)
    taken = []
    async with serving(worker, mq, COUNT), asyncio.timeout(PATIENCE):
        parts = other.request_stream(COUNT, 3)
        for _ in range(3):
            taken.append(await anext(parts))  # noqa: PERF401 - one by one
        with pytest.raises(ms.RemoteError) as caught:
            await anext(parts)
    assert (taken, caught.value.type_name) == ([0, 1, 2], "TimeoutError")
    assert closed.is_set()


async def test_middleware_is_around_a_stream(
    mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker
) -> None:
    """It is called once, and goes on when the stream is over or was left."""
    events: list[Any] = []
    closed = count_on(worker)

    @worker.middleware
    async def around(request: Any, call_next: Any) -> None:
        events.append(("begin", request.body))
        await call_next()
        events.append(("end", list(closed)))

    async with serving(worker, mq, COUNT):
        assert await _all(other.request_stream(COUNT, 40)) == list(range(40))
        parts = other.request_stream(COUNT, 10**9)
        assert await anext(parts) == 0
        await parts.aclose()
        await auntil(lambda: len(events) == 4, PATIENCE)
    assert events == [
        ("begin", 40),
        ("end", ["closed"]),
        ("begin", 10**9),
        ("end", ["closed", "closed"]),
    ]


async def test_an_error_while_a_generator_is_closed(
    mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the log of the worker, the request is settled, and the worker goes on."""
    clumsy: ms.Endpoint[int, int] = ms.Endpoint("clumsy", int, int, timeout=PATIENCE)

    @worker.on(clumsy)
    async def handle(most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                yield number
        finally:
            if most > 1000:
                raise LookupError("while closing")

    with caplog.at_level(logging.WARNING, "millstream.worker"):
        async with serving(worker, mq, clumsy):
            parts = other.request_stream(clumsy, 10**9)
            assert await anext(parts) == 0
            await parts.aclose()
            await auntil(lambda: "while closing" in caplog.text, PATIENCE)
            await becomes(mq, clumsy.queue, DONE)
            assert await _all(other.request_stream(clumsy, 3)) == [0, 1, 2]


async def test_slots_are_given_back(
    mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker
) -> None:
    """Nothing is kept of a stream that is over, neither at its worker nor at its caller."""
    count_on(worker)
    async with serving(worker, mq, COUNT):
        for most in (0, 5, 50, 10**9):
            parts = other.request_stream(COUNT, most)
            async for _ in parts:
                if most > 50:
                    break
            await parts.aclose()
        await becomes(mq, COUNT.queue, DONE)
        await auntil(lambda: not mq.requests.mailbox._slots, PATIENCE)
        assert not other.requests.mailbox._slots
        assert not other.requests._pending


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_only_endpoints_stream(worker: ms.Worker, kind: str) -> None:
    """A generator is refused as the handler of anything else."""
    source: Any = ms.Queue("q") if kind == "queue" else ms.Topic("t", durable=False)

    async def handle(body: Any) -> AsyncIterator[Any]:
        yield body

    with pytest.raises(ms.UsageError, match="yields"):
        worker.on(source)(handle)


async def test_what_ends_a_stream_follows_the_last_part_that_has_left(
    mq: ms.AsyncClient, caller: Correspondent
) -> None:
    """A thread may have numbered more parts, which the event loop does not send any more."""
    address = Address(caller.client, 7, window=8)
    stream = await open_stream(COUNT, address, mq.requests.mailbox)
    sent, unsent = stream.numbered(0), stream.numbered(1)
    stream.send(*sent)
    await stream.stop(tell=True)
    stream.send(*unsent)
    assert not await stream.part(2)
    await stream.stop(tell=True)
    assert await stream.finish("end", b"")
    (lost,) = await caller.gets("lost", 1)
    assert (lost[b"lost"], lost[b"n"]) == (b"stopped", b"2")
    assert len(caller.mail) == 2
