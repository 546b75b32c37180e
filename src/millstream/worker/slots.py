"""Slots: so many handlers may run at a time.

A slot is a task that handles one message (or batch) after the other. A handler that does not wait
costs no task and no turn of the event loop, which is what makes fast handlers fast.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from millstream.protocol.envelope import Envelope
from millstream.worker.handler import Handler
from millstream.worker.handling import Handling
from millstream.worker.waiting import Batches, Singles, Waiting

__all__ = ["Slots"]

TURN = 64
"""Messages that handlers which do not wait get through before the rest of the event loop runs."""


class Slots:
    """The slots of one queue.

    Args:
        handler: as declared.
        handling: runs it.
    """

    def __init__(self, handler: Handler, handling: Handling) -> None:
        self._handling = handling
        self._most = handler.concurrency
        self._loop = asyncio.get_running_loop()
        self._waiting: Waiting
        self._handle: Callable[[Any, asyncio.Task[Any]], Awaitable[None]]
        if handler.batch is None:
            self._waiting, self._handle = Singles(), handling.one
        else:
            self._waiting = Batches(handler.batch, handler.batch_wait, self._hire)
            self._handle = handling.many
        self._enough = handler.batch or 1
        self._turn = max(1, TURN // self._enough)
        self._messages = self._waiting.messages
        self._ready = self._waiting.ready
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._hiring = False
        self._late = asyncio.Event()
        # Called once, when they would like more messages.
        self.on_hungry: Callable[[], None] | None = None

    def begin(self) -> None:
        """Note which task brings the messages: this one."""
        self._handling.reading = asyncio.current_task()

    @property
    def hungry(self) -> bool:
        """Whether the next handler to begin would like more messages than wait for it."""
        return len(self._messages) < self._enough

    def add(self, envelopes: Sequence[Envelope]) -> None:
        """Handle messages; urgent ones, and those that were handed back, come first."""
        self._waiting.add(envelopes)
        self._hire()

    def _hire(self) -> None:
        """Put one more slot to work, if there is work and a slot; one at a time.

        The next one is hired by this one. So handlers that do not wait take turns, and between
        two turns everybody else has one: the reader, above all.
        """
        if self._hiring or not self._ready:
            return
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                self._hiring = True
                idle.set_result(None)
                return
        if len(self._tasks) < self._most and not self._closing:
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
        ready, take, handle = self._ready, self._waiting.take, self._handle
        holder, monotonic = self._handling.holder, time.monotonic
        held = holder.held
        while not self._closing:
            self._hiring = False
            turn = 0
            while ready and turn < self._turn:
                turn += 1
                # After a lease others may have what waits here, and may have done it.
                if monotonic() >= held.sure_until:
                    await holder.make_sure()
                    break
                taken = take()
                if self.on_hungry is not None and self.hungry:
                    told, self.on_hungry = self.on_hungry, None
                    told()
                if ready:
                    # This handler may wait; then another slot goes on.
                    self._hire()
                await handle(taken, task)
                if contextvars.copy_context() != clean or task.cancelling():
                    # The handler has set a context variable; a new slot has a clean context.
                    # Or it has swallowed a cancellation that was meant for all tasks.
                    return
            if self._closing:
                return
            if ready:
                # Its turn is over, or what waits is ours for certain now. Unless another slot has
                # been hired, it goes on by itself.
                self._loop.call_soon(self._hire)
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle

    def busy_with(self, tokens: Collection[bytes]) -> list[bytes]:
        """Return those that handlers run for, over or not, or whose replies are on their way."""
        return self._handling.busy_with(tokens)

    def regain(self, token: bytes) -> bool:
        """Go on with a delivery that was lost and is ours again (see ``Handling.regain``)."""
        return self._handling.regain(token)

    def lost(self, tokens: Collection[bytes]) -> None:
        """Stop handlers of messages that others own by now; what waits is not begun."""
        self._waiting.forget(tokens)
        self._handling.lost(tokens)

    def cancelled(self, token: bytes) -> None:
        """Stop the handler of a message that somebody has cancelled, or do not begin."""
        self._waiting.forget((token,))
        self._handling.cancelled(token)

    def drop_waiting(self) -> list[bytes]:
        """Take out what no handler has begun with."""
        return [envelope.token for envelope in self._waiting.drop()]

    async def drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - at the end it cancels handlers, not itself
        """Wait for running handlers; cancel those that are late, and hand their messages back.

        Args:
            timeout: seconds; None: any number, until ``hurry``.
        """
        quiet = asyncio.create_task(self._handling.quiet())
        late = asyncio.create_task(self._late.wait())
        try:
            await asyncio.wait([quiet, late], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            quiet.cancel()
            late.cancel()
            # Also when nobody waits for the handlers any more.
            self.close()
        if self._tasks:
            # A handler may refuse to be cancelled; it does not hold up the others.
            await asyncio.wait(self._tasks, timeout=5)

    def hurry(self) -> None:
        """Have ``drain`` wait no longer for handlers."""
        self._late.set()

    def close(self) -> None:
        """Cancel what still runs. Safe to repeat."""
        if self._closing:
            return
        self._handling.cancel()
        self._closing = True
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
