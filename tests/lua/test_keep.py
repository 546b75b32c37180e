"""What a queue keeps of handled messages: the script that acknowledges one puts it among those."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.policy import Limits, Rate, Retain
from millstream.protocol import admin, consume
from millstream.protocol.consume import Fetched
from millstream.protocol.recover import hand_over_some
from millstream.protocol.settlement import Settlement, ack, expire, reject, release
from tests.lua.state import FOREIGN, NOW, OLD_ID, Entry, State, out_of_memory
from tests.support.servers import Server

KEEP = Retain(max_length=1000)
LIMITS = Limits(Rate(1000), 1000)


@pytest.fixture(params=["settle", "take"])
def limits(request: pytest.FixtureRequest) -> Limits | None:
    """Both scripts by which a queue settles."""
    return LIMITS if request.param == "take" else None


def settle(
    state: State,
    *ends: Settlement,
    acks: tuple[bytes, ...] = (),
    keep: Retain = KEEP,
    limits: Limits | None = None,
    now_ms: int | None = None,
) -> Fetched:
    op = consume.fetch(state.keys, "a", ends, acks=acks, keep=keep, limits=limits, now_ms=now_ms)
    return state.run(op)


def kept(state: State) -> list[Entry]:
    return state.entries("kept")


def now(state: State) -> int:
    return int(state.do("TIME")[0]) * 1000


def test_what_is_acknowledged_is_kept(state: State, limits: Limits | None) -> None:
    """By every way to do so, in the order of handling, with its id; it is gone from the queue."""
    state.register("a")
    tokens = [
        state.own("a", body="plain"),
        state.own("a", "front", "front", state={"id": OLD_ID, "attempts": 2}),
        state.own("a", body="rich", extra={"h": '{"x":"y"}', **FOREIGN}),
        state.own("a", "suspect", "suspect", state={"id": "5-5", "crashes": 2}),
    ]
    before = now(state)

    found = settle(
        *(state, ack(tokens[1]), ack(tokens[2], plain=False), ack(tokens[3])),
        acks=(tokens[0],),
        limits=limits,
    )

    assert (found.lost, found.kept) == ([], {})
    assert [one.body for one in kept(state)] == ["plain", "front", "rich", "suspect"]
    states = [one.state for one in kept(state)]
    assert [one["id"] for one in states] == [
        *(tokens[0].decode(), OLD_ID, tokens[2].decode(), "5-5")
    ]
    assert (states[1]["attempts"], states[3]["crashes"]) == (2, 2)
    assert {"h": '{"x":"y"}', **FOREIGN}.items() <= kept(state)[2].fields.items()
    assert all(int(one.id.partition("-")[0]) >= before for one in kept(state))
    assert [state.entries(lane) for lane in ("ready", "front", "suspect")] == [[], [], []]
    assert state.counters() == {"acked": 4}
    assert state.run(admin.stats(state.keys)).kept == 4


def test_other_ends_keep_nothing(state: State, limits: Limits | None) -> None:
    """A message that is tried again, dead, handed back or expired has not been handled."""
    state.register("a")
    ends = [
        Settlement("retry", state.own("a"), 5000, failed=True),
        reject(state.own("a"), "no"),
        release(state.own("a")),
        expire(state.own("a", extra={"x": "1"})),
    ]

    assert settle(state, *ends, limits=limits).kept == {}

    assert not state.do("EXISTS", state.keys.kept)


def test_each_is_kept_once(state: State, limits: Limits | None) -> None:
    """An end that is refused keeps nothing: neither a late one nor a repeated one."""
    state.register("a", "b")
    taken = state.own("a", body="taken over")
    state.run(hand_over_some(state.keys, "a", crashed=False, max_crashes=3, now_ms=NOW))
    mine = state.own("a", body="mine")

    assert settle(state, ack(taken), acks=(mine, mine), limits=limits).lost == [mine, taken]
    assert settle(state, ack(mine), limits=limits).lost == [mine]

    assert [one.body for one in kept(state)] == ["mine"]
    assert state.counters() == {"acked": 1}


def test_without_keep_nothing_is_kept(state: State) -> None:
    """The declaration of the consumer that acknowledges counts, each time."""
    state.register("a")
    state.settle("a", acks=(state.own("a"),))
    assert not state.do("EXISTS", state.keys.kept)
    settle(state, acks=(state.own("a", body="2"),))
    state.settle("a", ack(state.own("a"), plain=False))

    assert [one.body for one in kept(state)] == ["2"]


def test_what_follows_an_end(state: State) -> None:
    """The key of an ordered message is free, and so is a unique key."""
    state.register("a")
    first = state.place_one(1, "1", key="k", gate="ordered", unique="u")
    state.place_one(2, "2", key="k", gate="ordered")
    [envelope] = state.fetch("a", ("", 10)).envelopes

    settle(state, ack(envelope.token, plain=envelope.plain))

    assert state.unique() == {}
    assert [*state.holders()] == ["k"]
    assert state.bodies() == ["2"]
    [entry] = kept(state)
    assert entry.state == {"id": first}
    assert [entry.fields[name] for name in "bkou"] == ["1", "k", "ordered", "done:u"]
    state.settle("a", ack(state.fetch("a", ("", 1)).envelopes[0].token, plain=False))


def test_the_limits_see_no_end_too_many(state: State) -> None:
    """What a queue keeps is no delivery that ends: a reader is woken for those only."""
    state.register("a")
    limits = Limits(None, 1)
    token = state.own("a")
    other = state.own("a")
    found = settle(state, ack(token), limits=limits)
    assert found.lost == []
    assert state.wakes() == []
    settle(state, ack(other), limits=limits)
    assert [[*one] for one in state.wakes()] == [["free"]]


# Bounds


def test_the_newest_are_kept(state: State, limits: Limits | None) -> None:
    """Exactly so many, after each call."""
    state.register("a")
    for batch in range(5):
        tokens = tuple(state.own("a", body=f"{batch}.{n}") for n in range(3))
        settle(state, acks=tokens, keep=Retain(max_length=4), limits=limits)
    assert [one.body for one in kept(state)] == ["3.2", "4.0", "4.1", "4.2"]


def test_the_young_are_kept(state: State) -> None:
    """By the time at which they were handled, whenever they were sent."""
    state.register("a")
    begun = now(state)
    for at, body in ((begun - 10_000, "old"), (begun - 1000, "young")):
        state.put("kept", body, id=f"{at}-0")
    token = state.own("a", body="new", state={"id": OLD_ID})

    settle(state, ack(token), keep=Retain(max_age=5), now_ms=begun)
    assert [one.body for one in kept(state)] == ["young", "new"]

    settle(state, acks=(state.own("a"),), keep=Retain(max_age=10**9), now_ms=NOW)
    assert len(kept(state)) == 3, "an age from before 1970 keeps all"


def test_about_so_much_memory_is_kept(state: State) -> None:
    """The oldest go in blocks, as soon as it is too much; the newest stay."""
    state.register("a")
    body = "x" * 500
    last = b""
    for _ in range(40):
        tokens = [state.own("a", body=body) for _ in range(10)]
        last = tokens[-1]
        settle(state, acks=tuple(tokens), keep=Retain(max_bytes=100_000))
        assert state.do("MEMORY", "USAGE", state.keys.kept) < 120_000

    assert 100 < len(kept(state)) < 200
    assert kept(state)[-1].state["id"] == last.decode()


@pytest.mark.parametrize(("first", "expected"), [(3, 3), (50, 5)])
def test_each_bound_holds(state: State, first: int, expected: int) -> None:
    """A message goes when one of them no longer lets it."""
    state.register("a")
    tokens = tuple(state.own("a") for _ in range(20))
    keep = Retain(max_age=3600, max_length=first if first < 20 else 5, max_bytes=10**6)

    settle(state, acks=tokens, keep=keep)

    assert len(kept(state)) == expected


def test_a_full_server(own_server: Server, own_state: State) -> None:
    """What is handled frees the memory that keeping it takes, so the queue goes on."""
    own_state.register("a")
    token = own_state.own("a")

    with out_of_memory(own_server):
        found = settle(own_state, acks=(token,))

    assert (found.lost, found.kept) == ([], {})
    assert [one.body for one in kept(own_state)] == ["1"]


def test_a_foreign_entry_with_thousands_of_fields(state: State) -> None:
    """It is kept, too; what is not of the wire format is packed."""
    state.register("a")
    extra: dict[str, Any] = {f"f{n}": str(n) for n in range(3000)}
    token = state.own("a", body="many", extra=extra)

    assert settle(state, acks=(token,)).lost == []

    [entry] = kept(state)
    assert (entry.body, entry.state["id"]) == ("many", token.decode())
    assert set(entry.fields) == {"b", "packed", "s"}
