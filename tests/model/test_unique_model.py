"""Unique keys against a small model: a second send is a duplicate exactly when the model says so.

Beside delays, times to live, cancel, reschedule, redrive, retries and crashes, and with ordered
keys, whose turns must not be mixed up with unique ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from millstream.driver.blocking import BlockingDriver
from millstream.message import Receipt
from millstream.protocol import consume
from millstream.protocol.op import Command, Op
from millstream.protocol.place import Placement
from tests.model.keyed import Keyed, KeyedModel
from tests.model.keyed_machine import OrderedMachine, sendings
from tests.model.machine import consumers
from tests.support.servers import Server

NEVER_MS = 3_600_000


@dataclass
class UniqueModel(KeyedModel):
    """Which message has which unique key: until it is done, until it is begun, or for a time."""

    asked: dict[str, tuple[str, str]] = field(default_factory=dict)
    held_by: dict[str, str] = field(default_factory=dict)
    windows: dict[str, str] = field(default_factory=dict)

    def first_of(self, unique: str) -> str | None:
        return self.held_by.get(unique) or self.windows.get(unique)

    def claim(self, id: str, unique: str, mode: str) -> None:
        if mode == "window":
            self.windows[unique] = id
        else:
            self.asked[id] = (unique, mode)
            self.held_by[unique] = id

    def free(self, id: str) -> None:
        unique, _ = self.asked.get(id, ("", ""))
        if self.held_by.get(unique) == id:
            del self.held_by[unique]

    def finish(self, id: str, one: Keyed) -> None:
        self.free(id)
        super().finish(id, one)

    def redrive(self, id: str) -> None:
        super().redrive(id)
        if id in self.asked:
            self.held_by.setdefault(self.asked[id][0], id)


class UniqueMachine(OrderedMachine):
    """Sends with unique keys in all modes."""

    model: UniqueModel

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model = UniqueModel()

    @rule(
        options=st.lists(
            st.builds(
                lambda one, **more: {**one, **more},
                sendings,
                unique=st.sampled_from(["x", "y", "z\n{q}"]),
                mode=st.sampled_from(["done", "started", "window"]),
            ),
            min_size=1,
            max_size=4,
        ),
        repeated=st.booleans(),
    )
    def place(self, options: list[dict[str, Any]], repeated: bool) -> None:
        """In batches: a duplicate may be one of a message of the same batch."""
        self.place_all(options, repeated=repeated)

    def placement(self, body: bytes, one: dict[str, Any]) -> Placement:
        mode = f"window:{NEVER_MS}" if one["mode"] == "window" else one["mode"]
        return replace(super().placement(body, one), unique=one["unique"], unique_for=mode)

    def placed(self, receipt: Receipt, body: bytes, one: dict[str, Any]) -> None:
        first = self.model.first_of(one["unique"])
        assert receipt.duplicate == (first is not None)
        if first is not None:
            assert receipt.id == first
            return
        super().placed(receipt, body, one)
        self.model.claim(receipt.id, one["unique"], one["mode"])

    @rule(consumer=consumers)
    def begin(self, consumer: str) -> None:
        """Handlers begin with all that a consumer has; a second beginning changes nothing."""
        for envelope in self.drive(consume.own_pending(self.keys, consumer)):
            id = envelope.state.id
            one = self.model.one(id)
            one.expired = False  # asking is a sign of life
            self.model.messages[id] = one
            unique, mode = self.model.asked.get(id, ("", ""))
            fresh = one.attempts + one.crashes == 0
            told = envelope.unique_until_started
            assert told == (unique if mode == "started" and fresh else None)
            if told is not None:
                self.run(consume.started(self.keys, id, told))
                self.model.free(id)

    @precondition(lambda self: self.model.windows)
    @rule(data=st.data())
    def end_window(self, data: st.DataObject) -> None:
        """The server lets it expire, by its own clock."""
        unique = data.draw(st.sampled_from(sorted(self.model.windows)), label="window")
        expire = Command(("PEXPIRE", self.keys.window(unique), 0))
        assert self.run(Op((expire,), decode=lambda replies: replies[0])) == 1
        del self.model.windows[unique]

    def questions(self) -> dict[str, Op[Any]]:
        command = Command(("HGETALL", self.keys.unique))
        return {**super().questions(), "unique": Op((command,), lambda replies: replies[0])}

    def compare_all(self, answers: dict[str, Any]) -> None:
        super().compare_all(answers)
        self.keys_are_held_as_the_model_says(answers["unique"])

    def keys_are_held_as_the_model_says(self, flat: list[bytes]) -> None:
        """By living messages only (every other invariant of ordered queues holds as well)."""
        held = {key.decode(): id.decode() for key, id in zip(flat[::2], flat[1::2], strict=True)}
        assert held == self.model.held_by
        assert all(self.model.messages[id].place != "dead" for id in held.values())


@pytest.mark.timeout(300)
def test_unique_keys_do_what_their_model_does(server: Server, namespace: str) -> None:
    """No order of operations stores a second message of a key, or refuses the next one."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(UniqueMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )
    driver.close()
