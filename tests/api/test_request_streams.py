"""Streams of replies, as callers see them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing
from typing import Any, cast

import pytest

import millstream as ms
from tests.api.clients import Connect, Kind
from tests.support.served import serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes

COUNT: ms.Endpoint[int, int] = ms.Endpoint("count", int, int, timeout=PATIENCE)
DONE = (0, 0, 0, 0)


class OutOfStock(Exception):
    """What an endpoint names in ``errors``."""


class Counting:
    """A handler that counts, and what is known of its generators."""

    def __init__(self) -> None:
        self.yielded = 0
        self.closed: list[int] = []

    async def __call__(self, most: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(most):
                self.yielded += 1
                yield number
        finally:
            await asyncio.sleep(0)
            self.closed.append(most)


class CountingInThread:
    """The same, in a thread."""

    def __init__(self) -> None:
        self.yielded = 0
        self.closed: list[int] = []

    def __call__(self, most: int) -> Generator[int, None, None]:
        assert threading.current_thread() is not threading.main_thread()
        try:
            for number in range(most):
                self.yielded += 1
                yield number
        finally:
            self.closed.append(most)


@pytest.fixture
async def staff(url: str, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """The client of workers."""
    async with ms.AsyncClient(url, namespace=namespace) as staff:
        yield staff


@pytest.fixture
def worker() -> ms.Worker:
    """A worker without handlers."""
    return ms.Worker()


@pytest.fixture(params=[Counting, CountingInThread])
async def counting(
    request: pytest.FixtureRequest, worker: ms.Worker, staff: ms.AsyncClient
) -> AsyncIterator[Counting]:
    """A handler of `COUNT` at work, of either kind."""
    counting = request.param()
    worker.on(COUNT)(counting)
    async with serving(worker, staff, COUNT):
        yield counting


async def listed(parts: AsyncGenerator[Any, None], taken: list[Any] | None = None) -> list[Any]:
    """All parts of a stream, in a list of one's own should it break off."""
    taken = [] if taken is None else taken
    async with asyncio.timeout(PATIENCE):
        async for part in parts:
            taken.append(part)
    return taken


# --- all goes well ------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 32])
async def test_parts_come_once_and_in_order(
    mq: ms.AsyncClient, counting: Counting, window: int
) -> None:
    """All of them, though there are many more than may be on their way, and the request is settled."""
    assert await listed(mq.request_stream(COUNT, 100, window=window)) == list(range(100))
    assert counting.closed == [100]
    await becomes(mq, COUNT.queue, DONE)
    assert (await mq.stats(COUNT.queue)).acked == 1


async def test_on_each_server(any_mq: ms.AsyncClient, any_url: str, namespace: str) -> None:
    """Streams work the same on all that is supported; to leave one closes its generator."""
    worker, counting = ms.Worker(), Counting()
    worker.on(COUNT)(counting)
    async with ms.AsyncClient(any_url, namespace=namespace) as staff, serving(worker, staff, COUNT):
        assert await listed(any_mq.request_stream(COUNT, 50)) == list(range(50))
        async with aclosing(any_mq.request_stream(COUNT, 10**9)) as parts:
            assert [await anext(parts) for _ in range(50)] == list(range(50))
        await auntil(lambda: counting.closed == [50, 10**9], PATIENCE)


async def test_a_stream_without_parts(mq: ms.AsyncClient, counting: Counting) -> None:
    """A generator that yields nothing is an empty loop."""
    assert await listed(mq.request_stream(COUNT, 0)) == []
    assert counting.closed == [0]


async def test_parts_that_are_false(mq: ms.AsyncClient, staff: ms.AsyncClient) -> None:
    """None, empty texts and zeros are parts like any other."""
    worker, odd = ms.Worker(), ms.Endpoint("odd", timeout=PATIENCE)
    values: list[Any] = [None, "", 0, False, [], {}, None]

    @worker.on(odd)
    async def handle(_: Any) -> AsyncIterator[Any]:
        for value in values:
            yield value

    async with serving(worker, staff, odd):
        assert await listed(mq.request_stream(odd, None)) == values


