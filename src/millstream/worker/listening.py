"""Handlers of ephemeral topics: every worker gets every message, and there is nothing to settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from millstream.aio.client import AsyncClient
from millstream.errors import BrokerError, UsageError
from millstream.message import Heard, Missed
from millstream.policy import milliseconds
from millstream.topic import Topic
from millstream.worker.calls import limited, wrapped
from millstream.worker.functions import check_done, is_coroutine, name_of, returning, takes_two
from millstream.worker.handler import (
    ASYNC_CONCURRENCY,
    THREADS,
    Middleware,
    Options,
    check_numbers,
)
from millstream.worker.handling import Call
from millstream.worker.threads import ThreadSlots

__all__ = ["Listener", "Listening", "OnMissed", "declare_listener"]

logger = logging.getLogger("millstream.worker")

OnMissed = Callable[[Missed], Awaitable[None]]

BUFFER = 1000
PAUSE = 1.0
"""Seconds between tries to listen again, each of which takes the client's timeout."""


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """How one ephemeral topic is handled.

    Attributes:
        topic: or pattern.
        function: ``async def`` or ``def``, of a body and, if it likes, a ``Heard``.
        is_async: which of the two.
        takes_heard: whether it has a second parameter.
        concurrency: how many messages it handles at a time.
        buffer: how many wait for it at most.
        timeout: seconds for one call; None: no limit.
    """

    topic: Topic[Any]
    function: Callable[..., Any]
    is_async: bool
    takes_heard: bool
    concurrency: int
    buffer: int
    timeout: float | None

    @property
    def name(self) -> str:
        """Of the function, for logs."""
        return name_of(self.function)


def declare_listener(topic: Topic[Any], function: Callable[..., Any], options: Options) -> Listener:
    """Check what was declared and fill in defaults.

    Raises:
        UsageError: it names the function and the parameter.
    """
    name = name_of(function)
    given = {
        "subscription": options.subscription,
        "retry": options.retry,
        "batch": options.batch,
        "batch_wait": options.batch_wait,
        **options.beginning,
    }
    for parameter, value in given.items():
        if value is not None:
            message = (
                f"worker.on({name}): {parameter} needs messages that are kept, and {topic.title} "
                "keeps none (durable=False)"
            )
            raise UsageError(message)
    check_numbers(options, name)
    timeout = options.timeout
    if timeout is not None:
        timeout = milliseconds(timeout, f"worker.on({name}): timeout", minimum=0.001) / 1000
    is_async = is_coroutine(function, name)
    return Listener(
        topic=topic,
        function=function,
        is_async=is_async,
        takes_heard=takes_two(function, name),
        concurrency=options.concurrency or (ASYNC_CONCURRENCY if is_async else THREADS),
        buffer=options.prefetch or BUFFER,
        timeout=timeout,
    )


