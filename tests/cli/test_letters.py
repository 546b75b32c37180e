"""`millstream peek` and `millstream dead`."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from millstream import Client, Queue
from tests.cli.conftest import Cli


@pytest.fixture
def letters(client: Client, queue: Queue[Any]) -> list[str]:
    """Ids of three dead letters."""
    receipts = client.send_many(queue, [{"n": n} for n in range(3)], headers={"a": "b"})
    deliveries = client.receive(queue)
    for reason in ("out of stock", "too\x1b[31m red", "attempts"):
        next(deliveries).reject(reason)
    deliveries.close()
    return [receipt.id for receipt in receipts]


def test_peek(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """It shows the next messages and leaves them alone."""
    receipts = client.send_many(queue, [{"id": n} for n in range(12)])

    done = cli("peek", "orders")
    heading, *rows = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert heading.split() == ["id", "age", "attempts", "crashes", "body"]
    assert [row.split()[0] for row in rows] == [receipt.id for receipt in receipts[:10]]
    assert rows[3].endswith('s         0        0  {"id":3}')
    assert len(cli("peek", "orders", "--limit", "11").out.splitlines()) == 12
    assert client.stats(queue).ready == 12


def test_peek_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each message is one object."""
    receipt = client.send(queue, {"id": 1}, headers={"a": "b"})

    (shown,) = cli("peek", "orders", "--json").objects
    assert shown.pop("sent_at").endswith("Z")
    assert shown == {
        "id": receipt.id,
        "body": {"id": 1},
        "headers": {"a": "b"},
        "attempts": 0,
        "crashes": 0,
        "due": None,
        "key": None,
        "subject": None,
        "priority": 0,
        "expires": None,
    }


def test_peek_at_delayed_messages(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """--delayed shows what waits, and when it is due."""
    receipt = client.send(queue, 1)
    deliveries = client.receive(queue)
    next(deliveries).retry(delay=133)
    deliveries.close()

    table = cli("peek", "orders", "--delayed").out.splitlines()
    assert table[0].split() == ["id", "age", "due", "in", "attempts", "crashes", "body"]
    assert "2m 1" in table[1]
    (shown,) = cli("peek", "orders", "--delayed", "--json").objects
    assert (shown["id"], shown["attempts"]) == (receipt.id, 1)
    assert shown["due"] > shown["sent_at"]


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["peek"], "no ready message in queue 'orders'"),
        (["peek", "--delayed"], "no delayed message in queue 'orders'"),
        (["dead"], "no dead letters in queue 'orders'"),
        (["dead", "--after", "1-0"], "no more dead letters in queue 'orders'"),
    ],
)
def test_nothing_to_see(
    cli: Cli, client: Client, queue: Queue[Any], words: list[str], note: str
) -> None:
    """An empty answer is no error: no data, and a note."""
    client.send(queue, 1)
    client.purge(queue, confirm=True)

    done = cli(words[0], "orders", *words[1:])

    assert (done.status, done.out, done.err) == (0, "", f"millstream: {note}\n")
    assert cli(words[0], "orders", *words[1:], "--json").out == ""


def test_dead(cli: Cli, letters: list[str]) -> None:
    """It lists dead letters with their reasons, the oldest first, and harmless to a terminal."""
    done = cli("dead", "orders")

    heading, *rows = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert heading.split() == ["id", "died", "reason", "attempts", "crashes", "error", "body"]
    assert [row.split()[0] for row in rows] == letters
    assert "out of stock" in rows[0]
    assert "too\\x1b[31m red" in rows[1]
    assert rows[2].endswith('{"n":2}')
    assert "\x1b" not in done.out


def test_dead_as_json(cli: Cli, letters: list[str]) -> None:
    """Each dead letter is one object with all that is known of it."""
    shown = cli("dead", "orders", "--json").objects

    assert [one["id"] for one in shown] == letters
    first = shown[0]
    assert first.pop("sent_at") <= first.pop("died_at")
    assert first.pop("cursor")
    assert first == {
        "id": letters[0],
        "body": {"n": 0},
        "headers": {"a": "b"},
        "reason": "out of stock",
        "error": None,
        "traceback": None,
        "attempts": 0,
        "crashes": 0,
        "key": None,
        "subject": None,
    }


def test_dead_by_pages(cli: Cli, letters: list[str]) -> None:
    """A full page says how to see the next one."""
    first = cli("dead", "orders", "--limit", "2")
    assert "there may be more: millstream dead orders --after " in first.err

    cursor = first.err.split()[-1]
    second = cli("dead", "orders", "--limit", "2", "--after", cursor)
    assert [row.split()[0] for row in second.out.splitlines()[1:]] == letters[2:]
    assert second.err == ""


def test_dead_with_traceback(
    cli: Cli, letters: list[str], namespace: str, admin: redis.Redis
) -> None:
    """--traceback shows everything, with tracebacks on lines of their own."""
    state = (
        '{"id":"1-0","attempts":5,"crashes":1,"reason":"attempts","at":1718000000000,'
        '"error":"ValueError: no","traceback":"  File \\"x.py\\"\\n    raise \\u001b"}'
    )
    admin.xadd(f"{namespace}:{{orders}}:dead", {"b": "x" * 300, "s": state})

    done = cli("dead", "orders", "--traceback")

    pages = done.out.split("\n\n1-0  attempts\n")
    assert pages[0].startswith(f"{letters[0]}  out of stock\n")
    assert "  header    a: b\n" in pages[0]
    lines = pages[1].splitlines()
    assert lines[2] == "  attempts  5, crashes 1"
    assert "x" * 300 in lines[3]
    assert lines[4:] == [
        "  error     ValueError: no",
        "",
        '    File "x.py"',
        "      raise \\x1b",
    ]
