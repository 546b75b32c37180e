"""Where the demo takes place: a server of its own, or a namespace of its own on a given server."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from millstream.driver.server_check import server_info
from millstream.driver.target import ENVIRONMENT_VARIABLE
from millstream.errors import ServerRefused
from millstream.protocol.op import Command, Nodes, Op, Plan
from millstream.sync.client import Client

__all__ = ["Place", "delete_keys", "place_for", "server_name"]

KEYS_A_CALL = 500
"""Bounds the time that one call keeps the server busy."""


@dataclass(frozen=True, slots=True)
class Place:
    """A server and a namespace.

    Attributes:
        url: of the server.
        namespace: first part of all keys.
        directory: of the data of the demo's own server; None: the server is somebody else's.
    """

    url: str
    namespace: str
    directory: str | None

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that is to find the server."""
        return {**os.environ, ENVIRONMENT_VARIABLE: self.url}


@contextlib.contextmanager
def place_for(url: str | None) -> Iterator[Place]:
    """Find a place, and leave it as it was.

    Args:
        url: of a server; None: one of the demo's own, in a temporary directory.
    """
    namespace = f"demo-{uuid.uuid4().hex[:8]}"
    if url is None:
        # The server stops when its last client has left; an error here would hide a worse one.
        prefix = "millstream-demo-"
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as directory:
            yield Place(f"embedded://{quote(directory)}", namespace, directory)
        return
    # Connected first: when that fails, there is nothing to delete.
    with Client(url, namespace=namespace) as mq:
        try:
            yield Place(url, namespace, None)
        finally:
            delete_keys(mq)


def delete_keys(mq: Client) -> int:
    """Delete all keys of a client's namespace; return how many that were.

    The name of the namespace must have no characters that mean something in a pattern.
    """
    return mq.driver.drive(_delete(mq.namespace))


def _delete(namespace: str) -> Plan[int]:
    deleted = 0
    for node in (yield Nodes()):
        cursor: bytes | str = "0"
        while cursor != b"0":
            scan = Command(("SCAN", cursor, "MATCH", f"{namespace}:*", "COUNT", KEYS_A_CALL))
            cursor, keys = yield Op((scan,), decode=_first, near=node)
            # One command a key: on a cluster they may be in different slots.
            for key in keys:
                deleted += yield Op((Command(("UNLINK", key)),), decode=_first)
    return deleted


def _first(replies: list[Any]) -> Any:
    return replies[0]


def server_name(mq: Client) -> str:
    """Tell which program the server is, and its version."""
    try:
        info = mq.driver.run(server_info())
    except ServerRefused:
        return "a server that does not tell its version"
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '?')}"
