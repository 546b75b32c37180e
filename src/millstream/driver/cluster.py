"""A cluster as values: how to reach its nodes, and which of them has which slot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import redis.connection as blocking_connections
from redis import exceptions
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

from millstream.driver.faults import ERROR_REPLIES, code_of
from millstream.driver.target import (
    ENVIRONMENT_VARIABLE,
    Target,
    Transport,
    hide_password,
    resolve,
    target_options,
)
from millstream.errors import UsageError
from millstream.protocol.op import Command, Op
from millstream.protocol.slots import SLOTS
from millstream.security import Security

__all__ = [
    "GLANCE",
    "PATIENCE",
    "QUIET",
    "REFUSED",
    "SILENCE",
    "Address",
    "ClusterTarget",
    "Follower",
    "SlotMap",
    "ask_for_slots",
    "locate",
    "read_slots",
    "unsettled",
]

Address = tuple[str, int]
"""Host and port of a node."""

REFUSED = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})
"""Answers of a node that has not run a command, since its slot is elsewhere or on its way."""

SILENCE = 1.0
"""Seconds without an answer of a node after which the others are asked whether it is still a master."""

GLANCE = 5.0
"""Seconds after which the same is asked for the sake of those who sleep at a node."""

PATIENCE = 2.0
"""Seconds in which a node must tell who has which slot; then another one is asked."""

QUIET = 0.1
"""Seconds between two such questions, however much is moved."""

_ON_ITS_WAY = "a slot is on its way from node to node"

_SCHEMES = {
    "redis+cluster": "redis",
    "valkey+cluster": "redis",
    "rediss+cluster": "rediss",
    "valkeys+cluster": "rediss",
}


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """A cluster and how to reach its nodes.

    Attributes:
        url: for people, its password hidden.
        seeds: nodes to ask first.
        transport: TCP or TLS.
        options: for redis-py's connections to any of the nodes.
    """

    url: str
    seeds: tuple[Address, ...]
    transport: Transport
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        """Show no secrets."""
        return f"ClusterTarget({self.url!r})"

    def replicas(self) -> None:
        """Nothing: what reads goes to the masters, too."""

    def close(self) -> None:
        """Nothing was started for it."""

    def node(self, address: Address) -> Target:
        """Return one of its nodes."""
        host, port = address
        scheme = "rediss" if self.transport == "tls" else "redis"
        shown = f"[{host}]" if ":" in host else host
        options = {**self.options, "host": host, "port": port}
        return Target(f"{scheme}://{shown}:{port}", self.transport, options)


class Follower(Protocol):
    """Who waits on a connection of its own, and follows a slot."""

    def leave(self, nodes: Sequence[Target]) -> None:
        """Give the connection up unless it is to one of these."""
        ...


class SlotMap(msgspec.Struct, frozen=True):
    """Which node has which slot, as far as is known.

    Attributes:
        owners: of each slot; None: nobody, as far as is known.
    """

    owners: Sequence[Address | None] = (None,) * SLOTS

    @property
    def masters(self) -> list[Address]:
        """All nodes that have slots, in the order of these."""
        return [owner for owner in dict.fromkeys(self.owners) if owner is not None]

    def moved(self, slot: int, to: Address) -> SlotMap:
        """Return what is known when a node has told where a slot is."""
        owners = list(self.owners)
        owners[slot] = to
        return SlotMap(owners)


def ask_for_slots() -> Op[list[Any]]:
    """Ask a node who has which slot."""
    # CLUSTER SHARDS would be newer; this is known to all versions.
    return Op((Command(("CLUSTER", "SLOTS")),), decode=lambda replies: replies[0])


def read_slots(reply: Any, asked: Address, url: str) -> SlotMap:
    """Read a node's answer.

    Args:
        reply: to ``ask_for_slots``.
        asked: the node. One that does not know its own host leaves it out.
        url: of the node, for people.

    Raises:
        UsageError: it is no node of a cluster.
        redis-py's errors: it does not tell; another one may.
    """
    if isinstance(reply, ERROR_REPLIES):
        if "cluster support disabled" in str(reply):
            message = f"{url} is no node of a cluster: begin its URL with redis://"
            raise UsageError(message)
        raise reply
    owners: list[Address | None] = [None] * SLOTS
    for first, last, (host, port, *_), *_ in reply:
        name = (host or b"").decode()
        owner = (asked[0] if name in ("", "?") else name, int(port))
        owners[first : last + 1] = [owner] * (last + 1 - first)
    if owners.count(None) == SLOTS:
        message = f"{url} is a node of a cluster in which nobody has any slot"
        raise exceptions.ClusterDownError(message)
    return SlotMap(owners)


def unsettled(error: BaseException | None) -> exceptions.ClusterDownError:
    """Say that a slot is on its way, or without a master."""
    if isinstance(error, exceptions.ClusterDownError) and str(error).startswith(_ON_ITS_WAY):
        return error
    what = "it has no master" if error is None else f"{code_of(error)} {error}"
    return exceptions.ClusterDownError(f"{_ON_ITS_WAY} ({what})")


def locate(source: object, security: Security | None = None) -> Target | ClusterTarget:
    """Find the server, or the cluster.

    Args:
        source: as for ``resolve``; also ``redis+cluster://host:port,host:port`` (``valkey+cluster``;
            ``rediss+cluster`` or ``valkeys+cluster`` with TLS), or a ready-made cluster client of redis-py.
        security: goes before what the source says of users and certificates.

    Raises:
        UsageError, NotConnected: see ``resolve``.
    """
    if isinstance(source, ClusterTarget):
        return source
    if isinstance(source, RedisCluster | AsyncRedisCluster):
        return _from_client(source, security)
    url = (os.environ.get(ENVIRONMENT_VARIABLE) or None) if source is None else source
    if isinstance(url, str):
        scheme, _, rest = url.partition("://")
        if known := _SCHEMES.get(scheme):
            return _from_url(url, known, rest, security)
    return resolve(source, security)


def _from_url(url: str, known: str, rest: str, security: Security | None) -> ClusterTarget:
    end = min(
        (at for one in "/?#" if (at := rest.find(one, rest.rfind("@") + 1)) >= 0),
        default=len(rest),
    )
    login, sign, hosts = rest[:end].rpartition("@")
    shown = hide_password(url)
    seeds: list[Address] = []
    options: dict[str, Any] = {}
    for host in hosts.split(","):
        found = _parsed(f"{known}://{login}{sign}{host}{rest[end:]}")
        if isinstance(found, ValueError):
            # What it cannot read may be a part of the password, so neither text nor cause is shown.
            detail = "" if sign else f": {found}"
            message = f"cannot read the URL {shown!r}{detail}"
            raise UsageError(message)
        options = found
        if not host:
            message = f"{shown!r} names no node of the cluster, or an empty one: redis+cluster://host:port,host:port"
            raise UsageError(message)
        seeds.append((options.get("host", "localhost"), options.get("port", 6379)))
    if options.get("db"):
        message = f"{shown!r} names a database; a cluster has only number 0: leave it out"
        raise UsageError(message)
    return _target(shown, seeds, options, security, tls=known == "rediss")


def _parsed(url: str) -> dict[str, Any] | ValueError:
    try:
        parse: Any = blocking_connections.parse_url
        return dict(parse(url))
    except ValueError as error:
        return error


def _from_client(client: Any, security: Security | None) -> ClusterTarget:
    manager = client.nodes_manager
    options = dict(manager.connection_kwargs)
    nodes = [*manager.startup_nodes.values()]
    seeds = [(str(node.host), int(node.port)) for node in nodes]
    # An asyncio client says so by the class of its connections, a blocking one by an option.
    kinds = [options.get("connection_class"), getattr(nodes[0], "connection_class", None)]
    tls = bool(options.get("ssl")) or any("SSL" in getattr(kind, "__name__", "") for kind in kinds)
    scheme = "rediss" if tls else "redis"
    shown = ",".join(f"{host}:{port}" for host, port in seeds)
    return _target(f"{scheme}+cluster://{shown}", seeds, options, security, tls=tls)


def _target(
    shown: str,
    seeds: Sequence[Address],
    options: Mapping[str, Any],
    security: Security | None,
    *,
    tls: bool,
) -> ClusterTarget:
    transport: Transport = "tls" if tls else "tcp"
    kept = target_options(transport, options, security)
    for name in ("host", "port", "db", "path", "ssl"):
        kept.pop(name, None)
    return ClusterTarget(shown, tuple(dict.fromkeys(seeds)), transport, kept)
