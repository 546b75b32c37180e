"""Results come, each to its own message, whatever dies or breaks between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import NAMESPACE, PATIENCE, becomes, connect, running
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

RESULTS = ms.Results(keep=600)

WORKING = """
@worker.on(
    ms.Queue("jobs", lease=300, results=ms.Results(keep=600), retry=ms.Retry(max_crashes=100)),
    concurrency=20,
)
async def handle(body, delivery):
    record("begun", body)
    if body in {deadly} and not delivery.crashes:
        await asyncio.Event().wait()  # until its process is killed
    await asyncio.sleep(0.03)
    return [body, os.getpid()]
"""

ENDLESS = """
@worker.on(ms.Queue("jobs", lease=300, results=ms.Results(), retry=ms.Retry(max_crashes=0)))
async def handle(body):
    record("begun", body)
    await asyncio.Event().wait()
"""


def jobs(**options: Any) -> ms.Queue[Any]:
    return ms.Queue("jobs", lease=300, results=RESULTS, **options)


async def results(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int) -> list[asyncio.Task[Any]]:
    """Send so many messages, and wait for each."""
    handles = await asyncio.gather(*(mq.send(queue, n, result=True) for n in range(count)))
    return [asyncio.create_task(one.result(timeout=3 * PATIENCE)) for one in handles]


async def test_workers_that_are_killed(own_server: Server, workshop: Workshop) -> None:
    """Every message is handled again elsewhere, and its result comes."""
    deadly = (200, 600, 1000)
    workshop.write(WORKING.format(deadly=deadly))
    workshop.supervisor(2)
    async with connect(own_server.url) as mq:
        waits = await results(mq, jobs(), 1500)
        for one in deadly:
            begun = await asyncio.to_thread(until, partial(_has_begun, workshop, one), PATIENCE)
            # One process may have had two of them; what has crashed goes on elsewhere.
            with contextlib.suppress(ProcessLookupError):
                os.kill(begun.pid, signal.SIGKILL)
        found = await asyncio.gather(*waits)
        stats = await mq.stats(jobs())

    assert [body for body, _ in found] == [*range(1500)]
    assert (stats.acked, stats.dead, stats.in_flight) == (1500, 0, 0)
    assert stats.crashed > 0


def _has_begun(workshop: Workshop, body: int) -> Any:
    return next((one for one in workshop.events("begun") if one.body == body), None)


async def test_a_worker_that_dies_with_its_last_message(
    own_server: Server, workshop: Workshop
) -> None:
    """Whoever waits hears that it crashed as soon as its supervisor has seen that."""
    workshop.write(ENDLESS)
    workshop.supervisor(1)
    async with connect(own_server.url) as mq:
        handle = await mq.send(jobs(), 1, result=True)
        wait = asyncio.create_task(handle.result(timeout=3 * PATIENCE))
        [begun] = await asyncio.to_thread(workshop.until_told, "begun", 1)
        os.kill(begun.pid, signal.SIGKILL)

        with pytest.raises(ms.ResponderLost) as caught:
            await wait
    assert (caught.value.id, caught.value.reason) == (handle.id, "crashed")


def restart_in_order(server: Server) -> None:
    server.restart()


def kill_and_start(server: Server) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("end", [restart_in_order, kill_and_start])
async def test_a_server_that_restarts(
    durable_server: Server, durable_workshop: Workshop, end: Any
) -> None:
    """Waits go on, results that were there are there again, and all the others come."""
    workshop = durable_workshop
    workshop.write(WORKING.format(deadly=()))
    workshop.supervisor(2)
    async with connect(durable_server.url) as mq:
        waits = await results(mq, jobs(), 1500)
        for goal in (300, 900):
            await asyncio.to_thread(workshop.until_told, "begun", goal)
            await asyncio.to_thread(end, durable_server)
        found = await asyncio.gather(*waits)
        stats = await mq.stats(jobs())

    assert [body for body, _ in found] == [*range(1500)]
    assert stats.acked == 1500


@pytest.mark.parametrize("options", [{}, {"max_running": 40}], ids=["plain", "limits"])
async def test_lost_replies(own_server: Server, proxy: Proxy, options: Any) -> None:
    """A settlement whose reply was lost is not made again; its result is there, though nobody was told."""
    queue, handled = jobs(**options), list[int]()
    worker = ms.Worker()

    @worker.on(queue, concurrency=20)
    async def handle(body: int) -> int:
        handled.append(body)
        await asyncio.sleep(0)
        return 2 * body

    async with connect(own_server.url) as mq, connect(proxy.url) as bad, running(worker, bad):
        for n in range(1, 6):
            await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA")
            waits = await results(mq, queue, 40)
            assert await asyncio.gather(*waits) == [2 * n for n in range(40)]
            assert len(handled) == 40 * n
        await becomes(mq, queue, (0, 0, 0, 0))
        assert (await mq.stats(queue)).acked == 200
    assert proxy.lost >= 3


def _enough(waits: Sequence[asyncio.Task[Any]], count: int) -> bool:
    return sum(one.done() for one in waits) >= count


async def test_who_waits_is_cut_off(own_server: Server, proxy: Proxy) -> None:
    """Again and again while results come; each comes, and to the one who waits for it."""
    queue, worker = jobs(), ms.Worker()

    @worker.on(queue, concurrency=10)
    async def handle(body: int) -> int:
        await asyncio.sleep(0.01)  # the work itself
        return 2 * body

    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        waits = await results(bad, queue, 200)
        await auntil(lambda: bad.requests.mailbox.is_open, PATIENCE)
        async with running(worker, mq):
            for share in (20, 80, 140):
                await auntil(partial(_enough, waits, share), PATIENCE)
                await asyncio.to_thread(proxy.cut)
            assert await asyncio.gather(*waits) == [2 * n for n in range(200)]


async def test_who_waits_cannot_reach_the_server_for_a_while(
    own_server: Server, proxy: Proxy
) -> None:
    """What has ended meanwhile is found when it is back."""
    queue, worker = jobs(), ms.Worker()

    @worker.on(queue)
    async def handle(body: int) -> int:
        if body == 1:
            raise ms.Reject("no")
        return body

    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        waits = await results(bad, queue, 2)
        await auntil(lambda: len(bad.results._waiting) == 2, PATIENCE)
        await asyncio.to_thread(proxy.refuse)
        await asyncio.to_thread(proxy.cut)
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 0, 1))
        await asyncio.to_thread(proxy.accept)

        assert await waits[0] == 0
        with pytest.raises(ms.RemoteError, match="rejected: no"):
            await waits[1]


async def test_a_server_that_has_forgotten_everything(own_server: Server) -> None:
    """After a FLUSHALL nothing is known of the message, and whoever waits is told so."""
    async with ms.AsyncClient(own_server.url, namespace=NAMESPACE) as mq:
        handle = await mq.send(jobs(), 1, result=True)
        wait = asyncio.create_task(handle.result())
        await auntil(lambda: mq.results._waiting, PATIENCE)
        own_server.admin().flushall()

        with pytest.raises(ms.NoResult, match="nothing is known"):
            await wait
