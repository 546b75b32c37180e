"""Transactions: outputs, plain writes and the acknowledgement are one step, and only the owner's."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import PATIENCE, Connect, counts, drain, take, take_one
from tests.support.proxy import Proxy
from tests.support.servers import Server

NEXT: ms.Queue[Any] = ms.Queue("next")
PLACED: ms.Topic[Any] = ms.Topic("placed")


@pytest.fixture
async def app(admin: redis.Redis) -> AsyncIterator[str]:
    """The beginning of the test's own keys, which are not Millstream's."""
    prefix = f"t-app-{uuid.uuid4().hex[:12]}"
    yield prefix
    for key in admin.scan_iter(match=f"{prefix}*"):
        admin.delete(key)


Act = Callable[[Any], object]


async def commit(delivery: ms.Delivery[Any], act: Act) -> None:
    """A transaction that does this."""
    async with delivery.transaction() as tx:
        act(tx)


async def awaited(value: Any) -> Any:
    """What a method of either kind of handle returns."""
    return await value if inspect.isawaitable(value) else value


async def test_all_of_it_happens_at_the_end_of_the_block(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, app: str
) -> None:
    """Before that nothing is there; then the outputs, the writes and the acknowledgement are."""
    audit = PLACED.subscription("audit")
    await mq.declare(audit)
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    async with delivery.transaction() as tx:
        tx.send(NEXT, "sent", headers={"a": "b"})
        tx.publish(PLACED, "published", subject="eu.paid", key="k")
        tx.send(NEXT, "later", delay=60)
        tx.set(f"{app}:set", "x", ttl=60)
        tx.incrby(f"{app}:count", 5)
        tx.hset(f"{app}:hash", {"a": 1, "b": "x"})
        tx.hincrby(f"{app}:hash", "a")
        tx.sadd(f"{app}:members", "a", b"b")
        tx.zadd(f"{app}:scores", {"a": 1.5})
        tx.rpush(f"{app}:list", 1, 2)
        assert await counts(mq, NEXT) == (0, 0, 0, 0)
        assert (await mq.stats(queue)).in_flight == 1
        assert tx.receipts == []

    assert await counts(mq, queue) == (0, 0, 0, 0)
    assert await counts(mq, NEXT) == (1, 1, 0, 0)
    [sent] = await drain(mq, NEXT)
    [published] = await drain(mq, audit)
    assert (sent.body, sent.headers) == ("sent", {"a": "b"})
    assert (published.body, published.subject, published.key) == ("published", "eu.paid", "k")
    assert [one.id for one in tx.receipts][:2] == [sent.id, published.id]
    assert len(tx.receipts) == 3
    assert admin.get(f"{app}:set") == b"x"
    assert admin.pttl(f"{app}:set") > 0
    assert admin.get(f"{app}:count") == b"5"
    assert admin.hgetall(f"{app}:hash") == {b"a": b"2", b"b": b"x"}
    assert admin.smembers(f"{app}:members") == {b"a", b"b"}
    assert admin.zrange(f"{app}:scores", 0, -1, withscores=True) == [(b"a", 1.5)]
    assert admin.lrange(f"{app}:list", 0, -1) == [b"1", b"2"]


async def test_the_other_writes(mq: ms.AsyncClient, admin: redis.Redis, app: str) -> None:
    """What takes away is as much a part of it as what adds."""
    admin.set(f"{app}:gone", 1)
    admin.set(f"{app}:brief", 1)
    admin.sadd(f"{app}:set", "a", "b")
    admin.hset(f"{app}:hash", mapping={"a": 1, "b": 2})
    admin.zadd(f"{app}:scores", {"a": 1, "b": 2})
    await mq.send(NEXT, 1)
    async with (await take_one(mq, NEXT)).transaction() as tx:
        tx.delete(f"{app}:gone", f"{app}:never")
        tx.expire(f"{app}:brief", 60)
        tx.srem(f"{app}:set", "a")
        tx.hdel(f"{app}:hash", "a", "c")
        tx.zrem(f"{app}:scores", "a")
        tx.lpush(f"{app}:list", "a", "b")

    assert admin.exists(f"{app}:gone") == 0
    assert admin.pttl(f"{app}:brief") > 0
    assert admin.smembers(f"{app}:set") == {b"b"}
    assert admin.hkeys(f"{app}:hash") == [b"b"]
    assert admin.zrange(f"{app}:scores", 0, -1) == [b"b"]
    assert admin.lrange(f"{app}:list", 0, -1) == [b"b", b"a"]


async def test_a_block_that_raises_does_nothing(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, app: str
) -> None:
    """The delivery is as it was, and can be settled in another way, or by another transaction."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    def act(tx: Any) -> None:
        tx.send(NEXT, 1)
        tx.incrby(f"{app}:count")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await commit(delivery, act)

    assert await counts(mq, NEXT) == (0, 0, 0, 0)
    assert (await counts(mq, queue))[2] == 1
    assert not admin.exists(f"{app}:count")
    async with delivery.transaction() as tx:
        tx.incrby(f"{app}:count")
    assert admin.get(f"{app}:count") == b"1"
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_only_once(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, app: str
) -> None:
    """What is settled cannot be committed, and what is committed cannot be settled."""
    await mq.send_many(queue, [1, 2])
    first, second = await take(mq, queue, 2)
    async with first.transaction() as tx:
        tx.incrby(f"{app}:count")
    await second.ack()

    for delivery in (first, second):
        with pytest.raises(ms.LeaseLost):
            await commit(delivery, lambda tx: tx.incrby(f"{app}:count"))
    with pytest.raises(ms.LeaseLost):
        await first.ack()
    assert admin.get(f"{app}:count") == b"1"


