"""`millstream redrive` and `millstream purge`."""

from __future__ import annotations

import os
import pty
from typing import Any

import pytest

from millstream import Client, Queue
from tests.cli.conftest import Cli, Spawn


@pytest.fixture
def letters(client: Client, queue: Queue[Any]) -> list[str]:
    """Ids of three dead letters."""
    receipts = client.send_many(queue, [1, 2, 3])
    deliveries = client.receive(queue)
    for reason in ("out of stock", "out of money", "attempts"):
        next(deliveries).reject(reason)
    deliveries.close()
    return [receipt.id for receipt in receipts]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--all"], [1, 2, 3]),
        (["--all", "--rate", "1000"], [1, 2, 3]),
        (["--reason", "attempts"], [3]),
        (["--reason", "out of *"], [1, 2]),
        (["--reason", "attempt"], []),
        (["--id", "$0", "--id", "$2"], [1, 3]),
        (["--id", "$0", "--id", "$2", "--reason", "out*"], [1]),
    ],
)
def test_redrive(
    cli: Cli,
    client: Client,
    queue: Queue[Any],
    letters: list[str],
    words: list[str],
    expected: list[int],
) -> None:
    """What was chosen is back in the queue, under the same id, and nothing else."""
    words = [letters[int(word[1])] if word.startswith("$") else word for word in words]

    done = cli("redrive", "orders", *words)

    assert done.status == 0
    plural = "" if len(expected) == 1 else "s"
    assert done.out == f"{len(expected)} message{plural} sent back to orders\n"
    back = client.peek(queue)
    assert [message.body for message in back] == expected
    assert [message.id for message in back] == [letters[n - 1] for n in expected]
    assert client.stats(queue).dead == 3 - len(expected)


def test_redrive_as_json(cli: Cli, letters: list[str]) -> None:
    """A script gets the number; an id that is not there is a note on stderr."""
    done = cli("redrive", "orders", "--id", letters[0], "--id", "1-0", "--json")

    assert done.objects == [{"queue": "orders", "redriven": 1}]
    assert done.err == "millstream: 1 of 2 ids were found in the dead letters\n"


def test_purge(cli: Cli, client: Client, queue: Queue[Any], letters: list[str]) -> None:
    """--yes deletes what is ready and delayed; --dead the dead letters."""
    client.send_many(queue, [4, 5, 6])
    deliveries = client.receive(queue, prefetch=1)
    next(deliveries).retry(delay=60)
    deliveries.close()

    assert cli("purge", "orders", "--yes").out == "3 messages deleted from orders\n"
    stats = client.stats(queue)
    assert (stats.ready, stats.delayed, stats.dead) == (0, 0, len(letters))
    assert cli("purge", "orders", "--yes", "--dead", "--json").objects == [
        {"queue": "orders", "purged": 3}
    ]
    assert client.stats(queue).dead == 0


@pytest.mark.parametrize(
    ("answer", "status", "left"), [("y\n", 0, 0), ("YES\n", 0, 0), ("\n", 1, 2), ("no\n", 1, 2)]
)
@pytest.mark.parametrize("dead", [False, True])
def test_purge_asks_on_a_terminal(
    spawn: Spawn,
    client: Client,
    queue: Queue[Any],
    letters: list[str],
    answer: str,
    status: int,
    left: int,
    dead: bool,
) -> None:
    """On a terminal it says what would be deleted, and does so only after a yes."""
    client.send_many(queue, [4, 5])
    ours, theirs = pty.openpty()
    process = spawn("purge", "orders", *(["--dead"] if dead else []), stdin=theirs)
    os.close(theirs)
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=20)
    os.close(ours)

    what = "3 dead letters" if dead else "2 messages"
    assert process.returncode == status
    assert err.startswith(f"Delete {what} of orders at unix://suite:***@")
    assert out == (f"{what} deleted from orders\n" if status == 0 else "")
    assert ("nothing was deleted" in err) == (status == 1)
    stats = client.stats(queue)
    expected = (left and 2, 3) if not dead else (2, left and 3)
    assert (stats.ready, stats.dead) == expected
