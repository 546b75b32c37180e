"""ack.lua: one plain message of ready is done."""

from __future__ import annotations

from millstream.protocol.ending import acknowledge
from millstream.protocol.settlement import release
from tests.lua.state import State


def acked(state: State, token: bytes) -> bool:
    """Acknowledge it; whether it was ours."""
    found = state.run(acknowledge(state.keys, token))
    assert found.envelopes == []
    assert list(found.lost) in ([], [token])
    return not found.lost


def test_it_removes_its_message(state: State) -> None:
    """From the stream and from the pending list; the others stay."""
    state.register("a")
    token = state.own("a")
    last = state.own("a", body="last")

    assert acked(state, token)

    assert state.bodies() == ["last"]
    assert state.owners() == {last.decode(): "a"}
    assert state.counters() == {"acked": 1}


def test_a_repeated_one_is_lost(state: State) -> None:
    """What was settled cannot be settled a second time, nor is it counted."""
    state.register("a")
    token = state.own("a")

    assert acked(state, token)
    assert not acked(state, token)

    assert state.counters() == {"acked": 1}


def test_a_late_owner_is_refused(state: State) -> None:
    """A message that has changed hands is a new entry, which stays with its owner."""
    state.register("a", "b")
    token = state.own("a", body="lost")
    state.settle("a", release(token))
    [taken] = state.fetch("b", ("f", 1)).envelopes

    assert not acked(state, token)

    assert state.only("front").body == "lost"
    assert state.owners("front") == {taken.token[1:].decode(): "b"}
    assert state.counters() == {}


def test_one_that_somebody_acknowledged_by_hand(state: State) -> None:
    """A foreign XACK leaves the entry: it is removed, as a fetch would, and is not counted."""
    state.register("a")
    token = state.own("a")
    state.do("XACK", state.keys.ready, state.keys.group, token)

    assert acked(state, token)

    assert state.entries() == []
    assert state.counters() == {}


def test_one_that_somebody_deleted_by_hand(state: State) -> None:
    """A foreign XDEL leaves it pending: it is ours, and over."""
    state.register("a")
    token = state.own("a")
    state.do("XDEL", state.keys.ready, token)

    assert acked(state, token)

    assert state.owners() == {}
    assert state.counters() == {"acked": 1}


def test_nothing_is_there(state: State) -> None:
    """After a FLUSHALL nothing is ours, and nothing is made."""
    assert not acked(state, b"5-1")

    assert state.do("EXISTS", state.keys.ready, state.keys.counters) == 0
