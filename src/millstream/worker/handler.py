"""A handler as declared: the function, what it handles, and how it is to be run."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from millstream.declare import Queue
from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.policy import Duration, Retry, milliseconds
from millstream.protocol.envelope import Envelope
from millstream.topic import Source, Start, Subscription, Topic
from millstream.worker.functions import is_coroutine, name_of, takes_two, yields

__all__ = [
    "Beginning",
    "Handler",
    "Middleware",
    "Options",
    "check_numbers",
    "check_target",
    "declare_handler",
]

Middleware = Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""``async def middleware(delivery, call_next)``: it awaits ``call_next()`` or raises.

Around a handler of batches it is called once a batch, with the list of deliveries.
"""

ASYNC_CONCURRENCY = 100
THREADS = 8
BATCHES = 1

LARGEST_BATCH = 10_000
BATCH_WAIT = 0.05


class Beginning(TypedDict, total=False):
    """What only a subscription is declared with; see ``Subscription``."""

    start: Start | datetime | str
    filter: str | None
    lease: Duration | None
    expires: Duration | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of a handler, unchecked; None: the default."""

    concurrency: int | None = None
    prefetch: int | None = None
    timeout: Duration | None = None
    retry: Retry | None = None
    batch: int | None = None
    batch_wait: Duration | None = None
    subscription: str | None = None
    beginning: Beginning = msgspec.field(default_factory=Beginning)
    tracebacks: bool = False


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """How one queue or subscription is handled.

    Attributes:
        queue: where the messages come from.
        function: ``async def`` or ``def``, of a body and, if it likes, a delivery; of lists of
            them if it handles batches. Of an endpoint it may be a generator.
        is_async: which of the two.
        takes_delivery: whether it has a second parameter.
        concurrency: how many messages, or batches, it handles at a time.
        prefetch: how many messages to hold, those in hand included; None: adapt.
        timeout: seconds for one call; None: no limit.
        retry: attempts, backoff, crash limit.
        batch: messages in a full batch; None: it handles single messages.
        batch_wait: seconds after which a batch begins that is not full.
        endpoint: whose requests are handled; None: it is the handler of a queue or subscription.
        streams: whether it is a generator, whose parts are a stream of replies.
        tracebacks: whether callers get to see tracebacks.
    """

    queue: Source[Any]
    function: Callable[..., Any]
    is_async: bool
    takes_delivery: bool
    concurrency: int
    prefetch: int | None
    timeout: float | None
    retry: Retry
    batch: int | None
    batch_wait: float
    endpoint: Endpoint[Any, Any] | None = None
    streams: bool = False
    tracebacks: bool = False

    @property
    def once(self) -> bool:
        """Whether nobody may get a message again with which this handler has begun."""
        return self.endpoint is not None and not self.endpoint.idempotent

    def is_too_late(self, envelope: Envelope, now_ms: float) -> bool:
        """Tell whether it is not to begin with a message any more: the time for that is over.

        Args:
            envelope: the message.
            now_ms: the server's time.
        """
        if self.endpoint is None or self.endpoint.must_finish:
            return envelope.expired(now_ms)
        # A deadline is one also after a crash.
        deadline = envelope.expiry
        return deadline is not None and deadline <= now_ms

    @property
    def room(self) -> int:
        """Messages to hold at the least: what is handled, and the batch that gathers meanwhile."""
        return self.concurrency if self.batch is None else (self.concurrency + 1) * self.batch


def declare_handler(
    target: Source[Any] | Topic[Any] | Endpoint[Any, Any],
    function: Callable[..., Any],
    options: Options,
) -> Handler:
    """Check what was declared and fill in defaults.

    Raises:
        UsageError: it names the function and the parameter.
    """
    name = name_of(function)
    endpoint = target if isinstance(target, Endpoint) else None
    if isinstance(target, Endpoint):
        _check_answering(f"worker.on({name})", target, options)
        target = target.queue
    queue = _source(f"worker.on({name})", target, options)
    streams = endpoint is not None and yields(function)
    is_async = is_coroutine(function, name, may_yield=endpoint is not None)
    check_numbers(options, name)
    _check_batch(f"worker.on({name})", queue, options)
    retry, timeout, wait = options.retry, options.timeout, options.batch_wait
    if retry is not None and not isinstance(retry, Retry):
        message = f"worker.on({name}): retry must be a Retry, not {retry!r}"
        raise UsageError(message)
    if retry is not None and queue.delivery == "at_most_once":
        message = (
            f"worker.on({name}): retry does not go with {queue.title}: it is declared with "
            'delivery="at_most_once", so nothing is tried again'
        )
        raise UsageError(message)
    if timeout is not None:
        timeout = milliseconds(timeout, f"worker.on({name}): timeout", minimum=0.001) / 1000
    if wait is not None:
        wait = milliseconds(wait, f"worker.on({name}): batch_wait") / 1000
    single = ASYNC_CONCURRENCY if is_async else THREADS
    return Handler(
        queue=queue,
        function=function,
        is_async=is_async,
        takes_delivery=takes_two(function, name),
        concurrency=options.concurrency or (single if options.batch is None else BATCHES),
        prefetch=options.prefetch,
        timeout=timeout,
        retry=retry or queue.retry,
        batch=options.batch,
        batch_wait=BATCH_WAIT if wait is None else wait,
        endpoint=endpoint,
        streams=streams,
        tracebacks=options.tracebacks,
    )


def _check_answering(where: str, endpoint: Endpoint[Any, Any], options: Options) -> None:
    """Refuse what makes no sense where each message gets a reply of its own, and is tried once."""
    for parameter in ("retry", "batch", "batch_wait"):
        if getattr(options, parameter) is not None:
            message = f"{where}: {parameter} is for queues and topics, and this is {endpoint.title}"
            raise UsageError(message)


def _check_batch(where: str, queue: Source[Any], options: Options) -> None:
    """Refuse batches where each message may have to get a result of its own."""
    if options.batch is not None and queue.results is not None:
        message = (
            f"{where}: batch does not go with {queue.title}: it is declared with results, and what a "
            "handler of batches returns is no single message's result"
        )
        raise UsageError(message)


def check_target(target: object) -> None:
    """Refuse what has no handlers, before there is a function: it may be the function itself.

    Raises:
        UsageError: it is none of the declarations.
    """
    if isinstance(target, Queue | Topic | Subscription | Endpoint):
        return
    shown = type(target).__name__
    if callable(target):
        shown = f"{name_of(target)}: say @worker.on(queue)"
    message = f"worker.on: expected a Queue, a Topic, a Subscription or an Endpoint, not {shown}"
    raise UsageError(message)


def _source(where: str, target: Source[Any] | Topic[Any], options: Options) -> Source[Any]:
    """Return what is to be handled: a topic has a subscription of this name."""
    name, given = options.subscription, sorted(options.beginning)
    if isinstance(target, Topic):
        if name is None:
            message = (
                f'{where}: say which subscription of {target.title}: subscription="name". Workers '
                "of the same name share its messages, each other name gets all of them"
            )
            raise UsageError(message)
        return Subscription(target, name, retry=options.retry, **options.beginning)
    for parameter in (["subscription"] if name is not None else []) + given:
        what = (
            "goes into topic.subscription(...) here"
            if isinstance(target, Subscription)
            else f"is for topics, and this is {target.title}"
        )
        message = f"{where}: {parameter} {what}"
        raise UsageError(message)
    return target


def check_numbers(options: Options, name: str) -> None:
    """Refuse numbers of messages that make no sense, alone or together."""
    for parameter in ("concurrency", "prefetch", "batch"):
        value = getattr(options, parameter)
        most = LARGEST_BATCH if parameter == "batch" else math.inf
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= most):
            bounds = "a number from 1" if most == math.inf else f"a number from 1 to {most}"
            message = f"worker.on({name}): {parameter} must be {bounds}, not {value!r}"
            raise UsageError(message)
    if options.batch is None:
        if options.batch_wait is not None:
            message = (
                f"worker.on({name}): batch_wait says how long a batch gathers; give batch, too"
            )
            raise UsageError(message)
    elif options.prefetch is not None and options.prefetch < options.batch:
        message = (
            f"worker.on({name}): prefetch must be at least the batch of {options.batch}, "
            f"not {options.prefetch!r}, or no batch is ever full"
        )
        raise UsageError(message)
