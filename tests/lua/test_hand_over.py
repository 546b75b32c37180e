"""hand_over.lua: a consumer is gone, and others get what it had."""

from __future__ import annotations

import pytest

from millstream.protocol import consume
from millstream.protocol.keys import GROUP
from millstream.protocol.recover import HandedOver, hand_over, hand_over_some
from millstream.protocol.settlement import Settlement
from tests.lua.state import FOREIGN, NOW, OLD_ID, State, out_of_memory, refused
from tests.support.servers import Server

LANES = ("ready", "front", "suspect")


def step(
    state: State,
    consumer: str = "a",
    *,
    crashed: bool,
    max_crashes: int = 3,
    reason: str = "",
    limit: int = 500,
) -> HandedOver:
    return state.run(
        hand_over_some(
            state.keys,
            consumer,
            crashed=crashed,
            max_crashes=max_crashes,
            reason=reason,
            limit=limit,
            now_ms=NOW,
        )
    )


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has the consumers a and b."""
    name = "own_state" if "own_state" in request.fixturenames else "state"
    state: State = request.getfixturevalue(name)
    state.register("a", "b")


def test_a_crash_counts(state: State) -> None:
    """With blame each message has one crash more, and is read before the others."""
    token = state.own("a", state={"id": OLD_ID, "attempts": 2, "crashes": 0}, extra=FOREIGN)
    fresh = state.own("a", body="2")

    assert step(state, crashed=True) == HandedOver(2, 0, removed=True)

    first, second = state.entries("front")
    assert {"b": "1", **FOREIGN}.items() <= first.fields.items()
    assert first.state == {"id": OLD_ID, "attempts": 2, "crashes": 1}
    assert second.state == {"id": fresh.decode(), "attempts": 0, "crashes": 1}
    assert state.entries("ready") == []
    assert state.counters() == {"crashed": 2}
    assert state.settle("a", acks=(token,)).lost == [token]


@pytest.mark.parametrize("lane", LANES)
def test_a_consumer_that_left_is_not_blamed(state: State, lane: str) -> None:
    """Without blame no count changes; suspects stay suspects."""
    moved = {"id": OLD_ID, "attempts": 1, "crashes": 2 if lane == "suspect" else 1}
    state.own("a", lane, state=moved)

    assert step(state, crashed=False) == HandedOver(1, 0, removed=True)

    assert state.only("suspect" if lane == "suspect" else "front").state == moved
    assert state.counters() == {}


def test_the_second_crash_makes_a_suspect(state: State) -> None:
    """The lane follows from the count, wherever the message was."""
    for lane, crashes in (("ready", 0), ("front", 1), ("suspect", 2)):
        state.own("a", lane, lane, state={"id": OLD_ID, "attempts": 0, "crashes": crashes})

    step(state, crashed=True)

    assert state.bodies("front") == ["ready"]
    assert state.bodies("suspect") == ["front", "suspect"]


@pytest.mark.parametrize(("crashed", "dies"), [(True, True), (False, False)])
def test_too_many_crashes_are_the_end(state: State, crashed: bool, dies: bool) -> None:
    """Above the limit the message is a dead letter, if this is a crash at all."""
    state.own("a", "suspect", state={"id": OLD_ID, "attempts": 1, "crashes": 3}, extra=FOREIGN)

    done = step(state, crashed=crashed, max_crashes=3)

    assert done == HandedOver(0 if dies else 1, 1 if dies else 0, removed=True)
    if dies:
        dead = state.only("dead")
        assert dead.state == {
            "id": OLD_ID,
            "attempts": 1,
            "crashes": 4,
            "reason": "crashed",
            "at": NOW,
        }
        assert FOREIGN.items() <= dead.fields.items()
        assert state.counters() == {"crashed": 1, "died": 1}


@pytest.mark.parametrize("lane", LANES)
def test_nobody_gets_them_again(state: State, lane: str) -> None:
    """With a reason all are dead letters, however often they have crashed, and no crash is counted."""
    state.own("a", lane, state={"id": OLD_ID, "attempts": 1, "crashes": 2}, extra=FOREIGN)

    done = step(state, crashed=False, reason="stopped")

    assert done == HandedOver(0, 1, removed=True)
    dead = state.only("dead")
    assert dead.state == {
        "id": OLD_ID,
        "attempts": 1,
        "crashes": 2,
        "reason": "stopped",
        "at": NOW,
    }
    assert FOREIGN.items() <= dead.fields.items()
    assert not any(state.entries(one) for one in LANES)
    assert state.counters() == {"died": 1}


def test_takes_only_what_the_consumer_owns(state: State) -> None:
    """Others keep their deliveries, and what is unread stays where it is."""
    state.own("a", body="mine")
    other = state.own("b", body="other")
    state.put(body="unread")

    step(state, crashed=True)

    assert state.bodies() == ["other", "unread"]
    assert state.owners() == {other.decode(): "b"}
    assert state.bodies("front") == ["mine"]


def test_removes_the_consumer(state: State) -> None:
    """It is gone from every lane and from the wake stream, with its lease."""
    for stream in (*LANES, "wake"):
        read = ("XREADGROUP", "GROUP", GROUP, "a", "STREAMS")
        state.put(stream)
        state.do(*read, state.key(stream), ">")

    assert step(state, crashed=False).removed

    assert not any("a" in state.consumers(stream) for stream in (*LANES, "wake"))
    assert state.leases() == {"b": "30000"}


@pytest.mark.parametrize("waiting", [True, False])
def test_somebody_looks_at_the_delayed_messages(state: State, waiting: bool) -> None:
    """Who left may have been the only one that knew when the next message is due."""
    if waiting:
        state.delay("1-1", NOW)

    step(state, crashed=False)

    assert len(state.wakes()) == waiting
    woken = state.run(consume.wait(state.keys, "b", 1, suspects=True)).woken
    assert len(woken) == waiting
    state.settle("b", *(Settlement("woken", entry) for entry in woken))
    assert state.wakes() == []


def test_a_wake_up_that_was_not_followed_is_given_on(state: State) -> None:
    """Who was told of a free slot and died has left it to somebody else."""
    state.put("wake")
    assert state.run(consume.wait(state.keys, "a", 1, suspects=True)).woken

    assert step(state, crashed=True).removed

    [again] = state.run(consume.wait(state.keys, "b", 1, suspects=True)).woken
    assert state.entries("wake")[-1].id == again.decode()


def test_nobody_looks_for_delayed_messages_before_the_consumer_is_gone(state: State) -> None:
    """The last step of a long hand-over wakes one for that; each, one that waits for a slot."""
    state.delay("1-1", NOW)
    state.own("a")

    assert not step(state, crashed=False, limit=1).removed
    assert state.wakes() == [{"free": "room"}]
    assert step(state, crashed=False, limit=1).removed
    assert state.wakes() == [{"free": "room"}, {"due": "unknown"}]


def test_the_limit_counts_over_all_lanes(state: State) -> None:
    """The consumer goes with its last delivery, not earlier."""
    for lane in LANES:
        for _ in range(3):
            state.own("a", lane)

    steps = [step(state, crashed=False, limit=2) for _ in range(5)]

    assert [one.moved for one in steps] == [2, 2, 2, 2, 1]
    assert [one.removed for one in steps] == [False] * 4 + [True]
    assert not any(state.owners(lane) for lane in LANES)


def test_the_plan_takes_everything(state: State) -> None:
    """More than one call's worth is handed over, and counted."""
    state.send(*(b"1" for _ in range(1200)))
    state.fetch("a", ("", 1200))

    done = state.drive(hand_over(state.keys, "a", crashed=True, max_crashes=3))

    assert done == HandedOver(1200, 0, removed=True)
    assert len(state.entries("front")) == 1200
    assert state.owners() == {}


