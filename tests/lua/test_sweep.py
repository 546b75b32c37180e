"""sweep.lua: one consumer takes over expired leases and removes dead consumers."""

from __future__ import annotations

import threading

import pytest

from millstream.protocol import consume
from millstream.protocol.keys import GROUP
from millstream.protocol.recover import Swept, sweep
from millstream.protocol.settlement import ack
from tests.lua.state import FOREIGN, NOW, OLD_ID, State, out_of_memory, refused
from tests.support.servers import Server
from tests.support.wait import until

LANES = ("ready", "front", "suspect")
LEASE = 30_000
EXPIRED = LEASE + 1000
NEVER = 10**12


def run_sweep(
    state: State,
    consumer: str = "sweeper",
    *,
    lease_ms: int = LEASE,
    max_crashes: int = 3,
    limit: int = 500,
    forgotten_ms: int = NEVER,
    now_ms: int = NOW,
) -> Swept:
    return state.run(
        sweep(
            state.keys,
            consumer,
            lease_ms=lease_ms,
            max_crashes=max_crashes,
            limit=limit,
            forgotten_ms=forgotten_ms,
            now_ms=now_ms,
        )
    )


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has consumers, all with the same lease."""
    name = "own_state" if "own_state" in request.fixturenames else "state"
    state: State = request.getfixturevalue(name)
    state.register("a", "b", "sweeper", lease_ms=LEASE)


# What it takes over


@pytest.mark.parametrize("lane", LANES)
def test_takes_over_what_has_expired(state: State, lane: str) -> None:
    """A first crash sends the message to the front, with its state and all its fields."""
    moved = {"id": OLD_ID, "attempts": 2, "crashes": 0}
    state.own("a", lane, state=moved, extra=FOREIGN, idle_ms=EXPIRED)

    swept = run_sweep(state)

    assert (swept.elected, swept.moved, swept.died) == (True, 1, 0)
    entry = state.only("front")
    assert {"b": "1", **FOREIGN}.items() <= entry.fields.items()
    assert entry.state == {"id": OLD_ID, "attempts": 2, "crashes": 1}
    assert not any(state.owners(name) for name in LANES)
    assert [len(state.entries(name)) for name in LANES] == [0, 1, 0]
    assert state.counters() == {"crashed": 1}


def test_a_message_without_state_gets_one(state: State) -> None:
    """The id of a message that was never moved is that of its entry."""
    token = state.own("a", idle_ms=EXPIRED)

    run_sweep(state)

    assert state.only("front").state == {"id": token.decode(), "attempts": 0, "crashes": 1}


def test_leaves_a_running_lease_alone(state: State) -> None:
    """Nobody loses a message while the lease holds."""
    token = state.own("a", idle_ms=LEASE - 10_000)

    swept = run_sweep(state)

    assert (swept.moved, swept.died) == (0, 0)
    assert state.owners() == {token.decode(): "a"}


def test_an_extended_lease_holds(state: State) -> None:
    """What was extended begins anew."""
    token = state.own("a", idle_ms=EXPIRED)
    assert state.run(consume.extend(state.keys, "a", [token])) == []

    assert run_sweep(state).moved == 0


def test_a_partly_used_lease_ends_sooner(state: State) -> None:
    """An extension for less than a lease counts the rest as used."""
    token = state.own("a")
    state.run(consume.extend(state.keys, "a", [token], idle_ms=LEASE - 5000))

    swept = run_sweep(state)

    assert swept.moved == 0
    assert 4000 < swept.wait_ms <= 5000


def test_the_owners_lease_decides(state: State) -> None:
    """Each consumer has the lease that it registered, the sweeper's own does not matter."""
    state.register("short", lease_ms=1000)
    state.register("long", lease_ms=3_600_000)
    state.own("short", body="short", idle_ms=2000)
    state.own("long", body="long", idle_ms=1_800_000)

    swept = run_sweep(state, lease_ms=50)

    assert swept.moved == 1
    assert state.only("front").body == "short"
    assert state.only("ready").body == "long"


def test_who_never_registered_has_the_sweepers_lease(state: State) -> None:
    """A foreign consumer of the group does not keep its messages for ever."""
    state.own("stranger", body="old", idle_ms=5000)
    state.own("stranger", body="new", idle_ms=3000)

    run_sweep(state, lease_ms=4000)

    assert state.only("front").body == "old"


def test_the_late_owner_is_refused(state: State) -> None:
    """Who comes back after its lease was taken over settles nothing."""
    token = state.own("a", idle_ms=EXPIRED)
    run_sweep(state)
    [again] = state.fetch("b", ("f", 1)).envelopes

    assert state.settle("a", acks=(token,)).lost == [token]
    assert state.settle("a", ack(again.token)).lost == [again.token]
    assert state.settle("b", ack(again.token)).lost == []


