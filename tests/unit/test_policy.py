"""Durations, backoff, retry and rate: arithmetic without a clock."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import UsageError
from millstream.policy import LONGEST, Backoff, Bound, Rate, Retry, milliseconds

seconds = st.floats(0, 1e6, allow_nan=False)
backoffs = st.builds(
    Backoff,
    first=seconds,
    factor=st.floats(1, 1e300),
    max=seconds,
    jitter=st.floats(0, 1),
)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0),
        (1, 1000),
        (0.0004, 1),
        (0.0015, 2),
        (1.2341, 1235),
        (0.07, 70),
        (4.1, 4100),
        (timedelta(milliseconds=1), 1),
        (timedelta(days=1), 86_400_000),
        (LONGEST, LONGEST * 1000),
    ],
)
def test_durations_become_milliseconds(duration: Any, expected: int) -> None:
    """Seconds and timedeltas are the same thing; a part of a millisecond counts as a whole one."""
    assert milliseconds(duration, "lease") == expected


@pytest.mark.parametrize(
    "duration",
    [
        -1,
        -0.001,
        math.nan,
        math.inf,
        -math.inf,
        LONGEST + 1,
        10**400,
        timedelta(seconds=-1),
        timedelta.max,
        True,
        "1",
        None,
        Decimal(1),
        [1],
    ],
)
def test_what_is_no_duration_is_refused(duration: Any) -> None:
    """The error names the parameter."""
    with pytest.raises(UsageError, match=r"^lease must be"):
        milliseconds(duration, "lease")


def test_a_duration_has_a_minimum() -> None:
    """A parameter may forbid durations that make no sense for it."""
    assert milliseconds(0.1, "lease", minimum=0.1) == 100
    with pytest.raises(UsageError, match=r"lease must be between 0\.1 and"):
        milliseconds(0.099, "lease", minimum=0.1)


def test_the_default_backoff_doubles_up_to_ten_minutes() -> None:
    """One second, two, four, ... and never more than the maximum."""
    delays = [Backoff().delay(failures, 0.5) for failures in range(1, 13)]

    assert delays[:5] == [1000, 2000, 4000, 8000, 16_000]
    assert delays[9:] == [512_000, 600_000, 600_000]


@pytest.mark.parametrize(("luck", "expected"), [(0, 9000), (0.5, 10_000), (1, 11_000)])
def test_luck_places_the_wait_within_the_jitter(luck: float, expected: int) -> None:
    """A tenth of jitter is ten per cent more or less."""
    assert Backoff(first=10, jitter=0.1).delay(1, luck) == expected


def test_a_factor_of_one_keeps_the_wait() -> None:
    """Then every wait is the first one."""
    backoff = Backoff(first=timedelta(seconds=3), factor=1, jitter=0)

    assert {backoff.delay(failures, 0.3) for failures in (1, 2, 1000, 10**9)} == {3000}


def test_a_small_factor_grows_for_as_long_as_it_takes() -> None:
    """The bound on the exponent is for what would overflow, not for slow growth."""
    backoff = Backoff(first=1, factor=1.001, max=3600, jitter=0)

    assert backoff.delay(3001, 0.5) == round(1000 * 1.001**3000)
    assert backoff.delay(100_000, 0.5) == 3_600_000


@given(backoff=backoffs, failures=st.integers(1, 10**9), luck=st.floats(0, 1))
def test_a_wait_is_bounded(backoff: Backoff, failures: int, luck: float) -> None:
    """No count of failures overflows, and the wait is the maximum and its jitter at most."""
    longest = milliseconds(backoff.max, "max")

    assert 0 <= backoff.delay(failures, luck) <= math.ceil(longest * (1 + backoff.jitter))


@given(backoff=backoffs, failures=st.integers(1, 10**6), luck=st.floats(0, 1))
def test_waits_never_shrink(backoff: Backoff, failures: int, luck: float) -> None:
    """With equal luck a later wait is not shorter."""
    assert backoff.delay(failures + 1, luck) >= backoff.delay(failures, luck)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"first": -1}, "Backoff.first"),
        ({"first": "1"}, "Backoff.first"),
        ({"max": math.inf}, "Backoff.max"),
        ({"factor": 0.99}, "Backoff.factor"),
        ({"factor": math.nan}, "Backoff.factor"),
        ({"factor": math.inf}, "Backoff.factor"),
        ({"factor": "2"}, "Backoff.factor"),
        ({"factor": True}, "Backoff.factor"),
        ({"jitter": -0.1}, "Backoff.jitter"),
        ({"jitter": 1.1}, "Backoff.jitter"),
        ({"jitter": math.nan}, "Backoff.jitter"),
        ({"jitter": None}, "Backoff.jitter"),
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused(options: dict[str, Any], named: str) -> None:
    """The error names the parameter, when it is declared and not when it is used."""
    with pytest.raises(UsageError, match=f"^{named} must be"):
        Backoff(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_attempts": 0}, "Retry.max_attempts"),
        ({"max_attempts": 2.0}, "Retry.max_attempts"),
        ({"max_attempts": True}, "Retry.max_attempts"),
        ({"max_crashes": -1}, "Retry.max_crashes"),
        ({"max_crashes": None}, "Retry.max_crashes"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises(UsageError, match=f"^{named} must be"):
        Retry(**options)


@pytest.mark.parametrize(
    ("count", "options", "named"),
    [
        (0, {}, "Rate.count must be"),
        (-1, {}, "Rate.count must be"),
        (0.5, {}, "Rate.count must be"),
        (True, {}, "Rate.count must be"),
        (math.nan, {}, "Rate.count must be"),
        ("5", {}, "Rate.count must be"),
        (5, {"per": 0}, "Rate.per must be"),
        (5, {"per": -1}, "Rate.per must be"),
        (5, {"per": 0.0001}, "Rate.per must be"),
        (5, {"per": math.nan}, "Rate.per must be"),
        (5, {"per": "1"}, "Rate.per must be"),
        (5, {"per": True}, "Rate.per must be"),
        (5, {"burst": 0}, "Rate.burst must be"),
        (5, {"burst": -1}, "Rate.burst must be"),
        (5, {"burst": 1.5}, "Rate.burst must be"),
        (5, {"burst": False}, "Rate.burst must be"),
        (5, {"burst": 2**40, "per": 86_400}, "Rate: a burst of"),
        (10**13, {}, "Rate: a burst of"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(
    count: Any, options: dict[str, Any], named: str
) -> None:
    """The error names the parameter."""
    with pytest.raises(UsageError, match=f"^{named}"):
        Rate(count, **options)


@pytest.mark.parametrize(
    ("rate", "per_ms", "most"),
    [
        (Rate(100), 1000, 100),
        (Rate(1, per=timedelta(minutes=1)), 60_000, 1),
        (Rate(100, per=0.5, burst=3), 500, 3),
        (Rate(1, per=0.001, burst=10**6), 1, 10**6),
    ],
)
def test_a_rate_in_numbers(rate: Rate, per_ms: int, most: int) -> None:
    """A bucket holds the count, unless a burst was declared."""
    assert rate.per_ms == per_ms
    assert rate.most_at_once == most


def test_policies_are_values() -> None:
    """They compare and hash by content, and cannot be changed."""
    assert Retry() == Retry(max_attempts=5, backoff=Backoff(first=1), max_crashes=3)
    assert hash(Retry()) == hash(Retry())
    with pytest.raises(AttributeError):
        Retry().max_attempts = 7  # type: ignore[misc] # that is the point


@pytest.mark.parametrize("length", [0, -1, True, 1.0, "1", None])
def test_a_bound_is_a_number_of_messages(length: Any) -> None:
    """A whole one, from 1; the error names the parameter."""
    with pytest.raises(UsageError, match=r"^Bound\.length must be a whole number from 1, not "):
        Bound(length)


@pytest.mark.parametrize("on_full", ["drop", "", None, True])
def test_what_a_full_queue_does(on_full: Any) -> None:
    """One of three things."""
    with pytest.raises(
        UsageError, match=r"^Bound\.on_full must be 'reject', 'wait' or 'drop_oldest'"
    ):
        Bound(1, on_full=on_full)


@pytest.mark.parametrize("on_full", ["reject", "drop_oldest"])
@pytest.mark.parametrize("timeout", [5, None])
def test_only_who_waits_has_a_timeout(on_full: Any, timeout: Any) -> None:
    """A timeout that would mean nothing is a mistake."""
    with pytest.raises(UsageError, match=r"^Bound\.timeout is for on_full='wait'"):
        Bound(1, on_full=on_full, timeout=timeout)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "1", True])
def test_a_wait_has_a_length(timeout: Any) -> None:
    """It is a duration above zero; who does not want to wait says reject."""
    with pytest.raises(UsageError, match=r"^Bound\.timeout must be "):
        Bound(1, on_full="wait", timeout=timeout)


def test_how_long_a_send_waits() -> None:
    """Half a minute by default, for ever if told so."""
    assert Bound(1, on_full="wait").timeout_ms == 30_000
    assert Bound(1, on_full="wait", timeout=timedelta(minutes=1)).timeout_ms == 60_000
    assert Bound(1, on_full="wait", timeout=None).timeout_ms is None
    assert Bound(1) == Bound(1, on_full="reject")
