"""How many messages a worker handles at a time, how many it holds, and what slots share."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

import millstream as ms
from millstream.worker.prefetch import MOST_AHEAD, Prefetch
from millstream.worker.slots import TURN
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, counts, run_burst, running


class Gauge:
    """Counts what runs at a time; from any thread."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0
        self._guard = threading.Lock()

    def __enter__(self) -> None:
        with self._guard:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self.now -= 1


class TestConcurrency:
    @pytest.mark.parametrize("limit", [1, 7])
    async def test_coroutines(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], limit: int
    ) -> None:
        """So many coroutines run at a time, and never more."""
        gauge = Gauge()
        full = asyncio.Event()

        @worker.on(queue, concurrency=limit)
        async def handle(body: Any) -> None:
            with gauge:
                if gauge.now == limit:
                    full.set()
                # Nobody goes on before all slots are busy at the same time.
                await asyncio.wait_for(full.wait(), PATIENCE)
                await asyncio.sleep(0.001)  # the work itself

        await mq.send_many(queue, range(20 * limit))
        await run_burst(worker, mq)

        assert (gauge.most, gauge.total) == (limit, 20 * limit)

    async def test_all_slots_are_used(
        self, worker: ms.Worker, mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """While a slot is free, no message waits: also when those that run take for ever."""
        begun, gate = list[Any](), asyncio.Event()

        @worker.on(queue, concurrency=300)
        async def handle(body: Any) -> None:
            begun.append(body)
            await gate.wait()

        async with running(worker, other):
            await asyncio.gather(*(mq.send(queue, number) for number in range(300)))
            await auntil(lambda: len(begun) == 300, PATIENCE)
            gate.set()
            await becomes(mq, queue, (0, 0, 0, 0))

    @pytest.mark.parametrize("limit", [1, 5])
    async def test_threads(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], limit: int
    ) -> None:
        """So many threads run at a time, and never more."""
        gauge = Gauge()
        full = threading.Event()

        @worker.on(queue, concurrency=limit)
        def handle(body: Any) -> None:
            with gauge:
                if gauge.now == limit:
                    full.set()
                assert full.wait(PATIENCE)

        await mq.send_many(queue, range(20 * limit))
        await run_burst(worker, mq)

        assert (gauge.most, gauge.total) == (limit, 20 * limit)

    async def test_the_default(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Without a bound a hundred coroutines run at a time."""
        gauge, go_on = Gauge(), asyncio.Event()

        @worker.on(queue)
        async def handle(body: Any) -> None:
            with gauge:
                await go_on.wait()

        await mq.send_many(queue, range(150))
        async with running(worker, mq):
            await becomes(mq, queue, (50, 0, 100, 0))
            # The server knows of a delivery a moment before its handler begins.
            await auntil(lambda: gauge.now == 100, PATIENCE)
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))

    async def test_one_slow_message_holds_nobody_up(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """While one handler waits, the other slots handle and settle all the others."""
        go_on = asyncio.Event()

        @worker.on(queue, concurrency=2, prefetch=10)
        async def handle(body: int) -> None:
            if body == 0:
                await go_on.wait()

        await mq.send_many(queue, range(200))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 1, 0))
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))

    @pytest.mark.parametrize("concurrency", [1, 100])
    async def test_handlers_that_never_wait_share_the_loop(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], concurrency: int
    ) -> None:
        """Handlers that never wait leave the event loop to others every so many messages."""
        handled = since = most = 0

        async def other_task() -> None:
            nonlocal since
            while True:
                await asyncio.sleep(0)
                since = 0

        @worker.on(queue, concurrency=concurrency, prefetch=2000)
        async def handle(body: int) -> None:
            nonlocal handled, since, most
            handled += 1
            since += 1
            most = max(most, since)

        await mq.send_many(queue, range(4000))
        task = asyncio.create_task(other_task())
        await run_burst(worker, mq)
        task.cancel()

        assert handled == 4000
        assert most <= 2 * TURN


class TestPrefetch:
    @pytest.mark.parametrize("prefetch", [1, 3, 20])
    async def test_a_fixed_bound(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], prefetch: int
    ) -> None:
        """The worker holds as many as it was told, those in hand included, and no more."""
        go_on = asyncio.Event()
        most = 0

        @worker.on(queue, concurrency=2, prefetch=prefetch)
        async def handle(body: Any) -> None:
            nonlocal most
            most = max(most, (await mq.stats(queue)).in_flight)
            await go_on.wait()

        await mq.send_many(queue, range(60))
        async with running(worker, mq):
            await becomes(mq, queue, (60 - prefetch, 0, prefetch, 0))
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert most == prefetch

    async def test_slow_handlers_hoard_nothing(
        self, mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """With slow handlers a worker holds what it handles; the rest is there for others."""
        handled: dict[str, int] = {"first": 0, "second": 0}
        most = 0

        def make(name: str) -> ms.Worker:
            worker = ms.Worker()

            @worker.on(queue, concurrency=2)
            async def handle(body: Any) -> None:
                nonlocal most
                consumers = (await mq.stats(queue)).consumers
                most = max([most, *(consumer.in_flight for consumer in consumers)])
                await asyncio.sleep(0.1)  # the work itself
                handled[name] += 1

            return worker

        await mq.send_many(queue, range(24))
        async with running(make("first"), mq):
            await auntil(lambda: handled["first"] >= 4)
            async with running(make("second"), other):
                await becomes(mq, queue, (0, 0, 0, 0))
        assert sum(handled.values()) == 24
        assert min(handled.values()) >= 6
        assert most <= 3

    async def test_fast_handlers_get_ahead(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """With fast handlers a worker holds more than it handles, so that none of them waits."""
        most = 0

        @worker.on(queue, concurrency=1)
        async def handle(body: int) -> None:
            nonlocal most
            if body % 500 == 499:
                most = max(most, (await mq.stats(queue)).in_flight)

        await mq.send_many(queue, range(5000))
        await run_burst(worker, mq)

        assert most > 10

    def test_adapting(self) -> None:
        """The bound follows the speed: concurrency for slow handlers, 20 ms of work for fast."""
        prefetch = Prefetch(10, None)
        assert (prefetch.limit, prefetch.batch) == (10, 3)

        prefetch.handled(1000, 100.0)  # since the beginning of time: slow
        assert prefetch.limit == 10
        prefetch.handled(500, 100.01)  # too soon to tell
        assert prefetch.limit == 10
        prefetch.handled(500, 100.1)  # 10,000 a second
        assert (prefetch.limit, prefetch.batch) == (210, 70)
        prefetch.handled(1, 101.0)
        assert prefetch.limit == 10
        prefetch.handled(10**9, 102.0)
        assert prefetch.limit == 10 + MOST_AHEAD

    def test_fixed(self) -> None:
        """A bound that was declared stays, whatever the speed."""
        prefetch = Prefetch(10, 4)
        prefetch.handled(10**6, 1.0)
        prefetch.handled(10**6, 2.0)

        assert (prefetch.limit, prefetch.batch) == (4, 1)
        assert Prefetch(10, 1).batch == 1


variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="clean")


class TestContexts:
    @pytest.mark.parametrize("concurrency", [1, 4])
    @pytest.mark.parametrize("waits", [True, False])
    async def test_coroutines(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        concurrency: int,
        waits: bool,
    ) -> None:
        """What a coroutine sets in a context variable, no later message sees."""
        seen: list[Any] = []

        @worker.on(queue, concurrency=concurrency, prefetch=10)
        async def handle(body: int) -> None:
            seen.append(variable.get())
            if body % 2:
                variable.set(body)
            if waits:
                await asyncio.sleep(0)
            if body % 3 == 0:
                variable.set(body)

        await mq.send_many(queue, range(100))
        await run_burst(worker, mq)

        assert seen == ["clean"] * 100

    async def test_threads(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """What a plain function sets in a context variable, no later message sees."""
        seen: list[Any] = []

        @worker.on(queue, concurrency=2)
        def handle(body: int) -> None:
            seen.append(variable.get())
            variable.set(body)

        await mq.send_many(queue, range(100))
        await run_burst(worker, mq)

        assert seen == ["clean"] * 100

    async def test_middleware_and_handler_share_one(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """What middleware sets, the handler of the same message sees, in a thread, too."""
        threads: ms.Queue[Any] = ms.Queue("threads")
        seen: list[tuple[int, Any]] = []

        @worker.middleware
        async def name(delivery: ms.Delivery[Any], call_next: Any) -> None:
            variable.set(delivery.body)
            await call_next()

        @worker.on(queue)
        async def handle(body: int) -> None:
            seen.append((body, variable.get()))

        @worker.on(threads)
        def handle_in_thread(body: int) -> None:
            seen.append((body, variable.get()))

        await mq.send_many(queue, range(50))
        await mq.send_many(threads, range(50, 100))
        await run_burst(worker, mq)

        assert sorted(seen) == [(n, n) for n in range(100)]

    async def test_the_callers_context_stays_outside(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A handler starts from a clean context, not from that of whoever runs the worker."""
        seen: list[Any] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            seen.append(variable.get())

        variable.set("of the caller")
        await mq.send(queue, 1)
        await run_burst(worker, mq)

        assert seen == ["clean"]
        assert await counts(mq, queue) == (0, 0, 0, 0)
