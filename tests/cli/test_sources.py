"""The commands for queues and the subscriptions of topics: `TOPIC/NAME` stands wherever a queue does."""

from __future__ import annotations

import os
import pty
from typing import Any

import pytest
import redis

from millstream import EARLIEST, Client, Queue, Retry, Topic
from tests.cli.conftest import Cli, Spawn
from tests.support.wait import until

PLACED: Topic[Any] = Topic("orders.placed")
MAIL = PLACED.subscription("mail", start=EARLIEST)
LEDGER: Topic[Any] = Topic("ledger", ordered=True, partitions=4)
AUDIT = LEDGER.subscription("audit", start=EARLIEST)


@pytest.fixture
def ids(client: Client) -> list[str]:
    """Three messages that wait for one subscription, and for another one."""
    client.declare(MAIL)
    client.declare(PLACED.subscription("stock"))
    receipts = client.publish_many(PLACED, [0, 1, 2], subject=lambda n: f"n.{n}")
    return [receipt.id for receipt in receipts]


def kill(client: Client, reason: str) -> None:
    """Reject what waits for the subscription."""
    for delivery in client.receive(MAIL, wait=0):
        delivery.reject(reason)


class TestSubscription:
    def test_peek(self, cli: Cli, ids: list[str]) -> None:
        """It shows what waits for this one, with the subjects."""
        shown = cli("peek", "orders.placed/mail", "--json").objects
        table = cli("peek", "orders.placed/mail", "--limit", "1").out.splitlines()

        assert [(one["id"], one["subject"]) for one in shown] == [
            (id, f"n.{n}") for n, id in enumerate(ids)
        ]
        assert table[0].split()[-2:] == ["subject", "body"]
        assert table[1].split()[-2:] == ["n.0", "0"]

    def test_receive(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """It takes from this one alone."""
        assert [one["id"] for one in cli("receive", "orders.placed/mail").objects] == ids
        assert client.stats(PLACED.subscription("stock")).ready == 3

    def test_dead_and_redrive(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """Dead letters are listed with their subjects, and go back to this one."""
        kill(client, "why")

        letters = cli("dead", "orders.placed/mail", "--json").objects
        page = cli("dead", "orders.placed/mail", "--traceback").out
        more = cli("dead", "orders.placed/mail", "--limit", "1")
        done = cli("redrive", "orders.placed/mail", "--id", ids[1])

        assert [(one["id"], one["subject"]) for one in letters] == [
            (id, f"n.{n}") for n, id in enumerate(ids)
        ]
        assert "subject   n.2" in page
        assert "millstream dead orders.placed/mail --after" in more.err
        assert done.out == "1 message sent back to orders.placed/mail\n"
        assert client.stats(MAIL).ready == 1

    def test_purge(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """What waits for this one is gone; the topic keeps it, for the others, too."""
        done = cli("purge", "orders.placed/mail", "--yes", "--json")

        assert done.objects == [{"queue": "orders.placed/mail", "purged": 3}]
        assert client.stats(MAIL).ready == 0
        assert client.stats(PLACED.subscription("stock")).ready == len(ids)

    def test_pause_and_resume(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """This one stops and goes on."""
        assert cli("pause", "orders.placed/mail").out.startswith("orders.placed/mail is paused: 3")
        assert cli("receive", "orders.placed/mail").objects == []
        assert len(cli("receive", "orders.placed/stock").objects) == 3
        assert not cli("resume", "orders.placed/mail", "--json").objects[0]["paused"]
        assert len(cli("receive", "orders.placed/mail").objects) == len(ids)

    def test_cancel_and_reschedule(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """A retry that waits gets another time, or is cancelled; what is in the log is not."""
        for delivery in client.receive(MAIL, wait=0, prefetch=1):
            delivery.retry(delay=600)

        later = cli("reschedule", "orders.placed/mail", ids[0], "--delay", "0")
        cancelled = cli("cancel", "orders.placed/mail", ids[1])
        in_log = cli("cancel", "orders.placed/stock", ids[1])

        assert (later.status, cancelled.status, in_log.status) == (0, 0, 2)
        assert "waits in the log of topic" in in_log.err
        until(lambda: client.stats(MAIL).delayed == 1)
        [message] = cli("receive", "orders.placed/mail").objects
        assert (message["id"], message["attempt"]) == (ids[0], 2)

    def test_all_partitions(self, cli: Cli, client: Client) -> None:
        """Of an ordered topic it finds them by itself."""
        client.declare(AUDIT)
        client.publish_many(LEDGER, range(20), key=lambda n: f"k-{n % 8}")

        assert len(cli("peek", "ledger/audit", "--limit", "99", "--json").objects) == 20
        assert cli("pause", "ledger/audit", "--json").objects[0]["ready"] == 20
        assert cli("receive", "ledger/audit").objects == []
        cli("resume", "ledger/audit")
        assert len(cli("receive", "ledger/audit", "--count", "5").objects) == 5
        assert cli("purge", "ledger/audit", "--yes", "--json").objects[0]["purged"] == 15


@pytest.mark.parametrize(
    "words",
    [
        ["peek"],
        ["dead"],
        ["receive"],
        ["stats"],
        ["pause"],
        ["resume"],
        ["purge", "--yes"],
        ["redrive", "--all"],
        ["cancel", "1-0"],
        ["reschedule", "1-0", "--delay", "1"],
        ["seek", "--to", "latest"],
        ["unsubscribe", "--yes"],
    ],
    ids=lambda words: words[0],
)
def test_a_subscription_that_does_not_exist(
    cli: Cli, client: Client, admin: redis.Redis, namespace: str, words: list[str]
) -> None:
    """The error names those that there are, the status is 2, and nothing is made by looking."""
    client.declare(MAIL)
    client.declare(PLACED.subscription("stock"))
    before = set(admin.scan_iter(f"{namespace}:*"))

    mistyped = cli(words[0], "orders.placed/mial", *words[1:])
    nowhere = cli(words[0], "oders/mail", *words[1:])

    assert (mistyped.status, mistyped.out) == (nowhere.status, nowhere.out) == (2, "")
    assert mistyped.err == (
        "millstream: topic 'orders.placed' has no subscription 'mial'; it has mail, stock\n"
    )
    assert nowhere.err == "millstream: topic 'oders' has no subscription 'mail'; it has none\n"
    assert set(admin.scan_iter(f"{namespace}:*")) == before


def test_many_subscriptions(cli: Cli, client: Client) -> None:
    """An error names ten of them, and says how many more there are."""
    for number in range(13):
        client.declare(PLACED.subscription(f"s{number:02}"))

    done = cli("peek", "orders.placed/s99")

    assert done.err.endswith("it has s00, s01, s02, s03, s04, s05, s06, s07, s08, s09 and 3 more\n")


def test_a_queue_is_named_as_ever(cli: Cli, client: Client) -> None:
    """A queue may have the name of a topic: the slash makes the difference."""
    queue: Queue[Any] = Queue("orders.placed", retry=Retry(max_attempts=1))
    client.declare(MAIL)
    client.send(queue, "queue")
    client.publish(PLACED, "topic")

    assert [one["body"] for one in cli("peek", "orders.placed", "--json").objects] == ["queue"]
    assert [one["body"] for one in cli("peek", "orders.placed/mail", "--json").objects] == ["topic"]


def test_on_any_server(any_cli: Cli) -> None:
    """The whole life of a subscription, and of a queue in a list."""
    cli = any_cli
    cli("subscribe", "orders.placed", "others", "--wait", "0")  # for whom the topic keeps it
    cli("subscribe", "orders.placed", "eu", "--filter", "eu.>", "--wait", "0")
    published = cli("publish", "orders.placed", "1", "2", "--subject", "eu.paid").out.split()
    cli("publish", "orders.placed", "3", "--subject", "us.paid")

    assert [
        one["id"] for one in cli("replay", "orders.placed", "--limit", "2").objects
    ] == published
    taken = cli("subscribe", "orders.placed/eu", "--wait", "0").objects
    assert [one["id"] for one in taken] == published
    eu, _ = cli("stats", "orders.placed", "--json").objects[0]["subscriptions"]
    assert (eu["lag"], eu["acked"], eu["filtered"]) == (0, 2, 1)
    assert cli("seek", "orders.placed/eu", "--to", published[1], "--force").status == 0
    assert [one["body"] for one in cli("peek", "orders.placed/eu", "--json").objects] == [2, 3]
    assert cli("unsubscribe", "orders.placed/eu", "--yes").status == 0

    cli("send", "jobs", "1", "--store", "list")
    assert [one["body"] for one in cli("receive", "jobs").objects] == [1]
    cli("send", "jobs", "2")
    kinds = [(row["kind"], row["name"]) for row in cli("stats", "--json").objects]
    assert kinds == [("queue", "jobs"), ("topic", "orders.placed")]
    assert [one["body"] for one in cli("receive", "jobs", "--store", "list").objects] == [2]


class TestUnsubscribe:
    def test_it_is_removed(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """All that was its own is gone; the topic and the others stay."""
        done = cli("unsubscribe", "orders.placed", "mail", "--yes")

        assert (done.status, done.out, done.err) == (0, "orders.placed/mail removed\n", "")
        assert client.subscriptions(PLACED) == ["stock"]
        assert client.stats(PLACED).length == len(ids)

    def test_as_json(self, cli: Cli, ids: list[str]) -> None:
        """A script gets the names, and may give both in one."""
        done = cli("unsubscribe", "orders.placed/mail", "--yes", "--json")

        assert done.objects == [{"topic": "orders.placed", "subscription": "mail", "removed": True}]

    def test_consumers_that_run(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """It says that they make it anew."""
        deliveries = client.receive(MAIL)
        next(deliveries).ack()

        done = cli("unsubscribe", "orders.placed", "mail", "--yes")

        assert (done.status, done.out) == (0, "orders.placed/mail removed\n")
        assert "1 consumer had it open: one that runs makes it anew" in done.err
        deliveries.close()

    def test_it_wants_to_be_sure(
        self, cli: Cli, client: Client, ids: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a terminal to ask on it does nothing without --yes."""
        with open("/dev/null") as nobody:  # noqa: PTH123 - a device
            monkeypatch.setattr("sys.stdin", nobody)
            done = cli("unsubscribe", "orders.placed", "mail")

        assert (done.status, done.out) == (2, "")
        assert "confirm it with --yes" in done.err
        assert client.subscriptions(PLACED) == ["mail", "stock"]

    @pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1)])
    def test_asking(
        self, spawn: Spawn, client: Client, ids: list[str], answer: str, status: int
    ) -> None:
        """On a terminal it says what would be lost, and does so only after a yes."""
        ours, theirs = pty.openpty()
        process = spawn("unsubscribe", "orders.placed/mail", stdin=theirs)
        os.close(theirs)
        os.write(ours, answer.encode())
        out, err = process.communicate(timeout=20)
        os.close(ours)

        assert process.returncode == status
        assert err.startswith("Remove subscription 'orders.placed/mail' at unix://suite:***@")
        assert "(3 messages waiting, 0 dead letters)?" in err
        assert ("nothing was removed" in err) == (status == 1)
        assert out == ("orders.placed/mail removed\n" if status == 0 else "")
        assert ("mail" in client.subscriptions(PLACED)) == (status == 1)


class TestSeek:
    def test_back_and_forward(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """It goes on where it was told to, and says how much is ahead."""
        cli("receive", "orders.placed/mail")

        back = cli("seek", "orders.placed", "mail", "--to", "earliest", "--force")
        one = cli("seek", "orders.placed/mail", "--to", ids[1], "--force", "--json")

        assert back.out == (
            "orders.placed/mail goes on with the oldest message: 3 messages ahead of it\n"
        )
        assert one.objects == [{"topic": "orders.placed", "subscription": "mail", "ahead": 2}]
        assert [one["id"] for one in cli("receive", "orders.placed/mail").objects] == ids[1:]
        late = cli("seek", "orders.placed", "mail", "--to", "2999-01-01T00:00Z", "--force")
        assert "what was published at 2999-01-01 00:00:00+00:00: 0 messages" in late.out

    def test_consumers_that_run(self, cli: Cli, client: Client, ids: list[str]) -> None:
        """It is refused with 2 while they do, unless it is forced."""
        deliveries = client.receive(MAIL, prefetch=1)
        next(deliveries).ack()

        refused = cli("seek", "orders.placed", "mail", "--to", "latest")
        forced = cli("seek", "orders.placed", "mail", "--to", "latest", "--force")

        assert (refused.status, forced.status) == (2, 0)
        assert "stop them first, or pass --force" in refused.err
        deliveries.close()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "missing option '--to'"),
            (["--to", "start"], "--to takes earliest, latest, a time such as"),
            (["--to", "2026-01-01T00:00"], "--to needs a time zone"),
        ],
    )
    def test_bad_usage(self, cli: Cli, words: list[str], said: str) -> None:
        """What is wrong is said in a line, and the status is 2."""
        done = cli("seek", "orders.placed", "mail", *words)

        assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert said in done.err
