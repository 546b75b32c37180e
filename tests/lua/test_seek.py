"""seek.lua: a subscription goes on from another place in the log, and extend.lua, which a seek needs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from millstream.errors import UsageError
from millstream.protocol import admin, consume, control
from millstream.protocol.keys import TopicKeys, topic_keys
from millstream.protocol.publish import Publication, publish_some
from millstream.protocol.recover import hand_over_some, leave
from millstream.protocol.seek import move, running, seek
from millstream.protocol.settlement import Settlement, ack, reject, release
from millstream.protocol.subscriptions import subscribe, topic_stats
from millstream.protocol.watch import Watch, listen
from millstream.topic import EARLIEST, LATEST, Start, Subscription, Topic
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server
from tests.support.wait import until

ALL = (("s", 1), ("f", 100), ("", 100))


class Sub(State):
    """One subscription of the topic `t`; `ready` is its log."""

    def __init__(
        self, state: State, name: str = "one", *, ordered: bool = False, **options: Any
    ) -> None:
        self.driver = state.driver
        self.topic: TopicKeys = topic_keys(state.keys.namespace, "t")
        self.keys = self.topic.subscription(name)
        topic: Topic[Any] = Topic("t", ordered=ordered)
        self.declared: Subscription[Any] = topic.subscription(
            name, **{"start": EARLIEST, **options}
        )
        self.drive(subscribe(self.topic, self.declared))

    def register(self, *consumers: str, lease_ms: int = 30_000) -> None:
        for name in consumers:
            self.run(consume.register(self.keys, name, lease_ms, 1, source=self.declared))

    def publish(self, *bodies: str, number: int = 1, key: str = "") -> list[str]:
        gate = "ordered" if key else ""
        batch = [Publication(body=one.encode(), key=key, gate=gate) for one in bodies]
        return [one.id for one in self.run(publish_some(self.topic, "p", number, batch))]

    def read(self, consumer: str = "a", most: int = 100, now_ms: int = NOW) -> dict[bytes, str]:
        """Token and body of what comes."""
        reads = [("s", 1), ("f", most), ("", most)]
        if self.declared.limits is None:
            reads = reads if most == 100 else [("", most)]
        limits = self.declared.limits
        found = self.run(
            consume.fetch(self.keys, consumer, reads=reads, limits=limits, now_ms=now_ms)
        )
        return {one.token: (one.body or b"").decode() for one in found.envelopes}

    def end(self, consumer: str, *ends: Settlement, acks: tuple[bytes, ...] = ()) -> list[bytes]:
        """Settle; the tokens that were refused."""
        limits = self.declared.limits
        op = consume.fetch(self.keys, consumer, ends, acks=acks, limits=limits, now_ms=NOW)
        found = self.run(op)
        assert found.kept == {}
        return [*found.lost]

    def seek(self, to: Start | datetime | str, *, force: bool = True) -> int:
        return self.drive(seek(self.keys, to, force=force))

    def lag(self) -> int:
        """By the subscription alone, and by the topic: both must say the same."""
        alone = self.run(admin.stats(self.keys)).ready
        [lag] = [
            one.lag
            for one in self.drive(topic_stats(self.topic)).subscriptions
            if one.name == self.keys.subscription
        ]
        assert alone == lag
        return alone

    def forgotten(self) -> bool:
        """Whether nothing is left of what it was about to do."""
        keys = self.keys
        rest = (keys.due, keys.delayed, keys.priority, keys.lines, keys.holders, keys.unique)
        lanes = any(self.entries(one) for one in ("front", "suspect"))
        return not (lanes or any(map(self.owners, ("ready", "front", "suspect")))) and not self.do(
            "EXISTS", *rest
        )


@pytest.fixture
def one(state: State) -> Sub:
    sub = Sub(state)
    sub.register("a", "b")
    return sub


# Where to


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (EARLIEST, "1234"),
        (LATEST, ""),
        ("5000-7", "234"),
        ("5000-8", "34"),
        ("1-0", "1234"),
        (datetime.fromtimestamp(6, UTC), "34"),
        (datetime.fromtimestamp(-1, UTC), "1234"),
        (datetime.fromtimestamp(8, UTC), ""),
    ],
)
@pytest.mark.parametrize("read", [0, 2, 4])
def test_what_comes_next(state: State, to: Any, expected: str, read: int) -> None:
    """The log from that place on, wherever it stood before; the lag says so, and counts on."""
    sub = Sub(state)
    sub.register("a")
    for id, body in (("5000-6", "1"), ("5000-7", "2"), ("6000-0", "3"), ("7000-0", "4")):
        sub.put(body=body, id=id)
    if read:
        sub.end("a", acks=tuple(sub.read(most=read)))

    assert sub.seek(to) == len(expected)

    assert sub.lag() == len(expected)
    sub.put(body="5", id="8000-0")
    assert sub.lag() == len(expected) + 1
    first = sub.read(most=1)
    assert sub.lag() == len(expected)
    assert "".join([*first.values(), *sub.read().values()]) == expected + "5"
    assert sub.lag() == 0


def test_before_the_oldest_is_the_oldest(one: Sub) -> None:
    """Retention may have deleted what the place names."""
    ids = one.publish("1", "2", "3")
    one.end("a", acks=tuple(one.read()))
    one.do("XTRIM", one.topic.log, "MINID", ids[1])

    for to in (EARLIEST, ids[0], datetime.fromtimestamp(0, UTC)):
        assert one.seek(to) == 2
        assert [*one.read().values()] == ["2", "3"]


def test_others_stay_where_they_are(state: State, one: Sub) -> None:
    """A seek is one subscription's own."""
    two = Sub(state, "two")
    two.register("a")
    ids = one.publish("1", "2", "3")
    [token] = two.read(most=1)
    one.read()

    one.seek(EARLIEST)
    one.seek(LATEST)

    assert two.owners() == {ids[0]: "a"}
    assert two.end("a", acks=(token,)) == []
    assert [*two.read().values()] == ["2", "3"]
    assert one.bodies() == ["1", "2", "3"]


