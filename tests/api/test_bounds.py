"""Queues with a bound: sends that are refused, wait for room, or push out what is oldest."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
import redis

import millstream as ms
from tests.api.clients import Connect, Kind, connecting, counts, drain, take, take_one
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil

OnFull = Literal["reject", "wait", "drop_oldest"]
SHORT = 0.2

AT_ONCE = 10
"""Seconds: on a busy machine, too, and before its own patience would end."""


def bounded(length: int, on_full: OnFull = "reject", **options: Any) -> ms.Queue[Any]:
    return ms.Queue("orders", bound=ms.Bound(length, on_full=on_full), **options)


def patient(length: int, timeout: float | None = 20.0, **options: Any) -> ms.Queue[Any]:
    return ms.Queue("orders", bound=ms.Bound(length, on_full="wait", timeout=timeout), **options)


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """A thread for each blocking call, also of those that wait for room."""
    with ThreadPoolExecutor(250) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        yield


@pytest.fixture
async def other(connect: Connect) -> ms.AsyncClient:
    """A further producer, in the eyes of the server."""
    return await connect()


@pytest.fixture
def proxy(server: Server) -> Any:
    with Proxy(server.port) as proxy:
        yield proxy


def later(mq: ms.AsyncClient, queue: ms.Queue[Any], body: Any, **options: Any) -> asyncio.Task[Any]:
    """A send of its own task, which may wait."""
    return asyncio.create_task(mq.send(queue, body, **options))


async def waiting(server: Server, namespace: str, count: int = 1) -> None:
    """Until so many producers wait for room."""
    admin: Any = server.admin()
    await auntil(lambda: admin.zcard(f"{namespace}:{{orders}}:senders") == count)


async def bodies(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> list[Any]:
    return [message.body for message in await mq.peek(queue, limit=1000)]


async def outcomes(tasks: list[asyncio.Task[Any]]) -> Counter[str]:
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return Counter(type(one).__name__ for one in done)


# --- reject -------------------------------------------------------------------------------------


async def test_a_full_queue_refuses(any_mq: ms.AsyncClient) -> None:
    """A send that finds the queue at its bound stores nothing and says the length and the bound."""
    queue = bounded(2)
    await any_mq.send(queue, 1)
    await any_mq.send(queue, 2, headers={"a": "b"})

    with pytest.raises(
        ms.QueueFull, match=r"'orders' is full, it has 2 messages .* bound is 2"
    ) as it:
        await any_mq.send(queue, 3)

    assert (it.value.queue, it.value.length, it.value.bound) == ("orders", 2, 2)
    assert await bodies(any_mq, queue) == [1, 2]
    assert (await any_mq.stats(queue)).sent == 2


async def test_room_is_where_messages_end(mq: ms.AsyncClient) -> None:
    """Messages in flight count; room is there again when they are acknowledged."""
    queue = bounded(2)
    await mq.send_many(queue, [1, 2])
    one, two = await take(mq, queue, 2)

    with pytest.raises(ms.QueueFull):
        await mq.send(queue, 3)
    await one.ack()
    await mq.send(queue, 3)
    with pytest.raises(ms.QueueFull):
        await mq.send(queue, 4)
    await two.reject("no")
    await mq.send(queue, 4)

    assert await bodies(mq, queue) == [3, 4]


async def test_everything_unfinished_counts(mq: ms.AsyncClient) -> None:
    """Delayed messages, urgent ones, those in the line of their key, and retries count."""
    queue = bounded(4, ordered=True)
    await mq.send(queue, "delayed", delay=3600)
    await mq.send(queue, "urgent", priority=9)
    await mq.send(queue, "first", key="k")
    await mq.send(queue, "second", key="k")

    with pytest.raises(ms.QueueFull) as caught:
        await mq.send(queue, "more")

    assert caught.value.length == 4
    urgent = await take_one(mq, queue)
    await urgent.retry(delay=3600)
    with pytest.raises(ms.QueueFull):
        await mq.send(queue, "more")


async def test_a_batch_that_does_not_fit_is_refused_whole(mq: ms.AsyncClient) -> None:
    """send_many stores all of its messages or none."""
    queue = bounded(5)
    await mq.send_many(queue, [1, 2, 3])

    with pytest.raises(ms.QueueFull, match="none of 3 messages were sent") as caught:
        await mq.send_many(queue, [4, 5, 6])
    await mq.send_many(queue, [7, 8])

    assert caught.value.length == 3
    assert await bodies(mq, queue) == [1, 2, 3, 7, 8]


async def test_a_large_batch_goes_whole(mq: ms.AsyncClient) -> None:
    """Thousands of messages are one call to a queue with a bound, with options, too."""
    queue = bounded(3000)
    receipts = await mq.send_many(queue, range(2000), key=str)

    with pytest.raises(ms.QueueFull):
        await mq.send_many(queue, range(1001))
    await mq.send_many(queue, range(1000))

    assert len({receipt.id for receipt in receipts}) == 2000
    assert (await mq.stats(queue)).ready == 3000


@pytest.mark.parametrize("on_full", ["reject", "wait", "drop_oldest"])
async def test_a_batch_larger_than_the_bound_is_a_mistake(
    mq: ms.AsyncClient, on_full: OnFull
) -> None:
    """There will never be room for it, so it is refused at once."""
    with pytest.raises(ms.UsageError, match="its bound is 3"):
        await mq.send_many(bounded(3, on_full), [1, 2, 3, 4])

    assert (await mq.stats(bounded(3))).ready == 0


async def test_sends_that_leave_together_succeed_or_fail_one_by_one(any_mq: ms.AsyncClient) -> None:
    """Of a hundred concurrent sends into ten places exactly ten are stored, and nobody hangs."""
    queue = bounded(10)

    sent = [later(any_mq, queue, number) for number in range(100)]

    assert await outcomes(sent) == {"Receipt": 10, "QueueFull": 90}
    assert (await any_mq.stats(queue)).ready == 10


async def test_producers_share_one_bound(connect: Connect) -> None:
    """Many clients together do not exceed it."""
    queue = bounded(25)
    clients = [await connect() for _ in range(4)]

    sent = [later(mq, queue, number) for mq in clients for number in range(25)]

    assert await outcomes(sent) == {"Receipt": 25, "QueueFull": 75}
    assert (await clients[0].stats(queue)).ready == 25


async def test_a_lost_reply_is_answered_again(
    kind: Kind, proxy: Proxy, server: Server, namespace: str, mq: ms.AsyncClient
) -> None:
    """A batch that is repeated gets its first answer: what was stored is stored once, what was
    refused stays refused though there would be room now.
    """
    queue = bounded(2)
    url = proxy.url.replace("//", f"//{server.limited_url.partition('//')[2].rpartition('@')[0]}@")
    async with connecting(kind, url, namespace) as connect:
        far = await connect()
        await far.send(queue, 1)
        proxy.drop_replies(to=b"EVALSHA", times=2)
        await far.send(queue, 2)
        assert proxy.lost == 2
        assert await bodies(mq, queue) == [1, 2]

        proxy.drop_replies(to=b"EVALSHA", times=2)
        with pytest.raises(ms.QueueFull):
            await far.send(queue, 3)

        assert proxy.lost == 4
        assert await bodies(mq, queue) == [1, 2]


async def test_a_duplicate_needs_no_room(mq: ms.AsyncClient) -> None:
    """A send whose unique key is taken gets the first one's receipt from a full queue, too."""
    queue = bounded(1)
    first = await mq.send(queue, 1, unique="u")

    again = await mq.send(queue, 2, unique="u")
    with pytest.raises(ms.QueueFull):
        await mq.send(queue, 3, unique="v")

    assert (again.id, again.duplicate) == (first.id, True)
    [delivery] = await drain(mq, queue)
    assert delivery.body == 1
    assert not (await mq.send(queue, 3, unique="v")).duplicate, "a refused send takes no key"


