"""pause.lua and resume.lua: nobody gets a message in between, and none is lost or doubled."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from millstream.message import QueueStats
from millstream.protocol import admin, consume, control
from millstream.protocol.keys import GROUP
from millstream.protocol.recover import hand_over_some, leave
from millstream.protocol.settlement import Settlement, ack, release
from tests.lua.state import NOW, State, out_of_memory, refused
from tests.support.servers import Server

LANES = ("ready", "front", "suspect")
ALL = (("s", 10), ("f", 10), ("", 10))
NOWHERE = "18446744073709551615-0"


def pause(state: State) -> None:
    state.run(control.pause(state.keys))


def resume(state: State) -> None:
    state.run(control.resume(state.keys))


def stats(state: State) -> QueueStats:
    return state.run(admin.stats(state.keys))


def read(state: State, consumer: str = "a") -> list[bytes | None]:
    return [one.body for one in state.fetch(consumer, *ALL).envelopes]


def position(state: State, lane: str) -> str:
    [group] = state.do("XINFO", "GROUPS", state.key(lane))
    fields = dict(zip(group[::2], group[1::2], strict=True))
    last: bytes = fields[b"last-delivered-id"]
    return last.decode()


def saved(state: State) -> dict[str, str]:
    flat = [text.decode() for text in state.do("HGETALL", state.keys.paused)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def told(state: State) -> list[str]:
    return [entry.fields["op"] for entry in state.entries("control")]


@pytest.mark.parametrize("lane", LANES)
def test_nobody_gets_a_message(state: State, lane: str) -> None:
    """What waits stays, what comes waits, and a resume brings both in order."""
    state.register("a")
    state.own("a", lane, body="0")
    state.put(lane, body="1")

    pause(state)
    state.put(lane, body="2")

    assert read(state) == []
    assert stats(state).paused
    resume(state)
    assert not stats(state).paused
    assert read(state) == [b"1", b"2"]
    assert read(state) == []


def test_a_sleeping_read_gets_nothing(state: State) -> None:
    """A read that was begun before the pause sleeps on when messages come."""
    state.register("a")
    other = state.driver.blocking(timeout=10)
    found: list[consume.Fetched] = []

    def sleep() -> None:
        found.append(other.run(consume.wait(state.keys, "a", 700, suspects=True)))

    reader = threading.Thread(target=sleep)
    reader.start()
    while state.do("CLIENT", "LIST").count(b"cmd=xreadgroup") == 0:
        reader.join(0.01)
    pause(state)
    for lane in LANES:
        state.put(lane)
    reader.join()
    other.close()

    assert [(one.envelopes, one.woken) for one in found] == [([], [])]
    assert stats(state).ready == 3


def test_what_is_in_flight_is_settled(state: State) -> None:
    """Acknowledged, tried again and handed back: nothing of it comes before the resume."""
    state.register("a")
    done, again, back = (state.own("a", body=body) for body in "123")
    pause(state)

    found = state.settle(
        "a", Settlement("retry", again, delay_ms=5, failed=True), release(back), acks=(done,)
    )

    assert (found.lost, found.front, found.suspect) == ([], 0, 0)
    # The next look promotes what is due, which is no delivery.
    assert state.fetch("a", *ALL, now_ms=NOW + 5).envelopes == []
    count = stats(state)
    assert (count.ready, count.delayed, count.in_flight) == (2, 0, 0)
    resume(state)
    assert read(state) == [b"3", b"2"]


def test_deliveries_of_a_dead_consumer_wait(state: State) -> None:
    """Recovery goes on; what it hands over is read after the resume."""
    state.register("a", "b")
    state.own("a")
    pause(state)

    state.run(hand_over_some(state.keys, "a", crashed=True, max_crashes=3, now_ms=NOW))

    assert read(state, "b") == []
    resume(state)
    assert read(state, "b") == [b"1"]


def test_twice_is_once(state: State) -> None:
    """A second pause keeps where the first one began; so does a second resume."""
    state.register("a")
    token = state.own("a").decode()
    state.put(body="next")
    pause(state)
    before = saved(state)

    pause(state)

    assert saved(state) == before == {"ready": token, "front": "0-0", "suspect": "0-0"}
    resume(state)
    assert [position(state, lane) for lane in LANES] == [token, "0-0", "0-0"]
    assert read(state) == [b"next"]
    behind = [position(state, lane) for lane in LANES]
    resume(state)
    assert [position(state, lane) for lane in LANES] == behind
    assert not state.do("EXISTS", state.keys.paused)


def test_before_the_first_consumer(state: State) -> None:
    """A queue that nobody has used can be paused; what is sent waits for consumer and resume."""
    pause(state)
    state.send(b"1")
    state.register("a")

    assert read(state) == []
    assert (stats(state).ready, stats(state).in_flight) == (1, 0)
    resume(state)
    assert read(state) == [b"1"]


def test_a_queue_that_was_never_paused_can_be_resumed(state: State) -> None:
    """It changes nothing, creates nothing and tells nobody."""
    resume(state)
    assert not state.do("EXISTS", *state.keys.lanes, state.keys.paused, state.keys.control)
    state.register("a")
    state.own("a")
    state.put(body="2")

    resume(state)

    assert read(state) == [b"2"]
    assert state.wakes() == []
    assert told(state) == []


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("what", ["stream", "group"])
def test_a_lane_that_is_made_again_stays_paused(state: State, lane: str, what: str) -> None:
    """A group that vanished comes back paused, and skips nothing at the resume."""
    state.register("a")
    state.put(lane, body="0", id="5-0")
    assert read(state) == [b"0"]
    pause(state)
    if what == "stream":
        state.do("DEL", state.key(lane))
    else:
        state.do("XGROUP", "DESTROY", state.key(lane), GROUP)
    # An older id than where the group stood: clocks go back.
    before = [] if what == "group" else [state.put(lane, body="1", id="3-0")]

    state.register("a")

    assert read(state) == []
    assert stats(state).ready == 1
    resume(state)
    assert read(state) == ([b"1"] if before else [b"0"])


def test_a_lane_that_is_gone_at_the_resume(state: State) -> None:
    """Nobody has registered since: the next consumer begins at the first entry."""
    state.register("a")
    pause(state)
    state.do("DEL", *state.keys.lanes)

    resume(state)
    state.put(body="1")
    state.register("a")

    assert read(state) == [b"1"]


@pytest.mark.parametrize("lane", LANES)
def test_operators_see_what_waits(state: State, lane: str) -> None:
    """Counts, age, peek and purge mean what is unread, as ever."""
    state.register("a")
    owned = state.own("a", lane, body="0")
    state.put(lane, body="1")
    state.put(lane, body="2")
    pause(state)

    count = stats(state)
    assert (count.ready, count.in_flight) == (2, 1)
    assert count.oldest_ready is not None
    peeked = state.run(admin.peek_ready(state.keys, 10))
    assert [one.body for one in peeked] == [b"1", b"2"]
    assert state.drive(admin.purge(state.keys)) == 2
    assert list(state.owners(lane)) == [owned.decode().lstrip("fs")]
    state.put(lane, body="3")
    resume(state)
    assert read(state) == [b"3"]


def test_redriven_messages_wait(state: State) -> None:
    """Dead letters can be sent back meanwhile."""
    state.register("a")
    token = state.own("a")
    pause(state)
    state.settle("a", Settlement("reject", token, note=b'{"reason": "no"}'))

    assert state.drive(admin.redrive(state.keys, ids=None, reason=None, rate=None)) == 1

    assert read(state) == []
    resume(state)
    assert read(state) == [b"1"]


def test_consumers_come_and_go(state: State) -> None:
    """One that leaves hands back what it has, one that comes gets nothing yet."""
    state.register("a")
    state.own("a")
    pause(state)
    state.drive(leave(state.keys, "a", max_crashes=3))
    state.register("b")

    assert read(state, "b") == []
    resume(state)
    assert read(state, "b") == [b"1"]


def test_a_resume_wakes_each_reader(state: State) -> None:
    """A wake entry for each registered consumer, so that a read that sleeps ends."""
    state.register("a", "b", "c")
    pause(state)
    assert state.wakes() == []

    resume(state)

    assert state.wakes() == [{"resumed": "1"}] * 3
    assert state.run(consume.wait(state.keys, "a", 1, suspects=True)).woken != []


def test_workers_are_told(state: State) -> None:
    """The control stream says it in order, and goes away by itself."""
    pause(state)
    resume(state)

    assert told(state) == ["pause", "resume"]
    assert 0 < state.do("PTTL", state.keys.control) <= 60_000


def test_what_a_listener_hears(state: State) -> None:
    """A listener hears what is said from its beginning on, each word once."""
    pause(state)
    start = state.run(control.now(state.keys.control))
    state.do("DEL", state.keys.control)
    resume(state)
    heard = {state.keys.control: start}

    words, heard = state.run(control.hear(heard, 100))
    assert words == [control.Word(state.keys.control, "resume")]
    words, heard = state.run(control.hear(heard, 1))
    assert words == []
    pause(state)
    words, heard = state.run(control.hear(heard, 100))
    assert [word.op for word in words] == ["pause"]
    assert state.run(control.is_paused(state.keys))


def test_a_look_at_what_was_fetched_ahead(state: State) -> None:
    """It tells what is lost, whether the queue is paused, and begins the leases anew."""
    state.register("a")
    mine = state.own("a", "front", idle_ms=5000)
    gone = state.own("a")
    state.settle("a", acks=(gone,))

    assert state.run(control.look(state.keys, "a", [mine, gone])) == ([gone], False)
    [[_, _, idle, _]] = state.do("XPENDING", state.keys.front, GROUP, "-", "+", 1)
    assert idle < 5000
    pause(state)
    assert state.run(control.look(state.keys, "a", [mine])) == ([], True)
    resume(state)
    state.settle("a", ack(mine))


def test_a_restart_changes_nothing(own_server: Server, own_state: State) -> None:
    """Where the groups stand is data like any other."""
    state = own_state
    state.register("a")
    state.put(body="1")
    pause(state)

    own_server.admin().save()
    own_server.restart()
    state.put(body="2")

    assert read(state) == []
    assert position(state, "ready") == NOWHERE
    resume(state)
    assert read(state) == [b"1", b"2"]


def test_a_full_server_is_not_paused(own_server: Server, own_state: State) -> None:
    """It says so and changes nothing: only workers can make room."""
    own_state.register("a")
    own_state.put()

    with out_of_memory(own_server), refused("OOM"):
        pause(own_state)

    assert not stats(own_state).paused
    assert read(own_state) == [b"1"]


def test_a_full_server_can_go_on(own_server: Server, own_state: State) -> None:
    """A resume needs no memory: the workers of this queue are who will free some."""
    own_state.register("a")
    own_state.put()
    pause(own_state)

    with out_of_memory(own_server):
        resume(own_state)
        found: Any = own_state.run(consume.fetch(own_state.keys, "a", reads=[("", 1)]))

    assert [one.body for one in found.envelopes] == [b"1"]
