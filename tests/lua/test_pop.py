"""pop_begin.lua, pop_end.lua and tidy.lua: messages of a stream that are taken at most once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from millstream.declare import Queue
from millstream.policy import AtMostOnce
from millstream.protocol import consume, control
from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import Envelope
from millstream.protocol.op import Op, load_script
from millstream.protocol.settlement import Settlement, expire, fail, reject, release
from tests.lua.state import NOW, OLD_ID, State, out_of_memory, refused
from tests.support.servers import Server

ALL = (("f", 10), ("", 10))


@pytest.fixture(autouse=True)
def loaded(state: State) -> None:
    """The server knows the scripts. Else the reads between them come before them the first time.

    That costs a fetch, which finds nothing, and no message.
    """
    for name in ("pop_begin", "pop_end"):
        state.do("SCRIPT", "LOAD", load_script(name).source)


def popping(
    state: State,
    *reads: tuple[str, int],
    ends: tuple[Settlement, ...] = (),
    urgent: str = "",
    now_ms: int = NOW,
    consumer: str = "w",
) -> Op[Fetched]:
    return consume.fetch(
        *(state.keys, consumer, ends, reads), urgent=urgent, limits=AtMostOnce(), now_ms=now_ms
    )


def pop(
    state: State,
    *reads: tuple[str, int],
    ends: tuple[Settlement, ...] = (),
    urgent: str = "",
    now_ms: int = NOW,
) -> Fetched:
    return state.run(popping(state, *reads, ends=ends, urgent=urgent, now_ms=now_ms))


def bodies(found: Fetched) -> list[bytes | None]:
    return [envelope.body for envelope in found.envelopes]


def back(end: Settlement, envelope: Envelope, number: int) -> Settlement:
    return replace(end, envelope=envelope, number=number)


def test_what_is_taken_is_gone(state: State) -> None:
    """Nothing is pending, nothing is left in the stream, and it is counted."""
    state.register("w")
    first = state.send(b"1", b"2", b"3")

    found = pop(state, ("", 2))

    assert bodies(found) == [b"1", b"2"]
    assert found.envelopes[0].state.id == first
    assert state.bodies() == ["3"]
    assert state.owners() == {}
    assert state.counters() == {"sent": 3, "acked": 2}
    assert found.outlook is not None
    assert found.outlook.kind == "more"
    assert bodies(pop(state, ("", 2))) == [b"3"]
    assert bodies(pop(state, ("", 2))) == []


def test_the_front_and_suspects(state: State) -> None:
    """Each lane is read and cleared by itself, and the answer tells where something is left."""
    state.register("w")
    state.put("front", "f", state={"id": OLD_ID, "crashes": 1})
    state.put("suspect", "s", state={"id": OLD_ID, "crashes": 2})
    state.send(b"1")

    found = pop(state, ("", 5))
    assert (bodies(found), found.front, found.suspect) == ([b"1"], 1, 1)
    found = pop(state, ("s", 1), ("f", 5))

    assert bodies(found) == [b"s", b"f"]
    assert [envelope.state.crashes for envelope in found.envelopes] == [2, 1]
    assert (found.front, found.suspect) == (0, 0)
    assert [state.bodies(lane) for lane in ("ready", "front", "suspect")] == [[], [], []]


def test_deliveries_that_are_acknowledged_stay(state: State) -> None:
    """What is pending for a consumer that acknowledges is its own, before or behind what is popped."""
    state.register("w", "other")
    first = state.own("other", body="theirs")
    state.send(b"1", b"2")
    assert bodies(pop(state, ("", 1))) == [b"1"]
    second = state.run(consume.fetch(state.keys, "other", reads=[("", 1)])).envelopes[0]
    state.send(b"3", number=2)

    assert bodies(pop(state, ("", 5))) == [b"3"]

    assert second.body == b"2"
    assert set(state.owners()) == {first.decode(), second.token.decode()}
    assert state.bodies() == ["theirs", "2"]
    done = state.settle("other", acks=(first, second.token))
    assert done.lost == []
    assert state.bodies() == []
    assert state.counters() == {"sent": 3, "acked": 4}


def test_what_a_lost_script_left_behind(state: State) -> None:
    """What was read without being deleted goes with the next look, and never comes again."""
    state.register("w")
    state.send(b"1", b"2")
    read = ("XREADGROUP", "GROUP", state.keys.group, "w", "COUNT", 1, "NOACK", "STREAMS")
    state.do(*read, state.keys.ready, ">")

    pop(state)

    assert state.bodies() == ["2"]
    assert bodies(pop(state, ("", 5))) == [b"2"]


def test_a_paused_queue(state: State) -> None:
    """It gives nothing and loses nothing; the answer lets a reader sleep until it goes on."""
    state.register("w")
    state.send(b"1")
    state.run(control.pause(state.keys))

    found = pop(state, *ALL)

    assert found.envelopes == []
    assert state.bodies() == ["1"]
    assert found.outlook is not None
    assert found.outlook.kind == "empty"
    state.run(control.resume(state.keys))
    assert [entry.id.encode() for entry in state.entries("wake")] > [found.outlook.since[0]]
    assert bodies(pop(state, *ALL)) == [b"1"]


def test_what_is_due_and_what_is_urgent(state: State) -> None:
    """Both are moved before the read, so that the same call brings them."""
    state.register("w")
    state.delay("5-1000000", NOW, "due")
    state.delay("6-1000000", NOW + 500, "later")
    state.place_one(1, "low", priority=1)
    state.place_one(2, "high", priority=9)

    assert bodies(pop(state, ("f", 1), urgent="1")) == [b"high"]
    found = pop(state, *ALL, urgent="5")

    assert bodies(found) == [b"low", b"due"]
    assert found.next_due_ms == 500
    assert found.priorities == []


@pytest.mark.parametrize("unique_for", ["done", "started"])
def test_a_unique_key_is_free_when_its_message_is_taken(state: State, unique_for: str) -> None:
    """Nobody will say when a message is done that is gone."""
    state.register("w")
    id = state.place_one(1, unique="u", unique_for=unique_for)
    state.place_one(2, "plain")
    assert state.unique() == {"u": id}

    assert len(pop(state, ("", 5)).envelopes) == 2

    assert state.unique() == {}
    assert state.bodies() == []


def test_others_that_order_keys(state: State) -> None:
    """The next message of a key goes on when one of it is taken that somebody has sent in order."""
    state.register("w")
    state.place_one(1, "a", key="k", gate="ordered")
    state.place_one(2, "b", key="k", gate="ordered")

    assert bodies(pop(state, ("", 5))) == [b"a"]
    assert bodies(pop(state, ("", 5))) == [b"b"]

    assert (state.lines(), state.holders(), state.bodies()) == ([], {}, [])


class TestHandingBack:
    def test_release(self, state: State) -> None:
        """It comes first again, as it was; one that has killed consumers stays a suspect."""
        state.register("w")
        id = state.place_one(1, "x", unique="u", headers=b'{"a":"b"}')
        state.put("suspect", "s", state={"id": OLD_ID, "crashes": 2})
        one, two = pop(state, ("", 1), ("s", 1)).envelopes

        pop(state, ends=(back(release(one.token), one, 1), back(release(two.token), two, 2)))

        assert state.only("front").state["id"] == id
        assert state.only("front").fields["h"] == '{"a":"b"}'
        assert state.only("suspect").state["crashes"] == 2
        assert state.unique() == {"u": id}
        assert state.counters()["acked"] == 0

    def test_a_unique_key_that_another_message_has_by_now(self, state: State) -> None:
        """It stays with that one."""
        state.register("w")
        state.place_one(1, "x", unique="u")
        [one] = pop(state, ("", 1)).envelopes
        later = state.place_one(2, "y", unique="u")

        pop(state, ends=(back(release(one.token), one, 1),))

        assert state.unique() == {"u": later}
        assert len(pop(state, *ALL).envelopes) == 2
        assert state.unique() == {}

    def test_reject_expire_and_fail(self, state: State) -> None:
        """To the dead letters with the reason, or only into the counts."""
        state.register("w")
        first = state.send(b"1", b"2", b"3")
        one, two, three = pop(state, ("", 5)).envelopes
        ends = (
            back(reject(one.token, "no", error="why"), one, 1),
            back(expire(two.token), two, 2),
            back(fail(three.token), three, 3),
        )

        assert pop(state, ends=ends).kept == {}

        letters = [entry.state for entry in state.entries("dead")]
        assert [letter["reason"] for letter in letters] == ["no", "expired"]
        assert (letters[0]["id"], letters[0]["error"], letters[0]["at"]) == (first, "why", NOW)
        assert state.counters() == {"sent": 3, "acked": 0, "died": 2, "failed": 1, "expired": 1}

    def test_a_repeated_call(self, state: State) -> None:
        """Nothing is done twice; what is new in it is done."""
        state.register("w")
        state.send(b"1", b"2")
        one, two = pop(state, ("", 5)).envelopes
        first = back(release(one.token), one, 1)

        pop(state, ends=(first,))
        pop(state, ends=(first, back(release(two.token), two, 2)))

        assert state.bodies("front") == ["1", "2"]
        assert state.counters()["acked"] == 0

    def test_without_memory(self, own_state: State, own_server: Server) -> None:
        """What cannot be stored is kept with all behind it; the same numbers are not lost later."""
        state = own_state
        state.register("w")
        state.send(b"1", b"2")
        one, two = pop(state, ("", 5)).envelopes
        ends = (back(reject(one.token, "no"), one, 1), back(fail(two.token), two, 2))
        with out_of_memory(own_server):
            kept = pop(state, ends=ends).kept

        assert set(kept) == {one.token, two.token}
        assert all(problem.startswith("OOM") for problem in kept.values())
        assert pop(state, ends=ends).kept == {}
        assert state.counters() == {"sent": 2, "acked": 0, "died": 1, "failed": 1}

    def test_what_the_server_still_has(self, state: State) -> None:
        """An end without its message is a mistake of the caller."""
        with pytest.raises(ValueError, match="release of b'1-0'"):
            popping(state, ends=(release(b"1-0"),))


def test_a_full_server_is_emptied(own_state: State, own_server: Server) -> None:
    """A server without memory takes no transactions, but gives its messages away."""
    state = own_state
    state.register("w")
    state.send(b"1", b"2")
    with out_of_memory(own_server):
        found = pop(state, ("", 5))

    assert bodies(found) == [b"1", b"2"]
    assert state.bodies() == []


def test_a_server_that_forgot_its_scripts(state: State) -> None:
    """What was read in that moment is deleted all the same."""
    state.register("w")
    state.send(b"1", b"2")
    state.do("SCRIPT", "FLUSH")

    assert bodies(pop(state, ("", 1))) == [b"1"]
    assert state.bodies() == ["2"]


def test_a_queue_that_is_gone(state: State) -> None:
    """After a FLUSHALL the consumer has to make the queue known again."""
    with refused("NOGROUP"):
        pop(state, ("", 5))


def test_who_is_long_gone_is_removed(state: State) -> None:
    """A consumer that starts removes those that have nothing and are silent; others stay."""
    state.register("w", "silent", "busy")
    for name in ("w", "silent", "busy"):
        state.run(popping(state, *ALL, consumer=name))
    state.own("busy")
    command = consume.register(
        state.keys, "w", 30_000, source=Queue("orders", delivery="at_most_once")
    ).commands[1]
    *head, _ = command.arguments
    assert state.consumers() == {"w", "silent", "busy"}

    state.run(Op((replace(command, arguments=(*head, 0)),), decode=lambda _: None))

    assert state.consumers() == {"w", "busy"}
    assert set(state.leases()) == {"w", "busy"}
