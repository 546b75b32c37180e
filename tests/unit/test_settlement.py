"""How a delivery ends: the decisions, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millstream.policy import Backoff, Retry
from millstream.protocol.envelope import Envelope
from millstream.protocol.settlement import (
    Settlement,
    ack,
    describe,
    failure,
    reject,
    release,
)


def failed(attempts: int) -> Envelope:
    """A delivery of a message whose handler has failed so often."""
    state = json.dumps({"id": "1-1", "attempts": attempts})
    return Envelope(b"f9-9", [b"b", b"x", b"s", state.encode()])


def note(settlement: Settlement) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(settlement.note)
    return decoded


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def caught(error: BaseException) -> BaseException:
    """The error with a traceback."""

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise error

    try:
        deep(10)
    except BaseException as raised:  # noqa: BLE001 - that is the point
        return raised
    raise AssertionError


def test_ack_and_release_say_nothing() -> None:
    """They neither count nor note anything."""
    assert ack(b"1-1") == Settlement("ack", b"1-1", failed=False, note=b"{}")
    assert release(b"1-1") == Settlement("release", b"1-1", failed=False, note=b"{}")


def test_a_rejection_says_why() -> None:
    """Reason, error and traceback are noted as far as they are known."""
    assert reject(b"1-1", "no").verb == "reject"
    assert note(reject(b"1-1", "no")) == {"reason": "no"}
    assert note(reject(b"1-1", "no", error="E", trace="T")) == {
        "reason": "no",
        "error": "E",
        "traceback": "T",
    }
    assert not reject(b"1-1", "no").failed


@pytest.mark.parametrize(
    ("attempts", "limit", "verb"),
    [
        (0, 1, "reject"),
        (0, 2, "retry"),
        (1, 2, "reject"),
        (3, 5, "retry"),
        (4, 5, "reject"),
        (9, 5, "reject"),
    ],
)
def test_the_last_attempt_is_the_limit(attempts: int, limit: int, verb: str) -> None:
    """A message is tried max_attempts times, this failure included."""
    end = failure(failed(attempts), Retry(max_attempts=limit), reason="no", luck=0.5)

    assert end.verb == verb
    assert end.token == b"f9-9"
    assert end.failed


def test_the_wait_follows_the_backoff() -> None:
    """It grows with the failures, and luck places it within the jitter."""
    policy = Retry(max_attempts=99, backoff=Backoff(first=1, factor=2, max=60, jitter=0.5))

    waits = [
        failure(failed(attempts), policy, reason="no", luck=luck).delay_ms
        for attempts, luck in [(0, 0.5), (1, 0.5), (2, 0.5), (0, 0), (0, 1), (50, 0.5)]
    ]

    assert waits == [1000, 2000, 4000, 500, 1500, 60_000]


def test_a_wait_that_was_asked_for_is_kept() -> None:
    """Also zero; but it does not lengthen the life of the message."""
    for delay_ms in (0, 7):
        end = failure(failed(0), Retry(), reason="no", luck=0.5, delay_ms=delay_ms)
        assert (end.verb, end.delay_ms) == ("retry", delay_ms)

    assert failure(failed(4), Retry(), reason="no", luck=0.5, delay_ms=7).verb == "reject"


def test_used_up_attempts_are_the_reason() -> None:
    """What the handler raised, or said when it asked for another try, is the error."""
    raised = failure(failed(4), Retry(), reason="E", luck=0.5, error="E", trace="T")
    asked = failure(failed(4), Retry(), reason="not today", luck=0.5)
    again = failure(failed(0), Retry(), reason="E", luck=0.5, error="E", trace="T")

    assert note(raised) == {"reason": "attempts", "error": "E", "traceback": "T"}
    assert note(asked) == {"reason": "attempts", "error": "not today"}
    assert note(again) == {"reason": "E", "error": "E", "traceback": "T"}


def test_an_error_becomes_one_line_and_the_end_of_its_traceback() -> None:
    """That is what fits a list of dead letters."""
    line, trace = describe(caught(ValueError("no")))

    assert line == "ValueError: no"
    assert trace.count("raise error") == 1
    assert trace.count("File ") <= 5


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ValueError("  a\r\n  b  "), "ValueError:   a b"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (ValueError("\ud800"), "ValueError: ?"),
        (Rude(), "tests.unit.test_settlement.Rude: <exception str() failed>"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_every_error_can_be_described(error: BaseException, line: str) -> None:
    """Without a traceback, without a text, with a text that is none."""
    described, trace = describe(error)

    assert described == line
    assert trace == ""
    assert json.loads(reject(b"1-1", "x", error=described, trace=trace).note)["error"] == line


def test_notes_of_an_error_are_in_its_line() -> None:
    """They are there to be read."""
    error = ValueError("no")
    error.add_note("order 7")

    assert describe(error)[0] == "ValueError: no order 7"


def test_texts_are_bounded() -> None:
    """An endless message of an error does not become an endless dead letter."""
    line, _ = describe(ValueError("x" * 100_000))

    end = reject(b"1-1", "y" * 100_000, error=line)

    assert len(note(end)["error"]) == 2001
    assert len(note(end)["reason"]) == 2001
    assert note(end)["reason"].endswith("y\u2026")


def test_a_reason_may_be_any_text() -> None:
    """Also one that has no bytes."""
    assert note(reject(b"1-1", 'a"\u0000\ud800\u20ac'))["reason"] == 'a"\u0000?\u20ac'
