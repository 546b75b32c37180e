"""`millstream send` with a time, a key, a priority or a unique key; `millstream reschedule`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from millstream import Client, Queue
from tests.cli.conftest import Cli


def test_a_time(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A delay in seconds, or a moment with a zone."""
    cli("send", "orders", "1", "--at", "2099-01-31T09:00+01:00")
    cli("send", "orders", "2", "--delay", "3600.5")

    second, first = client.peek(queue, delayed=True)
    assert (first.body, first.due) == (1, datetime(2099, 1, 31, 8, tzinfo=UTC))
    assert second.body == 2


def test_key_priority_and_ttl(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """They go with each message, and peek shows them."""
    cli("send", "orders", "1", "2", "--key", "k", "--priority", "3", "--ttl", "60")

    shown = client.peek(queue)
    assert [(one.body, one.key, one.priority) for one in shown] == [(1, "k", 3), (2, "k", 3)]
    assert all(one.expires is not None for one in shown)
    assert [one["key"] for one in cli("peek", "orders", "--json").objects] == ["k", "k"]


def test_ordered(cli: Cli, client: Client) -> None:
    """With --ordered the key is one of an ordered queue."""
    cli("send", "orders", "1", "2", "--key", "k", "--ordered")

    first = next(client.receive(Queue("orders"), wait=5))
    assert first.body == 1
    assert list(client.receive(Queue("orders"), wait=0)) == []
    first.ack()


def test_unique(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """The second send says that it was one, and names the first message."""
    first = cli("send", "orders", "1", "--unique", "x", "--unique-for", "60")
    second = cli("send", "orders", "2", "--unique", "x", "--unique-for", "60")

    assert second.out == f"{first.out.strip()} (duplicate)\n"
    assert [message.body for message in client.peek(queue)] == [1]
    again = cli("send", "orders", "2", "--unique", "x", "--json")
    assert again.objects[0]["duplicate"] is True


def test_reschedule(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A message of tomorrow is there now; one that is not there is an error."""
    receipt = client.send(queue, 1, delay=86_400)

    assert cli("reschedule", "orders", receipt.id, "--delay", "0").status == 0
    assert client.stats(queue).ready == 1
    missing = cli("reschedule", "orders", "1-1", "--delay", "0")
    assert (missing.status, missing.err.count("\n")) == (1, 1)
    assert "no message 1-1" in missing.err


def test_reschedule_for_scripts(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """With --json an object says whether it was done, also when it was not."""
    receipt = client.send(queue, 1, delay=86_400)

    done = cli("reschedule", "orders", receipt.id, "--delay", "0", "--json")
    missing = cli("reschedule", "orders", "1-1", "--delay", "0", "--json")

    assert (done.status, done.objects) == (
        0,
        [{"queue": "orders", "id": receipt.id, "rescheduled": True}],
    )
    assert (missing.status, missing.objects) == (
        1,
        [{"queue": "orders", "id": "1-1", "rescheduled": False}],
    )


def test_reschedule_to_when(cli: Cli, queue: Queue[Any]) -> None:
    """Without a time the error asks for one, and does not complain of two."""
    without = cli("reschedule", "orders", "1-1")
    both = cli("reschedule", "orders", "1-1", "--delay", "1", "--at", "2099-01-31T09:00Z")

    assert (without.status, both.status) == (2, 2)
    assert without.err.endswith("or at (a time), one of them\n")
    assert both.err.endswith("or at (a time), not both\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--at", "tomorrow"], "--at takes a time"),
        (["--at", "2030-01-01T00:00"], "--at needs a time zone"),
        (["--delay", "-1"], "delay must be"),
        (["--priority", "10"], "priority must be"),
        (["--unique-for", "5"], "--unique|unique_for needs a unique key"),
        (["--unique", "x", "--unique-for", "ever"], "unique_for must be"),
        (["--ttl", "0"], "ttl must be"),
        (["2", "--unique", "x"], "--unique is for one message"),
    ],
)
def test_bad_options(
    cli: Cli, client: Client, queue: Queue[Any], arguments: list[str], words: str
) -> None:
    """They end with 2 and one line, and nothing is sent."""
    done = cli("send", "orders", "1", *arguments)

    assert done.status == 2
    assert any(word in done.err for word in words.split("|"))
    assert client.stats(queue).sent == 0
