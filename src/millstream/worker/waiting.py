"""What is in hand and waits for a handler: single messages, or messages that become a batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence, Sized
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

    def add(self, envelopes: Sequence[Envelope]) -> None:
        """Let messages wait; urgent ones, and those that were handed back, come first."""
        ...

    def forget(self, tokens: Collection[bytes]) -> None:
        """Take some out that are over: they may come again, under the names that they have."""
        ...

    def drop(self) -> list[Envelope]:
        """Take everything out."""
        ...


def _join(messages: deque[Envelope], envelopes: Sequence[Envelope]) -> int:
    """Let messages wait: what comes from the lane that is read first before the others.

    Returns:
        How many of them came from there.
    """
    first = [envelope for envelope in envelopes if in_special_lane(envelope.token)]
    if not first:
        messages.extend(envelopes)
        return 0
    messages.extend(envelope for envelope in envelopes if not in_special_lane(envelope.token))
    before: list[Envelope] = []
    while messages and in_special_lane(messages[0].token):
        before.append(messages.popleft())
    # Among equals, whoever was here before stays before.
    before += first
    before.sort(key=_calm)
    messages.extendleft(reversed(before))
    return len(first)


def _calm(envelope: Envelope) -> int:
    return -envelope.priority


class Singles:
    """Messages that are handled one by one. What slots ask for each message, a deque answers."""

    def __init__(self) -> None:
        self.messages: deque[Envelope] = deque()
        self.ready = self.messages
        self.take = self.messages.popleft

    def add(self, envelopes: Sequence[Envelope]) -> None:
        """Let messages wait; urgent ones, and those that were handed back, come first."""
        _join(self.messages, envelopes)

    def forget(self, tokens: Collection[bytes]) -> None:
        """Take some out that are over."""
        over = frozenset(tokens)
        left = [envelope for envelope in self.messages if envelope.token not in over]
        if len(left) < len(self.messages):
            self.messages.clear()
            self.messages.extend(left)

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
        self.messages: deque[Envelope] = deque()
        # Since when the messages are here. Whoever goes before others must not make them wait
        # longer, so it counts as come when the first of them came.
        self._since: deque[float] = deque()

    @property
    def ready(self) -> Batches:
        """Itself: as long as there are batches that may begin."""
        return self

    def __len__(self) -> int:
        """Return how many batches may begin now."""
        full, rest = divmod(len(self.messages), self._most)
        return len(self._suspects) + full + (self._due and rest > 0)

    def add(self, envelopes: Sequence[Envelope]) -> None:
        """Let messages wait; urgent ones, and those that were handed back, come first."""
        ordinary: list[Envelope] = []
        for envelope in envelopes:
            (self._suspects if is_suspect(envelope.token) else ordinary).append(envelope)
        if not ordinary:
            return
        now = self._loop.time()
        first = _join(self.messages, ordinary)
        self._since.extendleft([self._since[0] if self._since else now] * first)
        self._since.extend([now] * (len(ordinary) - first))
        if self._timer is None and not self._due:
            self._set_timer()

    def take(self) -> list[Envelope]:
        """Take out the next batch."""
        if self._suspects:
            return [self._suspects.popleft()]
        batch: list[Envelope] = []
        while self.messages and len(batch) < self._most:
            batch.append(self.messages.popleft())
            self._since.popleft()
        self._set_timer()
        return batch

    def forget(self, tokens: Collection[bytes]) -> None:
        """Take some out that are over."""
        over = frozenset(tokens)
        suspects = [envelope for envelope in self._suspects if envelope.token not in over]
        both = zip(self.messages, self._since, strict=True)
        left = [(one, since) for one, since in both if one.token not in over]
        if len(suspects) + len(left) < len(self._suspects) + len(self.messages):
            self.drop()
            self._suspects.extend(suspects)
            self.messages.extend(envelope for envelope, _ in left)
            self._since.extend(since for _, since in left)
            self._set_timer()
            if self._due:
                self._on_due()

    def drop(self) -> list[Envelope]:
        """Take everything out."""
        dropped = [*self._suspects, *self.messages]
        for waiting in (self._suspects, self.messages, self._since):
            waiting.clear()
        self._set_timer()
        return dropped

    def _set_timer(self) -> None:
        """Find out when the first message has waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = False
        if not self._since:
            return
        when = self._since[0] + self._wait
        if when <= self._loop.time():
            self._due = True
        else:
            self._timer = self._loop.call_at(when, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._due = True
        self._on_due()
