"""Worker processes that are killed, stopped or blocked while they hold messages."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Literal

import pytest

import millstream as ms
from tests.faults.processes import Event, Workshop, sleeping
from tests.faults.working import PATIENCE
from tests.support.servers import Server
from tests.support.wait import until

HOLDING = """
queue = ms.Queue("jobs", lease={lease}, store="{store}")

@worker.on(queue, concurrency=20, prefetch=20)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes, attempt=delivery.attempt)
    if not delivery.crashes:
        await raised("go on")
    record("ended", body)
"""


def jobs(lease: float = 30, store: Literal["stream", "list"] = "stream") -> ms.Queue[Any]:
    return ms.Queue("jobs", lease=lease, store=store)


def counts(mq: ms.Client, queue: ms.Queue[Any]) -> tuple[int, int, int, int]:
    stats = mq.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def drained(mq: ms.Client, queue: ms.Queue[Any], dead: int = 0) -> None:
    until(lambda: counts(mq, queue) == (0, 0, 0, dead), PATIENCE, message="the queue is drained")


def again(workshop: Workshop, lost: set[Any], timeout: float = PATIENCE) -> list[Event]:
    """Wait until all these messages were begun anew; those beginnings."""

    def begun() -> list[Event]:
        return [event for event in workshop.events("begun") if event.more["crashes"]]

    until(lambda: {event.body for event in begun()} >= lost, timeout)
    return begun()


def kill_the_last(workshop: Workshop) -> bool:
    """Kill the process that told something last; False: it is dead already."""
    try:
        os.kill(workshop.events()[-1].pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class TestUnderASupervisor:
    @pytest.mark.parametrize(
        ("number", "store"),
        [(signal.SIGKILL, "stream"), (signal.SIGSEGV, "stream"), (signal.SIGKILL, "list")],
    )
    def test_another_process_goes_on(
        self,
        workshop: Workshop,
        mq: ms.Client,
        own_server: Server,
        number: signal.Signals,
        store: Literal["stream", "list"],
    ) -> None:
        """What a killed process had is with the other one within a second, not after a lease."""
        workshop.write(HOLDING.format(lease=30, store=store))
        queue = jobs(store=store)
        supervisor = workshop.supervisor(2)
        until(lambda: sleeping(own_server) == 2, PATIENCE)
        for n in range(10):
            mq.send(queue, n)  # one at a time, so that both get some
        begun = workshop.until_told("begun", 10)
        # Of a list, a reader that is woken takes what is there: one of them may have all.
        assert store == "list" or len({event.pid for event in begun}) == 2

        victim = begun[0].pid
        lost = {event.body for event in begun if event.pid == victim}
        killed = time.time()
        os.kill(victim, number)
        back = again(workshop, lost)

        assert {event.body for event in back} == lost
        assert {event.more["crashes"] for event in back} == {1}
        assert {event.more["attempt"] for event in back} == {1}
        assert max(event.time for event in back) - killed < 5  # a second, where nobody else works
        workshop.raise_flag("go on")
        drained(mq, queue)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0
        assert set(workshop.bodies("ended")) == set(range(10))

    def test_the_process_comes_back(self, workshop: Workshop, mq: ms.Client) -> None:
        """A single process that is killed is replaced, and the new one has its messages."""
        workshop.write(HOLDING.format(lease=30, store="stream"))
        queue = jobs()
        supervisor = workshop.supervisor(1)
        mq.send_many(queue, range(10))
        begun = workshop.until_told("begun", 10)
        killed = time.time()
        os.kill(begun[0].pid, signal.SIGKILL)
        back = again(workshop, set(range(10)))

        assert max(event.time for event in back) - killed < 15  # a new interpreter has to start
        drained(mq, queue)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0

    def test_killed_again_and_again(self, workshop: Workshop, mq: ms.Client) -> None:
        """Kills at any moment of fast work lose nothing."""
        workshop.write("""
@worker.on(ms.Queue("jobs", retry=ms.Retry(max_crashes=100)), concurrency=10)
async def handle(body):
    await asyncio.sleep(0.01)
    record("ended", body)
