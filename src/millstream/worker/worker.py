"""The worker as users see it: handlers are declared on it, and it runs until it is stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import tzinfo
from typing import Any, Literal, TypeVar, Unpack, overload

import msgspec

from millstream.aio.client import AsyncClient
from millstream.checks import check_ephemeral, check_options
from millstream.declare import Queue
from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.policy import Duration, Retry, milliseconds
from millstream.topic import Source, Topic
from millstream.worker.decorators import Answers, HandlerOptions, Handles, Makes
from millstream.worker.functions import check_hook, name_of
from millstream.worker.handler import (
    Beginning,
    Handler,
    Middleware,
    Options,
    check_target,
    declare_handler,
)
from millstream.worker.listening import Listener, OnMissed, declare_listener
from millstream.worker.recurrence import Recurrence, declare_recurrence
from millstream.worker.run import Run

__all__ = ["Worker"]

T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Hook = TypeVar("Hook", bound=Callable[[], Awaitable[None]])
M = TypeVar("M", bound=Middleware)
H = TypeVar("H", bound=OnMissed)


class Worker:
    """Handles messages of any number of queues and topics, and sends those of schedules.

    A handler takes the body, and the delivery if it has a second parameter. When it returns, the
    message is acknowledged. When it raises, the message is tried again by the retry policy, and
    goes to the dead letters after the last attempt. ``RetryLater`` and ``Reject`` say it
    explicitly. While it runs, the lease of its message is extended.

    Args:
        shutdown_timeout: seconds that running handlers get when the worker is stopped; then
            coroutines are cancelled and their messages handed back.
        tracebacks: whether a caller whose request fails gets the traceback, in ``RemoteError``.
            Default: no, for it shows what is inside.

    Guarantee: a message is handled at least once. Handlers should be idempotent.
    """

    def __init__(self, *, shutdown_timeout: Duration = 30.0, tracebacks: bool = False) -> None:
        self._tracebacks = tracebacks
        self._shutdown_timeout = milliseconds(shutdown_timeout, "shutdown_timeout") / 1000
        self._handlers: dict[str, Handler] = {}
        self._listeners: dict[str, Listener] = {}
        self._on_missed: dict[str, OnMissed] = {}
        self._recurrences: dict[tuple[str, str], Recurrence] = {}
        self._middleware: list[Middleware] = []
        self._startup: list[Callable[[], Awaitable[None]]] = []
        self._shutdown: list[Callable[[], Awaitable[None]]] = []
        self._run: Run | None = None

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """What was declared, in order."""
        return tuple(self._handlers.values())

    @property
    def client(self) -> AsyncClient:
        """The client that the worker runs with, for handlers that send.

        Raises:
            UsageError: the worker does not run.
        """
        if self._run is None or self._run.over:
            message = "worker.client is there while the worker runs"
            raise UsageError(message)
        return self._run.client

    @overload
    def on(self, source: Endpoint[Q, R], **options: Unpack[HandlerOptions]) -> Answers[Q, R]: ...

    @overload
    def on(
        self,
        source: Source[T] | Topic[T],
        *,
        batch: None = ...,
        **options: Unpack[HandlerOptions],
    ) -> Handles[T]: ...

    @overload
    def on(
        self, source: Source[T] | Topic[T], *, batch: int, **options: Unpack[HandlerOptions]
    ) -> Handles[list[T]]: ...

    # Where it is not known before whether a batch is wanted.
    @overload
    def on(
        self,
        source: Source[T] | Topic[T],
        *,
        batch: int | None,
        **options: Unpack[HandlerOptions],
    ) -> Handles[Any]: ...

    def on(
        self,
        source: Source[Any] | Topic[Any] | Endpoint[Any, Any],
        *,
        subscription: str | None = None,
        concurrency: int | None = None,
        prefetch: int | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        batch: int | None = None,
        batch_wait: Duration | None = None,
        **beginning: Unpack[Beginning],
    ) -> Any:
        """Declare a handler: an ``async def``, or a ``def``, which runs in threads.

        It decorates the function and leaves it as it is.

        Args:
            source: a queue, a topic, ``topic.subscription(...)``, or an endpoint (see there).
            subscription: of a topic: its name. Workers of the same name share its messages. An
                ephemeral topic has none: each worker gets all, and ``prefetch`` (1000) may wait.
            concurrency: messages, or batches, at a time. Default: 100 coroutines, 8 threads; 1 batch.
            prefetch: messages to hold, those in hand included. Default: adapted to the handler.
            timeout: seconds for one call; longer is a TimeoutError, in a thread at its next line.
            retry: instead of the policy of the queue or topic.
            batch: hand over lists of up to so many (to 10,000); all it has not settled ends alike.
            batch_wait: seconds until a batch that is not full begins. Default: 0.05; 0: at once.
            beginning: ``start``, ``filter``, ``lease``, ``expires``: see ``Subscription``.

        Raises:
            UsageError: the source has a handler here, or a parameter makes no sense.
        """
        check_target(source)
        options = Options(
            concurrency=concurrency,
            prefetch=prefetch,
            timeout=timeout,
            retry=retry,
            batch=batch,
            batch_wait=batch_wait,
            subscription=subscription,
            beginning=beginning,
            tracebacks=self._tracebacks,
        )

        def declare(function: F) -> F:
            self._declare(source, function, options)
            return function

        return declare

    def on_missed(self, topic: Topic[Any]) -> Callable[[H], H]:
        """Call an ``async def`` with a ``Missed`` when this worker did not get all of a topic.

        Args:
            topic: an ephemeral one (``durable=False``) that has a handler in this worker.

        Returns:
            A decorator that leaves the function as it is. The next message is handled when the
            function has ended. An exception is logged.

        Raises:
            UsageError: it is no such topic; with ``run``: it has no handler here.
        """
        check_ephemeral(topic)

        def declare(function: H) -> H:
            check_hook(function, f"worker.on_missed({name_of(function)})", "a Missed", 1)
            self._on_missed[topic.name] = function
            return function

        return declare

    def _declare(
        self,
        source: Source[Any] | Topic[Any] | Endpoint[Any, Any],
        function: Callable[..., Any],
        options: Options,
    ) -> None:
        check_options("on", options.beginning, Beginning.__optional_keys__)
        declared: Any
        known: dict[str, Any]
        if isinstance(source, Topic) and not source.durable:
            declared, known = declare_listener(source, function, options), self._listeners
            target: Any = source
        else:
            declared, known = declare_handler(source, function, options), self._handlers
            target = declared.queue
        if target.name in known:
            message = f"{target.title} has a handler in this worker already"
            raise UsageError(message)
        known[target.name] = declared

    def every(
        self,
        spec: str | Duration,
        queue: Queue[T],
        *,
        tz: str | tzinfo = "UTC",
        missed: Literal["skip", "one", "all"] = "skip",
        name: str | None = None,
    ) -> Makes[T]:
        """Send a message at each tick: what the function returns, an ``async def`` or a ``def``.

        The message has the headers ``schedule`` and ``tick`` (ISO 8601). A tick that is more than
        10 s late is missed, such as when no worker ran. A function that raises is called again
        after 1 s, 2 s, and so on, here or by other workers, until its tick is missed.

        Args:
            spec: a cron expression of five fields, seconds from 0.1, or a timedelta. Ticks of an
                interval are its multiples since 1970 (UTC).
            queue: where to send.
            tz: the time zone of a cron expression: its name, a ZoneInfo, or ``datetime.UTC``.
            missed: ``skip`` (default) them; send ``one`` message for all of them; or ``all``.
            name: of the schedule, unique in its queue. Default: the function's name.

        Returns:
            A decorator that leaves the function as it is.

        Raises:
            UsageError: a parameter makes no sense, or cron expressions need an extra.

        Guarantee: one message a tick however many workers run, through restarts and kill -9; never
        early, by the server's clock. The function may be called more often than that.
        """

        def declare(function: Callable[[], Any]) -> Any:
            one = declare_recurrence(spec, queue, function, tz=tz, missed=missed, name=name)
            if (queue.name, one.name) in self._recurrences:
                message = f"queue {queue.name!r} has a schedule {one.name!r} here: pass name="
                raise UsageError(message)
            self._recurrences[queue.name, one.name] = one
            return function

        return declare

    def middleware(self, function: M) -> M:
        """Put an ``async def`` of a delivery and ``call_next`` around every handler.

        It awaits ``call_next()`` once, or raises as a handler may. The first one declared is the
        outermost. Around a handler of batches it is called once a batch, with the list of
        deliveries; around one of an ephemeral topic, with the ``Heard``.

        Raises:
            UsageError: it is no ``async def`` of two parameters.
        """
        where = f"worker.middleware({name_of(function)})"
        check_hook(function, where, "a delivery and call_next", 2)
        self._middleware.append(function)
        return function

    def on_startup(self, function: Hook) -> Hook:
        """Call an ``async def`` without parameters before the first message is read.

        Raises:
            UsageError: it is none.
        """
        check_hook(function, f"worker.on_startup({name_of(function)})")
        self._startup.append(function)
        return function

    def on_shutdown(self, function: Hook) -> Hook:
        """Call an ``async def`` without parameters after the last message is settled.

        Raises:
            UsageError: it is none.
        """
        check_hook(function, f"worker.on_shutdown({name_of(function)})")
        self._shutdown.append(function)
        return function

    async def run(self, mq: AsyncClient | None = None, *, burst: bool = False) -> None:
        """Work until stopped or cancelled.

        Stopped, it reads no more, hands back what it has not begun, gives running handlers
        ``shutdown_timeout`` seconds, and settles. Cancelled, it does the same without that time.

        Args:
            mq: a client, which stays open. Default: one of its own, by ``$MILLSTREAM_URL``.
            burst: stop when the queues are drained: nothing ready, delayed or in flight. What a
                paused queue holds back is left there, and schedules are left to other workers.

        Raises:
            UsageError: there is no handler and no schedule, the worker runs already, or the client
                is a blocking one.
            NotConnected: the server cannot be reached at the start. Later it keeps trying.
        """
        if mq is None:
            async with AsyncClient() as own:
                await self.run(own, burst=burst)
            return
        await self.prepare(mq).work(burst=burst)

    def prepare(
        self,
        mq: AsyncClient,
        *,
        concurrency: int | None = None,
        shutdown_timeout: float | None = None,
    ) -> Run:
        """Return a run of this worker, for those who need to see its consumers.

        Args:
            mq: the client.
            concurrency: for every handler, instead of what was declared.
            shutdown_timeout: seconds, instead of the worker's.

        Raises:
            UsageError: there is no handler and no schedule, or the worker runs already.
        """
        self._check_ready(mq)
        handlers, listeners = self.handlers, tuple(self._listeners.values())
        if concurrency is not None:
            handlers = tuple(
                msgspec.structs.replace(handler, concurrency=concurrency) for handler in handlers
            )
            listeners = tuple(
                msgspec.structs.replace(listener, concurrency=concurrency) for listener in listeners
            )
        self._run = Run(
            mq,
            handlers,
            listeners=listeners,
            on_missed=self._on_missed,
            recurrences=tuple(self._recurrences.values()),
            middleware=tuple(self._middleware),
            startup=tuple(self._startup),
            shutdown=tuple(self._shutdown),
            shutdown_timeout=(
                self._shutdown_timeout if shutdown_timeout is None else shutdown_timeout
            ),
        )
        return self._run

    def _check_ready(self, mq: object) -> None:
        """Refuse to run what has nothing to do, twice, or with something else than a client."""
        if not isinstance(mq, AsyncClient):
            message = f"worker.run: expected an AsyncClient, not {type(mq).__name__}"
            raise UsageError(message)
        if self._run is not None and not self._run.over:
            message = "this worker runs already"
            raise UsageError(message)
        if lost := sorted(self._on_missed.keys() - self._listeners.keys()):
            message = f"worker.on_missed: topic {lost[0]!r} has no handler in this worker"
            raise UsageError(message)
        if not (self._handlers or self._listeners or self._recurrences):
            message = "this worker has no handlers and no schedules: declare one with @worker.on"
            raise UsageError(message)

    def stop(self) -> None:
        """Ask a running worker to stop in order. Safe to repeat, and from signal handlers.

        Call it in the thread of the worker's event loop.
        """
        if self._run is not None:
            self._run.stop()
