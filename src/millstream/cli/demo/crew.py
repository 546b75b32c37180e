"""The demo's worker processes, seen from the demo: starts them, watches them, and kills one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from millstream.cli.demo.keeper import SHUTDOWN_TIMEOUT, STOP
from millstream.cli.demo.log import Log
from millstream.cli.demo.place import Place
from millstream.cli.demo.tasks import FILES, now
from millstream.cli.output import Failed
from millstream.sync.client import Client

__all__ = ["Crew", "Killed"]

END_TIMEOUT = SHUTDOWN_TIMEOUT + 10.0
"""Seconds until the supervisor has killed a worker that does not end, with some to spare."""


@dataclass(frozen=True, slots=True)
class Killed:
    """A worker that was killed.

    Attributes:
        pid: of its process.
        in_flight: deliveries that it owned.
        at: when, by ``now``.
    """

    pid: int
    in_flight: int
    at: float


class Crew:
    """Some worker processes and their supervisor. Use it as a context manager.

    Args:
        place: where they work.
        size: how many they are.
    """

    def __init__(self, place: Place, size: int) -> None:
        self._place = place
        self.size = size
        self._log = Log()
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start them."""
        place = self._place
        command = [sys.executable, "-m", "millstream.cli.demo.keeper", place.namespace]
        command += ["--processes", str(self.size)]
        if place.directory is not None:
            command += ["--directory", place.directory]
        self._keeper = subprocess.Popen(  # noqa: S603 - our own program
            command,
            # It ends with this process, however that ends.
            stdin=subprocess.PIPE,
            stdout=self._log.file,
            stderr=self._log.file,
            env={**place.environment(), "MILLSTREAM_LOG_LEVEL": "INFO"},
            # Ctrl-C in a terminal goes to the whole group; only the demo is to get it.
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop them, and return when they are gone."""
        keeper = self._keeper
        if keeper is not None:
            try:
                # It writes and closes standard input. There is no output to read.
                keeper.communicate(STOP, END_TIMEOUT)
            except subprocess.TimeoutExpired:
                # Its workers end by themselves once it is gone.
                keeper.kill()
                keeper.communicate()
        self._log.close()

    def check(self) -> None:
        """Make sure that the supervisor runs.

        Raises:
            Failed: it does not; the text quotes its log.
        """
        if self._keeper is not None and self._keeper.poll() is not None:
            raise self.failed("the workers have ended")

    def failed(self, problem: str) -> Failed:
        """Return an error that says what the workers had to say."""
        return self._log.failed(problem)

    def at_work(self, mq: Client) -> dict[int, int]:
        """Ask the server for the workers; their pids and how many deliveries each owns."""
        here = socket.gethostname()
        found = {}
        for consumer in mq.stats(FILES).consumers:
            host, pid, _ = consumer.name.rsplit(":", 2)
            if host == here:
                found[int(pid)] = consumer.in_flight
        return found

    def kill_one(self, mq: Client) -> Killed | None:
        """Kill a worker that has deliveries in flight, as SIGKILL does it: without a warning.

        Returns:
            Which one; None: none had any just then, and all are alive.
        """
        workers = self.at_work(mq)
        for pid in sorted(workers, key=lambda one: workers[one], reverse=True):
            # Frozen first, so that what it owns is known, and is the same when it dies.
            if not _send(pid, signal.SIGSTOP):
                continue
            in_flight = 0
            try:
                in_flight = self.at_work(mq).get(pid, 0)
            finally:
                at = now()
                _send(pid, signal.SIGKILL if in_flight else signal.SIGCONT)
            if in_flight:
                return Killed(pid, in_flight, at)
        return None


def _send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False: there is no such process any more."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
