"""Declarations: what producers and workers import alike. Values without a connection."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from millstream.codec import Codec, CodecName, codec_for
from millstream.errors import UsageError
from millstream.frozen import immutable
from millstream.policy import (
    AtMostOnce,
    Bound,
    Duration,
    Limits,
    Rate,
    Results,
    Retain,
    Retry,
    check_count,
    milliseconds,
)
from millstream.queue_checks import (
    check_choices,
    check_confirmable,
    check_delivery,
    check_limits,
    check_order,
    check_policies,
    check_store,
)

__all__ = ["DEFAULT_MAX_BODY", "Queue", "check_name", "check_partitions", "check_place"]

T = TypeVar("T")

Store = Literal["stream", "list"]
Guarantee = Literal["at_least_once", "at_most_once"]

_DEFAULT_LEASE = timedelta(seconds=30)
"""An object of its own: it tells that nobody has asked for a lease."""

# Braces would change the hash tag, a slash separates partitions; both would move keys to another
# slot of a cluster. Whitespace and control characters make names that nobody can type, and lone
# surrogates have no bytes.
_NAME = re.compile(r"[^\s{}/\x00-\x1f\x7f\ud800-\udfff]{1,200}")

# A tag of its own has a name share the slot of others; behind it a colon would look like the end.
_TAGGED = re.compile(rf"\{{{_NAME.pattern}\}}\.(?!.*:){_NAME.pattern}")

DEFAULT_MAX_BODY = 16 * 2**20

MOST_PARTITIONS = 1024
"""A worker has a connection for each partition that it reads."""


def check_name(name: object, kind: str) -> str:
    """Return the name when it can be part of a key.

    Raises:
        UsageError: it is empty, too long, or has whitespace, a brace or a slash in it.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = (
            f"{kind} must be 1 to 200 characters without whitespace, braces and slashes, "
            f"not {name!r}"
        )
        raise UsageError(message)
    return name


def check_place(name: object, kind: str) -> str:
    """Return the name of a queue or topic, which may begin with a tag: ``{shop}.orders``.

    Raises:
        UsageError: it is no name, and not a tag in braces, a dot, and a name without a colon.
    """
    if isinstance(name, str) and name.startswith("{"):
        if _TAGGED.fullmatch(name):
            return name
        message = (
            f"{kind} must be a tag in braces, a dot, and a name without a colon, such as "
            f"'{{shop}}.orders', if it begins with a brace, not {name!r}"
        )
        raise UsageError(message)
    return check_name(name, kind)


class QueueOptions(TypedDict, total=False):
    """The keyword parameters of ``Queue``, for type checkers."""

    retry: Retry | None
    lease: Duration
    codec: CodecName
    max_body: int
    ordered: bool
    max_running_per_key: int | None
    priorities: Literal["strict", "weighted"]
    expired: Literal["dead", "drop"]
    partitions: int
    rate: Rate | None
    max_running: int | None
    bound: Bound | None
    store: Store
    keep: Retain | None
    delivery: Guarantee
    results: Results | None
    durability: str | None


