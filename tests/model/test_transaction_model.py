"""Transactions against a small model: each message counts once, by whoever owns it when it commits."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import millstream as ms
from millstream.driver.blocking import BlockingDriver
from millstream.errors import QueueFull, ServerRefused
from millstream.protocol import admin as operator
from millstream.protocol import consume, ending
from millstream.protocol.draft import Draft
from millstream.protocol.keys import queue_keys
from millstream.protocol.place import Placement
from millstream.protocol.recover import hand_over
from millstream.protocol.send import send
from millstream.protocol.settlement import ack, release
from millstream.protocol.transaction import Commit, Committed, commit
from tests.support.servers import Server

BOUND = 5
CONSUMERS = ("a", "b", "c")
consumers = st.sampled_from(CONSUMERS)


@dataclass
class Taken:
    """A delivery, as whoever got it knows it for ever."""

    token: bytes
    consumer: str
    message: str
    plain: bool


class TransactionMachine(RuleBasedStateMachine):
    """Messages that are taken, lost, and committed by anybody who ever had them."""

    def __init__(self, driver: BlockingDriver, admin: redis.Redis, prefix: str, store: Any) -> None:
        super().__init__()
        self.driver, self.admin = driver, admin
        self.namespace = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self.count_key = f"{self.namespace}-count"
        self.text_key = f"{self.namespace}-text"
        admin.set(self.text_key, "text")
        self.queue: ms.Queue[Any] = ms.Queue("q", store=store)
        self.output: ms.Queue[Any] = ms.Queue("out", bound=ms.Bound(BOUND))
        self.keys = queue_keys(self.namespace, "q", store=store)
        self.sends, self.commits = itertools.count(1), itertools.count(1)
        self.taken: list[Taken] = []
        # The model: who has which message, what was counted, and what the output has.
        self.owners: dict[bytes, Taken] = {}
        self.waiting = 0
        self.count = 0
        self.passed_on = 0
        self.last: tuple[Commit, Committed | None] | None = None

    def teardown(self) -> None:
        for key in self.admin.scan_iter(match=f"{self.namespace}*", count=1000):
            self.admin.delete(key)

    @rule(count=st.integers(1, 4))
    def send(self, count: int) -> None:
        self.driver.run(send(self.keys, "p", next(self.sends), [b"1"] * count))
        self.waiting += count

    @rule(consumer=consumers, most=st.integers(1, 3))
    def take(self, consumer: str, most: int) -> None:
        """From all lanes, suspects too."""
        self.driver.run(consume.register(self.keys, consumer, 10**9))
        lanes = ("s", "") if self.queue.store == "list" else ("s", "f", "")
        for lane in lanes:
            op = consume.fetch(self.keys, consumer, reads=[(lane, most)])
            for one in self.driver.run(op).envelopes:
                taken = Taken(one.token, consumer, one.state.id, one.plain)
                self.taken.append(taken)
                self.owners[one.token] = taken
                self.waiting -= 1

    @rule(consumer=consumers)
    def die(self, consumer: str) -> None:
        """Others get what a consumer has; it does not know, and may go on."""
        self.driver.run(consume.register(self.keys, consumer, 10**9))
        self.driver.drive(hand_over(self.keys, consumer, crashed=True, max_crashes=10**6))
        for token in [token for token, one in self.owners.items() if one.consumer == consumer]:
            del self.owners[token]
            self.waiting += 1

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), how=st.sampled_from(["ack", "release"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from(self.taken))
        end = ack(one.token) if how == "ack" else release(one.token)
        owned = self.driver.drive(ending.settle(self.keys, one.consumer, end))
        assert owned == (one.token in self.owners)
        if self.owners.pop(one.token, None) is not None:
            self.waiting += how == "release"

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), sends=st.integers(0, 3), fits=st.booleans() | st.just(True))
    def commit(self, data: st.DataObject, sends: int, fits: bool) -> None:
        """By whoever has it now, or had it once."""
        one = data.draw(st.sampled_from(self.taken))
        draft = Draft(self.queue.title)
        draft.write("INCRBY", self.count_key, 1)
        for _ in range(sends):
            draft.put(self.output, Placement(body=b"1"))
        if not fits:
            draft.write("SADD", self.text_key, "x")
        asked = Commit(
            *(self.queue, self.keys, one.consumer, ack(one.token, plain=one.plain), draft),
            lane="lane",
            number=next(self.commits),
        )
        owned, full = one.token in self.owners, sends and self.passed_on + sends > BOUND
        try:
            done = self.driver.drive(commit(asked, set()))
        except ServerRefused:
            assert owned
            assert not fits
            return
        except QueueFull:
            assert owned
            assert full
            return
        assert (done is not None) == owned
        if done is not None:
            assert fits
            assert not full
            assert len(done.receipts) == sends
            del self.owners[one.token]
            self.count += 1
            self.passed_on += sends
            self.last = (asked, done)

    @precondition(lambda self: self.last)
    @rule()
    def repeat(self) -> None:
        """The reply was lost: the same again. Others of its lane have not committed since."""
        assert self.last is not None
        asked, done = self.last
        again = self.driver.drive(commit(asked, set()))
        assert again is not None
        assert again.receipts == (done.receipts if done else [])

    @rule()
    def drain(self) -> None:
        """Room in the output."""
        out = queue_keys(self.namespace, "out")
        self.admin.delete(out.ready)
        self.passed_on = 0

    @invariant()
    def it_adds_up(self) -> None:
        """What is counted, passed on, in flight and waiting is what the model says."""
        assert int(self.admin.get(self.count_key) or 0) == self.count
        out = queue_keys(self.namespace, "out")
        assert self.admin.xlen(out.ready) == self.passed_on
        stats = self.driver.run(operator.stats(self.keys))
        assert (stats.ready, stats.in_flight) == (self.waiting, len(self.owners))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", ["stream", "list"])
def test_transactions_are_what_their_model_says(server: Server, namespace: str, store: Any) -> None:
    """No order of takes, crashes, settlements, commits and repetitions counts a message twice, or never."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(TransactionMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace, store)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )
    driver.close()
