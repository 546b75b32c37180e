"""What a handler of an endpoint returns, or raises, goes back to the caller."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from millstream.aio.delivery import Delivery
from millstream.aio.request import Request
from millstream.aio.requests import Requests
from millstream.codec import NotDecodable
from millstream.endpoint import Endpoint
from millstream.errors import BrokerError, Undecodable, UsageError
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import QueueKeys
from millstream.protocol.mailbox import Mail
from millstream.protocol.remote import write_error
from millstream.protocol.requests import Address, address_of
from millstream.sync.request import SyncRequest
from millstream.text import text_of
from millstream.worker.departing import Departure
from millstream.worker.handler import Handler
from millstream.worker.handling import Call, Holder
from millstream.worker.streaming import Stream, open_stream
from millstream.worker.threads import ThreadSlots
from millstream.worker.time_limit import TimeLimit

__all__ = ["Answer", "Answering", "ThreadLine", "as_answer", "in_thread"]

logger = logging.getLogger("millstream.worker")

COARSE = 0.01
"""Seconds."""

SEND_AGAIN = 0.5
"""Seconds until a reply is sent again that could not be."""


class Answer:
    """The way back to one caller; the ``line`` of its ``Request``.

    Attributes:
        token: of the delivery.
        value: what the handler has returned, encoded; None: nothing yet.
        is_late: whether the handler was stopped because the deadline has passed.
        stream: where the parts go that it yields; None: it returns.
    """

    __slots__ = (
        "_address",
        "_envelope",
        "_member",
        "_notes",
        "_send",
        "_server_ms",
        "is_late",
        "stream",
        "token",
        "value",
    )

    def __init__(
        self,
        address: Address | None,
        envelope: Envelope,
        send: Callable[[Mail], asyncio.Future[bool]],
        server_ms: Callable[[], float],
        member: str,
    ) -> None:
        self._address = address
        self._envelope = envelope
        self._send = send
        self._server_ms = server_ms
        self._member = member
        self._notes = 0
        self.token = envelope.token
        self.value: bytes | None = None
        self.is_late = False
        self.stream: Stream | None = None

    @property
    def is_expected(self) -> bool:
        """Whether anybody waits for it."""
        return self._address is not None

    @property
    def wants_notes(self) -> bool:
        """Whether the caller wants to hear of progress."""
        return self._address is not None and self._address.progress

    @property
    def seconds_left(self) -> float:
        """Until the deadline; inf: there is none, as for a stream that has begun."""
        expiry = self._envelope.expiry
        if expiry is None or self.stream is not None:
            return math.inf
        return (expiry - self._server_ms()) / 1000

    async def note(self, content: bytes) -> None:
        """Send a note of progress."""
        address = self._address
        assert address is not None  # noqa: S101 - see wants_notes
        self._notes += 1
        # Should another worker begin with it, its notes have the same numbers.
        run = self.token.decode("ascii", "replace")
        await self._send(Mail(address.client, address.slot, "note", content, self._notes, run))

    def mail(self, kind: str, content: bytes) -> Mail:
        """Return something for the caller, if there is one."""
        address = self._address
        assert address is not None  # noqa: S101 - see is_expected
        sender = self._member if address.gather else ""
        return Mail(address.client, address.slot, kind, content, 0, sender)

    async def finish(self, kind: str, content: bytes) -> bool:
        """Send what the caller gets in the end; False: it is gone."""
        if self.stream is not None:
            return await self.stream.finish("end" if kind == "reply" else kind, content)
        return not self.is_expected or await self._send(self.mail(kind, content))


class Answering:
    """Answers requests to one endpoint.

    Args:
        handler: as declared, of an endpoint.
        requests: of the client: its way to other mailboxes.
        keys: of the endpoint's queue.
        holder: who owns the deliveries.
        member: the name of this worker among those that serve the endpoint.
    """

    def __init__(
        self, handler: Handler, requests: Requests, keys: QueueKeys, holder: Holder, member: str
    ) -> None:
        assert handler.endpoint is not None  # noqa: S101 - it is one's handler
        self._endpoint: Endpoint[Any, Any] = handler.endpoint
        self._tracebacks = handler.tracebacks
        self._in_threads = not handler.is_async
        self._streams = handler.streams
        self._requests = requests
        self._sender = requests.mailbox.sender
        self._keys = keys
        self._holder = holder
        self._member = member

    def around(self, inner: Call) -> Call:
        """Return what handles a delivery of the queue by a call for a body and a ``Request``."""
        return partial(self._answer, inner)

    async def _answer(self, inner: Call, data: bytes, delivery: Delivery[Any]) -> Departure | None:
        envelope, endpoint = delivery.envelope, self._endpoint
        address = address_of(envelope)
        answer = Answer(address, envelope, self._sender.send, self._holder.server_ms, self._member)
        try:
            if self._streams:
                answer.stream = await open_stream(endpoint, address, self._requests.mailbox)
            kind, content = "reply", await self._value(inner, data, delivery, answer)
        except asyncio.CancelledError as error:
            stopped = _is_stopped()
            if stopped or not self._holder.unsettled(answer.token):
                if answer.stream is not None:
                    # Who has cancelled or taken it has ended the delivery, and the caller learns of it.
                    await answer.stream.stop(tell=stopped and self._holder.holds(answer.token))
                raise
            # Not we: something that the handler has awaited.
            kind, content = "error", self._told(error, delivery, answer)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller must know
            if answer.is_late and isinstance(error, TimeoutError):
                # The caller has given up at the same moment.
                logger.info("%s: request %s has passed its deadline", endpoint.title, delivery.id)
                return None
            kind, content = "error", self._told(error, delivery, answer)
        if answer.stream is None and answer.is_expected:
            # Others may begin while it is on its way.
            departure = Departure(partial(self._deliver, answer, kind, content))
            self._sender.post(answer.mail(kind, content), b"", departure.end)
            return departure
        await self._deliver(answer, kind, content)
        return None

    async def _value(
        self, inner: Call, data: bytes, delivery: Delivery[Any], answer: Answer
    ) -> bytes:
        """Run the handler and return what it has returned, encoded."""
        endpoint = self._endpoint
        request = Request(_decoded(endpoint, delivery, data), delivery, endpoint, answer)
        if endpoint.must_finish or self._in_threads:
            # Threads have their own limit: cancelled here, nobody would stop them.
            await inner(request.body, request)
        else:
            limit = TimeLimit(lambda: answer.seconds_left)
            try:
                await limit.run(inner(request.body, request))
            finally:
                answer.is_late = limit.expired
        if answer.stream is not None:
            return b""
        if answer.value is None:
            message = (
                f"{endpoint.title}: a middleware did not call the handler, so there is no reply"
            )
            raise UsageError(message)
        return answer.value

    async def _deliver(self, answer: Answer, kind: str, content: bytes) -> None:
        """Send something to the caller, for as long as it waits.

        Raises:
            BrokerError: the server was away for so long.
        """
        while True:
            try:
                if not await answer.finish(kind, content):
                    # Its mailbox has expired: nobody is there any more.
                    await self._requests.count_late(self._keys)
            except BrokerError as error:
                if not 0 < answer.seconds_left < math.inf:
                    raise
                logger.warning("%s: cannot reply yet: %s", self._endpoint.title, error)
                await asyncio.sleep(SEND_AGAIN)
            else:
                return

    def _told(self, error: BaseException, delivery: Delivery[Any], answer: Answer) -> bytes:
        """Log what the handler raised, and return it for the caller; if there is none, raise it."""
        endpoint = self._endpoint
        if not answer.is_expected:
            if answer.stream is not None:
                answer.stream.close()
            raise error
        expected = isinstance(error, endpoint.errors)
        logger.log(
            logging.INFO if expected else logging.WARNING,
            "%s: request %s: %s: %s",
            *(endpoint.title, delivery.id, type(error).__name__, error),
            exc_info=None if expected else error,
        )
        text = "".join(traceback.format_exception(error)) if self._tracebacks else None
        return write_error(error, endpoint.errors, text)


def _is_stopped() -> bool:
    """Tell a task that was cancelled from one that has raised CancelledError by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _decoded(endpoint: Endpoint[Any, Any], delivery: Delivery[Any], data: bytes) -> Any:
    """Return a request's body as the endpoint declares it.

    Raises:
        Undecodable: it does not fit; so its caller hears.
    """
    try:
        return endpoint.request_codec.decode(data)
    except NotDecodable as error:
        message = f"{endpoint.title}: request {delivery.id} is undecodable: {text_of(error)}"
        raise Undecodable(
            message, queue=endpoint.name, id=delivery.id, reason="undecodable"
        ) from error


