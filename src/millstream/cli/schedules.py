"""``millstream schedules``: look at recurring messages, and pause, resume or remove them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from millstream.cli.names import queue_of
from millstream.cli.options import Json, Namespace, QueueName, Url
from millstream.cli.output import Failed, age, clean, say, show_json, show_table, show_text
from millstream.errors import UsageError
from millstream.message import Schedule
from millstream.sync.client import Client

__all__ = ["schedules"]

COLUMNS = ("schedule…", "every…", "time zone", "missed", "next", ">in", ">last")


def _option(verb: str, what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{verb}", metavar="NAME", help=what, show_default=False
    )
    return option


def schedules(
    queue: QueueName,
    pause: Annotated[str | None, _option("pause", "Have this one send nothing.")] = None,
    resume: Annotated[str | None, _option("resume", "Have it go on with its next tick.")] = None,
    remove: Annotated[
        str | None, _option("remove", "Remove it, until a worker starts that declares it.")
    ] = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """List the schedules of a queue, or pause, resume or remove one."""
    target = queue_of(queue)
    chosen = {"paused": pause, "resumed": resume, "removed": remove}
    verbs = [(verb, name) for verb, name in chosen.items() if name is not None]
    if len(verbs) > 1:
        message = "pause, resume and remove one at a time"
        raise UsageError(message)
    with Client(url, namespace=namespace) as client:
        if not verbs:
            _show(queue, client.schedules(target), json_output=json_output)
            return
        [(verb, name)] = verbs
        if verb == "paused":
            client.pause_schedule(target, name)
        elif verb == "resumed":
            client.resume_schedule(target, name)
        elif not client.remove_schedule(target, name):
            raise Failed(f"queue {queue!r} has no schedule {name!r}", status=1)
    if json_output:
        show_json({"queue": queue, "schedule": name, "done": verb})
    else:
        show_text(clean(f"schedule {name} of {queue} {verb}"))


def _show(queue: str, found: list[Schedule], *, json_output: bool) -> None:
    if json_output:
        for one in found:
            show_json({"queue": queue, **_object(one)})
    elif found:
        now = datetime.now(UTC)
        show_table(COLUMNS, [_row(one, now) for one in found])
    else:
        say(f"queue {queue!r} has no schedules")


def _object(one: Schedule) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def _row(one: Schedule, now: datetime) -> list[str | Text]:
    following: list[str | Text] = [Text("paused", style="yellow"), ""]
    if one.next is not None:
        following = [one.next.isoformat(" ", "seconds").removesuffix("+00:00"), age(now, one.next)]
    return [
        clean(one.name),
        clean(one.spec) if isinstance(one.spec, str) else f"{one.spec:g}s",
        clean(one.tz),
        clean(one.missed),
        *following,
        "" if one.last is None else f"{age(one.last, now)} ago",
    ]
