"""Ends of deliveries on their way to the server."""

from __future__ import annotations

import asyncio
import time

import msgspec

from millstream.protocol.consume import Fetched
from millstream.protocol.keys import in_special_lane
from millstream.protocol.settlement import Settlement

__all__ = ["Outbox", "Parcel"]

MOST_OTHERS = 500
"""Ends in one round trip that are no plain acks. Each is several commands of a script, and the
server does nothing else meanwhile: this bounds it to some milliseconds when large batches fail."""


class Parcel(msgspec.Struct):
    """What goes out in one round trip.

    Attributes:
        acks: tokens of the ready lane that are done: the fast path.
        others: every other end.
    """

    acks: list[bytes] = msgspec.field(default_factory=list)
    others: list[Settlement] = msgspec.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.acks) + len(self.others)

    def tokens(self) -> list[bytes]:
        """Name the deliveries that end with it."""
        return self.acks + [end.token for end in self.others]


class Outbox:
    """Gathers ends of deliveries until the reader takes them along.

    Args:
        keeps: whether the queue keeps what is acknowledged, so that no ack is a plain one.
    """

    __slots__ = ("doubtful", "keeps", "parcel", "since", "urgent", "waiters")

    def __init__(self, *, keeps: bool = False) -> None:
        self.keeps = keeps
        self.parcel = Parcel()
        self.since = 0.0
        self.urgent = False
        # Ends that went out before, and may have arrived: no reply came.
        self.doubtful: set[bytes] = set()
        self.waiters: dict[bytes, asyncio.Future[bool | None]] = {}

    def __len__(self) -> int:
        return len(self.parcel)

    def ack(self, token: bytes) -> int:
        """A message is done. Return how many ends are here now."""
        if in_special_lane(token):
            self.parcel.others.append(Settlement("ack", token))
        else:
            self.parcel.acks.append(token)
        return self._added()

    def add(self, end: Settlement) -> int:
        """A delivery ends in any way. Return how many ends are here now."""
        if end.verb == "ack":
            return self.ack(end.token)
        self.parcel.others.append(end)
        return self._added()

    def _added(self) -> int:
        parcel = self.parcel
        count = len(parcel.acks) + len(parcel.others)
        if count == 1:
            self.since = time.monotonic()
        return count

    def expect(self, token: bytes) -> asyncio.Future[bool | None]:
        """Return a future that tells whether the delivery was still ours when it ended.

        None: nobody can tell.
        """
        self.urgent = True
        future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self.waiters[token] = future
        return future

    @property
    def leaving(self) -> int:
        """How many deliveries would end with what goes out now."""
        if self.keeps:
            return min(len(self.parcel), MOST_OTHERS)
        return len(self.parcel.acks) + min(len(self.parcel.others), MOST_OTHERS)

    def take(self) -> Parcel:
        """Return what is to go out now. What is too much for one round trip is urgent."""
        parcel = self.parcel
        if self.keeps:
            parcel.others[:0] = [Settlement("finish", token) for token in parcel.acks]
            parcel.acks.clear()
        self.parcel = Parcel(others=parcel.others[MOST_OTHERS:])
        del parcel.others[MOST_OTHERS:]
        self.urgent = bool(self.parcel)
        return parcel

    def put_back(self, parcel: Parcel) -> None:
        """Take back what may not have arrived; it goes out first next time."""
        self.doubtful.update(parcel.tokens())
        parcel.acks += self.parcel.acks
        parcel.others += self.parcel.others
        self.parcel = parcel

    def forget(self, token: bytes) -> None:
        """Take back the end of a delivery that is over without it."""
        parcel = self.parcel
        parcel.acks = [one for one in parcel.acks if one != token]
        parcel.others = [end for end in parcel.others if end.token != token]

    def confirmed(self, parcel: Parcel, found: Fetched, *, sure: bool) -> list[Settlement]:
        """Tell who waits for what the server has settled; return what it could not store.

        Args:
            parcel: what went out.
            found: the answer.
            sure: whether no lease of ours can have ended. What is not ours although it is
                doubtful was settled when it went out before, then.
        """
        if self.waiters:
            lost = set(found.lost)
            for token in parcel.tokens():
                if token not in found.kept:
                    doubt = token in lost and token in self.doubtful
                    self.ended(token, owned=(sure or None) if doubt else token not in lost)
        if self.doubtful:
            self.doubtful.difference_update(parcel.tokens())
        return [end for end in parcel.others if end.token in found.kept] if found.kept else []

    def arrived(self, owned: set[bytes], *, sure: bool) -> list[bytes]:
        """After a lost reply: keep the ends of what is still ours; return the other tokens.

        Args:
            owned: what is ours.
            sure: whether no lease of ours can have ended. Then the others were settled before the
                reply was lost.
        """
        parcel, self.parcel = self.parcel, Parcel()
        settled = [token for token in parcel.tokens() if token not in owned]
        self.doubtful.difference_update(settled)
        for token in settled:
            self.ended(token, owned=True if sure else None)
        acks = [token for token in parcel.acks if token in owned]
        self.put_back(Parcel(acks, [end for end in parcel.others if end.token in owned]))
        return settled

    def ended(self, token: bytes, *, owned: bool | None) -> None:
        """Tell who waits for the end of a delivery."""
        waiter = self.waiters.pop(token, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(owned)
