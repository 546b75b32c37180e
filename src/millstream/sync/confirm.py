# GENERATED from src/millstream/aio/confirm.py by tools/unasync.py - do not edit
"""Making sure of what is stored and not confirmed. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

from typing import Protocol

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_confirming import BlockingConfirming
from millstream.durability import MEMORY
from millstream.errors import NotConfirmed, UsageError
from millstream.message import Receipt

__all__ = ["confirm", "confirming_of"]


def confirming_of(driver: BlockingDriver, durability: str) -> BlockingConfirming | None:
    """Return what has sends confirmed; None: they need not be."""
    return None if durability == MEMORY else driver.confirming(durability)


class Confirming(Protocol):
    """What these functions need of a client."""

    @property
    def driver(self) -> BlockingDriver:
        """What runs operations."""
        ...


def confirm(mq: Confirming, error: NotConfirmed) -> list[Receipt]:
    """Make sure of messages that a send has stored without confirmation.

    It waits once more, for as long as a send would. A server that has lost the messages meanwhile (a
    failover to a replica that did not have them) stores them anew; then they have other ids.

    Args:
        error: what ``send``, ``send_many``, ``publish`` or ``publish_many`` of this client has
            raised, less than nine minutes ago.

    Returns:
        The receipts of all messages of that call, in order.

    Raises:
        NotConfirmed: they are still not confirmed. It can be passed to this function again.
        UsageError: it is no such error, another client or process has got it, or it is too old.
        BrokerError: the server cannot be reached; they may be stored or not. The call can be
            repeated with the first error.

    Guarantee: each message is stored once, however often this is called.
    """
    if not isinstance(error, NotConfirmed):
        message = f"confirm takes the NotConfirmed that a send has raised, not {error!r}"
        raise UsageError(message)
    confirming = mq.driver.confirming(error.wanted)
    return confirming.confirm(error)
