"""The data directory of a set-up: locked while it is used, and never mixed with another one's data.

The locks are those of ``embedded://``, so that a directory has one kind of user at a time. Servers
inherit them: who finds them free knows that no server writes there, also after a ``kill -9``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from millstream.driver import embedded_supervisor as embedded
from millstream.driver.embedded_places import data_directory
from millstream.errors import UsageError
from millstream.server.layout import Kind, Layout, Node
from millstream.server.program import Program
from millstream.server.settings import Settings

__all__ = ["APPEND_ONLY", "SNAPSHOT", "Place", "has_append_only", "write"]

NOTE = "layout.json"
"""Which set-up the directory belongs to."""

SNAPSHOT = "dump.rdb"
APPEND_ONLY = ("appendonlydir", "appendonly.aof")
"""Of Redis 7, Valkey and later; of Redis 6."""

WILDCARDS = frozenset("*?[")
"""With one of these in it, servers since Redis 7 take the path of their configuration for a pattern. When that
fits no file they start all the same: on port 6379, without a password, in the working directory."""

TRIES, PAUSE = 20, 0.01
"""Others hold a lock for a moment to look whether it is free."""


class Place:
    """A data directory while it is ours.

    Args:
        layout: whose directory it is; made, if it is missing.

    Attributes:
        formed: whether the set-up was complete before, so that its nodes know each other.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.directory
        self.formed = False
        self._locks: list[int] = []

    def __enter__(self) -> Self:
        """Take the directory.

        Raises:
            UsageError: somebody uses it, it belongs to another set-up, or it cannot be used.
        """
        _check_name(self._directory)
        data_directory(self._directory)
        try:
            self._take(embedded.MEMBERS_LOCK)
            self._take(embedded.SERVER_LOCK)
            self.note_processes([])
            self.formed = self._check_note()
            for node in self._layout.nodes:
                node.directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            self.__exit__(None, None, None)
            message = f"cannot use the data directory {self._directory}: {error}"
            raise UsageError(message) from error
        except UsageError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave it. A server that still runs keeps the locks."""
        while self._locks:
            os.close(self._locks.pop())

    @property
    def locks(self) -> tuple[int, ...]:
        """The descriptors that servers inherit."""
        return tuple(self._locks)

    def note_processes(self, pids: Sequence[int]) -> None:
        """Write down who uses the directory, for those who find it locked."""
        lock = self._locks[-1]
        os.ftruncate(lock, 0)
        os.pwrite(lock, " ".join(map(str, pids)).encode(), 0)

    def note_formed(self) -> None:
        """Write down that the set-up is complete: from now on it goes on where it was."""
        self.formed = True
        self._write_note()

    def _take(self, name: str) -> None:
        lock = embedded.open_lock(self._directory / name)
        self._locks.append(lock)
        for _ in range(TRIES):
            if embedded.try_lock(lock, fcntl.LOCK_EX):
                return
            time.sleep(PAUSE)
        message = f"the data directory {self._directory} is in use {self._by_whom()}"
        raise UsageError(message)

    def _by_whom(self) -> str:
        pids = (self._directory / embedded.SERVER_LOCK).read_text("ascii", "replace").split()
        alive = [pid for pid in pids if pid.isdigit() and _is_alive(int(pid))]
        if self._is_embedded():
            return (
                f"as embedded://{self._directory}, until its last user leaves: "
                "give another --dir, or stop the programs that use it"
            )
        processes = f" ({' '.join(alive)})" if alive else ""
        return f"by servers that were started by this command{processes}: give another --dir, or stop them"

    def _is_embedded(self) -> bool:
        lock = embedded.open_lock(self._directory / embedded.SUPERVISOR_LOCK)
        try:
            return not embedded.try_lock(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def _check_note(self) -> bool:
        """Refuse the data of another set-up; tell whether this one was complete before."""
        ports = [node.port for node in self._layout.nodes]
        found = self._read_note()
        if found is None:
            if self._layout.kind != "server" and self._has_data():
                message = f"{self._directory} has the data of a single server: give another --dir"
                raise UsageError(message)
            self._write_note()
            return False
        kind, their_ports, formed = found
        if kind != self._layout.kind or (kind != "server" and their_ports != ports):
            message = (
                f"{self._directory} has the data of {_described(kind, their_ports)}: "
                "give the same options as then, or another --dir"
            )
            raise UsageError(message)
        return formed

    def _has_data(self) -> bool:
        names = (SNAPSHOT, *APPEND_ONLY)
        ours = [self._directory, *(node.directory for node in self._layout.nodes)]
        return any((folder / name).exists() for folder in ours for name in names)

    def _read_note(self) -> tuple[Kind, list[int], bool] | None:
        path = self._directory / NOTE
        try:
            note = json.loads(path.read_bytes())
            return note["kind"], note["ports"], note["formed"]
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            message = f"cannot read {path}: remove it if you know whose data this is"
            raise UsageError(message) from error

    def _write_note(self) -> None:
        ports = [node.port for node in self._layout.nodes]
        note = {"kind": self._layout.kind, "ports": ports, "formed": self.formed}
        write(self._directory / NOTE, json.dumps(note) + "\n")


def _described(kind: Kind, ports: Sequence[int]) -> str:
    what = {"server": "a single server", "replicas": "replicas", "cluster": "a cluster"}[kind]
    return what if kind == "server" else f"{what} on the ports {', '.join(map(str, ports))}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write(path: Path, text: str) -> None:
    """Write a file that only this user can read; others see the old one or the new one."""
    new = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    new.replace(path)


def has_append_only(node: Node, program: Program, settings: Settings) -> bool:
    """Tell whether a node has an append-only file to load.

    Raises:
        UsageError: it has one, and would start without it: nobody would see the messages in it, and
            the next start with it would not see those that came meanwhile.
    """
    there = [node.directory / name for name in APPEND_ONLY]
    found = [path for path in there if _holds_something(path)]
    if found and settings.aof == "no":
        message = (
            f"{found[0]} has messages that a server with --aof no would not load: leave it out, or give "
            "another --dir. docs/server.md tells how to change to snapshots"
        )
        raise UsageError(message)
    if found == [there[0]] and not program.has_directory:
        message = (
            f"{found[0]} was written by Redis 7 or later, or Valkey; {program} would start without "
            "the messages in it: give another --binary or --dir"
        )
        raise UsageError(message)
    return bool(found)


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        # Written last: without it, the server takes the rest for a beginning that was cut off.
        return any(path.glob("*.manifest"))
    return path.exists() and path.stat().st_size > 0


def _check_name(directory: Path) -> None:
    """Refuse a directory in which servers would not find their configuration."""
    if WILDCARDS & {*str(directory.absolute())}:
        message = (
            f"cannot use the data directory {directory}: a server would take its path for a pattern, and not "
            "find its configuration; choose one without *, ? and ["
        )
        raise UsageError(message)
