"""How processes become a set-up: nodes of a cluster meet, replicas catch up, Sentinels find all."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from millstream.server.ask import Refused, ask, fields
from millstream.server.layout import LOOPBACK, MASTER_NAME, Layout
from millstream.server.process import Process

__all__ = [
    "SENTINEL_FILE",
    "Until",
    "await_cluster",
    "await_replicas",
    "await_sentinels",
    "last_master",
    "make_cluster",
]

SLOTS = 16_384
SENTINEL_FILE = "sentinel.conf"


class Until(Protocol):
    """Waits for a condition; it says what for, if that takes long."""

    def __call__(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the condition holds."""


def make_cluster(processes: Sequence[Process], until: Until) -> None:
    """Make a cluster of nodes that do not know each other.

    With commands of every version: no other program has to be installed.

    Args:
        processes: of the nodes; all are ready.
        until: how to wait.
    """
    masters = [one for one in processes if one.node.role == "master"]
    for index, process in enumerate(processes, start=1):
        # Else all have the same, and would first have to agree on who has which.
        ask(process.address, "CLUSTER", "SET-CONFIG-EPOCH", str(index))
    for index, process in enumerate(masters):
        first, end = (SLOTS * at // len(masters) for at in (index, index + 1))
        ask(process.address, "CLUSTER", "ADDSLOTS", *map(str, range(first, end)))
    for process in processes[1:]:
        ask(process.address, "CLUSTER", "MEET", LOOPBACK, str(processes[0].node.port))
    until(lambda: _all_met(processes), "the nodes to meet")
    names = {one.node.port: str(ask(one.address, "CLUSTER", "MYID")) for one in masters}
    for process in processes:
        if process.node.master is not None:
            name = names[process.node.master]
            until(lambda p=process, n=name: _replicates(p, n), f"{process.node}")  # type: ignore[misc]


def _all_met(processes: Sequence[Process]) -> bool:
    return all(_info(one)["cluster_known_nodes"] == str(len(processes)) for one in processes)


def _replicates(process: Process, master: str) -> bool:
    try:
        return bool(ask(process.address, "CLUSTER", "REPLICATE", master) == "OK")
    except Refused:  # it has met the master, and still has to shake hands
        return False


def await_cluster(processes: Sequence[Process], until: Until) -> None:
    """Wait until all nodes know all others, all slots are served and all replicas are linked."""

    def agree() -> bool:
        return _all_met(processes) and all(map(_serves, processes))

    until(agree, "the cluster to serve all slots")


def _serves(process: Process) -> bool:
    info = _info(process)
    replication = fields(ask(process.address, "INFO", "replication"))
    linked = replication["role"] == "master" or replication["master_link_status"] == "up"
    return linked and info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS)


def _info(process: Process) -> dict[str, str]:
    return fields(ask(process.address, "CLUSTER", "INFO"))


def await_replicas(master: Process, count: int, until: Until) -> None:
    """Wait until so many replicas have all that the master has."""

    def attached() -> bool:
        info = fields(ask(master.address, "INFO", "replication"))
        return sum("state=online" in value for value in info.values()) >= count

    until(attached, "the replicas to catch up")


def await_sentinels(sentinels: Sequence[Process], replicas: int, until: Until) -> None:
    """Wait until each Sentinel knows all replicas and all other Sentinels."""
    wanted = f"slaves={replicas},sentinels={len(sentinels)}"

    def knows(sentinel: Process) -> bool:
        info = fields(ask(sentinel.address, "INFO", "sentinel"))
        return "status=ok" in info.get("master0", "") and info["master0"].endswith(wanted)

    until(lambda: all(map(knows, sentinels)), "the Sentinels to find each other")


def last_master(layout: Layout) -> int | None:
    """Return the port of the master that Sentinels had last made; None: the files name none.

    A former master that came back as master would take the messages of its successor along.
    """
    found: list[tuple[int, int]] = []
    for node in layout.having("sentinel"):
        path = node.directory / SENTINEL_FILE
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        port = re.search(rf"^sentinel monitor {MASTER_NAME} \S+ (\d+) ", text, re.MULTILINE)
        epoch = re.search(rf"^sentinel config-epoch {MASTER_NAME} (\d+)", text, re.MULTILINE)
        if port is not None:
            found.append((int(epoch[1]) if epoch else 0, int(port[1])))
    ports = {node.port for node in layout.having("master", "replica")}
    return max(((e, p) for e, p in found if p in ports), default=(0, None))[1]
