"""The sleep of a consumer: told to end, it ends, also when it has not quite begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from millstream.aio.sleeper import Sleeper
from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_listener import AsyncListener
from millstream.driver.aio_server import AsyncServer
from millstream.driver.target import resolve
from millstream.errors import NotConnected
from millstream.protocol import consume
from millstream.protocol.keys import GROUP, queue_keys
from millstream.protocol.watch import Watch
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil


def told(server: Server) -> int:
    """How often the server was told to end a sleep."""
    statistics: Any = server.admin().info("commandstats")
    return int(statistics.get("cmdstat_client|unblock", {}).get("calls", 0))


async def test_a_sleep_that_has_not_begun_ends_all_the_same(
    server: Server, proxy: Proxy, namespace: str
) -> None:
    """The read reaches the server behind the word to end it; it must not sleep on.

    It would be given what comes next: a message, or the wake-up that its consumer leaves behind.
    """
    keys, admin = queue_keys(namespace, "orders"), server.admin()
    driver = AsyncDriver(server.url, connect_timeout=5, timeout=5)
    listener = AsyncListener(
        AsyncServer(resolve(proxy.url), connect_timeout=5, timeout=5), connect_timeout=5, longest=25
    )
    sleeper = Sleeper(driver, listener, keys=[keys], consumer="a")
    try:
        await driver.open()
        await driver.run(consume.register(keys, "a", 30_000))
        await sleeper.begin([Watch()])
        assert await sleeper.stop() is not None  # it has connected, and works

        proxy.stall(replies=False)
        await sleeper.begin([Watch()])
        admin.config_resetstat()
        stopping = asyncio.create_task(sleeper.stop())
        await auntil(lambda: told(server) > 0)
        proxy.resume()
        brought = await asyncio.wait_for(stopping, 10)

        assert brought is not None
        assert not any(found.envelopes or found.woken for found in brought)
        assert not listener.listening
        admin.xadd(keys.ready, {"b": "1"})
        assert admin.xpending(keys.ready, GROUP)["pending"] == 0
    finally:
        await listener.close()
        await driver.close()


async def test_a_sleep_that_cannot_be_ended_is_cut(
    server: Server, proxy: Proxy, namespace: str, asleep: Callable[[], int]
) -> None:
    """When the word does not arrive where the read is, nothing of it is left at the server."""
    keys = queue_keys(namespace, "orders")
    driver = AsyncDriver(server.url, connect_timeout=5, timeout=5)
    listener = AsyncListener(
        AsyncServer(resolve(proxy.url), connect_timeout=5, timeout=5), connect_timeout=5, longest=25
    )
    sleeper = Sleeper(driver, listener, keys=[keys], consumer="a")
    try:
        await driver.open()
        await driver.run(consume.register(keys, "a", 30_000))
        await sleeper.begin([Watch()])
        await auntil(lambda: asleep() == 1)
        proxy.stall()
        with pytest.raises(NotConnected):
            await asyncio.wait_for(sleeper.stop(), 10)
        assert not listener.listening
        await auntil(lambda: asleep() == 0)
    finally:
        await listener.close()
        await driver.close()
