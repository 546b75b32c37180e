"""Calls: what all workers of an endpoint are asked at once, and each answers.

A call is handled as a request is, but there is no delivery: nobody settles it, and nobody has it again.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Awaitable, Callable

from millstream.aio.delivery import Delivery
from millstream.errors import MillstreamError, Undecodable
from millstream.protocol.draft import Draft
from millstream.protocol.envelope import Envelope, read_body
from millstream.protocol.mailbox import Mail
from millstream.protocol.requests import Address, address_of
from millstream.protocol.settlement import Settlement
from millstream.worker.handler import Handler
from millstream.worker.handling import Call
from millstream.worker.permits import Turn

__all__ = ["Gathered"]

logger = logging.getLogger("millstream.worker")

MOST = 1000
"""Calls that wait or run. More are refused: their bodies are in memory here."""

REMEMBERED = 10_000
"""Calls that are known when they come again."""

LAST_MOMENT = 5.0
"""Seconds for a handler to end that was cancelled."""


class Gathered:
    """Answers the calls to one endpoint.

    Args:
        handler: as declared, of an endpoint.
        call: handles a request, and sends the reply.
        turn: its way to the permits that it shares with requests.
        member: the name of this worker among those that serve the endpoint.
        mail: sends something to a caller.
        server_ms: tells the server's time.
    """

    def __init__(
        self,
        handler: Handler,
        call: Call,
        turn: Turn,
        *,
        member: str,
        mail: Callable[[Mail], Awaitable[bool]],
        server_ms: Callable[[], float],
    ) -> None:
        self._handler = handler
        self._call = call
        self._turn = turn
        self._member = member
        self._mail = mail
        self._server_ms = server_ms
        self._tasks: set[asyncio.Task[None]] = set()
        # By their addresses, the oldest first: what is heard again after a lost connection, and a call
        # that was told again, are not answered twice.
        self._known: dict[bytes, None] = {}

    def called(self, envelope: Envelope) -> None:
        """Begin with a call, unless it is known."""
        address, key = address_of(envelope), envelope.raw.get(b"r", b"")
        if address is None or key in self._known:
            return
        self._known[key] = None
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        answering = self._answer(envelope, address)
        if len(self._tasks) >= MOST:
            answering.close()
            logger.warning("%s: too many calls at a time", self._handler.queue.title)
            answering = self._tell_lost(address, "busy")
        # A clean context: what one handler sets must not be seen by another.
        task = asyncio.get_running_loop().create_task(answering, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, envelope: Envelope, address: Address) -> None:
        queue = self._handler.queue
        try:
            body = read_body(envelope, queue.codec.decode, queue)
            async with asyncio.timeout(self._seconds_left(envelope)):
                entered = await self._turn.enter()
        except TimeoutError:
            # Its caller has given up at the same moment.
            logger.info("%s: call %s has passed its deadline", queue.title, envelope.state.id)
            return
        except Undecodable as error:
            logger.warning("%s", error)
            await self._tell_lost(address, error.reason)
            return
        except asyncio.CancelledError:
            await self._tell_lost(address, "stopped")
            raise
        if not entered:
            await self._tell_lost(address, "stopped")
            return
        try:
            delivery = Delivery(body, envelope, queue, self._handler.retry, _Nobody())
            departure = await self._call(body, delivery)
            if departure is not None and not await departure.has_arrived():
                await departure.again()
        except MillstreamError as error:
            logger.warning("%s: cannot answer a call: %s", queue.title, error)
        except asyncio.CancelledError:
            await self._tell_lost(address, "stopped")
            raise
        finally:
            self._turn.leave()

    def _seconds_left(self, envelope: Envelope) -> float | None:
        """Return the seconds until the deadline; None: it is not known."""
        if envelope.expiry is None:
            return None
        left = (envelope.expiry - self._server_ms()) / 1000
        return None if left == math.inf else max(0.0, left)

    async def _tell_lost(self, address: Address, reason: str) -> None:
        """Tell a caller that this worker will not answer."""
        mail = Mail(address.client, address.slot, "lost", reason.encode(), sender=self._member)
        try:
            await self._mail(mail)
        except MillstreamError as error:
            logger.warning("%s: cannot refuse a call: %s", self._handler.queue.title, error)

    def stop(self) -> None:
        """Begin with none any more; their callers are told."""
        self._turn.stop()

    async def finish(self, timeout: float | None) -> None:  # noqa: ASYNC109 - at the end it cancels handlers, not itself
        """Wait for those that run.

        Args:
            timeout: seconds until coroutines are cancelled; None: any number.
        """
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        self.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_MOMENT)

    def close(self) -> None:
        """Cancel what still runs. Safe to repeat."""
        for task in self._tasks:
            task.cancel()


class _Nobody:
    """Owns the delivery that a call is not: there is nothing to settle, and nothing to lose."""

    partition = 0

    def holds(self, _: bytes) -> bool:
        """Tell that nobody else may have it."""
        return True

    async def settle(self, end: Settlement) -> bool:
        """Refuse whatever is no acknowledgement: it cannot come again."""
        return end.verb == "ack"

    async def commit(self, end: Settlement, draft: Draft) -> None:
        """There is nothing at the server that could be acknowledged."""

    async def extend(self, _: bytes, __: int) -> bool:
        """Tell that it has no lease that could end."""
        return True
