"""attend.lua: a mailbox is kept, what was read is deleted, and nothing that may not have been read."""

from __future__ import annotations

import pytest

from millstream.protocol.keys import mailbox_key
from millstream.protocol.mailbox import KEPT_MS, attend
from tests.lua.state import State

CLIENT = "somebody"


@pytest.fixture
def key(state: State) -> str:
    """Of the client's mailbox, which does not exist yet."""
    return mailbox_key(state.keys.namespace, CLIENT)


def look_after(state: State, seen: str) -> str:
    return state.run(attend(state.keys.namespace, CLIENT, seen))


def fill(state: State, key: str, *ids: str) -> None:
    for id in ids:
        state.do("XADD", key, id, "reply", "1", "c", "7")
    state.do("PEXPIRE", key, 1000)


def left(state: State, key: str) -> list[str]:
    return [id.decode() for id, _ in state.do("XRANGE", key, "-", "+")]


def test_what_was_read_is_deleted(state: State, key: str) -> None:
    """All but the last entry, by which the mailbox is known; and it is kept for a further minute."""
    fill(state, key, "5-0", "6-0", "6-1", "7-0")

    assert look_after(state, "6-1") == "kept"
    assert left(state, key) == ["6-1", "7-0"]
    assert KEPT_MS - 10_000 < state.do("PTTL", key) <= KEPT_MS


def test_nothing_new(state: State, key: str) -> None:
    """A repeated call deletes no more."""
    fill(state, key, "5-0", "6-0")

    assert [look_after(state, "6-0") for _ in range(2)] == ["kept", "kept"]
    assert left(state, key) == ["6-0"]


def test_none_is_there(state: State, key: str) -> None:
    """None is made."""
    assert look_after(state, "6-0") == "gone"
    assert not state.do("EXISTS", key)


@pytest.mark.parametrize("seen", ["6-5", "9-0", "0-0"])
def test_one_without_what_was_read_last(state: State, key: str, seen: str) -> None:
    """Nothing is deleted, whatever comes before or behind; and it is kept."""
    fill(state, key, "5-0", "6-0", "7-0")

    assert look_after(state, seen) == "older"
    assert left(state, key) == ["5-0", "6-0", "7-0"]
    assert state.do("PTTL", key) > 1000
