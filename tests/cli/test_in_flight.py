"""`millstream in-flight`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from millstream import EARLIEST, Client, Queue, Topic
from tests.cli.conftest import Cli

LEDGER: Topic[Any] = Topic("ledger", ordered=True, partitions=4)
AUDIT = LEDGER.subscription("audit", start=EARLIEST)


def test_table(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """It shows which messages consumers have, and who has each; what waits is not there."""
    ids = [receipt.id for receipt in client.send_many(queue, [{"n": 1}, {"n": 2}, {"n": 3}])]
    with closing(client.receive(queue, prefetch=1)) as deliveries:
        next(deliveries).retry(delay=0)
        taken = [next(deliveries), next(deliveries)]
        done = cli("in-flight", "orders")
        [consumer] = client.stats(queue).consumers
        for delivery in taken:
            delivery.ack()

    heading, *rows = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert heading.split() == ["id", "age", "consumer", "idle", "attempts", "crashes", "body"]
    assert sorted(row.split()[0] for row in rows) == sorted(one.id for one in taken)
    assert {one.id for one in taken} <= {*ids}
    assert all(consumer.name in row for row in rows)
    assert cli("in-flight", "orders").err == "millstream: no message in flight in queue 'orders'\n"


def test_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each message is one object."""
    client.send(queue, {"n": 1}, headers={"a": "b"}, key="k")
    with closing(client.receive(queue)) as deliveries:
        delivery = next(deliveries)
        [shown] = cli("in-flight", "orders", "--json").objects
        [consumer] = client.stats(queue).consumers
        delivery.ack()

    assert 0 <= shown.pop("idle") < 30
    assert shown.pop("sent_at").endswith("Z")
    assert shown == {
        "id": delivery.id,
        "body": {"n": 1},
        "headers": {"a": "b"},
        "consumer": consumer.name,
        "attempts": 0,
        "crashes": 0,
        "key": "k",
        "subject": None,
        "priority": 0,
    }
    assert cli("in-flight", "orders", "--json").out == ""


def test_the_limit(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """When there may be more than it shows, it says so."""
    client.send_many(queue, [1, 2, 3])
    with closing(client.receive(queue)) as deliveries:
        taken = [next(deliveries) for _ in range(3)]
        some = cli("in-flight", "orders", "--limit", "2", "--json")
        all_of_them = cli("in-flight", "orders", "--limit", "4", "--json")
        for delivery in taken:
            delivery.ack()

    assert [one["body"] for one in some.objects] == [1, 2]
    assert "there may be more" in some.err
    assert (len(all_of_them.objects), all_of_them.err) == (3, "")


def test_all_partitions_of_a_subscription(cli: Cli, client: Client) -> None:
    """Of a topic in partitions it finds them all, and names a worker as stats do."""
    client.declare(AUDIT)
    client.publish_many(LEDGER, range(8), key=lambda n: f"k-{n}")
    with closing(client.receive(AUDIT)) as deliveries:
        taken = [next(deliveries) for _ in range(8)]
        shown = cli("in-flight", "ledger/audit", "--json").objects
        [consumer] = client.stats(AUDIT).consumers
        for delivery in taken:
            delivery.ack()

    assert sorted(one["id"] for one in shown) == sorted(one.id for one in taken)
    assert len({one["id"].partition("/")[2] for one in shown}) > 1
    assert {one["consumer"] for one in shown} == {consumer.name}


@pytest.mark.parametrize(("name", "status"), [("oders", 1), ("ledger", 2), ("ledger/mail", 2)])
def test_what_is_no_queue(
    cli: Cli, client: Client, queue: Queue[Any], name: str, status: int
) -> None:
    """A name that nobody has used, a topic alone and a subscription that is not there are errors."""
    client.send(queue, 1)
    client.declare(AUDIT)

    done = cli("in-flight", name)

    assert (done.status, done.out) == (status, "")
