"""Ordered keys through failures, kills and leases that run out, all at once."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import millstream as ms
from tests.faults.processes import Event, Workshop
from tests.faults.working import PATIENCE
from tests.support.wait import until

KEYS, EACH = 8, 12

TASKS = """
import random

queue = ms.Queue(
    "jobs",
    ordered=True,
    lease=30,
    retry=ms.Retry(max_attempts=50, max_crashes=100, backoff=ms.Backoff(first=0.02, factor=1)),
)

@worker.on(queue, concurrency=20)
async def handle(body, delivery):
    record("begun", body, attempt=delivery.attempt, crashes=delivery.crashes)
    await asyncio.sleep(0.002)
    if delivery.attempt == 1 and body[1] % 3 == 0:
        record("failed", body)
        raise ValueError("again")
    record("ended", body)
"""


def test_failures_and_kills(workshop: Workshop, mq: ms.Client) -> None:
    """A key's next message begins when the one before it has ended well, whatever happened to it."""
    workshop.write(TASKS)
    queue: ms.Queue[Any] = ms.Queue("jobs", ordered=True)
    bodies = [[f"k{key}", number] for number in range(EACH) for key in range(KEYS)]
    supervisor = workshop.supervisor(2)
    mq.send_many(queue, bodies, key=lambda body: body[0])

    luck = random.Random(7)
    for kills in range(4):
        begun = workshop.until_told("begun", 20 * (kills + 1))
        os.kill(luck.choice(begun[-5:]).pid, signal.SIGKILL)

    def drained() -> bool:
        stats = mq.stats(queue)
        return (stats.ready, stats.delayed, stats.in_flight, stats.dead) == (0, 0, 0, 0)

    until(drained, 3 * PATIENCE, 0.05, message="the queue is drained")
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0
    in_order(workshop.events())


def in_order(events: list[Event]) -> None:
    """No message begins before all before it of its key have ended; all of them have."""
    ended: dict[str, int] = {}
    for event in sorted(events, key=lambda event: event.time):
        key, number = event.body
        if event.event == "begun":
            # It may come again when its process died between its end and its acknowledgement.
            assert number in (ended.get(key, 0) - 1, ended.get(key, 0)), event
        elif event.event == "ended":
            ended[key] = number + 1
    assert ended == {f"k{key}": EACH for key in range(KEYS)}
