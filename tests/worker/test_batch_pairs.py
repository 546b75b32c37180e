"""Batches of messages that were sent with options: for later, once, in order, for some time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, run_burst, running

NEVER = 3600.0

Batch = list[ms.Delivery[Any]]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_ordered(
    worker: ms.Worker, mq: ms.AsyncClient, concurrency: int, partitions: int
) -> None:
    """A batch has one message of a key at most; each key keeps its order through failures."""
    policy = ms.Retry(backoff=SOON)
    queue: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=partitions, retry=policy)
    done: dict[str, list[int]] = {}
    running_keys: Counter[str] = Counter()
    sizes: list[int] = []

    @worker.on(queue, batch=10, batch_wait=0.01, concurrency=concurrency)
    async def handle(bodies: list[Any], deliveries: Batch) -> None:
        keys = [key for key, _ in bodies]
        running_keys.update(keys)
        sizes.append(len(bodies))
        assert max(running_keys.values()) == 1
        await asyncio.sleep(0.001)  # the work itself
        running_keys.subtract(keys)
        for (key, number), delivery in zip(bodies, deliveries, strict=True):
            if number % 3 == 0 and delivery.attempt == 1:
                await delivery.retry()
            else:
                done.setdefault(key, []).append(number)

    for number in range(8):
        for key in "abcdefgh":
            await mq.send(queue, [key, number], key=key)
    await run_burst(worker, mq)

    assert done == {key: [*range(8)] for key in "abcdefgh"}
    assert max(sizes) > 1
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_an_ordered_batch_that_fails(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """What fails keeps its place before the others of its key; what was settled gives it up."""
    queue: ms.Queue[Any] = ms.Queue("ordered", ordered=True, retry=ms.Retry(backoff=SOON))
    handled: list[tuple[str, int]] = []

    @worker.on(queue, batch=2, batch_wait=0.05)
    async def handle(bodies: list[Any], deliveries: Batch) -> None:
        handled.extend((one.body, one.attempt) for one in deliveries)
        if deliveries[0].body == "a1" and deliveries[0].attempt == 1:
            await deliveries[1].ack()
            raise RuntimeError("once more")

    for body in ("a1", "b1", "a2", "b2"):
        await mq.send(queue, body, key=body[0])
    await run_burst(worker, mq)

    assert handled[:2] == [("a1", 1), ("b1", 1)]
    after = handled[2:]
    assert sorted(after) == [("a1", 2), ("a2", 1), ("b2", 1)]
    assert after.index(("a1", 2)) < after.index(("a2", 1))


async def test_expired_while_it_gathers(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A message whose time is over when its batch begins is not handled; the others are."""
    batches: list[list[Any]] = []

    @worker.on(queue, batch=3, batch_wait=NEVER)
    async def handle(bodies: list[Any]) -> None:
        batches.append(bodies)

    async with running(worker, mq):
        await mq.send(queue, "short-lived", ttl=0.05)
        await mq.send(queue, "long-lived", ttl=60)
        await becomes(mq, queue, (0, 0, 2, 0))
        await asyncio.sleep(0.1)  # the work itself
        await mq.send(queue, "immortal")
        await auntil(lambda: batches, PATIENCE)
        await becomes(mq, queue, (0, 0, 0, 1))
    assert batches == [["long-lived", "immortal"]]
    assert [letter.reason for letter in await mq.dead(queue)] == ["expired"]


async def test_unique_until_started(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """The keys of a whole batch are free when its handler begins, and not before."""
    batches: list[list[int]] = []
    duplicates: list[bool] = []

    async def send(n: int) -> bool:
        receipt = await mq.send(queue, n, unique=f"job-{n}", unique_for="started")
        return receipt.duplicate

    @worker.on(queue, batch=5, batch_wait=NEVER)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)
        if len(batches) == 1:
            duplicates.extend([await send(n) for n in bodies])

    async with running(worker, mq):
        for n in range(4):
            assert not await send(n)
            assert await send(n)
        await becomes(mq, queue, (0, 0, 4, 0))
        assert await send(0)
        await send(4)
        await auntil(lambda: len(batches) == 2, PATIENCE)
        await becomes(mq, queue, (0, 0, 0, 0))
    assert batches == [[*range(5)]] * 2
    assert duplicates == [False] * 5


async def test_unique_until_done(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A message of a batch that is settled alone frees its key at once; the others when they end."""
    duplicates: list[bool] = []

    async def send(n: int) -> bool:
        return (await mq.send(queue, n, unique=f"job-{n}")).duplicate

    @worker.on(queue, batch=2)
    async def handle(bodies: list[int], deliveries: Batch) -> None:
        if not duplicates:
            await deliveries[0].ack()
            duplicates.extend([await send(n) for n in bodies])

    await send(0)
    await send(1)
    await run_burst(worker, mq)

    assert duplicates == [False, True]
    assert (await mq.stats(queue)).acked == 3


async def test_delayed(worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Messages that become due fill a batch that gathers."""
    batches: list[list[Any]] = []

    @worker.on(queue, batch=3, batch_wait=NEVER)
    async def handle(bodies: list[Any]) -> None:
        batches.append(bodies)

    async with running(worker, mq):
        await mq.send(queue, "now")
        await mq.send_many(queue, ["later", "later"], delay=0.1)
        await auntil(lambda: batches, PATIENCE)
    assert batches == [["now", "later", "later"]]


async def test_paused_while_it_gathers(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A pause hands back what gathers, and a running batch ends; a resume has them gather anew."""
    batches: list[list[int]] = []
    go_on = asyncio.Event()

    @worker.on(queue, batch=3, batch_wait=NEVER)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)
        await go_on.wait()

    async with running(worker, mq):
        await mq.send_many(queue, range(5))
        await becomes(mq, queue, (0, 0, 5, 0))
        await mq.pause(queue)
        await becomes(mq, queue, (2, 0, 3, 0))
        go_on.set()
        await becomes(mq, queue, (2, 0, 0, 0))
        await mq.send(queue, 5)
        await mq.resume(queue)
        await becomes(mq, queue, (0, 0, 0, 0))
    assert batches[0] == [0, 1, 2]
    assert sorted(batches[1]) == [3, 4, 5]


async def test_partitions_share_the_turns_of_a_stop(mq: ms.AsyncClient) -> None:
    """A worker that stops hands back the batches of all partitions that wait for their turn."""
    queue: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=3)
    worker = ms.Worker()
    begun: list[list[int]] = []
    go_on = asyncio.Event()

    @worker.on(queue, batch=50, batch_wait=0.05)
    async def handle(bodies: list[int]) -> None:
        begun.append(bodies)
        await go_on.wait()

    for n in range(60):
        await mq.send(queue, n, key=str(n))
    async with running(worker, mq):
        await becomes(mq, queue, (0, 0, 60, 0))
        await auntil(lambda: begun, PATIENCE)
        worker.stop()
        await becomes(mq, queue, (60 - len(begun[0]), 0, len(begun[0]), 0))
        go_on.set()
    assert len(begun) == 1
    assert await counts(mq, queue) == (60 - len(begun[0]), 0, 0, 0)
    assert {one.attempts + one.crashes for one in await mq.peek(queue, limit=60)} == {0}


async def test_a_limit_for_each_key(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """What gathers counts as running: a batch has no more messages of a key than may run."""
    queue: ms.Queue[Any] = ms.Queue("limited", max_running_per_key=2)
    batches: list[list[str]] = []

    @worker.on(queue, batch=10, batch_wait=0.02)
    async def handle(bodies: list[str]) -> None:
        batches.append(bodies)

    for n in range(8):
        await mq.send(queue, f"a{n}", key="a")
        await mq.send(queue, f"b{n}", key="b")
    await run_burst(worker, mq)

    assert sorted(one for batch in batches for one in batch) == sorted(
        f"{key}{n}" for key in "ab" for n in range(8)
    )
    shares = [sum(one[0] == key for one in batch) for batch in batches for key in "ab"]
    assert max(shares) == 2
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_limits_of_the_queue(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A batch has no more messages than may run at a time, and starts with what it gets."""
    queue: ms.Queue[Any] = ms.Queue("limited", max_running=3)
    batches: list[list[int]] = []

    @worker.on(queue, batch=10, batch_wait=0.02)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)

    await mq.send_many(queue, range(12))
    await run_burst(worker, mq)

    assert [one for batch in batches for one in batch] == [*range(12)]
    assert max(map(len, batches)) <= 3
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_the_rate_of_the_queue(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """A batch gathers as fast as the queue's rate allows."""
    queue: ms.Queue[Any] = ms.Queue("limited", rate=ms.Rate(20, per=1.0, burst=5))
    batches: list[list[int]] = []

    @worker.on(queue, batch=5, batch_wait=NEVER)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)

    await mq.send_many(queue, range(15))
    began = asyncio.get_running_loop().time()
    await run_burst(worker, mq)

    assert batches == [[*range(n, n + 5)] for n in (0, 5, 10)]
    assert asyncio.get_running_loop().time() - began >= 0.49
