"""Which processes there are, and where: one server, replicas with Sentinels, or a cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from millstream.driver.embedded_places import LONGEST_ADDRESS
from millstream.errors import UsageError

__all__ = ["MASTER_NAME", "Kind", "Layout", "Node", "clustered", "replicated", "single"]

Kind = Literal["server", "replicas", "cluster"]
Role = Literal["server", "master", "replica", "sentinel"]

MASTER_NAME = "millstream"
"""What Sentinels call the master."""

LOOPBACK = "127.0.0.1"
DEFAULT_BIND = (LOOPBACK, "-::1")
"""The minus: a machine without IPv6 is fine."""

HIGHEST_PORT = 65_535
SENTINELS_ABOVE = 20_000
"""The first Sentinel's port beyond the master's: 26379 for 6379, as everywhere."""

BUS_ABOVE = 10_000
"""Nodes of a cluster talk to each other on a second port; older servers know no other than this."""

MOST_NODES = 64
"""A typing error shall not start thousands of processes."""

FAILOVER_NEEDS = 3
"""Of so few masters, or Sentinels, a majority outlives the loss of one."""


@dataclass(frozen=True, slots=True)
class Node:
    """One process.

    Attributes:
        role: what it is at the start of the first run; a failover may change it.
        port: where it listens; 0: on its socket only.
        directory: of its files.
        master: for replicas, the port of the master.
        socket: its unix socket, if any.
    """

    role: Role
    port: int
    directory: Path
    master: int | None = None
    socket: Path | None = None

    def __str__(self) -> str:
        return f"the {self.role} on {self.socket if self.port == 0 else f'port {self.port}'}"


@dataclass(frozen=True, slots=True)
class Layout:
    """All processes of one set-up.

    Attributes:
        kind: a single server, replicas of one master, or a cluster.
        directory: of all files.
        nodes: in the order of their start.
        bind: the addresses on which they listen, as the server writes them.
    """

    kind: Kind
    directory: Path
    nodes: tuple[Node, ...]
    bind: tuple[str, ...] = (LOOPBACK,)

    def having(self, *roles: Role) -> tuple[Node, ...]:
        """Return the nodes of these roles."""
        return tuple(node for node in self.nodes if node.role in roles)

    @property
    def host(self) -> str:
        """The address that clients on this machine use."""
        first = self.bind[0].removeprefix("-")
        if not ipaddress.ip_address(first).is_unspecified:
            return first
        return "::1" if ":" in first else LOOPBACK

    @property
    def local(self) -> bool:
        """True when nobody but this machine can reach it."""
        addresses = [ipaddress.ip_address(one.removeprefix("-")) for one in self.bind]
        no_port = all(node.port == 0 for node in self.nodes)
        return no_port or all(address.is_loopback for address in addresses)

    def urls(self, login: str = "") -> list[str]:
        """Return what ``MILLSTREAM_URL`` may be.

        Args:
            login: ``user:password@``, or nothing.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        sentinels = self.having("sentinel")
        if sentinels or self.kind == "cluster":
            some = sentinels or self.having("master")
            hosts = ",".join(f"{host}:{node.port}" for node in some)
            scheme, path = ("sentinel", f"/{MASTER_NAME}") if sentinels else ("cluster", "")
            return [f"redis+{scheme}://{login}{hosts}{path}"]
        node = self.nodes[0]
        urls = [f"redis://{login}{host}:{node.port}"] if node.port else []
        return urls + ([f"unix://{login}{quote(str(node.socket))}"] if node.socket else [])


def single(
    directory: Path, *, port: int | None, bind: Sequence[str] = (), socket: Path | None = None
) -> Layout:
    """One server.

    Args:
        directory: of its files.
        port: None: 6379, or none at all beside a socket.
        bind: addresses instead of the loopback.
        socket: a unix socket.

    Raises:
        UsageError: it would listen nowhere, or where it cannot.
    """
    number = port if port is not None else (0 if socket else 6379)
    if number == 0 and socket is None:
        message = "a server without a port needs a --socket"
        raise UsageError(message)
    _check_port(number)
    for address in bind:
        _check_address(address)
    if socket is not None and len(bytes(socket)) > LONGEST_ADDRESS:
        message = f"{socket} is too long for a unix socket: {LONGEST_ADDRESS} bytes are the most"
        raise UsageError(message)
    node = Node("server", number, directory, socket=socket)
    return Layout("server", directory, (node,), tuple(dict.fromkeys(bind)) or DEFAULT_BIND)


def replicated(directory: Path, *, port: int | None, replicas: int, sentinels: int = 0) -> Layout:
    """One master with replicas, and Sentinels that put one in its place when it is gone.

    Ports: the master's, one up for each replica; Sentinels from 20,000 above the master's.

    Raises:
        UsageError: there is no replica to fail over to, or no such port.
    """
    if replicas < 1:
        message = "Sentinels need --replicas 1 or more: else there is nothing to fail over to"
        raise UsageError(message)
    first = 6379 if port is None else port
    numbers = _ports(first, 1 + replicas)
    watching = _ports(first + SENTINELS_ABOVE, sentinels)
    nodes = [Node("master", numbers[0], directory / str(numbers[0]))]
    nodes += [Node("replica", n, directory / str(n), master=first) for n in numbers[1:]]
    nodes += [Node("sentinel", n, directory / str(n)) for n in watching]
    return Layout("replicas", directory, tuple(nodes))


def clustered(directory: Path, *, port: int | None, masters: int, replicas: int = 0) -> Layout:
    """A cluster of so many masters, each with so many replicas.

    Ports: one up for each master, then for each replica; 10,000 above, each has its bus.

    Raises:
        UsageError: there is no such port.
    """
    first = 7000 if port is None else port
    numbers = _ports(first, masters * (1 + replicas), above=BUS_ABOVE)
    nodes = [Node("master", n, directory / str(n)) for n in numbers[:masters]]
    nodes += [
        Node("replica", n, directory / str(n), master=numbers[index % masters])
        for index, n in enumerate(numbers[masters:])
    ]
    return Layout("cluster", directory, tuple(nodes))


def _ports(first: int, count: int, above: int = 0) -> list[int]:
    if count > MOST_NODES:
        message = f"{count} processes are more than the {MOST_NODES} that one set-up may have"
        raise UsageError(message)
    if first < 1:
        message = "several processes need a port: --port 0 is for one server with a --socket"
        raise UsageError(message)
    if count:
        _check_port(first + count - 1 + above)
    return list(range(first, first + count))


def _check_port(number: int) -> None:
    if not 0 <= number <= HIGHEST_PORT:
        message = f"{number} is no port, 65535 is the highest: give a lower --port"
        raise UsageError(message)


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        message = f"--bind takes an IP address of this machine, such as 0.0.0.0, not {text!r}"
        raise UsageError(message) from None
