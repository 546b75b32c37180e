"""purge.lua: what waits is deleted for good."""

from __future__ import annotations

import pytest

from millstream.protocol import admin
from millstream.protocol.admin import ENTRIES_A_CALL, stats
from millstream.protocol.op import Op
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server

LANES = ("ready", "front", "suspect")


def purge(state: State) -> int:
    return state.drive(admin.purge(state.keys))


@pytest.mark.parametrize("lane", LANES)
def test_deletes_what_is_unread(state: State, lane: str) -> None:
    """Each lane is emptied, except for what consumers own."""
    state.register("a")
    token = state.own("a", lane, body="owned")
    state.put(lane)
    state.put(lane)

    assert purge(state) == 2

    assert state.only(lane).body == "owned"
    assert state.owners(lane) == {token.decode().lstrip("fs"): "a"}
    assert state.counters()["purged"] == 2


def test_deletes_what_is_delayed(state: State) -> None:
    """Due or not, it is gone from the set and from the hash."""
    state.delay("1-1", NOW)
    state.delay("2-2", NOW + 1000)

    assert purge(state) == 2

    assert not state.do("EXISTS", state.keys.due, state.keys.delayed)


def test_leaves_dead_letters_alone(state: State) -> None:
    """They have a purge of their own."""
    state.put("dead")
    state.put()

    assert purge(state) == 1
    assert state.counters() == {"purged": 1}
    assert len(state.entries("dead")) == 1

    assert state.drive(admin.purge_dead(state.keys)) == 1
    assert state.entries("dead") == []
    assert state.drive(admin.purge_dead(state.keys)) == 0


def test_works_before_the_first_consumer(state: State) -> None:
    """Without a group everything is unread; without a queue there is nothing."""
    assert purge(state) == 0
    assert not state.do("EXISTS", *state.keys.lanes, state.keys.counters)
    state.put()

    assert purge(state) == 1
    assert state.entries() == []


def test_deletes_many(state: State) -> None:
    """All lanes and the delayed ones, more than one call's worth."""
    state.register("a")
    state.send(*(b"1" for _ in range(ENTRIES_A_CALL + 100)))
    for number in range(ENTRIES_A_CALL + 100):
        state.put("front")
        state.delay(f"{number}-1", NOW)

    assert purge(state) == 3 * (ENTRIES_A_CALL + 100)

    found = state.run(stats(state.keys))
    assert (found.ready, found.delayed, found.in_flight, found.dead) == (0, 0, 0, 0)


def test_one_call_deletes_a_limited_number(state: State) -> None:
    """The server is never busy with it for long, however the messages are spread."""
    for lane, count in zip(LANES, (300, 300, 2 * ENTRIES_A_CALL - 601), strict=True):
        for _ in range(count):
            state.put(lane)
    for number in range(3):
        state.delay(f"{number}-1", NOW)
    step = next(admin.purge(state.keys))
    assert isinstance(step, Op)

    assert state.run(step) == ENTRIES_A_CALL
    assert [len(state.entries(lane)) for lane in LANES] == [0, 103, 399]
    assert state.run(step) == ENTRIES_A_CALL
    assert [len(state.entries(lane)) for lane in LANES] == [0, 0, 2]
    assert state.run(step) == 2


def test_what_comes_later_is_delivered(state: State) -> None:
    """A purge moves no position: the next message is delivered, the deleted ones are not."""
    state.register("a")
    state.put(body="gone")
    purge(state)
    state.put(body="new")

    assert [one.body for one in state.fetch("a", ("", 10)).envelopes] == [b"new"]


def test_needs_no_memory(own_server: Server, own_state: State) -> None:
    """It is what an operator does on a full server."""
    own_state.put()
    own_state.delay("1-1", NOW)
    own_state.put("dead")

    with out_of_memory(own_server):
        assert purge(own_state) == 2
        assert own_state.drive(admin.purge_dead(own_state.keys)) == 1
