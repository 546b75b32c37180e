"""Retention: retain.lua, trim.lua, expire_subscription.lua, and what trimming does to deliveries."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millstream.policy import Retain
from millstream.protocol import consume, control
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import topic_keys
from millstream.protocol.publish import Publication, publish, publish_some
from millstream.protocol.recover import hand_over, leave, sweep
from millstream.protocol.retention import Removed, Trimmed, remove_forgotten, retain, trim
from millstream.protocol.settlement import Settlement, ack, expire, reject, release
from millstream.protocol.subscriptions import subscribe, subscriptions, topic_stats, unsubscribe
from millstream.topic import EARLIEST, Topic
from tests.lua.state import NOW, State, out_of_memory
from tests.lua.test_topic import Sub
from tests.support.servers import Server
from tests.support.wait import until


def retained(sub: Sub) -> Any:
    """What the topic keeps, as it is stored; None: nobody has said it."""
    text = sub.do("HGET", sub.topic.config, "retain")
    return None if text is None else json.loads(text)


# What is declared


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        (Retain(), {}),
        (Retain(max_age=1.5), {"max_age": 1500}),
        (
            Retain(max_length=2, max_bytes=3, until_consumed=False),
            {"max_length": 2, "max_bytes": 3, "until_consumed": False},
        ),
    ],
)
def test_the_last_one_declared_counts(state: State, policy: Retain, stored: Any) -> None:
    """Whether it comes with a subscription or from who publishes; who says nothing changes nothing."""
    sub = Sub(state, "one", start=EARLIEST).subscribe()
    assert retained(sub) is None
    sub.run(retain(sub.topic, Retain(max_length=1)))
    assert retained(sub) == {"max_length": 1}

    sub.run(retain(sub.topic, policy))
    assert retained(sub) == stored
    sub.subscribe()
    assert retained(sub) == stored

    topic: Topic[Any] = Topic("t", retain=Retain(max_age=7))
    sub.declared = topic.subscription("one", start=EARLIEST)
    sub.subscribe()
    assert retained(sub) == {"max_age": 7000}


def test_a_full_server_learns_to_keep_less(own_server: Server, own_state: State) -> None:
    """A bound is the cure for it, so it is stored."""
    sub = Sub(own_state, "one").subscribe()

    with out_of_memory(own_server):
        sub.run(retain(sub.topic, Retain(max_length=1)))

    assert retained(sub) == {"max_length": 1}


# What goes


@pytest.fixture
def one(state: State) -> Sub:
    return Sub(state, "one", start=EARLIEST).subscribe()


@pytest.fixture
def two(state: State) -> Sub:
    return Sub(state, "two", start=EARLIEST).subscribe()


def put(sub: Sub, *seconds: int, first: int = 1, **extra: Any) -> list[str]:
    """Entries of these times, before `NOW`, with bodies from `first` on."""
    return [
        sub.put(body=str(first + n), id=f"{NOW - 1000 * before}-{n}", **extra)
        for n, before in enumerate(seconds)
    ]


def handle(sub: Sub, count: int, consumer: str = "a") -> None:
    """Read and acknowledge so many."""
    sub.register(consumer)
    tokens = [sub.take(consumer) for _ in range(count)]
    assert sub.settle(consumer, acks=tuple(tokens)).lost == []


def look(sub: Sub, **options: Any) -> Trimmed:
    return sub.run(trim(sub.topic, now_ms=NOW, **options))


def keep(sub: Sub, **options: Any) -> None:
    sub.run(retain(sub.topic, Retain(**options)))


def test_what_all_have_handled_goes(one: Sub, two: Sub) -> None:
    """Without a bound: up to the first that one of them has not read, or has in hand."""
    put(one, *[0] * 6)
    handle(one, 4)
    two.register("a")
    tokens = [two.take() for _ in range(3)]
    assert look(one).deleted == 0

    two.settle("a", acks=(tokens[0], tokens[2]))
    assert look(one) == Trimmed(1, more=False, forgotten=())
    assert one.bodies() == ["2", "3", "4", "5", "6"]

    two.settle("a", acks=(tokens[1],))
    assert look(one).deleted == 2
    assert (one.bodies(), one.bodies_read(), two.bodies_read()) == (
        ["4", "5", "6"],
        [b"5", b"6"],
        [b"4", b"5", b"6"],
    )
    assert one.counters() == {"acked": 4}


def test_a_copy_needs_no_entry(one: Sub) -> None:
    """What waits for another try, came back or is dead has been copied: it stays where it is."""
    put(one, 0, 0, 0)
    one.register("a")
    tokens = [one.take() for _ in range(3)]
    one.settle("a", Settlement("retry", tokens[0], 5000), reject(tokens[1], "no"))
    one.settle("a", release(tokens[2]))

    assert look(one).deleted == 3

    assert one.bodies() == []
    assert one.counts()[:4] == [1, 0, 1, 1]
    assert one.bodies_read() == [b"3"]
    one.put(body="4")
    assert one.bodies_read() == [b"4"]


def test_a_paused_subscription_holds_what_it_has_not_read(one: Sub) -> None:
    """Its group stands behind everything meanwhile; where it stood is what counts."""
    put(one, 0, 0, 0)
    handle(one, 1)
    one.run(control.pause(one.keys))

    assert look(one).deleted == 1

    one.run(control.resume(one.keys))
    assert (one.bodies_read(), one.ready()) == ([b"2", b"3"], 0)


def test_a_group_of_other_hands_holds_messages(one: Sub) -> None:
    """Whoever made it reads by it."""
    put(one, 0, 0)
    handle(one, 2)
    one.do("XGROUP", "CREATE", one.topic.log, "foreign", "0-0")
    assert look(one).deleted == 0

    one.do("XGROUP", "SETID", one.topic.log, "foreign", "$")
    assert look(one).deleted == 2


def test_without_a_subscription_the_bounds_alone_keep_history(state: State) -> None:
    """Nobody has anything to handle."""
    sub = Sub(state, "none")
    put(sub, 9, 8, 7, 0)
    for options, left in (
        ({"max_age": 8}, ["2", "3", "4"]),
        ({"max_length": 2}, ["3", "4"]),
        ({"max_age": 1, "until_consumed": False}, ["4"]),
        ({}, []),
    ):
        keep(sub, **options)
        look(sub)
        assert sub.bodies() == left
    assert look(sub) == Trimmed(0, more=False, forgotten=())


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"max_age": 8}, 8),
        ({"max_age": 3.5, "max_length": 7}, 3),
        ({"max_age": 100, "max_length": 5}, 5),
        ({"max_length": 10}, 9),
        ({"max_length": 1}, 2),
        ({"max_bytes": 1}, 2),
        ({"max_bytes": 10**9}, 9),
    ],
)
def test_any_bound_that_is_exceeded(one: Sub, options: dict[str, Any], left: int) -> None:
    """What is handled goes then, the oldest first; nothing that is not handled does."""
    put(one, 9, 8, 7, 6, 5, 4, 3, 2, 1)
    handle(one, 7)
    keep(one, **options)

    look(one)

    assert one.bodies() == [str(n) for n in range(10 - left, 10)]
    assert look(one).deleted == 0
    assert one.bodies_read() == [b"8", b"9"]
    assert one.stats().trimmed == 0


def test_bytes_are_about_what_the_server_says(one: Sub) -> None:
    """Within a tenth, whatever else there is in the stream."""
    one.publish(*(b"x" * 200 for _ in range(5000)))
    one.register("a")
    one.fetch("a", ("", 5000))
    one.drive(hand_over(one.keys, "a", crashed=False, max_crashes=3))
    keep(one, max_bytes=500_000)

    look(one)

    assert 450_000 < one.do("MEMORY", "USAGE", one.topic.log) <= 510_000


@pytest.mark.parametrize("options", [{}, {"max_age": 1}, {"max_length": 5}])
def test_so_many_a_call(one: Sub, options: dict[str, Any]) -> None:
    """A call says whether there is more; the end is the same."""
    for number in range(7):
        one.publish(*(b"%d" % n for n in range(500)), number=number + 1)
    one.register("a")
    one.settle("a", acks=tuple(envelope.token for envelope in one.fetch("a", ("", 4000)).envelopes))
    keep(one, **options)
    late = {"now_ms": 2 * NOW}

    calls = [one.run(trim(one.topic, limit=1000, **late))]
    while calls[-1].more:
        assert 0 < calls[-1].deleted <= 1000
        calls.append(one.run(trim(one.topic, limit=1000, **late)))

    assert len(calls) >= 4
    assert sum(call.deleted for call in calls) == 3500 - options.get("max_length", 0)


def test_unread_messages_go_only_when_that_is_asked_for(one: Sub, two: Sub) -> None:
    """Each that a subscription has not read counts there; the others have missed less."""
    put(one, 9, 8, 7, 6, 5, 4, 3, 2, 1)
    three = Sub(one, "three", start=EARLIEST).subscribe()
    handle(one, 2)
    handle(two, 6)
    keep(one, max_length=4, until_consumed=False)

    assert look(one).deleted == 5

    assert [sub.stats().trimmed for sub in (one, two, three)] == [3, 0, 5]
    assert [sub.stats().lag for sub in (one, two, three)] == [4, 3, 4]
    three.register("a")
    read = [sub.bodies_read() for sub in (one, two, three)]
    assert read == [[b"6", b"7", b"8", b"9"], [b"7", b"8", b"9"], [b"6", b"7", b"8", b"9"]]
    put(one, 0, 0, first=10)
    assert [sub.stats().lag for sub in (one, two, three)] == [2, 2, 2]

    keep(one, max_age=10**9, max_length=1, until_consumed=False)
    assert look(one).deleted == 5
    assert [sub.stats().trimmed for sub in (one, two, three)] == [4, 1, 6]
    assert [sub.bodies_read() for sub in (one, two, three)] == [[b"11"]] * 3


def test_one_that_is_paused_misses_messages_too(one: Sub) -> None:
    """It goes on with the first that is left, and they are counted."""
    ids = one.publish(*(b"%d" % n for n in range(10)))
    handle(one, 2)
    one.run(control.pause(one.keys))
    keep(one, max_length=3, until_consumed=False)

    assert look(one).deleted == 7

    assert (one.stats().trimmed, one.stats().lag) == (5, 3)
    one.run(control.resume(one.keys))
    assert [one.take().decode() for _ in range(2)] == ids[7:9]
    assert one.stats().lag == 1


def test_a_group_of_other_hands_gets_no_counters(state: State) -> None:
    """It may miss messages as others do, and leaves nothing behind by that."""
    sub = Sub(state, "none")
    put(sub, 0, 0, 0)
    sub.do("XGROUP", "CREATE", sub.topic.log, "foreign", "0-0")
    keep(sub, max_length=1, until_consumed=False)

    assert look(sub).deleted == 2

    foreign = sub.topic.subscription("foreign")
    assert sub.do("EXISTS", foreign.counters, foreign.paused) == 0


@pytest.mark.parametrize("verb", ["ack", "finish", "retry", "reject", "release", "expire"])
def test_what_is_in_flight_when_it_goes(one: Sub, verb: str) -> None:
    """An acknowledgement counts; any other end has nothing to go on with, and counts as trimmed."""
    put(one, 0, 0, 0)
    one.register("a")
    token = one.take()
    keep(one, max_length=1, until_consumed=False)
    look(one)
    assert one.counts()[:2] == [1, 1]
    assert one.stats().trimmed == 1

    end = {
        "ack": ack(token),
        "finish": ack(token, plain=False),
        "retry": Settlement("retry", token, 0, failed=True),
        "reject": reject(token, "no"),
        "release": release(token),
        "expire": expire(token),
    }[verb]
    assert one.settle("a", end).lost == []

    handled = verb in ("ack", "finish")
    assert one.counts() == [1, 0, 0, 0, int(handled), 0]
    assert one.stats().trimmed == 1 + (not handled)
    assert one.settle("a", end).lost == [token]


@pytest.mark.parametrize("how", ["sweep", "hand over"])
def test_a_lost_delivery_of_what_is_gone(one: Sub, how: str) -> None:
    """Nothing is left to take over; it is counted, and its record goes."""
    put(one, 0, 0, 0)
    one.register("a", "b")
    one.take()
    keep(one, max_length=1, until_consumed=False)
    look(one)
    if how == "sweep":
        one.do("HSET", one.keys.consumers, "a", 0)
        swept = one.run(sweep(one.keys, "b", lease_ms=0, max_crashes=3, now_ms=NOW))
        assert (swept.moved, swept.died) == (0, 0)
    else:
        done = one.drive(hand_over(one.keys, "a", crashed=True, max_crashes=3))
        assert (done.moved, done.died) == (0, 0)

    assert one.owners() == {}
    assert one.counts() == [1, 0, 0, 0, 0, 0]
    assert one.stats().trimmed == 2


def test_a_lease_of_what_is_gone_is_not_extended(one: Sub) -> None:
    """It can be acknowledged for as long as the lease lasts that it has; others begin theirs anew."""
    put(one, 0, 0, 0)
    one.register("a")
    tokens = [one.take() for _ in range(3)]
    keep(one, max_length=1, until_consumed=False)
    look(one)
    one.settle("a", acks=(tokens[1],))

    assert one.run(consume.extend(one.keys, "a", tokens, idle_ms=7000)) == [tokens[1]]
    assert one.run(consume.extend(one.keys, "b", tokens[:1])) == [tokens[0]]

    rows = one.do("XPENDING", one.topic.log, "one", "-", "+", 10)
    assert [(row[0], row[2] >= 7000) for row in rows] == [(tokens[0], False), (tokens[2], True)]
    assert one.settle("a", acks=(tokens[0],)).lost == []


@pytest.mark.parametrize("how", ["ack", "reject", "hand over"])
def test_the_next_of_its_key_goes_on(state: State, how: str) -> None:
    """Of a message that is gone nobody knows the key any more; its gate opens all the same."""
    sub = Sub(state, "one", start=EARLIEST)
    sub.declared = Topic("t", ordered=True).subscription("one", start=EARLIEST)
    sub.subscribe()
    some = [Publication(body=b"%d" % n, key="k", gate="ordered") for n in range(3)]
    sub.run(publish_some(sub.topic, "p", 1, some))
    sub.register("a", "b")
    sieve = sub.declared.limits

    def read(consumer: str, *ends: Settlement) -> list[Envelope]:
        reads = [("f", 10), ("", 10)]
        return sub.run(consume.fetch(sub.keys, consumer, ends, reads, limits=sieve)).envelopes

    [first] = read("a")
    assert read("b") == []
    keep(sub, max_length=1, until_consumed=False)
    assert look(sub).deleted == 2

    if how == "hand over":
        sub.drive(hand_over(sub.keys, "a", crashed=True, max_crashes=3))
    else:
        end = ack(first.token, plain=False) if how == "ack" else reject(first.token, "no")
        assert read("a", end)[0].body == b"1"
        sub.drive(hand_over(sub.keys, "a", crashed=False, max_crashes=3))
    assert [one.body for one in read("b")] == [b"1"]


def test_somebody_has_just_looked(one: Sub) -> None:
    """Then there is nothing to do, unless that one has left some; a clock that was set back stops nobody."""
    put(one, 0)
    handle(one, 1)
    assert look(one).deleted == 1

    put(one, -1)
    handle(one, 1)
    assert look(one, quiet_ms=1000).deleted == 0
    assert one.run(trim(one.topic, now_ms=NOW + 1000, quiet_ms=1000)).deleted == 1
    put(one, -2)
    handle(one, 1)
    assert one.run(trim(one.topic, now_ms=NOW - 10_000, quiet_ms=1000)).deleted == 1


def test_nothing_is_made_where_nothing_is(state: State) -> None:
    """A look at a topic that nobody has published to leaves no key."""
    sub = Sub(state, "one")

    assert look(sub) == Trimmed(0, more=False, forgotten=())

    assert sub.do("EXISTS", sub.topic.log, sub.topic.counters, sub.topic.idle) == 0


def test_a_full_server_is_trimmed(own_server: Server, own_state: State) -> None:
    """What goes frees memory; what is missed by that is counted all the same."""
    sub = Sub(own_state, "one", start=EARLIEST).subscribe()
    put(sub, 0, 0, 0, 0)
    handle(sub, 2)

    with out_of_memory(own_server):
        assert look(sub) == Trimmed(2, more=False, forgotten=())
        assert look(sub) == Trimmed(0, more=False, forgotten=())
        keep(sub, max_length=1, until_consumed=False)
        assert look(sub).deleted == 1

    assert (sub.bodies(), sub.stats().trimmed, sub.stats().lag) == (["4"], 1, 1)


@pytest.mark.parametrize("entries", [1, 7])
def test_nodes_of_any_size(own_server: Server, own_state: State, entries: int) -> None:
    """What goes does not follow from how the server stores a stream."""
    own_server.admin().config_set("stream-node-max-entries", entries)
    sub = Sub(own_state, "one", start=EARLIEST).subscribe()
    put(sub, *range(30, 0, -1))
    handle(sub, 25)
    try:
        for options, left in (({"max_length": 22}, 22), ({"max_age": 10.5}, 10), ({}, 5)):
            keep(sub, **options)
            look(sub)
            assert sub.bodies() == [str(n) for n in range(31 - left, 31)]
    finally:
        own_server.admin().config_set("stream-node-max-entries", 100)


def test_a_thousand_subscriptions(state: State) -> None:
    """All of them are asked, and the slowest holds the log, in some ms."""
    subs = [Sub(state, f"s{n}", start=EARLIEST).subscribe() for n in range(1000)]
    put(subs[0], *[0] * 10)
    for n, sub in enumerate(subs):
        sub.do("XGROUP", "SETID", sub.topic.log, sub.keys.group, f"{NOW}-{4 + n % 3}")
    handle(subs[7], 1)

    begin = subs[0].do("TIME")
    assert look(subs[0]).deleted == 5
    end = subs[0].do("TIME")
    keep(subs[0], max_length=1, until_consumed=False)
    assert look(subs[0]).deleted == 0
    assert subs[0].run(trim(subs[0].topic, now_ms=NOW + 200)).deleted == 4

    took = (int(end[0]) - int(begin[0])) * 1000 + (int(end[1]) - int(begin[1])) / 1000
    assert took < 1000  # a machine that does much else
    assert [sub.stats().trimmed for sub in subs[:3]] == [4, 3, 2]


# Subscriptions that nobody needs


def forgotten(sub: Sub, after: float = 0, **options: Any) -> tuple[str, ...]:
    """What a look finds so many seconds after `NOW`."""
    return sub.run(trim(sub.topic, now_ms=NOW + round(1000 * after), **options)).forgotten


def expire_now(sub: Sub, after: float = 0, **options: Any) -> Removed | None:
    now_ms = NOW + round(1000 * after)
    return sub.drive(remove_forgotten(sub.topic, sub.keys.subscription, now_ms=now_ms, **options))


def test_one_that_never_had_a_consumer(state: State) -> None:
    """It lives as long as it is declared to, from the first look on, and is removed with all it had."""
    sub = Sub(state, "one", start=EARLIEST, expires=100).subscribe()
    stays = Sub(state, "two", start=EARLIEST, expires=None).subscribe()
    put(sub, 0, 0, 0)
    assert [forgotten(sub, t) for t in (0, 9.9, 10, 99.9)] == [(), (), (), ()]
    assert expire_now(sub, 99.9) is None

    assert forgotten(sub, 110) == ("one",)
    assert expire_now(sub, 110) == Removed(110_000, 3, 0)

    assert sub.do("EXISTS", *sub.keys.own) == 0
    assert set(sub.run(subscriptions(sub.topic))) == {"two"}
    assert stays.stats().lag == 3
    assert forgotten(sub, 10**6) == ()
    assert expire_now(sub, 10**6) is None
    assert expire_now(stays, 10**6) is None


def test_declaring_it_is_a_use(state: State) -> None:
    """So is a consumer that comes and goes; the time begins anew."""
    sub = Sub(state, "one", expires=100).subscribe()
    put(sub, 0)
    assert forgotten(sub) == ()
    sub.subscribe()
    assert (forgotten(sub, 110), forgotten(sub, 199)) == ((), ())
    sub.register("a")
    sub.fetch("a", ("", 1))
    sub.drive(leave(sub.keys, "a", max_crashes=3))
    assert (forgotten(sub, 230), forgotten(sub, 320)) == ((), ())

    assert forgotten(sub, 331) == ("one",)


def test_a_consumer_that_lives(state: State) -> None:
    """It is heard of now and then; a time that is shorter than that does not change it."""
    sub = Sub(state, "one", expires=1).subscribe()
    put(sub, 0)
    sub.register("a")
    sub.take()

    assert forgotten(sub, 1000) == ()
    assert expire_now(sub, 1000) is None


def test_a_consumer_that_died(state: State) -> None:
    """It is listed for ever when nobody sweeps; how long it has been silent is what counts."""
    sub = Sub(state, "one", start=EARLIEST, expires=1).subscribe()
    put(sub, 0, 0, 0)
    sub.register("a", "b")
    tokens = [sub.take("b"), sub.take("b"), sub.take("b")]
    sub.settle("b", reject(tokens[0], "no"), Settlement("retry", tokens[1], 5000))
    # The time of consumers is the server's own.
    until(lambda: sub.do("XINFO", "CONSUMERS", sub.topic.log, "one")[0][5] > 1000)

    assert forgotten(sub) == ()
    assert forgotten(sub, 1, living_ms=500) == ("one",)
    done = expire_now(sub, living_ms=500)

    assert done is not None
    assert (1000 < done.idle_ms < 60_000, done.unhandled, done.dead) == (True, 2, 1)
    assert sub.do("XINFO", "GROUPS", sub.topic.log) == []
    look(sub)
    assert sub.bodies() == []


def test_it_goes_from_all_partitions_or_none(state: State) -> None:
    """Whichever of them was looked at; a consumer in another one keeps it."""
    topic: Topic[Any] = Topic("t", ordered=True, partitions=3)
    declared = topic.subscription("one", start=EARLIEST, expires=100)
    keys = topic_keys(state.keys.namespace, "t")
    state.drive(subscribe(keys, declared))
    for number in range(3):
        state.run(publish(keys.at(number), "p", 1, [b"%d" % number]))
    at = keys.at(2)
    assert state.run(trim(at, now_ms=NOW)).forgotten == ()
    late = NOW + 200_000
    assert state.run(trim(at, now_ms=late)).forgotten == ("one",)
    own = keys.at(1).subscription("one")
    state.run(consume.register(own, "a", 1000, 3, source=declared))
    state.run(consume.fetch(own, "a", reads=[("", 1)]))

    assert state.drive(remove_forgotten(at, "one", now_ms=late)) is None
    assert state.drive(topic_stats(keys)).subscriptions[0].lag == 2
    state.drive(leave(own, "a", max_crashes=3))

    assert state.drive(remove_forgotten(at, "one", now_ms=late)) == Removed(200_000, 3, 0)
    assert state.drive(topic_stats(keys)).subscriptions == ()


def test_unsubscribe_leaves_no_note(state: State) -> None:
    """One of the same name that comes later is as new as any."""
    sub = Sub(state, "one", expires=100).subscribe()
    forgotten(sub)
    assert sub.do("HGET", sub.topic.idle, "one") is not None

    sub.drive(unsubscribe(sub.topic, "one"))

    assert sub.do("HGET", sub.topic.idle, "one") is None
