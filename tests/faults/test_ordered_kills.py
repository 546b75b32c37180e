"""Workers of an ordered queue that are killed, stopped, and fail: each key keeps its order.

Here the queue is one partition: all processes read the same messages. See also test_partitions.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Any

import pytest

import millstream as ms
from tests.faults.keys import ended_before_the_next, in_order, one_at_a_time
from tests.faults.processes import Workshop, kill
from tests.faults.working import PATIENCE
from tests.support.wait import until

TASKS = """
queue = ms.Queue(
    "jobs", ordered=True, partitions={partitions}, lease={lease},
    retry=ms.Retry(
        max_attempts=4, max_crashes={max_crashes}, backoff=ms.Backoff(first=0.05, factor=2, max=0.2)
    ),
)

@worker.on(queue, concurrency={concurrency}, prefetch={prefetch})
async def handle(body, delivery):
    key, number = body
    record("begun", body, crashes=delivery.crashes, attempt=delivery.attempt)
    {work}
    record("ended", body)
"""

FAILING = """await asyncio.sleep(0.01)
    if number % 3 == 1 and delivery.attempt < 3:
        record("failed", body)
        raise ValueError("not yet")"""


def tasks(work: str, **options: Any) -> str:
    """The module of a worker whose handler does this."""
    defaults = {"lease": 30, "partitions": 1, "max_crashes": 100, "concurrency": 20, "prefetch": 20}
    return TASKS.format(work=work, **{**defaults, **options})


def jobs(lease: float = 30, partitions: int = 1) -> ms.Queue[Any]:
    return ms.Queue("jobs", ordered=True, lease=lease, partitions=partitions)


def send(mq: ms.Client, queue: ms.Queue[Any], keys: int, each: int) -> None:
    """Send so many messages of each key, in turn."""
    bodies = [(f"k{key}", number) for number in range(each) for key in range(keys)]
    mq.send_many(queue, bodies, key=lambda body: body[0])


def counts(mq: ms.Client, queue: ms.Queue[Any]) -> tuple[int, int, int, int]:
    stats = mq.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def drained(mq: ms.Client, queue: ms.Queue[Any], dead: int = 0) -> None:
    until(
        lambda: counts(mq, queue) == (0, 0, 0, dead),
        3 * PATIENCE,
        0.05,
        message="the queue is drained",
    )


def test_kills_and_retries(workshop: Workshop, mq: ms.Client) -> None:
    """A message that fails and waits for its next attempt, or whose worker dies, holds up its key.

    It holds up nothing else, and nothing is lost.
    """
    keys, each, queue = 12, 20, jobs()
    workshop.write(tasks(FAILING))
    supervisor = workshop.supervisor(3)
    send(mq, queue, keys, each)
    dice, killed = random.Random(11), dict[int, float]()
    for goal in (30, 70, 110, 150):
        workshop.until_told("ended", goal)
        running = [event.pid for event in workshop.events()[-20:] if event.pid not in killed]
        pid = dice.choice(running or [workshop.events()[-1].pid])
        if pid not in killed:
            killed[pid] = kill(pid)
    drained(mq, queue)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0

    events = workshop.events()
    in_order(events, keys, each)
    one_at_a_time(events, killed)
    ended_before_the_next(events)
    assert mq.stats(queue).retried >= keys * each // 3


def test_a_stuck_key(workshop: Workshop, mq: ms.Client) -> None:
    """However long its first message takes, and however many wait behind it: others run."""
    queue = jobs()
    stuck = 'if body == ["stuck", 0]: await raised("go on")'
    workshop.write(tasks(stuck, concurrency=2, prefetch=2))
    supervisor = workshop.supervisor(2)
    mq.send_many(queue, [("stuck", number) for number in range(300)], key="stuck")
    [first] = workshop.until_told("begun", 1)
    send(mq, queue, 10, 10)
    workshop.until_told("ended", 100)
    # Its worker dies: another one is stuck then, and still the others run.
    killed = kill(first.pid)
    mq.send_many(queue, [(f"n{number}", 0) for number in range(20)], key=lambda body: body[0])
    workshop.until_told("ended", 120)
    tries = [event for event in workshop.events("begun") if event.body[0] == "stuck"]
    assert {tuple(event.body) for event in tries} == {("stuck", 0)}

    workshop.raise_flag("go on")
    drained(mq, queue)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0
    events = workshop.events()
    one_at_a_time(events, {first.pid: killed})
    ended_before_the_next(events)
    assert len([event for event in events if event.event == "ended"]) == 300 + 100 + 20


def test_a_message_that_kills_its_workers(workshop: Workshop, mq: ms.Client) -> None:
    """It goes to the dead letters in the end, its key goes on, and the others never noticed."""
    keys, each, queue = 5, 8, jobs()
    kills = 'if body == ["k0", 2]: os.kill(os.getpid(), signal.SIGKILL)'
    workshop.write(tasks(f"await asyncio.sleep(0.01)\n    {kills}", max_crashes=2))
    supervisor = workshop.supervisor(2)
    send(mq, queue, keys, each)
    drained(mq, queue, dead=1)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0

    [letter] = mq.dead(queue)
    assert (letter.body, letter.reason) == (["k0", 2], "crashed")
    events = workshop.events()
    in_order(events, keys, each)
    ended_before_the_next(events, dead=[("k0", 2)])
    begun = Counter(tuple(event.body) for event in events if event.event == "begun")
    assert begun["k0", 2] == 3


@pytest.mark.parametrize("partitions", [1, 4])
def test_stopped_for_longer_than_the_lease(
    workshop: Workshop, mq: ms.Client, partitions: int
) -> None:
    """Others go on with its keys; when it goes on, it begins with nothing that it held before."""
    keys, each, queue = 6, 5, jobs(1.0, partitions)
    held = 'await raised(f"go on {os.getpid()}")'
    workshop.write(tasks(held, lease=1.0, concurrency=1, partitions=partitions))
    sleeper = workshop.worker()
    send(mq, queue, keys, each)
    [running] = workshop.until_told("begun", 1)
    # Those behind it wait in the worker.
    until(lambda: counts(mq, queue)[2] == keys, PATIENCE)
    sleeper.send(signal.SIGSTOP)
    stopped = time.time()
    try:
        other = workshop.worker()
        workshop.raise_flag(f"go on {other.pid}")
        drained(mq, queue)
        done = workshop.events()
        workshop.raise_flag(f"go on {sleeper.pid}")
    finally:
        sleeper.send(signal.SIGCONT)
    in_order(done, keys, each)
    ended_before_the_next(done)
    one_at_a_time(done, {sleeper.pid: stopped})
    assert mq.stats(queue).acked == keys * each

    # It still works, and what it begins with is new.
    other.send(signal.SIGTERM)
    assert other.wait() == 0
    mq.send_many(queue, [(f"n{number}", 0) for number in range(10)], key=lambda body: body[0])
    drained(mq, queue)
    own = [event.body for event in workshop.events("begun") if event.pid == sleeper.pid]
    assert own[0] == running.body
    assert {key[0] for key, _ in own[1:]} == {"n"}
