"""place.lua and line_up.lua with a bound: who has a place in the line, and who is called."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from millstream.errors import QueueFull
from millstream.message import Receipt
from millstream.policy import Bound, Limits, Rate
from millstream.protocol import consume
from millstream.protocol.bound import Unit, place_units
from millstream.protocol.ending import acknowledge
from millstream.protocol.line import line_up
from millstream.protocol.place import Placement, place
from millstream.protocol.settlement import reject
from tests.lua.state import NOW, State, out_of_memory, refused
from tests.support.servers import Server

LAPSE = 6000

WAIT = Bound(2, on_full="wait")
DROP = Bound(2, on_full="drop_oldest")
REJECT = Bound(2)


def units(*bodies: str) -> list[Unit]:
    return [Unit((Placement(body=body.encode()),)) for body in bodies]


def send(
    state: State,
    producer: str,
    number: int,
    some: Sequence[Unit],
    bound: Bound = WAIT,
    *,
    ticket: str = "",
    now_ms: int = NOW,
) -> list[str | int]:
    """Send units; for each the word ``ok``, or the length of the queue that refused it."""
    op = place_units(state.keys, bound, producer, number, some, ticket=ticket, now_ms=now_ms)
    return [one.length if isinstance(one, QueueFull) else "ok" for one in state.run(op)]


def confirm(state: State, ticket: str, needed: str, *, now_ms: int = NOW) -> tuple[bool, int]:
    return state.run(line_up(state.keys, ticket, needed, now_ms=now_ms))


def line(state: State) -> list[str]:
    return [ticket.decode() for ticket in state.do("ZRANGE", state.keys.senders, 0, -1)]


def called(state: State) -> list[str]:
    return [entry.fields["ticket"] for entry in state.entries("room")]


def fill(state: State) -> None:
    """Have two messages in a queue whose bound is two."""
    state.register("c")
    assert send(state, "x", 1, units("1", "2")) == ["ok", "ok"]


def end_one(state: State) -> None:
    """Read a message and end it."""
    found = state.fetch("c", ("", 1))
    state.settle("c", reject(found.envelopes[0].token, "no"))


def nothing_is_left(state: State) -> bool:
    return not state.do("EXISTS", state.keys.senders, state.keys.alive)


# --- tickets ------------------------------------------------------------------------------------


def test_places_in_the_line(state: State) -> None:
    """Who finds no room gets a ticket in the same moment, and is called when there is some."""
    fill(state)
    assert send(state, "a", 1, units("3", "4")) == [2, 2]
    assert send(state, "b", 1, units("5")) == [2]
    assert line(state) == ["a 1", "b 1"]
    assert called(state) == []

    end_one(state)
    assert called(state) == ["a 1"]
    assert send(state, "c", 1, units("6")) == [1], "nobody overtakes"
    assert send(state, "a", 2, units("3", "4"), ticket="a 1") == ["ok", 2]
    assert line(state) == ["b 1", "c 1", "a 1"], "who got something goes to the end"
    assert called(state) == [], "there is no room for anybody"
    end_one(state)
    assert called(state) == ["b 1"]


def test_a_plain_ack_makes_room(state: State) -> None:
    """Who acknowledges message by message calls the first in the line, too."""
    fill(state)
    send(state, "a", 1, units("3"))
    [envelope] = state.fetch("c", ("", 1)).envelopes

    assert not state.run(acknowledge(state.keys, envelope.token)).lost

    assert called(state) == ["a 1"]
    assert send(state, "a", 2, units("3"), ticket="a 1") == ["ok"]


def test_all_keys_go_with_the_last_ticket(state: State) -> None:
    """Given up or used up, the line leaves no key but the stream, which expires."""
    fill(state)
    send(state, "a", 1, units("3"))
    send(state, "b", 1, units("4"))
    end_one(state)

    assert send(state, "a", 2, units("3"), ticket="a 1") == ["ok"]
    assert confirm(state, "b 1", "") == (False, 2)

    assert nothing_is_left(state)
    assert called(state) == []
    assert 0 < state.do("PTTL", state.keys.room) <= 60_000


def test_a_ticket_expires_by_itself(state: State) -> None:
    """What nobody confirms is gone after some seconds, also when nobody comes any more."""
    fill(state)
    send(state, "a", 1, units("3"))

    for key in (state.keys.senders, state.keys.alive):
        assert 0 < state.do("PTTL", key) <= LAPSE


def test_an_exchanged_ticket_keeps_its_place(state: State) -> None:
    """Also when the call is repeated whose answer was lost."""
    fill(state)
    send(state, "a", 1, [Unit(tuple(unit.placements[0] for unit in units("3", "4")))])
    send(state, "b", 1, units("5"))
    assert line(state) == ["a 0", "b 1"]

    assert confirm(state, "a 0", "a 1") == (False, 2)
    assert confirm(state, "a 0", "a 1") == (False, 2)

    assert line(state) == ["a 1", "b 1"]
    end_one(state)
    assert confirm(state, "a 1", "a 1") == (True, 1)


def test_a_repeated_send_has_one_ticket(state: State) -> None:
    """A batch whose answer was lost is answered again, and changes nothing."""
    fill(state)
    for _ in range(2):
        assert send(state, "a", 1, units("3")) == [2]
    end_one(state)
    for _ in range(2):
        assert send(state, "a", 2, units("3"), ticket="a 1") == ["ok"]

    assert state.bodies() == ["2", "3"]
    assert nothing_is_left(state)


def test_who_is_dead_holds_nobody_up(state: State) -> None:
    """A producer that has not been heard of for six seconds loses its place, at the others' word."""
    fill(state)
    send(state, "dead", 1, units("3"))
    send(state, "a", 1, units("4"), now_ms=NOW + 2000)
    end_one(state)
    assert called(state) == ["dead 1"]

    assert confirm(state, "a 1", "a 1", now_ms=NOW + LAPSE - 1) == (False, 1)
    assert confirm(state, "a 1", "a 1", now_ms=NOW + LAPSE) == (True, 1)
    assert line(state) == ["a 1"]

    assert confirm(state, "dead 1", "dead 1", now_ms=NOW + LAPSE) == (False, 1)
    assert line(state) == ["a 1", "dead 1"], "it was not dead, and is behind the others"


