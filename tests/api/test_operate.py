"""What operators ask: counts, listings, redrive, purge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import Connect, counts, drain, take, take_one


async def kill(mq: ms.AsyncClient, queue: ms.Queue[Any], *reasons: str) -> list[str]:
    """Send messages, reject each with its reason, and return their ids."""
    receipts = await mq.send_many(queue, reasons)
    async for delivery in mq.receive(queue, wait=0):
        await delivery.reject(delivery.body)
    return [receipt.id for receipt in receipts]


async def test_the_four_counts_add_up(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Every unhandled message is ready, delayed, in flight or dead, in exactly one of them."""
    await any_mq.send_many(queue, range(10))
    taken = await take(any_mq, queue, 6)

    assert await counts(any_mq, queue) == (4, 0, 6, 0)
    await taken[0].retry(delay=60)
    await taken[1].retry(delay=60)
    await taken[2].reject("no")
    assert await counts(any_mq, queue) == (4, 2, 3, 1)
    await taken[3].release()
    assert await counts(any_mq, queue) == (5, 2, 2, 1)
    await taken[4].ack()
    assert await counts(any_mq, queue) == (5, 2, 1, 1)
    await any_mq.redrive(queue)
    assert await counts(any_mq, queue) == (6, 2, 1, 0)
    await taken[5].ack()