def as_answer(handler: Handler, inner: Callable[[Any, Any], Any]) -> Call:
    """Return a call that keeps what the handler returns, for a body and a ``Request``.

    Middleware is around it, and may return what it likes.
    """
    endpoint = handler.endpoint
    assert endpoint is not None  # noqa: S101 - it is one's handler

    async def call(body: Any, request: Any) -> None:
        request.line.value = endpoint.encode_reply(await inner(body, request))

    return call


def in_thread(handler: Handler, threads: ThreadSlots) -> Call:
    """Return a call of a plain function in a thread, for a body and a ``Request``."""
    function, timeout, takes = handler.function, handler.timeout, handler.takes_delivery
    must_finish = handler.endpoint is not None and handler.endpoint.must_finish
    loop = asyncio.get_running_loop()

    async def call(body: Any, request: Request[Any]) -> Any:
        answer: Any = request.line
        left = math.inf if must_finish else answer.seconds_left
        limit = min(left, math.inf if timeout is None else timeout)
        seconds = None if limit == math.inf else max(0.0, limit)
        argument: tuple[Any, ...] = (body,)
        if takes:
            # It only looks at what both kinds of delivery have.
            delivery: Any = request.delivery
            argument += (SyncRequest(body, delivery, request.endpoint, ThreadLine(answer, loop)),)
        deadline = loop.time() + left
        try:
            return await threads.run(lambda: function(*argument), seconds, answer.token)
        except TimeoutError:
            # Timers may be early by as much as their clock is coarse.
            answer.is_late = loop.time() >= deadline - COARSE
            raise

    return call


class ThreadLine:
    """The way back to the caller, from a thread."""

    def __init__(self, answer: Answer, loop: asyncio.AbstractEventLoop) -> None:
        self._answer = answer
        self._loop = loop

    @property
    def wants_notes(self) -> bool:
        """Whether the caller wants to hear of progress."""
        return self._answer.wants_notes

    @property
    def seconds_left(self) -> float:
        """Until the deadline; inf: there is none."""
        return self._answer.seconds_left

    def note(self, content: bytes) -> None:
        """Send a note of progress."""
        asyncio.run_coroutine_threadsafe(self._answer.note(content), self._loop).result()
