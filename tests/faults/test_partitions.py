"""Workers of a queue in partitions that are killed or stopped: order holds, nothing is lost."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest

import millstream as ms
from tests.faults.keys import in_order, one_at_a_time
from tests.faults.processes import Event, Workshop, kill
from tests.faults.working import PATIENCE
from tests.support.wait import until

PARTS, KEYS = 4, 24

TASKS = """
queue = ms.Queue(
    "jobs", ordered=True, partitions=4, lease={lease}, retry=ms.Retry(max_crashes=100)
)

@worker.on(queue, concurrency=50)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    await asyncio.sleep({seconds})
    record("ended", body)
"""


def jobs(lease: float) -> ms.Queue[Any]:
    return ms.Queue("jobs", ordered=True, partitions=PARTS, lease=lease)


def send(mq: ms.Client, queue: ms.Queue[Any], each: int) -> None:
    """Send so many messages of each key; a body is a key and a number."""
    bodies = [(f"k{key}", number) for number in range(each) for key in range(KEYS)]
    mq.send_many(queue, bodies, key=lambda body: body[0])


def drained(mq: ms.Client, queue: ms.Queue[Any]) -> None:
    def empty() -> bool:
        stats = mq.stats(queue)
        return (stats.ready, stats.delayed, stats.in_flight, stats.dead) == (0, 0, 0, 0)

    until(empty, 3 * PATIENCE, 0.05, message="the queue is drained")


def owners(mq: ms.Client, queue: ms.Queue[Any]) -> list[set[int]]:
    """The processes that have a consumer in each partition."""
    stats = mq.stats(queue)
    return [{int(one.name.split(":")[1]) for one in part.consumers} for part in stats.partitions]


def shared(mq: ms.Client, queue: ms.Queue[Any], processes: int) -> list[set[int]]:
    """Wait until each partition has one reader, and so many processes read."""

    def there() -> list[set[int]] | None:
        found = owners(mq, queue)
        single = found and all(len(pids) == 1 for pids in found)
        return found if single and len(set.union(*found)) == processes else None

    found = until(there, PATIENCE)
    assert found is not None
    return found


class TestKilled:
    def test_under_a_supervisor(self, workshop: Workshop, mq: ms.Client) -> None:
        """What a killed process had goes on elsewhere within a second, and in order."""
        each, queue = 30, jobs(30)
        workshop.write(TASKS.format(lease=30, seconds=0.03))
        supervisor = workshop.supervisor(2)
        shared(mq, queue, 2)
        send(mq, queue, each)
        workshop.until_told("ended", 2 * KEYS)
        victim = workshop.events()[-1].pid
        killed = kill(victim)
        open_then = {tuple(e.body) for e in workshop.events("begun") if e.pid == victim} - {
            tuple(e.body) for e in workshop.events("ended")
        }

        def taken_over() -> bool:
            back = [e for e in workshop.events("begun") if e.pid != victim]
            return {tuple(e.body) for e in back} >= open_then

        until(taken_over, PATIENCE)
        last = [
            e for e in workshop.events("begun") if e.more["crashes"] and tuple(e.body) in open_then
        ]
        assert open_then
        assert max(e.time for e in last) - killed < 5  # a second, where nobody else works
        drained(mq, queue)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0
        in_order(workshop.events(), KEYS, each)
        one_at_a_time(workshop.events(), {victim: killed})
        assert mq.stats(queue).consumers == ()

    def test_again_and_again(self, workshop: Workshop, mq: ms.Client) -> None:
        """Kills at any moment, with processes coming back: nothing is lost, order holds."""
        each, queue = 60, jobs(30)
        workshop.write(TASKS.format(lease=30, seconds=0.02))
        supervisor = workshop.supervisor(3)
        shared(mq, queue, 3)
        send(mq, queue, each)
        dice, killed = random.Random(7), dict[int, float]()
        for _ in range(4):
            before = len(workshop.events("ended"))
            until(lambda before=before: len(workshop.events("ended")) > before + KEYS, PATIENCE)  # type: ignore[misc] # mypy cannot see the type of a default
            pid = dice.choice([e.pid for e in workshop.events()[-20:] if e.pid not in killed])
            killed[pid] = kill(pid)
        drained(mq, queue)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0
        in_order(workshop.events(), KEYS, each)
        one_at_a_time(workshop.events(), killed)

    def test_without_a_supervisor(self, workshop: Workshop, mq: ms.Client) -> None:
        """Its partitions are read again, and its work is back, within the lease and five seconds."""
        each, lease, queue = 6, 1.0, jobs(1.0)
        workshop.write(TASKS.format(lease=lease, seconds=0.2))
        workers = [workshop.worker() for _ in range(2)]
        shared(mq, queue, 2)
        send(mq, queue, each)
        workshop.until_told("ended", KEYS)
        killed = kill(workers[0].pid)
        drained(mq, queue)

        assert max(e.time for e in workshop.events("ended")) - killed < lease + 5 + each * 0.2
        in_order(workshop.events(), KEYS, each)
        one_at_a_time(workshop.events(), {workers[0].pid: killed})
        assert all(workers[1].pid in pids for pids in owners(mq, queue))


def fresh(workshop: Workshop) -> list[Event]:
    """The ends of messages of other keys."""
    return [event for event in workshop.events("ended") if event.body[0].startswith("n")]


class TestStopped:
    def test_longer_than_the_membership(self, workshop: Workshop, mq: ms.Client) -> None:
        """Others read its partitions meanwhile; what it holds stays its own, and its keys wait.

        When it goes on, nothing has run twice or at the same time.
        """
        each, queue = 8, jobs(30)
        workshop.write(TASKS.format(lease=30, seconds=0.1))
        workers = [workshop.worker() for _ in range(2)]
        shared(mq, queue, 2)
        send(mq, queue, each)
        workshop.until_told("ended", KEYS)
        workers[0].send(signal.SIGSTOP)
        try:
            until(lambda: all(workers[1].pid in pids for pids in owners(mq, queue)), PATIENCE)
            # Keys that were never here are handled, in every partition. A read that sleeps for the
            # stopped process may get one message there, before anybody knows.
            mq.send_many(queue, [(f"n{n}", 0) for n in range(40)], key=lambda body: body[0])
            until(lambda: len(fresh(workshop)) >= 40 - PARTS, PATIENCE)
        finally:
            workers[0].send(signal.SIGCONT)
        drained(mq, queue)

        events = [event for event in workshop.events() if event.body[0][0] == "k"]
        in_order(events, KEYS, each)
        one_at_a_time(events, {})
        assert len([e for e in events if e.event == "begun"]) == KEYS * each
        shared(mq, queue, 2)

    @pytest.mark.slow
    def test_longer_than_the_lease(self, workshop: Workshop, mq: ms.Client) -> None:
        """Others take its messages over, in order; when it goes on, it settles none of them."""
        each, queue = 8, jobs(1.0)
        workshop.write(TASKS.format(lease=1.0, seconds=0.3))
        workers = [workshop.worker() for _ in range(2)]
        shared(mq, queue, 2)
        send(mq, queue, each)
        workshop.until_told("ended", KEYS)
        workers[0].send(signal.SIGSTOP)
        drained(mq, queue)
        done = workshop.events()
        workers[0].send(signal.SIGCONT)

        shared(mq, queue, 2)
        in_order(done, KEYS, each)
        assert mq.stats(queue).acked == KEYS * each
