"""list_find.lua and list_cancel_running.lua: a message is cancelled, or gets another time."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.errors import NotConnected
from millstream.protocol import consume, control
from millstream.protocol.lists import ELEMENTS_A_CALL
from millstream.protocol.op import Op, Plan
from millstream.protocol.waiting import cancel, reschedule
from tests.lua.list_state import NUDGE, ListState, element
from tests.lua.state import NOW, OLD_ID, out_of_memory, refused
from tests.support.servers import Server

MOVED = {"id": OLD_ID, "attempts": 2, "crashes": 1}
WAITING = ("list", "front", "suspect", "landing")


def canceled(lists: ListState, id: str) -> bool:
    return lists.drive(cancel(lists.keys, id, now_ms=NOW))


def moved(lists: ListState, id: str, time: str) -> bool:
    return lists.drive(reschedule(lists.keys, id, time, now_ms=NOW))


def with_a_lost_reply(lists: ListState, plan: Plan[bool]) -> bool:
    """Run a plan whose first call arrives, and whose answer does not."""
    step: Any = next(plan)
    lists.run(step)
    step = plan.throw(NotConnected("gone", url="redis://x"))
    try:
        while True:
            step = plan.send(lists.run(step))
    except StopIteration as end:
        found: bool = end.value
        return found


# Cancel what waits


@pytest.mark.parametrize("name", WAITING)
def test_cancels_what_waits(lists: ListState, name: str) -> None:
    """Wherever it stands, it is gone, and the others stay in their order."""
    lists.push(element("5-0", "a"), element("6-1", s=MOVED), element("5-2", "c"), to=name)

    assert canceled(lists, OLD_ID)

    left = lists.elements("list" if name == "landing" else name)
    assert [one.id for one in left] == ["5-0", "5-2"]
    assert lists.counters() == {"cancelled": 1}
    assert not canceled(lists, OLD_ID)


def test_cancels_what_is_delayed(lists: ListState) -> None:
    """It is gone from the set and from the hash."""
    lists.delay("5-1", NOW + 500)
    lists.delay("5-2", NOW + 500)

    assert canceled(lists, "5-1")
    assert list(lists.delayed()) == ["5-2"]
    assert lists.counters() == {"cancelled": 1}


def test_finds_no_other(lists: ListState) -> None:
    """Neither one whose id begins alike, nor whose body has the id, nor what is in flight."""
    lists.register("a")
    lists.give("a", element("5-1"))
    lists.push(element("5-10"), element("15-1"), element("7-1", "5-1"), b"5-1")
    lists.push(element("8-1", s={"id": "8-1", "error": "5-1"}), element("5-1", s=MOVED))
    before = lists.list()

    assert not canceled(lists, "5-1")
    assert not moved(lists, "5-1", "+500")
    assert lists.list() == before
    assert lists.counters() == {}


def test_cancels_one_of_two_copies(lists: ListState) -> None:
    """A cancel ends one message."""
    lists.push(element("5-1"), element("5-1"))

    assert canceled(lists, "5-1")
    assert len(lists.list()) == 1


def test_looks_at_some_a_call(lists: ListState) -> None:
    """The server is not held up; what is far away is found by a later call."""
    lists.push(element("5-1", "far"), *(element(f"6-{n}") for n in range(ELEMENTS_A_CALL)))
    step = next(cancel(lists.keys, "5-1", now_ms=NOW))
    assert isinstance(step, Op)

    assert lists.run(step) == [ELEMENTS_A_CALL]
    assert canceled(lists, "5-1")
    assert not canceled(lists, "7-1")
    assert len(lists.list()) == ELEMENTS_A_CALL


def test_a_cancel_whose_reply_was_lost(lists: ListState) -> None:
    """The second call knows its own work, and takes nobody else's for it."""
    lists.push(element("5-1"), element("5-2"))
    assert with_a_lost_reply(lists, cancel(lists.keys, "5-1", now_ms=NOW))

    assert not with_a_lost_reply(lists, cancel(lists.keys, "7-1", now_ms=NOW))
    assert [one.id for one in lists.elements()] == ["5-2"]
    assert lists.counters() == {"cancelled": 1}


def test_a_full_server_cancels(own_server: Server, own_lists: ListState) -> None:
    """It needs no memory."""
    own_lists.push(element("5-1"))
    own_lists.delay("5-2", NOW + 500)
    with out_of_memory(own_server):
        assert canceled(own_lists, "5-1")
        assert canceled(own_lists, "5-2")

    assert own_lists.list() == []
    assert own_lists.delayed() == {}


# Another time


