"""Versions of servers that are known to be bad."""

from __future__ import annotations

from collections.abc import Iterator

from millstream.protocol.doctor.facts import Facts
from millstream.protocol.doctor.finding import Finding, loses, risk

__all__ = ["STREAM_CRASHES", "version"]

STREAM_CRASHES = frozenset({"8.2.0", "8.2.1"})
"""Redis versions that a stream command can crash (CVE-2025-62507)."""
LUA_FIXED = {
    "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
"""Minor version -> the patch with which CVE-2025-49844 is mended. All later ones are."""


def version(facts: Facts) -> Iterator[Finding]:
    """Look for versions that are known to be bad."""
    valkey = facts.info.get("valkey_version")
    brand, text = ("Valkey", valkey) if valkey else ("Redis", facts.info.get("redis_version", ""))
    if brand == "Redis" and text in STREAM_CRASHES:
        yield loses(
            "version.stream_crash",
            f"{brand} {text} can be crashed by stream commands (CVE-2025-62507)",
            why="each queue is a stream, and a crash loses what is not on the disk",
            fix="use 8.2.3 or later",
        )
    if _has_lua_hole(brand, text):
        mended = ", ".join(f"{a}.{b}.{c}" for (a, b), c in LUA_FIXED[brand].items())
        yield risk(
            "version.lua",
            f"{brand} {text} lets who may run scripts take the server over (CVE-2025-49844)",
            why="every user of Millstream may run scripts",
            fix=f"use one of {mended}, or later",
        )


def _has_lua_hole(brand: str, text: str) -> bool:
    major, minor, patch, *_ = (*text.split("."), "", "", "")
    if not (major.isdigit() and minor.isdigit() and patch.isdigit()):
        return False
    fixed, release = LUA_FIXED[brand], (int(major), int(minor))
    if release in fixed:
        return int(patch) < fixed[release]
    return release < max(fixed)
