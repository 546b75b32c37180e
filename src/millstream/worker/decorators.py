"""What ``worker.on`` and ``worker.every`` return, for type checkers: functions that fit what is declared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from millstream.policy import Duration, Retry
from millstream.worker.handler import Beginning

__all__ = ["Answers", "HandlerOptions", "Handles", "Makes"]

P = ParamSpec("P")
X = TypeVar("X")
T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")


class HandlerOptions(Beginning, total=False):
    """The keyword parameters of ``Worker.on``, but for ``batch``."""

    subscription: str | None
    concurrency: int | None
    prefetch: int | None
    timeout: Duration | None
    retry: Retry | None
    batch_wait: Duration | None


class Handles(Protocol[T]):
    """Takes a handler of bodies of a type, and returns it. Its second parameter is its own affair."""

    def __call__(
        self, function: Callable[Concatenate[T, P], X], /
    ) -> Callable[Concatenate[T, P], X]:
        """Return the function."""
        ...


class Answers(Protocol[Q, R]):
    """Takes a handler of requests of a type that gives replies of a type, and returns it."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Q, P], Coroutine[Any, Any, R]], /
    ) -> Callable[Concatenate[Q, P], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Q, P], AsyncIterator[R]], /
    ) -> Callable[Concatenate[Q, P], AsyncIterator[R]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Q, P], Iterator[R]], /
    ) -> Callable[Concatenate[Q, P], Iterator[R]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Q, P], R], /
    ) -> Callable[Concatenate[Q, P], R]: ...


class Makes(Protocol[T]):
    """Takes a function without parameters that makes bodies of a type, and returns it."""

    @overload
    def __call__(
        self, function: Callable[[], Coroutine[Any, Any, T]], /
    ) -> Callable[[], Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, function: Callable[[], T], /) -> Callable[[], T]: ...
