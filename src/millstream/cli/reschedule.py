"""``millstream reschedule``."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.cli.moments import time_of
from millstream.cli.names import source_of
from millstream.cli.options import At, Delay, Json, Namespace, SourceName, Url
from millstream.cli.output import Failed, show_json, show_text
from millstream.protocol.options import time_argument
from millstream.sync.client import Client

__all__ = ["reschedule"]


def reschedule(
    queue: SourceName,
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the message.", show_default=False)],
    delay: Delay = None,
    at: At = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Give a message that nobody has begun with another time."""
    time = None if at is None else time_of(at)
    time_argument(delay=delay, at=time)  # before it connects
    with Client(url, namespace=namespace) as client:
        target = source_of(client, queue)
        moved = client.reschedule(target, id, delay=delay, at=time)
    if json_output:
        show_json({"queue": queue, "id": id, "rescheduled": moved})
    elif moved:
        show_text(f"{id} has a new time")
    if not moved:
        message = f"{target.title} has no message {id} that waits"
        raise Failed(message, status=1)
