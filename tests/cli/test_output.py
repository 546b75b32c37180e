"""How values are written for people and for scripts."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from millstream.cli.output import age, body_text, body_value, clean, duration, sent_at


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-1, "0.0s"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 0s"),
        (133, "2m 13s"),
        (3599.6, "1h 0m"),
        (11_045, "3h 4m"),
        (86_400 * 2 + 3600 * 5 + 59, "2d 5h"),
    ],
)
def test_duration(seconds: float, written: str) -> None:
    """A duration has its two largest units."""
    assert duration(seconds) == written


def test_age() -> None:
    """An age is a duration, or nothing when nobody knows."""
    now = datetime(2024, 6, 10, tzinfo=UTC)
    assert age(datetime(2024, 6, 9, tzinfo=UTC), now) == "1d 0h"
    assert age(None, now) == ""


@pytest.mark.parametrize("foreign", ["", "x", "x-1", "-1"])
def test_foreign_ids_have_no_time(foreign: str) -> None:
    """An id that a foreign producer made up stops nobody."""
    assert sent_at(foreign) is None


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": 1.10, "b": 123456789012345678901234567890}', None),
        (b"[\n  1\n]\n", [1]),
        (b"", {"base64": ""}),
        (b"\xff\x00", {"base64": "/wA="}),
        (b'"\xff"', {"base64": "Iv8i"}),
        (b"[" * 5000 + b"]" * 5000, ...),
        (None, None),
    ],
)
def test_body_value(data: bytes | None, value: object) -> None:
    """JSON stays as it is, in one line; what is not JSON becomes base64."""
    written = msgspec.json.encode(body_value(data))

    assert b"\n" not in written
    if data is not None and data.startswith(b"{"):
        assert written == data.replace(b" ", b"")
    elif value is ...:
        assert "base64" in json.loads(written)
    else:
        assert json.loads(written) == value


def test_body_text() -> None:
    """In a table a body is one line of bounded length."""
    assert body_text(b'{"a":\n 1}') == '{"a":1}'
    assert body_text(None) == "(no body)"
    assert body_text(b"\x00\x01") == "(2 bytes) b'\\x00\\x01'"
    assert len(body_text(b'"' + b"x" * 1000 + b'"')) == 200
    assert len(body_text(b'"' + b"x" * 1000 + b'"', shorten=False)) == 1002


def test_strangers_do_not_steer_the_terminal() -> None:
    """Control characters, of all alphabets, are shown and not sent to the terminal."""
    assert clean("a\x1b[31mb\x9bc\u202ed\ne") == "a\\x1b[31mb\\x9bc\\u202ed\\ne"
    assert clean("ünï © 漢字 🙂") == "ünï © 漢字 🙂"
    assert body_text('"\x9b31m"'.encode()) == '"\\x9b31m"'
