"""How the server serves: connections, speed, clock, cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from millstream.protocol.doctor.facts import Facts, number
from millstream.protocol.doctor.finding import Finding, note, risk

__all__ = ["cluster", "connections", "speed"]

SLOTS = 16384
SLOW = 0.1
"""Seconds. Everybody else waits so long."""
FAR = 0.02
"""Seconds a round trip; within one place it takes less than a thousandth."""
HELD_UP = 0.5
CLOCK = 1.0
RECENT = 86_400
OFTEN = 60


def connections(facts: Facts) -> Iterator[Finding]:
    """Look at what ends connections, or lets them grow."""
    yield from _buffers(facts)
    timeout = number(facts.config.get("timeout")) or 0
    if 0 < timeout < OFTEN:
        yield note(
            "connections.timeout",
            f"connections that idle for {timeout:.0f} s are closed",
            why="the first send after a pause has to connect anew",
            fix="CONFIG SET timeout 0, then CONFIG REWRITE",
        )
    if facts.config.get("tcp-keepalive") == "0":
        yield risk(
            "connections.keepalive",
            "tcp-keepalive is 0",
            why="connections of machines that vanish stay for ever; a sleeping reader among them may "
            "be given a message, which then waits for its lease to run out",
            fix="CONFIG SET tcp-keepalive 300, then CONFIG REWRITE",
        )
    used, most = facts.number("connected_clients"), facts.number("maxclients")
    if used and most and used > 0.8 * most:
        yield risk(
            "connections.nearly_all",
            f"{used:,.0f} of {most:,.0f} connections are in use",
            why="when there is none left, workers and producers cannot come back after a loss",
            fix=f"CONFIG SET maxclients {int(most * 2)}, then CONFIG REWRITE",
        )


def _buffers(facts: Facts) -> Iterator[Finding]:
    words = facts.config.get("client-output-buffer-limit", "").split()
    limits = {words[i]: words[i + 1 : i + 4] for i in range(0, len(words) - 3, 4)}
    hard = {kind: number(row[0]) for kind, row in limits.items()}
    if hard.get("normal"):
        yield note(
            "connections.normal_buffer",
            f"clients are cut off when {hard['normal']:,.0f} bytes wait for them",
            why="a worker that fetches many large messages at once may lose its connection each time",
            fix='CONFIG SET client-output-buffer-limit "normal 0 0 0", or fetch fewer at a time',
        )
    if hard.get("pubsub") == 0 and (limits["pubsub"][1:] or ["0"])[0] == "0":
        yield risk(
            "connections.pubsub_buffer",
            "what waits for a listener that does not read has no limit",
            why="one slow listener of an ephemeral topic can fill the memory; then sends are refused",
            fix='CONFIG SET client-output-buffer-limit "pubsub 32mb 8mb 60", then CONFIG REWRITE',
        )
    replica = hard.get("slave", hard.get("replica"))
    if replica and replica < 64 * 2**20:
        yield risk(
            "connections.replica_buffer",
            f"a replica is cut off when {replica:,.0f} bytes wait for it",
            why="after a burst of sends it must copy everything anew, and is of no use meanwhile",
            fix='CONFIG SET client-output-buffer-limit "replica 256mb 64mb 60", then CONFIG REWRITE',
        )


def speed(facts: Facts) -> Iterator[Finding]:
    """Look at what makes everybody wait, and at the clock."""
    recent = [one for one in facts.slow if facts.now is None or one.at > facts.now - RECENT]
    slow = Counter(one.command for one in recent if one.seconds >= SLOW)
    if slow:
        worst = max(one.seconds for one in recent)
        named = ", ".join(f"{name} ({count})" for name, count in slow.most_common(5))
        yield risk(
            "speed.slow_commands",
            f"commands that took {SLOW:.1f} s or more within a day: {named}; the worst {worst:.1f} s",
            why="the server does one thing at a time: all messages wait meanwhile",
            fix="SLOWLOG GET shows who sent them",
        )
    for event in facts.latency:
        if event.worst >= HELD_UP:
            yield risk(
                "speed.latency",
                f"{event.name} has held the server up for {event.worst:.1f} s",
                why="no message moves meanwhile, and short leases may run out",
                fix=f"LATENCY HISTORY {event.name}; LATENCY RESET once it is mended",
            )
    trips = sorted(facts.round_trips)
    usual = trips[len(trips) // 2] if trips else 0
    if usual > FAR:
        yield risk(
            "speed.far",
            f"a round trip from here takes {usual * 1000:.0f} ms",
            why="each send that is awaited alone, and each fetch of a worker, takes at least as long",
            fix="run this command and the workers near the server, or send many at a time",
        )
    ahead = facts.clock_ahead
    if ahead is not None and abs(ahead) > CLOCK:
        way = "ahead of" if ahead > 0 else "behind"
        yield note(
            "speed.clock",
            f"the server's clock is {abs(ahead):.1f} s {way} the clock here",
            why="delays, leases and schedules go by the server's clock: what is due at a time of day "
            f"comes {'early' if ahead > 0 else 'late'} by the one here",
            fix="set both by NTP",
        )


def cluster(facts: Facts) -> Iterator[Finding]:
    """Look whether each slot has a node."""
    if not facts.cluster:
        return
    assigned = number(facts.cluster.get("cluster_slots_assigned"))
    failed = number(facts.cluster.get("cluster_slots_fail")) or 0
    doubtful = number(facts.cluster.get("cluster_slots_pfail")) or 0
    state = facts.cluster.get("cluster_state", "ok")
    if assigned is not None and assigned < SLOTS:
        yield risk(
            "cluster.slots",
            f"{SLOTS - assigned:,.0f} of {SLOTS:,} slots have no node",
            why="queues in these slots cannot be used, or none at all (cluster-require-full-coverage)",
            fix="redis-cli --cluster fix HOST:PORT",
        )
    if failed or doubtful:
        yield risk(
            "cluster.failing",
            f"{failed + doubtful:,.0f} slots are on nodes that do not answer",
            why="queues in these slots cannot be used until a replica has taken over",
            fix="CLUSTER NODES shows which; bring them back, or CLUSTER FAILOVER on a replica",
        )
    if state != "ok" and assigned == SLOTS and not (failed or doubtful):
        yield risk(
            "cluster.down",
            f"the cluster is in the state {state!r}",
            why="no message can be sent or taken",
            fix="CLUSTER INFO and CLUSTER NODES, on each node",
        )
