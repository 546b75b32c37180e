"""Work that goes on beside its owner, on asyncio: a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["AsyncBackground"]


class AsyncBackground:
    """A task that was begun; its owner tells it to end, and waits for that.

    Args:
        main: what it does.
        name: of the task.
    """

    def __init__(self, main: Callable[[], Awaitable[None]], name: str) -> None:
        self._task: asyncio.Future[None] = asyncio.ensure_future(main())
        if isinstance(self._task, asyncio.Task):
            self._task.set_name(name)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended: somebody who cancels all tasks may have cancelled it."""
        return not self._task.done()

    async def join(self, seconds: float) -> None:
        """Wait for its end; after so many seconds it is cancelled."""
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
