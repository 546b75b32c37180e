"""list_sweep.lua and list_hand_over.lua: a consumer is gone, and others get what it had."""

from __future__ import annotations

import pytest

from millstream.protocol import consume
from millstream.protocol.recover import HandedOver, Swept, hand_over_some, sweep
from tests.lua.list_state import LEASE, NUDGE, ListState, bodies, element
from tests.lua.state import NOW, out_of_memory
from tests.support.servers import Server

LATER = NOW + LEASE
NEVER = 10**12


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has consumers, all with the same lease."""
    name = "own_lists" if "own_lists" in request.fixturenames else "lists"
    lists: ListState = request.getfixturevalue(name)
    lists.register("a", "b", "sweeper", lease_ms=LEASE)


def run_sweep(
    lists: ListState,
    consumer: str = "sweeper",
    *,
    lease_ms: int = LEASE,
    max_crashes: int = 3,
    limit: int = 500,
    forgotten_ms: int = NEVER,
    now_ms: int = LATER,
) -> Swept:
    return lists.run(
        sweep(
            lists.keys,
            consumer,
            lease_ms=lease_ms,
            max_crashes=max_crashes,
            limit=limit,
            forgotten_ms=forgotten_ms,
            now_ms=now_ms,
        )
    )


def hand_over(
    lists: ListState, consumer: str = "a", *, crashed: bool = True, limit: int = 500, most: int = 3
) -> HandedOver:
    return lists.run(
        hand_over_some(
            lists.keys, consumer, crashed=crashed, max_crashes=most, limit=limit, now_ms=NOW
        )
    )


# Sweep: what it takes over


def test_takes_over_what_has_expired(lists: ListState) -> None:
    """A first crash sends the message to the front, whole, where the next look finds it."""
    [token] = lists.give("a", element("5-1", k="key", h='{"a":"b"}', s={"attempts": 2, "x": "y"}))

    assert run_sweep(lists) == Swept(elected=True, wait_ms=LEASE, moved=1, died=0)

    [moved] = lists.elements("front")
    assert (moved.id, moved.body) == ("5-1", b"1")
    assert (moved.fields["k"], moved.fields["h"]) == ("key", '{"a":"b"}')
    assert moved.state == {"id": "5-1", "attempts": 2, "crashes": 1, "x": "y"}
    assert lists.held("a") == {}
    assert lists.ends_of_leases() == {}
    assert lists.counters() == {"crashed": 1}
    assert lists.nudged()
    assert lists.run(consume.fetch(lists.keys, "a", acks=[token])).lost == [token]


def test_a_lease_ends_at_its_time(lists: ListState) -> None:
    """A ms before it is still its consumer's, and the sweep comes again when it is not."""
    [token] = lists.give("a", element("5-1"))

    assert run_sweep(lists, now_ms=LATER - 25) == Swept(True, 25, 0, 0)
    assert run_sweep(lists, now_ms=LATER - 1) == Swept(True, 20, 0, 0), "not more often than that"
    assert list(lists.held("a")) == [token]
    assert run_sweep(lists).moved == 1


@pytest.mark.parametrize(
    ("crashes", "where"), [(0, "front"), (1, "suspect"), (2, "suspect"), (3, "dead")]
)
def test_crashes_are_counted(lists: ListState, crashes: int, where: str) -> None:
    """The second makes it a suspect, one above the limit a dead letter."""
    state = {"id": "5-1", "attempts": 1, "crashes": crashes}
    lists.give("a", element("6-1", s=state))
    died = int(where == "dead")

    assert run_sweep(lists) == Swept(True, LEASE, 1 - died, died)

    after = {**state, "crashes": crashes + 1}
    if died:
        assert lists.only("dead").state == {**after, "reason": "crashed", "at": LATER}
        assert lists.counters() == {"crashed": 1, "died": 1}
    else:
        [moved] = lists.elements(where)
        assert moved.state == after
        assert lists.counters() == {"crashed": 1}
    assert lists.held("a") == {}


@pytest.mark.parametrize("body", [b"2", b"", b"ms1 x\n1"])
def test_takes_over_plain_bodies(lists: ListState, body: bytes) -> None:
    """They keep the id that they got when they were taken."""
    [token] = lists.give("a", body)
    run_sweep(lists)

    [moved] = lists.elements("front")
    assert (moved.id, moved.body) == (token.decode(), body)


@pytest.mark.parametrize("bad", ["{", "7", '{"crashes":-1}', '{"id":"x","crashes":1.5}'])
def test_takes_over_what_somebody_else_wrote(lists: ListState, bad: str) -> None:
    """A state that makes no sense counts as none."""
    lists.give("a", element("5-1", s=bad))
    run_sweep(lists)

    [moved] = lists.elements("front")
    assert moved.state == {"id": "5-1", "attempts": 0, "crashes": 1}


def test_a_lease_of_nothing(lists: ListState) -> None:
    """The end of a lease whose message is gone is removed, and counts as nothing."""
    lists.give("a", element("5-1"))
    lists.do("DEL", lists.keys.processing("a"))

    assert run_sweep(lists) == Swept(True, LEASE, 0, 0)
    assert lists.ends_of_leases() == {}
    assert lists.counters() == {}


def test_a_call_takes_over_some(lists: ListState) -> None:
    """The first leases to end come first; the call says to come again at once."""
    lists.give("a", *(element(f"5-{n}", str(n)) for n in range(1, 4)))

    assert run_sweep(lists, limit=2) == Swept(True, 20, 2, 0)
    assert [one.body for one in lists.elements("front")] == [b"1", b"2"]
    assert run_sweep(lists, limit=2) == Swept(True, LEASE, 1, 0)


