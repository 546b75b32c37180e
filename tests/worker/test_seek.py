"""A seek while workers run: handlers of the old place stop, and those of the new one begin."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.control import Word
from millstream.worker.control import Control
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, running

TOPIC: ms.Topic[Any] = ms.Topic("placed")


async def publish(mq: ms.AsyncClient, topic: ms.Topic[Any], count: int) -> None:
    # One that handles nothing, so that the history is kept.
    for name in ("mail", "audit"):
        await mq.declare(topic.subscription(name, start=ms.EARLIEST))
    await mq.publish_many(topic, range(count), key=lambda n: str(n % 3))


@pytest.mark.parametrize(
    "topic",
    [TOPIC, ms.Topic("placed", ordered=True), ms.Topic("placed", ordered=True, partitions=3)],
    ids=["plain", "ordered", "partitions"],
)
async def test_all_comes_again(
    any_mq: ms.AsyncClient, worker: ms.Worker, topic: ms.Topic[Any]
) -> None:
    """What was handled before, each message once more, while the worker runs and sleeps."""
    handled: list[int] = []

    @worker.on(topic, subscription="mail", concurrency=5)
    async def handle(body: int) -> None:
        handled.append(body)

    await publish(any_mq, topic, 30)
    async with running(worker, any_mq):
        await auntil(lambda: len(handled) == 30, PATIENCE)
        await auntil(lambda: _is_idle(any_mq, topic), PATIENCE)
        handled.clear()

        await any_mq.seek(topic, "mail", to=ms.EARLIEST, force=True)

        await auntil(lambda: len(handled) == 30, PATIENCE)
        await auntil(lambda: _is_idle(any_mq, topic), PATIENCE)
    assert sorted(handled) == [*range(30)]
    if topic.ordered:
        for key in range(3):
            assert [one for one in handled if one % 3 == key] == [*range(key, 30, 3)]


async def _is_idle(mq: ms.AsyncClient, topic: ms.Topic[Any]) -> bool:
    stats = await mq.stats(topic.subscription("mail"))
    return (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)


async def test_what_runs_is_stopped(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """What it was about to begin with it lets go; what comes next is of the new place."""
    begun: list[Any] = []
    stopped: list[Any] = []

    @worker.on(TOPIC, subscription="mail", concurrency=2)
    async def handle(body: Any) -> None:
        begun.append(body)
        if body == "new":
            return
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(body)

    await publish(mq, TOPIC, 10)
    async with running(worker, mq):
        await auntil(lambda: len(begun) == 2, PATIENCE)

        await mq.seek(TOPIC, "mail", to=ms.LATEST, force=True)
        await mq.publish(TOPIC, "new")

        await auntil(lambda: "new" in begun and len(stopped) == 2, PATIENCE)
        await auntil(lambda: _is_idle(mq, TOPIC), PATIENCE)
    assert begun == [0, 1, "new"]
    assert sorted(stopped) == [0, 1]


async def test_what_runs_comes_again(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """A thread cannot be stopped: what it does is over, and each message is handled once more."""
    free = threading.Event()
    handled: list[int] = []

    @worker.on(TOPIC, subscription="mail", concurrency=2)
    def handle(body: int) -> None:
        handled.append(body)
        free.wait(PATIENCE)

    await publish(mq, TOPIC, 6)
    async with running(worker, mq):
        await auntil(lambda: len(handled) == 2, PATIENCE)
        await mq.seek(TOPIC, "mail", to=ms.EARLIEST, force=True)
        await auntil(lambda: _in_flight(mq), PATIENCE)
        free.set()
        await auntil(lambda: _is_idle(mq, TOPIC), PATIENCE)
    assert sorted(handled) == [0, 0, 1, 1, 2, 3, 4, 5]
    assert (await mq.stats(TOPIC.subscription("mail"))).acked == 6


async def test_what_was_cancelled_elsewhere_comes_again(
    mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has heard of a cancellation of another consumer's delivery begins with it after a seek."""
    heard: list[str] = []
    handled: list[tuple[int, int]] = []
    pass_on = Control._pass_on

    def note(self: Control, word: Word) -> None:
        pass_on(self, word)
        heard.append(word.op)

    monkeypatch.setattr(Control, "_pass_on", note)

    @worker.on(TOPIC, subscription="mail")
    async def handle(body: int, delivery: ms.Delivery[int]) -> None:
        handled.append((body, delivery.crashes))

    await publish(mq, TOPIC, 1)
    async for delivery in other.receive(TOPIC.subscription("mail")):
        async with running(worker, mq):
            await auntil(lambda: _consumers(mq, 2), PATIENCE)
            assert await mq.cancel(TOPIC.subscription("mail"), delivery.id)
            await auntil(lambda: heard == ["cancel"], PATIENCE)

            await mq.seek(TOPIC, "mail", to=ms.EARLIEST, force=True)

            await auntil(lambda: handled, PATIENCE)
            await auntil(lambda: _is_idle(mq, TOPIC), PATIENCE)
        break
    assert handled == [(0, 0)]


async def _consumers(mq: ms.AsyncClient, wanted: int) -> bool:
    return len((await mq.stats(TOPIC.subscription("mail"))).consumers) == wanted


async def _in_flight(mq: ms.AsyncClient) -> int:
    return (await mq.stats(TOPIC.subscription("mail"))).in_flight
