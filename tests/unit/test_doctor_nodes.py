"""What is made of several nodes: answers of clusters and Sentinels as values, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from millstream.protocol.doctor.clusters import of_cluster
from millstream.protocol.doctor.facts import Facts
from millstream.protocol.doctor.finding import Finding, of_node, risk
from millstream.protocol.doctor.members import Member, View, ask_for_members
from millstream.protocol.doctor.nodes import Node
from millstream.protocol.doctor.sentinels import (
    Sentry,
    Told,
    ask_sentinel,
    of_sentinels,
    primary_of,
    servers_of,
)

NODES = b"""\
aa 10.0.0.1:7000@17000,one.example myself,master - 0 0 1 connected 0-5460 [7->-bb] [9-<-bb]
bb 10.0.0.2:7000@17000 master - 0 0 2 connected 5461-16382 16383
cc fd00::3:7000@17000 slave aa 0 0 1 connected
dd :0@0 master,fail,noaddr - 0 0 1 disconnected
ee 10.0.0.5:7000@17000 handshake - 0 0 0 connected
"""
SLOTS: list[Any] = [
    [0, 5460, [b"one.example", 7000, b"aa", []], [b"", 7003, b"cc", []]],
    [5461, 16383, [b"10.0.0.2", 7000, b"bb", []]],
]


def told(findings: Any) -> dict[str, str]:
    """Check -> severity."""
    return {one.check: one.severity for one in findings}


# --- findings of nodes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fix", "expected"),
    [
        (
            "CONFIG SET appendonly yes, then CONFIG REWRITE",
            "redis-cli -h h -p 1 CONFIG SET appendonly yes, then redis-cli -h h -p 1 CONFIG REWRITE",
        ),
        ("ACL SETUSER x +a|b-c +d", "redis-cli -h h -p 1 ACL SETUSER x '+a|b-c' +d"),
        ("redis-cli --cluster fix HOST:PORT", "redis-cli --cluster fix h:1"),
        (
            "redis-cli --cluster call HOST:PORT CONFIG SET a b",
            "redis-cli --cluster call h:1 CONFIG SET a b",
        ),
        (
            "CLUSTER NODES shows which; or CLUSTER FAILOVER on a replica",
            "redis-cli -h h -p 1 CLUSTER NODES shows which; or CLUSTER FAILOVER on a replica",
        ),
        ("start a worker", "start a worker"),
    ],
)
def test_a_fix_says_where(fix: str, expected: str) -> None:
    """Commands for the server carry host and port, and are fit for a shell."""
    found = of_node(risk("a.b", "what", why="why", fix=fix), "h", 1)

    assert (found.fix, found.node) == (expected, "h:1")


def test_addresses_as_people_write_them() -> None:
    """IPv6 has brackets where a port follows, and TLS is a flag."""
    found = of_node(risk("a.b", "", why="", fix="CONFIG REWRITE"), "::1", 7000, tls=True)

    assert (found.node, found.fix) == (
        "[::1]:7000",
        "redis-cli -h ::1 -p 7000 --tls CONFIG REWRITE",
    )


# --- clusters ---------------------------------------------------------------------------------


def test_reading_what_a_node_says() -> None:
    """Names, places for clients, slots, slots on their way; not those that have no place."""
    view = ask_for_members("10.0.0.1").decode([NODES, SLOTS])
    one, two, three = view.members

    assert view.me == "aa"
    assert (one.host, one.port, one.slots, one.moving) == ("one.example", 7000, ((0, 5460),), 2)
    assert (two.host, two.slots) == ("10.0.0.2", ((5461, 16382), (16383, 16383)))
    assert (three.host, three.port, three.primary) == ("10.0.0.1", 7003, "aa")
    assert view.owners()[5460:5462] == ["aa", "bb"]


def test_who_may_not_ask_for_nodes() -> None:
    """What every client is told says enough to find the nodes."""
    view = ask_for_members("10.0.0.1").decode([ValueError("NOPERM"), SLOTS])

    assert (view.me, view.refused) == (None, "NOPERM")
    assert [(one.name, one.primary) for one in view.members] == [
        *(("aa", None), ("cc", "aa"), ("bb", None)),
    ]


THIRDS = ((0, 5460), (5461, 10922), (10923, 16383))
PRIMARIES = [
    Member(name, name, 1, frozenset({"master"}), slots=(share,))
    for name, share in zip("abc", THIRDS, strict=True)
]
REPLICAS = [
    Member(f"r{one.name}", f"r{one.name}", 1, frozenset({"slave"}), one.name) for one in PRIMARIES
]
MEMBERS = (*PRIMARIES, *REPLICAS)


def nodes_of(members: tuple[Member, ...], config: dict[str, str] | None = None) -> list[Node]:
    """All see the same, and there is nothing to say of any."""
    return [
        Node(
            one.host,
            one.port,
            spare=not one.slots,
            facts=Facts(config=config or {}, alone=False),
            view=View(one.name, members),
        )
        for one in members
    ]


def test_a_good_cluster_gets_no_finding() -> None:
    """Three primaries with a replica each, who agree."""
    assert told(of_cluster(nodes_of(MEMBERS))) == {}


@pytest.mark.parametrize(
    ("members", "config", "expected"),
    [
        (tuple(PRIMARIES), {}, {"cluster.no_replica": "note"}),
        (MEMBERS[:5], {}, {"cluster.no_replica": "risk"}),
        (
            (
                replace(PRIMARIES[0], slots=((0, 10922),)),
                PRIMARIES[2],
                REPLICAS[0],
                REPLICAS[2],
            ),
            {},
            {"cluster.few_primaries": "risk"},
        ),
        (MEMBERS, {"cluster-node-timeout": "15000"}, {"cluster.slow_failover": "note"}),
        (
            MEMBERS,
            {"cluster-require-full-coverage": "yes"},
            {"cluster.full_coverage": "note"},
        ),
        (MEMBERS, {"cluster-replica-no-failover": "yes"}, {"cluster.no_failover": "risk"}),
    ],
)
def test_clusters(
    members: tuple[Member, ...], config: dict[str, str], expected: dict[str, str]
) -> None:
    """What members and their settings mean."""
    assert told(of_cluster(nodes_of(members, config))) == expected


def test_what_all_say_is_said_once() -> None:
    """A setting of all is the cluster's; one of some is that of each, named."""
    slow = {"cluster-node-timeout": "15000"}
    everywhere = [*of_cluster(nodes_of(MEMBERS, slow))]
    nodes = nodes_of(MEMBERS)
    nodes[1] = replace(nodes[1], facts=Facts(config=slow, alone=False))
    there = [*of_cluster(nodes)]

    assert [(one.subject, one.node) for one in everywhere] == [("cluster", None)]
    assert "--cluster call a:1 CONFIG SET" in everywhere[0].fix
    assert [(one.subject, one.node) for one in there] == [("cluster", "b:1")]