def test_the_next_is_called_when_the_first_gives_up(state: State) -> None:
    """Room that the first in line does not take is the next one's."""
    fill(state)
    send(state, "a", 1, units("3"))
    send(state, "b", 1, units("4"))
    end_one(state)
    assert called(state) == ["a 1"]

    confirm(state, "a 1", "")
    assert called(state) == ["b 1"]


def test_a_duplicate_neither_waits_nor_is_called(state: State) -> None:
    """A unit that stores nothing passes those who wait."""
    once = Unit((Placement(body=b"1", unique="u"),))
    assert send(state, "x", 1, [once, *units("2")]) == ["ok", "ok"]
    send(state, "a", 1, units("3"))

    assert send(state, "b", 1, [once]) == ["ok"]
    assert line(state) == ["a 1"]


def test_an_urgent_message_that_expires_makes_room(state: State) -> None:
    """Ended on its way to the front of a queue with limits, it calls who waits."""
    state.register("c")
    urgent = Unit((Placement(body=b"1", priority=9, ttl="5"),))
    assert send(state, "x", 1, [urgent, *units("2")]) == ["ok", "ok"]
    send(state, "a", 1, units("3"))

    limits = Limits(Rate(100, per=60), None)
    reads = [("f", 1), ("", 1)]
    state.run(
        consume.fetch(state.keys, "c", [], reads, urgent="all", limits=limits, now_ms=NOW + 5)
    )

    assert called(state) == ["a 1"]


# --- what costs nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [REJECT, DROP])
def test_who_does_not_wait_has_no_line(state: State, bound: Bound) -> None:
    """Queues whose sends do not wait have no key of it."""
    state.register("c")
    for number in range(1, 5):
        send(state, "a", number, units(str(number)), bound)
    end_one(state)

    assert nothing_is_left(state)
    assert not state.do("EXISTS", state.keys.room)


# --- dropping -----------------------------------------------------------------------------------


def test_a_repeated_send_drops_once(state: State) -> None:
    """What made room for a batch does so once, however often the batch comes."""
    send(state, "a", 1, units("1", "2"), DROP)
    for _ in range(3):
        assert send(state, "a", 2, units("3"), DROP) == ["ok"]

    assert state.bodies() == ["2", "3"]
    assert (state.counters()["dropped"], state.counters()["sent"]) == (1, 3)


def test_a_queue_that_was_longer_shrinks_step_by_step(state: State) -> None:
    """No call keeps the server busy for long: a thousand more than it needs are dropped at most."""
    state.send(*[b"old"] * 2500)

    lengths = []
    for number in range(1, 5):
        assert send(state, "a", number, units(str(number)), DROP) == ["ok"]
        lengths.append(len(state.entries()))

    assert lengths == [1500, 500, 2, 2]
    assert state.bodies() == ["3", "4"]
    assert state.counters()["dropped"] == 2502


# --- a server without memory --------------------------------------------------------------------


@pytest.mark.parametrize("on_full", ["reject", "wait", "drop_oldest"])
def test_out_of_memory(own_server: Server, own_state: State, on_full: str) -> None:
    """Nothing of a unit is stored, no counter says so, and it goes well when there is memory."""
    bound = Bound(3, on_full=on_full)  # type: ignore[arg-type] # one of them
    both = [Unit(tuple(Placement(body=body, key="k", gate="ordered") for body in (b"1", b"2")))]
    with out_of_memory(own_server), refused("OOM"):
        send(own_state, "a", 1, both, bound)
    assert own_state.do("DBSIZE") == 0

    assert send(own_state, "a", 1, both, bound) == ["ok"]
    assert own_state.run(place(own_state.keys, "b", 1, [Placement(body=b"3")])) == [
        Receipt(own_state.entries()[-1].id)
    ]


def test_waiting_without_memory(own_server: Server, own_state: State) -> None:
    """The line needs hardly any: who waits keeps its place, and messages end."""
    fill(own_state)
    send(own_state, "a", 1, units("3"))
    with out_of_memory(own_server):
        assert confirm(own_state, "a 1", "a 1") == (False, 2)
        found = own_state.fetch("c", ("", 1))
        own_state.settle("c", acks=(found.envelopes[0].token,))
        assert confirm(own_state, "a 1", "a 1") == (True, 1)

    assert send(own_state, "a", 2, units("3"), ticket="a 1") == ["ok"]
