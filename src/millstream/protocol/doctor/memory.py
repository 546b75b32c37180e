"""Is there room, and what happens when there is none?"""

from __future__ import annotations

from collections.abc import Iterator

from millstream.protocol.doctor.facts import Facts
from millstream.protocol.doctor.finding import Finding, loses, note, risk

__all__ = ["memory"]

NEARLY_FULL = 0.8
SIGNIFICANT = 100 * 2**20
"""Bytes. Below, the server's own needs say more about fragmentation than its data."""
FRAGMENTED = 1.5
SWAPPED = 0.8

NOEVICTION = "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE"


def memory(facts: Facts) -> Iterator[Finding]:
    """Look at eviction, headroom and fragmentation."""
    yield from _eviction(facts)
    yield from _headroom(facts)
    yield from _fragmentation(facts)
    refused = _count(facts.info.get("errorstat_OOM", ""))
    if refused:
        yield risk(
            "memory.refused",
            f"{refused:,} calls were refused for want of memory since the server's start",
            why="sends failed then; those of producers that did not try again are not stored",
            fix="raise maxmemory, add workers, or give queues a bound=",
        )


def _count(text: str) -> int:
    value = text.removeprefix("count=")
    return int(value) if value.isdigit() else 0


def _limit(facts: Facts) -> float:
    return facts.number("maxmemory") or 0


def _eviction(facts: Facts) -> Iterator[Finding]:
    evicted = facts.number("evicted_keys") or 0
    if evicted:
        yield loses(
            "memory.evicted",
            f"the server has evicted {evicted:,.0f} keys since its start",
            why="with a key all messages in it are gone, and nobody is told",
            fix=NOEVICTION,
        )
    policy = facts.setting("maxmemory-policy") or "noeviction"
    if policy == "noeviction":
        return
    what = f"maxmemory-policy is {policy}"
    if not _limit(facts) and "maxmemory" in facts.info:
        yield note(
            "memory.policy",
            f"{what}, but there is no maxmemory",
            why="as soon as there is one, a full memory loses messages",
            fix=NOEVICTION,
        )
    elif policy.startswith("volatile"):
        yield loses(
            "memory.policy",
            what,
            why="a full memory deletes keys that expire: replies and results that are waited for, and "
            "what keeps a repeated send from being stored twice",
            fix=NOEVICTION,
        )
    else:
        yield loses(
            "memory.policy",
            what,
            why="a full memory deletes whole queues; with noeviction sends are refused instead",
            fix=NOEVICTION,
        )


def _headroom(facts: Facts) -> Iterator[Finding]:
    used, limit = facts.number("used_memory"), _limit(facts)
    total = facts.number("total_system_memory") or 0
    if used is None:
        return
    if limit and used >= NEARLY_FULL * limit:
        yield risk(
            "memory.nearly_full",
            f"{used / limit:.0%} of maxmemory are used ({_size(used)} of {_size(limit)})",
            why="when it is full, sends are refused",
            fix="raise maxmemory, add workers, or purge dead letters and what topics keep",
        )
    if not limit and total:
        yield risk(
            "memory.unlimited",
            f"there is no maxmemory; {_size(used)} of the machine's {_size(total)} are used",
            why="a backlog may grow until the operating system kills the server, instead of sends "
            "being refused",
            fix=f"CONFIG SET maxmemory {int(total * 0.6)}, then CONFIG REWRITE",
        )
    if limit and total and limit > 0.9 * total:
        yield risk(
            "memory.limit_too_high",
            f"maxmemory is {_size(limit)} on a machine of {_size(total)}",
            why="a snapshot or a rewrite of the AOF needs memory beside; the operating system may "
            "kill the server before it refuses sends",
            fix=f"CONFIG SET maxmemory {int(total * 0.6)}, then CONFIG REWRITE",
        )


def _fragmentation(facts: Facts) -> Iterator[Finding]:
    used, ratio = facts.number("used_memory") or 0, facts.number("mem_fragmentation_ratio")
    if ratio is None or used < SIGNIFICANT:
        return
    if ratio >= FRAGMENTED:
        yield note(
            "memory.fragmented",
            f"the server takes {ratio:.1f} times the memory of its data",
            why="the machine may run out of memory before maxmemory is reached",
            fix="CONFIG SET activedefrag yes, where the server can; else a restart",
        )
    elif ratio < SWAPPED:
        yield risk(
            "memory.swapped",
            f"only {ratio:.0%} of the data are in the machine's memory",
            why="the rest is swapped out, and each look at it stops the server for all",
            fix="give the machine more memory, or lower maxmemory",
        )


def _size(count: float) -> str:
    step = 1024
    for unit in ("B", "KiB", "MiB"):
        if count < step:
            return f"{count:.0f} {unit}"
        count /= step
    return f"{count:.1f} GiB"
