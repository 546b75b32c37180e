"""``millstream pause``, ``resume`` and ``cancel``: flow control by people."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.cli.names import source_of
from millstream.cli.options import Json, Namespace, SourceName, Url
from millstream.cli.output import Failed, clean, plural, show_json, show_text
from millstream.message import QueueStats
from millstream.message_id import check_id
from millstream.sync.client import Client

__all__ = ["cancel", "pause", "resume"]

MessageId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the message.", show_default=False)
]


def pause(
    queue: SourceName,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Have no consumer begin a message of a queue until it is resumed. What runs is finished."""
    with Client(url, namespace=namespace) as client:
        target = source_of(client, queue, new=True)
        client.pause(target)
        now = client.stats(target)
    _show(queue, now, json_output=json_output)


def resume(
    queue: SourceName,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Let a paused queue go on."""
    with Client(url, namespace=namespace) as client:
        target = source_of(client, queue)
        client.resume(target)
        now = client.stats(target)
    _show(queue, now, json_output=json_output)


def _show(queue: str, now: QueueStats, *, json_output: bool) -> None:
    if json_output:
        show_json(
            {"queue": queue, "paused": now.paused, "ready": now.ready, "in_flight": now.in_flight}
        )
        return
    state = "is paused" if now.paused else "goes on"
    show_text(f"{clean(queue)} {state}: {plural(now.ready)} ready, {now.in_flight:,} in flight")


def cancel(
    queue: SourceName,
    id: MessageId,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Cancel a message, also while it runs: its handler is stopped."""
    check_id(id)  # before it connects
    with Client(url, namespace=namespace) as client:
        target = source_of(client, queue)
        cancelled = client.cancel(target, id)
    if json_output:
        show_json({"queue": queue, "id": id, "cancelled": cancelled})
    elif cancelled:
        show_text(f"{id} cancelled")
    if not cancelled:
        message = f"message {id} neither waits nor runs in {target.title}"
        raise Failed(message, status=1)
