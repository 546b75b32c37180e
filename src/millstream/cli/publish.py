"""``millstream publish``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from millstream.cli.names import declared_topic, ephemeral_topic, topic_of
from millstream.cli.options import (
    Bodies,
    Durability,
    Ephemeral,
    FromFile,
    Header,
    Json,
    Key,
    Namespace,
    Ordered,
    Partitions,
    TopicName,
    Url,
)
from millstream.cli.outgoing import (
    Outgoing,
    checked_bodies,
    durability_of,
    given,
    headers_of,
    opened,
)
from millstream.errors import UsageError
from millstream.subject import check_subject
from millstream.sync.client import Client

__all__ = ["publish"]

Subject = Annotated[
    str | None,
    typer.Option(
        "--subject",
        metavar="SUBJECT",
        help="What they are about, such as eu.paid, for the filters of subscriptions.",
        show_default=False,
    ),
]


def publish(
    topic: TopicName,
    bodies: Bodies = None,
    *,
    source: FromFile = None,
    subject: Subject = None,
    key: Key = None,
    header: Header = None,
    ephemeral: Ephemeral = False,
    ordered: Ordered = False,
    partitions: Partitions = None,
    durability: Durability = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Publish messages on a topic and print their ids.

    For an ephemeral topic it prints how many listeners got each.
    """
    # These say what is wrong before it connects.
    if ephemeral and (ordered or partitions is not None or key is not None):
        message = "--ephemeral keeps nothing, so there is no order: leave out --key, --ordered and --partitions"
        raise UsageError(message)
    if ephemeral and durability is not None:
        message = (
            "--ephemeral keeps nothing, so there is nothing to confirm: leave out --durability"
        )
        raise UsageError(message)
    topic_of(topic, partitions=partitions, durable=not ephemeral)
    if subject is not None:
        check_subject(subject)
    options = given(
        headers=headers_of(header), key=key, subject=subject, durability=durability_of(durability)
    )
    encoded = checked_bodies(bodies, source)

    outgoing = Outgoing("topic", topic, "published", source, as_json=json_output)
    with opened(source) as file, Client(url, namespace=namespace) as client:
        target = (
            ephemeral_topic(client, topic)
            if ephemeral
            else declared_topic(client, topic, ordered=ordered, partitions=partitions)
        )
        pass_on = partial(client.publish_many, target, **options)
        outgoing.go(file, encoded, target.max_body, pass_on)
