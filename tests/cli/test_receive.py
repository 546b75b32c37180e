"""`millstream receive`: what is shown, what is acknowledged, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import redis

from millstream import Client, Queue
from millstream.cli.taking import may_block
from millstream.message import QueueStats
from tests.cli.conftest import Cli, Spawn
from tests.support.wait import until


def counts(stats: QueueStats) -> tuple[int, int, int, int]:
    """Ready, acknowledged, in flight, lost to dead consumers or dead."""
    return stats.ready, stats.acked, stats.in_flight, stats.crashed + stats.died


def ids(output: str) -> list[str]:
    return [json.loads(line)["id"] for line in output.splitlines()]


def test_shape(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """A message is one JSON object with everything that a consumer knows of it."""
    receipt = client.send(queue, {"id": 1}, headers={"a": "b"})
    (message,) = client.peek(queue)

    done = cli("receive", "orders")

    assert (done.status, done.err) == (0, "")
    (shown,) = done.objects
    assert shown == {
        "id": receipt.id,
        "body": {"id": 1},
        "headers": {"a": "b"},
        "attempt": 1,
        "crashes": 0,
        "sent_at": shown["sent_at"],
        "key": None,
        "subject": None,
    }
    assert message.sent_at.isoformat(timespec="milliseconds")[:23] == shown["sent_at"][:23]
    assert shown["sent_at"].endswith("Z")
    assert counts(client.stats(queue)) == (0, 1, 0, 0)


def test_empty_queue(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Without a message it stops at once, says so on stderr, and ends with 0."""
    client.send(queue, 1)
    client.purge(queue, confirm=True)

    done = cli("receive", "orders")

    assert (done.status, done.out) == (0, "")
    assert done.err == "millstream: no message in queue 'orders'\n"


@pytest.mark.parametrize("count", [1, 3, 130])
def test_count(cli: Cli, client: Client, queue: Queue[Any], count: int) -> None:
    """It takes so many and leaves the rest in order, what was fetched ahead included."""
    receipts = client.send_many(queue, range(250))

    done = cli("receive", "orders", "--count", str(count))

    assert ids(done.out) == [receipt.id for receipt in receipts[:count]]
    assert counts(client.stats(queue)) == (250 - count, count, 0, 0)
    rest = client.peek(queue, limit=250)
    assert [message.body for message in rest] == list(range(count, 250))


