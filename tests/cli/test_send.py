"""`millstream send`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from millstream import AsyncClient, Client, Queue, Results, Worker
from tests.cli.conftest import Cli, Spawn
from tests.support.servers import Server
from tests.support.wait import until


def bodies(client: Client, queue: Queue[Any]) -> list[Any]:
    return [message.body for message in client.peek(queue, limit=10_000)]


def test_bodies_from_the_command_line(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each BODY becomes a message, in order; their ids are printed."""
    done = cli("send", "orders", '{"id": 1}', "2", '"three"', "null")

    messages = client.peek(queue)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [message.id for message in messages]
    assert [message.body for message in messages] == [{"id": 1}, 2, "three", None]


def test_bodies_are_stored_as_they_are(cli: Cli, client: Client) -> None:
    """Digits survive that a float would lose."""
    text = '{"price": 1.10, "n": 123456789012345678901}'
    cli("send", "orders", f" {text} ")

    assert client.peek(Queue("orders", bytes))[0].body == text.encode()


def test_receipts_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """With --json it prints a receipt a line."""
    done = cli("send", "orders", "1", "2", "--json")

    assert done.objects == [
        {"id": message.id, "duplicate": False, "durability": "memory"}
        for message in client.peek(queue)
    ]


def test_headers(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Headers go with every message; a value may contain an equals sign or be empty."""
    cli("send", "orders", "1", "2", "--header", "q=a=b", "--header", "empty=")

    assert [message.headers for message in client.peek(queue)] == [{"q": "a=b", "empty": ""}] * 2


@pytest.mark.parametrize("options", [[], ["--json"], ["--delay", "0.01", "--unique", "u"]])
def test_a_result(cli: Cli, url: str, namespace: str, options: list[str]) -> None:
    """With --result it waits for what the handler returns, and prints that as JSON."""
    queue: Queue[Any] = Queue("orders", results=Results())
    worker = Worker()
    worker.on(queue)(lambda body: None if body == 0 else {"twice": [2 * body]})
    with _beside(worker, url, namespace):
        done = cli("send", "orders", "21", "--result", "--timeout", "20", *options)
        assert (done.status, done.objects, done.err) == (0, [{"twice": [42]}], "")
        assert cli("send", "orders", "0", "--result").objects == [None]
        text = cli("send", "orders", '"x"', "--result")
    assert (text.status, text.out) == (0, '{"twice":["xx"]}\n')


def test_no_result(cli: Cli, client: Client) -> None:
    """It says why in a line, and exits with 1; wrong uses are told before anything is sent."""
    done = cli("send", "orders", "1", "--result", "--timeout", "0.01")
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"millstream: queue 'orders': no result of message .*\n", done.err)
    for mistake in (
        ["1", "2", "--result"],
        ["1", "--timeout", "1"],
        ["1", "--result", "--timeout", "-1"],
        ["1", "--result", "--store", "list"],
    ):
        assert cli("send", "other", *mistake).status == 2
    assert client.stats(Queue("other")).ready == 0


@contextmanager
def _beside(worker: Worker, url: str, namespace: str) -> Iterator[None]:
    """The worker runs in a thread until the block ends."""
    loop = asyncio.new_event_loop()

    async def work() -> None:
        async with AsyncClient(url, namespace=namespace) as mq:
            await worker.run(mq)

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(worker.stop)
        thread.join(20)
        loop.close()


def test_a_full_queue(cli: Cli, client: Client, queue: Queue[Any], tmp_path: Path) -> None:
    """With --bound it sends nothing that does not fit, says so in a line, and exits with 1."""
    assert cli("send", "orders", "1", "2", "--bound", "3").status == 0

    done = cli("send", "orders", "3", "4", "--bound", "3")

    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"millstream: queue 'orders' is full, it has 2 messages .*\n", done.err)
    assert bodies(client, queue) == [1, 2]
    for mistake in (["1", "--bound", "0"], ["--from", str(tmp_path), "--bound", "3"]):
        assert cli("send", "orders", *mistake).status == 2


def test_nothing_is_sent_when_one_body_is_bad(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """All bodies are checked before the first is sent."""
    done = cli("send", "orders", "1", "{")

    assert done.status == 2
    assert "BODY 2 is not JSON" in done.err
    assert bodies(client, queue) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": 1}\n\n{"id": 2}\n', [{"id": 1}, {"id": 2}]),
        ('[{"id": 1},\n {"id": 2}]', [{"id": 1}, {"id": 2}]),
        ("[1]\n[2]\n", [[1], [2]]),
        ('{\n  "id": 1\n}\n', [{"id": 1}]),
        ("", []),
    ],
)
def test_from_a_file(
    cli: Cli, client: Client, queue: Queue[Any], tmp_path: Path, text: str, expected: list[Any]
) -> None:
    """--from sends lines, the elements of an array, or one document."""
    file = tmp_path / "orders.json"
    file.write_text(text)

    done = cli("send", "orders", "--from", str(file), "--header", "a=b")

    count = f"{len(expected)} message{'' if len(expected) == 1 else 's'}"
    assert done.status == 0
    assert re.fullmatch(rf"{count} sent to orders in [\d.]+s\n", done.out)
    assert bodies(client, queue) == expected


def test_from_standard_input(spawn: Spawn, client: Client, queue: Queue[Any]) -> None:
    """--from - reads standard input; the summary can be JSON."""
    out, err = spawn("send", "orders", "--from", "-", "--json").communicate("1\n2\n")

    summary = json.loads(out)
    assert err == ""
    assert summary.pop("seconds") >= 0
    assert summary == {"queue": "orders", "sent": 2}
    assert bodies(client, queue) == [1, 2]


def test_a_slow_pipe_does_not_hold_messages_up(
    spawn: Spawn, client: Client, queue: Queue[Any]
) -> None:
    """A line is sent when it arrives, not when a batch is full."""
    process = spawn("send", "orders", "--from", "-")
    assert process.stdin is not None
    process.stdin.write("1\n")
    process.stdin.flush()

    until(lambda: client.stats(queue).ready == 1)
    process.communicate("2\n")
    assert bodies(client, queue) == [1, 2]


def test_a_big_file(cli: Cli, client: Client, queue: Queue[Any], tmp_path: Path) -> None:
    """A file of many batches arrives whole and in order."""
    file = tmp_path / "big.jsonl"
    file.write_text("".join(f'{{"id":{n},"text":"{"x" * 90}"}}\n' for n in range(30_000)))

    done = cli("send", "orders", "--from", str(file), "--json")

    assert done.err == ""  # no progress bar where nobody watches
    assert done.objects[0]["sent"] == 30_000 == client.stats(queue).ready
    sample = client.peek(queue, limit=5000)
    assert [message.body["id"] for message in sample] == list(range(5000))


def test_a_bad_line(cli: Cli, client: Client, queue: Queue[Any], tmp_path: Path) -> None:
    """It names the line, what was sent before, and where to go on, which then works."""
    lines = [str(n) for n in range(2500)]
    lines[2100] = "oops"
    file = tmp_path / "orders.jsonl"
    file.write_text("\n".join(lines) + "\n")

    done = cli("send", "orders", "--from", str(file))

    assert (done.status, done.out) == (2, "")
    assert f"{file}: line 2101: not JSON" in done.err
    assert "2,000 messages were sent before: go on with line 2001" in done.err
    assert len(done.err.splitlines()) == 1
    assert bodies(client, queue) == list(range(2000))


def test_a_bad_line_with_nothing_before(cli: Cli, tmp_path: Path) -> None:
    """When nothing was sent it says so."""
    file = tmp_path / "orders.jsonl"
    file.write_text("1\n2\noops\n")

    done = cli("send", "orders", "--from", str(file))

    assert done.status == 2
    assert "line 3: not JSON" in done.err
    assert "0 messages were sent before" in done.err


@pytest.mark.slow
def test_a_server_that_is_lost_on_the_way(spawn: Spawn) -> None:
    """It says how much was sent for sure, and ends with 1."""
    with Server() as server:
        words = ["send", "orders", "--from", "-", "--url", server.url]
        process = spawn(*words)
        assert process.stdin is not None
        process.stdin.write("1\n")
        process.stdin.flush()
        # Before the first message the server knows no such key.
        until(lambda: server.admin().dbsize() >= 2)
        server.kill()

        out, err = process.communicate("2\n", timeout=40)

    assert (process.returncode, out) == (1, "")
    assert "1 message was sent before: go on with line 2" in err.splitlines()[-1]


def test_interrupted_while_reading(spawn: Spawn, client: Client, queue: Queue[Any]) -> None:
    """Ctrl-C says how much was sent, and ends with 130."""

    def stored(count: int) -> bool:
        return client.stats(queue).ready == count

    process = spawn("send", "orders", "--from", "-")
    assert process.stdin is not None
    for count in (1, 2):
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        until(partial(stored, count))
    process.send_signal(signal.SIGINT)

    # The end of the pipe stays open: it is the signal that ends the command.
    assert process.wait(20) == 130
    assert process.stderr is not None
    # The command may not have heard yet that the second one is there.
    assert process.stderr.read() in (
        "millstream: stopped; 1 message was sent before: go on with line 2\n",
        "millstream: stopped; 2 messages were sent before: go on with line 3\n",
    )


def test_standard_input_that_is_closed(spawn: Spawn) -> None:
    """Without a standard input --from - ends with 2 and not with a traceback."""
    process = spawn("send", "orders", "--from", "-", stdin=None, preexec_fn=lambda: os.close(0))

    _, err = process.communicate()
    assert (process.returncode, err) == (2, "millstream: standard input is closed\n")


def test_a_durability_that_is_confirmed_or_not(
    cli: Cli, client: Client, queue: Queue[Any], tmp_path: Path
) -> None:
    """Without replicas, ids of what is stored are printed, the exit status is 1, and a file is not repeated."""
    done = cli("send", "orders", "1", "--durability", "replicas:1", "--json")
    [message] = client.peek(queue)
    assert done.status == 1
    assert done.objects == [{"id": message.id, "duplicate": False, "durability": "memory"}]
    assert "is stored, but 'replicas:1' was not confirmed" in done.err

    file = tmp_path / "orders.jsonl"
    file.write_text("2\n3\n")
    done = cli("send", "orders", "--from", str(file), "--durability", "replicas:1")
    assert done.status == 1
    assert "2 messages were sent before" in done.err
    assert bodies(client, queue) == [1, 2, 3]

    assert cli("send", "orders", "4", "--durability", "memory").status == 0


def test_no_such_durability(cli: Cli) -> None:
    """A word that means nothing is refused before anything is sent."""
    for words in (("send", "orders"), ("publish", "orders")):
        done = cli(*words, "1", "--durability", "disk")
        assert done.status == 2
        assert "--durability must be 'memory', 'fsync' or 'replicas:N'" in done.err