class Listening:
    """One listener at work. ``start`` makes it, ``stop`` and ``finish`` end it.

    Args:
        mq: the client.
        listener: as declared.
        middleware: around each call.
        on_missed: called when messages are missing; None: the log says so.
    """

    def __init__(
        self,
        mq: AsyncClient,
        listener: Listener,
        middleware: Sequence[Middleware],
        on_missed: OnMissed | None,
    ) -> None:
        self._listener = listener
        self._on_missed = on_missed
        self._threads: ThreadSlots | None = None
        if not listener.is_async:
            self._threads = ThreadSlots(listener.concurrency, f"millstream-{listener.topic.name}")
        self._call = _build_call(listener, self._threads, middleware)
        self._mq = mq
        self._feed = mq.subscribe(listener.topic, buffer=listener.buffer)
        self._permits = asyncio.Semaphore(listener.concurrency)
        self._running: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._unsaid = 0
        self._said = 0.0

    @classmethod
    async def start(
        cls,
        mq: AsyncClient,
        listener: Listener,
        middleware: Sequence[Middleware],
        on_missed: OnMissed | None,
    ) -> Listening:
        """Listen from now on.

        Raises:
            BrokerError: the server cannot be reached, or the user may not listen.
        """
        one = cls(mq, listener, middleware, on_missed)
        await one._feed.__aenter__()
        return one

    async def run(self) -> None:
        """Work until stopped."""
        pump = asyncio.create_task(self._pump(), name="millstream-listening")
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([pump, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            both = (pump, stopped)
            for task in both:
                task.cancel()
            await asyncio.wait(both)
            await self._feed.aclose()
        if not pump.cancelled():
            pump.result()

    def stop(self) -> None:
        """Begin with no message any more. What waits is gone."""
        self._stop.set()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - at the end it cancels handlers, not itself
        """Give running handlers some time.

        Args:
            timeout: seconds until coroutines are cancelled.
        """
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=timeout)
        finally:
            for task in self._running:
                task.cancel()
            if self._threads is not None:
                self._threads.close()
        if self._running:
            # A handler may refuse to be cancelled.
            await asyncio.wait(self._running, timeout=5)

    async def let_go(self) -> None:
        """Listen no more. Safe to repeat."""
        await self._feed.aclose()

    async def _pump(self) -> None:
        while True:
            try:
                async for event in self._feed:
                    if isinstance(event, Missed):
                        await self._tell(event)
                    else:
                        await self._permits.acquire()
                        self._begin(self._handle(event)).add_done_callback(
                            lambda _: self._permits.release()
                        )
            except BrokerError as error:
                topic = self._listener.topic.title
                logger.warning("cannot listen to %s, trying again: %s", topic, error)
            else:
                # Only the client's end ends it.
                return
            await asyncio.sleep(PAUSE)
            await self._listen_again()

    async def _listen_again(self) -> None:
        self._feed = self._mq.subscribe(self._listener.topic, buffer=self._listener.buffer)
        try:
            await self._feed.__aenter__()
        except BrokerError:
            # Its next step says it again, and is logged.
            return
        await self._tell(Missed(reconnected=True))

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _handle(self, heard: Heard[Any]) -> None:
        try:
            result = await self._call(heard.body, heard)
            if result is not None:
                check_done(self._listener.function, result)
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException:
            logger.exception("%s failed with a message of %r", self._listener.name, heard.topic)

    async def _tell(self, missed: Missed) -> None:
        """Tell of a gap, before the message behind it is handled."""
        self._unsaid += missed.dropped
        # A handler that is too slow all the time must not fill the log, too.
        if missed.reconnected or time.monotonic() - self._said >= 1:
            lost = "the connection was lost; " if missed.reconnected else ""
            title, self._said = self._listener.topic.title, time.monotonic()
            logger.warning("%s: %sdropped %d messages", title, lost, self._unsaid)
            self._unsaid = 0
        if self._on_missed is not None:
            # Stopped meanwhile, it goes on as handlers do.
            await asyncio.wait([self._begin(self._call_on_missed(self._on_missed, missed))])

    async def _call_on_missed(self, function: OnMissed, missed: Missed) -> None:
        try:
            await function(missed)
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException:
            logger.exception("on_missed of %s failed", self._listener.topic.title)


def _build_call(
    listener: Listener, threads: ThreadSlots | None, middleware: Sequence[Middleware]
) -> Call:
    """Compose what runs for each message."""
    call = _plain(listener, threads)
    if threads is None and listener.timeout is not None:
        call = limited(call, listener.timeout)
    for layer in reversed(middleware):
        call = wrapped(layer, call)
    return call


def _plain(listener: Listener, threads: ThreadSlots | None) -> Call:
    function, timeout = listener.function, listener.timeout
    if threads is not None:
        function = returning(function)
    call: Call = function if listener.takes_heard else lambda body, _: function(body)
    if threads is None:
        return call

    async def in_thread(body: Any, heard: Any) -> None:
        await threads.run(lambda: call(body, heard), timeout)

    return in_thread
