"""Topics that keep nothing: what listeners hear, and what they are told that they have missed."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import redis

import millstream as ms
from millstream.protocol.keys import topic_keys
from millstream.subject import matches
from tests.api.clients import Connect, Kind, connecting
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil

PATIENCE = 30.0

TICKS: ms.Topic[Any] = ms.Topic("ticks", durable=False)


class Tick(msgspec.Struct):
    price: int


TYPED = ms.Topic("ticks", Tick, durable=False)


async def hear(feed: Any, count: int) -> list[Any]:
    """The next so many of a feed."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(feed) for _ in range(count)]


async def bodies(feed: Any, count: int) -> list[Any]:
    """The bodies of the next so many messages."""
    return [heard.body for heard in await hear(feed, count)]


def listeners(server: Server, namespace: str) -> int:
    """How many connections listen to the ticks of the namespace."""
    counts: Any = server.admin().pubsub_numsub(topic_keys(namespace, "ticks").channel)
    return int(counts[0][1])


async def test_everybody_who_listens_hears_a_message(any_mq: ms.AsyncClient) -> None:
    """Each listener gets every message, whole and in order; the receipt says how many there were."""
    assert await any_mq.publish(TYPED, Tick(0)) == ms.Receipt("", durability="none", listeners=0)

    async with any_mq.subscribe(TYPED) as one, any_mq.subscribe(TYPED) as other:
        receipt = await any_mq.publish(TYPED, Tick(1), headers={"é": "ü\n"}, subject="eu.paid")
        # Both are on the client's one connection.
        assert receipt.listeners == 1
        receipts = await any_mq.publish_many(
            TYPED, map(Tick, range(2, 5)), subject=lambda tick: f"p.{tick.price}"
        )
        assert [receipt.listeners for receipt in receipts] == [1, 1, 1]

        for feed in (one, other):
            assert await hear(feed, 2) == [
                ms.Heard(body=Tick(1), topic="ticks", headers={"é": "ü\n"}, subject="eu.paid"),
                ms.Heard(body=Tick(2), topic="ticks", subject="p.2"),
            ]
            assert await bodies(feed, 2) == [Tick(3), Tick(4)]


@pytest.mark.parametrize(
    ("topic", "body", "payload"),
    [
        (ms.Topic("ticks", durable=False), {"a": 1}, b'{"a":1}'),
        (ms.Topic("ticks", int, durable=False, codec="msgpack"), 7, b"\x07"),
        (ms.Topic("ticks", bytes, durable=False), b"\xc0\xc1", b"\xc0\xc1"),
        # It could be taken for an envelope, so it gets one.
        (ms.Topic("ticks", bytes, durable=False), b"\xc1{}\nx", b"\xc1{}\n\xc1{}\nx"),
    ],
)
async def test_a_payload_is_the_body(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str, topic: Any, body: Any, payload: bytes
) -> None:
    """What is published without options is the plain body, and a foreign PUBLISH of it is heard."""
    channel = topic_keys(namespace, "ticks").channel
    foreign: Any = admin.pubsub()  # type: ignore[no-untyped-call] # redis-py's
    foreign.subscribe(channel)
    assert foreign.get_message(timeout=PATIENCE)["type"] == "subscribe"
    async with mq.subscribe(topic) as feed:
        await mq.publish(topic, body)
        admin.publish(channel, payload)

        assert await bodies(feed, 2) == [body, body]
    assert foreign.get_message(timeout=PATIENCE)["data"] == payload
    foreign.close()


