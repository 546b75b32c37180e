"""Topics: publish.lua, subscribe.lua, unsubscribe.lua, topic_stats.lua.

And what other scripts do for a subscription.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from millstream.errors import UsageError
from millstream.message import SubscriptionStats
from millstream.policy import Retain
from millstream.protocol import admin, consume, control, whole
from millstream.protocol.keys import TopicKeys, topic_keys
from millstream.protocol.publish import Publication, publish, publish_some
from millstream.protocol.recover import hand_over_some, leave, sweep
from millstream.protocol.retention import retain, trim
from millstream.protocol.settlement import Settlement, ack, reject, release
from millstream.protocol.subscriptions import (
    Declared,
    subscribe,
    subscriptions,
    topic_stats,
    unsubscribe,
)
from millstream.protocol.waiting import reschedule
from millstream.topic import EARLIEST, LATEST, Subscription, Topic
from tests.lua.state import FOREIGN, NOW, State, out_of_memory, refused
from tests.support.servers import Server

ALL = (("s", 1), ("f", 100), ("", 100))


class Sub(State):
    """One subscription of the topic `t`; `ready` is its log."""

    def __init__(self, state: State, name: str, **options: Any) -> None:
        self.driver = state.driver
        self.topic: TopicKeys = topic_keys(state.keys.namespace, "t")
        self.keys = self.topic.subscription(name)
        self.declared: Subscription[Any] = Topic("t").subscription(name, **options)

    def subscribe(self) -> Sub:
        self.drive(subscribe(self.topic, self.declared))
        return self

    def register(self, *consumers: str, lease_ms: int = 30_000) -> None:
        for name in consumers:
            op = consume.register(self.keys, name, lease_ms, 1, source=self.declared)
            self.run(op)

    def publish(self, *bodies: bytes, number: int = 1) -> list[str]:
        return [one.id for one in self.run(publish(self.topic, "p", number, bodies))]

    def bodies_read(self, consumer: str = "a") -> list[bytes | None]:
        return [one.body for one in self.fetch(consumer, *ALL).envelopes]

    def take(self, consumer: str = "a") -> bytes:
        """The token of the next message, alone."""
        [one] = self.fetch(consumer, ("f", 1)).envelopes or self.fetch(consumer, ("", 1)).envelopes
        return one.token

    def ready(self) -> int:
        return self.run(admin.stats(self.keys)).ready

    def stats(self) -> SubscriptionStats:
        """What the topic says of it; the subscription alone must say the same."""
        alone = self.run(admin.stats(self.keys))
        found = self.drive(topic_stats(self.topic)).subscriptions
        [one] = [one for one in found if one.name == self.keys.subscription]
        assert (alone.ready, alone.in_flight, alone.delayed, alone.dead) == (
            *(one.lag, one.in_flight, one.delayed, one.dead),
        )
        return one

    def counts(self) -> list[int]:
        found = self.stats()
        return [found.lag, found.in_flight, found.delayed, found.dead, found.acked, found.retried]


@pytest.fixture
def one(state: State) -> Sub:
    return Sub(state, "one", start=EARLIEST).subscribe()


@pytest.fixture
def two(state: State) -> Sub:
    return Sub(state, "two", start=EARLIEST).subscribe()


# Publish


def test_a_batch_is_stored_once_in_order(one: Sub) -> None:
    """However often it is repeated; it is counted once, and ids follow one another."""
    first = one.publish(b"1", b"2", b"3")

    assert one.publish(b"1", b"2", b"3") == first == [entry.id for entry in one.entries()]
    assert one.bodies() == ["1", "2", "3"]
    assert one.do("HGETALL", one.topic.counters) == [b"published", b"3"]
    assert one.publish(b"4", number=2) != first[:1]


def test_what_an_entry_has(one: Sub) -> None:
    """Only what there is to say; plain messages with headers, and those with a key or a subject."""
    one.run(publish(one.topic, "p", 1, [b"1", b"2"], [b'{"a":"b"}', b""]))
    some = [
        Publication(body=b"3", headers=b"{}", key="k", subject="eu.paid", gate="ordered"),
        Publication(body=b"4"),
        Publication(body=b"5", subject="us"),
    ]
    receipts = one.run(publish_some(one.topic, "p", 2, some))

    assert [entry.fields for entry in one.entries()] == [
        {"b": "1", "h": '{"a":"b"}'},
        {"b": "2"},
        {"b": "3", "h": "{}", "k": "k", "t": "eu.paid", "o": "ordered"},
        {"b": "4"},
        {"b": "5", "t": "us"},
    ]
    assert [one.id for one in receipts] == [entry.id for entry in one.entries()[2:]]
    assert one.run(publish_some(one.topic, "p", 2, some)) == receipts
    assert 0 < one.do("PTTL", one.topic.producer("p")) <= 600_000


# Subscribe


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (EARLIEST, [b"1", b"2", b"3", b"4"]),
        (LATEST, [b"4"]),
        ("5000-7", [b"2", b"3", b"4"]),
        ("5000-0", [b"1", b"2", b"3", b"4"]),
        ("6000-0", [b"3", b"4"]),
        (datetime.fromtimestamp(6, UTC), [b"3", b"4"]),
        (datetime.fromtimestamp(5.0005, UTC), [b"3", b"4"]),
        (datetime.fromtimestamp(-1, UTC), [b"1", b"2", b"3", b"4"]),
    ],
)
def test_where_it_starts(state: State, start: Any, expected: list[bytes]) -> None:
    """At the first message that belongs to it, exactly; what comes later belongs to it, too."""
    sub = Sub(state, "one", start=start)
    for id, body in (("5000-6", "1"), ("5000-7", "2"), ("6000-0", "3")):
        sub.put(body=body, id=id)
    sub.subscribe()
    sub.put(body="4", id="7000-0")
    sub.register("a")

    assert sub.ready() == len(expected)
    assert sub.bodies_read() == expected


def test_one_that_exists_keeps_its_place(one: Sub) -> None:
    """Also when it is declared with another start; the last word on when it expires counts."""
    one.publish(b"1", b"2")
    one.register("a")
    assert one.do("HLEN", one.keys.consumers) == 1
    one.take()

    again = Sub(one, "one", start=LATEST, expires=60).subscribe()
    again.register("a")

    assert again.run(subscriptions(one.topic)) == {"one": Declared(expires=60_000)}
    assert again.bodies_read() == [b"2"]


@pytest.mark.parametrize(("before", "now"), [(None, "eu.*"), ("eu.*", None), ("eu.*", "eu.>")])
def test_another_filter_is_refused(state: State, before: str | None, now: str | None) -> None:
    """By a call and by a consumer that comes; the error names both, and nothing changes."""
    Sub(state, "one", filter=before).subscribe()
    other = Sub(state, "one", filter=now, start=EARLIEST)

    for attempt in (other.subscribe, lambda: other.register("a")):
        with pytest.raises(UsageError, match="subscription t/one exists with") as caught:
            attempt()
        assert all(repr(one) in str(caught.value) for one in (before, now) if one)

    assert other.run(subscriptions(other.topic)) == {
        "one": Declared(filter=before, expires=31 * 86_400_000)
    }
    assert other.leases() == {}


def test_each_partition_has_it(state: State) -> None:
    """Where it starts in each, and what is there of it is removed from each."""
    topic: Topic[Any] = Topic("t", ordered=True, partitions=3)
    keys = topic_keys(state.keys.namespace, "t")
    for number in range(3):
        state.run(publish(keys.at(number), "p", 1, [b"%d" % number]))
    sub = topic.subscription("one", start=EARLIEST)
    state.drive(subscribe(keys, sub))

    stats = state.drive(topic_stats(keys))
    assert (stats.length, stats.published, stats.subscriptions[0].lag) == (3, 3, 3)
    behind = stats.subscriptions[0].lag_seconds
    assert behind is not None
    assert 0 <= behind < 60
    assert state.drive(whole.stats(keys.subscription("one"))).ready == 3
    other = Topic("t").subscription("two")
    with pytest.raises(UsageError, match="3 partitions"):
        state.run(consume.register(keys.subscription("two"), "a", 1, source=other))
    assert state.drive(unsubscribe(keys, "one"))
    assert not state.drive(unsubscribe(keys, "one"))
    left = state.drive(topic_stats(keys)).subscriptions
    assert [one.name for one in left] in ([], ["two"])


def test_unsubscribe_leaves_nothing_of_it(one: Sub, two: Sub) -> None:
    """Neither keys nor a group; the other subscription and the log stay as they are."""
    one.publish(b"1", b"2", b"3")
    for sub in (one, two):
        sub.register("a")
        tokens = [sub.take() for _ in range(2)]
        sub.settle("a", reject(tokens[0], "no"), Settlement("retry", tokens[1], 1000))
    before = two.counts()

    assert one.drive(unsubscribe(one.topic, "one"))

    assert one.do("EXISTS", *one.keys.own) == 0
    assert set(one.run(subscriptions(one.topic))) == {"two"}
    assert [group[1] for group in one.do("XINFO", "GROUPS", one.topic.log)] == [b"two"]
    assert two.counts() == before
    assert two.bodies_read() == [b"3"]


def test_a_consumer_makes_it_anew(one: Sub) -> None:
    """After a FLUSHALL it starts as it is declared, and its registry entry is back."""
    one.publish(b"1")
    one.register("a")
    one.do("DEL", one.topic.log, one.topic.subscriptions, *one.keys.own)
    one.publish(b"2", number=2)

    assert one.drive(consume.rejoin(one.keys, "a", 1000, 1, source=one.declared)) == []

    assert one.bodies_read() == [b"2"]
    assert [*one.run(subscriptions(one.topic))] == ["one"]


# How deliveries end: in the log for one subscription, for no other one

ENDS: dict[str, tuple[Callable[[bytes], Settlement], str]] = {
    "ack": (ack, ""),
    "finish": (lambda token: ack(token, plain=False), ""),
    "retry": (lambda token: Settlement("retry", token, 5000, failed=True), "delayed"),
    "reject": (lambda token: reject(token, "no"), "dead"),
    "release": (release, "front"),
}


@pytest.mark.parametrize("verb", ENDS)
def test_an_end_is_one_subscriptions_own(one: Sub, two: Sub, verb: str) -> None:
    """The log keeps its entry, with no owner; what goes on is a copy in the subscription's own."""
    one.put(body="1", extra={"t": "eu", **FOREIGN})
    [entry] = one.entries()
    one.register("a")
    two.register("a")
    token, end = one.take(), ENDS[verb]
    before = two.counts()

    assert one.settle("a", end[0](token)).lost == []

    assert one.entries() == [entry]
    assert one.owners() == {}
    places: dict[str, Any] = {
        "delayed": one.stored(),
        "dead": one.entries("dead"),
        "front": one.entries("front"),
    }
    assert [name for name, what in places.items() if what] == [end[1]] * bool(end[1])
    assert one.settle("a", end[0](token)).lost == [token], "a late end is told"
    assert two.counts() == before
    assert two.bodies_read() == [b"1"]
    if verb == "retry":
        [stored] = places["delayed"].values()
        assert {**stored, "s": ""} == {**entry.fields, "s": ""}
        one.settle("a", now_ms=NOW + 5000)
        [envelope] = one.fetch("a", ("f", 1), now_ms=NOW + 5000).envelopes
        assert (envelope.state.id, envelope.state.attempts) == (entry.id, 1)
        assert one.bodies() == ["1"], "nothing comes back to the log"


