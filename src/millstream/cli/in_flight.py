"""``millstream in-flight``: what consumers have in hand, and who has it."""

from __future__ import annotations

from datetime import UTC, datetime

from millstream.cli.names import source_of
from millstream.cli.options import Json, Limit, Namespace, ReadFromOption, SourceName, Url
from millstream.cli.output import (
    age,
    body_text,
    body_value,
    clean,
    duration,
    number,
    say,
    sent_at,
    show_json,
    show_table,
)
from millstream.message import InFlight
from millstream.sync.client import Client

__all__ = ["in_flight"]


def in_flight(
    queue: SourceName,
    limit: Limit = 100,
    json_output: Json = False,
    read_from: ReadFromOption = "primary",
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Show which messages are being handled now, and by whom, the oldest first.

    What a worker has fetched ahead of its handlers is among them.
    """
    with Client(url, namespace=namespace, read_from=read_from) as client:
        target = source_of(client, queue)
        owned = client.in_flight(target, limit=limit)
    if json_output:
        for one in owned:
            show_json(_object(one))
    elif owned:
        _table(owned)
    else:
        say(f"no message in flight in {target.title}")
    if len(owned) == limit:
        say("there may be more: --limit N shows up to N")


def _object(one: InFlight) -> dict[str, object]:
    return {
        "id": one.id,
        "body": body_value(one.body),
        "headers": one.headers,
        "consumer": one.consumer,
        "idle": one.idle,
        "attempts": one.attempts,
        "crashes": one.crashes,
        "sent_at": sent_at(one.id),
        "key": one.key,
        "subject": one.subject,
        "priority": one.priority,
    }


def _table(owned: list[InFlight]) -> None:
    now = datetime.now(UTC)
    columns = ("id", ">age", "consumer…", ">idle", ">attempts", ">crashes", "body…")
    rows = [
        (
            clean(one.id),
            age(sent_at(one.id), now),
            clean(one.consumer),
            duration(one.idle),
            number(one.attempts),
            number(one.crashes, "red"),
            body_text(one.body),
        )
        for one in owned
    ]
    show_table(columns, rows)