async def test_what_cannot_be_read_is_skipped(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Foreign rubbish is counted, and in the log now and then; the next message comes."""
    channel = topic_keys(namespace, "ticks").channel
    rubbish = [b"", b"{", b'{"price":"x"}', b"\xc1", b"\xc1{}", b"\xc1[]\n{}", b'\xc1{"h":1}\n{}']
    async with mq.subscribe(TYPED, wait=PATIENCE) as feed:
        for payload in [*rubbish, b"\xff", b"[]", b'\xc1{"t":"x"}\n{"price":1}', b"{}"]:
            admin.publish(channel, payload)
        await mq.publish(TYPED, Tick(2))

        assert await bodies(feed, 2) == [Tick(1), Tick(2)]
        assert feed.unreadable == 10
    told = [one.message for one in caplog.records if one.name == "millstream.feed"]
    assert [one.startswith("topic 'ticks': a message is skipped, number") for one in told] == [
        True,
        True,
    ]


async def test_a_feed_begins_and_ends(mq: ms.AsyncClient, server: Server, namespace: str) -> None:
    """It listens from its first step, ends after its wait, by its end and with its client."""
    idle = mq.subscribe(TICKS, wait=0)
    assert [one async for one in idle] == []
    assert [one async for one in idle] == []
    await auntil(lambda: listeners(server, namespace) == 0)

    unused = mq.subscribe(TICKS)
    await unused.aclose()
    assert [one async for one in unused] == []

    async with mq.subscribe(TICKS) as feed:
        assert listeners(server, namespace) == 1
        waiting = asyncio.create_task(bodies(feed, 1))
        await asyncio.sleep(0)
        async with mq.subscribe(TICKS) as short, mq.subscribe(TICKS) as witness:
            await mq.publish(TICKS, 1)
            assert await bodies(short, 1) == [1]
            await mq.publish(TICKS, 2)
            # What has come for one has come for all: they share a connection.
            assert await bodies(witness, 2) == [1, 2]
        assert [one async for one in short] == []
        assert await waiting == [1]
        assert listeners(server, namespace) == 1
        await mq.aclose()
        assert [one async for one in feed] == [ms.Heard(body=2, topic="ticks")]
    with pytest.raises(ms.UsageError, match="closed"):
        await mq.subscribe(TICKS).__aenter__()


async def test_a_feed_that_is_forgotten_listens_no_more(
    mq: ms.AsyncClient, server: Server, namespace: str
) -> None:
    """A loop that is left by break costs nothing from the next message on."""
    feed = mq.subscribe(TICKS)
    await feed.__aenter__()
    assert listeners(server, namespace) == 1
    del feed
    gc.collect()

    async def left() -> bool:
        await mq.publish(TICKS, 1)
        return listeners(server, namespace) == 0

    await auntil(left, PATIENCE)


# A slow listener


@pytest.mark.parametrize(
    ("on_full", "heard"),
    [
        ("drop_oldest", [ms.Missed(dropped=7), 7, 8, 9]),
        ("drop_newest", [0, 1, 2, ms.Missed(dropped=7)]),
        ("disconnect", [0, 1, 2]),
    ],
)
async def test_a_slow_listener(
    mq: ms.AsyncClient, server: Server, namespace: str, on_full: Any, heard: list[Any]
) -> None:
    """Its buffer holds so many; what had no room is counted, and told in its place."""
    async with mq.subscribe(TICKS, buffer=3, on_full=on_full) as feed, mq.subscribe(TICKS) as quick:
        await mq.publish_many(TICKS, range(10))
        assert await bodies(quick, 10) == [*range(10)]

        got = await hear(feed, len(heard))
        assert [one if isinstance(one, ms.Missed) else one.body for one in got] == heard
        if on_full == "disconnect":
            with pytest.raises(ms.SlowListener) as caught:
                await anext(feed)
            assert (caught.value.topic, caught.value.buffer) == ("ticks", 3)
            assert feed.dropped == 1
        else:
            assert feed.dropped == 7
            await mq.publish(TICKS, 10)
            assert await bodies(feed, 1) == [10]


async def test_a_flood(connect: Connect, server: Server, namespace: str) -> None:
    """A listener that stands still costs neither others their messages nor itself the connection:
    five times what the server keeps for who does not read goes through.
    """
    admin: Any = server.admin()
    before = admin.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    admin.config_set("client-output-buffer-limit", "pubsub 2mb 0 0")
    publisher, mq = await connect(), await connect()
    try:
        async with mq.subscribe(TICKS, buffer=10) as still, mq.subscribe(TICKS) as quick:
            body = "x" * 10_000
            for _ in range(10):
                await publisher.publish_many(TICKS, [body] * 50)
                assert await bodies(quick, 50) == [body] * 50

            missed, *last = await hear(still, 11)
            assert missed == ms.Missed(dropped=490)
            assert [one.body for one in last] == [body] * 10
    finally:
        admin.config_set("client-output-buffer-limit", before)


async def _until_stop(feed: Any) -> list[Any]:
    heard = []
    async for one in feed:
        heard.append(one)
        if isinstance(one, ms.Heard) and one.body == "stop":
            break
    return heard


async def test_a_burst_does_not_outrun_a_listener_that_waits(
    kind: Kind, mq: ms.AsyncClient
) -> None:
    """Far more messages than the buffer holds, at once: who does nothing but listen gets all."""
    async with mq.subscribe(TICKS, buffer=200, wait=PATIENCE) as feed:
        loop: Any = _until_stop(feed)
        listening = asyncio.create_task(loop)
        await mq.publish_many(TICKS, [*range(2000), "stop"])
        heard = await listening
    # Threads are not scheduled as strictly as tasks are: what was dropped is told, at the least.
    assert kind == "sync" or len(heard) == 2001
    assert sum(1 if isinstance(one, ms.Heard) else one.dropped for one in heard) == 2001


# Patterns

NAMES = ["ticks", "ticks.eu", "ticks.eu.de", "ticksXeu", "ticks.[a]", "ticks.a", "ticks?eu", "eu"]
PATTERNS = ["ticks.*", "ticks.>", "*", ">", "*.eu", "ticks.*.de", "ticks.[a].>", "*.[a]", "*.*"]


async def test_patterns(kind: Kind, server: Server, namespace: str) -> None:
    """A pattern hears what the reference matcher says, whatever signs the server's globs have."""
    odd = f"{namespace}-*[x]?"
    async with connecting(kind, server.url, odd) as connect:
        mq, publisher = await connect(), await connect()
        other = await connect(namespace=namespace)
        feeds: dict[str, Any] = {}
        for pattern in PATTERNS:
            feeds[pattern] = mq.subscribe(ms.Topic(pattern, durable=False))
            await feeds[pattern].__aenter__()
        for name in NAMES:
            await other.publish(ms.Topic(name, durable=False), "another namespace")
            await publisher.publish(ms.Topic(name, durable=False), name)
        for pattern, feed in feeds.items():
            wanted = [name for name in NAMES if matches(pattern, name)]
            heard = await hear(feed, len(wanted))
            assert [(one.topic, one.body) for one in heard] == [(name, name) for name in wanted]
            await publisher.publish(ms.Topic("end", durable=False), "")
            await feed.aclose()
        with pytest.raises(ms.UsageError, match="is a pattern: it can be listened to"):
            await mq.publish(ms.Topic("ticks.*", durable=False), 1)
        with pytest.raises(ms.UsageError, match="is a pattern: it can be listened to"):
            await mq.publish_many(ms.Topic("ticks.>", durable=False), [])


# The server's word


async def test_a_channel_that_the_user_may_not_use(
    kind: Kind, mq: ms.AsyncClient, url: str, namespace: str
) -> None:
    """The error names the channel and the rule; what others of the client do goes on."""
    async with connecting(kind, url, "foreign") as connect, mq.subscribe(TICKS) as allowed:
        foreign = await connect()
        rule = "The user needs the ACL rule &foreign:{ticks}:channel"
        for use in (
            foreign.publish(TICKS, 1),
            foreign.publish_many(TICKS, [1]),
            foreign.subscribe(TICKS).__aenter__(),
        ):
            with pytest.raises(ms.ServerRefused, match=rule) as caught:
                await use
            assert caught.value.code == "NOPERM"
        # A pattern has to be allowed literally.
        pattern: ms.Topic[Any] = ms.Topic("ticks.*", durable=False)
        with pytest.raises(ms.ServerRefused, match=r"rule &t-.*ticks\.\*"):
            await anext(mq.subscribe(pattern))
        await mq.publish(TICKS, 2)
        assert await bodies(allowed, 1) == [2]


async def test_a_user_that_is_no_more(kind: Kind, own_server: Server) -> None:
    """A listener whose user is deleted, or may not listen any more, gets the server's refusal."""
    admin: Any = own_server.admin()
    for rule, code in (("resetchannels", "NOPERM"), ("off", "WRONGPASS")):
        admin.acl_setuser("guest", enabled=True, nopass=True, reset=True, categories=["+@all"])
        admin.execute_command("ACL", "SETUSER", "guest", "allchannels", ">secret", "~*")
        url = f"redis://guest:secret@127.0.0.1:{own_server.port}"
        async with (
            connecting(kind, url, "ms") as connect,
            (await connect(timeout=PATIENCE)).subscribe(TICKS) as feed,
        ):
            admin.execute_command("ACL", "SETUSER", "guest", rule)
            admin.client_kill_filter(_type="pubsub")
            with pytest.raises(ms.ServerRefused) as caught:
                await hear(feed, 1)
            assert caught.value.code == code


async def test_bad_use(mq: ms.AsyncClient) -> None:
    """Each error names what to change."""
    queue: Any = ms.Queue("ticks")
    durable: ms.Topic[Any] = ms.Topic("ticks")
    wrong: list[tuple[Any, str]] = [
        (lambda: mq.subscribe(TICKS, buffer=0), "buffer must be a whole number from 1"),
        (lambda: mq.subscribe(TICKS, on_full="wait"), "on_full must be one of drop_oldest, drop"),  # type: ignore[call-overload] # wrong
        (lambda: mq.subscribe(TICKS, wait=-1), "wait must be"),
        (lambda: mq.subscribe(queue), "publish is for topics"),
        (lambda: mq.subscribe(durable), "topic 'ticks' is durable"),
    ]
    for use, message in wrong:
        with pytest.raises(ms.UsageError, match=message):
            use()
    for options in ({"headers": {"a": 1}}, {"subject": "a b"}, {"subject": ""}):
        given: Any = options
        with pytest.raises(ms.UsageError, match=f"{next(iter(options))} must"):
            await mq.publish(TICKS, 1, **given)
    with pytest.raises(ms.UsageError, match="topic 'ticks': key orders messages that are kept"):
        await mq.publish(TICKS, 1, key="a")
    with pytest.raises(ms.UsageError, match="topic 'ticks': key orders messages that are kept"):
        await mq.publish_many(TICKS, [], key=str)
    with pytest.raises(ms.UsageError, match="takes Tick"):
        await mq.publish(TYPED, "no tick")  # type: ignore[misc] # wrong on purpose
    with pytest.raises(ms.UsageError, match="publish is for topics"):
        await mq.publish(queue, 1)


# Connections that are lost


@pytest.fixture
def own_server() -> Any:
    """A server that the test may stop."""
    with Server() as server:
        yield server


@pytest.fixture
async def bad(kind: Kind, own_server: Server) -> AsyncIterator[tuple[ms.AsyncClient, Proxy]]:
    """A client with a bad network."""
    with Proxy(own_server.port) as proxy:
        async with connecting(kind, proxy.url, "ms") as connect:
            yield await connect(timeout=PATIENCE), proxy


async def test_a_connection_that_is_cut(
    kind: Kind, own_server: Server, bad: tuple[ms.AsyncClient, Proxy]
) -> None:
    """All listeners are told of the gap in its place, and what is published after it comes."""
    mq, proxy = bad
    gap = ms.Missed(reconnected=True)
    async with (
        connecting(kind, own_server.url, "ms") as connect,
        mq.subscribe(TICKS) as feed,
        mq.subscribe(ms.Topic("*", durable=False)) as pattern,
        mq.subscribe(TICKS, buffer=1) as slow,
    ):
        publisher = await connect()
        for n in range(3):
            assert (await publisher.publish(TICKS, n)).listeners == 2
            assert await bodies(pattern, 1) == [n]
            await asyncio.to_thread(proxy.cut)
            # It says so by itself: who keeps a copy of something can read it anew now.
            assert await hear(pattern, 1) == [gap]
        await publisher.publish(TICKS, 3)
        heard = await hear(feed, 7)
        assert [one if one == gap else one.body for one in heard] == [0, gap, 1, gap, 2, gap, 3]
        # Told in one, but not forgotten with the messages that had to go.
        assert await hear(slow, 2) == [
            ms.Missed(dropped=3, reconnected=True),
            ms.Heard(body=3, topic="ticks"),
        ]


async def test_a_server_that_is_restarted(kind: Kind, own_server: Server) -> None:
    """Listeners and publishers go on by themselves; who gives up before says so."""
    async with (
        connecting(kind, own_server.url, "ms") as connect,
        (await connect(timeout=PATIENCE)).subscribe(TICKS) as feed,
    ):
        hasty = await connect(timeout=3)
        gone = await hasty.subscribe(TICKS).__aenter__()
        publisher = await connect(timeout=PATIENCE)
        await publisher.publish(TICKS, 1)
        assert await bodies(gone, 1) == [1]
        await asyncio.to_thread(own_server.kill)
        with pytest.raises(ms.NotConnected):
            await anext(gone)
        late = asyncio.create_task(publisher.publish(TICKS, 2))
        await asyncio.to_thread(own_server.start)
        assert (await late).durability == "none"
        gap = ms.Missed(reconnected=True)
        assert await hear(feed, 2) == [ms.Heard(body=1, topic="ticks"), gap]
        await publisher.publish(TICKS, 3)
        while (await bodies(feed, 1)) != [3]:
            pass
        # The client that gave up can listen again.
        async with hasty.subscribe(TICKS) as again:
            await publisher.publish(TICKS, 4)
            assert await bodies(again, 1) == [4]


async def test_many_tasks_share_round_trips(url: str, namespace: str, server: Server) -> None:
    """What a hundred tasks publish at the same time goes out in a few writes, in their order."""
    async with ms.AsyncClient(url, namespace=namespace) as mq, mq.subscribe(TICKS) as feed:
        await mq.publish(TICKS, -1)
        admin: Any = server.admin()
        before = admin.info("stats")["total_reads_processed"]
        await asyncio.gather(*(mq.publish(TICKS, n) for n in range(100)))
        assert admin.info("stats")["total_reads_processed"] - before < 20
        assert await bodies(feed, 101) == [*range(-1, 100)]


async def test_topics_without_end(url: str, namespace: str, caplog: Any) -> None:
    """Publishing on ever new topics costs no memory."""
    caplog.set_level(logging.WARNING)
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        for n in range(1100):
            await mq.publish(ms.Topic(f"user.{n}", durable=False), n)
        assert len(mq._ephemeral._senders) == 1000
