"""list_register.lua, list_pending.lua, list_extend.lua, list_nudge.lua: what keeps a consumer going."""

from __future__ import annotations

import pytest

from millstream.protocol import consume, ending
from millstream.protocol import lists as of_lists
from tests.lua.list_state import LEASE, NUDGE, ListState, bodies, element
from tests.lua.state import NOW, out_of_memory, refused
from tests.support.servers import Server


def lease_ends(lists: ListState, token: bytes, consumer: str) -> int:
    return lists.ends_of_leases()[f"{token.decode()} {consumer}"]


# Register


def test_register(lists: ListState) -> None:
    """The consumer is known with its lease, and heard of now; nothing else is there."""
    before = lists.now()
    lists.register("a", lease_ms=LEASE)

    assert lists.leases() == {"a": str(LEASE)}
    assert before <= lists.seen()["a"] <= lists.now()
    assert lists.do("EXISTS", *lists.keys.listed) == 2


def test_register_again(lists: ListState) -> None:
    """Who comes back has the lease that it says now, and keeps what it has in hand."""
    lists.register("a", lease_ms=LEASE)
    [token] = lists.give("a", element("5-1"))
    lists.do("ZADD", lists.key("seen"), 7, "a")
    lists.register("a", lease_ms=500)

    assert lists.leases() == {"a": "500"}
    assert lists.seen()["a"] > 7
    assert list(lists.held("a")) == [token]
    assert lease_ends(lists, token, "a") == NOW + LEASE


def test_register_at_a_full_server(own_server: Server, own_lists: ListState) -> None:
    """It is no error, and the next fetch says that the consumer has to come again."""
    own_lists.push(element("5-1"))
    with out_of_memory(own_server):
        own_lists.register("a")
        with refused("NOGROUP"):
            own_lists.take("a")

    assert own_lists.leases() == {}
    assert len(own_lists.elements()) == 1


# What it has


def test_pending(lists: ListState) -> None:
    """All that it has, whole, the oldest delivery first; the leases begin anew, only its own."""
    lists.register("a", "b", lease_ms=LEASE)
    [third] = lists.give("a", element("7-1", "3", k="key"))
    [first, second] = lists.give("a", element("5-1"), b"2", now_ms=6)
    [other] = lists.give("b", element("4-1", "4"))
    before = lists.now()

    found = lists.drive(consume.own_pending(lists.keys, "a"))

    assert [(one.token, one.body) for one in found] == [
        (first, b"1"),
        (second, b"2"),
        (third, b"3"),
    ]
    assert [one.state.id for one in found] == ["5-1", second.decode(), "7-1"]
    assert found[2].key == "key"
    for token in (first, second, third):
        assert before + LEASE <= lease_ends(lists, token, "a") <= lists.now() + LEASE
    assert lease_ends(lists, other, "b") == NOW + LEASE


def test_pending_of_nobody(lists: ListState) -> None:
    """Who has nothing gets nothing, and is not made known by asking."""
    assert lists.drive(consume.own_pending(lists.keys, "a")) == []
    assert not lists.do("EXISTS", *lists.keys.listed)


def test_pending_when_the_consumer_is_not_known(lists: ListState) -> None:
    """What it has is shown; with no lease known, the ends of leases stay as they are."""
    lists.register("a", lease_ms=LEASE)
    [token] = lists.give("a", element("5-1"))
    lists.do("HDEL", lists.keys.consumers, "a")

    assert [one.token for one in lists.drive(consume.own_pending(lists.keys, "a"))] == [token]
    assert lease_ends(lists, token, "a") == NOW + LEASE


def test_owns(lists: ListState) -> None:
    """A delivery is its consumer's, and nobody else's."""
    lists.register("a", "b")
    [token] = lists.give("a", element("5-1"))

    assert lists.run(ending.owns(lists.keys, "a", token))
    assert not lists.run(ending.owns(lists.keys, "b", token))
    assert not lists.run(ending.owns(lists.keys, "a", b"6-1"))


# Extend


@pytest.mark.parametrize("used", [0, 1000, LEASE, 2 * LEASE])
def test_extend(lists: ListState, used: int) -> None:
    """The leases begin anew, less what counts as used up; others and unknown ones are told as lost."""
    lists.register("a", "b", lease_ms=LEASE)
    [one, two] = lists.give("a", element("5-1"), element("5-2"))
    [other] = lists.give("b", element("5-3"))
    lists.do("ZADD", lists.key("seen"), 7, "a")
    before = lists.now()

    asked = [one, other, b"9-9"]
    assert lists.run(consume.extend(lists.keys, "a", asked, idle_ms=used)) == [other, b"9-9"]

    rest = max(0, LEASE - used)
    assert before + rest <= lease_ends(lists, one, "a") <= lists.now() + rest
    assert lease_ends(lists, two, "a") == NOW + LEASE
    assert lease_ends(lists, other, "b") == NOW + LEASE
    assert len(lists.ends_of_leases()) == 3
    assert lists.seen()["a"] >= before, "it lives"


def test_extend_by_a_consumer_that_is_gone(lists: ListState) -> None:
    """Everything is lost, and the consumer is not made known again."""
    assert lists.run(consume.extend(lists.keys, "a", [b"5-1"])) == [b"5-1"]
    assert not lists.do("EXISTS", *lists.keys.listed)


def test_extend_at_a_full_server(own_server: Server, own_lists: ListState) -> None:
    """What the consumer has is not lost, whatever becomes of the lease."""
    own_lists.register("a")
    [token] = own_lists.give("a", element("5-1"))

    with out_of_memory(own_server):
        assert own_lists.run(consume.extend(own_lists.keys, "a", [token])) == []


# Nudge


def test_a_nudge_wakes_who_sleeps(lists: ListState) -> None:
    """There is one at most, and it is no message."""
    lists.register("a")
    for _ in range(2):
        lists.run(of_lists.nudge(lists.keys))
        assert lists.list() == [NUDGE]

    assert bodies(lists.take("a")) == []
    assert lists.list() == []


def test_a_nudge_for_nobody(lists: ListState) -> None:
    """Without consumers it would stay for ever; with messages, nobody sleeps."""
    lists.run(of_lists.nudge(lists.keys))
    assert lists.list() == []
    lists.register("a")
    lists.push(element("5-1"))
    lists.run(of_lists.nudge(lists.keys))

    assert lists.list() == [element("5-1")]
