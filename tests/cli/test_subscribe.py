"""`millstream subscribe` to durable topics: what is shown, what is acknowledged, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import redis

from millstream import EARLIEST, Client, Topic
from millstream.message import SubscriptionStats
from tests.cli.conftest import Cli, Spawn, keep
from tests.cli.terminal import on_a_terminal, plain
from tests.support.wait import until

PLACED: Topic[Any] = Topic("orders.placed")
MAIL = PLACED.subscription("mail", start=EARLIEST)


def counts(client: Client, name: str = "mail") -> tuple[int, int, int, int]:
    """Not begun with, acknowledged, in flight, lost to dead consumers or dead."""
    one = of(client, name)
    return one.lag, one.acked, one.in_flight, one.crashed + one.died


def of(client: Client, name: str) -> SubscriptionStats:
    return next(one for one in client.stats(PLACED).subscriptions if one.name == name)


def ids(output: str) -> list[str]:
    return [json.loads(line)["id"] for line in output.splitlines()]


def test_shape(cli: Cli, client: Client) -> None:
    """A message is one JSON object with everything that a consumer knows of it."""
    client.declare(MAIL)
    receipt = client.publish(PLACED, {"id": 1}, subject="eu.paid", key="k", headers={"a": "b"})

    done = cli("subscribe", "orders.placed", "mail", "--wait", "0")

    [shown] = done.objects
    assert (done.status, done.err) == (0, "")
    assert shown.pop("sent_at").endswith("Z")
    assert shown == {
        "id": receipt.id,
        "body": {"id": 1},
        "headers": {"a": "b"},
        "attempt": 1,
        "crashes": 0,
        "key": "k",
        "subject": "eu.paid",
    }
    assert counts(client) == (0, 1, 0, 0)


@pytest.mark.parametrize("count", [1, 3, 130])
def test_count(cli: Cli, client: Client, count: int) -> None:
    """It takes so many, and the next one goes on there: what was fetched ahead included."""
    client.declare(MAIL)
    receipts = client.publish_many(PLACED, range(250))

    done = cli("subscribe", "orders.placed/mail", "--count", str(count))

    assert ids(done.out) == [receipt.id for receipt in receipts[:count]]
    assert counts(client) == (250 - count, count, 0, 0)
    rest = cli("subscribe", "orders.placed", "mail", "--wait", "0")
    assert [one["body"] for one in rest.objects] == [*range(count, 250)]


def test_no_ack(cli: Cli, client: Client) -> None:
    """Each message is shown once and is back afterwards: same order, no attempt, no crash."""
    client.declare(MAIL)
    client.publish_many(PLACED, range(150))

    assert len(cli("subscribe", "orders.placed", "mail", "--no-ack", "--wait", "0").objects) == 150
    assert counts(client) == (150, 0, 0, 0)
    again = cli("subscribe", "orders.placed", "mail", "--wait", "0").objects
    assert [(one["body"], one["attempt"]) for one in again] == [(n, 1) for n in range(150)]


class TestNew:
    def test_it_is_made_and_told_of(self, cli: Cli, client: Client) -> None:
        """It begins with what is published next, stays, and people hear how to remove it."""
        client.publish(PLACED, 1)

        done = cli("subscribe", "orders.placed", "look", "--wait", "0")

        assert (done.status, done.out) == (0, "")
        told, nothing = done.err.splitlines()
        assert "subscription 'orders.placed/look' is new, and begins with the next" in told
        assert told.endswith("millstream unsubscribe orders.placed/look")
        assert nothing == "millstream: no message for subscription 'orders.placed/look'"
        client.publish(PLACED, 2)
        again = cli("subscribe", "orders.placed", "look", "--wait", "0")
        assert ([one["body"] for one in again.objects], again.err) == ([2], "")

    def test_where_it_begins(self, cli: Cli, client: Client) -> None:
        """--start takes a word, a time, or the id of a message."""
        keep(client, PLACED)
        receipts = client.publish_many(PLACED, range(3))
        past, future = "2020-01-01T00:00Z", "2999-01-01T00:00+01:00"

        def bodies(name: str, start: str) -> list[Any]:
            words = ("--start", start, "--wait", "0")
            return [one["body"] for one in cli("subscribe", "orders.placed", name, *words).objects]

        assert bodies("a", "earliest") == bodies("b", past) == [0, 1, 2]
        assert bodies("c", "latest") == bodies("d", future) == []
        assert bodies("e", receipts[1].id) == [1, 2]

    def test_how_it_is_made(self, cli: Cli, client: Client) -> None:
        """--filter and --expires are those of its declaration."""
        keep(client, PLACED)
        client.publish(PLACED, 1, subject="us.paid")
        client.publish(PLACED, 2, subject="eu.paid")

        words = ("--filter", "eu.>", "--expires", "3600", "--start", "earliest", "--wait", "0")
        done = cli("subscribe", "orders.placed", "eu", *words)
        cli("subscribe", "orders.placed", "ever", "--expires", "never", "--wait", "0")

        assert [one["body"] for one in done.objects] == [2]
        assert (of(client, "eu").filter, of(client, "eu").expires) == ("eu.>", 3600.0)
        assert (of(client, "ever").filter, of(client, "ever").expires) == (None, None)

    def test_an_ordered_topic(self, cli: Cli, client: Client) -> None:
        """It finds the partitions by itself, and shows each key's messages in their order."""
        ledger: Topic[Any] = Topic("ledger", ordered=True, partitions=4)
        keep(client, ledger)
        client.publish_many(ledger, range(20), key=lambda n: f"k-{n % 5}")

        rows = cli("subscribe", "ledger", "look", "--start", "earliest", "--wait", "0").objects

        for key in range(5):
            mine = [row["body"] for row in rows if row["key"] == f"k-{key}"]
            assert mine == [*range(key, 20, 5)]