async def test_many_streams_at_a_time(mq: ms.AsyncClient, counting: Counting) -> None:
    """Each caller gets its own parts, over one mailbox."""
    counts = range(20, 25)
    several = [mq.request_stream(COUNT, most, window=4) for most in counts]
    assert await asyncio.gather(*map(listed, several)) == [list(range(n)) for n in counts]


async def test_the_generator_waits_for_its_consumer(mq: ms.AsyncClient, counting: Counting) -> None:
    """It is a window of parts ahead of the loop, and never more."""
    async with asyncio.timeout(PATIENCE), aclosing(mq.request_stream(COUNT, 40, window=8)) as parts:
        taken = 0
        async for _ in parts:
            taken += 1
            # Once half a window has been told, it goes on to a whole one.
            at_least = min(40, taken - taken % 4 + 8)
            await auntil(lambda goal=at_least: counting.yielded >= goal, PATIENCE)  # type: ignore[misc]
            assert counting.yielded <= taken + 8


async def test_headers_and_the_request(mq: ms.AsyncClient, staff: ms.AsyncClient) -> None:
    """A second parameter is the request, with its headers; a stream has no deadline."""
    worker, told = ms.Worker(), ms.Endpoint("told", int, str, timeout=PATIENCE)

    @worker.on(told)
    async def handle(body: int, request: ms.Request[int]) -> AsyncIterator[str]:
        yield request.headers["who"]
        yield f"{request.body} {request.time_left} {request.deadline}"

    async with serving(worker, staff, told):
        parts = await listed(mq.request_stream(told, 7, headers={"who": "me"}))
    assert parts == ["me", "7 inf None"]


async def test_a_stream_outlasts_its_timeout(mq: ms.AsyncClient, staff: ms.AsyncClient) -> None:
    """The timeout is for one part: all of them together, or a slow loop, may take longer."""
    worker, slow = ms.Worker(), ms.Endpoint("slow", int, int)

    @worker.on(slow)
    async def handle(most: int) -> AsyncIterator[int]:
        for number in range(most):
            await asyncio.sleep(0.2)  # the work itself
            yield number

    taken = []
    async with serving(worker, staff, slow), asyncio.timeout(PATIENCE):
        async for part in mq.request_stream(slow, 8, timeout=1.5, window=4):
            taken.append(part)
            if part == 3:
                await asyncio.sleep(1.6)  # the work itself
    assert taken == list(range(8))


async def test_a_handler_that_returns(mq: ms.AsyncClient, staff: ms.AsyncClient) -> None:
    """Its one reply is the one part, and what it raises is raised."""
    worker, plain = ms.Worker(), ms.Endpoint("plain", int, int, errors=[OutOfStock])

    @worker.on(plain)
    async def handle(body: int) -> int:
        if body == 0:
            raise OutOfStock("none")
        return 2 * body

    async with serving(worker, staff, plain):
        assert await listed(mq.request_stream(plain, 4, timeout=PATIENCE)) == [8]
        with pytest.raises(OutOfStock, match="none"):
            await listed(mq.request_stream(plain, 0, timeout=PATIENCE))


