"""Nodes of a cluster, or servers that Sentinels watch: each is looked at, and named in what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from millstream.protocol.doctor.examine import of_server
from millstream.protocol.doctor.facts import Facts
from millstream.protocol.doctor.finding import SERVER, Finding, of_node, risk
from millstream.protocol.doctor.members import View

__all__ = ["Node", "agreed", "of_nodes", "problem_of"]


class Node(msgspec.Struct, frozen=True):
    """One server of several, and what came of looking at it.

    Attributes:
        host, port: where clients reach it.
        tls: whether it wants TLS.
        spare: whether it serves no clients yet: a replica, or a node without slots.
        facts: what it says of itself; None: it could not be asked.
        problem: why not.
        refused: whether it was there, and did not let us in.
        view: what it says of its cluster.
        beside: what else was found there.
    """

    host: str
    port: int
    tls: bool = False
    spare: bool = False
    facts: Facts | None = None
    problem: str = ""
    refused: bool = False
    view: View | None = None
    beside: tuple[Finding, ...] = ()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    def place(self, finding: Finding) -> Finding:
        """Say of a finding that it is about this node."""
        return of_node(finding, self.host, self.port, tls=self.tls)


def of_nodes(nodes: Iterable[Node]) -> Iterator[Finding]:
    """Look at each node by itself."""
    for node in nodes:
        if node.facts is None:
            yield node.place(problem_of(node))
            continue
        for one in (*of_server(node.facts), *node.beside):
            yield node.place(one)


def problem_of(node: Node) -> Finding:
    """Say that a node could not be looked at."""
    if node.refused:
        return risk(
            "node.refused",
            f"it does not let this user in: {node.problem}",
            why="users are not copied from node to node: clients fail here, a replica's after a failover",
            fix="make the user there, too: millstream acl prints the rules",
            subject=SERVER,
        )
    return risk(
        "node.unreachable",
        node.problem,
        why="while it is away, nobody can take over from its primary"
        if node.spare
        else "what it has can be neither sent to nor taken from, until a replica has taken over or it is back",
        fix="start it, or look why it cannot be reached from here; if it is gone for good, have the "
        "others forget it",
        subject=SERVER,
    )


def agreed(
    nodes: Sequence[Node], check: Callable[[Facts], Iterable[Finding]], subject: str
) -> Iterator[Finding]:
    """Run a check of what all nodes should know alike: what all say is said once.

    Args:
        nodes: that could be asked, and others.
        check: of what one node says.
        subject: what it is about when all say so.
    """
    asked = [node for node in nodes if node.facts is not None]
    told: dict[str, list[tuple[Node, Finding]]] = {}
    for node in asked:
        for one in check(node.facts or Facts()):
            told.setdefault(f"{one.check} {one.what}", []).append((node, one))
    for found in told.values():
        placed = [replace(node.place(one), subject=subject) for node, one in found]
        if len(found) == len(asked):
            yield replace(placed[0], node=None)
        else:
            yield from placed
