"""withdraw.lua: requests that nobody waits for any more are deleted, or their handlers stopped."""

from __future__ import annotations

import pytest

from millstream.protocol.requests import NOT_THERE, WAITING, Withdrawal, withdraw
from millstream.protocol.settlement import release
from tests.lua.state import OLD_ID, State

ADDRESS = {"x": "1900000000000 drop", "r": "caller 7"}
HOWS = ("stop", "leave", "expire")


@pytest.fixture(autouse=True)
def registered(state: State) -> None:
    """The endpoint of each test has the worker a."""
    state.register("a")


def give_up(state: State, *ids: str, how: str = "stop") -> list[int]:
    return state.run(withdraw(state.keys, [Withdrawal(id, how) for id in ids]))  # type: ignore[arg-type]


def told(state: State) -> list[dict[str, str]]:
    return [entry.fields for entry in state.entries("control")]


@pytest.mark.parametrize(
    ("how", "counters"),
    [
        ("stop", {"cancelled": 1}),
        ("leave", {"cancelled": 1}),
        ("expire", {"dropped": 1, "expired": 1}),
    ],
)
def test_one_that_waits(state: State, how: str, counters: dict[str, int]) -> None:
    """It is deleted, and counted by the reason; its neighbours stay."""
    first, id, last = (state.put(extra=ADDRESS) for _ in range(3))

    assert give_up(state, id, how=how) == [WAITING]
    assert [entry.id for entry in state.entries()] == [first, last]
    assert state.counters() == counters
    assert told(state) == []


def test_one_that_runs_is_stopped(state: State) -> None:
    """It has no owner any more, its worker is told, and a late acknowledgement is refused."""
    token = state.own("a", extra=ADDRESS, idle_ms=500)
    id = token.decode()

    [idle] = give_up(state, id)

    assert 500 <= idle < 10_000
    assert (state.entries(), state.owners()) == ([], {})
    assert told(state) == [{"op": "withdrawn", "tokens": id}]
    assert 0 < state.do("PTTL", state.keys.control) <= 60_000
    assert state.counters() == {"cancelled": 1}
    assert state.settle("a", acks=(token,)).lost == [token]


@pytest.mark.parametrize("how", ["leave", "expire"])
def test_one_that_runs_goes_on(state: State, how: str) -> None:
    """Only how long it has run is told."""
    token = state.own("a", extra=ADDRESS, idle_ms=500)

    [idle] = give_up(state, token.decode(), how=how)

    assert idle >= 500
    assert state.owners() == {token.decode(): "a"}
    assert (told(state), state.counters()) == ([], {})
    assert state.settle("a", acks=(token,)).lost == []


@pytest.mark.parametrize("how", HOWS)
def test_one_that_has_ended(state: State, how: str) -> None:
    """It is not there; nothing is counted."""
    token = state.own("a", extra=ADDRESS)
    state.settle("a", acks=(token,))
    acked = state.counters()

    assert give_up(state, token.decode(), "1-1", how=how) == [NOT_THERE] * 2
    assert (told(state), state.counters()) == ([], acked)


@pytest.mark.parametrize("how", HOWS)
def test_one_that_was_handed_back(state: State, how: str) -> None:
    """It waits under another id in front, and is deleted there."""
    token = state.own("a", extra=ADDRESS)
    state.settle("a", release(token))
    assert state.only("front").state["id"] == token.decode()

    assert give_up(state, token.decode(), how=how) == [WAITING]
    assert state.entries("front") == []


@pytest.mark.parametrize(("lane", "prefix"), [("front", "f"), ("suspect", "s")])
def test_one_that_runs_again(state: State, lane: str, prefix: str) -> None:
    """Its worker knows it by the token of the entry that it got."""
    token = state.own("a", lane, state={"id": OLD_ID, "crashes": 1}, extra=ADDRESS)
    other = state.own("a", lane, state={"id": "5-5"}, extra=ADDRESS)

    assert give_up(state, OLD_ID, how="leave")[0] >= 0
    assert give_up(state, OLD_ID)[0] >= 0
    assert told(state) == [{"op": "withdrawn", "tokens": token.decode()}]
    assert token.decode().startswith(prefix)
    assert list(state.owners(lane)) == [other.decode()[1:]]


def test_many_at_a_time(state: State) -> None:
    """Each is answered in its place; workers are told of all in one entry, since few are kept."""
    running = [state.own("a", extra=ADDRESS).decode() for _ in range(3)]
    waiting = state.put(extra=ADDRESS)

    found = state.run(
        withdraw(
            state.keys,
            [
                Withdrawal(running[0], "stop"),
                Withdrawal("1-1", "stop"),
                Withdrawal(running[1], "leave"),
                Withdrawal(waiting, "expire"),
                Withdrawal(running[2], "stop"),
            ],
        )
    )

    assert [min(one, 0) for one in found] == [0, NOT_THERE, 0, WAITING, 0]
    assert told(state) == [{"op": "withdrawn", "tokens": f"{running[0]} {running[2]}"}]
    assert state.counters() == {"cancelled": 2, "dropped": 1, "expired": 1}
    assert list(state.owners()) == [running[1]]


def test_a_repeated_call(state: State) -> None:
    """After a lost reply it finds less, and does no harm."""
    running, waiting = state.own("a", extra=ADDRESS).decode(), state.put(extra=ADDRESS)
    give_up(state, running, waiting)

    assert give_up(state, running, waiting) == [NOT_THERE] * 2
    assert state.counters() == {"cancelled": 2}
    assert len(told(state)) == 1


def test_without_a_group(state: State, namespace: str) -> None:
    """Where no worker has ever been, a request waits, or is not there."""
    bare = State(state.driver, namespace, "bare")
    id = bare.put(extra=ADDRESS)

    assert give_up(bare, id, "1-1") == [WAITING, NOT_THERE]
    assert bare.entries() == []
