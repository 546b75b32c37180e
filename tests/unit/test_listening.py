"""Boxes and the switchboard, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import SlowListener
from millstream.message import Missed
from millstream.protocol.ephemeral import Channel, payload_of, read_payload
from millstream.protocol.listening import Box, Switchboard

STEPS = st.lists(st.sampled_from(["put", "put", "put", "lose", "take", "take"]), max_size=60)


@given(steps=STEPS, size=st.integers(1, 4), on_full=st.sampled_from(["drop_oldest", "drop_newest"]))
def test_what_a_box_gives_adds_up(steps: list[str], size: int, on_full: Any) -> None:
    """Every message is taken in its order or counted as missed in its place, and so is each loss."""
    box = Box("ticks", size, on_full)
    # What really happened, and what the listener is told.
    happened: list[int | str] = []
    told: list[Any] = []
    waiting = 0
    for step in steps:
        if step == "put":
            number = len(happened)
            happened.append(number)
            waiting = min(waiting + 1, size)
            box.put(b"c", b"%d" % number)
        elif step == "lose":
            happened.append("lost")
            box.lost = True
            box.reconnected()
        elif (item := box.take()) is not None:
            told.append(item)
            waiting -= not isinstance(item, Missed)
        assert box._messages == waiting
        assert len(box._items) <= 2 * size + 1
    while (item := box.take()) is not None:
        told.append(item)

    # Between two messages that were taken, what is told is what happened.
    taken = {int(one[1]) for one in told if not isinstance(one, Missed)}
    assert _stretches(told) == _stretches(
        [
            Missed(reconnected=True)
            if one == "lost"
            else one
            if one in taken
            else Missed(dropped=1)
            for one in happened
        ]
    )
    assert box.dropped == sum(one.dropped for one in told if isinstance(one, Missed))


def _stretches(items: list[Any]) -> list[Any]:
    """Messages as numbers, and what is missing between them as one."""
    found: list[Any] = []
    missing = Missed()
    for item in items:
        if isinstance(item, Missed):
            missing = Missed(
                dropped=missing.dropped + item.dropped,
                reconnected=missing.reconnected or item.reconnected,
            )
        else:
            found += [missing, int(item[1]) if isinstance(item, tuple) else item]
            missing = Missed()
    return [*found, missing]


def test_a_box_that_disconnects() -> None:
    """What is there is given, then the error, each time; nothing comes any more."""
    box = Box("ticks", 2, "disconnect")
    for number in range(5):
        box.put(b"c", b"%d" % number)

    assert box.over
    assert [box.take(), box.take()] == [(b"c", b"0"), (b"c", b"1")]
    for _ in range(2):
        with pytest.raises(SlowListener):
            box.take()
    box.close()
    assert box.take() is None


@settings(max_examples=40)
@given(
    body=st.binary(max_size=20) | st.binary(max_size=20).map(lambda rest: b"\xc1" + rest),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    subject=st.none() | st.just("eu.paid"),
)
def test_payloads(body: bytes, headers: dict[str, str], subject: str | None) -> None:
    """Whatever is published is read as it was, and a body alone is the payload."""
    payload = payload_of(body, headers, subject)

    assert read_payload(payload) == (body, headers, subject)
    plain = not headers and subject is None and not body.startswith(b"\xc1")
    assert (payload == body) == plain


class Ear:
    """A listener that counts how often it was woken."""

    def __init__(self, size: int = 10) -> None:
        self.box = Box("ticks", size, "drop_oldest")
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


ONE, ALL = Channel(b"one", pattern=False), Channel(b"*", pattern=True)


def sent(board: Switchboard) -> list[tuple[Any, ...]]:
    return [tuple(command.arguments) for command in board.to_send()]


def test_a_channel_is_asked_for_once() -> None:
    """The first listener asks, the last one takes leave; answers are told apart by their order."""
    board, first, second, third = Switchboard(), Ear(), Ear(), Ear()
    board.join(ONE, first)
    assert sent(board) == []
    board.connect()
    board.join(ONE, second)
    board.join(ALL, third)
    assert sent(board) == [("SUBSCRIBE", b"one"), ("PSUBSCRIBE", b"*")]
    assert not first.box.joined

    board.heard([b"subscribe", b"one", 1])
    assert (first.box.joined, second.box.joined, third.box.joined) == (True, True, False)
    late = Ear()
    board.join(ONE, late)
    assert late.box.joined
    board.leave(ONE, first)
    board.leave(ONE, second)
    assert sent(board) == []
    board.leave(ONE, late)
    # It comes back before the server has answered; a message in between is nobody's loss.
    again = Ear()
    board.join(ONE, again)
    assert sent(board) == [("UNSUBSCRIBE", b"one"), ("SUBSCRIBE", b"one")]
    board.heard([b"psubscribe", b"*", 2])
    board.heard([b"unsubscribe", b"one", 1])
    assert not again.box.joined
    board.heard([b"subscribe", b"one", 2])
    assert again.box.joined
    board.heard([b"message", b"one", b"1"])
    board.heard([b"pmessage", b"*", b"one", b"1"])
    board.heard([b"message", b"unknown", b"1"])
    assert (again.box.take(), third.box.take()) == ((b"one", b"1"), (b"one", b"1"))
    assert first.box.take() is None
    with pytest.raises(IndexError):
        board.heard([b"pong", b""])


def test_a_refusal_is_for_its_channel() -> None:
    """An error answers the oldest question; its listeners hear of it, and it can be asked again."""
    board, bad, good = Switchboard(), Ear(), Ear()
    board.connect()
    board.join(ONE, bad)
    board.join(ALL, good)
    board.ping()
    sent(board)

    channel = board.refused()
    assert channel == ONE
    board.fail(ValueError("no"), channel)
    board.heard([b"psubscribe", b"*", 1])
    board.heard(b"PONG")
    with pytest.raises(ValueError, match="no"):
        bad.box.take()
    assert good.box.joined
    board.join(ONE, Ear())
    assert sent(board) == [("SUBSCRIBE", b"one")]
    board.end()
    assert (good.box.ended, board.busy) == (True, False)


def test_a_gap_is_told_when_the_channel_is_back() -> None:
    """Not before, once for each loss, and not to who had not listened yet."""
    board, ear = Switchboard(), Ear()
    board.join(ONE, ear)
    board.connect()
    board.cut()
    board.connect()
    assert sent(board) == [("SUBSCRIBE", b"one")]
    board.heard([b"subscribe", b"one", 1])
    assert ear.box.take() is None

    board.cut()
    late = Ear()
    board.join(ONE, late)
    board.connect()
    board.cut()
    board.connect()
    assert ear.box.take() is None
    board.heard([b"subscribe", b"one", 1])
    assert [ear.box.take(), ear.box.take()] == [Missed(reconnected=True), None]
    assert (late.box.joined, late.box.take()) == (True, None)
