"""A worker that stops while its server has no memory for how messages end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import millstream as ms
from millstream.worker import unstored
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, counts, running


@pytest.fixture
async def mq(own_server: Server) -> AsyncIterator[ms.AsyncClient]:
    """A client of a server whose memory may be limited."""
    async with ms.AsyncClient(own_server.url) as mq:
        yield mq


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_memory_comes_back(
    own_server: Server,
    mq: ms.AsyncClient,
    worker: ms.Worker,
    caplog: pytest.LogCaptureFixture,
    delivery: Any,
) -> None:
    """The end is tried again before the worker leaves: no lease has to run out, and nothing is lost."""
    queue: ms.Queue[Any] = ms.Queue("full", delivery=delivery)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @worker.on(queue)
    async def handle(body: int) -> None:
        begun.set()
        await go_on.wait()
        raise ms.Reject("no")

    await mq.send(queue, 1)
    async with running(worker, mq):
        await begun.wait()
        own_server.admin().config_set("maxmemory", "1")  # byte
        go_on.set()
        await auntil(lambda: "cannot settle 1 deliveries yet" in caplog.text, PATIENCE)

        worker.stop()
        own_server.admin().config_set("maxmemory", "0")
    assert await counts(mq, queue) == (0, 0, 0, 1)
    assert not (await mq.stats(queue)).consumers


async def test_it_does_not(
    own_server: Server,
    mq: ms.AsyncClient,
    worker: ms.Worker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while the worker ends all the same, and leaves the message to its lease."""
    monkeypatch.setattr(unstored, "LAST_TRIES", 1.5 * unstored.STORE_AGAIN)
    queue: ms.Queue[Any] = ms.Queue("full", lease=2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @worker.on(queue)
    async def handle(body: int) -> None:
        if begun.is_set():
            return
        begun.set()
        await go_on.wait()
        raise ms.RetryLater(delay=1000)

    await mq.send(queue, 1)
    async with running(worker, mq):
        await begun.wait()
        own_server.admin().config_set("maxmemory", "1")  # byte
        go_on.set()
        await auntil(lambda: "cannot settle 1 deliveries yet" in caplog.text, PATIENCE)
    assert caplog.text.count("cannot settle 1 deliveries yet") > 1
    assert await counts(mq, queue) == (0, 0, 1, 0)

    own_server.admin().config_set("maxmemory", "0")
    async with running(worker, mq):
        await becomes(mq, queue, (0, 0, 0, 0))
    assert (await mq.stats(queue)).crashed == 1
