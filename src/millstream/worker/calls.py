"""From a declared handler to one awaitable call: thread or coroutine, timeout, middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from millstream.aio.delivery import Delivery, Owner
from millstream.errors import UsageError
from millstream.protocol.draft import Draft
from millstream.protocol.settlement import Settlement
from millstream.protocol.transaction import Committed
from millstream.sync.delivery import SyncDelivery
from millstream.worker.answering import Answering, as_answer, in_thread
from millstream.worker.following import Following
from millstream.worker.functions import name_of, returning
from millstream.worker.generators import over_loop, over_thread
from millstream.worker.handler import Handler, Middleware
from millstream.worker.handling import Call, Holder
from millstream.worker.resulting import Resulting
from millstream.worker.threads import ThreadSlots

__all__ = ["build_call", "limited", "wrapped"]


def build_call(
    handler: Handler,
    middleware: Sequence[Middleware],
    threads: ThreadSlots | None,
    holder: Holder,
    answering: Answering | None = None,
    resulting: Resulting | None = None,
) -> Call:
    """Compose what runs for each message or batch. Without options, it is the handler itself.

    Args:
        handler: as declared.
        middleware: the first is the outermost.
        threads: where plain functions run.
        holder: of the deliveries.
        answering: of an endpoint; None: the handler is of a queue.
        resulting: of a queue with results; None: what the handler returns is dropped.
    """
    if threads is None:
        call = over_loop(handler) if handler.streams else _as_coroutine(handler)
        if handler.timeout is not None:
            call = limited(call, handler.timeout)
    elif handler.streams:
        call = over_thread(handler, threads)
    else:
        plain = replace(handler, function=returning(handler.function))
        if answering is None:
            call = _in_thread(plain, threads, holder)
        else:
            call = in_thread(plain, threads)
    if answering is not None and not handler.streams:
        call = as_answer(handler, call)
    elif resulting is not None:
        call = resulting.around(call)
    for layer in reversed(middleware):
        call = wrapped(layer, call)
    return call if answering is None else answering.around(call)


def _as_coroutine(handler: Handler) -> Call:
    function = handler.function
    if handler.takes_delivery:
        return function
    return lambda body, _: function(body)


def limited(inner: Call, seconds: float) -> Call:
    """Cancel a coroutine that takes longer."""

    async def limited(body: Any, delivery: Any) -> Any:
        async with asyncio.timeout(seconds) as limit:
            result = await inner(body, delivery)
        if limit.expired():
            # It has swallowed its cancellation. It was too late, as a thread would be.
            message = "the handler took longer than its timeout"
            raise TimeoutError(message)
        return result

    return limited


def wrapped(layer: Middleware, inner: Call) -> Call:
    """Put a middleware around a call.

    It may do without the call, but not begin it and forget it.
    """
    name = name_of(layer)

    async def wrapped(body: Any, delivery: Any) -> None:
        following = Following(inner, body, delivery)
        try:
            await layer(delivery, following)
        finally:
            forgotten = following.close()
        if forgotten:
            message = (
                f"middleware {name}: it has called call_next() and not awaited it, so the handler has not "
                "run: await call_next()"
            )
            raise UsageError(message)

    return wrapped


def _in_thread(handler: Handler, threads: ThreadSlots, owner: Owner) -> Call:
    function, timeout = handler.function, handler.timeout
    token_of = _envelope_token if handler.batch is None else _first_token
    if not handler.takes_delivery:

        async def call(body: Any, delivery: Any) -> Any:
            return await threads.run(lambda: function(body), timeout, token_of(delivery))

        return call

    bridge = _Bridge(owner, asyncio.get_running_loop())

    def blocking(delivery: Delivery[Any]) -> SyncDelivery[Any]:
        envelope = delivery.envelope
        return SyncDelivery(delivery.body, envelope, handler.queue, handler.retry, bridge)

    async def call_with_delivery(body: Any, delivery: Any) -> Any:
        if handler.batch is None:
            argument: Any = blocking(delivery)
        else:
            argument = [blocking(one) for one in delivery]
        return await threads.run(lambda: function(body, argument), timeout, token_of(delivery))

    return call_with_delivery


_envelope_token: Callable[[Any], bytes] = attrgetter("envelope.token")
"""What a thread can be interrupted by."""


def _first_token(deliveries: list[Delivery[Any]]) -> bytes:
    """Return what a thread with a batch can be interrupted by."""
    # Middleware may have taken deliveries out of the list.
    return deliveries[0].envelope.token if deliveries else b""


class _Bridge:
    """Lets a handler in a thread settle its delivery, which the event loop owns."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self.partition = owner.partition

    def holds(self, token: bytes) -> bool:
        """Tell whether the delivery is still ours, as far as is known."""
        return self._owner.holds(token)

    def settle(self, end: Settlement) -> bool:
        """End a delivery; False: it was not ours any more."""
        return asyncio.run_coroutine_threadsafe(self._owner.settle(end), self._loop).result()

    def commit(self, end: Settlement, draft: Draft) -> Committed | None:
        """Do what a draft says and end its delivery; None: it was not ours any more."""
        return asyncio.run_coroutine_threadsafe(self._owner.commit(end, draft), self._loop).result()

    def extend(self, token: bytes, lease_ms: int) -> bool:
        """Begin the lease anew; False: it is lost."""
        extending = self._owner.extend(token, lease_ms)
        return asyncio.run_coroutine_threadsafe(extending, self._loop).result()
