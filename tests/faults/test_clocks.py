"""Clients whose clocks are an hour wrong: the server's time rules all that has to do with time."""

from __future__ import annotations

from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.faults.processes import Event, Workshop
from tests.faults.working import NAMESPACE
from tests.support.servers import Server
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


ABSOLUTE = """
from datetime import UTC, datetime

queue = ms.Queue("jobs")


@worker.on(queue)
async def handle(body):
    send, reschedule = worker.client.send, worker.client.reschedule
    if body == "past":
        record("handled", body)
        return
    soon, past = (datetime.fromtimestamp(seconds, UTC) for seconds in body)
    ids = [(await send(queue, "soon", at=soon)).id]
    ids += [(await send(queue, "soon", delay=1)).id]
    assert await reschedule(queue, ids[1], at=soon)
    ids += [(await send(queue, "window", delay=7200, unique="a", unique_for=300)).id]
    await send(queue, "past", at=past)
    record("sent", ids=ids)
"""


@pytest.mark.parametrize("off", [-HOUR, HOUR], ids=["behind", "ahead"])
def test_dates(workshop: Workshop, mq: ms.Client, own_server: Server, off: float) -> None:
    """The server decides whether a date has come, and how long a window is open."""
    admin: Any = own_server.admin()
    now, _ = admin.time()
    workshop.write(ABSOLUTE)
    workshop.worker_off_by(off)
    # For a clock that is ahead both are over, for one that is behind none is.
    mq.send(JOBS, [now + 1800, now - 1800])

    [sent] = workshop.until_told("sent", 1, 30)
    workshop.until_told("handled", 1, 30)
    keys = queue_keys(NAMESPACE, "jobs")
    first, second, window = sent.more["ids"]
    due = {id.decode(): ms for id, ms in admin.zrange(keys.due, 0, -1, withscores=True)}
    assert due[first] == due[second] == (now + 1800) * 1000
    asked = int(window.partition("-")[0])
    assert asked == pytest.approx(now * 1000, abs=60_000)
    assert due[window] == pytest.approx(asked + 7_200_000, abs=1)
    assert 200_000 < admin.pttl(keys.window("a")) <= 300_000
