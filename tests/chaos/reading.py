"""Events, put together to the history of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.chaos.events import Event
from tests.chaos.history import (
    ENDS,
    Asked,
    Duplicate,
    Final,
    Given,
    History,
    Loss,
    Pause,
    Refusal,
    Sample,
    Sent,
    Tick,
    Trouble,
    Waited,
)

__all__ = ["history_of"]


class _Reading:
    """Goes through events in the order of time."""

    def __init__(self, history: History, subscriptions: Mapping[str, Sequence[str]]) -> None:
        self.history = history
        self._subscriptions = subscriptions
        self._calls: dict[tuple[str, int], list[Sent]] = {}
        self._requests: dict[tuple[str, int], Asked] = {}
        self._waits: dict[tuple[str, int], Waited] = {}
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
                one.unique, one.durable = data.get("unique"), data.get("durable", True)
                # Who moves a step on again sends the same message, unless it has been sent.
                messages.append(self.history.sent[place].setdefault(cid, one))
        if "result" in data:
            self._waits[call] = Waited(data["messages"][0][0], False, event.time)

    def _sent(self, event: Event, data: dict[str, Any]) -> None:
        call = event.process, data["op"]
        messages = self._calls[call]
        if data.get("duplicate"):
            [one] = messages
            self.history.duplicates.append(Duplicate(one, event.time, data["ids"][0]))
            self._is_not_stored(one)
            return
        places = len(messages) // len(data["ids"])
        for number, one in enumerate(messages):
            if one.confirmed is None:
                one.confirmed, one.id = event.time, data["ids"][number // places]
        if call in self._waits:
            self._waits[call].begun = event.time
            self.history.waits.append(self._waits[call])

    def _is_not_stored(self, one: Sent) -> None:
        # So whoever gets it gets a ghost.
        del self.history.sent[one.source][one.cid]

    def _replied(self, event: Event, data: dict[str, Any]) -> None:
        asked = self._requests[event.process, data["op"]]
        asked.over, asked.reply = event.time, data["reply"]

    def _erred(self, event: Event, data: dict[str, Any]) -> None:
        asked = self._requests.get((event.process, data["op"]))
        call = event.process, data["op"]
        if asked is not None:
            asked.over, asked.error = event.time, data
        elif data["error"] == "QueueFull":
            messages = self._calls[call]
            source, begun = messages[0].source, messages[0].begun
            self.history.refusals.append(Refusal(source, len(messages), begun, event.time))
            for one in messages:
                self._is_not_stored(one)
        elif call in self._waits:
            self._waits[call].over, self._waits[call].error = event.time, data

    def _result(self, event: Event, data: dict[str, Any]) -> None:
        waited = self._waits[event.process, data["op"]]
        waited.over, waited.result = event.time, data["result"]

    def _kept(self, event: Event, data: dict[str, Any]) -> None:
        begun, over = data["begin"], event.time
        waited = Waited(data["cid"], True, begun, over, data["result"], data["failed"])
        self.history.waits.append(waited)

    def _ticked(self, event: Event, data: dict[str, Any]) -> None:
        self.history.ticks.append(Tick(data["tick"], data["id"], data["early"], event.time))

    def _ledger(self, event: Event, data: dict[str, Any]) -> None:
        self.history.ledger = data["written"]

    def _begun(self, event: Event, data: dict[str, Any]) -> None:
        names = ("source", "cid", "id", "attempt", "crashes", "n", "thread", "whole")
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
        self.history.samples.append(Sample(**data))

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
