"""The command line and queues in partitions: it knows no declaration, and finds all their parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from millstream import Client, Queue
from tests.cli.conftest import Cli

PARTS = 4
ORDERS: Queue[Any] = Queue("orders", ordered=True, partitions=PARTS)
KEYS = [f"c-{number}" for number in range(8)]


@pytest.fixture
def ids(client: Client) -> list[str]:
    """Two messages of each key, sent by somebody who knows the declaration."""
    bodies = [{"key": key, "number": number} for number in range(2) for key in KEYS]
    receipts = client.send_many(ORDERS, bodies, key=lambda body: str(body["key"]))
    return [receipt.id for receipt in receipts]


def place(id: str) -> int:
    return int(id.partition("/")[2] or 0)


class TestSend:
    def test_a_key_goes_where_the_others_are(
        self, cli: Cli, client: Client, ids: list[str]
    ) -> None:
        """It waits for its turn behind those that a program has sent."""
        for key, first in zip(KEYS, ids, strict=False):
            [sent] = cli("send", "orders", '"late"', "--key", key, "--json").objects
            assert place(sent["id"]) == place(first)

        seen: dict[str, list[Any]] = {}
        for delivery in client.receive(ORDERS, wait=0):
            seen.setdefault(delivery.key or "", []).append(delivery.body)
            delivery.ack()
        assert {len(bodies) for bodies in seen.values()} == {3}
        assert {bodies[-1] for bodies in seen.values()} == {"late"}

    def test_without_a_key(self, cli: Cli, client: Client, ids: list[str], tmp_path: Path) -> None:
        """Messages are spread over the partitions, from the command line and from files."""
        lines = tmp_path / "lines.jsonl"
        lines.write_text("1\n2\n3\n4\n")
        before = [one.ready for one in client.stats(ORDERS).partitions]
        sent = cli("send", "orders", "1", "2", "3", "4").out.split()
        cli("send", "orders", "--from", str(lines))

        assert sorted(map(place, sent)) == [*range(PARTS)]
        after = [one.ready for one in client.stats(ORDERS).partitions]
        assert after == [count + 2 for count in before]
        assert sum(before) == len(ids)

    def test_a_new_queue(self, cli: Cli, client: Client) -> None:
        """Who is the first has to say how it is divided."""
        assert cli("send", "orders", "1", "--partitions", str(PARTS)).status == 0
        assert cli("send", "orders", "2", "--ordered").status == 0

        assert sorted(one.body for one in client.peek(ORDERS)) == [1, 2]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--partitions", "2"], "has 4 partitions, here it is declared with partitions=2"),
            (["--partitions", "0"], "partitions must be a number from 1 to 1024"),
            (["--bound", "5"], "bound=5 and partitions=4 do not go together"),
        ],
    )
    def test_what_is_refused(
        self, cli: Cli, client: Client, ids: list[str], words: list[str], message: str
    ) -> None:
        """The command line is wrong, and nothing is sent."""
        done = cli("send", "orders", "1", *words)

        assert done.status == 2
        assert message in done.err
        assert client.stats(ORDERS).ready == len(ids)


class TestReceive:
    def test_all_partitions(self, cli: Cli, ids: list[str]) -> None:
        """What is in any of them is shown, in the order of each key, under its own id."""
        rows = cli("receive", "orders").objects

        assert sorted(row["id"] for row in rows) == sorted(ids)
        for key in KEYS:
            assert [row["body"]["number"] for row in rows if row["body"]["key"] == key] == [0, 1]

    def test_no_ack(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """The first of each key is shown; everything stays."""
        assert len(cli("receive", "orders", "--no-ack").objects) == len(KEYS)
        assert client.stats(ORDERS).ready == len(ids)


class TestLookingAfter:
    def test_stats_and_peek(self, cli: Cli, ids: list[str]) -> None:
        """One queue, not one for each partition."""
        [row] = cli("stats", "--json").objects
        assert (row["name"], row["ready"]) == ("orders", len(ids))
        assert sum(part["ready"] for part in row["partitions"]) == len(ids)
        shown = cli("peek", "orders", "--limit", "99", "--json").objects
        assert {one["id"] for one in shown} == set(ids)

    def test_dead_and_redrive(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """Dead letters of all partitions are listed in pages, and go back to their own."""
        for delivery in client.receive(ORDERS, wait=0):
            delivery.reject("odd" if delivery.body["number"] else "even")

        first = cli("dead", "orders", "--limit", "10", "--json").objects
        rest = cli("dead", "orders", "--after", first[-1]["cursor"], "--json").objects
        assert sorted(one["id"] for one in first + rest) == sorted(ids)
        assert cli("redrive", "orders", "--id", ids[-1], "--id", ids[0]).out.startswith("2 ")
        assert cli("redrive", "orders", "--reason", "even", "--json").objects[0]["redriven"] == 7
        assert cli("redrive", "orders", "--all", "--json").objects[0]["redriven"] == 7
        assert client.stats(ORDERS).ready == len(ids)

    def test_purge(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """Nothing is left in any of them."""
        done = cli("purge", "orders", "--yes", "--json")

        assert json.loads(done.out)["purged"] == len(ids)
        assert client.stats(ORDERS).ready == 0

    def test_pause_and_resume(self, cli: Cli, ids: list[str]) -> None:
        """All partitions stop, and go on."""
        assert cli("pause", "orders", "--json").objects[0]["ready"] == len(ids)
        assert cli("receive", "orders").objects == []
        assert not cli("resume", "orders", "--json").objects[0]["paused"]
        assert len(cli("receive", "orders").objects) == len(ids)

    def test_cancel_and_reschedule(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """An id says where its message is."""
        late = next(id for id in ids[len(KEYS) :] if place(id))

        assert cli("reschedule", "orders", late, "--delay", "60").status == 0
        assert [one.id for one in client.peek(ORDERS, delayed=True)] == [late]
        assert cli("cancel", "orders", late).status == 0
        assert cli("cancel", "orders", late).status == 1
        assert client.stats(ORDERS).ready == len(ids) - 1


def test_an_unordered_queue_stays_one(
    cli: Cli, client: Client, admin: redis.Redis, namespace: str
) -> None:
    """Nobody is asked to agree on anything, and a key is a label."""
    cli("send", "plain", "1", "2", "--key", "k")

    assert not admin.exists(f"{namespace}:{{plain}}:config")
    assert [one["key"] for one in cli("peek", "plain", "--json").objects] == ["k", "k"]
    assert len(list(client.receive(Queue("plain"), prefetch=1, wait=0))) == 2
