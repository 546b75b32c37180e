"""``millstream subscribe``: what is published on a topic, as it comes."""

from __future__ import annotations

import math
import sys
from datetime import datetime
from typing import Annotated

import typer

from millstream.cli.listen import listen
from millstream.cli.messages import delivery_line, delivery_page
from millstream.cli.moments import place_of
from millstream.cli.names import declared_topic, existing_subscription, split, subscriptions_of
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
from millstream.topic import EARLIEST, EXPIRES, LATEST, Start, Subscription

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
) -> None:
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
            status = listen(client, topic, count=count, patience=patience, as_json=as_json)
        raise typer.Exit(status)
    topic, name = split(topic, name)
    if any(sign in topic for sign in "*>"):
        message = f"{topic!r} is a pattern, which can only be listened to: add --ephemeral"
        raise UsageError(message)
    begin = None if start is None else place_of(start, "--start")
    seconds = _seconds(expires)
    with Client(url, namespace=namespace) as client, Signals() as signals:
        if name in subscriptions_of(client, topic):
            source = existing_subscription(client, topic, name)
            _check_filter(source, filter)
            if start is not None or expires is not None:
                say(f"{source.title} exists: it keeps its place, and how it was made")
        else:
            source = declared_topic(client, topic).subscription(
                name, start=begin or LATEST, filter=filter, expires=seconds
            )
            _tell_of_new(source)
        hand = Hand(delivery_line if as_json else delivery_page, ack=not no_ack)
        take(client, source, hand, signals, count=count, patience=patience)
    if signals.came:
        raise typer.Exit(signals.status)
    if not hand.shown:
        say(f"no message for {source.title}")


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


def _check_filter(source: Subscription[bytes], wanted: str | None) -> None:
    if wanted is None or wanted == source.filter:
        return
    made = f"with the filter {source.filter!r}" if source.filter else "without a filter"
    message = (
        f"{source.title} was made {made}, and consumers must agree: leave out --filter, or name "
        "another subscription"
    )
    raise UsageError(message)


def _tell_of_new(source: Subscription[bytes]) -> None:
    say(
        f"{source.title} is new, and begins with {_beginning(source.start)}. From now on messages "
        f"wait for it; when it is not needed any more: millstream unsubscribe {source.name}"
    )


def _beginning(start: Start | datetime | str) -> str:
    if start is LATEST:
        return "the next message that is published"
    if start is EARLIEST:
        return "the oldest message"
    return f"message {start}" if isinstance(start, str) else f"what was published at {start}"
