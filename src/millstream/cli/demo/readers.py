"""The processes that read the demo's topic, seen from the demo: one for each subscription."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec

from millstream.cli.demo.index import LATE, PARTS, Part
from millstream.cli.demo.keeper import STOP
from millstream.cli.demo.log import Log
from millstream.cli.demo.outcome import Published, Reading
from millstream.cli.demo.place import Place
from millstream.cli.demo.tasks import INDEXED
from millstream.message import SubscriptionStats, TopicStats
from millstream.sync.client import Client

__all__ = ["PATIENCE", "Readers", "left"]

END_TIMEOUT = 10.0
"""Seconds that a reader gets to say what it knows; it has nothing left to do then."""

PATIENCE = 30.0
"""Seconds without progress after which something must be broken."""


class Readers:
    """Subscriptions of the topic, each with a process. Use it as a context manager.

    Args:
        place: where they read.
        mq: to make the subscriptions, and to ask how far they are.
    """

    def __init__(self, place: Place, mq: Client) -> None:
        self._place = place
        self._mq = mq
        self._log = Log()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start those that are there from the beginning."""
        early = [part for part in PARTS if not part.late]
        for part in early:
            # What is published from now on waits for it, however long its process takes.
            self._mq.declare(INDEXED.subscription(part.name))
        for part in early:
            self._start(part)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End those that still run: whoever waits for what they know has it by now."""
        for process in self._processes.values():
            process.kill()
            process.communicate()
        self._log.close()

    @property
    def pids(self) -> dict[str, int]:
        """The process of each subscription that there is."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def complete(self) -> bool:
        """Whether the late one has been started."""
        return LATE.name in self._processes

    def join_late(self) -> int:
        """Start the late one.

        Returns:
            How many messages have been published by now.
        """
        published = self._mq.stats(INDEXED).published
        self._start(LATE)
        return published

    def check(self) -> None:
        """Make sure that they run.

        Raises:
            Failed: one does not; the text quotes its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                message = f"the reader of subscription {name} has ended"
                raise self._log.failed(message)

    def catch_up(self) -> Iterator[TopicStats]:
        """Wait until each of them has handled all; the state of the topic now and then.

        The last one is that in which all was handled.

        Raises:
            Failed: they do not get on.
        """
        before: dict[str, int] = {}
        changed = time.monotonic()
        while True:
            self.check()
            stats = self._mq.stats(INDEXED)
            yield stats
            behind = {one.name: left(one) for one in stats.subscriptions}
            if len(behind) == len(PARTS) and not any(behind.values()):
                return
            if behind != before:
                before, changed = behind, time.monotonic()
            elif time.monotonic() - changed > PATIENCE:
                message = f"the subscriptions have not moved for {PATIENCE:g} s: {behind} left"
                raise self._log.failed(message)

    def finish(self, stats: TopicStats) -> Published:
        """Stop them and ask what they know.

        Args:
            stats: of the topic, when all was handled.

        Raises:
            Failed: one does not tell.
        """
        return Published(
            messages=stats.published,
            dead=sum(one.dead for one in stats.subscriptions),
            readings=[self._ask(part.name) for part in PARTS],
        )

    def _start(self, part: Part) -> None:
        command = [sys.executable, "-m", "millstream.cli.demo.reader", self._place.namespace]
        self._processes[part.name] = subprocess.Popen(  # noqa: S603 - our own program
            [*command, part.name],
            # It ends with this process, however that ends.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.file,
            env=self._place.environment(),
            # Ctrl-C in a terminal goes to the whole group; only the demo is to get it.
            start_new_session=True,
        )

    def _ask(self, name: str) -> Reading:
        try:
            out, _ = self._processes[name].communicate(STOP, END_TIMEOUT)
            return msgspec.json.decode(out, type=Reading)
        except (subprocess.TimeoutExpired, msgspec.DecodeError) as error:
            message = f"the reader of subscription {name} does not tell what it knows"
            raise self._log.failed(message) from error


def left(one: SubscriptionStats) -> int:
    """Count what a subscription has not handled yet."""
    return one.lag + one.delayed + one.in_flight
