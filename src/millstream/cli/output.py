"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.codec import NotDecodable
from millstream.message import time_of

__all__ = [
    "Failed",
    "age",
    "body_text",
    "body_value",
    "clean",
    "duration",
    "fits",
    "is_json",
    "json_line",
    "number",
    "plural",
    "say",
    "sent_at",
    "show_json",
    "show_line",
    "show_table",
    "show_text",
]

MINUTE, HOUR, DAY = 60, 3600, 86_400
LONGEST_BODY = 200
"""Of a body in a table. ``--json`` shows all of it."""

NO_ID = "0-0"

WIDE = 10_000
"""A width that no table reaches: where there is no terminal, nothing is cut to fit."""


class Failed(Exception):
    """A command ends with a message and this exit status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def say(message: str) -> None:
    """Tell people something, in one line."""
    print(f"millstream: {clean(' '.join(message.split()))}", file=sys.stderr)


def show_text(text: str) -> None:
    """Print a result for people."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show_json(value: object) -> None:
    """Print a result for scripts."""
    show_line(json_line(value))


def show_line(line: bytes) -> None:
    """Write bytes to stdout, and do not return before they are out of our hands."""
    # Text that was printed before must come before.
    sys.stdout.flush()
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def json_line(value: object) -> bytes:
    """Write a value as one line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table.

    Args:
        columns: their headings; one that begins with ``>`` is for numbers, one that ends with
            ``…`` is cut when the terminal is too narrow for all.
        rows: the cells, without control characters.
    """
    console = _console()
    # rich would end the program with its own exit status when nobody reads any more.
    with console.capture() as captured:
        console.print(_table(columns, rows))
    show_text("\n".join(line.rstrip() for line in captured.get().splitlines()))


def fits(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> bool:
    """Tell whether a table needs no cutting."""
    console = _console()
    return console.measure(_table(columns, rows)).maximum < console.width


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right, short = column.startswith(">"), column.endswith("…")
        table.add_column(
            column.strip(">…"), justify="right" if right else "left", no_wrap=not short
        )
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def _cell(value: str | Text) -> Text:
    # rich cuts columns that may wrap before others; a cell shall be cut all the same.
    text = Text(value) if isinstance(value, str) else value
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def number(value: int, style: str = "") -> Text:
    """Write a count for people; zero is dim, others have the style."""
    return Text(f"{value:,}", style=style if value else "dim")


def plural(count: int, noun: str = "message") -> str:
    """Write a count with its noun, such as ``1,000 messages``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Write a duration with its two largest units, such as ``2m 13s``."""
    if seconds < 9.95:  # noqa: PLR2004 - 9.95 and more is rounded to two digits
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m {whole % MINUTE}s"
    if whole < DAY:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE}m"
    return f"{whole // DAY}d {whole % DAY // HOUR}h"


def age(since: datetime | None, now: datetime) -> str:
    """Write how long ago something was; empty when nobody knows."""
    return "" if since is None else duration((now - since).total_seconds())


def sent_at(message_id: str) -> datetime | None:
    """Return when a message was accepted; None when its id does not tell.

    A foreign producer may have made up the id; and what it has pushed to a list has none yet.
    """
    try:
        return None if message_id == NO_ID else time_of(message_id)
    except ValueError:
        return None


def clean(text: str, keep: str = "") -> str:
    """Replace control characters: what a stranger sent must not steer a terminal.

    Args:
        text: of any origin.
        keep: control characters that may stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text
    )


def body_value(data: bytes | None) -> Any:
    """Return a body for JSON output: as it is, or ``{"base64": ...}`` when it is not JSON."""
    if data is None:
        return None
    compact = _compact(data)
    if compact is None:
        return {"base64": base64.b64encode(data).decode()}
    return msgspec.Raw(compact)  # not decoded and encoded: numbers keep all their digits


def body_text(data: bytes | None, *, shorten: bool = True) -> str:
    """Return a body for people, in one line."""
    if data is None:
        return "(no body)"
    compact = _compact(data)
    text = f"({len(data):,} bytes) {data!r}" if compact is None else compact.decode()
    if shorten and len(text) > LONGEST_BODY:
        text = f"{text[: LONGEST_BODY - 1]}…"
    return clean(text)


def is_json(data: bytes) -> bool:
    """Tell whether a body is JSON."""
    try:
        msgspec.json.decode(data)
    except NotDecodable:
        return False
    return True


def _compact(data: bytes) -> bytes | None:
    """Return JSON without its line breaks; None when it is not JSON."""
    return msgspec.json.format(data, indent=-1) if is_json(data) else None
