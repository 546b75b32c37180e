"""Results: what handlers return, kept in the queue's slot for senders that want it.

A message whose sender wants its result has the field ``r``: ``result=`` and the ms for which to keep it.
The script that acknowledges it stores the result, so there is one if, and only if, it was acknowledged.
A failure is not stored beside: the dead letter is what is known of it, for as long as it is there.

Who waits leaves the address of its mailbox, ``CLIENT SLOT``. The worker that ends the message gets it
back, and sends word; the result itself is asked for again, so no word matters that is lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from millstream.codec import NotDecodable
from millstream.declare import Queue
from millstream.errors import (
    DeliveryError,
    NoResult,
    RemoteError,
    ResponderLost,
    Undecodable,
    UsageError,
)
from millstream.protocol.envelope import State
from millstream.protocol.keys import QueueKeys
from millstream.protocol.mailbox import Mail
from millstream.protocol.op import Argument, Op, load_script
from millstream.protocol.send import Batch
from millstream.protocol.settlement import Settlement
from millstream.text import text_of

__all__ = [
    "Look",
    "Question",
    "ask",
    "asking",
    "encode_result",
    "ends_waits",
    "failure_of",
    "mails_of",
    "nothing_known",
    "value_of",
]

_AWAIT = load_script("await_result")

NOTED_MS = 30_000
"""How long a note of who waits is good for. Who still waits renews it with its once-a-second look."""

LONGEST_TEXT = 2000

# Until when it is good, and the address. What others have written there is passed over.
_NOTE = re.compile(r"(?:\A|;)[0-9]+ ([0-9a-zA-Z-]+) ([0-9]{1,15})(?=;|\Z)")

_VALUE, _FAULT = b"=", b"!"
"""First byte of a result: a value follows, or why it is none. ``-`` alone: there is no value."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """What has come of a message?

    Attributes:
        id: of the message, in its partition.
        address: ``CLIENT SLOT`` of who waits for its end; empty: nobody.
        patience: seconds after which nobody wants to know it any more; inf: it is always wanted.
    """

    id: str
    address: str = ""
    patience: float = math.inf

    def __len__(self) -> int:
        """Return how much it adds to a batch."""
        return len(self.id) + len(self.address)


class Look(msgspec.Struct, frozen=True, gc=False):
    """What is known of a message.

    Attributes:
        kind: ``done``: there is a result; ``waits``: it is not finished; ``unknown``: neither.
        content: of what is done: its result, as it is stored.
        state: of what waits: ``queued``, ``running``, ``delayed`` or ``unknown``.
    """

    kind: Literal["done", "waits", "unknown"]
    content: bytes = b""
    state: str = "unknown"


def asking(keys: QueueKeys) -> Batch[Look]:
    """Return how to ask what has come of messages, for many who wait at once. Safe to repeat."""

    def batch(
        _: str, __: int, questions: Sequence[Question], ___: Sequence[bytes] | None = None
    ) -> Op[list[Look]]:
        patience = max((question.patience for question in questions), default=math.inf)
        return ask(keys, questions, patience=None if patience == math.inf else patience)

    return batch


def ask(
    keys: QueueKeys,
    questions: Sequence[Question],
    *,
    now_ms: int | None = None,
    patience: float | None = None,
) -> Op[list[Look]]:
    """Ask what has come of messages, and leave word of who waits for those that are not finished.

    Args:
        keys: of the queue.
        questions: some hundred at most.
        now_ms: the time, for tests; None: the server's clock.
        patience: seconds that it may take; None: the client's timeout.
    """
    arguments: list[Argument] = [keys.group, "" if now_ms is None else now_ms, NOTED_MS]
    for question in questions:
        arguments += (question.id, question.address)
    script_keys = (*keys.resulting, keys.unique, keys.due, keys.delayed, keys.ready)
    command = _AWAIT.call(script_keys, arguments)
    return Op((command,), lambda replies: [_look(one) for one in replies[0]], patience=patience)


def _look(answer: bytes) -> Look:
    if not answer:
        return Look("unknown")
    if answer.startswith(b"?"):
        return Look("waits", state=answer[1:].decode())
    return Look("done", answer)


def ends_waits(settlements: Iterable[Settlement]) -> bool:
    """Tell whether somebody may wait for one of these ends; for plain acks nobody does."""
    return any(end.verb in ("finish", "reject") for end in settlements)


def encode_result(queue: Queue[Any], value: Any) -> tuple[bytes, UsageError | None]:
    """Return what a handler has returned as it is stored, and why it cannot be a result, if so."""
    try:
        return _VALUE + queue.encode_result(value), None
    except UsageError as error:
        return _FAULT + str(error).encode("utf-8", "replace")[:LONGEST_TEXT], error


def mails_of(awaited: Sequence[bytes]) -> Iterator[Mail]:
    """Return word for all who wait, as the scripts tell of them (see ``Fetched.awaited``)."""
    for id, noted in zip(awaited[::2], awaited[1::2], strict=True):
        for client, slot in _NOTE.findall(noted.decode("utf-8", "replace")):
            yield Mail(client, int(slot), "result", id)


def value_of(queue: Queue[Any], id: str, stored: bytes) -> Any:
    """Return a result.

    Args:
        queue: as declared.
        id: of the message.
        stored: the result as it is stored.

    Raises:
        RemoteError: what the handler returned could not be stored.
        Undecodable: it does not fit the type of results that the queue is declared with.
    """
    if stored.startswith(_FAULT):
        detail = stored[1:].decode("utf-8", "replace")
        message = (
            f"{queue.title}: message {id} is done, but what its handler returned cannot be its result: "
            f"{detail}"
        )
        raise RemoteError(message, queue=queue.name, id=id, type_name="UsageError", detail=detail)
    if not stored.startswith(_VALUE) or queue.result_codec is None:
        return None
    try:
        return queue.result_codec.decode(stored[1:])
    except NotDecodable as error:
        message = f"{queue.title}: the result of message {id} is undecodable: {text_of(error)}"
        raise Undecodable(message, queue=queue.name, id=id, reason="undecodable") from error


def failure_of(queue: Queue[Any], id: str, state: State) -> DeliveryError:
    """Return what a dead letter means to who waits for its result.

    Args:
        queue: as declared.
        id: of the message.
        state: of the dead letter.
    """
    reason, error = state.reason, state.error
    begin = f"{queue.title}: message {id} "
    if reason == "crashed":
        message = f"{begin}will have no result: its workers died {state.crashes} times"
        return ResponderLost(message, queue=queue.name, id=id, reason=reason)
    if reason in ("expired", "cancelled"):
        message = f"{begin}will have no result: it has been {reason}, and is a dead letter"
        return NoResult(message, queue=queue.name, id=id, reason=reason)
    if reason in ("undecodable", "malformed"):
        message = f"{begin}will have no result: {error or reason}"
        return Undecodable(message, queue=queue.name, id=id, reason=reason)
    type_name, detail = ("Reject", reason) if reason != "attempts" else _split(error or "")
    how = "was rejected" if reason != "attempts" else f"has failed {state.attempts} times"
    message = f"{begin}{how}: {error or reason}"
    return RemoteError(
        message,
        queue=queue.name,
        id=id,
        type_name=type_name,
        detail=detail,
        traceback=state.traceback,
    )


def _split(line: str) -> tuple[str, str]:
    """Return the name of an exception's class, and what it said, from its one line."""
    name, colon, detail = line.partition(": ")
    if all(part.isidentifier() for part in name.split(".")) and (colon or not detail):
        return name.rpartition(".")[2], detail
    # A reason, as of ``RetryLater``: its words are all there is.
    return "RetryLater", line


def nothing_known(queue: Queue[Any], id: str) -> NoResult:
    """Return what to tell who asks for a result of which nothing is known."""
    message = (
        f"{queue.title}: nothing is known of a result of message {id}: it was sent without result=True, "
        "its result is not kept any more, it was cancelled, purged or dropped before it was done, or its "
        "worker does not know that the queue has results"
    )
    return NoResult(message, queue=queue.name, id=id, reason="unknown")
