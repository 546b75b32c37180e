"""Every exception of Millstream, and nothing else.

The tree says what the caller can do about an error::

    MillstreamError
    ├── UsageError            fix the call (also a ValueError)
    ├── BrokerError           the server's side: try again, or alert
    │   ├── NotConnected      no server could be reached (also a ConnectionError)
    │   ├── TimedOut          it did not answer in time (also a TimeoutError)
    │   ├── ServerRefused     it answered with an error (out of memory, no permission, ...)
    │   ├── QueueFull         the queue has reached its bound; nothing was sent
    │   ├── NotConfirmed      messages are stored, but not as durably as was asked for
    │   └── UnsupportedServer it is too old
    ├── DeliveryError         one message
    │   ├── LeaseLost         another consumer owns the message by now
    │   ├── NoResponders      no worker serves the endpoint; nothing was done
    │   ├── NoResult          a message will have no result, or none is known
    │   ├── RemoteError       the handler of a request, or of a message with a result, failed
    │   ├── ResponderLost     the worker that had a request died, or was stopped
    │   └── Undecodable       its body does not fit the declared type
    ├── SlowListener          a listener's buffer was full, and it asked to be disconnected then
    ├── RetryLater            raised by a handler: try this message again later
    └── Reject                raised by a handler: move this message to the dead letters

Every error carries its data as attributes and survives pickling.
"""

from __future__ import annotations

from copy import copy
from typing import Any, TypeVar

from millstream.text import text_of

__all__ = [
    "BrokerError",
    "DeliveryError",
    "LeaseLost",
    "MillstreamError",
    "NoResponders",
    "NoResult",
    "NotConfirmed",
    "NotConnected",
    "QueueFull",
    "Reject",
    "RemoteError",
    "ResponderLost",
    "RetryLater",
    "ServerRefused",
    "SlowListener",
    "TimedOut",
    "Undecodable",
    "UnsupportedServer",
    "UsageError",
]

E = TypeVar("E", bound=BaseException)


class MillstreamError(Exception):
    """The root of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by class, message and attributes, so that keyword-only data survives."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[MillstreamError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> MillstreamError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def one_more(error: E) -> E:
    """Return an error of the same kind, if it is ours: one that several tasks raise gathers all their tracebacks."""
    if not isinstance(error, MillstreamError):
        return error
    other = copy(error)
    other.__cause__ = error.__cause__
    return other


class UsageError(MillstreamError, ValueError):
    """The call or the declaration is wrong; repeating it cannot help."""


class BrokerError(MillstreamError):
    """The server could not be used. Repeating the call may help; a repeated send may be a second message."""


class NotConnected(BrokerError, ConnectionError):
    """No server could be reached, or the connection was lost and did not come back in time.

    Attributes:
        url: the address that was tried, its password hidden.
    """

    def __init__(self, message: str, *, url: str | None = None) -> None:
        super().__init__(message)
        self.url = url


class TimedOut(BrokerError, TimeoutError):
    """The server did not answer in time, or an endpoint did not; whether the work was done is not known.

    Or there is no result of a message yet. Waiting again can help.

    Attributes:
        url: the address of the server, its password hidden; None for a request or a result.
        endpoint: for a request, the name of its endpoint.
        id: for a request or a message with a result, its id; empty when the server has not confirmed it.
        state: for those, what was known last: ``queued``, ``running``, ``delayed`` (a message that
            waits for its time, or its next attempt) or ``unknown``. Of anything that a thread would have
            sent, ``unsent``: other threads of its client were before it all the time, so nothing was
            sent, and will not be.
        seconds: for a request that was running, for how long at the least.
        answered: for a gather, how many workers have answered.
        expected: for a gather, how many answers were waited for.
        missing: for a gather, the names of the workers that have not answered.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        endpoint: str | None = None,
        id: str = "",
        state: str = "unknown",
        seconds: float = 0.0,
        answered: int = 0,
        expected: int = 0,
        missing: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.url = url
        self.endpoint = endpoint
        self.id = id
        self.state = state
        self.seconds = seconds
        self.answered = answered
        self.expected = expected
        self.missing = missing


class ServerRefused(BrokerError):
    """The server answered with an error.

    Attributes:
        code: the first word of the server's answer, such as ``OOM`` or ``NOPERM``.
    """

    def __init__(self, message: str, *, code: str = "ERR") -> None:
        super().__init__(message)
        self.code = code


class QueueFull(BrokerError):
    """The queue has reached its bound. Nothing of this send is stored; repeat it when there is room.

    Attributes:
        queue: the name of the queue.
        length: how many unfinished messages it had.
        bound: how many it may have.
    """

    def __init__(self, message: str, *, queue: str, length: int, bound: int) -> None:
        super().__init__(message)
        self.queue = queue
        self.length = length
        self.bound = bound


