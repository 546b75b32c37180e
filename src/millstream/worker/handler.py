"""A handler as declared: the function, its queue, and how it is to be run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from millstream.declare import Queue
from millstream.errors import UsageError
from millstream.policy import Duration, Retry, milliseconds

__all__ = ["Handler", "Middleware", "declare_handler"]

Middleware = Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""``async def middleware(delivery, call_next)``: it awaits ``call_next()`` or raises."""

ASYNC_CONCURRENCY = 100
THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """How one queue is handled.

    Attributes:
        queue: where the messages come from.
        function: ``async def`` or ``def``, of a body and, if it likes, a delivery.
        is_async: which of the two.
        takes_delivery: whether it has a second parameter.
        concurrency: how many messages it handles at a time.
        prefetch: how many messages to hold, those in hand included; None: adapt.
        timeout: seconds for one message; None: no limit.
        retry: attempts, backoff, crash limit.
    """

    queue: Queue[Any]
    function: Callable[..., Any]
    is_async: bool
    takes_delivery: bool
    concurrency: int
    prefetch: int | None
    timeout: float | None
    retry: Retry


def declare_handler(
    queue: Queue[Any],
    function: Callable[..., Any],
    *,
    concurrency: int | None,
    prefetch: int | None,
    timeout: Duration | None,
    retry: Retry | None,
) -> Handler:
    """Check what was declared and fill in defaults.

    Raises:
        UsageError: it names the function and the parameter.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not isinstance(queue, Queue):
        message = f"worker.on({name}): expected a Queue, not {type(queue).__name__}"
        raise UsageError(message)
    kinds = (function, getattr(function, "__call__", None))  # noqa: B004 - an object may be a handler
    if any(inspect.isgeneratorfunction(it) or inspect.isasyncgenfunction(it) for it in kinds):
        # Called, it would only make a generator, and every message would be lost.
        message = f"worker.on: {name} yields; the handler of a queue must return"
        raise UsageError(message)
    is_async = any(inspect.iscoroutinefunction(it) for it in kinds)
    for parameter, value in (("concurrency", concurrency), ("prefetch", prefetch)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            message = f"worker.on({name}): {parameter} must be a number from 1, not {value!r}"
            raise UsageError(message)
    if retry is not None and not isinstance(retry, Retry):
        message = f"worker.on({name}): retry must be a Retry, not {retry!r}"
        raise UsageError(message)
    seconds = None
    if timeout is not None:
        seconds = milliseconds(timeout, f"worker.on({name}): timeout", minimum=0.001) / 1000
    return Handler(
        queue=queue,
        function=function,
        is_async=is_async,
        takes_delivery=_parameters(function, name) == 2,  # noqa: PLR2004 - body and delivery
        concurrency=concurrency or (ASYNC_CONCURRENCY if is_async else THREADS),
        prefetch=prefetch,
        timeout=seconds,
        retry=retry or queue.retry,
    )


def _parameters(function: Callable[..., Any], name: str) -> int:
    """Count the parameters that are passed by position: one or two."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(function)
    required = 0
    possible = 0
    for parameter in signature.parameters.values():
        if parameter.kind in kinds:
            possible += 1
            required += parameter.default is inspect.Parameter.empty
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            possible += 2
        elif (
            parameter.kind is inspect.Parameter.KEYWORD_ONLY
            and parameter.default is inspect.Parameter.empty
        ):
            possible = 0
            break
    count = max(required, 1)
    if not count <= possible or count > 2:  # noqa: PLR2004 - body and delivery
        message = f"worker.on: {name}{signature} must take a body, or a body and a delivery"
        raise UsageError(message)
    return count
