"""`millstream publish`."""

from __future__ import annotations

import json
import os
import re
import signal
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from millstream import Client, Topic
from millstream.protocol.keys import topic_keys
from tests.cli.conftest import Cli, Spawn, keep
from tests.support.wait import until

PLACED: Topic[Any] = Topic("orders.placed")
TICKS: Topic[Any] = Topic("ticks", durable=False)
LEDGER: Topic[Any] = Topic("ledger", ordered=True, partitions=4)


@pytest.fixture
def kept(client: Client) -> None:
    """What is published stays."""
    keep(client, PLACED)


def bodies(client: Client, topic: Topic[Any] = PLACED) -> list[Any]:
    return [message.body for message in client.replay(topic)]


@pytest.mark.usefixtures("kept")
def test_bodies_from_the_command_line(cli: Cli, client: Client) -> None:
    """Each BODY becomes a message, in order, with its subject, key and headers; ids are printed."""
    options = ("--subject", "eu.paid", "--key", "c-7", "--header", "a=b")
    done = cli("publish", "orders.placed", '{"id": 1.10}', "2", *options)

    messages = list(client.replay(Topic("orders.placed", bytes)))
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [message.id for message in messages]
    assert [message.body for message in messages] == [b'{"id": 1.10}', b"2"]
    assert {(one.subject, one.key, one.headers["a"]) for one in messages} == {
        ("eu.paid", "c-7", "b")
    }


@pytest.mark.usefixtures("kept")
def test_receipts_as_json(cli: Cli, client: Client) -> None:
    """With --json it prints a receipt a line."""
    done = cli("publish", "orders.placed", "1", "2", "--json")

    assert done.objects == [
        {"id": message.id, "duplicate": False, "durability": "memory"}
        for message in client.replay(PLACED)
    ]


@pytest.mark.usefixtures("kept")
def test_from_a_file(cli: Cli, client: Client, tmp_path: Path) -> None:
    """--from publishes a file of many batches whole and in order, and prints a summary."""
    file = tmp_path / "orders.jsonl"
    file.write_text("".join(f"{n}\n" for n in range(2500)))

    done = cli("publish", "orders.placed", "--from", str(file), "--subject", "eu.paid")

    assert done.status == 0
    assert re.fullmatch(r"2,500 messages published to orders\.placed in [\d.]+s\n", done.out)
    assert bodies(client) == list(range(2500))
    assert {message.subject for message in client.replay(PLACED)} == {"eu.paid"}


@pytest.mark.usefixtures("kept")
def test_from_standard_input(spawn: Spawn, client: Client) -> None:
    """--from - publishes what a pipe brings; the summary can be JSON."""
    out, err = spawn("publish", "orders.placed", "--from", "-", "--json").communicate("1\n2\n")

    summary = json.loads(out)
    assert (err, summary.pop("seconds") >= 0) == ("", True)
    assert summary == {"topic": "orders.placed", "published": 2}
    assert bodies(client) == [1, 2]


@pytest.mark.usefixtures("kept")
def test_a_bad_line(cli: Cli, client: Client, tmp_path: Path) -> None:
    """It names the line, what was published before, and where to go on."""
    file = tmp_path / "orders.jsonl"
    file.write_text("1\n" * 1000 + "oops\n")

    done = cli("publish", "orders.placed", "--from", str(file))

    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert f"{file}: line 1001: not JSON" in done.err
    assert "1,000 messages were published before: go on with line 1001" in done.err
    assert len(bodies(client)) == 1000


@pytest.mark.usefixtures("kept")
def test_interrupted_while_reading(spawn: Spawn, client: Client) -> None:
    """Ctrl-C says how much was published, and ends with 130."""

    def stored(count: int) -> bool:
        return bodies(client) == [1, 2][:count]

    process = spawn("publish", "orders.placed", "--from", "-")
    assert process.stdin is not None
    for count in (1, 2):
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        until(partial(stored, count))
    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130
    assert process.stderr is not None
    # The command may not have heard yet that the second one is there.
    assert process.stderr.read() in (
        "millstream: stopped; 1 message was published before: go on with line 2\n",
        "millstream: stopped; 2 messages were published before: go on with line 3\n",
    )


class TestOrdered:
    def test_a_key_goes_where_the_others_are(self, cli: Cli, client: Client) -> None:
        """It asks the server into how many partitions an ordered topic is divided."""
        keep(client, LEDGER)
        client.publish(LEDGER, "first", key="Ada")

        [sent] = cli("publish", "ledger", '"second"', "--key", "Ada", "--json").objects

        assert int(sent["id"].partition("/")[2] or 0) == zlib.crc32(b"Ada") % 4
        assert bodies(client, LEDGER) == ["first", "second"]

    def test_a_new_topic(self, cli: Cli, client: Client) -> None:
        """Who is the first says how it is divided; others must agree."""
        words = ("publish", "ledger", "1", "--key", "k", "--json")
        [first] = cli(*words, "--partitions", "4").objects
        [second] = cli(*words, "--ordered").objects
        other = cli(*words, "--partitions", "2")

        assert first["id"].partition("/")[2] == second["id"].partition("/")[2] != ""
        assert (other.status, "has 4 partitions" in other.err) == (2, True)
        assert client.stats(LEDGER).published == 2

    def test_an_unordered_topic_stays_one(
        self, cli: Cli, admin: redis.Redis, namespace: str
    ) -> None:
        """A key is a label there, and nobody is asked to agree on anything."""
        assert cli("publish", "orders.placed", "1", "--key", "k").status == 0

        assert not admin.exists(topic_keys(namespace, "orders.placed").config)


