"""Streams of replies when a worker, a caller, a connection or the server dies in mid-stream."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import mailbox_key
from tests.faults.processes import Workshop, kill
from tests.faults.working import NAMESPACE, PATIENCE, becomes, connect
from tests.support.proxy import Proxy
from tests.support.served import served, serving
from tests.support.servers import Server

LONG: ms.Endpoint[int, int] = ms.Endpoint("long", int, int, timeout=3 * PATIENCE, lease=300)
STEADY: ms.Endpoint[int, int] = ms.Endpoint(
    "steady", int, int, timeout=3 * PATIENCE, lease=300, idempotent=True
)
DONE = (0, 0, 0, 0)

TASKS = """
async def count(most):
    record("begun", most)
    try:
        for number in range(most):
            yield number
        record("yielded", most)
        if not flag("go-on"):
            await raised("go-on")
    finally:
        record("closed", most)

worker.on(ms.Endpoint("long", int, int, lease=300))(count)
worker.on(ms.Endpoint("steady", int, int, lease=300, idempotent=True))(count)
"""

CALLER = """
with ms.Client(namespace="t-faults") as mq:
    for part in mq.request_stream(ms.Endpoint("long", int, int, timeout=60), 10**9, window=8):
        record("taken", part)
        if part == 20:
            time.sleep(60)
"""


async def _served(url: str) -> None:
    async with connect(url) as mq:
        await served(mq, LONG, STEADY)


@pytest.fixture
def worked(workshop: Workshop, own_server: Server) -> Workshop:
    """A supervised worker process that serves both endpoints."""
    workshop.write(TASKS)
    workshop.supervisor()
    asyncio.run(_served(own_server.url))
    return workshop


def taking(parts: Iterator[int], taken: list[int]) -> None:
    """Take what there is."""
    for part in parts:
        taken.append(part)  # noqa: PERF402 - what came before an error is kept


# --- the worker ---------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [LONG, STEADY], ids=["once", "idempotent"])
def test_a_killed_worker(worked: Workshop, mq: ms.Client, endpoint: Any) -> None:
    """Its caller gets all parts that have left, those that it had not taken yet included, and ResponderLost."""
    parts = mq.request_stream(endpoint, 20)
    taken = [next(parts)]
    worked.until_told("yielded", 1)
    kill(worked.events("begun")[0].pid)
    with pytest.raises(ms.ResponderLost) as caught:
        taking(parts, taken)
    assert caught.value.reason == "crashed"
    assert taken == [*range(20)]


def test_a_worker_that_is_killed_before_the_first_part(worked: Workshop, mq: ms.Client) -> None:
    """An idempotent request goes to the next one, and its caller does not notice."""
    killing = threading.Thread(target=replace, args=(worked,))
    killing.start()
    assert [*mq.request_stream(STEADY, 0)] == []
    killing.join(PATIENCE)
    assert [*mq.request_stream(STEADY, 40)] == [*range(40)]
    assert len({event.pid for event in worked.events("begun")}) == 2


def replace(workshop: Workshop) -> None:
    """Kill the worker process when it has yielded all, and let the next one go on."""
    workshop.until_told("yielded", 1)
    kill(workshop.events("begun")[0].pid)
    workshop.until_told("begun", 2)
    workshop.raise_flag("go-on")


# --- the caller ---------------------------------------------------------------------------------


def test_a_killed_caller(worked: Workshop, own_server: Server) -> None:
    """When its mailbox has expired, the generator that waits for it is closed, and the request settled."""
    worked.write("from tasks import *\n" + CALLER, "caller")
    caller = worked.script("caller")
    worked.until_told("taken", 20)
    kill(caller.pid)
    admin: Any = own_server.admin()
    # The time that a mailbox is kept goes by: nobody prolongs it.
    for key in admin.keys(mailbox_key(NAMESPACE, "*")):
        admin.expire(key, 1)
    worked.until_told("closed", 1)

    async def settled() -> None:
        async with connect(own_server.url) as mq:
            await becomes(mq, LONG.queue, DONE)

    asyncio.run(settled())


# --- connections --------------------------------------------------------------------------------


def endless() -> ms.Worker:
    """A worker that counts for as long as its caller likes."""
    worker = ms.Worker()

    @worker.on(LONG)
    async def count(_: int) -> AsyncIterator[int]:
        for number in itertools.count():
            yield number

    return worker


@pytest.mark.parametrize("side", ["worker", "caller", "both"])
async def test_cut_connections(own_server: Server, proxy: Proxy, side: str) -> None:
    """However often they break, the stream goes on without a loss or a repetition."""
    good, bad = own_server.url, proxy.url
    staffs, callers = (bad if side != "caller" else good), (bad if side != "worker" else good)
    async with connect(staffs) as staff, connect(callers) as mq, serving(endless(), staff, LONG):
        taken = []
        async for part in mq.request_stream(LONG, 0, window=16):
            taken.append(part)
            if part % 100 == 50:
                await asyncio.to_thread(proxy.cut)
            if part == 600:
                break
        assert taken == [*range(601)]
        await becomes(mq, LONG.queue, DONE)


@pytest.mark.parametrize("to", [b":mailbox", b"XREAD", b"XADD"])
@pytest.mark.parametrize("after", [0, 30])
async def test_lost_replies(own_server: Server, proxy: Proxy, to: bytes, after: int) -> None:
    """What was sent twice, or read twice, because an answer was lost, comes once."""
    bad = proxy.url
    async with connect(bad) as staff, connect(bad) as mq, serving(endless(), staff, LONG):
        taken = []
        async for part in mq.request_stream(LONG, 0, window=16):
            taken.append(part)
            if part % 50 == 25:
                await asyncio.to_thread(proxy.drop_replies, after=after, to=to)
            if part == 300:
                break
        assert taken == [*range(301)]
        assert await asyncio.to_thread(lambda: proxy.lost) > 0


# --- the server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restarted", "killed"])
async def test_a_server_that_comes_back(durable_server: Server, how: str) -> None:
    """With what it had on disk, the stream goes on without a loss or a repetition."""
    server = durable_server

    def end() -> None:
        if how == "killed":
            server.kill()
            server.start()
        else:
            server.restart()

    url = server.url
    async with connect(url) as staff, connect(url) as mq, serving(endless(), staff, LONG):
        taken = []
        async for part in mq.request_stream(LONG, 0, window=16):
            taken.append(part)
            if part in (100, 300):
                await asyncio.to_thread(end)
            if part == 500:
                break
        assert taken == [*range(501)]


async def test_a_server_that_has_lost_everything(own_server: Server) -> None:
    """The caller is told that parts are lost: it neither waits for ever nor takes what follows."""
    taken: list[int] = []
    url = own_server.url

    async def take(mq: ms.AsyncClient) -> None:
        async for part in mq.request_stream(LONG, 0, window=16):
            taken.append(part)
            if part == 100:
                own_server.kill()
                own_server.start()

    async with connect(url) as staff, connect(url) as mq, serving(endless(), staff, LONG):
        with pytest.raises(ms.ResponderLost) as caught:
            await asyncio.wait_for(take(mq), 2 * PATIENCE)
    assert caught.value.reason == "unknown"
    assert taken == [*range(len(taken))]
