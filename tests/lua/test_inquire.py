"""inquire.lua: what has become of requests, and whether anybody serves their endpoint."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from millstream.protocol.partitions import join, leave
from millstream.protocol.requests import (
    NOT_KNOWN,
    NOT_THERE,
    WAITING,
    WAITING_AGAIN,
    deaths,
    inquire,
)
from millstream.protocol.settlement import reject, release
from tests.lua.state import OLD_ID, State

ADDRESS = {"x": "1900000000000 drop", "r": "caller 7"}
LOOKED_AT = 1000
"""Entries of a lane that are looked at for requests that were moved."""


@pytest.fixture(autouse=True)
def registered(state: State) -> None:
    """The endpoint of each test has the worker a."""
    state.register("a")


def ask(state: State, *ids: str) -> list[int]:
    return state.run(inquire(state.keys, ids))[1]


def test_whether_it_is_served(state: State) -> None:
    """It is, while a worker shows that it lives."""
    assert state.run(inquire(state.keys, [])) == (False, [])
    state.run(join(state.keys, "a", None))
    assert state.run(inquire(state.keys, [])) == (True, [])
    state.run(leave(state.keys, "a"))
    assert state.run(inquire(state.keys, [])) == (False, [])


def test_one_that_waits(state: State) -> None:
    """Nobody has begun with it."""
    assert ask(state, state.put(extra=ADDRESS)) == [WAITING]


@pytest.mark.parametrize("lane", ["ready", "front", "suspect"])
def test_one_that_runs(state: State, lane: str) -> None:
    """It is told for how long its worker has shown no sign of life."""
    moved = None if lane == "ready" else {"id": OLD_ID}
    token = state.own("a", lane, state=moved, idle_ms=700, extra=ADDRESS)

    [idle] = ask(state, OLD_ID if moved else token.decode())
    assert 700 <= idle < 10_000


def test_one_that_has_ended(state: State) -> None:
    """It is not there."""
    token = state.own("a", extra=ADDRESS)
    state.settle("a", acks=(token,))

    assert ask(state, token.decode(), "1-1") == [NOT_THERE] * 2


def test_one_that_was_handed_back(state: State) -> None:
    """It waits, under another id."""
    token = state.own("a", extra=ADDRESS)
    state.settle("a", release(token))

    assert ask(state, token.decode()) == [WAITING]


@pytest.mark.parametrize("lane", ["front", "suspect"])
def test_one_whose_worker_has_died(state: State, lane: str) -> None:
    """It waits again; an error that quotes such a state says nothing about it."""
    state.put(lane, state={"id": "7-1", "crashes": 1}, extra=ADDRESS)
    state.put(lane, state={"id": "7-2", "crashes": 0, "error": '"crashes":1'}, extra=ADDRESS)

    assert ask(state, "7-1", "7-2") == [WAITING_AGAIN, WAITING]


def test_many_at_a_time(state: State) -> None:
    """Each is answered in its place."""
    running, waiting = state.own("a", extra=ADDRESS).decode(), state.put(extra=ADDRESS)

    found = ask(state, "1-1", waiting, running, waiting)
    assert [min(one, 0) for one in found] == [NOT_THERE, WAITING, 0, WAITING]


def test_more_were_moved_than_are_looked_at(state: State) -> None:
    """What is not found may be among the others, so nobody is told that it is gone."""
    for number in range(LOOKED_AT + 1):
        state.put("front", state={"id": f"7-{number}"}, extra=ADDRESS)

    found = ask(state, "7-0", f"7-{LOOKED_AT - 1}", f"7-{LOOKED_AT}", "1-1")
    assert found == [WAITING, WAITING, NOT_KNOWN, NOT_KNOWN]


@pytest.mark.parametrize("text", ["", "{", '{"id":7}', '{"reason":"\\"id\\":\\"7-7\\""}', "\x00"])
def test_foreign_entries(state: State, text: str) -> None:
    """A state that is none names no request."""
    state.put("front", state=text)

    assert ask(state, "7-7") == [NOT_THERE]


def test_without_a_group(state: State, namespace: str) -> None:
    """Where no worker has ever been, a request waits, or is not there."""
    bare = State(state.driver, namespace, "bare")

    assert ask(bare, bare.put(extra=ADDRESS), "1-1") == [WAITING, NOT_THERE]


class TestDeaths:
    """The dead letters, where callers look for what is not there any more."""

    def look(self, state: State, ids: Sequence[str]) -> dict[str, str]:
        return state.drive(deaths(state.keys, ids))

    def test_the_reason_is_told(self, state: State) -> None:
        """Of those that are there; of others nothing."""
        first, second = state.own("a", extra=ADDRESS), state.own("a", extra=ADDRESS)
        state.settle("a", reject(first, "stopped"), reject(second, "crashed"), now_ms=1)

        ids = [first.decode(), second.decode(), "1-1"]
        assert self.look(state, ids) == {ids[0]: "stopped", ids[1]: "crashed"}

    def test_among_many(self, state: State) -> None:
        """It is found behind hundreds of others."""
        for _ in range(1100):
            state.put("dead", state={"id": "1-1", "reason": "crashed"})
        token = state.own("a", extra=ADDRESS)
        state.settle("a", reject(token, "stopped"))

        ids = [token.decode(), "2-2"]
        assert self.look(state, ids) == {ids[0]: "stopped"}

    def test_nothing_to_look_for(self, state: State) -> None:
        """It asks nobody."""
        assert self.look(state, []) == {}
