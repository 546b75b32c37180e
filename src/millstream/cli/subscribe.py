"""``millstream subscribe``: what is published on a topic, as it comes."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import typer

from millstream.cli.listen import listen
from millstream.cli.messages import delivery_line, delivery_page
from millstream.cli.moments import beginning, place_of
from millstream.cli.names import (
    declared_topic,
    find_subscription,
    split,
    topic_of,
)
from millstream.cli.options import (
    Count,
    Ephemeral,
    Filter,
    Json,
    Namespace,
    NoAck,
    SubscriptionName,
    TopicName,
    Url,
)
from millstream.cli.output import say
from millstream.cli.taking import Hand, Signals, take
from millstream.errors import UsageError
from millstream.sync.client import Client
from millstream.topic import EXPIRES, LATEST, Subscription, Topic

__all__ = ["subscribe"]

Begin = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="earliest|latest|TIME|ID",
        help="Where a new subscription begins. Default: latest, with what is published next.",
        show_default=False,
    ),
]
Expires = Annotated[
    str | None,
    typer.Option(
        "--expires",
        metavar="S|never",
        help="Seconds without a consumer after which a new one is removed. Default: 31 days.",
        show_default=False,
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0,
        metavar="SECONDS",
        help="Stop when none came for so long. Default: go on until Ctrl-C.",
        show_default=False,
    ),
]


def subscribe(
    topic: TopicName,
    name: SubscriptionName = None,
    *,
    start: Begin = None,
    filter: Filter = None,  # noqa: A002 - the name of the option
    expires: Expires = None,
    count: Count = None,
    wait: Wait = None,
    no_ack: NoAck = False,
    ephemeral: Ephemeral = False,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> int:
    """Print what is published on a topic as it comes, until Ctrl-C.

    A message is acknowledged for this subscription once it is written. A new subscription is made;
    it stays, and keeps its place. With --ephemeral there is none: TOPIC may be a pattern.
    """
    patience = math.inf if wait is None else wait
    as_json = json_output or not sys.stdout.isatty()
    if ephemeral:
        options = {"--start": start, "--filter": filter, "--expires": expires}
        _refuse_with_ephemeral({"NAME": name, **options, "--no-ack": no_ack or None})
        with Client(url, namespace=namespace) as client:
            return listen(client, topic, count=count, patience=patience, as_json=as_json)
    topic, name = split(topic, name)
    begin = None if start is None else place_of(start, "--start")
    # This says what is wrong before it connects.
    wanted = _durable(topic).subscription(
        name, start=begin or LATEST, filter=filter, expires=_seconds(expires)
    )
    with Client(url, namespace=namespace) as client, Signals() as signals:
        source = _existing(client, wanted)
        if source is None:
            source = _made(client, wanted)
        elif start is not None or expires is not None:
            say(f"{source.title} exists: it keeps its place, and how it was made")
        hand = Hand(delivery_line if as_json else delivery_page, ack=not no_ack)
        take(client, source, hand, signals, count=count, patience=patience)
    if not (hand.shown or signals.came):
        say(f"no message for {source.title}")
    return signals.status


def _durable(name: str) -> Topic[bytes]:
    if any(sign in name for sign in "*>"):
        message = f"{name!r} is a pattern, which can only be listened to: add --ephemeral"
        raise UsageError(message)
    return topic_of(name)


def _existing(client: Client, wanted: Subscription[bytes]) -> Subscription[bytes] | None:
    """Return the subscription as others have made it; None: there is none.

    Raises:
        UsageError: it has another filter.
    """
    source = find_subscription(client, wanted.topic.name, wanted.own_name)
    if source is not None and wanted.filter not in (None, source.filter):
        made = f"with the filter {source.filter!r}" if source.filter else "without a filter"
        message = (
            f"{source.title} was made {made}, and consumers must agree: leave out --filter, or name "
            "another subscription"
        )
        raise UsageError(message)
    return source


def _made(client: Client, wanted: Subscription[bytes]) -> Subscription[bytes]:
    """Make the subscription, and tell of it: who has mistyped a name must notice."""
    source = declared_topic(client, wanted.topic.name).subscription(
        wanted.own_name,
        start=wanted.start,
        filter=wanted.filter,
        expires=None if wanted.expires_ms is None else wanted.expires_ms / 1000,
    )
    client.declare(source)
    say(
        f"{source.title} is new, and begins with {beginning(source.start)}. From now on messages "
        f"wait for it; when it is not needed any more: millstream unsubscribe {source.name}"
    )
    return source


def _refuse_with_ephemeral(options: dict[str, object]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        message = (
            f"--ephemeral listens without a subscription: leave out {' and '.join(given)}, or "
            "--ephemeral for a durable topic"
        )
        raise UsageError(message)


def _seconds(expires: str | None) -> float | None:
    if expires is None:
        return EXPIRES
    if expires == "never":
        return None
    try:
        return float(expires)
    except ValueError as error:
        message = f"--expires takes a number of seconds, or never, not {expires!r}"
        raise UsageError(message) from error
