"""`millstream stats`, and how queues are found."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from millstream import AsyncClient, Client, Queue, Topic
from millstream.cli.tables import memory
from tests.cli.conftest import Cli, Spawn
from tests.cli.terminal import on_a_terminal, plain


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
        "kind": "queue",
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
        "failed": 0,
        "dropped": 0,
        "cancelled": 0,
        "expired": 0,
        "late": 0,
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
    assert " ".join(heading.split()) == f"{titles} sent acked retried died crashed late"
    cells = first.split()
    assert cells[:5] == ["orders", "1,234", "0", "0", "0"]
    assert cells[5].endswith("s")
    assert cells[6:] == ["0", "1,234", "0", "0", "0", "0", "0"]
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
    assert f"there are no queues or topics in namespace '{namespace}'" in done.err
    assert "suite:***@" in done.err


PLACED: Topic[Any] = Topic("orders.placed")


@pytest.fixture
def topic(client: Client) -> Topic[Any]:
    """A topic with two subscriptions, one of which has a filter and is paused."""
    client.declare(PLACED.subscription("mail"))
    client.declare(PLACED.subscription("europe", filter="eu.>"))
    client.publish_many(PLACED, [1, 2, 3], subject="us.paid")
    deliveries = client.subscribe(PLACED, "mail", prefetch=1)
    next(deliveries).ack()
    next(deliveries).reject("why")
    deliveries.close()
    client.pause(PLACED.subscription("europe", filter="eu.>"))
    return PLACED


def test_topics_as_json(cli: Cli, client: Client, topic: Topic[Any], queue: Queue[Any]) -> None:
    """Without names all queues and all topics are listed; a script tells them by their kind."""
    client.send(queue, 1)

    rows = cli("stats", "--json").objects

    assert [(row["kind"], row["name"]) for row in rows] == [
        ("queue", "orders"),
        ("topic", "orders.placed"),
    ]
    found = rows[1]
    assert (found["length"], found["published"]) == (3, 3)
    assert found["bytes"] > 0
    europe, mail = found["subscriptions"]
    assert (europe["name"], europe["filter"], europe["paused"]) == ("europe", "eu.>", True)
    consumers = mail.pop("consumers")
    assert mail.pop("oldest_unhandled") >= 0
    assert mail.pop("lag_seconds") >= 0
    assert mail == {
        "name": "mail",
        "lag": 1,
        "delayed": 0,
        "in_flight": 0,
        "dead": 1,
        "acked": 1,
        "retried": 0,
        "died": 1,
        "crashed": 0,
        "filtered": 0,
        "trimmed": 0,
        "paused": False,
        "filter": None,
        "expires": 31 * 86_400.0,
    }
    assert consumers == []


def test_one_subscription(cli: Cli, topic: Topic[Any]) -> None:
    """TOPIC/NAME counts one of them, as the topic does."""
    [row] = cli("stats", "orders.placed/mail", "--json").objects
    [of_topic] = cli("stats", "orders.placed", "--json").objects

    [same] = [one for one in of_topic["subscriptions"] if one["name"] == "mail"]
    for age in ("oldest_unhandled", "lag_seconds"):
        assert same.pop(age) >= row.pop(age)
    assert row == {"kind": "subscription", "topic": "orders.placed", **same}


def test_a_queue_and_a_topic_of_one_name(cli: Cli, client: Client, topic: Topic[Any]) -> None:
    """Both are counted."""
    client.send(Queue("orders.placed"), 1)

    rows = cli("stats", "orders.placed", "--json").objects

    assert sorted(row["kind"] for row in rows) == ["queue", "topic"]


def test_tables_of_topics(cli: Cli, client: Client, topic: Topic[Any], queue: Queue[Any]) -> None:
    """People get a table for each kind; a subscription has the name that other commands take."""
    client.send(queue, 1)

    out = cli("stats").out

    queues, topics, subscriptions = (part.splitlines() for part in out.split("\n\n"))
    assert [line.split()[0] for line in queues] == ["queue", "orders"]
    assert topics[0].split() == ["topic", "kept", "memory", "published", "subscriptions"]
    assert topics[1].split()[:2] == ["orders.placed", "3"]
    assert topics[1].split()[-2:] == ["3", "2"]
    titles = "subscription lag delayed in flight dead oldest consumers"
    assert " ".join(subscriptions[0].split()) == (
        f"{titles} acked retried died crashed filtered trimmed filter"
    )
    assert subscriptions[1].split()[:3] == ["orders.placed/europe", "(paused)", "3"]
    assert subscriptions[1].split()[-1] == "eu.>"
    assert subscriptions[2].split()[:5] == ["orders.placed/mail", "1", "0", "0", "1"]
    assert len(subscriptions) == 3


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**41, "2,048.0 GiB"),
    ],
)
def test_memory(size: int, text: str) -> None:
    """Bytes are written in the unit that suits them."""
    assert memory(size) == text


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


def test_topics_on_a_narrow_terminal(
    spawn: Spawn, client: Client, topic: Topic[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The totals of subscriptions get a table of their own, and no number is cut."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)

    out = plain(on_a_terminal(spawn, 90, "stats"))

    assert "…" not in out
    assert out.count("subscription ") == 2
    assert out.count("orders.placed/mail") == 2


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