class TestExisting:
    def test_nothing_about_it_changes(
        self, cli: Cli, client: Client, admin: redis.Redis, namespace: str
    ) -> None:
        """How applications have declared it stays, whatever the command line says or leaves out."""
        client.declare(PLACED.subscription("eu", filter="eu.>", expires=500))
        key = f"{namespace}:{{orders.placed}}:subscriptions"
        before = admin.hgetall(key)
        client.publish(PLACED, 1, subject="eu.paid")

        done = cli("subscribe", "orders.placed", "eu", "--count", "1")
        late = cli(
            *("subscribe", "orders.placed", "eu", "--wait", "0"),
            *("--start", "earliest", "--expires", "5"),
        )

        assert ([one["body"] for one in done.objects], done.err) == ([1], "")
        assert "exists: it keeps its place, and how it was made" in late.err
        assert late.out == ""
        assert admin.hgetall(key) == before

    def test_another_filter(self, cli: Cli, client: Client) -> None:
        """It is refused with 2: the subscription's consumers would disagree."""
        client.declare(PLACED.subscription("eu", filter="eu.>"))
        client.declare(MAIL)

        other = cli("subscribe", "orders.placed", "eu", "--filter", "us.>")
        none = cli("subscribe", "orders.placed", "mail", "--filter", "us.>")

        assert (other.status, none.status) == (2, 2)
        assert "was made with the filter 'eu.>', and consumers must agree" in other.err
        assert "was made without a filter" in none.err


def test_it_follows_and_stops_when_none_comes(spawn: Spawn, client: Client) -> None:
    """It goes on as messages come; with --wait it ends when none came for so long."""
    client.declare(MAIL)
    process = spawn("subscribe", "orders.placed", "mail", "--wait", "5")
    assert process.stdout is not None
    until(lambda: of(client, "mail").consumers, timeout=30)
    shown = []
    for body in (1, 2):
        client.publish(PLACED, body)
        shown.append(json.loads(process.stdout.readline())["body"])

    out, err = process.communicate(timeout=20)
    assert (process.returncode, shown, out, err) == (0, [1, 2], "", "")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_while_waiting(spawn: Spawn, client: Client, number: int, status: int) -> None:
    """Without --wait it waits until a signal ends it, at once; nothing stays behind in flight."""
    client.declare(MAIL)
    client.publish_many(PLACED, [1, 2, 3])
    process = spawn("subscribe", "orders.placed", "mail")
    assert process.stdout is not None
    shown = [process.stdout.readline() for _ in range(3)]
    until(lambda: counts(client) == (0, 3, 0, 0))
    process.send_signal(number)

    assert process.stderr is not None
    assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert process.wait(20) == status
    assert len(set(ids("".join(shown)))) == 3
    assert of(client, "mail").consumers == ()