# What becomes of what it had to do


def busy(sub: Sub) -> dict[str, bytes]:
    """Have a message in each place where one may be; tokens of those in flight."""
    sub.publish(*"1234567")
    tokens = [*sub.read(most=6)]
    ends = [Settlement("retry", tokens[0], 5000), release(tokens[1]), release(tokens[2])]
    sub.end("a", *ends, reject(tokens[3], "no"))
    [front] = [one.token for one in sub.fetch("a", ("f", 1)).envelopes]
    sub.put("suspect", "9", state={"id": tokens[4].decode(), "crashes": 2})
    [[_, [[suspect, _]]]] = sub.do(
        *("XREADGROUP", "GROUP", sub.keys.group, "a", "STREAMS", sub.keys.suspect, ">")
    )
    return {"log": tokens[4], "front": front, "suspect": b"s" + suspect}


@pytest.mark.parametrize("to", [EARLIEST, LATEST])
def test_what_was_not_done_is_forgotten(state: State, to: Start) -> None:
    """In flight, delayed, handed back or suspect: the place alone decides. Dead letters stay."""
    sub = Sub(state)
    sub.register("a", "b")
    in_flight = busy(sub)

    assert sub.seek(to) == (7 if to is EARLIEST else 0)

    assert sub.forgotten()
    assert [one.body for one in sub.entries("dead")] == ["4"]
    assert sub.end("a", *(ack(one) for one in in_flight.values())) == [*in_flight.values()]
    assert "".join(sub.read("b", now_ms=NOW + 9000).values()) == (
        "1234567" if to is EARLIEST else ""
    )
    assert sub.drive(admin.redrive(sub.keys, ids=None, reason=None, rate=None)) == 1
    assert [*sub.read("b").values()] == ["4"]


@pytest.mark.parametrize("to", [EARLIEST, LATEST])
def test_an_ordered_subscription(state: State, to: Start) -> None:
    """Gates and lines are empty, so each key goes on, in order; what had a gate cannot free it late."""
    sub = Sub(state, ordered=True)
    sub.register("a", "b")
    sub.publish(*"123", key="k")
    sub.publish(*"456", key="l", number=2)
    tokens = sub.read()
    assert [*tokens.values()] == ["1", "4"]
    assert len(sub.lines()) == 4

    sub.seek(to)

    assert sub.forgotten()
    sub.publish("7", key="k", number=3)
    expected = {"k": "1237", "l": "456"} if to is EARLIEST else {"k": "7"}
    first = [some[0] for some in expected.values()]
    again = sub.read("b")
    assert [*again.values()] == first
    late = [*tokens]
    assert sub.end("a", *(ack(one, plain=False) for one in late)) == late
    assert sub.read("b") == {}, "a late end frees no gate"
    seen = "".join(first)
    while again:
        sub.end("b", *(ack(one, plain=False) for one in again))
        again = sub.read("b")
        seen += "".join(again.values())
    for key in expected.values():
        assert [one for one in seen if one in key] == [*key]
    assert sub.forgotten()


