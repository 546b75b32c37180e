"""What a reader does next: decisions, with the time as a parameter."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest

from millstream.declare import Queue
from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import queue_keys
from millstream.protocol.limits import Outlook
from millstream.protocol.reading import Reading
from millstream.protocol.watch import Watch, listen


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


def looked(outlook: Outlook | None, now: float = 0.0, came: int = 0) -> Reading:
    """A reader of a queue with limits, after one look."""
    reading = Reading(limited=True)
    found = Fetched(envelopes=some(came), outlook=outlook)
    reading.fetched(found, reading.reads(10), now)
    return reading


class TestLimits:
    def test_the_script_chooses_the_lane(self) -> None:
        """It knows what is there and what is allowed, so one look is enough for all lanes."""
        reading = Reading(limited=True)
        assert reading.may_read(0)
        assert reading.reads(7) == [("s", 1), ("f", 7), ("", 7)]

        reading.woke(Fetched(envelopes=some(1, "s")))
        assert reading.reads(7) == [("f", 7), ("", 7)]
        assert reading.reads(0) == []

    def test_urgent_ones_come_first(self) -> None:
        """As many as may be read; no look has to find out before that there are some."""
        reading = Reading(limited=True)
        reading.reads(7)

        assert reading.urgent == "all"

    def test_the_script_divides_what_is_allowed(self) -> None:
        """It gets the priorities that wait, and another place in the rounding each time."""
        reading = Reading(limited=True, weighted=True)
        reading.reads(7)
        assert reading.urgent == ""

        reading.fetched(
            Fetched(envelopes=[], priorities=[9, 5], outlook=Outlook("more")), reading.reads(7), 0
        )
        plans = []
        for _ in range(50):
            reading.reads(7)
            plans.append(reading.urgent.split("+"))
        assert {levels for levels, _ in plans} == {"9 5 0 "}
        places = sorted(float(place) for _, place in plans)
        assert max(b - a for a, b in pairwise([0.0, *places, 1.0])) < 0.06

    def test_more_is_read_at_once(self) -> None:
        """As soon as there is room."""
        reading = looked(Outlook("more"), came=10)

        assert reading.may_read(0)

    def test_an_empty_queue_is_watched_from_its_end(self) -> None:
        """One look, and then the reader sleeps until there is news."""
        since = (b"9-9", b"1-1", b"2-2", b"3-3")
        reading = looked(Outlook("empty", since=since))

        assert not reading.may_read(0)
        assert not reading.may_read(0, settling=True)
        assert reading.watch() == Watch(limited=True, since=since)
        reading.woke(Fetched(envelopes=[]))
        assert reading.may_read(0)

    def test_it_waits_for_tokens_by_its_own_clock(self) -> None:
        """A wake-up, a settlement or news do not bring one any sooner."""
        reading = looked(Outlook("tokens", wait_ms=2500), now=10)

        assert reading.sleep(10) == 0  # it has to sweep
        reading.sweep_at = 1000
        assert reading.sleep(10) == 2.5
        reading.woke(Fetched(envelopes=[], woken=[b"1-1"]))
        assert not reading.may_read(12.4, settling=True)
        assert reading.may_read(12.5)
        # A wake-up is for one that waits for a slot.
        assert reading.watch() == Watch(limited=True, since=(b"$",))

    def test_it_waits_for_a_slot(self) -> None:
        """A wake-up tells of one, and what it settles itself makes one."""
        reading = looked(Outlook("slots"))

        assert not reading.may_read(0)
        assert reading.may_read(0, settling=True)
        assert reading.watch() == Watch(limited=True)
        reading.woke(Fetched(envelopes=[], woken=[b"1-1"]))
        assert reading.may_read(0)
        assert reading.woken == [b"1-1"]

    def test_the_end_of_a_delivery_is_a_slot(self) -> None:
        """Whoever settled it, for example the user of a receiver."""
        reading = looked(Outlook("slots"))
        reading.settled(b"1-1")
        assert reading.may_read(0)

        waiting = looked(Outlook("empty", since=(b"1-1",)))
        waiting.settled(b"1-1")
        assert not waiting.may_read(0)

    def test_settling_alone_says_nothing(self) -> None:
        """What it waits for stays, and what is due is known."""
        reading = looked(Outlook("tokens", wait_ms=2500), now=10)

        reading.fetched(Fetched(envelopes=[], next_due_ms=1000), [], 11)

        assert reading.tokens_at == 12.5
        assert reading.due_at == 12

    def test_one_look_replaces_another(self) -> None:
        """Nothing is left of what was waited for before."""
        reading = looked(Outlook("tokens", wait_ms=2500))
        for outlook in (Outlook("slots"), Outlook("empty", since=(b"1-1",)), Outlook("more")):
            reading.fetched(Fetched(envelopes=[], outlook=outlook), reading.reads(1), 3)
            assert reading.tokens_at == -math.inf
        assert (reading.more, reading.slot, reading.since) == (True, False, ())


class TestWatch:
    FREE, BUSY = Watch(suspects=True), Watch(suspects=False)
    SLOT, NEWS = Watch(limited=True), Watch(limited=True, since=(b"1-1", b"1-1"))
    TOKENS = Watch(limited=True, since=(b"$",))

    @pytest.mark.parametrize("watch", [FREE, BUSY, SLOT, NEWS, TOKENS])
    def test_a_sleep_is_good_for_what_it_was_begun_for(self, watch: Watch) -> None:
        """It goes on."""
        assert watch.covers(watch)

    def test_suspects(self) -> None:
        """Who may take one now must not sleep without that lane."""
        assert self.FREE.covers(self.BUSY)
        assert not self.BUSY.covers(self.FREE)

    def test_older_ids_are_as_good(self) -> None:
        """A sleep that goes on has seen nothing behind them."""
        assert self.NEWS.covers(Watch(limited=True, since=(b"2-2", b"2-2")))

    def test_slots_news_and_tokens_are_different_things(self) -> None:
        """None wakes for another one."""
        for one, other in permutations((self.SLOT, self.NEWS, self.TOKENS), 2):
            assert not one.covers(other)

    @pytest.mark.parametrize("limited", [False, True])
    def test_a_paused_queue(self, limited: bool) -> None:
        """Nothing but a wake-up: a lane would bring normal messages before urgent ones."""
        paused = Watch(limited=limited, paused=True)
        going = Watch(limited=limited)
        assert paused.lanes == ()
        assert paused.covers(paused)
        assert not paused.covers(going)
        assert not going.covers(paused)


def test_who_pops_sleeps_for_news_alone() -> None:
    """No lane is in its sleep, paused or not: what a sleep brought would be lost with its reply."""
    reading = Reading.of(Queue("orders", delivery="at_most_once"))
    since = (b"1-0", b"2-0", b"3-0", b"4-0")
    nothing = Fetched(envelopes=[], outlook=Outlook("empty", since=since))
    reading.fetched(nothing, reading.reads(10), 0)

    assert not reading.more
    assert reading.sleep(0) == math.inf
    for paused in (False, True):
        reading.paused = paused
        watch = reading.watch()
        assert (watch.lanes, watch.since) == ((), since)
        op = listen([(queue_keys("ms", "orders"), watch)], "w", 1000)
        assert op.commands[0].arguments[0] == "XREAD"


def test_who_pops_holds_no_suspect() -> None:
    """It kills one consumer at most, so others may be taken meanwhile."""
    reading = Reading.of(Queue("orders", delivery="at_most_once"))
    reading.suspect = True
    reads = reading.reads(10)
    found = Fetched(envelopes=some(1, "s"), suspect=1, outlook=Outlook("more", since=(b"0-0",) * 4))
    reading.fetched(found, reads, 0)

    assert reads[0] == ("s", 1)
    assert reading.reads(10)[0] == ("s", 1)
