"""A subscription that is moved back and forth, against a list of what it has to do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from millstream.driver.blocking import BlockingDriver
from millstream.protocol import admin, consume, control
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import topic_keys
from millstream.protocol.publish import Publication, publish_some
from millstream.protocol.recover import hand_over_some
from millstream.protocol.seek import seek
from millstream.protocol.settlement import Settlement
from millstream.protocol.subscriptions import subscribe
from millstream.topic import EARLIEST, LATEST, Subscription, Topic
from tests.support.leaks import leaked, wipe
from tests.support.servers import Server

CONSUMERS = ("a", "b")
KEYS = ("k", "l")
NOW = 1_700_000_000_000

consumers = st.sampled_from(CONSUMERS)


class SeekMachine(RuleBasedStateMachine):
    """Does the same to a subscription and to a list, and compares."""

    numbers = itertools.count()
    ordered = False

    def __init__(self, driver: BlockingDriver, redis_admin: redis.Redis, namespace: str) -> None:
        super().__init__()
        self.driver, self.admin = driver, redis_admin
        self.namespace = f"{namespace}-{next(self.numbers)}"
        self.topic = topic_keys(self.namespace, "t")
        self.keys = self.topic.subscription("one")
        topic: Topic[Any] = Topic("t", ordered=self.ordered)
        self.declared: Subscription[Any] = topic.subscription("one", start=EARLIEST)
        self.batches = itertools.count(1)
        self.log: list[str] = []
        self.key_of: dict[str, str] = {}
        # What is not done, and whether it is still where it was published.
        self.todo: dict[str, bool] = {}
        self.held: dict[str, dict[bytes, str]] = {name: {} for name in CONSUMERS}
        self.late: dict[str, set[bytes]] = {name: set() for name in CONSUMERS}
        self.paused = False

    @initialize()
    def begin(self) -> None:
        self.driver.drive(subscribe(self.topic, self.declared))
        for name in CONSUMERS:
            self.driver.run(consume.register(self.keys, name, 30_000, source=self.declared))

    def teardown(self) -> None:
        if self.log:
            self.resume()
            self.drain()
        assert leaked(self.admin, self.namespace) == []
        wipe(self.admin, self.namespace)

    @rule(count=st.integers(1, 4), key=st.sampled_from(KEYS))
    def publish(self, count: int, key: str) -> None:
        gate = "ordered" if self.ordered else ""
        batch = [Publication(body=b"1", key=key, gate=gate) for _ in range(count)]
        op = publish_some(self.topic, "p", next(self.batches), batch)
        for receipt in self.driver.run(op):
            self.log.append(receipt.id)
            self.key_of[receipt.id] = key
            self.todo[receipt.id] = True

    @rule(consumer=consumers, count=st.integers(1, 5))
    def fetch(self, consumer: str, count: int) -> None:
        self.read(consumer, count)

    def read(self, consumer: str, count: int) -> list[Envelope]:
        reads = [("s", 1), ("f", count), ("", count)]
        limits = self.declared.limits
        op = consume.fetch(self.keys, consumer, reads=reads, limits=limits, now_ms=NOW)
        envelopes = self.driver.run(op).envelopes
        assert not (self.paused and envelopes)
        for one in envelopes:
            self.arrive(consumer, one)
        fresh = [one.state.id for one in envelopes if one.token[:1].isdigit()]
        assert fresh == sorted(fresh, key=self.log.index), "the log is read in its order"
        return envelopes

    def arrive(self, consumer: str, envelope: Envelope) -> None:
        """A delivery of something that is to be done and that nobody has."""
        id = envelope.state.id
        in_flight = [one for some in self.held.values() for one in some.values()]
        assert id in self.todo
        assert id not in in_flight
        if self.ordered:
            # In flight or waiting: of each key the first, and nothing that comes behind it.
            before = [one for one in self.log[: self.log.index(id)] if one in self.todo]
            assert self.key_of[id] not in {self.key_of[one] for one in before}
        self.held[consumer][envelope.token] = id
        self.late[consumer].discard(envelope.token)

    @rule(consumer=consumers, data=st.data())
    def settle(self, consumer: str, data: st.DataObject) -> None:
        """Some of what it has, and some of what it had: those are refused."""
        held = self.held[consumer]
        tokens = data.draw(st.lists(st.sampled_from(sorted(held)), unique=True)) if held else []
        had = sorted(self.late[consumer])
        late = data.draw(st.lists(st.sampled_from(had), unique=True)) if had else []
        ends: list[Settlement] = []
        for token in data.draw(st.permutations([*tokens, *late])):
            verb: Any = data.draw(st.sampled_from(["finish", "release", "retry", "reject"]))
            ends.append(Settlement(verb, token, delay_ms=0))
            if token in held:
                id = held.pop(token)
                if verb in ("finish", "reject"):
                    del self.todo[id]
                else:
                    self.todo[id] = False
        limits = self.declared.limits
        found = self.driver.run(consume.fetch(self.keys, consumer, ends, limits=limits, now_ms=NOW))
        assert sorted(found.lost) == sorted(late)
        if late:
            assert self.driver.run(consume.extend(self.keys, consumer, late)) == late

    @rule(consumer=consumers, verb=st.sampled_from(["ack", "finish", "release"]))
    def end_late(self, consumer: str, verb: Any) -> None:
        """All that it had: whoever has it by now keeps it."""
        late = sorted(self.late[consumer])
        acks = [one for one in late if one[:1].isdigit()] if verb == "ack" else []
        ends = [Settlement(verb, one) for one in late if one not in acks]
        limits = self.declared.limits
        op = consume.fetch(self.keys, consumer, ends, acks=acks, limits=limits, now_ms=NOW)
        assert sorted(self.driver.run(op).lost) == late

    @rule(consumer=consumers)
    def crash(self, consumer: str) -> None:
        self.driver.run(
            hand_over_some(self.keys, consumer, crashed=False, max_crashes=99, now_ms=NOW)
        )
        for token, id in self.held[consumer].items():
            self.late[consumer].add(token)
            self.todo[id] = False
        self.held[consumer].clear()
        self.driver.run(consume.register(self.keys, consumer, 30_000, source=self.declared))

    @rule(data=st.data(), sleeper=consumers)
    def seek(self, data: st.DataObject, sleeper: str) -> None:
        """One that sleeps is woken, and reads on at once."""
        places: list[Any] = [EARLIEST, LATEST, *self.log]
        to = data.draw(st.sampled_from(places))
        if to is LATEST:
            ahead = []
        else:
            ahead = self.log if to is EARLIEST else self.log[self.log.index(to) :]
        assert self.driver.drive(seek(self.keys, to, force=True)) == len(ahead)
        self.todo = dict.fromkeys(ahead, True)
        for consumer, held in self.held.items():
            self.late[consumer] |= set(held)
            held.clear()
        self.read(sleeper, 5)

    @rule()
    def pause(self) -> None:
        self.driver.run(control.pause(self.keys))
        self.paused = True

    @rule()
    def resume(self) -> None:
        self.driver.run(control.resume(self.keys))
        self.paused = False

    @invariant()
    def it_adds_up(self) -> None:
        found = self.driver.run(admin.stats(self.keys))
        in_flight = sum(map(len, self.held.values()))
        assert found.in_flight == in_flight
        assert found.ready + found.delayed + in_flight == len(self.todo)

    def drain(self) -> None:
        """At the end, all that is to be done comes, and nothing else."""
        for _ in range(len(self.todo)):
            for consumer in CONSUMERS:
                self.read(consumer, 5)
                ends = [Settlement("finish", token) for token in self.held[consumer]]
                op = consume.fetch(
                    self.keys, consumer, ends, limits=self.declared.limits, now_ms=NOW
                )
                assert self.driver.run(op).lost == []
                for id in self.held[consumer].values():
                    del self.todo[id]
                self.held[consumer].clear()
        assert self.todo == {}
        assert not any(self.read(consumer, 5) for consumer in CONSUMERS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ordered", [False, True], ids=["plain", "ordered"])
def test_what_comes_is_what_the_place_says(
    server: Server, namespace: str, *, ordered: bool
) -> None:
    """Each message from there on, once in flight at a time; late ends are refused, nothing leaks."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(SeekMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    Machine.ordered = ordered
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )
    driver.close()
