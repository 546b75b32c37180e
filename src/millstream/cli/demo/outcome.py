"""What the demo found out, and whether that is as it should be."""

from __future__ import annotations

from dataclasses import fields

import msgspec

from millstream.cli.demo.count import Figures, Function

__all__ = ["Alone", "Asked", "Counts", "Outcome", "Published", "Reading", "problems"]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers did, and how.

    Attributes:
        figures: the totals.
        workers: pids, in the order of their appearance.
        seconds: from the first send to the last result.
        deliveries: hand-overs of a message to a worker.
        failed: deliveries that ended with an exception in the handler.
        killed: pid of the worker that was killed; None: none had anything in hand.
        in_flight: deliveries that it owned when it was killed.
        redelivered: messages that ran again after that, in another process.
        redelivered_after: seconds from the kill until the first of them ran; None: there is none.
        duplicates: results that were dropped, because the file was counted already.
        dead: messages that nobody could handle.
    """

    figures: Figures
    workers: list[int]
    seconds: float
    deliveries: int
    failed: int
    killed: int | None
    in_flight: int
    redelivered: int
    redelivered_after: float | None
    duplicates: int
    dead: int


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """What one process counted in a plain loop.

    Attributes:
        figures: the totals.
        longest: the longest functions.
        by_path: what is in each file, and in each folder that has files.
        seconds: that it took.
    """

    figures: Figures
    longest: list[Function]
    by_path: dict[str, Figures]
    seconds: float


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader of one subscription knows in the end.

    Attributes:
        subscription: its name.
        pid: of its process.
        messages: how many different ones it got.
        replayed: how many of them by replay.
        duplicates: how many of them were about a file that it knew already.
        files: that they were about.
        figures: the totals; None: it does not add up.
        longest: the longest functions; None: it does not keep them.
    """

    subscription: str
    pid: int
    messages: int
    replayed: int
    duplicates: int
    files: int
    figures: Figures | None
    longest: list[Function] | None


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The second act: what was published, and what became of it.

    Attributes:
        messages: that were published, one a file, and one more for each that was handled twice.
        dead: messages that a subscription could not handle.
        readings: of each subscription.
    """

    messages: int
    dead: int
    readings: list[Reading]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The third act: what callers asked the endpoint, and what they were told.

    Attributes:
        callers: how many asked at a time.
        questions: how many they asked.
        answers: what each file or folder has in it, as they were told; None: it is not there.
        failed: what came instead of an answer.
        seconds: from the first question to the last answer.
        p50: seconds that half of the questions took at most.
        p99: seconds that 99 % of them took at most.
    """

    callers: int
    questions: int
    answers: dict[str, Figures | None]
    failed: list[str]
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> int:
        """Answers a second."""
        return round(self.questions / max(self.seconds, 0.001))


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The whole demo.

    Attributes:
        server: name and version.
        python: version of the interpreter, whose standard library was counted.
        workers: what the workers counted.
        published: what the subscriptions of the topic made of it.
        asked: what they told those who asked.
        alone: what one process counted.
    """

    server: str
    python: str
    workers: Counts
    published: Published
    asked: Asked
    alone: Alone

    @property
    def lost(self) -> int:
        """Files without a result."""
        return self.alone.figures.files - self.workers.figures.files

    @property
    def right(self) -> int:
        """Answers that are what one process has counted; that something is not there, too."""
        truth = self.alone.by_path
        return sum(truth.get(path) == one for path, one in self.asked.answers.items())

    @property
    def rate(self) -> int:
        """Messages a second."""
        return round(self.workers.figures.files / max(self.workers.seconds, 0.001))


def problems(outcome: Outcome) -> list[str]:
    """Compare what was counted, and what was answered, with what one process counted."""
    found = []
    if outcome.lost:
        found.append(f"{outcome.lost:,} files have no result")
    if outcome.workers.dead:
        found.append(f"{outcome.workers.dead:,} messages are in the dead letters")
    found += _differences(outcome.workers.figures, outcome.alone.figures)
    if outcome.published.dead:
        found.append(f"{outcome.published.dead:,} messages of the topic are in the dead letters")
    for reading in outcome.published.readings:
        wrong = _wrong(reading, outcome.published.messages, outcome.alone)
        found += [f"subscription {reading.subscription}: {one}" for one in wrong]
    if wrong_answers := len(outcome.asked.answers) - outcome.right:
        found.append(f"{wrong_answers:,} answers of the endpoint are wrong")
    if missing := outcome.asked.questions - len(outcome.asked.answers):
        why = f", the first with {outcome.asked.failed[0]}" if outcome.asked.failed else ""
        found.append(f"{missing:,} questions have no answer{why}")
    return found


def _wrong(reading: Reading, published: int, alone: Alone) -> list[str]:
    """Tell what is wrong with what one subscription knows."""
    found = []
    # More is no error: what is published after that was counted may reach it, too.
    if reading.messages < published:
        found.append(f"{published - reading.messages:,} messages did not come")
    if reading.figures is not None:
        found += _differences(reading.figures, alone.figures)
    elif reading.files != alone.figures.files:
        found.append(f"{reading.files:,} files instead of {alone.figures.files:,}")
    if reading.longest is not None and reading.longest != alone.longest:
        ours, theirs = (
            ", ".join(f"{one.name} ({one.lines:,})" for one in functions) or "none"
            for functions in (reading.longest, alone.longest)
        )
        found.append(f"the longest functions are {ours} instead of {theirs}")
    return found


def _differences(ours: Figures, theirs: Figures) -> list[str]:
    pairs = ((one.name, getattr(ours, one.name), getattr(theirs, one.name)) for one in fields(ours))
    return [f"{mine:,} {name} instead of {other:,}" for name, mine, other in pairs if mine != other]
