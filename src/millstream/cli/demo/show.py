"""What the demo says while it runs: lines, and on a terminal a bar below them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from millstream.cli.output import show_text

__all__ = ["Advance", "Show"]

Advance = Callable[[int, str], None]
"""Tell how much is done, and what to write beside the bar; it may have several lines."""

WIDTH = 13
"""Of the first words of the lines."""


class Show:
    """Speaks to whoever watches.

    Args:
        silent: whether nobody does.
    """

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._console = Console(file=sys.stdout, highlight=False)
        self._terminal = sys.stdout.isatty() and not silent

    def line(self, label: str, text: str) -> None:
        """Say what has happened."""
        if self._silent:
            return
        if self._terminal:
            self._console.print(f"[bold]{label:{WIDTH}}[/bold]{escape(text)}", soft_wrap=True)
        else:
            show_text(f"{label:{WIDTH}}{text}")

    @contextlib.contextmanager
    def bar(self, total: int) -> Iterator[Advance]:
        """Show how far something has got."""
        if not self._terminal:
            yield lambda _done, _note: None
            return
        # A narrow terminal cuts the note; wrapped, it would jump up and down.
        note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True))
        columns = (BarColumn(), MofNCompleteColumn(), note)
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("", total=total, note="")
            yield lambda done, note: progress.update(task, completed=done, note=escape(note))
