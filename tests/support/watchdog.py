"""The last resort against a test that hangs: its process ends, and the run says where it stood.

pytest-timeout raises an exception in the main thread, once. Whoever catches it, or waits again on the
way out (for a child, a thread, a task that does not end), hangs for ever and takes the whole run along.
Hypothesis would be the first to catch it: a failure is what it searches for, and makes smaller.
"""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

import pytest

GRACE = 120.0
"""Seconds beyond a test's time limit: its fixtures may have something to put away."""

WHOLE = 2400.0
"""Seconds for all tests, several times what they take: so long may a run that does not end hang."""

STACKS = Path("build/stacks")
"""Where each process writes. What it printed would be far above the end of a long output."""


class OutOfTime(BaseException):
    """A test has taken longer than its time limit. Hypothesis does not take it for a failure."""


def end_properties_too() -> None:
    """Have the time limit that pytest-timeout has just set raise `OutOfTime`."""
    fail = signal.getsignal(signal.SIGALRM)
    if not callable(fail):  # it watches in a thread, which ends the process
        return

    def end(number: int, frame: FrameType | None) -> None:
        try:
            fail(number, frame)
        except pytest.fail.Exception as failure:
            raise OutOfTime(failure.msg) from None

    signal.signal(signal.SIGALRM, end)


def open_stacks(process: str) -> TextIO:
    """Return the file for the stacks of a process.

    Args:
        process: its name, unique in the run.
    """
    STACKS.mkdir(parents=True, exist_ok=True)
    return (STACKS / f"{process}.txt").open("w")


@contextmanager
def watch(limit: float, output: TextIO) -> Iterator[None]:
    """End this process, with the stacks of all threads, when the block takes longer.

    Args:
        limit: seconds.
        output: where the stacks go.
    """
    faulthandler.dump_traceback_later(limit, exit=True, file=output)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def forget_stacks() -> None:
    """Delete what earlier runs have left."""
    for path in STACKS.glob("*.txt"):
        path.unlink()


def stacks() -> Iterator[str]:
    """Yield what the processes of this run have written, short enough for the end of an output."""
    for path in sorted(STACKS.glob("*.txt")):
        if lines := path.read_text().splitlines():
            yield f"{path}:"
            yield from _shortened(lines)


def _shortened(lines: Iterable[str]) -> Iterator[str]:
    """Keep the innermost frames of each thread, and those of this project."""
    depth = 0
    for line in lines:
        depth = depth + 1 if line.startswith("  ") else 0
        ours = "site-packages" not in line and "/lib/python" not in line
        if depth <= INNERMOST or ours:
            yield line


INNERMOST = 3
