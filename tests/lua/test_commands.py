"""Operations that are plain commands: waiting, reading again, extending, listing."""

from __future__ import annotations

import threading

import pytest

from millstream.protocol import admin, consume, ending
from millstream.protocol.keys import GROUP
from millstream.protocol.op import Command, Op
from millstream.protocol.settlement import ack, release
from tests.lua.state import State, refused

LANES = ("ready", "front", "suspect")
TOKENS = {"ready": "", "front": "f", "suspect": "s"}


@pytest.fixture(autouse=True)
def registered(state: State) -> None:
    """The queue of each test has the consumers a and b."""
    state.register("a", "b")


@pytest.mark.parametrize("lane", LANES)
def test_a_wait_brings_a_message_of_each_lane(state: State, lane: str) -> None:
    """It is owned from then on, and its token names the lane."""
    entry = state.put(lane, body="1")

    found = state.run(consume.wait(state.keys, "a", 1, suspects=True))

    [envelope] = found.envelopes
    assert envelope.token.decode() == TOKENS[lane] + entry
    assert envelope.body == b"1"
    assert state.owners(lane) == {entry: "a"}
    assert found.woken == []


def test_a_wait_ends_without_a_message(state: State) -> None:
    """When the time is over it brings nothing."""
    found = state.run(consume.wait(state.keys, "a", 1, suspects=True))

    assert (found.envelopes, found.woken) == ([], [])


def test_who_has_a_suspect_waits_for_no_second_one(state: State) -> None:
    """The lane of suspects is left out on demand."""
    state.put("suspect")

    assert state.run(consume.wait(state.keys, "a", 1, suspects=False)).envelopes == []
    assert state.owners("suspect") == {}


def test_a_sleeper_is_woken(state: State) -> None:
    """A wake entry ends the sleep of one consumer; it must settle it."""
    entry = state.put("wake")

    assert state.run(consume.wait(state.keys, "a", 1, suspects=True)).woken == [entry.encode()]
    assert state.owners("wake") == {entry: "a"}


def test_a_sleep_can_be_ended_at_once(state: State) -> None:
    """It looks as if its time had passed."""
    listener = state.driver.blocking(timeout=5)
    client = listener.run(Op((Command(("CLIENT", "ID")),), decode=lambda replies: int(replies[0])))
    ended: list[consume.Fetched] = []

    def sleep() -> None:
        ended.append(listener.run(consume.wait(state.keys, "a", 4000, suspects=True)))

    reader = threading.Thread(target=sleep)
    reader.start()
    while reader.is_alive():
        state.run(consume.unblock(client, state.keys.ready))
        reader.join(0.01)
    listener.close()

    assert ended[0].envelopes == []


def test_own_deliveries_can_be_read_again(state: State) -> None:
    """Everything that a consumer owns comes back, from all lanes, more than one page."""
    state.send(*(b"%d" % number for number in range(1200)))
    state.fetch("a", ("", 1200))
    tokens = {lane: state.own("a", lane, lane) for lane in ("front", "suspect")}
    state.own("b")
    state.put()

    found = state.drive(consume.own_pending(state.keys, "a"))

    assert [one.body for one in found[:1200]] == [b"%d" % number for number in range(1200)]
    assert [one.token for one in found[1200:]] == [tokens["front"], tokens["suspect"]]


def test_a_deleted_message_is_not_read_again(state: State) -> None:
    """Only what has a body comes back."""
    gone, kept = state.own("a"), state.own("a")
    state.do("XDEL", state.keys.ready, gone)

    assert [one.token for one in state.drive(consume.own_pending(state.keys, "a"))] == [kept]


@pytest.mark.parametrize("lane", LANES)
def test_owns(state: State, lane: str) -> None:
    """A delivery has one owner until it ends."""
    token = state.own("a", lane)

    assert state.run(ending.owns(state.keys, "a", token))
    assert not state.run(ending.owns(state.keys, "b", token))

    state.settle("a", ack(token))

    assert not state.run(ending.owns(state.keys, "a", token))


def idle(state: State, lane: str) -> list[int]:
    return [row[2] for row in state.do("XPENDING", state.key(lane), GROUP, "-", "+", 10)]


def test_extend_begins_leases_anew(state: State) -> None:
    """All lanes in one call; what is over is reported, in order."""
    tokens = [state.own("a", lane, idle_ms=20_000) for lane in LANES]
    over = state.own("a")
    state.settle("a", release(over))

    lost = state.run(
        consume.extend(state.keys, "a", [tokens[0], over, tokens[1], b"f9-9", tokens[2]])
    )

    assert lost == [over, b"f9-9"]
    assert all(one < 10_000 for lane in LANES for one in idle(state, lane))


def test_extend_may_use_up_a_part(state: State) -> None:
    """A shorter lease is one that has run for some time already."""
    token = state.own("a")

    state.run(consume.extend(state.keys, "a", [token], idle_ms=12_000))

    [milliseconds] = idle(state, "ready")
    assert 12_000 <= milliseconds < 20_000


def test_extend_delivers_nothing(state: State) -> None:
    """An unread message is not taken by extending it, and no crash or attempt is counted."""
    unread = state.put()

    assert state.run(consume.extend(state.keys, "a", [unread.encode()])) == [unread.encode()]
    assert state.owners() == {}


def test_dead_letters_are_listed_in_pages(state: State) -> None:
    """The token of the last one is where the next page starts."""
    for number in range(5):
        state.put("dead", str(number))

    first = state.run(admin.dead(state.keys, None, 3))
    second = state.run(admin.dead(state.keys, first[-1].token.decode(), 3))
    third = state.run(admin.dead(state.keys, second[-1].token.decode(), 3))

    assert [one.body for one in first] == [b"0", b"1", b"2"]
    assert [one.body for one in second] == [b"3", b"4"]
    assert third == []


def test_a_missing_group_is_reported(state: State) -> None:
    """Waiting, reading again and extending say it in the same way."""
    token = state.own("a")
    state.do("DEL", *state.keys.lanes)

    for op in (
        consume.wait(state.keys, "a", 1, suspects=True),
        consume.extend(state.keys, "a", [token]),
        ending.owns(state.keys, "a", token),
    ):
        with refused("NOGROUP"):
            state.run(op)
    with refused("NOGROUP"):
        state.drive(consume.own_pending(state.keys, "a"))