""")
        queue = jobs()
        mq.send_many(queue, range(6000))
        supervisor = workshop.supervisor(2)
        for goal in (500, 1500, 2500, 3500):
            workshop.until_told("ended", goal)
            until(lambda: kill_the_last(workshop), PATIENCE)
        drained(mq, queue)

        ended = workshop.bodies("ended")
        assert set(ended) == set(range(6000))
        # At most what was in hand at a kill is done twice.
        assert sum(ended.values()) - 6000 < 4 * 200
        assert mq.stats(queue).crashed >= 4
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0


class TestWithoutASupervisor:
    @pytest.mark.parametrize("lease", [2.0, 3.0])
    def test_the_lease_decides(self, workshop: Workshop, mq: ms.Client, lease: float) -> None:
        """When the supervisor dies, too, another worker has the messages after the lease."""
        workshop.write(HOLDING.format(lease=lease, store="stream"))
        queue = jobs(lease)
        supervisor = workshop.supervisor(1)
        mq.send_many(queue, range(10))
        begun = workshop.until_told("begun", 10)
        rescuer = workshop.worker()
        until(lambda: len(mq.stats(queue).consumers) == 2, PATIENCE)

        supervisor.send(signal.SIGKILL)
        killed = time.time()
        os.kill(begun[0].pid, signal.SIGKILL)
        back = again(workshop, set(range(10)))

        assert {event.pid for event in back} == {rescuer.pid}
        assert max(event.time for event in back) - killed < lease + 5
        drained(mq, queue)
        assert workshop.bodies("ended") == dict.fromkeys(range(10), 1)
        assert mq.stats(queue).crashed == 10

    def test_the_elected_sweeper_dies(self, workshop: Workshop, mq: ms.Client) -> None:
        """Whoever looks for expired leases may die, too: another one takes its place."""
        workshop.write(HOLDING.format(lease=3.0, store="stream"))
        queue = jobs(3.0)
        first = workshop.worker()
        mq.send_many(queue, range(10))
        workshop.until_told("begun", 10)
        second, third = workshop.worker(), workshop.worker()
        until(lambda: len(mq.stats(queue).consumers) == 3, PATIENCE)
        second.send(signal.SIGKILL)
        first.send(signal.SIGKILL)
        killed = time.time()
        back = again(workshop, set(range(10)))

        assert {event.pid for event in back} == {third.pid}
        assert max(event.time for event in back) - killed < 10

    def test_delayed_messages_outlive_their_worker(self, workshop: Workshop, mq: ms.Client) -> None:
        """Retries wait at the server: a worker that is killed takes none with it."""
        workshop.write("""
@worker.on(ms.Queue("jobs"))
async def handle(body, delivery):
    record(f"attempt {delivery.attempt}", body)
    if delivery.attempt == 1:
        raise ms.RetryLater(delay=1.5)
""")
        queue = jobs()
        first = workshop.worker()
        mq.send_many(queue, range(10))
        told = workshop.until_told("attempt 1", 10)
        until(lambda: counts(mq, queue) == (0, 10, 0, 0), PATIENCE)
        first.send(signal.SIGKILL)
        workshop.worker()
        retried = workshop.until_told("attempt 2", 10)
        drained(mq, queue)

        failed_at = {event.body: event.time for event in told}
        assert min(event.time - failed_at[event.body] for event in retried) >= 1.49
        assert mq.stats(queue).crashed == 0


BATCHES = """
@worker.on(ms.Queue("jobs", lease=3), batch=20, batch_wait=0.5)
async def handle(bodies, deliveries):
    first_time = not deliveries[0].crashes
    if first_time:
        await deliveries[0].ack()
        await deliveries[1].reject("bad")
    for body, delivery in zip(bodies, deliveries):
        record("begun", body, crashes=delivery.crashes, attempt=delivery.attempt)
    if first_time:
        await raised("go on")
    for body in bodies:
        record("ended", body)
"""


class TestBatches:
    def test_a_batch_in_hand(self, workshop: Workshop, mq: ms.Client) -> None:
        """What a killed worker's batch had not settled, and what gathered behind it, comes back."""
        workshop.write(BATCHES)
        queue = jobs(3.0)
        victim = workshop.worker()
        mq.send_many(queue, range(30))
        workshop.until_told("begun", 20)
        # Ten more gather for the next batch.
        until(lambda: counts(mq, queue) == (0, 0, 28, 1), PATIENCE)
        victim.send(signal.SIGKILL)
        workshop.worker()
        back = again(workshop, set(range(2, 30)))
        drained(mq, queue, dead=1)

        assert {(event.more["crashes"], event.more["attempt"]) for event in back} == {(1, 1)}
        assert workshop.bodies("ended") == dict.fromkeys(range(2, 30), 1)
        stats = mq.stats(queue)
        assert (stats.acked, stats.crashed, stats.dead) == (29, 28, 1)

    def test_one_message_kills_every_batch(self, workshop: Workshop, mq: ms.Client) -> None:
        """A message that kills its worker takes its batch down twice, then it dies alone."""
        workshop.write("""
@worker.on(ms.Queue("jobs"), batch=10, batch_wait=0.5)
async def handle(bodies, deliveries):
    record("begun", bodies)
    if 7 in bodies:
        os.kill(os.getpid(), signal.SIGKILL)
    for body in bodies:
        record("ended", body)
""")
        queue = jobs()
        mq.send_many(queue, range(10))
        supervisor = workshop.supervisor(1)
        drained(mq, queue, dead=1)

        assert workshop.bodies("ended") == {n: 1 for n in range(10) if n != 7}
        (letter,) = mq.dead(queue)
        assert (letter.body, letter.reason) == (7, "crashed")
        sizes = [len(event.body) for event in workshop.events("begun")]
        assert sizes.count(10) == 2
        assert set(sizes) == {10, 1}
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0


