"""join.lua: who shares the partitions of a queue, for how long, and how the others learn it."""

from __future__ import annotations

import pytest

from millstream.errors import UsageError
from millstream.protocol.partitions import EXPIRY_MS, declare, declared, join, leave, share_of
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server


def told(state: State) -> int:
    """How often workers were told that the members have changed."""
    return [entry.fields for entry in state.entries("control")].count({"op": "members"})


def member(state: State, name: str, now_ms: int = NOW) -> list[str]:
    return sorted(state.run(join(state.keys, name, 4, now_ms=now_ms)))


def test_who_joins_knows_all(state: State) -> None:
    """Each worker gets the members, itself among them."""
    assert member(state, "a") == ["a"]
    assert member(state, "b") == ["a", "b"]
    assert member(state, "a") == ["a", "b"]


def test_only_changes_are_told(state: State) -> None:
    """A worker that comes or goes leaves word for the others; one that only lives does not."""
    member(state, "a")
    assert told(state) == 1
    member(state, "b")
    assert told(state) == 2
    member(state, "a")
    assert told(state) == 2
    state.run(leave(state.keys, "a", now_ms=NOW))
    assert told(state) == 3


def test_who_leaves_is_forgotten(state: State) -> None:
    """The others are left; leaving twice changes nothing."""
    member(state, "a")
    member(state, "b")

    assert state.run(leave(state.keys, "a", now_ms=NOW)) == ["b"]
    assert state.run(leave(state.keys, "a", now_ms=NOW)) == ["b"]
    assert told(state) == 3


def test_who_is_silent_is_forgotten(state: State) -> None:
    """A worker that is not heard of in time is no member, and whoever notices tells the others."""
    member(state, "dead")
    state.do("PERSIST", state.keys.members)  # its time is the server's, not the test's
    member(state, "alive", NOW + EXPIRY_MS - 1)
    state.do("PERSIST", state.keys.members)
    assert told(state) == 2

    assert member(state, "alive", NOW + EXPIRY_MS) == ["alive"]
    assert told(state) == 3


def test_nothing_stays_when_all_are_gone(state: State) -> None:
    """Members and what was told of them expire by themselves."""
    member(state, "a")

    assert 0 < state.do("PTTL", state.keys.members) <= EXPIRY_MS
    assert 0 < state.do("PTTL", state.keys.control) <= 60_000


def test_without_memory_who_comes_reads_all_the_same(own_server: Server, own_state: State) -> None:
    """Whether it can be noted or not, it gets a share and can work: that frees memory."""
    member(own_state, "a")

    with out_of_memory(own_server):
        members = member(own_state, "b")
    assert "a" in members
    assert share_of("b", members, 4) == {1, 3}


class TestNumber:
    def test_the_first_one_says_it(self, state: State) -> None:
        """From then on everybody must agree, whoever it was."""
        state.run(declare(state.keys, 4))

        state.run(declare(state.keys, 4))
        member(state, "a")
        assert state.run(declared(state.keys)) == 4
        with pytest.raises(UsageError, match="has 4 partitions"):
            state.run(declare(state.keys, 2))
        with pytest.raises(UsageError, match="has 4 partitions"):
            state.run(join(state.keys, "b", 2))

    def test_a_worker_may_be_the_first(self, state: State) -> None:
        """Its membership is the declaration."""
        member(state, "a")

        with pytest.raises(UsageError, match="has 4 partitions"):
            state.run(declare(state.keys, 1))

    def test_nobody_has_said_it(self, state: State) -> None:
        """An unordered queue has one partition, and no key says so."""
        assert state.run(declared(state.keys)) == 1
        assert state.run(declared(state.keys, None)) is None

    def test_it_comes_back_after_a_flush(self, state: State) -> None:
        """A worker says it again with its next sign of life."""
        member(state, "a")
        state.do("DEL", state.keys.config)

        member(state, "a")
        assert state.run(declared(state.keys)) == 4
