"""peek_delayed.lua: messages that wait for their time, without a touch."""

from __future__ import annotations

from millstream.protocol.admin import peek_delayed
from millstream.protocol.settlement import Settlement
from tests.lua.state import NOW, OLD_ID, State


def peek(state: State, limit: int = 10) -> list[tuple[str, bytes | None, int]]:
    found = state.run(peek_delayed(state.keys, limit))
    return [(envelope.state.id, envelope.body, due) for envelope, due in found]


def test_shows_the_next_one_first(state: State) -> None:
    """By their times, each with its id, body and time."""
    for id, due in (("3-3", 30), ("1-1", 10), ("2-2", 20)):
        state.delay(id, NOW + due, body=f"body {id}")

    assert peek(state) == [
        ("1-1", b"body 1-1", NOW + 10),
        ("2-2", b"body 2-2", NOW + 20),
        ("3-3", b"body 3-3", NOW + 30),
    ]
    assert [id for id, _, _ in peek(state, 2)] == ["1-1", "2-2"]


def test_a_queue_that_does_not_exist_has_none(state: State) -> None:
    """Asking creates nothing and fails on nothing."""
    assert peek(state) == []
    assert not state.do("EXISTS", state.keys.due, state.keys.delayed)


def test_touches_nothing(state: State) -> None:
    """What is looked at waits on, due or not."""
    state.delay("1-1", NOW - 1000)

    assert peek(state) == peek(state)
    assert list(state.delayed()) == ["1-1"]


def test_shows_why_a_message_was_retried(state: State) -> None:
    """Counts, reason and headers of the message are those of its last delivery."""
    state.register("a")
    body = bytes(range(256))
    state.do("XADD", state.keys.ready, OLD_ID, "b", body, "h", '{"x":"y"}')
    [owned] = state.fetch("a", ("", 1)).envelopes
    note = b'{"reason":"no","error":"ValueError: no","traceback":"line 1"}'
    state.settle("a", Settlement("retry", owned.token, delay_ms=700, failed=True, note=note))

    [(envelope, due)] = state.run(peek_delayed(state.keys, 1))

    assert due == NOW + 700
    assert envelope.body == body
    assert envelope.headers == {"x": "y"}
    assert envelope.state.id == OLD_ID
    assert envelope.state.attempts == 1
    assert (envelope.state.reason, envelope.state.error) == ("no", "ValueError: no")
    assert envelope.state.traceback == "line 1"


def test_a_due_time_without_a_message_is_skipped(state: State) -> None:
    """A half that somebody deleted is not shown."""
    state.delay("1-1", NOW)
    state.delay("2-2", NOW)
    state.do("HDEL", state.keys.delayed, "1-1")

    assert [id for id, _, _ in peek(state)] == ["2-2"]
