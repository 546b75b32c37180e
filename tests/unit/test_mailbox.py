"""Mailboxes: what is put into one, and how it is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.protocol.mailbox import Item, Mail, delivering, make, read


def reading(*entries: list[bytes]) -> tuple[str, list[Any]]:
    """What a reader gets of a mailbox with these entries."""
    stream = [[f"{number}-0".encode(), fields] for number, fields in enumerate(entries, 1)]
    return read("ms", "c", "0-0", 10).decode([[[b"key", stream]]])


@given(
    st.sampled_from(["reply", "error", "part", "end", "note", "taken", "cancel"]),
    st.binary(),
    st.integers(1, 10**15 - 1),
    st.integers(0, 10**15 - 1),
    st.sampled_from(["", "worker 7"]),
)
def test_round_trip(kind: str, content: bytes, slot: int, number: int, sender: str) -> None:
    """The reader gets what the sender has put in."""
    mail = Mail("c", slot, kind, content, number, sender)
    [command] = delivering("ms")("p", 1, [mail], None).commands
    name, key, nomkstream, star, *fields = command.arguments
    assert (name, key, nomkstream, star) == ("XADD", "ms:{client/c}:mailbox", "NOMKSTREAM", "*")

    sent = [one if isinstance(one, bytes) else str(one).encode() for one in fields]
    assert reading(sent) == ("1-0", [(slot, Item(kind, content, number, sender))])


def test_where_to_go_on() -> None:
    """It is behind the last entry; without any, where it was."""
    op = read("ms", "c", "5-0", 10)

    assert op.decode([None]) == ("5-0", [])
    assert reading([b"reply", b"1", b"c", b"1"], [b"reply", b"2", b"c", b"2"])[0] == "2-0"


def test_a_read_that_does_not_sleep() -> None:
    """It takes what is there."""
    sleeping, looking = read("ms", "c", "5-0", 10), read("ms", "c", "5-0", None)

    assert "BLOCK" in sleeping.commands[0].arguments
    assert "BLOCK" not in looking.commands[0].arguments


@pytest.mark.parametrize(
    "fields",
    [
        [b"open", b""],
        [b"reply", b"1"],
        [b"reply", b"1", b"x", b"1"],
        [b"reply", b"1", b"c", b""],
        [b"reply", b"1", b"c", b"-1"],
        [b"reply", b"1", b"c", b"one"],
        [b"reply", b"1", b"c", b"1" * 16],
        [b"reply", b"1", b"c", b"1" * 5000],
        [b"reply", b"1", b"c", b"1" * 5000, b"n", b"1"],
        [b"reply", b"1", b"n", b"1", b"w", b"x"],
    ],
)
def test_for_none_of_our_slots(fields: list[bytes]) -> None:
    """Anybody may write to a mailbox: what names no slot is for slot 0, which nobody has."""
    after = [b"reply", b"2", b"c", b"2"]

    seen, [(slot, _), second] = reading(fields, after)
    assert (seen, slot) == ("2-0", 0)
    assert second == (2, Item("reply", b"2"))


@pytest.mark.parametrize("number", [b"", b"x", b"-1", b"9" * 16, b"9" * 5000])
def test_a_number_that_is_none(number: bytes) -> None:
    """It is 0, as without one."""
    assert reading([b"part", b"1", b"c", b"3", b"n", number])[1] == [(3, Item("part", b"1"))]


@given(st.lists(st.binary(), min_size=2, max_size=10).filter(lambda fields: len(fields) % 2 == 0))
def test_hostile_entries(fields: list[bytes]) -> None:
    """Whatever is in a mailbox, those behind it are read."""
    seen, items = reading(fields, [b"reply", b"2", b"c", b"2"])

    assert seen == "2-0"
    assert items[0][0] >= 0
    assert items[1] == (2, Item("reply", b"2"))


def test_whether_it_arrived() -> None:
    """A mailbox that is gone has lost its client."""
    op = delivering("ms")("p", 1, [Mail("a", 1, "reply"), Mail("b", 1, "reply")], None)

    assert op.decode([b"1-0", None]) == [True, False]


def test_making_one() -> None:
    """Who makes a mailbox keeps it for a minute, and reads behind its first entry."""
    made = make("ms", "c")

    assert made.decode([b"5-0", 1]) == "5-0"
    assert [one.arguments[0] for one in made.commands] == ["XADD", "PEXPIRE"]