def test_no_ack(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each message is shown once and is back afterwards: same order, no attempt, no crash."""
    receipts = client.send_many(queue, range(250))

    done = cli("receive", "orders", "--no-ack")

    assert ids(done.out) == [receipt.id for receipt in receipts]
    assert counts(client.stats(queue)) == (250, 0, 0, 0)
    again = cli("receive", "orders")
    assert [shown["body"] for shown in again.objects] == list(range(250))
    assert {shown["attempt"] for shown in again.objects} == {1}


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\xff\x00", {"base64": "/wA="}),
        (b"hello", {"base64": "aGVsbG8="}),
        (b"", {"base64": ""}),
        (b"{\n}", {}),
    ],
)
def test_any_body_is_shown(
    cli: Cli,
    client: Client,
    queue: Queue[Any],
    namespace: str,
    admin: redis.Redis,
    data: bytes,
    shown: object,
) -> None:
    """A body that is not JSON is shown, too, and not moved to the dead letters by looking."""
    admin.xadd(f"{namespace}:{{orders}}:ready", {"b": data})

    assert [one["body"] for one in cli("receive", "orders", "--no-ack").objects] == [shown]
    assert counts(client.stats(queue)) == (1, 0, 0, 0)


def test_digits_survive(cli: Cli, namespace: str, admin: redis.Redis) -> None:
    """Numbers are shown with all their digits."""
    admin.xadd(f"{namespace}:{{orders}}:ready", {"b": b"[1.10, 123456789012345678901234]"})

    assert '"body":[1.10,123456789012345678901234],' in cli("receive", "orders").out


def test_wait(spawn: Spawn, client: Client, queue: Queue[Any]) -> None:
    """With --wait it waits for the next message, and stops when none comes."""
    process = spawn("receive", "orders", "--wait", "5", "--count", "1")
    until(lambda: client.stats(queue).consumers)
    receipt = client.send(queue, 1)

    out, err = process.communicate(timeout=20)
    assert (process.returncode, ids(out)) == (0, [receipt.id])
    assert err.startswith("millstream: nobody has used queue 'orders' yet")


def test_wait_in_vain(cli: Cli) -> None:
    """When the time is over it ends with 0."""
    assert cli("receive", "orders", "--wait", "0.05").status == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("flag", [[], ["--no-ack"]])
def test_signal_while_waiting(
    spawn: Spawn, client: Client, queue: Queue[Any], number: int, status: int, flag: list[str]
) -> None:
    """A signal ends the wait at once; nothing stays behind in flight."""
    client.send_many(queue, [1, 2, 3])
    process = spawn("receive", "orders", "--follow", *flag)
    assert process.stdout is not None
    shown = [process.stdout.readline() for _ in range(3)]
    until(lambda: counts(client.stats(queue))[1] == (0 if flag else 3))
    process.send_signal(number)

    assert process.stderr is not None
    assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert process.wait(20) == status
    assert len(set(ids("".join(shown)))) == 3
    expected = (3, 0, 0, 0) if flag else (0, 3, 0, 0)
    assert counts(client.stats(queue)) == expected


@pytest.mark.parametrize("flag", [[], ["--no-ack"]])
@pytest.mark.parametrize("lines", [1, 2, 150, 700])
def test_signal_in_full_flow(
    spawn: Spawn, client: Client, queue: Queue[Any], lines: int, flag: list[str]
) -> None:
    """Whenever Ctrl-C comes: what was acknowledged is exactly what was shown."""
    receipts = client.send_many(queue, range(2000))
    process = spawn("receive", "orders", *flag)
    assert process.stdout is not None
    begin = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    rest, err = process.stdout.read(), process.stderr.read()

    shown = ids("".join(begin) + rest)
    assert (process.wait(20), err) == (130, "")
    assert shown == [receipt.id for receipt in receipts[: len(shown)]]
    acked = 0 if flag else len(shown)
    assert counts(client.stats(queue)) == (2000 - acked, acked, 0, 0)
    assert [message.body for message in client.peek(queue, limit=2000)] == list(range(acked, 2000))


def test_a_pipe_that_nobody_reads_any_more(spawn: Spawn, client: Client, queue: Queue[Any]) -> None:
    """When the output is closed, the message that was not shown stays, and the status is 0."""
    client.send_many(queue, [1, 2, 3])
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("receive", "orders", "--follow", stdout=writer)
    os.close(writer)

    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert counts(client.stats(queue)) == (3, 0, 0, 0)


@pytest.mark.parametrize("flag", ["", "--no-ack"])
def test_head(url: str, namespace: str, client: Client, queue: Queue[Any], flag: str) -> None:
    """`| head` ends it with 0, and no message is lost on the way."""
    client.send_many(queue, [f"{n:05} {'x' * 1000}" for n in range(2000)])
    command = f"{sys.executable} -m millstream receive orders --namespace {namespace} {flag}"
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
    ready, acked, *others = counts(client.stats(queue))
    assert others == [0, 0]
    assert ready + acked == 2000
    assert ready > 1500  # what the pipe has taken counts as shown, and it takes little


def test_a_full_disk(spawn: Spawn, client: Client, queue: Queue[Any]) -> None:
    """When a line cannot be written, its message is not acknowledged, and the status is 1."""
    client.send(queue, 1)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        process = spawn("receive", "orders", stdout=full)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert err.splitlines() == ["millstream: [Errno 28] No space left on device"]
    assert counts(client.stats(queue)) == (1, 0, 0, 0)


def test_a_reader_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known beforehand when writing may take long, so that the lease can be kept up."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert not may_block(b"short\n")
        assert may_block(b"x" * 100_000)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        assert may_block(b"short\n")


def test_json_is_accepted(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """--json, which other commands have, changes nothing."""
    client.send(queue, 1)

    assert cli("receive", "orders", "--json").objects[0]["body"] == 1
