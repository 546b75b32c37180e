"""``millstream stats``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from millstream.cli.options import Json, Namespace, Url, queue_of
from millstream.cli.output import duration, fits, number, say, show_json, show_table, show_text
from millstream.message import QueueStats
from millstream.sync.client import Client

__all__ = ["stats"]

COLUMNS = (
    *("queue…", ">ready", ">delayed", ">in flight", ">dead", ">oldest ready", ">consumers"),
    *(">sent", ">acked", ">retried", ">died", ">crashed"),
)
TOTALS = 7
"""Where the columns begin that count since the beginning."""


def stats(
    queues: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUEUE", help="Names of queues. Default: all there are.", show_default=False
        ),
    ] = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Count the messages of queues by state."""
    with Client(url, namespace=namespace) as client:
        found = [client.stats(queue_of(name)) for name in queues or client.queues()]
        if not found:
            say(f"there are no queues in namespace {namespace!r} of {client.url}")
            return
        for one in found:
            if _is_unknown(one):
                say(f"nobody has used queue {one.name!r} yet (namespace {namespace!r})")
    if json_output:
        for one in found:
            show_json(one)
    else:
        _show([_row(one) for one in found])


def _show(rows: list[list[str | Text]]) -> None:
    if fits(COLUMNS, rows):
        show_table(COLUMNS, rows)
        return
    show_table(COLUMNS[:TOTALS], [row[:TOTALS] for row in rows])
    show_text("")
    show_table(COLUMNS[:1] + COLUMNS[TOTALS:], [row[:1] + row[TOTALS:] for row in rows])


def _row(one: QueueStats) -> list[str | Text]:
    oldest = "" if one.oldest_ready is None else duration(one.oldest_ready)
    return [
        f"{one.name} (paused)" if one.paused else one.name,
        number(one.ready),
        number(one.delayed),
        number(one.in_flight),
        number(one.dead, "red"),
        oldest,
        number(len(one.consumers)),
        number(one.sent),
        number(one.acked),
        number(one.retried),
        number(one.died, "red"),
        number(one.crashed, "red"),
    ]


def _is_unknown(one: QueueStats) -> bool:
    """Tell whether there is no trace of a queue: its name may be a slip of the pen."""
    counts = (one.ready, one.delayed, one.in_flight, one.dead, one.sent, one.acked, one.died)
    return not any(counts) and not one.consumers and not one.paused
