"""An idle worker: what it costs, how fast it wakes up, and that delayed messages come on time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sized
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol import consume
from millstream.protocol.keys import queue_keys
from millstream.protocol.settlement import Settlement
from tests.support.readers import sleeping_readers
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, running


def noting(worker: ms.Worker, queue: ms.Queue[Any], **options: Any) -> list[tuple[Any, float]]:
    """Let the worker note each body and when it was handled."""
    handled: list[tuple[Any, float]] = []

    @worker.on(queue, **options)
    async def handle(body: Any) -> None:
        handled.append((body, time.time()))

    return handled


async def reaches(items: Sized, count: int) -> None:
    """Wait until there are so many."""
    await auntil(lambda: len(items) >= count, PATIENCE, every=0.0005)


async def asleep(admin: redis.Redis, readers: int) -> None:
    """Wait until so many readers sleep at the server and nothing else goes on."""

    def still() -> bool:
        return len(sleeping_readers(admin)) == readers

    await auntil(still, PATIENCE)


async def test_cost(own_server: Server, worker: ms.Worker) -> None:
    """A worker of idle queues and topics makes the server do less than one command a second each."""
    sources: list[Any] = [ms.Queue("q1"), ms.Queue("q2"), ms.Topic("t").subscription("s")]
    for source in sources:
        noting(worker, source)
    admin = own_server.admin()

    def commands() -> int:
        return int(admin.info("stats")["total_commands_processed"])

    async with ms.AsyncClient(own_server.url, namespace="t-idle") as mq, running(worker, mq):
        await asleep(admin, 3)
        began, before = time.monotonic(), commands()
        await asyncio.sleep(4)  # the work itself
        elapsed, after = time.monotonic() - began, commands()
    assert after - before - 1 < elapsed * 3  # one was the question itself


async def test_latency(mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
    """A message to an idle worker is handled within milliseconds."""
    handled = noting(worker, queue)
    latencies, trips = [], []
    async with running(worker, mq):
        for n in range(50):
            began = time.time()
            await mq.stats(queue)
            trips.append(time.time() - began)
            sent = time.time()
            await mq.send(queue, n)
            await reaches(handled, n + 1)
            latencies.append(handled[n][1] - sent)
    # What a bare round trip takes, a busy machine makes longer.
    assert statistics.median(latencies) < 0.02 + 10 * statistics.median(trips)


async def test_many_idle_workers_share_the_work(
    mq: ms.AsyncClient, queue: ms.Queue[Any], server: Server
) -> None:
    """Each message wakes one of several idle workers, and each is handled once."""
    workers = [ms.Worker() for _ in range(4)]
    handled = [noting(worker, queue) for worker in workers]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run(mq))
        await asleep(server.admin(), 4)
        for n in range(100):
            await mq.send(queue, n)
        await becomes(mq, queue, (0, 0, 0, 0))
        for worker in workers:
            worker.stop()
    assert sorted(body for notes in handled for body, _ in notes) == [*range(100)]


class TestDelays:
    async def test_never_early_and_on_time(self, mq: ms.AsyncClient, worker: ms.Worker) -> None:
        """Retries of a worker that is idle otherwise come at their time, and never before."""
        policy = ms.Retry(max_attempts=2, backoff=ms.Backoff(first=0.2, jitter=0.9))
        queue: ms.Queue[Any] = ms.Queue("late", retry=policy)
        times: dict[int, list[float]] = {}

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            times.setdefault(body, []).append(time.time())
            if delivery.attempt == 1:
                raise ms.RetryLater(delay=body / 1000)

        async with running(worker, mq):
            for body in range(60, 900, 40):
                await mq.send(queue, body)
                await asyncio.sleep(0.02)  # the work itself
            await becomes(mq, queue, (0, 0, 0, 0))
        lateness = [second - first - body / 1000 for body, (first, second) in times.items()]
        assert len(lateness) == 21
        # The server's clock counts whole milliseconds.
        assert min(lateness) >= -0.001
        # A busy machine holds some up, but not three of four.
        assert sorted(lateness)[5] < 0.5

    @pytest.mark.parametrize("delay", [0.05, 0.4, 1.0])
    async def test_a_retry_by_another_consumer_wakes_the_worker(
        self,
        mq: ms.AsyncClient,
        other: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        delay: float,
    ) -> None:
        """A worker that sleeps learns of a message that another consumer has delayed."""
        handled = noting(worker, queue)
        async with aclosing(other.receive(queue, prefetch=1)) as deliveries:
            await mq.send(queue, 1)
            delivery = await anext(deliveries)
            async with running(worker, mq):
                await asleep(admin, 1)
                before = time.time()
                await delivery.retry(delay=delay)
                due = time.time() + delay
                await auntil(lambda: handled, PATIENCE, every=0.001)
        assert (
            before + delay - 0.001 <= handled[0][1] <= due + 5
        )  # nobody else would look for twenty seconds

    async def test_an_earlier_one_comes_first(
        self,
        mq: ms.AsyncClient,
        other: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        admin: redis.Redis,
    ) -> None:
        """A worker that sleeps until a message is due wakes for one that is due before it."""
        handled = noting(worker, queue)
        async with aclosing(other.receive(queue, prefetch=2)) as deliveries:
            await mq.send_many(queue, ["late", "early"])
            late, early = [await anext(deliveries) for _ in range(2)]
            async with running(worker, mq):
                await asleep(admin, 1)
                late_due = time.time() + 4 - 0.001  # the server's clock counts whole milliseconds
                await late.retry(delay=4)
                await asleep(admin, 1)
                await early.retry(delay=0.3)
                due = time.time() + 0.3
                await auntil(lambda: len(handled) == 2, PATIENCE, every=0.001)
        assert [body for body, _ in handled] == ["early", "late"]
        assert handled[0][1] <= due + 2
        assert handled[1][1] >= late_due

    async def test_who_knew_leaves(
        self,
        mq: ms.AsyncClient,
        other: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: redis.Redis,
    ) -> None:
        """When the worker that knew of a delayed message stops, one that sleeps takes over."""
        knowing, sleeping = ms.Worker(), ms.Worker()
        handled = noting(sleeping, queue)
        failed: list[float] = []

        @knowing.on(queue)
        async def fail(body: Any) -> None:
            failed.append(time.time())
            raise ms.RetryLater(delay=1.0)

        async with running(sleeping, other):
            async with running(knowing, mq):
                await asleep(admin, 2)
                while not failed:
                    await mq.send(queue, 1)
                    await asleep(admin, 2)
                before = len(handled)
            await auntil(lambda: len(handled) > before, PATIENCE, every=0.001)
        assert 0.999 <= handled[-1][1] - failed[0] < 5  # nobody else would look for ten seconds

    async def test_a_wake_up_that_is_lost(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A delayed message that no worker was told of is found when the next sleep ends."""
        monkeypatch.setattr("millstream.aio.sleeper.BLOCK_MS", 500)
        handled = noting(worker, queue)
        keys = queue_keys(mq.namespace, queue.name)
        await mq.send(queue, 1)
        await mq.driver.run(consume.register(keys, "gone", queue.lease_ms))
        found = await mq.driver.run(consume.fetch(keys, "gone", reads=[("", 1)]))
        async with running(worker, mq):
            await asleep(admin, 1)
            # As if the one that was woken had died at once.
            retry = Settlement("retry", found.envelopes[0].token, delay_ms=50, failed=True)
            await mq.driver.run(consume.fetch(keys, "gone", [retry]))
            await auntil(lambda: handled, 5)
