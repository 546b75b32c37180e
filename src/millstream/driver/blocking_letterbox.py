"""What waits for one thread until it is taken. The twin of ``aio_letterbox``."""

from __future__ import annotations

import queue
import threading
from typing import Generic, TypeVar

__all__ = ["BlockingLetterbox"]

T = TypeVar("T")


class BlockingLetterbox(Generic[T]):
    """Things in the order in which they came; one thread takes them."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()

    def put(self, item: T) -> None:
        """Leave something. It never waits."""
        self._items.put(item)

    def take(self, seconds: float) -> T | None:
        """Take the next one; None if none has come for so long.

        Args:
            seconds: how long; inf: for ever.
        """
        try:
            return self._items.get(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        except queue.Empty:
            return None
