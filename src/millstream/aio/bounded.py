"""Sends to a queue with a bound: what is sent together is stored together or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_confirming import AsyncConfirming
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol.bound import Unit, bounding, check_fits
from millstream.protocol.keys import QueueKeys
from millstream.protocol.place import Placement

__all__ = ["BoundedSender"]


class BoundedSender:
    """The sender of a queue with a bound.

    Args:
        driver: of the client.
        keys: of the queue.
        bound: of the queue.
        in_order: whether batches must not overtake each other, whatever happens.
        confirming: by what messages are to be confirmed, where sends do not wait for room; None: not
            at all.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        keys: QueueKeys,
        bound: Bound,
        *,
        in_order: bool = False,
        confirming: AsyncConfirming | None = None,
    ) -> None:
        self._name = keys.name
        self._bound = bound
        self._sender = (
            driver.waiting_sender(keys, bound)
            if bound.on_full == "wait"
            else driver.sender(bounding(keys, bound), in_order=in_order, confirming=confirming)
        )

    async def send(self, message: Placement, _: bytes = b"") -> Receipt:
        """Send one message.

        Raises:
            QueueFull: there is no room, or there was none in time.
            BrokerError: it is not known to be stored.
        """
        return (await self._sender.send(Unit((message,))))[0]

    async def send_many(
        self, messages: Sequence[Placement], _: Sequence[bytes] | None = None
    ) -> list[Receipt]:
        """Send messages, all of them or none; the receipts are in their order.

        Raises:
            UsageError: they are more than the bound.
            QueueFull, BrokerError: as for ``send``.
        """
        check_fits(self._name, self._bound, len(messages))
        return await self._sender.send(Unit(messages))

    async def close(self) -> None:
        """Wait for what is on its way; what waits for room is not sent."""
        await self._sender.close()
