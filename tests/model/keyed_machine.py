"""Queues with ordered or limited keys beside their model."""

from __future__ import annotations

from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from millstream.driver.blocking import BlockingDriver
from millstream.message import Receipt
from millstream.protocol import admin, consume, settlement, waiting
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import LANES
from millstream.protocol.op import Command, Op
from millstream.protocol.place import Placement, place
from millstream.protocol.settlement import Settlement
from tests.model.keyed import WAITING, Keyed, KeyedModel
from tests.model.machine import VERBS, QueueMachine, consumers, counts, lane_of
from tests.support.leaks import leaked

sendings = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["", "a", "a", "b", "{c}\n"]),
        "delay": st.sampled_from([0, 0, 0, 1000]),
        "priority": st.sampled_from([0, 0, 0, 1, 9]),
        "ttl": st.sampled_from([None, None, 1001, 6000]),
        "drop": st.booleans(),
    }
)


class OrderedMachine(QueueMachine):
    """Ordered keys: one message of each is in circulation."""

    ready = WAITING
    gate = "ordered"
    most = 1
    model: KeyedModel

    def __init__(self, driver: BlockingDriver, redis_admin: redis.Redis, namespace: str) -> None:
        super().__init__(driver, redis_admin, namespace)
        self.model = KeyedModel(most=self.most, keeps_turn=self.gate == "ordered")

    # Sending and receiving

    @rule(options=st.lists(sendings, min_size=1, max_size=5), repeated=st.booleans())
    def place(self, options: list[dict[str, Any]], repeated: bool) -> None:
        self.place_all(options, repeated=repeated)

    def place_all(self, options: list[dict[str, Any]], *, repeated: bool) -> None:
        number = next(self.batches)
        bodies = [b"%d.%d" % (number, index) for index in range(len(options))]
        batch = [self.placement(*pair) for pair in zip(bodies, options, strict=True)]
        op = place(self.keys, "placer", number, batch, now_ms=self.model.now)
        first = self.run(op)
        if repeated:
            assert self.run(op) == first
        for receipt, body, one in zip(first, bodies, options, strict=True):
            self.placed(receipt, body, one)

    def placed(self, receipt: Receipt, body: bytes, one: dict[str, Any]) -> None:
        assert receipt.id not in self.model.messages
        ttl = float("inf") if one["ttl"] is None else one["ttl"]
        self.model.place(
            receipt.id,
            Keyed(
                body,
                due=self.model.now + one["delay"],
                key=one["key"],
                priority=one["priority"],
                lives_until=self.model.now + ttl,
                drop=one["drop"],
                undisturbed=not one["delay"],
            ),
        )

    def placement(self, body: bytes, one: dict[str, Any]) -> Placement:
        ttl = "" if one["ttl"] is None else f"{one['ttl']}{' drop' * one['drop']}"
        return Placement(
            body=body,
            key=one["key"],
            gate=self.gate if one["key"] else "",
            priority=one["priority"],
            time=f"+{one['delay']}" if one["delay"] else "",
            ttl=ttl,
        )

    @rule(consumer=consumers, suspects=st.integers(0, 1), front=counts, ready=counts)
    def fetch(self, consumer: str, suspects: int, front: int, ready: int) -> None:
        """As many of the urgent ones go to the front as are read from there."""
        reads = [(lane, n) for lane, n in (("s", suspects), ("f", front), ("", ready)) if n]
        found = self.run(
            consume.fetch(
                self.keys,
                consumer,
                reads=reads,
                urgent=str(front) if front else "",
                now_ms=self.model.now,
            )
        )
        self.model.promote()
        self.model.lift(front)
        self.compare(found, reads, consumer)
        levels = {self.model.one(id).priority for id in self.model.at("urgent")}
        levels -= levels if self.model.paused else set()
        assert found.priorities == sorted(levels, reverse=True)
        for envelope in found.envelopes:
            one = self.model.one(envelope.state.id)
            assert envelope.key == (one.key or None)
            assert envelope.expired(self.model.now) == self.model.is_over(one)

    def verbs(self, id: str | None) -> tuple[str, ...]:
        """Whose time is over is buried by whoever has it."""
        over = id is not None and self.model.is_over(self.model.one(id))
        return (*VERBS, "expire") if over else VERBS

    def is_plain(self, id: str | None) -> bool:
        """Others may wait behind it."""
        return id is None or not self.model.one(id).key

    def end_of(self, token: bytes, id: str | None, verb: str, delay_ms: int) -> Settlement:
        if verb == "expire":
            return settlement.expire(token)
        if verb == "ack":
            return settlement.ack(token, plain=False)
        return super().end_of(token, id, verb, delay_ms)

    # What people want

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data(), delay=st.sampled_from([0, 0, 1000, 5000]), absolute=st.booleans())
    def reschedule(self, data: st.DataObject, delay: int, absolute: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.model.messages)), label="message")
        due = self.model.now + delay
        time = str(due if delay else due - 1000) if absolute else f"+{delay}"
        plan = waiting.reschedule(self.keys, id, time, now_ms=self.model.now)
        assert self.drive(plan) == self.model.reschedule(id, due)

    # What must always be true

    def questions(self) -> dict[str, Op[Any]]:
        lanes = [Command(("XRANGE", key, "-", "+")) for key in (*self.keys.lanes, self.keys.dead)]
        sets = (self.keys.due, self.keys.lines, self.keys.priority)
        waits = [Command(("ZRANGE", key, 0, -1)) for key in sets]
        held = Command(("HGETALL", self.keys.holders))
        return {
            "stats": admin.stats(self.keys),
            "places": Op((*lanes, *waits, held), decode=lambda replies: replies),
            "delayed": admin.peek_delayed(self.keys, 1000),
        }

    def compare_all(self, answers: dict[str, Any]) -> None:
        super().compare_all(answers)
        self.delayed_messages_know_their_time(answers["delayed"])

    def every_message_is_in_one_place(self, answers: dict[str, Any]) -> None:
        """Also those that wait in a line or for their priority, and nobody else is named."""
        *streams, due, lines, urgent, holders = answers["places"]
        found = {(id.decode(), "delayed") for id in due}
        found |= {(member.rpartition(b"\0")[2].decode(), "line") for member in lines}
        found |= {(id.decode(), "urgent") for id in urgent}
        for place_name, entries in zip((*LANES, "dead"), streams, strict=True):
            found |= {(state_id(*entry), place_name) for entry in entries}

        assert sorted(found) == sorted(
            (id, lane_of(one.token) if one.place == "flying" else one.place)
            for id, one in self.model.messages.items()
        )
        inside = {
            key.decode(): set(ids.decode().split(" "))
            for key, ids in zip(holders[::2], holders[1::2], strict=True)
        }
        assert inside == {key: ids for key, ids in self.model.holders.items() if ids}
        assert leaked(self.admin, self.namespace) == []

    @invariant()
    def gates_are_full_or_nobody_waits(self) -> None:
        """At most so many of a key are in circulation, and no slot is idle while one waits."""
        for key, inside in self.model.holders.items():
            of_key = {id for id in self.model.messages if self.model.one(id).key == key}
            outside = {id for id in of_key if self.model.messages[id].place in ("line", "dead")}
            assert len(inside) <= self.most
            assert not inside & outside
            waits = {id for id in outside if self.model.messages[id].place == "line"}
            assert not waits or len(inside) == self.most

    def delayed_messages_know_their_time(self, delayed: list[tuple[Envelope, int]]) -> None:
        dues = {envelope.state.id: due for envelope, due in delayed}
        assert dues == {id: one.due for id, one in self.model.at("delayed").items()}


class LimitedMachine(OrderedMachine):
    """Two messages of a key may run at a time."""

    gate = "2"
    most = 2


def state_id(entry: bytes, fields: list[bytes]) -> str:
    return Envelope(entry, fields).state.id
