"""Worker processes and their supervisor: signals, exit statuses, restarts."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Workshop, sleeping
from tests.faults.working import PATIENCE
from tests.support.servers import Server
from tests.support.wait import until

QUEUE: ms.Queue[Any] = ms.Queue("jobs")

HOLDING = """
@worker.on(ms.Queue("jobs"), concurrency=2, prefetch=6)
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes, attempt=delivery.attempt)
    await raised("go on")
    record("ended", body)
"""

STUCK = """
@worker.on(ms.Queue("jobs"), concurrency=2, prefetch=6)
def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes, attempt=delivery.attempt)
    while not flag("go on"):
        time.sleep(0.01)
    record("ended", body)
"""

FAILING_HOOK = """
@worker.on(ms.Queue("jobs"))
async def handle(body):
    pass


@worker.on_startup
async def connect():
    raise OSError("no pool")
"""


def counts(mq: ms.Client) -> tuple[int, int, int, int]:
    stats = mq.stats(QUEUE)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("supervised", [True, False])
    @pytest.mark.parametrize("tasks", [HOLDING, STUCK], ids=["async", "sync"])
    def test_an_orderly_end(
        self,
        workshop: Workshop,
        mq: ms.Client,
        number: signal.Signals,
        supervised: bool,
        tasks: str,
    ) -> None:
        """Running handlers finish, the rest is released without blame; the exit status is 0."""
        workshop.write(tasks)
        mq.send_many(QUEUE, range(6))
        program = workshop.supervisor(1) if supervised else workshop.worker()
        workshop.until_told("begun", 2)
        until(lambda: counts(mq) == (0, 0, 6, 0), PATIENCE)
        program.send(number)
        until(lambda: counts(mq) == (4, 0, 2, 0), PATIENCE)
        assert {(m.attempts, m.crashes) for m in mq.peek(QUEUE)} == {(0, 0)}
        workshop.raise_flag("go on")

        assert program.wait() == 0
        assert workshop.bodies("ended") == workshop.bodies("begun")
        assert counts(mq) == (4, 0, 0, 0)
        assert mq.stats(QUEUE).consumers == ()

    @pytest.mark.parametrize("tasks", [HOLDING, STUCK], ids=["async", "sync"])
    def test_a_second_signal_to_a_worker(
        self, workshop: Workshop, mq: ms.Client, tasks: str
    ) -> None:
        """The second signal ends a worker process on the spot."""
        workshop.write(tasks)
        mq.send_many(QUEUE, range(2))
        worker = workshop.worker()
        workshop.until_told("begun", 2)
        worker.send(signal.SIGTERM)
        with pytest.raises(AssertionError):
            worker.wait(0.5)
        # Two of the same are one to a process that has had no time to see the first.
        worker.send(signal.SIGINT)

        assert worker.wait(10) == 130

    @pytest.mark.parametrize("tasks", [HOLDING, STUCK], ids=["async", "sync"])
    def test_a_second_signal_to_the_supervisor(
        self, workshop: Workshop, mq: ms.Client, tasks: str
    ) -> None:
        """It ends all processes on the spot and hands over what they had, without blame."""
        workshop.write(tasks)
        mq.send_many(QUEUE, range(4))
        supervisor = workshop.supervisor(2)
        until(lambda: workshop.events("begun"), PATIENCE)
        supervisor.send(signal.SIGTERM)
        # What comes within a moment is the same request.
        with pytest.raises(AssertionError):
            supervisor.wait(2)
        supervisor.send(signal.SIGINT)

        assert supervisor.wait(5) == 130
        assert "asked to stop a second time" in supervisor.output
        assert counts(mq) == (4, 0, 0, 0)
        assert {(m.attempts, m.crashes) for m in mq.peek(QUEUE)} == {(0, 0)}
        assert not any(alive(event.pid) for event in workshop.events("begun"))

    @pytest.mark.parametrize(
        "told",
        [
            ("supervisor", "worker"),
            ("worker", "supervisor"),
            ("terminal", "worker"),
            ("worker", "worker"),
        ],
        ids="-".join,
    )
    def test_each_process_is_told(
        self, workshop: Workshop, mq: ms.Client, told: tuple[str, str]
    ) -> None:
        """A worker process that gets two signals, as systemd sends them, finishes what runs."""
        workshop.write(HOLDING)
        mq.send_many(QUEUE, range(6))
        supervisor = workshop.supervisor(1)
        pid = workshop.until_told("begun", 2)[0].pid
        until(lambda: counts(mq) == (0, 0, 6, 0), PATIENCE)
        for who in told:
            if who == "terminal":
                # Ctrl-C goes to all of the process group in front.
                os.killpg(supervisor.pid, signal.SIGINT)
            else:
                os.kill(pid if who == "worker" else supervisor.pid, signal.SIGTERM)
            # It has seen the first one.
            until(lambda: counts(mq) == (4, 0, 2, 0), PATIENCE)
        with pytest.raises(AssertionError):
            supervisor.wait(0.5)
        workshop.raise_flag("go on")

        assert supervisor.wait() == 0
        assert workshop.bodies("ended") == workshop.bodies("begun")
        assert counts(mq) == (4, 0, 0, 0)
        assert mq.stats(QUEUE).crashed == 0

    def test_the_time_is_over(self, workshop: Workshop, mq: ms.Client) -> None:
        """After the shutdown timeout coroutines are cancelled, and their messages handed back."""
        workshop.write(HOLDING)
        mq.send_many(QUEUE, range(2))
        supervisor = workshop.supervisor(1, shutdown_timeout=0.3)
        workshop.until_told("begun", 2)
        supervisor.send(signal.SIGTERM)

        assert supervisor.wait() == 0
        assert workshop.events("ended") == []
        assert counts(mq) == (2, 0, 0, 0)
        assert {(m.attempts, m.crashes) for m in mq.peek(QUEUE)} == {(0, 0)}

    def test_a_thread_that_does_not_end(self, workshop: Workshop, mq: ms.Client) -> None:
        """A stuck thread does not keep its process alive; dead, its message is handed over."""
        workshop.write(STUCK)
        mq.send_many(QUEUE, range(2))
        supervisor = workshop.supervisor(1, shutdown_timeout=0.3)
        workshop.until_told("begun", 2)
        supervisor.send(signal.SIGTERM)

        assert supervisor.wait() == 0
        # The lease is 30 s: it was not that.
        assert counts(mq) == (2, 0, 0, 0)
        assert {(m.attempts, m.crashes) for m in mq.peek(QUEUE)} == {(0, 0)}

    def test_a_worker_that_does_not_hear(self, workshop: Workshop, mq: ms.Client) -> None:
        """A process whose event loop is blocked is killed some time after the timeout."""
        workshop.write("""
