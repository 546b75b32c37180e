"""``millstream seek`` and ``millstream unsubscribe``: another place, and the end of a subscription."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.cli.consent import Yes, ask, check_confirmed
from millstream.cli.moments import beginning, place_of
from millstream.cli.names import existing_subscription, split
from millstream.cli.options import Json, Namespace, SubscriptionName, TopicName, Url
from millstream.cli.output import clean, plural, say, show_json, show_text
from millstream.errors import UsageError
from millstream.sync.client import Client

__all__ = ["seek", "unsubscribe"]


def seek(
    topic: TopicName,
    name: SubscriptionName = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="earliest|latest|TIME|ID",
            help="With which message it goes on.",
            show_default=False,
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Also while its consumers run.")] = False,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Have a subscription go on from another place in the topic's history, back or forward."""
    topic, name = split(topic, name)
    place = place_of(to, "--to")
    with Client(url, namespace=namespace) as client:
        source = existing_subscription(client, topic, name)
        try:
            ahead = client.seek(source.topic, name, to=place, force=force)
        except UsageError as error:
            # It speaks of the parameter.
            raise UsageError(str(error).replace("force=True", "--force")) from error
    if json_output:
        show_json({"topic": topic, "subscription": name, "ahead": ahead})
        return
    where = f"{source.name} goes on with {beginning(place)}"
    show_text(clean(f"{where}: {plural(ahead)} ahead of it"))


def unsubscribe(
    topic: TopicName,
    name: SubscriptionName = None,
    yes: Yes = False,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Remove a subscription for good, its dead letters and all that waits for it included.

    Stop its consumers before: one that runs makes it anew. The topic keeps its messages.
    """
    topic, name = split(topic, name)
    check_confirmed(yes, "unsubscribe removes a subscription")
    with Client(url, namespace=namespace) as client:
        source = existing_subscription(client, topic, name)
        counts = client.stats(source)
        if not yes:
            waiting = counts.ready + counts.delayed + counts.in_flight
            what = f"{plural(waiting)} waiting, {plural(counts.dead, 'dead letter')}"
            ask(f"Remove {source.title} at {client.url} for good ({what})?", "nothing was removed")
        removed = client.unsubscribe(source.topic, name)
    if counts.consumers:
        say(f"{plural(len(counts.consumers), 'consumer')} had it open: one that runs makes it anew")
    if json_output:
        show_json({"topic": topic, "subscription": name, "removed": removed})
    else:
        show_text(f"{clean(source.name)} removed")
