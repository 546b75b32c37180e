"""settle.lua: deliveries end, due messages come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from millstream.policy import Retry
from millstream.protocol import consume, ending
from millstream.protocol.consume import PROMOTED_AT_ONCE
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import GROUP
from millstream.protocol.settlement import (
    Settlement,
    ack,
    describe,
    failure,
    reject,
    release,
)
from tests.lua.state import FOREIGN, NOW, OLD_ID, State, out_of_memory, refused
from tests.support.servers import Server

LANES = ("ready", "front", "suspect")
MOVED = {"id": OLD_ID, "attempts": 2, "crashes": 1}
"""The state of a message that has been through something."""


def retry(token: bytes, *, delay_ms: int = 5000, failed: bool = True) -> Settlement:
    note = b'{"reason":"it failed","error":"ValueError: no"}'
    return Settlement("retry", token, delay_ms=delay_ms, failed=failed, note=note)


END: dict[str, Callable[[bytes], Settlement]] = {
    "ack": ack,
    "retry": retry,
    "reject": lambda token: reject(token, "no"),
    "release": release,
}


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has the consumers a and b."""
    name = "own_state" if "own_state" in request.fixturenames else "state"
    state: State = request.getfixturevalue(name)
    state.register("a", "b")


# Acknowledge


def test_plain_acks_remove_their_messages(state: State) -> None:
    """The fast path takes the messages out of the stream and out of the pending list."""
    tokens = [state.own("a") for _ in range(3)]
    last = state.own("a", body="last")

    found = state.settle("a", acks=tuple(tokens))

    assert found.lost == []
    assert state.bodies() == ["last"]
    assert state.owners() == {last.decode(): "a"}
    assert state.counters() == {"acked": 3}


MORE: dict[str, Callable[[State], object]] = {
    "nothing": lambda _: None,
    "a later time": lambda state: state.delay("9-9", NOW + 2500),
    "a message that is due": lambda state: state.delay("9-9", NOW),
    "something handed back": lambda state: state.put("front"),
    "a suspect": lambda state: state.put("suspect"),
    "an urgent message": lambda state: state.place_one(1, priority=5),
    "a producer that waits": lambda state: state.do("ZADD", state.keys.senders, 0, "p 10"),
}
"""What a round may find beside the ends of deliveries, by a name for it."""


@pytest.mark.parametrize("more", MORE)
def test_plain_acks_whatever_else_there_is(state: State, more: str) -> None:
    """The short way, for when there is nothing else to see to, and the long one do and tell the same."""
    tokens = [state.own("a") for _ in range(3)]
    state.settle("a", acks=(tokens[0],))
    MORE[more](state)

    found = state.settle("a", acks=tuple(tokens))

    assert (found.lost, found.kept, found.awaited) == ([tokens[0]], {}, ())
    assert state.owners() == {}
    assert state.counters()["acked"] == 3
    assert found.now_ms == NOW
    assert found.next_due_ms == (2500 if more == "a later time" else None)
    assert found.front == (more == "something handed back")
    assert found.suspect == (more == "a suspect")
    assert list(found.priorities) == ([5] if more == "an urgent message" else [])
    assert state.bodies() == (["1"] if more == "a message that is due" else [])
    assert state.do("EXISTS", state.keys.room) == (more == "a producer that waits")
    state.do("DEL", state.keys.senders)


def test_thousands_of_plain_acks(state: State) -> None:
    """A batch may be larger than what Lua can unpack at once."""
    state.send(*(b"1" for _ in range(4500)))
    tokens = [one.token for one in state.fetch("a", ("", 4500)).envelopes]

    found = state.settle("a", acks=tuple(tokens))

    assert found.lost == []
    assert state.entries() == []
    assert state.counters() == {"sent": 4500, "acked": 4500}


@pytest.mark.parametrize("lane", LANES)
def test_an_ack_from_each_lane(state: State, lane: str) -> None:
    """The token names the lane, so an ack finds its message in each of them."""
    token = state.own("a", lane)

    found = state.settle("a", ack(token))

    assert found.lost == []
    assert state.entries(lane) == []
    assert state.owners(lane) == {}
    assert state.counters() == {"acked": 1}


