"""A cluster of several nodes on loopback, formed without any tool; slots move and nodes fail over on demand.

with Cluster(masters=3, replicas=1) as cluster:
    mq = ms.Client(cluster.url, namespace=namespace)
    cluster.reshard(cluster.slot("t-1:{orders}:ready"), cluster.masters[1])
    cluster.kill(cluster.master_of("t-1:{orders}:ready"))   # its replica takes over
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import redis

from tests.support.servers import PASSWORD, SLOTS, USER, Server
from tests.support.wait import until

Stage = Literal["importing", "migrating", "key", "moved", "owned"]
"""Where a slot's move stands: the target knows of it; so does the source; a key has moved; all keys
have; the target owns the slot, and the others have yet to hear of it."""

FORMING = 60
"""Seconds within which nodes know each other, or agree on what has changed, on a slow machine."""


class Cluster:
    """Nodes that form a cluster. Use it as a context manager.

    Args:
        name: which server.
        masters: how many, each with an equal share of the slots.
        replicas: of each master.
        node_timeout_ms: after which a silent node counts as dead; a replica takes over some
            hundred ms later.
        appendonly: whether nodes keep their data through a restart.
    """

    def __init__(
        self,
        name: str = "valkey-8.1",
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = 1500,
        appendonly: bool = False,
    ) -> None:
        settings = [
            f"cluster-node-timeout {node_timeout_ms}",
            # However old its data: tests look at what is lost, not at whether it may be.
            "cluster-replica-validity-factor 0",
            "cluster-migration-barrier 100",  # a replica stays with its master
            "min-replicas-to-write 0",
        ]
        self._masters, self._replicas = masters, replicas
        self._silent: set[Server] = set()
        self.nodes = [
            Server(name, cluster=True, alone=False, appendonly=appendonly, extra=settings)
            for _ in range(masters * (1 + replicas))
        ]

    # Where it is

    @property
    def url(self) -> str:
        """All nodes, as a user who may touch only keys and channels that start with `t-`."""
        return f"redis+cluster://{USER}:{PASSWORD}@{self._places}"

    @property
    def admin_url(self) -> str:
        """All nodes, as a user who may do everything."""
        return f"redis+cluster://{self._places}"

    @property
    def _places(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def slot(self, key: str) -> int:
        """The slot of a key."""
        _, brace, rest = key.partition("{")
        tag, end, _ = rest.partition("}")
        return binascii.crc_hqx((tag if brace and end and tag else key).encode(), 0) % SLOTS

    @property
    def masters(self) -> list[Server]:
        """The living nodes that have slots, or could have some, in the order of `nodes`."""
        return [node for node in self._living if self._role(node) == "master"]

    def master_of(self, key: str | int) -> Server:
        """The node that has the slot of a key, or a slot."""
        slot = self.slot(key) if isinstance(key, str) else key
        owner = until(lambda: self._owner(slot), FORMING, message=f"a living node has slot {slot}")
        assert owner is not None
        return owner

    def replicas_of(self, master: Server) -> list[Server]:
        """The living replicas of a node."""
        name = self.id_of(master)
        return [
            node for node in self._living if node is not master and self._myself(node)[3] == name
        ]

    def id_of(self, node: Server) -> str:
        """What the cluster calls a node."""
        name: bytes = _ask(node, "CLUSTER", "MYID")
        return name.decode()

    @property
    def _living(self) -> list[Server]:
        return [node for node in self.nodes if node.running and node not in self._silent]

    # What can happen to it

    def reshard(
        self, slot: int, to: Server, *, between: Callable[[Stage], object] = lambda _: None
    ) -> None:
        """Move a slot with its keys to another node, one key after the other.

        Args:
            slot: which.
            to: a master.
            between: called at each stage of the move; ``key`` after each key.
        """
        source = self.master_of(slot)
        if source is to:
            return
        here, there = self.id_of(source), self.id_of(to)
        _ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        between("importing")
        _ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        between("migrating")
        while keys := _ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:
                _ask(source, "MIGRATE", "127.0.0.1", to.port, key, 0, 10_000)
                between("key")
        between("moved")
        # The target first: if it died before it knows, nobody would have the slot.
        _ask(to, "CLUSTER", "SETSLOT", slot, "NODE", there)
        _ask(source, "CLUSTER", "SETSLOT", slot, "NODE", there)
        between("owned")
        for node in self.masters:
            _ask(node, "CLUSTER", "SETSLOT", slot, "NODE", there)

    def failover(self, master: Server) -> Server:
        """Have a replica take over in order, without loss; return it when all agree."""
        replica = self.replicas_of(master)[0]
        _ask(replica, "CLUSTER", "FAILOVER")
        until(lambda: self._role(replica) == "master", FORMING, message="a replica takes over")
        self.settle()
        return replica

    def hang(self, master: Server) -> None:
        """Stop a node without a word to anybody, and return when its replica has taken over."""
        self._silent.add(master)
        master.pause()
        self.settle()

    def resume(self, node: Server) -> None:
        """Let a node go on that has hung; it returns when the node knows whose replica it is."""
        node.resume()
        self._silent.discard(node)
        self.settle()

    def kill(self, master: Server, *, wait: bool = True) -> None:
        """Kill a node; with `wait`, return when the others have all slots between them."""
        master.kill()
        if wait:
            self.settle()

    def settle(self) -> None:
        """Return when all living nodes see the same owners of all slots, and none that is dead."""
        until(self._agree, FORMING, message="the nodes agree")

    # Its life

    def start(self) -> Self:
        """Start the nodes and return when each serves."""
        for node in self.nodes:
            node.start()
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for number, master in enumerate(masters):
            share = range(SLOTS * number // len(masters), SLOTS * (number + 1) // len(masters))
            _ask(master, "CLUSTER", "ADDSLOTS", *share)
            # Equal epochs would make them argue for a while.
            _ask(master, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            _ask(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        for number, replica in enumerate(replicas):
            master_id = self.id_of(masters[number % len(masters)])
            until(partial(_knows, replica, master_id), FORMING, message="nodes meet")
            _ask(replica, "CLUSTER", "REPLICATE", master_id)
        self.settle()
        until(lambda: all(map(_in_step, replicas)), FORMING, message="replicas have caught up")
        return self

    def close(self) -> None:
        """End all nodes. Safe to call twice."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _agree(self) -> bool:
        views = set()
        ports = {node.port for node in self._living}
        for node in self._living:
            if b"cluster_state:ok" not in _ask(node, "CLUSTER", "INFO"):
                return False
            views.add(tuple(sorted(_owners(node))))
        if len(views) != 1:
            return False
        [view] = views
        covered = sum(last - first + 1 for first, last, _ in view)
        return covered == SLOTS and {port for *_, port in view} <= ports

    def _owner(self, slot: int) -> Server | None:
        found = {
            port
            for node in self.masters
            for first, last, port in _owners(node)
            if first <= slot <= last
        }
        owners = [node for node in self._living if {node.port} == found]
        return owners[0] if owners else None

    def _myself(self, node: Server) -> list[str]:
        lines = _ask(node, "CLUSTER", "NODES").decode().splitlines()
        return next(line.split() for line in lines if "myself" in line)

    def _role(self, node: Server) -> str:
        return "slave" if "slave" in self._myself(node)[2] else "master"


def _ask(node: Server, *command: Any) -> Any:
    """Return a node's reply as it comes. Through its unix socket: the network may be a test's victim."""
    client: Any = redis.Redis(connection_pool=node.admin().connection_pool)
    client.response_callbacks.clear()
    return client.execute_command(*command)


def _owners(node: Server) -> Iterator[tuple[int, int, int]]:
    for first, last, master, *_ in _ask(node, "CLUSTER", "SLOTS"):
        yield first, last, master[1]


def _knows(node: Server, name: str) -> bool:
    lines = _ask(node, "CLUSTER", "NODES").decode().splitlines()
    return any(line.startswith(name) and "handshake" not in line for line in lines)


def _in_step(replica: Server) -> bool:
    return b"master_link_status:up" in _ask(replica, "INFO", "replication")
