"""Notes of progress that wait for a callback."""

from __future__ import annotations

from typing import Any

from millstream.driver.blocking_letterbox import BlockingLetterbox
from millstream.protocol.mailbox import Item
from millstream.sync.notes import MOST, Notes


def word(box: BlockingLetterbox[Any]) -> str:
    """What has come into the box; empty: nothing."""
    item = box.take(0)
    return "" if item is None else str(item.kind)


def note(number: int, sender: str = "a run") -> Item:
    return Item("note", str(number).encode(), number, sender)


def test_they_are_bounded() -> None:
    """When more come than are taken, the oldest are dropped, and the box has one word for all."""
    box: BlockingLetterbox[Any] = BlockingLetterbox()
    notes = Notes(box)
    for number in range(1, MOST + 11):
        notes.put(note(number))
    notes.put(Item("reply", b"1"))
    assert [word(box), word(box), word(box)] == ["notes", "reply", ""]
    assert [int(content) for content in notes.take()] == [*range(11, MOST + 11)]


def test_what_comes_meanwhile() -> None:
    """There is word of what comes while others are taken, and after that."""
    box: BlockingLetterbox[Any] = BlockingLetterbox()
    notes = Notes(box)
    notes.put(note(1))
    assert word(box) == "notes"
    for content in notes.take():
        if content == b"1":
            notes.put(note(2))
    assert word(box) == "notes"
    assert list(notes.take()) == []
    notes.put(note(3))
    assert word(box) == "notes"
    assert list(notes.take()) == [b"3"]


def test_repeated_ones() -> None:
    """Each run of a handler counts by itself; what has no number is told."""
    notes = Notes(BlockingLetterbox())
    for number, sender in ((1, "a"), (2, "a"), (1, "a"), (1, "b"), (2, "a"), (2, "b"), (0, "")):
        notes.put(note(number, sender))
    assert [int(content) for content in notes.take()] == [1, 2, 1, 2, 0]
