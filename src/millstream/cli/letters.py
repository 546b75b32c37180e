"""``millstream peek`` and ``millstream dead``: look at messages without touching them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from millstream.cli.names import source_of
from millstream.cli.options import Json, Limit, Namespace, ReadFromOption, SourceName, Url
from millstream.cli.output import (
    age,
    body_text,
    body_value,
    clean,
    number,
    say,
    sent_at,
    show_json,
    show_table,
    show_text,
)
from millstream.errors import UsageError
from millstream.message import DeadLetter, Message
from millstream.sync.client import Client

__all__ = ["dead", "peek"]

_CURSOR = re.compile(r"\d+-\d+(/\d+)?")


def peek(
    queue: SourceName,
    limit: Limit = 10,
    delayed: Annotated[
        bool, typer.Option("--delayed", help="Those that wait for their time instead.")
    ] = False,
    json_output: Json = False,
    read_from: ReadFromOption = "primary",
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Show the next messages of a queue without taking them."""
    with Client(url, namespace=namespace, read_from=read_from) as client:
        target = source_of(client, queue)
        messages = client.peek(target, limit=limit, delayed=delayed)
    if json_output:
        for message in messages:
            show_json(_peeked(message))
    elif messages:
        _peek_table(messages, delayed=delayed)
    else:
        say(f"no {'delayed' if delayed else 'ready'} message in {target.title}")


def _peeked(message: Message) -> dict[str, object]:
    return {
        "id": message.id,
        "body": body_value(message.body),
        "headers": message.headers,
        "attempts": message.attempts,
        "crashes": message.crashes,
        "sent_at": sent_at(message.id),
        "due": message.due,
        "key": message.key,
        "subject": message.subject,
        "priority": message.priority,
        "expires": message.expires,
    }


def _peek_table(messages: list[Message], *, delayed: bool) -> None:
    now = datetime.now(UTC)
    about = ["subject…"] if any(message.subject for message in messages) else []
    due_in = [">due in"] if delayed else []
    columns = ["id", ">age", *due_in, ">attempts", ">crashes", *about, "body…"]
    rows: list[list[str | Text]] = []
    for message in messages:
        due = [age(now, message.due)] if message.due is not None else []
        counts = [number(message.attempts), number(message.crashes, "red")]
        written = age(sent_at(message.id), now)
        subject = [clean(message.subject or "")] if about else []
        body = body_text(message.body)
        rows.append([clean(message.id), written, *due, *counts, *subject, body])
    show_table(columns, rows)


def dead(
    queue: SourceName,
    limit: Limit = 100,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="CURSOR",
            help="Go on behind this one: the cursor of the last one of the page before.",
            show_default=False,
        ),
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show tracebacks, headers and whole bodies, too.")
    ] = False,
    json_output: Json = False,
    read_from: ReadFromOption = "primary",
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """List the dead letters of a queue, the oldest first."""
    if after is not None and not _CURSOR.fullmatch(after):
        message = f"--after takes a cursor such as 1718000000000-0, not {after!r}"
        raise UsageError(message)
    with Client(url, namespace=namespace, read_from=read_from) as client:
        target = source_of(client, queue)
        letters = client.dead(target, limit=limit, after=after)
    if json_output:
        for letter in letters:
            show_json(_dead_letter(letter))
        return
    if not letters:
        say(f"no {'more ' if after else ''}dead letters in {target.title}")
    elif traceback:
        show_text("\n\n".join(_dead_page(letter) for letter in letters))
    else:
        _dead_table(letters)
    if len(letters) == limit:
        say(f"there may be more: millstream dead {queue} --after {letters[-1].cursor}")


def _dead_letter(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "body": body_value(letter.body),
        "headers": letter.headers,
        "reason": letter.reason,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "crashes": letter.crashes,
        "sent_at": sent_at(letter.id),
        "died_at": letter.died_at,
        "cursor": letter.cursor,
        "key": letter.key,
        "subject": letter.subject,
    }


def _dead_table(letters: list[DeadLetter]) -> None:
    now = datetime.now(UTC)
    columns = ("id", ">died", "reason…", ">attempts", ">crashes", "error…", "body…")
    rows = [
        (
            clean(letter.id),
            f"{age(letter.died_at, now)} ago",
            clean(letter.reason),
            number(letter.attempts),
            number(letter.crashes, "red"),
            clean(letter.error or ""),
            body_text(letter.body),
        )
        for letter in letters
    ]
    show_table(columns, rows)


def _dead_page(letter: DeadLetter) -> str:
    """Write all that is known of one dead letter."""
    now = datetime.now(UTC)
    sent = sent_at(letter.id)
    lines = [
        f"{clean(letter.id)}  {clean(letter.reason)}",
        f"  died      {age(letter.died_at, now)} ago, {letter.died_at.isoformat(' ', 'seconds')}",
        f"  sent      {'at an unknown time' if sent is None else f'{age(sent, now)} ago'}",
        f"  attempts  {letter.attempts:,}, crashes {letter.crashes:,}",
        *([f"  subject   {clean(letter.subject)}"] if letter.subject else []),
        *(f"  header    {clean(f'{name}: {value}')}" for name, value in letter.headers.items()),
        f"  body      {body_text(letter.body, shorten=False)}",
    ]
    if letter.error:
        lines.append(f"  error     {clean(letter.error)}")
    if letter.traceback:
        lines += ["", *(f"  {clean(line)}" for line in letter.traceback.splitlines())]
    return "\n".join(lines)
