"""Connections that are cut, lose replies, fall silent or are refused, under a running worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import millstream as ms
from tests.faults.working import (
    LONG,
    PATIENCE,
    becomes,
    connect,
    counts,
    reaches,
    recording,
    running,
)
from tests.support.proxy import Proxy
from tests.support.readers import sleeping_readers
from tests.support.servers import Server
from tests.support.wait import auntil


@pytest.mark.parametrize(
    "options", [{"concurrency": 20}, {"batch": 20, "batch_wait": 0.01}], ids=["single", "batch"]
)
async def test_cut_again_and_again(
    own_server: Server, proxy: Proxy, options: dict[str, Any]
) -> None:
    """Cut connections cost neither a message nor a second handling, nor wait for a lease."""
    worker, record = recording(LONG, **options)
    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        await mq.send_many(LONG, range(3000))
        async with running(worker, bad):
            for goal in range(200, 3000, 200):
                await reaches(record, goal)
                await asyncio.to_thread(proxy.cut)
            await becomes(mq, LONG, (0, 0, 0, 0))
        assert sorted(record.handled) == [*range(3000)]
        assert record.twice == []
        assert (await mq.stats(LONG)).acked == 3000


@pytest.mark.parametrize("to", [b"EVALSHA", b"BLOCK", b"XCLAIM"], ids=["fetch", "sleep", "lease"])
@pytest.mark.parametrize("after", [0, 40])
@pytest.mark.parametrize(
    "options", [{"concurrency": 5}, {"batch": 2, "batch_wait": 0.01}], ids=["single", "batch"]
)
async def test_lost_replies(
    own_server: Server, proxy: Proxy, to: bytes, after: int, options: dict[str, Any]
) -> None:
    """What came with a reply that was lost is found at once, and settled once."""
    queue: ms.Queue[Any] = ms.Queue("lost", lease=6 if to == b"XCLAIM" else 300)
    worker, record = recording(queue, **options)
    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        async with running(worker, bad):
            for n in range(100):
                if n % 10 == 0:
                    await asyncio.to_thread(proxy.drop_replies, to=to, after=after)
                sent = time.monotonic()
                await mq.send_many(queue, [n * 3, n * 3 + 1, n * 3 + 2])
                await reaches(record, n * 3 + 3)
                assert time.monotonic() - sent < 9  # a sleeping read takes 10 s to end by itself
            await becomes(mq, queue, (0, 0, 0, 0))
        assert record.twice == []
        assert (await mq.stats(queue)).crashed == 0
    if to != b"XCLAIM":
        assert proxy.lost >= 5


@pytest.mark.parametrize("kind", ["single", "batch"])
async def test_lost_replies_while_handlers_fail(
    own_server: Server, proxy: Proxy, kind: str
) -> None:
    """A retry or a rejection whose reply is lost is not done twice."""
    policy = ms.Retry(max_attempts=2, backoff=ms.Backoff(first=0.01, jitter=0))
    queue: ms.Queue[Any] = ms.Queue("failing", lease=300, retry=policy)
    worker = ms.Worker()
    attempts: dict[int, list[int]] = {}

    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        attempts.setdefault(body, []).append(delivery.attempt)
        raise RuntimeError("no")

    async def handle_batch(bodies: list[int], deliveries: list[ms.Delivery[Any]]) -> None:
        for delivery in deliveries:
            attempts.setdefault(delivery.body, []).append(delivery.attempt)
        raise RuntimeError("no")

    if kind == "single":
        worker.on(queue, concurrency=5)(handle)
    else:
        worker.on(queue, batch=5, batch_wait=0.005)(handle_batch)

    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        async with running(worker, bad):
            for n in range(30):
                await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA")
                await mq.send_many(queue, [n * 2, n * 2 + 1])
                await reaches(attempts, n * 2 + 2)
            await becomes(mq, queue, (0, 0, 0, 60))
        assert set(map(tuple, attempts.values())) == {(1, 2)}
        assert {letter.attempts for letter in await mq.dead(queue)} == {2}


@pytest.mark.parametrize("kind", ["ack", "retry"])
async def test_a_reply_to_a_handler_that_settles_is_lost(
    own_server: Server, proxy: Proxy, kind: str
) -> None:
    """A handler that settles itself gets its answer, though the reply was lost."""
    worker = ms.Worker()
    answers: list[str] = []

    @worker.on(LONG)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA")
        await (delivery.ack() if kind == "ack" else delivery.retry(delay=1000))
        answers.append("settled")

    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        await mq.send(LONG, 1)
        async with running(worker, bad):
            await auntil(lambda: answers, PATIENCE)
        assert await counts(mq, LONG) == ((0, 0, 0, 0) if kind == "ack" else (0, 1, 0, 0))
        assert answers == ["settled"]


async def test_a_blocked_event_loop_is_not_the_servers_fault(own_server: Server) -> None:
    """A handler that blocks the loop for longer than an operation may take costs no message."""
    worker = ms.Worker()
    handled: list[int] = []

    @worker.on(LONG, concurrency=5)
    async def handle(body: int) -> None:
        await asyncio.sleep(0.001)  # the work itself
        if body % 20 == 0:
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                pass
        handled.append(body)

    async with connect(own_server.url) as mq, connect(own_server.url, timeout=0.3) as hasty:
        await mq.send_many(LONG, range(100))
        async with running(worker, hasty):
            await becomes(mq, LONG, (0, 0, 0, 0))
    assert sorted(handled) == [*range(100)]


class TestSilence:
    """Connections that are dead though nobody was told."""

    async def test_while_it_sleeps(
        self, own_server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sleeping read on a dead connection is noticed, and what it was given is found."""
        monkeypatch.setattr("millstream.aio.sleeper.BLOCK_MS", 500)
        monkeypatch.setattr("millstream.driver.aio.BLOCK_MS", 500)  # and 5 s: it is overdue
        monkeypatch.setattr("millstream.worker.reader.SILENCE", 1.0)
        worker, record = recording(LONG)
        async with connect(own_server.url) as mq, connect(proxy.url, timeout=1) as bad:
            async with running(worker, bad):
                await mq.send(LONG, 0)
                await auntil(lambda: len(record) == 1, PATIENCE)
                await asyncio.to_thread(proxy.freeze)
                sent = time.monotonic()
                await mq.send_many(LONG, [1, 2, 3])
                await auntil(lambda: len(record) == 4, PATIENCE)
                assert record.times[3] - sent < 12
                # And all is as before.
                sent = time.monotonic()
                await mq.send(LONG, 4)
                await auntil(lambda: len(record) == 5, PATIENCE)
                assert record.times[4] - sent < 8
            assert await counts(mq, LONG) == (0, 0, 0, 0)
        assert record.twice == []

    async def test_while_it_settles(self, own_server: Server, proxy: Proxy) -> None:
        """A dead connection is given up after the timeout, with the read that sleeps beside it."""
        worker = ms.Worker()
        handled: list[int] = []
        go_on = asyncio.Event()

        @worker.on(LONG)
        async def handle(body: int) -> None:
            if body == 0:
                await go_on.wait()
            handled.append(body)

        async with connect(own_server.url) as mq, connect(proxy.url, timeout=1) as bad:
            await mq.send(LONG, 0)
            async with running(worker, bad):
                await becomes(mq, LONG, (0, 0, 1, 0))
                await asyncio.to_thread(proxy.freeze)
                go_on.set()
                await becomes(mq, LONG, (0, 0, 0, 0))
                # The server must not give these to the read that it believes to sleep.
                sent = time.monotonic()
                await mq.send_many(LONG, range(1, 10))
                await auntil(lambda: len(handled) == 10, PATIENCE)
                assert time.monotonic() - sent < 8
            assert await counts(mq, LONG) == (0, 0, 0, 0)
        assert sorted(handled) == [*range(10)]

    async def test_the_server_hangs(self, own_server: Server) -> None:
        """A server that hangs and goes on costs no message, whatever it does with old requests."""
        queue: ms.Queue[Any] = ms.Queue("hanging", lease=1.5)
        worker, record = recording(queue, concurrency=10)
        async with connect(own_server.url) as mq, connect(own_server.tcp_url, timeout=0.5) as bad:
            await mq.send_many(queue, range(5000))
            async with running(worker, bad):
                for goal in (500, 2000):
                    await reaches(record, goal)
                    await asyncio.to_thread(own_server.pause)
                    await asyncio.sleep(1.5)  # the work itself
                    await asyncio.to_thread(own_server.resume)
                await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(record.handled) == [*range(5000)]


