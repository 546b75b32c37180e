"""What has happened in a run: what was sent, each delivery, and what was broken when."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ENDS",
    "Asked",
    "Duplicate",
    "Final",
    "Given",
    "History",
    "Loss",
    "Pause",
    "Refusal",
    "Sample",
    "Sent",
    "Tick",
    "Trouble",
    "Waited",
]

ENDS = ("done", "failed", "later", "rejected", "cancelled")
"""What a consumer may be about to do with a delivery."""


@dataclass(slots=True)
class Sent:
    """A message that somebody has sent, or begun to send.

    Attributes:
        source: where to.
        cid: by which it is known, whoever has it.
        key, number: of which messages it is one, and which of them: the order of one producer.
        delay: seconds that it has to wait.
        begun: when the call began.
        confirmed: when it returned; None: nobody knows whether it is stored.
        id: of its receipt.
        unique: the key that no other message has meanwhile, if it was sent with one.
        durable: whether a replica has confirmed it, too, where there is one.
    """

    source: str
    cid: str
    key: str | None
    number: int
    delay: float
    begun: float
    confirmed: float | None = None
    id: str | None = None
    unique: str | None = None
    durable: bool = True


@dataclass(slots=True)
class Given:
    """A delivery, as its consumer tells of it.

    Attributes:
        n: its number in its process.
        end: what it was about to do with it: one of ENDS; None: it does not tell.
        over: when that was; for what a process did not come to tell, when it was killed.
        pause: seconds that the message must wait then.
        settled, refused: when a call that ends it was confirmed, or refused.
    """

    source: str
    cid: str
    id: str
    attempt: int
    crashes: int
    process: str
    n: int
    thread: int
    whole: bool
    begun: float
    end: str | None = None
    over: float = math.inf
    pause: float = 0.0
    final: bool = False
    settled: float | None = None
    refused: float | None = None

    @property
    def handled(self) -> bool:
        """Whether the message needs nothing more, unless this consumer is killed first."""
        return self.end in ("done", "rejected") or (self.end == "failed" and self.final)


@dataclass(frozen=True, slots=True)
class Trouble:
    """From when until when somebody could not work, or not reach the server.

    Attributes:
        who: a process, a route, or ``*`` for all.
    """

    begin: float
    end: float
    who: str


@dataclass(frozen=True, slots=True)
class Loss:
    """What the server confirmed within this time it may have forgotten at its end.

    Attributes:
        sends: whether that holds for sends, too; not if they were confirmed by a replica.
    """

    begin: float
    end: float
    sends: bool = True


@dataclass(frozen=True, slots=True)
class Pause:
    """A source was paused: from when the call had returned until the call that ended it began."""

    source: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Sample:
    """How many messages a source had, all of its places together, at a moment between two.

    Attributes:
        unfinished: how many of them were no dead letters.
        in_flight: how many a consumer had.
    """

    source: str
    begin: float
    end: float
    count: int
    unfinished: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Final:
    """What a source has at the end: ready, delayed, in flight, dead; and its dead letters."""

    source: str
    counts: tuple[int, int, int, int]
    dead: tuple[tuple[str, str, str], ...]  # cid, id, reason


@dataclass(slots=True)
class Asked:
    """A request."""

    cid: str
    process: str
    timeout: float
    begun: float
    over: float | None = None
    reply: str | None = None
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class Waited:
    """The wait for the result of a message: of its sender, or of the run at its end (``last``)."""

    cid: str
    last: bool
    begun: float
    over: float | None = None
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A send that has stored nothing, for the message of this id has the key."""

    sent: Sent
    over: float
    id: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A send of so many messages that has stored nothing, for the queue is full."""

    source: str
    count: int
    begun: float
    over: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A message of a schedule, as its handler tells of it.

    Attributes:
        time: of the tick, in seconds since 1970.
        early: by how many seconds its handler began before that.
    """

    time: float
    id: str
    early: float
    begun: float


@dataclass(slots=True)
class History:
    """All of a run. Lists are in the order of time.

    Attributes:
        sent: by source (of a topic: each subscription) and cid.
        given: by source.
        killed: when each process was killed that was.
        routes: by process: over which network it talks.
        ledger: how often each step was moved on, as the server says at the end.
        lease: seconds.
        complete: whether the run came to its end: nothing may be under way any more.
    """

    lease: float
    sent: dict[str, dict[str, Sent]] = field(default_factory=lambda: defaultdict(dict))
    given: dict[str, list[Given]] = field(default_factory=lambda: defaultdict(list))
    asked: dict[str, Asked] = field(default_factory=dict)
    killed: dict[str, float] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    waits: list[Waited] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    ledger: dict[str, int] | None = None
    complete: bool = True

    def kept(self, sent: Sent) -> bool:
        """Tell whether a message was confirmed, and nothing can have made the server forget it."""
        when = sent.confirmed
        return when is not None and not self.forgotten(when, send=sent.durable)

    def is_over(self, given: Given) -> bool:
        """Tell whether a delivery has ended its message, confirmed, and not forgotten."""
        return given.handled and given.settled is not None and not self.forgotten(given.settled)

    def forgotten(self, when: float, *, send: bool = False) -> bool:
        """Tell whether what was confirmed then may be forgotten."""
        return any(one.begin <= when <= one.end and (one.sends or not send) for one in self.losses)

    def lost_between(self, begin: float, end: float) -> bool:
        """Tell whether the server may have gone back in time between two moments."""
        return any(begin <= one.end and one.begin <= end for one in self.losses)

    def trouble(self, process: str, begin: float, end: float) -> float:
        """Return for how many seconds of this time a process could not have reached the server."""
        route = self.routes.get(process)
        parts = sorted(
            (max(one.begin, begin), min(one.end, end))
            for one in self.troubles
            if one.who in (process, route, "*") and one.begin < end and begin < one.end
        )
        total, until = 0.0, begin
        for start, stop in parts:
            total += max(0.0, stop - max(start, until))
            until = max(until, stop)
        return total

    def stops(self, process: str) -> list[Trouble]:
        """Return when a process did not run."""
        return [one for one in self.troubles if one.who == process]
