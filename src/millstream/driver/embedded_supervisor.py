"""The process beside an `embedded://` server: it starts it, restarts it, and stops it.

`embedded.py` runs this file by its path in a bare interpreter (`python -I -S`), so that it is up
in milliseconds and shares nothing with the program that happened to come first. Hence: only the
standard library, and only modules that load fast. It runs inside the data directory and names its
files relative to it, so that deleting and recreating the directory under a running server can not
make the old one touch the files of the new one.

The truth is in flock()s, which the kernel frees however their holder ends; what files say is only
believed while the matching lock is held:

    start.lock       held for a moment by whoever starts a supervisor
    members.lock     held shared by every user; exclusively by a supervisor that is stopping
    supervisor.lock  held by the supervisor; its content is the supervisor's pid
    server.lock      held by the server, which inherits it; its content is the server's pid
"""

# ruff: noqa: PTH105, PTH108, PTH110, PTH112, PTH123, PTH202 - pathlib loads slowly

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from queue import Empty, SimpleQueue

START_LOCK = "start.lock"
MEMBERS_LOCK = "members.lock"
SUPERVISOR_LOCK = "supervisor.lock"
SERVER_LOCK = "server.lock"
STATE = "server.state"
LOG = "server.log"
SOCKET = "valkey.sock"
STARTING = "# starting the server"  # in the log: what follows is about this one
LOADING, READY = "loading", "ready"

_DESERTED = "the last user has left"
_TOLD = "told to stop"
_GONE = "the server is gone"
_OUTDATED = "the server is too old for this data"

_OLD_FILE = "appendonly.aof"  # where Redis 6 keeps its data; later ones use a directory

_STOP_TIMEOUT = 30.0  # seconds for a SIGTERMed server to write its data before it is killed
_STABLE = 10.0  # a server that lived for so many seconds is restarted without a pause
_PAUSES = (0.1, 5.0)  # the first and the longest pause before a restart, in seconds

# Only options that Redis 6.2 knows too: an unknown one keeps a server from starting.
_OPTIONS = (
    ("--port", "0"),
    ("--unixsocketperm", "700"),
    ("--dir", "."),
    ("--daemonize", "no"),
    ("--logfile", ""),
    ("--save", ""),
    ("--appendonly", "yes"),
    ("--appendfsync", "everysec"),
    ("--maxmemory-policy", "noeviction"),
)


def open_lock(path: str | os.PathLike[str]) -> int:
    """Open (and create) a lock file; the descriptor closes itself in programs that are exec()ed."""
    # O_NOFOLLOW: in a directory that others may write to, a planted link must not lead elsewhere.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take the lock if it is free; say whether that worked."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take(descriptor: int) -> bool:
    """Take a lock that may only seem to be held, by one who looks whether it is."""
    for _ in range(10):
        if try_lock(descriptor):
            return True
        time.sleep(0.005)
    return False


def ask(address: str, command: bytes, timeout: float = 1.0) -> bytes | None:
    """Send a command to the unix socket; return the answer, or None when that was not possible.

    The answer is empty when the server has closed the connection instead.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(address)
            connection.sendall(command + b"\r\n")
            return connection.recv(64)
        except OSError:  # nobody there, not yet, or not any more
            return None


def ping(address: str, timeout: float = 1.0) -> str | None:
    """Ask the server for its phase: LOADING its data, or READY. None: nobody answers."""
    answer = ask(address, b"PING", timeout)
    if not answer:
        return None
    # Any other error, such as BUSY while a script runs, comes from a server that is in service.
    return LOADING if answer.startswith(b"-LOADING") else READY


def read_state(path: str | os.PathLike[str] = STATE) -> tuple[int, str, str] | None:
    """The server's pid, its phase and the address of its socket; None before it answers."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            pid, phase, address = file.read().split("\n", 2)
        return int(pid), phase, address
    except (FileNotFoundError, ValueError):  # a machine crash may leave a file without content
        return None


