"""Would a replica have the messages?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from millstream.protocol.doctor.facts import Facts, number
from millstream.protocol.doctor.finding import Finding, loses, note, risk

__all__ = ["replication"]

LAG = 10
"""Seconds. A replica that lives confirms each second."""
_REPLICA = re.compile(r"slave\d+")


def replication(facts: Facts) -> Iterator[Finding]:
    """Look at the links between a master and its replicas."""
    role = facts.info.get("role")
    if role == "slave":
        yield from _of_replica(facts)
    elif role == "master":
        yield from _of_master(facts)


def _of_replica(facts: Facts) -> Iterator[Finding]:
    master = f"{facts.info.get('master_host', '?')}:{facts.info.get('master_port', '?')}"
    if facts.alone:
        yield risk(
            "replication.is_replica",
            f"this server is a replica of {master}",
            why="sends and acknowledgements are refused here",
            fix="give clients the URL of the master",
        )
    if facts.info.get("master_link_status") != "up":
        down = facts.info.get("master_link_down_since_seconds", "?")
        yield risk(
            "replication.link_down",
            f"its link to the master has been down for {down} s",
            why="after a failover to it, what the master accepted since would be missing",
            fix="look why it cannot reach the master: its log, the network, masterauth",
        )
    writable = facts.config.get("replica-read-only") == "no"
    if writable or facts.info.get("slave_read_only") == "0":
        yield loses(
            "replication.writable",
            "it is a replica that accepts writes",
            why="messages that are sent to it are deleted at its next full copy from the master",
            fix="CONFIG SET replica-read-only yes, then CONFIG REWRITE",
        )


def _of_master(facts: Facts) -> Iterator[Finding]:
    rows = [
        dict(pair.partition("=")[::2] for pair in value.split(","))
        for name, value in facts.info.items()
        if _REPLICA.fullmatch(name)
    ]
    for row in rows:
        yield from _of_link(row)
    wanted = number(facts.config.get("min-replicas-to-write"))
    good = facts.number("min_slaves_good_slaves")
    if wanted is None:  # INFO tells how many are good only where there is a minimum
        wanted = 0 if good is None else 1
    if not rows and facts.alone:
        yield note(
            "replication.none",
            "it has no replica",
            why="when the machine is lost with its disk, so are the messages",
            fix="start a replica: REPLICAOF HOST PORT there",
        )
    elif rows and wanted == 0:
        yield loses(
            "replication.no_minimum",
            "min-replicas-to-write is 0",
            why="a master that is cut off from its replicas goes on accepting messages"
            f"{' for cluster-node-timeout' if facts.cluster else ''}, and a failover loses them",
            fix="CONFIG SET min-replicas-to-write 1, then CONFIG REWRITE",
        )
    if wanted and good is not None and good < wanted:
        yield risk(
            "replication.too_few",
            f"{good:.0f} replicas are good enough, and min-replicas-to-write asks for {wanted:.0f}",
            why="all sends and acknowledgements are refused at present (NOREPLICAS)",
            fix="bring the replicas back, or lower min-replicas-to-write",
        )


def _of_link(row: dict[str, str]) -> Iterator[Finding]:
    address = f"{row.get('ip', '?')}:{row.get('port', '?')}"
    state, lag = row.get("state", "online"), number(row.get("lag")) or 0
    if state != "online":
        yield risk(
            "replication.not_online",
            f"replica {address} is not in step yet: {state}",
            why="a failover to it would lose messages until it is",
            fix="wait; if it stays so, raise the replica part of client-output-buffer-limit",
        )
    elif lag >= LAG:
        yield risk(
            "replication.lag",
            f"replica {address} was last heard of {lag:.0f} s ago",
            why="a failover to it would lose what was accepted since",
            fix="look at the replica and the network between the two",
        )
