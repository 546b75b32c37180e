"""Requests: sent to an endpoint's queue with the address of their reply, given up, and asked after.

A request is an entry of the queue with two more fields: ``x``, its deadline, at which it is dropped, and
``r``, where its reply goes (``Address``). What ends without a reply (its worker died, somebody purged the
queue) nobody tells the caller: a script of the queue's slot cannot write to the caller's mailbox, which is
in another one. So who has waited for a second asks, for all its requests to an endpoint at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from millstream.errors import NoResponders
from millstream.message import Receipt
from millstream.protocol.envelope import Envelope, State
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Command, Op, Plan, load_script
from millstream.protocol.send import REMEMBERED_MS, Batch, in_a_row

__all__ = [
    "ENTRIES_A_CALL",
    "INQUIRING",
    "NOT_KNOWN",
    "NOT_THERE",
    "WAITING",
    "WAITING_AGAIN",
    "WITHDRAWING",
    "Address",
    "How",
    "Outgoing",
    "Withdrawal",
    "address_of",
    "count_late",
    "dead_among",
    "deaths",
    "inquire",
    "requesting",
    "withdraw",
    "withdrawing",
]

_REQUEST = load_script("request")
_WITHDRAW = load_script("withdraw")
_INQUIRE = load_script("inquire")

WAITING, NOT_THERE, NOT_KNOWN, WAITING_AGAIN = -1, -2, -3, -4
"""What ``inquire`` and ``withdraw`` find, where they do not find ms since a delivery. The last one: a worker
has died with it."""

ENTRIES_A_CALL = 500
"""Bounds the time that one call keeps the server busy: about a millisecond."""

INQUIRING = 1.0
"""Seconds that each step may take by which somebody asks after requests once a second, or counts late replies:
a node that hangs is not to keep it from the others for longer."""

WITHDRAWING = 1.0
"""Seconds that a caller whose time is over waits to hear what has become of its request."""


class Address(msgspec.Struct, frozen=True, gc=False):
    """Where the reply to a request goes, and what the caller wants beside it: the field ``r``.

    Attributes:
        client: whose mailbox.
        slot: which of its requests.
        progress: whether it wants to hear of progress.
        window: how many parts of a stream may be on their way; 0: it wants one reply.
        gather: whether it has asked all workers, and is to hear who answers.
    """

    client: str
    slot: int
    progress: bool = False
    window: int = 0
    gather: bool = False

    def __str__(self) -> str:
        """Return it as it stands in the field.

        It is ``CLIENT SLOT``, then ``progress``, ``gather``, ``stream=WINDOW``.
        """
        text = f"{self.client} {self.slot}"
        if self.progress:
            text += " progress"
        if self.gather:
            text += " gather"
        return f"{text} stream={self.window}" if self.window else text


def address_of(envelope: Envelope) -> Address | None:
    """Return where the reply to a request goes; None: nobody waits for one."""
    text = envelope.raw.get(b"r")
    if text is None:
        return None
    client, *rest = text.decode("utf-8", "replace").split(" ")
    if not client or not rest or not _is_number(rest[0]):
        return None
    window = 0
    for word in rest[1:]:
        name, _, value = word.partition("=")
        if name == "stream" and _is_number(value):
            window = int(value)
    return Address(client, int(rest[0]), "progress" in rest[1:], window, "gather" in rest[1:])


_MOST_DIGITS = 15


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A request that is about to leave; its length is that of its body.

    Attributes:
        body: encoded.
        headers: encoded, or empty.
        left_ms: until its deadline.
        address: where the reply goes.
    """

    body: bytes
    headers: bytes
    left_ms: int
    address: str

    def __len__(self) -> int:
        """Return how much it adds to a batch."""
        return len(self.body) + len(self.headers)


def requesting(keys: QueueKeys) -> Batch[Receipt]:
    """Return how requests to an endpoint are sent; each is a receipt, or ``NoResponders``."""
    return partial(_request, keys)


def _request(
    keys: QueueKeys,
    producer: str,
    number: int,
    requests: Sequence[Outgoing],
    _: Sequence[bytes] | None = None,
) -> Op[list[Any]]:
    arguments: list[Argument] = [number, REMEMBERED_MS, ""]
    patience = 0
    for one in requests:
        arguments += (one.body, one.headers, one.left_ms, one.address)
        patience = max(patience, one.left_ms)
    script_keys = [keys.ready, keys.counters, keys.producer(producer), keys.members]
    decode = partial(_receipts, keys.name, len(requests))
    return Op((_REQUEST.call(script_keys, arguments),), decode, patience=patience / 1000)


