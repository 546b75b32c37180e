"""Which keys may a test leave behind? Only the permanent ones; all others must expire."""

from __future__ import annotations

import re

import redis

# What a queue or topic is made of, by the word after its hash tag. Everything else that the
# library writes is temporary and needs a time to live, or it would fill the server over the years.
PERMANENT = frozenset(
    {
        "consumers",
        "counters",
        "dead",
        "delayed",
        "due",
        "front",
        "paused",  # only while the queue is
        "ready",
        "suspect",
        "sweeper",
        "wake",
    }
)
_KIND = re.compile(r"[^{}]*:\{[^{}]+\}:([^:]+)")


def kind(key: str) -> str | None:
    """The word after the hash tag: `ready` in `t-1:{orders}:ready` and `t-1:{orders/1}:ready:2`."""
    match = _KIND.match(key)
    return match[1] if match else None


def leaked(admin: redis.Redis, namespace: str) -> list[str]:
    """The keys of the namespace that would stay for ever and are not known to be permanent."""
    suspects = [key for key in _keys(admin, namespace) if kind(key.decode()) not in PERMANENT]
    # -1: no time to live. -2 would mean that the key expired between the two commands.
    return [key.decode() for key in suspects if admin.pttl(key) == -1]


def wipe(admin: redis.Redis, namespace: str) -> None:
    """Delete all keys of the namespace."""
    if keys := _keys(admin, namespace):
        admin.unlink(*keys)


def _keys(admin: redis.Redis, namespace: str) -> list[bytes]:
    return sorted(set(admin.scan_iter(match=f"{namespace}:*", count=1000)))
