"""A server that hangs: who waits for it does so for its own time only, however many wait beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.aio.requests import STALLED
from millstream.protocol.partitions import EXPIRY_MS
from tests.api.clients import Kind, connecting, make
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.serving import serving
from tests.support.wait import auntil

WORK: ms.Endpoint[Any, Any] = ms.Endpoint("work", timeout=300)
JOBS: ms.Queue[Any] = ms.Queue("jobs", results=ms.Results(keep=60))

MANY = 12

PATIENCE = 8
"""Seconds; the client's own patience is ten, and one after the other would be more."""


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """Blocking clients of these tests wait in many threads at a time."""
    with ThreadPoolExecutor(2 * MANY) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        yield


@pytest.fixture
async def stalled(server: Server, kind: Kind, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client, connected, with a message in a queue, whose server does not answer any more."""
    with Proxy(server.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect()
            await mq.send(JOBS, 1)
            proxy.stall()
            yield mq
            proxy.resume()
            await mq.purge(JOBS, confirm=True)


async def _times_out(*waits: Any) -> None:
    began = time.monotonic()
    found = await asyncio.gather(*waits, return_exceptions=True)
    assert time.monotonic() - began < PATIENCE
    assert {type(error) for error in found} == {ms.TimedOut}


async def _gathered(mq: ms.AsyncClient) -> list[Any]:
    return [answer async for answer in mq.gather(WORK, 1, timeout=1)]


async def _streamed(mq: ms.AsyncClient) -> list[Any]:
    return [part async for part in mq.request_stream(WORK, 1, timeout=1)]


async def _result(handle: Any) -> Any:
    if isinstance(handle, ms.Handle):
        return await handle.result(timeout=0.5)
    return await asyncio.to_thread(handle.result, timeout=0.5)


async def test_the_first_requests(stalled: ms.AsyncClient) -> None:
    """All share the opening of the mailbox, and each waits for it until its own deadline."""
    await _times_out(*(stalled.request(WORK, n, timeout=1) for n in range(MANY)))


async def test_gathers_and_streams(stalled: ms.AsyncClient) -> None:
    """The same of those who ask all workers, or for many replies."""
    await _times_out(*(_gathered(stalled) for _ in range(3)), _streamed(stalled))


async def test_later_requests(server: Server, kind: Kind, namespace: str) -> None:
    """Those that gather behind a patient one do not wait as long as that one."""
    with Proxy(server.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect()
            with pytest.raises(ms.NoResponders):
                await mq.request(WORK, 0)
            proxy.stall()
            patient = asyncio.ensure_future(mq.request(WORK, 1, timeout=300))
            await asyncio.sleep(0)
            await _times_out(*(mq.request(WORK, n, timeout=1) for n in range(MANY)))
            assert not patient.done()
            proxy.resume()
            with pytest.raises(ms.NoResponders):
                await patient


async def test_results(server: Server, kind: Kind, namespace: str) -> None:
    """A look at a result ends soon after its time."""
    with Proxy(server.port) as proxy:
        async with connecting(kind, proxy.url, namespace) as connect:
            mq = await connect()
            handle = await mq.send(JOBS, 1, result=True)
            proxy.stall()
            await _times_out(*(_result(handle) for _ in range(3)))
            proxy.resume()
            await mq.purge(JOBS, confirm=True)


async def test_before_it_is_connected(server: Server, kind: Kind, namespace: str) -> None:
    """A request that would connect first waits for that until its deadline, however patient its client is."""
    with Proxy(server.port) as proxy:
        proxy.stall()
        mq = make(kind, proxy.url, namespace=namespace, connect_timeout=20)
        await _times_out(*(mq.request(WORK, n, timeout=1) for n in range(MANY)))
        proxy.resume()
        await mq.aclose()


async def test_closing(
    server: Server, admin: redis.Redis, url: str, namespace: str, kind: Kind
) -> None:
    """All who wait hear of it at once, and their requests are given up together, however many they are."""
    worker, begun, gate = ms.Worker(), list[int](), asyncio.Event()

    @worker.on(WORK, concurrency=MANY)
    async def handle(body: int) -> None:
        begun.append(body)
        await gate.wait()

    with Proxy(server.port) as proxy:
        async with serving(admin, url, namespace, worker):
            mq = make(kind, proxy.url, namespace=namespace)
            waiting = [asyncio.ensure_future(mq.request(WORK, n)) for n in range(MANY)]
            await auntil(lambda: len(begun) == MANY, 20)
            proxy.stall()
            began = time.monotonic()
            closing = asyncio.ensure_future(mq.aclose())
            found = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(error) for error in found} == {ms.NotConnected}
            await closing
            assert time.monotonic() - began < MANY  # one second each, and more, otherwise
            gate.set()
            proxy.resume()


async def test_a_server_that_stood_still(kind: Kind, namespace: str) -> None:
    """The workers live, though their signs of life waited as long as the requests: those are answered."""
    worker = ms.Worker()

    @worker.on(WORK, concurrency=MANY)
    async def handle(body: int) -> int:
        return body

    with Server() as own:
        async with (
            serving(own.admin(), own.url, namespace, worker),
            connecting(kind, own.url, namespace) as connect,
        ):
            mq = await connect()
            assert await mq.request(WORK, 0) == 0
            own.pause()
            paused = time.monotonic()
            waiting = [asyncio.ensure_future(mq.request(WORK, n, timeout=60)) for n in range(MANY)]
            gathering = asyncio.ensure_future(_all_answers(mq))
            await auntil(lambda: time.monotonic() - paused > EXPIRY_MS / 1000 + 1)
            own.resume()
            assert await asyncio.gather(*waiting) == [*range(MANY)]
            assert await gathering == [1]


async def _all_answers(mq: ms.AsyncClient) -> list[Any]:
    return [answer.result() async for answer in mq.gather(WORK, 1, timeout=60)]


async def test_nobody_after_all(kind: Kind, namespace: str) -> None:
    """When nobody serves the endpoint, a client that waited for its server hears so soon after."""
    with Server() as own:
        async with connecting(kind, own.url, namespace) as connect:
            mq = await connect()
            with pytest.raises(ms.NoResponders):
                await mq.request(WORK, 0)
            own.pause()
            paused = time.monotonic()
            waiting = asyncio.ensure_future(mq.request(WORK, 1, timeout=300))
            short = asyncio.ensure_future(mq.request(WORK, 2, timeout=4))
            await auntil(lambda: time.monotonic() - paused > STALLED + 1)
            own.resume()
            found = await asyncio.gather(waiting, short, return_exceptions=True)
            assert {type(error) for error in found} <= {ms.NoResponders, ms.TimedOut}
            assert type(found[0]) is ms.NoResponders
            assert time.monotonic() - paused < 30
