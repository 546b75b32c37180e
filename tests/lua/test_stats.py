"""stats.lua: every unhandled message is counted, once."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.message import QueueStats
from millstream.policy import Retry
from millstream.protocol.admin import stats
from millstream.protocol.keys import GROUP
from millstream.protocol.place import Placement, place
from millstream.protocol.recover import hand_over_some
from millstream.protocol.settlement import Settlement, ack, failure, reject, release
from tests.lua.state import NOW, State
from tests.support.wait import until

LANES = ("ready", "front", "suspect")


def count(state: State) -> QueueStats:
    return state.run(stats(state.keys))


def four(state: State) -> tuple[int, int, int, int]:
    found = count(state)
    return found.ready, found.delayed, found.in_flight, found.dead


def test_a_queue_that_does_not_exist_is_empty(state: State) -> None:
    """Asking creates nothing and fails on nothing."""
    assert count(state) == QueueStats(
        name="orders",
        ready=0,
        delayed=0,
        in_flight=0,
        dead=0,
        oldest_ready=None,
        sent=0,
        acked=0,
        retried=0,
        died=0,
        crashed=0,
        dropped=0,
        cancelled=0,
        consumers=(),
    )
    assert not state.do("EXISTS", *state.keys.lanes, state.keys.counters)


def test_counts_before_the_first_consumer(state: State) -> None:
    """Without a group everything is ready."""
    state.send(b"1", b"2")
    state.put()

    found = count(state)

    assert (found.ready, found.in_flight) == (3, 0)
    assert found.sent == 2


@pytest.mark.parametrize("lane", LANES)
def test_counts_each_lane(state: State, lane: str) -> None:
    """What is unread is ready, what is read is in flight, in whichever lane."""
    state.register("a")
    state.own("a", lane)
    state.own("a", lane)
    state.put(lane)

    assert four(state) == (1, 0, 2, 0)


def test_every_message_is_in_one_state(state: State) -> None:
    """The four counts always add up, whatever happens to the messages."""
    state.register("a")
    state.send(*(b"%d" % number for number in range(10)))
    assert four(state) == (10, 0, 0, 0)

    got = state.fetch("a", ("", 6)).envelopes
    assert four(state) == (4, 0, 6, 0)

    policy = Retry()
    steps: list[tuple[Settlement, tuple[int, int, int, int]]] = [
        (ack(got[0].token), (4, 0, 5, 0)),
        (failure(got[1], policy, reason="no", luck=0.5), (4, 1, 4, 0)),
        (reject(got[2].token, "no"), (4, 1, 3, 1)),
        (release(got[3].token), (5, 1, 2, 1)),
    ]
    for settlement, expected in steps:
        state.settle("a", settlement)
        assert four(state) == expected

    state.settle("a", now_ms=NOW + 60_000)
    assert four(state) == (6, 0, 2, 1)
    state.run(hand_over_some(state.keys, "a", crashed=True, max_crashes=3))
    assert four(state) == (8, 0, 0, 1)


def test_totals(state: State) -> None:
    """The counters say what has happened so far."""
    state.register("a")
    state.send(*(b"1" for _ in range(6)))
    got = state.fetch("a", ("", 6)).envelopes
    state.settle("a", ack(got[0].token), acks=(got[1].token,))
    state.settle("a", failure(got[2], Retry(), reason="no", luck=0), reject(got[3].token, "no"))
    state.run(hand_over_some(state.keys, "a", crashed=True, max_crashes=0))

    found = count(state)

    assert (found.sent, found.acked, found.retried) == (6, 2, 1)
    assert (found.died, found.crashed) == (3, 2)


def test_consumers_are_counted_over_all_lanes(state: State) -> None:
    """Each consumer appears once, with all that it owns."""
    state.register("a", "b")
    for lane in LANES:
        state.own("a", lane)
    state.own("b", "front")
    state.settle("b", ack(state.own("b", "ready")))

    consumers = count(state).consumers

    assert [(one.name, one.in_flight) for one in consumers] == [("a", 3), ("b", 1)]


def test_the_idle_time_of_a_consumer_is_its_shortest(state: State) -> None:
    """A consumer that reads one lane only is not idle."""

    def idle(lane: str) -> int:
        [row] = state.do("XINFO", "CONSUMERS", state.key(lane), GROUP)
        milliseconds: int = row[5]
        return milliseconds

    state.register("a")
    state.own("a", "front")
    until(lambda: idle("front") >= 30)
    state.own("a", "ready")

    [consumer] = count(state).consumers
    assert consumer.idle <= idle("ready") / 1000
    assert consumer.idle < idle("front") / 1000


def test_a_foreign_consumer_may_have_any_name(state: State) -> None:
    """A name that is no text is shown as far as it goes."""
    state.register("a")
    name: Any = b"\xff\xfe"
    state.do("XGROUP", "CREATECONSUMER", state.keys.ready, GROUP, name)

    assert [one.name for one in count(state).consumers] == ["\ufffd\ufffd"]


@pytest.mark.parametrize("lane", LANES)
def test_the_age_of_the_oldest_ready_message(state: State, lane: str) -> None:
    """It is counted from the entry's own time, over all lanes, without those in flight."""
    seconds = int(state.do("TIME")[0])
    state.register("a")
    state.put(lane, id=f"{seconds - 500}000-0")
    state.fetch("a", ("f", 1), ("s", 1), ("", 1))
    state.put(lane, id=f"{seconds - 100}000-0")
    for other in set(LANES) - {lane}:
        state.put(other)

    oldest = count(state).oldest_ready

    assert oldest is not None
    assert 100 <= oldest < 110


def test_no_age_without_a_ready_message(state: State) -> None:
    """What is in flight, delayed or dead is not waiting."""
    state.register("a")
    state.own("a")
    state.delay("1-1", NOW)
    state.put("dead")

    assert count(state).oldest_ready is None


def test_what_waits_for_its_key_has_no_age(state: State) -> None:
    """It is ready, but it waits for another message, and not for a consumer."""
    state.register("a")
    placed = [Placement(body=body, key="k", gate="ordered") for body in (b"1", b"2")]
    state.run(place(state.keys, "p", 1, placed))
    assert count(state).oldest_ready is not None
    state.fetch("a", ("", 2))

    assert four(state) == (1, 0, 1, 0)
    assert count(state).oldest_ready is None


def test_a_message_from_the_future_has_no_age(state: State) -> None:
    """A foreign id that is ahead of the clock does not make a negative age."""
    state.put(id="9999999999999-0")

    assert count(state).oldest_ready == 0
