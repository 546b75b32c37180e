"""The proof for requests: each ends in one way, in time, and what its caller is told is true."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.chaos.checker import Violation
from tests.chaos.history import Asked, History

__all__ = ["PATIENCE", "check_requests"]

PATIENCE = 10.0
"""Seconds beyond its deadline after which a call that does not end hangs, on a busy machine, too."""


def check_requests(history: History, source: str) -> list[Violation]:
    """Return what was broken of the promises to callers of an endpoint."""
    handled: dict[str, list[float]] = {}
    ends: dict[str, set[str | None]] = {}
    for given in history.given[source]:
        handled.setdefault(given.cid, []).append(given.begun)
        ends.setdefault(given.cid, set()).add(given.end)
    found = []
    for asked in history.asked.values():
        begun = handled.get(asked.cid, [])
        wrong = _wrong(history, asked, begun, ends.get(asked.cid, set()))
        found += [Violation("requests", source, asked.cid, what) for what in wrong]
    return found


def _wrong(
    history: History, asked: Asked, begun: list[float], ends: set[str | None]
) -> Iterator[str]:
    if len(begun) > 1 and not history.lost_between(begun[0], begun[-1]):
        yield f"begun {len(begun)} times"
    if asked.over is None:
        if history.complete and asked.process not in history.killed:
            yield "the call never ended"
        return
    if history.lost_between(asked.begun, asked.over):
        # What the server knew of it may be gone, and that it was begun with; it has ended.
        return
    stood = history.trouble(asked.process, asked.begun, asked.over)
    if asked.over - asked.begun > asked.timeout + stood + PATIENCE:
        yield f"took {asked.over - asked.begun:.1f} s, its timeout was {asked.timeout} s"
    if asked.reply is not None:
        if asked.reply != asked.cid:
            yield f"got the reply to {asked.reply}"
        elif "done" not in ends:
            yield "got a reply that no handler gave"
        return
    error = (asked.error or {}).get("error")
    if error == "NoResponders" and begun:
        yield "was told that nobody serves the endpoint, and was begun with"
    if error == "RemoteError" and "failed" not in ends:
        yield "was told that its handler failed, which it did not"
    if error not in _TRUE:
        yield f"ended with {error}: {(asked.error or {}).get('text')}"
    # A process that did not run between its look at the clock and the handler may be late.
    if max(begun, default=-math.inf) > asked.begun + asked.timeout + stood + PATIENCE:
        yield "was begun with long after its deadline"


_TRUE = (
    "NoResponders",
    "RemoteError",
    "TimedOut",
    "ResponderLost",
    "NotConnected",
    "ServerRefused",
)
