"""Failovers under producers, workers and listeners: all go on by themselves, and lose nothing that a replica had."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

import millstream as ms
from tests.faults.working import LONG, NAMESPACE, PATIENCE, connect, reaches, recording, running
from tests.support.sentinel import SLOW, SentinelSetup
from tests.support.servers import Server
from tests.support.wait import auntil

TICKS: ms.Topic[int] = ms.Topic("ticks", int, durable=False)

End = Callable[[SentinelSetup, Server], None]


def kill(setup: SentinelSetup, primary: Server) -> None:
    primary.kill()
    setup.wait_for_failover(primary)


def hang(setup: SentinelSetup, primary: Server) -> None:
    """Its connections stay open, and nothing comes over them: the clients' own limits are longer."""
    primary.pause()
    setup.wait_for_failover(primary)


def switch(setup: SentinelSetup, primary: Server) -> None:
    assert setup.primary is primary
    setup.fail_over()


class Producer:
    """A blocking client that sends in a thread of its own, as a service does."""

    def __init__(self, url: str) -> None:
        self.times: list[float] = []
        self._url = url
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        with ms.Client(self._url, namespace=NAMESPACE, timeout=60) as mq:
            while not self._done.wait(0.002):
                mq.send(LONG, f"meanwhile-{len(self.times)}")
                self.times.append(time.monotonic())

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join(SLOW)
            assert not self._thread.is_alive()


class Radio:
    """Publishes to an ephemeral topic, and listens to it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @asynccontextmanager
    async def on_air(self, mq: ms.AsyncClient) -> AsyncIterator[None]:
        async with mq.subscribe(TICKS) as feed, asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(self._listen(feed)), tasks.create_task(self._speak(mq))]
            yield
            for task in both:
                task.cancel()

    async def _listen(self, feed: ms.Feed[int]) -> None:
        async for _ in feed:
            self.times.append(time.monotonic())

    async def _speak(self, mq: ms.AsyncClient) -> None:
        while True:
            await mq.publish(TICKS, 1)
            await asyncio.sleep(0.01)  # the work itself


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("end", [kill, hang, switch])
async def test_a_failover(end: End) -> None:
    """Whatever ends the primary, all go on soon, and what a replica had is handled."""
    worker, record = recording(LONG, concurrency=20)
    with SentinelSetup() as setup:
        producer, radio = Producer(setup.url), Radio()
        async with connect(setup.url, timeout=60) as mq:
            before = [f"before-{n}" for n in range(200)]
            await mq.send_many(LONG, before)
            # From the first to the last message, the replica has it: all of it is to survive.
            await auntil(lambda: acknowledged(setup), PATIENCE)
            async with radio.on_air(mq), running(worker, mq):
                with producer.running():
                    await reaches(record, 100)
                    await reaches(radio.times, 1)
                    await asyncio.to_thread(end, setup, setup.primary)
                    over, handled = time.monotonic(), len(record)
                    await auntil(lambda: producer.times[-1] > over, PATIENCE)
                    await auntil(lambda: radio.times[-1] > over, PATIENCE)
                    await reaches(record, handled + 10)
                    # Without the word of the Sentinels, a primary that hangs costs 10 s and more.
                    assert time.monotonic() - over < 8
                if end is switch:
                    # Until it is a replica, the old primary takes what is sent to it, and loses that.
                    await asyncio.to_thread(setup.settle)
                after = [f"after-{n}" for n in range(200)]
                await mq.send_many(LONG, after)
                await auntil(lambda: {*before, *after} <= set(record.handled), PATIENCE)


def acknowledged(setup: SentinelSetup) -> bool:
    """Whether the replica has all that the primary has, by the word of the replica."""
    mine, its = (server.admin() for server in (setup.primary, setup.replicas[0]))
    state: Any = mine.info("replication")
    there: Any = its.info("replication")
    return bool(there["slave_repl_offset"] >= state["master_repl_offset"])