# --- drop_oldest ---------------------------------------------------------------------------------


async def test_the_oldest_makes_room(any_mq: ms.AsyncClient) -> None:
    """Each send pushes out the oldest message that nobody has read; they are counted."""
    queue = bounded(3, "drop_oldest")

    for number in range(5):
        await any_mq.send(queue, number)
    await any_mq.send_many(queue, [5, 6])

    assert await bodies(any_mq, queue) == [4, 5, 6]
    stats = await any_mq.stats(queue)
    assert (stats.sent, stats.dropped, stats.ready) == (7, 4, 3)


async def test_what_is_in_flight_is_not_dropped(mq: ms.AsyncClient) -> None:
    """When consumers have all messages, there is no room; nothing is dropped in vain."""
    queue = bounded(3, "drop_oldest")
    await mq.send_many(queue, [1, 2, 3])
    deliveries = await take(mq, queue, 2)

    await mq.send(queue, 4)
    with pytest.raises(ms.QueueFull, match="could be dropped"):
        await mq.send_many(queue, [5, 6])
    assert await bodies(mq, queue) == [4]
    for delivery in deliveries:
        await delivery.ack()

    assert [delivery.body for delivery in await drain(mq, queue)] == [4]


async def test_what_waits_elsewhere_is_dropped_later(mq: ms.AsyncClient) -> None:
    """First goes what is ready, then the least urgent, then lines of keys, then what is delayed."""
    queue = bounded(6, "drop_oldest", ordered=True)
    await mq.send(queue, "later", delay=3600)
    await mq.send(queue, "latest", delay=7200)
    await mq.send(queue, "urgent", priority=9)
    await mq.send(queue, "less", priority=1)
    await mq.send(queue, "k1", key="k")
    await mq.send(queue, "k2", key="k")
    left = []
    for number in range(5):
        # One that can be told from the others, and is never the oldest that is ready.
        await mq.send(queue, number, priority=5)
        left.append(
            {*await bodies(mq, queue), *(m.body for m in await mq.peek(queue, delayed=True))}
        )

    assert "k1" not in left[0]
    assert "k2" not in left[1], "the next of its line had become ready"
    assert "less" not in left[2]
    assert "urgent" in left[4]
    assert {"later", "latest"} <= left[4]


