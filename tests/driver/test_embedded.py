"""`embedded://` with real processes: who starts the server, who keeps it, who stops it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millstream.driver import embedded
from millstream.driver import embedded_supervisor as supervisor
from millstream.errors import UsageError
from tests.support.embedded import (
    User,
    alive,
    data_directory,
    held,
    run,
    say,
    server_pid,
    stopped,
)
from tests.support.servers import binary, installed
from tests.support.wait import until

COMES_AND_GOES = """
import sys
from millstream.driver import embedded, embedded_supervisor
for number in range(15):
    with embedded.start_or_join(sys.argv[1], timeout=20) as server:
        answer = embedded_supervisor.ask(str(server.socket_path), b"INCR visits", timeout=10)
        assert answer.startswith(b":"), (number, answer)
"""

FORKS = """
import os, sys
from millstream.driver.embedded import start_or_join
server = start_or_join(sys.argv[1])
if os.fork() == 0:
    os.setpgid(0, 0)
    sys.stdin.readline()
    os._exit(0)
server.close()
print(server.pid, server.socket_path, flush=True)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A data directory; after the test no process may be left in it."""
    with data_directory() as path:
        yield path


@pytest.fixture
def user(directory: Path) -> Iterator[Callable[[], User]]:
    """Starts processes that use `directory`; ends them after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(User(directory))


# --- starting, joining, leaving ---------------------------------------------------------------


