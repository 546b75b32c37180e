"""list_stats.lua, list_peek.lua, list_redrive.lua, list_purge.lua, list_pause.lua: what people do."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.protocol import admin, control
from millstream.protocol.admin import ENTRIES_A_CALL, peek_ready, stats
from millstream.protocol.op import Op
from tests.lua.list_state import NUDGE, ListState, bodies, element
from tests.lua.state import FOREIGN, NOW, out_of_memory, refused
from tests.support.servers import Server

SUSPECT = {"id": "6-1", "attempts": 0, "crashes": 2}


def four(lists: ListState) -> tuple[int, int, int, int]:
    found = lists.run(stats(lists.keys))
    return found.ready, found.delayed, found.in_flight, found.dead


def fill(lists: ListState) -> None:
    """One message in each state, and two in the list."""
    lists.register("a")
    lists.give("a", element("1-1", "owned"))
    lists.push(element("5-1", "first"), b"second")
    lists.push(element("3-1", "handed back"), to="front")
    lists.push(element("6-1", "suspect", s=SUSPECT), to="suspect")
    lists.push(element("4-1", "landed"), to="landing")
    lists.delay("7-1", NOW)
    lists.put("dead", "dead", state={"id": "2-1", "reason": "no"})


# Stats


def test_counts(lists: ListState) -> None:
    """Every message is in one state, wherever it stands."""
    fill(lists)

    assert four(lists) == (5, 1, 1, 1)


def test_counts_nothing(lists: ListState) -> None:
    """An empty queue is no error, and nothing comes into being."""
    found = lists.run(stats(lists.keys))

    assert four(lists) == (0, 0, 0, 0)
    assert (found.oldest_ready, found.consumers, found.paused) == (None, (), False)
    assert not lists.do("EXISTS", *lists.keys.listed)


def test_a_wake_up_does_not_count(lists: ListState) -> None:
    """Neither in the list, nor where a read that slept has put it."""
    lists.push(NUDGE)
    lists.push(NUDGE, NUDGE, to="landing")
    assert four(lists) == (0, 0, 0, 0)
    lists.push(element("5-1"))
    lists.push(element("4-1"), to="landing")

    assert four(lists) == (2, 0, 0, 0)


def test_the_oldest(lists: ListState) -> None:
    """The first one that has an id tells its age, in whichever list; a plain body does not."""
    now = lists.now()
    lists.push(b"1", b"2", NUDGE)
    assert lists.run(stats(lists.keys)).oldest_ready is None
    for age, name in enumerate(("landing", "list", "front", "suspect"), 1):
        lists.do("DEL", lists.key(name))
        lists.push(element(f"{now - 60_000 * age}-1"), element(f"{now}-1"), b"3", to=name)
        found = lists.run(stats(lists.keys)).oldest_ready
        assert found is not None
        assert 60 * age <= found < 60 * age + 60


def test_totals_and_consumers(lists: ListState) -> None:
    """What has happened so far, and who has how much in hand."""
    lists.register("a", "b")
    lists.send(b"1", b"2", b"3")
    [one, *_] = [it.token for it in lists.take("a", now_ms=lists.now()).envelopes]
    lists.settle("a", acks=(one,), now_ms=lists.now())

    found = lists.run(stats(lists.keys))

    assert (found.sent, found.acked) == (3, 1)
    assert [(it.name, it.in_flight) for it in found.consumers] == [("a", 2), ("b", 0)]
    assert all(0 <= it.idle < 60 for it in found.consumers)


# Peek


def test_peek(lists: ListState) -> None:
    """What waits, the next to be delivered first, and nothing is touched."""
    fill(lists)
    lists.push(NUDGE, element("4-2", "landed later"), to="landing")
    before = [lists.list(name) for name in ("list", "front", "suspect", "landing")]

    found = lists.run(peek_ready(lists.keys, 10))

    assert [(one.state.id, one.body) for one in found] == [
        ("3-1", b"handed back"),
        ("6-1", b"suspect"),
        ("4-1", b"landed"),
        ("4-2", b"landed later"),
        ("5-1", b"first"),
        ("0-0", b"second"),
    ]
    assert [lists.list(name) for name in ("list", "front", "suspect", "landing")] == before


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_peek_at_some(lists: ListState, limit: int) -> None:
    """No more than was asked for, and a wake-up is none of them."""
    lists.push(NUDGE, element("5-1", "1"), element("5-2", "2"), element("5-3", "3"))

    found = lists.run(peek_ready(lists.keys, limit))
    assert [one.body for one in found] == [b"1", b"2", b"3"][:limit]


# Redrive


def redrive(lists: ListState, **options: Any) -> int:
    given = {"ids": None, "reason": None, "rate": None, **options}
    return lists.drive(admin.redrive(lists.keys, **given))


def test_redrive(lists: ListState) -> None:
    """It goes back with its id and all that was sent with it, its counts at zero, to live for ever."""
    state = {"id": "5-1", "attempts": 5, "crashes": 2, "reason": "attempts", "error": "no"}
    lists.put("dead", state=state, extra={"k": "key", "h": '{"a":"b"}', "x": "7"})
    lists.put("dead", "2")

    assert redrive(lists) == 2

    first, second = lists.elements()
    assert (first.id, first.body, first.fields["k"], first.fields["h"]) == (
        *("5-1", b"1"),
        *("key", '{"a":"b"}'),
    )
    assert first.state == {"id": "5-1", "attempts": 0, "crashes": 0}
    assert "x" not in first.fields
    assert second.body == b"2"
    assert lists.entries("dead") == []
    assert lists.counters() == {"redriven": 2}
    lists.register("a")
    assert bodies(lists.take()) == [b"1", b"2"]


def test_redrive_some(lists: ListState) -> None:
    """Those with these ids, or a reason that fits."""
    for number, reason in enumerate(("crashed", "attempts", "crash: no"), 1):
        lists.put("dead", str(number), state={"id": f"5-{number}", "reason": reason})

    assert redrive(lists, ids=["5-2", "9-9"]) == 1
    assert redrive(lists, reason="crash*") == 2
    assert [one.body for one in lists.elements()] == [b"2", b"1", b"3"]


def test_redrive_what_died_in_a_stream(lists: ListState) -> None:
    """What a list has no place for is dropped: a unique key, a gate, and fields that nobody knows."""
    state = {"id": "5-1", "attempts": 5, "crashes": 0}
    more = {"k": "key", "u": "done:once", "o": "ordered", "p": "5", **FOREIGN}
    lists.put("dead", state=state, extra=more)

    assert redrive(lists) == 1

    [back] = lists.elements()
    assert set(back.fields) == {"k", "s"}
    assert not lists.do("EXISTS", lists.keys.control, lists.keys.unique, lists.keys.holders)
    lists.run(control.pause(lists.keys))
    assert lists.only("control").fields == {"op": "pause"}


def test_redrive_finds_no_memory(own_server: Server, own_lists: ListState) -> None:
    """The letter stays."""
    own_lists.put("dead", state={"id": "5-1"})
    with out_of_memory(own_server), refused("OOM"):
        redrive(own_lists)

    assert len(own_lists.entries("dead")) == 1
    assert own_lists.list() == []
    assert own_lists.counters() == {}


# Purge


def purge(lists: ListState) -> int:
    return lists.drive(admin.purge(lists.keys))


def test_purge(lists: ListState) -> None:
    """All that waits is gone; what consumers own and dead letters stay; wake-ups do not count."""
    fill(lists)
    lists.push(NUDGE, to="landing")

    assert purge(lists) == 6

    assert four(lists) == (0, 0, 1, 1)
    assert [one.body for one in lists.held("a").values()] == [b"owned"]
    assert lists.counters() == {"purged": 6}
    lists.push(NUDGE)
    assert purge(lists) == 0
    assert lists.counters() == {"purged": 6}


def test_a_call_purges_some(lists: ListState) -> None:
    """The delayed ones, then the next to be delivered, from list to list."""
    for number in range(100):
        lists.delay(f"{number + 1}-1", NOW)
    lists.push(*(element(f"5-{n}") for n in range(300)), to="front")
    lists.push(*(element(f"6-{n}") for n in range(300)))
    step = next(admin.purge(lists.keys))
    assert isinstance(step, Op)

    assert lists.run(step) == ENTRIES_A_CALL
    assert (len(lists.delayed()), len(lists.list("front"))) == (0, 0)
    assert [one.id for one in lists.elements()] == [f"6-{n}" for n in range(100, 300)]
    assert lists.run(step) == 200
    assert lists.run(step) == 0


def test_purge_needs_no_memory(own_server: Server, own_lists: ListState) -> None:
    """It is what an operator does on a full server."""
    fill(own_lists)
    with out_of_memory(own_server):
        assert purge(own_lists) == 6


# Pause


def test_pause_and_resume(lists: ListState) -> None:
    """Both can be repeated, and those who sleep meanwhile are told."""
    lists.register("a")
    lists.push(element("5-1"))
    for _ in range(2):
        lists.run(control.pause(lists.keys))
        assert lists.run(control.is_paused(lists.keys))
        assert lists.run(stats(lists.keys)).paused
        assert bodies(lists.take()) == []
    for _ in range(2):
        lists.run(control.resume(lists.keys))
        assert not lists.run(control.is_paused(lists.keys))

    assert [one.fields["op"] for one in lists.entries("control")] == [
        *("pause", "pause"),
        *("resume", "resume"),
    ]
    assert 0 < lists.do("PTTL", lists.keys.control) <= 60_000
    assert bodies(lists.take()) == [b"1"]


def test_pause_at_a_full_server(own_server: Server, own_lists: ListState) -> None:
    """It is refused whole; to let a queue go on needs no memory."""
    with out_of_memory(own_server), refused("OOM"):
        own_lists.run(control.pause(own_lists.keys))
    assert not own_lists.do("EXISTS", own_lists.keys.paused, own_lists.keys.control)

    own_lists.run(control.pause(own_lists.keys))
    with out_of_memory(own_server):
        own_lists.run(control.resume(own_lists.keys))
    assert not own_lists.run(control.is_paused(own_lists.keys))
