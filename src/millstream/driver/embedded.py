"""`embedded://`: one real server per data directory, shared by the processes of one user.

The first user of a directory starts the server, later ones join it, and it stops when the last
one has left, however they leave: membership is a lock that the kernel frees with its process. A
small detached process keeps the server (`embedded_supervisor.py`, where the lock files are
listed), so that no user of it has to live longer than another. See docs/adr/0005.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from millstream.driver import embedded_supervisor as supervisor
from millstream.driver.embedded_places import address, data_directory, find_binary
from millstream.errors import MillstreamError, NotConnected, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["EmbeddedServer", "find_binary", "start_or_join"]

_POLL = 0.002  # seconds between two looks at a lock or a starting server
_CHECK = 0.05  # seconds between two looks whether the supervisor of a starting server still lives
_LEAVE_TIMEOUT = 10.0  # seconds that the last user waits for the server to end
_LOG_LIMIT = 1_000_000  # bytes; a longer log is set aside at the next start
_LOG_LINES = 12  # how many of them an error quotes


class EmbeddedServer:
    """One user's share in a running embedded server; made by `start_or_join`.

    The server runs at least until `close` is called or this process ends. A process that was
    fork()ed from this one and does not exec() holds the share too: the server then runs until
    both have closed it or ended.

    Attributes:
        directory: the data directory, absolute.
        socket_path: the unix socket on which the server listens.
    """

    def __init__(self, directory: Path, member: int) -> None:
        self.directory = directory
        self._member = member  # the descriptor of the shared lock; -1 once closed
        self._closing = threading.Lock()
        self._pid, self.socket_path = 0, directory / supervisor.SOCKET

    def __repr__(self) -> str:
        return f"<EmbeddedServer {str(self.directory)!r} pid={self._pid}>"

    @property
    def pid(self) -> int:
        """The server's process id; another one after a crash, when it has been restarted."""
        state = supervisor.read_state(self.directory / supervisor.STATE)
        if state is not None:
            self._pid = state[0]
        return self._pid

    def ensure_running(self, *, timeout: float = 10.0) -> None:
        """Wait until the server answers, and start it again if nobody else does.

        A server that crashes comes back by itself. This is for who starts or joins it, and for the
        rare case that somebody has killed its supervisor too.

        Args:
            timeout: seconds to wait for it, not counting the time in which it loads its data.

        Raises:
            NotConnected: it does not start, or not in time; the text quotes its log.
            UsageError: this handle is closed, or the directory cannot be used any more.
        """
        if self._member == -1:
            raise UsageError(f"the handle of the embedded server in {self.directory} is closed")
        with _own_errors(self.directory):
            found = _in_service(self.directory, time.monotonic() + timeout)
        self._pid, self.socket_path = found

    def revive(self, *, timeout: float) -> None:
        """Start a supervisor if there is none, after a connection was refused; do not wait for more.

        A server that is back, or that loads its data, is found by the next tries to connect.

        Args:
            timeout: seconds that it may take.

        Raises:
            NotConnected: it does not start, or the directory cannot be used any more.
        """
        if self._member == -1:
            return  # whoever has closed it wants no server
        try:
            with _own_errors(self.directory):
                _ensure_supervisor(self.directory, time.monotonic() + timeout)
        except UsageError as error:
            raise NotConnected(str(error), url=f"embedded://{self.directory}") from error

    def close(self) -> None:
        """Leave. The server stops when this was its last user, and then the call waits for that.

        Calling it again does nothing. It never raises: what could not be stopped within ten
        seconds ends by itself.
        """
        with self._closing:
            member, self._member = self._member, -1
        if member == -1:
            return
        deadline = time.monotonic() + _LEAVE_TIMEOUT
        # Suppressed: the directory may be gone by now, with all that could be cleaned up in it.
        with contextlib.suppress(OSError, UsageError):  # NotConnected is an OSError
            # Had the supervisor been killed, nobody would stop the server after this user.
            if _is_locked(self.directory / supervisor.SERVER_LOCK):
                _ensure_supervisor(self.directory, deadline)
        os.close(member)  # unlocking it would also end the share of a forked child
        with contextlib.suppress(OSError):
            _await_stop(self.directory, deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def start_or_join(
    directory: str | os.PathLike[str] | None = None, *, timeout: float = 10.0
) -> EmbeddedServer:
    """Start the server of a data directory, or join the one that already runs there.

    However many threads and processes call this at the same time, one server runs. It outlives
    the process that started it, restarts after a crash, and keeps its data in an append-only file
    that is flushed to disk every second.

    Args:
        directory: where the data is; made, with mode 0700, if it is missing. `~` is expanded.
            None: `millstream/default` in `$XDG_DATA_HOME` or `~/.local/share`.
        timeout: seconds to wait for the server to be in service. The time in which it loads its
            data does not count: with gigabytes of them, it takes longer.

    Returns:
        A handle; the server answers on its socket. Close it, or end the process, to leave.

    Raises:
        UsageError: the directory cannot be used or belongs to another user, or no server program
            is installed.
        NotConnected: the server does not start, or not in time; the text quotes its log.
    """
    path = data_directory(directory)
    deadline = time.monotonic() + timeout
    with _own_errors(path):
        member = supervisor.open_lock(path / supervisor.MEMBERS_LOCK)
    try:
        # Waits while a supervisor is stopping: afterwards there is none, and a fresh one starts.
        with _own_errors(path):
            _lock(path, member, fcntl.LOCK_SH, deadline)
        server = EmbeddedServer(path, member)
        server.ensure_running(timeout=deadline - time.monotonic())
    except BaseException:
        os.close(member)
        raise
    return server


def _in_service(directory: Path, deadline: float) -> tuple[int, Path]:
    """Return the pid and the socket of the server once it answers, started if need be."""
    while True:
        started = _ensure_supervisor(directory, deadline)
        found = _await_server(directory, deadline)
        if found is not None:
            return found
        if started:
            raise _not_connected(directory, "did not start")
        # Its supervisor ended in the meantime, for whatever reason: be the one that starts it.


def _ensure_supervisor(directory: Path, deadline: float) -> bool:
    """Start the supervisor unless there is one; say whether that was necessary."""
    with _start_lock(directory, deadline):
        if _has_supervisor(directory):
            return False
        _spawn_supervisor(directory, deadline)
        return True


def _await_server(directory: Path, deadline: float) -> tuple[int, Path] | None:
    """Wait for the server to answer; None: its supervisor has ended."""
    next_check = time.monotonic() + _CHECK
    while True:
        # The file says what the supervisor was answered. Asking once more costs little, and finds
        # a server that has died just now.
        state = supervisor.read_state(directory / supervisor.STATE)
        now = time.monotonic()
        if state is not None and state[1] == supervisor.READY:
            socket_path = directory / state[2]
            patience = min(max(_POLL, deadline - now), 1.0)
            if supervisor.ping(str(socket_path), patience) == supervisor.READY:
                return state[0], socket_path
        elif state is not None:
            # To give up would stop a server that makes progress, and the next attempt would find
            # it no further. Loading ends by itself, and is not the state of a hung server.
            deadline = max(deadline, now + 1)
        if now >= deadline:
            raise _not_connected(directory, "is not in service yet")
        if now >= next_check:
            next_check = now + _CHECK
            with _start_lock(directory, deadline):
                if not _has_supervisor(directory):
                    return None
        time.sleep(_POLL)


def _await_stop(directory: Path, deadline: float) -> None:
    """After leaving: wait for the end of the server, unless it has other users."""
    members = supervisor.open_lock(directory / supervisor.MEMBERS_LOCK)
    try:
        while time.monotonic() < deadline:
            # One who leaves at the same time must not take this look for a user: so in turns.
            with _start_lock(directory, deadline):
                if supervisor.try_lock(members, fcntl.LOCK_EX):
                    # Nobody uses it. Is it stopped already, or has the supervisor yet to notice?
                    fcntl.flock(members, fcntl.LOCK_UN)
                    if not _has_supervisor(directory):
                        return
                elif supervisor.try_lock(members, fcntl.LOCK_SH):
                    fcntl.flock(members, fcntl.LOCK_UN)
                    return  # others use it
                # else it is stopping
            time.sleep(_POLL)
    finally:
        os.close(members)


def _has_supervisor(directory: Path) -> bool:
    """Whether a supervisor lives. Call it with the start lock held: it looks by trying to lock."""
    return _is_locked(directory / supervisor.SUPERVISOR_LOCK)


def _is_locked(path: Path) -> bool:
    descriptor = supervisor.open_lock(path)
    try:
        # Shared: two looks at the same time must not see each other.
        if not supervisor.try_lock(descriptor, fcntl.LOCK_SH):
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    finally:
        os.close(descriptor)


def _spawn_supervisor(directory: Path, deadline: float) -> None:
    if not sys.executable or getattr(sys, "frozen", False):
        raise UsageError(
            "embedded:// needs a Python interpreter to run its supervisor, and this program is "
            "not one; set MILLSTREAM_URL to a server that runs already"
        )
    log = directory / supervisor.LOG
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
    # -I -S: no site packages and no user settings, for speed and so that nothing else runs in it.
    command = [sys.executable, "-I", "-S", supervisor.__file__]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - a fixed program; the rest are its arguments
            [*command, str(directory), address(directory), find_binary()],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    try:
        # It forks, and the one that is waited for ends as soon as the other holds its lock.
        while process.poll() is None:  # wait() with a timeout looks less and less often
            if time.monotonic() >= deadline:
                raise _not_connected(directory, "did not start in time")
            time.sleep(_POLL)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _start_lock(directory: Path, deadline: float) -> Iterator[None]:
    descriptor = supervisor.open_lock(directory / supervisor.START_LOCK)
    try:
        _lock(directory, descriptor, fcntl.LOCK_EX, deadline)
        try:
            yield
        finally:
            # Not by closing alone: a child that another thread has just forked holds it as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(directory: Path, descriptor: int, how: int, deadline: float) -> None:
    """Take a lock of the directory before the deadline; at least one attempt is made."""
    while not supervisor.try_lock(descriptor, how):
        if time.monotonic() >= deadline:
            raise _not_connected(
                directory,
                "is being started or stopped by another process, or run by `millstream server`",
            )
        time.sleep(_POLL)


@contextlib.contextmanager
def _own_errors(directory: Path) -> Iterator[None]:
    """Raise the system's errors as the library's own."""
    try:
        yield
    except MillstreamError:  # NotConnected is an OSError too
        raise
    except PermissionError as error:
        raise UsageError(
            f"cannot use the data directory {directory}: {error}; it must belong to the user of "
            "this process, with everything in it"
        ) from error
    except OSError as error:
        raise _not_connected(directory, f"cannot be used: {error}") from error


def _not_connected(directory: Path, problem: str) -> NotConnected:
    message = f"the embedded server in {directory} {problem}"
    with contextlib.suppress(OSError):
        lines = (directory / supervisor.LOG).read_text("utf-8", errors="replace").splitlines()
        starts = [n for n, line in enumerate(lines) if supervisor.STARTING in line]
        # What earlier servers said explains nothing.
        if lines := lines[starts[-1] if starts else 0 :][-_LOG_LINES:]:
            message += "; the last lines of its log:\n" + "\n".join(lines)
    return NotConnected(message, url=f"embedded://{directory}")
