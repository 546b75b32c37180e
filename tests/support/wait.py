"""Wait until something is true. Nothing else in the suite waits, so no test guesses a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, overload

T = TypeVar("T")


def until(
    predicate: Callable[[], T],
    timeout: float = 30,
    every: float | None = None,
    *,
    message: str = "",
) -> T:
    """Call `predicate` until its result is true, and return that result.

    It is called `every` so many seconds; by default soon, and less often when it takes longer: what
    it asks may cost the others on this machine something.

    Raises AssertionError with `message` (or the name of the predicate) and the last result.
    """
    deadline, pauses = time.monotonic() + timeout, _pauses(every)
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(_explain(predicate, result, timeout, message))
        time.sleep(next(pauses))


@overload
async def auntil(
    predicate: Callable[[], Awaitable[T]],
    timeout: float = 30,  # noqa: ASYNC109 - the same signature as until()
    every: float | None = None,
    *,
    message: str = "",
) -> T: ...
@overload
async def auntil(
    predicate: Callable[[], T],
    timeout: float = 30,  # noqa: ASYNC109 - the same signature as until()
    every: float | None = None,
    *,
    message: str = "",
) -> T: ...
async def auntil(
    predicate: Callable[[], Awaitable[T] | T],
    timeout: float = 30,  # noqa: ASYNC109 - the same signature as until()
    every: float | None = None,
    *,
    message: str = "",
) -> T:
    """Like `until`, for a running event loop; the predicate may return an awaitable."""
    deadline, pauses = time.monotonic() + timeout, _pauses(every)
    while True:
        answer = predicate()
        result = await answer if inspect.isawaitable(answer) else answer
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(_explain(predicate, result, timeout, message))
        await asyncio.sleep(next(pauses))


def _pauses(every: float | None) -> Iterator[float]:
    pause = 0.005 if every is None else every
    while True:
        yield pause
        if every is None:
            pause = min(pause * 1.2, 0.025)


def _explain(predicate: object, result: object, timeout: float, message: str) -> str:
    condition = message or getattr(predicate, "__qualname__", repr(predicate))
    return f"not within {timeout:g} s: {condition} (last result: {result!r})"