async def test_the_line_of_a_key_goes_on_when_its_first_is_dropped(mq: ms.AsyncClient) -> None:
    """A dropped message frees its key and its unique key."""
    queue = bounded(2, "drop_oldest", ordered=True)
    await mq.send(queue, 1, key="k", unique="u")
    await mq.send(queue, 2, key="k")

    await mq.send(queue, 3, key="k")
    again = await mq.send(queue, 4, key="other", unique="u")

    assert not again.duplicate
    assert [delivery.body for delivery in await drain(mq, queue)] == [3, 4]


async def test_what_was_handed_back_is_dropped_last(mq: ms.AsyncClient) -> None:
    """It makes room only when nothing else does."""
    queue = bounded(2, "drop_oldest")
    await mq.send(queue, "begun")
    await (await take_one(mq, queue)).release()
    await mq.send(queue, "ready")

    await mq.send(queue, "new")
    assert await bodies(mq, queue) == ["begun", "new"]
    await mq.send_many(queue, [1, 2])
    assert await bodies(mq, queue) == [1, 2]


async def test_a_paused_queue_drops_what_is_oldest_too(mq: ms.AsyncClient) -> None:
    """A pause does not hide who has read what."""
    queue = bounded(2, "drop_oldest")
    await mq.send_many(queue, [1, 2])
    await take(mq, queue, 1)
    await mq.pause(queue)

    await mq.send(queue, 3)

    await mq.resume(queue)
    assert (await take_one(mq, queue)).body == 3


# --- wait ---------------------------------------------------------------------------------------


async def test_a_send_waits_for_room(
    any_mq: ms.AsyncClient, any_server: Server, namespace: str
) -> None:
    """It goes on at once when a message is acknowledged, not before."""
    queue = patient(1)
    await any_mq.send(queue, 1)
    delivery = await take_one(any_mq, queue)
    sent = later(any_mq, queue, 2)
    await waiting(any_server, namespace)

    assert not sent.done()
    await delivery.ack()
    receipt = await asyncio.wait_for(sent, AT_ONCE)

    assert [(await take_one(any_mq, queue)).id] == [receipt.id]