@worker.on(ms.Queue("jobs"))
async def handle(body):
    record("begun", body)
    time.sleep(100)
""")
        mq.send(QUEUE, 1)
        supervisor = workshop.supervisor(1, shutdown_timeout=0.1)
        workshop.until_told("begun", 1)
        supervisor.send(signal.SIGTERM)

        assert supervisor.wait() == 0
        assert "does not end; killing it" in supervisor.output
        assert counts(mq) == (1, 0, 0, 0)
        # It was asked to end: that is no crash.
        assert [message.crashes for message in mq.peek(QUEUE)] == [0]

    def test_twice_at_once(self, workshop: Workshop, mq: ms.Client) -> None:
        """A signal that comes again within a moment is the same: handlers get their time."""
        workshop.write(HOLDING)
        mq.send_many(QUEUE, range(2))
        supervisor = workshop.supervisor(1)
        workshop.until_told("begun", 2)
        for _ in range(3):
            supervisor.send(signal.SIGTERM)
        until(lambda: "stopping" in supervisor.output, PATIENCE)
        workshop.raise_flag("go on")

        assert supervisor.wait() == 0
        assert counts(mq) == (0, 0, 0, 0)


class TestParentAndChild:
    def test_the_parent_is_killed(
        self, workshop: Workshop, mq: ms.Client, own_server: Server
    ) -> None:
        """Processes whose supervisor was killed end in order: what runs is finished first."""
        workshop.write(HOLDING)
        supervisor = workshop.supervisor(2)
        until(lambda: sleeping(own_server) == 2, PATIENCE)
        for n in range(2):
            mq.send(QUEUE, n)
        begun = workshop.until_told("begun", 2)
        assert all(alive(event.pid) for event in begun)
        supervisor.send(signal.SIGKILL)
        until(lambda: sleeping(own_server) == 0, PATIENCE)
        assert all(alive(event.pid) for event in begun)
        workshop.raise_flag("go on")

        until(lambda: not any(alive(event.pid) for event in begun), PATIENCE)
        assert counts(mq) == (0, 0, 0, 0)
        assert mq.stats(QUEUE).consumers == ()

    def test_an_orphan_is_told(self, workshop: Workshop, mq: ms.Client) -> None:
        """It stops already when the first signal comes; the second one ends it on the spot."""
        workshop.write(HOLDING)
        mq.send_many(QUEUE, range(6))
        lifeline, alive = os.pipe()
        worker = workshop.worker("--lifeline", str(lifeline), inherited=(lifeline,))
        os.close(lifeline)
        workshop.until_told("begun", 2)
        until(lambda: counts(mq) == (0, 0, 6, 0), PATIENCE)
        os.close(alive)
        until(lambda: counts(mq) == (4, 0, 2, 0), PATIENCE)
        worker.send(signal.SIGTERM)
        with pytest.raises(AssertionError):
            worker.wait(0.5)
        worker.send(signal.SIGINT)

        assert worker.wait(10) == 130

    def test_a_child_that_dies_again_and_again(self, workshop: Workshop) -> None:
        """It is started again after longer and longer pauses, until the supervisor is stopped."""
        workshop.write("""
