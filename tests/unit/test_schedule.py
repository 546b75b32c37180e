"""When schedules tick: expressions, intervals, time zones, clocks that jump."""

from __future__ import annotations

import builtins
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millstream.errors import UsageError
from millstream.schedule import MISSED_MS, Timing, check_missed, outcome, timing_of

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

# In 2026 clocks jump on 29 March and 25 October in Berlin, on 8 March and 1 November in New York.
JUMPS = {
    BERLIN: ("2026-03-29T01:00Z", "2026-10-25T01:00Z"),
    NEW_YORK: ("2026-03-08T07:00Z", "2026-11-01T06:00Z"),
}


def ms(text: str) -> int:
    """A moment that is written with its offset."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def ticks(spec: str, tz: str, start: str, count: int) -> list[str]:
    """The next ticks, as clocks on the wall show them."""
    timing = timing_of(spec, tz, "")
    moment, found = ms(start), []
    for _ in range(count):
        moment = timing.next_after(moment)
        local = datetime.fromtimestamp(moment / 1000, ZoneInfo(tz))
        found.append(local.isoformat(" ", "minutes"))
    return found


class TestExpressions:
    @pytest.mark.parametrize(
        ("spec", "start", "expected"),
        [
            ("*/5 * * * *", "2026-01-01T00:00Z", ["01-01 00:05", "01-01 00:10"]),
            ("*/5 * * * *", "2026-01-01T00:04:59.999Z", ["01-01 00:05"]),
            ("*/5 * * * *", "2026-01-01T00:05:00.001Z", ["01-01 00:10"]),
            ("59 23 31 12 *", "2026-01-01T00:00Z", ["12-31 23:59"]),
            ("0 0 31 * *", "2026-01-31T00:00Z", ["03-31 00:00", "05-31 00:00"]),
            ("0 0 L * *", "2026-01-01T00:00Z", ["01-31 00:00", "02-28 00:00"]),
            ("0 0 29 2 *", "2026-01-01T00:00Z", ["02-29 00:00"]),
            ("0 9 * * mon-fri", "2026-01-02T09:00Z", ["01-05 09:00"]),
            ("0 9 * * 7", "2026-01-01T00:00Z", ["01-04 09:00", "01-11 09:00"]),
            ("0 9 13 * 5", "2026-01-01T00:00Z", ["01-02 09:00", "01-09 09:00", "01-13 09:00"]),
            ("  0   9 1-7 * */7 ", "2026-01-01T00:00Z", ["01-04 09:00", "02-01 09:00"]),
        ],
    )
    def test_ticks(self, spec: str, start: str, expected: list[str]) -> None:
        """Steps, ends of months, leap days and days of the week are as in cron."""
        found = ticks(spec, "UTC", start, len(expected))

        assert [tick[5:16] for tick in found] == expected

    def test_leap_days(self) -> None:
        """29 February comes every four years, but not in 2100."""
        found = ticks("0 0 29 2 *", "UTC", "2092-03-01T00:00Z", 3)

        assert [tick[:4] for tick in found] == ["2096", "2104", "2108"]

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            ("0 0 30 2 *", "never fires"),
            ("0 0 31 4,6,9,11 *", "never fires"),
            ("0 0 */31 2 1#5", "never fires"),
            ("60 * * * *", "bad minute"),
            ("* 24 * * *", "bad hour"),
            ("0 0 32 * *", "bad day-of-month"),
            ("0 0 0 * *", "bad day-of-month"),
            ("0 0 1 13 *", "bad month"),
            ("0 0 * * 8", "bad day-of-week"),
            ("x * * * *", "bad minute"),
            ("*/0 * * * *", "bad minute"),
            ("5-1 * * * *", "bad minute"),
            ("", "five fields"),
            ("* * * *", "five fields"),
            ("* * * * * *", "five fields"),
            ("@daily", "five fields"),
            ("9" * 190 + " * * * *", "bad minute"),
            ("9" * 5000 + " * * * *", "five fields"),
        ],
    )
    def test_refused(self, spec: str, problem: str) -> None:
        """What makes no sense, or never fires, is refused with the parameter and the reason."""
        with pytest.raises(UsageError, match=rf"here: spec.*{problem}"):
            timing_of(spec, "UTC", "here")

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the extra, expressions say what to install; intervals need nothing."""
        real = builtins.__import__

        def refusing(name: str, *rest: Any, **more: Any) -> Any:
            if name == "cronsim":
                raise ImportError(name)
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", refusing)
        with pytest.raises(UsageError, match=r"pip install 'millstream\[schedules\]'"):
            timing_of("* * * * *", "UTC", "here")
        assert timing_of(60, "UTC", "here").next_after(0) == MINUTE


