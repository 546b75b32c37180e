"""A topic with three subscriptions beside three models: each gets each message, and none disturbs another.

Meanwhile the topic is trimmed: what may go is what the models say.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from millstream import UsageError
from millstream.driver.blocking import BlockingDriver
from millstream.policy import Retain
from millstream.protocol import admin, consume, control
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import topic_keys
from millstream.protocol.op import Command, Op
from millstream.protocol.publish import publish
from millstream.protocol.retention import retain, trim
from millstream.protocol.subscriptions import subscribe, topic_stats
from millstream.topic import EARLIEST, Subscription, Topic
from tests.model.machine import (
    CONSUMERS,
    LEASE_MS,
    SWEEPER,
    QueueMachine,
    consumers,
    lane_of,
    some_of,
)
from tests.model.model import Message, Model

NAMES = ("one", "two", "three")
POLICIES = (
    Retain(),
    Retain(max_age=60),
    Retain(max_length=5),
    Retain(max_age=60, max_length=8),
    Retain(max_length=5, until_consumed=False),
    Retain(max_age=60, max_length=8, until_consumed=False),
)


class TopicMachine(QueueMachine):
    """What a queue does, done by the subscription whose turn it is; all of them are compared."""

    def __init__(self, driver: BlockingDriver, redis_admin: redis.Redis, namespace: str) -> None:
        super().__init__(driver, redis_admin, namespace)
        self.topic = topic_keys(self.namespace, "t")
        self.models = {name: Model(home="f") for name in NAMES}
        self.seen: dict[str, set[bytes]] = {name: set() for name in NAMES}
        self.published = 0
        self.log: list[str] = []
        self.turn_to("one")

    def turn_to(self, name: str) -> None:
        self.name = name
        self.keys = self.topic.subscription(name)
        self.model = self.models[name]
        self.tokens = self.seen[name]

    @property
    def declared(self) -> Subscription[Any]:
        return Topic("t").subscription(self.name, start=EARLIEST)

    @initialize()
    def register(self) -> None:
        for name in NAMES:
            self.turn_to(name)
            self.drive(subscribe(self.topic, self.declared))
            for consumer in (*CONSUMERS, SWEEPER):
                self.join(consumer)
        self.run(consume.fetch(self.keys, SWEEPER))

    def join(self, consumer: str) -> None:
        self.run(consume.register(self.keys, consumer, LEASE_MS, source=self.declared))

    @rule(name=st.sampled_from(NAMES))
    def turn(self, name: str) -> None:
        self.turn_to(name)

    @rule(count=st.integers(1, 5), repeated=st.booleans())
    def send(self, count: int, repeated: bool) -> None:
        number = next(self.batches)
        bodies = [b"%d.%d" % (number, index) for index in range(count)]
        first = self.run(publish(self.topic, "p", number, bodies))
        if repeated:
            assert self.run(publish(self.topic, "p", number, bodies)) == first
        self.published += count
        self.log += [receipt.id for receipt in first]
        for model in self.models.values():
            for receipt, body in zip(first, bodies, strict=True):
                assert receipt.id not in model.messages
                model.messages[receipt.id] = Message(body)

    @rule(consumer=consumers, data=st.data())
    def go_through_the_log(self, consumer: str, data: st.DataObject) -> None:
        """Everybody reads most of it, and acknowledges most of that."""
        mine = self.name
        for name in NAMES:
            self.turn_to(name)
            there = 0 if self.model.paused else len(self.model.at(""))
            count = there - data.draw(st.sampled_from([0, 0, 0, 1]), label="unread")
            if count <= 0:
                continue
            self.fetch_some(consumer, count)
            held = [token for token in self.model.held(consumer) if lane_of(token) == ""]
            kept = data.draw(some_of(held), label="kept")[:1]
            acks = [token for token in held if token not in kept]
            ids = self.model.held(consumer)
            for token in acks:
                self.model.end(ids[token], "ack")
            assert self.settle_all(consumer, [], acks) == []
        self.turn_to(mine)

    def fetch_some(self, consumer: str, count: int) -> None:
        reads = [("", count)]
        found = self.run(consume.fetch(self.keys, consumer, reads=reads, now_ms=self.model.now))
        self.model.promote()
        self.compare(found, reads, consumer)

    @rule(policy=st.sampled_from(POLICIES), age=st.floats(0, 1))
    def trim(self, policy: Retain, age: float) -> None:
        """Above a bound is what is older than some entry of the log, or what is too many."""
        self.run(retain(self.topic, policy))
        oldest = int(self.log[int(age * (len(self.log) - 1))].split("-")[0]) if self.log else 0
        handled = [id for id in self.log if not self.wanted(id)]
        first = next((n for n, id in enumerate(self.log) if self.wanted(id)), len(self.log))
        if any(one.gone for model in self.models.values() for one in model.messages.values()):
            # What was deleted while somebody had it counts as not handled until he is done with it.
            first = 0
        may_go = first if policy.until_consumed else len(self.log)
        goes = 0
        if not policy.bounded:
            goes = may_go
        if policy.max_age_ms is not None:
            goes = max(goes, sum(int(id.split("-")[0]) < oldest for id in self.log))
        if policy.max_length is not None:
            goes = max(goes, len(self.log) - policy.max_length)
        gone, self.log = self.log[: min(goes, may_go)], self.log[min(goes, may_go) :]

        done = self.run(trim(self.topic, now_ms=oldest + (policy.max_age_ms or 0)))

        assert (done.deleted, done.more) == (len(gone), False)
        assert not policy.until_consumed or {*gone} <= {*handled}
        for model in self.models.values():
            self.take_away(model, gone)

    def wanted(self, id: str) -> bool:
        """Whether somebody has not handled this entry, and has no copy."""
        return any(in_log(model.messages.get(id)) for model in self.models.values())

    def take_away(self, model: Model, gone: list[str]) -> None:
        for id in gone:
            one = model.messages.get(id)
            if one is None or not in_log(one):
                continue
            if one.place == "flying":
                one.gone = True
            else:
                model.miss(id)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """What waits in the log stays there: it is for others, too."""
        id = data.draw(st.sampled_from([*sorted(self.model.messages), "1-1"]), label="id")
        plan = control.cancel(self.keys, id, now_ms=self.model.now)
        if id in self.model.at(""):
            with pytest.raises(UsageError, match="waits in the log"):
                self.drive(plan)
        else:
            assert self.drive(plan) == self.model.cancel(id)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        """Of each of them, and all at one moment."""
        mine = self.name
        for name in NAMES:
            self.turn_to(name)
            super().it_is_as_the_model_says()
        self.turn_to(mine)
        stats = self.drive(topic_stats(self.topic))
        assert (stats.length, stats.published) == (len(self.log), self.published)
        for one in stats.subscriptions:
            at = self.models[one.name].at
            assert one.lag == len(at("", "f", "s"))
            assert (one.lag_seconds is None) == (not one.lag)
            assert one.trimmed == self.models[one.name].trimmed
            waits = at("", "f", "s", "flying", "delayed")
            assert (one.oldest_unhandled is None) == (not waits)

    def questions(self) -> dict[str, Op[Any]]:
        pending = Command(("XPENDING", self.keys.ready, self.keys.group, "-", "+", 1000))
        return {
            **super().questions(),
            "ready": admin.peek_ready(self.keys, 1000),
            "pending": Op((pending,), lambda replies: [row[0] for row in replies[0]]),
        }

    def of_this(self, place: str, page: list[Envelope], answers: dict[str, Any]) -> list[Envelope]:
        if place != "":
            return page
        assert [one.token.decode() for one in page] == self.log
        unread = {*(one.token for one in answers["ready"]), *answers["pending"]}
        flying = self.model.at("flying").values()
        gone = [Envelope(one.token, [b"b", one.body]) for one in flying if one.gone]
        return [one for one in page if one.token in unread] + gone


def in_log(one: Message | None) -> bool:
    """Whether a message is nowhere else."""
    if one is None or one.gone:
        return False
    return one.place == "" or (one.place == "flying" and lane_of(one.token) == "")
