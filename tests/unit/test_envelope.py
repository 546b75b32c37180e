"""The wire format: entries to messages."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.declare import Queue
from millstream.errors import Undecodable, UsageError
from millstream.protocol.envelope import Envelope, State, encode_headers, entries_of, read_body

ORDERS = Queue("orders")

# A small alphabet that has everything in it: building the whole of unicode takes seconds.
texts = st.text('a"\\\0\n\x7f\u00e4\u20ac\U0001f600\ud800', max_size=6)
names = st.sampled_from([b"b", b"h", b"s", b"x", b"", b"\xff"]) | st.binary(max_size=8)
states = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["1-1", "", "x", "1-1\n", "9" * 30]) | st.integers() | texts,
        "attempts": st.integers() | st.floats() | texts | st.none(),
        "crashes": st.integers() | st.booleans() | st.lists(st.none()),
        "reason": texts | st.none(),
        "at": st.floats() | texts,
        "new": st.recursive(st.none() | texts, st.lists, max_leaves=3),
    },
)
values = st.binary(max_size=30) | states.map(json.dumps).map(str.encode)
hostile = st.lists(st.tuples(names, values), min_size=1, max_size=6)


def envelope(*fields: bytes, token: bytes = b"5-1") -> Envelope:
    return Envelope(token, fields)


def test_an_ordinary_message() -> None:
    """One field b is all it takes; the id is that of the entry."""
    message = envelope(b"b", b"body")

    assert message.body == b"body"
    assert message.headers == {}
    assert message.state == State(id="5-1")
    assert (message.state.attempts, message.state.crashes) == (0, 0)
    assert message.malformed is None


@pytest.mark.parametrize(("token", "id"), [(b"5-1", "5-1"), (b"f5-1", "5-1"), (b"s5-1", "5-1")])
def test_the_lane_is_no_part_of_the_id(token: bytes, id: str) -> None:
    """A token names a delivery, the id names the message."""
    assert envelope(b"b", b"", token=token).state.id == id


def test_a_message_that_has_moved() -> None:
    """Its state says who it is; where the fields stand does not matter, nor do others."""
    state = (
        b'{"id":"3-0","attempts":2,"crashes":1,"reason":"no","error":"E","traceback":"T",'
        b'"at":1.5,"new":[1]}'
    )
    message = envelope(b"x", b"y", b"s", state, b"h", b'{"a":"b"}', b"b", b"body")

    assert message.body == b"body"
    assert message.headers == {"a": "b"}
    assert message.malformed is None
    assert message.state == State(
        id="3-0", attempts=2, crashes=1, reason="no", error="E", traceback="T", at=1.5
    )
    assert message.raw[b"x"] == b"y"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((b"x", b"1"), "the entry has no field b .its fields: 'x'."),
        ((b"\xff", b"1", b"y", b""), "no field b .its fields: '\ufffd', 'y'."),
        ((b"b", b"", b"h", b"{"), "the field h is not a JSON object of strings"),
        ((b"b", b"", b"h", b"\xff"), "the field h is not"),
        ((b"b", b"", b"h", b"[]"), "the field h is not"),
        ((b"b", b"", b"h", b'{"a":1}'), "the field h is not"),
        ((b"b", b"", b"h", b'{"a":"\xff"}'), "the field h is not"),
        ((b"b", b"", b"h", b'{"a":' * 100_000), "the field h is not"),
        ((b"b", b"", b"s", b"{"), "the field s is not readable"),
        ((b"b", b"", b"s", b""), "the field s is not readable"),
        ((b"b", b"", b"s", b"null"), "the field s is not readable"),
        ((b"b", b"", b"s", b"{}"), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":7}'), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":"x"}'), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":"1-1\\n"}'), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":"1-1","attempts":-1}'), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":"1-1","crashes":1.5}'), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":"1-1","crashes":1e999}'), "the field s is not readable"),
        ((b"b", b"", b"s", b'{"id":"1-1","x":' + b"[" * 100_000), "the field s is not readable"),
    ],
)
def test_a_malformed_entry_says_why(fields: tuple[bytes, ...], problem: str) -> None:
    """It gets the id of its entry, no headers it cannot have, and a reason for people."""
    message = envelope(*fields)

    assert message.malformed is not None
    assert msgspec.json.encode(message.malformed)
    with pytest.raises(Undecodable, match=problem) as caught:
        read_body(message, bytes, ORDERS)
    assert caught.value.reason == "malformed"
    assert (caught.value.queue, caught.value.id) == ("orders", "5-1")
    assert message.state.id == "5-1"


def test_a_state_with_bytes_that_are_no_text_can_be_read() -> None:
    """Lua passes them on, and a dead letter must not lose its reason for them."""
    message = envelope(b"b", b"", b"s", b'{"id":"1-1","reason":"no","error":"\xff"}')

    assert message.malformed is None
    assert (message.state.reason, message.state.error) == ("no", "\ufffd")


@given(fields=hostile, token=st.sampled_from([b"5-1", b"f5-1", b"s5-1"]))
@example(fields=[(b"b", b"1"), (b"b", b"2")], token=b"5-1")
def test_hostile_fields_never_raise(fields: list[tuple[bytes, bytes]], token: bytes) -> None:
    """Whatever a foreign producer writes, an envelope has all its parts, of the right types."""
    flat = [text for pair in fields for text in pair]

    message = Envelope(token, flat)

    assert message.body is None or isinstance(message.body, bytes)
    assert (message.body is None) <= (message.malformed is not None)
    assert all(isinstance(text, str) for pair in message.headers.items() for text in pair)
    assert message.state.attempts >= 0
    assert message.state.crashes >= 0
    assert msgspec.json.decode(msgspec.json.encode(message.state), type=State) is not None
    assert message.malformed is None or msgspec.json.encode(message.malformed)


@given(fields=hostile)
def test_reading_a_hostile_body_has_two_results(fields: list[tuple[bytes, bytes]]) -> None:
    """A body, or an Undecodable that says whether the entry or the body is at fault."""
    message = Envelope(b"5-1", [text for pair in fields for text in pair])
    decode: Any = msgspec.json.Decoder(int).decode

    try:
        result: object = read_body(message, decode, ORDERS)
    except Undecodable as error:
        result = error.reason

    if message.malformed:
        assert result == "malformed"
    else:
        assert result == "undecodable" or isinstance(result, int)


def test_a_body_that_does_not_fit_says_why() -> None:
    """The decoder's error is the cause."""
    with pytest.raises(Undecodable, match=r"message 5-1 is undecodable: .*int") as caught:
        read_body(envelope(b"b", b'"x"'), msgspec.json.Decoder(int).decode, ORDERS)

    assert caught.value.reason == "undecodable"
    assert isinstance(caught.value.__cause__, msgspec.ValidationError)


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ((b"b", b"p"), 0),
        ((b"b", b"", b"p", b"9"), 9),
        ((b"p", b"1", b"b", b""), 1),
        ((b"b", b"", b"p", b"10"), 0),
        ((b"b", b"", b"p", b"-1"), 0),
        ((b"b", b"", b"p", b""), 0),
        ((b"b", b"", b"p", "²".encode("latin-1")), 0),
    ],
)
def test_the_priority(fields: tuple[bytes, ...], priority: int) -> None:
    """One digit says it; whatever else somebody wrote there is the normal priority."""
    assert envelope(*fields).priority == priority


def test_entries_become_envelopes() -> None:
    """Deleted entries have no fields and are skipped; the prefix of the lane goes before the id."""
    reply = [[b"1-1", [b"b", b"x"]], [b"1-2", None], [b"1-3", [b"b", b"y"]]]

    found = entries_of(reply, b"f")

    assert [(one.token, one.body) for one in found] == [(b"f1-1", b"x"), (b"f1-3", b"y")]
    assert entries_of(None) == []
    assert entries_of([]) == []


@given(headers=st.dictionaries(texts, texts, min_size=1))
def test_headers_arrive_as_they_were_sent(headers: dict[str, str]) -> None:
    """Any text that has bytes is a name or a value."""
    try:
        data = encode_headers(headers)
    except UsageError:
        assert any(
            "\ud800" <= char <= "\udfff"
            for pair in headers.items()
            for text in pair
            for char in text
        )
        return

    assert envelope(b"b", b"", b"h", data).headers == headers
    assert json.loads(data) == headers


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}, {"a": "\ud800"}])
def test_headers_are_texts(headers: Any) -> None:
    """Anything else is the caller's error."""
    with pytest.raises(UsageError, match="headers must"):
        encode_headers(headers)
