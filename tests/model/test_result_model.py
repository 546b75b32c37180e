"""Results against a small model: each is that of the one acknowledgement that counted, as long as it is kept.

Beside ordered keys, delays, priorities, times to live, cancel, reschedule, redrive, retries and crashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from millstream.driver.blocking import BlockingDriver
from millstream.message import Receipt
from millstream.protocol import consume
from millstream.protocol.op import Command, Op
from millstream.protocol.place import Placement
from millstream.protocol.results import NOTED_MS, Question, ask
from millstream.protocol.settlement import Settlement
from tests.model.keyed import KeyedModel
from tests.model.keyed_machine import OrderedMachine, sendings
from tests.support.servers import Server

KEPT_MS = (60_000, 3_600_000)
"""Long enough for the server's own clock not to end them during a test."""

STATES = {"delayed": {"delayed"}, "urgent": {"queued"}, "line": {"queued"}}


@dataclass
class ResultModel(KeyedModel):
    """Which messages want a result, what has come of them, and who waits for it until when."""

    wants: dict[str, int] = field(default_factory=dict)
    results: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    notes: dict[str, dict[str, int]] = field(default_factory=dict)

    def lives(self, id: str) -> bool:
        return id in self.messages and self.messages[id].place != "dead"

    def kind(self, id: str) -> str:
        if self.results.get(id, (b"", 0))[1] > self.now:
            return "done"
        return "waits" if id in self.wants and self.lives(id) else "unknown"

    def note(self, id: str, address: str) -> None:
        notes = self.notes.setdefault(id, {})
        if notes.get(address, 0) <= self.now + NOTED_MS / 2:
            notes[address] = self.now + NOTED_MS


class ResultMachine(OrderedMachine):
    """Sends with and without a wish for results, and asks for them."""

    model: ResultModel

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = ResultModel()
        self.values = itertools.count()
        # Of the messages that the next call ends: those that somebody may wait for.
        self.ending: set[str] = set()

    @rule(
        options=st.lists(
            st.builds(
                lambda one, **more: {**one, **more},
                sendings,
                result=st.sampled_from([0, *KEPT_MS]),
            ),
            min_size=1,
            max_size=4,
        ),
        repeated=st.booleans(),
    )
    def place(self, options: list[dict[str, Any]], repeated: bool) -> None:
        self.place_all(options, repeated=repeated)

    def placement(self, body: bytes, one: dict[str, Any]) -> Placement:
        return replace(super().placement(body, one), result_ms=one["result"])

    def placed(self, receipt: Receipt, body: bytes, one: dict[str, Any]) -> None:
        super().placed(receipt, body, one)
        if one["result"]:
            self.model.wants[receipt.id] = one["result"]

    def is_plain(self, id: str | None) -> bool:
        return super().is_plain(id) and id not in self.model.wants

    def end_of(self, token: bytes, id: str | None, verb: str, delay_ms: int) -> Settlement:
        end = super().end_of(token, id, verb, delay_ms)
        wants = self.model.wants.get(id or "")
        if wants and verb in ("ack", "reject"):
            self.ending.add(id or "")
        if verb != "ack":
            return end
        value = b"=%d" % next(self.values)
        if id and wants:
            # By hand, now and then.
            value = b"-" if value.endswith(b"7") else value
            self.model.results[id] = (value, self.model.now + wants)
        return end if value == b"-" else replace(end, note=value)

    def settle_all(
        self, consumer: str, ends: list[Settlement], acks: Iterable[bytes] = ()
    ) -> list[bytes]:
        """As any other; and those who wait for what has ended are told."""
        model, ending = self.model, self.ending
        self.ending = set()
        op = consume.fetch(
            *(self.keys, consumer, ends), acks=[*acks], wake=True, results=True, now_ms=model.now
        )
        found = self.run(op)
        assert found.kept == {}
        told = {
            id.decode(): {note.partition(" ")[2] for note in noted.decode().split(";")}
            for id, noted in zip(found.awaited[::2], found.awaited[1::2], strict=True)
        }
        for id in ending:
            noted = model.notes.pop(id, {})
            living = {address for address, until in noted.items() if until > model.now}
            assert living <= told.get(id, set()) <= noted.keys()
        assert told.keys() <= ending
        model.promote()
        assert found.next_due_ms == self.next_due()
        return [*found.lost]

    @rule(data=st.data(), address=st.sampled_from(["", "one 1", "two 1", "two 2"]))
    def ask(self, data: st.DataObject, address: str) -> None:
        """Of messages in any place, of some that are over, and of one that never was."""
        known = sorted({*self.model.messages, *self.model.wants, "1-1"})
        ids = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=4), label="ids")
        questions = [Question(id, address) for id in ids]

        looks = self.run(ask(self.keys, questions, now_ms=self.model.now)) if ids else []

        assert [look.kind for look in looks] == [self.model.kind(id) for id in ids]
        for id, look in zip(ids, looks, strict=True):
            if look.kind == "done":
                assert look.content == self.model.results[id][0]
            elif look.kind == "waits":
                other = {"queued", "running", "unknown"}
                assert look.state in STATES.get(self.model.messages[id].place, other)
                if address:
                    self.model.note(id, address)

    @invariant()
    def unfinished_messages_are_expected(self) -> None:
        """Those that want a result, and no others: nobody waits for what is gone."""
        marks = self.run(Op((Command(("HKEYS", self.keys.unique)),), lambda replies: replies[0]))
        expected = {f"\0{id}" for id in self.model.wants if self.model.lives(id)}
        assert {mark.decode() for mark in marks} == expected

    @invariant()
    def results_are_those_that_are_kept(self) -> None:
        """Each has its end, and none is missing; some that are over may still be there."""
        results, ends, _ = self.keys.resulting
        commands = (Command(("HKEYS", results)), Command(("ZRANGE", ends, 0, -1)))
        stored, ending = self.run(Op(commands, lambda replies: replies))
        assert sorted(stored) == sorted(ending)
        kept = {id for id in self.model.results if self.model.kind(id) == "done"}
        assert kept <= {id.decode() for id in stored} <= self.model.results.keys()


@pytest.mark.timeout(180)
def test_results_are_what_their_model_says(server: Server, namespace: str) -> None:
    """No order of operations gives a wrong result, loses one, or leaves anybody waiting for none."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(ResultMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=80, stateful_step_count=50, deadline=None)
    )
    driver.close()
