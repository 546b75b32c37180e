"""Listeners of topics that keep nothing, on connections that break in all ways."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from functools import partial
from typing import Any

import pytest

import millstream as ms
from millstream.driver.aio_pubsub import AsyncPubSub
from millstream.driver.aio_server import AsyncServer
from millstream.driver.blocking_pubsub import BlockingPubSub
from millstream.driver.blocking_server import BlockingServer
from millstream.driver.target import resolve
from millstream.message import Missed
from millstream.protocol.ephemeral import Channel
from millstream.protocol.listening import Box
from tests.api.clients import KINDS, Kind, connecting
from tests.driver.drivers import InThreads
from tests.faults.working import reaches
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

PATIENCE = 30.0
TICKS: ms.Topic[int] = ms.Topic("ticks", int, durable=False)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_gap_goes_untold(kind: Kind, own_server: Server, proxy: Proxy) -> None:
    """Under a stream of numbers and cuts at any moment, where one is missing there is a Missed."""
    stop = asyncio.Event()
    events: list[Any] = []

    async def publish(mq: ms.AsyncClient) -> int:
        n = 0
        while not stop.is_set():
            await mq.publish_many(TICKS, range(n, n + 7))
            n += 7
            await asyncio.sleep(0)
        await mq.publish(TICKS, -1)
        return n

    async def listen(feed: Any) -> None:
        async for event in feed:
            events.append(event)
            if isinstance(event, ms.Heard) and event.body == -1:
                return

    def told(times: int) -> bool:
        return sum(isinstance(one, Missed) and one.reconnected for one in events) >= times

    async with (
        ms.AsyncClient(own_server.url, namespace="ms") as publisher,
        connecting(kind, proxy.url, "ms") as connect,
        (await connect(timeout=PATIENCE)).subscribe(TICKS, buffer=50) as feed,
    ):
        listening = asyncio.create_task(listen(feed))
        publishing = asyncio.create_task(publish(publisher))
        for number in range(8):
            await reaches(events, len(events) + 20)
            await asyncio.to_thread(proxy.cut)
            await auntil(partial(told, number + 1), PATIENCE)
        stop.set()
        total = await publishing
        async with asyncio.timeout(PATIENCE):
            await listening
    following = 0
    missed = False
    for event in events[:-1]:
        if isinstance(event, Missed):
            missed = True
            continue
        assert event.body == following or (missed and event.body > following)
        following, missed = event.body + 1, False
    assert following == total or isinstance(events[-2], Missed)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_that_dies_in_silence(
    kind: Kind, own_server: Server, proxy: Proxy
) -> None:
    """A firewall that has forgotten it is found out by the sign of life that does not come."""
    options: Any = {"connect_timeout": 5, "timeout": PATIENCE, "beat": 0.3}
    target, channel = resolve(proxy.url), Channel(b"ticks", pattern=False)
    box = Box("ticks", 10, "drop_oldest")
    pubsub: Any
    if kind == "async":
        pubsub = AsyncPubSub(AsyncServer(target, connect_timeout=5, timeout=5), **options)
        inbox: Any = pubsub.inbox(box)
    else:
        pubsub = InThreads(
            BlockingPubSub(BlockingServer(target, connect_timeout=5, timeout=5), **options)
        )
        inbox = InThreads(pubsub.target.inbox(box))
    joined = pubsub.join(channel, inbox if kind == "async" else inbox.target)
    await joined
    await asyncio.to_thread(proxy.freeze)
    assert await inbox.take(PATIENCE) == Missed(reconnected=True)
    admin: Any = own_server.admin()
    heard: Any = None
    while heard != (b"ticks", b"a"):
        # A busy machine may look dead, too.
        admin.publish("ticks", "a")
        heard = await inbox.take(0.5)
    await pubsub.close()
    assert box.ended


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_hangs(kind: Kind, own_server: Server) -> None:
    """Who begins to listen then gets a TimedOut; who listens already waits."""
    async with (
        connecting(kind, own_server.url, "ms") as connect,
        (await connect()).subscribe(TICKS, wait=PATIENCE) as feed,
    ):
        hasty, patient = await connect(timeout=0.2), await connect()
        own_server.pause()
        try:
            with pytest.raises(ms.TimedOut):
                await hasty.subscribe(TICKS).__aenter__()
        finally:
            own_server.resume()
        async with patient.subscribe(TICKS):
            await patient.publish(TICKS, 1)
        assert [(await anext(feed))] == [ms.Heard(body=1, topic="ticks")]


def test_threads_come_and_go(own_server: Server) -> None:
    """Many threads listen for a moment each, under a flood, on one connection; each hears it."""
    heard: list[int] = []
    with ms.Client(own_server.url) as mq, ms.Client(own_server.url) as publisher:
        done = threading.Event()

        def flood() -> None:
            while not done.is_set():
                publisher.publish_many(TICKS, range(100))

        def listen() -> None:
            for _ in range(10):
                with mq.subscribe(TICKS, buffer=5, wait=PATIENCE) as feed:
                    heard.append(sum(isinstance(next(feed), ms.Heard | ms.Missed) for _ in "abc"))

        flooding = threading.Thread(target=flood)
        flooding.start()
        threads = [threading.Thread(target=listen) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        done.set()
        flooding.join(PATIENCE)
        admin: Any = own_server.admin()
        until(lambda: admin.pubsub_numsub("ms:{ticks}:channel")[0][1] == 0, PATIENCE)
        connections = [one for one in admin.client_list() if int(one["multi"]) == -1]
        assert heard == [3] * 80
        assert len(connections) <= 4


def _listen_in_child(mq: ms.Client, pipe: Any) -> None:
    try:
        mq.subscribe(TICKS).__enter__()
    except ms.UsageError as error:
        pipe.send(str(error))
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork(own_server: Server) -> None:
    """The child has no thread that reads; the error says so instead of a wait without end."""
    with ms.Client(own_server.url) as mq, mq.subscribe(TICKS) as feed:
        context: Any = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=_listen_in_child, args=(mq, theirs))
        child.start()
        assert ours.poll(PATIENCE)
        assert "made before a fork" in ours.recv()
        child.join(PATIENCE)
        mq.publish(TICKS, 1)
        assert next(feed) == ms.Heard(body=1, topic="ticks")
