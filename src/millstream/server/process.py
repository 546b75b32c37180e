"""One server process: started, asked whether it is ready, and stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millstream.server.ask import Address, Refused, ask
from millstream.server.layout import Node

__all__ = ["Process"]

LOG = "server.log"
LOG_LIMIT = 1_000_000
"""Bytes; a longer log is set aside at the next start."""

QUOTED_LINES = 3
"""Of a log in an error."""

_PR_SET_PDEATHSIG = 1


class Process:
    """A node's process, from its start to its end.

    Args:
        node: what it is.
        address: where it answers us.
        command: the program with its arguments.
        locks: descriptors that it inherits.
    """

    def __init__(
        self, node: Node, address: Address, *, command: Sequence[str], locks: Sequence[int]
    ) -> None:
        self.node = node
        self.address = address
        self.log = node.directory / LOG
        _set_aside(self.log)
        self._begins = self.log.stat().st_size if self.log.exists() else 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(self.log, flags, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the program that the user has named
                command,
                cwd=node.directory,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=locks,
                umask=0o077,
                # Ctrl-C in a terminal goes to the whole group: it is ours to stop them in order.
                start_new_session=True,
                preexec_fn=_ending_with_us(),  # noqa: PLW1509 - this program has one thread
            )
        finally:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None: it runs."""
        return self._process.poll()

    @property
    def ready(self) -> bool:
        """True when it answers, with all of its data loaded."""
        try:
            return bool(ask(self.address, "PING") == "PONG")
        except (OSError, Refused):  # not there yet; it loads its data
            return False

    def end(self, *, force: bool = False) -> None:
        """Have it write its data and end; with force: end at once."""
        if self.status is None:
            self._process.send_signal(signal.SIGKILL if force else signal.SIGTERM)

    def last_words(self) -> str:
        """Return the last lines of its log since its start."""
        with self.log.open("rb") as file:
            file.seek(self._begins)
            text = file.read().decode("utf-8", "replace")
        # A line that it could not read may have the hash of a password.
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith(">>>")]
        return " | ".join(lines[-QUOTED_LINES:])


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))


def _ending_with_us() -> Any:
    """Have a server end in order when this program is killed, where the kernel can do that (Linux)."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)

    return tie
