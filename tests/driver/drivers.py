"""Both drivers with one face, so that one set of tests holds for both; and commands to run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol, TypeVar, cast

from millstream.driver.aio import AsyncDriver
from millstream.driver.blocking import BlockingDriver
from millstream.protocol.op import Argument, Command, Op

T = TypeVar("T")

Kind = Literal["async", "blocking"]
KINDS: tuple[Kind, ...] = ("async", "blocking")


class Driver(Protocol):
    """What the tests need of a driver; the methods of ``AsyncDriver``."""

    @property
    def url(self) -> str: ...
    def open(self) -> Coroutine[Any, Any, None]: ...
    def run(self, op: Op[T]) -> Coroutine[Any, Any, T]: ...
    def drive(self, plan: Any) -> Coroutine[Any, Any, Any]: ...
    def close(self) -> Coroutine[Any, Any, None]: ...
    def sender(self, batch: Any) -> Sender: ...


class Sender(Protocol):
    """Group commit; the methods of ``AsyncSender``."""

    def send(self, body: bytes, headers: bytes = b"") -> Awaitable[Any]: ...
    def send_many(self, bodies: Any, headers: Any = None) -> Coroutine[Any, Any, list[Any]]: ...
    def close(self) -> Coroutine[Any, Any, None]: ...


class InThreads:
    """An object's methods as coroutine functions, each call in a thread."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not callable(value):
            return value

        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(value, *arguments, **options)

        return call

    def sender(self, batch: Any) -> Any:
        return InThreads(self.target.sender(batch))


def make(kind: Kind, source: object, *, connect_timeout: float = 5, timeout: float = 10) -> Driver:
    """Make a driver, not connected yet."""
    if kind == "async":
        return cast("Driver", AsyncDriver(source, connect_timeout=connect_timeout, timeout=timeout))
    blocking = BlockingDriver(source, connect_timeout=connect_timeout, timeout=timeout)
    return cast("Driver", InThreads(blocking))


@asynccontextmanager
async def opened(kind: Kind, source: object, **options: float) -> AsyncIterator[Driver]:
    """A driver that is connected, and closed at the end."""
    driver = make(kind, source, **options)
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


def first(replies: list[Any]) -> Any:
    return replies[0]


def op(*arguments: Argument, repeatable: bool = True) -> Op[Any]:
    """One command; the result is its reply."""
    return Op((Command(arguments),), decode=first, repeatable=repeatable)


def ops(*commands: tuple[Argument, ...]) -> Op[list[Any]]:
    """Several commands in one write; the result is their replies."""
    return Op(tuple(map(Command, commands)), decode=list)
