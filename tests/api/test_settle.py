"""Settling: what becomes of a delivery by each verb, once, and only by its owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import Connect, counts, drain, take, take_one
from tests.support.leases import Watch, idle
from tests.support.wait import auntil

Verb = Callable[[ms.Delivery[Any]], Awaitable[None]]

VERBS: dict[str, Verb] = {
    "ack": lambda delivery: delivery.ack(),
    "retry": lambda delivery: delivery.retry(delay=0),
    "reject": lambda delivery: delivery.reject("no"),
    "release": lambda delivery: delivery.release(),
    "extend": lambda delivery: delivery.extend(1),
}


async def test_ack_removes_the_message(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any], any_url: str, namespace: str
) -> None:
    """An acknowledged message is gone from the server, not only from the counts."""
    await any_mq.send(queue, 1)
    delivery = await take_one(any_mq, queue)
    assert await counts(any_mq, queue) == (0, 0, 1, 0)

    await delivery.ack()

    assert await counts(any_mq, queue) == (0, 0, 0, 0)
    assert (await any_mq.stats(queue)).acked == 1
    with redis.Redis.from_url(any_url) as plain:
        assert plain.xlen(f"{namespace}:{{orders}}:ready") == 0


async def test_retry_delivers_again_with_the_same_id(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A retried message waits, then comes again: same id, body and headers, one attempt more."""
    receipt = await any_mq.send(queue, {"n": 1}, headers={"a": "b"})
    delivery = await take_one(any_mq, queue)

    await delivery.retry(delay=0.05)

    assert await counts(any_mq, queue) == (0, 1, 0, 0)
    again = await take_one(any_mq, queue)
    assert (again.id, again.attempt, again.crashes) == (receipt.id, 2, 0)
    assert (again.body, again.headers) == ({"n": 1}, {"a": "b"})
    assert again.sent_at == delivery.sent_at
    assert (await any_mq.stats(queue)).retried == 1
    await again.ack()


async def test_retry_waits_as_the_backoff_says(mq: ms.AsyncClient) -> None:
    """Without a delay, the wait is that of the queue's policy for this attempt."""
    backoff = ms.Backoff(first=100, factor=3, max=200, jitter=0)
    queue: ms.Queue[Any] = ms.Queue("slow", retry=ms.Retry(backoff=backoff))
    await mq.send(queue, 1)
    before = datetime.now(UTC)

    await (await take_one(mq, queue)).retry()

    (message,) = await mq.peek(queue, delayed=True)
    assert message.due is not None
    assert abs(message.due - before - timedelta(seconds=100)) < timedelta(seconds=5)
    assert message.attempts == 1


