"""What may stand in the declaration of a queue, and beside what. Each error names the parameter."""

from __future__ import annotations

from typing import Protocol

from millstream.durability import MEMORY, check_durability
from millstream.errors import UsageError
from millstream.policy import Bound, Rate, Results, Retain, Retry, check_count

__all__ = [
    "check_choices",
    "check_confirmable",
    "check_delivery",
    "check_limits",
    "check_order",
    "check_policies",
    "check_store",
]


class _Declared(Protocol):
    """A queue; its other parameters are looked up by their names."""

    @property
    def name(self) -> str: ...
    @property
    def store(self) -> str: ...
    @property
    def delivery(self) -> str: ...
    @property
    def priorities(self) -> str: ...


CHOICES = {
    "priorities": ("strict", "weighted"),
    "expired": ("dead", "drop"),
    "store": ("stream", "list"),
    "delivery": ("at_least_once", "at_most_once"),
}


def check_choices(name: str, **given: object) -> None:
    """Refuse what is none of the choices of its parameter."""
    for parameter, value in given.items():
        choices = CHOICES[parameter]
        if value not in choices:
            offered = " or ".join(map(repr, choices))
            message = f"queue {name!r}: {parameter} must be {offered}, not {value!r}"
            raise UsageError(message)


def check_policies(name: str, retry: object, keep: object, results: object) -> None:
    """Refuse other values where policies are expected, and a ``keep`` that means nothing."""
    if retry is not None and not isinstance(retry, Retry):
        message = f"queue {name!r}: retry must be a Retry, not {retry!r}"
        raise UsageError(message)
    if results is not None and not isinstance(results, Results):
        message = f"queue {name!r}: results must be a Results, not {results!r}"
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


def check_confirmable(name: str, bound: object, durability: object) -> None:
    """Refuse what is no durability, and to have sends confirmed that wait for room."""
    if durability is not None:
        check_durability(durability, f"queue {name!r}: durability")
    if isinstance(bound, Bound) and bound.on_full == "wait" and durability not in (None, MEMORY):
        message = (
            f"queue {name!r}: durability={durability!r} does not go with Bound(on_full='wait'): what waits "
            "for its confirmation would lose its place in the line. Use on_full='reject', or 'memory'"
        )
        raise UsageError(message)


def check_order(name: str, ordered: object, max_running_per_key: object) -> None:
    """Refuse an order that is no yes or no, and a limit of keys beside it."""
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


def check_limits(
    name: str, partitions: int, rate: object, max_running: object, bound: object
) -> None:
    """Refuse limits and bounds that make no sense, or cannot be held in partitions."""
    _check_bound(name, bound, partitions)
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


NOT_IN_A_LIST = {
    "ordered": "a list has no lines of keys beside it: pass ordered=True to a stream queue",
    "max_running_per_key": "a list has no lines of keys beside it: use a stream queue",
    "rate": "deliveries of a list are not counted: use a stream queue",
    "max_running": "deliveries of a list are not counted: use a stream queue",
    "bound": "whoever pushes to a list by other means is not held back: use a stream queue",
    "keep": "what was handled would be kept in a stream, which a list queue does without: use a stream queue",
    "results": "what ends in a list is not looked at, so nobody would keep what came of it: use a stream queue",
}
"""What a list queue cannot do -> why. Producers learn of the rest when they send."""


def check_store(queue: _Declared) -> None:
    """Refuse what a list queue cannot do."""
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


NOT_AT_MOST_ONCE = {
    "ordered": "order is kept through retries and crashes, and here are none of either",
    "max_running_per_key": "nobody knows how many run of what is gone from the queue",
    "rate": "deliveries are not counted before they are handed out",
    "max_running": "nobody knows how many run of what is gone from the queue",
    "retry": "what is taken is gone, so nothing is tried again",
    "lease": "what is taken is gone, so nobody else could take it over",
    "keep": "nothing is acknowledged, so nobody knows what was handled",
    "results": "nothing is acknowledged, so nobody could tell how it has ended",
}
"""What means nothing where a message is taken for good -> why."""


def check_delivery(queue: _Declared, **given: object) -> None:
    """Refuse what makes no sense; ``given``: parameters that have a value in any case."""
    if queue.delivery == "at_least_once":
        return
    for parameter, reason in NOT_AT_MOST_ONCE.items():
        value = given[parameter] if parameter in given else getattr(queue, parameter)
        if value not in (None, False):
            message = (
                f'queue {queue.name!r}: {parameter} does not go with delivery="at_most_once": '
                f"{reason}"
            )
            raise UsageError(message)
