"""Which keys may a test leave behind? Only the permanent ones; all others must expire."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
_KIND = re.compile(r"[^{}]*:\{[^{}]+\}(?:\.[^{}:]+)?:([^:]+)")


def kind(key: str) -> str | None:
    """The word after the hash tag: `ready` in `t-1:{orders}:ready` and `t-1:{orders/1}:ready:2`."""
    match = _KIND.match(key)
    if match and match[1] == "subscription":  # its own keys are those of a queue
        return key.rpartition(":")[2]
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Check:
    """What to ask about a key, and which leaks the replies tell of."""

    commands: list[tuple[str, ...]]
    leaks: Callable[[list[Any]], Iterable[str]]


def leaked(admin: redis.Redis, namespace: str) -> list[str]:
    """The keys of the namespace that would stay for ever and are not known to be permanent."""
    checks = [check for key in _keys(admin, namespace) if (check := _check(key.decode()))]
    if not checks:
        return []
    # In one round trip: this follows every test, and every step of some.
    pipeline: Any = admin.pipeline(transaction=False)
    for check in checks:
        for command in check.commands:
            pipeline.execute_command(*command)
    replies = iter(pipeline.execute())
    return [
        leak for check in checks for leak in check.leaks([next(replies) for _ in check.commands])
    ]


def _check(key: str) -> Check | None:
    if kind(key) in HELD:
        return _strays(key)
    if kind(key) not in PERMANENT:
        # -1: no time to live. -2 would mean that the key expired meanwhile.
        return Check([("PTTL", key)], lambda replies: [key] if replies == [-1] else [])
    return _forgotten(key) if kind(key) == "delayed" else None


def _strays(key: str) -> Check:
    """Find ids that a key names without there being such a message."""
    prefix, _, name = key.rpartition(":")
    log = prefix.partition(":subscription:")[0] + ":log"
    lanes = (f"{prefix}:ready", f"{prefix}:front", f"{prefix}:suspect", log)
    is_set = name in ("lines", "priority")

    def leaks(replies: list[Any]) -> Iterator[str]:
        named, delayed, *pages = replies
        if is_set:
            ids = {member.rpartition(b"\0")[2] for member in named}
        else:
            ids = {one for value in named for one in value.split()}
        living = set(delayed)
        for entry, fields in itertools.chain(*pages):
            state = json.loads(fields.get(b"s", b"{}"))
            living.add(state["id"].encode() if "id" in state else entry)
        return (f"{key}: {stray.decode()}" for stray in sorted(ids - living))

    return Check(
        [
            ("ZRANGE", key, "0", "-1") if is_set else ("HVALS", key),
            ("HKEYS", f"{prefix}:delayed"),
            *(("XRANGE", lane, "-", "+") for lane in lanes),
        ],
        leaks,
    )


def _forgotten(key: str) -> Check:
    """Find delayed bodies that nothing will ever bring back."""
    prefix = key.rpartition(":")[0]

    def leaks(replies: list[Any]) -> Iterator[str]:
        bodies, due, urgent, lines = replies
        waiting = {*due, *urgent, *(member.rpartition(b"\0")[2] for member in lines)}
        return (f"{key}: {stray.decode()}" for stray in sorted(set(bodies) - waiting))

    sets = (f"{prefix}:due", f"{prefix}:priority", f"{prefix}:lines")
    return Check([("HKEYS", key), *(("ZRANGE", one, "0", "-1") for one in sets)], leaks)


def wipe(admin: redis.Redis, namespace: str) -> None:
    """Delete all keys of the namespace."""
    # One command a key: on a cluster they may be in different slots.
    pipeline = admin.pipeline(transaction=False)
    for key in _keys(admin, namespace):
        pipeline.unlink(key)
    pipeline.execute()  # without a command it asks nobody


def _keys(admin: redis.Redis, namespace: str) -> list[bytes]:
    return sorted(set(admin.scan_iter(match=f"{namespace}:*", count=1000)))