class TestStopped:
    """A process that is stopped (SIGSTOP), or whose event loop is."""

    @pytest.mark.parametrize("kind", ["async def", "def"])
    def test_for_longer_than_the_lease(
        self, workshop: Workshop, mq: ms.Client, own_server: Server, kind: str
    ) -> None:
        """Another worker has its messages; what it does when it goes on is refused."""
        workshop.write(f"""
@worker.on(ms.Queue("jobs", lease=3), concurrency=10)
{kind} handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    while not delivery.crashes and not flag("go on"):
        {"await asyncio.sleep(0.01)" if kind == "async def" else "time.sleep(0.01)"}
    record("ended", body)
""")
        queue = jobs(3)
        stopped = workshop.worker()
        mq.send_many(queue, range(5))
        workshop.until_told("begun", 5)
        rescuer = workshop.worker()
        until(lambda: len(mq.stats(queue).consumers) == 2, PATIENCE)
        stopped.send(signal.SIGSTOP)
        at = time.time()
        back = again(workshop, set(range(5)))
        assert {event.pid for event in back} == {rescuer.pid}
        assert max(event.time for event in back) - at < 10
        until(lambda: len(workshop.events("ended")) == 5)

        workshop.raise_flag("go on")
        stopped.send(signal.SIGCONT)
        until(lambda: "lost the lease" in stopped.output, PATIENCE)
        # It is as good as any other again.
        rescuer.send(signal.SIGTERM)
        assert rescuer.wait() == 0
        mq.send(queue, "more")
        until(lambda: "more" in workshop.bodies("ended"), PATIENCE)
        drained(mq, queue)
        stats = mq.stats(queue)
        assert (stats.acked, stats.retried, stats.died) == (6, 0, 0)

    def test_a_blocked_event_loop_keeps_its_leases(self, workshop: Workshop, mq: ms.Client) -> None:
        """A coroutine that blocks its event loop for three leases is handled once."""
        workshop.write("""
@worker.on(ms.Queue("jobs", lease=2), concurrency=5, prefetch=10)
async def handle(body, delivery):
    record("begun", body)
    if body == 0:
        time.sleep(6.5)  # the work itself
    record("ended", body)
""")
        queue = jobs(2)
        blocked = workshop.worker()
        mq.send_many(queue, range(6))
        workshop.until_told("begun", 1)
        workshop.worker()
        until(lambda: len(workshop.events("ended")) == 6, PATIENCE)
        drained(mq, queue)

        assert workshop.bodies("begun") == dict.fromkeys(range(6), 1)
        assert mq.stats(queue).crashed == 0
        assert "lost" not in blocked.output


class TestPoison:
    @pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGSEGV)"])
    def test_one_message_kills_its_process(
        self, workshop: Workshop, mq: ms.Client, end: str
    ) -> None:
        """It ends in the dead letters as `crashed`; every neighbour is handled, none is blamed."""
        workshop.write(f"""
@worker.on(ms.Queue("jobs"), concurrency=10, prefetch=30)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    if body == "poison":
        {end}
    await asyncio.sleep(0.05)
    record("ended", body)
""")
        queue = jobs()
        mq.send_many(queue, [*range(25), "poison", *range(25, 60)])
        supervisor = workshop.supervisor(2)
        drained(mq, queue, dead=1)

        (letter,) = mq.dead(queue)
        assert (letter.body, letter.reason, letter.crashes) == ("poison", "crashed", 4)
        assert workshop.bodies("begun")["poison"] == 4
        ended = workshop.bodies("ended")
        assert set(ended) == set(range(60))
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0

    def test_many_messages_kill_their_processes(self, workshop: Workshop, mq: ms.Client) -> None:
        """Several of them, one after the other: all are found out, and no other message is lost."""
        workshop.write("""
@worker.on(ms.Queue("jobs", retry=ms.Retry(max_crashes=3)), concurrency=10, prefetch=20)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    if body < 0:
        os._exit(1)
    await asyncio.sleep(0.01)
    record("ended", body)
""")
        queue = jobs()
        mq.send_many(queue, [-1, *range(40), -2, *range(40, 200)])
        supervisor = workshop.supervisor(2)
        drained(mq, queue, dead=2)

        assert sorted(letter.body for letter in mq.dead(queue)) == [-2, -1]
        assert set(workshop.bodies("ended")) == set(range(200))
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0


def test_exactly_once_while_nothing_fails(workshop: Workshop, mq: ms.Client) -> None:
    """Two workers and twenty thousand messages: each is handled once, and only once."""
    workshop.write("""
@worker.on(ms.Queue("jobs"))
async def handle(body):
    record("ended", body)
""")
    queue = jobs()
    workers = [workshop.worker(), workshop.worker()]
    until(lambda: len(mq.stats(queue).consumers) == 2, PATIENCE)
    for start in range(0, 20_000, 1000):
        mq.send_many(queue, range(start, start + 1000))
    drained(mq, queue)
    for worker in workers:
        worker.send(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0, 0]

    ended = workshop.events("ended")
    assert len(ended) == 20_000
    assert {event.body for event in ended} == set(range(20_000))
    assert len({event.pid for event in ended}) == 2
