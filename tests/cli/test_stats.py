"""`millstream stats`, and how queues are found."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from typing import Any

import pytest
import redis

from millstream import AsyncClient, Client, Queue
from tests.cli.conftest import Cli, Spawn


def test_queues_are_found(url: str, namespace: str, client: Client, admin: redis.Redis) -> None:
    """All queues of the namespace and no others: neighbours, topics and foreign keys."""
    for name in ("orders", "a.b:c-*[x]", "späti"):
        client.send(Queue(name), 1)
    with Client(url, namespace=f"{namespace}x") as neighbour:
        neighbour.send(Queue("other"), 1)
        assert neighbour.queues() == ["other"]
    for key in ("{topic}:log", "{x}:readyx", "{}:ready", "{a b}:ready", "x:ready", "{x}"):
        admin.set(f"{namespace}:{key}", "1")
    admin.set(f"{namespace}:{{".encode() + b"\xff}:ready", "1")

    found = client.queues()

    for key in admin.scan_iter(f"{namespace}*"):
        admin.delete(key)
    assert found == ["a.b:c-*[x]", "orders", "späti"]


def test_a_queue_is_known_from_its_first_consumer_on(cli: Cli, client: Client) -> None:
    """A worker that waits makes its queue known."""
    cli("receive", "orders")

    assert client.queues() == ["orders"]


def test_many_keys(client: Client, namespace: str, admin: redis.Redis) -> None:
    """Queues are found among thousands of other keys."""
    with admin.pipeline() as pipe:
        for number in range(5000):
            pipe.set(f"t-x:{number}", "1", px=5000)
        pipe.execute()
    names = [f"q{number:03}" for number in range(100)]
    for name in names:
        client.send(Queue(name), 1)

    assert client.queues() == names


async def test_a_namespace_may_look_like_a_pattern(url: str, admin: redis.Redis) -> None:
    """Characters that mean something in a pattern mean themselves."""
    namespace = "t-[a]*?\\b"
    async with AsyncClient(url, namespace=namespace) as mq:
        await mq.send(Queue("orders"), 1)
        found = await mq.queues()
    for key in admin.scan_iter("t-[[]a]*"):
        admin.delete(key)

    assert found == ["orders"]


def test_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each queue is one object with all counts."""
    client.send_many(queue, [1, 2, 3])
    deliveries = client.receive(queue, prefetch=1)
    next(deliveries).ack()
    next(deliveries).reject("why")

    (shown,) = cli("stats", "orders", "--json").objects
    consumers = shown.pop("consumers")
    assert shown.pop("oldest_ready") >= 0
    assert shown == {
        "name": "orders",
        "ready": 1,
        "delayed": 0,
        "in_flight": 0,
        "dead": 1,
        "kept": 0,
        "sent": 3,
        "acked": 1,
        "retried": 0,
        "died": 1,
        "crashed": 0,
        "dropped": 0,
        "cancelled": 0,
        "paused": False,
        "partitions": [],
    }
    assert [set(one) for one in consumers] == [{"name", "in_flight", "idle"}]
    deliveries.close()


def test_all_queues_as_json(cli: Cli, client: Client) -> None:
    """Without names it lists all queues, one a line; a script reads oldest_ready: null."""
    client.send(Queue("b"), 1)
    client.send(Queue("a"), 1)
    cli("receive", "a")

    done = cli("stats", "--json")
    assert [(one["name"], one["oldest_ready"] is None) for one in done.objects] == [
        ("a", True),
        ("b", False),
    ]


def test_table(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """People get a table; nothing is cut where there is no terminal."""
    client.send_many(queue, [0] * 1234)
    client.send(Queue("q" * 200), 1)

    done = cli("stats")

    heading, first, second = done.out.splitlines()
    titles = "queue ready delayed in flight dead oldest ready consumers"
    assert " ".join(heading.split()) == f"{titles} sent acked retried died crashed"
    cells = first.split()
    assert cells[:5] == ["orders", "1,234", "0", "0", "0"]
    assert cells[5].endswith("s")
    assert cells[6:] == ["0", "1,234", "0", "0", "0", "0"]
    assert second.startswith("q" * 200)
    assert "\x1b" not in done.out
    assert done.err == ""


def test_unknown_queue(cli: Cli) -> None:
    """A name without a trace gets its zeros, and a note: it may be a slip of the pen."""
    done = cli("stats", "oders", "--json")

    assert (done.status, done.objects[0]["ready"]) == (0, 0)
    assert "nobody has used queue 'oders' yet" in done.err


def test_no_queues(cli: Cli, namespace: str) -> None:
    """An empty namespace gives no data, and a note."""
    done = cli("stats")

    assert (done.status, done.out) == (0, "")
    assert f"there are no queues in namespace '{namespace}'" in done.err
    assert "suite:***@" in done.err


def on_a_terminal(spawn: Spawn, columns: int, *words: str) -> str:
    """What a command prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = spawn(*words, stdout=theirs)
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 65_536):
            output += data
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(20) == 0
    return output.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [70, 80, 200])
def test_a_narrow_terminal(
    spawn: Spawn, client: Client, queue: Queue[Any], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one table is too wide, two appear, and no number is cut."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    client.send_many(queue, [0] * 1234)

    out = on_a_terminal(spawn, columns, "stats")

    assert "…" not in out
    assert "1,234" in out
    assert out.count("queue") == (1 if columns == 200 else 2)
    assert "\x1b[3" not in out  # NO_COLOR


def test_colours(
    spawn: Spawn, client: Client, queue: Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal dead letters are red."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    client.send(queue, 1)
    deliveries = client.receive(queue)
    next(deliveries).reject("why")
    deliveries.close()

    assert "\x1b[31m" in on_a_terminal(spawn, 200, "stats")
