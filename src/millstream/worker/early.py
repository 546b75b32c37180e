"""Deliveries of which it is said that they are over before they have come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millstream.protocol.envelope import Envelope

__all__ = ["Early"]

MOST = 100
"""Deliveries to remember. Each worker hears of all that are cancelled of a queue."""


class Early:
    """Cancelled deliveries that are not here: perhaps never ours, perhaps on their way to us."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, None] = {}

    def note(self, token: bytes) -> None:
        """Remember one; of many, the last ones."""
        self._tokens[token] = None
        if len(self._tokens) > MOST:
            del self._tokens[next(iter(self._tokens))]

    def forget(self) -> None:
        """Forget all: what is heard of from now on came later, such as an entry that a seek has read again."""
        self._tokens.clear()

    def leave_out(
        self, envelopes: Sequence[Envelope], over: Callable[[bytes], None]
    ) -> Sequence[Envelope]:
        """Return what has not been overtaken by the word that it is over.

        Args:
            envelopes: what has come.
            over: called for each of the others.
        """
        if not self._tokens:
            return envelopes
        left: list[Envelope] = []
        for envelope in envelopes:
            if envelope.token in self._tokens:
                del self._tokens[envelope.token]
                over(envelope.token)
            else:
                left.append(envelope)
        return left
