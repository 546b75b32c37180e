"""What one subscription knows of the files that were published."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from millstream.cli.demo.count import Figures, Function, add_up, longest_of
from millstream.cli.demo.tasks import Indexed, NotIndexed

__all__ = ["LATE", "PARTS", "Index", "Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a subscription is for.

    Attributes:
        name: of the subscription.
        totals: whether it adds up.
        longest: whether it keeps the longest functions.
        answers: whether it answers questions about what it knows.
        late: whether it joins when others have begun, and replays what it has missed.
    """

    name: str
    totals: bool = False
    longest: bool = False
    answers: bool = False
    late: bool = False


LATE = Part(name="late", totals=True, longest=True, answers=True, late=True)
PARTS = (Part(name="totals", totals=True, answers=True), Part(name="longest", longest=True), LATE)


@dataclass(slots=True, kw_only=True)
class Index:
    """Files by path: the second message for the same file changes nothing but ``duplicates``.

    Attributes:
        figures: the totals; None: it does not add up.
        longest: the longest functions; None: it does not keep them.
        duplicates: messages for a file that was known already, because it was published twice.
    """

    figures: Figures | None = None
    longest: list[Function] | None = None
    duplicates: int = 0
    _messages: set[str] = field(default_factory=set)
    _files: dict[str, Figures] = field(default_factory=dict)

    @classmethod
    def of(cls, part: Part) -> Index:
        """Begin with nothing."""
        return cls(figures=Figures() if part.totals else None, longest=[] if part.longest else None)

    @property
    def messages(self) -> int:
        """How many different messages came."""
        return len(self._messages)

    @property
    def files(self) -> int:
        """How many different files they were about."""
        return len(self._files)

    def about(self, path: str) -> Figures:
        """Tell what is in a file, or in all files of a folder.

        Raises:
            NotIndexed: there is no such file, and no file in such a folder.
        """
        if path in self._files:
            return self._files[path]
        folder = path if path.endswith(os.sep) else f"{path}{os.sep}"
        found = [one for name, one in self._files.items() if name.startswith(folder)]
        if not found:
            raise NotIndexed(path)
        return add_up(found)

    def add(self, message: str, one: Indexed) -> None:
        """Take a message by its id; one that came before, by replay perhaps, is no news."""
        if message in self._messages:
            return
        self._messages.add(message)
        if one.file in self._files:
            self.duplicates += 1
            return
        self._files[one.file] = one.figures
        if self.figures is not None:
            self.figures = add_up([self.figures, one.figures])
        if self.longest is not None:
            self.longest = longest_of([*self.longest, *one.longest])
