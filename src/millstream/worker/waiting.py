"""What is in hand and waits for a handler: single messages, or messages that become a batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol

from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import in_special_lane, is_suspect

__all__ = ["Batches", "Singles", "Waiting"]


class Waiting(Protocol):
    """Where slots take from."""

    @property
    def messages(self) -> Sized:
        """What waits, but for suspects that wait for a batch of their own."""
        ...

    @property
    def ready(self) -> Sized:
        """Empty while there is nothing that a handler may begin with."""
        ...

    @property
    def take(self) -> Callable[[], Any]:
        """Takes out what a handler is to begin with; call it when ``ready`` is not empty."""
        ...

    def add(self, envelopes: Iterable[Envelope]) -> None:
        """Let messages wait; those that were handed back or taken over come first."""
        ...

    def drop(self) -> list[Envelope]:
        """Take everything out."""
        ...


class Singles:
    """Messages that are handled one by one. What slots ask for each message, a deque answers."""

    def __init__(self) -> None:
        self.messages: deque[Envelope] = deque()
        self.ready = self.messages
        self.take = self.messages.popleft

    def add(self, envelopes: Iterable[Envelope]) -> None:
        """Let messages wait; those that were handed back or taken over come first."""
        first: list[Envelope] = []
        for envelope in envelopes:
            if in_special_lane(envelope.token):
                first.append(envelope)
            else:
                self.messages.append(envelope)
        self.messages.extendleft(reversed(first))

    def drop(self) -> list[Envelope]:
        """Take everything out."""
        dropped = list(self.messages)
        self.messages.clear()
        return dropped


class Batches:
    """Messages that become batches: full ones, or what there is when the first has waited.

    A batch is made when a handler begins with it, so it still grows while all of them are busy.
    A suspect (a message whose consumers died) is a batch of its own.

    Args:
        most: messages in a full batch.
        wait: seconds after which a batch that is not full may begin.
        on_due: called when such a time is over.
    """

    def __init__(self, most: int, wait: float, on_due: Callable[[], None]) -> None:
        self._most = most
        self._wait = wait
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._suspects: deque[Envelope] = deque()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        # Each with the time since when it is here.
        self.messages: deque[tuple[float, Envelope]] = deque()

    @property
    def ready(self) -> Batches:
        """Itself: as long as there are batches that may begin."""
        return self

    def __len__(self) -> int:
        """Return how many batches may begin now."""
        full, rest = divmod(len(self.messages), self._most)
        return len(self._suspects) + full + (self._due and rest > 0)

    def add(self, envelopes: Iterable[Envelope]) -> None:
        """Let messages wait; those that were handed back or taken over come first."""
        now = self._loop.time()
        first: list[Envelope] = []
        for envelope in envelopes:
            if is_suspect(envelope.token):
                self._suspects.append(envelope)
            elif in_special_lane(envelope.token):
                first.append(envelope)
            else:
                self.messages.append((now, envelope))
        # Whoever comes before others must not make them wait longer.
        since = self.messages[0][0] if self.messages else now
        self.messages.extendleft((since, envelope) for envelope in reversed(first))
        if self._timer is None and not self._due:
            self._set_timer()

    def take(self) -> list[Envelope]:
        """Take out the next batch."""
        if self._suspects:
            return [self._suspects.popleft()]
        messages = self.messages
        batch = [messages.popleft()[1] for _ in range(min(self._most, len(messages)))]
        self._set_timer()
        return batch

    def drop(self) -> list[Envelope]:
        """Take everything out."""
        dropped = [*self._suspects, *(envelope for _, envelope in self.messages)]
        self._suspects.clear()
        self.messages.clear()
        self._set_timer()
        return dropped

    def _set_timer(self) -> None:
        """Find out when the first message has waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = False
        if not self.messages:
            return
        when = self.messages[0][0] + self._wait
        if when <= self._loop.time():
            self._due = True
        else:
            self._timer = self._loop.call_at(when, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._due = True
        self._on_due()
