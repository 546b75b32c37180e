"""Deliveries that come under the name of one that is here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from millstream.driver.lease_keeper import Held
from millstream.protocol.settlement import release
from millstream.worker.outbox import Outbox
from millstream.worker.slots import Slots

__all__ = ["Repeats"]

logger = logging.getLogger("millstream.worker")


class Repeats:
    """Knows what is here, and what becomes of a delivery that comes again.

    In a queue that is the same delivery: the server has lost that it was ours, since it came back
    with older data, or its consumer group was removed. Whatever is here goes on with it. In a
    subscription it is another one: a seek has the entries of a log read again. What is here is over
    then, and its handler may run for a while: what it says must not end the new one.

    Args:
        held: what is ours.
        outbox: takes ends.
        over: called with deliveries that are here, and are over.
        moves: whether it is a subscription.

    Attributes:
        left_behind: ours, but nobody may have it before its lease ends: a thread works on it that
            we left.
    """

    def __init__(
        self, held: Held, outbox: Outbox, over: Callable[[list[bytes]], None], *, moves: bool
    ) -> None:
        self._held = held
        self._outbox = outbox
        self._over = over
        self._moves = moves
        self.left_behind: set[bytes] = set()

    def among(self, tokens: Sequence[bytes], slots: Slots) -> list[bytes]:
        """Return those that have the name of a delivery that is here."""
        held, left, busy = self._held.until, self.left_behind, slots.busy_with(tokens)
        if not busy and held.keys().isdisjoint(tokens) and left.isdisjoint(tokens):
            return []
        return [one for one in tokens if one in held or one in left or one in busy]

    def take(self, again: list[bytes], slots: Slots, since: float) -> None:
        """See to deliveries that have come again; no handler is to begin with them.

        Args:
            again: which.
            slots: what may be at them.
            since: time on the monotonic clock before which they cannot have been delivered.
        """
        if self._moves:
            self._over(again)
            for token in again:
                self._outbox.forget(token)
            self._hand_back(again)
            return
        # In hand, or a lease that is to run out: nothing is new.
        known = self.left_behind | self._held.until.keys()
        lost = [token for token in again if token not in known]
        regained = [token for token in lost if slots.regain(token)]
        if regained:
            self._held.arrived(regained, since)
            logger.warning(
                "%s: the server has forgotten that %d deliveries were ours, and has handed them out "
                "again; their handlers go on",
                *(self._held.keys.title, len(regained)),
            )
        # Their handlers had ended them before, in a way that the server has forgotten.
        self._hand_back([token for token in lost if token not in regained])

    def _hand_back(self, tokens: Sequence[bytes]) -> None:
        """Hand deliveries back at once: each comes again under another name."""
        for token in tokens:
            self._outbox.add(release(token))
            self._outbox.urgent = True
