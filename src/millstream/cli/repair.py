"""``millstream redrive`` and ``millstream purge``: the two commands that move or delete messages."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.checks import check_rate
from millstream.cli.consent import Yes, ask, check_confirmed
from millstream.cli.names import source_of
from millstream.cli.options import Json, Namespace, SourceName, Url
from millstream.cli.output import plural, say, show_json, show_text
from millstream.errors import UsageError
from millstream.sync.client import Client

__all__ = ["purge", "redrive"]


def redrive(
    queue: SourceName,
    id: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="This one. May be repeated.")
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason",
            metavar="GLOB",
            help="Those with this reason; * stands for any text.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="N",
            help="At most N a second. Default: as fast as possible.",
            show_default=False,
        ),
    ] = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Send dead letters back to their queue, with the same ids."""
    if everything == bool(id or reason is not None):
        message = "say which dead letters to send back: --all, or --id ID, or --reason GLOB"
        raise UsageError(message)
    check_rate(rate)  # before it connects
    with Client(url, namespace=namespace) as client:
        moved = client.redrive(source_of(client, queue), ids=id or None, reason=reason, rate=rate)
    if json_output:
        show_json({"queue": queue, "redriven": moved})
    else:
        show_text(f"{plural(moved)} sent back to {queue}")
    if id and moved < len(set(id)):
        say(f"{moved} of {len(set(id))} ids were found in the dead letters")


def purge(
    queue: SourceName,
    yes: Yes = False,
    dead: Annotated[
        bool, typer.Option("--dead", help="The dead letters, instead of what waits.")
    ] = False,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Delete the ready and delayed messages of a queue for good.

    Messages in flight stay with their consumers. Of a subscription it deletes what waits for this
    one: the topic keeps its messages.
    """
    check_confirmed(yes, "purge deletes messages")
    with Client(url, namespace=namespace) as client:
        target = source_of(client, queue)
        if not yes:
            counts = client.stats(target)
            many = counts.dead if dead else counts.ready + counts.delayed
            what = plural(many, "dead letter") if dead else plural(many)
            ask(f"Delete {what} of {queue} at {client.url} for good?", "nothing was deleted")
        deleted = client.purge(target, confirm=True, dead=dead)
    if json_output:
        show_json({"queue": queue, "purged": deleted})
    else:
        show_text(f"{plural(deleted, 'dead letter' if dead else 'message')} deleted from {queue}")
