"""list_send.lua and list_place.lua: a batch is pushed together, in order, once."""

from __future__ import annotations

import pytest

from millstream.protocol import send
from millstream.protocol.place import Placement
from millstream.protocol.send import REMEMBERED_MS
from tests.lua.list_state import LEASE, ListState, element
from tests.lua.state import NOW, out_of_memory, refused
from tests.support.servers import Server

FUTURE = 9_999_999_999_999


def test_a_batch_in_order(lists: ListState) -> None:
    """Each body is an element of its own, behind a line with its id; the ids follow one another."""
    before = lists.now()
    receipts = lists.run(send.send(lists.keys, "p", 1, [b"1", b"", b"\xff\n\0"]))

    ms, _, number = receipts[0].id.partition("-")
    assert before <= int(ms) <= lists.now()
    assert number == "1000000"
    assert [one.id for one in receipts] == [f"{ms}-{1_000_000 + n}" for n in range(3)]
    heads = [f"ms1 {one.id}\n".encode() for one in receipts]
    assert lists.list() == [heads[0] + b"1", heads[1], heads[2] + b"\xff\n\0"]
    assert lists.counters() == {"sent": 3}


def test_headers(lists: ListState) -> None:
    """They stand in the line before the body, of those messages that have some."""
    headers = '{"trace":"a/\\"b\\n\u00fc"}'
    lists.run(send.send(lists.keys, "p", 1, [b"1", b"2"], [headers.encode(), b""]))

    first, second = lists.elements()
    assert (first.body, first.fields) == (b"1", {"h": headers})
    assert (second.body, second.fields) == (b"2", {})
    lists.register("a")
    assert lists.take().envelopes[0].headers == {"trace": 'a/"b\n\u00fc'}


def test_a_repeated_batch(lists: ListState) -> None:
    """After a lost reply it stores nothing and gets its first answer; a late copy stores nothing."""
    first = lists.send(b"1", b"2", number=1)
    assert lists.send(b"1", b"2", number=1) == first
    second = lists.send(b"3", number=2)
    assert lists.send(b"1", b"2", number=1) == second

    assert [one.body for one in lists.elements()] == [b"1", b"2", b"3"]
    assert lists.counters() == {"sent": 3}
    assert 0 < lists.do("PTTL", lists.keys.producer("p")) <= REMEMBERED_MS


def test_producers_do_not_know_each_other(lists: ListState) -> None:
    """The same number of another producer is another batch."""
    one = lists.send(b"1", producer="p")
    two = lists.send(b"2", producer="q")

    assert one != two
    assert [one.body for one in lists.elements()] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("last", "first"),
    [(5, f"{FUTURE}-1000006"), (8_999_997, f"{FUTURE + 1}-1000000")],
    ids=["goes on", "is full"],
)
def test_ids_only_grow(lists: ListState, last: int, first: str) -> None:
    """When the clock is set back, ids go on behind the last one, with as many digits."""
    lists.do("HSET", lists.keys.counters, "last_ms", FUTURE, "last_number", last)

    assert lists.send(b"1", b"2") == first
    ms, _, number = first.partition("-")
    assert lists.place_one(2) == f"{ms}-{int(number) + 2}"


def test_a_batch_finds_no_memory(own_server: Server, own_lists: ListState) -> None:
    """Nothing of it is stored, so that it can be repeated."""
    with out_of_memory(own_server):
        with refused("OOM"):
            own_lists.send(b"1", b"2")
        with refused("OOM"):
            own_lists.place_one(1, time="+500")
    assert not own_lists.do("EXISTS", *own_lists.keys.listed, own_lists.keys.producer("p"))

    own_lists.send(b"1", b"2")
    assert [one.body for one in own_lists.elements()] == [b"1", b"2"]


# More than a body


def test_each_where_it_belongs(lists: ListState) -> None:
    """What is for later waits in the due set, the others in the list, in their order."""
    receipts = lists.place(
        Placement(body=b"1", key="k", headers=b'{"a":"b"}'),
        Placement(body=b"2", time="+500"),
        Placement(body=b"3", time=str(NOW + 700), key="k", ttl="900"),
        Placement(body=b"4", time=str(NOW - 1)),
        Placement(body=b"5", ttl="100 drop"),
        Placement(body=b"6", time="+0"),
    )

    ids = [one.id for one in receipts]
    assert ids == [f"{NOW}-{1_000_000 + n}" for n in range(6)]
    assert [(one.id, one.body, one.fields) for one in lists.elements()] == [
        (ids[0], b"1", {"h": '{"a":"b"}', "k": "k"}),
        (ids[3], b"4", {}),
        (ids[4], b"5", {"x": f"{NOW + 100} drop"}),
        (ids[5], b"6", {}),
    ]
    delayed = lists.delayed()
    assert {id: (one.due, one.fields) for id, one in delayed.items()} == {
        ids[1]: (NOW + 500, {"b": "2"}),
        ids[2]: (NOW + 700, {"b": "3", "k": "k", "x": str(NOW + 900)}),
    }
    assert lists.counters() == {"sent": 6}


def test_a_repeated_batch_of_those(lists: ListState) -> None:
    """It stores nothing and gets its first answer, whenever it comes again."""
    batch = Placement(body=b"1"), Placement(body=b"2", time="+500")
    first = lists.place(*batch, number=3)

    assert lists.place(*batch, number=3, now_ms=NOW + 1000) == first
    assert lists.place(Placement(body=b"0"), number=2) == first
    assert (len(lists.elements()), len(lists.delayed())) == (1, 1)
    assert lists.counters() == {"sent": 2}
    assert 0 < lists.do("PTTL", lists.keys.producer("p")) <= REMEMBERED_MS


def test_a_sleeper_learns_what_is_due_first(lists: ListState) -> None:
    """It is woken if a message is due earlier than it knows, and if there is anybody who sleeps."""
    lists.place_one(1, time="+900")
    assert not lists.nudged()
    lists.register("a", lease_ms=LEASE)

    for number, (delay, wakes) in enumerate([(1000, False), (900, False), (800, True)], 2):
        lists.place_one(number, time=f"+{delay}")
        assert lists.nudged() is wakes

    lists.place_one(9, time="+700")
    assert lists.nudged(), "once is enough"


def test_nobody_sleeps_while_there_are_messages(lists: ListState) -> None:
    """A list that has something has woken its readers, so no wake-up is added."""
    lists.register("a")
    lists.push(element("5-1"))
    lists.place_one(1, time="+900")

    assert not lists.nudged()
