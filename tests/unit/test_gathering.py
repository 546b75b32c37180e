"""What is asked of all workers, and what they say, as values."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.control import hear
from millstream.protocol.envelope import Envelope
from millstream.protocol.gathering import LONGEST, check_length, gathering
from millstream.protocol.keys import queue_keys
from millstream.protocol.mailbox import Item, Mail, delivering, read
from millstream.protocol.requests import Address, Outgoing, address_of

KEYS = queue_keys("ms", "health")
HEALTH: ms.Endpoint[Any, Any] = ms.Endpoint("health")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("c", 1), "c 1"),
        (Address("c", 1, gather=True), "c 1 gather"),
        (Address("c", 1, progress=True, gather=True, window=3), "c 1 progress gather stream=3"),
    ],
)
def test_an_address_says_who_is_asked(address: Address, text: str) -> None:
    """It is read as it was written."""
    assert str(address) == text
    assert address_of(Envelope(b"1-1", [b"b", b"1", b"r", text.encode()])) == address


def test_all_keys_are_of_one_slot() -> None:
    """The script runs on a cluster; the mailbox is none of its keys."""
    call = Outgoing(b"1", b"", 5, "c 1 gather")
    [command] = gathering(KEYS, call).commands

    assert command.arguments[2:5] == (2, KEYS.members, KEYS.control)


def test_nobody_was_asked() -> None:
    """An empty answer is no call."""
    op = gathering(KEYS, Outgoing(b"1", b"", 5, "c 1 gather"))

    assert op.decode([[]]) == ("", [])
    assert op.decode([[b"1-1", b"a", b"b"]]) == ("1-1", ["a", "b"])


def test_the_longest_body() -> None:
    """Body and headers count together."""
    check_length(HEALTH, b"x" * (LONGEST - 1), b"x")
    with pytest.raises(ms.UsageError, match=str(LONGEST + 1)):
        check_length(HEALTH, b"x" * LONGEST, b"x")


def test_only_a_call_has_an_envelope() -> None:
    """Its token is that of no message of the queue, which may have the same id."""
    op = hear({KEYS.control: "0-0"}, 1)
    entries = [[b"1-1", [b"op", b"pause"]], [b"1-2", [b"op", b"call", b"b", b"7", b"r", b"c 1"]]]

    (pause, call), heard = op.decode([[[KEYS.control.encode(), entries]]])

    assert pause.call is None
    assert call.call is not None
    assert (call.call.token, call.call.state.id, call.call.body) == (b"1-2/", "1-2", b"7")
    assert heard == {KEYS.control: "1-2"}


def test_a_mail_says_who_it_is_of() -> None:
    """The field is there only when there is something to say."""
    deliver = delivering("ms")
    mails = [Mail("c", 1, "reply", b"7", sender="h:1:x"), Mail("c", 1, "reply", b"7")]
    named, plain = deliver("", 0, mails, None).commands

    assert named.arguments[-2:] == ("w", "h:1:x")
    assert plain.arguments[-2:] == ("c", 1)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([b"reply", b"7", b"c", b"3"], (3, Item("reply", b"7"))),
        ([b"reply", b"7", b"c", b"3", b"w", b"h"], (3, Item("reply", b"7", 0, "h"))),
        ([b"note", b"7", b"c", b"3", b"n", b"2"], (3, Item("note", b"7", 2))),
        ([b"reply", b"7", b"c", b"9" * 5000], (0, Item("reply", b"7"))),
        ([b"reply", b"7", b"c", b"-1"], (0, Item("reply", b"7"))),
        ([b"note", b"7", b"c", b"3", b"n", b"9" * 5000], (3, Item("note", b"7"))),
        ([b"open", b""], (0, Item("", b""))),
        ([b"\xff", b"\xff", b"x", b"\xff"], (0, Item("", b""))),
    ],
)
def test_whatever_stands_in_a_mailbox(fields: list[bytes], expected: tuple[int, Item]) -> None:
    """What is none of ours has slot 0, which nobody waits for."""
    since, [found] = read("ms", "c", "0-0", 1).decode([[[b"key", [[b"1-1", fields]]]]])

    assert since == "1-1"
    assert found == expected


def test_an_answer_is_a_value() -> None:
    """It can be pickled, error included; ``result`` returns the reply, or raises."""
    fine = ms.Answer(responder="h:1:x", reply=7)
    lost: ms.Answer[int] = ms.Answer(
        responder="h:2:x",
        error=ms.ResponderLost("text", queue="health", id="1-1", reason="stopped"),
    )

    assert pickle.loads(pickle.dumps(fine)) == fine  # noqa: S301 - our own bytes
    assert fine.result() == 7
    again = pickle.loads(pickle.dumps(lost))  # noqa: S301 - our own bytes
    with pytest.raises(ms.ResponderLost, match="text") as raised:
        again.result()
    assert raised.value.reason == "stopped"


def test_who_is_missing_survives_pickling() -> None:
    """A worker may hand the error on to another process."""
    late = ms.TimedOut("text", endpoint="health", answered=1, expected=2, missing=("h:1:x",))

    again = pickle.loads(pickle.dumps(late))  # noqa: S301 - our own bytes

    assert (again.answered, again.expected, again.missing) == (1, 2, ("h:1:x",))
