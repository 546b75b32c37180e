"""Handlers of topics that keep nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import topic_keys
from millstream.worker.listening import Listening
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, running

TICKS: ms.Topic[Any] = ms.Topic("ticks", durable=False)


async def listens(server: Server, namespace: str, count: int = 1) -> None:
    """Wait until so many connections listen to the ticks."""
    channel = topic_keys(namespace, "ticks").channel
    admin: Any = server.admin()
    await auntil(lambda: admin.pubsub_numsub(channel)[0][1] == count, PATIENCE)


async def test_every_worker_gets_every_message(
    mq: ms.AsyncClient, other: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """Coroutines and plain functions, with and without the second parameter, in each worker."""
    workers = [ms.Worker(), ms.Worker()]
    heard: list[Any] = []
    around: list[str] = []

    @workers[0].on(TICKS, concurrency=1)
    async def one(body: Any, tick: ms.Heard[Any]) -> None:
        heard.append(("one", body, tick.headers, tick.subject))

    @workers[1].on(TICKS, concurrency=1, timeout=PATIENCE)
    def two(body: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        heard.append(("two", body))

    @workers[0].middleware
    async def log(tick: Any, call_next: Any) -> None:
        around.append(tick.topic)
        await call_next()

    async with running(workers[0], mq), running(workers[1], other):
        await listens(server, namespace, 2)
        await mq.publish_many(TICKS, [1, 2], headers={"a": "b"}, subject="s")
        await auntil(lambda: len(heard) == 4, PATIENCE)
    assert [one for one in heard if one[0] == "one"] == [
        ("one", 1, {"a": "b"}, "s"),
        ("one", 2, {"a": "b"}, "s"),
    ]
    assert [one for one in heard if one[0] == "two"] == [("two", 1), ("two", 2)]
    assert around == ["ticks", "ticks"]
    await listens(server, namespace, 0)


async def test_failures_are_logged(
    mq: ms.AsyncClient,
    worker: ms.Worker,
    server: Server,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler that raises or takes too long costs its message, and nothing else."""
    handled: list[Any] = []

    @worker.on(TICKS, timeout=0.05)
    async def handle(body: Any) -> None:
        if body == "slow":
            await asyncio.Event().wait()
        if body == "bad":
            raise ms.Reject("no")
        handled.append(body)

    async with running(worker, mq):
        await listens(server, namespace)
        await mq.publish_many(TICKS, ["bad", "slow", "good"])
        await auntil(lambda: len(caplog.records) == 2, PATIENCE)
    assert handled == ["good"]
    assert {str(one.exc_info and one.exc_info[1]) for one in caplog.records} == {"no", ""}
    assert all("failed with a message of 'ticks'" in one.message for one in caplog.records)


