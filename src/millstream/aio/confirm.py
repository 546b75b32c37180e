"""Making sure of what is stored and not confirmed. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

from typing import Protocol

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_confirming import AsyncConfirming
from millstream.durability import MEMORY
from millstream.errors import NotConfirmed, UsageError
from millstream.message import Receipt

__all__ = ["confirm", "confirming_of"]


async def confirming_of(driver: AsyncDriver, durability: str) -> AsyncConfirming | None:
    """Return what has sends confirmed; None: they need not be."""
    return None if durability == MEMORY else await driver.confirming(durability)


class Confirming(Protocol):
    """What these functions need of a client."""

    @property
    def driver(self) -> AsyncDriver:
        """What runs operations."""
        ...


async def confirm(mq: Confirming, error: NotConfirmed) -> list[Receipt]:
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
    confirming = await mq.driver.confirming(error.wanted)
    return await confirming.confirm(error)
