"""What is said of results: dead letters as errors, and notes of who waits."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.declare import Queue
from millstream.errors import (
    DeliveryError,
    NoResult,
    RemoteError,
    ResponderLost,
    Undecodable,
)
from millstream.policy import Results
from millstream.protocol.envelope import Envelope, State
from millstream.protocol.mailbox import Mail
from millstream.protocol.requests import address_of
from millstream.protocol.results import encode_result, failure_of, mails_of, value_of

QUEUE: Queue[Any] = Queue("jobs", results=Results(type=int))
ID = "1718000000000-0"


@pytest.mark.parametrize(
    ("reason", "error", "kind", "told"),
    [
        ("crashed", None, ResponderLost, {"reason": "crashed"}),
        ("expired", None, NoResult, {"reason": "expired"}),
        ("cancelled", None, NoResult, {"reason": "cancelled"}),
        ("undecodable", "no int", Undecodable, {"reason": "undecodable"}),
        ("malformed", None, Undecodable, {"reason": "malformed"}),
        ("not ours", None, RemoteError, {"type_name": "Reject", "detail": "not ours"}),
        ("attempts", "a.b.Gone: x: y", RemoteError, {"type_name": "Gone", "detail": "x: y"}),
        ("attempts", "ValueError", RemoteError, {"type_name": "ValueError", "detail": ""}),
        ("attempts", "try: it", RemoteError, {"type_name": "try", "detail": "it"}),
        (
            "attempts",
            "come again",
            RemoteError,
            {"type_name": "RetryLater", "detail": "come again"},
        ),
        ("attempts", None, RemoteError, {"type_name": "RetryLater", "detail": ""}),
    ],
)
def test_a_dead_letter_as_an_error(
    reason: str, error: str | None, kind: type[DeliveryError], told: dict[str, str]
) -> None:
    """It says what became of the message, and of which."""
    state = State(id=ID, attempts=3, crashes=2, reason=reason, error=error)

    found = failure_of(QUEUE, ID, state)

    assert type(found) is kind
    assert (found.queue, found.id) == ("jobs", ID)
    assert {name: getattr(found, name) for name in told} == told
    assert ID in str(found)


def test_values() -> None:
    """What is encoded is decoded; what cannot be is an error at the other end, whatever it says."""
    stored, problem = encode_result(QUEUE, 7)
    assert (value_of(QUEUE, ID, stored), problem) == (7, None)
    assert value_of(QUEUE, ID, b"-") is None
    stored, problem = encode_result(QUEUE, "\ud800")
    assert problem is not None
    with pytest.raises(RemoteError, match="cannot be its result"):
        value_of(QUEUE, ID, stored)
    with pytest.raises(RemoteError):
        value_of(QUEUE, ID, b"!\xff")
    with pytest.raises(Undecodable):
        value_of(QUEUE, ID, b'="text"')


def test_notes_of_who_waits() -> None:
    """Each gets its word; what is no note is passed over."""
    noted = (
        b"170000 abc 1;170000 def 23;;x;9 a;9 a b;9 {x} 1; 9 a 1;-1 a 1;9 a 1111111111111111;\xff"
    )

    assert [*mails_of([b"5-0", noted])] == [
        Mail("abc", 1, "result", b"5-0"),
        Mail("def", 23, "result", b"5-0"),
    ]


@pytest.mark.parametrize("text", [b"result=60000", b"result=", b"result=x 5"])
def test_a_wish_is_no_address(text: bytes) -> None:
    """A message that wants a result has the field of requests, and nobody sends it a reply."""
    envelope = Envelope(b"1-0", [b"b", b"1", b"r", text])
    assert envelope.wants_result
    assert not envelope.plain
    if b" " not in text:
        assert address_of(envelope) is None


def test_a_request_is_plain() -> None:
    """Its acknowledgement costs no more than that of any message."""
    envelope = Envelope(b"1-0", [b"b", b"1", b"r", b"abc 1"])
    assert envelope.plain
    assert not envelope.wants_result