async def test_a_late_owner_changes_nothing(
    mq: ms.AsyncClient, connect: Connect, brief: ms.Queue[Any], admin: redis.Redis, app: str
) -> None:
    """Whoever has the message by now commits; who had it before is refused, before and after that."""
    await mq.send(brief, 1)
    old = await take_one(mq, brief)
    new = await take_one(await connect(), brief)
    assert new.crashes == 1

    def act(tx: Any) -> None:
        tx.send(NEXT, 1)
        tx.incrby(f"{app}:count")

    with pytest.raises(ms.LeaseLost):
        await commit(old, act)
    await commit(new, act)
    with pytest.raises(ms.LeaseLost):
        await commit(old, act)
    assert admin.get(f"{app}:count") == b"1"
    assert [one.body for one in await drain(mq, NEXT)] == [1]


async def test_a_lost_reply(
    connect: Connect,
    server: Server,
    namespace: str,
    queue: ms.Queue[Any],
    admin: redis.Redis,
    app: str,
) -> None:
    """The commit is repeated, and done once; its receipts are those of the first time."""
    with Proxy(server.port) as proxy:
        mq = await connect(proxy.url)
        await mq.send_many(queue, range(3))
        for delivery in await take(mq, queue, 3):
            proxy.drop_replies(to=f"{app}:count".encode())
            async with delivery.transaction() as tx:
                tx.send(NEXT, delivery.body)
                tx.incrby(f"{app}:count")
            assert len(tx.receipts) == 1
        assert proxy.lost == 3
        assert admin.get(f"{app}:count") == b"3"
        assert await counts(mq, queue) == (0, 0, 0, 0)
        assert [one.body for one in await drain(mq, NEXT)] == [0, 1, 2]


# Outputs of every kind


