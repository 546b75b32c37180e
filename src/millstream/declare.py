"""Declarations: what producers and workers import alike. Values without a connection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from millstream.codec import Codec, CodecName, codec_for
from millstream.errors import UsageError
from millstream.policy import (
    Bound,
    Duration,
    Limits,
    Rate,
    Retain,
    Retry,
    check_count,
    milliseconds,
)

__all__ = ["DEFAULT_MAX_BODY", "Queue", "check_name", "check_partitions"]

T = TypeVar("T")

Store = Literal["stream", "list"]

# Braces would change the hash tag, a slash separates partitions; both would move keys to another
# slot of a cluster. Whitespace and control characters make names that nobody can type, and lone
# surrogates have no bytes.
_NAME = re.compile(r"[^\s{}/\x00-\x1f\x7f\ud800-\udfff]{1,200}")

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


def _check_choice(value: object, name: str, choices: Sequence[str]) -> None:
    if value not in choices:
        message = f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}"
        raise UsageError(message)


def _check_order(name: str, ordered: object, max_running_per_key: object) -> None:
    if not isinstance(ordered, bool):
        message = f"queue {name!r}: ordered must be True or False, not {ordered!r}"
        raise UsageError(message)
    if max_running_per_key is None:
        return
    check_count(max_running_per_key, f"queue {name!r}: max_running_per_key")
    if ordered:
        message = (
            f"queue {name!r}: ordered runs one message of a key at a time already: "
            "leave out max_running_per_key"
        )
        raise UsageError(message)


def _check_limits(name: str, partitions: int, rate: object, max_running: object) -> None:
    if rate is not None and not isinstance(rate, Rate):
        message = f"queue {name!r}: rate must be a Rate, not {rate!r}"
        raise UsageError(message)
    if max_running is not None:
        check_count(max_running, f"queue {name!r}: max_running")
    if partitions > 1 and not (rate is None and max_running is None):
        parameter = "max_running" if rate is None else "rate"
        message = (
            f"queue {name!r}: {parameter} holds for a whole queue and is counted in one place, so "
            "it cannot be combined with partitions"
        )
        raise UsageError(message)


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


@dataclass(frozen=True, slots=True, init=False)
class Queue(Generic[T]):
    """A point-to-point queue: each message is handled by one consumer, at least once.

    Args:
        name: 1 to 200 characters; producers and workers in any language share it.
        body_type: what a body is: a msgspec Struct, dataclass, TypedDict, attrs class, pydantic
            model, plain type, or bytes. Default: any JSON value.
        retry: attempts, backoff and crash limit. Default: 5 attempts, 1 s doubling, 3 crashes.
        lease: seconds that a consumer owns a delivery before others may take it over. A worker
            extends it while the handler runs. From 0.1; default 30.
        codec: ``json`` (default) or ``msgpack``. All users of a queue must agree.
        max_body: the largest body in bytes; a larger one is a UsageError at the sender.
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
    codec: Codec[T] = field(repr=False, compare=False)
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
        lease: Duration = 30.0,
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
    ) -> None:
        check_name(name, "the queue's name")
        _check_policies(name, retry, keep)
        check_count(max_body, f"queue {name!r}: max_body")
        _check_order(name, ordered, max_running_per_key)
        _check_choice(priorities, f"queue {name!r}: priorities", ("strict", "weighted"))
        _check_choice(expired, f"queue {name!r}: expired", ("dead", "drop"))
        check_partitions(f"queue {name!r}", ordered, partitions)
        _check_limits(name, partitions, rate, max_running)
        _check_bound(name, bound, partitions)
        # The dataclass is frozen, so its own constructor sets fields in this way, too.
        put = object.__setattr__
        put(self, "name", name)
        put(self, "body_type", body_type)
        put(self, "retry", retry or Retry())
        put(self, "lease_ms", milliseconds(lease, f"queue {name!r}: lease", minimum=0.1))
        put(self, "max_body", max_body)
        put(self, "ordered", ordered)
        put(self, "max_running_per_key", max_running_per_key)
        put(self, "priorities", priorities)
        put(self, "expired", expired)
        put(self, "partitions", partitions)
        put(self, "bound", bound)
        put(self, "store", store)
        put(self, "keep", keep)
        put(self, "place", _place(name, partitions if ordered else None, bound, store))
        put(self, "rate", rate)
        put(self, "max_running", max_running)
        put(self, "codec", codec_for(body_type, self.title, codec))
        _check_store(self)

    @property
    def title(self) -> str:
        """What logs and errors call it."""
        return f"queue {self.name!r}"

    @property
    def limits(self) -> Limits | None:
        """What bounds its deliveries; None: nothing does."""
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
            message = (
                f"queue {self.name!r}: the body has {len(data)} bytes, "
                f"{self.max_body} are allowed (max_body)"
            )
            raise UsageError(message)
        return data


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


def _check_bound(name: str, bound: object, partitions: int) -> None:
    if bound is None:
        return
    if not isinstance(bound, Bound):
        message = f"queue {name!r}: bound must be a Bound, not {bound!r}"
        raise UsageError(message)
    if partitions != 1:
        message = (
            f"queue {name!r}: bound={bound.length} and partitions={partitions} do not go together: "
            "no partition knows how many messages the others have"
        )
        raise UsageError(message)


def _check_policies(name: str, retry: object, keep: object) -> None:
    if retry is not None and not isinstance(retry, Retry):
        message = f"queue {name!r}: retry must be a Retry, not {retry!r}"
        raise UsageError(message)
    if keep is None:
        return
    if not isinstance(keep, Retain):
        message = f"queue {name!r}: keep must be a Retain, not {keep!r}"
        raise UsageError(message)
    if not keep.bounded:
        message = (
            f"queue {name!r}: keep=Retain() without max_age, max_length or max_bytes would keep "
            "nothing: give a bound"
        )
        raise UsageError(message)
    if not keep.until_consumed:
        message = (
            f"queue {name!r}: keep: until_consumed is for topics. What a queue keeps has been handled, "
            "so leave it out"
        )
        raise UsageError(message)


NOT_IN_A_LIST = {
    "ordered": "a list has no lines of keys beside it: pass ordered=True to a stream queue",
    "max_running_per_key": "a list has no lines of keys beside it: use a stream queue",
    "rate": "deliveries of a list are not counted: use a stream queue",
    "max_running": "deliveries of a list are not counted: use a stream queue",
    "bound": "whoever pushes to a list by other means is not held back: use a stream queue",
    "keep": "what was handled would be kept in a stream, which a list queue does without: use a stream queue",
}
"""What a list queue cannot do -> why. Producers learn of the rest when they send."""


def _check_store(queue: Queue[Any]) -> None:
    _check_choice(queue.store, f"queue {queue.name!r}: store", ("stream", "list"))
    if queue.store == "stream":
        return
    for parameter, reason in NOT_IN_A_LIST.items():
        if getattr(queue, parameter) not in (None, False):
            message = f'queue {queue.name!r}: {parameter} does not go with store="list": {reason}'
            raise UsageError(message)
    if queue.priorities != "strict":
        message = (
            f'queue {queue.name!r}: priorities do not go with store="list": it hands out messages in '
            "the order in which they came: use a stream queue"
        )
        raise UsageError(message)


def _place(name: str, partitions: int | None, bound: Bound | None, store: Store) -> str:
    if store == "list":
        return f"{name} list"
    place = name if partitions is None else f"{name}/{partitions}"
    # No name has a space.
    return place if bound is None else f"{place} {bound}"
