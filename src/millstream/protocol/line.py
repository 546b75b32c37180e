"""A producer that waits for room in a queue with a bound: what it does next. Time is a parameter.

The producer has one ticket at the server for all that it has to send; what that is, is its own
line, first come, first served. Scripts in which messages end call the first ticket by an entry in
a stream. That wakes its producer at once, but nothing hangs on it: every two seconds a producer
confirms its ticket and is told whether its turn has come.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millstream.errors import BrokerError, QueueFull
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol.bound import Outcome, Unit, check_fits, place_units, queue_full
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, load_script
from millstream.protocol.reading import BLOCK_MS
from millstream.protocol.send import CHUNK_BYTES, CHUNK_MESSAGES

__all__ = ["Line", "Waiting", "line_up"]

_LINE_UP = load_script("line_up")

CONFIRM = 2.0
"""Seconds after which a producer shows that it is alive: a third of what the server allows."""


def line_up(
    keys: QueueKeys, ticket: str, needed: str, *, now_ms: int | None = None
) -> Op[tuple[bool, int]]:
    """Confirm a ticket, exchange it, or give it up. Safe to repeat.

    Args:
        keys: of the queue.
        ticket: that the producer has.
        needed: the one that it needs, which gets the same place; empty: none.
        now_ms: the time, for tests; None: the server's clock.

    Returns:
        Whether it is the producer's turn and there is room, and the length of the queue.
    """
    time = "" if now_ms is None else now_ms
    command = _LINE_UP.call([*keys.common, *keys.queueing, keys.alive], [ticket, needed, time])

    def decode(replies: list[Any]) -> tuple[bool, int]:
        turn, length = replies[0]
        return bool(turn), length

    return Op((command,), decode)


def _nobody() -> None:
    pass


class Waiting(msgspec.Struct, eq=False):
    """A unit on its way.

    Attributes:
        unit: of messages.
        since: when it came, in seconds.
        until: when it goes without room.
        told: called when its outcome is known.
        outcome: what came of it; None: nothing yet.
    """

    unit: Unit
    since: float
    until: float
    told: Callable[[], None] = _nobody
    outcome: Outcome | BaseException | None = None

    def end(self, outcome: Outcome | BaseException) -> None:
        """Say what came of it; the first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.told()

    def result(self) -> list[Receipt]:
        """Return its receipts.

        Raises:
            QueueFull, BrokerError: it is not stored, or not known to be.
        """
        if isinstance(self.outcome, list):
            return self.outcome
        assert self.outcome is not None  # noqa: S101 - asked for when it has ended
        raise self.outcome


