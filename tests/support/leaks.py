"""Which keys may a test leave behind? Only the permanent ones; all others must expire."""

from __future__ import annotations

import json
import re
from typing import Any

import redis

# What a queue or topic is made of, by the word after its hash tag. Everything else that the
# library writes is temporary and needs a time to live, or it would fill the server over the years.
PERMANENT = frozenset(
    {
        "config",  # how an ordered queue is divided: who comes must find the same number
        "consumers",
        "counters",
        "dead",
        "delayed",
        "due",
        "front",
        "idle",  # subscriptions without a consumer, until they are removed
        "kept",  # what was handled, as long as the queue's declaration lets it
        "landing",  # what a sleeping read brought; the next look at the queue takes it
        "leases",  # of a list queue: only while something is in flight, as `processing` is
        "list",
        "list-front",
        "list-suspect",
        "log",  # what is published, as long as retention lets it
        "log-config",
        "log-counters",
        "paused",  # only while the queue is
        "processing",
        "ready",
        # A schedule belongs to the code of workers; people remove it when it is not needed.
        "schedules",
        "seen",  # consumers of a list queue; sweeps remove them
        "subscriptions",  # until they expire or are removed
        "suspect",
        "sweeper",
        "wake",
    }
)
# What is there only as long as a message is that has it: nothing in them may name another one.
HELD = {"holders", "lines", "priority", "unique"}
_KIND = re.compile(r"[^{}]*:\{[^{}]+\}:([^:]+)")


def kind(key: str) -> str | None:
    """The word after the hash tag: `ready` in `t-1:{orders}:ready` and `t-1:{orders/1}:ready:2`."""
    match = _KIND.match(key)
    if match and match[1] == "subscription":  # its own keys are those of a queue
        return key.rpartition(":")[2]
    return match[1] if match else None


def leaked(admin: redis.Redis, namespace: str) -> list[str]:
    """The keys of the namespace that would stay for ever and are not known to be permanent."""
    leaks: list[str] = []
    for key in (key.decode() for key in _keys(admin, namespace)):
        if kind(key) in HELD:
            leaks += [f"{key}: {stray}" for stray in sorted(_strays(admin, key))]
        elif kind(key) not in PERMANENT and admin.pttl(key) == -1:
            # -1: no time to live. -2 would mean that the key expired between the two commands.
            leaks.append(key)
        elif kind(key) == "delayed":
            leaks += [f"{key}: {stray}" for stray in sorted(_forgotten(admin, key))]
    return leaks


def _strays(admin: Any, key: str) -> set[str]:
    """Ids that a key names without there being such a message."""
    prefix, _, name = key.rpartition(":")
    if name in ("lines", "priority"):
        ids = {member.rpartition(b"\0")[2] for member in admin.zrange(key, 0, -1)}
    else:
        ids = {one for value in admin.hvals(key) for one in value.split()}
    living = set(admin.hkeys(f"{prefix}:delayed"))
    log = prefix.partition(":subscription:")[0] + ":log"
    for lane in (f"{prefix}:ready", f"{prefix}:front", f"{prefix}:suspect", log):
        for entry, fields in admin.xrange(lane):
            state = json.loads(fields.get(b"s", b"{}"))
            living.add(state["id"].encode() if "id" in state else entry)
    return {stray.decode() for stray in ids - living}


def _forgotten(admin: Any, key: str) -> set[str]:
    """Delayed bodies that nothing will ever bring back."""
    prefix = key.rpartition(":")[0]
    waiting = {*admin.zrange(f"{prefix}:due", 0, -1), *admin.zrange(f"{prefix}:priority", 0, -1)}
    waiting |= {member.rpartition(b"\0")[2] for member in admin.zrange(f"{prefix}:lines", 0, -1)}
    return {stray.decode() for stray in set(admin.hkeys(key)) - waiting}


def wipe(admin: redis.Redis, namespace: str) -> None:
    """Delete all keys of the namespace."""
    # One command a key: on a cluster they may be in different slots.
    pipeline = admin.pipeline(transaction=False)
    for key in _keys(admin, namespace):
        pipeline.unlink(key)
    pipeline.execute()


def _keys(admin: redis.Redis, namespace: str) -> list[bytes]:
    return sorted(set(admin.scan_iter(match=f"{namespace}:*", count=1000)))