def test_nodes_that_see_different_things() -> None:
    """Slots that two claim, and a node that others do not hear from."""
    nodes = nodes_of(MEMBERS)
    claimed = replace(PRIMARIES[1], slots=((5000, 10922),))
    quiet = replace(PRIMARIES[0], flags=frozenset({"master", "fail?"}), slots=((0, 4999),))
    nodes[1] = replace(nodes[1], view=View("b", (quiet, claimed, *MEMBERS[2:])))
    found = {one.check: one for one in of_cluster(nodes)}

    assert {*found} == {"cluster.disagree", "cluster.suspected"}
    assert "461 slots" in found["cluster.disagree"].what
    assert (found["cluster.suspected"].node, "1 of 5" in found["cluster.suspected"].what) == (
        "a:1",
        True,
    )


def test_a_user_who_may_not_see_nodes() -> None:
    """It is said of each node, with the right that is missing."""
    nodes = [
        replace(one, view=View(None, MEMBERS, refused="NOPERM")) for one in nodes_of(MEMBERS)[:3]
    ]
    found = [*of_cluster(nodes)]

    assert {one.check for one in found} == {"unchecked.cluster_nodes"}
    assert found[0].fix == "redis-cli -h a -p 1 ACL SETUSER NAME '+cluster|nodes'"


# --- Sentinels --------------------------------------------------------------------------------

STATE = {
    "flags": "master",
    "num-other-sentinels": "2",
    "quorum": "2",
    "down-after-milliseconds": "5000",
    "failover-timeout": "10000",
}
REPLICA = {"ip": "r", "port": "1", "flags": "slave", "master-link-status": "ok"}
OTHER = {"ip": "s", "port": "9", "flags": "sentinel"}
GOOD = Told(("p", 1), STATE, (REPLICA,), (OTHER, OTHER))


