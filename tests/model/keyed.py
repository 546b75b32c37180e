"""The model of a queue with keys, priorities and times to live.

What the order of a key means, where it is not simply that of sending: a message for later, one
that is given another time, and one that comes back from the dead letters take their place in the
line of their key when they arrive there, by their ids, which is by their first sending. A retry
of an ordered message keeps its turn; a mere limit is free for others meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.model.model import Message, Model

WAITING = ("", "f", "s", "line", "urgent")


@dataclass
class Keyed(Message):
    """A message with all that its sender may ask for. New places: `line`, `urgent`."""

    key: str = ""
    priority: int = 0
    lives_until: float = float("inf")
    drop: bool = False
    undisturbed: bool = True


@dataclass
class KeyedModel(Model):
    """Keys with gates that let `most` messages in; a retry keeps its turn, or not."""

    most: int = 1
    keeps_turn: bool = True
    holders: dict[str, set[str]] = field(default_factory=dict)
    first_delivered: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def one(self, id: str) -> Keyed:
        one = self.messages[id]
        # What was sent as a plain message knows nothing of all this.
        return one if isinstance(one, Keyed) else Keyed(**vars(one))

    def place(self, id: str, one: Keyed) -> None:
        self.messages[id] = one
        if one.due > self.now:
            one.place = "delayed"
        else:
            self.arrive(id)

    def is_over(self, one: Keyed) -> bool:
        return one.lives_until <= self.now and one.attempts + one.crashes == 0

    def arrive(self, id: str) -> bool:
        """Its time has come. False: too late."""
        one = self.one(id)
        self.messages[id] = one
        if self.is_over(one):
            self.expire(id)
            return False
        inside = self.holders.setdefault(one.key, set()) if one.key else {id}
        if id not in inside and len(inside) == self.most:
            one.place = "line"
            return True
        inside.add(id)
        suspect = one.crashes > 1
        one.place = "s" if suspect else "urgent" if one.priority else ""
        return True

    def expire(self, id: str) -> None:
        one = self.one(id)
        if one.drop:
            self.remove([id])
        else:
            self.bury(id)

    def bury(self, id: str) -> None:
        super().bury(id)
        self.finish(id, self.one(id))

    def finish(self, id: str, one: Keyed) -> None:
        """It has ended for good."""
        self.leave(one.key, id)

    def leave(self, key: str, id: str) -> None:
        """The next of the line that is in time takes its place."""
        if id not in self.holders.get(key, ()):
            return
        self.holders[key].remove(id)
        line = sorted((id for id, one in self.at("line").items() if self.one(id).key == key))
        for following in line:
            if self.arrive(following):
                return

    def remove(self, ids: Iterable[str]) -> None:
        gone = {id: self.one(id) for id in ids}
        super().remove(gone)
        for id, one in gone.items():
            self.finish(id, one)

    def end(self, id: str, verb: str, delay_ms: int = 0) -> None:
        key = self.one(id).key
        if verb == "expire":
            self._take(id)
            self.expire(id)
            return
        super().end(id, verb, delay_ms)
        if verb == "retry" and not self.keeps_turn:
            self.leave(key, id)

    def redrive(self, id: str) -> None:
        one = self.one(id)
        again = Keyed(one.body, key=one.key, priority=one.priority, undisturbed=False)
        self.messages[id] = again
        self.arrive(id)

    def promote(self, most: int = 1000) -> None:
        due = sorted((one.due, id) for id, one in self.at("delayed").items() if one.due <= self.now)
        for _, id in due[:most]:
            self.arrive(id)

    def lift(self, most: int) -> None:
        """To the front, where nobody looks while the queue is paused."""
        most = 0 if self.paused else most
        urgent = sorted((-self.one(id).priority, id) for id in self.at("urgent"))
        for _, id in urgent[:most]:
            if self.is_over(self.one(id)):
                self.expire(id)
            else:
                self.messages[id].place = "f"

    def reschedule(self, id: str, due: int) -> bool:
        one = self.one(id)
        if one.place not in (*WAITING, "delayed"):
            return False
        self.messages[id] = one
        was, one.place, one.due, one.undisturbed = one.place, "delayed", due, False
        if was != "delayed":
            self.leave(one.key, id)
        self.promote(1)
        return True

    def deliver(self, id: str, consumer: str, token: bytes) -> None:
        """Nothing but the order of sending, for messages that nobody has disturbed."""
        one = self.one(id)
        super().deliver(id, consumer, token)
        if one.key and one.undisturbed and one.attempts + one.crashes == 0 and self.keeps_turn:
            number = tuple(map(int, id.split("-")))
            assert number >= self.first_delivered.get(one.key, ())
            self.first_delivered[one.key] = number
