"""Subjects and filters: what a message is about, and what a subscription wants to hear of.

A subject has tokens with dots between them: ``eu.orders.paid``. In a filter ``*`` stands for one
token and ``>``, at the end, for one or more: ``eu.*.paid``, ``eu.>``. The signs are those of NATS
(docs.nats.io/nats-concepts/subjects).
"""

from __future__ import annotations

import re

from millstream.errors import UsageError

__all__ = ["check_filter", "check_subject", "matches"]

MOST_CHARACTERS = 200

_TOKEN = r"[^\s.*>\x00-\x1f\x7f\ud800-\udfff]+"  # noqa: S105 - of a subject, nothing secret
_SUBJECT = re.compile(rf"{_TOKEN}(\.{_TOKEN})*")
_FILTER = re.compile(rf"(({_TOKEN}|\*)(\.({_TOKEN}|\*))*(\.>)?|>)")


def check_subject(subject: object) -> str:
    """Return a subject.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(subject, str) or not _fits(_SUBJECT, subject):
        message = (
            f"subject must be up to {MOST_CHARACTERS} characters: tokens with dots between them, "
            f"without whitespace, * and >, not {subject!r}"
        )
        raise UsageError(message)
    return subject


def check_filter(filter: object) -> str:  # noqa: A002 - the name of the parameter
    """Return a filter.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(filter, str) or not _fits(_FILTER, filter):
        message = (
            f"filter must be up to {MOST_CHARACTERS} characters: tokens with dots between them, "
            f"* for any one token, > at the end for all the rest, not {filter!r}"
        )
        raise UsageError(message)
    return filter


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= MOST_CHARACTERS and pattern.fullmatch(text) is not None


def matches(filter: str, subject: str | None) -> bool:  # noqa: A002 - the name of the parameter
    """Tell whether a message with this subject passes; one without a subject passes no filter.

    The server decides; this says the same where no server is asked.
    """
    if subject is None:
        return False
    wanted, found = filter.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(
        one in ("*", other) for one, other in zip(wanted, found, strict=True)
    )
