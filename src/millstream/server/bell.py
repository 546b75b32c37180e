"""Waits for what a launcher waits for: a signal to stop, or the end of a process."""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Bell"]


class Bell:
    """SIGINT, SIGTERM, SIGHUP and SIGCHLD while it is entered, in the main thread.

    Signals are noted and not raised: an exception that may come anywhere could leave a process behind.

    Attributes:
        stops: how many signals have asked for an end.
    """

    def __init__(self) -> None:
        self.stops = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Begin."""
        self._ours, self._rung = socket.socketpair()
        for end in (self._ours, self._rung):
            end.settimeout(0)
        self._wakeup = signal.set_wakeup_fd(self._rung.fileno(), warn_on_full_buffer=False)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup lets programs ignore SIGHUP.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave signals to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._rung.close()

    def wait(self, timeout: float | None) -> None:
        """Return at the next signal, or after so many seconds."""
        if select.select([self._ours], [], [], timeout)[0]:
            self._ours.recv(4096)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1


def _note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a signal that is ignored would ring no bell."""
