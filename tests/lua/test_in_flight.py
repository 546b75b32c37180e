"""in_flight.lua, list_in_flight.lua: what consumers have in hand, without a touch."""

from __future__ import annotations

from millstream.protocol.admin import in_flight
from tests.lua.list_state import ListState, element
from tests.lua.state import State


def test_shows_who_has_what(state: State) -> None:
    """Of each lane, the oldest message first; what nobody has read or is handed back is not there."""
    state.register("a", "b")
    state.own("b", body="ready")
    state.put(body="unread")
    state.own("a", "front", "front", state={"id": "3-1", "attempts": 2})
    state.own("a", "suspect", "suspect", state={"id": "2-1", "crashes": 2})

    found = state.run(in_flight(state.keys, 10))

    assert [(one.body, consumer) for one, consumer, _ in found] == [
        (b"suspect", "a"),
        (b"front", "a"),
        (b"ready", "b"),
    ]
    counts = [(one.state.id, one.state.attempts, one.state.crashes) for one, _, _ in found]
    assert counts[:2] == [("2-1", 0, 2), ("3-1", 2, 0)]


def test_shows_so_many(state: State) -> None:
    """The limit is one for all lanes."""
    state.register("a")
    for number in range(3):
        state.own("a", body=str(number))
        state.own("a", "front", body="f", state={"id": f"{number + 1}-1"})

    found = state.run(in_flight(state.keys, 4))

    assert [one.body for one, _, _ in found] == [b"f", b"f", b"f", b"0"]


def test_tells_how_much_of_the_lease_is_used_up(state: State) -> None:
    """To ask for it does not begin the lease anew."""
    state.register("a")
    state.own("a", idle_ms=25_000)

    idle = [state.run(in_flight(state.keys, 1))[0][2] for _ in range(2)]

    assert 25_000 <= idle[0] <= idle[1] < 85_000


def test_without_a_consumer(state: State) -> None:
    """Before the first consumer there is none in flight, and nothing comes into being."""
    assert state.run(in_flight(state.keys, 10)) == []
    assert not state.do("EXISTS", *state.keys.all)


def test_a_message_that_is_not_kept(state: State) -> None:
    """What was deleted under its consumer is in flight still, without a body."""
    state.register("a")
    token = state.own("a")
    state.do("XDEL", state.keys.ready, token)

    [(envelope, consumer, _)] = state.run(in_flight(state.keys, 10))

    assert (envelope.state.id, envelope.body, consumer) == (token.decode(), None, "a")


def test_a_list(lists: ListState) -> None:
    """The same for a list: who has what, the oldest first, and for how long."""
    lists.register("a", "b")
    lists.give("a", element("5-1", "later"), now_ms=lists.now() - 9000)
    lists.give("b", element("4-1", "first", s={"id": "4-1", "attempts": 1, "crashes": 0}))
    lists.push(element("3-1", "nobody's"))

    found = lists.run(in_flight(lists.keys, 10))

    assert [(one.state.id, one.body, consumer) for one, consumer, _ in found] == [
        ("4-1", b"first", "b"),
        ("5-1", b"later", "a"),
    ]
    assert found[0][0].state.attempts == 1
    assert 9000 <= found[1][2] < 69_000
    assert len(lists.run(in_flight(lists.keys, 1))) == 1


def test_an_empty_list(lists: ListState) -> None:
    """Before the first consumer there is none in flight, and nothing comes into being."""
    assert lists.run(in_flight(lists.keys, 10)) == []
    assert not lists.do("EXISTS", *lists.keys.listed)
