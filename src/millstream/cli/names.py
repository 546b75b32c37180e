"""What a name on the command line stands for: a queue, a topic or its subscription, an endpoint.

The command line knows no declarations. It asks the server how others have declared what it works
on, so that it never disagrees with them, and changes nothing about it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from difflib import get_close_matches

from millstream import policy
from millstream.cli.output import Failed, say
from millstream.declare import Queue, Store, check_name
from millstream.endpoint import Endpoint
from millstream.errors import BrokerError, ServerRefused, UsageError
from millstream.policy import Retry
from millstream.protocol.discovery import Found, list_names, look
from millstream.protocol.keys import topic_keys
from millstream.protocol.partitions import declared
from millstream.protocol.subscriptions import Declared, subscriptions
from millstream.sync.client import Client
from millstream.topic import Source, Subscription, Topic

__all__ = [
    "declared_queue",
    "declared_topic",
    "endpoint_of",
    "ephemeral_topic",
    "existing_subscription",
    "find_subscription",
    "found_queue",
    "queue_of",
    "source_of",
    "split",
    "topic_of",
    "unused",
]

NEVER = 2**31 - 1

SOME = 10
"""So many names are listed for somebody who has mistyped one."""

CALLS = 100
"""Looks at keys for a name that was perhaps meant: some tens of ms at each node."""

# Who receives may be elected to take over expired leases. It does not know how many crashes the
# workers allow, so it leaves it to them to give a message up.
PATIENT = Retry(max_crashes=NEVER)


def queue_of(
    name: str,
    *,
    partitions: int | None = None,
    bound: int | None = None,
    store: Store | None = None,
    results: bool = False,
) -> Queue[bytes]:
    """Declare a queue without knowing what its bodies are.

    Args:
        name: of the queue.
        partitions: of an ordered queue; None: it is not ordered, as far as this matters.
        bound: see ``options.Bound``.
        store: what keeps its messages; None: a stream.
        results: whether it has results.

    Raises:
        UsageError: no queue can have this name, these partitions, this bound, or these together.
    """
    _check_text(name, "queue")
    return Queue(
        name,
        bytes,
        retry=PATIENT,
        ordered=partitions is not None,
        partitions=1 if partitions is None else partitions,
        bound=None if bound is None else policy.Bound(bound),
        store=store or "stream",
        results=policy.Results(type=bytes) if results else None,
    )


def declared_queue(
    client: Client,
    name: str,
    *,
    ordered: bool = False,
    partitions: int | None = None,
    bound: int | None = None,
    store: Store | None = None,
    results: bool = False,
) -> Queue[bytes]:
    """Declare a queue to send to as its users do: how it is divided, and its store, if the server knows.

    Args:
        client: of the server.
        name: of the queue.
        ordered: what it is if the server does not know.
        partitions: how many it is said to have; None: as many as the server knows, or one.
        bound, results: see ``queue_of``.
        store: what it is said to be kept in; None: what the server knows, or a stream.

    Raises:
        UsageError: as for ``queue_of``; or others use it with another store, or as a topic.
        NotConnected: the server cannot be reached.
    """
    found = _look(client, name)
    # Who names its store wants a queue, whatever else has this name.
    if found.topic and not found.queue and store is None:
        message = (
            f"{name!r} is a topic, and no queue has this name: millstream publish {name} reaches "
            "its subscriptions. --store stream makes a queue of this name"
        )
        raise UsageError(message)
    _check_store(name, store, found)
    if partitions is None:
        partitions = found.partitions or (1 if ordered else None)
    store = store or found.store
    return queue_of(name, partitions=partitions, bound=bound, store=store, results=results)


def found_queue(client: Client, name: str) -> tuple[Queue[bytes], Found]:
    """Declare a queue as its users do, whether or not there is one; say what has this name.

    Raises:
        UsageError: no queue can have this name.
        NotConnected: the server cannot be reached.
    """
    found = _look(client, name)
    return queue_of(name, partitions=found.partitions, store=found.store), found


def _look(client: Client, name: str) -> Found:
    queue_of(name)  # says what is wrong with the name
    return client.connect().driver.run(look(client.namespace, name))


def _check_store(name: str, store: Store | None, found: Found) -> None:
    if store not in (None, found.store) and found.in_use:
        message = (
            f"queue {name!r} keeps its messages in a {found.store}, and its users must agree: leave "
            "out --store, or drain it before you change it"
        )
        raise UsageError(message)


def unused(client: Client, name: str) -> str:
    """Say that there is no trace of a queue or topic, and which one was perhaps meant."""
    message = (
        f"nobody has used queue {name!r} yet, and there is no such topic "
        f"(namespace {client.namespace!r})"
    )
    # A hint is no reason to fail: not every user may look at all keys.
    with contextlib.suppress(BrokerError):
        known = client.connect().driver.drive(list_names(client.namespace, calls=CALLS))
        if close := get_close_matches(name, known, 1):
            message += f". Did you mean {close[0]!r}?"
    return message


def topic_of(name: str, *, partitions: int | None = None, durable: bool = True) -> Topic[bytes]:
    """Declare a topic without knowing what its bodies are.

    Args:
        name: of the topic.
        partitions: of an ordered topic; None: it is not ordered, as far as this matters.
        durable: whether it keeps messages.

    Raises:
        UsageError: no topic can have this name, or these partitions.
    """
    _check_text(name, "topic")
    if not durable:
        return Topic(name, bytes, durable=False)
    if partitions is None:
        return Topic(name, bytes, retry=PATIENT)
    return Topic(name, bytes, retry=PATIENT, ordered=True, partitions=partitions)


def declared_topic(
    client: Client, name: str, *, ordered: bool = False, partitions: int | None = None
) -> Topic[bytes]:
    """Declare a durable topic as its users do; the arguments are those of ``declared_queue``."""
    topic_of(name)
    if partitions is None:
        keys = topic_keys(client.namespace, name)
        partitions = client.connect().driver.run(declared(keys, None))
        partitions = partitions or (1 if ordered else None)
    return topic_of(name, partitions=partitions)


def ephemeral_topic(client: Client, name: str) -> Topic[bytes]:
    """Declare a topic that keeps nothing; stderr says if others use it as one that keeps messages.

    Args:
        client: of the server.
        name: of the topic, or a pattern.

    Raises:
        UsageError: no topic can have this name.
        NotConnected: the server cannot be reached.
    """
    topic = topic_of(name, durable=False)
    if topic.is_pattern:
        return topic
    # A note is no reason to fail: who only publishes need not have the right to ask.
    with contextlib.suppress(ServerRefused):
        if client.connect().driver.run(look(client.namespace, name)).topic:
            say(
                f"topic {name!r} is used without --ephemeral, too: its subscriptions get nothing "
                "of what is published with it, and listeners nothing of what is published without"
            )
    return topic


def endpoint_of(name: str, timeout: float) -> Endpoint[bytes, bytes]:
    """Declare an endpoint without knowing what its requests and replies are.

    Whoever declares it says whether a handler must finish, so nobody here has one stopped: Ctrl-C
    only deletes a request that still waits.

    Args:
        name: of the endpoint.
        timeout: seconds that a request may take.

    Raises:
        UsageError: no endpoint can have this name, or this timeout.
    """
    _check_text(name, "endpoint")
    return Endpoint(name, bytes, bytes, timeout=timeout, must_finish=True)


def split(topic: str, name: str | None) -> tuple[str, str]:
    """Return a topic and the name of its subscription, given apart or as ``TOPIC/NAME``.

    Raises:
        UsageError: there is no second name.
    """
    if name is None:
        topic, _, name = topic.partition("/")
    if not name:
        message = f"name the subscription, too: {topic} NAME"
        raise UsageError(message)
    return topic, name


def find_subscription(client: Client, topic: str, name: str) -> Subscription[bytes] | None:
    """Declare a subscription as others have made it; None: there is none of this name.

    Raises:
        UsageError: no topic or subscription can have this name.
        NotConnected: the server cannot be reached.
    """
    found = declared_topic(client, topic)
    check_name(name, "the subscription's name")
    known = _subscriptions(client, topic).get(name)
    if known is None:
        return None
    expires = None if known.expires is None else known.expires / 1000
    return found.subscription(name, filter=known.filter, expires=expires)


def existing_subscription(client: Client, topic: str, name: str) -> Subscription[bytes]:
    """Declare a subscription as others have made it.

    Raises:
        UsageError: there is none of this name; the error names those that there are.
        NotConnected: the server cannot be reached.
    """
    found = find_subscription(client, topic, name)
    if found is None:
        others = _list(_subscriptions(client, topic))
        message = f"topic {topic!r} has no subscription {name!r}; it has {others}"
        raise UsageError(message)
    return found


def _subscriptions(client: Client, topic: str) -> dict[str, Declared]:
    return client.connect().driver.run(subscriptions(topic_keys(client.namespace, topic)))


def source_of(
    client: Client, name: str, store: Store | None = None, *, new: bool = False
) -> Source[bytes]:
    """Declare what deliveries come from, as its users do: a queue, or ``TOPIC/NAME``.

    A subscription is not made by asking for it. Nor is a queue, but it need not have been used before
    where this makes sense.

    Args:
        client: of the server.
        name: of the queue, or of a topic and its subscription.
        store: see ``declared_queue``.
        new: whether it may be a queue that nobody has used yet; stderr says that it is one.

    Raises:
        UsageError: there can be no such queue, there is no such subscription, or it is a topic; the
            error names the subscriptions that there are.
        Failed: nobody has used the queue yet.
        NotConnected: the server cannot be reached.
    """
    if "/" in name:
        return existing_subscription(client, *split(name, None))
    queue, found = found_queue(client, name)
    # Who names its store wants a queue, whatever else has this name.
    if store is not None:
        _check_store(name, store, found)
        return queue_of(name, partitions=found.partitions, store=store)
    if found.queue:
        return queue
    if found.topic:
        each = _list(f"{name}/{one}" for one in _subscriptions(client, name))
        message = (
            f"{name!r} is a topic, which is read by its subscriptions: name one. It has {each}"
        )
        raise UsageError(message)
    if not new:
        raise Failed(unused(client, name), status=1)
    say(unused(client, name))
    return queue


def _list(names: Iterable[str]) -> str:
    known = list(names)
    rest = len(known) - SOME
    more = f" and {rest:,} more" if rest > 0 else ""
    return ", ".join(known[:SOME]) + more or "none"


def _check_text(name: str, what: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"the {what}'s name must be valid UTF-8, not {name!r}"
        raise UsageError(message) from error
