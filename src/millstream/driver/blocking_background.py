"""Work that goes on beside its owner: a thread. The twin of ``aio_background``."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["BlockingBackground"]


class BlockingBackground:
    """A thread that was begun; its owner tells it to end, and waits for that.

    Args:
        main: what it does.
        name: of the thread.
    """

    def __init__(self, main: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=main, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for its end, or for so many seconds: it ends with the process in any case."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)
