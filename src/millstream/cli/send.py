"""``millstream send``."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from millstream.cli.json_input import BadInput, JsonInput, why_not_json
from millstream.cli.options import (
    At,
    Bound,
    Delay,
    Json,
    Key,
    Namespace,
    Ordered,
    Partitions,
    Priority,
    QueueName,
    Ttl,
    Unique,
    UniqueFor,
    Url,
    declared_queue,
    queue_of,
    time_of,
)
from millstream.cli.output import Failed, duration, plural, show_json, show_text
from millstream.declare import Queue
from millstream.errors import BrokerError, UsageError
from millstream.sync.client import Client

__all__ = ["send"]

STDIN = "-"
LONG = 2**20
"""From so many bytes on a file is worth a progress bar."""


Bodies = Annotated[
    list[str] | None,
    typer.Argument(metavar="BODY", help="JSON values, one a message.", show_default=False),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Send each line of a file of JSON lines, or each element of a JSON array. "
        "- is standard input.",
        show_default=False,
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME=VALUE", help="Metadata. May be repeated."),
]


def send(
    queue: QueueName,
    bodies: Bodies = None,
    *,
    source: Source = None,
    header: Header = None,
    delay: Delay = None,
    at: At = None,
    key: Key = None,
    ordered: Ordered = False,
    partitions: Partitions = None,
    bound: Bound = None,
    priority: Priority = 0,
    unique: Unique = None,
    unique_for: UniqueFor = None,
    ttl: Ttl = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Send messages and print their ids."""
    queue_of(queue, partitions=partitions, bound=bound)  # says what is wrong before it connects
    options = _given(
        headers=_headers(header or []),
        delay=delay,
        at=None if at is None else time_of(at),
        key=key,
        priority=priority or None,
        ttl=ttl,
    )
    once = _given(unique=unique, unique_for=_window(unique_for))
    _check_together(bodies or [], source, once=bool(once), bound=bound)
    declared = partial(
        declared_queue, name=queue, ordered=ordered, partitions=partitions, bound=bound
    )
    start = time.monotonic()
    if source is None:
        encoded = [_checked(body, number) for number, body in enumerate(bodies or [], 1)]
        with Client(url, namespace=namespace) as client:
            _send_bodies(client, declared(client), encoded, options, once, as_json=json_output)
        return
    with _opened(source) as file, Client(url, namespace=namespace) as client:
        sent = _send_file(client, declared(client), file, options, source)
    seconds = time.monotonic() - start
    if json_output:
        show_json({"queue": queue, "sent": sent, "seconds": round(seconds, 3)})
    else:
        show_text(f"{plural(sent)} sent to {queue} in {duration(seconds)}")


def _check_together(
    bodies: list[str], source: str | None, *, once: bool, bound: int | None
) -> None:
    if bool(bodies) == (source is not None):
        message = "give either BODY arguments or --from FILE (--from - reads standard input)"
        raise UsageError(message)
    if once and len(bodies) != 1:
        message = "--unique is for one message: give one BODY"
        raise UsageError(message)
    if bound is not None and source is not None:
        message = "--bound is for BODY arguments: a file may be longer than any queue"
        raise UsageError(message)


def _send_bodies(
    client: Client,
    queue: Queue[bytes],
    bodies: list[bytes],
    options: Mapping[str, Any],
    once: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """Send what the command line holds, and print the receipts."""
    if once:
        receipts = [client.send(queue, bodies[0], **options, **once)]
    else:
        receipts = client.send_many(queue, bodies, **options)
    for receipt in receipts:
        if as_json:
            # What a queue's receipt has nothing to say of (listeners) is no news for a script.
            told = msgspec.structs.asdict(receipt).items()
            show_json({name: value for name, value in told if value is not None})
        else:
            show_text(f"{receipt.id} (duplicate)" if receipt.duplicate else receipt.id)


def _given(**options: Any) -> dict[str, Any]:
    """What was asked for; the rest is left to the client."""
    return {name: value for name, value in options.items() if value is not None}


def _window(unique_for: str | None) -> str | float | None:
    try:
        return unique_for if unique_for is None else float(unique_for)
    except ValueError:
        return unique_for  # done or started; the client says what is wrong with others


def _headers(options: list[str]) -> Mapping[str, str]:
    headers = {}
    for option in options:
        name, found, value = option.partition("=")
        if not (name and found):
            message = f"--header takes NAME=VALUE, not {option!r}"
            raise UsageError(message)
        headers[name] = value
    return headers


def _checked(body: str, number: int) -> bytes:
    data = os.fsencode(body.strip())  # what the shell passed, even if it is not text
    reason = why_not_json(data)
    if reason is not None:
        message = f"BODY {number} is {reason}: {body[:50]!r}. A text needs its quotes: '\"text\"'"
        raise UsageError(message)
    return data


@contextlib.contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == STDIN:
        if sys.stdin is None:
            message = "standard input is closed"
            raise UsageError(message)
        yield sys.stdin.buffer
        return
    try:
        file = open(source, "rb")  # noqa: PTH123, SIM115 - a name as the user wrote it; closed below
    except OSError as error:
        message = f"cannot read {source}: {error.strerror}"
        raise UsageError(message) from error
    with file:
        yield file


def _send_file(
    client: Client, queue: Queue[bytes], file: BinaryIO, options: Mapping[str, Any], name: str
) -> int:
    """Send what a file holds; return how many messages that were."""
    reader = JsonInput(file, queue.max_body)
    sent, next_line = 0, None
    name = "standard input" if name == STDIN else name
    try:
        with _progress(file) as advance:
            for batch in reader.batches():
                sent += len(client.send_many(queue, batch.bodies, **options))
                next_line = batch.next_line
                advance(reader.read, sent)
    except BadInput as error:
        message = f"{name}: {error}; {_so_far(sent, next_line)}"
        raise Failed(message, status=2) from error
    except BrokerError as error:
        # The batch on its way may have arrived. A script that repeats it may send it twice.
        raise Failed(f"{error}; {_so_far(sent, next_line)}", status=1) from error
    except KeyboardInterrupt:
        raise Failed(f"stopped; {_so_far(sent, next_line)}", status=130) from None
    return sent


def _so_far(sent: int, next_line: int | None) -> str:
    rest = f": go on with line {next_line}" if next_line is not None else ""
    return f"{plural(sent)} {'was' if sent == 1 else 'were'} sent before{rest}"


@contextlib.contextmanager
def _progress(file: BinaryIO) -> Iterator[Callable[[int, int], None]]:
    """Show how far a long file has got, to somebody who watches."""
    status = os.fstat(file.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    if not sys.stderr.isatty() or file.isatty() or (size is not None and size < LONG):
        yield lambda _read, _sent: None
        return
    columns = (
        TextColumn("{task.fields[sent]:,} messages"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size, sent=0)
        yield lambda read, sent: bar.update(task, completed=read, sent=sent)
