"""The events of a run, put together: what was sent, each delivery, and what was broken when."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.events import Event

__all__ = ["Final", "Given", "History", "Loss", "Pause", "Sample", "Sent", "Trouble", "history_of"]

ENDS = ("done", "failed", "later", "rejected", "cancelled")


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
    """

    source: str
    cid: str
    key: str | None
    number: int
    delay: float
    begun: float
    confirmed: float | None = None
    id: str | None = None


@dataclass(slots=True)
class Given:
    """A delivery, as its consumer tells of it.

    Attributes:
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
    """How many messages a source had, all of its places together, at a moment between two."""

    source: str
    begin: float
    end: float
    count: int


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
class History:
    """All of a run. Lists are in the order of time.

    Attributes:
        sent: by source (of a topic: each subscription) and cid.
        given: by source.
        killed: when each process was killed that was.
        routes: by process: over which network it talks.
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
    complete: bool = True

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


class _Reading:
    """Goes through events in the order of time."""

    def __init__(self, history: History, subscriptions: Mapping[str, Sequence[str]]) -> None:
        self.history = history
        self._subscriptions = subscriptions
        self._calls: dict[tuple[str, int], list[Sent]] = {}
        self._requests: dict[tuple[str, int], Asked] = {}
        self._in_hand: dict[tuple[str, int], Given] = {}

    def read(self, event: Event) -> None:
        """Take one event."""
        read = getattr(self, f"_{event.name}", None)
        if read is not None:
            read(event, event.data)
        elif event.name in ENDS:
            self._end(event, event.data)

    def _started(self, event: Event, data: dict[str, Any]) -> None:
        self.history.routes[event.process] = data["route"]

    def _send(self, event: Event, data: dict[str, Any]) -> None:
        call = event.process, data["op"]
        if "timeout" in data:
            cid = data["messages"][0][0]
            asked = Asked(cid, event.process, data["timeout"], event.time)
            self.history.asked[cid] = self._requests[call] = asked
            return
        source, messages = data["source"], self._calls.setdefault(call, [])
        for cid, number in data["messages"]:
            for place in self._subscriptions.get(source, (source,)):
                one = Sent(place, cid, data["key"], number, data.get("delay", 0.0), event.time)
                self.history.sent[place][cid] = one
                messages.append(one)

    def _sent(self, event: Event, data: dict[str, Any]) -> None:
        messages = self._calls[event.process, data["op"]]
        places = len(messages) // len(data["ids"])
        for number, one in enumerate(messages):
            one.confirmed, one.id = event.time, data["ids"][number // places]

    def _replied(self, event: Event, data: dict[str, Any]) -> None:
        asked = self._requests[event.process, data["op"]]
        asked.over, asked.reply = event.time, data["reply"]

    def _erred(self, event: Event, data: dict[str, Any]) -> None:
        asked = self._requests.get((event.process, data["op"]))
        if asked is not None:
            asked.over, asked.error = event.time, data

    def _begun(self, event: Event, data: dict[str, Any]) -> None:
        names = ("source", "cid", "id", "attempt", "crashes", "thread", "whole")
        given = Given(
            process=event.process, begun=event.time, **{name: data[name] for name in names}
        )
        self._in_hand[event.process, data["n"]] = given
        self.history.given[given.source].append(given)

    def _end(self, event: Event, data: dict[str, Any]) -> None:
        given = self._in_hand[event.process, data["n"]]
        if given.end is None:
            given.end, given.over = event.name, event.time
            given.pause, given.final = data.get("pause", 0.0), data.get("final", False)

    def _settled(self, event: Event, data: dict[str, Any]) -> None:
        self._in_hand[event.process, data["n"]].settled = event.time

    def _refused(self, event: Event, data: dict[str, Any]) -> None:
        self._in_hand[event.process, data["n"]].refused = event.time

    def _stalled(self, event: Event, data: dict[str, Any]) -> None:
        self.history.troubles.append(Trouble(data["since"], event.time, event.process))

    def _trouble(self, event: Event, data: dict[str, Any]) -> None:
        self.history.troubles.append(Trouble(data["begin"], data["end"], data["who"]))

    def _killed(self, event: Event, data: dict[str, Any]) -> None:
        self.history.killed[data["process"]] = event.time

    def _loss(self, event: Event, data: dict[str, Any]) -> None:
        self.history.losses.append(Loss(data["begin"], data["end"], data["sends"]))

    def _paused(self, event: Event, data: dict[str, Any]) -> None:
        self.history.pauses.append(Pause(data["source"], data["begin"], data["end"]))

    def _sample(self, event: Event, data: dict[str, Any]) -> None:
        sample = Sample(data["source"], data["begin"], data["end"], data["count"])
        self.history.samples.append(sample)

    def _final(self, event: Event, data: dict[str, Any]) -> None:
        a, b, c, d = data["counts"]
        dead = tuple((cid, id, reason) for cid, id, reason in data["dead"])
        self.history.finals.append(Final(data["source"], (a, b, c, d), dead))


def history_of(
    events: Iterable[Event],
    *,
    lease: float,
    subscriptions: Mapping[str, Sequence[str]],
    complete: bool = True,
) -> History:
    """Put the events of a run together.

    Args:
        events: in any order.
        lease: seconds, of all sources.
        subscriptions: by topic, those that were there before the first message.
        complete: whether the run came to its end.
    """
    history = History(lease, complete=complete)
    reading = _Reading(history, subscriptions)
    for event in sorted(events, key=lambda event: event.time):
        reading.read(event)
    for given in (one for some in history.given.values() for one in some):
        # What a process was at when it was killed was over then.
        given.over = min(given.over, history.killed.get(given.process, math.inf))
    return history
