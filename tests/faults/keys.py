"""What handlers told of messages with keys: was the order kept? A body is a key and a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.faults.processes import Event

OVER = ("ended", "failed")


def in_order(events: Iterable[Event], keys: int, each: int) -> None:
    """Each key's messages began in the order of sending; only repeated ones are there twice."""
    begun: dict[str, list[int]] = {}
    for event in events:
        if event.event == "begun":
            begun.setdefault(event.body[0], []).append(event.body[1])
    assert len(begun) == keys
    for numbers in begun.values():
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(each))


def one_at_a_time(events: Iterable[Event], killed: Mapping[int, float]) -> None:
    """No message of a key began while another one of it ran.

    Args:
        events: what handlers told.
        killed: when each process was killed that was: what it had begun ended then.
    """
    running: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event.time):
        key = event.body[0]
        if event.event == "begun":
            before = running.get(key)
            over = before is None or killed.get(before.pid, event.time + 1) <= event.time
            assert over, f"{before} ran when this began: {event}"
            running[key] = event
        elif key in running and running[key].pid == event.pid:
            assert event.event in OVER
            del running[key]


def ended_before_the_next(events: Iterable[Event], dead: Iterable[tuple[str, int]] = ()) -> None:
    """No message of a key began before the one before had ended well, but those that died."""
    done = {tuple(body) for body in dead}
    for event in sorted(events, key=lambda event: event.time):
        key, number = event.body
        if event.event == "begun":
            assert number == 0 or (key, number - 1) in done, f"too early: {event}"
        elif event.event == "ended":
            done.add((key, number))
