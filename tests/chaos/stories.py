"""Histories without a fault of the library, made up: what the checker must find nothing in."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.events import Event

__all__ = ["LEASE", "SUBSCRIPTIONS", "Story", "story"]

LEASE = 5.0
SUBSCRIPTIONS = {"news": ("news/all", "news/batched")}
SOURCES = ("plain", "ordered", "later", "news")
RUNNING = 0.2


@dataclass
class Story:
    """Events that are being made up.

    Attributes:
        dice: decides what happens.
        events: what the processes would have told.
        lives: of each source's messages: from when until when they are there.
    """

    dice: random.Random
    events: list[Event] = field(default_factory=list)
    lives: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    dead: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    _count: int = 0

    def number(self) -> int:
        """Return a number that is not in use."""
        self._count += 1
        return self._count

    def tell(self, name: str, when: float, process: str, **data: Any) -> None:
        """Add an event."""
        self.events.append(Event(name, when, process, data))

    def worker(self, when: float) -> str:
        """Return a new process; each delivery may have one of its own."""
        process = f"worker-{self.number()}"
        self.tell("started", when, process, role="bare", pid=0, route=process)
        return process

    def send(self, source: str, when: float, key: str | None, number: int, delay: float) -> float:
        """Send a message, and have it handled, in each of its places; return when it is over."""
        cid, id, op = f"{source}-{key}-{number}", f"{self.number()}-0", self.number()
        producer = f"producer-{source}-{key}"
        told = [[cid, number]]
        self.tell("send", when, producer, op=op, source=source, messages=told, key=key, delay=delay)
        sure = self.dice.random() < 0.9
        stored = when + 0.01
        if sure:
            self.tell("sent", when + 0.02, producer, op=op, ids=[id])
        over = when + 0.03
        for place in SUBSCRIPTIONS.get(source, (source,)):
            if sure or self.dice.random() < 0.5:
                end = self.handle(place, cid, id, stored + delay)
                self.lives.setdefault(place, []).append((stored, end))
                over = max(over, end)
        return over

    def handle(self, place: str, cid: str, id: str, when: float) -> float:
        """Deliver a message until it is done or dead; return when it has gone, or inf."""
        attempt, crashes, now = 1, 0, when
        while True:
            now += self.dice.uniform(0.001, 0.5)
            process, n = self.worker(now - 0.0005), self.number()
            delivery = {"n": n, "source": place, "cid": cid, "id": id, "attempt": attempt}
            delivery |= {"crashes": crashes, "thread": 1, "whole": True}
            self.tell("begun", now, process, **delivery)
            ends = ["done", "done", "failed", "rejected", "killed", "stuck"]
            # A handler puts a message off only at its first attempt.
            end = self.dice.choice([*ends, "later"] if attempt == 1 else ends)
            over = now + self.dice.uniform(0.01, RUNNING)
            if end in ("killed", "stuck"):
                now, crashes = self._crash(end, process, n, now, over), crashes + 1
                continue
            final = end == "failed" and attempt == 3
            pause = {"failed": 0.3, "later": 0.5}.get(end, 0.0)
            self.tell(end, over, process, n=n, pause=pause, final=final)
            if self.dice.random() < 0.5:
                self.tell("settled", over + 0.002, process, n=n)
            if end == "rejected" or final:
                reason = "rejected" if end == "rejected" else "attempts"
                self.dead.setdefault(place, []).append((cid, id, reason))
                return float("inf")
            if end == "done":
                return over + 0.003
            attempt, now = attempt + 1, over + pause

    def _crash(self, how: str, process: str, n: int, now: float, over: float) -> float:
        """Lose a delivery; return from when on it may come again."""
        if how == "killed":
            self.events.append(Event("killed", over, "run", {"process": process}))
            return over
        # It stands still for longer than its lease, and is told so when it wants to settle.
        until = now + 0.005 + LEASE * 2
        self.tell("trouble", until, "run", begin=now + 0.005, end=until, who=process)
        self.tell("done", until + 0.001, process, n=n)
        self.tell("refused", until + 0.002, process, n=n)
        return now + LEASE + 0.1

    def finish(self) -> None:
        """Tell what is there at the end, and what was counted on the way."""
        places = [one for source in SOURCES for one in SUBSCRIPTIONS.get(source, (source,))]
        for place in places:
            for _ in range(3):
                when = self.dice.uniform(0, 30)
                count = sum(1 for begin, end in self.lives.get(place, []) if begin <= when < end)
                self.tell(
                    "sample",
                    when,
                    "run",
                    source=place,
                    begin=when - 0.001,
                    end=when + 0.001,
                    count=count,
                )
            dead = self.dead.get(place, [])
            self.tell("final", 1e6, "run", source=place, counts=[0, 0, 0, len(dead)], dead=dead)


def story(seed: int) -> Story:
    """Make up a history.

    Args:
        seed: decides it.
    """
    made = Story(random.Random(seed))
    for source in SOURCES:
        for key in ("a", "b") if source == "ordered" else (None,):
            ready = 0.0
            for number in range(made.dice.randint(1, 6)):
                delay = made.dice.choice([0.3, 1.0]) if source == "later" else 0.0
                # Of a key one is sent when the one before is over: so it is in order by itself.
                begin = max(ready, number * 0.5) if source == "ordered" else number * 0.5
                over = made.send(source, begin, key, number, delay)
                if over < float("inf"):
                    ready = over
                else:
                    ready = max(event.time for event in made.events if event.name != "trouble")
    for number in range(5):
        _ask(made, number)
    made.finish()
    return made


def _ask(made: Story, number: int) -> None:
    cid, op, when = f"echo-{number}", made.number(), float(number)
    process, n = made.worker(when - 0.1), made.number()
    told = {"op": op, "source": "echo", "messages": [[cid, number]], "key": None, "timeout": 2.0}
    made.tell("send", when, "caller", **told)
    end = made.dice.choice(["reply", "RemoteError", "NoResponders", "TimedOut"])
    if end in ("reply", "RemoteError"):
        given = {"n": n, "source": "echo", "cid": cid, "id": f"{n}-0", "attempt": 1, "crashes": 0}
        made.tell("begun", when + 0.1, process, **given, thread=1, whole=True)
        made.tell("done" if end == "reply" else "failed", when + 0.2, process, n=n, final=True)
    if end == "reply":
        made.tell("replied", when + 0.3, "caller", op=op, reply=cid)
    else:
        made.tell("erred", when + (2.0 if end == "TimedOut" else 0.3), "caller", op=op, error=end)
