"""Sends what nobody waits for, on asyncio: a send that is not awaited leaves as any other."""

from __future__ import annotations

from typing import Any

from millstream.driver.aio_sender import AsyncSender

__all__ = ["AsyncAside"]


class AsyncAside:
    """What goes out beside the work of its owner; nobody hears what came of it."""

    def begin(self) -> None:
        """Begin to send. The event loop is there already."""

    def send(self, sender: AsyncSender[Any], message: Any) -> None:
        """Send something soon, behind what was sent here before by the same sender."""
        sender.send(message)

    async def close(self, seconds: float) -> None:
        """Send no more. Who sends waits for it when it is closed."""
