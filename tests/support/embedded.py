"""Users of an embedded server in processes of their own, and what its lock files say."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from millstream.driver import embedded
from millstream.driver import embedded_supervisor as supervisor
from tests.support.mortal import Mortal
from tests.support.wait import until

USER = """
import sys
from millstream.driver.embedded import start_or_join
server = start_or_join(sys.argv[1])
print(server.pid, server.socket_path, flush=True)
sys.stdin.readline()
server.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def run(script: str, directory: Path) -> Mortal[str]:
    source = str(Path(embedded.__file__).parents[2])
    return Mortal(
        [sys.executable, "-c", script, str(directory)],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class User:
    """Another process that uses the server of a directory."""

    def __init__(self, directory: Path, script: str = USER) -> None:
        self.process = run(script, directory)

    def arrived(self) -> tuple[int, str]:
        """Wait for its start_or_join; what it got."""
        assert self.process.stdout is not None
        pid, _, address = self.process.stdout.readline().strip().partition(" ")
        return int(pid), address

    def close(self) -> None:
        """Have it close its handle, and wait for that; the process goes on."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("close\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "closed\n"

    def end(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(kill=True)


def held(directory: Path, name: str) -> int:
    """The pid in a lock file of the directory if somebody holds the lock, else 0."""
    path = directory / name
    if not path.exists():
        return 0
    descriptor = supervisor.open_lock(path)
    try:
        # Shared: two looks at the same time must not see each other.
        if supervisor.try_lock(descriptor, fcntl.LOCK_SH):
            return 0
        return int(path.read_text() or "-1")
    finally:
        os.close(descriptor)


def server_pid(directory: Path) -> int:
    return held(directory, supervisor.SERVER_LOCK)


def stopped(directory: Path) -> bool:
    return not server_pid(directory) and not held(directory, supervisor.SUPERVISOR_LOCK)


def say(server: embedded.EmbeddedServer, command: str) -> str:
    """The answer as text; empty when there was none."""
    return (
        (supervisor.ask(str(server.socket_path), command.encode(), timeout=10) or b"")
        .decode()
        .strip()
    )


def alive(pid: int) -> bool:
    """False for a zombie too: in a container nobody may reap it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return state.stdout.strip()[:1] not in {b"", b"Z"}


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """A data directory with a short path; at the end no process may be left in it."""
    path = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp")).resolve()
    try:
        yield path
        until(lambda: stopped(path), message="the server and its supervisor have ended")
    finally:
        for name in (supervisor.SUPERVISOR_LOCK, supervisor.SERVER_LOCK):
            if (pid := held(path, name)) > 0:
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(path, ignore_errors=True)