@pytest.mark.parametrize("name", installed())
def test_start_and_data(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every supported server starts, answers on a private socket only, and keeps its data."""
    program = str(binary(name))
    monkeypatch.setattr(embedded, "find_binary", lambda: program)
    with embedded.start_or_join(directory) as server:
        assert say(server, "PING") == "+PONG"
        assert server.directory == directory
        assert server.pid == server_pid(directory)
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        assert say(server, "CONFIG GET port").split()[-1] == "0"
        assert say(server, "CONFIG GET appendonly").split()[-1] == "yes"
        assert say(server, "CONFIG GET maxmemory-policy").split()[-1] == "noeviction"
        assert say(server, "SET kept yes") == "+OK"
    assert stopped(directory)
    with embedded.start_or_join(directory) as server:
        assert say(server, "GET kept").split() == ["$3", "yes"]


def test_second_process_joins(directory: Path, user: Callable[[], User]) -> None:
    """A second process gets the same server, and the first may leave before it."""
    with embedded.start_or_join(directory) as server:
        second = user()
        assert second.arrived() == (server.pid, str(server.socket_path))
    assert say(server, "PING") == "+PONG"
    second.close()  # returns when the server has stopped, while its process goes on
    assert stopped(directory)
    assert not server.socket_path.exists()


def test_starter_killed(directory: Path, user: Callable[[], User]) -> None:
    """Kill -9 of the process that started the server leaves it to the others."""
    first = user()
    pid, _ = first.arrived()
    with embedded.start_or_join(directory) as server:
        first.end(kill=True)
        assert server.pid == pid == server_pid(directory)
        assert say(server, "PING") == "+PONG"


def test_last_user_killed(directory: Path, user: Callable[[], User]) -> None:
    """The server stops also when its last user is killed -9."""
    first, second = user(), user()
    assert first.arrived() == second.arrived()
    first.close()
    assert server_pid(directory)
    second.end(kill=True)
    until(lambda: stopped(directory), message="the server has stopped")


def test_handles_count(directory: Path) -> None:
    """Several handles in one process are several users, and closing one twice counts once."""
    first, second = embedded.start_or_join(directory), embedded.start_or_join(directory)
    first.close()
    first.close()
    assert say(second, "PING") == "+PONG"
    with pytest.raises(UsageError, match="closed"):
        first.ensure_running()
    second.close()
    assert stopped(directory)


def test_forked_child_is_a_user(directory: Path) -> None:
    """A forked child shares its parent's handle: the server stays until it has ended too."""
    parent = User(directory, FORKS)
    try:
        pid, _ = parent.arrived()
        parent.process.wait()
        assert server_pid(directory) == pid
    except BaseException:
        parent.end(kill=True)
        raise
    parent.end(kill=False)  # the end of its input is the end of the child
    until(lambda: stopped(directory), message="the server has stopped")


# --- races ------------------------------------------------------------------------------------


def test_five_start_at_once(directory: Path, user: Callable[[], User]) -> None:
    """Five processes that start at the same instant share one server."""
    users = [user() for _ in range(5)]
    assert len({one.arrived() for one in users}) == 1
    assert (directory / supervisor.LOG).read_text().count(supervisor.STARTING) == 1


def test_join_while_it_stops(directory: Path) -> None:
    """Who joins while the last one leaves gets a server that works, never a dying one."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(run(COMES_AND_GOES, directory)) for _ in range(4)]
        for process in processes:
            process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    with embedded.start_or_join(directory) as server:
        assert say(server, "GET visits").split() == ["$2", "60"]


# --- crashes ----------------------------------------------------------------------------------


def test_server_killed(directory: Path) -> None:
    """A killed server comes back on the same socket with its data, as long as it has users."""
    with embedded.start_or_join(directory) as server:
        say(server, "SET kept yes")
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: say(server, "GET kept").endswith("yes"))
        until(lambda: server.pid != pid)
        assert server.pid == server_pid(directory)
    assert stopped(directory)


def test_supervisor_killed(directory: Path) -> None:
    """A server without its supervisor goes on; the next one to join or leave gives it another."""
    with embedded.start_or_join(directory) as server:
        first = held(directory, supervisor.SUPERVISOR_LOCK)
        os.kill(first, signal.SIGKILL)
        until(lambda: not held(directory, supervisor.SUPERVISOR_LOCK))
        with embedded.start_or_join(directory) as joined:
            assert joined.pid == server.pid
            second = held(directory, supervisor.SUPERVISOR_LOCK)
            assert second not in {0, first}
            os.kill(server.pid, signal.SIGKILL)  # and the new one guards it, too
            until(lambda: say(server, "PING") == "+PONG")
        os.kill(second, signal.SIGKILL)
        until(lambda: not held(directory, supervisor.SUPERVISOR_LOCK))
        assert say(server, "PING") == "+PONG"
    assert stopped(directory)


def test_both_killed(directory: Path) -> None:
    """`ensure_running` brings back a server whose supervisor was killed with it."""
    with embedded.start_or_join(directory) as server:
        say(server, "SET kept yes")
        os.kill(held(directory, supervisor.SUPERVISOR_LOCK), signal.SIGKILL)
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: stopped(directory))
        server.ensure_running()
        assert say(server, "GET kept").endswith("yes")


def test_supervisor_told_to_stop(directory: Path) -> None:
    """SIGTERM to the supervisor, as at a shutdown of the machine, stops the server cleanly."""
    with embedded.start_or_join(directory):
        os.kill(held(directory, supervisor.SUPERVISOR_LOCK), signal.SIGTERM)
        until(lambda: stopped(directory))
        assert "told to stop" in (directory / supervisor.LOG).read_text()


def test_left_over_files(directory: Path) -> None:
    """Socket, state and pid files that a crash of the machine has left do not matter."""
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(directory / supervisor.SOCKET))
    (directory / supervisor.STATE).write_text(f"{os.getpid()}\nready\n{supervisor.SOCKET}")
    (directory / supervisor.SERVER_LOCK).write_text(str(os.getpid()))
    with embedded.start_or_join(directory) as server:
        assert say(server, "PING") == "+PONG"
        assert server.pid != os.getpid()


def test_directory_deleted(directory: Path) -> None:
    """After its directory was deleted under it, a server still stops, and harms no new one."""
    old = embedded.start_or_join(directory)
    watcher, pid = held(directory, supervisor.SUPERVISOR_LOCK), old.pid
    shutil.rmtree(directory)
    with embedded.start_or_join(directory) as new:
        assert new.pid != pid
        old.close()
        until(lambda: not alive(pid) and not alive(watcher))
        assert say(new, "PING") == "+PONG"
