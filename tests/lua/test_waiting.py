"""cancel.lua, reschedule.lua, find.lua and start.lua: what no handler has begun with."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.protocol import consume, control, waiting
from millstream.protocol.settlement import Settlement, ack, reject, release
from millstream.protocol.waiting import ENTRIES_A_CALL
from tests.lua.state import FOREIGN, NOW, OLD_ID, State, out_of_memory, refused
from tests.support.servers import Server

LANES = ("ready", "front", "suspect")
MOVED = {"id": OLD_ID, "attempts": 2, "crashes": 1}
ORDERED: dict[str, Any] = {"key": "k", "gate": "ordered"}


def cancel(state: State, id: str) -> bool:
    return state.drive(waiting.cancel(state.keys, id, now_ms=NOW))


def reschedule(state: State, id: str, time: str = "+1000") -> bool:
    return state.drive(waiting.reschedule(state.keys, id, time, now_ms=NOW))


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has the consumer a."""
    name = "own_state" if "own_state" in request.fixturenames else "state"
    state: State = request.getfixturevalue(name)
    state.register("a")


# Finding


@pytest.mark.parametrize("lane", LANES)
def test_a_moved_message_among_many(state: State, lane: str) -> None:
    """It is found by its id, some entries a call, and its neighbours stay."""
    for number in range(ENTRIES_A_CALL + 5):
        state.put(lane, state={"id": f"7-{number}", "attempts": 0, "crashes": 0})
    state.put(lane, state=MOVED)
    last = state.put(lane)

    assert cancel(state, OLD_ID)

    assert len(state.entries(lane)) == ENTRIES_A_CALL + 6
    assert state.entries(lane)[-1].id == last
    assert state.counters() == {"cancelled": 1}
    assert not cancel(state, OLD_ID)


@pytest.mark.parametrize("fields", [("s", "b"), ("b", "s", "x"), ("s", "b", "h", "x")])
def test_wherever_the_state_stands(state: State, fields: tuple[str, ...]) -> None:
    """Other producers may write the fields in any order: the message has the id that it claims."""
    values = {"b": "1", "s": f'{{"id":"{OLD_ID}"}}', "h": "{}", "x": "9"}
    pairs = [text for name in fields for text in (name, values[name])]
    state.do("XADD", state.keys.ready, "*", *pairs)

    assert cancel(state, OLD_ID)
    assert state.entries() == []


@pytest.mark.parametrize(
    "odd", ["{", "[]", "7", '{"id":7}', '{"id":"hello"}', '{"id":"' + "1" * 50 + '-1"}', ""]
)
def test_an_unreadable_state(state: State, odd: str) -> None:
    """Then the message has the id of its entry, as for those who read it."""
    first, second = (state.put(state=odd, extra=FOREIGN) for _ in range(2))

    assert cancel(state, first)
    assert reschedule(state, second)

    assert state.entries() == []
    [one] = state.delayed().values()
    assert FOREIGN.items() <= one.fields.items()
    assert one.state["id"] == second


def test_an_entry_that_is_another_message(state: State) -> None:
    """The id of an entry says nothing when a message was moved into it."""
    entry = state.put(state=MOVED)

    assert not cancel(state, entry)
    assert not reschedule(state, entry)
    # Nor does a message that only mentions it.
    state.put(state={"id": "8-8", "error": OLD_ID})
    assert cancel(state, OLD_ID)
    assert state.only("ready").state["id"] == "8-8"


# Only what waits


@pytest.mark.parametrize("lane", LANES)
def test_what_is_in_flight_stays(state: State, lane: str) -> None:
    """Also when it has been moved; nothing changes, and its consumer can settle it."""
    tokens = [state.own("a", lane), state.own("a", lane, state=MOVED)]
    first = tokens[0].decode().lstrip("fs")

    for id in (first, OLD_ID):
        assert not cancel(state, id)
        assert not reschedule(state, id)

    assert state.settle("a", *(reject(token, "no") for token in tokens)).lost == []
    assert len(state.entries("dead")) == 2
    assert not cancel(state, OLD_ID)
    assert not reschedule(state, OLD_ID)


def test_before_the_first_consumer(state: State) -> None:
    """Nobody has read anything without a group; where there is no queue, nothing comes to be."""
    state.do("DEL", *state.keys.all)

    for id in ("1-1", OLD_ID, "18446744073709551615-18446744073709551615"):
        assert not cancel(state, id)
        assert not reschedule(state, id)
    assert not state.do("EXISTS", *state.keys.all)

    first, second = state.put(), state.put()
    assert cancel(state, first)
    assert reschedule(state, second)
    assert list(state.due()) == [second]


def test_in_a_paused_queue(state: State) -> None:
    """People change what waits meanwhile; nobody gets it before the queue goes on."""
    ids = [state.put() for _ in range(3)]
    state.run(control.pause(state.keys))

    assert cancel(state, ids[0])
    assert reschedule(state, ids[1], "+0")
    assert state.fetch("a", ("", 10)).envelopes == []

    state.run(control.resume(state.keys))
    found = state.fetch("a", ("", 10)).envelopes
    assert [one.state.id for one in found] == [ids[2], ids[1]]


# Messages that share an id, or have many fields