def test_a_lost_one_among_plain_acks_is_reported(state: State) -> None:
    """The others of the batch are settled, the lost one stays with its new owner."""
    lost = state.own("a", body="lost", idle_ms=60_000)
    mine = [state.own("a") for _ in range(3)]
    state.run(consume.extend(state.keys, "a", mine))
    state.settle("a", release(lost))
    [taken] = state.fetch("b", ("f", 1)).envelopes

    found = state.settle("a", acks=(mine[0], lost, *mine[1:]))

    assert found.lost == [lost]
    assert state.entries() == []
    assert state.only("front").body == "lost"
    assert state.owners("front") == {taken.token[1:].decode(): "b"}
    assert state.counters() == {"acked": 3}


def test_a_repeated_plain_ack_is_lost(state: State) -> None:
    """What was settled cannot be settled a second time."""
    token = state.own("a")
    state.settle("a", acks=(token,))

    assert state.settle("a", acks=(token,)).lost == [token]
    assert state.counters() == {"acked": 1}


def test_every_thousand_of_plain_acks_is_fenced(state: State) -> None:
    """A lost one in the second thousand is found, too."""
    state.send(*(b"1" for _ in range(2100)))
    tokens = [one.token for one in state.fetch("a", ("", 2100)).envelopes]
    lost = [tokens[5], tokens[1500], tokens[2099]]
    state.settle("a", *(release(token) for token in lost))

    found = state.settle("a", acks=tuple(tokens))

    assert found.lost == lost
    assert state.entries() == []
    assert len(state.entries("front")) == 3


# Fencing


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("verb", END)
def test_another_consumers_delivery_is_refused(state: State, verb: str, lane: str) -> None:
    """Each verb leaves a delivery alone that its caller does not own."""
    token = state.own("b", lane, state=MOVED)
    before = state.entries(lane), state.owners(lane)

    found = state.settle("a", END[verb](token))

    assert found.lost == [token]
    assert (state.entries(lane), state.owners(lane)) == before
    assert state.delayed() == {}
    assert state.entries("dead") == []
    assert state.counters() == {}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("verb", END)
def test_an_unread_message_is_nobodys(state: State, verb: str, lane: str) -> None:
    """A token that was never delivered, or was handed back, settles nothing."""
    entry = state.put(lane)
    token = {"ready": "", "front": "f", "suspect": "s"}[lane].encode() + entry.encode()

    assert state.settle("a", END[verb](token)).lost == [token]
    assert state.only(lane).id == entry


@pytest.mark.parametrize("first", END)
@pytest.mark.parametrize("second", END)
def test_a_delivery_ends_once(state: State, first: str, second: str) -> None:
    """The second settlement of a delivery is lost, in the same batch, too."""
    token = state.own("a")

    both = state.settle("a", END[first](token), END[second](token))
    late = state.settle("a", END[second](token))

    assert both.lost == [token]
    assert late.lost == [token]
    assert sum(len(state.entries(lane)) for lane in (*LANES, "dead")) + len(state.delayed()) == (
        0 if first == "ack" else 1
    )


@pytest.mark.parametrize("lane", LANES)
def test_the_end_of_a_key_is_fenced(state: State, lane: str) -> None:
    """Who ends a message too late, too early or twice does not let the next of its key go on."""
    gate = {"k": "c-1", "o": "ordered"}
    token = state.own("a", lane, state=MOVED, extra=gate)
    state.do("HSET", state.keys.holders, "c-1", OLD_ID)
    state.settle("a", release(token))
    late = state.settle("a", ack(token, plain=False))
    [moved] = state.entries(lane if lane == "suspect" else "front")
    unread = (b"s" if lane == "suspect" else b"f") + moved.id.encode()
    early = state.settle("a", ack(unread, plain=False))

    assert (late.lost, early.lost) == ([token], [unread])
    assert state.do("HGETALL", state.keys.holders) == [b"c-1", OLD_ID.encode()]
    state.fetch("b", (unread[:1].decode(), 1))
    both = state.settle("b", ack(unread, plain=False), ack(unread, plain=False))
    assert both.lost == [unread]
    assert state.do("EXISTS", state.keys.holders) == 0
    assert state.counters() == {"acked": 1}


