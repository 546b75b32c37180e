"""`millstream replay`."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

from millstream import Client, Queue, Retain, Topic
from tests.cli.conftest import Cli, Spawn, keep
from tests.cli.terminal import on_a_terminal, plain

PLACED: Topic[Any] = Topic("orders.placed")
LEDGER: Topic[Any] = Topic("ledger", ordered=True, partitions=4)


@pytest.fixture
def kept(client: Client) -> None:
    """What is published stays."""
    keep(client, PLACED)
    keep(client, LEDGER)


def shown(output: str) -> list[Any]:
    return [json.loads(line)["body"] for line in output.splitlines()]


@pytest.mark.usefixtures("kept")
def test_shape(cli: Cli, client: Client) -> None:
    """A message is one JSON object with all that is kept of it."""
    receipt = client.publish(PLACED, {"id": 1}, headers={"a": "b"}, subject="eu.paid", key="k")

    done = cli("replay", "orders.placed")

    [message] = done.objects
    assert (done.status, done.err) == (0, "")
    assert message.pop("sent_at").endswith("Z")
    assert message == {
        "id": receipt.id,
        "body": {"id": 1},
        "headers": {"a": "b"},
        "key": "k",
        "subject": "eu.paid",
    }


@pytest.mark.usefixtures("kept")
def test_a_stretch(cli: Cli, client: Client) -> None:
    """It can begin and end at a message or a time, be filtered, and be cut."""
    receipts = client.publish_many(
        PLACED, range(10), subject=lambda n: "even" if n % 2 == 0 else "odd"
    )
    ids = [receipt.id for receipt in receipts]
    [first] = cli("replay", "orders.placed", "--limit", "1").objects

    def bodies(*words: str) -> list[Any]:
        return shown(cli("replay", "orders.placed", *words).out)

    assert bodies("--since", ids[3]) == [*range(3, 10)]
    assert bodies("--since", ids[3], "--until", ids[5]) == [3, 4, 5]
    assert bodies("--since", first["sent_at"]) == [*range(10)]
    assert bodies("--until", first["sent_at"]) == []
    assert bodies("--filter", "odd", "--limit", "2") == [1, 3]


def test_no_subscription_notices(cli: Cli, client: Client) -> None:
    """What waits for a subscription waits on, and none is made."""
    client.declare(PLACED.subscription("mail"))
    client.publish_many(PLACED, [1, 2])

    assert shown(cli("replay", "orders.placed").out) == [1, 2]
    assert client.subscriptions(PLACED) == ["mail"]
    assert client.stats(PLACED.subscription("mail")).ready == 2


@pytest.mark.usefixtures("kept")
def test_all_partitions(cli: Cli, client: Client) -> None:
    """It finds the partitions of an ordered topic by itself, and merges them by time."""
    client.publish_many(LEDGER, range(20), key=lambda n: f"k-{n % 8}")

    rows = cli("replay", "ledger").objects

    assert sorted(row["body"] for row in rows) == [*range(20)]
    assert [row["sent_at"] for row in rows] == sorted(row["sent_at"] for row in rows)


def test_a_queue_that_keeps(cli: Cli, client: Client) -> None:
    """--queue shows what a queue has handled and kept, and when; ids are no place in it."""
    orders: Queue[Any] = Queue("orders", keep=Retain(max_length=10))
    ids = [receipt.id for receipt in client.send_many(orders, [1, 2])]
    for delivery in client.receive(orders, wait=0):
        delivery.ack()

    rows = cli("replay", "orders", "--queue").objects
    late = cli("replay", "orders", "--queue", "--since", "2999-01-01T00:00Z")
    by_id = cli("replay", "orders", "--queue", "--since", ids[0])
    filtered = cli("replay", "orders", "--queue", "--filter", "a")

    assert [(row["id"], row["body"]) for row in rows] == [(ids[0], 1), (ids[1], 2)]
    assert rows[0]["sent_at"] <= rows[0]["handled_at"] <= rows[1]["handled_at"]
    assert (late.out, late.err) == ("", "millstream: no such message in queue 'orders'\n")
    assert (by_id.status, filtered.status) == (2, 2)
    assert "since must be a datetime for a queue" in by_id.err


@pytest.mark.usefixtures("kept")
def test_bodies_of_any_kind(cli: Cli, client: Client) -> None:
    """Digits survive, and what is not JSON is shown as base64."""
    raw = Topic("orders.placed", bytes)
    client.publish_many(raw, [b"[1.10, 12345678901234567890123]", b"\xff\x00"])

    out = cli("replay", "orders.placed").out

    assert '"body":[1.10,12345678901234567890123],' in out
    assert shown(out)[1] == {"base64": "/wA="}


def test_nothing_there(cli: Cli) -> None:
    """It says so on stderr, and ends with 0."""
    done = cli("replay", "oders.placed")

    assert (done.status, done.out) == (0, "")
    assert done.err == "millstream: no such message in topic 'oders.placed'\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "yesterday"], "--since takes a time such as"),
        (["--until", "2026-01-01"], "--until needs a time zone, such as 2026-01-01T00:00+01:00"),
        (["--until", "1-x"], "or the id of a message"),
        (["--limit", "0"], "--limit"),
        (["--filter", "a..b"], "filter must be"),
    ],
)
def test_bad_usage(cli: Cli, words: list[str], said: str) -> None:
    """What is wrong is said in a line, and the status is 2."""
    done = cli("replay", "orders.placed", *words)

    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err


@pytest.mark.usefixtures("kept")
def test_head(url: str, namespace: str, client: Client) -> None:
    """`| head` ends it with 0, long before the end."""
    client.publish_many(PLACED, [f"{n:05} {'x' * 1000}" for n in range(5000)])
    command = f"{sys.executable} -m millstream replay orders.placed --namespace {namespace}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 2; echo ${{PIPESTATUS[0]}}"],
        env={**os.environ, "MILLSTREAM_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )

    first, second, status = done.stdout.splitlines()
    assert (status, done.stderr) == ("0", "")
    assert [json.loads(line)["body"][:5] for line in (first, second)] == ["00000", "00001"]


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_a_long_history_takes_little_memory(spawn: Spawn, client: Client) -> None:
    """A history of 100 MB passes through a process that may not have half of it."""
    text = "x" * 10_000
    for _ in range(10):
        client.publish_many(PLACED, [text] * 1000)
    # A bare interpreter with the library maps some 150 MB already, most of which it never touches.
    spare = 60 * 2**20
    process = spawn(
        "replay",
        "orders.placed",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (spare, spare)),
    )
    assert process.stdout is not None
    count = sum(1 for _ in process.stdout)

    assert process.stderr is not None
    assert (process.wait(60), process.stderr.read(), count) == (0, "", 10_000)


@pytest.mark.usefixtures("kept")
def test_on_a_terminal(spawn: Spawn, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """People see time, id, subject, key, headers and the body; strangers cannot steer the terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    receipt = client.publish(
        PLACED, {"id": 1}, subject="eu.paid", key="c-7", headers={"a": "\x1b[2J"}
    )
    long = {"text": "y" * 100, "price": 1}
    client.publish(PLACED, long)

    lines = plain(on_a_terminal(spawn, 80, "replay", "orders.placed")).splitlines()

    time, *rest = lines[0].split("  ")
    assert rest == [receipt.id, "eu.paid", "key=c-7"]
    assert time.endswith("Z")
    assert lines[1:3] == [r"  a: \x1b[2J", '  {"id":1}']
    assert json.loads("".join(lines[4:])) == long
    assert lines[4] == "  {"
    # The time can be pasted.
    [again] = on_a_terminal(
        spawn, 80, "replay", "orders.placed", "--since", time, "--limit", "1", "--json"
    ).splitlines()
    assert json.loads(again)["id"] == receipt.id


@pytest.mark.usefixtures("kept")
def test_colours(spawn: Spawn, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there are colours; nothing else has any."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    client.publish(PLACED, {"id": 1})

    assert "\x1b[36m" in on_a_terminal(spawn, 80, "replay", "orders.placed")
    assert "\x1b" not in on_a_terminal(spawn, 80, "replay", "orders.placed", "--json")
