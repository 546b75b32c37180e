"""Endpoints, as declared: request and response over a queue. Values without a connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar, Unpack, overload

from millstream.codec import Codec, CodecName, codec_for
from millstream.declare import DEFAULT_MAX_BODY, Queue, check_name
from millstream.errors import UsageError
from millstream.frozen import immutable
from millstream.policy import Duration, Retry, check_count, milliseconds

__all__ = ["Endpoint"]

# An endpoint takes requests and gives replies: one whose replies are Orders is one whose replies are objects.
Q_contra = TypeVar("Q_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

LEASE = 10.0
"""Seconds after which a request is taken from a worker that shows no sign of life: shorter than that of
queues, since somebody waits."""

CRASHES = 3
"""Of an idempotent request: as for queues."""


class EndpointOptions(TypedDict, total=False):
    """The keyword parameters of ``Endpoint``, for type checkers."""

    timeout: Duration
    errors: Sequence[type[Exception]]
    idempotent: bool
    must_finish: bool
    lease: Duration
    codec: CodecName
    max_body: int


@immutable
@dataclass(frozen=True, slots=True, init=False)
class Endpoint(Generic[Q_contra, R_co]):
    """Request/response: a request gets one reply, a stream of replies, an error, or a timeout.

    The handler (``worker.on(endpoint)``) returns the reply; its second parameter, if any, is a
    ``Request``. Requests wait in a queue of the same name, which ``stats``, ``pause``, ``purge`` and
    the like take as ``endpoint.queue``.

    Args:
        name: 1 to 200 characters; callers and workers in any language share it.
        request_type: what a request's body is, as for ``Queue``. Default: any JSON value.
        reply_type: what a reply is; of a stream, each part. Default: any JSON value.
        timeout: seconds that a request may take in all, unless the caller says otherwise. Default 5.
        errors: exceptions of handlers that reach the caller as themselves, with their arguments and
            attributes, as far as JSON can carry them. All others arrive as ``RemoteError``.
        idempotent: whether a request may be handled again after its worker died. Default: no; the
            caller gets ``ResponderLost`` as soon as that is known.
        must_finish: whether a handler goes on when its caller has given up, or the deadline has
            passed. Default: no; it is cancelled.
        lease: seconds until a worker without a sign of life counts as dead. From 0.1; default 10.
            A process under ``millstream run`` is missed at once.
        codec: ``json`` (default) or ``msgpack``. All users of an endpoint must agree.
        max_body: the largest request or reply in bytes.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    name: str
    request_type: Any
    reply_type: Any
    timeout_ms: int
    errors: tuple[type[Exception], ...]
    idempotent: bool
    must_finish: bool
    max_body: int
    queue: Queue[bytes]
    request_codec: Codec[Any] = field(repr=False, compare=False)
    reply_codec: Codec[Any] = field(repr=False, compare=False)

    @overload
    def __init__(
        self,
        name: str,
        request_type: type[Q_contra],
        reply_type: type[R_co],
        **options: Unpack[EndpointOptions],
    ) -> None: ...

    # Unions and other types that are no class, which type checkers cannot express yet.
    @overload
    def __init__(
        self: Endpoint[Any, Any],
        name: str,
        request_type: Any = ...,
        reply_type: Any = ...,
        **options: Unpack[EndpointOptions],
    ) -> None: ...

    def __init__(
        self,
        name: str,
        request_type: Any = Any,
        reply_type: Any = Any,
        *,
        timeout: Duration = 5.0,
        errors: Sequence[type[Exception]] = (),
        idempotent: bool = False,
        must_finish: bool = False,
        lease: Duration = LEASE,
        codec: CodecName = "json",
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        check_name(name, "the endpoint's name")
        where = f"endpoint {name!r}"
        check_count(max_body, f"{where}: max_body")
        for parameter, value in (("idempotent", idempotent), ("must_finish", must_finish)):
            if not isinstance(value, bool):
                message = f"{where}: {parameter} must be True or False, not {value!r}"
                raise UsageError(message)
        # The dataclass is frozen, so its own constructor sets fields in this way, too.
        put = object.__setattr__
        put(self, "name", name)
        put(self, "request_type", request_type)
        put(self, "reply_type", reply_type)
        put(self, "timeout_ms", milliseconds(timeout, f"{where}: timeout", minimum=0.001))
        put(self, "errors", _checked(where, errors))
        put(self, "idempotent", idempotent)
        put(self, "must_finish", must_finish)
        put(self, "max_body", max_body)
        put(self, "request_codec", codec_for(request_type, f"{where}: a request", codec))
        put(self, "reply_codec", codec_for(reply_type, f"{where}: a reply", codec))
        # What the worker decodes is its reply's business: a request that does not fit is answered.
        retry = Retry(max_attempts=1, max_crashes=CRASHES if idempotent else 0)
        put(self, "queue", Queue(name, bytes, retry=retry, lease=lease, max_body=max_body))

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"endpoint {self.name!r}"

    def encode_request(self, body: Q_contra) -> bytes:
        """Turn a request into the bytes that are stored.

        Raises:
            UsageError: it has the wrong type or is too large.
        """
        return self._fitting(self.request_codec.encode(body), "request")

    def encode_reply(self, reply: Any) -> bytes:
        """Turn a reply, or a part of one, into the bytes that are sent back.

        Raises:
            UsageError: it has the wrong type or is too large.
        """
        return self._fitting(self.reply_codec.encode(reply), "reply")

    def _fitting(self, data: bytes, what: str) -> bytes:
        if len(data) > self.max_body:
            message = (
                f"{self.title}: the {what} has {len(data)} bytes, {self.max_body} are allowed "
                "(max_body)"
            )
            raise UsageError(message)
        return data


def _checked(where: str, errors: object) -> tuple[type[Exception], ...]:
    """Return the exceptions that cross the wire as themselves; two of one name cannot be told apart."""
    if isinstance(errors, str) or not isinstance(errors, Sequence):
        message = f"{where}: errors must be a list of exception classes, not {errors!r}"
        raise UsageError(message)
    for error in errors:
        if not (isinstance(error, type) and issubclass(error, Exception)):
            message = f"{where}: errors must be exception classes, not {error!r}"
            raise UsageError(message)
    names = [error.__qualname__ for error in errors]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message = f"{where}: errors has two exceptions named {twice[0]}"
        raise UsageError(message)
    return tuple(errors)