def test_a_mixed_batch_with_lost_ones(state: State) -> None:
    """Each settlement of a batch stands for itself."""
    mine = [state.own("a", body=body) for body in ("ack", "retry", "reject", "release")]
    other = state.own("b", body="other")
    plain = state.own("a", body="plain")
    gone = b"1-1"

    found = state.settle(
        "a",
        ack(mine[0]),
        ack(other),
        retry(mine[1]),
        retry(gone),
        reject(mine[2], "no"),
        release(b"f" + other),
        release(mine[3]),
        acks=(plain, b"2-2"),
    )

    assert found.lost == [b"2-2", other, gone, b"f" + other]
    assert found.kept == {}
    assert state.bodies() == ["other"]
    assert state.owners() == {other.decode(): "b"}
    assert [waiting.fields["b"] for waiting in state.delayed().values()] == ["retry"]
    assert state.bodies("dead") == ["reject"]
    assert state.bodies("front") == ["release"]
    assert state.counters() == {"acked": 2, "retried": 1, "died": 1}


# Retry


@pytest.mark.parametrize("lane", LANES)
def test_a_first_retry_gives_the_message_its_state(state: State, lane: str) -> None:
    """The id of a message is that of its first entry; the failure and its reason are noted."""
    token = state.own("a", lane)

    state.settle("a", retry(token, delay_ms=5000))

    id = token.decode().lstrip("fs")
    [(name, waiting)] = state.delayed().items()
    assert name == id
    assert waiting.due == NOW + 5000
    assert waiting.fields["b"] == "1"
    assert waiting.state == {
        "id": id,
        "attempts": 1,
        "crashes": 0,
        "reason": "it failed",
        "error": "ValueError: no",
    }
    assert state.entries(lane) == []
    assert state.owners(lane) == {}
    assert state.counters() == {"retried": 1}


@pytest.mark.parametrize("lane", LANES)
def test_a_later_retry_keeps_the_state(state: State, lane: str) -> None:
    """Id and crashes stay, attempts go on, foreign fields are untouched."""
    token = state.own("a", lane, state=MOVED, extra={"h": '{"x":"y"}', **FOREIGN})

    state.settle("a", retry(token))

    waiting = state.delayed()[OLD_ID]
    kept = {name: value for name, value in waiting.fields.items() if name != "s"}
    assert kept == {"b": "1", "h": '{"x":"y"}', **FOREIGN}
    assert waiting.state["id"] == OLD_ID
    assert waiting.state["attempts"] == 3
    assert waiting.state["crashes"] == 1


def test_a_retry_without_failure_counts_no_attempt(state: State) -> None:
    """Whether the handler failed is the caller's to say."""
    token = state.own("a", state=MOVED)

    state.settle("a", retry(token, failed=False))

    assert state.delayed()[OLD_ID].state["attempts"] == 2


def test_the_body_of_a_retried_message_is_any_bytes(state: State) -> None:
    """The way through the hash of delayed messages changes no byte."""
    body = bytes(range(256))
    state.send(body)
    [envelope] = state.fetch("a", ("", 1)).envelopes

    state.settle("a", retry(envelope.token, delay_ms=0))

    [again] = state.fetch("a", ("", 1)).envelopes
    assert again.body == body
    assert again.state.attempts == 1


def test_a_retry_without_delay_is_ready_at_once(state: State) -> None:
    """It is promoted by the same call, and nobody needs to be woken."""
    token = state.own("a")

    found = state.settle("a", retry(token, delay_ms=0), wake=True)

    assert found.next_due_ms is None
    assert state.only("ready").state["id"] == token.decode()
    assert state.delayed() == {}
    assert state.wakes() == []


def test_two_messages_with_one_id_push_nobody_out(state: State) -> None:
    """A foreign producer that gives two entries the same id loses none of them."""
    tokens = [state.own("a", body=body, state={"id": OLD_ID}) for body in ("1", "2", "3")]

    state.settle("a", *(retry(token) for token in tokens))

    assert sorted(one.fields["b"] for one in state.delayed().values()) == ["1", "2", "3"]
    assert {one.state["id"] for one in state.delayed().values()} == {OLD_ID}
    state.settle("a", now_ms=NOW + 5000)
    assert sorted(map(str, state.bodies())) == ["1", "2", "3"]
    assert state.delayed() == {}


# Reject