async def test_stats(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """The statistics hold what happened so far and who consumes."""
    await any_mq.send_many(queue, range(5))
    async with aclosing(any_mq.receive(queue, prefetch=1)) as deliveries:
        await (await anext(deliveries)).ack()
        await (await anext(deliveries)).retry(delay=60)
        await (await anext(deliveries)).reject("no")
        last = await anext(deliveries)
        stats = await any_mq.stats(queue)
        await last.ack()

    assert stats.name == "orders"
    assert (stats.sent, stats.acked, stats.retried, stats.died, stats.crashed) == (5, 1, 1, 1, 0)
    assert stats.oldest_ready is not None
    assert 0 <= stats.oldest_ready < 10
    (consumer,) = stats.consumers
    assert consumer.in_flight == 1
    assert 0 <= consumer.idle < 10
    assert len(consumer.name.split(":")) == 3


async def test_stats_of_a_queue_that_nobody_used(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A queue without a trace at the server has nothing in it."""
    stats = await any_mq.stats(queue)

    assert await counts(any_mq, queue) == (0, 0, 0, 0)
    assert (stats.oldest_ready, stats.consumers, stats.sent) == (None, (), 0)
    assert await any_mq.peek(queue) == await any_mq.peek(queue, delayed=True) == []
    assert await any_mq.dead(queue) == []
    assert await any_mq.redrive(queue) == 0
    assert await any_mq.purge(queue, confirm=True) == 0
    assert await any_mq.purge(queue, confirm=True, dead=True) == 0


async def test_queues_are_listed(mq: ms.AsyncClient, connect: Connect, namespace: str) -> None:
    """The client lists the queues of its own namespace by name."""
    for name in ("b", "a", "with:colon"):
        await mq.send(ms.Queue(name), 1)
    await (await connect(namespace=f"{namespace}-x")).send(ms.Queue("other"), 1)

    assert await mq.queues() == ["a", "b", "with:colon"]
    await (await connect(namespace=f"{namespace}-x")).purge(ms.Queue("other"), confirm=True)


# --- in flight -------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["stream", "list"])
async def test_in_flight(any_mq: ms.AsyncClient, store: Any) -> None:
    """It lists what consumers own, with who has it, its counts and headers, the oldest first."""
    queue: ms.Queue[Any] = ms.Queue("orders", store=store)
    await any_mq.send_many(queue, [1, 2, 3, 4], headers={"a": "b"})
    taken = await take(any_mq, queue, 3)

    found = await any_mq.in_flight(queue)

    assert [(one.id, one.body) for one in found] == [(one.id, one.body) for one in taken]
    assert {one.consumer for one in found} == {
        one.name for one in (await any_mq.stats(queue)).consumers if one.in_flight
    }
    assert found[0].headers == {"a": "b"}
    assert (found[0].attempts, found[0].crashes) == (0, 0)
    assert 0 <= found[0].idle < 30
    assert found[0].sent_at == taken[0].sent_at
    assert len(await any_mq.in_flight(queue, limit=2)) == 2
    for delivery in taken:
        await delivery.ack()
    assert await any_mq.in_flight(queue) == []


async def test_in_flight_at_most_once(mq: ms.AsyncClient) -> None:
    """Nobody knows of a message that was handed out at most once."""
    queue: ms.Queue[Any] = ms.Queue("orders", delivery="at_most_once")
    await mq.send(queue, 1)
    await take_one(mq, queue)

    assert await mq.in_flight(queue) == []


async def test_in_flight_in_partitions(mq: ms.AsyncClient) -> None:
    """All partitions are one list, in the order of sending."""
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True, partitions=4)
    ids = [(await mq.send(queue, number, key=f"k-{number}")).id for number in range(8)]
    taken = await take(mq, queue, 8)

    found = await mq.in_flight(queue)
    some = await mq.in_flight(queue, limit=3)

    assert {one.id for one in found} == {*ids} == {one.id for one in taken}
    times = [one.sent_at for one in found]
    assert times == sorted(times)
    assert [one.id for one in some] == [one.id for one in found[:3]]
    for delivery in taken:
        await delivery.ack()


async def test_in_flight_has_a_limit(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """No number from 1 is refused."""
    with pytest.raises(ms.UsageError, match="limit must be"):
        await mq.in_flight(queue, limit=0)


# --- looking ----------------------------------------------------------------------------------


async def test_peek_shows_what_is_ready(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Peek shows the next messages in order, up to the limit, and delivers none of them."""
    receipts = await any_mq.send_many(queue, range(5), headers={"a": "b"})
    first = await take_one(any_mq, queue)

    messages = await any_mq.peek(queue, limit=3)

    assert [message.body for message in messages] == [1, 2, 3]
    assert [message.id for message in messages] == [receipt.id for receipt in receipts[1:4]]
    assert messages[0].headers == {"a": "b"}
    assert (messages[0].attempts, messages[0].crashes, messages[0].due) == (0, 0, None)
    assert messages[0].sent_at >= first.sent_at
    assert await counts(any_mq, queue) == (4, 0, 1, 0)
    await first.ack()


async def test_peek_shows_what_was_handed_back_first(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """The order of peek is the order of delivery: a released message is next."""
    await mq.send_many(queue, ["released", "later"])
    await (await take_one(mq, queue)).release()

    assert [message.body for message in await mq.peek(queue)] == ["released", "later"]


async def test_peek_shows_what_is_delayed(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Delayed messages are shown with the time at which they are due, the next one first."""
    await any_mq.send_many(queue, ["last", "first", "second"])
    for delivery, delay in zip(await take(any_mq, queue, 3), (300, 100, 200), strict=True):
        await delivery.retry(delay=delay)

    messages = await any_mq.peek(queue, delayed=True, limit=2)

    assert [message.body for message in messages] == ["first", "second"]
    assert messages[0].due is not None
    wait = messages[0].due - datetime.now(UTC)
    assert timedelta(seconds=90) < wait < timedelta(seconds=110)
    assert messages[0].attempts == 1
    assert await any_mq.peek(queue) == []


async def test_dead_letters_come_in_pages(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A cursor leads from page to page through all dead letters, the oldest first."""
    ids = await kill(any_mq, queue, *(f"reason {number}" for number in range(5)))
    pages, cursor = [], None

    while page := await any_mq.dead(queue, limit=2, after=cursor):
        pages.append([letter.id for letter in page])
        cursor = page[-1].cursor

    assert pages == [ids[:2], ids[2:4], ids[4:]]


# --- redrive ----------------------------------------------------------------------------------


async def test_redrive_sends_all_dead_letters_back(
    any_mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Redriven messages are ready with their ids, and their counts begin anew."""
    receipt = await any_mq.send(queue, {"n": 1}, headers={"a": "b"})
    for _ in range(3):
        await (await take_one(any_mq, queue)).retry(delay=0)
    ids = await kill(any_mq, queue, "no", "never")
    assert await counts(any_mq, queue) == (0, 0, 0, 3)

    assert await any_mq.redrive(queue) == 3

    assert await counts(any_mq, queue) == (3, 0, 0, 0)
    again = await drain(any_mq, queue)
    assert [delivery.id for delivery in again] == [receipt.id, *ids]
    assert {(delivery.attempt, delivery.crashes) for delivery in again} == {(1, 0)}
    assert (again[0].body, again[0].headers) == ({"n": 1}, {"a": "b"})


async def test_redrive_many(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """More dead letters than one call looks at are all redriven."""
    await kill(mq, queue, *("no" for _ in range(1100)))

    assert await mq.redrive(queue) == 1100
    assert await counts(mq, queue) == (1100, 0, 0, 0)


async def test_redrive_by_id(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Only the messages that are named go back; names of no dead letter are no error."""
    ids = await kill(any_mq, queue, "a", "b", "c")

    assert await any_mq.redrive(queue, ids=[ids[2], ids[0], "1-1"]) == 2
    assert await any_mq.redrive(queue, ids=[]) == 0

    assert [delivery.id for delivery in await drain(any_mq, queue)] == [ids[0], ids[2]]
    assert [letter.id for letter in await any_mq.dead(queue)] == [ids[1]]


@pytest.mark.parametrize(
    ("glob", "matching"),
    [
        ("timeout", ["timeout"]),
        ("time*", ["timeout", "time is 5% up"]),
        ("*5% up", ["time is 5% up"]),
        ("*", ["timeout", "time is 5% up", "a.b", "a-b"]),
        ("a.b", ["a.b"]),
        ("a?b", []),
        ("tim", []),
    ],
)
async def test_redrive_by_reason(
    mq: ms.AsyncClient, queue: ms.Queue[Any], glob: str, matching: list[str]
) -> None:
    """A reason matches as a whole; a star stands for any text, and nothing else is special."""
    await kill(mq, queue, "timeout", "time is 5% up", "a.b", "a-b")

    assert await mq.redrive(queue, reason=glob) == len(matching)
    assert [delivery.body for delivery in await drain(mq, queue)] == matching


async def test_redrive_by_id_and_reason(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """With both, only messages that fit both go back."""
    ids = await kill(mq, queue, "a", "b", "a")

    assert await mq.redrive(queue, ids=ids[1:], reason="a") == 1
    assert [delivery.id for delivery in await drain(mq, queue)] == [ids[2]]


async def test_redrive_at_a_rate(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """With a rate, the messages come back no faster than that."""
    await kill(mq, queue, *("no" for _ in range(20)))
    started = time.monotonic()

    assert await mq.redrive(queue, rate=40) == 20

    assert 0.35 < time.monotonic() - started < 8


async def test_what_dies_again_is_not_redriven_twice(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """A redriven message that is rejected again stays in the dead letters."""
    ids = await kill(mq, queue, "a", "b")
    assert await mq.redrive(queue) == 2

    async for delivery in mq.receive(queue, wait=0):
        await delivery.reject("again")

    letters = await mq.dead(queue)
    assert [(letter.id, letter.reason) for letter in letters] == [(i, "again") for i in ids]


# --- purge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirm", [{}, {"confirm": False}, {"confirm": 1}, {"confirm": "yes"}])
async def test_purge_wants_to_be_confirmed(
    mq: ms.AsyncClient, queue: ms.Queue[Any], confirm: dict[str, Any]
) -> None:
    """Without confirm=True nothing is deleted, and the error says what to pass."""
    await mq.send(queue, 1)

    with pytest.raises(ms.UsageError, match="confirm=True"):
        await mq.purge(queue, **confirm)

    assert await counts(mq, queue) == (1, 0, 0, 0)


async def test_purge_deletes_what_waits(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Ready and delayed messages are deleted; those in flight and dead ones are not touched."""
    await any_mq.send_many(queue, range(1200))
    in_hand, delayed, dead = await take(any_mq, queue, 3)
    await delayed.retry(delay=60)
    await dead.reject("no")

    assert await any_mq.purge(queue, confirm=True) == 1198

    assert await counts(any_mq, queue) == (0, 0, 1, 1)
    await in_hand.ack()
    assert await drain(any_mq, queue) == []


async def test_purge_deletes_dead_letters(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """With dead=True the dead letters are deleted, and nothing else."""
    await kill(any_mq, queue, "a", "b")
    await any_mq.send(queue, 1)

    assert await any_mq.purge(queue, confirm=True, dead=True) == 2

    assert await counts(any_mq, queue) == (1, 0, 0, 0)


# --- wrong calls ------------------------------------------------------------------------------


def wrong_calls(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> Iterator[tuple[str, Any]]:
    """Calls that make no sense, with the parameter that is to blame."""
    nonsense: Any = "many"
    limits: list[Any] = [0, -1, 1.5, nonsense, None]
    for limit in limits:
        yield "limit", mq.peek(queue, limit=limit)
        yield "limit", mq.peek(queue, limit=limit, delayed=True)
        yield "limit", mq.dead(queue, limit=limit)
    for rate in (0, -1, float("nan"), nonsense):
        yield "rate", mq.redrive(queue, rate=rate)
    yield "ids", mq.redrive(queue, ids="1-1")
    for cursor in (nonsense, "1-1-1", "", f"{1 << 64}-1", "\u0661-1"):
        yield "after", mq.dead(queue, after=cursor)


async def test_wrong_calls_name_the_parameter(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A call that makes no sense is a UsageError that says which parameter is to blame."""
    for parameter, call in wrong_calls(mq, queue):
        with pytest.raises(ms.UsageError, match=parameter):
            await call
