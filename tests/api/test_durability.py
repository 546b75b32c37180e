"""Durability by choice: what is confirmed, what is refused, and what is stored without confirmation."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import Connect, Kind, connecting
from tests.support.pairs import pair
from tests.support.servers import Server, installed
from tests.support.wait import auntil

ORDERS: ms.Queue[Any] = ms.Queue("orders")
ORDERED: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=4)
BOUNDED: ms.Queue[Any] = ms.Queue("bounded", bound=ms.Bound(10))
LISTED: ms.Queue[Any] = ms.Queue("listed", store="list")
WITH_RESULTS: ms.Queue[Any] = ms.Queue("resulting", results=ms.Results())
NEWS: ms.Topic[Any] = ms.Topic("news")
ORDERED_NEWS: ms.Topic[Any] = ms.Topic("ordered-news", ordered=True, partitions=4)

SHORT = 2.0
"""Timeout of a client whose sends are not to be confirmed."""


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """A thread for each blocking call."""
    with ThreadPoolExecutor(120) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        yield


@pytest.fixture(scope="module", params=installed(("valkey-8.1", "redis-8.2")))
def syncing(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose file is synced for each command, so that no test waits for a second."""
    with Server(request.param, appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    with pair() as servers:
        yield servers


@pytest.fixture
def replica(two: tuple[Server, Server]) -> Iterator[Server]:
    """The replica; a test may pause it."""
    yield two[1]
    two[1].resume()


@pytest.fixture
async def safe(kind: Kind, syncing: Server, namespace: str) -> AsyncIterator[Connect]:
    """Make clients of `syncing`."""
    async with connecting(kind, syncing.limited_url, namespace) as connect:
        yield connect


@pytest.fixture
async def led(kind: Kind, two: tuple[Server, Server], namespace: str) -> AsyncIterator[Connect]:
    """Make clients of the primary."""
    async with connecting(kind, two[0].limited_url, namespace) as connect:
        yield connect


async def unconfirmed(sending: Any) -> ms.NotConfirmed:
    """The error of a send, which must be this one."""
    with pytest.raises(ms.NotConfirmed) as caught:
        await sending
    return caught.value


def ids(receipts: Any) -> list[str]:
    return [receipt.id for receipt in receipts]


async def stored(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> list[str]:
    """The ids of a queue's messages."""
    return [message.id for message in await mq.peek(queue, limit=10_000)]


# --- confirmed --------------------------------------------------------------------------------


async def test_every_way_to_send_is_confirmed(safe: Connect) -> None:
    """Plain, with options, ordered, bounded, in a list, many, published: each receipt says fsync."""
    mq = await safe(durability="fsync")
    receipts = [
        await mq.send(ORDERS, 1),
        await mq.send(ORDERS, 1, headers={"a": "b"}),
        await mq.send(ORDERS, 1, delay=60),
        await mq.send(ORDERS, 1, priority=3),
        await mq.send(ORDERS, 1, unique="u"),
        await mq.send(ORDERED, 1, key="k"),
        await mq.send(BOUNDED, 1),
        await mq.send(LISTED, 1),
        await mq.send(LISTED, 1, delay=60),
        (await mq.send(WITH_RESULTS, 1, result=True)).receipt,
        *await mq.send_many(ORDERS, [1, 2]),
        *await mq.send_many(ORDERED, [1, 2, 3], key=str),
        *await mq.send_many(BOUNDED, [1, 2]),
        *await mq.send_many(LISTED, [1, 2]),
        await mq.publish(NEWS, 1),
        await mq.publish(NEWS, 1, subject="a.b"),
        await mq.publish(ORDERED_NEWS, 1, key="k"),
        *await mq.publish_many(NEWS, [1, 2]),
        *await mq.publish_many(ORDERED_NEWS, [1, 2, 3], key=str),
    ]

    assert {receipt.durability for receipt in receipts} == {"fsync"}
    assert len({(receipt.id) for receipt in receipts}) > len(receipts) / 2
    duplicate = await mq.send(ORDERS, 1, unique="u")
    assert (duplicate.duplicate, duplicate.durability) == (True, "fsync")
    assert len(await stored(mq, ORDERS)) == 6
    assert len(await stored(mq, ORDERED)) == 4


async def test_who_has_the_last_word(safe: Connect) -> None:
    """The call, then the declaration, then the client; by default the server's memory."""
    declared: ms.Queue[Any] = ms.Queue("declared", durability="fsync")
    topic: ms.Topic[Any] = ms.Topic("declared", durability="fsync")
    plain, strict = await safe(), await safe(durability="fsync")

    assert (await plain.send(ORDERS, 1)).durability == "memory"
    assert (await plain.send(declared, 1)).durability == "fsync"
    assert (await plain.publish(topic, 1)).durability == "fsync"
    assert (await plain.send(declared, 1, durability="memory")).durability == "memory"
    assert (await strict.send(ORDERS, 1)).durability == "fsync"
    assert (await strict.send(ORDERS, 1, durability="memory")).durability == "memory"
    assert (await strict.publish(NEWS, 1, durability="memory")).durability == "memory"
    memory: ms.Queue[Any] = ms.Queue("memory", durability="memory")
    assert (await strict.send(memory, 1)).durability == "memory"


async def test_many_tasks_share_a_confirmation(safe: Connect, syncing: Server) -> None:
    """A hundred sends at the same time wait for a few confirmations, not for a hundred."""
    mq = await safe(durability="fsync")
    await mq.send(ORDERS, 0)
    admin: Any = syncing.admin()
    before = admin.info("commandstats")["cmdstat_waitaof"]["calls"]
    await asyncio.gather(*(mq.send(ORDERS, number) for number in range(100)))
    after = admin.info("commandstats")["cmdstat_waitaof"]["calls"]

    assert after - before < 50
    assert len(await stored(mq, ORDERS)) == 101


async def test_many_messages_are_confirmed_in_order(safe: Connect) -> None:
    """More messages than one batch takes go out in their order, with a receipt for each."""
    mq = await safe(durability="fsync")
    receipts = await mq.send_many(ORDERS, range(2000))

    messages = await mq.peek(ORDERS, limit=2000)
    assert [message.id for message in messages] == ids(receipts)
    assert [message.body for message in messages] == list(range(2000))


async def test_a_replica_confirms(
    led: Connect, two: tuple[Server, Server], replica: Server, namespace: str
) -> None:
    """A send that returns with replicas:1 is at the replica."""
    mq = await led()
    receipt = await mq.send(ORDERS, 1, durability="replicas:1")

    admin: Any = replica.admin()
    entries = admin.xrange(f"{namespace}:{{orders}}:ready")
    assert (receipt.durability, [entries[0][0].decode()]) == ("replicas:1", [receipt.id])


# --- not confirmed ----------------------------------------------------------------------------


async def test_stored_and_not_confirmed(led: Connect, replica: Server) -> None:
    """Without the replica a send is an error that has the receipt; confirming stores nothing more."""
    mq = await led(timeout=SHORT)
    await mq.send(ORDERS, 1, durability="replicas:1")
    replica.pause()
    error = await unconfirmed(mq.send(ORDERS, 2, durability="replicas:1"))

    [receipt] = error.receipts
    assert (receipt.durability, error.wanted) == ("memory", "replicas:1")
    assert receipt.id in str(error)
    again = await unconfirmed(mq.confirm(error))
    assert ids(again.receipts) == [receipt.id]
    # The next sends go by another producer: the server still recognises the first.
    await unconfirmed(mq.send(ORDERS, 3, durability="replicas:1"))
    replica.resume()
    await auntil(lambda: mq.send(ORDERS, 4, durability="replicas:1"), message="it is back")
    for one in (error, again):
        assert await mq.confirm(one) == [ms.Receipt(receipt.id, durability="replicas:1")]
    assert [message.body for message in await mq.peek(ORDERS)] == [1, 2, 3, 4]


async def test_some_replicas_are_told(led: Connect) -> None:
    """Of two replicas that are wanted, the error says that one has it."""
    mq = await led(timeout=SHORT)
    error = await unconfirmed(mq.send(ORDERS, 1, durability="replicas:2"))

    assert (error.receipts[0].durability, error.wanted) == ("replicas:1", "replicas:2")
    assert "1 of 2 replicas" in str(error)


@pytest.mark.parametrize("queue", [ORDERS, ORDERED, BOUNDED], ids=lambda queue: queue.name)
async def test_many_not_confirmed(led: Connect, replica: Server, queue: ms.Queue[Any]) -> None:
    """The error of a send_many has all receipts in order, and confirm returns the same ones."""
    # Storing so many takes a part of it.
    mq = await led(timeout=2 * SHORT)
    count = 10 if queue is BOUNDED else 1200
    key = (lambda body: str(body % 7)) if queue is ORDERED else None
    replica.pause()
    error = await unconfirmed(
        mq.send_many(queue, list(range(count)), durability="replicas:1", key=key)
    )
    replica.resume()
    patient = await led()
    # Only the client that has sent them can tell the server which they are.
    with pytest.raises(ms.UsageError, match="this client"):
        await patient.confirm(error)
    receipts = await mq.confirm(error)

    assert ids(receipts) == ids(error.receipts)
    assert {receipt.durability for receipt in receipts} == {"replicas:1"}
    bodies = {message.id: message.body for message in await mq.peek(queue, limit=2000)}
    assert [bodies[receipt.id] for receipt in receipts] == list(range(count))
    assert len(bodies) == count


async def test_memory_waits_for_nobody(led: Connect, replica: Server) -> None:
    """While a send waits for a replica, those that need not be confirmed return, and others arrive."""
    mq = await led()
    replica.pause()
    waiting = [
        asyncio.create_task(mq.send(ORDERS, number, durability="replicas:1")) for number in (1, 2)
    ]
    await auntil(lambda: stored(mq, ORDERS), message="it is stored")
    assert (await mq.send(ORDERS, 3)).durability == "memory"
    late = asyncio.create_task(mq.send(ORDERS, 4, durability="replicas:1"))
    bodies = {1, 2, 3, 4}
    await auntil(
        lambda: _bodies_are(mq, bodies), message="what comes later is stored meanwhile, too"
    )
    assert not any(task.done() for task in (*waiting, late))
    replica.resume()
    receipts = await asyncio.gather(*waiting, late)
    assert {receipt.durability for receipt in receipts} == {"replicas:1"}
    assert len(await stored(mq, ORDERS)) == 4


async def _bodies_are(mq: ms.AsyncClient, expected: set[int]) -> bool:
    return {message.body for message in await mq.peek(ORDERS)} == expected


async def test_a_file_that_is_switched_off(kind: Kind, namespace: str) -> None:
    """Without an append-only file nothing is sent; switched off later, the error says how to mend it."""
    with Server() as server:
        admin: Any = server.admin()
        async with connecting(kind, server.limited_url, namespace) as connect:
            mq = await connect(timeout=5)
            with pytest.raises(ms.ServerRefused, match="CONFIG SET appendonly yes") as refused:
                await mq.send(ORDERS, 1, durability="fsync")
            assert "Nothing was sent" in str(refused.value)
            admin.config_set("appendonly", "yes")
            admin.config_set("appendfsync", "no")
            with pytest.raises(ms.ServerRefused, match="CONFIG SET appendfsync everysec"):
                await mq.send(ORDERS, 1, durability="fsync")
            assert admin.dbsize() == 0
            admin.config_set("appendfsync", "everysec")
            assert (await mq.send(ORDERS, 1, durability="fsync")).durability == "fsync"
            admin.config_set("appendonly", "no")
            error = await unconfirmed(mq.send(ORDERS, 2, durability="fsync"))
            assert "CONFIG SET appendonly yes" in str(error)
            assert await stored(mq, ORDERS) == [(await stored(mq, ORDERS))[0], error.receipts[0].id]


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.skipif("redis-6.2" not in installed(), reason="redis-6.2 is not installed")
async def test_a_server_without_waitaof(kind: Kind, namespace: str) -> None:
    """An old server is refused with the version that is needed, before anything is stored."""
    with Server("redis-6.2", appendonly=True) as server:
        async with connecting(kind, server.limited_url, namespace) as connect:
            mq = await connect(timeout=SHORT)
            with pytest.raises(ms.UnsupportedServer, match=r"7\.2") as refused:
                await mq.send(ORDERS, 1, durability="fsync")
            assert refused.value.version.startswith("6.2")
            admin: Any = server.admin()
            assert admin.dbsize() == 0
            # What it can do, it does.
            error = await unconfirmed(mq.send(ORDERS, 1, durability="replicas:1"))
            assert await stored(mq, ORDERS) == ids(error.receipts)


@pytest.mark.parametrize(
    "durability", ["", "disk", "replicas", "replicas:0", "replicas:x", "fsync ", 1, True]
)
async def test_no_such_durability(mq: ms.AsyncClient, durability: Any) -> None:
    """What is none is refused wherever it is said, and the error lists what there is."""
    with pytest.raises(ms.UsageError, match="replicas:N"):
        await mq.send(ORDERS, 1, durability=durability)
    with pytest.raises(ms.UsageError, match="replicas:N"):
        await mq.publish_many(NEWS, [1], durability=durability)
    with pytest.raises(ms.UsageError, match="queue 'q': durability"):
        ms.Queue("q", durability=durability)
    with pytest.raises(ms.UsageError, match="topic 't': durability"):
        ms.Topic("t", durability=durability)
    with pytest.raises(ms.UsageError, match="durability must be"):
        ms.Client(durability=durability)


async def test_what_cannot_be_confirmed(mq: ms.AsyncClient) -> None:
    """A send that waits for room and a message that nobody keeps are refused, with the reason."""
    waiting: ms.Queue[Any] = ms.Queue("waiting", bound=ms.Bound(5, on_full="wait"))
    ticks: ms.Topic[Any] = ms.Topic("ticks", durable=False)

    with pytest.raises(ms.UsageError, match="on_full='reject'"):
        await mq.send(waiting, 1, durability="fsync")
    with pytest.raises(ms.UsageError, match="on_full='reject'"):
        ms.Queue("waiting", bound=ms.Bound(5, on_full="wait"), durability="fsync")
    with pytest.raises(ms.UsageError, match="keeps nothing"):
        await mq.publish(ticks, 1, durability="fsync")
    with pytest.raises(ms.UsageError, match="durability needs messages that are kept"):
        ms.Topic("ticks", durable=False, durability="fsync")


async def test_a_strict_client_publishes_what_nobody_keeps(safe: Connect) -> None:
    """What a client says is for messages that are kept; others are published as ever."""
    mq = await safe(durability="fsync")
    receipt = await mq.publish(ms.Topic("ticks", durable=False), 1)

    assert receipt.durability == "none"


async def test_what_confirm_takes(led: Connect, replica: Server) -> None:
    """An error that has been pickled still tells all, but not to this function; nor does any other."""
    mq = await led(timeout=SHORT)
    replica.pause()
    error = await unconfirmed(mq.send_many(ORDERS, [1, 2], durability="replicas:1"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (copy.receipts, copy.wanted, str(copy)) == (error.receipts, error.wanted, str(error))
    wrong: Any
    for wrong in (copy, ValueError(), "orders"):
        with pytest.raises(ms.UsageError, match="confirm takes"):
            await mq.confirm(wrong)


async def test_a_closed_client_confirms_nothing(led: Connect) -> None:
    """After its end a client sends nothing, and says so."""
    mq = await led()
    await mq.send(ORDERS, 1, durability="replicas:1")
    await mq.aclose()

    with pytest.raises(ms.UsageError, match="closed"):
        await mq.send(ORDERS, 2, durability="replicas:1")
