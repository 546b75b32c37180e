"""`millstream doctor` on real servers, good and bad."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import queue_keys, topic_keys
from tests.cli.conftest import Cli, Outcome
from tests.support.servers import Server, installed
from tests.support.wait import until


def found(outcome: Outcome) -> dict[str, str]:
    """Check -> severity, of a run with --json."""
    return {one["check"]: one["severity"] for one in outcome.objects}


@pytest.mark.parametrize("name", installed())
def test_a_server_that_is_fit(name: str, doctor: Cli) -> None:
    """With AOF and a bound of its memory, nothing can lose messages: exit 0."""
    with Server(name, appendonly=True, extra=["maxmemory 500mb"]) as server:
        plain, outcome = doctor(server.url), doctor(server.url, "--json")

    assert (plain.status, outcome.status) == (0, 0)
    checks = found(outcome)
    assert checks["persistence.fsync_everysec"] == "note"
    assert {*checks.values()} <= {"note", "risk"}
    assert not [check for check in checks if check.startswith("unchecked")]
    assert ": nothing that can lose messages, " in plain.out.splitlines()[-1]


def test_a_server_that_forgets(any_server: Server, doctor: Cli) -> None:
    """Without persistence: exit 1, with what, why and the command that mends it."""
    outcome = doctor(any_server.url, "--json")
    plain = doctor(any_server.url)

    assert (outcome.status, plain.status) == (1, 1)
    [finding] = [one for one in outcome.objects if one["check"] == "persistence.off"]
    assert {*finding} == {"severity", "check", "subject", "what", "why", "fix"}
    assert (finding["severity"], finding["subject"]) == ("loses", "server")
    assert "CONFIG SET appendonly yes" in finding["fix"]
    first = plain.out.splitlines()[:4]
    assert first[0].startswith("LOSES  server: nothing is written to the disk")
    assert [line.strip()[:4] for line in first[1:3]] == ["why:", "fix:"]
    assert first[3] == ""


def test_the_fix_is_one(doctor: Cli) -> None:
    """After the commands that the findings name, there are no such findings."""
    with Server(extra=["maxmemory 100mb", "maxmemory-policy allkeys-lru"]) as server:
        admin: Any = server.admin()
        before = doctor(server.url, "--json")
        for one in before.objects:
            if one["severity"] == "loses":
                command = one["fix"].partition(",")[0].split()
                assert command[:2] == ["CONFIG", "SET"]
                admin.execute_command(*command)
        after = doctor(server.url, "--json")

    assert {"persistence.off", "memory.policy"} <= {*found(before)}
    assert "loses" not in found(after).values()
    assert after.status == 0


@pytest.mark.parametrize("name", installed())
def test_a_replica_that_hangs(name: str, doctor: Cli) -> None:
    """The master says that it has too few replicas; the replica says that it is one."""
    with Server(name, appendonly=True) as master:
        link = [f"replicaof 127.0.0.1 {master.port}"]
        with Server(name, appendonly=True, extra=link) as replica:
            until(lambda: replica.admin().info()["master_link_status"] == "up", 30)
            until(lambda: master.admin().info()["slave0"]["state"] == "online", 30)
            unguarded = doctor(master.url, "--json")
            of_replica = doctor(replica.url, "--json")
            master.admin().config_set("min-replicas-to-write", 1)
            master.admin().config_set("min-replicas-max-lag", 10)
            until(lambda: master.admin().info()["min_slaves_good_slaves"] == 1, 30)
            guarded = doctor(master.url, "--json")
            master.admin().config_set("min-replicas-max-lag", 1)
            replica.pause()
            until(lambda: master.admin().info()["min_slaves_good_slaves"] == 0, 30)
            alone = doctor(master.url, "--json")
            replica.resume()

    assert found(unguarded)["replication.no_minimum"] == "loses"
    assert found(of_replica)["replication.is_replica"] == "risk"
    assert not [check for check in found(guarded) if check.startswith("replication")]
    assert found(alone)["replication.too_few"] == "risk"


@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("rights", ["-config", "-info", "-@admin -@dangerous", "-@all", "-multi"])
def test_a_user_with_few_rights(name: str, rights: str, doctor: Cli) -> None:
    """What may not be asked is said, never a crash; the rest is reported."""
    extra = [f"user few on >pw ~* &* +@all {rights}"]
    with Server(name, appendonly=True, extra=extra) as server:
        outcome = doctor(f"unix://few:pw@{server.socket_path}", "--json")

    assert outcome.status == 0
    checks = found(outcome)
    assert [check for check in checks if check.startswith("unchecked")]
    assert outcome.err == ""
    if rights == "-config":
        assert checks["unchecked.config_get"] == "note"
        assert "replication.none" in checks


def test_a_managed_server(doctor: Cli) -> None:
    """Where commands are hidden, each is named, and what is known is reported all the same."""
    hidden = ("INFO", "CONFIG", "SLOWLOG", "LATENCY", "ACL", "MULTI")
    with Server(extra=[f'rename-command {name} ""' for name in hidden]) as server:
        with ms.Client(server.url, namespace="ms") as client:
            client.connect()
        outcome = doctor(server.url, "--json")

    assert outcome.status == 0
    assert {*found(outcome)} == {
        *("unchecked.info", "unchecked.config_get", "unchecked.slowlog_get"),
        *("unchecked.latency_latest", "unchecked.multi"),
    }


def test_slow_commands(doctor: Cli) -> None:
    """They are named without what they were given."""
    with Server(appendonly=True, extra=["enable-debug-command yes"]) as server:
        admin: Any = server.admin()
        admin.execute_command("DEBUG", "SLEEP", "0.15")
        outcome = doctor(server.url, "--json")

    [slow] = [one for one in outcome.objects if one["check"] == "speed.slow_commands"]
    assert "DEBUG (1)" in slow["what"]
    assert "SLEEP" not in slow["what"]


def test_slots_without_a_node(doctor: Cli, namespace: str) -> None:
    """A cluster that does not serve is reported, although its queues cannot be looked at."""
    with Server(cluster=True, appendonly=True) as server:
        with ms.Client(server.url, namespace=namespace) as client:
            client.send(ms.Queue("orders"), 1)
        admin: Any = server.admin()
        admin.cluster("delslots", 1, 2, 3)
        until(lambda: admin.cluster("info")["cluster_state"] == "fail", 30)
        outcome = doctor(server.url, "--json")

    checks = found(outcome)
    assert checks["cluster.slots"] == "risk"
    assert checks["unchecked.queue"] == "note"
    assert outcome.status == 0


class TestRoles:
    def test_an_unlimited_user_may_do_everything(self, any_server: Server, doctor: Cli) -> None:
        """There is nothing to say of it."""
        outcome = doctor(any_server.url, "--json")

        assert not [check for check in found(outcome) if check.startswith("rights")]

    def test_what_is_missing_is_named(self, any_server: Server, doctor: Cli) -> None:
        """A role that somebody asks for is a risk if the user cannot play it; nothing is done."""
        admin: Any = any_server.admin()
        admin.execute_command(
            *("ACL", "SETUSER", "half", "reset", "on", ">pw", "~*", "allchannels", "+@all"),
            *("-xack", "-xgroup", "-config"),
        )
        before = admin.dbsize()
        url = f"unix://half:pw@{any_server.socket_path}"
        outcome = doctor(url, "--role", "worker", "--json")
        strict = doctor(url, "--role", "producer", "--strict")

        [rights] = [one for one in outcome.objects if one["check"].startswith("rights")]
        assert (rights["check"], rights["severity"]) == ("rights.worker", "risk")
        assert "'half'" in rights["what"]
        assert rights["fix"].startswith("ACL SETUSER half +xack +xgroup|create ")
        assert strict.status == 1  # a server without persistence
        assert admin.dbsize() == before
        admin.execute_command("ACL", "DELUSER", "half")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--role", "king"], "there is no role 'king'"),
            (["--seconds", "nan"], "--seconds"),
            (["--seconds", "inf"], "--seconds"),
            (["--seconds", "-1"], "--seconds"),
        ],
    )
    def test_bad_words(self, cli: Cli, words: list[str], said: str) -> None:
        """A wrong command line is refused with the status 2."""
        outcome = cli("doctor", *words)

        assert (outcome.status, outcome.out) == (2, "")
        assert said in outcome.err

    def test_no_server(self, doctor: Cli) -> None:
        """Nobody there is status 1, with one line."""
        outcome = doctor("redis://127.0.0.1:1", "--json")

        assert (outcome.status, outcome.out) == (1, "")
        assert len(outcome.err.splitlines()) == 1

    def test_strict(self, doctor: Cli) -> None:
        """Risks count, too, if somebody wants it."""
        with Server(appendonly=True) as server:  # no maxmemory is a risk
            assert doctor(server.url).status == 0
            assert doctor(server.url, "--strict").status == 1


class TestQueues:
    @pytest.fixture
    def sending(self, any_url: str, namespace: str) -> Iterator[ms.Queue[Any]]:
        """A queue that somebody sends to all the time, with a consumer that does not keep up."""
        queue: ms.Queue[Any] = ms.Queue("busy")
        over = threading.Event()

        def send() -> None:
            with ms.Client(any_url, namespace=namespace) as client:
                while not over.is_set():
                    client.send_many(queue, range(50))
                    over.wait(0.005)

        with ms.Client(any_url, namespace=namespace) as client:
            client.send_many(queue, range(50))
            deliveries = client.receive(queue, prefetch=1)
            next(deliveries)
            sender = threading.Thread(target=send)
            sender.start()
            yield queue
            over.set()
            sender.join()
            deliveries.close()

    def test_a_growing_backlog(self, any_cli: Cli, sending: ms.Queue[Any]) -> None:
        """Two looks tell how fast it grows."""
        outcome = any_cli("doctor", "--seconds", "0.5", "--json")

        [growing] = [one for one in outcome.objects if one["check"] == "queue.growing"]
        assert growing["subject"] == "queue 'busy'"
        assert "messages a second" in growing["what"]

    def test_a_forgotten_subscription(
        self, any_cli: Cli, any_server: Server, any_url: str, namespace: str
    ) -> None:
        """It holds what the topic keeps."""
        topic: ms.Topic[Any] = ms.Topic("placed")
        any_server.admin().xadd(
            topic_keys(namespace, "placed").log, {"b": "1"}, id="1600000000000-0"
        )
        with ms.Client(any_url, namespace=namespace) as client:
            client.declare(topic.subscription("mail", start=ms.EARLIEST))
        outcome = any_cli("doctor", "--seconds", "0", "--json")

        [held] = [one for one in outcome.objects if one["check"] == "topic.forgotten"]
        assert held["subject"] == "subscription 'placed/mail'"
        assert "millstream unsubscribe placed mail" in held["fix"]

    def test_a_queue_that_nobody_takes_from(
        self, any_cli: Cli, any_server: Server, namespace: str
    ) -> None:
        """Its oldest message has waited for long."""
        any_server.admin().xadd(
            queue_keys(namespace, "old").ready, {"b": "1"}, id="1600000000000-0"
        )
        outcome = any_cli("doctor", "--seconds", "0", "--json")

        assert found(outcome)["queue.unconsumed"] == "risk"

    def test_stuck_messages(
        self, any_cli: Cli, any_server: Server, any_url: str, namespace: str
    ) -> None:
        """A consumer that was last heard of long ago still has some."""
        queue: ms.Queue[Any] = ms.Queue("stuck", store="list")
        admin: Any = any_server.admin()
        with ms.Client(any_url, namespace=namespace) as client:
            client.send(queue, 1)
            deliveries = client.receive(queue)
            next(deliveries)
            keys = queue_keys(namespace, "stuck", store="list")
            seen = next(key for key in keys.listed if key.endswith(":seen"))
            [(consumer, _)] = admin.zrange(seen, 0, -1, withscores=True)
            long_ago = int(time.time() * 1000) - 600_000
            admin.zadd(seen, {consumer: long_ago})
            outcome = any_cli("doctor", "--seconds", "0", "--json")
            deliveries.close()

        assert found(outcome)["queue.stuck"] == "risk"

    def test_dead_letters_and_pauses(self, any_cli: Cli, any_url: str, namespace: str) -> None:
        """They are worth a note."""
        queue: ms.Queue[Any] = ms.Queue("orders")
        with ms.Client(any_url, namespace=namespace) as client:
            client.send(queue, 1)
            for delivery in client.receive(queue, wait=10):
                delivery.reject("no")
                break
            client.pause(queue)
        checks = found(any_cli("doctor", "--seconds", "0", "--json"))

        assert checks["queue.dead_letters"] == checks["queue.paused"] == "note"

    def test_foreign_keys(self, any_cli: Cli, any_server: Server, namespace: str) -> None:
        """What somebody else has written to a queue's keys is said, and the rest is looked at."""
        admin: Any = any_server.admin()
        admin.set(queue_keys(namespace, "text").ready, "x")
        admin.hset(queue_keys(namespace, "odd").config, "partitions", "many")
        admin.hset(topic_keys(namespace, "bad").subscriptions, "x", "no JSON")
        admin.xadd(queue_keys(namespace, "old").ready, {"b": "1"}, id="1600000000000-0")
        outcome = any_cli("doctor", "--seconds", "0", "--json")

        unknown = [one["what"] for one in outcome.objects if one["check"] == "unchecked.queue"]
        assert [what.partition(" could")[0] for what in unknown] == [
            *("queue 'odd'", "queue 'text'", "topic 'bad'"),
        ]
        assert found(outcome)["queue.unconsumed"] == "risk"
