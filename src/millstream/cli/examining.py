"""How the doctor gets at what it looks at: one server, all nodes of a cluster, or all that Sentinels know."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from msgspec.structs import replace

from millstream.driver.blocking import BlockingDriver
from millstream.driver.cluster import Address, ClusterTarget
from millstream.driver.target import Target
from millstream.errors import BrokerError, ServerRefused
from millstream.protocol.access import ROLES, Role, commands_of
from millstream.protocol.doctor.clusters import members_of, of_cluster
from millstream.protocol.doctor.examine import of_queues, of_server, unchecked
from millstream.protocol.doctor.facts import Facts, Refusal, gather, server_time
from millstream.protocol.doctor.finding import Finding
from millstream.protocol.doctor.members import Member, ask_for_members
from millstream.protocol.doctor.nodes import Node
from millstream.protocol.doctor.queues import Drive, survey, watched
from millstream.protocol.doctor.rights import lacking, rights
from millstream.protocol.doctor.sentinels import (
    Sentry,
    ask_sentinel,
    of_sentinels,
    primary_of,
    servers_of,
)

__all__ = ["examine"]

ROUND_TRIPS = 10
CONNECT = 5.0
PATIENCE = 3.0
"""Seconds for a question; a server that cannot answer some is asked the others."""


def examine(
    target: Target | ClusterTarget, namespace: str, seconds: float, roles: Sequence[Role]
) -> Iterator[Finding]:
    """Look at all that a URL leads to, and at all queues and topics of a namespace.

    Args:
        target: a server, a cluster, or a primary that Sentinels watch.
        namespace: first part of all keys.
        seconds: between the two looks at queues.
        roles: what the user must be allowed to do; nothing: any role will do.

    Raises:
        BrokerError, UsageError: there is nothing that could be looked at.
    """
    with ExitStack() as stack:
        visit = Visit(stack, namespace, roles)
        if isinstance(target, ClusterTarget):
            yield from _cluster(visit, target, seconds)
        elif target.sentinels is not None:
            yield from _watched(visit, target, seconds)
        else:
            driver = visit.driver(target)
            driver.open()
            facts = _facts(driver)
            yield from of_server(facts)
            yield from _rights(visit, driver, facts)
            yield from _queues(visit, driver, seconds, user=facts.user)


class Visit:
    """One run: what it is about, and the connections that are open until its end."""

    def __init__(self, stack: ExitStack, namespace: str, roles: Sequence[Role]) -> None:
        self._stack = stack
        self.namespace = namespace
        self.roles = roles
        self._commands: dict[tuple[Role, bool, bool], list[str]] = {}

    def commands(self, role: Role, *, cluster: bool, sharded: bool) -> list[str]:
        """Return what a role needs; it takes all of its scripts to know, and nodes are many."""
        found = self._commands.get((role, cluster, sharded))
        if found is None:
            found = commands_of(role, cluster=cluster, sharded=sharded)
            self._commands[role, cluster, sharded] = found
        return found

    def driver(self, target: Target | ClusterTarget, *, connect: float = CONNECT) -> BlockingDriver:
        """Return what runs operations there; it is closed at the end."""
        driver = BlockingDriver(target, connect_timeout=connect, timeout=PATIENCE)
        self._stack.callback(driver.close)
        return driver


# A cluster


def _cluster(visit: Visit, target: ClusterTarget, seconds: float) -> Iterator[Finding]:
    visited = _nodes(visit, target)
    whole = visit.driver(target)
    if not any(node.view for node, _ in visited):
        whole.open()  # it knows best how to say it
    yield from of_cluster([node for node, _ in visited])
    at = [driver.drive for node, driver in visited if node.facts is not None and not node.spare]
    yield from _queues(visit, whole, seconds, at=at)


def _nodes(visit: Visit, target: ClusterTarget) -> list[tuple[Node, BlockingDriver]]:
    """Visit the nodes that the URL names, and all that these know of."""
    found: dict[Address, tuple[Node, BlockingDriver]] = {}
    asked: set[Address] = set()
    members: Collection[Member] = ()
    waiting = [*target.seeds]
    while waiting:
        address = waiting.pop(0)
        node, driver = _node(visit, target, address)
        asked |= {address, node.address}
        found.setdefault(node.address, (node, driver))
        members = members_of(node for node, _ in found.values()).values()
        # Further names of the URL come last: they may be other names of the same nodes.
        known = dict.fromkeys([*((one.host, one.port) for one in members), *waiting])
        waiting = [one for one in known if one not in asked]
    serving = {(one.host, one.port) for one in members if one.slots}
    return [(replace(node, spare=node.address not in serving), how) for node, how in found.values()]


def _node(visit: Visit, target: ClusterTarget, address: Address) -> tuple[Node, BlockingDriver]:
    node, driver = _server(visit, target.node(address), address)
    if node.facts is None:
        return node, driver
    try:
        view = driver.run(ask_for_members(address[0]))
    except BrokerError as error:
        return replace(node, facts=None, problem=str(error)), driver
    # The URL may know it by another name.
    own = next((one for one in view.members if one.name == view.me), None)
    host, port = address if own is None else (own.host, own.port)
    return replace(node, host=host, port=port, view=view), driver


# Sentinels


def _watched(visit: Visit, target: Target, seconds: float) -> Iterator[Finding]:
    assert target.sentinels is not None  # noqa: S101 - the caller has looked
    name = target.sentinels.name
    places = [place for place in target.sentinels.places if isinstance(place, Target)]
    sentries = [_sentry(visit, place, name) for place in places]
    primary = primary_of(sentries)
    visited = [_server(visit, target.node(one), one) for one in servers_of(sentries)]
    servers = [replace(node, spare=node.address != primary) for node, _ in visited]
    if not servers:
        visit.driver(target).open()  # it knows best how to say it
    yield from of_sentinels(name, sentries, servers)
    yield from _queues(visit, visit.driver(target), seconds)


def _sentry(visit: Visit, place: Target, name: str) -> Sentry:
    address = place.options["host"], place.options["port"]
    node, tls = Node(*address), place.transport == "tls"
    try:
        told = visit.driver(place, connect=PATIENCE).run(ask_sentinel(name))
    except BrokerError as error:
        refused = isinstance(error, ServerRefused)
        return Sentry(Node(*address, tls=tls, problem=str(error), refused=refused), None)
    return Sentry(replace(node, tls=tls), told)


# Each server


def _server(visit: Visit, target: Target, address: Address) -> tuple[Node, BlockingDriver]:
    """Look at one of several servers; what is wrong with it is no reason to leave out the others."""
    driver = visit.driver(target, connect=PATIENCE)
    node = Node(*address, tls=target.transport == "tls")
    try:
        driver.open()
        facts = replace(_facts(driver), alone=False)
        beside = tuple(_rights(visit, driver, facts))
    except BrokerError as error:
        refused = isinstance(error, ServerRefused)
        return replace(node, problem=str(error), refused=refused), driver
    return replace(node, facts=facts, beside=beside), driver


def _facts(driver: BlockingDriver) -> Facts:
    """Ask one server, and measure the way to it."""
    facts = driver.run(gather())
    trips: list[float] = []
    now = ahead = 0.0
    for _ in range(ROUND_TRIPS):
        sent, asked = time.time(), time.perf_counter()
        try:
            now = driver.run(server_time())
        except BrokerError:  # it may be loading, say: what it told is worth more
            return facts
        trips.append(time.perf_counter() - asked)
        if trips[-1] == min(trips):  # the quickest answer is the most exact one
            ahead = now - (sent + trips[-1] / 2)
    return facts.measured(now=now, round_trips=trips, ahead=ahead)


def _rights(visit: Visit, driver: BlockingDriver, facts: Facts) -> Iterator[Finding]:
    cluster = facts.info.get("redis_mode") == "cluster"
    sharded = cluster and not _is_old(facts)
    missing: list[tuple[Role, Sequence[str]]] = []
    for role in visit.roles or ROLES:
        needed = visit.commands(role, cluster=cluster, sharded=sharded)
        answer = driver.drive(lacking(visit.namespace, needed))
        if isinstance(answer, Refusal):
            yield from unchecked([answer], facts.user)
            return
        missing.append((role, answer))
    yield from rights(facts.user, missing, asked=bool(visit.roles))


def _is_old(facts: Facts) -> bool:
    return facts.info.get("redis_version", "").startswith("6.")


# Queues and topics


def _queues(
    visit: Visit,
    driver: BlockingDriver,
    seconds: float,
    *,
    user: str | None = None,
    at: Sequence[Drive] = (),
) -> Iterator[Finding]:
    look = partial(survey, visit.namespace, driver.drive, at)
    begun = time.monotonic()
    before = look()
    yield from unchecked(before.refused, user)
    if not before.backlogs:
        return
    # Backlogs are watched for so long; this command has nothing else to do.
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    passed = time.monotonic() - begun
    after = look()
    yield from of_queues(watched(before, after, passed))
