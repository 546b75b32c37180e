"""Messages as they are printed: JSON for scripts, coloured text for people on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from millstream.cli.output import (
    body_text,
    body_value,
    clean,
    is_json,
    json_line,
    plural,
    sent_at,
)
from millstream.message import Heard, Message, Missed
from millstream.sync.delivery import SyncDelivery

__all__ = [
    "delivery_line",
    "delivery_page",
    "heard_line",
    "heard_page",
    "message_line",
    "message_page",
]

INDENT = "  "

Head = Iterable[tuple[str | None, str]]
"""What stands above a body: texts and their styles; what is None or empty is left out."""


def delivery_line(delivery: SyncDelivery[bytes]) -> bytes:
    """Write a delivery as a line of JSON."""
    found = {
        "id": delivery.id,
        "body": body_value(delivery.body),
        "headers": delivery.headers,
        "attempt": delivery.attempt,
        "crashes": delivery.crashes,
        "sent_at": sent_at(delivery.id),
        "key": delivery.key,
        "subject": delivery.subject,
    }
    return json_line(found)


def delivery_page(delivery: SyncDelivery[bytes]) -> bytes:
    """Write a delivery for people."""
    again = delivery.attempt + delivery.crashes > 1
    trouble = f"attempt {delivery.attempt}, crashes {delivery.crashes}" if again else None
    head = [*_head(delivery.id, delivery.subject, delivery.key), (trouble, "red")]
    return _page(head, delivery.headers, delivery.body)


def message_line(message: Message) -> bytes:
    """Write a message of the history as a line of JSON."""
    found = {
        "id": message.id,
        "body": body_value(message.body),
        "headers": message.headers,
        "sent_at": sent_at(message.id),
        "key": message.key,
        "subject": message.subject,
    }
    if message.handled_at is not None:
        # Of a queue; a topic does not know.
        found["handled_at"] = message.handled_at
    return json_line(found)


def message_page(message: Message) -> bytes:
    """Write a message of the history for people."""
    at = message.handled_at
    handled = None if at is None else f"handled {_moment(at)}"
    head = [*_head(message.id, message.subject, message.key), (handled, "dim")]
    return _page(head, message.headers, message.body)


def heard_line(heard: Heard[bytes] | Missed, now: datetime) -> bytes:
    """Write what a listener got, and when, as a line of JSON; a gap has ``missed`` instead."""
    if isinstance(heard, Missed):
        return json_line({"missed": heard, "received_at": now})
    found = {
        "topic": heard.topic,
        "body": body_value(heard.body),
        "headers": heard.headers,
        "subject": heard.subject,
        "received_at": now,
    }
    return json_line(found)


def heard_page(heard: Heard[bytes] | Missed, now: datetime) -> bytes:
    """Write what a listener got, and when, for people."""
    at = (_moment(now), "dim")
    if isinstance(heard, Heard):
        return _page(
            [at, (heard.topic, "cyan"), (heard.subject, "bold")], heard.headers, heard.body
        )
    lost = "the connection was lost and is back: what was published meanwhile is gone"
    one = heard.dropped == 1
    dropped = f"{plural(heard.dropped)} came faster than {'it' if one else 'they'} could be shown"
    told = [lost] * heard.reconnected + [dropped] * (heard.dropped > 0)
    return _rendered([_words([at, (f"missed: {'; '.join(told)}", "bold yellow")])])


def _head(id: str, subject: str | None, key: str | None) -> Head:
    sent = sent_at(id)
    return [
        (None if sent is None else _moment(sent), "dim"),
        (id, "cyan"),
        (subject, "bold"),
        (None if key is None else f"key={key}", "magenta"),
    ]


def _moment(time: datetime) -> str:
    """Write a time so that it can be passed to an option."""
    text = time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return f"{text}Z"


def _page(head: Head, headers: Mapping[str, str], body: bytes | None) -> bytes:
    lines = [_words(head)]
    lines += [Text(f"{INDENT}{clean(f'{name}: {headers[name]}')}", "dim") for name in headers]
    lines.append(_body(body, _console().width))
    return _rendered(lines)


def _words(head: Head) -> Text:
    words = [Text(clean(text), style) for text, style in head if text]
    return Text(INDENT).join(words)


def _body(data: bytes | None, width: int) -> Text:
    """Write a body in a line if it fits into one, else over as many as JSON likes."""
    text = body_text(data, shorten=False)
    if data is not None and len(text) + len(INDENT) > width and is_json(data):
        # Not decoded and encoded: numbers keep all their digits.
        text = clean(msgspec.json.format(data, indent=2).decode(), keep="\n")
    found = Text(INDENT + text.replace("\n", f"\n{INDENT}"))
    JSONHighlighter().highlight(found)
    return found


def _console() -> Console:
    return Console(file=sys.stdout)


def _rendered(lines: Iterable[Text]) -> bytes:
    console = _console()
    # rich would end the program with its own exit status when nobody reads any more.
    with console.capture() as captured:
        for line in lines:
            # What is too long is broken by the terminal, and whole when it is copied.
            console.print(line, soft_wrap=True)
    return captured.get().encode(sys.stdout.encoding, "backslashreplace")
