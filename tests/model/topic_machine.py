"""A topic with three subscriptions beside three models: each gets each message, and none disturbs another."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from millstream import UsageError
from millstream.driver.blocking import BlockingDriver
from millstream.protocol import admin, consume, control
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import topic_keys
from millstream.protocol.op import Command, Op
from millstream.protocol.publish import publish
from millstream.protocol.subscriptions import subscribe, topic_stats
from millstream.topic import EARLIEST, Subscription, Topic
from tests.model.machine import CONSUMERS, LEASE_MS, SWEEPER, QueueMachine
from tests.model.model import Message, Model

NAMES = ("one", "two", "three")


class TopicMachine(QueueMachine):
    """What a queue does, done by the subscription whose turn it is; all of them are compared."""

    def __init__(self, driver: BlockingDriver, redis_admin: redis.Redis, namespace: str) -> None:
        super().__init__(driver, redis_admin, namespace)
        self.topic = topic_keys(self.namespace, "t")
        self.models = {name: Model(home="f") for name in NAMES}
        self.seen: dict[str, set[bytes]] = {name: set() for name in NAMES}
        self.published = 0
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
        for model in self.models.values():
            for receipt, body in zip(first, bodies, strict=True):
                assert receipt.id not in model.messages
                model.messages[receipt.id] = Message(body)

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
    def counts_add_up(self) -> None:
        """Of each of them, and all at one moment."""
        mine = self.name
        for name in NAMES:
            self.turn_to(name)
            super().counts_add_up()
        self.turn_to(mine)
        stats = self.drive(topic_stats(self.topic))
        assert (stats.length, stats.published) == (self.published, self.published)
        for one in stats.subscriptions:
            at = self.models[one.name].at
            assert one.lag == len(at("", "f", "s"))
            waits = at("", "f", "s", "flying", "delayed")
            assert (one.oldest_unhandled is None) == (not waits)

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        mine = self.name
        for name in NAMES:
            self.turn_to(name)
            super().every_message_is_in_one_place()
        self.turn_to(mine)

    def of_this(self, place: str, page: list[Envelope]) -> list[Envelope]:
        if place != "":
            return page
        unread = {one.token for one in self.run(admin.peek_ready(self.keys, 1000))}
        pending = Command(("XPENDING", self.keys.ready, self.keys.group, "-", "+", 1000))
        unread |= {row[0] for row in self.run(Op((pending,), decode=lambda replies: replies[0]))}
        return [one for one in page if one.token in unread]
