"""A handler that yields, as one call that lasts as long as its stream."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from contextlib import aclosing, closing
from typing import Any

from millstream.aio.request import Request
from millstream.sync.request import SyncRequest
from millstream.worker.answering import ThreadLine
from millstream.worker.handler import Handler
from millstream.worker.handling import Call
from millstream.worker.streaming import Stream
from millstream.worker.threads import ThreadSlots

__all__ = ["over_loop", "over_thread"]

LOOK = 0.2
"""Seconds between looks of a thread that waits for its consumer: in between it can be interrupted."""


def over_loop(handler: Handler) -> Call:
    """Return a call that goes through an async generator, for a body and a ``Request``.

    When the caller leaves, what the generator awaits is cancelled; where it waits for room, it is closed.
    """
    function, takes = handler.function, handler.takes_delivery

    async def call(body: Any, request: Request[Any]) -> None:
        stream = _stream_of(request)
        parts = function(body, request) if takes else function(body)
        scope = asyncio.timeout(None)
        try:
            async with scope, aclosing(parts):
                stream.on_leave = lambda: scope.reschedule(0)
                try:
                    async for part in parts:
                        if not await stream.part(part):
                            break
                finally:
                    stream.on_leave = None
        except TimeoutError:
            if not scope.expired():
                raise

    return call


def over_thread(handler: Handler, threads: ThreadSlots) -> Call:
    """Return a call that goes through a generator in one thread, for a body and a ``Request``.

    When the caller leaves, CancelledError is raised in it at its next line; where it waits for room, it
    is closed.
    """
    function, timeout, takes = handler.function, handler.timeout, handler.takes_delivery
    loop = asyncio.get_running_loop()

    async def call(body: Any, request: Request[Any]) -> None:
        stream, answer = _stream_of(request), request.line
        arguments = [body]
        if takes:
            # It only looks at what both kinds of delivery have.
            delivery: Any = request.delivery
            line = ThreadLine(answer, loop)  # type: ignore[arg-type] # the line is an Answer
            arguments.append(SyncRequest(body, delivery, request.endpoint, line))

        def work() -> None:
            with closing(function(*arguments)) as parts:
                for part in parts:
                    loop.call_soon_threadsafe(stream.send, *stream.numbered(part))
                    if not stream.has_room and not _on_loop(stream.room(), loop):
                        break

        token: bytes = request.delivery.envelope.token
        stream.on_leave = lambda: threads.interrupt(token)
        try:
            await threads.run(work, timeout, token)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not stream.left or (task is not None and task.cancelling()):
                raise
        finally:
            stream.on_leave = None

    return call


def _stream_of(request: Request[Any]) -> Stream:
    line: Any = request.line
    stream: Stream = line.stream
    return stream


def _on_loop(going: Coroutine[Any, Any, bool], loop: asyncio.AbstractEventLoop) -> bool:
    """Wait in a thread for what the event loop does; an interruption of the thread ends that, too."""
    future = asyncio.run_coroutine_threadsafe(going, loop)
    try:
        while not future.done():
            concurrent.futures.wait([future], timeout=LOOK)
    except BaseException:
        future.cancel()
        raise
    return future.result()
