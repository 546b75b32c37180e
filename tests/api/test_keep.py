"""What a queue keeps of handled messages: replayed, sent again, counted and purged, with both clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.api.clients import Connect, counts, drain, take, take_one
from tests.support.proxy import Proxy
from tests.support.wait import until

KEEP = ms.Retain(max_age=3600)


@pytest.fixture
def orders() -> ms.Queue[Any]:
    """A queue that keeps what it has handled."""
    return ms.Queue("orders", keep=KEEP, retry=ms.Retry(backoff=ms.Backoff(first=0.01)))


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    """A bad network in front of `server`."""
    with Proxy(server.port) as proxy:
        yield proxy


async def replayed(mq: ms.AsyncClient, queue: ms.Queue[Any], **options: Any) -> list[Any]:
    return [one.body async for one in mq.replay(queue, **options)]


def next_ms() -> datetime:
    """A time that is after all that was done before, and before all that is done later."""
    now = time.time()
    until(lambda: time.time() > now + 0.005)
    return datetime.fromtimestamp(now + 0.0025, UTC)


async def test_what_was_handled_is_there(any_mq: ms.AsyncClient, orders: ms.Queue[Any]) -> None:
    """With all that was sent, its own id and when it was handled; in the order of handling."""
    first = await any_mq.send(orders, {"n": 1}, headers={"trace": "ab"}, key="c-7")
    second = await any_mq.send(orders, {"n": 2}, priority=3)
    third = await any_mq.send(orders, 3)
    for delivery in await take(any_mq, orders, 3):
        if delivery.body == 3:
            await delivery.retry(delay=0)
        else:
            await delivery.ack()
    [again] = await take(any_mq, orders, 1)
    assert again.body == 3
    await again.ack()

    found = [one async for one in any_mq.replay(orders)]

    assert [one.id for one in found] == [second.id, first.id, third.id]
    assert [one.body for one in found] == [{"n": 2}, {"n": 1}, 3]
    assert (found[1].headers, found[1].key, found[0].priority) == ({"trace": "ab"}, "c-7", 3)
    assert [one.attempts for one in found] == [0, 0, 1]
    handled = [one.handled_at for one in found]
    assert all(at is not None and at >= one.sent_at for at, one in zip(handled, found, strict=True))
    stats = await any_mq.stats(orders)
    assert (stats.kept, stats.acked, stats.ready) == (3, 3, 0)


async def test_send_again_what_was_handled_in_some_time(
    any_mq: ms.AsyncClient, orders: ms.Queue[Any]
) -> None:
    """Whenever it was sent; the new messages are handled, and kept, like any others."""
    await any_mq.send_many(orders, range(6))
    before, during, after = [(await take(any_mq, orders, 2)) for _ in range(3)]
    for delivery in before:
        await delivery.ack()
    begin = next_ms()
    for delivery in during:
        await delivery.ack()
    end = next_ms()
    for delivery in after:
        await delivery.ack()
    assert await replayed(any_mq, orders, since=begin, until=end) == [2, 3]
    assert await replayed(any_mq, orders, until=begin) == [0, 1]

    assert await any_mq.resend(orders, since=begin, until=end) == 2

    assert await counts(any_mq, orders) == (2, 0, 0, 0)
    again = await drain(any_mq, orders)
    assert [(one.body, one.attempt) for one in again] == [(2, 1), (3, 1)]
    assert not {one.id for one in again} & {one.id for one in during}
    assert await replayed(any_mq, orders) == [0, 1, 2, 3, 4, 5, 2, 3]
    assert await any_mq.resend(orders, since=next_ms()) == 0
    assert await any_mq.resend(orders) == 8
    await drain(any_mq, orders)


async def test_partitions(mq: ms.AsyncClient) -> None:
    """They are merged by the time of handling, and what is sent again is in the order of its key."""
    orders: ms.Queue[Any] = ms.Queue("orders", ordered=True, partitions=3, keep=KEEP)
    await mq.send_many(orders, range(30), key=lambda n: str(n % 5))
    handled = await drain(mq, orders)
    assert sorted(one.body for one in handled) == [*range(30)]

    found = [one async for one in mq.replay(orders)]

    assert sorted(one.id for one in found) == sorted(one.id for one in handled)
    times = [one.handled_at or one.sent_at for one in found]
    assert times == sorted(times)
    assert [one.body async for one in mq.replay(orders, limit=7)] == [one.body for one in found[:7]]
    assert (await mq.stats(orders)).kept == 30
    assert await mq.resend(orders) == 30
    again = [one.body for one in await drain(mq, orders)]
    for key in range(5):
        assert [n for n in again if n % 5 == key] == [*range(key, 30, 5)]
    with pytest.raises(ms.UsageError, match=r"in use \(60 kept\).*purge what it keeps"):
        await mq.repartition(ms.Queue("orders", ordered=True, partitions=2))
    assert await mq.purge(orders, confirm=True, kept=True) == 60
    await mq.repartition(ms.Queue("orders", ordered=True, partitions=2))


async def test_limits_and_unique_keys(mq: ms.AsyncClient) -> None:
    """Every kind of message is kept; its key is free, and sending again does not take it."""
    orders: ms.Queue[Any] = ms.Queue(
        "orders", keep=KEEP, max_running=5, max_running_per_key=1, rate=ms.Rate(1000)
    )
    await mq.send(orders, 1, unique="a", ttl=60)
    await mq.send_many(orders, [2, 3], key="k")
    assert [one.body for one in await drain(mq, orders)] == [1, 2, 3]

    assert await replayed(mq, orders) == [1, 2, 3]
    assert not (await mq.send(orders, 4, unique="a")).duplicate
    assert await mq.resend(orders) == 3
    assert [one.body for one in await drain(mq, orders)] == [4, 1, 2, 3]


async def test_bounds_and_purge(mq: ms.AsyncClient, orders: ms.Queue[Any]) -> None:
    """The newest are kept; a purge deletes them all, and nothing else."""
    few: ms.Queue[Any] = ms.Queue("orders", keep=ms.Retain(max_length=3))
    await mq.send_many(few, range(5))
    await drain(mq, few)
    await mq.send(few, "waits")
    assert await replayed(mq, few) == [2, 3, 4]

    assert await mq.purge(few, confirm=True, kept=True) == 3

    assert await replayed(mq, few) == []
    assert await counts(mq, few) == (1, 0, 0, 0)
    with pytest.raises(ms.UsageError, match="one of dead=True and kept=True"):
        await mq.purge(few, confirm=True, kept=True, dead=True)
    with pytest.raises(ms.UsageError, match="expected a Queue"):
        await mq.purge(ms.Topic("t").subscription("s"), confirm=True, kept=True)
    assert await mq.queues() == ["orders"]


async def test_a_queue_without_keep_keeps_nothing(mq: ms.AsyncClient) -> None:
    """Nor has it anything to show."""
    plain: ms.Queue[Any] = ms.Queue("orders")
    await mq.send_many(plain, range(5))
    await drain(mq, plain)

    assert await replayed(mq, plain) == []
    assert (await mq.stats(plain)).kept == 0
    assert await mq.resend(plain) == 0


async def test_a_lost_answer_to_an_ack(
    mq: ms.AsyncClient, connect: Connect, proxy: Proxy, orders: ms.Queue[Any]
) -> None:
    """It is kept once."""
    through = await connect(proxy.url)
    await mq.send_many(orders, [1, 2])
    for delivery in await take(through, orders, 2):
        proxy.drop_replies(to=b"EVALSHA")
        await delivery.ack()

    assert proxy.lost == 2
    assert await replayed(mq, orders) == [1, 2]


async def test_a_lost_answer_to_a_resend(
    mq: ms.AsyncClient, connect: Connect, proxy: Proxy, orders: ms.Queue[Any]
) -> None:
    """Each message is sent again once."""
    await mq.send_many(orders, range(1200))
    await drain(mq, orders, prefetch=500)
    through = await connect(proxy.url)
    assert await through.resend(orders, since=next_ms()) == 0
    proxy.drop_replies(to=b"EVALSHA", times=2)

    assert await through.resend(orders) == 1200

    assert proxy.lost == 2
    assert (await mq.stats(orders)).ready == 1200
    assert sorted(one.body for one in await drain(mq, orders, prefetch=500)) == [*range(1200)]


async def test_what_cannot_be_decoded_is_skipped(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str
) -> None:
    """As of a topic: somebody may have written it there."""
    typed = ms.Queue("orders", int, keep=KEEP)
    await mq.send(typed, 5)
    await drain(mq, typed)
    admin.xadd(queue_keys(namespace, "orders").kept, {"b": '"text"'})

    assert await replayed(mq, typed) == [5]


@pytest.mark.parametrize(
    ("call", "options", "problem"),
    [
        ("replay", {"since": "1718000000000-0"}, "since must be a datetime for a queue"),
        ("replay", {"until": 5}, "until must be a datetime for a queue"),
        ("replay", {"filter": "eu.*"}, "filter is for topics"),
        ("replay", {"limit": 0}, "limit must be"),
        ("resend", {"since": "1718000000000-0"}, "since must be a datetime for a queue"),
        ("resend", {"until": datetime(2026, 1, 1)}, "until must have a time zone"),  # noqa: DTZ001 - refused
        ("resend", {"rate": 0}, "rate must be"),
        ("resend", {"queue": ms.Topic("placed")}, "expected a Queue"),
        ("resend", {"queue": ms.Queue("jobs", store="list")}, "is in a list, which keeps nothing"),
        ("replay", {"queue": ms.Queue("jobs", store="list")}, "is in a list, which keeps nothing"),
    ],
)
async def test_bad_parameters(
    mq: ms.AsyncClient, orders: ms.Queue[Any], call: str, options: Any, problem: str
) -> None:
    """The error names the parameter and says why."""
    calls: dict[str, Any] = {"replay": partial(replayed, mq), "resend": mq.resend}
    with pytest.raises(ms.UsageError, match=problem):
        await calls[call](**{"queue": orders, **options})


async def test_the_lag_between_sending_and_handling(
    mq: ms.AsyncClient, orders: ms.Queue[Any]
) -> None:
    """A time range means when it was handled, not when it was sent."""
    await mq.send(orders, 1)
    sent = next_ms()
    await (await take_one(mq, orders)).ack()

    assert await replayed(mq, orders, until=sent) == []
    assert await replayed(mq, orders, since=sent) == [1]
    assert await replayed(mq, orders, since=sent + timedelta(hours=1)) == []
