"""The parent of worker processes: starts them, hands over what a dead one held, starts it again.

It knows that a child is dead, where other workers could only wait for its leases to run out. So
the work of a killed child is with another consumer within a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from dataclasses import dataclass, field
from typing import Any

import msgspec

from millstream.aio.client import AsyncClient
from millstream.driver.target import ENVIRONMENT_VARIABLE
from millstream.errors import BrokerError
from millstream.protocol.keys import QueueKeys, queue_keys, subscription_keys
from millstream.protocol.recover import hand_over_all
from millstream.worker.child import BROKER, FORCED, NOT_STARTED, USAGE

__all__ = ["supervise"]

logger = logging.getLogger("millstream.supervisor")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds before a child that died is started again; the pause doubles while it dies early."""

STEADY_AFTER = 10.0
"""Seconds of life after which a death is not held against the next start."""

KILL_AFTER = 5.0
"""Seconds beyond the shutdown timeout after which a child that does not end is killed."""

SAME_SIGNAL = 0.5
"""Seconds. What comes so soon again is no second request: ``timeout`` and other programs signal a process,
and then its whole group."""

ASKED_TO_END = (0, -signal.SIGTERM, -signal.SIGINT)
"""Statuses of a child that has ended in order. A signal ends it itself when it comes before the child
listens to it, or behind its last message."""


def supervise(
    target: str,
    *,
    url: str | None,
    namespace: str,
    processes: int,
    concurrency: int | None,
    burst: bool,
    shutdown_timeout: float | None = None,
) -> int:
    """Run worker processes until stopped by SIGTERM or SIGINT (a second one: at once).

    Args:
        target: ``module:worker``.
        url: of the server; None: ``$MILLSTREAM_URL``, else ``embedded://``.
        namespace: first part of all keys.
        processes: how many.
        concurrency: for every handler, instead of what was declared.
        burst: stop when the queues are drained.
        shutdown_timeout: seconds for running handlers at the end; None: what the worker says.

    Returns:
        The exit status: 0 stopped or drained, 1 the server cannot be reached, or the worker's module or
        a startup hook fails before a process was ever ready, 2 the target makes no sense.

    Raises:
        BrokerError: the server cannot be reached at the start.
    """
    supervisor = Supervisor(
        target,
        namespace=namespace,
        options=Options(url, concurrency, shutdown_timeout, burst=burst),
    )
    return asyncio.run(supervisor.run(processes))


@dataclass(frozen=True, slots=True)
class Options:
    """What children are told."""

    url: str | None = field(repr=False)  # a password may be in it
    concurrency: int | None
    shutdown_timeout: float | None
    burst: bool


class _End(msgspec.Struct, frozen=True):
    """How a child has ended.

    Attributes:
        status: of its process.
        crashed: whether nobody has asked for it.
        held: the consumers that it had.
    """

    status: int
    crashed: bool
    held: list[dict[str, Any]]


