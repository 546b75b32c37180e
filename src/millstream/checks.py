"""What callers may pass. Each error names the parameter."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from millstream.declare import Queue
from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.message_id import is_id
from millstream.policy import ReadFrom
from millstream.security import Security
from millstream.topic import Source, Subscription, Topic

__all__ = [
    "MOST_WINDOW",
    "check_confirmed",
    "check_countable",
    "check_cursor",
    "check_endpoint",
    "check_ephemeral",
    "check_headers",
    "check_ids",
    "check_keeps",
    "check_limit",
    "check_options",
    "check_prefetch",
    "check_queue",
    "check_rate",
    "check_read_from",
    "check_results",
    "check_security",
    "check_sendable",
    "check_source",
    "check_topic",
    "check_window",
    "list_of",
]

T = TypeVar("T")

MOST_PREFETCH = 10_000

MOST_WINDOW = 10_000
"""Parts of a stream that may be on their way; both sides hold so many at most."""


def check_read_from(read_from: object) -> None:
    """Refuse what no reads can go to."""
    if read_from not in get_args(ReadFrom):
        message = f'read_from must be "primary" or "replica", not {read_from!r}'
        raise UsageError(message)


def check_security(security: object) -> None:
    """Refuse what is none; the error does not show it, for it may be a password."""
    if not isinstance(security, Security | None):
        message = f"security must be a Security, not of the type {type(security).__name__}"
        raise UsageError(message)


def check_queue(queue: object) -> None:
    """Refuse what is no queue, such as the name of one."""
    _check_no_endpoint(queue)
    if not isinstance(queue, Queue):
        message = f"expected a Queue, not {_shown(queue)}"
        raise UsageError(message)


def check_sendable(queue: object) -> None:
    """Refuse to send to what is no queue."""
    if isinstance(queue, Topic | Subscription):
        message = f"send is for queues: publish to {_topic_of(queue).title} instead"
        raise UsageError(message)
    if isinstance(queue, Endpoint):
        message = f"send is for queues: use request for {queue.title}"
        raise UsageError(message)
    check_queue(queue)


def _check_no_endpoint(source: object) -> None:
    """Refuse an endpoint where its queue is meant."""
    if isinstance(source, Endpoint):
        message = f"{source.title} is no queue: pass endpoint.queue, or ask it with request"
        raise UsageError(message)


def list_of(bodies: Iterable[T], verb: str) -> list[T]:
    """Return bodies, and refuse one where many are expected: it would be sent letter by letter."""
    try:
        each = None if isinstance(bodies, str | bytes | bytearray | Mapping) else iter(bodies)
    except TypeError:
        each = None
    if each is None:
        message = f"{verb} takes a list of bodies, not {_shown(bodies)}"
        raise UsageError(message)
    return list(each)


def check_source(source: object) -> None:
    """Refuse what no deliveries come from."""
    if isinstance(source, Topic) and source.durable:
        message = (
            f"{source.title} is read by its subscriptions: pass topic.subscription(name), not the "
            "topic"
        )
        raise UsageError(message)
    _check_no_endpoint(source)
    if not isinstance(source, Queue | Subscription):
        message = f"expected a Queue or a Subscription, not {_shown(source)}"
        raise UsageError(message)


def check_countable(source: object) -> None:
    """Refuse what has no statistics."""
    _check_no_endpoint(source)
    if not isinstance(source, Queue | Subscription | Topic):
        message = f"expected a Queue, a Subscription or a Topic, not {_shown(source)}"
        raise UsageError(message)


def check_topic(topic: object) -> None:
    """Refuse what nothing can be published to."""
    if isinstance(topic, Queue):
        message = f"publish is for topics: send to {topic.title} instead"
        raise UsageError(message)
    if isinstance(topic, Subscription):
        message = f"{topic.title} gets what its topic gets: publish to {topic.topic.title}"
        raise UsageError(message)
    if isinstance(topic, Endpoint):
        message = f"publish is for topics: use request for {topic.title}"
        raise UsageError(message)
    if not isinstance(topic, Topic):
        message = f"expected a Topic, not {_shown(topic)}"
        raise UsageError(message)


def check_endpoint(endpoint: object) -> None:
    """Refuse what nobody can ask."""
    if isinstance(endpoint, Queue):
        message = f"request is for endpoints: send to {endpoint.title} instead"
        raise UsageError(message)
    if not isinstance(endpoint, Endpoint):
        message = f"expected an Endpoint, not {_shown(endpoint)}"
        raise UsageError(message)


def check_callback(callback: object, name: str) -> None:
    """Refuse what cannot be called."""
    if callback is not None and not callable(callback):
        message = f"{name} must be a function, not {_shown(callback)}"
        raise UsageError(message)


def check_keeps(queue: Queue[Any]) -> None:
    """Refuse a queue that cannot keep what it has handled."""
    if queue.store == "list":
        message = f"{queue.title} is in a list, which keeps nothing of what was handled"
        raise UsageError(message)


def check_results(queue: object) -> None:
    """Refuse what has no results."""
    check_queue(queue)
    if queue.results is None:  # type: ignore[attr-defined] # it is a queue
        message = f"{queue.title} is declared without results: pass results=ms.Results()"  # type: ignore[attr-defined] # see above
        raise UsageError(message)


def check_ephemeral(topic: object) -> None:
    """Refuse what is no topic that reaches only who listens."""
    check_topic(topic)
    if topic.durable:  # type: ignore[attr-defined] # it is a topic
        message = f"{topic.title} is durable: this is for durable=False"  # type: ignore[attr-defined] # see above
        raise UsageError(message)


def _topic_of(source: Topic[Any] | Subscription[Any]) -> Topic[Any]:
    return source.topic if isinstance(source, Subscription) else source


def _shown(value: object) -> str:
    """Show what was given: of a declaration its name, for the whole of it fills a screen."""
    if isinstance(value, Queue | Topic | Subscription | Endpoint):
        return f"{type(value).__name__}: {value.name!r}"
    return f"{type(value).__name__}: {reprlib.repr(value)}"


def check_headers(headers: object) -> None:
    """Refuse what is no mapping; its strings are checked when they are encoded."""
    if not isinstance(headers, Mapping):
        message = f"headers must map strings to strings, not {headers!r}"
        raise UsageError(message)


def check_options(function: str, given: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse a keyword that a function does not have, as Python does where each is a parameter.

    Raises:
        TypeError: it names the function that was called, not one that this passes its options to.
    """
    for name in given:
        if name not in known:
            message = f"{function}() got an unexpected keyword argument {name!r}"
            if close := get_close_matches(name, known, 1):
                message += f". Did you mean {close[0]!r}?"
            raise TypeError(message)


