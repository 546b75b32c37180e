"""``millstream receive``."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from millstream.cli.messages import delivery_line
from millstream.cli.names import source_of
from millstream.cli.options import Count, Namespace, NoAck, SourceName, StoreName, Url
from millstream.cli.output import say
from millstream.cli.taking import Hand, Signals, take
from millstream.errors import UsageError
from millstream.sync.client import Client

__all__ = ["receive"]

Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0,
        metavar="SECONDS",
        help="Wait so long for each next message. Default: stop when there is none now.",
        show_default=False,
    ),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Wait for messages until Ctrl-C.")]
# Who asks for JSON everywhere shall get it here, too.
JsonAnyway = Annotated[bool, typer.Option("--json", hidden=True)]


def receive(
    queue: SourceName,
    count: Count = None,
    wait: Wait = None,
    follow: Follow = False,
    no_ack: NoAck = False,
    store: StoreName = None,
    _json_output: JsonAnyway = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Take messages from a queue and print them as JSON lines.

    A message is acknowledged once its line is written.
    """
    if follow and wait is not None:
        message = "give either --wait or --follow"
        raise UsageError(message)
    patience = math.inf if follow else wait or 0.0
    with Client(url, namespace=namespace) as client, Signals() as signals:
        source = source_of(client, queue, store, new=True)
        hand = Hand(delivery_line, ack=not no_ack)
        take(client, source, hand, signals, count=count, patience=patience)
    if signals.came:
        raise typer.Exit(signals.status)
    if not hand.shown:
        say(f"no message in {source.title}")
