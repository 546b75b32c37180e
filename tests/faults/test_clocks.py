"""Clients whose clocks are an hour wrong: the server's time rules all that has to do with time."""

from __future__ import annotations

from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Event, Workshop
from tests.support.wait import until

HOUR = 3600
JOBS: ms.Queue[Any] = ms.Queue("jobs")

TASKS = """
queue = ms.Queue("jobs", retry=ms.Retry(backoff=ms.Backoff(first=0.4, jitter=0)))


@worker.on(queue)
async def handle(body, delivery):
    record("handled", body, attempt=delivery.attempt)
    send = worker.client.send
    if body == "go":
        later = await send(queue, "later", delay=0.5)
        record("sent", "later", id=later.id)
        await send(queue, "in time", ttl=60)
        await send(queue, "in time, later", delay=0.2, ttl=60)
        late = await send(queue, "late", delay=0.1, ttl=0.2)
        assert await worker.client.reschedule(queue, late.id, delay=0.6)
        for _ in range(2):
            receipt = await send(queue, "once", unique="a", unique_for=60)
            record("sent", "once", duplicate=receipt.duplicate)
    if body == "again" and delivery.attempt == 1:
        raise RuntimeError("try again")
"""


@pytest.mark.parametrize("off", [-HOUR, HOUR], ids=["behind", "ahead"])
def test_nothing_hangs_on_the_clock_of_a_client(
    workshop: Workshop, mq: ms.Client, off: float
) -> None:
    """Delays, retries, times to live and windows are as long as they would be otherwise."""
    workshop.write(TASKS)
    workshop.worker_off_by(off)
    mq.send(JOBS, "go")
    mq.send(JOBS, "again")

    def handled(body: str) -> list[Event]:
        return [event for event in workshop.events("handled") if event.body == body]

    bodies = ("later", "in time", "in time, later", "once")
    until(lambda: all(map(handled, bodies)) and len(handled("again")) == 2, 30)
    until(lambda: mq.dead(JOBS), 30)

    [sent, *ones] = workshop.events("sent")
    due = int(sent.more["id"].partition("-")[0]) / 1000 + 0.5
    assert due <= handled("later")[0].time - off < due + 20
    first, second = handled("again")
    assert 0.4 <= second.time - first.time < 20
    assert [one.more["duplicate"] for one in ones] == [False, True]
    assert len(handled("once")) == 1
    assert [(letter.body, letter.reason) for letter in mq.dead(JOBS)] == [("late", "expired")]
    assert not handled("late")