def test_of_many_acks_the_lost_ones_are_told(one: Sub) -> None:
    """Each one, whatever their order; the others are done."""
    ids = one.publish(*(b"%d" % n for n in range(10)))
    one.register("a", "b")
    tokens = [envelope.token for envelope in one.fetch("a", ("", 10)).envelopes]
    one.run(hand_over_some(one.keys, "a", crashed=True, max_crashes=3, limit=4, now_ms=NOW))

    found = one.settle("a", acks=tuple(reversed(tokens)))

    assert sorted(found.lost) == tokens[:4]
    assert one.counters() == {"acked": 6, "crashed": 4}
    assert [one.state["id"] for one in one.entries("front")] == ids[:4]


@pytest.mark.parametrize("by", ["sweep", "hand_over"])
def test_crashes_count_for_one_alone(one: Sub, two: Sub, by: str) -> None:
    """Taken over, a suspect, at last dead: the other subscription reads it for the first time."""
    [id] = one.publish(b"1")
    one.register("a")
    for crashes, lane in ((1, "front"), (2, "suspect"), (3, "dead")):
        [envelope] = one.fetch("a", *ALL).envelopes
        stream = {b"f": "front", b"s": "suspect"}.get(envelope.token[:1], "ready")
        if by == "sweep":
            one.set_idle(stream, envelope.token.decode().lstrip("fs"), 40_000)
            one.run(
                sweep(one.keys, "b", lease_ms=30_000, max_crashes=2, now_ms=NOW + crashes * 9999)
            )
        else:
            one.run(hand_over_some(one.keys, "a", crashed=True, max_crashes=2, now_ms=NOW))
        assert one.only(lane).state["crashes"] == crashes
        assert one.only(lane).state["id"] == id
    assert one.bodies() == ["1"]
    assert two.stats().lag == 1

    assert one.drive(admin.redrive(one.keys, ids=None, reason=None, rate=None)) == 1

    assert [one.state["id"] for one in one.entries("front")] == [id]
    assert one.bodies() == ["1"]
    assert two.bodies_read() == [b"1"]


