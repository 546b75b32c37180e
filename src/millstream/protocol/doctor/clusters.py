"""A cluster as a whole: slots, who takes over for whom, and whether its nodes see the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from millstream.protocol.doctor.facts import Facts, number
from millstream.protocol.doctor.finding import CLUSTER, Finding, note, risk
from millstream.protocol.doctor.members import Member
from millstream.protocol.doctor.nodes import Node, agreed, of_nodes
from millstream.protocol.doctor.serving import cluster

__all__ = ["CLIENT_TIMEOUT", "members_of", "of_cluster"]

CLIENT_TIMEOUT = 10
"""Seconds for which calls wait by default, also for a failover."""

MAJORITY_OF = 3
"""Fewer primaries have no majority when one of them is gone."""

NODE_SETTING = "redis-cli --cluster call HOST:PORT CONFIG SET"


def of_cluster(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Look at each node of a cluster, and at the whole.

    Args:
        nodes: all that are known, also those that do not answer.
    """
    yield from of_nodes(nodes)
    yield from agreed(nodes, cluster, CLUSTER)
    yield from agreed(nodes, _settings, CLUSTER)
    for node in nodes:
        if node.facts is not None:
            yield from map(node.place, _of_node(node, node.facts, nodes))
    if viewed := [node for node in nodes if node.view is not None]:
        yield from _disagreement(viewed)
        yield from _takeover(viewed)


def members_of(nodes: Iterable[Node]) -> dict[str, Member]:
    """Return all nodes by their names; what a node says of itself counts most."""
    views = [node.view for node in nodes if node.view is not None]
    found = {one.name: one for view in views for one in view.members}
    for view in views:
        found |= {one.name: one for one in view.members if one.name == view.me}
    return found


def _settings(facts: Facts) -> Iterator[Finding]:
    if facts.config.get("cluster-require-full-coverage") == "yes":
        yield note(
            "cluster.full_coverage",
            "cluster-require-full-coverage is yes",
            why="while some slots have no node, all queues wait, and not only those in these slots",
            fix=f"{NODE_SETTING} cluster-require-full-coverage no",
        )
    seconds = (number(facts.config.get("cluster-node-timeout")) or 0) / 1000
    if seconds >= CLIENT_TIMEOUT:
        yield note(
            "cluster.slow_failover",
            f"cluster-node-timeout is {seconds:.0f} s",
            why=f"a failover takes longer than that, and calls wait for {CLIENT_TIMEOUT} s by default: "
            "then they raise NotConnected",
            fix=f"{NODE_SETTING} cluster-node-timeout 5000; or give clients a longer timeout=",
        )


def _of_node(node: Node, facts: Facts, nodes: Sequence[Node]) -> Iterator[Finding]:
    if node.spare and facts.config.get("cluster-replica-no-failover") == "yes":
        yield risk(
            "cluster.no_failover",
            "cluster-replica-no-failover is yes",
            why="this replica never takes over by itself: when its primary dies, queues there wait",
            fix="CONFIG SET cluster-replica-no-failover no, then CONFIG REWRITE",
        )
    if node.view is None:
        return
    if node.view.refused:
        yield note(
            "unchecked.cluster_nodes",
            f"CLUSTER NODES was refused: {node.view.refused}",
            why="whether the nodes see the same, and slots on their way, could not be checked",
            fix=f"ACL SETUSER {facts.user or 'NAME'} +cluster|nodes",
        )
        return
    mine = next((one for one in node.view.members if one.name == node.view.me), None)
    if mine is not None and mine.moving and not node.spare:  # a replica of Valkey knows it, too
        yield risk(
            "cluster.open_slots",
            f"{mine.moving:,} of its slots are on their way to or from another node",
            why="what is done with a queue in such a slot waits until all of its keys have moved",
            fix="nothing, if somebody moves slots just now; else redis-cli --cluster fix HOST:PORT",
        )
    others = [one.view for one in nodes if one.view is not None and one is not node]
    suspects = sum(
        member.down for view in others for member in view.members if member.name == node.view.me
    )
    if suspects:
        yield risk(
            "cluster.suspected",
            f"it answers here, and {suspects} of {len(others)} other nodes do not hear from it",
            why="a replica may take over from it; what it still accepts until it hears of that is lost",
            fix="look at the network between the nodes, also at port + 10000, the cluster bus",
        )


def _disagreement(nodes: Sequence[Node]) -> Iterator[Finding]:
    owners = [node.view.owners() for node in nodes if node.view is not None]
    disputed = sum(len({*told}) > 1 for told in zip(*owners, strict=True))
    if disputed:
        yield risk(
            "cluster.disagree",
            f"the nodes disagree about who has {disputed:,} slots",
            why="clients are sent from one to the other, and what they do with these queues waits",
            fix="nothing, if a slot has moved or a replica taken over just now; else "
            f"redis-cli --cluster fix {nodes[0].host}:{nodes[0].port}",
            subject=CLUSTER,
        )


def _takeover(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Look who could take over from each primary."""
    members = members_of(nodes)
    primaries = [one for one in members.values() if one.slots and one.primary is None]
    followed = {one.primary for one in members.values() if one.primary and not one.down}
    orphans = [one for one in primaries if one.name not in followed]
    if orphans and len(orphans) == len(primaries):
        yield note(
            "cluster.no_replica",
            "no node has a replica",
            why="when a machine is lost with its disk, so are the messages there; when one is down, its "
            "queues wait until it is back",
            fix=f"{_add(orphans[0])}, and so for each of the others",
            subject=CLUSTER,
        )
    else:
        for one in orphans:
            node = Node(one.host, one.port)
            found = risk(
                "cluster.no_replica",
                "it has no replica that is up, as other nodes have",
                why="when it is down, its queues wait until it is back; when its disk is lost, so are "
                "the messages",
                fix=f"bring its replica back, or {_add(one)}",
            )
            yield node.place(found)
    if followed and len(primaries) < MAJORITY_OF:
        yield risk(
            "cluster.few_primaries",
            f"there are {len(primaries)} primaries with slots",
            why="a replica takes over if most of the primaries agree: without the one that has died they "
            "are no majority, and its queues wait until somebody acts",
            fix="add primaries, and move slots there: redis-cli --cluster rebalance "
            f"{nodes[0].host}:{nodes[0].port} --cluster-use-empty-masters",
            subject=CLUSTER,
        )


def _add(one: Member) -> str:
    return (
        f"redis-cli --cluster add-node NEW:6379 {one.host}:{one.port} --cluster-slave "
        f"--cluster-master-id {one.name}"
    )
