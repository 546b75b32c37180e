"""resend.lua: what was handled and kept is sent again, as new messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millstream.protocol import admin, kept
from millstream.protocol.op import Op, Pause, Plan, Step
from millstream.protocol.replay import Span
from tests.lua.state import FOREIGN, State, out_of_memory, refused
from tests.support.servers import Server

EVERYTHING = Span("-", "+")


def keep(state: State, number: int, body: str | None = None, **extra: str) -> None:
    """Put a message among those that are kept, handled at this ms."""
    message = {"id": f"{number}-1", "attempts": 3, "crashes": 1, "reason": "retried"}
    state.put("kept", body or str(number), id=f"{number}-0", state=message, extra=extra)


def resend(state: State, span: Span = EVERYTHING, rate: float | None = None) -> int:
    return state.drive(kept.resend(state.keys, span, producer="me", rate=rate))


def follow(plan: Plan[int], run: Callable[[Step], Any]) -> int:
    """Run a plan step by step; its result."""
    answer: Any = None
    while True:
        try:
            step = plan.send(answer)
        except StopIteration as end:
            result: int = end.value
            return result
        answer = run(step)


def test_new_messages(state: State) -> None:
    """With new ids and no counts; what the sender gave is there, and what is kept stays."""
    keep(state, 7, h='{"x":"y"}', k="c-7", **FOREIGN)
    keep(state, 8, x="9 drop", u="done:order-1")

    assert resend(state) == 2

    first, second = state.entries()
    assert first.fields == {"b": "7", "h": '{"x":"y"}', "k": "c-7", **FOREIGN}
    assert second.fields == {"b": "8"}
    assert state.unique() == {}
    assert len(state.entries("kept")) == 2
    assert state.counters() == {"sent": 2}
    state.register("a")
    one = state.fetch("a", ("", 1)).envelopes[0].state
    assert (one.id, one.attempts, one.crashes) == (first.id, 0, 0)


def test_keys_and_priorities(state: State) -> None:
    """The order of a key is kept, and an urgent message is urgent."""
    for number, key in ((1, "k"), (2, "k"), (3, "l")):
        keep(state, number, k=key, o="ordered")
    keep(state, 4, p="5")

    assert resend(state) == 4

    assert state.bodies() == ["1", "3"]
    [(key, waiting)] = state.lines()
    assert key == "k"
    assert {*state.holders()} == {"k", "l"}
    [(priority, urgent)] = state.urgent()
    assert (priority, state.stored()[urgent]["b"], state.stored()[waiting]["b"]) == (5, "4", "2")
    ids = [one.state["id"] for one in state.entries()]
    assert sorted([*ids, waiting, urgent]) == [ids[0], waiting, ids[1], urgent]
    assert state.drive(admin.purge(state.keys)) == 4


def test_a_part(state: State) -> None:
    """By the time at which they were handled."""
    for number in range(1, 10):
        keep(state, number)

    assert resend(state, Span("3-0", "(6-0")) == 3
    assert resend(state, Span("100-0", "+")) == 0

    assert state.bodies() == ["3", "4", "5"]


def test_many(state: State) -> None:
    """Many calls' worth, in order; what is kept meanwhile is left out."""
    for number in range(1, 1201):
        keep(state, number)
    calls = 0

    def run(step: Step) -> Any:
        nonlocal calls
        assert isinstance(step, Op)
        answer = state.run(step)
        calls += 1
        if calls == 3:
            keep(state, 5000)
        return answer

    assert follow(kept.resend(state.keys, EVERYTHING, producer="me", rate=None), run) == 1200

    assert calls == 2 + 3
    assert state.bodies() == [str(number) for number in range(1, 1201)]


def test_a_repeated_call_sends_nothing(state: State) -> None:
    """Its answer was lost: it gets the same one again, however far others are."""
    for number in range(1, 700):
        keep(state, number)

    def run(step: Step) -> Any:
        assert isinstance(step, Op)
        assert step.repeatable
        answer = state.run(step)
        assert state.run(step) == answer
        return answer

    assert follow(kept.resend(state.keys, EVERYTHING, producer="me", rate=None), run) == 699

    assert len(state.entries()) == 699
    assert 0 < state.do("PTTL", state.keys.producer("me")) <= 600_000
    assert state.counters() == {"sent": 699}


def test_at_a_rate(state: State) -> None:
    """A tenth of a second's worth a call, and a pause after each that leaves something."""
    for number in range(1, 8):
        keep(state, number)
    pauses: list[float] = []

    def run(step: Step) -> Any:
        if isinstance(step, Op):
            return state.run(step)
        assert isinstance(step, Pause)
        pauses.append(step.seconds)
        return None

    assert follow(kept.resend(state.keys, EVERYTHING, producer="me", rate=30), run) == 7

    assert pauses == [0.1, 0.1]


def test_a_full_server_refuses_it(own_server: Server, own_state: State) -> None:
    """Nothing of the call is sent then, and it can be repeated."""
    keep(own_state, 1)
    keep(own_state, 2, k="k", o="ordered")

    with out_of_memory(own_server), refused("OOM"):
        resend(own_state)

    assert own_state.entries() == []
    assert own_state.drive(kept.resend(own_state.keys, EVERYTHING, producer="x", rate=None)) == 2
