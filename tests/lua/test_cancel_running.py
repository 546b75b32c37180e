"""cancel_running.lua: a message in flight ends with the dead letters."""

from __future__ import annotations

import pytest

from millstream.errors import NotConnected
from millstream.protocol import control
from millstream.protocol.control import ENTRIES_A_CALL
from millstream.protocol.op import Op
from millstream.protocol.settlement import ack
from tests.lua.state import FOREIGN, NOW, OLD_ID, State, out_of_memory, refused
from tests.support.servers import Server

LANES = ("ready", "front", "suspect")
MOVED = {"id": OLD_ID, "attempts": 2, "crashes": 1, "reason": "failed", "error": "ValueError: no"}


def cancel(state: State, id: str) -> bool:
    return state.drive(control.cancel_running(state.keys, id, now_ms=NOW))


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has the consumer a."""
    name = "own_state" if "own_state" in request.fixturenames else "state"
    state: State = request.getfixturevalue(name)
    state.register("a")


def test_a_message_that_never_moved(state: State) -> None:
    """It dies with the reason, its consumer is told, and its late ack is refused."""
    token = state.own("a", body="7", extra=FOREIGN)
    id = token.decode()

    assert cancel(state, id)

    letter = state.only("dead")
    assert {"b": "7", **FOREIGN}.items() <= letter.fields.items()
    assert letter.state == {
        "id": id, "attempts": 0, "crashes": 0, "reason": "cancelled", "at": NOW
    }  # fmt: skip
    assert state.entries() == []
    assert state.owners() == {}
    assert state.counters() == {"died": 1}
    assert state.only("control").fields == {"op": "cancel", "id": id, "token": id}
    assert 0 < state.do("PTTL", state.keys.control) <= 60_000
    assert state.settle("a", acks=(token,)).lost == [token]
    assert state.counters() == {"died": 1}


@pytest.mark.parametrize("lane", LANES)
def test_a_message_that_has_moved(state: State, lane: str) -> None:
    """It is found by its id in each lane, and keeps its history; its neighbours stay."""
    first = state.own("a", lane)
    token = state.own("a", lane, body="7", state=MOVED)
    last = state.own("a", lane)

    assert cancel(state, OLD_ID)

    letter = state.only("dead")
    assert letter.body == "7"
    assert letter.state == {**MOVED, "reason": "cancelled", "at": NOW}
    assert state.only("control").fields["token"] == token.decode()
    assert list(state.owners(lane)) == [one.decode().lstrip("fs") for one in (first, last)]
    assert state.settle("a", ack(token)).lost == [token]


def test_only_what_is_in_flight(state: State) -> None:
    """What waits, is done, is dead or was never there is not touched."""
    done = state.own("a")
    waiting = state.put()
    state.put("dead", state={"id": OLD_ID})
    state.delay("5-5", NOW + 1)
    state.settle("a", acks=(done,))

    assert not any(cancel(state, id) for id in (done.decode(), waiting, OLD_ID, "5-5", "9-9"))

    assert state.entries("control") == []
    assert len(state.entries("dead")) == len(state.delayed()) == 1


def test_twice(state: State) -> None:
    """The second time it is not there any more."""
    id = state.own("a").decode()

    assert [cancel(state, id), cancel(state, id)] == [True, False]
    assert len(state.entries("dead")) == len(state.entries("control")) == 1


def test_an_entry_that_is_another_message(state: State) -> None:
    """The id of an entry is not the id of a message that was moved into it."""
    token = state.own("a", state=MOVED)

    assert not cancel(state, token.decode())
    assert cancel(state, OLD_ID)


def test_before_the_first_consumer(state: State) -> None:
    """Without streams and groups nothing is in flight; ids may be any."""
    state.do("DEL", *state.keys.lanes)

    assert not cancel(state, "1-1")
    assert not cancel(state, "99999999999999999999-99999999999999999999")
    assert not state.do("EXISTS", *state.keys.lanes, state.keys.dead)


def test_among_many(state: State) -> None:
    """One call looks at a limited number; the next one goes on, in whichever lane it is."""
    state.send(*(b"1" for _ in range(ENTRIES_A_CALL + 10)))
    state.fetch("a", ("", ENTRIES_A_CALL + 10))
    for _ in range(ENTRIES_A_CALL // 2):
        state.own("a", "front")
    state.own("a", "suspect")
    state.own("a", body="7", state=MOVED)
    plan = control.cancel_running(state.keys, OLD_ID, now_ms=NOW)

    first = next(plan)
    assert isinstance(first, Op)
    second = plan.send(state.run(first))
    assert isinstance(second, Op)
    with pytest.raises(StopIteration) as done:
        plan.send(state.run(second))

    assert done.value.value is True
    assert state.only("dead").body == "7"
    assert not cancel(state, OLD_ID)


def test_a_full_server_says_so(own_server: Server, own_state: State) -> None:
    """Without memory for the dead letter nothing happens."""
    token = own_state.own("a")

    with out_of_memory(own_server), refused("OOM"):
        cancel(own_state, token.decode())

    assert own_state.owners() == {token.decode(): "a"}
    assert own_state.entries("dead") == []


def test_an_answer_that_was_lost(state: State) -> None:
    """The plan asks again, and learns that it was its own doing."""
    id = state.own("a").decode()
    plan = control.cancel_running(state.keys, id, now_ms=NOW)
    step = next(plan)
    assert isinstance(step, Op)
    assert not step.repeatable
    state.run(step)
    asks = plan.throw(NotConnected("gone", url="redis://x"))
    assert isinstance(asks, Op)
    again = plan.send(state.run(asks))
    assert isinstance(again, Op)

    with pytest.raises(StopIteration) as done:
        plan.send(state.run(again))

    assert done.value.value is True
