"""Where an embedded server is, and how `embedded://` says that it cannot be."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.driver import embedded
from millstream.driver import embedded_supervisor as supervisor
from millstream.errors import NotConnected, UsageError
from tests.support.embedded import User, data_directory, say, stopped
from tests.support.servers import binary

# Stands in for a server with much data: it loads for two seconds.
SLOW_SERVER = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[sys.argv.index("--unixsocket") + 1])
server.listen()
ready = time.monotonic() + 6
while True:
    connection, _ = server.accept()
    if b"SHUTDOWN" in connection.recv(100):
        sys.exit()
    connection.sendall(b"+PONG\\r\\n" if time.monotonic() > ready else b"-LOADING\\r\\n")
    connection.close()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A data directory; after the test no process may be left in it."""
    with data_directory() as path:
        yield path


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let start_or_join run the named server."""
    program = binary(name)
    if program is None:
        pytest.skip(f"no {name} is installed")
    monkeypatch.setattr(embedded, "find_binary", lambda: str(program))


# --- where ------------------------------------------------------------------------------------


def test_long_path(directory: Path) -> None:
    """A path too long for a unix socket is fine, and others find the server by it."""
    deep = directory / ("d" * 90) / ("e" * 90)
    with embedded.start_or_join(deep) as server:
        assert say(server, "PING") == "+PONG"
        assert len(os.fsencode(server.socket_path)) <= 103
        assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
        with User(deep) as other:
            assert other.arrived() == (server.pid, str(server.socket_path))
    assert stopped(deep)


def test_unsafe_runtime_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of such sockets is refused when others can enter it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    (directory / "millstream").mkdir()
    (directory / "millstream").chmod(0o755)
    with pytest.raises(UsageError, match="0700"):
        embedded.start_or_join(directory / ("d" * 90))


def test_default_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory, each user has one: a private one, made when it is first needed."""
    monkeypatch.setenv("XDG_DATA_HOME", str(directory))
    with embedded.start_or_join() as server:
        assert server.directory == directory / "millstream" / "default"
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700


def test_one_directory_many_spellings(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, links and `~` name the same server as the absolute path."""
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.chdir(directory)
    Path("link").symlink_to("data")
    spellings: list[str | Path] = ["data", "./link", "~/data", directory / "data"]
    servers = [embedded.start_or_join(spelling) for spelling in spellings]
    assert len({server.pid for server in servers}) == 1
    for server in servers:
        server.close()


# --- errors -----------------------------------------------------------------------------------


def test_no_server_program(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server program, the error says what to install or to set."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(UsageError, match=r"millstream\[embedded\].*MILLSTREAM_URL"):
        embedded.start_or_join(directory)


def test_server_program_on_path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged program comes first, then valkey-server and redis-server on the PATH."""
    if (packaged := binary("valkey-8.1")) is not None:
        assert Path(embedded.find_binary()) == packaged
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(directory))
    for name in ("redis-server", "valkey-server"):
        (directory / name).touch(mode=0o700)
        assert embedded.find_binary() == str(directory / name)


def test_corrupt_data(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot read its data gives an error with what it said, at once."""
    use("valkey-8.1", monkeypatch)
    with embedded.start_or_join(directory) as server:
        say(server, "SET a 1")
    manifest = next(directory.glob("appendonlydir/*.manifest"))
    manifest.write_text("this is no manifest\n")
    with pytest.raises(NotConnected, match=r"did not start.*log:\n(.*\n)*.*manifest") as caught:
        embedded.start_or_join(directory, timeout=30)
    assert caught.value.url == f"embedded://{directory}"
    assert "Ready to accept" not in str(caught.value)  # that was the server before


def test_broken_program(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not run gives an error with the reason."""
    program = directory / "valkey-server"
    program.write_text("nonsense")
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "find_binary", lambda: str(program))
    with pytest.raises(NotConnected, match="Exec format error"):
        embedded.start_or_join(directory)


def test_too_slow(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not in service in time gives an error, and is stopped."""
    program = directory / "valkey-server"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "find_binary", lambda: str(program))
    with pytest.raises(NotConnected, match="not in service"):
        embedded.start_or_join(directory, timeout=0.5)


def test_long_load(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that needs longer than the timeout to load its data is waited for."""
    program = directory / "valkey-server"
    program.write_text(f"#!{sys.executable}\n{SLOW_SERVER}")
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "find_binary", lambda: str(program))
    with embedded.start_or_join(directory, timeout=5) as server:
        assert say(server, "PING") == "+PONG"


def test_older_server(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis 6 would ignore the data of a later server and start empty, so it is refused."""
    use("redis-6.2", monkeypatch)
    old = embedded.find_binary()
    use("valkey-8.1", monkeypatch)
    with embedded.start_or_join(directory) as server:
        say(server, "SET kept yes")
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "find_binary", lambda: old)
        with pytest.raises(NotConnected, match="Redis 7 or later"):
            embedded.start_or_join(directory)
    with embedded.start_or_join(directory) as server:
        assert say(server, "GET kept").endswith("yes")


def test_not_a_directory(directory: Path) -> None:
    """A file instead of a directory is refused."""
    (directory / "file").touch()
    for name in ("file", "file/below", "nul\0"):
        with pytest.raises(UsageError, match="cannot use"):
            embedded.start_or_join(directory / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user(directory: Path) -> None:
    """The directory of another user is refused, with both users named."""
    os.chown(directory, 4321, -1)
    with pytest.raises(UsageError, match=r"4321.*uid 0"):
        embedded.start_or_join(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
def test_files_of_another_user(directory: Path) -> None:
    """Files that this user may not open, from another user's server, are refused."""
    (directory / supervisor.START_LOCK).touch(mode=0)
    with pytest.raises(UsageError, match="must belong"):
        embedded.start_or_join(directory)
