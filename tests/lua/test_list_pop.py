"""list_pop.lua: messages of a list that are taken at most once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from millstream.protocol import consume, control
from millstream.protocol.envelope import Envelope
from millstream.protocol.settlement import Settlement, fail, reject, release
from tests.lua.list_state import FOREIGN_ELEMENTS, ListState, bodies
from tests.lua.state import NOW, out_of_memory, refused
from tests.support.servers import Server


def back(end: Settlement, envelope: Envelope, number: int) -> Settlement:
    return replace(end, envelope=envelope, number=number)


def test_what_is_taken_is_gone(lists: ListState) -> None:
    """It comes in the order of sending, belongs to nobody, and is counted."""
    lists.register("w")
    lists.push(b"ms1 7-1000000\n1", b'ms1 7-1000001 {"h":"{}","k":"key"}\n2', b"3", b"4")

    found = lists.pop(3)

    assert bodies(found) == [b"1", b"2", b"3"]
    assert [one.state.id for one in found.envelopes[:2]] == ["7-1000000", "7-1000001"]
    assert found.envelopes[1].key == "key"
    assert found.envelopes[2].state.id == f"{NOW}-1000000"
    assert lists.list() == [b"4"]
    assert lists.counters() == {"acked": 3}
    leases: int = lists.do("EXISTS", lists.keys.listed[2], lists.keys.processing("w"))
    assert leases == 0


@pytest.mark.parametrize("element", FOREIGN_ELEMENTS)
def test_any_element_is_a_message(lists: ListState, element: bytes) -> None:
    """What is not in our form is a body, gets an id, and holds up nothing."""
    lists.register("w")
    lists.push(element, b"1")

    found = lists.pop()

    assert bodies(found) == [element, b"1"]
    assert all(one.state.id.startswith(f"{NOW}-") for one in found.envelopes)


def test_what_was_handed_back_comes_first(lists: ListState) -> None:
    """Suspects and the front before the rest, and never more than was asked for."""
    lists.register("w")
    lists.push(b"ms1 7-1\n1")
    lists.push(b"ms1 5-1\nf", to="front")
    lists.push(b'ms1 6-1 {"s":"{\\"crashes\\":2}"}\ns', to="suspect")

    assert bodies(lists.pop(2)) == [b"s", b"f"]
    assert bodies(lists.pop(2)) == [b"1"]


def test_wake_ups_and_what_a_sleep_brought(lists: ListState) -> None:
    """A wake-up is no message, and what landed belongs to whoever looks first."""
    lists.register("w")
    lists.push(b"ms1 7-1\n1", b"ms1 wake\n", b"ms1 7-2\n2")
    lists.push(b"ms1 6-1\n0", to="landing")

    assert bodies(lists.pop(3)) == [b"0", b"1", b"2"]
    assert lists.list() == []
    assert lists.counters() == {"acked": 3}


def test_a_paused_queue(lists: ListState) -> None:
    """It gives nothing; the answer tells what to wait for."""
    lists.register("w")
    lists.push(b"1")
    lists.run(control.pause(lists.keys))

    found = lists.pop()

    assert found.envelopes == []
    assert found.outlook is not None
    assert found.outlook.kind == "paused"
    lists.run(control.resume(lists.keys))
    assert bodies(lists.pop()) == [b"1"]


def test_what_is_due(lists: ListState) -> None:
    """The call that promotes it brings it, and tells of the next one."""
    lists.register("w")
    lists.delay("5-1000000", NOW, "due")
    lists.delay("6-1000000", NOW + 500, "later")

    found = lists.pop()

    assert bodies(found) == [b"due"]
    assert found.next_due_ms == 500


def test_handing_back(lists: ListState) -> None:
    """Released ones keep their order, others die or are counted, and nothing is done twice."""
    lists.register("w")
    lists.push(*(f"ms1 7-{n}\n{n}".encode() for n in range(1, 5)))
    one, two, three, four = lists.pop().envelopes
    ends = (
        back(release(one.token), one, 1),
        back(reject(two.token, "no"), two, 2),
        back(release(three.token), three, 3),
        back(fail(four.token), four, 4),
    )

    assert lists.pop(0, *ends).kept == {}
    found = lists.pop(10, *ends)

    assert bodies(found) == [b"1", b"3"]
    assert [one.state.id for one in found.envelopes] == ["7-1", "7-3"]
    assert lists.only("dead").state["reason"] == "no"
    assert lists.counters() == {"acked": 2, "died": 1, "failed": 1}


def test_deliveries_that_are_acknowledged_stay(lists: ListState) -> None:
    """Consumers of both kinds get different messages, and keep what is theirs."""
    lists.register("w", "other")
    lists.push(b"ms1 7-1\n1", b"ms1 7-2\n2")
    theirs = lists.run(consume.fetch(lists.keys, "other", reads=[("", 1)])).envelopes

    assert bodies(lists.pop()) == [b"2"]

    assert [one.body for one in theirs] == [b"1"]
    done = lists.run(consume.fetch(lists.keys, "other", acks=[theirs[0].token]))
    assert done.lost == []


def test_who_is_long_gone_is_forgotten(lists: ListState) -> None:
    """A look removes a consumer that has nothing and was not heard of for minutes."""
    lists.register("w", "silent", "busy")
    seen, leases = lists.keys.listed[9], lists.keys.listed[2]
    lists.push(b"1")
    lists.run(consume.fetch(lists.keys, "busy", reads=[("", 1)]))
    lists.do("ZADD", seen, NOW - 400_000, "silent", NOW - 400_001, "busy")
    lists.do("ZADD", seen, NOW, "w")

    lists.pop()
    lists.pop()

    assert set(lists.leases()) == {"w", "busy"}
    assert lists.do("ZCARD", leases) == 1


def test_a_queue_that_is_gone(lists: ListState) -> None:
    """After a FLUSHALL the consumer has to make itself known again, and nothing is taken before."""
    lists.push(b"1")
    with refused("NOGROUP"):
        lists.pop()

    assert lists.list() == [b"1"]


def test_a_full_server_is_emptied(own_server: Server, own_lists: ListState) -> None:
    """What is taken needs no memory, also when a message has to get an id."""
    own_lists.register("w")
    own_lists.push(b"ms1 7-1\n1", b"2")
    with out_of_memory(own_server):
        found = own_lists.pop()

    assert bodies(found) == [b"1", b"2"]
    assert len({one.state.id for one in found.envelopes}) == 2