def test_who_leaves_hands_back(one: Sub) -> None:
    """Without blame, and its consumer is gone from the log's group, too."""
    one.publish(b"1")
    one.register("a")
    one.take()

    one.drive(leave(one.keys, "a", max_crashes=3))

    assert one.consumers() == set()
    one.register("b")
    assert one.bodies_read("b") == [b"1"]


# Operators


def test_a_purge_passes_over_the_log(one: Sub, two: Sub) -> None:
    """It is counted; what is in flight stays, and so does all of the other subscription."""
    one.publish(*(b"%d" % n for n in range(1200)))
    one.register("a")
    token = one.take()
    one.delay("5-0", NOW + 1000)

    assert one.drive(admin.purge(one.keys)) == 1200

    assert one.counters()["purged"] == 1200
    stats = one.stats()
    assert (stats.lag, stats.delayed, stats.in_flight) == (0, 0, 1)
    assert one.settle("a", acks=(token,)).lost == []
    one.publish(b"next", number=2)
    assert one.bodies_read() == [b"next"]
    assert two.stats().lag == 1201


def test_what_waits_in_the_log_cannot_be_cancelled(one: Sub) -> None:
    """The error says why; in flight and between tries it can be, and once handled it is not there."""
    ids = one.publish(b"1", b"2", b"3", b"4")
    with pytest.raises(UsageError, match="waits in the log"):
        one.drive(control.cancel(one.keys, ids[3]))
    with pytest.raises(UsageError, match="waits in the log"):
        one.drive(reschedule(one.keys, ids[3], "+5"))
    one.register("a")
    tokens = [one.take() for _ in range(3)]
    one.settle("a", ack(tokens[0]), Settlement("retry", tokens[1], 5000))

    assert [one.drive(control.cancel(one.keys, id, now_ms=NOW)) for id in ids[:3]] == [
        False,
        True,
        True,
    ]

    assert one.bodies() == ["1", "2", "3", "4"]
    assert one.stats().dead == 1
    assert one.settle("a", acks=(tokens[2],)).lost == [tokens[2]]
    assert one.bodies_read() == [b"4"]


