"""Limits when workers die: their slots are free again, and no limit is passed on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Event, Workshop, kill
from tests.faults.working import PATIENCE
from tests.support.servers import Server
from tests.support.wait import until

HOLDING = """
queue = ms.Queue("jobs", lease={lease}, max_running=3)

@worker.on(queue, concurrency=20)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    if not delivery.crashes:
        await raised("go on")
    record("ended", body)
"""

BUSY = """
queue = ms.Queue("jobs", lease=300, max_running=4, retry=ms.Retry(max_crashes=9))

@worker.on(queue, concurrency=3)
async def handle(body):
    record("begun", body)
    await asyncio.sleep(0.02)
    record("ended", body)
"""

PER_KEY = """
soon = ms.Backoff(first=0.02, factor=1, jitter=0)
queue = ms.Queue(
    "jobs", lease=300, max_running_per_key=2, retry=ms.Retry(max_crashes=9, backoff=soon)
)

@worker.on(queue, concurrency=10)
async def handle(body, delivery):
    record("begun", body)
    await asyncio.sleep(0.02)
    record("ended", body)
    if body % 3 == 0 and delivery.attempt == 1:
        raise ValueError(body)
    record("done", body)
"""

LIMITED = """
queue = ms.Queue("jobs", lease=1, rate=ms.Rate(20, burst=40), retry=ms.Retry(max_crashes=9))

@worker.on(queue, concurrency=5)
async def handle(body):
    record("begun", body)
"""


def jobs() -> ms.Queue[Any]:
    return ms.Queue("jobs")


def jobs_by_key() -> ms.Queue[Any]:
    return ms.Queue("jobs", max_running_per_key=2)


def drained(mq: ms.Client) -> None:
    def empty() -> bool:
        stats = mq.stats(jobs())
        return (stats.ready, stats.delayed, stats.in_flight, stats.dead) == (0, 0, 0, 0)

    until(empty, 3 * PATIENCE, message="the queue is drained")


def until_back(workshop: Workshop, bodies: set[Any]) -> set[int]:
    """Wait until these messages are with another process; return which ones."""

    def back() -> list[Event]:
        return [event for event in workshop.events("begun") if event.more["crashes"]]

    until(lambda: {event.body for event in back()} == bodies, PATIENCE)
    return {event.pid for event in back()}


def most_at_a_time(events: Iterable[Event], killed: dict[int, float]) -> int:
    """How many ran at once; what a process had begun that was killed ended at that time."""
    events = list(events)
    times = [(event.time, 1 if event.event == "begun" else -1) for event in events]
    for pid, at in killed.items():
        own = [event for event in events if event.pid == pid]
        running = sum(1 if event.event == "begun" else -1 for event in own)
        # It may have gone on for a moment.
        times += [(max(at, own[-1].time if own else at), -1)] * running
    running = most = 0
    for _, change in sorted(times):
        running += change
        most = max(most, running)
    return most


class TestMaxRunning:
    def test_under_a_supervisor(self, workshop: Workshop, mq: ms.Client) -> None:
        """What a killed process held is with another one at once, however long the leases are."""
        workshop.write(HOLDING.format(lease=300))
        supervisor = workshop.supervisor(2)
        mq.send_many(jobs(), range(8))
        begun = workshop.until_told("begun", 3)
        until(lambda: len(mq.stats(jobs()).consumers) == 2, PATIENCE)
        for pid in {event.pid for event in begun}:
            os.kill(pid, signal.SIGKILL)

        until_back(workshop, {event.body for event in begun})
        workshop.raise_flag("go on")
        drained(mq)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0
        assert set(workshop.bodies("ended")) == set(range(8))

    def test_without_one(self, workshop: Workshop, mq: ms.Client) -> None:
        """A worker that waits for a slot has those of a dead one when its leases end."""
        workshop.write(HOLDING.format(lease=2))
        victim = workshop.worker()
        mq.send_many(jobs(), range(8))
        begun = workshop.until_told("begun", 3)
        rescuer = workshop.worker()
        until(lambda: len(mq.stats(jobs()).consumers) == 2, PATIENCE)
        assert len(workshop.events("begun")) == 3
        victim.send(signal.SIGKILL)

        assert until_back(workshop, {event.body for event in begun}) == {rescuer.pid}
        workshop.raise_flag("go on")
        drained(mq)
        assert set(workshop.bodies("ended")) == set(range(8))

    @pytest.mark.slow
    def test_never_more_through_many_kills(self, workshop: Workshop, mq: ms.Client) -> None:
        """Workers die one after the other; at no time do more handlers run than may."""
        workshop.write(BUSY)
        mq.send_many(jobs(), range(300))
        killed: dict[int, float] = {}
        supervisor = workshop.supervisor(3)
        for round_ in range(4):
            workshop.until_told("begun", 50 * (round_ + 1))
            kill_the_last(workshop, killed)
        drained(mq)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0

        assert set(workshop.bodies("ended")) == set(range(300))
        assert most_at_a_time(workshop.events("begun", "ended"), killed) == 4


def kill_the_last(workshop: Workshop, killed: dict[int, float]) -> None:
    """Kill the worker process that has begun with something last."""
    begun = workshop.events("begun")
    victim = next(event.pid for event in reversed(begun) if event.pid not in killed)
    killed[victim] = kill(victim)


@pytest.mark.slow
def test_so_many_of_a_key_through_failures_and_kills(
    workshop: Workshop, mq: ms.Client, own_server: Server
) -> None:
    """A retry makes room for another message of its key, a crash keeps its place in it."""
    workshop.write(PER_KEY)
    mq.send_many(jobs_by_key(), range(120), key=lambda body: f"k{body % 4}")
    killed: dict[int, float] = {}
    supervisor = workshop.supervisor(2)
    for goal in (30, 70):
        workshop.until_told("begun", goal)
        kill_the_last(workshop, killed)
    drained(mq)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0

    assert set(workshop.bodies("done")) == set(range(120))
    for key in range(4):
        own = [one for one in workshop.events("begun", "ended") if one.body % 4 == key]
        assert most_at_a_time(own, killed) == 2
    admin = own_server.admin()
    assert admin.keys("*:holders") + admin.keys("*:lines") == []


def test_a_rate_holds_through_kills(workshop: Workshop, mq: ms.Client) -> None:
    """The bucket is the server's: a worker that starts anew gets no new burst."""
    workshop.write(LIMITED)
    workers = [workshop.worker() for _ in range(2)]
    started = time.time()
    mq.send_many(jobs(), range(100))
    for round_ in range(3):
        workshop.until_told("begun", 45 + 15 * round_)
        victim = workers.pop(0)
        victim.send(signal.SIGKILL)
        workers.append(workshop.worker())
    drained(mq)

    begun = workshop.events("begun")
    assert {event.body for event in begun} == set(range(100))
    # Repetitions are paid for, too; and no handler begins before its delivery.
    assert len(begun) <= 40 + 20 * (max(event.time for event in begun) - started) + 1