record("started")
os._exit(7)
""")
        supervisor = workshop.supervisor(1)
        workshop.until_told("started", 5)
        times = [event.time for event in workshop.events("started")]
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert all(pause >= 0.1 * 2**n for n, pause in enumerate(pauses))
        assert "ended with status 7" in supervisor.output
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0

    def test_a_child_that_lived_for_a_while(self, workshop: Workshop, mq: ms.Client) -> None:
        """One crash now and then is followed by a quick start, and the others are not disturbed."""
        workshop.write("""
@worker.on(ms.Queue("jobs"))
async def handle(body, delivery):
    record("begun", body)
    if not delivery.crashes:
        os.abort()
""")
        mq.send(QUEUE, 1)
        supervisor = workshop.supervisor(1)
        first, second = workshop.until_told("begun", 2)
        assert first.pid != second.pid
        assert second.time - first.time < 5
        until(lambda: counts(mq) == (0, 0, 0, 0), PATIENCE)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0

    def test_one_of_several_is_stopped_from_outside(
        self, workshop: Workshop, mq: ms.Client
    ) -> None:
        """A process that somebody stops with SIGTERM hands its work to the others."""
        workshop.write(HOLDING)
        supervisor = workshop.supervisor(2)
        mq.send_many(QUEUE, range(4))
        begun = workshop.until_told("begun", 2)
        os.kill(begun[0].pid, signal.SIGTERM)
        workshop.raise_flag("go on")
        until(lambda: counts(mq) == (0, 0, 0, 0), PATIENCE)
        supervisor.send(signal.SIGTERM)
        assert supervisor.wait() == 0
        assert set(workshop.bodies("ended")) == set(range(4))


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "says", "supervised"),
        [
            ("nowhere:worker", "there is no module 'nowhere'", False),
            ("nowhere:worker", "there is no module 'nowhere'", True),
            ("tasks:queue", "'tasks:queue' is no Worker, but Queue", False),
            ("tasks:nothing", "module 'tasks' has no 'nothing'", False),
            ("tasks", "expected MODULE:WORKER", False),
            ("tasks:", "expected MODULE:WORKER", False),
            ("tasks:idle", "no handlers", False),
            ("tasks:idle", "no handlers", True),
        ],
    )
    def test_bad_ones(self, workshop: Workshop, target: str, says: str, supervised: bool) -> None:
        """A target that makes no sense ends with status 2 and one line that says why."""
        workshop.write("queue = ms.Queue('jobs')\nidle = ms.Worker()\n")
        start = workshop.supervisor if supervised else workshop.worker
        program = start(target=target)

        assert program.wait() == 2
        lines = [line for line in program.output.splitlines() if " INFO " not in line]
        lines = [line for line in lines if not line.startswith("INFO:")]
        assert len(lines) == 1
        assert lines[0].startswith("millstream: ")
        assert says in lines[0]

    def test_a_module_that_fails(self, workshop: Workshop) -> None:
        """What a module itself raises is shown with its traceback, and is not status 2."""
        workshop.write("import nothing_like_that\n")
        worker = workshop.worker()

        assert worker.wait() == 3
        assert "No module named 'nothing_like_that'" in worker.output
        assert "Traceback" in worker.output

    @pytest.mark.parametrize("burst", [False, True])
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("import nothing_like_that", "No module named 'nothing_like_that'"),
            ("raise RuntimeError('config missing')", "RuntimeError: config missing"),
            ("sys.exit('config missing')", "SystemExit: config missing"),
            ("this is no Python", "SyntaxError"),
            (FAILING_HOOK, "OSError: no pool"),
        ],
        ids=["import", "raise", "exit", "syntax", "startup"],
    )
    def test_what_never_starts(self, workshop: Workshop, text: str, says: str, burst: bool) -> None:
        """The supervisor ends with status 1 when none of its processes was ever ready, and says why once."""
        workshop.write(text)
        supervisor = workshop.supervisor(2, burst=burst)

        assert supervisor.wait() == 1
        assert supervisor.output.count("tasks:worker cannot start") == 1
        assert says in supervisor.output
        assert "importlib" not in supervisor.output
        assert "restart in" not in supervisor.output

    def test_what_does_not_start_again(self, workshop: Workshop, mq: ms.Client) -> None:
        """Once a process was ready, a start that fails is tried again: a new version may be half there."""
        workshop.write("""