def test_a_retry_under_another_name(state: State) -> None:
    """Two foreign messages claim one id and wait for their retries: each is still handled once."""
    tokens = [state.own("a", body=body, state=MOVED) for body in ("x", "y")]
    state.settle("a", *(Settlement("retry", token, delay_ms=5000) for token in tokens))
    assert list(state.due()) == [OLD_ID, f"{OLD_ID}/{tokens[1].decode()}"]

    assert reschedule(state, OLD_ID, "+0")
    assert state.bodies() == ["x"]
    assert cancel(state, OLD_ID)
    assert state.entries() == []
    # That was one of them. The other one comes when it is due, and has the same id again.
    state.settle("a", now_ms=NOW + 5000)
    assert state.bodies() == ["y"]
    assert cancel(state, OLD_ID)
    assert state.delayed() == {}


def test_an_ordered_retry_under_another_name(state: State) -> None:
    """The end of one that shares its id does not open the gate for a second message."""
    waits = {"k": "k", "o": "ordered"}
    tokens = [state.own("a", body=body, state=MOVED, extra=waits) for body in ("x", "y")]
    state.settle("a", *(Settlement("retry", token, delay_ms=5000) for token in tokens))
    state.place_one(1, "z", **ORDERED)

    state.settle("a", now_ms=NOW + 5000)
    while found := state.fetch("a", ("", 10)).envelopes:
        state.settle("a", *(ack(one.token, plain=False) for one in found))

    assert state.lines() == []
    assert state.holders() == {}
    assert state.stored() == {}


@pytest.mark.parametrize("count", [1001, 9000])
def test_an_entry_with_thousands_of_fields(state: State, count: int) -> None:
    """It waits, comes back, and is still the message that it was."""
    id = state.put(body="7", extra={f"x{number}": "y" for number in range(count)})

    assert reschedule(state, id)
    assert reschedule(state, id, "+0")

    assert state.only("ready").body == "7"
    assert state.only("ready").state["id"] == id
    assert cancel(state, id)
    assert state.entries() == []


def test_a_key_that_no_line_can_have(state: State) -> None:
    """A zero byte ends a key in a line: such a key has no gate, and nobody waits for it."""
    id = state.put(extra={"k": "a\0b", "o": "ordered"})

    assert reschedule(state, id)
    assert cancel(state, id)
    assert state.stored() == {}
    assert state.holders() == {}


# What readers learn


def test_only_an_earlier_time_wakes(state: State) -> None:
    """Readers sleep until the first due time that they know; a later one is no news to them."""
    ids = [state.place_one(1, time="+5000"), state.place_one(2, time="+9000")]
    before = len(state.wakes())

    reschedule(state, ids[1], "+8000")
    assert len(state.wakes()) == before
    reschedule(state, ids[1], "+1000")
    assert state.wakes()[before:] == [{"due": str(NOW + 1000)}]
    reschedule(state, ids[1], str(NOW - 1))
    assert state.only("ready").state["id"] == ids[1]
    assert state.due() == {ids[0]: NOW + 5000}


# Without memory


def test_a_cancel_needs_no_memory(own_server: Server, own_state: State) -> None:
    """It frees some; the next one of the key takes the place with it."""
    ids = [own_state.place_one(n, time=time) for n, time in ((1, ""), (2, "+5000"))]
    ids += [own_state.place_one(n, **ORDERED) for n in (3, 4)]

    with out_of_memory(own_server):
        assert [cancel(own_state, id) for id in ids[:3]] == [True] * 3

    assert own_state.only("ready").state["id"] == ids[3]
    assert own_state.holders() == {"k": [ids[3]]}
    assert own_state.stored() == {}


@pytest.mark.parametrize("options", [{}, {"time": "+5000"}, {"priority": 3}, ORDERED])
def test_a_reschedule_is_done_or_refused(
    own_server: Server, own_state: State, options: dict[str, Any]
) -> None:
    """Without memory the message has either the new time, or the old place."""
    id = own_state.place_one(1, **options)

    with out_of_memory(own_server):
        if "time" in options:
            with refused("OOM"):
                reschedule(own_state, id)
        else:
            assert reschedule(own_state, id)

    assert own_state.due() == {id: NOW + (5000 if "time" in options else 1000)}
    assert list(own_state.stored()) == [id]
    assert own_state.entries() == []
    assert own_state.urgent() == []
    assert own_state.holders() == {}


# Until a handler begins


def test_a_start_frees_the_key(state: State) -> None:
    """Once, and only for the message that has it."""
    started: dict[str, Any] = {"unique": "u", "unique_for": "started"}
    first = state.place_one(1, **started)

    assert state.unique() == {"u": first}
    state.run(consume.started(state.keys, "9-9", "u"))
    assert state.unique() == {"u": first}
    state.run(consume.started(state.keys, first, "u"))
    assert state.unique() == {}

    second = state.place_one(2, **started)
    # Delivered again after a loss, it begins again: the key is another's by now.
    state.run(consume.started(state.keys, first, "u"))
    assert state.unique() == {"u": second}
    # So it is when the first one ends.
    [one, _] = state.fetch("a", ("", 10)).envelopes
    state.settle("a", ack(one.token, plain=False))
    assert state.unique() == {"u": second}


def test_a_released_message_can_be_cancelled(state: State) -> None:
    """It has been moved, and waits again: with its gate and its unique key."""
    id = state.place_one(1, **ORDERED, unique="u")
    state.place_one(2, **ORDERED)
    [one] = state.fetch("a", ("", 10)).envelopes
    assert not cancel(state, id)
    state.settle("a", release(one.token))

    assert cancel(state, id)

    assert state.unique() == {}
    assert len(state.holders()["k"]) == 1
    assert state.lines() == []
