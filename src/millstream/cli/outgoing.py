"""What goes out: what `send` and `publish` have in common."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from millstream.cli.json_input import BadInput, JsonInput, why_not_json
from millstream.cli.output import Failed, duration, plural, show_json, show_text
from millstream.durability import check_durability
from millstream.errors import BrokerError, NotConfirmed, UsageError
from millstream.message import Receipt

__all__ = ["Outgoing", "checked_bodies", "durability_of", "given", "headers_of", "opened"]

STDIN = "-"
LONG = 2**20
"""From so many bytes on a file is worth a progress bar."""

Pass = Callable[[Sequence[bytes]], Sequence[Receipt]]


def given(**options: Any) -> dict[str, Any]:
    """What was asked for; the rest is left to the client."""
    return {name: value for name, value in options.items() if value is not None}


def headers_of(options: list[str] | None) -> Mapping[str, str]:
    """Read the headers.

    Raises:
        UsageError: one has no name, or no ``=``.
    """
    headers = {}
    for option in options or []:
        name, found, value = option.partition("=")
        if not (name and found):
            message = f"--header takes NAME=VALUE, not {option!r}"
            raise UsageError(message)
        headers[name] = value
    return headers


def checked_bodies(bodies: list[str] | None, source: str | None) -> list[bytes]:
    """Return what the command line holds; nothing when it is a file that holds it.

    Raises:
        UsageError: there are none and no file, or both, or one is not JSON.
    """
    if bool(bodies) == (source is not None):
        message = "give either BODY arguments or --from FILE (--from - reads standard input)"
        raise UsageError(message)
    return [_checked(body, number) for number, body in enumerate(bodies or [], 1)]


def _checked(body: str, number: int) -> bytes:
    data = os.fsencode(body.strip())  # what the shell passed, even if it is not text
    reason = why_not_json(data)
    if reason is not None:
        message = f"BODY {number} is {reason}: {body[:50]!r}. A text needs its quotes: '\"text\"'"
        raise UsageError(message)
    return data


def durability_of(option: str | None) -> str | None:
    """Return what was asked for, if anything.

    Raises:
        UsageError: there is no such durability.
    """
    return None if option is None else check_durability(option, "--durability")


@contextlib.contextmanager
def opened(source: str | None) -> Iterator[BinaryIO | None]:
    """Open a file, or standard input; None: nothing.

    Raises:
        UsageError: it cannot be read.
    """
    if source is None:
        yield None
        return
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


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Messages on their way to a queue or a topic.

    Args:
        kind: ``queue`` or ``topic``, as JSON calls it.
        name: where to.
        verb: what is done to them: ``sent`` or ``published``.
        source: name of the file that holds them; None: the command line does.
        as_json: whether what is said of them is for a script.
    """

    kind: str
    name: str
    verb: str
    source: str | None
    as_json: bool

    def go(
        self, file: BinaryIO | None, bodies: Sequence[bytes], longest: int, pass_on: Pass
    ) -> None:
        """Pass the messages on, and print their receipts; for a file a summary.

        Args:
            file: open for reading, if there is one.
            bodies: those of the command line.
            longest: most bytes that a body may have.
            pass_on: sends some, and returns when they are safe.

        Raises:
            Failed: a file did not go out as a whole; it says how much of it did.
        """
        if file is None:
            receipts, unconfirmed = _passed(pass_on, bodies)
            for receipt in receipts:
                self._show(receipt)
            if unconfirmed is not None:
                raise unconfirmed
            return
        start = time.monotonic()
        count, last = self._each(file, longest, pass_on)
        self._sum_up(count, time.monotonic() - start, None if last is None else last.listeners)

    def _show(self, receipt: Receipt) -> None:
        if self.as_json:
            # What a receipt has nothing to say of (listeners) is no news for a script.
            show_json(given(**msgspec.structs.asdict(receipt)))
        elif receipt.listeners is not None:
            # It has no id: nobody keeps the message.
            show_text(plural(receipt.listeners, "listener"))
        else:
            show_text(f"{receipt.id} (duplicate)" if receipt.duplicate else receipt.id)

    def _sum_up(self, count: int, seconds: float, listeners: int | None) -> None:
        if self.as_json:
            told = {self.kind: self.name, self.verb: count, "seconds": round(seconds, 3)}
            show_json({**told, **given(listeners=listeners)})
            return
        heard = "" if listeners is None else f"; the last one had {plural(listeners, 'listener')}"
        show_text(f"{plural(count)} {self.verb} to {self.name} in {duration(seconds)}{heard}")

    def _each(self, file: BinaryIO, longest: int, pass_on: Pass) -> tuple[int, Receipt | None]:
        reader = JsonInput(file, longest)
        count, next_line, last = 0, None, None
        name = "standard input" if self.source == STDIN else self.source
        try:
            with _progress(file) as advance:
                for batch in reader.batches():
                    receipts, unconfirmed = _passed(pass_on, batch.bodies)
                    count, last = count + len(receipts), receipts[-1]
                    next_line = batch.next_line
                    if unconfirmed is not None:
                        raise unconfirmed
                    advance(reader.read, count)
        except BadInput as error:
            message = f"{name}: {error}; {self._so_far(count, next_line)}"
            raise Failed(message, status=2) from error
        except BrokerError as error:
            # The batch on its way may have arrived. A script that repeats it may send it twice.
            raise Failed(f"{error}; {self._so_far(count, next_line)}", status=1) from error
        except KeyboardInterrupt:
            raise Failed(f"stopped; {self._so_far(count, next_line)}", status=130) from None
        return count, last

    def _so_far(self, count: int, next_line: int | None) -> str:
        rest = f": go on with line {next_line}" if next_line is not None else ""
        return f"{plural(count)} {'was' if count == 1 else 'were'} {self.verb} before{rest}"


def _passed(
    pass_on: Pass, bodies: Sequence[bytes]
) -> tuple[Sequence[Receipt], NotConfirmed | None]:
    """Return the receipts of what is stored; a script must not repeat it, confirmed or not."""
    try:
        return pass_on(bodies), None
    except NotConfirmed as error:
        return error.receipts, error


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
