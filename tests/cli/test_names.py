"""What a name stands for that is not that of a queue: a topic, or nothing at all."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from millstream import Client, Queue, Topic
from tests.cli.conftest import Cli

PLACED: Topic[Any] = Topic("orders.placed")

READ_OR_REPAIR = [
    ["peek"],
    ["dead"],
    ["resume"],
    ["purge", "--yes"],
    ["redrive", "--all"],
    ["cancel", "1-0"],
    ["reschedule", "1-0", "--delay", "1"],
]


@pytest.fixture
def topic(client: Client) -> Topic[Any]:
    """A topic with two subscriptions; no queue has its name."""
    client.declare(PLACED.subscription("mail"))
    client.declare(PLACED.subscription("stock"))
    client.publish(PLACED, 1)
    return PLACED


@pytest.mark.parametrize(
    "words", [["receive"], ["pause"], *READ_OR_REPAIR], ids=lambda words: words[0]
)
def test_a_topic_is_no_queue(
    cli: Cli, topic: Topic[Any], admin: redis.Redis, namespace: str, words: list[str]
) -> None:
    """Whoever names a topic hears which subscriptions it has, and nothing is done or made."""
    before = set(admin.scan_iter(f"{namespace}:*"))

    done = cli(words[0], "orders.placed", *words[1:])

    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "millstream: 'orders.placed' is a topic, which is read by its subscriptions: name one. "
        "It has orders.placed/mail, orders.placed/stock\n"
    )
    assert set(admin.scan_iter(f"{namespace}:*")) == before


def test_a_topic_without_subscriptions(cli: Cli, client: Client) -> None:
    """Then there is nothing to name, and the error says so."""
    client.publish(PLACED, 1)

    done = cli("dead", "orders.placed")

    assert (done.status, done.err.endswith("name one. It has none\n")) == (2, True)


def test_send_to_a_topic(cli: Cli, topic: Topic[Any], admin: redis.Redis, namespace: str) -> None:
    """It is refused, since nobody reads a queue of this name; the error says what to do."""
    before = set(admin.scan_iter(f"{namespace}:*"))

    done = cli("send", "orders.placed", "1")

    assert (done.status, done.out) == (2, "")
    assert "'orders.placed' is a topic, and no queue has this name" in done.err
    assert "millstream publish orders.placed" in done.err
    assert set(admin.scan_iter(f"{namespace}:*")) == before


def test_a_queue_with_the_name_of_a_topic(cli: Cli, client: Client, topic: Topic[Any]) -> None:
    """Whoever names its store makes one; it is used as any other from then on."""
    assert cli("receive", "orders.placed", "--store", "stream").status == 0
    assert cli("send", "orders.placed", "1", "--store", "stream").status == 0
    assert cli("send", "orders.placed", "2").status == 0

    assert [message.body for message in client.peek(Queue("orders.placed"))] == [1, 2]
    assert cli("pause", "orders.placed").out == (
        "orders.placed is paused: 2 messages ready, 0 in flight\n"
    )


@pytest.mark.parametrize("words", READ_OR_REPAIR, ids=lambda words: words[0])
def test_a_name_that_nobody_has_used(
    cli: Cli,
    client: Client,
    queue: Queue[Any],
    admin: redis.Redis,
    namespace: str,
    words: list[str],
) -> None:
    """It is an error that names the queue or topic that was perhaps meant; nothing is made."""
    client.send(queue, 1)
    client.publish(PLACED, 1)
    before = set(admin.scan_iter(f"{namespace}:*"))

    mistyped = cli(words[0], "oders", *words[1:])
    unlike = cli(words[0], "xyz", *words[1:])
    topic = cli(words[0], "orders.plcaed", *words[1:])

    nobody = "and there is no such topic (namespace"
    assert (mistyped.status, mistyped.out) == (unlike.status, unlike.out) == (1, "")
    assert mistyped.err == (
        f"millstream: nobody has used queue 'oders' yet, {nobody} '{namespace}'). "
        "Did you mean 'orders'?\n"
    )
    assert unlike.err == (f"millstream: nobody has used queue 'xyz' yet, {nobody} '{namespace}')\n")
    assert topic.err.endswith("Did you mean 'orders.placed'?\n")
    assert set(admin.scan_iter(f"{namespace}:*")) == before


def test_pause_before_the_first_message(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A queue can be paused before anybody uses it, and stderr says that nobody has."""
    client.send(queue, 1)

    first = cli("pause", "oders")
    second = cli("pause", "oders")

    assert (first.status, first.out) == (0, "oders is paused: 0 messages ready, 0 in flight\n")
    assert "nobody has used queue 'oders' yet" in first.err
    assert first.err.endswith("Did you mean 'orders'?\n")
    assert (second.status, second.err) == (0, "")
    assert cli("resume", "oders").status == 0


def test_receive_before_the_first_message(cli: Cli, client: Client) -> None:
    """A consumer may be the first to use a queue, and stderr says that it is."""
    done = cli("receive", "orders", "--wait", "0")
    again = cli("receive", "orders", "--wait", "0")

    assert (done.status, again.status) == (0, 0)
    assert "nobody has used queue 'orders' yet" in done.err
    assert again.err == "millstream: no message in queue 'orders'\n"


def test_no_hint_for_who_may_not_look(
    cli: Cli,
    client: Client,
    queue: Queue[Any],
    admin: redis.Redis,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user who may not list keys hears all the same that nobody has used the name."""
    client.send(queue, 1)
    admin.acl_setuser(
        "no-scan",
        reset=True,
        enabled=True,
        nopass=True,
        keys=["*"],
        categories=["+@all"],
        commands=["-scan"],
    )
    monkeypatch.setenv("MILLSTREAM_URL", url.replace("suite", "no-scan"))
    try:
        done = cli("peek", "oders")
    finally:
        admin.acl_deluser("no-scan")

    assert done.status == 1
    assert "nobody has used queue 'oders' yet" in done.err
    assert "Did you mean" not in done.err
