"""How a reader sleeps at the server: what is to wake it, and what that brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.protocol import lists
from millstream.protocol.consume import Fetched, wait_any
from millstream.protocol.keys import LANES, QueueKeys
from millstream.protocol.op import Command, Op

__all__ = ["Watch", "listen"]


class Watch(msgspec.Struct, frozen=True):
    """What a reader sleeps for.

    Attributes:
        suspects: whether it may take a suspect.
        sieved: whether it reads a log through a filter or gates: a message of the log must not come by
            a sleep. A wake-up tells of those that may pass; it ends the sleep of one reader, which
            has to follow it.
        paused: whether the queue is known to be paused. When it goes on, a wake-up tells; a sleep
            in the lanes would bring a normal message then, though urgent ones wait.
        limited: whether the queue has limits: a message that a sleep brings could be above them,
            so the sleep only tells that it is time to look.
        popping: whether what is read is gone: a sleep only tells that it is time to look, for what
            it brought would be lost with its reply.
        since: in a queue with limits, or where messages are popped: any entry behind these ids of wake, ready, front and
            suspect ends the sleep of every reader. With the first alone, messages do not end it:
            none may be read before the rate allows it. Empty: it waits for a slot; a wake-up ends
            the sleep of one reader, which has to follow it. In a list queue that is paused: the
            last word that the control stream had; any other ends the sleep.
    """

    suspects: bool = True
    sieved: bool = False
    paused: bool = False
    limited: bool = False
    popping: bool = False
    since: tuple[bytes, ...] = ()

    def covers(self, other: Watch) -> bool:
        """Tell whether a sleep that was begun for this is good for the other, too."""
        return self._kind == other._kind and (self.suspects or not other.suspects)

    @property
    def _kind(self) -> tuple[bool, bool, bool, int]:
        return self.sieved, self.paused and not self.popping, self.limited, len(self.since)

    @property
    def lanes(self) -> Sequence[str]:
        """Prefixes of the lanes from which a sleep brings messages."""
        if self.paused or self.limited or self.popping:
            return ()
        without = ("" if self.sieved else None, None if self.suspects else "s")
        return [prefix for prefix in LANES if prefix not in without]


def listen(
    places: Sequence[tuple[QueueKeys, Watch]], consumer: str, block_ms: int
) -> Op[list[Fetched]]:
    """Sleep until there is something to read in any of some partitions.

    Args:
        places: keys of each partition, and what to sleep for. A queue with limits has one.
        consumer: who sleeps.
        block_ms: the longest sleep.

    The result is what came, one for each place.
    """
    keys, watch = places[0]
    if keys.store == "list":
        return lists.sleep(keys, watch.since, block_ms)
    if watch.since and (watch.popping or not watch.paused):
        return Op((_news(keys, watch, block_ms),), decode=_signal, repeatable=False)
    return wait_any([(keys, watch.lanes) for keys, watch in places], consumer, block_ms)


def _news(keys: QueueKeys, watch: Watch, block_ms: int) -> Command:
    streams = [keys.wake, keys.ready, keys.front]
    if watch.suspects:
        streams.append(keys.suspect)
    # One entry a stream, and its body is not read: it tells that there is something.
    read = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS")
    watched = list(zip(streams, watch.since, strict=False))
    return Command((*read, *(key for key, _ in watched), *(last for _, last in watched)))


def _signal(_: list[Any]) -> list[Fetched]:
    return [Fetched(envelopes=[])]
