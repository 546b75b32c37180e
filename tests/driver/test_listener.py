"""Reads that sleep at the server, on a connection of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from millstream.driver.aio_listener import AsyncListener
from millstream.driver.aio_server import AsyncServer
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_listener import BlockingListener
from millstream.driver.blocking_server import BlockingServer
from millstream.driver.target import resolve
from millstream.errors import NotConnected, ServerRefused, TimedOut
from millstream.protocol.consume import unblock
from tests.driver.drivers import InThreads, Kind, op
from tests.support.newcomers import newcomers, newcomers_asleep
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port
from tests.support.wait import auntil

Make = Callable[..., Any]
Asleep = Callable[[], int]


@pytest.fixture
async def make(kind: Kind) -> AsyncIterator[Make]:
    """Make listeners of either kind, which are closed at the end."""
    async with AsyncExitStack() as stack:

        def make(url: str, *, connect_timeout: float = 5, longest: float = 15) -> Any:
            cls: Any = AsyncListener if kind == "async" else BlockingListener
            server_of: Any = AsyncServer if kind == "async" else BlockingServer
            server = server_of(resolve(url), connect_timeout=5, timeout=5)
            made = cls(server, connect_timeout=connect_timeout, longest=longest)
            listener = made if kind == "async" else InThreads(made)
            stack.push_async_callback(listener.close)
            return listener

        yield make


def pop(key: str, seconds: float = 10) -> Any:
    """A read that sleeps until somebody pushes."""
    return op("BLPOP", key, str(seconds))


def push(server: Server, key: str, value: str) -> None:
    server.admin().rpush(key, value)


@pytest.fixture
def key(namespace: str) -> str:
    """A list that no other test has."""
    return f"{namespace}:list"


async def test_a_read_is_woken_precisely(
    server: Server, make: Make, key: str, asleep: Asleep
) -> None:
    """A reply wakes the poll at once, far within its timeout."""
    listener = make(server.url)
    polling = asyncio.create_task(listener.poll(pop(key), 10))
    await auntil(lambda: asleep() == 1)

    started = time.monotonic()
    push(server, key, "a")

    assert await polling == [key.encode(), b"a"]
    assert time.monotonic() - started < 5
    assert not listener.listening


async def test_an_outstanding_read_survives_a_poll(
    server: Server, make: Make, key: str, asleep: Asleep
) -> None:
    """When a poll's time is over its read stays; a later poll gets what came meanwhile."""
    listener = make(server.url)
    started = time.monotonic()
    assert await listener.poll(pop(key), 0.2) is None
    assert 0.15 < time.monotonic() - started < 5
    assert listener.listening

    push(server, key, "a")
    await auntil(lambda: asleep() == 0)
    push(server, key, "b")

    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]
    assert await listener.poll(pop(key), 5) == [key.encode(), b"b"]


async def test_polls_are_as_precise_as_asked(server: Server, make: Make, key: str) -> None:
    """Short polls end in their own time, not in that of the server's timers."""
    listener = make(server.url)
    await listener.poll(pop(key), 0)
    for wait in (0.0, 0.005, 0.02):
        late = []
        for _ in range(20):
            started = time.monotonic()
            assert await listener.poll(pop(key), wait) is None
            late.append(time.monotonic() - started - wait)
        # The server looks every 100 ms; a busy machine holds some up, but not three of four.
        assert sorted(late)[5] < 0.02


async def test_a_sleep_that_ends_without_a_result(server: Server, make: Make, key: str) -> None:
    """When the server ends the sleep, the poll gives its answer, and the next begins anew."""
    listener = make(server.url)

    assert await listener.poll(op("XREAD", "BLOCK", 50, "STREAMS", key, "$"), 5) is None
    assert not listener.listening

    push(server, key, "a")
    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]


async def test_a_sleep_can_be_ended(server: Server, make: Make, key: str, asleep: Asleep) -> None:
    """CLIENT UNBLOCK ends a sleep by the id that the listener knows of its connection."""
    listener = make(server.url)
    polling = asyncio.create_task(listener.poll(pop(key), 10))
    await auntil(lambda: asleep() == 1)

    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)
    await asyncio.to_thread(driver.run, unblock(listener.client_id, key))
    driver.close()

    assert await asyncio.wait_for(polling, 5) is None
    assert not listener.listening