def test_a_pause_is_one_subscriptions_own(one: Sub, two: Sub) -> None:
    """It goes on where it stood, also when a purge moved it meanwhile or its group was made again."""
    one.publish(b"1", b"2", b"3")
    one.register("a")
    token = one.take()
    one.run(control.pause(one.keys))

    assert one.bodies_read() == []
    assert two.bodies_read() == [b"1", b"2", b"3"]
    assert (one.stats().lag, one.stats().paused, two.stats().paused) == (2, True, False)
    assert one.settle("a", release(token)).lost == []
    one.run(control.resume(one.keys))
    assert one.bodies_read() == [b"1", b"2", b"3"]

    one.publish(b"4", number=2)
    one.run(control.pause(one.keys))
    assert one.drive(admin.purge(one.keys)) == 1
    one.publish(b"5", number=3)
    assert (one.ready(), one.bodies_read()) == (1, [])
    one.run(control.resume(one.keys))
    assert one.bodies_read() == [b"5"]

    one.run(control.pause(one.keys))
    one.do("XGROUP", "DESTROY", one.topic.log, "one")
    one.register("a")
    assert one.bodies_read() == []
    one.run(control.resume(one.keys))
    assert one.bodies_read() == [b"1", b"2", b"3", b"4", b"5"]


def test_only_what_exists_is_paused(state: State) -> None:
    """Where a subscription would start is not known to whoever pauses."""
    sub = Sub(state, "one")

    with pytest.raises(UsageError, match="no subscription 'one'"):
        sub.run(control.pause(sub.keys))

    assert sub.do("EXISTS", sub.topic.log, *sub.keys.own) == 0


