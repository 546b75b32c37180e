"""What is stored and not confirmed: the error that says so, and what is needed to make sure of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.durability import FSYNC, replicas_of
from millstream.errors import BrokerError, MillstreamError, NotConfirmed, UsageError
from millstream.message import Receipt
from millstream.protocol.op import Op
from millstream.protocol.probe import hint
from millstream.protocol.send import REMEMBERED_MS

__all__ = ["all_of", "results_of", "to_confirm", "unconfirmed"]

RECOGNISED = REMEMBERED_MS / 1000 * 0.9
"""Seconds after which a batch had better not be repeated: the server will not know it any more."""


class Unconfirmed(msgspec.Struct, frozen=True, eq=False):
    """What ``confirm`` needs of a message: its batch, and where it is in it.

    Attributes:
        way: by which the batch was sent; no other client has it.
        op: sends it.
        index: of the message, or of the unit.
        until: when the server may have forgotten the batch.
    """

    way: object
    op: Op[Any]
    index: int
    until: float


def unconfirmed(
    way: object,
    op: Op[Any],
    outcomes: Sequence[Any],
    wanted: str,
    problem: BrokerError | None,
    now: float,
) -> list[Any]:
    """Return errors in place of receipts.

    Args:
        way: by which the batch was sent.
        op: sends it.
        outcomes: receipts or lists of receipts (units), and errors, which stay.
        wanted: the durability that was asked for.
        problem: why the server did not say; None: it has said that it has not got so far.
        now: the time.
    """
    errors: list[Any] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Exception):
            errors.append(outcome)
            continue
        receipts = _receipts(outcome)
        why = _why(wanted, receipts, problem)
        text = _text(len(receipts), receipts[0].id, wanted, why)
        batch = Unconfirmed(way, op, index, now + RECOGNISED)
        errors.append(NotConfirmed(text, receipts=receipts, wanted=wanted, batch=batch))
    return errors


def _receipts(outcome: Receipt | Sequence[Receipt]) -> tuple[Receipt, ...]:
    return (outcome,) if isinstance(outcome, Receipt) else tuple(outcome)


def _text(count: int, first: str, wanted: str, why: str) -> str:
    what = (
        f"message {first} is stored, but"
        if count == 1
        else f"{count} messages are stored, the first is {first}, but"
    )
    return (
        f"{what} {wanted!r} was not confirmed: {why}. It will be delivered. To make sure of it, pass "
        "this error to the client's confirm(), which stores nothing twice; a second send is a "
        "second message"
    )


def _why(wanted: str, receipts: tuple[Receipt, ...], problem: BrokerError | None) -> str:
    if problem is not None:
        return f"{problem}{hint(problem)}"
    if wanted == FSYNC:
        return "the server did not sync its append-only file in time (is the disk slow or full?)"
    have, needed = replicas_of(receipts[0].durability), replicas_of(wanted)
    return f"{have} of {needed} replicas had it in time (INFO replication shows who is connected)"


def all_of(outcomes: Sequence[Receipt | MillstreamError]) -> list[Receipt]:
    """Return the receipts of a call with many messages.

    Raises:
        NotConfirmed: some are not confirmed; it has what came of each.
    """
    if not any(isinstance(one, NotConfirmed) for one in outcomes):
        return outcomes  # type: ignore[return-value] # nobody sends many to what refuses some
    receipts = tuple(
        receipt
        for one in outcomes
        for receipt in (one.receipts if isinstance(one, NotConfirmed) else (one,))
    )
    first = next(one for one in outcomes if isinstance(one, NotConfirmed))
    missing = sum(len(one.receipts) for one in outcomes if isinstance(one, NotConfirmed))
    message = (
        f"{missing} of {len(receipts)} messages of this call are not confirmed, all are stored. The "
        f"first of them: {first}"
    )
    raise NotConfirmed(message, receipts=receipts, wanted=first.wanted, parts=tuple(outcomes))


def to_confirm(error: NotConfirmed, way: object, now: float) -> list[Op[Any]]:
    """Return the batches to repeat, in the order in which they were sent.

    Args:
        error: what a send has raised.
        way: by which this client sends.
        now: the time.

    Raises:
        UsageError: another client has sent them, or too long ago.
    """
    ops: list[Op[Any]] = []
    for one in _singles(error):
        batch: Unconfirmed | None = one.batch
        if batch is None or batch.way is not way:
            message = "confirm takes a NotConfirmed that a send of this client has raised, in this process"
            raise UsageError(message)
        if now >= batch.until:
            message = (
                f"message {one.receipts[0].id} was sent too long ago to be recognised: the server knows "
                "a batch for ten minutes. It is stored; whether it was lost since, nobody can say"
            )
            raise UsageError(message)
        if all(batch.op is not op for op in ops):
            ops.append(batch.op)
    return ops


def results_of(
    error: NotConfirmed, ops: Sequence[Op[Any]], outcomes: Sequence[Sequence[Any]]
) -> list[Receipt]:
    """Return the receipts of an error's messages.

    Args:
        error: what a send has raised.
        ops: the batches that were repeated.
        outcomes: what came of each.

    Raises:
        NotConfirmed: they are still not.
        MillstreamError: a failover has lost one, and there was no room for it now (QueueFull).
    """
    found: list[Receipt | MillstreamError] = []
    for one in error.parts or (error,):
        if isinstance(one, Receipt):
            found.append(one)
            continue
        batch: Unconfirmed = one.batch
        at = next(index for index, op in enumerate(ops) if op is batch.op)
        outcome = outcomes[at][batch.index]
        found += outcome if isinstance(outcome, list) else [outcome]
    for one in found:
        if isinstance(one, MillstreamError) and not isinstance(one, NotConfirmed):
            raise one
    if len(found) == 1 and isinstance(found[0], NotConfirmed):
        raise found[0]
    return all_of(found)


def _singles(error: NotConfirmed) -> list[NotConfirmed]:
    return [one for one in error.parts or (error,) if isinstance(one, NotConfirmed)]