class TestTimeZones:
    @pytest.mark.parametrize(
        ("tz", "start", "expected"),
        [
            (
                BERLIN,
                "2026-03-28T12:00Z",
                ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00", "2026-03-31 02:30+02:00"],
            ),
            (
                BERLIN,
                "2026-10-24T12:00Z",
                ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00", "2026-10-27 02:30+01:00"],
            ),
            (
                NEW_YORK,
                "2026-03-07T12:00Z",
                ["2026-03-08 03:00-04:00", "2026-03-09 02:30-04:00", "2026-03-10 02:30-04:00"],
            ),
        ],
    )
    def test_a_fixed_time(self, tz: str, start: str, expected: list[str]) -> None:
        """A time that does not exist comes right after the gap; one that comes twice counts once."""
        assert ticks("30 2 * * *", tz, start, 3) == expected

    def test_steps_in_the_hour_that_comes_twice(self) -> None:
        """What ticks every so often goes on ticking so often."""
        found = ticks("*/30 * * * *", BERLIN, "2026-10-25T00:00Z", 5)

        assert [tick[11:] for tick in found] == [
            *("02:30+02:00", "02:00+01:00", "02:30+01:00", "03:00+01:00", "03:30+01:00")
        ]

    def test_steps_in_the_hour_that_is_missing(self) -> None:
        """What ticks every so often goes on ticking so often."""
        found = ticks("*/30 * * * *", NEW_YORK, "2026-03-08T06:00Z", 3)

        assert [tick[11:] for tick in found] == ["01:30-05:00", "03:00-04:00", "03:30-04:00"]

    @pytest.mark.parametrize("tz", [BERLIN, ZoneInfo(BERLIN)])
    def test_names_and_objects(self, tz: object) -> None:
        """A zone may be given as a name or as an object."""
        assert timing_of("0 9 * * *", tz, "") == Timing("0 9 * * *", BERLIN)

    def test_utc(self) -> None:
        """UTC has a name and an object, too."""
        assert timing_of("0 9 * * *", UTC, "") == timing_of("0 9 * * *", "UTC", "")

    @pytest.mark.parametrize(
        "tz",
        [None, 1, "", "Berlin", "Europe", "../UTC", "a\0b", timezone(timedelta(hours=1))],
        ids=repr,
    )
    def test_refused(self, tz: object) -> None:
        """What is no known zone is refused by the name of the parameter, for intervals, too."""
        with pytest.raises(UsageError, match="here: tz"):
            timing_of("0 9 * * *", tz, "here")
        with pytest.raises(UsageError, match="here: tz"):
            timing_of(60, tz, "here")

    def test_an_interval_has_none(self) -> None:
        """A zone would have no meaning for an interval, so it is refused."""
        with pytest.raises(UsageError, match="tz is for cron expressions"):
            timing_of(60, BERLIN, "here")


class TestIntervals:
    @pytest.mark.parametrize("spec", [90, 90.0, timedelta(seconds=90)])
    def test_multiples(self, spec: Any) -> None:
        """An interval ticks at its multiples, in UTC."""
        timing = timing_of(spec, "UTC", "")

        assert timing.next_after(ms("2026-01-01T00:00Z")) == ms("2026-01-01T00:01:30Z")

    @pytest.mark.parametrize(
        "spec",
        [0, -1, 0.05, True, None, float("nan"), float("inf"), timedelta(0), 10**12, [60]],
        ids=repr,
    )
    def test_refused(self, spec: Any) -> None:
        """What is no duration, or too short or long for a schedule, is refused by name."""
        with pytest.raises(UsageError, match="here: spec must be"):
            timing_of(spec, "UTC", "here")

    @given(interval=st.integers(100, 10**12), moment=st.integers(0, 10**13))
    def test_none_is_left_out(self, interval: int, moment: int) -> None:
        """The next tick is the first multiple after the moment."""
        tick = Timing(interval).next_after(moment)

        assert tick % interval == 0
        assert tick - interval <= moment < tick