@pytest.mark.parametrize("name", WAITING)
def test_puts_off_what_waits(lists: ListState, name: str) -> None:
    """It waits for its time with all that it has; nothing is counted."""
    lists.push(element("6-1", s=MOVED, k="key"), element("5-2"), to=name)

    assert moved(lists, OLD_ID, "+500")

    [(id, waits)] = lists.delayed().items()
    assert (id, waits.due, waits.state) == (OLD_ID, NOW + 500, MOVED)
    assert (waits.fields["b"], waits.fields["k"]) == ("1", "key")
    assert len(lists.elements("list" if name == "landing" else name)) == 1
    assert lists.counters() == {}


@pytest.mark.parametrize("time", ["+0", str(NOW - 5), str(NOW)])
@pytest.mark.parametrize("delayed", [True, False])
def test_at_once(lists: ListState, time: str, delayed: bool) -> None:
    """What is due already is ready, the last of those that are."""
    lists.push(element("5-1"), *([] if delayed else [element("6-1")]))
    if delayed:
        lists.delay("6-1", NOW + 500)

    assert moved(lists, "6-1", time)
    assert [one.id for one in lists.elements()] == ["5-1", "6-1"]
    assert lists.delayed() == {}


def test_a_suspect_at_once(lists: ListState) -> None:
    """It stays one."""
    lists.delay("5-1", NOW + 500, crashes=2)
    assert moved(lists, "5-1", "+0")

    assert [one.id for one in lists.elements("suspect")] == ["5-1"]


def test_another_time_for_what_is_delayed(lists: ListState) -> None:
    """Sooner or later; a sleeper is woken only for what is due earlier than it knows."""
    lists.register("a")
    lists.delay("5-1", NOW + 500)
    for time, wakes in ((900, False), (400, True)):
        assert moved(lists, "5-1", f"+{time}")
        assert lists.due() == {"5-1": NOW + time}
        assert lists.list() == [NUDGE] * wakes

    assert moved(lists, "5-1", "+400"), "safe to repeat"


def test_no_such_message(lists: ListState) -> None:
    """An empty queue has none, and nothing comes into being."""
    assert not moved(lists, "5-1", "+500")
    assert not canceled(lists, "5-1")
    assert not lists.do("EXISTS", *lists.keys.listed)


# Cancel what runs


def stopped(lists: ListState, id: str) -> bool:
    return lists.drive(control.cancel_running(lists.keys, id, now_ms=NOW))


def test_cancels_what_is_in_flight(lists: ListState) -> None:
    """It is a dead letter before its consumer hears of it, whose late end is refused."""
    lists.register("a", "b c")
    [other] = lists.give("a", element("5-2", "2"))
    [token] = lists.give("b c", element("6-1", s=MOVED, k="key"))

    assert stopped(lists, OLD_ID)

    letter = lists.only("dead")
    assert (letter.body, letter.fields["k"]) == ("1", "key")
    assert letter.state == {**MOVED, "reason": "cancelled", "at": NOW}
    assert lists.counters() == {"died": 1}
    assert lists.only("control").fields == {"op": "cancel", "id": OLD_ID, "token": token.decode()}
    assert 0 < lists.do("PTTL", lists.keys.control) <= 60_000
    assert lists.run(consume.fetch(lists.keys, "b c", acks=[token])).lost == [token]
    assert list(lists.held("a")) == [other]
    assert list(lists.ends_of_leases()) == [f"{other.decode()} a"]
    assert not stopped(lists, OLD_ID)


def test_what_is_not_in_flight(lists: ListState) -> None:
    """A message that waits is left alone, and so is a lease of nothing."""
    lists.register("a")
    lists.give("a", element("7-1"))
    lists.do("DEL", lists.keys.processing("a"))
    lists.push(element("5-1"))

    assert not stopped(lists, "5-1")
    assert not stopped(lists, "7-1")
    assert len(lists.list()) == 1
    assert not lists.do("EXISTS", lists.keys.dead, lists.keys.control)


def test_a_stop_whose_reply_was_lost(lists: ListState) -> None:
    """The second call knows its own work, and takes nobody else's for it."""
    lists.register("a")
    lists.give("a", element("5-1"))
    plan = control.cancel_running(lists.keys, "5-1", now_ms=NOW)
    assert with_a_lost_reply(lists, plan)
    plan = control.cancel_running(lists.keys, "7-1", now_ms=NOW)
    assert not with_a_lost_reply(lists, plan)

    assert len(lists.entries("dead")) == 1
    assert lists.counters() == {"died": 1}


def test_a_full_server_stops_nothing(own_server: Server, own_lists: ListState) -> None:
    """Without memory for the dead letter the message stays with its consumer."""
    own_lists.register("a")
    [token] = own_lists.give("a", element("5-1"))
    with out_of_memory(own_server), refused("OOM"):
        stopped(own_lists, "5-1")

    assert list(own_lists.held("a")) == [token]
    assert own_lists.entries("dead") == []
    assert own_lists.counters() == {}
