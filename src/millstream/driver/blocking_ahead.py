"""An operation that goes on while its caller does something else: with blocking calls, none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from millstream.protocol.op import Op

__all__ = ["BlockingAhead"]

T = TypeVar("T")


class BlockingAhead(Generic[T]):
    """The twin of ``AsyncAhead``. It runs when its result is wanted: a thread would cost more.

    Args:
        run: what runs operations.
        op: the operation.
    """

    def __init__(self, run: Callable[[Op[T]], T], op: Op[T]) -> None:
        self._run, self._op = run, op

    def result(self) -> T:
        """Run it.

        Raises:
            BrokerError: see ``BlockingDriver.run``.
        """
        return self._run(self._op)

    def drop(self) -> None:
        """Give it up: it has not begun."""
