"""An operation that goes on while its caller does something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from millstream.protocol.op import Op

__all__ = ["AsyncAhead"]

T = TypeVar("T")


class AsyncAhead(Generic[T]):
    """An operation that was begun.

    Args:
        run: what runs operations.
        op: it is sent at once.
    """

    def __init__(self, run: Callable[[Op[T]], Awaitable[Any]], op: Op[T]) -> None:
        self._task: asyncio.Future[T] = asyncio.ensure_future(run(op))

    async def result(self) -> T:
        """Wait for its end.

        Raises:
            BrokerError: see ``AsyncDriver.run``.
        """
        return await self._task

    async def drop(self) -> None:
        """Give it up: nobody wants the result."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # else asyncio would report one that nobody has seen