@pytest.mark.parametrize("lane", LANES)
def test_a_rejected_message_is_a_dead_letter(state: State, lane: str) -> None:
    """It keeps body, id and counts, and says why and when it died."""
    token = state.own("a", lane, state=MOVED, extra=FOREIGN)

    state.settle("a", reject(token, "no such customer", error="KeyError: 7", trace="line 1"))

    dead = state.only("dead")
    assert {name: value for name, value in dead.fields.items() if name != "s"} == {
        "b": "1",
        **FOREIGN,
    }
    assert dead.state == {
        **MOVED,
        "reason": "no such customer",
        "error": "KeyError: 7",
        "traceback": "line 1",
        "at": NOW,
    }
    assert state.entries(lane) == []
    assert state.owners(lane) == {}
    assert state.counters() == {"died": 1}


def test_a_rejection_for_used_up_attempts_counts_the_last(state: State) -> None:
    """The dead letter says how often the handler failed, the last time included."""
    state.own("a", state={"id": OLD_ID, "attempts": 4})
    [envelope] = state.drive(consume.own_pending(state.keys, "a"))
    line, trace = describe(ValueError("no"))
    end = failure(envelope, Retry(max_attempts=5), reason=line, luck=0, error=line, trace=trace)

    state.settle("a", end)

    assert state.only("dead").state["attempts"] == 5
    assert state.only("dead").state["reason"] == "attempts"
    assert state.only("dead").state["error"] == "ValueError: no"


def test_a_reason_is_any_text(state: State) -> None:
    """Quotes, control characters and other alphabets arrive as they were."""
    reason = 'a "b" \\ / \u0000\u001f\n\u00e4\u20ac\U0001f600\x7f'
    token = state.own("a")

    state.settle("a", reject(token, reason))

    assert state.only("dead").state["reason"] == reason


# Release


@pytest.mark.parametrize("lane", LANES)
def test_a_released_message_goes_to_the_front(state: State, lane: str) -> None:
    """It is next, without blame; a suspect stays among the suspects."""
    moved = state.own("a", lane, state=MOVED, extra=FOREIGN)
    fresh = state.own("a", lane, body="fresh")

    state.settle("a", release(moved), release(fresh))

    target = "suspect" if lane == "suspect" else "front"
    first, second = state.entries(target)
    assert {**FOREIGN, "b": "1"}.items() <= first.fields.items()
    assert first.state == MOVED
    assert second.body == "fresh"
    assert second.state == {"id": fresh.decode().lstrip("fs"), "attempts": 0, "crashes": 0}
    assert state.owners(target) == {}
    if lane == "ready":
        assert state.entries("ready") == []
    assert state.counters() == {}


# What foreign producers write


HOSTILE = {
    "no JSON": "{",
    "no object": "[1, 2]",
    "null": "null",
    "no id": "{}",
    "id is no text": '{"id": 7}',
    "id is no stream id": '{"id": "hello"}',
    "id is endless": '{"id": "' + "1" * 5000 + '-1"}',
    "counts are texts": '{"id": "1-1", "attempts": "x", "crashes": []}',
    "counts are null": '{"id": "1-1", "attempts": null, "crashes": null}',
    "counts are negative": '{"id": "1-1", "attempts": -1, "crashes": -7}',
    "counts are broken": '{"id": "1-1", "attempts": 1.5, "crashes": 0.1}',
    "counts are infinite": '{"id": "1-1", "attempts": 1e999, "crashes": -1e999}',
    "counts are enormous": '{"id": "1-1", "attempts": 1e300, "crashes": 1e300}',
    "not a number": '{"id": "1-1", "attempts": NaN}',
    "texts are objects": '{"id": "1-1", "reason": {}, "error": [1], "traceback": 7}',
    "infinite extras": '{"id": "1-1", "x": 1e999, "y": [1e999], "z": null}',
    "deep": '{"id": "1-1", "x": ' + "[" * 2000 + "]" * 2000 + "}",
    "nested": '{"id": "1-1", "x": {"y": [1, {"z": null}]}}',
    "empty": "",
}


