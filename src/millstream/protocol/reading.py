"""What a reader knows of its queue, and what it does next. Time comes in as a parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import msgspec

from millstream.policy import AtMostOnce, Limits, Sieve
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import is_suspect
from millstream.protocol.limits import Outlook
from millstream.protocol.priority import shares
from millstream.protocol.watch import Watch
from millstream.topic import Source

__all__ = ["BLOCK_MS", "Reading"]

BLOCK_MS = 20_000
"""How long a read sleeps at the server. It bounds how long a connection that died without a word
goes unnoticed; a shorter one would cost an idle reader more than a command a second."""


_GOLDEN = (math.sqrt(5) - 1) / 2
"""Steps of the golden ratio spread most evenly (Knuth, TAOCP 3, section 6.4)."""

_FROM_NOW_ON = b"$"


class Reading(msgspec.Struct):
    """The state of one reader.

    Attributes:
        weighted: whether messages of low priorities get a share while there are higher ones.
        more: whether a fetch may find something.
        front: whether messages wait in the lane that is read first.
        priorities: which above the normal one have messages that wait.
        unsure: whether there may be some that nobody has told of.
        urgent: how many of which priorities the next fetch is to bring (see ``consume.fetch``).
        suspect: whether messages wait in the lane that is read one at a time.
        suspect_held: token of the suspect that this consumer has; it gets no second one.
        woken: wake entries to settle.
        due_at: when the next delayed message is due; inf: none is.
        sweep_at: when to offer to sweep.
        paused: whether the queue is known to be paused.
        limited: whether the queue has limits.
        sieved: whether a filter, or the gates of its keys, decide what it may be given.
        popping: whether what it takes is gone from the queue: no sleep must bring it a message.
        tokens_at: when the rate of the queue allows a look; -inf: it does now.
        slot: whether as many deliveries run as may.
        since: what a queue with limits that has nothing to read is watched from.
    """

    weighted: bool = False
    more: bool = True
    # A consumer that starts is often one that starts again: what its forerunner held comes first.
    front: bool = True
    priorities: Sequence[int] = ()
    unsure: bool = False
    urgent: str = ""
    suspect: bool = False
    suspect_held: bytes | None = None
    woken: list[bytes] = msgspec.field(default_factory=list)
    due_at: float = math.inf
    sweep_at: float = -math.inf
    _ahead_ms: float = -math.inf
    _turn: float = 0.0
    paused: bool = False
    limited: bool = False
    sieved: bool = False
    popping: bool = False
    tokens_at: float = -math.inf
    slot: bool = False
    since: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, source: Source[Any]) -> Self:
        """Return the state of a reader that begins."""
        popping = isinstance(source.limits, AtMostOnce)
        return cls(
            weighted=source.priorities == "weighted",
            limited=isinstance(source.limits, Limits),
            sieved=isinstance(source.limits, Sieve),
            popping=popping,
            # Nobody else has anything of what it takes.
            sweep_at=math.inf if popping else -math.inf,
        )

    @property
    def follows(self) -> bool:
        """Whether a wake-up is for one reader, which passes it on if it has no use for it."""
        return self.limited or self.sieved

    def reads(self, free: int) -> list[tuple[str, int]]:
        """Return which lanes to read, and how much from each; ``urgent`` belongs to it.

        What is read fills what is free, so that no more arrives than was asked for; a suspect
        comes on top, alone.
        """
        self.urgent = ""
        if self.follows:
            return self._within_limits(free) if free > 0 else []
        # Who was woken was the only one, so it moves some of what may be urgent to where the next
        # one finds it, though it has no room itself.
        if self.woken:
            self.urgent = str(max(1, free))
        if free <= 0:
            return []
        if self.priorities and self.weighted:
            lanes = self._share(free)
        else:
            self.urgent = str(free) if self.priorities or self.unsure else ""
            lanes = [("f" if self.front or self.urgent else "", free)]
        if self.suspect and self.suspect_held is None:
            lanes.insert(0, ("s", 1))
        return lanes

    def _share(self, free: int) -> list[tuple[str, int]]:
        self._turn = (self._turn + _GOLDEN) % 1
        taken = shares([*self.priorities, 0], free, self._turn)
        normal = taken.pop(0)
        self.urgent = " ".join(f"{level}={count}" for level, count in taken.items() if count)
        lanes = [("f", free - normal), ("", normal)]
        return [(lane, count) for lane, count in lanes if count]

    def _within_limits(self, free: int) -> list[tuple[str, int]]:
        """The script sees what is there and what is allowed, and reads one lane after the other."""
        if not self.weighted:
            self.urgent = "all"
        elif self.priorities:
            self._turn = (self._turn + _GOLDEN) % 1
            levels = " ".join(map(str, [*self.priorities, 0]))
            self.urgent = f"{levels} +{self._turn:.9f}"
        suspect = [("s", 1)] if self.suspect_held is None else []
        return [*suspect, ("f", free), ("", free)]

    def fetched(self, found: Fetched, reads: list[tuple[str, int]], now: float) -> None:
        """Take note of what a fetch brought.

        Args:
            found: its result.
            reads: what it was to read; empty: it only settled.
            now: seconds.
        """
        if any(lane == "s" for lane, _ in reads):
            self._hold_suspects(found)
        self.front = found.front > 0
        self.priorities, self.unsure = found.priorities, False
        self.suspect = found.suspect > 0
        self.due_at = math.inf if found.next_due_ms is None else now + found.next_due_ms / 1000
        if not reads:
            return
        if found.outlook is not None:
            self._foresee(found.outlook, now)
            return
        self.since = ()
        # What the script saw was before the reads behind it, so one more look may be in vain.
        suspect = self.suspect and self.suspect_held is None
        waiting = self.front or bool(self.priorities) or suspect
        full = len(found.envelopes) >= sum(count for _, count in reads)
        self.more = waiting or full or any(lane == "f" for lane, _ in reads)

    def _foresee(self, outlook: Outlook, now: float) -> None:
        self.more = outlook.kind in {"more", "tokens"}
        self.tokens_at = now + outlook.wait_ms / 1000 if outlook.kind == "tokens" else -math.inf
        self.slot = outlook.kind == "slots"
        self.since = outlook.since

    def may_read(self, now: float, *, settling: bool = False) -> bool:
        """Tell whether a fetch may bring something now.

        Args:
            now: seconds.
            settling: whether it ends a delivery, which makes room for another one.
        """
        return (self.more or (self.slot and settling)) and self.tokens_at <= now

    def watch(self) -> Watch:
        """Return what to sleep for when nothing can be read."""
        suspects = self.suspect_held is None
        # Whoever waits for tokens must not take wake-ups from those who wait for slots.
        since = (_FROM_NOW_ON,) if self.limited and self.more else self.since
        return Watch(
            *(suspects, self.sieved),
            paused=self.paused,
            limited=self.limited,
            popping=self.popping,
            since=since,
        )

    def woke(self, found: Fetched) -> None:
        """Take note of what a sleeping read brought."""
        self._hold_suspects(found)
        self.woken += found.woken
        self.unsure = self.unsure or bool(found.woken)
        self.more = True

    def resumed(self) -> None:
        """The queue goes on after a pause; what was handed back meanwhile comes first."""
        self.paused = False
        self.more = self.front = self.unsure = True

    def settled(self, token: bytes) -> None:
        """A delivery has ended."""
        if token == self.suspect_held:
            self.suspect_held = None
            # A read that sleeps at the server was begun without that lane.
            self.more = True
        if self.slot:
            self.more = True

    def is_due(self, now: float) -> bool:
        """Tell whether a fetch would promote a message now."""
        return self.due_at <= now

    def heard(self, server_ms: int, asked: float) -> None:
        """Take note of the server's time.

        Args:
            server_ms: what it said.
            asked: when it was asked, so that it is never thought to be earlier than it is.
        """
        self._ahead_ms = server_ms - asked * 1000

    def told(self, server_ms: int, now: float) -> None:
        """Learn about what time it is at the server from something that it said then.

        It may have been on its way for some time, so whatever an answer tells is better.
        """
        if self._ahead_ms == -math.inf:
            self.heard(server_ms, now)

    def server_ms(self, now: float) -> float:
        """Return the server's time; before it was heard of, that is long ago."""
        return now * 1000 + self._ahead_ms

    def sleep(self, now: float) -> float:
        """Return for how many seconds nothing is to be done but to wait for messages."""
        tokens_at = self.tokens_at if self.more else math.inf
        return max(0.0, min(self.due_at, self.sweep_at, tokens_at) - now)

    def _hold_suspects(self, found: Fetched) -> None:
        if self.popping:
            # It is gone: should it kill this consumer, it kills no other.
            return
        for envelope in found.envelopes:
            if is_suspect(envelope.token):
                self.suspect_held = envelope.token
