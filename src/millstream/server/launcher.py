"""Runs the processes of a set-up in the foreground, until a signal or the death of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millstream.server.ask import Address, Refused, ask, fields
from millstream.server.bell import Bell
from millstream.server.configuration import File, configuration
from millstream.server.forming import (
    SENTINEL_FILE,
    await_cluster,
    await_replicas,
    await_sentinels,
    last_master,
    make_cluster,
)
from millstream.server.layout import Node
from millstream.server.place import SNAPSHOT, Place, has_append_only, write
from millstream.server.ports import check_free
from millstream.server.process import Process

__all__ = ["FORCED", "Failed", "Running", "config_path", "serve"]

SERVER_FILE = "server.conf"
FORCED = 130
"""The status after a second signal: processes were killed."""

LOOK = 0.02
"""Seconds between two looks at a process that starts."""

ASK_AGAIN = 1.0
"""Seconds after which a server that has not ended is asked again."""

PATIENCE = 10.0
"""Seconds after which people are told what takes so long."""


class Failed(Exception):
    """A process did not start, or did not become a part of the set-up."""


class _Stopped(Exception):
    """A signal came before all processes were ready."""


@dataclass(frozen=True, slots=True)
class Running:
    """A set-up that is ready.

    Attributes:
        file: what it was made of.
        pids: the process of each node, in their order.
    """

    file: File
    pids: tuple[int, ...]


def config_path(node: Node) -> Path:
    """Return where a node's configuration is."""
    return node.directory / (SENTINEL_FILE if node.role == "sentinel" else SERVER_FILE)


def serve(
    file: File,
    *,
    ready: Callable[[Running], None],
    tell: Callable[[str], None],
    keep_going: bool = False,
) -> int:
    """Run all processes; return when they have ended. In the main thread, as signals come there.

    Args:
        file: what to run.
        ready: called once, when clients can use it.
        tell: called with notes for people, such as what a start waits for.
        keep_going: when a process dies, the others go on.

    Returns:
        0: stopped by a signal, in order; 1: a process has died; 130: a second signal came, and the
        processes were killed.

    Raises:
        Failed: a process did not start, and the text quotes its log; or the processes did not become
            a set-up. All are stopped.
        UsageError: the directory, a port or a socket cannot be used.
    """
    with Bell() as bell, Place(file.layout) as place:
        check_free(file.layout)
        launcher = _Launcher(file, place, bell, tell)
        try:
            launcher.start()
            ready(launcher.running())
            status = launcher.watch(keep_going=keep_going)
        except _Stopped:
            status = 0
        except Refused as error:
            message = f"a server refuses what makes it a part of the set-up: {error}"
            raise Failed(message) from error
        finally:
            forced = launcher.stop()
    return FORCED if forced else status


