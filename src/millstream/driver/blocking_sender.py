"""Group commit for threads: the thread that finds nobody sending takes the others' messages along.

The twin of ``aio_sender``. While the leader's batch is on the wire, other threads add to the next
one and wait; the first of them to wake leads it.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from millstream.driver.blocking_confirming import BlockingConfirming
from millstream.driver.blocking_turn import BlockingTurn
from millstream.driver.faults import NoTurn, forked
from millstream.errors import (
    MillstreamError,
    NotConfirmed,
    NotConnected,
    TimedOut,
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


_PENDING: Any = object()
"""What has come of a message so far."""


class _Message(Generic[R]):
    """A message that is to leave, and what came of it.

    Args:
        body: what the batch takes.
        headers: encoded, or empty.
        seconds: how long its thread waits.
    """

    __slots__ = ("body", "headers", "outcome", "seconds")

    def __init__(self, body: Any, headers: bytes, seconds: float) -> None:
        self.body = body
        self.headers = headers
        self.seconds = seconds
        self.outcome: R | Exception = _PENDING

    def result(self) -> R:
        """Return what came of it, or raise it."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class BlockingSender(Generic[R]):
    """Sends messages to one queue, from any number of threads.

    Args:
        run: the driver's way to run an operation, with its repetitions.
        batch: makes the operation that sends some messages.
        timeout: seconds that an operation may take.
        confirming: by what messages are sent, if they are to be confirmed. It gathers by itself: a
            thread that has been confirmed must not wait for the batch of others here.
    """

    def __init__(
        self,
        run: Run,
        batch: Batch[R],
        *,
        timeout: float,
        confirming: BlockingConfirming | None = None,
    ) -> None:
        self._run = run
        self._batch = batch
        # The batch before it and its own may take as long as they may; who waits is to hear what came of it.
        self._longest = 3 * timeout
        self._confirming = confirming
        # Producers whose last batch nobody needs any more.
        self._free: list[Lane] = []
        self._producer = uuid.uuid4().hex[:16]
        self._numbers = itertools.count(1)
        self._sending = BlockingTurn()
        # Its methods are atomic: whoever has taken a message out, its thread or a leader, decides on it.
        self._gathering: deque[_Message[R]] = deque()

    def send(self, body: Any, headers: bytes = b"", *, seconds: float | None = None) -> R:
        """Send one message, together with what other threads send at the moment.

        Args:
            body: what the batch takes.
            headers: encoded, or empty.
            seconds: how long to wait for a turn, and for what comes of a batch of another thread. None:
                for two batches, and longer.

        Raises:
            BrokerError: it is not known to be stored. The same for all of the batch.
            TimedOut: with the state ``unsent``: it was not sent, and will not be.
            MillstreamError: this one is not stored, such as QueueFull.
        """
        if self._sending.is_foreign:
            raise forked()
        if self._confirming is not None:
            result = self._confirm(self._confirming, [([body], [headers] if headers else None)])[0]
            if isinstance(result, MillstreamError):
                raise result
            return result
        mine: _Message[R] = _Message(body, headers, self._longest if seconds is None else seconds)
        try:
            self._sending.check()
        except NoTurn as none:
            raise _unsent(none) from none
        self._gathering.append(mine)
        try:
            self._sending.take(mine.seconds)
            if mine.outcome is _PENDING:
                self._lead(mine)
        except NoTurn as none:
            if self._take_back(mine):
                raise _unsent(none) from none
            if mine.outcome is _PENDING:
                message = f"it is in a batch of another thread, which was not stored within {mine.seconds:g} s"
                raise TimedOut(message) from none
        except BaseException:
            # Ctrl-C: nobody is to send it later.
            self._take_back(mine)
            raise
        finally:
            self._sending.leave()
        return mine.result()

    def _take_back(self, mine: _Message[R]) -> bool:
        """Have a message not be sent; False: it is on its way, or was."""
        try:
            self._gathering.remove(mine)
        except ValueError:
            return False
        return True

    def post(
        self,
        body: Any,
        headers: bytes,
        tell: Callable[[R | BaseException], None],
        *,
        seconds: float | None = None,
    ) -> None:
        """Do the same, and call a function with the result or with what ``send`` would raise.

        Args:
            body: what ``send`` takes.
            headers: encoded, or empty.
            tell: called before this returns. A Ctrl-C is no outcome: it is raised.
            seconds: see ``send``.
        """
        try:
            outcome: R | BaseException = self.send(body, headers, seconds=seconds)
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
            try:
                self._sending.check()
            except NoTurn as none:
                raise _unsent(none) from none
            try:
                self._sending.take(self._longest)
                stored += self._send(some, with_headers)  # type: ignore[arg-type] # no unit among them
            except NoTurn as none:
                raise _unsent(none) from none
            finally:
                self._sending.leave()
        return stored

    def _confirm(
        self, confirming: BlockingConfirming, some: Sequence[Chunk]
    ) -> list[R | MillstreamError]:
        """Send chunks in one commit, each by a producer of its own."""
        lanes = [self._lane() for _ in some]
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

    def _lead(self, mine: _Message[R]) -> None:
        """Send a message, and those of others that wait; the caller has the turn."""
        taken: list[_Message[R]] = []
        try:
            for one in self._gathering.copy():
                # Who is more patient leads a batch itself: all of one are given up together.
                if one.seconds <= mine.seconds and self._take_back(one):
                    taken.append(one)  # noqa: PERF401 - it is to be known, if this is interrupted
            self._transmit(taken)
        except Exception as error:  # noqa: BLE001 - whatever it is, every thread must know
            _fail(taken, error)
        except BaseException:
            # Ctrl-C is for this thread alone.
            _fail(taken, NotConnected(_INTERRUPTED))
            raise
        if mine.outcome is _PENDING:
            # A thread that was interrupted had taken it, and has said nothing.
            mine.outcome = NotConnected(_INTERRUPTED)

    def _transmit(self, messages: Sequence[_Message[R]]) -> None:
        bodies = [one.body for one in messages]
        each = [one.headers for one in messages]
        headers = each if any(each) else None
        if len(messages) == 1:
            # As it is while one thread sends.
            [messages[0].outcome] = self._send(bodies, headers)
            return
        left = iter(messages)
        # Many threads' large bodies are too much for one script call.
        for some, with_headers in chunks(bodies, headers):
            for outcome, one in zip(self._send(some, with_headers), left, strict=False):
                one.outcome = outcome

    def _lane(self) -> Lane:
        try:
            return self._free.pop()
        except IndexError:
            return _new_lane()

    def _send(
        self, bodies: Sequence[Any], headers: Sequence[bytes] | None
    ) -> Sequence[R | MillstreamError]:
        """Send one batch; the caller holds the lock, so that there is one at a time."""
        stored: Sequence[R | MillstreamError] = self._run(
            self._batch(self._producer, next(self._numbers), bodies, headers)
        )
        return stored

    def close(self) -> None:
        """Wait for what is on its way, but not for ever."""
        if self._sending.is_foreign or self._sending.is_mine():
            # In a signal handler, in the middle of a send: that goes on behind it.
            return
        try:
            with contextlib.suppress(NoTurn):
                self._sending.take(self._longest)
        finally:
            self._sending.leave()


def _fail(messages: Iterable[_Message[Any]], error: Exception) -> None:
    """Say of messages of which nothing is known yet why they may not be stored."""
    for one in messages:
        if one.outcome is _PENDING:
            one.outcome = one_more(error)


def _unsent(none: NoTurn) -> TimedOut:
    return TimedOut(f"nothing was sent: {none}", state="unsent")


def _new_lane() -> Lane:
    return uuid.uuid4().hex[:16], itertools.count(1)


_INTERRUPTED = "the thread that sent this batch was interrupted"
