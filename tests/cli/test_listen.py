"""`millstream subscribe --ephemeral`: what is heard, and what was missed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from millstream import Client, Heard, Missed, Topic
from millstream.cli.messages import heard_page
from tests.cli.conftest import Cli, Spawn
from tests.cli.terminal import plain
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

TICKS: Topic[Any] = Topic("ticks", durable=False)
START = 30.0  # seconds for a process to start on a busy machine


def publish_when_heard(client: Client, topic: Topic[Any], body: Any, **options: Any) -> None:
    """Publish as soon as somebody listens."""
    until(lambda: client.publish(topic, body, **options).listeners, timeout=START)


def next_of(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_shape(spawn: Spawn, client: Client) -> None:
    """A message is one JSON object with all that a listener knows of it, and when it came."""
    process = spawn("subscribe", "ticks", "--ephemeral", "--count", "2")
    publish_when_heard(client, TICKS, {"EUR": 1.1}, subject="eu", headers={"a": "b"})
    client.publish(Topic("ticks", bytes, durable=False), b"1.10")

    out, err = process.communicate(timeout=20)

    first, second = out.splitlines()
    shown = json.loads(first)
    assert (process.returncode, err) == (0, "")
    assert shown.pop("received_at").endswith("Z")
    assert shown == {
        "topic": "ticks",
        "body": {"EUR": 1.1},
        "headers": {"a": "b"},
        "subject": "eu",
    }
    assert second.startswith('{"topic":"ticks","body":1.10,')


def test_wait_in_vain(cli: Cli) -> None:
    """With --wait it ends with 0 when nothing came, and says so."""
    done = cli("subscribe", "ticks", "--ephemeral", "--wait", "0.05")

    assert (done.status, done.out) == (0, "")
    assert done.err == "millstream: nothing was published on topic 'ticks'\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it(spawn: Spawn, client: Client, number: int, status: int) -> None:
    """It listens until a signal comes, and ends at once, with whole lines."""
    process = spawn("subscribe", "ticks", "--ephemeral")
    publish_when_heard(client, TICKS, 1)
    assert next_of(process)["body"] == 1
    process.send_signal(number)

    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (status, "", "")
    assert client.publish(TICKS, 2).listeners == 0


def test_a_pipe_that_nobody_reads_any_more(spawn: Spawn, client: Client) -> None:
    """When the output is closed, it ends with 0 at the next message."""
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("subscribe", "ticks", "--ephemeral", stdout=writer)
    os.close(writer)
    publish_when_heard(client, TICKS, 1)

    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_a_pattern_and_a_gap(spawn: Spawn, namespace: str) -> None:
    """A pattern hears many topics; a lost connection is a line of its own, in its place."""
    eu: Topic[Any] = Topic("ticks.eu", durable=False)
    us: Topic[Any] = Topic("ticks.us.ny", durable=False)
    with Server() as server, Proxy(server.port) as proxy:
        process = spawn("subscribe", "ticks.>", "--ephemeral", "--url", proxy.url, "--count", "2")
        with Client(server.url, namespace=namespace) as client:
            publish_when_heard(client, eu, 1)
            first = next_of(process)
            proxy.cut()
            gap = next_of(process)
            publish_when_heard(client, us, 2)
            second = next_of(process)

    assert (first["topic"], first["body"]) == ("ticks.eu", 1)
    assert gap.pop("received_at").endswith("Z")
    assert gap == {"missed": {"dropped": 0, "reconnected": True}}
    assert (second["topic"], second["body"]) == ("ticks.us.ny", 2)
    assert process.wait(20) == 0


def test_a_server_that_is_lost(spawn: Spawn) -> None:
    """When it does not come back, it ends with 1 and the reason in a line."""
    with Server() as server:
        process = spawn("subscribe", "ticks", "--ephemeral", "--url", server.url)
        admin: Any = server.admin()
        until(admin.pubsub_channels, timeout=START)
        server.kill()
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (1, "")
    assert "cannot reach" in err.splitlines()[-1]


def test_on_a_terminal(spawn: Spawn, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """People are told that it listens, and see time, topic, subject, headers and body."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    process = spawn("subscribe", "ticks", "--ephemeral", "--count", "1", stdout=theirs)
    os.close(theirs)
    publish_when_heard(client, TICKS, {"EUR": 1.5}, subject="eu", headers={"a": "b"})
    assert process.wait(20) == 0
    shown = os.read(ours, 65_536).decode()
    os.close(ours)

    head, *rest = plain(shown).splitlines()
    assert head.split("  ")[1:] == ["ticks", "eu"]
    assert rest == ["  a: b", '  {"EUR":1.5}']
    assert "\x1b[36m" in shown
    assert process.stderr is not None
    assert process.stderr.read() == "millstream: listening to ticks; Ctrl-C ends it\n"


@pytest.mark.parametrize(
    ("missed", "said"),
    [
        (Missed(dropped=1200), "missed: 1,200 messages came faster than they could be shown"),
        (Missed(reconnected=True), "missed: the connection was lost and is back: "),
        (Missed(dropped=1, reconnected=True), "is gone; 1 message came faster than it could"),
    ],
)
def test_gaps_for_people(missed: Missed, said: str) -> None:
    """A gap is a line that says what was missed, as far as is known."""
    now = datetime(2026, 1, 1, tzinfo=UTC)

    line = heard_page(missed, now).decode()

    assert line.startswith("2026-01-01T00:00:00.000Z  missed: ")
    assert said in line
    assert line.count("\n") == 1


def test_strangers_cannot_steer_the_terminal() -> None:
    """Control characters in what was published are shown, not obeyed."""
    heard = Heard(body=b'"\\u001b[2J"', topic="a", headers={"\x1b[1m": "\x07"}, subject="s")

    page = heard_page(heard, datetime(2026, 1, 1, tzinfo=UTC)).decode()

    assert "\x1b" not in page
    assert r"\x1b[1m: \x07" in page
    assert page.encode(sys.stdout.encoding)
