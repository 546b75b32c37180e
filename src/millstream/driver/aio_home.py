"""Where a client for asyncio is at home: in the event loop that has used it first."""

from __future__ import annotations

from millstream.errors import UsageError

__all__ = ["elsewhere"]


def elsewhere() -> UsageError:
    """Return what is said to who uses it in another one: its connection and its timers are in the first."""
    return UsageError(
        "this client was used in another event loop before (asyncio.run() makes a new one each time, and a "
        "forked process has its own): make one client for each, by `async with AsyncClient(...)` in what it runs"
    )
