"""Adds up results that may come more than once."""

from __future__ import annotations

from millstream.cli.demo.count import Figures, add_up
from millstream.cli.demo.tasks import Counted

__all__ = ["Tally"]


class Tally:
    """Results by file: the second one for the same file changes nothing but ``duplicates``.

    Attributes:
        duplicates: results that were dropped because the file was counted already.
        again: results of messages whose first worker died, in the order of their arrival.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.again: list[Counted] = []
        self._counted: dict[str, Figures] = {}

    def __len__(self) -> int:
        """Count the files."""
        return len(self._counted)

    def add(self, result: Counted) -> None:
        """Take a result."""
        if result.crashes:
            self.again.append(result)
        if result.file in self._counted:
            self.duplicates += 1
        else:
            self._counted[result.file] = result.figures

    def totals(self) -> Figures:
        """Add up."""
        return add_up(list(self._counted.values()))
