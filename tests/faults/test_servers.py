"""Servers that restart or are killed under running workers."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import NAMESPACE, PATIENCE
from tests.support.servers import Server
from tests.support.wait import until

QUEUE: ms.Queue[Any] = ms.Queue("jobs", lease=300)

TASKS = """
@worker.on(
    ms.Queue("jobs", lease=300, retry=ms.Retry(backoff=ms.Backoff(first=0.05))), concurrency=5
)
async def handle(body, delivery):
    await asyncio.sleep(0.005)
    if body % 10 == 0 and delivery.attempt == 1:
        raise RuntimeError("once more")
    record("ended", body)
"""


def drained(mq: ms.Client) -> bool:
    stats = mq.stats(QUEUE)
    return stats.ready + stats.delayed + stats.in_flight == 0


def restart_in_order(server: Server) -> None:
    server.restart()


def kill_and_start(server: Server) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("end", [restart_in_order, kill_and_start])
def test_nothing_is_lost(durable_server: Server, durable_workshop: Workshop, end: Any) -> None:
    """What the server has on disk is handled, once; the workers go on by themselves."""
    workshop = durable_workshop
    workshop.write(TASKS)
    supervisor = workshop.supervisor(2)
    with ms.Client(durable_server.url, namespace=NAMESPACE) as mq:
        mq.send_many(QUEUE, range(4000))
        gaps = []
        for goal in (600, 1800, 3000):
            workshop.until_told("ended", goal)
            end(durable_server)
            up = time.time()
            told = workshop.until_told("ended", len(workshop.events("ended")) + 1)
            gaps.append(told[-1].time - up)
        until(lambda: drained(mq), 2 * PATIENCE)
        assert max(gaps) < 5
        stats = mq.stats(QUEUE)
        assert (stats.dead, stats.crashed) == (0, 0)
        assert stats.acked == 4000
    ended = workshop.bodies("ended")
    assert set(ended) == set(range(4000))
    assert [body for body, times in ended.items() if times > 1] == []
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_producers_send_through_a_restart(
    durable_server: Server, durable_workshop: Workshop
) -> None:
    """Every message whose send returned is handled, though the server is killed meanwhile."""
    workshop = durable_workshop
    workshop.write(TASKS)
    workshop.worker()
    sent: list[int] = []
    done = threading.Event()

    def send() -> None:
        with ms.Client(durable_server.url, namespace=NAMESPACE) as mq:
            n = 0
            while not done.is_set():
                mq.send(QUEUE, n)
                sent.append(n)
                n += 1

    producer = threading.Thread(target=send)
    producer.start()
    try:
        for goal in (200, 400):
            workshop.until_told("ended", goal)
            kill_and_start(durable_server)
        workshop.until_told("ended", 600)
    finally:
        done.set()
        producer.join(PATIENCE)
    with ms.Client(durable_server.url, namespace=NAMESPACE) as mq:
        until(lambda: drained(mq), 2 * PATIENCE)

    ended = workshop.bodies("ended")
    assert set(ended) >= set(sent)
    assert len(sent) > 500
    assert [body for body, times in ended.items() if times > 1] == []


def test_a_worker_waits_for_a_server_that_is_away(
    durable_server: Server, durable_workshop: Workshop
) -> None:
    """A server that is away for longer than operations are tried is waited for, quietly."""
    workshop = durable_workshop
    workshop.write(TASKS)
    worker = workshop.worker()
    with ms.Client(durable_server.url, namespace=NAMESPACE) as mq:
        mq.send(QUEUE, 1)
        workshop.until_told("ended", 1)
    durable_server.kill()
    until(lambda: worker.output.count("trying again") >= 2, 30)
    assert len(worker.output) < 20_000
    durable_server.start()
    with ms.Client(durable_server.url, namespace=NAMESPACE) as mq:
        mq.send(QUEUE, 2)
        workshop.until_told("ended", 2)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