if flag("broken"):
    record("failed")
    raise RuntimeError("half a version")


@worker.on(ms.Queue("jobs"))
async def handle(body):
    os.kill(os.getpid(), signal.SIGKILL)


@worker.on_startup
async def ready():
    record("ready")
""")
        supervisor = workshop.supervisor(1)
        workshop.until_told("ready", 1)
        workshop.raise_flag("broken")
        mq.send(QUEUE, 1)
        workshop.until_told("failed", 2)
        supervisor.send(signal.SIGTERM)

        assert supervisor.wait() == 0

    def test_no_server(self, workshop: Workshop, own_server: Server) -> None:
        """Without a server at the start a worker process ends with status 1 and one line."""
        workshop.write(HOLDING)
        own_server.kill()
        worker = workshop.worker()

        assert worker.wait() == 1
        (line,) = worker.output.splitlines()
        assert line.startswith("millstream: cannot reach unix://")


class TestBurst:
    def test_two_processes(self, workshop: Workshop, mq: ms.Client) -> None:
        """A burst of two processes handles everything, retries included, and ends with status 0."""
        workshop.write("""
@worker.on(ms.Queue("jobs"))
async def handle(body, delivery):
    await asyncio.sleep(0.001)
    if body % 100 == 0 and delivery.attempt == 1:
        raise ms.RetryLater(delay=0.5)
    record("ended", body)
""")
        mq.send_many(QUEUE, range(2000))
        supervisor = workshop.supervisor(2, burst=True)

        assert supervisor.wait() == 0
        assert workshop.bodies("ended") == dict.fromkeys(range(2000), 1)
        assert counts(mq) == (0, 0, 0, 0)
        assert mq.stats(QUEUE).consumers == ()

    def test_a_crash_in_between(self, workshop: Workshop, mq: ms.Client) -> None:
        """A burst goes on after a crash: the process is replaced, and the queue drained."""
        workshop.write("""
@worker.on(ms.Queue("jobs"), concurrency=5)
async def handle(body, delivery):
    if body == 50 and not delivery.crashes:
        os._exit(1)
    record("ended", body)
""")
        mq.send_many(QUEUE, range(100))
        supervisor = workshop.supervisor(1, burst=True)

        assert supervisor.wait() == 0
        assert set(workshop.bodies("ended")) == set(range(100))
        assert counts(mq) == (0, 0, 0, 0)

    def test_concurrency(self, workshop: Workshop, mq: ms.Client) -> None:
        """The concurrency that the supervisor was given counts instead of the declared one."""
        workshop.write("""
now = most = 0

@worker.on(ms.Queue("jobs"), concurrency=50)
async def handle(body):
    global now, most
    now += 1
    most = max(most, now)
    await asyncio.sleep(0.01)
    now -= 1
    record("ended", body, most=most)
""")
        mq.send_many(QUEUE, range(60))
        supervisor = workshop.supervisor(1, burst=True, concurrency=3)

        assert supervisor.wait() == 0
        assert max(event.more["most"] for event in workshop.events("ended")) == 3


def test_the_longest_report(workshop: Workshop, mq: ms.Client) -> None:
    """A worker of hundreds of queues starts under a supervisor, and what it had is handed over."""
    workshop.write("""
async def handle(body, delivery):
    record("begun", body, crashes=delivery.crashes)
    if not delivery.crashes:
        os._exit(1)

for n in range(400):
    worker.on(ms.Queue(f"{'queue' * 30}-{n}"))(handle)
""")
    last: ms.Queue[Any] = ms.Queue(f"{'queue' * 30}-399")
    mq.send(last, 1)
    began = time.monotonic()
    supervisor = workshop.supervisor(1)
    workshop.until_told("begun", 2, 60)
    assert time.monotonic() - began < 25  # less than a lease
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def test_a_supervisor_that_dies_first(workshop: Workshop, mq: ms.Client) -> None:
    """A worker process whose supervisor dies before it could report to it ends in order."""
    workshop.write(HOLDING)
    report, pipe = os.pipe()
    lifeline, alive = os.pipe()
    os.close(report)
    os.close(alive)
    worker = workshop.worker(
        *("--report", str(pipe), "--lifeline", str(lifeline)), inherited=(pipe, lifeline)
    )
    os.close(pipe)
    os.close(lifeline)

    assert worker.wait() == 0
    assert "Traceback" not in worker.output