async def test_one_reply_is_wanted_of_a_generator(mq: ms.AsyncClient, counting: Counting) -> None:
    """`request` says at once how to ask, and the generator does not run."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ms.RemoteError, match="ask it by request_stream") as caught:
            await mq.request(COUNT, 3, timeout=10 * PATIENCE)
    assert caught.value.type_name == "UsageError"
    assert (counting.yielded, counting.closed) == (0, [])


# --- the caller leaves --------------------------------------------------------------------------


async def test_break_closes_the_generator(mq: ms.AsyncClient, counting: Counting) -> None:
    """Its finally blocks run, the request is settled, and the worker goes on with others."""
    async with aclosing(mq.request_stream(COUNT, 10**9)) as parts:
        async for part in parts:
            if part == 100:
                break
    await auntil(lambda: counting.closed == [10**9], PATIENCE)
    await becomes(mq, COUNT.queue, DONE)
    assert counting.yielded <= 101 + 32
    assert await listed(mq.request_stream(COUNT, 3)) == [0, 1, 2]


async def test_an_exception_in_the_loop(mq: ms.AsyncClient, counting: Counting) -> None:
    """It leaves the loop, and closes the generator as well."""

    async def take() -> None:
        async with aclosing(mq.request_stream(COUNT, 10**9)) as parts:
            async for _ in parts:
                raise KeyError

    with pytest.raises(KeyError):
        await take()
    await auntil(lambda: counting.closed == [10**9], PATIENCE)
    await becomes(mq, COUNT.queue, DONE)


async def test_a_cancelled_caller(mq: ms.AsyncClient, counting: Counting, kind: Kind) -> None:
    """To cancel the task that takes parts closes the generator."""
    if kind == "sync":
        pytest.skip("a thread cannot be cancelled")
    taken: list[int] = []
    task = asyncio.create_task(listed(mq.request_stream(COUNT, 10**9), taken))
    await auntil(lambda: len(taken) > 50, PATIENCE)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await auntil(lambda: counting.closed == [10**9], PATIENCE)
    await becomes(mq, COUNT.queue, DONE)


async def test_a_client_that_is_closed_first(connect: Connect, counting: Counting) -> None:
    """To leave the loop after that is no error, and the generator is closed as well."""
    mq = await connect()
    parts = mq.request_stream(COUNT, 10**9)
    assert await anext(parts) == 0
    await mq.aclose()
    await parts.aclose()
    await auntil(lambda: counting.closed == [10**9], PATIENCE)


@pytest.mark.parametrize("parts_before", [0, 2])
async def test_a_generator_at_work_is_cancelled(
    mq: ms.AsyncClient, staff: ms.AsyncClient, parts_before: int
) -> None:
    """What it awaits is cancelled when its caller times out, before the first part or after some."""
    worker, stuck, events = ms.Worker(), ms.Endpoint("stuck", int, int), []

    @worker.on(stuck)
    async def handle(count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
            await asyncio.sleep(60)  # the work itself
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        finally:
            events.append("closed")

    taken: list[int] = []
    async with serving(worker, staff, stuck):
        with pytest.raises(ms.TimedOut, match="no part of the stream") as caught:
            await listed(mq.request_stream(stuck, parts_before, timeout=2), taken)
        await auntil(lambda: events == ["cancelled", "closed"], PATIENCE)
        await becomes(mq, stuck.queue, DONE)
    assert taken == list(range(parts_before))
    assert (caught.value.state, caught.value.endpoint) == ("running", "stuck")
    assert 0 < caught.value.seconds < PATIENCE


async def test_a_thread_at_work_is_interrupted(mq: ms.AsyncClient, staff: ms.AsyncClient) -> None:
    """CancelledError is raised in it, at its next line."""
    worker, stuck, events = ms.Worker(), ms.Endpoint("stuck", int, int), []
    at_work, go_on = threading.Event(), threading.Event()

    @worker.on(stuck)
    def handle(_: int) -> Generator[int, None, None]:
        try:
            yield 1
            at_work.set()
            while not go_on.wait(0.01):
                pass
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        finally:
            events.append("closed")

    async with serving(worker, staff, stuck):
        try:
            async with aclosing(mq.request_stream(stuck, 0, timeout=PATIENCE)) as parts:
                assert await anext(parts) == 1
                # Where it waits for room, and up to its next line, it is closed and not cancelled.
                await auntil(at_work.is_set, PATIENCE)
            await auntil(lambda: events == ["cancelled", "closed"], PATIENCE)
            await becomes(mq, stuck.queue, DONE)
        finally:
            go_on.set()


async def test_what_must_finish(mq: ms.AsyncClient, staff: ms.AsyncClient) -> None:
    """Its generator goes to its end though the caller has left; parts that nobody takes are dropped."""
    worker, counting = ms.Worker(), Counting()
    thorough = ms.Endpoint("thorough", int, int, must_finish=True, timeout=PATIENCE)
    worker.on(thorough)(counting)
    async with serving(worker, staff, thorough):
        async with aclosing(mq.request_stream(thorough, 500, window=4)) as parts:
            assert await anext(parts) == 0
        await auntil(lambda: counting.closed == [500], PATIENCE)
        await becomes(mq, thorough.queue, DONE)
    assert counting.yielded == 500


# --- something is wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OutOfStock("two", 2), LookupError("no such thing")])
async def test_an_error_comes_behind_the_parts_before_it(
    mq: ms.AsyncClient, staff: ms.AsyncClient, error: Exception
) -> None:
    """All of them are taken first; it is itself if the endpoint names it, else a RemoteError."""
    worker, failing = ms.Worker(), ms.Endpoint("failing", int, int, errors=[OutOfStock])

    @worker.on(failing)
    async def handle(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise error

    async with serving(worker, staff, failing):
        for count in (0, 5, 70):
            taken: list[int] = []
            with pytest.raises((OutOfStock, ms.RemoteError)) as caught:
                await listed(mq.request_stream(failing, count, timeout=PATIENCE), taken)
            assert taken == list(range(count))
            if isinstance(error, OutOfStock):
                assert type(caught.value) is OutOfStock
                assert caught.value.args == ("two", 2)
            else:
                remote = cast("ms.RemoteError", caught.value)
                assert (remote.type_name, remote.detail) == ("LookupError", "no such thing")
        await becomes(mq, failing.queue, DONE)


@pytest.mark.parametrize(("bad", "problem"), [(object(), "UsageError"), ("x" * 200, "max_body")])
async def test_a_bad_part(
    mq: ms.AsyncClient, staff: ms.AsyncClient, bad: object, problem: str
) -> None:
    """A part of the wrong type or size is an error behind the parts before it, and closes the generator."""
    worker, closed = ms.Worker(), []
    picky: ms.Endpoint[int, str] = ms.Endpoint("picky", int, str, max_body=100, timeout=PATIENCE)

    @worker.on(picky)
    async def handle(_: int) -> AsyncIterator[Any]:
        try:
            yield "good"
            yield bad
            yield "too late"
        finally:
            closed.append(True)

    taken: list[str] = []
    async with serving(worker, staff, picky):
        with pytest.raises(ms.RemoteError, match=problem):
            await listed(mq.request_stream(picky, 0), taken)
        await auntil(lambda: closed, PATIENCE)
    assert taken == ["good"]


async def test_a_part_that_is_not_what_the_caller_expects(
    mq: ms.AsyncClient, counting: Counting
) -> None:
    """It is undecodable, and the generator is closed."""
    other: ms.Endpoint[int, str] = ms.Endpoint("count", int, str)
    with pytest.raises(ms.Undecodable, match="'count'"):
        await listed(mq.request_stream(other, 10**9, timeout=PATIENCE))
    await auntil(lambda: counting.closed == [10**9], PATIENCE)


async def test_nobody_serves_it(mq: ms.AsyncClient) -> None:
    """That is known at once."""
    with pytest.raises(ms.NoResponders):
        await listed(mq.request_stream(COUNT, 3))


@pytest.mark.parametrize("window", [0, -1, 10_001, 1.5, "many", None])
async def test_windows_that_make_no_sense(mq: ms.AsyncClient, window: Any) -> None:
    """They are refused before anything is sent."""
    with pytest.raises(ms.UsageError, match="window must be a number from 1 to 10000"):
        await listed(mq.request_stream(COUNT, 3, window=window))


async def test_calls_that_make_no_sense(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A queue is no endpoint, and a body has to fit."""
    with pytest.raises(ms.UsageError, match="for endpoints"):
        await listed(mq.request_stream(cast("Any", queue), 3))
    with pytest.raises(ms.UsageError):
        await listed(mq.request_stream(COUNT, cast("Any", object())))
    assert (await mq.stats(COUNT.queue)).sent == 0
