"""`millstream doctor` on real clusters, and behind real Sentinels: every node is looked at, and named."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.cli.conftest import Cli, Outcome
from tests.support.cluster import Cluster
from tests.support.sentinel import SERVICE, SLOW, SentinelSetup
from tests.support.servers import Server
from tests.support.wait import until

FIELDS = {"severity", "check", "subject", "what", "why", "fix"}
PER_NODE = ("persistence", "memory", "replication", "connections", "speed", "version", "node")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Three primaries with a replica each; a test gives back what it breaks."""
    with Cluster(replicas=1, appendonly=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def setup() -> Iterator[SentinelSetup]:
    """A primary, a replica, three Sentinels; a test gives back what it breaks."""
    with SentinelSetup(appendonly=True) as setup:
        yield setup


def place(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def of(outcome: Outcome, check: str) -> list[Any]:
    return [one for one in outcome.objects if one["check"] == check]


def run_fix(fix: str) -> None:
    """Run the first command of a fix where it says."""
    words = shlex.split(fix.partition(", then ")[0])
    assert words[:2] + words[3:4] == ["redis-cli", "-h", "-p"]
    with redis.Redis(host=words[2], port=int(words[4])) as client:
        client.execute_command(*words[5:])


class TestCluster:
    def test_every_node_is_looked_at_and_named(self, nodes: Cluster, doctor: Cli) -> None:
        """Each finding about a node has it as a field, and in the text; one URL of one node will do."""
        [one] = nodes.admin_url.partition("://")[2].split(",")[:1]
        outcome = doctor(f"redis+cluster://{one}", "--json")
        plain = doctor(nodes.admin_url).out

        assert outcome.status == 1  # min-replicas-to-write is 0
        for found in outcome.objects:
            about_one = found["check"].startswith(PER_NODE)
            assert {*found} == (FIELDS | {"node"} if about_one else FIELDS), found
        everybody = {place(node) for node in nodes.nodes}
        assert {found["node"] for found in of(outcome, "memory.unlimited")} == everybody
        primaries = {place(node) for node in nodes.masters}
        assert {found["node"] for found in of(outcome, "replication.no_minimum")} == primaries
        assert all(f"RISK   server {node}: there is no maxmemory" in plain for node in everybody)
        assert not of(outcome, "replication.is_replica")
        assert [found["check"] for found in outcome.objects if found["subject"] == "cluster"] == [
            "cluster.full_coverage"
        ]

    def test_a_fix_leads_to_its_node(self, nodes: Cluster, doctor: Cli) -> None:
        """A replica that would evict is found, and its command mends it there and nowhere else."""
        primary, *_ = nodes.masters
        [replica] = nodes.replicas_of(primary)
        replica.admin().config_set("maxmemory", "500mb")
        replica.admin().config_set("maxmemory-policy", "allkeys-lru")
        [found] = of(doctor(nodes.admin_url, "--json"), "memory.policy")
        run_fix(found["fix"])
        after = of(doctor(nodes.admin_url, "--json"), "memory.policy")
        replica.admin().config_set("maxmemory", 0)

        assert (found["severity"], found["node"]) == ("loses", place(replica))
        assert after == []

    def test_partitions_wherever_they_lie(
        self, nodes: Cluster, doctor: Cli, namespace: str
    ) -> None:
        """A queue is looked at as a whole, from all the nodes that have a part of it."""
        queue: ms.Queue[Any] = ms.Queue("orders", ordered=True, partitions=8)
        with ms.Client(nodes.admin_url, namespace=namespace) as mq:
            mq.declare(queue)
        keys = [queue_keys(namespace, "orders", number).ready for number in range(8)]
        owners = {nodes.master_of(key) for key in keys}
        for key in keys:
            nodes.master_of(key).admin().xadd(key, {"b": "1"}, id="1600000000000-0")
        [found] = of(doctor(nodes.admin_url, "--json"), "queue.unconsumed")
        for key in keys:
            nodes.master_of(key).admin().delete(key)

        assert len(owners) > 1
        assert (found["subject"], "node" in found) == ("queue 'orders'", False)
        assert "8 messages wait" in found["what"]

    def test_users_are_looked_for_at_every_node(
        self, nodes: Cluster, doctor: Cli, namespace: str
    ) -> None:
        """Where a user is missing, or has fewer rights, is said; its password is not."""
        user = f"{namespace}-user"
        here, there, *_ = nodes.nodes
        for node in nodes.nodes[1:]:
            admin: Any = node.admin()
            rules = ["~*", "&*", "+@all", *(["-xack", "-config|get"] if node is there else [])]
            admin.execute_command("ACL", "SETUSER", user, "on", ">s3cret", *rules)
        url = nodes.admin_url.replace("://", f"://{user}:s3cret@")
        outcome = doctor(url, "--role", "worker", "--json")

        [refused] = of(outcome, "node.refused")
        [rights] = of(outcome, "rights.worker")
        [unchecked] = of(outcome, "unchecked.config_get")
        assert (refused["severity"], refused["node"]) == ("risk", place(here))
        assert (rights["severity"], rights["node"]) == ("risk", place(there))
        assert rights["fix"].endswith(f"-p {there.port} ACL SETUSER {user} +xack")
        assert f"ACL SETUSER {user} '+config|get'" in unchecked["fix"]
        assert "s3cret" not in outcome.out + outcome.err

    def test_a_slot_that_is_left_on_its_way(self, nodes: Cluster, doctor: Cli) -> None:
        """Both nodes are named; they still agree about who has the slot."""
        source, target, *_ = nodes.masters
        into: Any = target.admin()
        out_of: Any = source.admin()
        slot = next(number for number in range(16384) if nodes.master_of(number) is source)
        into.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", nodes.id_of(source))
        out_of.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", nodes.id_of(target))
        outcome = doctor(nodes.admin_url, "--json")
        for admin in (into, out_of):
            admin.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

        found = of(outcome, "cluster.open_slots")
        assert {one["node"] for one in found} == {place(source), place(target)}
        assert all(one["fix"].endswith(one["node"]) for one in found)
        assert not of(outcome, "cluster.disagree")

    def test_a_node_that_is_gone(self, nodes: Cluster, doctor: Cli) -> None:
        """It is a finding; so is the node that took over and has no replica now. The rest is looked at."""
        dead, *_ = nodes.masters
        [heir] = nodes.replicas_of(dead)
        nodes.kill(dead)
        outcome = doctor(nodes.admin_url, "--json")
        dead.start()
        nodes.settle()
        until(lambda: nodes.replicas_of(heir) == [dead], SLOW)

        [gone] = of(outcome, "node.unreachable")
        [alone] = of(outcome, "cluster.no_replica")
        assert (gone["severity"], gone["node"]) == ("risk", place(dead))
        assert (alone["severity"], alone["node"]) == ("risk", place(heir))
        assert len(of(outcome, "memory.unlimited")) == 5
        assert outcome.err == ""

    def test_nobody_is_there(self, doctor: Cli) -> None:
        """No node at all is status 1, with one line; so is a server that is no node."""
        outcome = doctor("redis+cluster://127.0.0.1:1,127.0.0.1:2", "--json")

        assert (outcome.status, outcome.out) == (1, "")
        assert len(outcome.err.splitlines()) == 1


class TestSentinels:
    def test_all_is_well(self, setup: SentinelSetup, doctor: Cli) -> None:
        """Servers are named, and there is nothing to say of the Sentinels."""
        outcome = doctor(setup.url, "--json")

        unlimited = {one["node"] for one in of(outcome, "memory.unlimited")}
        assert unlimited == {place(server) for server in setup.servers}
        [minimum] = of(outcome, "replication.no_minimum")
        assert minimum["node"] == place(setup.primary)
        assert not [one for one in outcome.objects if "sentinel" in one["check"]]
        assert outcome.status == 1

    def test_what_sentinels_are_told(self, setup: SentinelSetup, doctor: Cli) -> None:
        """Long times, and a quorum of all, are found, with the commands for each Sentinel."""
        for sentinel in setup.sentinels:
            admin: Any = sentinel.admin()
            for name, value in (("quorum", 3), ("down-after-milliseconds", 30000)):
                admin.sentinel_set(SERVICE, name, value)
            admin.sentinel_set(SERVICE, "failover-timeout", 180000)
        outcome = doctor(setup.url, "--json")
        for sentinel in setup.sentinels:
            admin = sentinel.admin()
            admin.sentinel_set(SERVICE, "quorum", 2)
            admin.sentinel_set(SERVICE, "failover-timeout", 1500)
        for slow in of(outcome, "sentinel.slow_failover"):
            run_fix(slow["fix"].partition(";")[0])
        after = doctor(setup.url, "--json")

        places = {place(sentinel) for sentinel in setup.sentinels}
        for check in ("sentinel.slow_failover", "sentinel.late_repetition"):
            assert {one["node"] for one in of(outcome, check)} == places
        [quorum] = of(outcome, "sentinel.quorum")
        assert (quorum["severity"], quorum["subject"]) == ("risk", "sentinels")
        assert not [one for one in after.objects if "sentinel" in one["check"]]

    def test_the_url_names_too_few(self, setup: SentinelSetup, doctor: Cli) -> None:
        """One Sentinel in the URL tells all; that it is the only one is worth a note."""
        hosts, one = setup.hosts, setup.hosts.partition(",")[0]
        outcome = doctor(setup.url.replace(hosts, one), "--json")

        [unnamed] = of(outcome, "sentinel.unnamed")
        assert (unnamed["severity"], "1 of 3" in unnamed["what"]) == ("note", True)

    def test_when_some_are_gone(self, setup: SentinelSetup, doctor: Cli) -> None:
        """A dead replica and two dead Sentinels: who is gone, and that nobody would take over."""
        [replica] = setup.replicas
        first, second, third = setup.sentinels
        for server in (replica, first, second):
            server.kill()
        admin: Any = third.admin()

        def noticed() -> bool:
            told = [*admin.sentinel_slaves(SERVICE), *admin.sentinel_sentinels(SERVICE)]
            return sum("s_down" in one["flags"] for one in told) == 3

        until(noticed, SLOW)
        outcome = doctor(setup.url, "--json")
        for server in (replica, first, second):
            server.start()

        unreachable = {one["node"] for one in of(outcome, "sentinel.unreachable")}
        assert unreachable == {place(first), place(second)}
        assert [one["node"] for one in of(outcome, "node.unreachable")] == [place(replica)]
        for check in ("sentinel.no_quorum", "sentinel.no_candidate", "sentinel.replica_down"):
            [found] = of(outcome, check)
            assert (found["severity"], found["node"]) == ("risk", place(third))
        assert outcome.err == ""

    def test_a_name_that_nobody_knows(self, setup: SentinelSetup, doctor: Cli) -> None:
        """It is said as by any command."""
        outcome = doctor(setup.url.removesuffix(SERVICE) + "mian", "--json")

        assert (outcome.status, outcome.out) == (1, "")
        assert "'mian'" in outcome.err