# Whoever had a delivery before does not own the one that comes after


@pytest.mark.parametrize(
    "end",
    [
        ack,
        lambda token: ack(token, plain=False),
        release,
        lambda token: reject(token, "no"),
        lambda token: Settlement("retry", token, 5),
    ],
)
def test_a_late_end_is_refused(one: Sub, end: Any) -> None:
    """Although the entry is in flight again, under the same id: another consumer has it."""
    [id] = one.publish("1")
    [token] = one.read("a")
    one.seek(EARLIEST)
    assert [*one.read("b")] == [token]

    assert one.end("a", end(token)) == [token]

    assert one.owners() == {id: "b"}
    assert one.end("b", end(token)) == []
    assert one.owners() == {}


def test_late_acks_are_refused(one: Sub) -> None:
    """Those of many that are of others; the rest are done."""
    one.publish("1", "2", "3")
    tokens = [*one.read("a")]
    one.seek(EARLIEST)
    one.read("b", most=2)
    one.read("a", most=1)

    assert one.end("a", acks=tuple(tokens)) == tokens[:2]

    assert one.counters()["acked"] == 1
    assert sorted(one.owners().values()) == ["b", "b"]
    assert one.end("b", acks=tuple(tokens[:2])) == []


def test_a_late_extension_takes_nothing(one: Sub) -> None:
    """The lease of a delivery is extended by its owner alone, before a seek and after it."""
    ids = one.publish("1", "2")
    tokens = [*one.read("a")]
    one.set_idle("ready", ids[0], 20_000)
    assert one.run(consume.extend(one.keys, "a", [*tokens, b"1-1"])) == [b"1-1"]
    one.seek(EARLIEST)
    one.read("b", most=1)

    assert one.run(consume.extend(one.keys, "a", tokens)) == tokens

    assert one.owners() == {ids[0]: "b"}
    assert one.run(consume.extend(one.keys, "b", tokens, idle_ms=7000)) == tokens[1:]
    [[_, _, idle, _]] = one.do("XPENDING", one.topic.log, "one", "-", "+", 10)
    assert 7000 <= idle < 20_000
    assert one.run(control.look(one.keys, "b", tokens[:1])) == ([], False)


def test_the_same_consumer_owns_what_it_is_given_again(one: Sub) -> None:
    """It is one delivery with one end."""
    one.publish("1")
    [token] = one.read("a")
    one.seek(EARLIEST)
    assert [*one.read("a")] == [token]

    assert one.end("a", ack(token)) == []
    assert one.end("a", ack(token)) == [token]


def test_no_entry_gets_the_id_of_one_before(one: Sub) -> None:
    """What was handed back and forgotten is never mistaken for what is handed back later."""
    one.publish("1")
    # The next one of the same moment, as it were.
    ahead = f"{10**14}-5"
    one.put("front", "2", id=ahead)
    assert next(iter(one.read("a"))) == f"f{ahead}".encode()
    one.seek(EARLIEST)

    one.end("b", *(release(token) for token in one.read("b")))

    assert [*one.read("b")] == [f"f{10**14}-6".encode()]


# Consumers that run


def test_refused_while_a_consumer_runs(one: Sub) -> None:
    """The error names them and says what to do; nothing has moved. Who has left is no hindrance."""
    one.publish("1", "2")
    tokens = one.read("a")

    with pytest.raises(UsageError, match=r"^subscription 't/one' has consumers .*\(a\).*force"):
        one.seek(EARLIEST, force=False)

    assert one.end("a", acks=tuple(tokens)) == []
    one.drive(leave(one.keys, "a", max_crashes=3))
    assert one.seek(EARLIEST, force=False) == 2


