"""Group commit on asyncio: while batches are on the wire, sends of other tasks gather.

Alone, a send waits for nothing. With many tasks, a batch leaves as soon as it has some dozens of
messages, so that the server works on one while the tasks fill the next. Measured with 100 tasks:
one batch at a time reached 0.35 of the server's ceiling, this more than 0.5.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from millstream.driver.aio_confirming import AsyncConfirming
from millstream.driver.aio_home import elsewhere
from millstream.driver.aio_start import start
from millstream.errors import MillstreamError, NotConfirmed, one_more
from millstream.protocol.op import Op
from millstream.protocol.send import Batch, chunks
from millstream.protocol.unconfirmed import all_of

__all__ = ["AsyncSender", "Run"]

Lane = tuple[str, "itertools.count[int]"]
R = TypeVar("R")
Outcome = Sequence[R | MillstreamError] | BaseException
Tell = Callable[[Outcome[R]], None]
Run = Callable[[Op[Any]], Awaitable[Any]]

GATHERED = 50
"""Messages that make a batch leave at once."""

LANES = 16
"""Batches on the wire at a time. Each lane is a producer of its own to the server, which
remembers the last batch of every producer."""


CONFIRMED_LANES = 64
"""The same where a batch may be on its way for a second, until it is on disk. They go in one write,
in their order, and are repeated in it."""


class _Told(Generic[R]):
    """Stands where a future would, for who is told and does not wait."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[R | BaseException], None]) -> None:
        self._tell = tell

    def done(self) -> bool:
        """Nobody can have cancelled it."""
        return False

    def set_result(self, result: R) -> None:
        """Tell what came of it."""
        self._tell(result)

    def set_exception(self, error: BaseException) -> None:
        """Tell why nothing came of it."""
        self._tell(error)

    def exception(self) -> None:
        """It has been looked at."""


Waiting = asyncio.Future[R] | _Told[R]


