"""Ordered keys while everything happens at once: failures, cancels, pauses, workers that come and go."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import PATIENCE

KEYS, EACH = 5, 40

Job = tuple[str, int]


class Witness:
    """Handlers that do what handlers do, and see whether the order of each key holds."""

    def __init__(self) -> None:
        self.luck = random.Random(7)
        self.running: dict[str, int] = {}
        self.last: dict[str, int] = {}
        # A cancelled handler may notice a moment after the next one has begun.
        self.cancelled: set[Job] = set()
        self.wrong: list[str] = []

    def begin(self, key: str, number: int) -> None:
        before = self.running.get(key)
        if before is not None and (key, before) not in self.cancelled:
            self.wrong.append(f"{key}: {number} began while {before} ran")
        if number < self.last.get(key, 0):
            self.wrong.append(f"{key}: {number} began after {self.last[key]}")
        self.running[key] = self.last[key] = number

    def end(self, key: str, number: int) -> None:
        if self.running.get(key) == number:
            del self.running[key]

    async def one(self, body: list[Any], delivery: ms.Delivery[Any]) -> None:
        key, number = body
        self.begin(key, number)
        chance = self.luck.random()
        try:
            await asyncio.sleep(self.luck.random() / 500)  # the work itself
            if chance < 0.1:
                raise ValueError
            if chance < 0.15:
                raise ms.Reject("no")
        finally:
            self.end(key, number)
        if chance < 0.2:
            await delivery.release()
        elif chance < 0.25:
            await delivery.retry(delay=0.003)

    async def batch(self, bodies: list[list[Any]]) -> None:
        for key, number in bodies:
            self.begin(key, number)
        try:
            await asyncio.sleep(self.luck.random() / 500)  # the work itself
            if self.luck.random() < 0.1:
                raise ValueError
        finally:
            for key, number in bodies:
                self.end(key, number)

    def worker(self, queue: ms.Queue[Any]) -> ms.Worker:
        """A worker of one kind or another."""
        worker = ms.Worker()
        if self.luck.random() < 0.3:
            worker.on(queue, batch=5, batch_wait=0.003)(self.batch)
        else:
            worker.on(queue, concurrency=self.luck.choice([1, 3, 20]))(self.one)
        return worker


async def work(witness: Witness, client: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Workers that come and go, one after the other."""
    while True:
        worker = witness.worker(queue)
        run = asyncio.create_task(worker.run(client))
        try:
            await asyncio.wait([run], timeout=0.1 + witness.luck.random() / 4)
        finally:
            worker.stop()
            await run


async def interfere(
    witness: Witness, client: ms.AsyncClient, queue: ms.Queue[Any], sent: dict[str, Job]
) -> None:
    """People who pause, resume and cancel."""
    luck = witness.luck
    while True:
        await asyncio.sleep(luck.random() / 50)  # the work itself
        if luck.random() < 0.4:
            await client.pause(queue)
            await asyncio.sleep(luck.random() / 100)  # the work itself
            await client.resume(queue)
        elif sent:
            id, job = luck.choice([*sent.items()])
            witness.cancelled.add(job)
            await client.cancel(queue, id)


@pytest.mark.parametrize(
    "options",
    [{}, {"bound": ms.Bound(12, on_full="wait", timeout=None)}, {"partitions": 3}],
    ids=["plain", "bound", "partitions"],
)
async def test_order_holds(
    mq: ms.AsyncClient, other: ms.AsyncClient, options: dict[str, Any]
) -> None:
    """One at a time, in order, all accounted for, and nobody stuck at the end."""
    again = ms.Retry(max_attempts=1000, backoff=ms.Backoff(first=0.005, factor=1))
    queue: ms.Queue[Any] = ms.Queue("everything", ordered=True, retry=again, **options)
    witness, sent = Witness(), dict[str, Job]()

    async def produce(key: str) -> None:
        for number in range(EACH):
            ttl = 0.05 if witness.luck.random() < 0.1 else None
            receipt = await mq.send(queue, [key, number], key=key, ttl=ttl)
            sent[receipt.id] = key, number

    async def drained() -> bool:
        stats = await mq.stats(queue)
        return stats.ready == stats.delayed == stats.in_flight == 0

    busy = [asyncio.create_task(work(witness, one, queue)) for one in (mq, other, mq)]
    people = asyncio.create_task(interfere(witness, other, queue, sent))
    await asyncio.gather(*(produce(f"k{number}") for number in range(KEYS)))
    people.cancel()
    await asyncio.wait([people])
    await other.resume(queue)
    await auntil(drained, 2 * PATIENCE, message="all is handled")
    for task in busy:
        task.cancel()
    results = await asyncio.gather(*busy, return_exceptions=True)

    assert {type(result) for result in results} == {asyncio.CancelledError}
    assert witness.wrong == []
    stats = await mq.stats(queue)
    assert stats.acked + stats.dead + stats.cancelled == stats.sent == KEYS * EACH
    assert stats.crashed == 0
