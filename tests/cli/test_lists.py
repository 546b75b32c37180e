"""The command line and queues in a list: it finds out what keeps the messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from millstream import Client, Queue
from millstream.protocol.keys import queue_keys
from tests.cli.conftest import Cli

JOBS: Queue[Any] = Queue("jobs", store="list")


@pytest.fixture
def cli(cli: Cli, client: Client, admin: redis.Redis, namespace: str) -> Iterator[Cli]:
    """The command, which must not make a stream of a queue that is a list."""
    yield cli
    assert not admin.exists(queue_keys(namespace, "jobs").ready)


@pytest.fixture
def ids(client: Client) -> list[str]:
    """Three messages that somebody has sent who knows the declaration."""
    return [receipt.id for receipt in client.send_many(JOBS, [0, 1, 2])]


def test_send_and_receive(cli: Cli, client: Client, ids: list[str]) -> None:
    """What is sent comes behind the others; what is received is theirs."""
    sent = cli("send", "jobs", "3", "4").out.split()

    shown = cli("receive", "jobs").objects
    assert [one["id"] for one in shown] == ids + sent
    assert [one["body"] for one in shown] == [0, 1, 2, 3, 4]
    assert client.stats(JOBS).acked == 5


def test_no_ack(cli: Cli, client: Client, ids: list[str]) -> None:
    """What was looked at is back, in its order."""
    assert len(cli("receive", "jobs", "--no-ack").objects) == 3
    assert [message.id for message in client.peek(JOBS)] == ids


def test_a_new_queue(cli: Cli, client: Client) -> None:
    """Who is the first has to say that it is a list; the others find out."""
    assert cli("send", "jobs", "1", "--store", "list").status == 0
    assert cli("send", "jobs", "2").status == 0

    assert [message.body for message in client.peek(JOBS)] == [1, 2]


def test_a_queue_that_is_drained(cli: Cli, client: Client, ids: list[str]) -> None:
    """A list is gone when it is empty, but not what was done with it."""
    cli("receive", "jobs")

    cli("send", "jobs", "3")

    assert [message.body for message in client.peek(JOBS)] == [3]


def test_a_worker_that_waits(cli: Cli, client: Client) -> None:
    """A list that was never used is known by who reads from it."""
    deliveries = client.receive(JOBS, wait=0)
    assert next(deliveries, None) is None
    client.send(JOBS, 0, delay=600)
    deliveries = client.receive(JOBS, wait=5)
    client.send(JOBS, 1)
    next(deliveries).ack()

    cli("send", "jobs", "2")

    assert next(deliveries).body == 2
    deliveries.close()


def test_a_plain_body(cli: Cli, client: Client, admin: redis.Redis, namespace: str) -> None:
    """What somebody has pushed has no id yet, and so no age."""
    admin.lpush(queue_keys(namespace, "jobs", store="list").ready, b'{"id": 1}')

    [shown] = cli("peek", "jobs", "--json").objects
    row = cli("peek", "jobs").out.splitlines()[1]

    assert (shown["id"], shown["body"], shown["sent_at"]) == ("0-0", {"id": 1}, None)
    assert row.split() == ["0-0", "0", "0", '{"id":1}']
    assert cli("receive", "jobs").objects[0]["id"] != "0-0"


def test_looking_after(cli: Cli, client: Client, ids: list[str]) -> None:
    """Stats, dead, redrive, pause, resume, cancel, reschedule and purge work on it."""
    deliveries = client.receive(JOBS, prefetch=1, wait=0)
    next(deliveries).reject("why")
    deliveries.close()
    [named] = cli("stats", "jobs", "--json").objects
    [listed] = cli("stats", "--json").objects
    assert named.pop("oldest_ready") <= listed.pop("oldest_ready")
    assert named == listed
    assert (listed["name"], listed["ready"], listed["dead"]) == ("jobs", 2, 1)

    assert [one["id"] for one in cli("dead", "jobs", "--json").objects] == ids[:1]
    assert cli("redrive", "jobs", "--all", "--json").objects[0]["redriven"] == 1
    assert cli("pause", "jobs", "--json").objects[0] == {
        "queue": "jobs",
        "paused": True,
        "ready": 3,
        "in_flight": 0,
    }
    assert cli("receive", "jobs").objects == []
    assert not cli("resume", "jobs", "--json").objects[0]["paused"]
    assert cli("cancel", "jobs", ids[1]).status == 0
    assert cli("reschedule", "jobs", ids[2], "--delay", "600").status == 0
    assert [one.id for one in client.peek(JOBS, delayed=True)] == [ids[2]]
    assert cli("purge", "jobs", "--yes", "--json").objects[0]["purged"] == 2


@pytest.mark.parametrize("option", [["--priority", "3"], ["--unique", "k"], ["--bound", "5"]])
def test_what_a_list_cannot_do(cli: Cli, client: Client, ids: list[str], option: list[str]) -> None:
    """It is refused with the reason, and the status is 2."""
    done = cli("send", "jobs", "1", *option)

    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "list" in done.err
    assert client.stats(JOBS).ready == 3


def test_another_store(cli: Cli, client: Client, ids: list[str]) -> None:
    """Who names another one than the queue's is told: its users must agree."""
    client.send(Queue("orders"), 1)

    as_stream = cli("send", "jobs", "1", "--store", "stream")
    as_list = cli("receive", "orders", "--store", "list")

    assert (as_stream.status, as_list.status) == (2, 2)
    assert "queue 'jobs' keeps its messages in a list" in as_stream.err
    assert "queue 'orders' keeps its messages in a stream" in as_list.err
    assert client.stats(JOBS).ready == 3


def test_a_queue_that_was_a_stream(cli: Cli, client: Client) -> None:
    """A list beside a stream that is empty since is a list."""
    stream: Queue[Any] = Queue("moved")
    client.send(stream, 1)
    next(client.receive(stream, wait=0)).ack()
    assert cli("send", "moved", "2", "--store", "list").status == 0

    assert cli("send", "moved", "3").status == 0

    assert [message.body for message in client.peek(Queue("moved", store="list"))] == [2, 3]