def test_an_unknown_consumer_is_gone_already(state: State) -> None:
    """It may be asked for twice, and for who never read anything."""
    state.own("a")

    assert step(state, crashed=True) == HandedOver(1, 0, removed=True)
    assert step(state, crashed=True) == HandedOver(0, 0, removed=True)
    assert step(state, "nobody", crashed=True) == HandedOver(0, 0, removed=True)


def test_a_queue_that_does_not_exist_has_nothing_to_hand_over(state: State) -> None:
    """A supervisor may ask for every queue of its worker."""
    state.do("DEL", *state.keys.lanes, state.keys.wake)
    state.delay("1-1", NOW)

    assert step(state, crashed=True) == HandedOver(0, 0, removed=True)
    assert not state.do("EXISTS", *state.keys.lanes, state.keys.wake)


def test_a_deleted_message_leaves_the_pending_list(state: State) -> None:
    """A record without an entry is removed and is no crash."""
    token = state.own("a")
    state.do("XDEL", state.keys.ready, token)

    assert step(state, crashed=True) == HandedOver(0, 0, removed=True)
    assert state.owners() == {}


def test_a_missing_group_is_reported(state: State) -> None:
    """A stream without its group is an error."""
    state.put()
    state.do("XGROUP", "DESTROY", state.keys.ready, GROUP)

    with refused("NOGROUP"):
        step(state, crashed=True)


@pytest.mark.parametrize("crashes", [0, 3])
def test_without_memory_the_consumer_keeps_its_messages(
    own_server: Server, own_state: State, crashes: int
) -> None:
    """Nothing is lost: it is handed over when there is room again."""
    owned = own_state.own("a", state={"id": OLD_ID, "attempts": 0, "crashes": crashes})

    with out_of_memory(own_server):
        assert step(own_state, crashed=True) == HandedOver(0, 0, removed=False)
    assert own_state.owners() == {owned.decode(): "a"}
    assert "a" in own_state.leases()

    assert step(own_state, crashed=True).removed
    assert own_state.owners() == {}
    [moved] = own_state.entries("front") + own_state.entries("dead")
    assert moved.state["crashes"] == crashes + 1
