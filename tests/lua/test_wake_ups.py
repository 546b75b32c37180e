"""No wake-up of a queue with limits is lost, whatever readers do and in whichever order.

Readers as workers have them, without sockets: they look, sleep, are woken, end what they have, and
die, at random. When all of them sleep, no message may wait for which there is a slot.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from millstream.policy import Limits
from millstream.protocol import consume
from millstream.protocol.keys import GROUP
from millstream.protocol.place import Placement, place
from millstream.protocol.reading import Reading
from millstream.protocol.recover import hand_over_some
from millstream.protocol.settlement import Settlement, ack, release
from millstream.protocol.watch import Watch
from tests.lua.state import NOW, State


@dataclass
class Reader:
    """One that holds at most `room` messages; fewer than `worth` are not worth a call of its own."""

    name: str
    room: int
    worth: int
    reading: Reading = field(default_factory=lambda: Reading(limited=True))
    held: list[bytes] = field(default_factory=list)
    watch: Watch | None = None

    @property
    def free(self) -> int:
        return self.room - len(self.held)


class World:
    """A queue, its readers, and chance."""

    def __init__(self, state: State, seed: int) -> None:
        self.state = state
        self.luck = random.Random(seed)
        self.limits = Limits(None, self.luck.randint(1, 8))
        self.readers: list[Reader] = []
        self.joined = self.sent = 0

    def join(self) -> None:
        self.joined += 1
        name, room = f"r{self.joined}", self.luck.randint(1, 4)
        self.state.register(name)
        reader = Reader(name, room, self.luck.choice([1, 1, room]))
        self.readers.append(reader)
        self.work(reader)

    def fetch(self, reader: Reader, ends: list[Settlement], free: int) -> None:
        reading = reader.reading
        reads = reading.reads(free)
        woken, reading.woken = reading.woken, []
        ends = [*ends, *(Settlement("woken", entry) for entry in woken)]
        found = self.state.run(
            consume.fetch(
                *(self.state.keys, reader.name, ends, reads),
                urgent=reading.urgent,
                limits=self.limits,
                now_ms=NOW,
            )
        )
        assert not found.lost
        for end in ends:
            if end.verb != "woken":
                reading.settled(end.token)
        reading.fetched(found, reads, 0)
        reader.held += [one.token for one in found.envelopes]

    def work(self, reader: Reader) -> None:
        """What a worker's reader does until it sleeps."""
        reading = reader.reading
        for _ in range(20):
            may = reading.may_read(0) and reader.free > 0
            worth = may and (reader.free >= reader.worth or not reader.held)
            if not worth and not reading.woken:
                sleeps = not reading.more and reader.free > 0
                # A sleep that has begun goes on, unless another kind is needed.
                if sleeps and not (reader.watch and reader.watch.covers(reading.watch())):
                    reader.watch = reading.watch()
                return
            self.fetch(reader, [], reader.free if worth else 0)
        raise AssertionError("it spins")

    def wake(self, reader: Reader) -> bool:
        """Let a sleep end if there is a reason; return whether it did."""
        watch, keys = reader.watch, self.state.keys
        if watch is None:
            return False
        if watch.since:
            streams = [keys.wake, keys.ready, keys.front, keys.suspect][: 3 + watch.suspects]
            read: tuple[str, ...] = ("XREAD", "COUNT", "1", "STREAMS", *streams)
            news = self.state.do(*read, *watch.since[: len(streams)])
            woken: list[bytes] = []
        else:
            read = ("XREADGROUP", "GROUP", GROUP, reader.name, "COUNT", "1", "STREAMS")
            news = self.state.do(*read, keys.wake, ">")
            woken = [entry for _, entries in news or () for entry, _ in entries]
        if not news:
            return False
        reader.watch = None
        if self.luck.random() < 0.1:
            self.die(reader)
        else:
            reader.reading.woke(consume.Fetched(envelopes=[], woken=woken))
            self.work(reader)
        return True

    def settle_down(self) -> None:
        """Go on until nobody is woken any more."""
        for _ in range(50):
            self.luck.shuffle(self.readers)
            if not sum(self.wake(reader) for reader in [*self.readers]):
                return
        raise AssertionError("they wake each other for ever")

    def die(self, reader: Reader, *, crashed: bool = True) -> None:
        self.readers.remove(reader)
        keys = self.state.keys
        op = hand_over_some(keys, reader.name, crashed=crashed, max_crashes=99, now_ms=NOW)
        assert self.state.run(op).removed

    def stop(self, reader: Reader) -> None:
        """End in order: it reads no more, ends what it has, and leaves."""
        while reader.held and self.luck.random() < 0.9:
            self.fetch(reader, [ack(reader.held.pop())], 0)
        self.die(reader, crashed=False)

    def send(self) -> None:
        self.sent += 1
        body = str(self.sent).encode()
        if self.luck.random() < 0.3:
            urgent = Placement(body=body, priority=self.luck.randint(1, 9))
            self.state.run(place(self.state.keys, "p", self.sent, [urgent], now_ms=NOW))
        else:
            self.state.send(body, number=self.sent, producer="s")

    def end_some(self, reader: Reader) -> None:
        """End one delivery or all, with a call that reads, or with one that does not."""
        count = self.luck.choice([1, len(reader.held)])
        tokens, reader.held = reader.held[:count], reader.held[count:]
        verb = release if self.luck.random() < 0.2 else ack
        reads = reader.reading.may_read(0, settling=True) and self.luck.random() < 0.7
        self.fetch(reader, [verb(token) for token in tokens], reader.free if reads else 0)
        self.work(reader)

    def step(self) -> None:
        event = self.luck.random()
        reader = self.luck.choice(self.readers) if self.readers else None
        if reader is None or (event < 0.1 and len(self.readers) < 8):
            self.join()
        elif event < 0.15:
            self.die(reader)
        elif event < 0.2:
            self.stop(reader)
        elif event < 0.55:
            self.send()
        elif reader.held:
            self.end_some(reader)

    def check(self) -> None:
        """No message waits that a sleeping reader could have."""
        keys, pending, unread = self.state.keys, 0, {}
        for lane in keys.lanes:
            owned = self.state.do("XPENDING", lane, GROUP)[0]
            pending += owned
            unread[lane] = self.state.do("XLEN", lane) - owned
        assert pending == sum(len(reader.held) for reader in self.readers)
        assert pending <= (self.limits.max_running or 0)
        suspects = unread.pop(keys.suspect)
        others = sum(unread.values()) + self.state.do("ZCARD", keys.priority)
        if pending == self.limits.max_running:
            return
        for reader in self.readers:
            if reader.free >= reader.worth or (reader.free and not reader.held):
                assert not others, f"{others} messages wait, and {reader} sleeps"
                assert not suspects or reader.reading.suspect_held, f"a suspect waits for {reader}"


@pytest.mark.parametrize("seed", range(12))
def test_no_wake_up_is_lost(state: State, seed: int) -> None:
    """After each event, whoever can have a message has it when all is quiet again."""
    world = World(state, seed)
    for _ in range(80):
        for _ in range(world.luck.choice([1, 1, 3])):
            world.step()
        world.settle_down()
        world.check()
    assert world.sent > 20
    assert world.joined > 5