def sentinels(*said: Told | None) -> list[Finding]:
    """What is found when three of them say this, or nothing."""
    padded = [*said, *[GOOD] * (3 - len(said))]
    sentries = [Sentry(Node(f"s{number}", 26379), one) for number, one in enumerate(padded)]
    return [*of_sentinels("main", sentries, [])]


def test_good_sentinels_get_no_finding() -> None:
    """Three who agree, and a replica that is well."""
    assert sentinels() == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, {"sentinel.unreachable": "risk"}),
        (Told(None, {}), {"sentinel.unknown": "risk"}),
        (replace(GOOD, primary=("q", 1)), {"sentinel.disagree": "risk"}),
        (replace(GOOD, replicas=()), {"sentinel.no_candidate": "risk"}),
        (
            replace(GOOD, replicas=({**REPLICA, "slave-priority": "0"},)),
            {"sentinel.no_candidate": "risk"},
        ),
        (
            replace(GOOD, replicas=(REPLICA, {**REPLICA, "master-link-status": "err"})),
            {"sentinel.replica_down": "risk"},
        ),
        (replace(GOOD, no_quorum="NOQUORUM 1 usable"), {"sentinel.no_quorum": "risk"}),
        (
            replace(GOOD, state={**STATE, "flags": "s_down,master"}),
            {"sentinel.primary_down": "risk"},
        ),
        (
            replace(GOOD, state={**STATE, "num-other-sentinels": "1"}),
            {"sentinel.strangers": "risk"},
        ),
        (
            replace(GOOD, others=(OTHER, {**OTHER, "flags": "s_down,sentinel"})),
            {"sentinel.lost": "risk"},
        ),
        (
            Told(("p", 1), {}, refused=(("MASTER", "NOPERM"), ("REPLICAS", "NOPERM"))),
            {"unchecked.sentinel": "note"},
        ),
        (
            replace(GOOD, state={**STATE, "num-other-sentinels": "3"}),
            {"sentinel.unnamed": "note", "sentinel.strangers": "risk"},
        ),
    ],
)
def test_what_one_sentinel_says(said: Told | None, expected: dict[str, str]) -> None:
    """One of three says something else."""
    assert told(sentinels(said)) == expected


def test_one_sentinel_is_too_few() -> None:
    """Nobody is left to decide when its machine is lost."""
    alone = Told(("p", 1), {**STATE, "num-other-sentinels": "0", "quorum": "1"}, (REPLICA,))

    found = of_sentinels("main", [Sentry(Node("s", 1), alone)], [])
    assert told(found) == {"sentinel.few": "risk"}


def test_who_is_asked_is_who_most_name() -> None:
    """The primary first, then whom others hold for it, then replicas."""
    stale = replace(GOOD, primary=("old", 1))
    sentries = [Sentry(Node("s", 1), one) for one in (stale, GOOD, GOOD, None)]

    assert primary_of(sentries) == ("p", 1)
    assert servers_of(sentries) == [("p", 1), ("old", 1), ("r", 1)]


def test_a_primary_that_is_a_replica() -> None:
    """Clients find nobody to send to."""
    server = Node(
        "p", 1, facts=Facts(info={"role": "slave", "master_link_status": "up"}, alone=False)
    )

    [found] = of_sentinels("main", [Sentry(Node("s", 1), GOOD)] * 3, [server])
    assert (found.check, found.node) == ("sentinel.wrong_primary", "p:1")


def test_reading_what_a_sentinel_says() -> None:
    """Refusals are kept apart from the answer that there is no quorum."""
    op = ask_sentinel("main")
    address, state = [b"10.0.0.1", b"6379"], [b"quorum", b"2"]
    whole = op.decode([address, state, [[b"ip", b"r"]], [], ValueError("NOQUORUM 1 usable")])
    refused = op.decode([address, ValueError("no"), [], [], b"OK 3 usable"])

    assert whole == Told(
        ("10.0.0.1", 6379), {"quorum": "2"}, ({"ip": "r"},), no_quorum="NOQUORUM 1 usable"
    )
    assert (refused.state, refused.refused) == ({}, (("MASTER", "no"),))
    assert op.decode([None, *[ValueError("no")] * 4]) == Told(None, {})
