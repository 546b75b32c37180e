"""What handlers return goes with the end of its message, when the sender wants it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from millstream.declare import Queue
from millstream.protocol.mailbox import Mail
from millstream.protocol.results import encode_result, mails_of
from millstream.protocol.settlement import Settlement
from millstream.worker.handling import Call

__all__ = ["Resulting"]

logger = logging.getLogger("millstream.worker")


class Resulting:
    """The results of one consumer that are not at the server yet.

    Args:
        queue: as declared, with results.
        unsettled: tells whether a delivery is ours, and its handler has not ended it by hand.
        mail: puts word into the mailboxes of those who wait.
    """

    def __init__(
        self,
        queue: Queue[Any],
        unsettled: Callable[[bytes], bool],
        mail: Callable[[Mail], asyncio.Future[bool]],
    ) -> None:
        self._queue = queue
        self._unsettled = unsettled
        self._mail = mail
        self._values: dict[bytes, bytes] = {}

    def around(self, inner: Call) -> Call:
        """Return a call that notes what the handler itself returns; middleware is around it."""

        async def call(body: Any, delivery: Any) -> Any:
            value = await inner(body, delivery)
            envelope = delivery.envelope
            if envelope.wants_result and self._unsettled(envelope.token):
                self._note(delivery, value)
            return value

        return call

    def _note(self, delivery: Any, value: Any) -> None:
        stored, problem = encode_result(self._queue, value)
        self._values[delivery.envelope.token] = stored
        if problem is not None:
            logger.warning(
                "%s: message %s is done, but what its handler returned cannot be its result: %s",
                *(self._queue.title, delivery.id, problem),
            )

    def onto(self, end: Settlement) -> Settlement:
        """Return the end of a delivery with its result; any other end than an acknowledgement has none."""
        value = self._values.pop(end.token, None)
        if value is None or end.verb != "finish":
            return end
        return replace(end, note=value)

    def forget(self, token: bytes) -> None:
        """A delivery is over without an end of ours."""
        self._values.pop(token, None)

    def tell(self, awaited: Sequence[bytes]) -> None:
        """Send word to all who wait for what has ended (see ``Fetched.awaited``); do not wait for that."""
        for mail in mails_of(awaited):
            # Who gets no word looks by itself, once a second.
            self._mail(mail)
