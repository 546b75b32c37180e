"""What the demo found out, and whether that is as it should be."""

from __future__ import annotations

from dataclasses import fields

import msgspec

from millstream.cli.demo.count import Figures

__all__ = ["Alone", "Counts", "Outcome", "problems"]


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
        seconds: that it took.
    """

    figures: Figures
    seconds: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The whole demo.

    Attributes:
        server: name and version.
        python: version of the interpreter, whose standard library was counted.
        workers: what the workers counted.
        alone: what one process counted.
    """

    server: str
    python: str
    workers: Counts
    alone: Alone

    @property
    def lost(self) -> int:
        """Files without a result."""
        return self.alone.figures.files - self.workers.figures.files

    @property
    def rate(self) -> int:
        """Messages a second."""
        return round(self.workers.figures.files / max(self.workers.seconds, 0.001))


def problems(outcome: Outcome) -> list[str]:
    """Compare what the workers counted with what one process counted."""
    found = []
    if outcome.lost:
        found.append(f"{outcome.lost:,} files have no result")
    if outcome.workers.dead:
        found.append(f"{outcome.workers.dead:,} messages are in the dead letters")
    for field in fields(Figures):
        ours = getattr(outcome.workers.figures, field.name)
        theirs = getattr(outcome.alone.figures, field.name)
        if ours != theirs:
            found.append(f"{ours:,} {field.name} instead of {theirs:,}")
    return found
