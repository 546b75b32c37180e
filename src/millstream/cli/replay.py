"""``millstream replay``: the history of a topic, or of a queue that keeps what was handled."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from millstream.cli.messages import message_line, message_page
from millstream.cli.moments import spot_of
from millstream.cli.names import declared_topic, found_queue
from millstream.cli.options import Filter, Json, Namespace, ReadFromOption, Url
from millstream.cli.output import say
from millstream.sync.client import Client

__all__ = ["replay"]

Most = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Show N at most.", show_default=False),
]


def _bound(option: str, what: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(
        f"--{option}", metavar="TIME|ID", help=what, show_default=False
    )
    return found


def replay(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC|QUEUE", help="Name of the topic, or queue.", show_default=False
        ),
    ],
    queue: Annotated[
        bool, typer.Option("--queue", help="What a queue has kept, in the order of handling.")
    ] = False,
    since: Annotated[
        str | None, _bound("since", "From this time, or this message, on. Default: the oldest.")
    ] = None,
    until: Annotated[
        str | None, _bound("until", "Before this time, or up to this message. Default: all.")
    ] = None,
    filter: Filter = None,  # noqa: A002 - the name of the option
    limit: Most = None,
    json_output: Json = False,
    read_from: ReadFromOption = "primary",
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Print what a topic keeps, the oldest first. No subscription notices."""
    begin, end = spot_of(since, "--since"), spot_of(until, "--until")
    on_terminal = sys.stdout.isatty()
    write = message_page if on_terminal and not json_output else message_line
    shown = False
    with Client(url, namespace=namespace, read_from=read_from) as client:
        target = found_queue(client, topic)[0] if queue else declared_topic(client, topic)
        messages = client.replay(target, since=begin, until=end, filter=filter, limit=limit)
        with contextlib.closing(messages):
            for message in messages:
                # Not flushed: a long history goes through a pipe in large pieces.
                sys.stdout.buffer.write(write(message))
                shown = True
        sys.stdout.flush()
    if not shown:
        say(f"no such message in {target.title}")