async def test_attempts_run_out(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """After the last attempt a retry puts the message into the dead letters, with the reason."""
    receipt = await any_mq.send(queue, {"n": 1}, headers={"a": "b"})

    for attempt in (1, 2, 3):
        delivery = await take_one(any_mq, queue)
        assert delivery.attempt == attempt
        await delivery.retry(delay=0, reason=f"failure {attempt}")

    assert await counts(any_mq, queue) == (0, 0, 0, 1)
    (letter,) = await any_mq.dead(queue)
    assert (letter.reason, letter.error) == ("attempts", "failure 3")
    assert (letter.id, letter.body, letter.headers) == (receipt.id, {"n": 1}, {"a": "b"})
    assert (letter.attempts, letter.crashes) == (3, 0)


async def test_reject_puts_the_message_into_the_dead_letters(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A rejected message is dead at once, with the given reason, and otherwise unchanged."""
    receipt = await any_mq.send(queue, {"n": 1}, headers={"a": "b"})
    before = datetime.now(UTC) - timedelta(seconds=2)

    await (await take_one(any_mq, queue)).reject("out of stöck")

    assert await counts(any_mq, queue) == (0, 0, 0, 1)
    (letter,) = await any_mq.dead(queue)
    assert (letter.id, letter.body, letter.headers) == (receipt.id, {"n": 1}, {"a": "b"})
    assert (letter.reason, letter.error, letter.traceback) == ("out of stöck", None, None)
    assert (letter.attempts, letter.crashes) == (0, 0)
    assert before < letter.died_at < datetime.now(UTC) + timedelta(seconds=2)
    assert letter.sent_at <= letter.died_at


async def test_release_hands_the_message_on_without_blame(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A released message is the next to be delivered, as if it had never been."""
    receipt, _ = await any_mq.send_many(queue, ["released", "later"])

    await (await take_one(any_mq, queue)).release()

    again, later = await drain(any_mq, queue)
    assert (again.id, again.attempt, again.crashes) == (receipt.id, 1, 0)
    assert later.body == "later"
    stats = await any_mq.stats(queue)
    assert (stats.retried, stats.crashed) == (0, 0)


@pytest.mark.parametrize("second", VERBS)
@pytest.mark.parametrize("first", ["ack", "retry", "reject", "release"])
async def test_a_delivery_is_settled_once(
    mq: ms.AsyncClient, queue: ms.Queue[Any], first: str, second: str
) -> None:
    """Whatever ended a delivery, a second verb is refused as LeaseLost and changes nothing."""
    receipt = await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    await VERBS[first](delivery)
    assert not delivery.lease_lost
    before = await counts(mq, queue)

    with pytest.raises(ms.LeaseLost) as caught:
        await VERBS[second](delivery)

    assert (caught.value.queue, caught.value.id) == ("orders", receipt.id)
    assert await counts(mq, queue) == before


async def test_two_settlements_at_a_time(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Of several settlements of one delivery at the same time, exactly one wins."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    results = await asyncio.gather(*(delivery.ack() for _ in range(5)), return_exceptions=True)

    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, ms.LeaseLost) for result in results) == 4
    assert (await mq.stats(queue)).acked == 1


# --- leases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
async def test_a_late_settlement_is_refused(
    connect: Connect, brief: ms.Queue[Any], verb: str
) -> None:
    """A delivery that was held beyond its lease goes to another receiver, and its first owner
    can do nothing to it any more.
    """
    first, second = await connect(), await connect()
    receipt = await first.send(brief, 1)
    held = await take_one(first, brief)

    again = await take_one(second, brief)

    assert (again.id, again.attempt, again.crashes) == (receipt.id, 1, 1)
    with pytest.raises(ms.LeaseLost):
        await VERBS[verb](held)
    assert held.lease_lost
    assert await counts(second, brief) == (0, 0, 1, 0)
    await again.ack()
    stats = await second.stats(brief)
    assert (stats.acked, stats.crashed, stats.dead) == (1, 1, 0)


async def test_an_expired_lease_on_every_server(
    any_mq: ms.AsyncClient, brief: ms.Queue[Any]
) -> None:
    """A lost delivery is taken over on each supported server."""
    receipt = await any_mq.send(brief, 1)
    held = await take_one(any_mq, brief)

    again = await take_one(any_mq, brief)

    assert (again.id, again.crashes) == (receipt.id, 1)
    with pytest.raises(ms.LeaseLost):
        await held.ack()
    await again.ack()


async def test_crashes_run_out(mq: ms.AsyncClient) -> None:
    """A message whose consumers lose it more often than allowed is dead, with the reason."""
    queue: ms.Queue[Any] = ms.Queue("deadly", lease=0.2, retry=ms.Retry(max_crashes=1))
    receipt = await mq.send(queue, 1)
    await take_one(mq, queue)
    assert (await take_one(mq, queue)).crashes == 1

    async def died() -> list[ms.DeadLetter]:
        assert await drain(mq, queue, wait=0.1) == []
        return await mq.dead(queue)

    (letter,) = await auntil(died)
    assert (letter.id, letter.reason, letter.crashes) == (receipt.id, "crashed", 2)


async def overtaken(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> list[Any]:
    """The bodies of what another receiver gets once leases have run out: at least one, the
    canary, whose owner did nothing to keep it. A sweep looks at all deliveries.
    """
    deliveries = [await take_one(mq, queue), *await take(mq, queue, 9, wait=0.7)]
    for delivery in deliveries:
        assert delivery.crashes == 1
        await delivery.ack()
    return [delivery.body for delivery in deliveries]


async def test_extend_keeps_a_delivery_beyond_its_lease(
    connect: Connect, brief: ms.Queue[Any]
) -> None:
    """Within the time that was asked for, nobody else gets the message; then its owner settles."""
    first, second = await connect(), await connect()
    await first.send_many(brief, ["extended", "canary"])

    async with aclosing(first.receive(brief)) as deliveries:
        delivery = await anext(deliveries)
        await anext(deliveries)
        await delivery.extend(30)
        assert await overtaken(second, brief) == ["canary"]
        await delivery.ack()


async def test_extend_outlives_the_loop(connect: Connect, brief: ms.Queue[Any]) -> None:
    """A delivery stays its owner's when it was extended before or after its loop was left."""
    first, second = await connect(), await connect()
    await first.send_many(brief, ["before", "after", "canary"])
    async with aclosing(first.receive(brief)) as deliveries:
        before, after, _ = [await anext(deliveries) for _ in range(3)]
        await before.extend(30)
    await after.extend(30)

    assert await overtaken(second, brief) == ["canary"]

    await before.ack()
    await after.ack()


async def test_extend_lasts_as_long_as_was_asked_for(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str
) -> None:
    """At no moment within the time that was asked for is the lease over."""
    queue: ms.Queue[Any] = ms.Queue("orders", lease=1.5)
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    watch, end = Watch(admin, f"{namespace}:{{orders}}:ready"), time.monotonic() + 2.95

    await delivery.extend(3)

    def over() -> bool:
        watch.look()
        return time.monotonic() > end

    await auntil(over)
    assert max(watch.oldest.values()) < 1500
    await delivery.ack()


async def test_extend_ends_by_itself(connect: Connect, brief: ms.Queue[Any]) -> None:
    """After the time that was asked for, the lease runs out as any other."""
    first, second = await connect(), await connect()
    await first.send(brief, 1)

    async with aclosing(first.receive(brief)) as deliveries:
        delivery = await anext(deliveries)
        await delivery.extend(timedelta(seconds=2))
        again = await take_one(second, brief)
        with pytest.raises(ms.LeaseLost):
            await delivery.ack()
    assert again.crashes == 1
    await again.ack()


async def test_extend_may_shorten_a_lease(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, namespace: str
) -> None:
    """The lease is what was asked for last, also when that is less."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    await delivery.extend(10)

    [used_up] = idle(admin, f"{namespace}:{{orders}}:ready").values()
    assert 20_000 <= used_up < 30_000
    await delivery.ack()


@pytest.mark.parametrize("seconds", [-1, "5", float("inf"), None])
async def test_extend_by_nonsense(mq: ms.AsyncClient, queue: ms.Queue[Any], seconds: Any) -> None:
    """A time that makes no sense is a UsageError that names it."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    with pytest.raises(ms.UsageError, match="seconds"):
        await delivery.extend(seconds)
    with pytest.raises(ms.UsageError, match="delay"):
        await delivery.retry(delay=seconds if seconds is not None else -5)
    await delivery.ack()


async def test_a_shorter_extension_ends_a_longer_one(
    connect: Connect, brief: ms.Queue[Any]
) -> None:
    """What counts is the last extension: a short one gives a long one up."""
    first, second = await connect(), await connect()
    await first.send(brief, 1)
    delivery = await take_one(first, brief)
    await delivery.extend(30)
    await delivery.extend(0.1)

    assert await overtaken(second, brief) == [1]

    with pytest.raises(ms.LeaseLost):
        await delivery.ack()


async def test_buffered_messages_keep_their_leases(connect: Connect, brief: ms.Queue[Any]) -> None:
    """While a slow user holds the first of a batch beyond its lease, only that one is lost."""
    first, second = await connect(), await connect()
    await first.send_many(brief, ["held", "buffered", "buffered, too"])

    async with aclosing(first.receive(brief, prefetch=3)) as deliveries:
        held = await anext(deliveries)

        assert await overtaken(second, brief) == ["held"]

        with pytest.raises(ms.LeaseLost):
            await held.ack()
        for body in ("buffered", "buffered, too"):
            delivery = await anext(deliveries)
            assert (delivery.body, delivery.crashes) == (body, 0)
            await delivery.ack()
    assert await counts(first, brief) == (0, 0, 0, 0)
