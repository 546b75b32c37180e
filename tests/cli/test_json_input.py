"""Files of messages: how they are told apart, checked and read."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest

from millstream.cli.json_input import BATCH, BLOCK, BadInput, JsonInput


def bodies(data: bytes, longest: int = 1000) -> list[bytes]:
    reader = JsonInput(io.BytesIO(data), longest)
    return [body for batch in reader.batches() for body in batch.bodies]


class Pipe(io.RawIOBase):
    """Gives one piece a read, as a pipe does."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    def read1(self, _size: int) -> bytes:
        return next(self._pieces, b"")


def read(pieces: Iterable[bytes], longest: int = 10_000) -> Iterator[list[bytes]]:
    reader = JsonInput(Pipe(pieces), longest)  # type: ignore[arg-type]  # all that is used
    return (list(batch.bodies) for batch in reader.batches())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n \n\t\n", []),
        (b'{"a": 1.10}\n{"a":2}\n', [b'{"a": 1.10}', b'{"a":2}']),
        (b'\xef\xbb\xbf1\r\n\r\n  2  \r\n"x"', [b"1", b"2", b'"x"']),
        (b"[1]\n[2, 3]\n", [b"[1]", b"[2, 3]"]),
        (b"[1, [2], 1.10]\n", [b"1", b"[2]", b"1.10"]),
        (b"[]", []),
        (b'[\n{"a":\n1}\n,\n2]', [b'{"a":1}', b"2"]),
        (b'[\n{"a":1}\n]\n', [b'{"a":1}']),
        (b'{\n  "a": [\n1,\n2]\n}\n', [b'{"a":[1,2]}']),
        (b"17", [b"17"]),
    ],
)
def test_shapes(data: bytes, expected: list[bytes]) -> None:
    """JSON lines are one message a line, an array one an element, another document one."""
    assert bodies(data) == expected


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"1\n\nx\n2", 3, "not JSON"),
        (b'{"a": 1\n{"a": 2}\n', 1, "not JSON"),
        (b"x\n1\n", 1, "not JSON"),
        (b'{"a": 1,\n\n"b" 2,\n"c": 3}', 3, "not JSON"),
        (b"[1,\n2\n", 2, "not JSON"),
        (b'1\n"\xff"\n', 2, "not UTF-8"),
        (b'1\n"' + b"x" * 1000 + b'"\n', 2, "longer than 1,000 bytes"),
        (b'[1, "' + b"x" * 1000 + b'"]', 1, "element 2: longer than 1,000 bytes"),
        (b"1 2", 1, "not JSON"),
    ],
)
def test_bad_input(data: bytes, line: int, reason: str) -> None:
    """What cannot be sent is named by its line and by what is wrong with it."""
    with pytest.raises(BadInput) as caught:
        bodies(data)

    assert caught.value.line == line
    assert reason in caught.value.reason


def test_a_bad_line_spares_the_batches_before() -> None:
    """The batch with the bad line is not passed on, those before it are."""
    lines = [b"1"] * (2 * BATCH + 10)
    lines[-1] = b"x"
    batches = JsonInput(io.BytesIO(b"\n".join([*lines, b""])), 100).batches()

    assert [next(batches).next_line for _ in range(2)] == [BATCH + 1, 2 * BATCH + 1]
    with pytest.raises(BadInput, match=f"line {2 * BATCH + 10}: not JSON"):
        next(batches)


def test_lines_of_a_pipe_are_passed_on_as_they_arrive() -> None:
    """A complete line does not wait for the next one."""
    arrived: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number, piece in enumerate([b'{"a"', b": 1}\n{", b"}\n3\n4", b"4\n"]):
            arrived.append(number)
            yield piece

    batches = read(pieces())
    assert (next(batches), arrived) == ([b'{"a": 1}'], [0, 1])
    assert (next(batches), arrived) == ([b"{}", b"3"], [0, 1, 2])
    assert (next(batches), arrived) == ([b"44"], [0, 1, 2, 3])


def test_a_line_without_end_is_refused_early() -> None:
    """A file without line breaks that is too long for a message is not read to its end."""
    endless = iter(lambda: b"1" * 1000, b"")

    with pytest.raises(BadInput, match="line 1: longer than 10,000 bytes"):
        list(read(endless))


def test_a_bad_first_line_of_an_endless_file_is_refused_early() -> None:
    """A broken first line before a good one is an error, before the rest is read."""
    endless = iter(lambda: b'{"a": 1\n{"a": 2}\n', b"")

    with pytest.raises(BadInput, match="line 1: not JSON"):
        list(read(endless))


def test_memory_is_constant() -> None:
    """Fifty megabytes of JSON lines pass through a few."""
    line = b'{"text": "%s"}\n' % (b"x" * 5000)
    block = line * (BLOCK // len(line))
    count = 0
    tracemalloc.start()
    try:
        for batch in read(block for _ in range(50)):
            count += len(batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert count == 50 * (BLOCK // len(line))
    assert peak < 10 * BLOCK