async def test_other_sends_go_on_meanwhile(
    mq: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """Only the send that waits waits: other queues and other calls of the client do not."""
    queue = patient(1)
    await mq.send(queue, 1)
    sent = later(mq, queue, 2)
    await waiting(server, namespace)

    await mq.send(ms.Queue("other"), 1)

    assert (await mq.stats(queue)).ready == 1
    assert not sent.done()
    await mq.purge(queue, confirm=True)
    await sent


async def test_the_wait_has_an_end(mq: ms.AsyncClient) -> None:
    """After its timeout a send fails, says how long it waited, and leaves no trace."""
    queue = patient(1, SHORT)
    await mq.send(queue, 1)

    with pytest.raises(ms.QueueFull, match=r"nothing was sent within [\d.]+ s.*in time") as caught:
        await mq.send(queue, 2)
    with pytest.raises(ms.QueueFull, match="none of 2 messages"):
        await mq.send_many(patient(2, SHORT), [3, 4])

    assert (caught.value.length, caught.value.bound) == (1, 1)
    assert await bodies(mq, queue) == [1]


async def test_a_refusal_holds_nobody_up(
    mq: ms.AsyncClient, other: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """A send whose time is over gives up its place to those behind it."""
    queue = patient(2)
    await mq.send(queue, 1)
    impatient = asyncio.create_task(mq.send_many(patient(2, 3.0), [2, 3]))
    await waiting(server, namespace)
    sent = later(other, queue, 4)
    await waiting(server, namespace, 2)

    with pytest.raises(ms.QueueFull):
        await impatient
    await asyncio.wait_for(sent, AT_ONCE)

    assert await bodies(mq, queue) == [1, 4]


@pytest.mark.parametrize("end", ["ack", "reject", "purge", "cancel", "cancel_running"])
async def test_whatever_ends_a_message_makes_room(
    mq: ms.AsyncClient, server: Server, namespace: str, end: str
) -> None:
    """The first that waits is told at once, however the message ended."""
    queue = patient(1)
    receipt = await mq.send(queue, 1)
    delivery = None if end in ("purge", "cancel") else await take_one(mq, queue)
    sent = later(mq, queue, 2)
    await waiting(server, namespace)

    if end == "purge":
        await mq.purge(queue, confirm=True)
    elif end.startswith("cancel"):
        assert await mq.cancel(queue, receipt.id)
    elif delivery is not None:
        await (delivery.ack() if end == "ack" else delivery.reject("no"))

    await asyncio.wait_for(sent, AT_ONCE)


async def test_producers_are_served_in_turn(
    connect: Connect, mq: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """First come, first served among producers; a newcomer does not overtake those who wait."""
    queue = patient(1)
    await mq.send(queue, "full")
    sends = []
    for number in range(4):
        sends.append(later(await connect(), queue, number))
        await waiting(server, namespace, number + 1)

    got = [delivery.body async for delivery in _handled(mq, queue, 5)]

    await asyncio.gather(*sends)
    assert got == ["full", 0, 1, 2, 3]


async def _handled(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int) -> AsyncIterator[Any]:
    async for delivery in mq.receive(queue, prefetch=1, wait=10):
        await delivery.ack()
        yield delivery
        count -= 1
        if not count:
            break


async def test_the_sends_of_a_producer_keep_their_order(
    kind: Kind, mq: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """Within a client, too, it is first come, first served."""
    queue = patient(2)
    await mq.send_many(queue, ["a", "b"])
    sends = []
    for number in range(10):
        sends.append(later(mq, queue, number))
        await asyncio.sleep(0)
    await waiting(server, namespace)

    got = [delivery.body async for delivery in _handled(mq, queue, 12)]

    await asyncio.gather(*sends)
    assert got[:2] == ["a", "b"]
    # In which order threads begin, nobody knows.
    assert (got[2:] if kind == "async" else sorted(got[2:])) == list(range(10))


async def test_a_large_batch_does_not_starve(
    mq: ms.AsyncClient, other: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """Small sends that come later wait until all of the batch has had room."""
    queue = patient(4)
    await mq.send_many(queue, [1, 2, 3, 4])
    batch = asyncio.create_task(other.send_many(queue, ["a", "b", "c"]))
    await waiting(server, namespace)
    small = later(mq, queue, "small")
    await waiting(server, namespace, 2)

    got = [delivery.body async for delivery in _handled(mq, queue, 8)]

    await asyncio.gather(batch, small)
    assert got == [1, 2, 3, 4, "a", "b", "c", "small"]


async def test_who_was_served_goes_to_the_end(
    mq: ms.AsyncClient, other: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """A producer with many messages does not keep another one with few out."""
    queue = patient(1)
    await mq.send(queue, "full")
    many = [later(mq, queue, f"many {number}") for number in range(5)]
    await waiting(server, namespace)
    few = [later(other, queue, f"few {number}") for number in range(2)]
    await waiting(server, namespace, 2)

    got = [delivery.body.split()[0] async for delivery in _handled(mq, queue, 8)]

    await asyncio.gather(*many, *few)
    assert got == ["full", "many", "few", "many", "few", "many", "many", "many"]


async def test_a_flood_through_a_narrow_door(connect: Connect, mq: ms.AsyncClient) -> None:
    """Many sends of many producers all arrive, once, through a queue that holds a few."""
    queue = patient(5)
    clients = [await connect() for _ in range(4)]
    sends = [
        later(client, queue, [one, number])
        for number in range(50)
        for one, client in enumerate(clients)
    ]

    got = [tuple(delivery.body) async for delivery in _handled(mq, queue, 200)]

    await asyncio.gather(*sends)
    assert Counter(got) == Counter((one, number) for one in range(4) for number in range(50))


async def test_a_duplicate_does_not_wait(mq: ms.AsyncClient) -> None:
    """A send that stores nothing needs no room."""
    queue = patient(1)
    first = await mq.send(queue, 1, unique="u")

    assert (await asyncio.wait_for(mq.send(queue, 2, unique="u"), 5)).id == first.id


async def test_closing_a_client_gives_its_place_up(
    connect: Connect, mq: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """What waits is not sent, its sender hears of it, and the next one goes on."""
    queue = patient(1)
    await mq.send(queue, 1)
    leaving = await connect()
    given_up = later(leaving, queue, 2)
    await waiting(server, namespace)
    sent = later(mq, queue, 3)
    await waiting(server, namespace, 2)

    await leaving.aclose()
    with pytest.raises(ms.UsageError, match="closed"):
        await given_up
    await waiting(server, namespace, 1)
    await mq.purge(queue, confirm=True)
    await sent

    assert await bodies(mq, queue) == [3]


async def test_a_delay_and_a_bound(mq: ms.AsyncClient, server: Server, namespace: str) -> None:
    """A message that is to run later needs room as any other, and waits for it."""
    queue = patient(1)
    await mq.send(queue, 1)
    sent = later(mq, queue, 2, delay=3600)
    await waiting(server, namespace)

    await mq.purge(queue, confirm=True)
    await sent

    assert await counts(mq, queue) == (0, 1, 0, 0)


async def test_a_lost_connection_does_not_end_the_wait(
    kind: Kind, proxy: Proxy, server: Server, namespace: str, mq: ms.AsyncClient
) -> None:
    """A producer whose connections are cut while it waits is served when its turn comes."""
    queue = patient(1)
    await mq.send(queue, 1)
    login = server.limited_url.partition("//")[2].rpartition("@")[0]
    async with connecting(kind, proxy.url.replace("//", f"//{login}@"), namespace) as connect:
        far = await connect()
        sent = later(far, queue, 2)
        await waiting(server, namespace)

        proxy.cut()
        await mq.purge(queue, confirm=True)
        await asyncio.wait_for(sent, 5)

    assert await bodies(mq, queue) == [2]


async def test_a_server_that_forgets_does_not_hang_anybody(
    mq: ms.AsyncClient, server: Server, admin: redis.Redis, namespace: str
) -> None:
    """Should its keys be gone, a producer that waits lines up again."""
    queue = patient(1)
    await mq.send(queue, 1)
    sent = later(mq, queue, 2)
    await waiting(server, namespace)

    admin.delete(
        *(f"{namespace}:{{orders}}:{name}" for name in ("senders", "alive", "room", "ready"))
    )

    await asyncio.wait_for(sent, 5)
    assert await bodies(mq, queue) == [2]


# --- asyncio only -------------------------------------------------------------------------------


async def test_a_cancelled_send_gives_its_place_up(
    url: str, server: Server, namespace: str
) -> None:
    """Those behind it go on at once; its message is never stored."""
    queue = patient(3)
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        await mq.send_many(queue, [1, 2])
        batch = asyncio.create_task(mq.send_many(queue, [3, 4]))
        await waiting(server, namespace)
        behind = later(mq, queue, 5)
        await asyncio.sleep(0)

        batch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await batch
        await asyncio.wait_for(behind, AT_ONCE)

        assert await bodies(mq, queue) == [1, 2, 5]
        await auntil(lambda: not server.admin().exists(f"{namespace}:{{orders}}:senders"))