def _write_state(pid: int, phase: str, address: str) -> None:
    with open(STATE + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{pid}\n{phase}\n{address}")
    os.replace(STATE + ".new", STATE)  # readers see the old or the new, never a half


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _log(text: str) -> None:
    now = time.strftime("%d %b %Y %H:%M:%S")
    line = f"{os.getpid()}:millstream {now} # {text}\n"
    with contextlib.suppress(OSError):  # a full disk must not end the supervisor
        os.write(2, line.encode("utf-8", "backslashreplace"))


class Supervisor:
    """Keeps one server running in the current directory until its last user has left.

    Args:
        binary: the server program.
        address: where the server listens: an absolute path, or a name in the current directory.
    """

    def __init__(self, binary: str, address: str) -> None:
        self._binary = binary
        self._address = address
        # Threads that sit in blocking system calls put in what they saw; so nothing here polls.
        self._events: SimpleQueue[str] = SimpleQueue()
        self._pid = 0
        self._launched_at = 0.0
        self._pause = 0.0
        self._own_child = False
        self._phase: str | None = None  # what the server said of itself
        self._proven = False  # a server was ready in the life of this supervisor
        self._had_old_file = False

    def run(self) -> int:
        """Do the whole job; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._events.put(_TOLD))
        threading.Thread(target=self._watch_members, daemon=True).start()
        try:
            return self._supervise()
        except OSError as error:  # the disk is full, too many files are open, ...
            self._stop(f"the supervisor cannot go on: {error}")
            return 1

    def _supervise(self) -> int:
        self._launch()
        while (event := self._next_event()) == _GONE:
            _remove(STATE)
            if self._own_child and not self._proven:
                # It never was in service and would end the same way again. Give up; the reason
                # is in the log, for those who wait for the server.
                return 1
            if self._wait_before_restart() is not None:
                return 0  # told to stop, or nobody is left, and there is no server to stop
            self._launch()
        self._stop(event)
        return 1 if event == _OUTDATED else 0

    def _watch_members(self) -> None:
        """Wait in the kernel until every user has left or died, and let no new one in."""
        members = open_lock(MEMBERS_LOCK)
        fcntl.flock(members, fcntl.LOCK_EX)
        # Held until this process ends: who comes from here on waits, and then starts afresh.
        self._events.put(_DESERTED)

    def _launch(self) -> None:
        """Start the server, or adopt the one that a killed supervisor has left behind."""
        self._phase = None
        self._launched_at = time.monotonic()
        try:
            # Opened now, because the directory may be deleted before it is needed.
            watch = open_lock(SERVER_LOCK)
            lock = open_lock(SERVER_LOCK)
            try:
                self._own_child = _take(lock)
                if self._own_child:
                    self._spawn(lock)
                else:
                    self._adopt(lock)
            finally:
                os.close(lock)  # from here on only the server holds it
        except OSError as error:
            _log(f"cannot run {self._binary}: {error}")
            self._events.put(_GONE)
        else:
            threading.Thread(target=self._watch_server, args=(watch,), daemon=True).start()

    def _spawn(self, lock: int) -> None:
        os.ftruncate(lock, 0)
        _remove(STATE)
        self._had_old_file = os.path.exists(_OLD_FILE)
        _log(f"{STARTING[2:]}: {self._binary}")
        options = [("--unixsocket", self._address), *_OPTIONS]
        os.set_inheritable(lock, True)  # noqa: FBT003 - the function takes no keyword
        self._pid = os.posix_spawn(
            self._binary,
            [self._binary, *(word for option in options for word in option)],
            os.environ,
            setpgroup=0,  # see _watch_server
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores these two
        )
        os.write(lock, str(self._pid).encode())

    def _adopt(self, lock: int) -> None:
        self._pid = int(os.read(lock, 32) or b"0")
        state = read_state()
        if state is not None and state[0] == self._pid:
            self._address = state[2]
        _log(f"the server {self._pid} has lost its supervisor, taking it over")

    def _watch_server(self, lock: int) -> None:
        """Wait in the kernel until no server process uses the directory any more."""
        if self._own_child:
            _, status = os.waitpid(self._pid, 0)
            _log(f"the server {self._pid} ended with status {os.waitstatus_to_exitcode(status)}")
            with contextlib.suppress(ProcessLookupError):
                # A rewrite of the log that it had forked off would go on, for nobody.
                os.killpg(self._pid, signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.close(lock)
        self._events.put(_GONE)

    def _next_event(self) -> str:
        pause = 0.002
        while self._phase != READY:
            try:
                return self._events.get(timeout=pause)
            except Empty:
                pause = min(pause * 1.2, 0.1)
            phase = ping(self._address)
            if phase == READY and self._data_is_too_new():
                return _OUTDATED
            if phase is not None and phase != self._phase:
                _write_state(self._pid, phase, self._address)
                self._phase = phase
                self._proven = self._proven or phase == READY
        return self._events.get()

    def _data_is_too_new(self) -> bool:
        """True when Redis 6 has just started empty, beside data in the layout of Redis 7."""
        if not self._own_child or self._had_old_file or not os.path.exists(_OLD_FILE):
            return False
        if not os.path.isdir("appendonlydir"):
            return False
        _log(f"the data here was written by Redis 7 or later, or Valkey; {self._binary} is older")
        return True

    def _wait_before_restart(self) -> str | None:
        """Pause, longer each time; return the event that makes the restart needless, if any."""
        first, longest = _PAUSES
        if time.monotonic() - self._launched_at > _STABLE:
            self._pause = 0.0
        else:
            self._pause = min(max(first, self._pause * 2), longest)
        try:
            return self._events.get(timeout=self._pause)
        except Empty:
            return None

    def _stop(self, reason: str) -> None:
        """Have the server write its data and end; return when it is gone."""
        _log(f"stopping the server {self._pid}: {reason}")
        # Everything is in the append-only file; there is nothing to save. A signal would do the
        # same, but a server looks for signals only ten times a second.
        agreed = ask(self._address, b"SHUTDOWN NOSAVE") == b""
        gone = agreed and self._wait_for_the_end(_STOP_TIMEOUT)
        # The pid of an adopted server is hearsay: it may come from another container.
        for number in (signal.SIGTERM, signal.SIGKILL) if self._own_child else ():
            if not gone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, number)
                gone = self._wait_for_the_end(_STOP_TIMEOUT)
        _remove(STATE)
        if reason == _OUTDATED and os.path.getsize(_OLD_FILE) == 0:
            _remove(_OLD_FILE)  # the server has just made it, and nobody has used it

    def _wait_for_the_end(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self._events.get(timeout=left) == _GONE:
                    return True
            except Empty:
                break
        return False


def main(directory: str, address: str, binary: str) -> int:
    """Become the supervisor of the directory, in a process of its own; return the exit status.

    The calling process returns as soon as the supervisor holds its lock (or found that another
    one does), which tells whoever waits for it that a supervisor is there.
    """
    os.chdir(directory)
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would hide how the server ended
    lock = open_lock(SUPERVISOR_LOCK)
    if not _take(lock):
        return 0
    if os.fork():
        # The starter reaps this process and has no other child to care for.
        return 0
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    try:
        status = Supervisor(binary, address).run()
    except Exception as error:  # noqa: BLE001 - the log is the only place where it can be seen
        _log(f"the supervisor failed: {error!r}")
        status = 1
    # This lock first: a newcomer who gets members.lock after it must not see a supervisor here.
    os.close(lock)
    os._exit(status)  # without joining the threads, which sit in system calls


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
