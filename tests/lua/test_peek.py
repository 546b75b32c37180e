"""peek.lua: the next messages, without a touch."""

from __future__ import annotations

from millstream.protocol.admin import peek_ready
from tests.lua.state import OLD_ID, State


def peek(state: State, limit: int = 10) -> list[bytes | None]:
    return [envelope.body for envelope in state.run(peek_ready(state.keys, limit))]


def test_shows_what_nobody_has_read(state: State) -> None:
    """What a consumer owns is not next."""
    state.register("a")
    state.own("a", body="owned")
    state.put(body="1")
    state.put(body="2")

    assert peek(state) == [b"1", b"2"]


def test_shows_messages_in_the_order_of_delivery(state: State) -> None:
    """What was handed back comes first, then suspects, then the others."""
    state.register("a")
    for lane in ("ready", "suspect", "front"):
        state.own("a", lane, body="owned")
        state.put(lane, body=f"{lane} 1")
        state.put(lane, body=f"{lane} 2")

    assert peek(state) == [
        b"front 1",
        b"front 2",
        b"suspect 1",
        b"suspect 2",
        b"ready 1",
        b"ready 2",
    ]
    assert peek(state, 3) == [b"front 1", b"front 2", b"suspect 1"]
    assert peek(state, 1) == [b"front 1"]


def test_works_before_the_first_consumer(state: State) -> None:
    """Without a group everything is unread."""
    assert peek(state) == []

    state.put(body="1")

    assert peek(state) == [b"1"]


def test_touches_nothing(state: State) -> None:
    """The message is still to be delivered, to anybody."""
    state.register("a")
    state.put(body="1")

    peek(state)

    assert state.owners() == {}
    assert [one.body for one in state.fetch("a", ("", 1)).envelopes] == [b"1"]


def test_shows_headers_and_state(state: State) -> None:
    """A message that has been through something says so."""
    moved = {"id": OLD_ID, "attempts": 2, "crashes": 1, "reason": "it failed"}
    state.put("front", state=moved, extra={"h": '{"x":"y"}'})

    [envelope] = state.run(peek_ready(state.keys, 1))

    assert envelope.headers == {"x": "y"}
    assert envelope.state.id == OLD_ID
    assert (envelope.state.attempts, envelope.state.crashes) == (2, 1)
    assert envelope.state.reason == "it failed"


def test_deleted_entries_are_skipped(state: State) -> None:
    """A gap in the stream is no message."""
    state.register("a")
    gone = state.put(body="gone")
    state.put(body="1")
    state.do("XDEL", state.keys.ready, gone)

    assert peek(state, 1) == [b"1"]
