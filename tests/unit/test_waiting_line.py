"""What a producer that waits for room does next: no server, no clock, no tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from millstream.errors import NotConnected, QueueFull, UsageError
from millstream.message import Receipt
from millstream.policy import Bound
from millstream.protocol.bound import Outcome, Unit
from millstream.protocol.keys import queue_keys
from millstream.protocol.line import CONFIRM, Line, Waiting
from millstream.protocol.op import Op
from millstream.protocol.place import Placement

LOST = NotConnected("gone", url="redis://x")


def line(length: int = 3, timeout: float | None = 10) -> Line:
    bound = Bound(length, on_full="wait", timeout=timeout)
    return Line(queue_keys("ms", "orders"), bound, "me")


def unit(count: int = 1, unique: str = "") -> Unit:
    return Unit(tuple(Placement(body=b"1", unique=unique) for _ in range(count)))


def step(line: Line, now: float) -> str | float | None:
    """What is to be done: which script with which tickets, or how long to listen."""
    todo = line.step(now)
    if not isinstance(todo, Op):
        return todo
    (command,) = todo.commands
    assert command.script is not None
    arguments = command.arguments[3 + int(command.arguments[2]) :]
    if command.script.name == "line_up":
        return f"line_up {arguments[0]!r} {arguments[1]!r}"
    ticket, units = arguments[7], arguments[8]
    return f"place {units!r} {ticket!r}"


def took(line: Line, now: float, *outcomes: str) -> None:
    """The answer to a place: ``ok`` or ``full`` for each unit."""
    full = QueueFull("full", queue="orders", length=3, bound=3)
    answers: Sequence[Outcome] = [[Receipt("1-1")] if one == "ok" else full for one in outcomes]
    line.took(answers, now)


def told(waiting: Waiting) -> str:
    if waiting.outcome is None:
        return ""
    return "ok" if isinstance(waiting.outcome, list) else type(waiting.outcome).__name__


def refused(line: Line, now: float = 0.0, **options: Any) -> Waiting:
    """One unit that waits with a ticket since this time."""
    waiting = line.join(unit(**options), now)
    assert step(line, now) == "place 1 ''"
    took(line, now, "full")
    return waiting


def test_with_room() -> None:
    """What is there leaves in one call, and then there is nothing to do."""
    it = line()
    units = [it.join(unit(), 0.0) for _ in range(3)]

    assert step(it, 0.0) == "place 3 ''"
    took(it, 0.0, "ok", "ok", "ok")

    assert [told(one) for one in units] == ["ok"] * 3
    assert step(it, 0.0) is None
    assert not it.busy


def test_without_room() -> None:
    """What finds none waits with a ticket, confirms it in time, and is sent at its turn."""
    it = line()
    first, second = it.join(unit(), 0.0), it.join(unit(2), 0.0)
    step(it, 0.0)
    took(it, 0.0, "ok", "full")

    assert (told(first), told(second)) == ("ok", "")
    assert step(it, 0.5) == CONFIRM - 0.5
    assert step(it, CONFIRM) == "line_up 'me 1' 'me 1'"
    it.took((False, 3), CONFIRM)
    assert step(it, CONFIRM) == CONFIRM
    it.heard(("5-0", ["other 1", "me 1"]))
    assert step(it, 3.0) == "place 1 'me 1'"
    took(it, 3.0, "ok")
    assert told(second) == "ok"
    assert step(it, 3.0) is None


def test_a_confirmation_may_say_that_it_is_our_turn() -> None:
    """A call that nobody heard does not matter; neither does that of another ticket."""
    it = line()
    refused(it)
    it.heard(("5-0", ["other 2", "me 1"]))
    assert step(it, 1.0) == CONFIRM - 1.0
    assert step(it, CONFIRM) == "line_up 'me 2' 'me 2'"
    it.took((True, 2), CONFIRM)
    assert step(it, CONFIRM) == "place 1 'me 2'"


def test_the_time_is_over() -> None:
    """It fails with how long it waited, and the ticket is given up, or exchanged for the next one's."""
    it = line(timeout=1)
    first = refused(it, count=2)
    second = it.join(unit(), 0.5)

    assert step(it, 0.9) == pytest.approx(0.1)
    assert step(it, 1.0) == "line_up 'me 1' 'me 2'"
    with pytest.raises(QueueFull, match="none of 2 messages were sent within 1 s"):
        first.result()
    it.took((False, 3), 1.0)
    assert step(it, 1.5) == "line_up 'me 2' ''"
    assert told(second) == "QueueFull"
    it.took((False, 3), 1.5)
    assert step(it, 1.5) is None