@st.composite
def moments(draw: st.DrawFn, tz: str) -> int:
    """Mostly near a jump of the clock."""
    near = [ms(jump) for jump in JUMPS[tz]]
    return draw(st.sampled_from(near)) + draw(st.integers(-3 * HOUR, 3 * HOUR))


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of an expression."""
    number = st.integers(low, high)
    steps = st.integers(1, high).map(lambda n: f"*/{n}")
    listed = st.lists(number, min_size=1, max_size=4).map(lambda ns: ",".join(map(str, ns)))
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    return st.just("*") | steps | listed | span


EXPRESSIONS = st.tuples(fields(0, 59), fields(0, 23), st.just("*"), fields(1, 12), fields(0, 6))


def matches(field: str, value: int, low: int) -> bool:
    """Whether a value is in a field, by the book."""
    if field.startswith("*"):
        return (value - low) % int(field[2:] or 1) == 0
    for part in field.split(","):
        first, _, last = part.partition("-")
        if int(first) <= value <= int(last or first):
            return True
    return False


class TestProperties:
    @given(data=st.data(), tz=st.sampled_from([*JUMPS]), expression=EXPRESSIONS)
    def test_nothing_lies_between(
        self, data: st.DataObject, tz: str, expression: tuple[str, ...]
    ) -> None:
        """The next tick is after the moment, and the same from each moment before it."""
        timing = timing_of(" ".join(expression), tz, "")
        moment = data.draw(moments(tz))
        tick = timing.next_after(moment)

        assert moment < tick
        later = data.draw(st.integers(moment, tick - 1))
        assert timing.next_after(later) == tick

    @given(data=st.data(), tz=st.sampled_from([*JUMPS]), expression=EXPRESSIONS)
    def test_what_ticks_by_steps_follows_the_wall(
        self, data: st.DataObject, tz: str, expression: tuple[str, ...]
    ) -> None:
        """With a star in minute or hour, it ticks whenever the clock on the wall matches."""
        minute, hour, day, month, weekday = expression
        if not (minute.startswith("*") or hour.startswith("*")):
            hour = "*"
        timing = timing_of(f"{minute} {hour} {day} {month} {weekday}", tz, "")
        moment = data.draw(moments(tz))
        tick = timing.next_after(moment)

        zone = ZoneInfo(tz)
        first = (moment // MINUTE + 1) * MINUTE
        for at in range(first, min(tick, first + 2 * DAY) + 1, MINUTE):
            wall = datetime.fromtimestamp(at / 1000, zone)
            fits = (
                matches(minute, wall.minute, 0)
                and matches(hour, wall.hour, 0)
                and matches(month, wall.month, 1)
                and matches(weekday, wall.isoweekday() % 7, 0)
            )
            assert fits == (at == tick), wall

    @settings(max_examples=30)  # each is a year
    @given(tz=st.sampled_from([*JUMPS]), hour=st.integers(0, 23), minute=st.integers(0, 59))
    @example(tz=BERLIN, hour=2, minute=30)
    @example(tz=NEW_YORK, hour=2, minute=0)
    @example(tz=NEW_YORK, hour=1, minute=59)
    def test_a_fixed_time_comes_once_a_day(self, tz: str, hour: int, minute: int) -> None:
        """Over a whole year, each day has one tick, at its time or right after the gap."""
        timing = timing_of(f"{minute} {hour} * * *", tz, "")
        zone = ZoneInfo(tz)
        moment = ms("2026-01-01T12:00Z")
        before = datetime.fromtimestamp(timing.next_after(moment) / 1000, zone).date()
        for _ in range(365):
            moment = timing.next_after(moment)
            wall = datetime.fromtimestamp(moment / 1000, zone)
            assert wall.date() - before <= timedelta(days=1)
            assert (wall.hour, wall.minute) in ((hour, minute), (3, 0))
            before = wall.date()
        assert before >= datetime(2026, 12, 31, tzinfo=UTC).date()


class TestMissed:
    EVERY_MINUTE = Timing(MINUTE)

    @pytest.mark.parametrize("missed", ["skip", "one", "all"])
    @pytest.mark.parametrize("late", [0, 1, MISSED_MS])
    def test_in_time(self, missed: Any, late: int) -> None:
        """A tick that is hardly late is sent, and none is left out."""
        assert outcome(self.EVERY_MINUTE, missed, 0, late) == (True, MINUTE)

    @pytest.mark.parametrize(
        ("missed", "expected"),
        [("skip", (False, HOUR)), ("one", (True, HOUR)), ("all", (True, MINUTE))],
    )
    def test_late(self, missed: Any, expected: tuple[bool, int]) -> None:
        """Missed ticks are left out, sent as one, or sent one after the other."""
        assert outcome(self.EVERY_MINUTE, missed, 0, HOUR - MINUTE + 1) == expected

    @pytest.mark.parametrize("missed", [None, "", "none", 1, True])
    def test_refused(self, missed: object) -> None:
        """Any other word is refused."""
        with pytest.raises(UsageError, match="here: missed must be 'skip', 'one' or 'all'"):
            check_missed(missed, "here")
