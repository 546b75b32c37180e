"""`millstream pause`, `resume` and `cancel`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from millstream import Client, LeaseLost, Queue
from tests.cli.conftest import Cli


def test_pause_and_resume(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A paused queue gives nothing to a receiver, and all of it afterwards."""
    client.send_many(queue, [1, 2])

    done = cli("pause", "orders")
    assert (done.status, done.out) == (0, "orders is paused: 2 messages ready, 0 in flight\n")
    assert cli("pause", "orders").out == done.out
    assert cli("receive", "orders").objects == []

    done = cli("resume", "orders")
    assert (done.status, done.out) == (0, "orders goes on: 2 messages ready, 0 in flight\n")
    assert cli("resume", "orders").out == done.out
    assert [one["body"] for one in cli("receive", "orders").objects] == [1, 2]


def test_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A script reads what is left to do."""
    client.send_many(queue, [1, 2])
    with closing(client.receive(queue, prefetch=1)) as deliveries:
        delivery = next(deliveries)
        counts = {"queue": "orders", "ready": 1, "in_flight": 1}

        assert cli("pause", "orders", "--json").objects == [{**counts, "paused": True}]
        assert cli("stats", "orders", "--json").objects[0]["paused"] is True
        assert cli("resume", "orders", "--json").objects == [{**counts, "paused": False}]
        assert cli("stats", "orders", "--json").objects[0]["paused"] is False
        delivery.ack()


def test_stats_say_it(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """The table marks a paused queue, also one that nobody has used yet."""
    client.send(queue, 1)
    cli("pause", "orders")
    cli("pause", "empty")

    done = cli("stats")

    _, *rows = done.out.splitlines()
    assert [row.split()[:2] for row in rows] == [["empty", "(paused)"], ["orders", "(paused)"]]
    assert done.err == ""
    cli("resume", "orders")
    assert "(paused)" not in cli("stats", "orders").out


def test_cancel(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A message that is in flight dies, and its consumer is refused."""
    id = client.send(queue, 1).id
    with closing(client.receive(queue)) as deliveries:
        delivery = next(deliveries)

        done = cli("cancel", "orders", id)

        assert (done.status, done.out, done.err) == (0, f"{id} cancelled\n", "")
        with pytest.raises(LeaseLost):
            delivery.ack()
    (letter,) = client.dead(queue)
    assert (letter.id, letter.reason) == (id, "cancelled")


def test_cancel_what_is_not_there(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """It says so and ends with 1, in JSON, too."""
    client.send(queue, 1)
    done = cli("cancel", "orders", "5-0")
    assert (done.status, done.out) == (1, "")
    assert done.err == "millstream: message 5-0 neither waits nor runs in queue 'orders'\n"

    done = cli("cancel", "orders", "5-0", "--json")
    assert done.status == 1
    assert done.objects == [{"queue": "orders", "id": "5-0", "cancelled": False}]


def test_cancel_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A script gets an object."""
    id = client.send(queue, 1).id
    with closing(client.receive(queue)) as deliveries:
        next(deliveries)
        done = cli("cancel", "orders", id, "--json")
    assert (done.status, done.err) == (0, "")
    assert done.objects == [{"queue": "orders", "id": id, "cancelled": True}]


def test_cancel_with_no_id(cli: Cli) -> None:
    """What is no id of a message is an error of the command line."""
    done = cli("cancel", "orders", "first")
    assert done.status == 2
    assert "id must be the id of a message, such as 1718000000000-0, not 'first'" in done.err