@pytest.mark.parametrize("flag", [[], ["--no-ack"]])
@pytest.mark.parametrize("lines", [1, 150, 700])
def test_signal_in_full_flow(spawn: Spawn, client: Client, lines: int, flag: list[str]) -> None:
    """Whenever Ctrl-C comes: what was acknowledged is exactly what was shown."""
    client.declare(MAIL)
    receipts = client.publish_many(PLACED, range(3000))
    process = spawn("subscribe", "orders.placed", "mail", *flag)
    assert process.stdout is not None
    begin = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    rest, err = process.stdout.read(), process.stderr.read()

    shown = ids("".join(begin) + rest)
    assert (process.wait(20), err) == (130, "")
    assert shown == [receipt.id for receipt in receipts[: len(shown)]]
    acked = 0 if flag else len(shown)
    assert counts(client) == (3000 - acked, acked, 0, 0)
    left = [delivery.body for delivery in client.receive(MAIL, wait=0, prefetch=1000)]
    assert left == [*range(acked, 3000)]


def test_a_pipe_that_nobody_reads_any_more(spawn: Spawn, client: Client) -> None:
    """When the output is closed, the message that was not shown stays, and the status is 0."""
    client.declare(MAIL)
    client.publish_many(PLACED, [1, 2, 3])
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("subscribe", "orders.placed", "mail", stdout=writer)
    os.close(writer)

    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert counts(client) == (3, 0, 0, 0)


def test_head(url: str, namespace: str, client: Client) -> None:
    """`| head` ends it with 0 although it would follow for ever, and no message is lost."""
    client.declare(MAIL)
    client.publish_many(PLACED, [f"{n:05} {'x' * 1000}" for n in range(1000)])
    command = f"{sys.executable} -m millstream subscribe orders.placed mail --namespace {namespace}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        env={**os.environ, "MILLSTREAM_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )

    line, status = done.stdout.splitlines()
    assert (status, done.stderr) == ("0", "")
    assert json.loads(line)["body"].startswith("00000")
    lag, acked, *others = counts(client)
    assert (lag + acked, others) == (1000, [0, 0])


def test_on_a_terminal(spawn: Spawn, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """People see time, id, subject and key, whether it failed before, and the body below."""
    monkeypatch.setenv("TERM", "xterm")
    client.declare(MAIL)
    receipt = client.publish(PLACED, {"id": 1}, subject="eu.paid", key="c-7")
    next(client.receive(MAIL, wait=5)).retry(delay=0)

    out = on_a_terminal(spawn, 100, "subscribe", "orders.placed", "mail", "--count", "1")

    head, body = plain(out).splitlines()
    time, *rest = head.split("  ")
    assert rest == [receipt.id, "eu.paid", "key=c-7", "attempt 2, crashes 0"]
    assert (time[-1], body) == ("Z", '  {"id":1}')
    assert "\x1b[36m" in out
    assert counts(client) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["orders.placed"], "name the subscription, too"),
        (["orders.placed/"], "name the subscription, too"),
        (["orders.placed", "a/b"], "the subscription's name must be"),
        (["orders.*", "mail"], "which can only be listened to: add --ephemeral"),
        (["orders.placed", "mail", "--start", "first"], "--start takes earliest, latest, a time"),
        (["orders.placed", "mail", "--start", "2026-01-01"], "--start needs a time zone"),
        (["orders.placed", "mail", "--expires", "soon"], "--expires takes a number of seconds"),
        (["orders.placed", "mail", "--expires", "0"], "expires must be"),
        (["orders.placed", "mail", "--filter", "a..b"], "filter must be"),
        (["orders.placed", "mail", "--count", "0"], "--count"),
        (["orders.placed", "mail", "--ephemeral"], "leave out NAME, or --ephemeral"),
        (["ticks", "--ephemeral", "--start", "latest", "--no-ack"], "--start and --no-ack"),
    ],
)
def test_bad_usage(
    cli: Cli, admin: redis.Redis, namespace: str, words: list[str], said: str
) -> None:
    """What is wrong is said in a line; the status is 2, and no subscription is made."""
    done = cli("subscribe", *words)

    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err
    assert list(admin.scan_iter(f"{namespace}:*")) == []
