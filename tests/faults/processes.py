"""Worker processes: started from a module that a test writes, watched, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.working import NAMESPACE, PATIENCE
from tests.support.readers import sleeping_readers
from tests.support.servers import Server
from tests.support.wait import until

PREAMBLE = """
import asyncio, json, os, signal, sys, threading, time
import millstream as ms

_fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def record(event, body=None, **more):
    # One write: the lines of several processes do not mix, and a kill loses none.
    line = {"event": event, "body": body, "pid": os.getpid(), "time": time.time(), **more}
    os.write(_fd, json.dumps(line).encode() + b"\\n")


def flag(name):
    return os.path.exists(name)


async def raised(name):
    while not flag(name):
        await asyncio.sleep(0.005)


worker = ms.Worker()
"""

WRONG_CLOCK = """
import datetime, os, time

OFF = float(os.environ["OFF"])

def shift(real, unit):
    return lambda: real() + type(real())(OFF * unit)

class Wrong(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=OFF)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=OFF)

time.time, time.time_ns = shift(time.time, 1), shift(time.time_ns, 10**9)
datetime.datetime = Wrong
"""

SUPERVISE = """
import json, logging, os, sys
from millstream.worker.supervisor import supervise
logging.basicConfig(level="INFO")
sys.exit(supervise(sys.argv[1], **json.loads(sys.argv[2])))
"""


def kill(pid: int) -> float:
    """Kill a process, and tell when: a moment before others can know of it and go on with its work.

    The moment after the call may be too late: they can be quicker than who made it.
    """
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return at


@dataclass(frozen=True)
class Event:
    """What a handler told."""

    event: str
    body: Any
    pid: int
    time: float
    more: dict[str, Any]


def sleeping(server: Server) -> int:
    """How many readers sleep at the server."""
    return len(sleeping_readers(server.admin()))


class Program:
    """A process of its own, and what it prints."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        inherited: tuple[int, ...] = (),
    ) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=inherited,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        """What it, and its children, have printed so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status; it must end within the time."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output[-3000:]}") from None


class Workshop:
    """A folder with a module `tasks`, the processes that run its worker, and their record.

    Use it as a context manager: it leaves no process behind.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._record = folder / "record"
        self._programs: list[Program] = []
        self._told: list[Event] = []
        self._known = 0  # bytes of the record
        self._environment = {
            **os.environ,
            "RECORD": str(self._record),
            "MILLSTREAM_URL": url,
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            for program in self._programs:
                exc.add_note(f"--- output of process {program.pid}\n{program.output[-6000:]}")
        for program in self._programs:
            program.process.kill()
            program.process.wait()
        # Children of a killed supervisor stop by themselves, but a handler may be stuck.
        for pid in {event.pid for event in self.events()}:
            if self._is_ours(pid):
                os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"RECORD={self._record}".encode() in environment

    def write(self, text: str, name: str = "tasks") -> None:
        """Write the module: what every one needs, and `text`."""
        (self.folder / f"{name}.py").write_text(PREAMBLE + text)

    def raise_flag(self, name: str) -> None:
        """Let handlers go on that wait for it."""
        (self.folder / name).touch()

    def worker(
        self, *options: str, target: str = "tasks:worker", inherited: tuple[int, ...] = ()
    ) -> Program:
        """Start a worker process without a supervisor; `inherited` are files that it has from us."""
        module = ["-m", "millstream.worker.child", target, "--namespace", NAMESPACE]
        return self._start([*module, *options], inherited)

    def worker_off_by(self, seconds: float) -> Program:
        """Start a worker whose clock is wrong from its first import on."""
        folder = self.folder / "clock"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(WRONG_CLOCK)
        self._environment |= {"PYTHONPATH": str(folder), "OFF": str(seconds)}
        return self.worker()

    def supervisor(self, processes: int = 1, target: str = "tasks:worker", **more: Any) -> Program:
        """Start a supervisor with so many worker processes."""
        options = {
            "url": None,
            "namespace": NAMESPACE,
            "processes": processes,
            "concurrency": None,
            "burst": False,
            **more,
        }
        return self._start(["-c", SUPERVISE, target, json.dumps(options)])

    def script(self, name: str = "tasks") -> Program:
        """Run the module itself."""
        return self._start([f"{name}.py"])

    def _start(self, arguments: list[str], inherited: tuple[int, ...] = ()) -> Program:
        program = Program(arguments, self.folder, self._environment, inherited)
        self._programs.append(program)
        return program

    def events(self, *names: str) -> list[Event]:
        """What handlers have told so far, in order; of these events, or all."""
        self._read_on()
        return [one for one in self._told if not names or one.event in names]

    def _read_on(self) -> None:
        """Read what is new: tests ask again and again, and there may be thousands of lines."""
        if not self._record.exists():
            return
        with self._record.open("rb") as record:
            record.seek(self._known)
            # What follows the last line end is being written.
            lines = record.read().split(b"\n")[:-1]
        self._known += sum(len(line) + 1 for line in lines)
        for line in lines:
            one = json.loads(line)
            self._told.append(
                Event(one.pop("event"), one.pop("body"), one.pop("pid"), one.pop("time"), one)
            )

    def bodies(self, name: str) -> Counter[Any]:
        """How often each body had this event."""
        return Counter(event.body for event in self.events(name))

    def until_told(self, name: str, count: int, timeout: float = PATIENCE) -> list[Event]:
        """Wait for so many events of a name."""
        until(lambda: len(self.events(name)) >= count, timeout, message=f"{count} times {name!r}")
        return self.events(name)