class NotConfirmed(BrokerError):
    """Messages are stored, but the durability that was asked for was not confirmed in time.

    They are delivered like any others. A second ``send`` is a second message; ``confirm`` of the client
    makes sure of these, and stores none twice.

    Attributes:
        receipts: of the messages of the call that are stored, in order; ``durability`` of each says what
            was confirmed.
        wanted: the durability that was asked for.
        parts: of a call with many messages: for each its receipt, or an error of this kind; else empty.
        batch: for ``confirm``: the batch that the message went in, and its place there. A pickled error
            loses it.
    """

    def __init__(
        self,
        message: str,
        *,
        receipts: tuple[Any, ...],
        wanted: str,
        parts: tuple[Any, ...] = (),
        batch: Any = None,
    ) -> None:
        super().__init__(message)
        self.receipts = receipts
        self.wanted = wanted
        self.parts = parts
        self.batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what only this process can use."""
        return _rebuild, (type(self), self.args, {**self.__dict__, "batch": None})


class UnsupportedServer(BrokerError):
    """The server is older than Redis 6.2, or than what was asked of it.

    Attributes:
        version: what the server says of itself.
    """

    def __init__(self, message: str, *, version: str) -> None:
        super().__init__(message)
        self.version = version


class DeliveryError(MillstreamError):
    """One message is concerned.

    Attributes:
        queue: the name of its queue.
        id: the message's id.
    """

    def __init__(self, message: str, *, queue: str, id: str) -> None:
        super().__init__(message)
        self.queue = queue
        self.id = id


class LeaseLost(DeliveryError):
    """This consumer does not own the message any more, so nothing was settled.

    Its lease ran out and another consumer may have it by now, or it was settled before, or
    somebody has cancelled it.
    """


class Undecodable(DeliveryError):
    """An entry of the queue cannot be read as a message of its type.

    Attributes:
        reason: ``malformed`` (the entry is no message) or ``undecodable`` (its body does not fit).
    """

    def __init__(self, message: str, *, queue: str, id: str, reason: str) -> None:
        super().__init__(message, queue=queue, id=id)
        self.reason = reason


class NoResponders(DeliveryError):
    """No live worker serves the endpoint (or there is no such endpoint): nobody began with the request."""


class NoResult(DeliveryError):
    """A message will have no result, though its handler has not failed; or nothing is known of one.

    Attributes:
        reason: ``expired`` or ``cancelled``: it is a dead letter now; ``unknown``: it was sent without
            ``result=True``, its result is not kept any more, or it was deleted before it was done
            (cancelled or purged while it waited, or dropped).
    """

    def __init__(self, message: str, *, queue: str, id: str, reason: str) -> None:
        super().__init__(message, queue=queue, id=id)
        self.reason = reason


class ResponderLost(DeliveryError):
    """The worker that had the request died or was stopped, or its reply was lost.

    Whether the work was done is not known. A request to an endpoint with ``idempotent=True`` is
    handled again instead. Of a message with a result: its workers died, more often than its queue
    allows.

    Attributes:
        reason: ``crashed``, ``stopped``, ``cancelled`` (by somebody else than the caller), or
            ``unknown``.
    """

    def __init__(self, message: str, *, queue: str, id: str, reason: str) -> None:
        super().__init__(message, queue=queue, id=id)
        self.reason = reason


class RemoteError(DeliveryError):
    """The handler of a request raised an exception that the endpoint does not name in ``errors``.

    Or a message with a result has failed for good: its attempts are used up, or its handler has rejected
    it. Or it is done, and what its handler has returned cannot be a result.

    Attributes:
        type_name: the name of its class; ``Reject`` for what was rejected.
        detail: what it said.
        traceback: the last lines of its traceback, if the worker lets them out; else None. Of a
            message with a result: those of its dead letter.
    """

    def __init__(
        self,
        message: str,
        *,
        queue: str,
        id: str,
        type_name: str,
        detail: str,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message, queue=queue, id=id)
        self.type_name = type_name
        self.detail = detail
        self.traceback = traceback


class SlowListener(MillstreamError):
    """A listener of an ephemeral topic fell behind, and had declared ``on_full="disconnect"``.

    Attributes:
        topic: the name of the topic, or the pattern.
        buffer: how many messages waited for it.
    """

    def __init__(self, message: str, *, topic: str, buffer: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.buffer = buffer


class RetryLater(MillstreamError):
    """Raise it in a handler to have the message delivered again later.

    It counts as an attempt: after the last one the message goes to the dead letters.

    Args:
        reason: why, kept with the message; an exception is its text.
        delay: seconds to wait; None: the backoff of the retry policy.
    """

    # For subclasses with a constructor of their own.
    reason: str = "the handler asked for it"
    delay: Any = None

    def __init__(self, reason: str | BaseException = reason, *, delay: Any = None) -> None:
        super().__init__(reason)
        self.reason = text_of(reason)
        self.delay = delay


class Reject(MillstreamError):
    """Raise it in a handler to move the message to the dead letters at once.

    Args:
        reason: why, kept with the dead letter; an exception is its text.
    """

    # For subclasses with a constructor of their own.
    reason: str = "rejected"

    def __init__(self, reason: str | BaseException) -> None:
        super().__init__(reason)
        self.reason = text_of(reason)
