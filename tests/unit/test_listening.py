"""Boxes and the switchboard, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import ServerRefused, SlowListener, UsageError
from millstream.message import Missed
from millstream.protocol.ephemeral import (
    Channel,
    explained,
    payload_of,
    publishing,
    read_payload,
    sharding,
)
from millstream.protocol.listening import Box, Switchboard
from millstream.topic import Topic

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


# Sharded channels


@pytest.mark.parametrize(
    ("mode", "version", "sharded"),
    [
        (b"cluster", b"7.0.0", True),
        (b"cluster", b"8.1.8", True),
        (b"cluster", b"255.255.255", True),
        (b"cluster", b"6.2.14", False),
        (b"standalone", b"8.2.3", False),
    ],
)
def test_who_shards(mode: bytes, version: bytes, sharded: bool) -> None:
    """A node of a cluster, from 7.0 on, and no server that does not tell."""
    told = [b"server", b"redis", b"version", version, b"proto", 2, b"mode", mode, b"modules", []]

    assert sharding().decode([told]) is sharded
    for silent in (ValueError("unknown command"), [], [b"mode", b"cluster"], [b"mode"]):
        assert sharding().decode([silent]) is False


def test_a_batch_is_published_as_the_server_is_now() -> None:
    """The same sender asks for each batch which command it is."""
    told = [True, False]
    batch = publishing("ms", Topic("ticks", durable=False), sharded=told.pop)

    ops = [batch("a", number, [b"1"], None) for number in (1, 2)]
    assert [command.arguments for op in ops for command in op.commands] == [
        ("PUBLISH", "ms:{ticks}:channel", b"1"),
        ("SPUBLISH", "ms:{ticks}:channel", b"1"),
    ]


def test_a_refusal_names_the_channel() -> None:
    """That of a slot and that of a permission; others are as the server said them."""
    told = {
        code: str(explained(ServerRefused("no", code=code), b"ms:{a}:channel"))
        for code in ("MOVED", "NOPERM", "ERR")
    }
    assert told == {
        "MOVED": "no: channel ms:{a}:channel",
        "NOPERM": "no: channel ms:{a}:channel. The user needs the ACL rule &ms:{a}:channel",
        "ERR": "no",
    }


def test_sharded_channels() -> None:
    """They have their own commands and messages; who listens to a pattern is refused at once."""
    board, ear, early, late = Switchboard(), Ear(), Ear(), Ear()
    board.join(ONE, ear)
    board.join(ALL, early)
    board.connect(sharded=True)
    board.join(ALL, late)
    assert sent(board) == [("SSUBSCRIBE", b"one")]
    for refused in (early, late):
        assert refused.woken == 1
        with pytest.raises(UsageError, match="is a pattern"):
            refused.box.take()

    board.heard([b"ssubscribe", b"one", 1])
    board.heard([b"smessage", b"one", b"1"])
    assert (ear.box.joined, ear.box.take()) == (True, (b"one", b"1"))
    board.leave(ONE, ear)
    assert sent(board) == [("SUNSUBSCRIBE", b"one")]
    board.heard([b"sunsubscribe", b"one", 0])
    assert not board.busy

    # The next connection may be to a server of the other kind.
    board.join(ONE, ear)
    board.cut()
    board.connect()
    board.join(ALL, Ear())
    assert sent(board) == [("SUBSCRIBE", b"one"), ("PSUBSCRIBE", b"*")]


def test_a_channel_is_taken_away() -> None:
    """It is asked for again, once; listeners get a gap when it is back, or the server's refusal."""
    board, ear = Switchboard(), Ear()
    board.connect(sharded=True)
    board.join(ONE, ear)
    board.heard([b"ssubscribe", b"one", 1])
    board.ping()
    sent(board)
    for _ in range(2):
        board.heard([b"sunsubscribe", b"one", 0])
    assert (sent(board), ear.box.take()) == ([("SSUBSCRIBE", b"one")], None)
    # The answers to what was asked before and after are still told apart.
    board.heard([b"pong", b""])
    late = Ear()
    board.join(ONE, late)
    board.heard([b"ssubscribe", b"one", 1])
    assert (ear.box.take(), ear.box.take()) == (Missed(reconnected=True), None)
    assert (late.box.joined, late.box.take()) == (True, None)

    board.heard([b"sunsubscribe", b"one", 0])
    assert board.refused() == ONE
    board.fail(ValueError("moved"), ONE)
    with pytest.raises(ValueError, match="moved"):
        ear.box.take()


def test_a_channel_is_taken_away_while_it_changes_hands() -> None:
    """Neither who has left nor who has not been told yet that it is there hears of it."""
    board, gone, ear = Switchboard(), Ear(), Ear()
    board.connect(sharded=True)
    board.join(ONE, gone)
    board.heard([b"ssubscribe", b"one", 1])
    board.ping()
    board.leave(ONE, gone)
    board.join(ONE, ear)
    sent(board)
    board.heard([b"sunsubscribe", b"one", 0])
    board.heard([b"pong", b""])
    assert sent(board) == []
    # Without the channel, the server refuses both.
    assert board.refused() is None
    assert board.refused() == ONE
    board.heard([b"sunsubscribe", b"unknown", 0])
    with pytest.raises(IndexError):
        board.refused()
