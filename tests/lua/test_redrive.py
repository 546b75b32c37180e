"""redrive.lua: dead letters go back to their queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from millstream.protocol import admin
from millstream.protocol.op import Pause
from tests.lua.state import FOREIGN, NOW, State, out_of_memory, refused
from tests.support.servers import Server

COUNTS = {"attempts": 5, "crashes": 2}


def die(
    state: State,
    number: int,
    reason: str | None = "attempts",
    *,
    extra: dict[str, str] | None = None,
) -> str:
    """Put a dead letter; the result is the id of its message."""
    id = f"{number}-1"
    letter = {"id": id, **COUNTS, "error": "ValueError: no", "at": NOW}
    if reason is not None:
        letter["reason"] = reason
    state.put("dead", f"body {number}", state=letter, extra=extra or {})
    return id


def redrive(state: State, *, ids: Sequence[str] | None = None, reason: str | None = None) -> int:
    return state.drive(admin.redrive(state.keys, ids=ids, reason=reason, rate=None))


def test_a_redriven_message_starts_anew(state: State) -> None:
    """Its id, body and other fields stay, its counts are zero, its reason is forgotten."""
    id = die(state, 7, extra={"h": '{"x":"y"}', **FOREIGN})

    assert redrive(state) == 1

    entry = state.only("ready")
    assert {"b": "body 7", "h": '{"x":"y"}', **FOREIGN}.items() <= entry.fields.items()
    assert entry.state == {"id": id, "attempts": 0, "crashes": 0}
    assert state.entries("dead") == []
    assert state.counters() == {"redriven": 1}


def test_redrives_all_in_order(state: State) -> None:
    """Many calls' worth, the oldest first."""
    bodies = [f"body {number}" for number in range(1, 1201)]
    for number in range(1, 1201):
        die(state, number)

    assert redrive(state) == 1200

    assert state.bodies() == bodies
    assert state.entries("dead") == []
    assert state.counters() == {"redriven": 1200}


def test_nothing_is_dead(state: State) -> None:
    """Then nothing happens, and no key comes to be."""
    assert redrive(state) == 0
    assert not state.do("EXISTS", state.keys.ready, state.keys.counters)


def test_redrives_some_ids(state: State) -> None:
    """By the message's id, not by the dead letter's; unknown ones are passed over."""
    for number in (1, 2, 3):
        die(state, number)

    assert redrive(state, ids=["3-1", "1-1", "99-1"]) == 2

    assert state.bodies() == ["body 1", "body 3"]
    assert state.bodies("dead") == ["body 2"]


REASONS = [
    "attempts",
    "crashed",
    "customer gone",
    "customer 7 gone",
    "100%",
    "a.c",
    "abc",
    "(x) [y] ^z$ -1+?",
    "%d %s",
    "Stra\u00dfe \u20ac",
    "two\nlines",
    "nul \u0000 byte",
    "a_b",
    "",
    None,
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("attempts", ["attempts"]),
        ("crash", []),
        ("crash*", ["crashed"]),
        ("customer*gone", ["customer gone", "customer 7 gone"]),
        ("*%", ["100%"]),
        ("a.c", ["a.c"]),
        ("a*c", ["a.c", "abc"]),
        ("(x) [y] ^z$ -1+?", ["(x) [y] ^z$ -1+?"]),
        ("%d %s", ["%d %s"]),
        ("*%s", ["%d %s"]),
        ("Stra\u00dfe*", ["Stra\u00dfe \u20ac"]),
        ("*\u20ac", ["Stra\u00dfe \u20ac"]),
        ("two\nlines", ["two\nlines"]),
        ("two*", ["two\nlines"]),
        ("nul \u0000 byte", ["nul \u0000 byte"]),
        ("a_b", ["a_b"]),
        ("", REASONS[-2:]),
        ("nil", []),
        ("*", REASONS),
        ("**", REASONS),
        (None, REASONS),
        ("*o*e*", ["customer gone", "customer 7 gone", "two\nlines"]),
        ("c*7*gone", ["customer 7 gone"]),
        ("c*r *one*", ["customer gone", "customer 7 gone"]),
        ("attempts*s", []),
        ("a*c*c", []),
        ("*abc*", ["abc"]),
        ("a**c", ["a.c", "abc"]),
    ],
)
def test_redrives_a_reason(state: State, pattern: str | None, expected: list[str | None]) -> None:
    """A star stands for any text, every other character for itself."""
    for number, reason in enumerate(REASONS):
        die(state, number + 1, reason)

    assert redrive(state, reason=pattern) == len(expected)

    numbers = [REASONS.index(reason) + 1 for reason in expected]
    assert state.bodies() == [f"body {number}" for number in numbers]


