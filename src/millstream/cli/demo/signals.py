"""Signals that end a program: taken at a safe moment, so that it can clean up."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Signals"]


class Signals:
    """Ctrl-C, SIGTERM and SIGHUP while it is entered.

    The first one has an effect where ``check`` is called: an exception that may come anywhere can
    be lost in a destructor, or leave a connection half-way. A second one is that impatient.
    """

    def __init__(self) -> None:
        self._came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Begin."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup lets programs ignore SIGHUP.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._arrived)
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

    def check(self) -> None:
        """End the program if a signal asks for that.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            SystemExit: another signal.
        """
        if self._came == signal.SIGINT:
            raise KeyboardInterrupt
        if self._came:
            raise SystemExit(128 + self._came)

    def ignore(self) -> None:
        """Take no more of them: the end has begun. It takes a second or two."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        again, self._came = self._came, number
        if again:
            self.check()
