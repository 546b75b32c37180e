"""A run with a cluster of three nodes, each with a replica. See also sentinels.py.

Sends are confirmed by a replica here, too, so the loss of a node costs none of them. What moves slots,
and an orderly failover, must lose nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from tests.chaos.schedule import Fault, Kind
from tests.chaos.sources import NAMESPACE, QUEUES, TOPICS
from tests.chaos.topology import DURABLE, LAG, Forgetting, Strike, Topology
from tests.support.cluster import Cluster
from tests.support.servers import Server
from tests.support.wait import until

__all__ = ["CLUSTERED", "clustered"]

IN_SYNC = 60.0
"""Seconds in which a server that is back has all data, on a busy machine, too."""

PLACES = {name: f"{NAMESPACE}:{{{name}}}:ready" for name in (*QUEUES, *TOPICS, "echo")}
"""A key of each source; it has the slot of all of them."""

CLUSTERED = (
    Kind("reshard", tuple(PLACES), 0.0, 0.0, weight=8),
    Kind("kill-node", tuple(PLACES), 0.0, 3.0, weight=4),
    Kind("fail-over-node", tuple(PLACES), 0.0, 0.0, weight=3),
)


@contextmanager
def clustered(server_name: str = "valkey-8.1") -> Iterator[Topology]:
    """Start three nodes with slots, each with a replica."""
    with Cluster(server_name, masters=3, replicas=1, appendonly=True) as cluster:
        yield Topology(
            f"{server_name}, a cluster of three nodes with a replica each, sends with durability replicas:1",
            cluster.admin_url,
            [node.port for node in cluster.nodes],
            lambda: cluster.masters,
            CLUSTERED,
            _strikes(cluster),
            {"kill-node": Forgetting(LAG, sends=False)},
            DURABLE,
        )


def _strikes(cluster: Cluster) -> dict[str, Strike]:
    numbers = count()

    async def master_of(fault: Fault) -> Server:
        return await asyncio.to_thread(cluster.master_of, PLACES[fault.target])

    async def reshard(fault: Fault) -> None:
        master = await master_of(fault)
        others = [one for one in await asyncio.to_thread(lambda: cluster.masters) if one != master]
        to = others[next(numbers) % len(others)]
        await asyncio.to_thread(cluster.reshard, cluster.slot(PLACES[fault.target]), to)
        # What was confirmed at the old node is at the new one alone until its replica has it.
        await asyncio.to_thread(_in_sync, cluster)

    async def kill(fault: Fault) -> None:
        master = await master_of(fault)
        master.kill()
        await asyncio.to_thread(cluster.settle)
        await asyncio.sleep(fault.seconds)  # the work itself
        master.start()
        await asyncio.to_thread(_in_sync, cluster)

    async def fail_over(fault: Fault) -> None:
        master = await master_of(fault)
        await asyncio.to_thread(cluster.failover, master)
        await asyncio.to_thread(_in_sync, cluster)

    return {"reshard": reshard, "kill-node": kill, "fail-over-node": fail_over}


def _in_sync(cluster: Cluster) -> None:
    """Wait until each node that has slots could lose its life: its replica has all of now."""
    written = {
        master.port: _replication(master)["master_repl_offset"] for master in cluster.masters
    }

    def ready() -> bool:
        masters = cluster.masters
        states = [_replication(one) for one in cluster.nodes if one not in masters]
        linked = all(state.get("master_link_status") == "up" for state in states)
        followed = linked and all(
            state["slave_repl_offset"] >= written.get(state["master_port"], 0) for state in states
        )
        return followed and all(cluster.replicas_of(master) for master in masters)

    until(ready, IN_SYNC, message="all nodes have a replica in sync")
    cluster.settle()


def _replication(node: Server) -> dict[str, Any]:
    state: Any = node.admin().info("replication")
    return dict(state)