async def test_where_outputs_go(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Each option is as for a send: order, priorities, unique keys, partitions, lists."""
    ordered: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=3)
    listed: ms.Queue[Any] = ms.Queue("listed", store="list")
    await mq.send(queue, 1)
    async with (await take_one(mq, queue)).transaction() as tx:
        for n in range(4):
            tx.send(ordered, n, key="a")
            tx.send(ordered, n, key="b")
        tx.send(NEXT, "low")
        tx.send(NEXT, "high", priority=9, ttl=60)
        tx.send(NEXT, "first", unique="u")
        tx.send(NEXT, "second", unique="u")
        tx.send(listed, "plain")
        tx.send(listed, "later", delay=60)

    receipts = tx.receipts
    assert [one.duplicate for one in receipts[8:14]] == [False, False, False, True, False, False]
    assert receipts[10].id == receipts[11].id
    assert await counts(mq, listed) == (1, 1, 0, 0)
    found = [one.body for one in await drain(mq, NEXT)]
    assert (found[0], sorted(found)) == ("high", ["first", "high", "low"])
    by_key: dict[str | None, list[int]] = {}
    ids = set()
    for one in await drain(mq, ordered, prefetch=1):
        by_key.setdefault(one.key, []).append(one.body)
        ids.add(one.id)
    assert by_key == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    assert ids == {one.id for one in receipts[:8]}


@pytest.mark.parametrize("on_full", ["reject", "wait"])
async def test_a_full_output_refuses_everything(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, app: str, on_full: Any
) -> None:
    """Nothing is written, wherever it stands among the others; with room it goes."""
    full: ms.Queue[Any] = ms.Queue("full", bound=ms.Bound(2, on_full=on_full))
    await mq.send(full, 0)
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)

    def act(tx: Any) -> None:
        tx.incrby(f"{app}:count")
        tx.send(NEXT, 1)
        tx.send(full, 1)
        tx.send(full, 2)
        tx.publish(PLACED, 1)

    with pytest.raises(ms.QueueFull, match="2 messages") as caught:
        await commit(delivery, act)
    assert (caught.value.queue, caught.value.length, caught.value.bound) == ("full", 1, 2)
    assert not admin.exists(f"{app}:count")
    assert await counts(mq, NEXT) == (0, 0, 0, 0)
    assert (await counts(mq, queue))[2] == 1
    await drain(mq, full)
    await commit(delivery, act)
    assert admin.get(f"{app}:count") == b"1"
    assert (await counts(mq, full))[0] == 2


async def test_an_output_that_drops_its_oldest(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """It makes room, as for a send; what others are at cannot be dropped, and nothing happens then."""
    short: ms.Queue[Any] = ms.Queue("short", bound=ms.Bound(2, on_full="drop_oldest"))
    await mq.send_many(short, ["a", "b"])
    await mq.send_many(queue, [1, 2])
    first, second = await take(mq, queue, 2)
    async with first.transaction() as tx:
        tx.send(short, "c")
    held = await take(mq, short, 2)
    assert [one.body for one in held] == ["b", "c"]

    with pytest.raises(ms.QueueFull):
        await commit(second, lambda tx: (tx.send(NEXT, 1), tx.send(short, "d")))
    assert await counts(mq, NEXT) == (0, 0, 0, 0)
    assert (await counts(mq, queue))[2] == 1


async def test_the_queue_itself(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A message may be followed by another one of its queue: a step that says where to go on."""
    await mq.send(queue, 0)
    seen = []
    async for delivery in mq.receive(queue, wait=0):
        seen.append(delivery.body)
        async with delivery.transaction() as tx:
            if delivery.body < 3:
                tx.send(queue, delivery.body + 1)
    assert seen == [0, 1, 2, 3]


async def test_a_topic_keeps_what_it_declares(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """What is published by transactions alone is trimmed like everything else."""
    short: ms.Topic[Any] = ms.Topic("short", retain=ms.Retain(max_length=100, until_consumed=False))
    await mq.send_many(queue, range(8))
    for delivery in await take(mq, queue, 8):
        async with delivery.transaction() as tx:
            for n in range(200):
                tx.publish(short, n)
    before = (await mq.stats(short)).length
    async for delivery in mq.receive(short.subscription("late", start=ms.EARLIEST), wait=0):
        await delivery.ack()
    assert 100 <= before <= 1600


# Deliveries of every kind


async def test_an_ordered_key_goes_on(mq: ms.AsyncClient) -> None:
    """The next message of a key comes once the one before is committed, and not before."""
    ordered: ms.Queue[Any] = ms.Queue("ordered", ordered=True)
    await mq.send_many(ordered, [1, 2], key="k")
    first = await take_one(mq, ordered)
    assert await take(mq, ordered, wait=0) == []
    async with first.transaction() as tx:
        tx.send(NEXT, first.body)
    second = await take_one(mq, ordered)
    assert (first.body, second.body) == (1, 2)
    await second.ack()


async def test_limits_and_unique_keys_are_freed(mq: ms.AsyncClient) -> None:
    """A commit frees the slot of a limit and the unique key, as an acknowledgement does."""
    limited: ms.Queue[Any] = ms.Queue("limited", max_running=1)
    first = await mq.send(limited, 1, unique="u")
    await mq.send(limited, 2)
    delivery = await take_one(mq, limited)
    assert await take(mq, limited, wait=0) == []
    async with delivery.transaction() as tx:
        tx.send(NEXT, 1)
    again = await mq.send(limited, 3, unique="u")
    assert not again.duplicate
    assert again.id != first.id
    assert [one.body for one in await drain(mq, limited)] == [2, 3]


async def test_a_subscription(mq: ms.AsyncClient, connect: Connect) -> None:
    """One subscription commits what it has read, and the others still get it; also with a filter."""
    audit = PLACED.subscription("audit")
    eu = PLACED.subscription("eu", filter="eu.>")
    await mq.declare(audit)
    await mq.declare(eu)
    await mq.publish(PLACED, 1, subject="eu.paid")
    for source in (audit, eu):
        delivery = await take_one(mq, source)
        async with delivery.transaction() as tx:
            tx.send(NEXT, source.name)
        assert (await mq.stats(source)).in_flight == 0
        with pytest.raises(ms.LeaseLost):
            await delivery.ack()
    assert [one.body for one in await drain(mq, NEXT)] == [audit.name, eu.name]


async def test_a_list(mq: ms.AsyncClient, connect: Connect, admin: redis.Redis, app: str) -> None:
    """A queue in a list has the same fence."""
    listed: ms.Queue[Any] = ms.Queue("listed", store="list", lease=0.5)
    await mq.send(listed, 1)
    old = await take_one(mq, listed)
    new = await take_one(await connect(), listed)
    async with new.transaction() as tx:
        tx.incrby(f"{app}:count")
        tx.send(listed, 2)
    with pytest.raises(ms.LeaseLost):
        await commit(old, lambda tx: tx.incrby(f"{app}:count"))
    assert admin.get(f"{app}:count") == b"1"
    assert [one.body for one in await drain(mq, listed)] == [2]


async def test_what_a_queue_keeps(mq: ms.AsyncClient) -> None:
    """A committed message is kept like any other that was handled."""
    kept: ms.Queue[Any] = ms.Queue("kept", keep=ms.Retain(max_length=10))
    await mq.send(kept, 1)
    async with (await take_one(mq, kept)).transaction() as tx:
        tx.send(NEXT, 1)
    assert [one.body async for one in mq.replay(kept)] == [1]


async def test_a_result(mq: ms.AsyncClient) -> None:
    """A result can be a part of it; without one, who waits gets None, as for any ack by hand."""
    jobs: ms.Queue[Any] = ms.Queue("jobs", results=ms.Results(type=int))
    handles = [await mq.send(jobs, n, result=True) for n in range(2)]
    for delivery in await take(mq, jobs, 2):
        async with delivery.transaction() as tx:
            if delivery.body:
                tx.result(42)
            with pytest.raises(ms.UsageError):
                tx.result("no number")
    assert [await awaited(one.result(timeout=PATIENCE)) for one in handles] == [None, 42]


async def test_a_message_whose_result_is_wanted(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """The receipt leads to the result."""
    jobs: ms.Queue[Any] = ms.Queue("jobs", results=ms.Results())
    await mq.send(queue, 1)
    async with (await take_one(mq, queue)).transaction() as tx:
        tx.send(jobs, 1, result=True)
    await drain(mq, jobs)
    handle = await awaited(mq.handle(jobs, tx.receipts[0].id))
    assert await awaited(handle.result(timeout=PATIENCE)) is None


# What is refused


async def test_deliveries_that_have_none(mq: ms.AsyncClient) -> None:
    """What is gone from its queue cannot be acknowledged with anything."""
    samples: ms.Queue[Any] = ms.Queue("samples", delivery="at_most_once")
    await mq.send(samples, 1)
    delivery = await take_one(mq, samples)
    with pytest.raises(ms.UsageError, match="at_most_once"):
        delivery.transaction()


Refused = Callable[[Any, str], Any]

REFUSED: dict[str, tuple[Refused, str]] = {
    "no queue": (lambda tx, _: tx.send("next", 1), "expected a Queue"),
    "a topic for a queue": (lambda tx, _: tx.send(PLACED, 1), "publish to"),
    "a queue for a topic": (lambda tx, _: tx.publish(NEXT, 1), "send to"),
    "an ephemeral topic": (
        lambda tx, _: tx.publish(ms.Topic("ticks", durable=False), 1),
        "keeps nothing",
    ),
    "a body of another type": (lambda tx, _: tx.send(ms.Queue("n", int), "x"), "int"),
    "a body without an encoding": (lambda tx, _: tx.send(NEXT, object()), "queue 'next'"),
    "a priority": (lambda tx, _: tx.send(NEXT, 1, priority=10), "priority"),
    "a wish for a result": (lambda tx, _: tx.send(NEXT, 1, result=True), "results"),
    "a result": (lambda tx, _: tx.result(1), "results"),
    "no key": (lambda tx, _: tx.set("", 1), "key"),
    "a key of bytes": (lambda tx, app: tx.set(app.encode(), 1), "key"),
    "a key without bytes": (lambda tx, _: tx.incrby("\ud800"), "key"),
    "a value of None": (lambda tx, app: tx.set(app, None), "NoneType"),
    "a value of bool": (lambda tx, app: tx.set(app, True), "bool"),
    "a value without bytes": (lambda tx, app: tx.set(app, "\ud800"), "value"),
    "a lifetime of nothing": (lambda tx, app: tx.set(app, 1, ttl=0), "ttl"),
    "an amount": (lambda tx, app: tx.incrby(app, 1.5), "amount"),
    "an amount beyond": (lambda tx, app: tx.incrby(app, 2**63), "amount"),
    "no members": (lambda tx, app: tx.sadd(app), "sadd"),
    "no fields": (lambda tx, app: tx.hset(app, {}), "hset"),
    "no mapping": (lambda tx, app: tx.hset(app, [1]), "hset"),
    "a score": (lambda tx, app: tx.zadd(app, {"a": "b"}), "score"),
    "no score": (lambda tx, app: tx.zadd(app, {"a": float("nan")}), "score"),
    "too much at once": (lambda tx, app: tx.rpush(app, *range(1001)), "1000"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_a_part_of_it(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, app: str, what: str
) -> None:
    """It is refused where it is asked for, and the block does nothing."""
    refused, words = REFUSED[what]
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    with pytest.raises(ms.UsageError, match=words):
        await commit(delivery, lambda tx: (tx.set(f"{app}:before", 1), refused(tx, app)))
    assert not admin.exists(f"{app}:before")
    await delivery.ack()


async def test_keys_of_millstream(mq: ms.AsyncClient, queue: ms.Queue[Any], namespace: str) -> None:
    """A plain write to one of them is refused: it could break a queue."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    with pytest.raises(ms.UsageError, match="Millstream's own"):
        await commit(delivery, lambda tx: tx.delete(f"{namespace}:{{orders}}:ready"))
    await delivery.ack()


async def test_an_output_that_others_declare_otherwise(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Nothing is done; the error says how to declare it."""
    await mq.send(ms.Queue("ordered", ordered=True, partitions=2), 1, key="k")
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    with pytest.raises(ms.UsageError, match="ordered=True, partitions=2"):
        await commit(delivery, lambda tx: (tx.send(NEXT, 1), tx.send(ms.Queue("ordered"), 1)))
    assert await counts(mq, NEXT) == (0, 0, 0, 0)
    await delivery.ack()


async def test_outside_of_its_block(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A transaction takes nothing before and after its block, and has one block."""
    await mq.send(queue, 1)
    delivery = await take_one(mq, queue)
    block = delivery.transaction()
    async with block as tx:
        with pytest.raises(ms.UsageError, match="has begun already"):
            async with block:
                pass
    with pytest.raises(ms.UsageError, match="has begun already"):
        async with block:
            pass
    with pytest.raises(ms.UsageError, match="is over"):
        tx.send(NEXT, 1)
    with pytest.raises(ms.UsageError, match="is over"):
        tx.incrby("k")
