"""Threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from millstream.worker.handler import Handler

__all__ = ["ThreadSlots", "threads_of"]

logger = logging.getLogger("millstream.worker")

START_AGAIN = 1.0
"""Seconds until a thread is tried to be started again that the system has refused."""


class _Job:
    """One call, from the loop's order to its outcome."""

    __slots__ = ("context", "done", "function", "future", "guard", "interruption", "thread")

    def __init__(self, function: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.function = function
        self.future = future
        self.context = contextvars.copy_context()
        self.guard = threading.Lock()
        self.thread: int | None = None
        self.done = False
        self.interruption: type[BaseException] | None = None


class ThreadSlots:
    """Runs functions in threads; their outcomes come back to the loop in bunches.

    Args:
        count: most threads; they start when they are needed.
        name: for their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        self._collecting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._start_at = 0.0
        self._busy = 0
        self._running: dict[bytes, _Job] = {}

    async def run(
        self,
        function: Callable[[], Any],
        timeout: float | None,  # noqa: ASYNC109 - it ends the call in the thread, where a cancellation cannot reach
        token: bytes = b"",
    ) -> Any:
        """Call a function in a thread and return its result.

        Args:
            function: to call.
            timeout: seconds after which TimeoutError is raised in the function, at its next line
                of Python. What blocks in C (such as a sleep) ends first.
            token: by which it can be interrupted.

        Raises:
            TimeoutError: it took longer, also if it ended well in spite of that.
            CancelledError: it was interrupted, also if it ended well in spite of that.
            RuntimeError: there is no thread, and the system lets none be started.
            Whatever the function raises.
        """
        if self._busy >= len(self._threads) < self._count:
            self._start()
        job = self._running[token] = _Job(function, asyncio.Future(loop=self._loop))
        self._busy += 1
        self._jobs.put(job)
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(timeout, _interrupt, job, TimeoutError)
        try:
            return await job.future
        except asyncio.CancelledError:
            _do_not_begin(job)
            raise
        finally:
            self._running.pop(token, None)
            if timer is not None:
                timer.cancel()

    def _start(self) -> None:
        """Start one more thread. If the system has none to give, those that there are do the work."""
        if self._threads and time.monotonic() < self._start_at:
            return
        count = len(self._threads)
        thread = threading.Thread(target=self._work, name=f"{self._name}-{count}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise
            self._start_at = time.monotonic() + START_AGAIN
            logger.warning("%s: %s; handlers wait for the %d there are", self._name, error, count)
        else:
            self._threads.append(thread)

    def interrupt(self, token: bytes) -> bool:
        """Raise CancelledError in a function at its next line of Python; False: none runs."""
        job = self._running.get(token)
        if job is None:
            return False
        _interrupt(job, asyncio.CancelledError)
        return True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = _run(job)
            # Who finds the list empty wakes the loop; two that finish together must agree on one.
            with self._collecting:
                first = not self._outcomes
                self._outcomes.append((job, result, error))
            if first:
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:
                    # The loop is closed: the worker was stopped without waiting for us.
                    return

    def _collect(self) -> None:
        with self._collecting:
            outcomes, self._outcomes = self._outcomes, []
        for job, result, error in outcomes:
            self._busy -= 1
            if job.future.done():
                continue
            if job.interruption is not None:
                late = job.interruption is TimeoutError
                message = "the handler took longer than its timeout" if late else "cancelled"
                interruption = job.interruption(message)
                interruption.__cause__ = error
                job.future.set_exception(interruption)
            elif error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)

    def close(self) -> None:
        """Let the threads end after what they do now. It does not wait for them."""
        for _ in self._threads:
            self._jobs.put(None)


def _run(job: _Job) -> tuple[Any, BaseException | None]:
    """Call the function; an interruption may hit anywhere in here, and must not leave."""
    result: Any = None
    error: BaseException | None = None
    try:
        with job.guard:
            job.thread = threading.get_ident()
            if job.interruption is not None:
                # Its time was over before a thread was free.
                return None, None
        try:
            result = job.context.run(job.function)
        except BaseException as problem:  # noqa: BLE001 - it is handed to the loop
            error = problem
        with job.guard:
            job.done = True
            if job.interruption is not None:
                # It may still be on its way; the next job must not get it.
                _raise_in(threading.get_ident(), None)
    except (TimeoutError, asyncio.CancelledError) as late:
        job.done = True
        error = error or late
    if isinstance(error, StopIteration):
        # A future cannot carry it.
        wrapped = RuntimeError("the handler raised StopIteration")
        wrapped.__cause__ = error
        error = wrapped
    return result, error


def _interrupt(job: _Job, exception: type[BaseException]) -> None:
    """Raise an exception in the job's thread, if it still runs; the first one counts."""
    with job.guard:
        if not job.done and job.interruption is None:
            job.interruption = exception
            if job.thread is not None:
                _raise_in(job.thread, exception)


def _do_not_begin(job: _Job) -> None:
    """Nobody waits for a call any more: if it has not begun, it must not; if it has, it goes on."""
    with job.guard:
        if job.thread is None and job.interruption is None:
            job.interruption = asyncio.CancelledError


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """CPython's one way to reach a running thread; None takes it back."""
    argument = ctypes.py_object(exception) if exception is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), argument)


def threads_of(handler: Handler) -> ThreadSlots | None:
    """Return threads for a plain function; None for a coroutine."""
    if handler.is_async:
        return None
    return ThreadSlots(handler.concurrency, f"millstream-{handler.queue.name}")
