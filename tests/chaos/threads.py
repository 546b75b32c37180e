"""Threads that end when their process is told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence

__all__ = ["run_all"]


def run_all(threads: Sequence[threading.Thread]) -> None:
    """Start threads, and return when all of them have ended; for the main thread, which handles signals.

    When a process goes on after SIGSTOP, any of its threads may take a signal. One that another thread has
    taken does not end a wait of the main thread, which learns of it only when it looks up.
    """
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
