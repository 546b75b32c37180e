"""A list queue against the model that a stream queue has, too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from millstream.driver.blocking import BlockingDriver
from millstream.protocol import admin, consume
from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import entries_of
from millstream.protocol.keys import queue_keys
from millstream.protocol.op import Command, Op
from tests.model.machine import CONSUMERS, QueueMachine, consumers, lane_of
from tests.support.servers import Server


class ListMachine(QueueMachine):
    """What a list does in another way: what is read at a time, what a sleep does, and leases."""

    # They end by the time of the model, which passes quickly; a rule ends some at once.
    lease_ms = 10**9

    def __init__(self, driver: BlockingDriver, redis_admin: redis.Redis, namespace: str) -> None:
        super().__init__(driver, redis_admin, namespace)
        self.keys = queue_keys(self.namespace, "q", store="list")

    @rule(consumer=consumers, suspects=st.integers(0, 1), front=st.just(0), ready=st.integers(0, 6))
    def fetch(self, consumer: str, suspects: int, front: int, ready: int) -> None:
        reads = [(lane, n) for lane, n in (("s", suspects), ("", front + ready)) if n]
        found = self.run(consume.fetch(self.keys, consumer, reads=reads, now_ms=self.model.now))

        self.model.promote()
        self.compare(found, reads, consumer)

    def compare(self, found: Fetched, reads: list[tuple[str, int]], consumer: str) -> None:
        """What was handed back comes first; whatever the state, the next due time is told."""
        asked = dict(reads)
        there = {lane: len(self.model.at(lane)) for lane in ("", "f", "s")}
        assert found.next_due_ms == self.next_due()
        assert (found.outlook is not None) == self.model.paused
        came = Counter(lane_of(envelope.token) for envelope in found.envelopes)
        if self.model.paused:
            assert not came
            assert found.suspect == (there["s"] > 0)
            return
        front = min(asked.get("", 0), there["f"])
        ready = min(asked.get("", 0) - front, there[""])
        suspects = min(asked.get("s", 0), there["s"])
        assert +came == +Counter({"s": suspects, "f": front, "": ready})
        assert found.suspect == (there["s"] > suspects)
        for envelope in found.envelopes:
            self.arrive(envelope, consumer)

    @rule(consumer=consumers, suspects=st.booleans())
    def wait(self, consumer: str, suspects: bool) -> None:
        """What wakes a reader that dies in its sleep is in no list, and is not lost."""
        self.admin.lmove(self.keys.ready, self.keys.landing, "RIGHT", "RIGHT")

    @precondition(lambda self: self.model.at("flying"))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        flying = self.model.at("flying")
        one = flying[data.draw(st.sampled_from(sorted(flying)), label="message")]
        leases = self.keys.listed[2]
        assert self.admin.zadd(leases, {one.token + b" " + one.owner.encode(): 0}, xx=True) == 0
        one.expired = True

    def questions(self) -> dict[str, Op[Any]]:
        dead = Command(("XRANGE", self.keys.dead, "-", "+"))
        leases = Command(("ZCARD", self.keys.listed[2]))
        return {
            "stats": admin.stats(self.keys),
            "ready": admin.peek_ready(self.keys, 1000),
            "dead": Op((dead,), lambda replies: entries_of(replies[0])),
            "delayed": admin.peek_delayed(self.keys, 1000),
            "leased": Op((leases,), lambda replies: replies[0]),
        }

    def every_message_is_in_one_place(self, answers: dict[str, Any]) -> None:
        """Those in flight are counted by consumer (see counts_add_up)."""
        found = [
            *(("waits", one) for one in answers["ready"]),
            *(("dead", one) for one in answers["dead"]),
            *(("delayed", one) for one, _ in answers["delayed"]),
        ]
        seen = [(one.state.id, at, one.state.attempts, one.state.crashes) for at, one in found]
        places = {"": "waits", "f": "waits", "s": "waits", "dead": "dead", "delayed": "delayed"}
        assert sorted(seen) == sorted(
            (id, places[one.place], one.attempts, one.crashes)
            for id, one in self.model.messages.items()
            if one.place != "flying"
        )
        assert answers["leased"] == sum(len(self.model.held(name)) for name in CONSUMERS)


@pytest.mark.timeout(300)
def test_a_list_does_what_the_model_of_a_queue_does(server: Server, namespace: str) -> None:
    """No order of operations loses a message, doubles one, or miscounts."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(ListMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=50, stateful_step_count=40, deadline=None)
    )
    driver.close()
