"""The processes of a run, and the network of each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.events import Event
from tests.chaos.network import Network
from tests.chaos.sources import NAMESPACE
from tests.support.servers import die_with_parent

__all__ = ["ROLES", "Crew", "Role"]

NOT_CONNECTED = 1
"""The exit status of a worker that cannot reach its server when it starts."""

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is there for.

    Attributes:
        name: also that of its network.
        arguments: of Python.
        produces: whether it sends; otherwise it consumes.
        children: whether the work is done by children of it, which a supervisor starts again.
    """

    name: str
    arguments: tuple[str, ...]
    produces: bool = False
    children: bool = False


def roles(seed: int, rate: float) -> dict[str, Role]:
    """Return who takes part.

    Args:
        seed: of what producers send.
        rate: messages a second, of all producers together.
    """
    worker = ("tests.chaos.tasks:worker", "--namespace", NAMESPACE)
    receiver, producer = ("-m", "tests.chaos.receiver"), ("-m", "tests.chaos.producer")
    made = (
        Role("supervised", ("-m", "millstream", "run", *worker, "--processes", "2"), children=True),
        Role("bare", ("-m", "millstream.worker.child", *worker)),
        Role("receiver", (*receiver, "async", "ordered", "plain", "story/readers", "sole")),
        Role("blocking", (*receiver, "blocking", "listed", "ordered", "news/all", "steps")),
        Role("producer", (*producer, "async", str(seed), str(rate / 2)), produces=True),
        Role("sender", (*producer, "blocking", str(seed + 1), str(rate / 2)), produces=True),
    )
    return {role.name: role for role in made}


ROLES = tuple(roles(0, 0))


class Crew:
    """Starts processes, kills them, and starts them again. Use it as a context manager.

    Args:
        folder: for records and logs.
        made: who takes part.
        networks: of each role.
        environment: what processes are told beside what is theirs, by role.
    """

    def __init__(
        self,
        folder: Path,
        made: dict[str, Role],
        networks: Mapping[str, Network],
        environment: dict[str, dict[str, str]],
    ) -> None:
        self._folder = folder
        self._roles = made
        self.networks = networks
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0
        self._down: set[str] = set()
        # By the number of the process: its name in the records, and its role.
        self._names: dict[int, tuple[str, str]] = {}
        # Those that have begun to work.
        self._busy: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Children of a supervisor that is killed end by themselves, but not those that are stopped.
        for process in self._processes.values():
            process.kill()
            process.wait()
        for pid in self._names:
            if self._is_ours(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"RECORDS={self._folder}".encode() in environment

    def start(self, name: str) -> None:
        """Start the process of a role."""
        self._starts += 1
        self._down.discard(name)
        log = (self._folder / f"{self._starts:03}-{name}.log").open("wb")
        with log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *self._roles[name].arguments],
                cwd=ROOT,
                env={
                    **os.environ,
                    **self._environment.get(name, {}),
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    "RECORDS": str(self._folder),
                    "ROLE": name,
                    "ROUTE": name,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )

    def heard(self, event: Event) -> None:
        """Learn which processes there are."""
        if event.name == "started":
            self._names[event.data["pid"]] = (event.process, event.data["role"])
        elif event.name in ("begun", "send"):
            self._busy.add(event.process)

    def name_of(self, pid: int) -> str | None:
        """Return what the records call a process; None: it has not begun to tell."""
        return self._names.get(pid, (None, None))[0]

    def parent(self, role: str) -> int | None:
        """Return the process that was started for a role; None: it does not run."""
        process = self._processes.get(role)
        return process.pid if process is not None and process.poll() is None else None

    def working(self, role: str) -> list[int]:
        """Return the processes of a role that do its work, as far as they have told."""
        parent = self.parent(role)
        if not self._roles[role].children:
            return [parent] if parent in self._names else []
        return sorted(
            pid for pid, (_, own) in self._names.items() if own == role and self._is_ours(pid)
        )

    def at_work(self, role: str) -> bool:
        """Tell whether a process of a role has begun to work, so that it knows what SIGTERM means."""
        # Children of a supervisor that was killed may work on while the next one is just starting.
        parent, own = self.parent(role), self.working(role)
        own = [pid for pid in own if not self._roles[role].children or _parent_of(pid) == parent]
        return any(self.name_of(pid) in self._busy for pid in own)

    def revive(self) -> list[str]:
        """Start those again that could not connect when they started, as whoever runs them would.

        Returns:
            Those that have ended for any other reason; they are started again, too.
        """
        strange = []
        for role, process in self._processes.items():
            if role not in self._down and (status := process.poll()) is not None:
                if status != NOT_CONNECTED:
                    strange.append(f"{role} ended by itself with {status}")
                self.start(role)
        return strange

    def kill(self, role: str) -> None:
        """Kill the process that was started for a role; it stays down until it is started again."""
        self._down.add(role)
        process = self._processes[role]
        process.kill()
        process.wait()

    def ask_to_end(self, role: str) -> None:
        """Send SIGTERM."""
        self._down.add(role)
        self._processes[role].send_signal(signal.SIGTERM)

    def status(self, role: str, timeout: float) -> int | None:
        """Return the exit status of a process that was asked to end; None: it does not."""
        try:
            return self._processes[role].wait(timeout)
        except subprocess.TimeoutExpired:
            return None


def _parent_of(pid: int) -> int | None:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("PPid:"):
                return int(line.split()[1])
    return None
