"""What was handled is kept once, whatever dies or breaks between."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import PATIENCE, becomes, connect, reaches, recording, running
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

KEEP = ms.Retain(max_length=100_000)

WORKING = """
@worker.on(ms.Queue("jobs", keep=ms.Retain(max_length=100_000)), concurrency=20)
async def handle(body, delivery):
    record("begun", body)
    await asyncio.sleep(0)
"""


def test_workers_that_are_killed(workshop: Workshop, mq: ms.Client) -> None:
    """Each acknowledgement keeps its message: no more of them, and no fewer."""
    workshop.write(WORKING)
    queue: ms.Queue[Any] = ms.Queue("jobs", keep=KEEP, retry=ms.Retry(max_crashes=100))
    mq.send_many(queue, range(3000))
    supervisor = workshop.supervisor(2)
    for goal in (300, 900, 1500):
        begun = workshop.until_told("begun", goal)
        try:
            os.kill(begun[-1].pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    until(lambda: mq.stats(queue).acked + mq.stats(queue).dead == 3000, PATIENCE)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0

    stats = mq.stats(queue)
    kept = Counter(message.body for message in mq.replay(queue))
    dead = {letter.body for letter in mq.dead(queue, limit=3000)}
    assert stats.kept == stats.acked
    assert set(kept.values()) == {1}
    assert set(kept) | dead == set(range(3000))
    assert not set(kept) & dead
    assert (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)


@pytest.mark.parametrize("options", [{}, {"max_running": 40}], ids=["plain", "limits"])
async def test_lost_replies(own_server: Server, proxy: Proxy, options: Any) -> None:
    """An acknowledgement whose reply was lost is not made a second time."""
    queue: ms.Queue[Any] = ms.Queue("lost", lease=300, keep=KEEP, **options)
    worker, record = recording(queue, concurrency=20)
    async with connect(own_server.url) as mq, connect(proxy.url) as bad:
        async with running(worker, bad):
            for n in range(10):
                await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA")
                await mq.send_many(queue, range(n * 50, n * 50 + 50))
                await reaches(record, n * 50 + 50)
            await becomes(mq, queue, (0, 0, 0, 0))
        kept = Counter([one.body async for one in mq.replay(queue)])
        stats = await mq.stats(queue)
    assert proxy.lost >= 5
    assert kept == dict.fromkeys(range(500), 1)
    assert (stats.kept, stats.acked) == (500, 500)
