"""Limits across workers: how many messages run at a time, how many start in a span of time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import combinations_with_replacement
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import GROUP, queue_keys
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, running

Handle = Callable[[Any, ms.Delivery[Any]], Awaitable[None]]


class Crowd:
    """What several workers do at the same time."""

    def __init__(self, handle: Handle | None = None) -> None:
        self.running: set[str] = set()
        self.most = 0
        self.handled: list[Any] = []
        self.by: Counter[int] = Counter()
        self._handle = handle

    def worker(self, queue: ms.Queue[Any], **options: Any) -> ms.Worker:
        """One more worker, which counts what runs."""
        worker = ms.Worker()

        @worker.on(queue, **options)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            self.running.add(delivery.id)
            self.most = max(self.most, len(self.running))
            self.by[id(worker)] += 1
            try:
                if self._handle is not None:
                    await self._handle(body, delivery)
                self.handled.append(body)
            finally:
                self.running.discard(delivery.id)

        return worker


@asynccontextmanager
async def at_work(
    workers: Sequence[ms.Worker], url: str, namespace: str
) -> AsyncIterator[list[ms.AsyncClient]]:
    """Each worker runs with a client of its own, as in processes of their own."""
    async with AsyncExitStack() as stack:
        clients = []
        for worker in workers:
            client = ms.AsyncClient(url, namespace=namespace)
            clients.append(await stack.enter_async_context(client))
            await stack.enter_async_context(running(worker, client))
        yield clients


async def asleep(server: Server, workers: int) -> None:
    """Wait until so many workers sleep at the server."""

    def still() -> bool:
        blocked = [client for client in server.admin().client_list() if "b" in client["flags"]]
        # One read for messages, one that hears of pauses and cancellations.
        return len(blocked) == 2 * workers

    await auntil(still, PATIENCE)


class TestMaxRunning:
    async def test_never_more_at_a_time(
        self, any_server: Server, any_mq: ms.AsyncClient, namespace: str
    ) -> None:
        """Not with three workers, slow and quick handlers, failures and retries; and no fewer."""
        queue: ms.Queue[Any] = ms.Queue("few", max_running=4, retry=ms.Retry(backoff=SOON))

        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            await asyncio.sleep(body % 4 * 0.005)  # the work itself
            if body % 7 == 0 and delivery.attempt == 1:
                raise ValueError(body)

        crowd = Crowd(handle)
        keys = queue_keys(namespace, queue.name)
        in_flight = []
        await any_mq.send_many(queue, range(120))
        workers = [crowd.worker(queue, concurrency=n) for n in (2, 3, 50)]
        async with at_work(workers, any_server.limited_url, namespace):

            async def drained() -> bool:
                lanes = [any_server.admin().xinfo_groups(lane) for lane in keys.lanes]
                in_flight.append(sum(group["pending"] for lane in lanes for group in lane))
                return await counts(any_mq, queue) == (0, 0, 0, 0)

            await auntil(drained, PATIENCE)

        assert sorted(crowd.handled) == [*range(120)]
        assert crowd.most == 4
        assert max(in_flight) <= 4

    async def test_what_a_worker_holds_runs(
        self, server: Server, mq: ms.AsyncClient, namespace: str
    ) -> None:
        """None takes a slot for a message that it cannot begin with: the other one could."""
        queue: ms.Queue[Any] = ms.Queue("few", max_running=4)
        go_on = asyncio.Event()
        crowd = Crowd(lambda body, delivery: _wait_for(go_on))
        await mq.send_many(queue, range(20))
        workers = [crowd.worker(queue, concurrency=2) for _ in range(2)]
        async with at_work(workers, server.limited_url, namespace):
            await auntil(lambda: len(crowd.running) == 4, PATIENCE)
            assert await counts(mq, queue) == (16, 0, 4, 0)
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert crowd.most == 4

    async def test_a_slot_that_is_free_is_taken_at_once(
        self, server: Server, mq: ms.AsyncClient, namespace: str
    ) -> None:
        """By a worker that sleeps meanwhile, whoever frees it, and by one only."""
        queue: ms.Queue[Any] = ms.Queue("one", max_running=1)
        crowd = Crowd()
        await mq.send_many(queue, range(10))
        async with aclosing(mq.receive(queue)) as deliveries:
            first = await anext(deliveries)
            workers = [crowd.worker(queue) for _ in range(3)]
            async with at_work(workers, server.limited_url, namespace):
                await asleep(server, 3)
                assert crowd.handled == []
                ended = time.monotonic()
                await first.ack()
                await auntil(lambda: len(crowd.handled) == 9, PATIENCE, every=0.001)
                assert time.monotonic() - ended < 10  # without a word they look after 20
        assert crowd.most == 1
        assert len(crowd.by) == 1  # it settles and reads in one call, so the others sleep on

    async def test_who_has_no_use_for_a_slot_leaves_it_to_another(
        self, server: Server, mq: ms.AsyncClient, namespace: str
    ) -> None:
        """A worker that is told first, and has enough to do, tells the next one."""
        queue: ms.Queue[Any] = ms.Queue("few", max_running=7)
        go_on = asyncio.Event()
        crowd, busy = Crowd(), Crowd(lambda body, delivery: _wait_for(go_on))
        await mq.send_many(queue, range(2))
        async with aclosing(mq.receive(queue, prefetch=2)) as deliveries:
            first = await anext(deliveries)
            await mq.send_many(queue, range(2, 10))
            # It holds five, and one more would not be worth a call.
            worker = busy.worker(queue, concurrency=1, prefetch=6)
            async with at_work([worker], server.limited_url, namespace):
                await asleep(server, 1)
                async with at_work([crowd.worker(queue)], server.limited_url, namespace):
                    await asleep(server, 2)
                    await first.ack()
                    await auntil(lambda: len(crowd.handled) == 3, PATIENCE)
                    assert len(busy.running) == 1
                    go_on.set()
                    await auntil(lambda: len(busy.handled) == 5, PATIENCE)
        assert await counts(mq, queue) == (1, 0, 0, 0)  # what the receiver had not begun with

    async def test_who_leaves_frees_its_slots(
        self, server: Server, mq: ms.AsyncClient, namespace: str
    ) -> None:
        """What a stopped worker hands back is with another one at once."""
        queue: ms.Queue[Any] = ms.Queue("few", max_running=2)
        stuck: list[Any] = []
        crowd = Crowd()
        leaving = ms.Worker(shutdown_timeout=0)

        @leaving.on(queue)
        async def handle(body: Any) -> None:
            stuck.append(body)
            await asyncio.sleep(3600)  # the work itself

        await mq.send_many(queue, range(5))
        async with at_work([leaving], server.limited_url, namespace):
            await auntil(lambda: len(stuck) == 2, PATIENCE)
            async with at_work([crowd.worker(queue)], server.limited_url, namespace):
                await asleep(server, 2)
                assert crowd.handled == []
                leaving.stop()
                stopped = time.monotonic()
                await auntil(lambda: len(crowd.handled) == 5, PATIENCE)
                assert time.monotonic() - stopped < 10

    async def test_a_retry_that_waits_holds_no_slot(
        self, mq: ms.AsyncClient, worker: ms.Worker
    ) -> None:
        """Another message runs meanwhile."""
        queue: ms.Queue[Any] = ms.Queue("one", max_running=1)
        handled = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            if body == 0:
                raise ms.RetryLater(delay=3600)
            handled.append(body)

        await mq.send_many(queue, [0, 1, 2])
        async with running(worker, mq):
            await becomes(mq, queue, (0, 1, 0, 0))
        assert handled == [1, 2]

    async def test_a_lease_that_runs_out_frees_its_slot(
        self, server: Server, mq: ms.AsyncClient, namespace: str
    ) -> None:
        """A worker that waits for a slot takes over what nobody holds any more, and goes on."""
        queue: ms.Queue[Any] = ms.Queue("one", max_running=1, lease=0.5)
        crowd = Crowd()
        await mq.send_many(queue, range(3))
        async with aclosing(mq.receive(queue)) as deliveries:
            await anext(deliveries)
            async with at_work([crowd.worker(queue)], server.limited_url, namespace):
                await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(crowd.handled) == [0, 1, 2]

    async def test_a_paused_queue(self, server: Server, mq: ms.AsyncClient, namespace: str) -> None:
        """Nothing is taken while it is paused, and what waits for a slot goes on afterwards."""
        queue: ms.Queue[Any] = ms.Queue("few", max_running=1)
        go_on = asyncio.Event()
        crowd = Crowd(lambda body, delivery: _wait_for(go_on))
        await mq.send_many(queue, range(5))
        workers = [crowd.worker(queue) for _ in range(2)]
        async with at_work(workers, server.limited_url, namespace):
            await auntil(lambda: len(crowd.running) == 1, PATIENCE)
            await mq.pause(queue)
            go_on.set()
            await becomes(mq, queue, (4, 0, 0, 0))
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert crowd.most == 1


async def _nothing_runs(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return (await mq.stats(queue)).in_flight == 0


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


class Deliveries:
    """When messages were delivered, by the server's clock."""

    def __init__(self, admin: redis.Redis, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        self._admin = admin
        self._ready = queue_keys(mq.namespace, queue.name).ready
        version = str(self._admin.info("server")["redis_version"])
        # Two readings of a clock of whole milliseconds. Before 7.2 it goes on while a script runs, so what the
        # script has let go is handed out later than that, on a busy machine by some more ms. That moves
        # single messages; the rate over a longer time it does not change.
        self._slack = 2 if tuple(map(int, version.split(".")[:2])) >= (7, 2) else 20
        # Not before, and not after: a busy machine may stop the server between two commands.
        self.times: list[tuple[int, int]] = []

    async def note(self, body: Any, delivery: ms.Delivery[Any]) -> None:
        """Ask the server for its time, and for how long ago it has handed out the message."""
        token = delivery.envelope.token.decode()
        pipeline = self._admin.pipeline(transaction=True)
        pipeline.time()
        pipeline.xpending_range(self._ready, GROUP, token, token, 1)
        pipeline.time()
        before, [pending], after = pipeline.execute()
        idle = pending["time_since_delivered"]
        self.times.append((_in_ms(*before) - idle, _in_ms(*after) - idle))

    def check(self, rate: ms.Rate) -> None:
        """In no span of time were there more than the rate allows."""
        self.times.sort()
        for i, j in combinations_with_replacement(range(len(self.times)), 2):
            elapsed = self.times[j][1] - self.times[i][0] + self._slack
            assert j - i + 1 <= rate.most_at_once + rate.count * elapsed / rate.per_ms


def _in_ms(seconds: int, micros: int) -> int:
    return seconds * 1000 + micros // 1000


class TestRate:
    @pytest.mark.parametrize(
        "rate",
        [
            ms.Rate(100, burst=1),
            ms.Rate(100, burst=20),
            ms.Rate(10, per=0.1),
            ms.Rate(2000, burst=30),
        ],
        ids=str,
    )
    async def test_never_more_and_not_much_less(
        self, any_server: Server, any_mq: ms.AsyncClient, namespace: str, rate: ms.Rate
    ) -> None:
        """Three workers together keep to the rate, and reach it."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=rate)
        deliveries = Deliveries(any_server.admin(), any_mq, queue)
        crowd = Crowd(deliveries.note)
        count = 100
        workers = [crowd.worker(queue, concurrency=n) for n in (1, 5, 100)]
        async with at_work(workers, any_server.limited_url, namespace):
            await asleep(any_server, 3)
            began = time.monotonic()
            await any_mq.send_many(queue, range(count))
            await becomes(any_mq, queue, (0, 0, 0, 0))
            elapsed = time.monotonic() - began

        assert sorted(crowd.handled) == [*range(count)]
        deliveries.check(rate)
        needed = (count - rate.most_at_once) / rate.count * rate.per_ms / 1000
        assert elapsed < 4 * needed + 4

    async def test_a_quiet_queue_is_as_quick_as_any(
        self, mq: ms.AsyncClient, worker: ms.Worker
    ) -> None:
        """Below the limit, a message to an idle worker is handled within milliseconds."""
        queue: ms.Queue[Any] = ms.Queue("calm", rate=ms.Rate(1000), max_running=10)
        handled: list[float] = []
        latencies = []

        @worker.on(queue)
        async def handle(body: Any) -> None:
            handled.append(time.monotonic())

        async def reaches(count: int) -> None:
            await auntil(lambda: len(handled) >= count, PATIENCE, every=0.0005)

        async with running(worker, mq):
            for n in range(50):
                sent = time.monotonic()
                await mq.send(queue, n)
                await reaches(n + 1)
                latencies.append(handled[n] - sent)
        assert statistics.median(latencies) < 0.1

    async def test_retries_are_deliveries(self, mq: ms.AsyncClient, worker: ms.Worker) -> None:
        """Each attempt costs a token."""
        retry = ms.Retry(max_attempts=9, backoff=SOON)
        queue: ms.Queue[Any] = ms.Queue("fails", rate=ms.Rate(4, per=3600), retry=retry)
        attempts = []

        @worker.on(queue)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            attempts.append((body, delivery.attempt))
            raise ValueError

        await mq.send_many(queue, [1, 2])
        async with running(worker, mq):
            await auntil(lambda: len(attempts) == 4, PATIENCE)
            await becomes(mq, queue, (2, 0, 0, 0))
        assert sorted(attempts) == [(1, 1), (1, 2), (2, 1), (2, 2)]

    async def test_a_pause_and_priorities(self, mq: ms.AsyncClient) -> None:
        """Tokens that come during a pause are for what is most urgent after it."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(1, per=0.4))
        crowd = Crowd()
        await mq.send_many(queue, ["low"] * 4)
        async with running(crowd.worker(queue), mq):
            await auntil(lambda: crowd.handled, PATIENCE)
            await mq.pause(queue)
            await mq.send(queue, "high", priority=9)
            await auntil(lambda: _nothing_runs(mq, queue), PATIENCE)
            before = len(crowd.handled)
            await asyncio.sleep(1)  # the work itself
            assert len(crowd.handled) == before
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert crowd.handled[before] == "high"
        assert len(crowd.handled) == 5

    async def test_a_worker_that_waits_can_be_stopped(
        self, mq: ms.AsyncClient, worker: ms.Worker
    ) -> None:
        """It does not wait for the next token, and a later one finds the messages."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(1, per=3600))
        crowd = Crowd()
        await mq.send_many(queue, [1, 2])
        async with running(crowd.worker(queue), mq):
            await becomes(mq, queue, (1, 0, 0, 0))
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 10
        assert crowd.handled == [1]


@pytest.mark.parametrize("reason", ["tokens", "slots", "messages"])
async def test_waiting_costs_nothing(own_server: Server, reason: str) -> None:
    """Three workers that wait make the server do less than one command a second each."""
    options: dict[str, dict[str, Any]] = {
        "tokens": {"rate": ms.Rate(1, per=3600)},
        "slots": {"max_running": 1},
        "messages": {"rate": ms.Rate(100), "max_running": 5},
    }
    queue: ms.Queue[Any] = ms.Queue("still", **options[reason])
    go_on = asyncio.Event()
    crowd = Crowd(lambda body, delivery: _wait_for(go_on))
    admin = own_server.admin()

    def commands() -> int:
        return int(admin.info("stats")["total_commands_processed"])

    async with ms.AsyncClient(own_server.url, namespace="t-wait") as mq:
        if reason != "messages":
            await mq.send_many(queue, range(10))
        async with at_work([crowd.worker(queue) for _ in range(3)], own_server.url, "t-wait"):
            if reason == "tokens":
                await auntil(lambda: len(crowd.running) == 1, PATIENCE)
                go_on.set()
                await becomes(mq, queue, (9, 0, 0, 0))
            else:
                await auntil(lambda: len(crowd.running) == (reason == "slots"), PATIENCE)
                await asleep(own_server, 3)
            # A crowd that waits for one token is told times up to a second apart.
            await asyncio.sleep(1.5)  # the work itself
            began, before = time.monotonic(), commands()
            await asyncio.sleep(4)  # the work itself
            elapsed, after = time.monotonic() - began, commands()
            go_on.set()
    assert after - before - 1 < elapsed * 3  # one was the question itself