def test_what_woke_a_dead_reader(lists: ListState) -> None:
    """It goes back to where it came from."""
    lists.push(element("5-1"), to="landing")
    lists.push(element("5-2", "2"))
    run_sweep(lists)

    assert [one.body for one in lists.elements()] == [b"1", b"2"]
    assert lists.list("landing") == []


def test_a_full_server_keeps_what_it_has(own_server: Server, own_lists: ListState) -> None:
    """What cannot be stored elsewhere stays with its consumer, and the sweep waits a second."""
    own_lists.give("a", element("5-1"), element("5-2", s={"crashes": 3}))

    with out_of_memory(own_server):
        assert run_sweep(own_lists) == Swept(True, 1000, 0, 0)
    assert len(own_lists.held("a")) == 2
    assert run_sweep(own_lists, now_ms=LATER + 1).moved == 1
    assert len(own_lists.entries("dead")) == 1


# Sweep: who does it, and when


def test_one_is_elected(lists: ListState) -> None:
    """The others wait until its time is over; then one of them takes its place."""
    assert run_sweep(lists, "a", now_ms=NOW) == Swept(True, LEASE, 0, 0)
    lists.give("b", element("5-1"), now_ms=NOW - LEASE)

    assert run_sweep(lists, "b", now_ms=NOW + 1000) == Swept(False, LEASE, 0, 0)
    assert run_sweep(lists, "a", now_ms=NOW + 1000).moved == 1
    ends = NOW + 1000 + LEASE + 1000
    assert run_sweep(lists, "b", now_ms=ends - 1) == Swept(False, 100, 0, 0)
    assert run_sweep(lists, "b", now_ms=ends).elected
    assert 0 < lists.do("PTTL", lists.keys.sweeper) <= LEASE + 60_000


def test_the_shortest_lease_decides(lists: ListState) -> None:
    """What is delivered just now ends no sooner than that."""
    lists.register("short", lease_ms=700)
    assert run_sweep(lists).wait_ms == 700
    assert run_sweep(lists, lease_ms=300).wait_ms == 300


def test_dead_consumers_are_removed(lists: ListState) -> None:
    """Who owns nothing and was not heard of for so long; who owns something stays."""
    lists.give("b", element("5-1"), now_ms=NOW)
    lists.do("ZADD", lists.key("seen"), NOW - 1000, "a", NOW - 1000, "b", NOW - 999, "c")
    run_sweep(lists, now_ms=NOW, forgotten_ms=1000)

    assert set(lists.leases()) == {"b", "sweeper"}
    assert lists.seen() == {"b": NOW - 1000, "c": NOW - 999, "sweeper": NOW}


# Hand over


@pytest.mark.parametrize("crashed", [True, False])
def test_hands_over(lists: ListState, crashed: bool) -> None:
    """All of it goes to the front in its order, with blame or without; the consumer is gone."""
    tokens = lists.give("a", *(element(f"5-{n}", str(n)) for n in range(1, 4)))
    [other] = lists.give("b", element("6-1"))

    assert hand_over(lists, crashed=crashed) == HandedOver(moved=3, died=0, removed=True)

    assert [one.body for one in lists.elements("front")] == [b"1", b"2", b"3"]
    assert {one.state["crashes"] for one in lists.elements("front")} == {int(crashed)}
    assert lists.counters() == ({"crashed": 3} if crashed else {})
    assert set(lists.leases()) == set(lists.seen()) == {"b", "sweeper"}
    assert list(lists.ends_of_leases()) == [f"{other.decode()} b"]
    assert lists.run(consume.fetch(lists.keys, "a", acks=tokens)).lost == tokens
    assert bodies(lists.take("b")) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(("crashed", "where"), [(True, "dead"), (False, "suspect")])
def test_hands_over_a_suspect(lists: ListState, crashed: bool, where: str) -> None:
    """It is a suspect still; at its limit, with blame, a dead letter."""
    lists.give("a", element("5-1", s={"crashes": 2}))
    died = int(crashed)

    assert hand_over(lists, crashed=crashed, most=2) == HandedOver(1 - died, died, removed=True)
    found = lists.entries("dead") if crashed else lists.elements(where)
    assert len(found) == 1


def test_some_a_call(lists: ListState) -> None:
    """The consumer is removed when nothing is left; the call can be repeated after that."""
    lists.give("a", *(element(f"5-{n}", str(n)) for n in range(1, 4)))

    assert hand_over(lists, limit=2) == HandedOver(2, 0, removed=False)
    assert "a" in lists.leases()
    assert hand_over(lists, limit=2) == HandedOver(1, 0, removed=True)
    assert hand_over(lists, limit=2) == HandedOver(0, 0, removed=True)
    assert [one.body for one in lists.elements("front")] == [b"1", b"2", b"3"]


def test_the_last_one_leaves(lists: ListState) -> None:
    """A wake-up that nobody is left for would be in the way of others: it is taken back."""
    lists.delay("5-1", LATER)
    for name in ("b", "sweeper"):
        hand_over(lists, name)
    assert lists.list() == [NUDGE], "the others learn when the next message is due"
    lists.push(NUDGE, to="landing")
    hand_over(lists, "a")

    assert lists.list() == []
    assert not lists.leases()
    assert not lists.seen()


def test_hands_over_at_a_full_server(own_server: Server, own_lists: ListState) -> None:
    """What cannot be stored stays, and so does the consumer."""
    own_lists.give("a", element("5-1"))

    with out_of_memory(own_server):
        assert hand_over(own_lists) == HandedOver(0, 0, removed=False)
    assert "a" in own_lists.leases()
    assert hand_over(own_lists) == HandedOver(1, 0, removed=True)
