"""Runs handlers: at most so many at a time, each outcome into a settlement.

A slot is a task that handles one message after the other. A handler that does not wait costs no
task and no turn of the event loop, which is what makes fast handlers fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from millstream.aio.delivery import Delivery, Owner
from millstream.errors import Reject, RetryLater, Undecodable, UsageError
from millstream.policy import milliseconds
from millstream.protocol import settlement
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.keys import in_special_lane
from millstream.protocol.settlement import Settlement
from millstream.worker.handler import Handler

__all__ = ["Call", "Holder", "Slots"]

logger = logging.getLogger("millstream.worker")

Call = Callable[[Any, Delivery[Any]], Awaitable[Any]]
"""Runs the handler, middleware included, for a body and its delivery."""

TURN = 64
"""Messages that handlers which do not wait get through before the rest of the event loop runs."""


class Holder(Owner, Protocol):
    """Who owns the deliveries: the holdings of the reader."""

    def unsettled(self, token: bytes) -> bool:
        """Tell whether the delivery is ours, and its handler has not begun to end it."""
        ...

    def ack(self, token: bytes) -> None:
        """A handler is done with a message."""
        ...

    def end(self, end: Settlement) -> None:
        """A delivery ends in another way."""
        ...

    def abandon(self, token: bytes) -> None:
        """A delivery is over without a settlement: it is not ours any more."""
        ...


class Slots:
    """The handlers of one queue.

    Args:
        handler: as declared.
        call: runs it.
        holder: gets the outcomes.
    """

    def __init__(self, handler: Handler, call: Call, holder: Holder) -> None:
        self._handler = handler
        self._call = call
        self._holder = holder
        self._decode = handler.queue.codec.decode
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[Envelope] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[bytes, tuple[asyncio.Task[Any], Delivery[Any]]] = {}
        self._stopped: dict[bytes, Settlement | None] = {}
        self._closing = False
        self._hiring = False
        self._draining = False
        self._quiet = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Messages that no handler has begun with."""
        return len(self._buffer)

    @property
    def running(self) -> int:
        """Messages that a handler is busy with."""
        return len(self._running)

    def add(self, envelopes: Iterable[Envelope]) -> None:
        """Handle messages; those that were handed back or taken over come first."""
        first: list[Envelope] = []
        for envelope in envelopes:
            if in_special_lane(envelope.token):
                first.append(envelope)
            else:
                self._buffer.append(envelope)
        self._buffer.extendleft(reversed(first))
        self._hire()

    def _hire(self) -> None:
        """Put one more slot to work, if there is work and a slot; one at a time.

        The next one is hired by this one. So handlers that do not wait take turns, and between
        two turns everybody else has one: the reader, above all.
        """
        if self._hiring or not self._buffer:
            return
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                self._hiring = True
                idle.set_result(None)
                return
        if len(self._tasks) < self._handler.concurrency and not self._closing:
            self._hiring = True
            # A clean context: what one handler sets must not be seen by another.
            task = self._loop.create_task(self._slot(), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        """A slot has ended; what waits needs another one."""
        self._tasks.discard(task)
        self._hiring = False
        self._hire()

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a slot is a task
        clean = contextvars.copy_context()
        while not self._closing:
            self._hiring = False
            turn = 0
            while self._buffer and turn < TURN:
                turn += 1
                envelope = self._buffer.popleft()
                if self._buffer:
                    # This handler may wait; then another slot goes on.
                    self._hire()
                await self._handle(envelope, task)
                if contextvars.copy_context() != clean or task.cancelling():
                    # The handler has set a context variable; a new slot has a clean context.
                    # Or it has swallowed a cancellation that was meant for all tasks.
                    return
            if self._closing:
                return
            if self._buffer:
                # Its turn is over. Unless another slot has been hired, it goes on by itself.
                self._loop.call_soon(self._hire)
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle

    def _open(self, envelope: Envelope) -> Delivery[Any] | None:
        """Make a delivery of an entry; None: there is nothing to handle."""
        handler, holder = self._handler, self._holder
        if not holder.holds(envelope.token):
            return None
        try:
            body = read_body(envelope, self._decode, handler.queue.name)
        except Undecodable as error:
            logger.warning("%s", error)
            holder.end(settlement.reject(envelope.token, error.reason, error=str(error)))
            return None
        return Delivery(body, envelope, handler.queue, handler.retry, holder)

    async def _handle(self, envelope: Envelope, task: asyncio.Task[Any]) -> None:
        """Handle one message; whatever happens becomes an outcome, nothing leaves."""
        delivery = self._open(envelope)
        if delivery is None:
            return
        token, holder = envelope.token, self._holder
        self._running[token] = (task, delivery)
        try:
            await self._call(delivery.body, delivery)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self._everything_ends(error, token, task):
                self._stopped[token] = settlement.release(token)
                raise
            self._failed(delivery, envelope, error)
        else:
            # Unless the handler has settled it, or it was lost meanwhile.
            if holder.unsettled(token) and token not in self._stopped:
                holder.ack(token)
        finally:
            del self._running[token]
            if self._draining and not self._running:
                self._quiet.set()
            if token in self._stopped:
                self._over(token, task)

    def _everything_ends(self, error: BaseException, token: bytes, task: asyncio.Task[Any]) -> bool:
        """Tell whether somebody cancels all tasks of this event loop, the slot among them.

        A handler may also be cancelled by us, or by something it awaits; the latter is a failure.
        """
        cancelled = isinstance(error, asyncio.CancelledError)
        return cancelled and task.cancelling() > 0 and token not in self._stopped

    def _over(self, token: bytes, task: asyncio.Task[Any]) -> None:
        """A handler that was stopped has come to its end."""
        while task.uncancel():
            # The next message of this slot has not been told to stop.
            continue
        end = self._stopped.pop(token)
        if end is None:
            self._holder.abandon(token)
        else:
            self._holder.end(end)

    def _failed(self, delivery: Delivery[Any], envelope: Envelope, error: BaseException) -> None:
        """Turn what the handler raised into the end of the delivery."""
        name, policy = self._handler.queue.name, self._handler.retry
        if not self._holder.unsettled(envelope.token) or envelope.token in self._stopped:
            if not isinstance(error, asyncio.CancelledError):
                logger.warning(
                    "queue %r: the handler of message %s raised after its end",
                    *(name, delivery.id),
                    exc_info=error,
                )
            return
        if isinstance(error, Reject):
            self._holder.end(settlement.reject(envelope.token, error.reason))
            return
        reason, delay_ms, line, trace = "failed", None, None, None
        try:
            if isinstance(error, RetryLater):
                reason = error.reason
                delay_ms = None if error.delay is None else milliseconds(error.delay, "delay")
            else:
                line, trace = settlement.describe(error)
        except UsageError as problem:
            # The delay makes no sense; the backoff does.
            line = str(problem)
        end = settlement.failure(
            envelope,
            policy,
            reason=reason,
            luck=random.random(),  # noqa: S311 - jitter, no secret
            delay_ms=delay_ms,
            error=line,
            trace=trace,
        )
        self._holder.end(end)
        seconds = end.delay_ms / 1000
        fate = f"again in {seconds:g} s" if end.verb == "retry" else "to the dead letters"
        logger.warning(
            "queue %r: message %s, attempt %d of %d: %s (%s)",
            name,
            delivery.id,
            delivery.attempt,
            policy.max_attempts,
            line or reason,
            fate,
            exc_info=error if line else None,
        )

    def lost(self, tokens: Iterable[bytes]) -> None:
        """Stop handlers of messages that others own by now.

        A coroutine is cancelled. A thread cannot be: its delivery says so (``lease_lost``).
        """
        for token in tokens:
            running = self._running.get(token)
            if running is None or token in self._stopped:
                continue
            task, delivery = running
            self._stopped[token] = None
            logger.warning(
                "queue %r: lost the lease of message %s while its handler ran",
                self._handler.queue.name,
                delivery.id,
            )
            if self._handler.is_async:
                task.cancel()

    def drop_waiting(self) -> list[bytes]:
        """Take out what no handler has begun with."""
        tokens = [envelope.token for envelope in self._buffer]
        self._buffer.clear()
        return tokens

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - at the end it cancels handlers, not itself
        """Wait for running handlers; cancel those that are late, and hand their messages back.

        A thread cannot be cancelled. Its message is left to its lease, for a second copy must
        not run beside it.

        Args:
            timeout: seconds.
        """
        self._draining = True
        try:
            if self._running:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._quiet.wait(), timeout)
        finally:
            # Also when nobody waits for the handlers any more.
            self.close()
        if self._tasks:
            # A handler may refuse to be cancelled; it does not hold up the others.
            await asyncio.wait(self._tasks, timeout=5)

    def close(self) -> None:
        """Cancel what still runs. Safe to repeat."""
        if self._closing:
            return
        for token, (task, _) in self._running.items():
            self._stopped[token] = settlement.release(token) if self._handler.is_async else None
            task.cancel()
        self._closing = True
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