def test_a_deleted_message_leaves_the_pending_list(state: State) -> None:
    """A record without an entry is removed and is no crash."""
    token = state.own("a", idle_ms=EXPIRED)
    state.do("XDEL", state.keys.ready, token)

    swept = run_sweep(state)

    assert (swept.moved, swept.died) == (0, 0)
    assert state.owners() == {}
    assert state.counters() == {}


# Crash limits


def test_the_second_crash_makes_a_suspect(state: State) -> None:
    """Who was there when two consumers died is read alone from then on."""
    state.own("a", "front", state={"id": OLD_ID, "attempts": 0, "crashes": 1}, idle_ms=EXPIRED)

    run_sweep(state)

    assert state.only("suspect").state == {"id": OLD_ID, "attempts": 0, "crashes": 2}
    assert state.entries("front") == []


@pytest.mark.parametrize("lane", LANES)
def test_too_many_crashes_are_the_end(state: State, lane: str) -> None:
    """A message that kills its consumers ends in the dead letters, with the reason."""
    moved = {"id": OLD_ID, "attempts": 1, "crashes": 3, "error": "ValueError: earlier"}
    state.own("a", lane, state=moved, extra=FOREIGN, idle_ms=EXPIRED)

    swept = run_sweep(state, max_crashes=3)

    assert (swept.moved, swept.died) == (0, 1)
    dead = state.only("dead")
    assert {"b": "1", **FOREIGN}.items() <= dead.fields.items()
    assert dead.state == {**moved, "crashes": 4, "reason": "crashed", "at": NOW}
    assert [state.entries(name) for name in LANES] == [[], [], []]
    assert state.counters() == {"crashed": 1, "died": 1}


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_a_message_dies_at_the_crash_above_the_limit(state: State, limit: int) -> None:
    """It is delivered once more than it may crash, and not again."""
    state.put()
    deliveries = 0
    while True:
        found = state.fetch("a", ("s", 1), ("f", 1), ("", 1)).envelopes
        if not found:
            break
        deliveries += 1
        for lane in LANES:
            for entry in state.owners(lane):
                state.set_idle(lane, entry, EXPIRED)
        run_sweep(state, max_crashes=limit)

    assert deliveries == limit + 1
    assert state.only("dead").state["crashes"] == limit + 1


@pytest.mark.parametrize("hostile", ["{", "[]", '{"id":"1-1","crashes":1e999}', '{"crashes":"x"}'])
def test_a_malformed_state_is_survived(state: State, hostile: str) -> None:
    """A foreign entry cannot stop the sweep, nor live for ever."""
    state.own("a", state=hostile, idle_ms=EXPIRED)
    state.own("a", body="next", idle_ms=EXPIRED)

    assert run_sweep(state).moved == 2

    assert [entry.state["crashes"] for entry in state.entries("front")] == [1, 1]


# Paging


def test_goes_on_where_it_stopped(state: State) -> None:
    """A long pending list is swept to its end, a few entries a call, through all lanes."""
    bodies = {lane: [f"{lane} {number}" for number in range(7)] for lane in LANES}
    for lane in LANES:
        for body in bodies[lane]:
            state.own("a", lane, body, idle_ms=0 if body.endswith("3") else EXPIRED)

    calls: list[Swept] = []
    while not calls or (len(calls) < 30 and calls[-1].wait_ms == 20):
        calls.append(run_sweep(state, limit=2))

    assert sum(call.moved for call in calls) == 18
    assert all(call.moved <= 2 for call in calls)
    assert len(calls) == 11
    owned = {
        lane: [entry for entry in state.entries(lane) if entry.id in state.owners(lane)]
        for lane in LANES
    }
    assert {lane: [entry.body for entry in left] for lane, left in owned.items()} == {
        lane: [f"{lane} 3"] for lane in LANES
    }


def test_another_consumer_goes_on_where_the_last_one_stopped(state: State) -> None:
    """When the sweeper dies, its successor does not begin again."""
    for number in range(4):
        state.own("a", body=str(number))
    state.own("a", body="tail", idle_ms=EXPIRED)
    run_sweep(state, limit=4)

    swept = run_sweep(state, "b", limit=4, now_ms=NOW + 60_000)

    assert (swept.elected, swept.moved) == (True, 1)
    assert state.only("front").body == "tail"


# Election


