"""One run of a worker, from its start to its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from millstream.aio.client import AsyncClient
from millstream.errors import BrokerError
from millstream.message import QueueStats
from millstream.protocol.whole import stats
from millstream.topic import Source
from millstream.worker.control import Control
from millstream.worker.handler import Handler, Middleware
from millstream.worker.listening import Listener, Listening, OnMissed
from millstream.worker.partitions import Work, begin
from millstream.worker.recurrence import Recurrence
from millstream.worker.scheduler import Scheduler

__all__ = ["Run"]

logger = logging.getLogger("millstream.worker")

Tasks = Sequence[asyncio.Task[None]]
Hooks = Sequence[Callable[[], Awaitable[None]]]

DRAINED_CHECK = 0.05
"""Seconds between looks at the queues when a burst run has nothing in hand."""


class Run:
    """Runs handlers and keeps schedules.

    Args:
        client: to the server.
        handlers: to run.
        listeners: of ephemeral topics.
        on_missed: by the name of such a topic, whom to tell of gaps.
        recurrences: schedules to keep.
        middleware: around each of them.
        startup: called before the first message.
        shutdown: called after the last one, in reverse.
        shutdown_timeout: seconds that running handlers get at the end.
    """

    def __init__(
        self,
        client: AsyncClient,
        handlers: Sequence[Handler],
        *,
        listeners: Sequence[Listener],
        on_missed: Mapping[str, OnMissed],
        recurrences: Sequence[Recurrence],
        middleware: Sequence[Middleware],
        startup: Hooks,
        shutdown: Hooks,
        shutdown_timeout: float,
    ) -> None:
        self.client = client
        self.over = False
        self._handlers = handlers
        self._listeners = listeners
        self._on_missed = on_missed
        self._recurrences = recurrences
        self._middleware = middleware
        self._startup = startup
        self._shutdown = shutdown
        self.shutdown_timeout = shutdown_timeout
        self._stop = asyncio.Event()
        self._consumers: list[Work] = []
        self._listenings: list[Listening] = []
        self._schedulers: list[Scheduler] = []
        self._control: list[asyncio.Task[None]] = []

    async def work(
        self, *, burst: bool, announce: Callable[[Sequence[Work]], None] | None = None
    ) -> None:
        """Work until stopped, cancelled, or (in a burst) drained.

        Args:
            burst: stop when drained.
            announce: called with the consumers before they read anything.
        """
        try:
            for hook in self._startup:
                await hook()
            async with contextlib.AsyncExitStack() as stack:
                # In reverse, and each of them even if another one raises.
                for hook in self._shutdown:
                    stack.push_async_callback(hook)
                await self._consume(burst=burst, announce=announce)
        finally:
            self.over = True

    def stop(self) -> None:
        """Come to an end in order."""
        self._stop.set()

    async def _consume(
        self, *, burst: bool, announce: Callable[[Sequence[Work]], None] | None
    ) -> None:
        await self.client.connect()
        try:
            await self._begin(burst=burst, announce=announce)
            await self._go_on(burst=burst)
        finally:
            # Also when one of them could not begin: others have by then.
            await self._let_go()

    async def _begin(
        self, *, burst: bool, announce: Callable[[Sequence[Work]], None] | None
    ) -> None:
        """Put everything together; no message is read yet."""
        for handler in self._handlers:
            self._consumers.append(await begin(self.client, handler, self._middleware))
        if announce is not None:
            announce(self._consumers)
        if self._consumers:
            hearers = {key: one for work in self._consumers for key, one in work.hearers.items()}
            control = await Control.start(self.client.driver, hearers)
            self._control = [asyncio.create_task(control.run(), name="millstream-control")]
        # A burst drains what waits, and nothing waits in these topics.
        for one in () if burst else self._listeners:
            on_missed = self._on_missed.get(one.topic.name)
            started = await Listening.start(self.client, one, self._middleware, on_missed)
            self._listenings.append(started)

    async def _go_on(self, *, burst: bool) -> None:
        """Work, and come to an end in order."""
        ticking = [] if burst else self._keep_schedules()
        tasks = [
            asyncio.create_task(consumer.run(), name=f"millstream-{consumer.handler.queue.name}")
            for consumer in self._consumers
        ]
        tasks += [
            asyncio.create_task(one.run(), name="millstream-topic") for one in self._listenings
        ]
        stopped = asyncio.create_task(self._drained() if burst else self._stop.wait())
        grace = self.shutdown_timeout
        try:
            # None of them ever ends by itself; if one does, it is a bug, and must not go unseen.
            endless = [*tasks, *ticking, *self._control]
            await asyncio.wait([*endless, stopped], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            grace = 0.0
            raise
        finally:
            stopped.cancel()
            await self._finish(tasks, ticking, grace)
        for task in tasks:
            task.result()
        for task in (*self._control, *ticking):
            if task.done() and not task.cancelled():
                task.result()

    def _keep_schedules(self) -> list[asyncio.Task[None]]:
        client = self.client
        worker = client.consumer_name()
        self._schedulers = [
            Scheduler(client.driver, client.keys_of(one.queue), one, worker)
            for one in self._recurrences
        ]
        return [
            asyncio.create_task(one.run(), name="millstream-schedule") for one in self._schedulers
        ]

    async def _finish(self, tasks: Tasks, ticking: Tasks, grace: float) -> None:
        try:
            for scheduler in self._schedulers:
                scheduler.stop()
            workers = [*self._consumers, *self._listenings]
            for worker in workers:
                worker.stop()
            await _wait(tasks)
            await asyncio.gather(
                _wait(ticking, grace), *(worker.finish(grace) for worker in workers)
            )
        finally:
            # Also when this is cancelled.
            await _end((*tasks, *ticking))

    async def _let_go(self) -> None:
        """Disconnect. What nobody works on must not be kept from others. Safe to repeat."""
        try:
            for listening in self._listenings:
                await listening.let_go()
            for consumer in self._consumers:
                await consumer.let_go()
        finally:
            # Last, so that a message can be cancelled until its handler has ended.
            await _end(self._control)

    async def _count(self, queue: Source[Any]) -> QueueStats:
        # The primary's word: what has just been sent may not be at a replica yet.
        return await self.client.driver.drive(stats(self.client.keys_of(queue)))

    async def _drained(self) -> None:
        """Return when nothing is ready, delayed or in flight in any queue, or when stopped.

        What a paused queue holds back is left there: nobody knows when it will go on.
        """
        while not self._stop.is_set():
            if all(consumer.idle for consumer in self._consumers):
                try:
                    counts = {
                        one.queue.title: await self._count(one.queue) for one in self._handlers
                    }
                except BrokerError as error:
                    # Nobody knows whether anything is left. The reader says it louder.
                    logger.debug("cannot count what is left: %s", error)
                else:
                    left = (
                        n.in_flight or (n.ready + n.delayed and not n.paused)
                        for n in counts.values()
                    )
                    if not any(left):
                        _tell_what_is_left(counts)
                        return
            try:
                async with asyncio.timeout(DRAINED_CHECK):
                    await self._stop.wait()
            except TimeoutError:
                continue


def _tell_what_is_left(counts: Mapping[str, QueueStats]) -> None:
    for title, one in counts.items():
        if held_back := one.ready + one.delayed:
            logger.info("%s is paused: %d messages are left", title, held_back)


async def _wait(tasks: Tasks, seconds: float | None = None) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)


async def _end(tasks: Tasks) -> None:
    for task in tasks:
        task.cancel()
    await _wait(tasks)
