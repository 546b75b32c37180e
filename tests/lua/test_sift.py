"""sift.lua: a subscription reads what passes its filter and the gates of its keys, and sleeps well."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from millstream.driver.blocking import BlockingDriver
from millstream.protocol import admin, consume, control
from millstream.protocol.consume import Fetched
from millstream.protocol.keys import TopicKeys, topic_keys
from millstream.protocol.limits import Outlook
from millstream.protocol.publish import Publication, publish, publish_some
from millstream.protocol.recover import hand_over_some, leave
from millstream.protocol.settlement import Settlement, ack, reject, release
from millstream.protocol.sift import LOOKED_AT
from millstream.protocol.subscriptions import subscribe, topic_stats
from millstream.protocol.watch import Watch, listen
from millstream.subject import matches
from millstream.topic import EARLIEST, LATEST, Subscription, Topic
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server

MORE, EMPTY = Outlook("more"), Outlook("empty")


class Sub(State):
    """One subscription of the topic `t`, with a filter or ordered; `ready` is its log."""

    def __init__(
        self,
        state: State,
        name: str = "one",
        *,
        ordered: bool = False,
        consumers: Sequence[str] = ("a", "b"),
        **options: Any,
    ) -> None:
        self.driver = state.driver
        self.topic: TopicKeys = topic_keys(state.keys.namespace, "t")
        self.keys = self.topic.subscription(name)
        topic: Topic[Any] = Topic("t", ordered=ordered)
        self.declared: Subscription[Any] = topic.subscription(
            name, **{"start": EARLIEST, **options}
        )
        self.gate = "ordered" if ordered else ""
        self.number = 0
        self.drive(subscribe(self.topic, self.declared))
        self.register(*consumers)

    def register(self, *consumers: str, lease_ms: int = 30_000) -> None:
        for name in consumers:
            op = consume.register(self.keys, name, lease_ms, 1, source=self.declared)
            self.run(op)

    def publish(self, *messages: tuple[str, str, str]) -> list[str]:
        """Body, key and subject of each; their ids."""
        self.number += 1
        batch = [
            Publication(body=body.encode(), key=key, subject=subject, gate=key and self.gate)
            for body, key, subject in messages
        ]
        return [
            one.id
            for one in self.run(publish_some(self.topic, self.keys.group, self.number, batch))
        ]

    def publish_plain(self, *bodies: bytes) -> None:
        self.number += 1
        self.run(publish(self.topic, self.keys.group, self.number, bodies))

    def sift(
        self,
        consumer: str = "a",
        most: int = 10,
        ends: Sequence[Settlement] = (),
        acks: Sequence[bytes] = (),
        now_ms: int | None = None,
    ) -> Fetched:
        reads = [("s", 1), ("f", most), ("", most)] if most else []
        limits = self.declared.limits
        return self.run(
            consume.fetch(
                *(self.keys, consumer, ends, reads), acks=acks, limits=limits, now_ms=now_ms
            )
        )

    def sleep(self, consumer: str = "a") -> Fetched:
        """What a sleep brings that is there already; it does not last."""
        return self.run(listen([(self.keys, Watch(sieved=True))], consumer, 1))[0]

    def notes(self) -> dict[str, str]:
        flat = [text.decode() for text in self.do("HGETALL", self.topic.sleepers)]
        return {
            name: note.partition(" ")[2] for name, note in zip(flat[::2], flat[1::2], strict=True)
        }

    def clean(self) -> bool:
        """Whether nothing is left of messages but their dead letters and the log."""
        rest = (self.keys.holders, self.keys.lines, self.keys.delayed, self.keys.due)
        return not self.do("EXISTS", *rest) and not any(map(self.bodies, ("front", "suspect")))


def bodies(found: Fetched) -> list[bytes | None]:
    return [one.body for one in found.envelopes]


some_subjects = st.lists(st.sampled_from(["", "eu", "us", "eu.a", "eu.b.c", "a%.b"]), max_size=6)
some_filters = st.sampled_from(["eu", "eu.*", "eu.>", ">", "*", "*.b", "a%.b", "*.*.c"])
names = itertools.count()


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(wanted=some_filters, some=some_subjects)
def test_a_filter_passes_what_its_reference_passes(
    state: State, wanted: str, some: list[str]
) -> None:
    """And its sleeping reader is woken for the same; what does not pass is done and counted."""
    sub = Sub(state, f"s{next(names)}", filter=wanted, start=LATEST)
    assert sub.sift().outlook == EMPTY
    passing = [one for one in some if matches(wanted, one or None)]
    if some:
        sub.publish(*((one, "", one) for one in some))

    assert (sub.keys.subscription in sub.notes()) == (not passing)
    assert len(sub.sleep().woken) == bool(passing)
    found = sub.sift()
    assert [one.subject or "" for one in found.envelopes] == passing
    assert sub.counters().get("filtered", 0) == len(some) - len(passing)
    assert len(sub.owners()) == len(passing)
    sub.sift(acks=[one.token for one in found.envelopes], most=0)
    assert (sub.owners(), sub.run(admin.stats(sub.keys)).ready) == ({}, 0)


def test_plain_messages_pass_no_filter(state: State) -> None:
    """Nor do they wake its reader; they do where there is no filter."""
    one, two = Sub(state, filter=">"), Sub(state, "two", ordered=True)
    assert (one.sift().outlook, two.sift().outlook) == (EMPTY, EMPTY)
    assert one.notes() == {"one": ">", "two": ""}
    assert 0 < one.do("PTTL", one.topic.sleepers) <= 60_000

    one.publish_plain(b"1", b"2")

    assert one.notes() == {"one": ">"}
    assert (one.sleep().woken, len(two.sleep().woken)) == ([], 1)
    assert (bodies(one.sift()), bodies(two.sift())) == ([], [b"1", b"2"])
    assert one.counters() == {"filtered": 2}


def test_a_call_is_bounded(state: State) -> None:
    """It looks at so many, says that there is more, and leaves no note before it has seen all."""
    sub = Sub(state, filter="eu")
    sub.publish(*[("0", "", "us")] * (2 * LOOKED_AT), ("1", "", "eu"))

    found = [sub.sift(most=1) for _ in range(4)]

    assert [bodies(one) for one in found] == [[], [], [b"1"], []]
    assert [one.outlook for one in found] == [MORE, MORE, EMPTY, EMPTY]
    assert sub.counters() == {"filtered": 2 * LOOKED_AT}


def test_one_that_is_woken_wakes_the_next(state: State) -> None:
    """One reader a batch; it wakes another for what it leaves, and passes on what it cannot use."""
    sub = Sub(state, filter="eu")
    sub.sift("a")
    sub.sift("b")
    sub.publish(*[("1", "", "eu")] * 3)
    sub.publish(("2", "", "eu"))
    first = sub.sleep("a").woken
    assert (len(first), sub.sleep("b").woken) == (1, [])

    found = sub.sift("a", 1, [Settlement("woken", one) for one in first])

    assert (bodies(found), found.outlook) == ([b"1"], MORE)
    second = sub.sleep("b").woken
    assert len(second) == 1
    sub.sift("b", 0, [Settlement("woken", one) for one in second])
    third = sub.sleep("a").woken
    assert len(third) == 1, "who has no room leaves it to another one"
    found = sub.sift("a", 3, [Settlement("woken", one) for one in third])
    assert (bodies(found), found.outlook) == ([b"1", b"1", b"2"], EMPTY)
    assert (sub.sleep("b").woken, sub.wakes(), sub.notes()) == ([], [], {"one": "eu"})


def test_who_leaves_wakes_another(state: State) -> None:
    """It may have been the one that was to come again."""
    sub = Sub(state, filter="eu")
    sub.publish(*[("1", "", "eu")] * 2)
    sub.sift("a", 1)
    for entry in sub.entries("wake"):
        sub.do("XDEL", sub.keys.wake, entry.id)

    sub.drive(leave(sub.keys, "a", max_crashes=3))

    assert len(sub.sleep("b").woken) == 1


def test_notes_lapse(state: State) -> None:
    """A reader that died in its sleep is woken once more at most, and its note goes."""
    sub = Sub(state, filter="eu")
    sub.sift(now_ms=NOW)
    assert sub.notes() == {"one": "eu"}
    sub.do("HSET", sub.topic.sleepers, "gone", f"{NOW} us")

    sub.publish(("1", "", "apac"))

    assert sub.notes() == {}, "the time of tests is long over"
    assert sub.do("EXISTS", sub.topic.subscription("gone").wake) == 0


def test_many_comparisons_are_cut_short(state: State) -> None:
    """A batch with many subjects wakes those that it could not compare with, rather than none."""
    sub = Sub(state)
    later = f"{int(sub.do('TIME')[0]) + 60}000"
    for n in range(300):
        sub.do("HSET", sub.topic.sleepers, f"s{n}", f"{later} other.{n}")

    sub.publish(*(("1", "", f"eu.{n}") for n in range(100)))

    assert len(sub.notes()) == 200
    sub.do("DEL", sub.topic.sleepers)


def test_a_paused_subscription_is_not_woken(state: State) -> None:
    """Its reader leaves no note; the resume wakes it."""
    sub = Sub(state, filter="eu")
    sub.run(control.pause(sub.keys))
    assert sub.sift().outlook == EMPTY
    sub.publish(("1", "", "eu"))
    assert (sub.notes(), sub.sleep().woken) == ({}, [])

    sub.run(control.resume(sub.keys))

    assert len(sub.sleep().woken) == 1
    assert bodies(sub.sift()) == [b"1"]


def test_a_thousand_subscriptions(url: str, namespace: str) -> None:
    """Each gets what is its own, one publish wakes those that it concerns, and all are counted."""
    driver = BlockingDriver(url, connect_timeout=5, timeout=30)
    first = Sub(State(driver, namespace), "s0", filter="eu.0")
    rest = [Sub(first, f"s{n}", consumers=["a"], filter=f"eu.{n}") for n in range(1, 1000)]
    subs = [first, *rest]
    assert all(sub.sift().outlook == EMPTY for sub in subs)
    assert len(first.notes()) == 1000

    first.publish(("1", "", "eu.7"), ("2", "", "eu.8"), ("3", "", "us"))

    assert len(first.notes()) == 998
    assert [bodies(sub.sift()) for sub in subs[6:10]] == [[], [b"1"], [b"2"], []]
    found = first.drive(topic_stats(first.topic)).subscriptions
    assert Counter((one.lag, one.in_flight, one.filtered) for one in found) == {
        (3, 0, 0): 996,
        (0, 0, 3): 2,
        (0, 1, 2): 2,
    }
    driver.close()


# Order


def test_keys_run_one_at_a_time_in_order(state: State) -> None:
    """Also more of one ms than sort as texts; other keys and messages without one go by."""
    sub = Sub(state, ordered=True)
    sub.publish(*((str(n), "k", "") for n in range(23)), ("other", "l", ""), ("none", "", ""))
    found = sub.sift(most=30)
    assert bodies(found) == [b"0", b"other", b"none"]
    assert sub.run(admin.stats(sub.keys)).ready == 22
    order: list[bytes | None] = []
    for _ in range(23):
        [mine] = [one for one in found.envelopes if one.key == "k"]
        order.append(mine.body)
        rest = [ack(one.token, plain=one.plain) for one in found.envelopes]
        found = sub.sift(most=30, ends=rest)

    assert order == [b"%d" % n for n in range(23)]
    assert found.envelopes == []
    assert sub.clean()
    assert len(sub.entries()) == 25


@pytest.mark.parametrize("verb", ["retry", "release", "crash", "reject", "cancel"])
def test_order_outlives_trouble(state: State, verb: str) -> None:
    """Tried again, handed back and taken over it keeps its turn; when it is dead the next one comes."""
    sub = Sub(state, ordered=True)
    ids = sub.publish(("1", "k", ""), ("2", "k", ""), ("3", "k", ""))
    [one] = sub.sift().envelopes
    ends = {
        "retry": Settlement("retry", one.token, 1000, failed=True),
        "release": release(one.token),
        "reject": reject(one.token, "no"),
    }
    if verb in ends:
        sub.sift(ends=[ends[verb]], most=0)
    elif verb == "crash":
        sub.run(hand_over_some(sub.keys, "a", crashed=True, max_crashes=3, now_ms=NOW))
    else:
        assert sub.drive(control.cancel(sub.keys, ids[0], now_ms=NOW))
    assert sub.drive(control.cancel(sub.keys, ids[1], now_ms=NOW)), "it waits in the line"

    later = int(sub.do("TIME")[0]) * 1000 + 9000
    [envelope] = sub.sift(now_ms=later).envelopes
    expected = b"3" if verb in ("reject", "cancel") else b"1"
    assert envelope.body == expected
    found = sub.sift(ends=[ack(envelope.token, plain=False)], now_ms=later)
    if expected == b"1":
        [envelope] = found.envelopes
        sub.sift(ends=[ack(envelope.token, plain=False)], now_ms=later)
    assert sub.clean()


def test_lines_are_bounded(state: State) -> None:
    """A key with very many messages is not copied as a whole; its reader goes on as it ends them."""
    sub = Sub(state, ordered=True)
    for _ in range(12):
        sub.publish(*[("1", "k", "")] * 500)
    found, calls = sub.sift(most=1000), 1
    [token] = [one.token for one in found.envelopes]
    while found.outlook == MORE:
        found, calls = sub.sift(most=1000), calls + 1

    assert calls == 11
    assert sub.do("ZCARD", sub.keys.lines) == 5499
    assert sub.notes() == {"one": ""}
    assert sub.run(admin.stats(sub.keys)).ready == 5999
    found = sub.sift(most=1000, ends=[ack(token, plain=False)])
    assert len(found.envelopes) == 1
    assert sub.do("ZCARD", sub.keys.lines) == 5498
    assert sub.drive(admin.purge(sub.keys)) == 5998
    sub.sift(ends=[ack(found.envelopes[0].token, plain=False)])
    assert sub.clean()


class Crowd:
    """Consumers that do anything with what they get; it knows what they must not see."""

    def __init__(self, sub: Sub, luck: random.Random) -> None:
        self.sub, self.luck, self.now = sub, luck, NOW
        self.held: dict[str, dict[bytes, Any]] = {"a": {}, "b": {}}
        self.done: dict[str, list[str]] = defaultdict(list)
        self.dead: list[str] = []

    def step(self) -> bool:
        """Whether anything came or ended."""
        name = self.luck.choice("ab")
        held, ends = self.held[name], []
        for token, one in list(held.items()):
            verb = self.luck.choice(["ack", "ack", "retry", "release", "reject", "keep"])
            if verb == "keep":
                continue
            del held[token]
            if verb == "ack":
                ends.append(ack(token, plain=one.plain))
                self.done[one.key or ""].append(one.body.decode())
            elif verb == "reject":
                ends.append(reject(token, "no"))
                self.dead.append(one.body.decode())
            else:
                delayed = Settlement("retry", token, 1000, failed=True)
                ends.append(delayed if verb == "retry" else release(token))
        found = self.sub.sift(name, self.luck.choice([1, 2, 7]), ends, now_ms=self.now)
        assert found.lost == []
        held.update((one.token, one) for one in found.envelopes)
        if self.luck.random() < 0.1:
            self.sub.run(
                hand_over_some(self.sub.keys, name, crashed=True, max_crashes=99, now_ms=self.now)
            )
            self.sub.register(name)
            held.clear()
        keys = [one.key for each in self.held.values() for one in each.values() if one.key]
        assert len(keys) == len(set(keys)), "two messages of a key at a time"
        self.now += self.luck.choice([0, 1, 700])
        return bool(ends or found.envelopes)


@settings(
    max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(seed=st.integers(0, 10**6))
def test_whatever_happens_order_is_kept(state: State, seed: int) -> None:
    """Two filtered subscriptions get all that is theirs, each key in order, and nothing is left."""
    luck, number = random.Random(seed), next(names)
    state.keys = replace(state.keys, namespace=f"{state.keys.namespace}-{number}")
    crowds = [
        Crowd(Sub(state, name, ordered=True, filter=wanted), luck)
        for name, wanted in (("eu", "eu"), ("all", ">"))
    ]
    sent: list[tuple[str, str, str]] = []
    for _ in range(20):
        batch = [
            (str(len(sent) + n), luck.choice(["", "k", "l"]), luck.choice(["eu", "us"]))
            for n in range(luck.choice([0, 1, 12]))
        ]
        sent += batch
        if batch:
            crowds[0].sub.publish(*batch)
        for crowd in crowds:
            crowd.step()
    for crowd in crowds:
        idle = 0
        while idle < 30:
            idle = 0 if crowd.step() else idle + 1
            crowd.now += 1000
        assert crowd.held == {"a": {}, "b": {}}

    for crowd, wanted in zip(crowds, ({"eu"}, {"eu", "us"}), strict=True):
        theirs = [(body, key) for body, key, subject in sent if subject in wanted]
        for key in ("k", "l"):
            order = [body for body, one in theirs if one == key and body not in crowd.dead]
            assert crowd.done[key] == order
        everything = sorted([*crowd.dead, *(one for done in crowd.done.values() for one in done)])
        assert everything == sorted(body for body, _ in theirs)
        assert crowd.sub.clean()
        filtered = crowd.sub.counters().get("filtered", 0)
        assert filtered == len(sent) - len(theirs)
        assert crowd.sub.owners() == {}


def test_a_full_server_loses_nothing(own_server: Server, own_state: State) -> None:
    """What is read goes on: it is read before any write that needs memory."""
    sub = Sub(own_state, ordered=True)
    sub.publish(("1", "k", ""), ("2", "k", ""))

    with out_of_memory(own_server):
        found = sub.sift()
        assert bodies(found) == [b"1"]
        found = sub.sift(ends=[ack(found.envelopes[0].token, plain=False)])
    assert bodies([*[found], sub.sift()][not found.envelopes]) == [b"2"]
