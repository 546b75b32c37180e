"""Queues whose messages are taken at most once, as clients see them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal

import pytest
import redis

import millstream as ms
from tests.api.clients import PATIENCE, Connect, counts, drain, take, take_one
from tests.support.wait import auntil

Store = Literal["stream", "list"]
STORES: tuple[Store, ...] = ("stream", "list")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    """Where the messages are."""
    store: Store = request.param
    return store


@pytest.fixture
def queue(store: Store) -> ms.Queue[Any]:
    """A queue that delivers at most once."""
    return ms.Queue("orders", store=store, delivery="at_most_once")


async def test_what_is_handed_out_is_gone(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """It is in none of the states, whether it is acknowledged or not, and comes to nobody else."""
    await any_mq.send_many(queue, range(10))

    taken = await take(any_mq, queue, 10)

    assert [one.body for one in taken] == [*range(10)]
    assert await counts(any_mq, queue) == (0, 0, 0, 0)
    await taken[0].ack()
    stats = await any_mq.stats(queue)
    assert (stats.sent, stats.acked, stats.failed) == (10, 10, 0)
    assert await drain(any_mq, queue) == []


async def test_what_nobody_has_seen_goes_back(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A loop that is left hands its buffer back, in its order and before what waits."""
    await mq.send_many(queue, range(10), headers={"a": "b"})
    seen = []
    async with aclosing(mq.receive(queue, prefetch=6)) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.body)
            if len(seen) == 2:
                assert await counts(mq, queue) == (4, 0, 0, 0)
                break

    assert await counts(mq, queue) == (8, 0, 0, 0)
    rest = await drain(mq, queue)
    assert seen + [one.body for one in rest] == [*range(10)]
    assert {one.headers["a"] for one in rest} == {"b"}
    assert {(one.attempt, one.crashes) for one in rest} == {(1, 0)}
    stats = await mq.stats(queue)
    assert (stats.sent, stats.acked) == (10, 10)


