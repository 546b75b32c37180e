"""A lock that was let go for a call, and must be held again after it."""

from __future__ import annotations

import threading

__all__ = ["take_back"]


def take_back(guard: threading.Condition) -> None:
    """Get a guard back, also if Ctrl-C comes just then: without it, others would wait for ever."""
    interrupt: BaseException | None = None
    while not guard._is_owned():  # type: ignore[attr-defined] # noqa: SLF001 - as Condition asks itself
        try:
            guard.acquire()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            interrupt = error
    if interrupt is not None:
        raise interrupt
