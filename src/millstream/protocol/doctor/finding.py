"""A finding: what is wrong or worth knowing, why it matters for messages, and what to do."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from msgspec.structs import replace

__all__ = [
    "CLUSTER",
    "SENTINEL",
    "SENTINELS",
    "SERVER",
    "Finding",
    "Severity",
    "loses",
    "note",
    "of_node",
    "risk",
]

Severity = Literal["loses", "risk", "note"]
"""``loses``: messages can be lost in the ordinary course of things: a restart, a full memory, a
failover. ``risk``: messages wait, are late or are refused, or will be soon. ``note``: good to know."""

SERVER = "server"
CLUSTER = "cluster"
SENTINEL = "sentinel"
SENTINELS = "sentinels"

_COMMAND = re.compile(
    r"(?<!HOST:PORT )\b(?=(?:ACL|BGREWRITEAOF|BGSAVE|CLUSTER|CONFIG|LATENCY|SENTINEL|SLOWLOG)\b)"
    r"(?!CLUSTER FAILOVER)"  # which is for another node
)
_BARRED = re.compile(r"\+[\w-]+\|[\w-]+")
"""A right to a part of a command: the shell would take its bar for a pipe."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finding.

    Attributes:
        severity: how bad it is.
        check: a stable name of what was found, such as ``persistence.off``, for scripts.
        subject: what it is about: ``server``, ``queue 'orders'``, ``subscription 'placed/mail'``;
            ``cluster``, ``sentinel``, ``sentinels``.
        what: the fact.
        why: what it means for messages.
        fix: the command that mends it, or what else to do.
        node: host and port of the one that it is about, of several; None: it is about all of them, or
            there is only one.
    """

    severity: Severity
    check: str
    subject: str
    what: str
    why: str
    fix: str
    node: str | None = None


def loses(check: str, what: str, *, why: str, fix: str, subject: str = SERVER) -> Finding:
    """Make a finding about what can lose messages."""
    return Finding(severity="loses", check=check, subject=subject, what=what, why=why, fix=fix)


def risk(check: str, what: str, *, why: str, fix: str, subject: str = SERVER) -> Finding:
    """Make a finding about what can stop or delay messages."""
    return Finding(severity="risk", check=check, subject=subject, what=what, why=why, fix=fix)


def note(check: str, what: str, *, why: str, fix: str, subject: str = SERVER) -> Finding:
    """Make a finding that is good to know."""
    return Finding(severity="note", check=check, subject=subject, what=what, why=why, fix=fix)


def of_node(finding: Finding, host: str, port: int, *, tls: bool = False) -> Finding:
    """Return the same of one node among several: its commands say where they go.

    Args:
        finding: as for a server by itself.
        host, port: of the node.
        tls: whether it wants TLS.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    call = f"redis-cli -h {host} -p {port}{' --tls' if tls else ''} "
    fix = _COMMAND.sub(call, finding.fix)
    if fix != finding.fix:
        fix = _BARRED.sub(lambda right: f"'{right[0]}'", fix)
    return replace(finding, node=shown, fix=fix.replace("HOST:PORT", shown))
