"""`millstream server`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream import Client, Queue
from millstream.cli.app import execute
from tests.cli.conftest import Outcome
from tests.support.mortal import Mortal
from tests.support.servers import binary, free_port

Command = Callable[..., Mortal[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty directory with a short path."""
    path = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def command(folder: Path) -> Iterator[Command]:
    """Start the command as a process, its data in `folder`; it is stopped at the end."""
    started: list[Mortal[str]] = []

    def start(*words: str, **environment: str) -> Mortal[str]:
        process = Mortal[str](
            [sys.executable, "-m", "millstream", "server", "--dir", str(folder / "data"), *words],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:  # else it would leave its server where the kernel does not end it
            process.terminate()
            process.communicate(timeout=40)


@pytest.fixture
def server_cli(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command line that starts nothing in this process."""
    monkeypatch.delenv("MILLSTREAM_SERVER_PASSWORD", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "xdg"))

    def run(*words: str) -> Outcome:
        capfd.readouterr()
        status = execute(["server", *words])
        return Outcome(status, *capfd.readouterr())

    return run


def line_of(process: Mortal[str]) -> str:
    """The next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_it_runs_and_stops(command: Command) -> None:
    """It prints what to set, and nothing else on stdout; Ctrl-C stops it in order, with 0."""
    port = free_port()
    process = command("--port", str(port))

    assert line_of(process) == f"export MILLSTREAM_URL='redis://127.0.0.1:{port}'\n"
    with Client(f"redis://127.0.0.1:{port}") as mq:
        mq.send(Queue("orders"), {"id": 1})
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (0, "")
    assert [line for line in err.splitlines() if not line.startswith("millstream: ")] == []
    assert "Valkey 8.1" in err


def test_json_and_passwords(command: Command, folder: Path) -> None:
    """Scripts read one line when it is ready; the password is nowhere but with who has given it."""
    port = free_port()
    words = ["--port", str(port), "--json", "--aof", "no", "--save", "100:1"]
    process = command(*words, MILLSTREAM_SERVER_PASSWORD="geheim")  # noqa: S106 - for this test

    (ready,) = Outcome(0, line_of(process), "").objects
    (node,) = ready["nodes"]
    assert ready["url"] == f"redis://:***@127.0.0.1:{port}"
    assert (node["port"], node["directory"]) == (port, str(folder / "data"))
    assert "in 100 s" in ready["warnings"][0]
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(node["pid"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "valkey-server" in shown.stdout
    assert "geheim" not in shown.stdout
    assert "geheim" not in Path(node["config"]).read_text()
    with Client(f"redis://:geheim@127.0.0.1:{port}") as mq:
        mq.send(Queue("orders"), 1)
    process.terminate()
    out, err = process.communicate(timeout=40)
    assert (process.returncode, "geheim" in out + err) == (0, False)


def test_a_death(command: Command) -> None:
    """When the server dies, it says so and ends with 1."""
    process = command("--port", str(free_port()), "--json")

    (ready,) = Outcome(0, line_of(process), "").objects
    os.kill(ready["nodes"][0]["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert f"millstream: the server on port {ready['nodes'][0]['port']} ended: signal 9" in err


def test_it_does_not_start(command: Command, folder: Path) -> None:
    """When the server refuses its configuration, it ends with 1 and one line."""
    (folder / "users").write_text("user ann on +nothing-like-that\nuser default off\n")
    process = command("--port", str(free_port()), "--acl-file", str(folder / "users"))

    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (1, "")
    assert "nothing-like-that" in err
    assert len(err.splitlines()) == 1


def test_print(server_cli: Callable[..., Outcome], folder: Path) -> None:
    """--print shows the file, makes no directory and starts nothing."""
    words = ["--save", "100:1", "--save", "300:10", "--aof", "always", "--maxmemory", "2gb"]
    done = server_cli("--print", *words)

    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    for line in ("save 100 1", "save 300 10", "appendfsync always", "maxmemory 2gb", "port 6379"):
        assert line in lines
    assert f"dir {folder}/xdg/millstream/server" in lines
    assert list(folder.iterdir()) == []


def test_print_of_several(server_cli: Callable[..., Outcome]) -> None:
    """Each process has its file, with where it belongs; in JSON, one a line."""
    text = server_cli("--print", "--replicas", "1", "--sentinels", "3")
    objects = server_cli("--print", "--cluster", "3", "--json").objects

    assert text.out.count("# ===== ") == 5
    assert "sentinel monitor millstream 127.0.0.1 6379 2" in text.out.splitlines()
    assert [one["role"] for one in objects] == ["master"] * 3
    assert objects[0]["path"].endswith("millstream/cluster/7000/server.conf")


def test_print_hides_passwords(server_cli: Callable[..., Outcome], folder: Path) -> None:
    """What is printed has hashes in their place."""
    (folder / "password").write_text("geheim\n")
    (folder / "users").write_text("user ann on >verborgen ~ms:* +@all\n")
    words = ["--password-file", str(folder / "password"), "--acl-file", str(folder / "users")]
    done = server_cli("--print", "--replicas", "1", *words)

    assert done.status == 0
    assert "geheim" not in done.out + done.err
    assert "verborgen" not in done.out + done.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--aof no --save=", "loses every queued message"),
        ("--aof no", "there are only snapshots"),
        ("--aof no --save= --replicas 1", "empties its replicas"),
        ("--cluster 2 --replicas 1", "with 2, no replica takes its place"),
        ("--replicas 1 --sentinels 2", "3 Sentinels are needed for a majority"),
        ("--aof-rewrite-percentage 0", "never rewritten"),
    ],
)
def test_warnings(server_cli: Callable[..., Outcome], line: str, said: str) -> None:
    """It warns of what loses messages, on stderr, and does as it was told."""
    done = server_cli("--print", *line.split())

    assert done.status == 0
    assert said in done.err
    assert all(text.startswith("millstream: warning: ") for text in done.err.splitlines())


def test_a_user_who_may_do_everything(server_cli: Callable[..., Outcome], folder: Path) -> None:
    """Users of a server that others enter without any are a mistake that it warns of."""
    (folder / "users").write_text("user ann on >x ~ms:* +@all\n")
    done = server_cli("--print", "--acl-file", str(folder / "users"))
    assert "user default off" in done.err

    (folder / "users").write_text("user ann on >x ~ms:* +@all\nuser default off\n")
    done = server_cli("--print", "--acl-file", str(folder / "users"), "--bind", "0.0.0.0")  # noqa: S104
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--save 100", "SECONDS:CHANGES"),
        ("--aof sometimes", "--aof"),
        ("--maxmemory 2", "2gb"),
        ("--maxmemory lots", "64mb"),
        ("--aof-rewrite-min-size x", "64mb"),
        ("--port 70000", "no port"),
        ("--port 0", "--socket"),
        ("--bind 0.0.0.0", "without a password everybody"),
        ("--bind here", "--bind takes an IP address"),
        ("--sentinels 3", "--replicas 1"),
        ("--cluster 3 --sentinels 3", "give one of the two"),
        ("--cluster 3 --socket x", "leave out --bind and --socket"),
        ("--binary no-such-server", "no program 'no-such-server' was found"),
        ("--binary ls", "is no Redis or Valkey server"),
        ("--password-file /nowhere", "cannot read /nowhere: No such file"),
        ("--password-file /dev/null", "/dev/null has no password"),
        ("--acl-file /dev/zero/x", "cannot read /dev/zero/x"),
        ("--dir /proc/nothing --print --dir \0", "cannot use the path"),
        ("--dir /proc/nothing", "cannot use the data directory"),
    ],
)
def test_bad_usage(server_cli: Callable[..., Outcome], line: str, said: str) -> None:
    """What cannot be ends with 2 and one line that says what to do."""
    done = server_cli(*line.split(" "))

    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_a_port_in_use(server_cli: Callable[..., Outcome], folder: Path) -> None:
    """Nothing is started on a port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = server_cli("--dir", str(folder / "data"), "--port", str(port))

    assert (done.status, done.out) == (2, "")
    assert f"port {port} of 127.0.0.1 is in use" in done.err


def test_a_password_from_standard_input(
    server_cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """- is standard input; the file wins over the environment."""
    (folder / "in").write_text("geheim\r\nrest\n")
    monkeypatch.setenv("MILLSTREAM_SERVER_PASSWORD", "other")
    with (folder / "in").open() as text:
        monkeypatch.setattr("sys.stdin", text)
        done = server_cli("--print", "--password-file", "-")

    expected: Any = "addb0f5e7826c857d7376d1bd9bc33c0c544790a2eac96144a8af22b1298c940"
    assert f"user default on #{expected} ~* &* +@all" in done.out.splitlines()


def test_another_program(server_cli: Callable[..., Outcome]) -> None:
    """The file is for the program that is to read it."""
    old = binary("redis-6.2")
    if old is None:
        pytest.skip("no redis-6.2 is installed")
    done = server_cli("--print", "--binary", str(old))

    assert done.out.startswith("# Redis 6.2")
    assert "`redis-server FILE`" in done.out