def test_who_is_gone_is_forgotten(one: Sub) -> None:
    """Who has not asked for some time, and for longer than its lease, does not run; its name goes."""
    one.publish("1", "2")
    one.read("a", most=1)
    one.read("b", most=1)
    assert sorted(one.run(running(one.keys, gone_after_ms=0))) == ["a", "b"]
    one.register("a", lease_ms=1)
    until(lambda: one.run(running(one.keys, gone_after_ms=0)) == ["b"])
    assert sorted(one.run(running(one.keys))) == ["a", "b"]

    one.run(move(one.keys, "0-0", gone_after_ms=0))

    assert one.consumers() == {"b"}
    assert one.leases() == {"b": "30000"}
    assert one.owners() == {}


def test_only_what_exists(state: State) -> None:
    """Nobody knows where a subscription would be that nobody has made."""
    sub = Sub(state)
    other = Sub.__new__(Sub)
    other.driver, other.topic, other.keys = sub.driver, sub.topic, sub.topic.subscription("two")

    with pytest.raises(UsageError, match="topic 't' has no subscription 'two'"):
        other.seek(EARLIEST)

    assert sub.do("EXISTS", *other.keys.own) == 0


# Paused, asleep, full


def test_a_paused_subscription_stays_paused(one: Sub) -> None:
    """It goes on from the new place, and its lag is that of it meanwhile."""
    ids = one.publish("1", "2", "3")
    one.end("a", acks=tuple(one.read()))
    one.run(control.pause(one.keys))

    for to, lag in ((EARLIEST, 3), (LATEST, 0), (ids[1], 2)):
        assert (one.seek(to), one.lag()) == (lag, lag)
        assert one.read() == {}
    one.publish("4", number=2)
    assert one.lag() == 3
    one.run(control.resume(one.keys))
    assert one.lag() == 3
    assert [*one.read().values()] == ["2", "3", "4"]
    assert one.do("EXISTS", one.keys.paused) == 0


def test_readers_that_sleep_are_woken(one: Sub) -> None:
    """One entry for each consumer; workers are told, too."""
    one.publish("1")
    one.end("a", acks=tuple(one.read()))

    one.seek(EARLIEST)

    assert one.wakes() == [{"sought": "1"}] * 2
    found = one.run(listen([(one.keys, Watch())], "a", 1000))[0]
    assert len(found.woken) == 1
    [[_, told]] = one.do("XRANGE", one.keys.control, "-", "+")
    assert told == [b"op", b"seek"]


def test_what_crashes_later_is_counted_from_there(one: Sub) -> None:
    """A seek forgets the counts of a message, too: it comes from the log as it was published."""
    one.publish("1")
    one.read("a")
    one.run(hand_over_some(one.keys, "a", crashed=True, max_crashes=3, now_ms=NOW))
    one.seek(EARLIEST)

    [envelope] = one.fetch("b", *ALL).envelopes

    assert (envelope.state.crashes, envelope.state.attempts) == (0, 0)


def test_needs_no_memory(own_server: Server, own_state: State) -> None:
    """It frees some, so a full server lets it."""
    sub = Sub(own_state)
    sub.register("a")
    sub.publish("1", "2")
    sub.end("a", *(release(token) for token in sub.read()))

    with out_of_memory(own_server):
        assert sub.seek(EARLIEST) == 2

    assert [*sub.read().values()] == ["1", "2"]


def test_each_partition(state: State) -> None:
    """All of them go there; an id is a time in other partitions than its own."""
    topic: Topic[Any] = Topic("t", ordered=True, partitions=2)
    keys = topic_keys(state.keys.namespace, "t")
    state.drive(subscribe(keys, topic.subscription("one")))
    for number in range(2):
        for ms in (1000, 2000, 3000):
            state.do("XADD", keys.at(number).log, f"{ms}-0", "b", str(ms))
            state.do("XADD", keys.at(number).log, f"{ms}-1", "b", str(ms))
    own = keys.subscription("one")

    assert state.drive(seek(own, EARLIEST, force=False)) == 12
    assert state.drive(seek(own, "2000-1", force=False)) == 7
    assert state.drive(seek(own, "2000-1/1", force=False)) == 7
    assert state.run(admin.stats(own)).ready == 4
    assert state.drive(seek(own, datetime.fromtimestamp(3, UTC), force=False)) == 4
    assert state.drive(seek(own, LATEST, force=False)) == 0
