"""The course of the demo, from the first message to the comparison."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from millstream.cli.demo.asking import CALLERS, ask_all, by_path, questions_about
from millstream.cli.demo.count import Contents, count_alone
from millstream.cli.demo.crew import Crew, Killed
from millstream.cli.demo.index import PARTS
from millstream.cli.demo.outcome import Alone, Asked, Counts, Outcome, Published
from millstream.cli.demo.place import Place, place_for, server_name
from millstream.cli.demo.readers import PATIENCE, Readers, left
from millstream.cli.demo.show import Advance, Show
from millstream.cli.demo.signals import Signals
from millstream.cli.demo.tally import Tally
from millstream.cli.demo.tasks import FILES, INDEX, INDEXED, RESULTS, now
from millstream.message import QueueStats, TopicStats
from millstream.sync.client import Client

__all__ = ["WORKERS", "CountAlone", "run_demo"]

CountAlone = Callable[[Sequence[Path], Callable[[int], None]], Contents]
"""Counts files without Millstream; ``count_alone`` does."""

WORKERS = 2

TICK = 0.1
"""Seconds between two looks at the workers."""


def run_demo(
    files: Sequence[Path],
    show: Show,
    *,
    url: str | None = None,
    alone: CountAlone = count_alone,
    signals: Signals | None = None,
) -> Outcome:
    """Have two workers count files, kill one of them, and count again without them.

    What they find is also published on a topic, for two subscriptions and one that joins late. Two of
    them answer questions about it then.

    Args:
        files: to count.
        show: gets what happens.
        url: of the server; None: start one.
        alone: what the workers' totals are compared with.
        signals: that may end it early.

    Raises:
        Failed: the workers or the readers do not work.
        BrokerError: the server cannot be reached.
    """
    signals = signals or Signals()
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(place_for(url))
        # First, because its process removes what is left if this one is killed.
        crew = stack.enter_context(Crew(place, WORKERS))
        mq = stack.enter_context(Client(place.url, namespace=place.namespace))
        stack.callback(signals.ignore)
        show.line("server", _describe(mq, place))
        readers = stack.enter_context(Readers(place, mq))
        course = _Course(mq, crew, readers, show, signals)
        course.gather_workers()
        counts = course.count(files)
        stats = course.read_all()
        asked = course.ask(place, files)
        published = course.sum_up(stats)
        return Outcome(
            server=server_name(mq),
            python=platform.python_version(),
            workers=counts,
            published=published,
            asked=asked,
            alone=_count_again(files, alone, show, signals),
        )


def _count_again(files: Sequence[Path], alone: CountAlone, show: Show, signals: Signals) -> Alone:
    """Count without Millstream."""
    show.line("check", "one process counts the same files, without messages")
    begin = time.monotonic()
    with show.bar(len(files)) as advance:

        def progress(done: int) -> None:
            signals.check()
            advance(done, "files")

        contents = alone(files, progress)
    seconds = time.monotonic() - begin
    return Alone(
        figures=contents.figures,
        longest=contents.longest,
        by_path=by_path(contents.by_file),
        seconds=seconds,
    )


def _describe(mq: Client, place: Place) -> str:
    name = server_name(mq)
    if place.directory is not None:
        return f"{name}, started for this demo in a temporary directory"
    return f"{name} at {mq.url}, in the namespace {place.namespace}"


def _behind(stats: TopicStats) -> str:
    """Tell how many messages each subscription has still to handle."""
    behind = {one.name: left(one) for one in stats.subscriptions}
    known = (f"{part.name} {behind[part.name]:,}" for part in PARTS if part.name in behind)
    return "behind: " + "   ".join(known)


class _Course:
    """The part with the workers and the readers.

    Args:
        mq: to send and to collect.
        crew: the workers, just started.
        readers: of the topic, just started.
        show: gets what happens.
        signals: that may end it early.
    """

    def __init__(
        self, mq: Client, crew: Crew, readers: Readers, show: Show, signals: Signals
    ) -> None:
        self._mq = mq
        self._crew = crew
        self._readers = readers
        self._show = show
        self._signals = signals
        self._tally = Tally()
        self._workers: list[int] = []
        self._killed: Killed | None = None
        self._first_again: float | None = None
        self._total = 0
        self._began = self._last_result = self._next_look = 0.0

    def gather_workers(self) -> None:
        """Wait until all workers are there.

        Raises:
            Failed: they do not come.
        """
        deadline = time.monotonic() + PATIENCE
        while len(self._workers) < self._crew.size:
            self._signals.check()
            self._crew.check()
            if time.monotonic() > deadline:
                raise self._crew.failed(f"no workers after {PATIENCE:g} s")
            time.sleep(TICK / 5)
            self._see(self._crew.at_work(self._mq))
        pids = " and ".join(map(str, sorted(self._workers)))
        self._show.line("workers", f"{self._crew.size} processes, {pids}")
        names = " and ".join(f"{name} ({pid})" for name, pid in self._readers.pids.items())
        self._show.line("topic", f"{INDEXED.name}, with the subscriptions {names}")

    def count(self, files: Sequence[Path]) -> Counts:
        """Send a message for each file and collect the results; kill a worker at half-time."""
        self._total = len(files)
        self._began = self._last_result = now()
        self._mq.send_many(FILES, [str(path) for path in files])
        taken = now() - self._began
        self._show.line("sent", f"{self._total:,} messages, one a source file, in {taken:.2f} s")
        with self._show.bar(self._total) as advance:
            stats = self._collect(advance)
        if self._killed is None:
            self._show.line("not killed", "no worker had a delivery in flight when it was time")
        return self._counts(stats)

    def read_all(self) -> TopicStats:
        """Wait until the subscriptions have everything; the topic's last counts."""
        # When there is little to do, all of it may be over before half of it was seen.
        self._join_late()
        with self._show.bar(len(PARTS)) as advance:
            for stats in self._readers.catch_up():
                self._signals.check()
                advance(sum(not left(one) for one in stats.subscriptions), _behind(stats))
                time.sleep(TICK / 5)
        return stats

    def ask(self, place: Place, files: Sequence[Path]) -> Asked:
        """Have many callers at a time ask the subscriptions' processes about files and folders."""
        with self._show.bar(len(questions_about(files))) as advance:

            def look(done: int) -> None:
                self._signals.check()
                self._readers.check()
                advance(done, f"answers to {CALLERS} callers")

            asked = ask_all(place, files, look)
        text = f"{asked.questions:,} questions to {INDEX.name}, from {CALLERS} callers at a time"
        self._show.line("asked", f"{text}, in {asked.seconds:.2f} s")
        return asked

    def sum_up(self, stats: TopicStats) -> Published:
        """Stop the subscriptions' processes, and ask them what they know.

        Args:
            stats: of the topic, when all was handled.
        """
        published = self._readers.finish(stats)
        for one in published.readings:
            if one.replayed:
                rest = f"{one.messages - one.replayed:,} more by its subscription"
                self._show.line(
                    "caught up", f"{one.subscription} replayed {one.replayed:,}, {rest}"
                )
        return published

    def _collect(self, advance: Advance) -> QueueStats:
        """Take results until every message is handled; the queue's last counts."""
        while True:
            # Looked at first: workers send a result before they acknowledge its message, so when
            # this queue is empty, all results are in the other one.
            stats = self._mq.stats(FILES)
            receiving = self._mq.receive(RESULTS, prefetch=100, wait=TICK)
            with contextlib.closing(receiving) as deliveries:
                for delivery in deliveries:
                    self._tally.add(delivery.body)
                    delivery.ack()
                    self._last_result = now()
                    self._step(advance)
            if not (stats.ready or stats.delayed or stats.in_flight):
                return stats
            self._crew.check()
            self._readers.check()
            if now() - self._last_result > PATIENCE:
                raise self._crew.failed(f"no result for {PATIENCE:g} s")
            self._step(advance)

    def _step(self, advance: Advance) -> None:
        """Look after everything else, most of it now and then."""
        self._signals.check()
        if self._killed is not None and self._first_again is None:
            self._see_again(self._killed)
        if now() < self._next_look:
            return
        self._next_look = now() + TICK
        workers = self._crew.at_work(self._mq)
        self._see(workers)
        done = len(self._tally)
        if self._killed is None and done * 2 >= self._total and len(workers) >= self._crew.size:
            self._killed = self._crew.kill_one(self._mq)
            if self._killed is not None:
                owned = f"with {self._killed.in_flight} deliveries in flight"
                text = f"worker {self._killed.pid} by SIGKILL, {owned}"
                self._show.line("killed", text)
                # It should not have to be asked for the next results.
                workers.pop(self._killed.pid, None)
        if done * 2 >= self._total:
            self._join_late()
        rate = done / (now() - self._began)
        pids = " ".join(map(str, workers))
        note = f"{rate:,.0f} messages/s   workers {pids}\n{_behind(self._mq.stats(INDEXED))}"
        advance(done, note)

    def _join_late(self) -> None:
        """Have the third subscription join, unless it has."""
        if not self._readers.complete:
            published = self._readers.join_late()
            self._show.line("joins late", f"a third subscription, {published:,} messages behind")

    def _see(self, workers: dict[int, int]) -> None:
        """Take note of workers that are new."""
        for pid in workers:
            if pid not in self._workers:
                self._workers.append(pid)
                if self._killed is not None:
                    self._show.line("replaced", f"worker {pid} was started in its place")

    def _see_again(self, killed: Killed) -> None:
        """Tell when the first message of the killed worker ran again."""
        for result in self._tally.again:
            if result.began >= killed.at:
                self._first_again = result.began - killed.at
                text = f"worker {result.pid} runs the first of them {self._first_again:.2f} s later"
                self._show.line("handed over", text)
                return

    def _counts(self, stats: QueueStats) -> Counts:
        killed = self._killed
        again = [one for one in self._tally.again if killed and one.began >= killed.at]
        first = min((one.began for one in again), default=None)
        return Counts(
            figures=self._tally.totals(),
            workers=self._workers,
            seconds=self._last_result - self._began,
            deliveries=stats.acked + stats.retried + stats.crashed,
            failed=stats.retried,
            killed=killed.pid if killed else None,
            in_flight=killed.in_flight if killed else 0,
            redelivered=len({one.file for one in again}),
            redelivered_after=first - killed.at if killed and first is not None else None,
            duplicates=self._tally.duplicates,
            dead=stats.dead,
        )
