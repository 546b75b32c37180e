"""Middleware around handlers, and the hooks at the start and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import counts, run_burst, running

Next = Callable[[], Awaitable[Any]]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_order(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """The first one declared is the outermost, around either kind of handler."""
    events: list[str] = []

    @worker.middleware
    async def outer(delivery: ms.Delivery[Any], call_next: Next) -> None:
        events.append(f"outer {delivery.body} {delivery.headers['a']}")
        await call_next()
        events.append("outer ends")

    @worker.middleware
    async def inner(delivery: ms.Delivery[Any], call_next: Next) -> None:
        events.append("inner")
        await call_next()
        events.append("inner ends")

    if kind == "async":

        @worker.on(queue)
        async def handle(body: Any) -> None:
            events.append("handler")

    else:

        @worker.on(queue)
        def handle_in_thread(body: Any) -> None:
            events.append("handler")

    await mq.send(queue, 1, headers={"a": "b"})
    await run_burst(worker, mq)

    assert events == ["outer 1 b", "inner", "handler", "inner ends", "outer ends"]


async def test_raising(worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """What middleware raises counts as if the handler had raised it."""
    handled: list[int] = []

    @worker.middleware
    async def guard(delivery: ms.Delivery[Any], call_next: Next) -> None:
        if delivery.body == 0:
            raise ms.Reject("not for us")
        if delivery.body == 1:
            raise RuntimeError("broken")
        await call_next()

    @worker.on(queue)
    async def handle(body: int) -> None:
        handled.append(body)

    await mq.send_many(queue, [0, 1, 2])
    await run_burst(worker, mq)

    assert handled == [2]
    reasons = {letter.body: (letter.reason, letter.attempts) for letter in await mq.dead(queue)}
    assert reasons == {0: ("not for us", 0), 1: ("attempts", 3)}


async def test_seeing_and_turning_errors(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Middleware sees what the handler raised, and may make something else of it."""
    seen: list[str] = []

    @worker.middleware
    async def translate(delivery: ms.Delivery[Any], call_next: Next) -> None:
        try:
            await call_next()
        except KeyError as error:
            seen.append(repr(error))
            raise ms.Reject("no such key") from error
        except ValueError as error:
            seen.append(repr(error))

    @worker.on(queue)
    async def handle(body: int) -> None:
        raise [KeyError("k"), ValueError("v")][body]

    await mq.send_many(queue, [0, 1])
    await run_burst(worker, mq)

    assert sorted(seen) == ["KeyError('k')", "ValueError('v')"]
    assert [letter.reason for letter in await mq.dead(queue)] == ["no such key"]
    assert (await mq.stats(queue)).acked == 1


