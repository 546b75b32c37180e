"""A finding: what is wrong or worth knowing, why it matters for messages, and what to do."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["SERVER", "Finding", "Severity", "loses", "note", "risk"]

Severity = Literal["loses", "risk", "note"]
"""``loses``: messages can be lost in the ordinary course of things: a restart, a full memory, a
failover. ``risk``: messages wait, are late or are refused, or will be soon. ``note``: good to know."""

SERVER = "server"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        severity: how bad it is.
        check: a stable name of what was found, such as ``persistence.off``, for scripts.
        subject: what it is about: ``server``, ``queue 'orders'``, ``subscription 'placed/mail'``.
        what: the fact.
        why: what it means for messages.
        fix: the command that mends it, or what else to do.
    """

    severity: Severity
    check: str
    subject: str
    what: str
    why: str
    fix: str


def loses(check: str, what: str, *, why: str, fix: str, subject: str = SERVER) -> Finding:
    """Make a finding about what can lose messages."""
    return Finding(severity="loses", check=check, subject=subject, what=what, why=why, fix=fix)


def risk(check: str, what: str, *, why: str, fix: str, subject: str = SERVER) -> Finding:
    """Make a finding about what can stop or delay messages."""
    return Finding(severity="risk", check=check, subject=subject, what=what, why=why, fix=fix)


def note(check: str, what: str, *, why: str, fix: str, subject: str = SERVER) -> Finding:
    """Make a finding that is good to know."""
    return Finding(severity="note", check=check, subject=subject, what=what, why=why, fix=fix)