async def test_refusals(server: Server, make: Make, key: str) -> None:
    """An error of the server is a refusal, and the connection goes on."""
    listener = make(server.url)
    read = op("XREADGROUP", "GROUP", "g", "c", "BLOCK", 5000, "STREAMS", key, ">")

    for _ in range(2):
        with pytest.raises(ServerRefused) as caught:
            await listener.poll(read, 5)
        assert caught.value.code == "NOGROUP"

    push(server, key, "a")
    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]


async def test_a_master_that_becomes_a_replica(own_server: Server, make: Make) -> None:
    """UNBLOCKED means to try again, as a lost connection does."""
    listener, asleep = make(own_server.url), newcomers_asleep(own_server)
    polling = asyncio.create_task(listener.poll(pop("key"), 10))
    await auntil(lambda: asleep() == 1)
    replicate: Any = own_server.admin().execute_command

    replicate("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(NotConnected, match="UNBLOCKED"):
        await polling
    replicate("REPLICAOF", "NO", "ONE")
    await listener.close()
    push(own_server, "key", "a")
    assert await listener.poll(pop("key"), 5) == [b"key", b"a"]


# --- losses -----------------------------------------------------------------------------------


async def test_a_cut_is_noticed_at_once(
    proxy: Proxy, make: Make, server: Server, key: str, asleep: Asleep
) -> None:
    """A lost connection ends the poll; the next one connects again."""
    listener = make(proxy.url)
    polling = asyncio.create_task(listener.poll(pop(key), 10))
    await auntil(lambda: asleep() == 1)
    started = time.monotonic()

    proxy.cut()

    with pytest.raises(NotConnected):
        await polling
    assert time.monotonic() - started < 5
    assert not listener.listening
    push(server, key, "a")
    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]


async def test_a_cut_between_two_polls_is_noticed(
    proxy: Proxy, make: Make, server: Server, key: str, asleep: Asleep
) -> None:
    """A connection that was lost while nobody polled is noticed by the next poll."""
    listener = make(proxy.url)
    assert await listener.poll(pop(key), 0) is None
    await auntil(lambda: asleep() == 1)

    proxy.cut()

    with pytest.raises(NotConnected):
        await listener.poll(pop(key), 5)


@pytest.mark.parametrize("patience", [0.05, 3600.0, float("inf")])
async def test_silence_is_noticed(
    proxy: Proxy, make: Make, server: Server, key: str, patience: float, asleep: Asleep
) -> None:
    """A read that should have ended long ago means that the connection is dead, however long or
    short the polls are.
    """
    listener = make(proxy.url, longest=0.5)
    started = time.monotonic()
    assert await listener.poll(pop(key), 0) is None
    proxy.stall()

    async def poll() -> None:
        while await listener.poll(pop(key), patience) is None:
            assert time.monotonic() - started < 15

    with pytest.raises(TimedOut):
        await asyncio.wait_for(poll(), 20)

    assert 0.4 < time.monotonic() - started < 8
    proxy.resume()
    await auntil(lambda: asleep() == 0)
    push(server, key, "a")
    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]


async def test_half_a_reply(proxy: Proxy, make: Make, server: Server, key: str) -> None:
    """A reply that is cut half-way is a lost connection."""
    push(server, key, "x" * 5000)
    push(server, key, "second")
    listener = make(proxy.url)
    proxy.drop_replies(after=1000, to=b"BLPOP")

    with pytest.raises(NotConnected):
        await listener.poll(pop(key), 5)

    assert await listener.poll(pop(key), 5) == [key.encode(), b"second"]


async def test_nobody_listens(make: Make) -> None:
    """A refused connection is NotConnected at once."""
    started = time.monotonic()

    with pytest.raises(NotConnected):
        await make(f"redis://127.0.0.1:{free_port()}").poll(pop("x"), 10)

    assert time.monotonic() - started < 5