class AsyncSender(Generic[R]):
    """Sends messages to one queue.

    Args:
        run: the driver's way to run an operation, with its repetitions.
        batch: makes the operation that sends some messages.
        in_order: have one batch on the wire at a time. Several are written in their order, but when
            the connection breaks, nobody knows which of them the server sees first.
        confirming: by what batches are sent, if they are to be confirmed; it keeps their order.
    """

    def __init__(
        self,
        run: Run,
        batch: Batch[R],
        *,
        in_order: bool = False,
        confirming: AsyncConfirming | None = None,
    ) -> None:
        self._run = run
        self._confirming = confirming
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._bodies: list[Any] = []
        self._headers: list[bytes] | None = None
        # One for each message: one future for all would be cancelled with the first of its tasks.
        self._waiting: list[Waiting[R]] = []
        lanes = 1 if in_order else LANES
        if confirming is not None:
            lanes = CONFIRMED_LANES
        self._free: list[Lane] = _new_lanes(lanes)
        self._freed = asyncio.Event()
        self._flushing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def send(
        self,
        body: Any,
        headers: bytes = b"",
        *,
        seconds: float | None = None,  # noqa: ARG002 - whoever waits has a timer
    ) -> asyncio.Future[R]:
        """Send one message, together with what other tasks send at the moment.

        It returns what to await, and is no coroutine itself: that is a tenth of a send's cost.

        Raises:
            UsageError: the client is at home in another event loop.
            BrokerError: when awaited: it is not known to be stored. The same for all of the batch.
            MillstreamError: when awaited: this one is not stored, such as QueueFull.
        """
        stored: asyncio.Future[R] = asyncio.Future(loop=self._loop)
        self._add(body, headers, stored)
        return stored

    def post(
        self,
        body: Any,
        headers: bytes,
        tell: Callable[[R | BaseException], None],
        *,
        seconds: float | None = None,  # noqa: ARG002 - nobody waits
    ) -> None:
        """Do the same for who does not wait.

        Args:
            body: what ``send`` takes.
            headers: encoded, or empty.
            tell: called with the result, or with what ``send`` would raise. It must raise nothing.
        """
        self._add(body, headers, _Told(tell))

    def _add(self, body: Any, headers: bytes, waiting: Waiting[R]) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise elsewhere()
        bodies = self._bodies
        index = len(bodies)
        bodies.append(body)
        if headers and self._headers is None:
            self._headers = [b""] * index
        if self._headers is not None:
            self._headers.append(headers)
        self._waiting.append(waiting)
        if index == 0:
            # Tasks that are ready to run now still join this batch.
            self._loop.call_soon(self._flush)
        elif index >= GATHERED:
            self._flush()

    async def send_many(
        self, bodies: Sequence[Any], headers: Sequence[bytes] | None = None
    ) -> list[R]:
        """Send messages in chunks, some of them on the wire at a time.

        Raises:
            BrokerError: a chunk is not known to be stored; others may be.
            NotConfirmed: all are stored, some are not confirmed.
            UsageError: the client is at home in another event loop.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise elsewhere()
        waiting: list[asyncio.Future[list[R]]] = []
        for some, with_headers in chunks(bodies, headers):
            while not self._free:
                self._freed.clear()
                await self._freed.wait()
            chunk: asyncio.Future[list[R]] = self._loop.create_future()
            self._start(some, with_headers, partial(_tell, chunk))
            waiting.append(chunk)
        stored: list[R] = []
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            stored += result
        if self._confirming is not None:
            all_of(stored)  # type: ignore[arg-type] # only receipts are confirmed
        return stored

    def _flush(self) -> None:
        """Put what has gathered on the wire, as far as lanes are free."""
        if self._flushing:
            return  # a batch that failed at once; whoever has begun with it goes on
        self._flushing = True
        try:
            while self._bodies and self._free:
                # Thousands of tasks, or large bodies, are too much for one script call.
                some, with_headers = next(chunks(self._bodies, self._headers))
                count = len(some)
                waiting = self._waiting[:count]
                del self._bodies[:count], self._waiting[:count]
                if self._headers is not None:
                    self._headers = self._headers[count:] or None
                self._start(some, with_headers, partial(_tell_each, waiting))
        finally:
            self._flushing = False

    def _start(self, bodies: Sequence[Any], headers: Sequence[bytes] | None, tell: Tell[R]) -> None:
        producer, numbers = lane = self._free.pop()
        op = self._batch(producer, next(numbers), bodies, headers)
        start(self._transmit(op, lane, tell), self._tasks)

    async def _transmit(
        self, op: Op[Sequence[R | MillstreamError]], lane: Lane, tell: Tell[R]
    ) -> None:
        try:
            stored = await self._run(op)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the senders must know
            tell(error)
        else:
            tell(stored)
            if self._confirming is not None and _has_unconfirmed(stored):
                # The server is to recognise that batch for as long as somebody may confirm it.
                [lane] = _new_lanes(1)
        finally:
            self._free.append(lane)
            self._freed.set()
            self._flush()

    async def close(self) -> None:
        """Wait for what is on its way, and for what is about to leave."""
        self._flush()
        # One that somebody has cancelled before it went on is done, and has not taken itself out.
        while left := {task for task in self._tasks if not task.done()}:
            await asyncio.wait(left)


def _new_lanes(count: int) -> list[Lane]:
    name = uuid.uuid4().hex[:16]
    return [(f"{name}-{lane}", itertools.count(1)) for lane in range(count)]


def _has_unconfirmed(outcomes: Sequence[Any]) -> bool:
    return any(isinstance(one, NotConfirmed) for one in outcomes)


def _tell(waiting: asyncio.Future[list[R]], outcome: Outcome[R]) -> None:
    """Give one who waits for all messages of a batch what came of it."""
    if isinstance(outcome, BaseException):
        _fail(waiting, outcome)
    elif not waiting.done():
        # Nobody sends many to a queue that refuses some of them, and ``send_many`` looks whether
        # some are not confirmed.
        waiting.set_result(outcome)  # type: ignore[arg-type]


def _tell_each(waiting: Sequence[Waiting[R]], outcome: Outcome[R]) -> None:
    """Give each who waits for a message of a batch what came of it."""
    if isinstance(outcome, BaseException):
        for one in waiting:
            _fail(one, one_more(outcome))
    else:
        for one, result in zip(waiting, outcome, strict=True):
            if isinstance(result, MillstreamError):
                _fail(one, result)
            elif not one.done():
                one.set_result(result)


def _fail(waiting: Waiting[Any], error: BaseException) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        # Who waits may be cancelled before it looks; that is no news for the log.
        waiting.exception()
