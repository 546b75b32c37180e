"""Does what was accepted survive a restart?"""

from __future__ import annotations

from collections.abc import Iterator

from millstream.protocol.doctor.facts import Facts
from millstream.protocol.doctor.finding import Finding, loses, note, risk

__all__ = ["persistence"]

AOF_ON = "CONFIG SET appendonly yes, then CONFIG REWRITE"
LOG = "read the server's log: the disk is full, or its directory may not be written to"


def persistence(facts: Facts) -> Iterator[Finding]:
    """Look at what is written to the disk, when, and whether that works."""
    if (on := _aof_is_on(facts)) is None:
        return
    yield from _aof(facts) if on else _without_aof(facts)
    if facts.info.get("rdb_last_bgsave_status", "ok") != "ok":
        last = "" if on else ", so a restart brings back only what the last good one has"
        find = risk if on else loses
        yield find(
            "persistence.rdb_failed",
            "the last snapshot (RDB) failed",
            why=f"the server refuses sends as long as it cannot save, by default{last}",
            fix=f"{LOG}; then BGSAVE",
        )


def _aof_is_on(facts: Facts) -> bool | None:
    told = facts.info.get("aof_enabled")
    if told is not None:
        return told == "1"
    setting = facts.config.get("appendonly")
    return None if setting is None else setting == "yes"


def _without_aof(facts: Facts) -> Iterator[Finding]:
    replicas = facts.number("connected_slaves") or 0
    spread = ". It then starts empty, and its replicas copy that" if replicas else ""
    save = facts.config.get("save")
    if save == "":
        yield loses(
            "persistence.off",
            "nothing is written to the disk: AOF is off, and there are no save points",
            why=f"a restart or a crash of the server loses every message{spread}",
            fix=AOF_ON,
        )
        return
    unsaved = facts.number("rdb_changes_since_last_save")
    many = "" if unsaved is None else f" ({unsaved:,.0f} changes now)"
    points = "save points cannot be read" if save is None else f"snapshots are taken at {save!r}"
    yield loses(
        "persistence.rdb_only",
        f"AOF is off; {points}",
        why=f"a crash loses all that was accepted since the last snapshot{many}",
        fix=AOF_ON,
    )


def _aof(facts: Facts) -> Iterator[Finding]:
    if facts.info.get("aof_last_write_status", "ok") != "ok":
        yield loses(
            "persistence.aof_write_failed",
            "the last write to the AOF failed",
            why="what was accepted is not on the disk, and sends are refused until it is",
            fix=LOG,
        )
    if facts.info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield risk(
            "persistence.aof_rewrite_failed",
            "the last rewrite of the AOF failed",
            why="the file grows until the disk is full; then sends are refused",
            fix=f"{LOG}; then BGREWRITEAOF",
        )
    yield from _fsync(facts)


def _fsync(facts: Facts) -> Iterator[Finding]:
    fsync = facts.config.get("appendfsync")
    if fsync == "no":
        yield loses(
            "persistence.fsync_no",
            "appendfsync is no: the operating system decides when to write",
            why="a crash of the machine loses some half a minute of messages",
            fix="CONFIG SET appendfsync everysec, then CONFIG REWRITE",
        )
    if fsync == "everysec":
        yield note(
            "persistence.fsync_everysec",
            "appendfsync is everysec",
            why="a crash of the machine (not of the server alone) loses up to two seconds of messages",
            fix="nothing, if that is fine; else CONFIG SET appendfsync always, which makes sends slower",
        )
    if facts.config.get("no-appendfsync-on-rewrite") == "yes" and fsync != "no":
        yield loses(
            "persistence.no_fsync_on_rewrite",
            "nothing is synced to the disk while the AOF or a snapshot is written",
            why="a crash of the machine at such a time loses some half a minute of messages",
            fix="CONFIG SET no-appendfsync-on-rewrite no, then CONFIG REWRITE",
        )
    delayed = facts.number("aof_delayed_fsync") or 0
    if delayed:
        yield risk(
            "persistence.fsync_delayed",
            f"the disk was too slow for the AOF {delayed:,.0f} times since the server's start",
            why="the server stops for all its clients then, and a crash loses more",
            fix="give it a faster disk, or one that it does not share",
        )
