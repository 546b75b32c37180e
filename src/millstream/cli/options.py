"""What several commands take alike."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.declare import Store
from millstream.driver.target import ENVIRONMENT_VARIABLE
from millstream.policy import ReadFrom

__all__ = [
    "At",
    "Bodies",
    "Bound",
    "Count",
    "Delay",
    "Durability",
    "Ephemeral",
    "Filter",
    "FromFile",
    "Header",
    "Json",
    "Key",
    "Limit",
    "Namespace",
    "NoAck",
    "Ordered",
    "Partitions",
    "Priority",
    "QueueName",
    "ReadFromOption",
    "Result",
    "SourceName",
    "StoreName",
    "SubscriptionName",
    "Timeout",
    "TopicName",
    "Ttl",
    "Unique",
    "UniqueFor",
    "Url",
]

QueueName = Annotated[
    str, typer.Argument(metavar="QUEUE", help="Name of the queue.", show_default=False)
]
SourceName = Annotated[
    str,
    typer.Argument(
        metavar="QUEUE|TOPIC/NAME",
        help="Name of the queue, or of a topic and its subscription.",
        show_default=False,
    ),
]
TopicName = Annotated[
    str, typer.Argument(metavar="TOPIC", help="Name of the topic.", show_default=False)
]
SubscriptionName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Name of the subscription. Or both in one: TOPIC/NAME.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=ENVIRONMENT_VARIABLE,
        metavar="URL",
        help="The server. Default: a server of one's own, embedded://",
        show_default=False,
    ),
]
Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="First part of all keys.")
]
ReadFromOption = Annotated[
    ReadFrom,
    typer.Option("--read-from", help="Who answers, where Sentinels know of replicas."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show N at most.")]

Delay = Annotated[
    float | None,
    typer.Option(
        "--delay", metavar="S", help="Seconds from now until it is due.", show_default=False
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME", help="When it is due: ISO 8601 with a zone.", show_default=False
    ),
]

Bodies = Annotated[
    list[str] | None,
    typer.Argument(metavar="BODY", help="JSON values, one a message.", show_default=False),
]
FromFile = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Each line of a file of JSON lines is a message, or each element of a JSON array. "
        "- is standard input.",
        show_default=False,
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME=VALUE", help="Metadata. May be repeated."),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Their key.", show_default=False)
]
Ordered = Annotated[
    bool, typer.Option("--ordered", help="It is new, and ordered: keep the key's order.")
]
Partitions = Annotated[
    int | None,
    typer.Option(
        "--partitions",
        metavar="N",
        help="It is new, ordered, and declared with N partitions.",
        show_default=False,
    ),
]
Priority = Annotated[
    int, typer.Option("--priority", metavar="0…9", help="9 is the highest.", show_default=False)
]
Unique = Annotated[
    str | None,
    typer.Option(
        "--unique", metavar="KEY", help="Send nothing if it is taken.", show_default=False
    ),
]
UniqueFor = Annotated[
    str | None,
    typer.Option(
        "--unique-for", metavar="done|started|S", help="Until when it is.", show_default=False
    ),
]
Bound = Annotated[
    int | None,
    typer.Option(
        "--bound",
        metavar="N",
        help="Send nothing if the queue would have more than N unfinished messages.",
        show_default=False,
    ),
]
StoreName = Annotated[
    Store | None,
    typer.Option("--store", help="The queue is new, and kept in this.", show_default=False),
]
Durability = Annotated[
    str | None,
    typer.Option(
        "--durability",
        metavar="memory|fsync|replicas:N",
        help="How far they have to get before their ids are printed.",
        show_default=False,
    ),
]
Ttl = Annotated[
    float | None,
    typer.Option("--ttl", metavar="S", help="Seconds until they expire.", show_default=False),
]

Result = Annotated[
    bool, typer.Option("--result", help="Wait until it is done, and print what came of it.")
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", help="For so many seconds at most.", show_default=False),
]

Count = Annotated[
    int | None,
    typer.Option("--count", "-n", min=1, metavar="N", help="Stop after N.", show_default=False),
]
NoAck = Annotated[bool, typer.Option("--no-ack", help="Hand the messages back at the end.")]
Ephemeral = Annotated[
    bool, typer.Option("--ephemeral", help="The topic keeps nothing: who listens now gets it.")
]
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="FILTER",
        help="Only messages whose subject matches, such as eu.>",
        show_default=False,
    ),
]
