"""Times, and places in the history of a topic, as people write them on the command line."""

from __future__ import annotations

from datetime import datetime

from millstream.errors import UsageError
from millstream.message_id import is_id
from millstream.topic import EARLIEST, LATEST, Start

__all__ = ["beginning", "place_of", "spot_of", "time_of"]

_WORDS = {"earliest": EARLIEST, "latest": LATEST}

_A_TIME = "a time such as 2030-01-31T09:00+01:00"
_AN_ID = "the id of a message such as 1718000000123-0"


def time_of(text: str, option: str = "--at") -> datetime:
    """Read a time as people write it: ISO 8601 with a zone.

    Args:
        text: as it was given.
        option: what it was given to, for the error.

    Raises:
        UsageError: it is none, or has no zone.
    """
    return _time(text, option, _A_TIME)


def spot_of(text: str | None, option: str) -> datetime | str | None:
    """Read where a stretch of history begins or ends: a time, or the id of a message.

    Args:
        text: as it was given; None: it was not.
        option: what it was given to, for the error.

    Raises:
        UsageError: it is neither.
    """
    if text is None or is_id(text):
        return text
    return _time(text, option, f"{_A_TIME}, or {_AN_ID}")


def place_of(text: str, option: str) -> Start | datetime | str:
    """Read where a subscription is to stand: ``earliest``, ``latest``, a time, or an id.

    Args:
        text: as it was given.
        option: what it was given to, for the error.

    Raises:
        UsageError: it is none of these.
    """
    if is_id(text):
        return text
    return _WORDS.get(text) or _time(text, option, f"earliest, latest, {_A_TIME}, or {_AN_ID}")


def beginning(place: Start | datetime | str) -> str:
    """Say with which message a subscription goes on that stands there."""
    if place is LATEST:
        return "the next message that is published"
    if place is EARLIEST:
        return "the oldest message"
    return f"message {place}" if isinstance(place, str) else f"what was published at {place}"


def _time(text: str, option: str, takes: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{option} takes {takes}, not {text!r}"
        raise UsageError(message) from error
    if time.utcoffset() is None:
        clock = text if ":" in text else f"{text}T00:00"
        message = f"{option} needs a time zone, such as {clock}+01:00 or {clock}Z"
        raise UsageError(message)
    return time