def test_a_reason_with_many_stars(state: State) -> None:
    """It costs a look at the text for each piece, not one for each way to share the text out."""
    die(state, 1, "a" * 3000)
    die(state, 2, "a" * 3000 + "b")

    # Matched by trying, each of these twenty stars would multiply the work by thousands.
    assert redrive(state, reason="a*" * 20 + "b") == 1

    assert state.bodies() == ["body 2"]


def test_redrives_one_id(state: State) -> None:
    """The others stay, and so does everything when the id is unknown."""
    for number in (1, 2, 3):
        die(state, number)

    assert redrive(state, ids=["99-1"]) == 0
    assert state.counters() == {}
    assert redrive(state, ids=["2-1"]) == 1

    assert state.bodies() == ["body 2"]
    assert state.bodies("dead") == ["body 1", "body 3"]


def test_ids_and_reason_must_both_fit(state: State) -> None:
    """The two conditions narrow each other."""
    die(state, 1, "crashed")
    die(state, 2, "crashed")
    die(state, 3, "attempts")

    assert redrive(state, ids=["1-1", "3-1"], reason="crashed") == 1

    assert state.bodies() == ["body 1"]


def test_looks_through_many_that_do_not_fit(state: State) -> None:
    """A page without a match is not the end."""
    for number in range(1, 1101):
        die(state, number, "crashed" if number == 1100 else "attempts")

    assert redrive(state, reason="crashed") == 1
    assert len(state.entries("dead")) == 1099


def test_a_rate_bounds_each_step(state: State) -> None:
    """A step moves a tenth of a second's worth, and the plan pauses for as long as that takes."""
    for number in range(1, 8):
        die(state, number)
    plan = admin.redrive(state.keys, ids=None, reason=None, rate=30)
    pauses: list[float] = []
    left: list[int] = []
    step: Any = next(plan)
    total = 0
    try:
        while True:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                left.append(len(state.entries("dead")))
                step = plan.send(None)
            else:
                step = plan.send(state.run(step))
    except StopIteration as done:
        total = done.value

    assert total == 7
    assert left == [4, 1]
    assert pauses == [pytest.approx(0.1)] * 2
    assert state.bodies() == [f"body {number}" for number in range(1, 8)]


def test_what_dies_meanwhile_stays_dead(state: State) -> None:
    """A message that fails again at once does not go round and round in one redrive."""
    for number in range(1, 4):
        die(state, number)
    plan = admin.redrive(state.keys, ids=None, reason=None, rate=10)
    step: Any = next(plan)
    total = 0
    try:
        while True:
            if isinstance(step, Pause):
                die(state, 100 + len(state.entries("dead")))
                step = plan.send(None)
            else:
                step = plan.send(state.run(step))
    except StopIteration as done:
        total = done.value

    assert total == 3
    assert state.bodies() == ["body 1", "body 2", "body 3"]


@pytest.mark.parametrize("hostile", ["{", "[]", '{"id":7}', '{"id":"x","attempts":1e999}'])
def test_a_malformed_dead_letter_is_redriven(state: State, hostile: str) -> None:
    """It gets the id of its entry, and a state that can be read."""
    entry = state.put("dead", state=hostile)

    assert redrive(state, ids=[entry]) == 1

    assert state.only("ready").state == {"id": entry, "attempts": 0, "crashes": 0}


def test_without_memory_nothing_moves(own_server: Server, own_state: State) -> None:
    """The operator gets the error, the dead letters stay."""
    die(own_state, 1)

    with out_of_memory(own_server), refused("OOM"):
        redrive(own_state)

    assert own_state.bodies("dead") == ["body 1"]
    assert own_state.entries() == []
