"""Both clients with one face, so that one set of tests holds for both.

A test is written against ``AsyncClient``; ``Blocking`` puts the blocking client behind the same
methods, each call in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Literal, Self, TypeVar, cast

import millstream as ms
from millstream.topic import Source

T = TypeVar("T")

Kind = Literal["async", "sync"]
KINDS: tuple[Kind, ...] = ("async", "sync")

Connect = Callable[..., Awaitable[ms.AsyncClient]]
"""Makes a connected client of the test's kind; it is closed after the test."""

PATIENCE = 30.0
"""Seconds after which a message that should have come is missing."""


class _InThreads:
    """An object's methods as coroutine functions; its other attributes as they are."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not callable(value):
            return value

        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(value, *arguments, **options)

        return call


_NO_MORE = object()


class Blocking(_InThreads):
    """A blocking client behind the methods of the async one."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.target.__enter__)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.target.__exit__, *error)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.target.close)

    def subscribe(self, topic: Any, name: str | None = None, **options: Any) -> Any:
        iterator = self.target.subscribe(topic, name, **options)
        return _Feed(iterator) if name is None else _deliveries(iterator)

    def receive(self, queue: Any, **options: Any) -> AsyncGenerator[Any, None]:
        return _deliveries(self.target.receive(queue, **options))

    def replay(self, topic: Any, **options: Any) -> AsyncGenerator[Any, None]:
        return _items(self.target.replay(topic, **options))

    def gather(self, endpoint: Any, body: Any, **options: Any) -> AsyncGenerator[Any, None]:
        return _items(self.target.gather(endpoint, body, **options))

    def request_stream(self, endpoint: Any, body: Any, **options: Any) -> AsyncGenerator[Any, None]:
        return _items(self.target.request_stream(endpoint, body, **options))


async def _items(items: Any) -> AsyncGenerator[Any, None]:
    """What a blocking iterator yields."""
    try:
        while (item := await asyncio.to_thread(next, items, _NO_MORE)) is not _NO_MORE:
            yield item
    finally:
        await asyncio.to_thread(items.close)


async def _deliveries(deliveries: Any) -> AsyncGenerator[Any, None]:
    """The deliveries of a blocking iterator."""
    try:
        while (delivery := await asyncio.to_thread(next, deliveries, None)) is not None:
            yield _Delivery(delivery)
    finally:
        await asyncio.to_thread(deliveries.close)


class _Delivery(_InThreads):
    """A blocking delivery behind the methods of the async one."""

    def transaction(self) -> Any:
        return _Transaction(self.target.transaction())


class _Transaction:
    """A blocking transaction as an async block; its methods only take note, and wait for nothing."""

    def __init__(self, target: Any) -> None:
        self.target = target

    async def __aenter__(self) -> Any:
        return await asyncio.to_thread(self.target.__enter__)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.target.__exit__, *error)


class _Feed(_InThreads):
    """A blocking feed behind the methods of the async one."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.target.__enter__)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.target.__exit__, *error)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.target.close)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await asyncio.to_thread(next, self.target, None)
        if item is None:
            raise StopAsyncIteration
        return item


def make(kind: Kind, source: object, **options: Any) -> ms.AsyncClient:
    """Make a client of either kind, not connected yet."""
    if kind == "async":
        return ms.AsyncClient(source, **options)
    return cast("ms.AsyncClient", Blocking(ms.Client(source, **options)))


@asynccontextmanager
async def connecting(kind: Kind, url: str, namespace: str) -> AsyncIterator[Connect]:
    """What makes clients, by default of this server and namespace."""
    async with AsyncExitStack() as stack:

        async def connect(source: object = url, **options: Any) -> ms.AsyncClient:
            client = make(kind, source, **{"namespace": namespace, **options})
            stack.push_async_callback(client.aclose)
            await client.connect()
            return client

        yield connect


async def take(
    mq: ms.AsyncClient, queue: Source[T], count: int = 1, **options: Any
) -> list[ms.Delivery[T]]:
    """Receive so many deliveries (fewer when no more come) and leave them unsettled."""
    taken: list[ms.Delivery[T]] = []
    options = {"wait": PATIENCE, "prefetch": max(1, count), **options}
    async with aclosing(mq.receive(queue, **options)) as deliveries:
        async for delivery in deliveries:
            taken.append(delivery)
            if len(taken) == count:
                break
    return taken


async def take_one(mq: ms.AsyncClient, queue: Source[T], **options: Any) -> ms.Delivery[T]:
    """Receive one delivery, which must come."""
    taken = await take(mq, queue, **options)
    assert taken, f"no message came from {queue.name!r}"
    return taken[0]


async def drain(mq: ms.AsyncClient, queue: Source[T], **options: Any) -> list[ms.Delivery[T]]:
    """Receive and acknowledge all that is there now."""
    drained: list[ms.Delivery[T]] = []
    async for delivery in mq.receive(queue, **{"wait": 0, **options}):
        await delivery.ack()
        drained.append(delivery)
    return drained


async def counts(mq: ms.AsyncClient, queue: Source[Any]) -> tuple[int, int, int, int]:
    """Ready, delayed, in flight, dead."""
    stats = await mq.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead
