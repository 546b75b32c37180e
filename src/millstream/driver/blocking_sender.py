"""Group commit for threads: the thread that finds nobody sending takes the others' messages along.

The twin of ``aio_sender``. While the leader's batch is on the wire, other threads add to the next
one and wait; the first of them to wake leads it.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from millstream.driver.blocking_confirming import BlockingConfirming
from millstream.errors import (
    MillstreamError,
    NotConfirmed,
    NotConnected,
    TimedOut,
    UsageError,
    one_more,
)
from millstream.protocol.op import Op
from millstream.protocol.send import Batch, chunks
from millstream.protocol.unconfirmed import all_of

__all__ = ["BlockingSender", "Run"]

R = TypeVar("R")
Run = Callable[[Op[Any]], Any]


TOGETHER = 64
"""Chunks of a ``send_many`` that go in one commit, when they are to be confirmed."""

Lane = tuple[str, "itertools.count[int]"]
Chunk = tuple[Sequence[Any], "Sequence[bytes] | None"]


class _Gathered(Generic[R]):
    """Messages that leave together, and what came of it."""

    __slots__ = ("bodies", "error", "headers", "left", "stored", "taken", "until")

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[bytes] = []
        # Places of those whose threads waited no longer; the others keep theirs.
        self.left: set[int] = set()
        self.taken = False
        # When the last of them waits no longer.
        self.until = 0.0
        self.stored: Sequence[R | MillstreamError] = []
        self.error: Exception | None = None

    def drop_left(self) -> None:
        """Take out what nobody waits for any more."""
        if self.left:
            kept = [index for index in range(len(self.bodies)) if index not in self.left]
            self.bodies = [self.bodies[index] for index in kept]
            self.headers = [self.headers[index] for index in kept]

    def place_of(self, index: int) -> int:
        """Return where a message is since then."""
        return index - sum(left < index for left in self.left) if self.left else index


class BlockingSender(Generic[R]):
    """Sends messages to one queue, from any number of threads.

    Args:
        run: the driver's way to run an operation, with its repetitions.
        batch: makes the operation that sends some messages.
        confirming: by what messages are sent, if they are to be confirmed. It gathers by itself: a
            thread that has been confirmed must not wait for the batch of others here.
    """

    def __init__(
        self, run: Run, batch: Batch[R], *, confirming: BlockingConfirming | None = None
    ) -> None:
        self._run = run
        self._batch = batch
        self._confirming = confirming
        # Producers whose last batch nobody needs any more.
        self._free: list[Lane] = []
        self._pid = os.getpid()
        self._producer = uuid.uuid4().hex[:16]
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._gathering: _Gathered[R] = _Gathered()

    def send(self, body: Any, headers: bytes = b"", seconds: float = math.inf) -> R:
        """Send one message, together with what other threads send at the moment.

        Args:
            body: of the kind that the operation takes.
            headers: encoded, or empty.
            seconds: to wait for the batches of other threads.

        Raises:
            BrokerError: it is not known to be stored. The same for all of the batch.
            MillstreamError: this one is not stored, such as QueueFull.
        """
        if os.getpid() != self._pid:
            # Locks that another thread held at the fork stay locked for ever.
            message = "this client was made before a fork: make one in each process"
            raise UsageError(message)
        if self._confirming is not None:
            result = self._confirm(self._confirming, [([body], [headers] if headers else None)])[0]
            if isinstance(result, MillstreamError):
                raise result
            return result
        until = math.inf if seconds == math.inf else time.monotonic() + seconds
        with self._guard:
            batch = self._gathering
            batch.until = max(batch.until, until)
            index = len(batch.bodies)
            batch.bodies.append(body)
            batch.headers.append(headers)
        self._lead(batch, index, seconds)
        place = batch.place_of(index)
        if place < len(batch.stored):
            result = batch.stored[place]
            if isinstance(result, MillstreamError):
                raise result
            return result
        assert batch.error is not None  # noqa: S101 - all are stored unless there was one
        raise one_more(batch.error)

    def _lead(self, batch: _Gathered[R], index: int, seconds: float) -> None:
        """Wait until a batch has left, or send it.

        Raises:
            TimedOut: its turn has not come in time.
        """
        if not self._sending.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX)):
            with self._guard:
                if not batch.taken:
                    batch.left.add(index)
            message = "sends of other threads still wait for the server"
            raise TimedOut(message)
        try:
            if not batch.taken:
                with self._guard:
                    self._gathering = _Gathered()
                    batch.taken = True
                batch.drop_left()
                self._transmit(batch)
        finally:
            self._sending.release()

    def post(
        self,
        body: Any,
        headers: bytes,
        tell: Callable[[R | BaseException], None],
        seconds: float = math.inf,
    ) -> None:
        """Do the same, and call a function with the result or with what ``send`` would raise.

        Args:
            body: what ``send`` takes.
            headers: encoded, or empty.
            tell: called before this returns. A Ctrl-C is no outcome: it is raised.
            seconds: see ``send``.
        """
        try:
            outcome: R | BaseException = self.send(body, headers, seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is
            outcome = error
        tell(outcome)

    def send_many(self, bodies: Sequence[Any], headers: Sequence[bytes] | None = None) -> list[R]:
        """Send messages in chunks, in their order.

        Raises:
            BrokerError: a chunk is not known to be stored; those before it are.
            NotConfirmed: all are stored, some are not confirmed.
        """
        stored: list[R] = []
        if self._confirming is not None:
            outcomes: list[Any] = []
            many = chunks(bodies, headers)
            while some_chunks := list(itertools.islice(many, TOGETHER)):
                outcomes += self._confirm(self._confirming, some_chunks)
            return all_of(outcomes)  # type: ignore[return-value] # only receipts are confirmed
        for some, with_headers in chunks(bodies, headers):
            with self._sending:
                stored += self._send(some, with_headers)  # type: ignore[arg-type] # no unit among them
        return stored

    def _confirm(
        self, confirming: BlockingConfirming, some: Sequence[Chunk]
    ) -> list[R | MillstreamError]:
        """Send chunks in one commit, each by a producer of its own."""
        with self._guard:
            lanes = [self._free.pop() if self._free else _new_lane() for _ in some]
        ops = [
            self._batch(producer, next(numbers), *chunk)
            for (producer, numbers), chunk in zip(lanes, some, strict=True)
        ]
        results = confirming.run_all(ops)
        outcomes: list[R | MillstreamError] = []
        for lane, result in zip(lanes, results, strict=True):
            outcomes += result
            # The server is to recognise a batch for as long as somebody may confirm it.
            if not any(isinstance(one, NotConfirmed) for one in result):
                self._free.append(lane)
        return outcomes

    def _transmit(self, batch: _Gathered[R]) -> None:
        try:
            headers = batch.headers if any(batch.headers) else None
            if len(batch.bodies) == 1:
                # As it is while one thread sends.
                batch.stored = self._send(batch.bodies, headers, batch.until)
                return
            # Many threads' large bodies are too much for one script call.
            for some, with_headers in chunks(batch.bodies, headers):
                batch.stored = [*batch.stored, *self._send(some, with_headers, batch.until)]
        except Exception as error:  # noqa: BLE001 - whatever it is, every thread must know
            batch.error = error
        except BaseException:
            # Ctrl-C is for this thread alone.
            batch.error = NotConnected("the thread that sent this batch was interrupted")
            raise

    def _send(
        self, bodies: Sequence[Any], headers: Sequence[bytes] | None, until: float = math.inf
    ) -> Sequence[R | MillstreamError]:
        """Send one batch; the caller holds the lock, so that there is one at a time."""
        op = self._batch(self._producer, next(self._numbers), bodies, headers)
        if until != math.inf:
            # Less than it had when it was gathered.
            op = replace(op, patience=max(0.0, until - time.monotonic()))
        stored: Sequence[R | MillstreamError] = self._run(op)
        return stored

    def close(self) -> None:
        """Wait for what is on its way."""
        with self._sending:
            pass


def _new_lane() -> Lane:
    return uuid.uuid4().hex[:16], itertools.count(1)