class Line:
    """The units that a producer has to send, and its ticket.

    One ``step`` at a time: run the operation and pass its result to ``took`` (its failure to
    ``failed``), or listen for so many seconds and pass what came to ``heard``.

    Args:
        keys: of the queue.
        bound: of the queue; a send that finds no room waits.
        producer: a name that nobody else has.
    """

    def __init__(self, keys: QueueKeys, bound: Bound, producer: str) -> None:
        self._keys = keys
        self._bound = bound
        self._producer = producer
        self._numbers = itertools.count(1)
        self._patience = math.inf if bound.timeout_ms is None else bound.timeout_ms / 1000
        self._waiting: deque[Waiting] = deque()
        self._trying: list[Waiting] = []
        self._ticket = ""
        self._confirming: str | None = None
        self._confirm_at = 0.0
        self._turn = False
        self._length = bound.length
        self._heard = "0-0"
        self._closed: BaseException | None = None

    def join(self, unit: Unit, now: float, told: Callable[[], None] = _nobody) -> Waiting:
        """Put a unit at the end.

        Raises:
            UsageError: there will never be room for it.
        """
        check_fits(self._keys.name, self._bound, len(unit.placements))
        waiting = Waiting(unit, now, now + self._patience, told)
        self._waiting.append(waiting)
        return waiting

    @property
    def busy(self) -> bool:
        """Whether there is a unit whose outcome is not known."""
        return any(one.outcome is None for one in itertools.chain(self._trying, self._waiting))

    def step(self, now: float) -> Op[Any] | float | None:
        """Return what to do next; None: nothing, until somebody joins."""
        self._end_overdue(now)
        if self._closed is not None and self._ticket:
            self.end_all(self._closed)
        if not self._waiting:
            if not self._ticket:
                return None
            ticket, self._ticket = self._ticket, ""
            return line_up(self._keys, ticket, "")
        if self._turn or not self._ticket:
            return self._place()
        needed = self._ticket_for(self._waiting[0])
        if now >= self._confirm_at or needed != self._ticket:
            if any(waiting.unit.unique for waiting in self._waiting):
                # Somebody else's message may stand for it by now; then it needs no room.
                return self._place()
            self._confirming = needed
            return line_up(self._keys, self._ticket, needed)
        return min(self._confirm_at, self._waiting[0].until) - now

    def _place(self) -> Op[list[Outcome]]:
        """Try to send what is first; what is not stored has the producer's ticket."""
        self._trying = self._take()
        units = [waiting.unit for waiting in self._trying]
        number = next(self._numbers)
        return place_units(
            self._keys, self._bound, self._producer, number, units, ticket=self._ticket
        )

    def _end_overdue(self, now: float) -> None:
        """Drop from the front what is over; all have the same patience, so the first one first."""
        while self._waiting:
            first = self._waiting[0]
            if first.outcome is None:
                # What has just come is tried once, however short its patience.
                if now < first.until or not self._ticket:
                    return
                size, waited = len(first.unit.placements), now - first.since
                first.end(
                    queue_full(self._keys.name, self._bound, self._length, size, waited=waited)
                )
            self._waiting.popleft()

    def _take(self) -> list[Waiting]:
        """Take as much from the front as one call of a script should carry."""
        taken: list[Waiting] = []
        size = 0
        while self._waiting and len(taken) < CHUNK_MESSAGES and size < CHUNK_BYTES:
            waiting = self._waiting.popleft()
            if waiting.outcome is None:
                taken.append(waiting)
                size += len(waiting.unit)
        return taken

    def _ticket_for(self, waiting: Waiting) -> str:
        """As the script makes it: our name, and the length at which the unit fits."""
        return f"{self._producer} {self._bound.length - len(waiting.unit.placements)}"

    def took(self, result: Any, now: float) -> None:
        """Take note of an operation's result."""
        if self._trying:
            self._placed(result, now)
        elif self._confirming is not None:
            self._ticket, self._confirming = self._confirming, None
            self._turn, self._length = result
            self._confirm_at = now + CONFIRM

    def _placed(self, outcomes: Sequence[Outcome], now: float) -> None:
        refused: list[Waiting] = []
        for waiting, outcome in zip(self._trying, outcomes, strict=True):
            if isinstance(outcome, QueueFull):
                refused.append(waiting)
                self._length = outcome.length
            else:
                waiting.end(outcome)
        self._trying = []
        self._turn = False
        self._ticket = self._ticket_for(refused[0]) if refused else ""
        self._confirm_at = now + CONFIRM
        self._waiting.extendleft(reversed(refused))

    def failed(self, error: BrokerError) -> None:
        """An operation failed: what it tried to send is not known to be stored, or waits in vain."""
        in_vain = self._confirming is not None
        self.interrupted(error)
        if in_vain:
            self.end_all(error)

    def interrupted(self, error: BaseException) -> None:
        """What came of an operation is not known; what waits may go on."""
        for waiting in self._trying:
            waiting.end(error)
        self._trying = []
        # If the answer alone was lost, the ticket that came with it is forgotten in time.
        self._turn, self._confirming, self._confirm_at = False, None, -math.inf

    def end_all(self, error: BaseException) -> None:
        """Give up, and send nothing of what is left."""
        for waiting in [*self._trying, *self._waiting]:
            waiting.end(error)
        self._trying = []
        self._waiting.clear()

    def close(self, error: BaseException) -> None:
        """Have what is on its way arrive, and nothing wait for room any more."""
        self._closed = error

    def listening(self) -> Op[tuple[str, list[str]]]:
        """Sleep at the server until somebody's turn has come."""
        read = ("XREAD", "BLOCK", BLOCK_MS, "STREAMS", self._keys.room, self._heard)

        def decode(replies: list[Any]) -> tuple[str, list[str]]:
            last, called = self._heard, []
            for _, entries in replies[0] or ():
                for entry, fields in entries:
                    last = entry.decode()
                    called.append(fields[1].decode())
            return last, called

        return Op((Command(read),), decode)

    def heard(self, news: tuple[str, list[str]] | None) -> None:
        """Take note of whose turn it is; None: nothing was heard."""
        if news is not None:
            self._heard, called = news
            self._turn = self._turn or self._ticket in called