async def test_skipping(worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Middleware that returns without calling the handler has done the message."""
    handled: list[int] = []

    @worker.middleware
    async def skip(delivery: ms.Delivery[Any], call_next: Next) -> None:
        if delivery.body % 2:
            await call_next()

    @worker.on(queue)
    async def handle(body: int) -> None:
        handled.append(body)

    await mq.send_many(queue, range(10))
    await run_burst(worker, mq)

    assert sorted(handled) == [1, 3, 5, 7, 9]
    assert await counts(mq, queue) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_forgetting_to_await(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """Middleware that calls call_next and does not await it fails the message, wherever it stands."""
    handled: list[Any] = []

    @worker.middleware
    async def forget(delivery: ms.Delivery[Any], call_next: Next) -> Any:
        if delivery.body == "first":
            return call_next()
        return await call_next()

    @worker.middleware
    async def forget_again(delivery: ms.Delivery[Any], call_next: Next) -> None:
        if delivery.body == "second":
            call_next()  # this is the mistake
        elif delivery.body == "raises":
            call_next()  # this is the mistake
            raise ms.Reject("on purpose")
        elif delivery.body == "task":
            # Nobody would know how it ends.
            asyncio.ensure_future(call_next()).add_done_callback(asyncio.Future.exception)
        else:
            await call_next()

    if kind == "async":

        @worker.on(queue)
        async def handle(body: Any) -> None:
            handled.append(body)

    else:

        @worker.on(queue)
        def handle_in_thread(body: Any) -> None:
            handled.append(body)

    await mq.send_many(queue, ["first", "second", "raises", "task", "awaited"])
    await run_burst(worker, mq)

    assert handled == ["awaited"]
    errors = {letter.body: str(letter.error) for letter in await mq.dead(queue)}
    assert (await mq.stats(queue)).acked == 1
    assert {body for body, error in errors.items() if "await call_next()" in error} == {
        *("first", "second", "task")
    }
    assert "forget_again" in errors["second"]


async def test_settling(worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Middleware may settle the delivery itself."""

    @worker.middleware
    async def settle(delivery: ms.Delivery[Any], call_next: Next) -> None:
        await delivery.reject("by middleware")

    @worker.on(queue)
    async def handle(body: int) -> None: ...

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert [letter.reason for letter in await mq.dead(queue)] == ["by middleware"]


async def test_its_time_limit(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A handler's time limit is its own: middleware around it sees TimeoutError."""
    queue: ms.Queue[Any] = ms.Queue("slow", retry=ms.Retry(max_attempts=1))
    seen: list[str] = []

    @worker.middleware
    async def watch(delivery: ms.Delivery[Any], call_next: Next) -> None:
        try:
            await call_next()
        except TimeoutError:
            seen.append("TimeoutError")

    @worker.on(queue, timeout=0.05)
    async def handle(body: int) -> None:
        await asyncio.Event().wait()

    await mq.send(queue, 1)
    await run_burst(worker, mq)

    assert seen == ["TimeoutError"]


class TestHooks:
    async def test_order(self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Startup hooks run before the first message, shutdown hooks after the last, in reverse."""
        events: list[str] = []

        def hook(name: str) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                await asyncio.sleep(0)
                assert worker.client is mq
                events.append(name)

            return run

        worker.on_startup(hook("first up"))
        worker.on_startup(hook("second up"))
        worker.on_shutdown(hook("first down"))
        worker.on_shutdown(hook("second down"))

        @worker.on(queue)
        async def handle(body: int) -> None:
            events.append("message")

        await mq.send(queue, 1)
        await run_burst(worker, mq)

        assert events == ["first up", "second up", "message", "second down", "first down"]

    async def test_shutdown_comes_after_the_last_handler(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A handler that ends while the worker stops is settled before the shutdown hooks run."""
        begun, go_on = asyncio.Event(), asyncio.Event()
        events: list[Any] = []

        @worker.on_shutdown
        async def close() -> None:
            events.append(await counts(mq, queue))

        @worker.on(queue)
        async def handle(body: int) -> None:
            begun.set()
            await go_on.wait()
            events.append("handled")

        await mq.send(queue, 1)
        async with running(worker, mq):
            await begun.wait()
            worker.stop()
            asyncio.get_running_loop().call_later(0.05, go_on.set)

        assert events == ["handled", (0, 0, 0, 0)]

    async def test_failing_startup(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A startup hook that raises ends the run before any message; it may be run again."""
        handled: list[int] = []
        fails = [True, False]

        @worker.on_startup
        async def open_pool() -> None:
            if fails.pop(0):
                raise OSError("no database")

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.append(body)

        await mq.send(queue, 1)
        with pytest.raises(OSError, match="no database"):
            await worker.run(mq)
        assert handled == []

        await run_burst(worker, mq)
        assert handled == [1]

    async def test_failing_shutdown(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A shutdown hook that raises does not keep the others from running, and is not hidden."""
        events: list[str] = []

        @worker.on_shutdown
        async def first() -> None:
            events.append("first")

        @worker.on_shutdown
        async def second() -> None:
            raise OSError("cannot close")

        @worker.on(queue)
        async def handle(body: int) -> None: ...

        with pytest.raises(OSError, match="cannot close"):
            await worker.run(mq, burst=True)
        assert events == ["first"]

    async def test_the_client(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Handlers send through worker.client, which is there only while the worker runs."""
        results: ms.Queue[Any] = ms.Queue("results")
        got: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            await worker.client.send(results, body * 2)

        @worker.on(results)
        async def collect(body: int) -> None:
            got.append(body)

        with pytest.raises(ms.UsageError, match="while the worker runs"):
            _ = worker.client
        await mq.send_many(queue, [1, 2])
        async with running(worker, mq):
            await auntil(lambda: len(got) == 2)
        assert sorted(got) == [2, 4]
        with pytest.raises(ms.UsageError, match="while the worker runs"):
            _ = worker.client