async def test_a_slow_handler(
    mq: ms.AsyncClient,
    other: ms.AsyncClient,
    worker: ms.Worker,
    server: Server,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """So many run at a time, so many wait, and the others are told as missed, in their place."""
    told: list[Any] = []
    most, now, go = 0, 0, asyncio.Event()

    @worker.on(TICKS, concurrency=2, prefetch=3)
    async def handle(body: Any) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        told.append(body)
        await go.wait()
        now -= 1

    @worker.on_missed(TICKS)
    async def missed(gap: ms.Missed) -> None:
        told.append(gap)
        raise RuntimeError("a bug of the user")

    async with running(worker, mq):
        await listens(server, namespace)
        # Two run, one is in hand until there is room, three wait.
        for n in range(3):
            await other.publish(TICKS, n)
        await auntil(lambda: told == [0, 1], PATIENCE)
        await auntil(lambda: _listening(worker)._permits._waiters, PATIENCE)
        await other.publish_many(TICKS, range(3, 10))
        await auntil(lambda: _listening(worker)._feed.dropped == 4, PATIENCE)
        go.set()
        await auntil(lambda: told == [0, 1, 2, ms.Missed(dropped=4), 7, 8, 9], PATIENCE)
    assert most == 2
    said = [one.message for one in caplog.records]
    assert said == [
        "topic 'ticks': dropped 4 messages",
        "on_missed of topic 'ticks' failed",
    ]


def _listening(worker: ms.Worker) -> Listening:
    assert worker._run is not None
    return worker._run._listenings[0]


async def test_stopping(
    mq: ms.AsyncClient, worker: ms.Worker, server: Server, namespace: str
) -> None:
    """What runs gets its time; what waits is gone."""
    begun, ended, go = [], [], asyncio.Event()

    @worker.on(TICKS, concurrency=1)
    async def handle(body: Any) -> None:
        begun.append(body)
        await go.wait()
        ended.append(body)

    async with running(worker, mq):
        await listens(server, namespace)
        await mq.publish_many(TICKS, range(5))
        await auntil(lambda: begun == [0], PATIENCE)
        worker.stop()
        await listens(server, namespace, 0)
        go.set()
    assert (begun, ended) == ([0], [0])

    hasty = ms.Worker(shutdown_timeout=0)
    cancelled = asyncio.Event()

    @hasty.on(TICKS)
    async def endless(body: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with running(hasty, mq):
        await listens(server, namespace)
        await mq.publish(TICKS, 1)
        await auntil(lambda: _listening(hasty)._running, PATIENCE)
    assert cancelled.is_set()


async def test_a_server_that_is_away_for_long(
    own_server: Server, worker: ms.Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker goes on to try for as long as it takes, and tells of the gap when it is back."""
    told: list[Any] = []

    @worker.on(TICKS)
    async def handle(body: Any) -> None:
        told.append(body)

    @worker.on_missed(TICKS)
    async def missed(gap: ms.Missed) -> None:
        told.append(gap)

    async with ms.AsyncClient(own_server.url, timeout=0.2) as mq, running(worker, mq):
        await listens(own_server, "ms")
        await asyncio.to_thread(own_server.kill)
        await auntil(lambda: "cannot listen to topic 'ticks', trying again" in caplog.text, 30)
        await asyncio.to_thread(own_server.start)
        await auntil(lambda: told == [ms.Missed(reconnected=True)], 30)
        # Not by this client: it has little patience with a busy machine.
        own_server.admin().publish(topic_keys("ms", "ticks").channel, "1")
        await auntil(lambda: told[1:] == [1], PATIENCE)


async def test_bad_declarations(mq: ms.AsyncClient, url: str) -> None:
    """Each error names the function and the parameter."""
    worker = ms.Worker()

    def handle(body: Any) -> None:
        """Never called."""

    for options in (
        {"subscription": "a"},
        {"retry": ms.Retry()},
        {"batch": 5},
        {"batch_wait": 1},
        {"filter": "a"},
    ):
        given: Any = options
        with pytest.raises(ms.UsageError, match=f"{next(iter(options))} needs messages that are"):
            worker.on(TICKS, **given)(handle)
    with pytest.raises(ms.UsageError, match="concurrency must be"):
        worker.on(TICKS, concurrency=0)(handle)
    worker.on(TICKS)(handle)
    with pytest.raises(ms.UsageError, match="topic 'ticks' has a handler in this worker already"):
        worker.on(TICKS)(handle)
    with pytest.raises(ms.UsageError, match="topic 'ticks' is durable"):
        worker.on_missed(ms.Topic("ticks"))

    @worker.on_missed(ms.Topic("other", durable=False))
    async def missed(gap: ms.Missed) -> None:
        """Never called."""

    with pytest.raises(ms.UsageError, match="on_missed: topic 'other' has no handler"):
        await worker.run(mq)

    refused = ms.Worker()
    refused.on(TICKS)(handle)
    async with ms.AsyncClient(url, namespace="foreign") as foreign:
        with pytest.raises(ms.ServerRefused, match=r"rule &foreign:\{ticks\}:channel"):
            await refused.run(foreign)
    # Nothing waits in such a topic, so a burst has nothing to do.
    await refused.run(mq, burst=True)