def test_one_consumer_sweeps_at_a_time(state: State) -> None:
    """While it comes back in time, the others are told to wait."""
    first = run_sweep(state)
    state.own("a", idle_ms=EXPIRED)

    second = run_sweep(state, "b")

    assert first.elected
    assert (second.elected, second.moved) == (False, 0)
    assert second.wait_ms == first.wait_ms + 1000
    assert run_sweep(state).moved == 1


def test_a_sweeper_that_is_late_is_replaced(state: State) -> None:
    """A second after its time, the next one that asks is elected; the old one then waits."""
    first = run_sweep(state)
    late = NOW + first.wait_ms + 1000

    assert not run_sweep(state, "b", now_ms=late - 1).elected
    assert run_sweep(state, "b", now_ms=late - 1).wait_ms == 100
    assert run_sweep(state, "b", now_ms=late).elected
    assert not run_sweep(state, now_ms=late).elected


def test_the_office_of_the_sweeper_expires(state: State) -> None:
    """A queue that nobody uses any more keeps no sweeper."""
    swept = run_sweep(state)

    assert 0 < state.do("PTTL", state.keys.sweeper) <= swept.wait_ms + 60_000


# When to come back


def test_an_idle_queue_is_looked_at_once_a_lease(state: State) -> None:
    """A delivery made just now expires no sooner than the shortest lease."""
    assert run_sweep(state).wait_ms == LEASE

    state.register("short", lease_ms=2000)

    assert run_sweep(state).wait_ms == 2000


def test_comes_back_when_the_first_lease_ends(state: State) -> None:
    """The wait is the rest of the lease that ends first, in whichever lane."""
    state.own("a", "ready", idle_ms=1000)
    state.own("a", "suspect", idle_ms=LEASE - 4000)
    state.own("a", "front", idle_ms=LEASE - 9000)

    assert 3000 < run_sweep(state).wait_ms <= 4000


def test_the_first_end_is_remembered_from_page_to_page(state: State) -> None:
    """What an earlier call of the same round saw counts."""
    state.own("a", body="soon", idle_ms=LEASE - 4000)
    for _ in range(5):
        state.own("a")
    waits: list[int] = []
    while not waits or waits[-1] == 20:
        waits.append(run_sweep(state, limit=2).wait_ms)

    assert waits[:-1] == [20] * 3
    assert 3000 < waits[-1] <= 4000


def test_the_server_has_the_time(state: State) -> None:
    """Without a time of the caller's, the server's clock decides."""
    op = sweep(state.keys, "sweeper", lease_ms=LEASE, max_crashes=3)
    other = sweep(state.keys, "b", lease_ms=LEASE, max_crashes=3)

    assert state.run(op).elected
    swept = state.run(other)
    assert not swept.elected
    assert LEASE - 9000 < swept.wait_ms <= LEASE + 1000


# Dead consumers


def idle_for(state: State, consumer: str, idle_ms: int, stream: str = "ready") -> bool:
    rows = state.do("XINFO", "CONSUMERS", state.key(stream), GROUP)
    return any(row[1] == consumer.encode() and row[5] >= idle_ms for row in rows)


def test_a_consumer_that_owns_nothing_and_is_silent_is_removed(state: State) -> None:
    """It disappears from every lane and from the wake stream, with its lease."""
    for lane in LANES:
        state.settle("a", ack(state.own("a", lane)))
    state.put("wake")
    assert state.run(consume.wait(state.keys, "a", 1, suspects=True)).woken
    until(lambda: all(idle_for(state, "a", 20, lane) for lane in LANES))

    run_sweep(state, forgotten_ms=20)

    assert not any("a" in state.consumers(stream) for stream in (*LANES, "wake"))
    assert "a" not in state.leases()


def test_a_wake_up_that_was_not_followed_is_given_on(state: State) -> None:
    """Its reader has died or is busy, and another one may sleep; it has a second for it."""
    entry = state.put("wake")
    assert state.run(consume.wait(state.keys, "a", 1, suspects=True)).woken

    assert run_sweep(state).wait_ms <= 1000
    assert state.only("wake").id == entry
    state.set_idle("wake", entry, 1000)
    assert run_sweep(state).wait_ms == LEASE

    assert state.owners("wake") == {}
    assert state.run(consume.wait(state.keys, "b", 1, suspects=True)).woken


@pytest.mark.parametrize("lane", LANES)
def test_a_silent_consumer_that_owns_something_stays(state: State, lane: str) -> None:
    """Removing it would drop what it owns, whichever lane it is in."""
    for name in LANES:
        state.settle("a", ack(state.own("a", name)))
    token = state.own("a", lane)
    until(lambda: all(idle_for(state, "a", 20, name) for name in LANES))

    run_sweep(state, forgotten_ms=20)

    assert state.owners(lane) == {token.decode().lstrip("fs"): "a"}
    assert all("a" in state.consumers(name) for name in LANES)
    assert state.leases()["a"] == str(LEASE)


