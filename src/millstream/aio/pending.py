"""A request between its send and its reply."""

from __future__ import annotations

from typing import Any

from millstream.aio.notes import Notes
from millstream.driver.aio_letterbox import AsyncLetterbox
from millstream.endpoint import Endpoint
from millstream.errors import NoResponders, NotConnected, ResponderLost, TimedOut
from millstream.protocol.keys import QueueKeys
from millstream.protocol.mailbox import Item
from millstream.protocol.requests import WAITING, How, Outgoing

__all__ = ["Pending", "closed", "lost", "overdue", "unserved"]

ASKED_AFTER = 1.0
"""Seconds without a reply after which to ask what has become of a request."""


class Pending:
    """A request that waits for its reply.

    Attributes:
        endpoint: that was asked.
        keys: of its queue.
        slot: of the client's mailbox.
        box: where the reply comes, or why there will be none.
        window: how many parts of a stream may be on their way; 0: one reply is wanted.
        since: of ``time.monotonic``: when somebody asked; of a stream, when the last part was taken.
        deadline: of ``time.monotonic``.
        id: of the request; empty until the server has it.
        slow: whether it took long to be stored: the server, and a worker, take its deadline for later.
        running_since: of ``time.monotonic``, as far as is known; None: nobody has begun with it.
        orphaned_since: of ``time.monotonic``: since when it waits again, after its worker has died, and
            nobody serves the endpoint; None: that is not so.
        looks: how often it was not found.
        given_up: how to withdraw it as soon as the server has it; None: somebody waits, or it has one.
        told: whether its caller was told that nobody will answer, and may not have seen it yet.
        notes: of its progress; None: nobody watches.
        doubted: what to send once more, as it may not be true that nobody serves the endpoint; None: it is.
        unnamed: whether somebody waits for its id.
    """

    __slots__ = (
        "box",
        "deadline",
        "doubted",
        "endpoint",
        "given_up",
        "id",
        "keys",
        "looks",
        "notes",
        "orphaned_since",
        "running_since",
        "since",
        "slot",
        "slow",
        "told",
        "unnamed",
        "window",
    )

    def __init__(
        self,
        endpoint: Endpoint[Any, Any],
        keys: QueueKeys,
        slot: int,
        box: AsyncLetterbox[Item | BaseException],
        timeout_ms: int,
        window: int,
        since: float,
    ) -> None:
        self.endpoint = endpoint
        self.keys = keys
        self.slot = slot
        self.box = box
        self.window = window
        self.since = since
        self.deadline = since + timeout_ms / 1000
        self.id = ""
        self.slow = False
        self.running_since: float | None = None
        self.looks = 0
        self.orphaned_since: float | None = None
        self.given_up: How | None = None
        self.told = False
        self.notes: Notes | None = None
        self.doubted: Outgoing | None = None
        self.unnamed = False

    @property
    def title(self) -> str:
        """How people are told of it."""
        return f"request {self.id}" if self.id else "a request that the server may not have"

    def is_asked_after(self, now: float) -> bool:
        """Tell whether to ask what has become of it; not when its caller is about to hear that its time is over."""
        if not self.id or self.told or now - self.since < ASKED_AFTER:
            return False
        return bool(self.window) or now < self.deadline

    def is_orphan_for(self, now: float) -> float:
        """Note that it waits for another worker while there is none; return for how many seconds it has."""
        if self.orphaned_since is None:
            self.orphaned_since = now
        return now - self.orphaned_since

    def tell(self, error: BaseException) -> None:
        """Tell the caller why nobody will answer, behind what has come before."""
        self.told = True
        self.box.put(error)


def unserved(pending: Pending) -> NoResponders:
    """Return what its caller is told when nobody will begin with it."""
    what = "nobody has begun with" if pending.orphaned_since is None else "no other one came for"
    message = (
        f"{pending.endpoint.title}: the last worker that served it is gone, and {what} "
        f"request {pending.id}, which is deleted now"
    )
    return NoResponders(message, queue=pending.endpoint.name, id=pending.id)


def lost(pending: Pending, reason: str) -> ResponderLost:
    """Return what its caller is told when there will be no reply."""
    what = {
        "crashed": "the worker that had it died",
        "stopped": "the worker that had it was stopped",
        "cancelled": "somebody has cancelled it",
        "unknown": "it is gone without a reply: purged, or its reply was lost",
    }.get(reason, f"it went to the dead letters ({reason})")
    message = (
        f"{pending.endpoint.title}: request {pending.id} will not be answered: {what}. Whether its work "
        "was done is not known"
    )
    return ResponderLost(message, queue=pending.endpoint.name, id=pending.id, reason=reason)


def overdue(pending: Pending, found: int | None, now: float) -> TimedOut:
    """Return what its caller is told when its time is over.

    Args:
        pending: the request.
        found: what the server has found of it; None: it does not say.
        now: of ``time.monotonic``.
    """
    state, seconds = "unknown", 0.0
    if found == WAITING:
        state = "queued"
    elif found is not None and found >= 0:
        state = "running"
        seconds = now - pending.running_since if pending.running_since else found / 1000
    known = {
        "queued": "it was still waiting for a worker, and is deleted now",
        "running": f"a worker has had it for {seconds:.1f} s",
        "unknown": "what has become of it is not known",
    }[state]
    name, what = pending.endpoint.name, "part of the stream of" if pending.window else "reply to"
    message = (
        f"{pending.endpoint.title}: no {what} {pending.title} within "
        f"{now - pending.since:.1f} s: {known}"
    )
    return TimedOut(message, endpoint=name, id=pending.id, state=state, seconds=seconds)


def closed(pending: Pending) -> NotConnected:
    """Return what its caller is told when the client is closed meanwhile."""
    message = (
        f"{pending.endpoint.title}: the client was closed while {pending.title} waited for its reply. "
        "Whether its work was done is not known"
    )
    return NotConnected(message)