@immutable
@dataclass(frozen=True, slots=True, init=False)
class Queue(Generic[T]):
    """A point-to-point queue: each message is handled by one consumer, at least once by default.

    Args:
        name: 1 to 200 characters; producers and workers in any language share it.
        body_type: what a body is: a msgspec Struct, dataclass, TypedDict, attrs class, pydantic
            model, plain type, or bytes (docs/messages.md). Default: any JSON value.
        retry: attempts, backoff and crash limit. Default: 5 attempts, 1 s doubling, 3 crashes.
        lease: seconds that a consumer owns a delivery before others may take it over. A worker
            extends it while the handler runs. From 0.1; default 30.
        codec: ``json`` (default) or ``msgpack``. All users of a queue must agree.
        max_body: the largest body in bytes; a larger one is a UsageError at the sender. It bounds
            results, too.
        ordered: messages of one key run one at a time, in the order of sending. All users of a
            queue must agree. Default: no.
        max_running_per_key: at most so many messages of one key in flight at a time, from 1, as
            their producers declare it (docs/limits.md). Default: any number.
        priorities: ``strict`` (default): a message runs before all of a lower priority;
            ``weighted``: one of priority p has p + 1 times the chance of a normal one, so low
            ones do not starve. The consumers' declaration counts.
        expired: what becomes of a message whose time to live is over: ``dead`` (default): it goes
            to the dead letters; ``drop``: it is deleted. The producer's declaration counts.
        partitions: for an ordered queue: into how many parts it is divided, 1 (default) to 1024.
            Its workers share them out. All users of a queue must agree; docs/ordering.md tells
            how to change it.
        rate: at most so many deliveries in a period, across all consumers, each of which is held
            to what it declares (docs/limits.md). Not together with partitions. Default: any number.
        max_running: at most so many deliveries in flight at a time, from 1, across all consumers,
            in the same way. What has been fetched ahead counts. Default: any number.
        bound: how many messages it may have, and what a send does when it is full (docs/bounds.md).
            Producers say it, and should agree. Not together with partitions. Default: any number.
        store: ``stream`` (default): a Redis Stream; ``list``: a Redis List, which old tools can push
            to and which can do less (docs/lists.md). All users of a queue must agree.
        keep: how long messages are kept once they are acknowledged, for ``replay`` and ``resend``
            (docs/replay.md): each bound holds, and ``max_age`` counts from then. The consumers'
            declaration counts. Default: not at all.
        delivery: ``at_least_once`` (default); ``at_most_once``: what a consumer takes is deleted in
            the same step, so nothing is handled twice, a consumer that dies loses what it had
            taken, and there are no retries and no leases (docs/at-most-once.md). The consumers'
            declaration counts; all users of a queue should agree.
        results: what handlers return, and for how long that is kept for a sender that wants it
            (``send(result=True)``, docs/results.md). All users of a queue should agree. Default: what
            they return is dropped.
        durability: how far a message has to get before its send returns: ``memory``, ``fsync`` or
            ``replicas:N`` (docs/durability.md). Producers say it, each for its own sends. Default:
            what their client says.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    name: str
    body_type: Any
    retry: Retry
    lease_ms: int
    max_body: int
    ordered: bool
    max_running_per_key: int | None
    priorities: Literal["strict", "weighted"]
    expired: Literal["dead", "drop"]
    partitions: int
    rate: Rate | None
    max_running: int | None
    bound: Bound | None
    store: Store
    keep: Retain | None
    delivery: Guarantee
    results: Results | None
    durability: str | None
    codec: Codec[T] = field(repr=False, compare=False)
    result_codec: Codec[Any] | None = field(repr=False, compare=False)
    # What a client remembers its way to the queue by.
    place: str = field(repr=False, compare=False)

    @overload
    def __init__(self, name: str, body_type: type[T], **options: Unpack[QueueOptions]) -> None: ...

    # Unions and other types that are no class, which type checkers cannot express yet.
    @overload
    def __init__(
        self: Queue[Any], name: str, body_type: Any = ..., **options: Unpack[QueueOptions]
    ) -> None: ...

    def __init__(  # noqa: PLR0913 - a declaration says all about a queue in one place
        self,
        name: str,
        body_type: Any = Any,
        *,
        retry: Retry | None = None,
        lease: Duration = _DEFAULT_LEASE,
        codec: CodecName = "json",
        max_body: int = DEFAULT_MAX_BODY,
        ordered: bool = False,
        max_running_per_key: int | None = None,
        priorities: Literal["strict", "weighted"] = "strict",
        expired: Literal["dead", "drop"] = "dead",
        partitions: int = 1,
        rate: Rate | None = None,
        max_running: int | None = None,
        bound: Bound | None = None,
        store: Store = "stream",
        keep: Retain | None = None,
        delivery: Guarantee = "at_least_once",
        results: Results | None = None,
        durability: str | None = None,
    ) -> None:
        check_place(name, "the queue's name")
        check_policies(name, retry, keep, results)
        check_count(max_body, f"queue {name!r}: max_body")
        check_order(name, ordered, max_running_per_key)
        chosen = {"priorities": priorities, "expired": expired, "store": store}
        check_choices(name, **chosen, delivery=delivery)
        check_partitions(f"queue {name!r}", ordered, partitions)
        check_limits(name, partitions, rate, max_running, bound)
        check_confirmable(name, bound, durability)
        # The dataclass is frozen, so its own constructor sets fields in this way, too.
        put = object.__setattr__
        put(self, "name", name)
        put(self, "body_type", body_type)
        put(self, "retry", retry or Retry())
        put(self, "lease_ms", milliseconds(lease, f"queue {name!r}: lease", minimum=0.1))
        put(self, "max_running_per_key", max_running_per_key)
        put(self, "ordered", ordered)
        put(self, "place", _place(name, partitions if ordered else None, bound, store))
        others = {"keep": keep, "rate": rate, "max_running": max_running, "bound": bound}
        sizes = {"max_body": max_body, "partitions": partitions}
        sending = {"results": results, "durability": durability, "delivery": delivery}
        for parameter, value in {**chosen, **others, **sizes, **sending}.items():
            put(self, parameter, value)
        put(self, "codec", codec_for(body_type, self.title, codec))
        put(self, "result_codec", _result_codec(self.title, results, codec))
        check_store(self)
        check_delivery(self, retry=retry, lease=None if lease is _DEFAULT_LEASE else lease)

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"queue {self.name!r}"

    @property
    def limits(self) -> Limits | AtMostOnce | None:
        """What bounds its deliveries, or makes them final; None: nothing does."""
        if self.delivery == "at_most_once":
            return AtMostOnce()
        if self.rate is None and self.max_running is None:
            return None
        return Limits(self.rate, self.max_running)

    def encode(self, body: T) -> bytes:
        """Turn a body into the bytes that are stored.

        Raises:
            UsageError: it has the wrong type or is too large.
        """
        data = self.codec.encode(body)
        if len(data) > self.max_body:
            raise self._too_large("body", data)
        return data

    def encode_result(self, value: Any) -> bytes:
        """Turn what a handler has returned into the bytes that are kept.

        Raises:
            UsageError: it has the wrong type or is too large (``max_body``).
        """
        assert self.result_codec is not None  # noqa: S101 - of a queue with results
        data = self.result_codec.encode(value)
        if len(data) > self.max_body:
            raise self._too_large("result", data)
        return data

    def _too_large(self, what: str, data: bytes) -> UsageError:
        message = (
            f"queue {self.name!r}: the {what} has {len(data)} bytes, "
            f"{self.max_body} are allowed (max_body)"
        )
        return UsageError(message)


def check_partitions(where: str, ordered: object, partitions: int) -> None:
    """Refuse partitions of what keeps no order: it would gain nothing by them.

    Args:
        where: what is declared, for the error.
        ordered: as declared.
        partitions: as declared.

    Raises:
        UsageError: they are no number, or too many, or not of something ordered.
    """
    whole = isinstance(partitions, int) and not isinstance(partitions, bool)
    if not whole or not 1 <= partitions <= MOST_PARTITIONS:
        message = (
            f"{where}: partitions must be a number from 1 to {MOST_PARTITIONS}, not {partitions!r}"
        )
        raise UsageError(message)
    if partitions != 1 and not ordered:
        message = (
            f"{where}: partitions={partitions} needs ordered=True: any number of workers share what "
            "is not ordered as it is"
        )
        raise UsageError(message)


def _result_codec(title: str, results: Results | None, codec: CodecName) -> Codec[Any] | None:
    return None if results is None else codec_for(results.type, f"{title}: a result", codec)


def _place(name: str, partitions: int | None, bound: Bound | None, store: Store) -> str:
    if store == "list":
        return f"{name} list"
    place = name if partitions is None else f"{name}/{partitions}"
    # No name has a space.
    return place if bound is None else f"{place} {bound}"
