"""Workers of schedules that are killed, clocks that are wrong, and servers that go away."""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import PATIENCE
from tests.support.servers import Server
from tests.support.wait import until

JOBS: ms.Queue[Any] = ms.Queue("jobs")

BEAT = """
queue = ms.Queue("jobs")

@worker.every({spec}, queue, missed="all")
async def beat():
    record("made")
    {before}
    return 1
"""


def ticks(mq: ms.Client) -> list[datetime]:
    """The ticks whose messages wait in the queue."""
    messages = mq.peek(JOBS, limit=10_000)
    return [datetime.fromisoformat(message.headers["tick"]) for message in messages]


def sent(mq: ms.Client, count: int) -> list[datetime]:
    """Wait until so many messages were sent."""
    until(lambda: len(ticks(mq)) >= count, PATIENCE, message=f"{count} messages of schedules")
    return ticks(mq)


def assert_one_a_tick(mq: ms.Client, every: float) -> None:
    """None is left out, none was sent twice, none early."""
    least = mq.stats(JOBS).sent
    found = ticks(mq)
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(seconds=every)}
    for message in mq.peek(JOBS, limit=10_000):
        assert message.sent_at >= datetime.fromisoformat(message.headers["tick"])
    assert least <= len(found) <= mq.stats(JOBS).sent


class TestKills:
    def test_between_the_grant_and_the_message(self, workshop: Workshop, mq: ms.Client) -> None:
        """A worker that is killed while it makes the body is replaced; the tick is sent once."""
        workshop.write(BEAT.format(spec=1, before='await raised("go on")'))
        programs = [workshop.worker() for _ in range(2)]
        [first] = workshop.until_told("made", 1)
        os.kill(first.pid, signal.SIGKILL)
        workshop.raise_flag("go on")

        found = sent(mq, 3)

        made = workshop.events("made")
        assert made[1].pid != first.pid
        # The other one has waited for the end of the grant, and was in time all the same.
        [message, *_] = mq.peek(JOBS)
        late = message.sent_at - found[0]
        assert timedelta(seconds=1) < late < timedelta(seconds=9)
        assert_one_a_tick(mq, 1)
        for program in programs:
            program.send(signal.SIGTERM)

    @pytest.mark.slow
    def test_again_and_again(self, workshop: Workshop, mq: ms.Client) -> None:
        """Processes that are killed at any moment, and come back, send one message a tick."""
        workshop.write(BEAT.format(spec=0.1, before="await asyncio.sleep(0.02)"))
        programs = [workshop.worker() for _ in range(2)]
        for n in range(6):
            workshop.until_told("made", 4 * (n + 1))
            victim = programs.pop(0)
            time.sleep(random.uniform(0, 0.1))  # the work itself
            victim.send(signal.SIGKILL)
            programs.append(workshop.worker())
        sent(mq, 30)
        for program in programs:
            program.send(signal.SIGTERM)
        for program in programs:
            program.wait()  # its status tells whether it had started by then

        assert_one_a_tick(mq, 0.1)

    def test_under_a_supervisor(self, workshop: Workshop, mq: ms.Client) -> None:
        """A supervisor runs a worker that has nothing but schedules, and starts it again."""
        workshop.write(BEAT.format(spec=0.1, before=""))
        supervisor = workshop.supervisor(1)
        [first, *_] = workshop.until_told("made", 2)
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: workshop.events("made")[-1].pid != first.pid, PATIENCE)
        supervisor.send(signal.SIGTERM)

        assert supervisor.wait() == 0
        assert_one_a_tick(mq, 0.1)

    def test_all_of_them(self, workshop: Workshop, mq: ms.Client) -> None:
        """When all workers are killed, those that come later send what was missed, as declared."""
        workshop.write(BEAT.format(spec=1, before=""))
        program = workshop.worker()
        sent(mq, 1)
        program.send(signal.SIGKILL)
        program.wait()
        before = len(ticks(mq))
        time.sleep(3)  # the work itself

        workshop.worker()
        sent(mq, before + 3)
        assert_one_a_tick(mq, 1)


@pytest.mark.parametrize("spec", [0.5, '"* * * * *"'])
def test_clocks_that_are_wrong(
    workshop: Workshop, mq: ms.Client, own_server: Server, spec: Any
) -> None:
    """Workers that are an hour behind and ahead tick by the server's clock, together."""
    workshop.write(BEAT.format(spec=spec, before=""))
    for hours in (-1, 1):
        workshop.worker_off_by(hours * 3600)
    until(lambda: mq.schedules(JOBS), PATIENCE)
    [schedule] = mq.schedules(JOBS)
    seconds, _ = own_server.admin().time()
    assert schedule.next is not None
    assert -1 <= schedule.next.timestamp() - seconds <= 61
    if spec == 0.5:
        sent(mq, 6)
        # The clocks of both were wrong indeed.
        off = {round((event.time - time.time()) / 3600) for event in workshop.events("made")}
        assert off <= {-1, 1}
        assert off
        assert_one_a_tick(mq, 0.5)


class TestServers:
    def test_a_server_that_is_killed(
        self, durable_workshop: Workshop, durable_server: Server
    ) -> None:
        """A server that comes back with its data goes on with the schedule: none twice, none lost."""
        durable_workshop.write(BEAT.format(spec=0.2, before=""))
        for _ in range(2):
            durable_workshop.worker()
        with ms.Client(durable_server.url, namespace="t-faults") as mq:
            before = len(sent(mq, 5))
            durable_server.kill()
            durable_server.start()
            sent(mq, before + 10)
            assert_one_a_tick(mq, 0.2)

    def test_a_server_that_has_lost_its_data(
        self, workshop: Workshop, mq: ms.Client, own_server: Server
    ) -> None:
        """Schedules that nobody has removed come back by themselves."""
        workshop.write(BEAT.format(spec=0.2, before=""))
        workshop.worker()
        sent(mq, 2)
        admin: redis.Redis = own_server.admin()
        admin.flushall()
        sent(mq, 2)
