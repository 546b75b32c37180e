"""A client's mailbox: one stream for all that comes back to it, read by one sleeping read.

Replies to requests, parts of streams, notes of progress, and for a worker what its callers say of the
streams that it sends. It is no list, for what a list hands out is gone if the connection breaks on the
way; here a reader goes on behind the last entry that it has seen, and from the beginning where that entry
never was. Who writes does not make it: a client
that is gone has none any more, and what is for it is dropped by the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from millstream.protocol.keys import mailbox_key
from millstream.protocol.op import Command, Op, load_script
from millstream.protocol.send import Batch

__all__ = [
    "ATTENDING",
    "BEGINNING",
    "ENTRIES_A_READ",
    "Item",
    "Mail",
    "attend",
    "delivering",
    "discard",
    "mail_to",
    "make",
    "nudge",
    "read",
]

_ATTEND = load_script("attend")

Standing = Literal["kept", "gone", "older"]
_STANDINGS: Mapping[int, Standing] = {1: "kept", 0: "gone", -1: "older"}

KEPT_MS = 60_000
"""How long a mailbox is kept that nobody attends to. A disconnect may last as long."""

BEGINNING = "0-0"
"""Id in front of all entries."""

ENTRIES_A_READ = 1000
"""The most that one read brings; with fewer, there was no more."""

ATTENDING = 1.0
"""Seconds that it may take to look after a mailbox, or into it: nothing else is done meanwhile."""

CLOSING = 1.0
"""Seconds for each step of giving a mailbox up when its client is closed: it expires by itself."""


class Mail(msgspec.Struct, frozen=True, gc=False):
    """Something for a mailbox; its length is that of its content.

    Attributes:
        client: whose mailbox.
        slot: for which of its requests, or of its streams.
        kind: of what it is. To a caller: ``reply``, ``error``, ``note``, or ``lost``, should nobody answer;
            of a stream, ``part``, and ``end``, ``error`` or ``lost`` behind the last one, and ``waiting``
            when the producer has waited for long. To a producer: ``taken``, ``cancel``. To who waits
            for a result: ``result``.
        content: depends on the kind.
        number: of a part, and of what comes behind the last one (see ``protocol.stream``), or of a note,
            from 1; what comes twice is known by it.
        sender: of a stream, client and slot to which the other side is to write; of a reply to who has
            asked all workers, which of them it is.
    """

    client: str
    slot: int
    kind: str
    content: bytes = b""
    number: int = 0
    sender: str = ""

    def __len__(self) -> int:
        """Return how much it adds to a batch."""
        return len(self.content)


class Item(msgspec.Struct, frozen=True, gc=False):
    """What a slot of a mailbox has got; see ``Mail``."""

    kind: str
    content: bytes
    number: int = 0
    sender: str = ""


def mail_to(sender: str, kind: str, content: bytes = b"") -> Mail | None:
    """Return mail for the other side of a stream; None: it has not said what it is called.

    Args:
        sender: as it stands in an item.
        kind: see ``Mail``.
        content: depends on the kind.
    """
    client, _, slot = sender.partition(" ")
    number = _number(slot.encode())
    return Mail(client, number, kind, content) if client and number else None


def make(namespace: str, client: str, patience: float | None = None) -> Op[str]:
    """Make a mailbox, or make sure of it; the result is the id behind which to read.

    Args:
        namespace: first part of the key.
        client: whose mailbox.
        patience: seconds; None: the client's timeout.
    """
    key = mailbox_key(namespace, client)
    commands = (
        Command(("XADD", key, "*", "open", "")),
        Command(("PEXPIRE", key, KEPT_MS)),
    )
    return Op(commands, decode=lambda replies: str(replies[0].decode()), patience=patience)


def read(
    namespace: str, client: str, since: str, block_ms: int | None
) -> Op[tuple[str, list[Any]]]:
    """Sleep at the server until something comes; the result is where to go on, and (slot, item) of each.

    Args:
        namespace: first part of the key.
        client: whose mailbox.
        since: id of the last entry seen.
        block_ms: the longest sleep; None: none, only take what is there.
    """
    key = mailbox_key(namespace, client)
    sleep = () if block_ms is None else ("BLOCK", block_ms)
    command = Command(("XREAD", "COUNT", ENTRIES_A_READ, *sleep, "STREAMS", key, since))

    def decode(replies: list[Any]) -> tuple[str, list[Any]]:
        if not replies[0]:
            return since, []
        entries = replies[0][0][1]
        return entries[-1][0].decode(), [_read(fields) for _, fields in entries]

    return Op((command,), decode, patience=ATTENDING if block_ms is None else None)


def _read(fields: Sequence[bytes]) -> tuple[int, Item]:
    """Read an entry; slot 0, which nobody has, for what is none of ours."""
    if len(fields) == 4 and fields[2] == b"c":  # noqa: PLR2004 - kind and slot, as nearly all have
        return _number(fields[3]), Item(fields[0].decode("ascii", "replace"), fields[1])
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    slot = _number(named.get(b"c", b""))
    if not slot:
        return 0, Item("", b"")
    return slot, Item(
        fields[0].decode("ascii", "replace"),
        fields[1],
        _number(named.get(b"n", b"")),
        named.get(b"w", b"").decode("utf-8", "replace"),
    )


def _number(digits: bytes) -> int:
    """Read a number; 0 for what is none of ours. Python refuses those of thousands of digits."""
    return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else 0


_MOST_DIGITS = 15


def attend(namespace: str, client: str, seen: str) -> Op[Standing]:
    """Show that somebody reads a mailbox, and delete what was read.

    The result is ``kept``; ``gone``: there is none any more; ``older``: it has not got what was read last.
    Then nothing was deleted, and nobody knows what in it was read.

    Args:
        namespace: first part of the key.
        client: whose mailbox.
        seen: id of the last entry that was read.
    """
    command = _ATTEND.call([mailbox_key(namespace, client)], [KEPT_MS, seen])
    return Op((command,), decode=lambda replies: _STANDINGS[replies[0]], patience=ATTENDING)


def nudge(namespace: str, client: str) -> Op[None]:
    """Wake the reader of a mailbox, whether it sleeps already or is about to."""
    entry = ("nudge", "")
    command = Command(("XADD", mailbox_key(namespace, client), "NOMKSTREAM", "*", *entry))
    return Op((command,), decode=lambda _: None, patience=CLOSING)


def discard(namespace: str, client: str) -> Op[None]:
    """Delete a mailbox: its client goes."""
    command = Command(("DEL", mailbox_key(namespace, client)))
    return Op((command,), decode=lambda _: None, patience=CLOSING)


def delivering(namespace: str, *, patience: float | None = None) -> Batch[bool]:
    """Return how mail is put into mailboxes, that of many senders together.

    The result tells of each whether there was a mailbox. Repeated after a lost reply, it may deliver
    twice: a slot takes one reply, and parts have numbers.

    Args:
        namespace: first part of the keys.
        patience: seconds that a delivery may take; None: the client's timeout.
    """

    def batch(
        _: str, __: int, mails: Sequence[Mail], ___: Sequence[bytes] | None = None
    ) -> Op[list[bool]]:
        commands = tuple(_delivery(namespace, mail) for mail in mails)
        # Together, so that a reader that sleeps wakes once for all that is for it.
        return Op(
            commands,
            decode=_there,
            atomic=len(commands) > 1,
            patience=patience,
            scattered=True,
        )

    return batch


def _delivery(namespace: str, mail: Mail) -> Command:
    entry = (mail.kind, mail.content, "c", mail.slot)
    more: tuple[str | int, ...] = ()
    if mail.number:
        more = ("n", mail.number)
    if mail.sender:
        more = (*more, "w", mail.sender)
    key = mailbox_key(namespace, mail.client)
    return Command(("XADD", key, "NOMKSTREAM", "*", *entry, *more))


def _there(replies: list[Any]) -> list[bool]:
    return [reply is not None for reply in replies]