VERBS: dict[str, Callable[[ms.Delivery[Any]], Awaitable[None]]] = {
    "retry": lambda delivery: delivery.retry(delay=1),
    "release": lambda delivery: delivery.release(),
    "extend": lambda delivery: delivery.extend(10),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_what_needs_the_message_is_refused(
    mq: ms.AsyncClient, queue: ms.Queue[Any], verb: str
) -> None:
    """The error names the declaration; the delivery can still be rejected."""
    receipt = await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    with pytest.raises(ms.UsageError, match='delivery="at_most_once"') as caught:
        await VERBS[verb](delivery)

    assert receipt.id in str(caught.value)
    assert not delivery.lease_lost
    await delivery.reject("no")
    assert await counts(mq, queue) == (0, 0, 0, 1)


async def test_reject_keeps_what_there_was(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """The dead letter has the whole message and the reason; redriven, it is as it was."""
    receipt = await any_mq.send(queue, {"id": 1}, headers={"a": "b"}, key="k")
    delivery = await take_one(any_mq, queue)

    await delivery.reject("broken")

    [letter] = await any_mq.dead(queue)
    assert (letter.id, letter.body, letter.reason) == (receipt.id, {"id": 1}, "broken")
    assert (letter.headers, letter.key, letter.attempts) == ({"a": "b"}, "k", 0)
    stats = await any_mq.stats(queue)
    assert (stats.acked, stats.died) == (0, 1)
    assert await any_mq.redrive(queue) == 1
    [again] = await drain(any_mq, queue)
    assert (again.id, again.body, again.headers["a"]) == (receipt.id, {"id": 1}, "b")


async def test_a_delivery_is_settled_once(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """What comes after its end is refused."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    await delivery.ack()

    with pytest.raises(ms.LeaseLost, match="settled"):
        await delivery.reject("no")
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_bad_input_does_not_vanish(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str, store: Store
) -> None:
    """What does not decode goes to the dead letters; what comes behind it is delivered."""
    queue: ms.Queue[Any] = ms.Queue("orders", int, store=store, delivery="at_most_once")
    if store == "list":
        admin.lpush(f"{namespace}:{{orders}}:list", "nothing")
    else:
        admin.xadd(f"{namespace}:{{orders}}:ready", {"b": "nothing"})
    await mq.send(queue, 1)

    assert [one.body for one in await drain(mq, queue)] == [1]

    [letter] = await mq.dead(queue)
    assert (letter.body, letter.reason) == (b"nothing", "undecodable")


async def test_a_plain_send_from_elsewhere_wakes_a_receiver(
    any_mq: ms.AsyncClient, any_server: Any, namespace: str, queue: ms.Queue[Any], store: Store
) -> None:
    """Whoever adds to the stream, or pushes to the list, is heard at once."""
    receiving = asyncio.create_task(take_one(any_mq, queue))
    await auntil(lambda: _consumers(any_mq, queue))
    if store == "list":
        any_server.admin().lpush(f"{namespace}:{{orders}}:list", "7")
    else:
        any_server.admin().xadd(f"{namespace}:{{orders}}:ready", {"b": "7"})

    assert (await receiving).body == 7


async def _consumers(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return bool((await mq.stats(queue)).consumers)


async def test_what_comes_late_or_is_paused(
    mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any]
) -> None:
    """A loop with a buffer hands it back when somebody else pauses the queue."""
    other = await connect()
    await mq.send_many(queue, range(3))
    seen = []
    async with aclosing(mq.receive(queue, wait=0)) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.body)
            await other.pause(queue)
            await asyncio.sleep(0.11)  # the work itself
        assert seen == [0]
        assert await counts(mq, queue) == (2, 0, 0, 0)
    await other.resume(queue)
    assert [one.body for one in await drain(mq, queue)] == [1, 2]


async def test_expired_messages(mq: ms.AsyncClient, store: Store) -> None:
    """A message that waits in a buffer for too long dies there, or is dropped, as it was sent."""
    dead: ms.Queue[Any] = ms.Queue("orders", store=store, delivery="at_most_once")
    drops: ms.Queue[Any] = ms.Queue("orders", store=store, delivery="at_most_once", expired="drop")
    await mq.send(dead, 0)
    await mq.send(dead, 1, ttl=0.05)
    await mq.send(drops, 2, ttl=0.05)
    await mq.send(dead, 3)
    seen = []
    async with aclosing(mq.receive(dead, wait=0)) as deliveries:
        async for delivery in deliveries:
            seen.append(delivery.body)
            await asyncio.sleep(0.1)  # the work itself

    assert seen == [0, 3]
    assert [letter.body for letter in await mq.dead(dead)] == [1]
    stats = await mq.stats(dead)
    assert (stats.acked, stats.died, stats.dropped) == (2, 1, 1)


async def test_cancel_finds_only_what_waits(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """What was taken cannot be cancelled any more."""
    one, two = await mq.send_many(queue, range(2))
    delivery = await take_one(mq, queue)

    assert not await mq.cancel(queue, one.id)
    assert await mq.cancel(queue, two.id)

    await delivery.ack()
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_a_queue_with_a_bound(mq: ms.AsyncClient, connect: Connect) -> None:
    """What is taken makes room at once, for a producer that waits, too."""
    bound = ms.Bound(2, on_full="wait")
    queue: ms.Queue[Any] = ms.Queue("orders", bound=bound, delivery="at_most_once")
    await mq.send_many(queue, range(2))
    producer = await connect()
    sending = asyncio.create_task(producer.send(queue, 2))

    taken = await take(mq, queue, 3, prefetch=1)

    assert [one.body for one in taken] == [0, 1, 2]
    async with asyncio.timeout(PATIENCE):
        await sending


@pytest.mark.parametrize("until", ["done", "started"])
async def test_a_unique_key(mq: ms.AsyncClient, until: Literal["done", "started"]) -> None:
    """It is taken while its message waits, and free once that is taken."""
    queue: ms.Queue[Any] = ms.Queue("orders", delivery="at_most_once")
    await mq.send(queue, 1, unique="u", unique_for=until)
    assert (await mq.send(queue, 2, unique="u", unique_for=until)).duplicate

    await take_one(mq, queue)

    assert not (await mq.send(queue, 3, unique="u", unique_for=until)).duplicate
    assert [one.body for one in await drain(mq, queue)] == [3]


async def test_higher_priorities_come_first(any_mq: ms.AsyncClient) -> None:
    """Also before what waits longer, and what is handed back keeps its priority's place in front."""
    queue: ms.Queue[Any] = ms.Queue("orders", delivery="at_most_once")
    await any_mq.send(queue, "normal")
    await any_mq.send(queue, "high", priority=5)
    await any_mq.send(queue, "highest", priority=9)

    assert [one.body for one in await drain(any_mq, queue)] == ["highest", "high", "normal"]


async def test_both_kinds_of_consumers(
    mq: ms.AsyncClient, connect: Connect, store: Store, queue: ms.Queue[Any]
) -> None:
    """Consumers that acknowledge and those that do not share a queue; each message comes once."""
    keeps: ms.Queue[Any] = ms.Queue("orders", store=store)
    other = await connect()
    await mq.send_many(queue, range(200))
    seen: list[tuple[str, int]] = []

    async def consume(client: ms.AsyncClient, declared: ms.Queue[Any]) -> None:
        async with aclosing(client.receive(declared, prefetch=7, wait=0)) as deliveries:
            async for delivery in deliveries:
                seen.append((declared.delivery, delivery.body))
                await delivery.ack()

    await asyncio.gather(consume(mq, queue), consume(other, keeps))

    assert sorted(body for _, body in seen) == [*range(200)]
    assert len({kind for kind, _ in seen}) == 2
    assert await counts(mq, queue) == (0, 0, 0, 0)
    assert (await mq.stats(queue)).acked == 200


async def test_a_loop_that_never_settles(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Nothing is remembered of what was handed out: it may go on for ever."""
    await mq.send_many(queue, range(500))
    async with aclosing(mq.receive(queue, prefetch=50, wait=0)) as deliveries:
        bodies = [delivery.body async for delivery in deliveries]

    assert bodies == [*range(500)]
    assert await counts(mq, queue) == (0, 0, 0, 0)
