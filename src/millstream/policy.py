"""Policies: frozen values and their arithmetic, without a clock.

Durations are seconds (a number or a ``timedelta``) where a user writes them, and whole
milliseconds everywhere inside; ``milliseconds`` is the only place where one becomes the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from millstream.errors import UsageError

__all__ = [
    "AtMostOnce",
    "Backoff",
    "Bound",
    "Duration",
    "Limits",
    "Rate",
    "ReadFrom",
    "Results",
    "Retain",
    "Retry",
    "check_count",
    "milliseconds",
]

Duration = float | timedelta
"""Seconds as a number, or a timedelta."""

ReadFrom = Literal["primary", "replica"]
"""Which server answers reads that may be a moment old."""

_DEFAULT_PATIENCE = timedelta(seconds=30)
"""An object of its own: it tells that nobody has said how long a send may wait."""

LONGEST = 100 * 365 * 86_400
"""A duration above a hundred years is a mistake in units, and would overflow a score."""


def milliseconds(duration: Duration, name: str, *, minimum: float = 0) -> int:
    """Turn a duration into whole milliseconds, rounded up: what waits for it is never early.

    Args:
        duration: seconds, or a timedelta.
        name: the parameter's name, for the error.
        minimum: the smallest allowed number of seconds.

    Raises:
        UsageError: it is not a duration, is not finite, or is out of bounds.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not _is_number(seconds):
        message = f"{name} must be seconds or a timedelta, not {duration!r}"
        raise UsageError(message)
    if not minimum <= seconds <= LONGEST:  # not for NaN, either
        message = f"{name} must be between {minimum:g} and {LONGEST} seconds, not {seconds!r}"
        raise UsageError(message)
    # Beyond microseconds is only what floats make of decimal fractions.
    return math.ceil(round(seconds * 1000, 3))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a failed message waits before it is tried again.

    The wait after failure number n is ``first * factor ** (n - 1)``, at most ``max``, and is
    spread by ``jitter`` so that messages that failed together do not come back together.

    Args:
        first: seconds to wait after the first failure.
        factor: by how much each further wait grows; 1 keeps it constant.
        max: the longest wait in seconds.
        jitter: the spread as a share of the wait: 0.1 means 10 % more or less.
    """

    first: Duration = 1.0
    factor: float = 2.0
    max: Duration = 600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        milliseconds(self.first, "Backoff.first")
        milliseconds(self.max, "Backoff.max")
        if not (_is_number(self.factor) and 1 <= self.factor < math.inf):
            message = f"Backoff.factor must be 1 or more, not {self.factor!r}"
            raise UsageError(message)
        if not (_is_number(self.jitter) and 0 <= self.jitter <= 1):
            message = f"Backoff.jitter must be between 0 and 1, not {self.jitter!r}"
            raise UsageError(message)

    def delay(self, failures: int, luck: float) -> int:
        """Return the wait in milliseconds.

        Args:
            failures: how often the message has failed, 1 or more.
            luck: a random number from 0 to 1; it places the wait within the jitter.
        """
        first = milliseconds(self.first, "Backoff.first")
        longest = milliseconds(self.max, "Backoff.max")
        # A power that overflows is far above any maximum.
        exponent = min(failures - 1, 1000 / math.log2(self.factor)) if self.factor > 1 else 0
        wait: float = min(first * self.factor**exponent, longest)
        return round(wait * (1 + self.jitter * (2 * luck - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a message is tried before it goes to the dead letters.

    Failures and crashes are counted apart: a handler that raises is one thing, a message whose
    consumer dies again and again another.

    Args:
        max_attempts: how often a handler may fail with the message; 1 means no retry.
        backoff: how long to wait between attempts.
        max_crashes: how many deliveries may be lost to dead consumers. One more, and the message
            goes to the dead letters with the reason ``crashed``.
    """

    max_attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    max_crashes: int = 3

    def __post_init__(self) -> None:
        for name, smallest in (("max_attempts", 1), ("max_crashes", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                message = f"Retry.{name} must be a whole number from {smallest}, not {value!r}"
                raise UsageError(message)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many deliveries in a period, across all consumers of a queue.

    A token bucket at the server: each delivery takes a token, tokens come back evenly, and a
    queue that was quiet has saved some up. In any span of t seconds there are at most
    ``burst + count * t / per`` deliveries, by the server's clock. Retries are deliveries, and so is
    what comes again after a consumer died or handed it back.

    Args:
        count: deliveries a period, a whole number from 1.
        per: the period in seconds, from 0.001. Default: 1. For one every ten seconds:
            ``Rate(1, per=10)``.
        burst: how many may come at once after a quiet time, a whole number from 1. Default:
            ``count``. 1 spreads them evenly.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    count: int
    per: Duration = field(default=1.0, kw_only=True)
    burst: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_count(self.count, "Rate.count")
        if self.burst is not None:
            check_count(self.burst, "Rate.burst")
        if self.most_at_once * self.per_ms >= _EXACT:
            message = (
                f"Rate: a burst of {self.most_at_once} is too much for a period of {self.per!r}"
            )
            raise UsageError(message)

    @property
    def per_ms(self) -> int:
        """The period in milliseconds."""
        return milliseconds(self.per, "Rate.per", minimum=0.001)

    @property
    def most_at_once(self) -> int:
        """What the bucket holds."""
        return self.count if self.burst is None else self.burst


_EXACT = 2**53
"""Lua's numbers are exact up to here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the deliveries of a queue, across all its consumers.

    Args:
        rate: how many in a period; None: any number.
        max_running: how many at a time; None: any number.
    """

    rate: Rate | None
    max_running: int | None


@dataclass(frozen=True, slots=True)
class Sieve:
    """What a subscription's reader is not given of what the topic has.

    Args:
        filter: only messages whose subject matches; None: all.
        ordered: one message of a key at a time.
    """

    filter: str | None
    ordered: bool


@dataclass(frozen=True, slots=True)
class AtMostOnce:
    """What a consumer takes of a queue is gone from it, whatever becomes of the consumer."""


def check_count(value: object, name: str) -> None:
    """Refuse what is no whole number from 1.

    Raises:
        UsageError: it names the parameter.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        message = f"{name} must be a whole number from 1, not {value!r}"
        raise UsageError(message)


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Bound:
    """How many messages a queue may have, and what a send does when it is full.

    All unfinished messages count: ready, delayed, in the line of their key, and in flight. What
    the server itself puts back (retries, redriven dead letters) and what schedules send may exceed
    the bound for a while; a send finds no room then.

    Args:
        length: how many messages, from 1.
        on_full: ``reject`` (default): the send fails with ``QueueFull``; ``wait``: it waits until
            there is room, first come, first served; ``drop_oldest``: the oldest messages that
            nobody has begun with make room and are deleted.
        timeout: for ``wait``: seconds after which the send fails with ``QueueFull`` after all.
            Default 30; None: never.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    length: int
    on_full: Literal["reject", "wait", "drop_oldest"]
    timeout_ms: int | None

    def __init__(
        self,
        length: int,
        *,
        on_full: Literal["reject", "wait", "drop_oldest"] = "reject",
        timeout: Duration | None = _DEFAULT_PATIENCE,
    ) -> None:
        check_count(length, "Bound.length")
        if on_full not in ("reject", "wait", "drop_oldest"):
            message = f"Bound.on_full must be 'reject', 'wait' or 'drop_oldest', not {on_full!r}"
            raise UsageError(message)
        given = timeout is not _DEFAULT_PATIENCE
        if given and on_full != "wait":
            message = f"Bound.timeout is for on_full='wait'; a send to a queue that is full with on_full={on_full!r} never waits"
            raise UsageError(message)
        # The dataclass is frozen, so its own constructor sets fields in this way, too.
        put = object.__setattr__
        put(self, "length", length)
        put(self, "on_full", on_full)
        patience = timeout if on_full == "wait" else None
        if patience is not None:
            patience = milliseconds(patience, "Bound.timeout", minimum=0.001)
        put(self, "timeout_ms", patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retain:
    """What a topic keeps of what is handled, for replay and for late subscriptions.

    Each bound that is given is an upper one: what is handled goes as soon as any of them is
    exceeded, the oldest first. Without a bound, what is handled goes. What some subscription has not
    handled stays, whatever the bounds say, unless ``until_consumed=False`` asks for the opposite;
    what that drops is counted for each subscription. Where there is no subscription, nothing waits
    to be handled: the bounds alone keep history.

    Topics are trimmed by those who use them, about once a second or every thousand messages, so
    bounds are exceeded by what is published in between.

    Args:
        max_age: seconds since it was published, from 0.001. Default: any age.
        max_length: how many messages, from 1, in each partition. Default: any number.
        max_bytes: about how much memory they take at the server, from 1, in each partition.
            Default: any amount.
        until_consumed: whether what is not handled stays above the bounds. Default: yes.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    max_age: Duration | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    until_consumed: bool = True

    def __post_init__(self) -> None:
        if self.max_age is not None:
            milliseconds(self.max_age, "Retain.max_age", minimum=0.001)
        for name in ("max_length", "max_bytes"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), f"Retain.{name}")
        if not isinstance(self.until_consumed, bool):
            message = f"Retain.until_consumed must be True or False, not {self.until_consumed!r}"
            raise UsageError(message)
        if not self.until_consumed and not self.bounded:
            message = (
                "Retain.until_consumed=False without max_age, max_length or max_bytes would keep "
                "nothing: give a bound"
            )
            raise UsageError(message)

    @property
    def bounded(self) -> bool:
        """Whether any bound is given."""
        return not (self.max_age is None and self.max_length is None and self.max_bytes is None)

    @property
    def max_age_ms(self) -> int | None:
        """The age in milliseconds."""
        return None if self.max_age is None else milliseconds(self.max_age, "Retain.max_age")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What becomes of the values that the handlers of a queue return, for senders that want them.

    Args:
        type: what a result is, as for the body of a ``Queue``. Default: any JSON value.
        keep: seconds from the end of the work for which a result can be had, from 0.001. Default
            3600. The sender's declaration counts.

    Raises:
        UsageError: a parameter does not make sense; it names the parameter.
    """

    type: Any = Any
    keep: Duration = 3600.0

    def __post_init__(self) -> None:
        milliseconds(self.keep, "Results.keep", minimum=0.001)

    @property
    def keep_ms(self) -> int:
        """The time in milliseconds."""
        return milliseconds(self.keep, "Results.keep")
