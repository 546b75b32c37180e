"""Pause and cancel while processes, servers and connections die."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import millstream as ms
from tests.faults.processes import Workshop, sleeping
from tests.faults.working import (
    LONG,
    NAMESPACE,
    PATIENCE,
    becomes,
    connect,
    counts,
    reaches,
    recording,
    running,
)
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

HOLDING = """
queue = ms.Queue("jobs", lease={lease})

@worker.on(queue, concurrency=2, prefetch=5)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    await raised("go on")
    record("ended", body)
"""


def total(stats: ms.QueueStats) -> tuple[int, int, int, int]:
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def wait_for(mq: ms.Client, queue: ms.Queue[Any], wanted: tuple[int, int, int, int]) -> None:
    until(lambda: total(mq.stats(queue)) == wanted, PATIENCE, message=f"{wanted}")


def test_workers_die_while_a_queue_is_paused(
    workshop: Workshop, mq: ms.Client, own_server: Server
) -> None:
    """What they had waits with the rest; those that start begin with nothing until the resume."""
    workshop.write(HOLDING.format(lease=30))
    queue: ms.Queue[Any] = ms.Queue("jobs")
    supervisor = workshop.supervisor(1)
    mq.send_many(queue, range(10))
    begun = workshop.until_told("begun", 2)
    wait_for(mq, queue, (5, 0, 5, 0))

    mq.pause(queue)
    wait_for(mq, queue, (8, 0, 2, 0))
    os.kill(begun[0].pid, signal.SIGKILL)
    wait_for(mq, queue, (10, 0, 0, 0))
    until(lambda: sleeping(own_server) == 1, PATIENCE)
    assert len(workshop.events("begun")) == 2

    workshop.raise_flag("go on")
    mq.resume(queue)
    wait_for(mq, queue, (0, 0, 0, 0))
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert workshop.bodies("ended") == dict.fromkeys(range(10), 1)


def test_a_cancelled_message_of_a_worker_that_hangs(workshop: Workshop, mq: ms.Client) -> None:
    """It is over at once; the worker hears of it when it wakes up, and settles nothing."""
    workshop.write(HOLDING.format(lease=60))
    queue: ms.Queue[Any] = ms.Queue("jobs", lease=60)
    worker = workshop.worker()
    receipt = mq.send(queue, 1)
    workshop.until_told("begun", 1)
    os.kill(worker.pid, signal.SIGSTOP)

    assert mq.cancel(queue, receipt.id)
    assert total(mq.stats(queue)) == (0, 0, 0, 1)

    os.kill(worker.pid, signal.SIGCONT)
    until(lambda: f"message {receipt.id} was cancelled" in worker.output, PATIENCE)
    workshop.raise_flag("go on")
    mq.send(queue, 2)
    wait_for(mq, queue, (0, 0, 0, 1))
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert workshop.bodies("ended") == {2: 1}


def test_a_pause_survives_kill_9_of_the_server(
    durable_workshop: Workshop, durable_server: Server
) -> None:
    """Where the groups stood is as durable as the messages."""
    durable_workshop.write(HOLDING.format(lease=30))
    queue: ms.Queue[Any] = ms.Queue("jobs")
    with ms.Client(durable_server.url, namespace=NAMESPACE) as mq:
        worker = durable_workshop.worker()
        mq.send_many(queue, range(4))
        durable_workshop.until_told("begun", 2)
        mq.pause(queue)
        wait_for(mq, queue, (2, 0, 2, 0))

        durable_server.kill()
        durable_server.start()

        durable_workshop.raise_flag("go on")
        wait_for(mq, queue, (2, 0, 0, 0))
        assert mq.stats(queue).paused
        mq.resume(queue)
        wait_for(mq, queue, (0, 0, 0, 0))
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert durable_workshop.bodies("ended") == dict.fromkeys(range(4), 1)


async def test_words_that_were_said_while_the_connection_was_cut(
    own_server: Server, proxy: Proxy
) -> None:
    """A worker that was cut off hears them when it is back, and asks for nothing in vain."""
    worker, record = recording(LONG)
    async with connect(own_server.url) as mq, connect(proxy.url) as bad, running(worker, bad):
        await mq.send(LONG, 0)
        await reaches(record, 1)
        await becomes(mq, LONG, (0, 0, 0, 0))
        proxy.refuse()
        proxy.cut()
        await mq.pause(LONG)
        await mq.send_many(LONG, range(1, 4))
        proxy.accept()
        await auntil(lambda: sleeping(own_server) == 1, PATIENCE)
        assert await counts(mq, LONG) == (3, 0, 0, 0)
        proxy.refuse()
        proxy.cut()
        await mq.resume(LONG)
        proxy.accept()
        began = time.monotonic()
        await reaches(record, 4)
        assert time.monotonic() - began < 9
    assert record.twice == []
