"""One queue beside its model: each rule does the same to both, and compares."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from millstream.driver.blocking import BlockingDriver
from millstream.message import QueueStats
from millstream.protocol import admin, consume, control, settlement
from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import Envelope, entries_of
from millstream.protocol.keys import LANES, QueueKeys, queue_keys
from millstream.protocol.op import Command, Op, Plan
from millstream.protocol.recover import hand_over_some, sweep
from millstream.protocol.send import send
from millstream.protocol.settlement import Settlement
from tests.model.model import POLICY, Message, Model
from tests.support.leaks import wipe

T = TypeVar("T")

CONSUMERS = ("a", "b", "c")
SWEEPER = "sweeper"
LEASE_MS = 60_000
VERBS = ("ack", "retry", "reject", "release")

consumers = st.sampled_from(CONSUMERS)
counts = st.integers(0, 4)
delays = st.sampled_from([0, 1, 1000, 5000])


class QueueMachine(RuleBasedStateMachine):
    """Does the same to a queue and to its model, and compares."""

    numbers = itertools.count()
    ready: tuple[str, ...] = ("", "f", "s")
    lease_ms = LEASE_MS

    def __init__(self, driver: BlockingDriver, redis_admin: redis.Redis, namespace: str) -> None:
        super().__init__()
        self.driver, self.admin = driver, redis_admin
        self.namespace = f"{namespace}-{next(self.numbers)}"
        self.keys: QueueKeys = queue_keys(self.namespace, "q")
        self.model = Model()
        self.batches = itertools.count(1)
        self.tokens: set[bytes] = set()

    def run(self, op: Op[T]) -> T:
        return self.driver.run(op)

    def drive(self, plan: Plan[T]) -> T:
        return self.driver.drive(plan)

    @initialize()
    def register(self) -> None:
        for consumer in (*CONSUMERS, SWEEPER):
            self.join(consumer)
        # Reads beside a script that the server does not know yet come before it.
        self.run(consume.fetch(self.keys, SWEEPER))

    def join(self, consumer: str) -> None:
        self.run(consume.register(self.keys, consumer, self.lease_ms))

    def teardown(self) -> None:
        wipe(self.admin, self.namespace)

    # Sending and receiving

    @rule(count=st.integers(1, 5), repeated=st.booleans())
    def send(self, count: int, repeated: bool) -> None:
        number = next(self.batches)
        bodies = [b"%d.%d" % (number, index) for index in range(count)]
        first = self.run(send(self.keys, "p", number, bodies))
        if repeated:
            assert self.run(send(self.keys, "p", number, bodies)) == first
        sent = [receipt.id for receipt in first]
        assert not self.model.messages.keys() & set(sent)
        self.model.messages.update(zip(sent, map(Message, bodies), strict=True))

    @rule(consumer=consumers, suspects=st.integers(0, 1), front=counts, ready=counts)
    def fetch(self, consumer: str, suspects: int, front: int, ready: int) -> None:
        reads = [(lane, n) for lane, n in (("s", suspects), ("f", front), ("", ready)) if n]
        found = self.run(consume.fetch(self.keys, consumer, reads=reads, now_ms=self.model.now))

        self.model.promote()
        self.compare(found, reads, consumer)

    def compare(self, found: Fetched, reads: list[tuple[str, int]], consumer: str) -> None:
        """What a fetch has brought and told is what the model has."""
        there = not self.model.paused
        waiting = {lane: len(self.model.at(lane)) if there else 0 for lane in LANES}
        assert (found.front, found.suspect) == (waiting["f"] > 0, waiting["s"] > 0)
        assert found.next_due_ms == self.next_due()
        came = Counter(lane_of(envelope.token) for envelope in found.envelopes)
        assert came == Counter({lane: min(n, waiting[lane]) for lane, n in reads})
        for envelope in found.envelopes:
            self.arrive(envelope, consumer)

    @rule(consumer=consumers, suspects=st.booleans())
    def wait(self, consumer: str, suspects: bool) -> None:
        """Only for what is there: servers look at the end of a sleep ten times a second."""
        if self.model.paused or not self.model.at("", "f", *("s" if suspects else "")):
            return
        found = self.run(consume.wait(self.keys, consumer, 1, suspects=suspects))
        assert found.envelopes
        for envelope in found.envelopes:
            self.arrive(envelope, consumer)
        self.settle_all(consumer, [Settlement("woken", entry) for entry in found.woken])

    def arrive(self, envelope: Envelope, consumer: str) -> None:
        """A delivery: of a message that nobody has, under a name that nothing had before."""
        one = self.model.messages[envelope.state.id]
        assert one.place == lane_of(envelope.token)
        assert envelope.body == one.body
        assert (envelope.state.attempts, envelope.state.crashes) == (one.attempts, one.crashes)
        assert envelope.token not in self.tokens
        self.tokens.add(envelope.token)
        self.model.deliver(envelope.state.id, consumer, envelope.token)

    # Settling

    @rule(consumer=consumers, delay_ms=delays, data=st.data())
    def settle(self, consumer: str, delay_ms: int, data: st.DataObject) -> None:
        """Some of what the consumer has, and some of what it had: those are lost."""
        held = self.model.held(consumer)
        chosen = data.draw(some_of(held), label="held")
        late = data.draw(some_of(self.model.stale.get(consumer, [])), label="late")
        ends: list[Settlement] = []
        acks: list[bytes] = []
        for token in data.draw(st.permutations([*chosen, *late]), label="order"):
            id = held.get(token)
            verb = data.draw(st.sampled_from(self.verbs(id)), label="verb")
            plain = verb == "ack" and not lane_of(token) and self.is_plain(id)
            if plain and data.draw(st.booleans(), label="plain"):
                acks.append(token)
            else:
                ends.append(self.end_of(token, id, verb, delay_ms))
            if id:
                self.model.end(id, verb, delay_ms)

        lost = self.settle_all(consumer, ends, acks)

        assert Counter(lost) == Counter(late)

    def verbs(self, id: str | None) -> tuple[str, ...]:
        """How this message may end."""
        return VERBS

    def is_plain(self, id: str | None) -> bool:
        """Whether nothing follows its end."""
        return True

    def end_of(self, token: bytes, id: str | None, verb: str, delay_ms: int) -> Settlement:
        if verb == "retry":
            attempts = self.model.messages[id].attempts if id else 0
            state = b'{"id":"1-1","attempts":%d}' % attempts
            envelope = Envelope(token, [b"b", b"", b"s", state])
            return settlement.failure(envelope, POLICY, reason="no", luck=0.5, delay_ms=delay_ms)
        if verb == "reject":
            return settlement.reject(token, "no")
        return Settlement("ack" if verb == "ack" else "release", token)

    def settle_all(
        self, consumer: str, ends: list[Settlement], acks: Iterable[bytes] = ()
    ) -> list[bytes]:
        op = consume.fetch(
            self.keys, consumer, ends, acks=[*acks], wake=True, now_ms=self.model.now
        )
        found = self.run(op)
        assert found.kept == {}
        self.model.promote()
        assert found.next_due_ms == self.next_due()
        return [*found.lost]

    @rule(consumer=consumers, data=st.data())
    def extend(self, consumer: str, data: st.DataObject) -> None:
        held = self.model.held(consumer)
        chosen = data.draw(some_of(held), label="held")
        late = data.draw(some_of(self.model.stale.get(consumer, [])), label="late")
        tokens = [*chosen, *late]
        if tokens:
            assert self.run(consume.extend(self.keys, consumer, tokens)) == late
        for token in chosen:
            self.begin_anew(held[token])

    def begin_anew(self, id: str) -> None:
        """The lease of a delivery, unless nothing is left to extend."""
        one = self.model.messages[id]
        one.expired = one.expired and one.gone

    @rule(consumer=consumers)
    def read_again(self, consumer: str) -> None:
        """After a lost reply a consumer asks what it owns; that begins its leases anew."""
        found = self.drive(consume.own_pending(self.keys, consumer))
        held = self.model.held(consumer)
        there = {token: id for token, id in held.items() if not self.model.messages[id].gone}
        assert {one.token: one.state.id for one in found} == there
        for id in held.values():
            self.begin_anew(id)

    # Losing consumers

    @precondition(lambda self: any(not one.gone for one in self.model.at("flying").values()))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """The lease of a delivery runs out; nobody has noticed yet."""
        flying = {id: one for id, one in self.model.at("flying").items() if not one.gone}
        one = flying[data.draw(st.sampled_from(sorted(flying)), label="message")]
        key, entry = self.keys.lane(lane_of(one.token)), one.token.lstrip(b"fs")
        idle = ("IDLE", LEASE_MS + 1, "JUSTID")
        claim = Command(("XCLAIM", key, self.keys.group, one.owner, 0, entry, *idle))
        self.run(Op((claim,), decode=lambda replies: replies[0]))
        one.expired = True

    @rule(limit=st.sampled_from([1, 2, 500]))
    def sweep(self, limit: int) -> None:
        """Enough calls for the rest of a round and a whole one."""
        flying = self.model.at("flying")
        moved = died = 0
        for _ in range(2 * (len(flying) // limit + 2)):
            swept = self.run(
                sweep(
                    self.keys,
                    SWEEPER,
                    lease_ms=LEASE_MS,
                    max_crashes=POLICY.max_crashes,
                    limit=limit,
                    now_ms=self.model.now,
                )
            )
            assert swept.elected
            assert 20 <= swept.wait_ms <= LEASE_MS
            moved, died = moved + swept.moved, died + swept.died
        expired = sorted(
            (id for id, one in flying.items() if one.expired),
            key=lambda id: order_of(flying[id].token),
        )
        there = [id for id in expired if not flying[id].gone]
        for id in expired:
            self.model.crash(id)
        assert moved + died == len(there)
        assert died == sum(self.model.messages[id].place == "dead" for id in there)

    @rule(consumer=consumers, blame=st.booleans())
    def lose_consumer(self, consumer: str, blame: bool) -> None:
        """It crashes or leaves, others get what it had, and it comes back."""
        held = self.model.held(consumer)
        done = self.run(
            hand_over_some(
                self.keys,
                consumer,
                crashed=blame,
                max_crashes=POLICY.max_crashes,
                now_ms=self.model.now,
            )
        )
        there = [id for id in held.values() if not self.model.messages[id].gone]
        # As the server goes through them: lane by lane, the oldest entry first.
        for token in sorted(held, key=order_of):
            self.model.crash(held[token], blame=blame)
        assert done.removed
        assert done.moved + done.died == len(there)
        self.join(consumer)

    # Time, and operators

    @rule(milliseconds=st.sampled_from([1, 999, 1000, 10_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.model.now += milliseconds

    @rule(data=st.data(), everything=st.booleans())
    def redrive(self, data: st.DataObject, everything: bool) -> None:
        dead = self.model.at("dead")
        ids = [*dead] if everything else data.draw(some_of(dead), label="ids")
        wanted = None if everything else [*ids, "1-1"]
        plan = admin.redrive(self.keys, ids=wanted, reason=None, rate=None)
        assert self.drive(plan) == len(ids)
        for id in ids:
            self.model.redrive(id)

    @rule()
    def purge(self) -> None:
        gone = self.model.at(*self.ready, "delayed")
        assert self.drive(admin.purge(self.keys)) == len(gone)
        self.model.remove(gone)

    @rule()
    def pause(self) -> None:
        self.run(control.pause(self.keys))
        self.model.paused = True

    @rule()
    def resume(self) -> None:
        self.run(control.resume(self.keys))
        self.model.paused = False

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A message in any place, or one that never was."""
        id = data.draw(st.sampled_from([*sorted(self.model.messages), "1-1"]), label="id")
        plan = control.cancel(self.keys, id, now_ms=self.model.now)
        assert self.drive(plan) == self.model.cancel(id)

    # What must always be true

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        questions = self.questions()
        answers = self.run(together(*questions.values()))
        self.compare_all(dict(zip(questions, answers, strict=True)))

    def questions(self) -> dict[str, Op[Any]]:
        """What is asked after each step, in one round trip."""
        streams = [*self.keys.lanes, self.keys.dead]
        return {
            "stats": admin.stats(self.keys),
            "streams": Op(tuple(Command(("XRANGE", key, "-", "+")) for key in streams), pages),
            "delayed": admin.peek_delayed(self.keys, 1000),
        }

    def compare_all(self, answers: dict[str, Any]) -> None:
        self.counts_add_up(answers["stats"])
        self.every_message_is_in_one_place(answers)

    def counts_add_up(self, found: QueueStats) -> None:
        at = self.model.at
        expected = [
            len(at(*places)) for places in (self.ready, ("delayed",), ("flying",), ("dead",))
        ]
        assert found.paused == self.model.paused
        assert [found.ready, found.delayed, found.in_flight, found.dead] == expected
        assert sum(expected) == len(self.model.messages)
        owned = {one.name: one.in_flight for one in found.consumers}
        assert {name: n for name, n in owned.items() if n} == {
            name: len(self.model.held(name)) for name in CONSUMERS if self.model.held(name)
        }

    def every_message_is_in_one_place(self, answers: dict[str, Any]) -> None:
        found = [
            (envelope.state.id, place, envelope.state.attempts, envelope.state.crashes)
            for place, page in zip((*LANES, "dead"), answers["streams"], strict=True)
            for envelope in self.of_this(place, page, answers)
        ]
        for envelope, due in answers["delayed"]:
            state = envelope.state
            assert self.model.messages[state.id].due == due
            found.append((state.id, "delayed", state.attempts, state.crashes))

        assert sorted(found) == sorted(
            (
                id,
                lane_of(one.token) if one.place == "flying" else one.place,
                one.attempts,
                one.crashes,
            )
            for id, one in self.model.messages.items()
        )

    def of_this(self, place: str, page: list[Envelope], answers: dict[str, Any]) -> list[Envelope]:
        """Which entries of a stream are this queue's."""
        return page

    def next_due(self) -> int | None:
        dues = [one.due for one in self.model.at("delayed").values()]
        return min(dues) - self.model.now if dues else None


def together(*ops: Op[Any]) -> Op[list[Any]]:
    """Several operations in one round trip; the result has that of each."""

    def decode(replies: list[Any]) -> list[Any]:
        rest = iter(replies)
        return [op.decode([next(rest) for _ in op.commands]) for op in ops]

    return Op(tuple(command for op in ops for command in op.commands), decode)


def lane_of(token: bytes) -> str:
    """The prefix of a token."""
    return token[:1].decode() if token[:1] in (b"f", b"s") else ""


def order_of(token: bytes) -> tuple[str, ...]:
    """Sorts tokens by lane, and by age within each (entries of one length: what the clock gives)."""
    return lane_of(token), *(part.zfill(20) for part in token.decode().lstrip("fs").split("-"))


def pages(replies: list[list[list[bytes]]]) -> list[list[Envelope]]:
    return [entries_of(reply) for reply in replies]


def some_of(choices: Iterable[T]) -> st.SearchStrategy[list[T]]:
    known = list(choices)
    return st.lists(st.sampled_from(known), unique=True, max_size=4) if known else st.just([])
