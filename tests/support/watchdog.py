"""The last resort against a test that hangs: its process ends, and says where it stood.

pytest-timeout raises an exception in the main thread, once. Whoever catches it, or waits again on the
way out (for a child, a thread, a task that does not end), hangs for ever and takes the whole run along.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

GRACE = 120.0
"""Seconds beyond a test's time limit: its fixtures may have something to put away."""


def open_output() -> TextIO:
    """Standard error as it is now: pytest captures it for each test."""
    return os.fdopen(os.dup(sys.stderr.fileno()), "w")


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