def _receipts(endpoint: str, count: int, replies: list[Any]) -> list[Any]:
    if replies[0]:
        return in_a_row(count, replies)
    message = (
        f"endpoint {endpoint!r}: no worker serves it at the moment (or there is no such endpoint), so "
        "nothing was sent. Start a worker that has a handler for it"
    )
    return [NoResponders(message, queue=endpoint, id="") for _ in range(count)]


How = Literal["stop", "leave", "expire"]


class Withdrawal(msgspec.Struct, frozen=True, gc=False):
    """A request that nobody waits for any more; its length is that of its id.

    Attributes:
        id: of the request.
        how: ``stop`` its handler, ``leave`` it to its handler, or ``expire``: its deadline has passed,
            which its handler knows.
    """

    id: str
    how: How

    def __len__(self) -> int:
        """Return how much it adds to a batch."""
        return len(self.id)


def withdraw(keys: QueueKeys, some: Sequence[Withdrawal]) -> Op[list[int]]:
    """Give up requests. What nobody has begun with is deleted in any case.

    Args:
        keys: of the endpoint's queue.
        some: the requests.

    The result tells of each how long ago it was delivered, in ms, or that it was ``WAITING``, or is
    ``NOT_THERE``. A repeated call finds less.
    """
    arguments: list[Argument] = [keys.group]
    for one in some:
        arguments += (one.id, one.how)
    command = _WITHDRAW.call([*keys.lanes, keys.counters, keys.control], arguments)
    return Op((command,), decode=_first, patience=WITHDRAWING)


def withdrawing(keys: QueueKeys) -> Batch[int]:
    """Return how requests are given up, those of many callers together."""

    def batch(
        _: str, __: int, some: Sequence[Withdrawal], ___: Sequence[bytes] | None = None
    ) -> Op[list[int]]:
        return withdraw(keys, some)

    return batch


def inquire(keys: QueueKeys, ids: Sequence[str]) -> Op[tuple[bool, list[int]]]:
    """Ask what has become of requests.

    Args:
        keys: of the endpoint's queue.
        ids: of the requests, some hundred at most.

    The result is whether anybody serves the endpoint, and of each request the ms since it was
    delivered or its lease was extended, or ``WAITING``, ``WAITING_AGAIN``, ``NOT_THERE`` or ``NOT_KNOWN``.
    """
    command = _INQUIRE.call([*keys.lanes, keys.members], [keys.group, *ids])

    def decode(replies: list[Any]) -> tuple[bool, list[int]]:
        served, found = replies[0]
        return bool(served), found

    return Op((command,), decode, patience=INQUIRING)


def deaths(keys: QueueKeys, ids: Sequence[str]) -> Plan[dict[str, str]]:
    """Look for requests among the dead letters; the result has the reasons of those that are there.

    Args:
        keys: of the endpoint's queue.
        ids: of the requests: what died before the first of them was sent is not looked at.
    """
    found: dict[str, State] = yield from dead_among(keys, ids, patience=INQUIRING)
    return {id: state.reason for id, state in found.items()}


def dead_among(
    keys: QueueKeys, ids: Sequence[str], *, patience: float | None = None
) -> Plan[dict[str, State]]:
    """Look for messages among the dead letters; the result has the states of those that are there.

    Args:
        keys: of the queue.
        ids: of the messages: what died before the first of them was sent is not looked at.
        patience: seconds that each step may take; None: the client's timeout.
    """
    left = set(ids)
    start = min((int(id.partition("-")[0]) for id in ids), default=0)
    found: dict[str, State] = {}
    at = str(start)
    while left:
        command = Command(("XRANGE", keys.dead, at, "+", "COUNT", ENTRIES_A_CALL))
        entries = yield Op((command,), decode=_first, patience=patience)
        for entry_id, fields in entries:
            state = Envelope(entry_id, fields).state
            if state.id in left:
                left.remove(state.id)
                found[state.id] = state
        if len(entries) < ENTRIES_A_CALL:
            break
        at = f"({entries[-1][0].decode()}"
    return found


def count_late(keys: QueueKeys, count: int) -> Op[None]:
    """Count replies for which nobody waited any more."""
    command = Command(("HINCRBY", keys.counters, "late", count))
    return Op((command,), decode=lambda _: None, repeatable=False, patience=INQUIRING)


def _first(replies: list[Any]) -> Any:
    return replies[0]
