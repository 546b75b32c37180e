"""Reads messages from a file: JSON lines as a stream, or one JSON document as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import msgspec

from millstream.codec import NotDecodable

__all__ = ["BadInput", "Batch", "JsonInput", "why_not_json"]

BATCH = 1000
"""Messages that are checked and sent together."""

BLOCK = 2**20
_BOM = b"\xef\xbb\xbf"

Line = tuple[int, bytes]


class BadInput(Exception):
    """The input cannot be sent from some line on.

    Args:
        line: its number.
        reason: what is wrong with it.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Batch:
    """Some messages that have been checked.

    Attributes:
        bodies: one or more.
        next_line: where the rest of the file begins; None: the file is not JSON lines.
    """

    bodies: Sequence[bytes]
    next_line: int | None


def why_not_json(data: bytes) -> str | None:
    """Return why bytes are not JSON; None when they are."""
    try:
        msgspec.json.decode(data)
    except UnicodeDecodeError:
        return "not UTF-8"
    except NotDecodable as error:
        return f"not JSON ({str(error).removeprefix('JSON is malformed: ')})"
    return None


@dataclass(slots=True)
class JsonInput:
    """Messages in a file or a pipe.

    JSON lines are read in constant memory, and passed on as they arrive. A file that is one JSON
    document is read as a whole: an array is one message for each element, anything else is one
    message. The first line decides: when it is no JSON by itself, it begins a document.

    Args:
        source: open for reading.
        longest: most bytes a message may have.
        read: how many bytes were read so far.
    """

    source: BinaryIO
    longest: int
    read: int = 0

    def batches(self) -> Iterator[Batch]:
        """Return the messages, some at a time.

        Raises:
            BadInput: a message of the next batch is not JSON, or too long.
        """
        groups = self._lines()
        first = next(groups, None)
        if first is None:
            return
        start = first[0][1]
        if start.startswith(b"[") or why_not_json(start) is not None:
            # The second line tells JSON lines with arrays, or a mistake in the first, from a
            # document. A file may be endless, so no more is read than is needed to see.
            first = first if len(first) > 1 else first + next(groups, [])
            if not _is_lines(first):
                yield from self._document(first, groups)
                return
        for group in chain([first], groups):
            for at in range(0, len(group), BATCH):
                yield self._checked(group[at : at + BATCH])

    def _checked(self, lines: list[Line]) -> Batch:
        for number, line in lines:
            reason = self._wrong(line)
            if reason is not None:
                raise BadInput(number, reason)
        return Batch([line for _, line in lines], next_line=lines[-1][0] + 1)

    def _wrong(self, body: bytes) -> str | None:
        if len(body) > self.longest:
            return f"longer than {self.longest:,} bytes"
        return why_not_json(body)

    def _document(self, first: list[Line], rest: Iterator[list[Line]]) -> Iterator[Batch]:
        lines = list(chain(first, chain.from_iterable(rest)))
        document = b"\n".join(line for _, line in lines)
        reason = why_not_json(document)
        if reason is not None:
            raise BadInput(lines[_line_of(reason, document)][0], reason)
        bodies = _elements(document)
        for at in range(0, len(bodies), BATCH):
            some = bodies[at : at + BATCH]
            too_long = next((n for n, body in enumerate(some, at + 1) if self._wrong(body)), None)
            if too_long is not None:
                raise BadInput(
                    lines[0][0], f"element {too_long}: longer than {self.longest:,} bytes"
                )
            yield Batch(some, next_line=None)

    def _lines(self) -> Iterator[list[Line]]:
        """Return the lines that are not blank, with their numbers, as they arrive."""
        number, rest, first = 0, [b""], True
        while block := self._block():
            start, newline, more = block.partition(b"\n")
            rest.append(start)
            if newline:
                *whole, last = more.split(b"\n")
                whole.insert(0, b"".join(rest))
                rest = [last]
                found = [
                    (at, text) for at, raw in enumerate(whole, number + 1) if (text := raw.strip())
                ]
                number += len(whole)
                if found:
                    first = False
                    yield found
            # An array in one line is no message: its elements are.
            array = first and b"".join(rest[:2]).lstrip().startswith(b"[")
            if not array and sum(map(len, rest)) > self.longest:
                raise BadInput(number + 1, f"longer than {self.longest:,} bytes")
        if text := b"".join(rest).strip():
            yield [(number + 1, text)]

    def _block(self) -> bytes:
        # Not read(): it would wait for a full block while lines of a pipe are there already.
        block: bytes = self.source.read1(BLOCK)  # type: ignore[attr-defined]  # every buffer has it
        begins = self.read == 0
        self.read += len(block)
        return block.removeprefix(_BOM) if begins else block


def _is_lines(lines: list[Line]) -> bool:
    """Tell JSON lines from one document, by the first two lines."""
    good = [why_not_json(line) is None for _, line in lines[:2]]
    if len(good) == 1:
        return False
    # A broken first line before a good one is a mistake in JSON lines, unless it opens an array.
    return good[0] or (good[1] and not lines[0][1].startswith(b"["))


def _line_of(reason: str, document: bytes) -> int:
    """Return the index of the line at which the decoder says that it gave up."""
    _, found, position = reason.rpartition("(byte ")
    end = int(position.rstrip(")")) if found else len(document)
    return document.count(b"\n", 0, end)


def _elements(document: bytes) -> list[bytes]:
    """Return the elements of an array, or anything else as the only one, without line breaks."""
    raws = (
        msgspec.json.decode(document, type=list[msgspec.Raw])
        if document.startswith(b"[")
        else [document]
    )
    return [msgspec.json.format(bytes(raw), indent=-1) for raw in raws]
