"""What the processes of a run write down: one line an event, which a kill -9 does not lose."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Event", "Recorder", "Records"]

PULSE = 0.1
"""Seconds between two looks at the clock, by which a process notices that it did not run."""

STALL = 0.4
"""Seconds between two such looks that are worth an event."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        name: what.
        time: seconds of the monotonic clock, which all processes of a machine share.
        process: who says so: a name that no other process of the run has.
        data: what else there is to say.
    """

    name: str
    time: float
    process: str
    data: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = " ".join(f"{name}={value!r}" for name, value in self.data.items())
        return f"{self.time:12.4f} {self.process:24} {self.name:10} {said}"


class Recorder:
    """Writes the events of this process.

    Args:
        folder: where all records of a run are.
        role: the first part of the name of this process.
    """

    def __init__(self, folder: Path, role: str) -> None:
        # Numbers of processes come again; with the time they are unique.
        self.process = f"{role}-{os.getpid()}-{time.monotonic_ns() % 10**9:09}"
        path = folder / f"{self.process}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = iter(range(1, 1 << 62))

    def tell(self, name: str, **data: Any) -> float:
        """Write an event, and return its time."""
        now = time.monotonic()
        line = json.dumps([name, now, data], separators=(",", ":")).encode() + b"\n"
        # One call: lines of several threads do not mix, and what is written outlives the process.
        os.write(self._file, line)
        return now

    def number(self) -> int:
        """Return a number that was not given out before; threads may ask at the same time."""
        return next(self._numbers)

    def watch(self) -> None:
        """Tell from now on when this process did not run for a while: stopped, or not given a turn."""
        threading.Thread(target=self._watch, name="pulse", daemon=True).start()

    def _watch(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(PULSE)  # the work itself
            now = time.monotonic()
            if now - last > STALL:
                self.tell("stalled", since=last)
            last = now


class Records:
    """Reads what processes have written, also while they go on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, int] = {}

    def news(self) -> Iterator[Event]:
        """Yield what is there and was not read before; of each process in its order."""
        for path in sorted(self._folder.glob("*.jsonl")):
            begin = self._known.get(path, 0)
            with path.open("rb") as file:
                file.seek(begin)
                # What follows the last line end is being written.
                text, end, _ = file.read().rpartition(b"\n")
            self._known[path] = begin + len(text) + len(end)
            for line in text.splitlines():
                name, when, data = json.loads(line)
                yield Event(name, when, path.stem, data)
