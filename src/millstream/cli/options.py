"""What several commands take alike."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from millstream import policy
from millstream.declare import Queue
from millstream.driver.target import ENVIRONMENT_VARIABLE
from millstream.errors import UsageError
from millstream.policy import Retry
from millstream.protocol.partitions import declared
from millstream.sync.client import Client

__all__ = [
    "At",
    "Bound",
    "Delay",
    "Json",
    "Key",
    "Limit",
    "Namespace",
    "Ordered",
    "Partitions",
    "Priority",
    "QueueName",
    "Ttl",
    "Unique",
    "UniqueFor",
    "Url",
    "declared_queue",
    "queue_of",
    "time_of",
]

QueueName = Annotated[
    str, typer.Argument(metavar="QUEUE", help="Name of the queue.", show_default=False)
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

Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Their key.", show_default=False)
]
Ordered = Annotated[
    bool, typer.Option("--ordered", help="The queue is new, and ordered: keep the key's order.")
]
Partitions = Annotated[
    int | None,
    typer.Option(
        "--partitions",
        metavar="N",
        help="The queue is new, ordered, and declared with N partitions.",
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
Ttl = Annotated[
    float | None,
    typer.Option("--ttl", metavar="S", help="Seconds until they expire.", show_default=False),
]

NEVER = 2**31 - 1


def time_of(text: str) -> datetime:
    """Read a time as people write it: ISO 8601 with a zone.

    Raises:
        UsageError: it is none, or has no zone.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"--at takes a time such as 2030-01-31T09:00+01:00, not {text!r}"
        raise UsageError(message) from error
    if time.utcoffset() is None:
        message = f"--at needs a time zone, such as {text}+01:00 or {text}Z"
        raise UsageError(message)
    return time


def queue_of(name: str, *, partitions: int | None = None, bound: int | None = None) -> Queue[bytes]:
    """Declare a queue without knowing what its bodies are.

    Args:
        name: of the queue.
        partitions: of an ordered queue; None: it is not ordered, as far as this matters.
        bound: see ``Bound``.

    Raises:
        UsageError: no queue can have this name, these partitions, or this bound.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"the queue's name must be valid UTF-8, not {name!r}"
        raise UsageError(message) from error
    limit = None if bound is None else policy.Bound(bound)
    # Who receives may be elected to take over expired leases. It does not know how many crashes
    # the workers of this queue allow, so it leaves it to them to give a message up.
    retry = Retry(max_crashes=NEVER)
    if partitions is None:
        return Queue(name, bytes, retry=retry, bound=limit)
    return Queue(name, bytes, retry=retry, ordered=True, partitions=partitions, bound=limit)


def declared_queue(
    client: Client,
    name: str,
    *,
    ordered: bool = False,
    partitions: int | None = None,
    bound: int | None = None,
) -> Queue[bytes]:
    """Declare a queue as its users do: ordered, and in as many partitions, if the server knows.

    Args:
        client: of the server.
        name: of the queue.
        ordered: what it is if the server does not know.
        partitions: how many it is said to have; None: as many as the server knows, or one.
        bound: see ``Bound``.

    Raises:
        UsageError: as for ``queue_of``.
        NotConnected: the server cannot be reached.
    """
    if partitions is None:
        keys = client.connect().keys_of(queue_of(name))
        partitions = client.driver.run(declared(keys, None)) or (1 if ordered else None)
    return queue_of(name, partitions=partitions, bound=bound)