class Supervisor:
    """Keeps a number of children alive.

    Args:
        target: ``module:worker``.
        namespace: first part of all keys.
        options: for the children.
    """

    def __init__(self, target: str, *, namespace: str, options: Options) -> None:
        self._target = target
        self._namespace = namespace
        self._options = options
        self._children: dict[Process, _Report] = {}
        self._killed: set[Process] = set()
        self._stopping = asyncio.Event()
        self._forced = False
        self._was_ready = False
        self._asked_at = -math.inf
        self._handing_over: set[asyncio.Task[None]] = set()

    async def run(self, processes: int) -> int:
        """Run children until all of them have ended; the exit status."""
        # Its connection also keeps an embedded server alive while children come and go.
        async with AsyncClient(self._options.url, namespace=self._namespace) as mq:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop)
            # Children hold the other end: it closes when this process ends in any way.
            lifeline, alive = os.pipe()
            try:
                slots = [self._keep_alive(mq, lifeline, slot) for slot in range(processes)]
                statuses = await asyncio.gather(*slots)
                if self._handing_over:
                    await asyncio.wait(self._handing_over, timeout=10)
                if self._handing_over:
                    logger.warning(
                        "not all could be handed over in time; leases decide on the rest"
                    )
                if self._stopping.is_set():
                    logger.info("stopped: all worker processes have ended")
            finally:
                os.close(lifeline)
                os.close(alive)
        return FORCED if self._forced else max(statuses)

    def _stop(self) -> None:
        """Pass a signal on: the first asks for an orderly end, the second for an end."""
        if self._stopping.is_set() and time.monotonic() < self._asked_at + SAME_SIGNAL:
            return
        self._asked_at = time.monotonic()
        self._forced = self._stopping.is_set()
        self._stopping.set()
        if self._forced:
            logger.warning("asked to stop a second time; killing all worker processes")
        else:
            # One that has not told yet has not begun to read.
            grace = max((one.shutdown_timeout for one in self._children.values()), default=0.0)
            logger.info("stopping: %g s for running handlers", grace)
        for child in self._children:
            if self._forced:
                self._kill(child)
            else:
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()

    def _kill(self, child: Process) -> None:
        """End a child that was asked to end before."""
        self._killed.add(child)
        with contextlib.suppress(ProcessLookupError):
            child.kill()

    async def _keep_alive(self, mq: AsyncClient, lifeline: int, slot: int) -> int:
        """Run one child after the other until one ends as it should."""
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            end = await self._run_child(lifeline, slot)
            status = end.status
            # Also after an orderly end: it may have left a thread behind, or not have reached
            # the server.
            for one in end.held:
                # Side by side: callers of an endpoint do not wait for a long queue.
                task = asyncio.create_task(self._hand_over(mq, one, crashed=end.crashed))
                self._handing_over.add(task)
                task.add_done_callback(self._handing_over.discard)
            if self._stopping.is_set() or status in (0, USAGE):
                return 0 if self._stopping.is_set() else status
            if status == NOT_STARTED and not self._was_ready:
                # Another start would fail alike. Later ones may be of a half-copied new version.
                return BROKER
            if time.monotonic() - started > STEADY_AFTER:
                pause = FIRST_PAUSE
            logger.warning("a worker process ended with status %d; restart in %g s", status, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            if self._stopping.is_set():
                return 0
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _run_child(self, lifeline: int, slot: int) -> _End:
        """Start a child and wait for its end."""
        report = _Report()
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command(lifeline, report.pipe, slot),
                env=self._environment(),
                pass_fds=(lifeline, report.pipe),
                # Ctrl-C in a terminal goes to the whole group: it is ours to pass on, once.
                start_new_session=True,
            )
        finally:
            os.close(report.pipe)
        self._children[child] = report
        logger.info("started worker process %d", child.pid)
        if self._stopping.is_set():
            child.terminate()
        killer = asyncio.create_task(self._kill_late(child, report))
        try:
            status = await child.wait()
        finally:
            killer.cancel()
            del self._children[child]
            held = report.close()
            self._was_ready = self._was_ready or report.is_whole
        was_killed = child in self._killed and status == -signal.SIGKILL
        self._killed.discard(child)
        return _End(status, status not in ASKED_TO_END and not was_killed, held)

    async def _kill_late(self, child: Process, report: _Report) -> None:
        """Kill a child that does not end in its time."""
        await self._stopping.wait()
        await asyncio.sleep(report.shutdown_timeout + KILL_AFTER)
        logger.warning("worker process %d does not end; killing it", child.pid)
        self._kill(child)

    def _command(self, lifeline: int, report: int, slot: int) -> list[str]:
        options = self._options
        command = [sys.executable, "-m", "millstream.worker.child", self._target]
        command += ["--namespace", self._namespace, "--lifeline", str(lifeline)]
        command += ["--report", str(report)]
        if options.concurrency is not None:
            command += ["--concurrency", str(options.concurrency)]
        if options.shutdown_timeout is not None:
            command += ["--shutdown-timeout", str(options.shutdown_timeout)]
        if options.burst:
            command.append("--burst")
        if slot > 0:
            # What is wrong with the target is wrong for all; one of them says so.
            command.append("--silent")
        return command

    def _environment(self) -> dict[str, str]:
        """Pass the URL by the environment: arguments are seen by every user of the machine."""
        environment = dict(os.environ)
        if self._options.url is not None:
            environment[ENVIRONMENT_VARIABLE] = self._options.url
        return environment

    async def _hand_over(self, mq: AsyncClient, held: dict[str, Any], *, crashed: bool) -> None:
        """Give what a dead child held of a queue to others, as soon as the server is there.

        A child that ends in order hands back by itself what no handler has begun with. So what is left
        counts as begun.
        """
        keys = self._keys_of(held)
        while True:
            plan = hand_over_all(
                keys,
                held["consumer"],
                partitions=held["partitions"],
                crashed=crashed,
                max_crashes=held["max_crashes"],
                # A crash says so by itself.
                reason="stopped" if held["once"] and not crashed else "",
            )
            try:
                done = await mq.driver.drive(plan)
            except BrokerError as error:
                logger.warning("%s: cannot hand over yet: %s", keys.title, error)
                await asyncio.sleep(1)
                continue
            break
        if done.moved or done.died:
            logger.warning(
                "%s: handed over %d deliveries of a dead process, %d to the dead letters",
                *(keys.title, done.moved, done.died),
            )

    def _keys_of(self, one: dict[str, Any]) -> QueueKeys:
        if "subscription" in one:
            return subscription_keys(self._namespace, one["topic"], one["subscription"])
        return queue_keys(self._namespace, one["queue"], store=one["store"])


class _Report:
    """What a child tells about itself. It is read as it comes: a pipe holds only so much."""

    def __init__(self) -> None:
        self._source, self.pipe = os.pipe()
        os.set_blocking(self._source, False)
        self._text = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._source, self._read)

    def _read(self) -> bool:
        """Take what is there; False: nothing is, or nothing will be."""
        try:
            chunk = os.read(self._source, 1 << 16)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._source)
        self._text += chunk
        return bool(chunk)

    @property
    def is_whole(self) -> bool:
        """Whether the child was ready to begin: it has told all."""
        return self._text.endswith(b"\n")

    def _told(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(self._text)
        except ValueError:
            # It has not written all of it, and has not begun to read the queues then.
            return {"shutdown_timeout": 0.0, "consumers": []}
        return told

    @property
    def shutdown_timeout(self) -> float:
        """Seconds that the child gives its running handlers at the end."""
        return float(self._told()["shutdown_timeout"])

    def close(self) -> list[dict[str, Any]]:
        """Return the consumers that the child had; none when it ended too early to say."""
        while self._read():
            continue
        self._loop.remove_reader(self._source)
        os.close(self._source)
        held: list[dict[str, Any]] = self._told()["consumers"]
        return held