class TestEphemeral:
    def test_the_number_of_listeners(self, cli: Cli, client: Client, tmp_path: Path) -> None:
        """Of each message it says who got it, and of a file the same of the last one."""
        file = tmp_path / "ticks.jsonl"
        file.write_text("3\n4\n")
        assert cli("publish", "ticks", "0", "--ephemeral").out == "0 listeners\n"

        with client.subscribe(TICKS) as feed:
            words = ("--ephemeral", "--subject", "eu", "--header", "a=b")
            done = cli("publish", "ticks", "1", "2", *words)
            summary = cli("publish", "ticks", "--from", str(file), "--ephemeral")
            heard: list[Any] = [next(feed) for _ in range(4)]

        assert (done.status, done.out, done.err) == (0, "1 listener\n1 listener\n", "")
        assert summary.out.startswith("2 messages published to ticks in ")
        assert summary.out.endswith("; the last one had 1 listener\n")
        assert [one.body for one in heard] == [1, 2, 3, 4]
        assert (heard[0].subject, heard[0].headers) == ("eu", {"a": "b"})

    def test_as_json(self, cli: Cli, tmp_path: Path) -> None:
        """A receipt has no id there, but the number of listeners; so has the summary of a file."""
        file = tmp_path / "ticks.jsonl"
        file.write_text("1\n")

        [receipt] = cli("publish", "ticks", "1", "--ephemeral", "--json").objects
        [summary] = cli("publish", "ticks", "--from", str(file), "--ephemeral", "--json").objects

        assert receipt == {"id": "", "duplicate": False, "durability": "none", "listeners": 0}
        assert summary.pop("seconds") >= 0
        assert summary == {"topic": "ticks", "published": 1, "listeners": 0}

    def test_a_topic_that_others_keep(self, cli: Cli, client: Client) -> None:
        """Who publishes or listens past the subscriptions of a topic is told that they get nothing."""
        keep(client, Topic("ticks"))

        published = cli("publish", "ticks", "1", "--ephemeral")
        heard = cli("subscribe", "ticks", "--ephemeral", "--wait", "0")

        assert (published.status, published.out) == (0, "0 listeners\n")
        for done in (published, heard):
            assert "topic 'ticks' is used without --ephemeral, too: its subscriptions" in done.err

    def test_who_may_not_ask(
        self, cli: Cli, admin: redis.Redis, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user who may do nothing but publish is not kept from it by a question about the topic."""
        admin.acl_setuser(
            "only-publish",
            reset=True,
            enabled=True,
            nopass=True,
            channels=["*"],
            commands=["+publish", "+info"],
        )
        monkeypatch.setenv("MILLSTREAM_URL", url.replace("suite", "only-publish"))
        try:
            done = cli("publish", "ticks", "1", "--ephemeral")
        finally:
            admin.acl_deluser("only-publish")

        assert (done.status, done.out, done.err) == (0, "0 listeners\n", "")

    def test_nothing_is_kept(self, cli: Cli, admin: redis.Redis, namespace: str) -> None:
        """It leaves no key behind."""
        cli("publish", "ticks", "1", "--ephemeral")

        assert list(admin.scan_iter(f"{namespace}:*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["orders.placed"], "give either BODY arguments or --from FILE"),
        (["orders.placed", "1", "{"], "BODY 2 is not JSON"),
        (["orders.placed", "1", "--subject", "a..b"], "subject must be"),
        (["orders.placed", "1", "--header", "x"], "--header takes NAME=VALUE"),
        (["orders.placed/mail", "1"], "the topic's name must be"),
        (["orders.*", "1"], "only be listened to"),
        (["ticks.*", "1", "--ephemeral"], "it can be listened to, not published on"),
        (["ticks", "1", "--ephemeral", "--key", "k"], "leave out --key"),
        (["ticks", "1", "--ephemeral", "--partitions", "2"], "leave out --key"),
        ([os.fsdecode(b"\xff"), "1"], "must be valid UTF-8"),
    ],
)
def test_bad_usage(
    cli: Cli, admin: redis.Redis, namespace: str, words: list[str], said: str
) -> None:
    """What is wrong is said in a line; the status is 2, and nothing is published."""
    done = cli("publish", *words)

    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err
    assert list(admin.scan_iter(f"{namespace}:*")) == []