@dataclass
class _Launcher:
    """The processes of one run."""

    file: File
    place: Place
    bell: Bell
    tell: Callable[[str], None]
    processes: list[Process] = field(default_factory=list)

    def running(self) -> Running:
        # After a failover, another one than the first node is started first.
        pids = {one.node: one.pid for one in self.processes}
        return Running(self.file, tuple(pids[node] for node in self.file.layout.nodes))

    # --- The start

    def start(self) -> None:
        """Start all and wait until they are one."""
        match self.file.layout.kind:
            case "server":
                self._launch(self.file.layout.nodes)
            case "replicas":
                self._start_replicas()
            case "cluster":
                self._start_cluster()
        self.place.note_formed()

    def _start_replicas(self) -> None:
        layout = self.file.layout
        port = last_master(layout) or layout.nodes[0].port
        data = layout.having("master", "replica")
        master = next(node for node in data if node.port == port)
        (first,) = self._launch([master], port)
        self._launch([node for node in data if node is not master], port)
        await_replicas(first, len(data) - 1, self._until)
        if layout.having("sentinel"):
            # Not before: they look for replicas at once, and then after ten seconds.
            watching = self._launch(layout.having("sentinel"), port)
            await_sentinels(watching, len(data) - 1, self._until)

    def _start_cluster(self) -> None:
        if not self.place.formed:
            for node in self.file.layout.nodes:  # of an attempt that somebody has stopped
                (node.directory / "nodes.conf").unlink(missing_ok=True)
        self._launch(self.file.layout.nodes)
        if not self.place.formed:
            make_cluster(self.processes, self._until)
        await_cluster(self.processes, self._until)

    def _launch(self, nodes: Sequence[Node], master: int | None = None) -> list[Process]:
        """Start some processes; return when they have loaded their data."""
        started: list[Process] = []
        snapshots: list[Process] = []
        for node in nodes:
            loads_snapshot = self._loads_snapshot(node)
            write(config_path(node), configuration(self.file, node, master))
            command = [self.file.program.path, str(config_path(node))]
            command += ["--sentinel"] if node.role == "sentinel" else []
            command += ["--appendonly", "no"] if loads_snapshot else []
            process = Process(node, self._address(node), command=command, locks=self.place.locks)
            started.append(process)
            self.processes.append(process)
            snapshots += [process] if loads_snapshot else []
            self.place.note_processes([one.pid for one in self.processes])
        for process in started:
            self._until(lambda p=process: p.ready, f"{process.node} to load its data")  # type: ignore[misc]
        for process in snapshots:
            self._begin_append_only(process)
        return started

    def _loads_snapshot(self, node: Node) -> bool:
        """Tell whether a server would miss its data: with an append-only file it reads no snapshot."""
        if node.role == "sentinel":
            return False
        settings = self.file.settings
        has_file = has_append_only(node, self.file.program, settings)
        return settings.aof != "no" and not has_file and (node.directory / SNAPSHOT).exists()

    def _begin_append_only(self, process: Process) -> None:
        ask(process.address, "CONFIG", "SET", "appendonly", "yes")

        def written() -> bool:
            info = fields(ask(process.address, "INFO", "persistence"))
            states = (info["aof_rewrite_in_progress"], info["aof_rewrite_scheduled"])
            done = states == ("0", "0") and info["aof_last_bgrewrite_status"] == "ok"
            return done and info["aof_enabled"] == "1"

        self._until(written, f"{process.node} to write its append-only file")

    def _address(self, node: Node) -> Address:
        link = None if node.role == "sentinel" else self.file.access.link
        return Address(node.socket or (self.file.layout.host, node.port), link)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, as long as nobody stops us and no process ends."""
        late: float | None = time.monotonic() + PATIENCE
        while True:
            if self.bell.stops:
                raise _Stopped
            for process in self.processes:
                if process.status is not None:
                    message = f"{process.node} did not start: {_end_of(process)}"
                    raise Failed(message)
            try:
                if condition():
                    return
            except (OSError, Refused):  # busy, or about to end
                pass
            if late is not None and time.monotonic() > late:
                late = None
                logs = self.file.layout.directory
                self.tell(
                    f"still waiting for {what}; what servers say is in server.log below {logs}"
                )
            self.bell.wait(LOOK)

    # --- Later

    def watch(self, *, keep_going: bool) -> int:
        """Return when somebody stops us (0), or processes have died (1)."""
        left = list(self.processes)
        while not self.bell.stops:
            for process in [one for one in left if one.status is not None]:
                left.remove(process)
                others = "" if len(self.processes) == 1 else "; stopping the others"
                if keep_going:
                    others = f"; {len(left)} go on" if left else "; none is left"
                self.tell(f"{process.node} ended{others}: {_end_of(process)}")
                if not (keep_going and left):
                    return 1
            # A signal that came before this has left a byte.
            self.bell.wait(None)
        return 0

    @property
    def _forced(self) -> bool:
        return self.bell.stops > 1

    def stop(self) -> bool:
        """End all in order; True: somebody was too impatient for that."""
        # Sentinels would put a replica in the place of a master that stops, and a master waits for
        # what its replicas have not got yet.
        for roles in (("sentinel",), ("server", "master"), ("replica",)):
            some = [one for one in self.processes if one.node.role in roles]
            self._end(some)
        return self._forced

    def _end(self, processes: Sequence[Process]) -> None:
        late: float | None = time.monotonic() + PATIENCE
        again = 0.0
        while left := [one for one in processes if one.status is None]:
            if self._forced:
                for process in self.processes:
                    process.end(force=True)
            elif time.monotonic() >= again:
                # More than once: a server refuses to end while it writes its first append-only file,
                # as a replica does that has just caught up.
                for process in left:
                    process.end()
                again = time.monotonic() + ASK_AGAIN
            if late is not None and time.monotonic() > late:
                late = None
                self.tell(
                    f"still waiting for {left[0].node} to write its data (Ctrl-C kills it); "
                    f"the log is {left[0].log}"
                )
            self.bell.wait(0.2)


def _end_of(process: Process) -> str:
    status = process.status
    how = f"status {status}" if status is not None and status >= 0 else f"signal {-(status or 0)}"
    return f"{how}; its log {process.log} ends with: {process.last_words()}"