def check_prefetch(prefetch: object) -> None:
    """Refuse what is no number of messages to hold."""
    if not isinstance(prefetch, int) or not 1 <= prefetch <= MOST_PREFETCH:
        message = f"prefetch must be a number from 1 to {MOST_PREFETCH}, not {prefetch!r}"
        raise UsageError(message)


def check_window(window: object) -> None:
    """Refuse what is no number of parts of a stream."""
    if not isinstance(window, int) or not 1 <= window <= MOST_WINDOW:
        message = f"window must be a number from 1 to {MOST_WINDOW}, not {window!r}"
        raise UsageError(message)


def check_limit(limit: object) -> None:
    """Refuse what is no number of messages to show."""
    if not isinstance(limit, int) or limit < 1:
        message = f"limit must be a number from 1, not {limit!r}"
        raise UsageError(message)


def check_rate(rate: object) -> None:
    """Refuse what is no number of messages a second."""
    if rate is None:
        return
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        message = f"rate must be a number of messages a second above 0, not {rate!r}"
        raise UsageError(message)


def check_ids(ids: object) -> None:
    """Refuse one id where a list of them is expected: it would be read letter by letter."""
    if ids is not None and (isinstance(ids, str | bytes) or not isinstance(ids, Sequence)):
        message = f"ids must be a list of message ids, not {ids!r}"
        raise UsageError(message)


def check_confirmed(confirm: object, queue: Source[Any]) -> None:
    """Refuse to delete messages for good by accident."""
    if confirm is not True:
        message = f"purge deletes messages of {queue.title} for good: pass confirm=True"
        raise UsageError(message)


def check_cursor(after: object) -> None:
    """Refuse what no dead letter has as its cursor."""
    if after is not None and not is_id(after):
        message = f"after must be the cursor of a dead letter, not {after!r}"
        raise UsageError(message)
