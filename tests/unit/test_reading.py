"""What a reader does next: decisions, with the time as a parameter."""

from __future__ import annotations

import math

import pytest

from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import Envelope
from millstream.protocol.reading import Reading


def some(count: int, prefix: str = "") -> list[Envelope]:
    return [Envelope(f"{prefix}{n}-1".encode(), [b"b", b""]) for n in range(count)]


def settled(reading: Reading) -> Reading:
    """A reader that has found the queue empty."""
    for _ in range(2):
        reading.fetched(Fetched(envelopes=[]), reading.reads(10), 0)
    assert not reading.more
    return reading


def test_a_new_reader_looks_at_once() -> None:
    """First at what others handed back, then at the rest; it offers to sweep, and sleeps later."""
    reading = Reading()

    assert reading.more
    assert reading.reads(10) == [("f", 10)]
    assert reading.sweep_at == -math.inf
    assert reading.sleep(0) == 0


def test_an_empty_queue_is_read_once_a_lane() -> None:
    """Two looks, and then the reader sleeps: an idle queue costs nothing."""
    reading = Reading()
    seen = []
    while reading.more:
        reads = reading.reads(10)
        seen.append(reads)
        reading.fetched(Fetched(envelopes=[]), reads, 0)

    assert seen == [[("f", 10)], [("", 10)]]


@pytest.mark.parametrize("free", [0, -1])
def test_who_has_no_room_reads_nothing(free: int) -> None:
    """Neither the front nor a suspect."""
    assert Reading(front=True, suspect=True).reads(free) == []


def test_one_lane_fills_what_is_free() -> None:
    """The front before ready, and no more than was asked for."""
    assert Reading(front=True).reads(7) == [("f", 7)]
    assert Reading(front=False).reads(7) == [("", 7)]


def test_a_suspect_comes_alone_and_on_top() -> None:
    """One at a time, beside the others."""
    reading = Reading(front=False, suspect=True)
    assert reading.reads(7) == [("s", 1), ("", 7)]

    reading.fetched(Fetched(envelopes=some(1, "s"), suspect=5), reading.reads(7), 0)
    assert reading.suspect_held == b"s0-1"
    assert reading.reads(7) == [("", 7)]

    reading.settled(b"0-1")
    assert reading.reads(7) == [("", 7)]
    reading.settled(b"s0-1")
    assert reading.reads(7) == [("s", 1), ("", 7)]


@pytest.mark.parametrize(("came", "more"), [(7, True), (6, False), (0, False)])
def test_a_full_batch_promises_more(came: int, more: bool) -> None:
    """A batch that is not full has emptied the lane."""
    reading = Reading(front=False)

    reading.fetched(Fetched(envelopes=some(came)), reading.reads(7), 0)

    assert reading.more is more


def test_the_front_is_not_the_end() -> None:
    """Behind what was handed back there may be others."""
    reading = Reading(front=True)

    reading.fetched(Fetched(envelopes=some(2, "f")), reading.reads(7), 0)

    assert reading.more
    assert reading.reads(7) == [("", 7)]


def test_what_waits_in_other_lanes_is_read_next() -> None:
    """The server tells with each answer."""
    reading = settled(Reading())

    reading.fetched(Fetched(envelopes=[], front=1), reading.reads(7), 0)
    assert reading.more
    assert reading.reads(7) == [("f", 7)]

    reading.fetched(Fetched(envelopes=some(1, "f"), suspect=1), reading.reads(7), 0)
    assert reading.more
    assert reading.reads(7) == [("s", 1), ("", 7)]


def test_suspects_that_it_may_not_take_do_not_keep_it_awake() -> None:
    """It has one; the others wait for it to end, or for other consumers."""
    reading = settled(Reading())
    reading.woke(Fetched(envelopes=some(1, "s")))

    reading.fetched(Fetched(envelopes=[], suspect=3), reading.reads(7), 0)

    assert not reading.more


def test_the_end_of_a_suspect_is_a_reason_to_look() -> None:
    """A read that sleeps at the server was begun without the lane of suspects."""
    reading = settled(Reading())
    reading.woke(Fetched(envelopes=some(1, "s")))
    reading.fetched(Fetched(envelopes=[], suspect=3), reading.reads(7), 0)

    reading.settled(b"9-9")
    assert not reading.more
    reading.settled(b"s0-1")
    assert reading.more


def test_settling_alone_says_nothing_about_the_queue() -> None:
    """A fetch without reads leaves open whether there is more, but tells the times."""
    busy, idle = Reading(), settled(Reading())

    for reading in (busy, idle):
        reading.fetched(Fetched(envelopes=[], next_due_ms=2000, front=1), [], 10)
        assert reading.due_at == 12
        assert reading.front
    assert busy.more
    assert not idle.more


def test_it_sleeps_until_a_message_is_due() -> None:
    """Never beyond, and a due time that is over means that it fetches."""
    reading = settled(Reading(sweep_at=1000))
    reading.fetched(Fetched(envelopes=[], next_due_ms=2500), reading.reads(7), 10)

    assert reading.sleep(10) == 2.5
    assert not reading.is_due(12.4)
    assert reading.is_due(12.5)
    assert reading.sleep(13) == 0


def test_it_sleeps_until_it_has_to_sweep() -> None:
    """Whichever comes first."""
    reading = settled(Reading(sweep_at=20))

    assert reading.sleep(5) == 15
    assert not reading.is_due(10**9)


def test_a_due_time_is_forgotten_when_nothing_waits() -> None:
    """The next answer decides."""
    reading = Reading()
    reading.fetched(Fetched(envelopes=[], next_due_ms=0), reading.reads(7), 10)
    assert reading.is_due(10)

    reading.fetched(Fetched(envelopes=[]), reading.reads(7), 10)

    assert reading.due_at == math.inf
    assert not reading.is_due(10**9)


def test_being_woken_means_to_look() -> None:
    """A message or a wake entry ends the sleep; wake entries are settled with the next fetch."""
    reading = settled(Reading())

    reading.woke(Fetched(envelopes=[], woken=[b"7-1"]))
    reading.woke(Fetched(envelopes=some(1, "s"), woken=[b"8-1"]))

    assert reading.more
    assert reading.woken == [b"7-1", b"8-1"]
    assert reading.suspect_held == b"s0-1"
