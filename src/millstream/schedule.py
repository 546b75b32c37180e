"""When a schedule ticks: cron expressions and intervals. Arithmetic without a clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from millstream.errors import UsageError
from millstream.policy import Duration, milliseconds

__all__ = ["MISSED_MS", "Missed", "Timing", "check_missed", "outcome", "timing_of"]

Missed = Literal["skip", "one", "all"]
"""What becomes of missed ticks: nothing, one message for all of them, or a message for each."""

MISSED_MS = 10_000
"""A tick that nobody has sent so long after its time is missed. Whoever is busy for a second, or
takes over from a worker that has died, is in time."""

SHORTEST = 0.1
"""Seconds. A tick costs each worker a command or two; what comes more often is no schedule."""

LONGEST_EXPRESSION = 200
FIELDS = 5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule ticks. ``timing_of`` makes one of what a user has written.

    Attributes:
        spec: a cron expression, or an interval in ms.
        tz: name of the time zone in which a cron expression is read.
    """

    spec: str | int
    tz: str = "UTC"

    def next_after(self, moment: int) -> int:
        """Return the first tick after a moment; both in ms since 1970.

        Ticks of an interval are its multiples since 1970, and so do not depend on when somebody
        started to count: an hour ticks on the hour.

        Raises:
            UsageError: the cron library is not installed, or the expression does not fire any more.
        """
        if isinstance(self.spec, int):
            return (moment // self.spec + 1) * self.spec
        start = (_EPOCH + moment * _MILLISECOND).astimezone(_zone(self.tz))
        for tick in _ticks(self.spec, start):
            at = (tick - _EPOCH) // _MILLISECOND
            # In the hour that comes twice, the library may begin with a time of the first one.
            if at > moment:
                return at
        message = f"the schedule {self.spec!r} does not fire within the next fifty years"
        raise UsageError(message)


def timing_of(spec: str | Duration, tz: object, where: str) -> Timing:
    """Check what a user has declared.

    Args:
        spec: a cron expression of five fields, seconds from 0.1, or a timedelta.
        tz: name of a time zone, a ZoneInfo, or ``datetime.UTC``.
        where: for the error.

    Raises:
        UsageError: it names the parameter.
    """
    zone = _zone_name(tz, where)
    if not isinstance(spec, str):
        if zone != "UTC":
            message = f"{where}: tz is for cron expressions; an interval has no time zone"
            raise UsageError(message)
        return Timing(milliseconds(spec, f"{where}: spec", minimum=SHORTEST))
    fields = spec.split()
    if len(fields) != FIELDS or len(spec) > LONGEST_EXPRESSION:
        message = (
            f"{where}: spec must be a cron expression of five fields (minute, hour, day of the "
            f"month, month, day of the week), or an interval in seconds, not {spec!r}"
        )
        raise UsageError(message)
    if problem := _problem(fields):
        message = f"{where}: spec {spec!r}: {problem}"
        raise UsageError(message)
    return Timing(" ".join(fields).upper(), zone)


def check_missed(missed: object, where: str) -> Missed:
    """Refuse what is no way to treat missed ticks.

    Raises:
        UsageError: it names the parameter.
    """
    for known in ("skip", "one", "all"):
        if missed == known:
            return known
    message = f"{where}: missed must be 'skip', 'one' or 'all', not {missed!r}"
    raise UsageError(message)


def outcome(timing: Timing, missed: Missed, tick: int, now: int) -> tuple[bool, int]:
    """Return whether a due tick is to be sent, and the tick after it.

    Args:
        timing: of the schedule.
        missed: what becomes of missed ticks.
        tick: the first one that was not dealt with, in ms since 1970.
        now: at the server; not before the tick.
    """
    if now - tick <= MISSED_MS or missed == "all":
        return True, timing.next_after(tick)
    return missed == "one", timing.next_after(now)


def _ticks(expression: str, start: datetime) -> Iterator[datetime]:
    try:
        from cronsim import CronSim
    except ImportError as error:
        message = (
            "cron expressions need an extra: pip install 'millstream[schedules]', "
            "or give an interval in seconds"
        )
        raise UsageError(message) from error
    return CronSim(expression, start)


def _problem(fields: list[str]) -> str | None:
    """Say what is wrong with a cron expression; None: nothing is."""
    minute, hour, day, month, weekday = fields
    complaint = _complaint(*fields)
    if complaint is None:
        return None
    # The library does not tell a 30 February from a day that no month has.
    other = _complaint(minute, hour, day, "1", weekday) or _complaint(
        minute, hour, "1", month, weekday
    )
    return "it never fires" if other is None else other


def _complaint(*fields: str) -> str | None:
    try:
        ticks = _ticks(" ".join(fields), _EPOCH)
    except UsageError:
        raise  # the library is not there
    except Exception as error:  # noqa: BLE001 - also what its parser lets through: numbers without end, say
        return str(error)[:100].lower() or "it makes no sense"
    return None if next(ticks, None) is not None else "it never fires"


def _zone_name(tz: object, where: str) -> str:
    if tz is UTC:
        return "UTC"
    name = tz.key if isinstance(tz, ZoneInfo) else tz
    if not isinstance(name, str):
        message = f"{where}: tz must be the name of a time zone or a ZoneInfo, not {tz!r}"
        raise UsageError(message)
    try:
        _zone(name)
    except UsageError as error:
        message = f"{where}: tz: {error}"
        raise UsageError(message) from error
    return name


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        # It needs no database, and its arithmetic is simpler.
        return UTC
    try:
        return ZoneInfo(name)
    # Unknown names are a KeyError, impossible ones a ValueError, names of folders an OSError.
    except (KeyError, ValueError, OSError) as error:
        message = (
            f"there is no time zone {name!r} on this machine; "
            "pip install 'millstream[schedules]' brings all there are"
        )
        raise UsageError(message) from error
