"""Who waits at a server for messages."""

from __future__ import annotations

import redis


def sleeping_readers(admin: redis.Redis) -> list[dict[str, str]]:
    """The connections that sleep in a read of a queue; a worker has one more, for its control."""
    clients: list[dict[str, str]] = admin.client_list()
    reads = ("xreadgroup", "blmove")
    return [one for one in clients if "b" in one["flags"] and one["cmd"] in reads]