class TestRefusals:
    async def test_the_server_is_away(
        self, own_server: Server, proxy: Proxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a server the worker tries again, not as fast as can be, and goes on by itself."""
        worker, record = recording(LONG)
        async with (
            connect(own_server.url) as mq,
            connect(proxy.url, timeout=0.5) as bad,
            running(worker, bad),
        ):
            await mq.send(LONG, 0)
            await auntil(lambda: len(record) == 1, PATIENCE)
            await asyncio.to_thread(proxy.refuse)
            await asyncio.to_thread(proxy.cut)
            caplog.clear()
            await mq.send(LONG, 1)
            await asyncio.sleep(3)  # the work itself
            warnings = [one for one in caplog.records if one.name == "millstream.worker"]
            assert 1 <= len(warnings) < 20
            await asyncio.to_thread(proxy.accept)
            accepted = time.monotonic()
            await auntil(lambda: len(record) == 2, PATIENCE)
            assert record.times[1] - accepted < 10
        assert record.twice == []

    async def test_too_many_clients(self, own_server: Server) -> None:
        """A server that refuses one connection more is not asked as fast as can be."""
        worker, record = recording(LONG)
        admin = own_server.admin()
        async with (
            connect(own_server.url) as mq,
            connect(own_server.tcp_url) as bad,
            running(worker, bad),
        ):
            await mq.send(LONG, 0)
            await auntil(lambda: len(record) == 1, PATIENCE)
            await becomes(mq, LONG, (0, 0, 0, 0))

            await auntil(lambda: sleeping_readers(admin), PATIENCE)
            usual = admin.config_get("maxclients")["maxclients"] or ""
            admin.config_set("maxclients", len(admin.client_list()) - 1)
            admin.client_kill_filter(_id=sleeping_readers(admin)[0]["id"])
            before = int(admin.info("stats")["total_commands_processed"])
            await asyncio.sleep(3)  # the work itself
            asked = int(admin.info("stats")["total_commands_processed"]) - before
            admin.config_set("maxclients", usual)
            assert asked < 600
            await mq.send(LONG, 1)
            await auntil(lambda: len(record) == 2, PATIENCE)
        assert record.twice == []

    async def test_out_of_memory(self, each_server: Server) -> None:
        """Ends that a full server cannot store wait, are not tried as fast as can be, and arrive."""
        policy = ms.Retry(max_attempts=2, backoff=ms.Backoff(first=0.01, jitter=0))
        queue: ms.Queue[Any] = ms.Queue("full", retry=policy, lease=300)
        worker = ms.Worker()
        go_on = asyncio.Event()
        handled: list[tuple[int, int]] = []

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            await go_on.wait()
            handled.append((body, delivery.attempt))
            raise RuntimeError("no")

        admin = each_server.admin()
        async with connect(each_server.url) as mq:
            await mq.send_many(queue, range(10))
            async with running(worker, mq):
                await becomes(mq, queue, (0, 0, 10, 0))
                admin.config_set("maxmemory", "1")  # byte
                go_on.set()
                await auntil(lambda: len(handled) == 10, PATIENCE)
                before = int(admin.info("stats")["total_commands_processed"])
                await asyncio.sleep(2.5)  # the work itself
                asked = int(admin.info("stats")["total_commands_processed"]) - before
                assert asked < 600
                assert await counts(mq, queue) == (0, 0, 10, 0)
                admin.config_set("maxmemory", "0")
                await becomes(mq, queue, (0, 0, 0, 10))
        assert sorted(handled) == sorted((n, attempt) for n in range(10) for attempt in (1, 2))


class TestFlush:
    async def test_new_messages_are_handled(self, each_server: Server) -> None:
        """After FLUSHALL a worker makes its queue anew and goes on, handlers in hand or not."""
        worker = ms.Worker()
        queue: ms.Queue[Any] = ms.Queue("flushed")
        begun: list[int] = []
        ended: list[int] = []
        cancelled: list[int] = []

        @worker.on(queue, concurrency=10)
        async def handle(body: int) -> None:
            begun.append(body)
            try:
                await asyncio.sleep(PATIENCE if body < 5 else 0)  # the work itself
            except asyncio.CancelledError:
                cancelled.append(body)
                raise
            ended.append(body)

        admin = each_server.admin()
        async with connect(each_server.url) as mq, running(worker, mq):
            await mq.send_many(queue, range(5))
            await auntil(lambda: len(begun) == 5, PATIENCE)
            admin.flushall()
            flushed = time.monotonic()
            await mq.send_many(queue, range(5, 50))
            await auntil(lambda: len(ended) == 45, PATIENCE)
            assert time.monotonic() - flushed < 9
            await auntil(lambda: len(cancelled) == 5, PATIENCE)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(ended) == [*range(5, 50)]

    async def test_ends_that_come_too_late(self, each_server: Server) -> None:
        """Failures of messages that a FLUSHALL has deleted do not keep the worker from going on."""
        worker = ms.Worker()
        queue: ms.Queue[Any] = ms.Queue("flushed")
        begun: list[int] = []
        ended: list[int] = []
        go_on = asyncio.Event()

        @worker.on(queue, concurrency=10)
        async def handle(body: int) -> None:
            begun.append(body)
            if body < 5:
                await go_on.wait()
                raise RuntimeError("too late")
            ended.append(body)

        admin = each_server.admin()
        async with connect(each_server.url) as mq, running(worker, mq):
            await mq.send_many(queue, range(5))
            await auntil(lambda: len(begun) == 5, PATIENCE)
            admin.flushall()
            go_on.set()
            await auntil(lambda: worker.client is mq)
            await mq.send_many(queue, range(5, 10))
            await auntil(lambda: len(ended) == 5, PATIENCE)
            await becomes(mq, queue, (0, 0, 0, 0))


class TestStopping:
    async def test_without_a_server(self, own_server: Server, proxy: Proxy) -> None:
        """A worker that stops while the server is away gives its handlers their time, and ends."""
        worker = ms.Worker(shutdown_timeout=PATIENCE)
        ended: list[str] = []
        begun, go_on = asyncio.Event(), asyncio.Event()

        @worker.on_shutdown
        async def close() -> None:
            ended.append("shutdown")

        @worker.on(LONG)
        async def handle(body: int) -> None:
            begun.set()
            await go_on.wait()
            ended.append("handler")

        async with connect(own_server.url) as mq, connect(proxy.url, timeout=1) as bad:
            await mq.send(LONG, 1)
            async with running(worker, bad) as task:
                await begun.wait()
                await asyncio.to_thread(proxy.refuse)
                await asyncio.to_thread(proxy.cut)
                worker.stop()
                await asyncio.wait([task], timeout=4)
                assert not task.done()
                go_on.set()
                stopped = time.monotonic()
                await asyncio.wait([task], timeout=PATIENCE)
                assert time.monotonic() - stopped < 10
            assert ended == ["handler", "shutdown"]

    async def test_the_server_comes_back(self, own_server: Server, proxy: Proxy) -> None:
        """What handlers came to during an outage is settled at the end, when the server is back."""
        worker = ms.Worker(shutdown_timeout=PATIENCE)
        begun, go_on = asyncio.Event(), asyncio.Event()

        @worker.on(LONG)
        async def handle(body: int) -> None:
            begun.set()
            await go_on.wait()

        async with connect(own_server.url) as mq, connect(proxy.url, timeout=1) as bad:
            await mq.send(LONG, 1)
            async with running(worker, bad) as task:
                await begun.wait()
                await asyncio.to_thread(proxy.refuse)
                await asyncio.to_thread(proxy.cut)
                worker.stop()
                await asyncio.wait([task], timeout=3)
                await asyncio.to_thread(proxy.accept)
                go_on.set()
            assert await counts(mq, LONG) == (0, 0, 0, 0)
            assert (await mq.stats(LONG)).consumers == ()

    async def test_a_burst_is_not_over_because_nobody_answers(
        self, own_server: Server, proxy: Proxy
    ) -> None:
        """A burst run goes on when the server is away for a while."""
        worker = ms.Worker()
        handled: list[int] = []

        @worker.on(LONG)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            handled.append(body)
            if delivery.attempt == 1:
                raise ms.RetryLater(delay=2)

        async with connect(own_server.url) as mq, connect(proxy.url, timeout=0.3) as bad:
            await mq.send(LONG, 1)
            task = asyncio.create_task(worker.run(bad, burst=True))
            await becomes(mq, LONG, (0, 1, 0, 0))
            await asyncio.to_thread(proxy.refuse)
            await asyncio.to_thread(proxy.cut)
            await asyncio.wait([task], timeout=1.5)
            await asyncio.to_thread(proxy.accept)
            async with asyncio.timeout(PATIENCE):
                await task
            assert handled == [1, 1]
            assert await counts(mq, LONG) == (0, 0, 0, 0)