def test_a_consumer_that_lost_its_last_message_is_removed(state: State) -> None:
    """What the sweep itself has taken over keeps nobody."""
    state.own("a", idle_ms=EXPIRED)
    until(lambda: idle_for(state, "a", 20))

    run_sweep(state, forgotten_ms=20)

    assert "a" not in state.consumers()
    assert state.only("front").state["crashes"] == 1


def test_the_sweeper_never_removes_itself(state: State) -> None:
    """It is alive, for it sweeps."""
    run_sweep(state, forgotten_ms=0)

    assert "sweeper" in state.consumers()
    assert "sweeper" in state.leases()


def test_who_offers_to_sweep_is_alive(state: State) -> None:
    """A consumer that finds no messages is not forgotten, on servers that count such reads or not."""
    state.settle("a", ack(state.own("a")))
    until(lambda: idle_for(state, "a", 50))

    run_sweep(state)
    assert not run_sweep(state, "a").elected
    run_sweep(state, forgotten_ms=50)

    assert "a" in state.consumers()
    assert state.leases()["a"] == str(LEASE)


def test_a_sign_of_life_touches_no_delivery(state: State) -> None:
    """Asking extends no lease, neither of the one who asks nor of others."""
    state.own("sweeper", idle_ms=EXPIRED)
    state.own("a", idle_ms=EXPIRED)

    assert run_sweep(state).moved == 2


def test_a_removed_consumer_may_come_back(state: State) -> None:
    """A sleeping reader that was taken for dead gets its next message all the same."""
    state.settle("a", ack(state.own("a")))
    until(lambda: idle_for(state, "a", 20))
    run_sweep(state, forgotten_ms=20)
    assert "a" not in state.consumers()
    came: list[bytes | None] = []

    def sleep() -> None:
        op = consume.wait(state.keys, "a", 5000, suspects=True)
        came.extend(
            envelope.body for envelope in state.driver.blocking(timeout=5).run(op).envelopes
        )

    reader = threading.Thread(target=sleep)
    reader.start()
    state.put(body="late")
    reader.join()

    assert came == [b"late"]
    assert set(state.owners().values()) == {"a"}


# Trouble


def test_what_cannot_be_stored_stays(state: State) -> None:
    """Its consumer keeps it, the others are taken over, and the next try is a second later."""
    state.do("SET", state.keys.dead, "another program's")
    state.own("a", state={"id": OLD_ID, "attempts": 0, "crashes": 3}, idle_ms=EXPIRED)
    state.own("a", body="other", idle_ms=EXPIRED)

    swept = run_sweep(state, max_crashes=3)

    assert (swept.moved, swept.died, swept.wait_ms) == (1, 0, 1000)
    assert list(state.owners().values()) == ["a"]
    assert state.bodies("front") == ["other"]
    state.do("DEL", state.keys.dead)
    assert run_sweep(state, max_crashes=3).died == 1


def test_a_missing_group_is_reported(state: State) -> None:
    """A stream without its group is an error: its consumers must make it again."""
    state.put()
    state.do("XGROUP", "DESTROY", state.keys.ready, GROUP)

    with refused("NOGROUP"):
        run_sweep(state)


def test_a_queue_without_streams_is_swept_in_vain(state: State) -> None:
    """Nothing to look at is no error."""
    state.do("DEL", *state.keys.lanes, state.keys.wake)

    swept = run_sweep(state)

    assert (swept.elected, swept.moved) == (True, 0)
    assert state.entries() == []


def test_works_without_memory(own_server: Server, own_state: State) -> None:
    """On a full server consumers go on: nothing fails, nothing is lost, nobody spins."""
    own_state.own("a", state={"id": OLD_ID, "attempts": 0, "crashes": 0}, idle_ms=EXPIRED)

    with out_of_memory(own_server):
        swept = run_sweep(own_state)

    assert swept.elected
    assert swept.wait_ms >= 1000
    [entry] = own_state.entries("ready") + own_state.entries("front")
    assert entry.body == "1"
    run_sweep(own_state)
    assert own_state.only("front").state["crashes"] == 1


def test_is_no_error_without_memory_and_groups(own_server: Server, own_state: State) -> None:
    """Even when it cannot note who was elected."""
    own_state.do("DEL", *own_state.keys.lanes)

    with out_of_memory(own_server):
        swept = run_sweep(own_state)

    assert swept.elected
    assert swept.wait_ms >= 1000
