"""A run with a cluster of three nodes, each with a replica. See also sentinels.py.

Sends are confirmed by a replica here, too, so the loss of a node costs none of them. What moves slots,
and an orderly failover, must lose nothing at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import redis

from tests.chaos.schedule import Fault, Kind
from tests.chaos.sources import NAMESPACE, QUEUES, TOPICS
from tests.chaos.topology import DURABLE, LAG, Tell
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

__all__ = ["Clustered"]

IN_SYNC = 60.0
"""Seconds in which a server that is back has all data, on a busy machine, too."""

PLACES = {name: f"{NAMESPACE}:{{{name}}}:ready" for name in (*QUEUES, *TOPICS, "echo")}
"""A key of each source; it has the slot of all of them."""


@dataclass
class Clustered:
    """Three nodes with slots, each with a replica."""

    server_name: str = "valkey-8.1"
    kinds: tuple[Kind, ...] = (
        Kind("reshard", tuple(PLACES), 0.0, 0.0, weight=8),
        Kind("kill-node", tuple(PLACES), 0.0, 3.0, weight=4),
        Kind("fail-over-node", tuple(PLACES), 0.0, 0.0, weight=3),
    )
    environment: Mapping[str, str] = field(default_factory=lambda: DURABLE)
    _stack: ExitStack = field(default_factory=ExitStack)
    # One change at a time: each needs all nodes to agree.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _count: int = 0

    def __enter__(self) -> Self:
        cluster = Cluster(self.server_name, masters=3, replicas=1, appendonly=True)
        self.cluster = self._stack.enter_context(cluster)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def title(self) -> str:
        return f"{self.server_name}, a cluster of three nodes with a replica each, sends with durability replicas:1"

    @property
    def url(self) -> str:
        return self.cluster.admin_url

    def network(self, role: str) -> tuple[Proxy | None, str]:
        return None, self.cluster.admin_url

    def admins(self) -> list[redis.Redis]:
        return [node.admin() for node in self.cluster.masters]

    async def strike(self, fault: Fault, tell: Tell) -> None:
        async with self._turn:
            begin = time.monotonic()
            master = await asyncio.to_thread(self.cluster.master_of, PLACES[fault.target])
            strikes: Mapping[str, Callable[[Fault, Server], Awaitable[None]]] = {
                "reshard": self._reshard,
                "kill-node": self._kill,
                "fail-over-node": self._fail_over,
            }
            await strikes[fault.kind](fault, master)
            end = time.monotonic()
            tell("trouble", begin=begin, end=end, who="*")
            if fault.kind == "kill-node":
                tell("loss", begin=begin - LAG, end=end, sends=False)

    async def _reshard(self, fault: Fault, master: Server) -> None:
        others = [one for one in await asyncio.to_thread(self._masters) if one is not master]
        self._count += 1
        to = others[self._count % len(others)]
        slot = self.cluster.slot(PLACES[fault.target])
        await asyncio.to_thread(self.cluster.reshard, slot, to)
        # What was confirmed at the old node is at the new one alone until its replica has it.
        await asyncio.to_thread(self._in_sync)

    async def _kill(self, fault: Fault, master: Server) -> None:
        master.kill()
        await asyncio.to_thread(self.cluster.settle)
        await asyncio.sleep(fault.seconds)  # the work itself
        master.start()
        await asyncio.to_thread(self._in_sync)

    async def _fail_over(self, fault: Fault, master: Server) -> None:
        await asyncio.to_thread(self.cluster.failover, master)
        await asyncio.to_thread(self._in_sync)

    def _masters(self) -> list[Server]:
        return self.cluster.masters

    def _in_sync(self) -> None:
        """Wait until each node that has slots could lose its life: its replica has all of now."""
        written = {
            master.port: _replication(master)["master_repl_offset"]
            for master in self.cluster.masters
        }

        def ready() -> bool:
            masters = self.cluster.masters
            states = [_replication(one) for one in self.cluster.nodes if one not in masters]
            linked = all(state.get("master_link_status") == "up" for state in states)
            followed = linked and all(
                state["slave_repl_offset"] >= written.get(state["master_port"], 0)
                for state in states
            )
            return followed and all(self.cluster.replicas_of(master) for master in masters)

        until(ready, IN_SYNC, message="all nodes have a replica in sync")
        self.cluster.settle()


def _replication(node: Server) -> dict[str, Any]:
    state: Any = node.admin().info("replication")
    return dict(state)
