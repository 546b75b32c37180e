"""The asyncio driver alone: cancellation, and what it must not do to the event loop."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from millstream.driver.aio import AsyncDriver
from millstream.driver.blocking import BlockingDriver
from tests.driver.drivers import op
from tests.support.embedded import data_directory
from tests.support.proxy import Proxy
from tests.support.servers import Server

PING = op("PING")


async def test_one_connection_serves_all_tasks(own_server: Server) -> None:
    """A hundred operations at a time need one connection."""
    driver = AsyncDriver(own_server.url, connect_timeout=5, timeout=10)

    await asyncio.gather(*(driver.run(op("ECHO", n)) for n in range(100)))

    clients = own_server.admin().info("clients")
    assert isinstance(clients, dict)
    assert clients["connected_clients"] == 2
    await driver.close()


async def test_cancelled_operations_do_no_harm(proxy: Proxy) -> None:
    """Operations that are cancelled while they wait leave the others their own replies."""
    driver = AsyncDriver(proxy.url, connect_timeout=5, timeout=10)
    await driver.open()
    proxy.stall(requests=False)
    running = [asyncio.create_task(driver.run(op("ECHO", n))) for n in range(20)]
    await asyncio.sleep(0)

    for task in running[::2]:
        task.cancel()
    await asyncio.wait(running[::2])
    proxy.resume()

    expected = [str(n).encode() for n in range(1, 20, 2)]
    assert await asyncio.gather(*running[1::2]) == expected
    assert proxy.connections == 1
    await driver.close()


async def test_a_cancelled_open_can_be_repeated(proxy: Proxy) -> None:
    """Opening that was cancelled leaves nothing behind, and succeeds the next time."""
    driver = AsyncDriver(proxy.url, connect_timeout=5, timeout=10)
    proxy.stall()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await driver.open()
    proxy.resume()

    assert await driver.run(PING) == b"PONG"
    await driver.close()


async def test_starting_an_embedded_server_does_not_hold_the_loop() -> None:
    """While an embedded server starts, other tasks run."""
    turns = [time.monotonic()]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(time.monotonic())

    with data_directory() as directory:
        watching = asyncio.create_task(watch())
        driver = AsyncDriver(f"embedded://{directory}", connect_timeout=20, timeout=10)
        await driver.open()
        watching.cancel()
        assert await driver.run(PING) == b"PONG"
        await driver.close()

    # A busy machine makes all of it longer.
    assert len(turns) > 100
    pauses = sorted(after - before for before, after in pairwise(turns))
    # It may stand still once or twice.
    assert pauses[-3] < max(0.2, (turns[-1] - turns[0]) / 4)


async def test_it_lends_its_server_to_a_thread(server: Server) -> None:
    """The blocking driver that it gives out talks to the same server, and outlives it."""
    driver = AsyncDriver(server.url, connect_timeout=5, timeout=10)
    await driver.open()

    blocking = driver.blocking(timeout=5)
    await driver.close()

    assert isinstance(blocking, BlockingDriver)
    assert await asyncio.to_thread(blocking.run, PING) == b"PONG"
    blocking.close()