def test_however_short_the_time() -> None:
    """It is tried once, also when the call before it took all of its time."""
    it = line(timeout=0.001)
    first = it.join(unit(), 0.0)
    assert step(it, 5.0) == "place 1 ''"
    took(it, 5.0, "full")
    assert step(it, 5.0) == "line_up 'me 2' ''"
    assert told(first) == "QueueFull"


def test_who_gives_up_first() -> None:
    """A unit that is not wanted any more gives its place to the next one, and is not sent."""
    it = line(timeout=None)
    first = refused(it, count=3)
    second = it.join(unit(), 0.0)
    first.end(KeyboardInterrupt())

    assert step(it, 0.1) == "line_up 'me 0' 'me 2'"
    it.took((True, 2), 0.1)
    assert step(it, 0.1) == "place 1 'me 2'"
    took(it, 0.1, "ok")
    assert told(second) == "ok"


def test_given_up_on_the_wire() -> None:
    """The answer for a unit that nobody waits for any more changes nothing."""
    it = line()
    first, second = it.join(unit(), 0.0), it.join(unit(), 0.0)
    step(it, 0.0)
    first.end(KeyboardInterrupt())
    took(it, 0.0, "full", "full")

    assert told(first) == "KeyboardInterrupt"
    assert step(it, 0.0) == CONFIRM
    assert told(second) == ""


def test_a_send_that_fails() -> None:
    """Those on the wire are not known to be stored; those behind them go on, and ask at once."""
    it = line()
    refused(it).end(KeyboardInterrupt())
    second = it.join(unit(), 0.0)
    it.heard(("5-0", ["me 2"]))
    assert step(it, 0.1) == "place 1 'me 2'"
    third = it.join(unit(), 0.1)
    it.failed(LOST)

    assert (told(second), told(third)) == ("NotConnected", "")
    assert step(it, 0.1) == "line_up 'me 2' 'me 2'"


def test_a_confirmation_that_fails() -> None:
    """Without a server all of them have waited in vain, and nothing is left of them."""
    it = line()
    first = refused(it)
    second = it.join(unit(), 0.0)
    assert step(it, CONFIRM) == "line_up 'me 2' 'me 2'"
    it.failed(LOST)

    assert (told(first), told(second)) == ("NotConnected", "NotConnected")
    assert not it.busy
    assert step(it, CONFIRM) == "line_up 'me 2' ''"
    it.failed(LOST)
    assert step(it, CONFIRM) is None


def test_what_another_message_may_stand_for() -> None:
    """With a unique key in the line each confirmation tries to send: a duplicate needs no room."""
    it = line()
    first = refused(it)
    second = it.join(unit(unique="u"), 0.0)

    assert step(it, CONFIRM) == "place 2 'me 2'"
    took(it, CONFIRM, "full", "ok")
    assert (told(first), told(second)) == ("", "ok")
    assert step(it, CONFIRM) == CONFIRM
    assert step(it, 2 * CONFIRM) == "line_up 'me 2' 'me 2'"


def test_more_than_one_call_carries() -> None:
    """Hundreds of units leave some a call, in order."""
    it = line(length=5000)
    units = [it.join(unit(), 0.0) for _ in range(1200)]
    for count in (500, 500, 200):
        assert step(it, 0.0) == f"place {count} ''"
        took(it, 0.0, *["ok"] * count)
    assert {told(one) for one in units} == {"ok"}
    assert step(it, 0.0) is None


def test_closing() -> None:
    """What is on its way arrives; what finds no room does not wait for it, and leaves no ticket."""
    it = line()
    first, second = it.join(unit(), 0.0), it.join(unit(), 0.0)
    step(it, 0.0)
    it.close(UsageError("closed"))
    took(it, 0.0, "ok", "full")

    assert told(first) == "ok"
    assert step(it, 0.0) == "line_up 'me 2' ''"
    assert told(second) == "UsageError"
    it.took((False, 3), 0.0)
    assert step(it, 0.0) is None


@pytest.mark.parametrize("count", [4, 200_000])
def test_what_never_fits(count: int) -> None:
    """More than the bound, or than one call may carry, does not even join."""
    it = line(length=3 if count == 4 else 300_000)
    one = Placement(body=b"1")
    with pytest.raises(UsageError, match=f"{count} messages"):
        it.join(Unit((one,) * count), 0.0)
    assert not it.busy
    assert step(it, 0.0) is None