@pytest.mark.parametrize(
    "what", ["all", "some", "deleted", "trimmed", "behind", "sought", "paused", "resumed"]
)
def test_the_lag_is_exact(one: Sub, what: str) -> None:
    """Whatever the server's own count says, which deletions and moves confuse."""
    ids = one.publish(*(b"%d" % n for n in range(1100)))
    one.register("a")
    read = 0 if what == "all" else 50
    one.fetch("a", ("", read)) if read else None
    gone = 0
    if what == "deleted":
        gone = one.do("XDEL", one.topic.log, ids[100], ids[101])
    elif what == "trimmed":
        one.run(retain(one.topic, Retain(max_length=1040, until_consumed=False)))
        assert one.run(trim(one.topic)).deleted == 60
        gone = 10
        one.fetch("a", ("", 1))
        read += 1
    elif what == "behind":
        one.do("XTRIM", one.topic.log, "MINID", ids[40])
    elif what in ("paused", "resumed"):
        one.run(control.pause(one.keys))
        assert one.ready() == 1050
        if what == "resumed":
            one.run(control.resume(one.keys))
            assert one.bodies_read() == [b"%d" % n for n in range(50, 150)]
            read = 150
    elif what == "sought":
        one.do("XGROUP", "SETID", one.topic.log, "one", ids[69])
        read = 70

    assert one.ready() == 1100 - read - gone


def test_the_lag_of_one_that_started_late(state: State) -> None:
    """It counts from where it started, and the server keeps that count where it can."""
    first = Sub(state, "first").subscribe()
    first.publish(b"1", b"2", b"3")
    late = Sub(state, "late").subscribe()
    late.register("a")

    for number, lag in ((2, 2), (3, 4)):
        late.publish(b"4", b"5", number=number)
        assert (late.ready(), first.ready()) == (lag, lag + 3)
    assert late.bodies_read() == [b"4", b"5", b"4", b"5"]
    assert late.ready() == 0


def test_the_oldest_that_is_not_handled(one: Sub) -> None:
    """Wherever it is but in the dead letters."""
    ids = [one.put(body=str(n), id=f"{n}000000000-0") for n in range(1, 5)]
    one.register("a")
    tokens = [one.take() for _ in ids]
    seconds = int(one.do("TIME")[0])

    def oldest() -> int | None:
        age = one.stats().oldest_unhandled
        return None if age is None else round((seconds - age) / 1e6)

    def behind() -> int | None:
        age = one.stats().lag_seconds
        return None if age is None else round((seconds - age) / 1e6)

    assert (oldest(), behind()) == (1, None)
    one.put(body="5", id="5000000000-0")
    assert (oldest(), behind()) == (1, 5)
    one.settle("a", acks=(one.take(),))
    one.settle("a", Settlement("retry", tokens[0], 10**12), now_ms=NOW)
    assert oldest() == 1
    one.settle("a", ack(tokens[1]), release(tokens[2]))
    one.drive(control.cancel(one.keys, ids[0]))
    assert oldest() == 3
    one.settle("a", ack(tokens[3]))
    [envelope] = one.fetch("a", ("f", 1)).envelopes
    one.settle("a", reject(envelope.token, "no"))
    assert oldest() is None


def test_a_full_server(own_server: Server, own_state: State) -> None:
    """A consumer joins and acknowledges; a publish is refused whole, and so is what needs a copy."""
    sub = Sub(own_state, "one", start=EARLIEST).subscribe()
    sub.register("a")
    sub.publish(b"1", b"2")
    tokens = [sub.take(), sub.take()]

    with out_of_memory(own_server):
        sub.register("a")
        with refused("OOM"):
            sub.publish(b"3", number=2)
        assert [*sub.settle("a", release(tokens[1])).kept] == [tokens[1]]
        assert sub.settle("a", acks=(tokens[0],)).lost == []

    assert sub.bodies() == ["1", "2"]
    assert sub.owners() == {tokens[1].decode(): "a"}