async def test_a_server_that_hangs_from_the_start(proxy: Proxy, make: Make) -> None:
    """Connecting to a server that does not answer ends within connect_timeout."""
    proxy.stall()
    started = time.monotonic()

    with pytest.raises(TimedOut):
        await make(proxy.url, connect_timeout=0.4).poll(pop("x"), 10)

    assert time.monotonic() - started < 5


async def test_close(server: Server, make: Make, key: str, asleep: Asleep) -> None:
    """Closing ends the outstanding read; the listener may be used again."""
    listener = make(server.url)
    assert await listener.poll(pop(key), 0) is None
    await auntil(lambda: asleep() == 1)

    await listener.close()
    await listener.close()

    assert not listener.listening
    await auntil(lambda: asleep() == 0)
    push(server, key, "a")
    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]


# --- asyncio alone ----------------------------------------------------------------------------


async def test_a_poll_that_is_cancelled_while_it_connects_leaves_it_in_step(
    server: Server, proxy: Proxy, key: str
) -> None:
    """A poll that is cancelled between a command and its reply does not leave it to the next."""
    push(server, key, "a")
    listener = AsyncListener(
        AsyncServer(resolve(proxy.url), connect_timeout=5, timeout=5), connect_timeout=5, longest=15
    )
    proxy.delay(3)
    found = newcomers(server)
    polling = asyncio.create_task(listener.poll(pop(key), 5))
    # It asks for its id.
    await auntil(lambda: any(one["cmd"] == "client|id" for one in found()), every=0.002)

    polling.cancel()
    await asyncio.wait([polling])
    proxy.delay(0)

    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]
    await listener.close()


async def test_a_cancelled_poll_leaves_its_read(server: Server, key: str, asleep: Asleep) -> None:
    """A poll that is cancelled while it waits leaves the read outstanding for the next."""
    listener = AsyncListener(
        AsyncServer(resolve(server.url), connect_timeout=5, timeout=5),
        connect_timeout=5,
        longest=15,
    )
    polling = asyncio.create_task(listener.poll(pop(key), 10))
    await auntil(lambda: asleep() == 1)

    polling.cancel()
    await asyncio.wait([polling])

    assert listener.listening
    push(server, key, "a")
    assert await listener.poll(pop(key), 5) == [key.encode(), b"a"]
    await listener.close()


class TestTell:
    """A read whose result is passed on as soon as it comes."""

    async def test_the_result(self, server: Server, make: Make, key: str, asleep: Asleep) -> None:
        """What has come by then, and what comes later, is passed on once."""
        listener, heard = make(server.url), list[Any]()
        push(server, key, "a")
        await listener.tell(pop(key), 10, heard.append)
        telling = asyncio.create_task(listener.tell(pop(key), 10, heard.append))
        await auntil(lambda: asleep() == 1)
        push(server, key, "b")
        await telling
        assert heard == [[key.encode(), b"a"], [key.encode(), b"b"]]

    async def test_no_result_in_time(self, server: Server, make: Make, key: str) -> None:
        """The read stays outstanding, and the next one to ask gets its result."""
        listener, heard = make(server.url), list[Any]()
        await listener.tell(pop(key), 0.01, heard.append)
        assert heard == []
        push(server, key, "a")
        await listener.tell(pop(key), 10, heard.append)
        assert heard == [[key.encode(), b"a"]]

    async def test_who_hears_raises(
        self, server: Server, make: Make, key: str, asleep: Asleep
    ) -> None:
        """It is raised to who has asked; the connection is none the worse for it."""
        listener, heard = make(server.url), list[Any]()

        def hear(_: Any) -> None:
            raise KeyError(key)

        telling = asyncio.create_task(listener.tell(pop(key), 10, hear))
        await auntil(lambda: asleep() == 1)
        push(server, key, "a")
        with pytest.raises(KeyError):
            await telling
        push(server, key, "b")
        await listener.tell(pop(key), 10, heard.append)
        assert heard == [[key.encode(), b"b"]]

    async def test_an_error_of_the_server(self, server: Server, make: Make, key: str) -> None:
        """Nothing is heard of it, and who has asked is told."""
        server.admin().set(key, "no list", ex=60)
        listener, heard = make(server.url), list[Any]()
        with pytest.raises(ServerRefused):
            await listener.tell(pop(key), 10, heard.append)
        assert heard == []
