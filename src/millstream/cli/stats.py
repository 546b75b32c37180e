"""``millstream stats``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from millstream.cli.names import existing_subscription, found_queue, split, topic_of, unused
from millstream.cli.options import Json, Namespace, ReadFromOption, Url
from millstream.cli.output import say, show_json
from millstream.cli.tables import Row, show_stats
from millstream.message import QueueStats, SubscriptionStats, TopicStats
from millstream.sync.client import Client

__all__ = ["stats"]


def stats(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUEUE|TOPIC|TOPIC/NAME",
            help="Names of queues, topics and subscriptions. Default: all queues and topics.",
            show_default=False,
        ),
    ] = None,
    json_output: Json = False,
    read_from: ReadFromOption = "primary",
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Count the messages of queues, topics and their subscriptions by state."""
    with Client(url, namespace=namespace, read_from=read_from) as client:
        found = [*(_named(client, names) if names else _everything(client))]
        if not found:
            say(f"there are no queues or topics in namespace {namespace!r} of {client.url}")
            return
    if json_output:
        for one in found:
            show_json(_object(one))
    else:
        show_stats(found)


def _everything(client: Client) -> Iterator[Row]:
    for name in client.queues():
        yield client.stats(found_queue(client, name)[0])
    for name in client.topics():
        yield client.stats(topic_of(name))


def _named(client: Client, names: list[str]) -> Iterator[Row]:
    for name in names:
        if "/" in name:
            yield _subscription(client, *split(name, None))
            continue
        queue, found = found_queue(client, name)
        if found.topic:
            yield client.stats(topic_of(name))
        if found.queue or not found.topic:
            yield client.stats(queue)
        if not (found.queue or found.topic):
            say(unused(client, name))


def _subscription(client: Client, topic: str, name: str) -> tuple[str, SubscriptionStats]:
    source = existing_subscription(client, topic, name)
    counts = client.stats(source.topic).subscriptions
    return topic, next(one for one in counts if one.name == name)


def _object(one: Row) -> dict[str, object]:
    if isinstance(one, QueueStats):
        return {"kind": "queue", **_fields(one)}
    if isinstance(one, TopicStats):
        return {"kind": "topic", **_fields(one)}
    topic, counts = one
    return {"kind": "subscription", "topic": topic, **_fields(counts)}


def _fields(one: msgspec.Struct) -> dict[str, object]:
    return msgspec.structs.asdict(one)