@pytest.mark.parametrize("verb", ["retry", "reject", "release"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_malformed_state_is_survived(state: State, verb: str, hostile: str) -> None:
    """Whatever stands in the field s, the message moves, and every reader can read it then."""
    token = state.own("a", state=HOSTILE[hostile])

    found = state.settle("a", END[verb](token))

    assert found.lost == []
    assert found.kept == {}
    moved: Any
    if verb == "retry":
        [moved] = state.delayed().values()
    else:
        moved = state.only("dead" if verb == "reject" else "front")
    fields = [text.encode() for pair in moved.fields.items() for text in pair]
    envelope = Envelope(b"9-9", fields)
    assert envelope.malformed is None
    assert envelope.body == b"1"
    assert envelope.state.id in {token.decode(), "1-1"}
    assert envelope.state.attempts in {0, 1}
    assert envelope.state.crashes == 0
    assert envelope.state.reason == {"retry": "it failed", "reject": "no", "release": ""}[verb]


def test_bytes_that_are_no_text_do_not_hide_the_reason(state: State) -> None:
    """A dead letter can be read although a foreign producer wrote bytes into its state."""
    broken = b'{"id":"1-1","attempts":3,"traceback":"\xff\xfe","\xff":"x"}'
    state.do("XADD", state.keys.ready, "*", "b", "1", "s", broken)
    [envelope] = state.fetch("a", ("", 1)).envelopes

    state.settle("a", reject(envelope.token, "no"))

    [[entry, fields]] = state.do("XRANGE", state.keys.dead, "-", "+")
    dead = Envelope(entry, fields)
    assert (dead.state.id, dead.state.attempts, dead.state.reason) == ("1-1", 3, "no")
    assert dead.malformed is None


@pytest.mark.parametrize("verb", ["retry", "reject", "release"])
def test_an_entry_without_body_keeps_its_fields(state: State, verb: str) -> None:
    """What is not a message is moved like one, so that a person can look at it."""
    token = state.own("a", body=None, extra={"order": "7", **FOREIGN})

    state.settle("a", END[verb](token))

    moved = {
        "retry": lambda: next(iter(state.delayed().values())).fields,
        "reject": lambda: state.only("dead").fields,
        "release": lambda: state.only("front").fields,
    }[verb]()
    assert {"order": "7", **FOREIGN}.items() <= moved.items()


@pytest.mark.parametrize("verb", ["retry", "reject", "release"])
@pytest.mark.parametrize("count", [900, 1001, 9000])
def test_an_entry_with_thousands_of_fields(state: State, verb: str, count: int) -> None:
    """It is moved, again and again, and is still the message that it was."""
    extra = {f"x{number}": "y" for number in range(count)}
    token = state.own("a", state=MOVED, extra={"h": '{"x":"y"}', **extra})

    state.settle("a", END[verb](token))
    if verb == "retry":
        state.settle("a", now_ms=NOW + 5000)
    if verb != "reject":
        lane = {"retry": "", "release": "f"}[verb]
        [again] = state.fetch("a", (lane, 1)).envelopes
        state.settle("a", reject(again.token, "no"))

    dead = state.only("dead")
    assert dead.body == "1"
    assert dead.fields["h"] == '{"x":"y"}'
    assert dead.state["id"] == OLD_ID
    assert dead.state["reason"] == "no"
    if count < 1000:
        assert extra.items() <= dead.fields.items()
    else:
        assert set(dead.fields) == {"b", "h", "packed", "s"}
        packed = dead.fields["packed"].encode("utf-8", "surrogateescape")
        assert [text.decode() for text in state.unpack(packed)] == [
            text for pair in extra.items() for text in pair
        ]


# Messages whose entry somebody deleted


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("verb", END)
def test_a_deleted_message_leaves_the_pending_list(state: State, verb: str, lane: str) -> None:
    """Settling what is gone ends the delivery, and makes no message up."""
    token = state.own("a", lane)
    state.do("XDEL", state.key(lane), token.decode().lstrip("fs"))

    state.settle("a", END[verb](token))

    assert state.owners(lane) == {}
    assert state.delayed() == {}
    assert [state.entries(name) for name in (*LANES, "dead")] == [[], [], [], []]


# Promote


def test_nothing_is_promoted_early(state: State) -> None:
    """A millisecond before its time a message is still delayed."""
    state.delay("1-1", NOW)

    early = state.settle("a", now_ms=NOW - 1)

    assert early.next_due_ms == 1
    assert state.entries() == []
    assert list(state.delayed()) == ["1-1"]

    late = state.settle("a", now_ms=NOW)

    assert late.next_due_ms is None
    assert state.only("ready").state["id"] == "1-1"
    assert state.delayed() == {}


def test_the_server_has_the_time(state: State) -> None:
    """Without a time of the caller's, the server's clock decides."""
    seconds, microseconds = map(int, state.do("TIME"))
    now = seconds * 1000 + microseconds // 1000
    state.delay("1-1", now)
    state.delay("2-2", now + 60_000)

    found = state.run(consume.fetch(state.keys, "a"))

    assert state.only("ready").state["id"] == "1-1"
    assert found.next_due_ms is not None
    assert 50_000 < found.next_due_ms <= 60_000


def test_messages_are_promoted_in_the_order_of_their_times(state: State) -> None:
    """What is due first is ready first, whenever it was put there."""
    for id, due in (("3-3", 30), ("1-1", 10), ("2-2", 20)):
        state.delay(id, NOW + due, body=id)

    state.settle("a", now_ms=NOW + 30)

    assert state.bodies() == ["1-1", "2-2", "3-3"]


def test_one_call_promotes_a_limited_number(state: State) -> None:
    """The rest is due at once, so that the next call goes on."""
    count = 2 * PROMOTED_AT_ONCE + 50
    for number in range(count):
        state.delay(f"{number}-1", NOW - 1000 + number, body=str(number))

    waits = [state.settle("a").next_due_ms for _ in range(3)]

    assert waits == [0, 0, None]
    assert state.bodies() == [str(number) for number in range(count)]
    assert state.delayed() == {}


def test_what_is_promoted_can_be_read_in_the_same_round_trip(state: State) -> None:
    """One fetch brings what has just become due, with its id and counts."""
    state.delay(OLD_ID, NOW)

    [envelope] = state.fetch("a", ("", 10)).envelopes

    assert envelope.state.id == OLD_ID
    assert envelope.state.attempts == 1


@pytest.mark.parametrize(("crashes", "lane"), [(0, "ready"), (1, "ready"), (2, "suspect")])
def test_a_suspect_comes_back_as_one(state: State, crashes: int, lane: str) -> None:
    """A retry does not smuggle a message that killed two consumers in among the others."""
    token = state.own("a", "suspect", state={**MOVED, "crashes": crashes})

    found = state.settle("a", retry(token, delay_ms=0))

    assert state.only(lane).state["crashes"] == crashes
    assert found.suspect == (1 if lane == "suspect" else 0)


def test_a_due_time_without_a_message_is_dropped(state: State) -> None:
    """A half that somebody deleted does not stop the others."""
    state.delay("1-1", NOW)
    state.delay("2-2", NOW + 1)
    state.do("HDEL", state.keys.delayed, "1-1")

    found = state.settle("a", now_ms=NOW + 1)

    assert state.only("ready").state["id"] == "2-2"
    assert found.next_due_ms is None


# Wake


@pytest.mark.parametrize(
    ("others", "woken"),
    [([], True), ([NOW + 9000], True), ([NOW + 5000], False), ([NOW + 1000], False)],
)
def test_a_reader_is_woken_only_for_an_earlier_time(
    state: State, others: list[int], woken: bool
) -> None:
    """Readers know when the first message is due; only an even earlier one is news."""
    for due in others:
        state.delay(f"{due}-1", due)
    token = state.own("a")

    state.settle("a", retry(token, delay_ms=5000), wake=True)

    assert state.wakes() == ([{"due": str(NOW + 5000)}] if woken else [])


def test_one_wake_for_a_batch(state: State) -> None:
    """Of several retries the earliest wakes, once."""
    tokens = [state.own("a") for _ in range(3)]
    delays = (7000, 5000, 6000)

    state.settle("a", *map(lambda t, d: retry(t, delay_ms=d), tokens, delays), wake=True)

    assert state.wakes() == [{"due": str(NOW + 5000)}]


def test_who_reads_again_by_itself_wakes_nobody(state: State) -> None:
    """Without the wish for it no entry is written."""
    token = state.own("a")

    found = state.settle("a", retry(token, delay_ms=5000))

    assert state.wakes() == []
    assert found.next_due_ms == 5000


def test_wake_entries_are_bounded_and_settled(state: State) -> None:
    """They never pile up, and the one who was woken removes its own."""
    for number in range(40):
        token = state.own("a")
        state.settle("a", retry(token, delay_ms=5000 - number), wake=True)
    assert len(state.wakes()) <= 16
    woken = state.run(consume.wait(state.keys, "b", 1, suspects=True)).woken

    found = state.settle("b", *(Settlement("woken", entry) for entry in woken))

    assert woken
    assert found.lost == []
    assert not set(woken) & {entry.id.encode() for entry in state.entries("wake")}
    assert state.owners("wake") == {}


# What is left to read


def test_tells_what_waits_in_the_other_lanes(state: State) -> None:
    """Only what nobody has read counts."""
    state.own("b", "front")
    state.own("b", "suspect")
    state.put("front")
    state.put("front")
    state.put("suspect")

    found = state.settle("a")

    assert (found.front, found.suspect) == (1, 1)


def test_what_others_own_does_not_wait(state: State) -> None:
    """A lane whose messages are all in flight has nothing to read."""
    state.own("b", "front")
    state.own("b", "suspect")

    found = state.settle("a")

    assert (found.front, found.suspect) == (0, 0)


def test_released_messages_count_at_once(state: State) -> None:
    """What the call itself puts into a lane is told."""
    token = state.own("a")

    assert state.settle("a", release(token)).front == 1


# A group that is gone


@pytest.mark.parametrize("verb", END)
def test_a_missing_group_is_reported(state: State, verb: str) -> None:
    """A settlement without a group is an error, not a loss."""
    token = state.own("a")
    state.do("XGROUP", "DESTROY", state.keys.ready, GROUP)

    with refused("NOGROUP"):
        state.settle("a", END[verb](token))

    assert state.only("ready").id == token.decode()


def test_a_read_without_a_group_is_reported(state: State) -> None:
    """After a FLUSHALL the read says what is missing, whatever was to be settled."""
    token = state.own("a")
    state.do("DEL", *state.keys.lanes)

    with refused("NOGROUP"):
        state.run(consume.fetch(state.keys, "a", reads=[("", 1)], acks=[token]))


# Out of memory


def test_acks_need_no_memory(own_server: Server, own_state: State) -> None:
    """A full server is emptied by its consumers."""
    plain, other = own_state.own("a"), own_state.own("a", "front")

    with out_of_memory(own_server):
        found = own_state.settle("a", ack(other), acks=(plain,))

    assert (found.lost, found.kept) == ([], {})
    assert own_state.entries() == []
    assert own_state.entries("front") == []


@pytest.mark.parametrize("verb", ["retry", "reject", "release"])
def test_what_cannot_be_stored_is_kept(own_server: Server, own_state: State, verb: str) -> None:
    """The consumer is told, still owns the message, and settles it again later."""
    tokens = [own_state.own("a", lane, state=MOVED) for lane in LANES]
    before = [own_state.entries(lane) for lane in LANES]
    ends = [END[verb](token) for token in tokens]

    with out_of_memory(own_server):
        found = own_state.settle("a", *ends)

    assert found.lost == []
    assert list(found.kept) == tokens
    assert all(problem.startswith("OOM ") for problem in found.kept.values())
    assert [own_state.entries(lane) for lane in LANES] == before
    assert all(own_state.owners(lane) for lane in LANES)
    assert own_state.counters() == {}

    assert own_state.settle("a", *ends).kept == {}
    assert not any(own_state.owners(lane) for lane in LANES)


def test_acks_make_room_for_the_others(own_server: Server, own_state: State) -> None:
    """Acks of the same call come first, so it needs no second try."""
    done, failed = own_state.own("a"), own_state.own("a", state=MOVED)

    with out_of_memory(own_server):
        found = own_state.settle("a", retry(failed), acks=(done,))

    assert found.kept == {}
    assert list(own_state.delayed()) == [OLD_ID]


def test_what_is_due_stays_due_without_memory(own_server: Server, own_state: State) -> None:
    """No message is lost on the way, and nobody asks again at once."""
    for number in range(3):
        own_state.delay(f"{number}-1", NOW - 1000)

    with out_of_memory(own_server):
        found = own_state.settle("a")

    assert found.next_due_ms == 1000
    assert len(own_state.delayed()) == 3
    assert own_state.entries() == []

    assert own_state.settle("a").next_due_ms is None
    assert len(own_state.entries()) == 3


def test_settle_says_that_the_server_is_full(own_server: Server, own_state: State) -> None:
    """The plan for one delivery turns what was kept into an error with the server's code."""
    token = own_state.own("a")

    with out_of_memory(own_server), refused("OOM"):
        own_state.drive(ending.settle(own_state.keys, "a", retry(token)))

    assert list(own_state.owners()) == [token.decode()]
