"""Sends what nobody waits for, from threads. The twin of ``aio_aside``.

Some of it comes from the garbage collector: it closes an abandoned generator in whatever thread it happens
to run, perhaps in the middle of a send, whose locks that thread holds. And whoever leaves a stream must not
wait for a server that hangs. So a thread of its own sends.
"""

from __future__ import annotations

import logging
import queue
from typing import Any

from millstream.driver.blocking_background import BlockingBackground
from millstream.driver.blocking_sender import BlockingSender
from millstream.errors import BrokerError, UsageError

__all__ = ["BlockingAside"]

logger = logging.getLogger("millstream.driver")

Item = tuple[BlockingSender[Any], Any]


class BlockingAside:
    """What goes out beside the work of its owner; nobody hears what came of it."""

    def __init__(self) -> None:
        # Its put may come in the middle of another one of the same thread; None: no more comes.
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._thread: BlockingBackground | None = None

    def begin(self) -> None:
        """Begin to send. Not from the garbage collector: to start a thread takes a lock of Python's own."""
        if self._thread is None:
            self._thread = BlockingBackground(self._run, "millstream-aside")

    def send(self, sender: BlockingSender[Any], message: Any) -> None:
        """Send something soon, behind what was sent here before by the same sender. It takes no lock."""
        self._items.put((sender, message))

    def close(self, seconds: float) -> None:
        """Send no more: wait for what is there, but no longer than so many seconds."""
        self._items.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            found = [self._items.get()]
            # What has gathered meanwhile shares a round trip.
            while not self._items.empty():
                found.append(self._items.get())
            goes_on = None not in found
            together: dict[BlockingSender[Any], list[Any]] = {}
            for sender, message in filter(None, found):
                together.setdefault(sender, []).append(message)
            for sender, messages in together.items():
                _send(sender, messages)


def _send(sender: BlockingSender[Any], messages: list[Any]) -> None:
    try:
        sender.send_many(messages)
    except (BrokerError, UsageError) as error:
        logger.debug("what nobody waits for was not sent: %s", error)
    except Exception:
        # A bug; what comes next may have better luck.
        logger.exception("what nobody waits for was not sent")
