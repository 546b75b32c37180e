"""Every exception of Millstream, and nothing else.

The tree says what the caller can do about an error::

    MillstreamError
    ├── UsageError            fix the call (also a ValueError)
    ├── BrokerError           the server's side: try again, or alert
    │   ├── NotConnected      no server could be reached (also a ConnectionError)
    │   ├── TimedOut          it did not answer in time (also a TimeoutError)
    │   ├── ServerRefused     it answered with an error (out of memory, no permission, ...)
    │   ├── QueueFull         the queue has reached its bound; nothing was sent
    │   └── UnsupportedServer it is too old
    ├── DeliveryError         one message
    │   ├── LeaseLost         another consumer owns the message by now
    │   └── Undecodable       its body does not fit the declared type
    ├── SlowListener          a listener's buffer was full, and it asked to be disconnected then
    ├── RetryLater            raised by a handler: try this message again later
    └── Reject                raised by a handler: move this message to the dead letters

Every error carries its data as attributes and survives pickling.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BrokerError",
    "DeliveryError",
    "LeaseLost",
    "MillstreamError",
    "NotConnected",
    "QueueFull",
    "Reject",
    "RetryLater",
    "ServerRefused",
    "SlowListener",
    "TimedOut",
    "Undecodable",
    "UnsupportedServer",
    "UsageError",
]


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
    """The server did not answer in time; whether it did the work is not known.

    Attributes:
        url: the address of the server, its password hidden.
    """

    def __init__(self, message: str, *, url: str | None = None) -> None:
        super().__init__(message)
        self.url = url


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


class UnsupportedServer(BrokerError):
    """The server is older than Redis 6.2.

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
        reason: why, kept with the message.
        delay: seconds to wait; None: the backoff of the retry policy.
    """

    def __init__(self, reason: str = "the handler asked for it", *, delay: Any = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay = delay


class Reject(MillstreamError):
    """Raise it in a handler to move the message to the dead letters at once.

    Args:
        reason: why, kept with the dead letter.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
