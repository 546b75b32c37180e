"""All checks, and what could not be checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from millstream.protocol.doctor.facts import Facts, Refusal
from millstream.protocol.doctor.finding import Finding, note
from millstream.protocol.doctor.memory import memory
from millstream.protocol.doctor.persistence import persistence
from millstream.protocol.doctor.queues import Watched, backlogs
from millstream.protocol.doctor.replication import replication
from millstream.protocol.doctor.serving import cluster, connections, speed
from millstream.protocol.doctor.versions import version

__all__ = ["in_order", "of_queues", "of_server", "unchecked"]

_CHECKS = (version, persistence, memory, replication, cluster, connections, speed)

_NEEDED = {
    "INFO": ("persistence, memory, replication, connections and the version", "info"),
    "CONFIG GET": (
        "save points, fsync policy, min-replicas, buffers and timeouts",
        "config|get",
    ),
    "SLOWLOG GET": ("slow commands", "slowlog|get"),
    "LATENCY LATEST": ("what has held the server up", "latency|latest"),
    "CLUSTER INFO": ("whether all slots have a node", "cluster|info"),
    "MULTI": ("the rights of this user", "multi +exec"),
}
"""A question -> what is not checked without it, and the right to ask it."""


def of_server(facts: Facts) -> Iterator[Finding]:
    """Look at one server."""
    for check in _CHECKS:
        if facts.alone or check is not cluster:
            yield from check(facts)
    yield from unchecked(facts.refused, facts.user)


def of_queues(found: Iterable[Watched]) -> Iterator[Finding]:
    """Look at all queues and subscriptions."""
    for one in found:
        yield from backlogs(one)


def unchecked(refused: Iterable[Refusal], user: str | None) -> Iterator[Finding]:
    """Say what could not be checked, since the server did not answer.

    Args:
        refused: the questions.
        user: of the connection; None: unknown.
    """
    for one in refused:
        if one.question in _NEEDED:
            missing, right = _NEEDED[one.question]
            yield note(
                f"unchecked.{one.question.lower().replace(' ', '_')}",
                f"{one.question} was refused: {one.reason}",
                why=f"{missing} could not be checked",
                fix=f"ACL SETUSER {user or 'NAME'} +{right}; of a managed server, see its console",
            )
        else:
            yield note(
                "unchecked.queue",
                f"{one.question} could not be looked at: {one.reason}",
                why="a backlog or stuck messages there would not be seen",
                fix="use a user who may read its keys (millstream acl doctor); or see what is in them",
            )


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Put what can lose messages first, and servers before queues, which have names."""
    order = ("loses", "risk", "note")
    return sorted(findings, key=lambda one: (order.index(one.severity), " " in one.subject))
