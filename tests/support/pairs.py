"""A server and a replica of it, for tests of what replicas confirm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.servers import Server
from tests.support.wait import until

__all__ = ["follow", "pair", "promote"]


@contextmanager
def pair(name: str = "valkey-8.1", **options: Any) -> Iterator[tuple[Server, Server]]:
    """Run a primary and a replica that follows it."""
    with Server(name, **options) as primary, Server(name, **options) as replica:
        follow(replica, primary)
        yield primary, replica


def follow(replica: Server, primary: Server) -> None:
    """Make a server the replica of another, and return when that counts it."""
    admin: Any = replica.admin()
    admin.replicaof("127.0.0.1", primary.port)
    leader: Any = primary.admin()
    until(lambda: leader.execute_command("WAIT", 1, 10) >= 1, 30, message="the replica follows")


def promote(replica: Server) -> None:
    """Make a replica a primary."""
    admin: Any = replica.admin()
    admin.replicaof("NO", "ONE")
    until(lambda: admin.info("replication")["role"] == "master", message="it is promoted")
