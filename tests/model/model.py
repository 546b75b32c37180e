"""The small model of a queue that the real one is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from millstream.policy import Retry

POLICY = Retry(max_attempts=3, max_crashes=2)


@dataclass
class Message:
    """Where a message is: in a lane (by its prefix), `flying`, `delayed` or `dead`."""

    body: bytes
    place: str = ""
    attempts: int = 0
    crashes: int = 0
    due: int = 0
    owner: str = ""
    token: bytes = b""
    expired: bool = False
    gone: bool = False
    """Retention has deleted its entry while it was in flight: it can be acknowledged only."""


@dataclass
class Model:
    """A queue, as somebody would write it who need not store it."""

    messages: dict[str, Message] = field(default_factory=dict)
    stale: dict[str, list[bytes]] = field(default_factory=dict)
    now: int = 1_700_000_000_000
    paused: bool = False
    home: str = ""
    """The lane where a message goes whose time has come."""
    trimmed: int = 0
    """Messages that retention has taken away."""

    def at(self, *places: str) -> dict[str, Message]:
        return {id: one for id, one in self.messages.items() if one.place in places}

    def held(self, consumer: str) -> dict[bytes, str]:
        flying = self.at("flying").items()
        return {one.token: id for id, one in flying if one.owner == consumer}

    def deliver(self, id: str, consumer: str, token: bytes) -> None:
        one = self.messages[id]
        one.place, one.owner, one.token, one.expired = "flying", consumer, token, False

    def end(self, id: str, verb: str, delay_ms: int = 0) -> None:
        one = self._take(id)
        if one.gone and verb != "ack":
            self.miss(id)
            return
        one.attempts += verb == "retry"
        if verb == "ack":
            self.remove([id])
        elif verb == "release":
            one.place = "s" if one.crashes > 1 else "f"
        elif verb == "reject" or one.attempts == POLICY.max_attempts:
            self.bury(id)
        else:
            one.place, one.due = "delayed", self.now + delay_ms

    def remove(self, ids: Iterable[str]) -> None:
        for id in ids:
            del self.messages[id]

    def miss(self, id: str) -> None:
        self.remove([id])
        self.trimmed += 1

    def bury(self, id: str) -> None:
        self.messages[id].place = "dead"

    def redrive(self, id: str) -> None:
        self.messages[id] = Message(self.messages[id].body, place=self.home)

    def crash(self, id: str, *, blame: bool = True) -> None:
        one = self._take(id)
        if one.gone:
            self.miss(id)
            return
        one.crashes += blame
        if one.crashes > POLICY.max_crashes:
            self.bury(id)
        else:
            one.place = "fs"[one.crashes > 1]

    def cancel(self, id: str) -> bool:
        """Whether it was there."""
        one = self.messages.get(id)
        if one is None or one.place == "dead" or one.gone:
            return False
        if one.place == "flying":
            self._take(id)
            self.bury(id)
        else:
            self.remove([id])
        return True

    def promote(self) -> None:
        for one in self.at("delayed").values():
            if one.due <= self.now:
                one.place = "s" if one.crashes > 1 else self.home

    def _take(self, id: str) -> Message:
        one = self.messages[id]
        self.stale.setdefault(one.owner, []).append(one.token)
        return one
