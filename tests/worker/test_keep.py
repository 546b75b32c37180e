"""Workers of queues that keep what was handled: every way in which a handler ends a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, run_burst, running

KEEP = ms.Retain(max_length=10_000)


async def kept(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> list[Any]:
    return [one.body async for one in mq.replay(queue)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_running": 50},
        {"rate": ms.Rate(10_000)},
        {"ordered": True},
        {"ordered": True, "partitions": 2},
    ],
    ids=["plain", "max_running", "rate", "ordered", "partitions"],
)
async def test_all_that_is_handled_is_kept(
    any_mq: ms.AsyncClient, worker: ms.Worker, options: Any
) -> None:
    """Once each; more than one round trip's worth."""
    queue: ms.Queue[Any] = ms.Queue("orders", keep=KEEP, **options)

    @worker.on(queue, concurrency=50)
    async def handle(body: int) -> None: ...

    await any_mq.send_many(queue, range(700), key=lambda n: str(n % 7))
    await run_burst(worker, any_mq)

    assert sorted(await kept(any_mq, queue)) == [*range(700)]
    stats = await any_mq.stats(queue)
    assert (stats.kept, stats.acked, stats.ready, stats.in_flight) == (700, 700, 0, 0)


def end(body: str, attempt: int) -> None:
    """What a handler does with a message of this name."""
    if body == "rejected":
        raise ms.Reject("no")
    if body == "fails" or (body == "second" and attempt == 1):
        raise ValueError(body)


def in_coroutines(worker: ms.Worker, queue: ms.Queue[Any]) -> None:
    @worker.on(queue, concurrency=3)
    async def handle(body: str, delivery: ms.Delivery[Any]) -> None:
        end(body, delivery.attempt)
        if body == "own":
            await delivery.ack()


def in_threads(worker: ms.Worker, queue: ms.Queue[Any]) -> None:
    @worker.on(queue, concurrency=3)
    def handle(body: str, delivery: ms.SyncDelivery[Any]) -> None:
        end(body, delivery.attempt)
        if body == "own":
            delivery.ack()


def in_batches(worker: ms.Worker, queue: ms.Queue[Any]) -> None:
    @worker.on(queue, batch=10, batch_wait=0.01)
    async def handle(bodies: list[str], deliveries: list[ms.Delivery[Any]]) -> None:
        for body, delivery in zip(bodies, deliveries, strict=True):
            try:
                end(body, delivery.attempt)
            except ms.Reject:
                await delivery.reject("no")
            except ValueError:
                await delivery.retry(delay=0.01)
            else:
                if body == "own":
                    await delivery.ack()


@pytest.mark.parametrize("declare", [in_coroutines, in_threads, in_batches])
async def test_how_handlers_end(
    mq: ms.AsyncClient,
    worker: ms.Worker,
    declare: Callable[[ms.Worker, ms.Queue[Any]], None],
) -> None:
    """What returns, or acknowledges by itself, is kept; what fails, is rejected or waits is not."""
    retry = ms.Retry(max_attempts=2, backoff=SOON)
    queue: ms.Queue[Any] = ms.Queue("orders", keep=KEEP, retry=retry)
    declare(worker, queue)

    await mq.send_many(queue, ["plain", "rejected", "fails", "second", "own"])
    async with running(worker, mq):
        await auntil(lambda: _ended(mq, queue), PATIENCE)

    assert sorted(await kept(mq, queue)) == ["own", "plain", "second"]
    [second] = [one async for one in mq.replay(queue) if one.body == "second"]
    assert second.attempts == 1
    assert sorted(letter.body for letter in await mq.dead(queue)) == ["fails", "rejected"]


async def _ended(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    stats = await mq.stats(queue)
    return (stats.acked, stats.dead) == (3, 2)


async def test_what_is_sent_again_is_handled_again(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """While the worker runs; each message once more."""
    queue: ms.Queue[Any] = ms.Queue("orders", keep=KEEP)
    handled: list[int] = []

    @worker.on(queue, concurrency=10)
    async def handle(body: int) -> None:
        handled.append(body)

    await mq.send_many(queue, range(700))
    async with running(worker, mq):
        await auntil(lambda: len(handled) == 700, PATIENCE)
        await auntil(lambda: _acked(mq, queue, 700), PATIENCE)
        assert await mq.resend(queue) == 700
        await auntil(lambda: len(handled) == 1400, PATIENCE)
        await auntil(lambda: _acked(mq, queue, 1400), PATIENCE)

    assert sorted(handled[700:]) == [*range(700)]
    assert (await mq.stats(queue)).kept == 1400


async def _acked(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int) -> bool:
    return (await mq.stats(queue)).acked == count
