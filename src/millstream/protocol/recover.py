"""Recovery: what becomes of deliveries whose consumer is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Command, Op, Pause, Plan, load_script
from millstream.protocol.partitions import leave as leave_partitions

__all__ = ["HandedOver", "Swept", "hand_over", "hand_over_all", "hand_over_some", "leave", "sweep"]

_HAND_OVER = load_script("hand_over")
_SWEEP = load_script("sweep")
_HAND_OVER_LIST = load_script("list_hand_over")
_SWEEP_LIST = load_script("list_sweep")

ENTRIES_A_CALL = 500
"""Bounds the time that one call keeps the server busy: a few milliseconds at most."""

FORGOTTEN_AFTER_MS = 300_000
"""A consumer that owns nothing and has not asked for messages this long is removed. One that
lives asks every twenty seconds."""


class Swept(msgspec.Struct, frozen=True):
    """What a sweep did.

    Attributes:
        elected: whether this consumer is the one that sweeps at present.
        wait_ms: when to call again.
        moved: deliveries taken over.
        died: messages that exceeded their crash limit.
    """

    elected: bool
    wait_ms: int
    moved: int
    died: int


class HandedOver(msgspec.Struct, frozen=True):
    """What became of a consumer's deliveries.

    Attributes:
        moved: handed to others.
        died: exceeded their crash limit.
        removed: whether the consumer is gone now.
    """

    moved: int
    died: int
    removed: bool


def sweep(
    keys: QueueKeys,
    consumer: str,
    *,
    lease_ms: int,
    max_crashes: int,
    limit: int = ENTRIES_A_CALL,
    forgotten_ms: int = FORGOTTEN_AFTER_MS,
    now_ms: int | None = None,
) -> Op[Swept]:
    """Take over expired leases if this consumer is, or becomes, the elected sweeper.

    Args:
        keys: of the queue.
        consumer: who offers to sweep.
        lease_ms: of consumers that are not registered.
        max_crashes: how many deliveries of a message may be lost to dead consumers.
        limit: most entries to look at; the next call goes on from there.
        forgotten_ms: when a consumer that owns nothing is removed.
        now_ms: the time, for tests; None: the server's clock.
    """
    time = "" if now_ms is None else now_ms
    arguments = [consumer, time, limit, lease_ms, max_crashes, forgotten_ms]
    if keys.store == "list":
        command = _SWEEP_LIST.call([*keys.listed, keys.sweeper], arguments)
    else:
        command = _SWEEP.call(
            [*keys.common, keys.consumers, keys.sweeper, *keys.queueing], [keys.group, *arguments]
        )

    def decode(replies: Sequence[Any]) -> Swept:
        elected, wait_ms, moved, died = replies[0]
        return Swept(bool(elected), wait_ms, moved, died)

    return Op((command,), decode)


def hand_over_some(
    keys: QueueKeys,
    consumer: str,
    *,
    crashed: bool,
    max_crashes: int,
    reason: str = "",
    limit: int = ENTRIES_A_CALL,
    now_ms: int | None = None,
) -> Op[HandedOver]:
    """Take deliveries from a consumer that is known to be gone, and remove it at the end.

    Args:
        keys: of the queue.
        consumer: who is gone. If it lived, its messages would be handled twice.
        crashed: whether this counts as a crash of each message.
        max_crashes: how many a message may have.
        reason: why nobody may get any of them again: they are dead letters. Empty: others get them. A list
            has no such messages.
        limit: most deliveries to take in this call.
        now_ms: the time, for tests; None: the server's clock.
    """
    time = "" if now_ms is None else now_ms
    arguments = [consumer, time, limit, int(crashed), max_crashes]
    if keys.store == "list":
        command = _HAND_OVER_LIST.call(keys.listed, arguments)
    else:
        command = _HAND_OVER.call(
            [*keys.common, keys.consumers, *keys.queueing], [keys.group, *arguments, reason]
        )

    def decode(replies: Sequence[Any]) -> HandedOver:
        moved, died, removed = replies[0]
        return HandedOver(moved, died, bool(removed))

    return Op((command,), decode)


def hand_over(
    keys: QueueKeys,
    consumer: str,
    *,
    crashed: bool,
    max_crashes: int,
    reason: str = "",
    patient: bool = True,
) -> Plan[HandedOver]:
    """Take all deliveries from a consumer that is gone, some a call.

    Args:
        keys: of the queue.
        consumer: who is gone.
        crashed: whether this counts as a crash of each message.
        max_crashes: how many a message may have.
        reason: why nobody may get any of them again; empty: others get them.
        patient: whether to go on when the server has no memory to store them; else the leases
            decide.
    """
    moved = died = 0
    while True:
        step: HandedOver = yield hand_over_some(
            keys, consumer, crashed=crashed, max_crashes=max_crashes, reason=reason
        )
        moved += step.moved
        died += step.died
        if step.removed:
            return HandedOver(moved, died, removed=True)
        if not step.moved and not step.died:
            # The server refuses to store them (out of memory). Consumers will free some, unless
            # it is the last of them that leaves.
            if not patient:
                return HandedOver(moved, died, removed=False)
            yield Pause(0.5)


def hand_over_all(
    keys: QueueKeys,
    worker: str,
    *,
    partitions: int,
    crashed: bool,
    max_crashes: int,
    reason: str = "",
) -> Plan[HandedOver]:
    """Take all that a worker had of a queue, in whatever partitions, some deliveries a call.

    Args:
        keys: of the queue.
        worker: who is gone: the name of its consumer, or what the names of its consumers of
            partitions begin with.
        partitions: of the queue.
        crashed: whether this counts as a crash of each message.
        max_crashes: how many a message may have.
        reason: why nobody may get any of them again; empty: others get them.
    """
    # First, so that others read its partitions when the work comes back to them, and so that callers of
    # an endpoint do not count on it.
    yield leave_partitions(keys, worker)
    if partitions == 1:
        return (
            yield from hand_over(
                keys, worker, crashed=crashed, max_crashes=max_crashes, reason=reason
            )
        )
    moved = died = 0
    for number in range(partitions):
        at = keys.at(number)
        registered: list[bytes] = yield Op((Command(("HKEYS", at.consumers)),), decode=_first)
        for name in registered:
            if name.startswith(f"{worker}/".encode()):
                done = yield from hand_over(
                    at, name.decode(), crashed=crashed, max_crashes=max_crashes, reason=reason
                )
                moved += done.moved
                died += done.died
    return HandedOver(moved, died, removed=True)


def _first(replies: list[Any]) -> Any:
    return replies[0]


def leave(keys: QueueKeys, consumer: str, *, max_crashes: int) -> Plan[HandedOver]:
    """Give back what a consumer that goes in order still owns, without blame, and remove it.

    When the server has no memory to store it, the leases decide.
    """
    return hand_over(keys, consumer, crashed=False, max_crashes=max_crashes, patient=False)
