# GENERATED from src/millstream/aio/inquiries.py by tools/unasync.py - do not edit
"""Asks after requests that have waited for long: what ends without a reply tells nobody."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender
from millstream.endpoint import Endpoint
from millstream.errors import BrokerError
from millstream.protocol.keys import QueueKeys
from millstream.protocol.requests import (
    ENTRIES_A_CALL,
    NOT_THERE,
    WAITING,
    WAITING_AGAIN,
    Withdrawal,
    deaths,
    inquire,
)
from millstream.sync.abreast import layers, run_abreast
from millstream.sync.mailbox import Mailbox
from millstream.sync.pending import Pending, lost, unserved

__all__ = ["Inquiries", "fate_of"]

logger = logging.getLogger("millstream.requests")

Fate = Literal["lives", "missing", "unserved", "orphaned", "dead"]

AFTER_LEASE = 1000
"""Ms after the end of a lease until its worker counts as dead: other workers find out, too."""


RETURN_WITHIN = 30.0
"""Seconds for a worker to come back in which a request was that another one may begin with again: it has to
start and to import all that it needs, and until then nobody serves the endpoint."""


class Inquiries:
    """Finds out which of the requests that wait will not be answered, and tells their callers.

    Args:
        driver: of the client.
        mailbox: where replies may be that were not read yet.
    """

    def __init__(self, driver: BlockingDriver, mailbox: Mailbox) -> None:
        self._driver = driver
        self._mailbox = mailbox

    def ask(
        self,
        overdue: Mapping[str, Sequence[Pending]],
        withdrawals: Mapping[str, BlockingSender[int]],
    ) -> None:
        """Ask after requests, those to all endpoints side by side.

        Args:
            overdue: that have waited for long, by the name of their endpoint.
            withdrawals: gives up those that nobody will answer; by the same name.
        """
        for chunks in layers([*overdue.values()], ENTRIES_A_CALL):
            asked = [inquire(some[0].keys, [one.id for one in some]) for some in chunks]
            answers = run_abreast(self._driver, asked)
            for some, answer in zip(chunks, answers, strict=True):
                name = some[0].endpoint.name
                try:
                    if isinstance(answer, BrokerError):
                        raise answer
                    self._conclude(some, withdrawals[name], *answer)
                except BrokerError as error:
                    # The others may be at another node, or this user may ask after them.
                    logger.debug("cannot ask after requests to %s: %s", name, error)

    def _conclude(
        self,
        some: Sequence[Pending],
        withdrawals: BlockingSender[int],
        served: bool,  # noqa: FBT001 - an answer is passed on as it came
        found: Sequence[int],
    ) -> None:
        now = time.monotonic()
        fates: dict[Fate, list[Pending]] = {fate: [] for fate in get_args(Fate)}
        for pending, state in zip(some, found, strict=True):
            if state >= 0 and pending.running_since is None:
                pending.running_since = now - state / 1000
            fate = fate_of(pending.endpoint, state, served=served)
            is_alone = fate == "orphaned" and pending.is_orphan_for(now) >= RETURN_WITHIN
            fates["unserved" if is_alone else fate].append(pending)
            if fate != "orphaned":
                pending.orphaned_since = None
        # Should a worker come after all, it must not do what its caller will ask of another one.
        for pending, state in _withdrawn(fates["unserved"], withdrawals):
            if state == WAITING:
                pending.tell(unserved(pending))
        for pending, state in _withdrawn(fates["dead"], withdrawals):
            if state >= 0:
                pending.tell(lost(pending, "crashed"))
        if fates["missing"]:
            self._look_for(some[0].keys, fates["missing"])

    def _look_for(self, keys: QueueKeys, missing: Iterable[Pending]) -> None:
        """A request that is not there any more has died, or its reply is on its way."""
        if any(pending.looks for pending in missing):
            # Replies are there before the request is gone, but they may not be read yet. It comes back
            # only when all are.
            self._mailbox.catch_up()
        reasons = self._driver.drive(deaths(keys, [one.id for one in missing]))
        for pending in missing:
            reason = reasons.get(pending.id)
            # Of one that has died there may be parts of a stream that were not read yet.
            if pending.looks or (reason is not None and not pending.window):
                pending.tell(lost(pending, reason or "unknown"))
            pending.looks += 1


def fate_of(endpoint: Endpoint[Any, Any], state: int, *, served: bool) -> Fate:
    """Tell what is to be thought of a request.

    Args:
        endpoint: that was asked.
        state: what ``inquire`` has found of it.
        served: whether anybody serves the endpoint.
    """
    if state == NOT_THERE:
        return "missing"
    if state == WAITING:
        return "lives" if served else "unserved"
    if state == WAITING_AGAIN:
        return "lives" if served else "orphaned"
    # Who may repeat a request waits for another worker.
    overdue = state >= endpoint.queue.lease_ms + AFTER_LEASE
    return "dead" if overdue and not endpoint.idempotent else "lives"


def _withdrawn(
    some: Sequence[Pending], withdrawals: BlockingSender[int]
) -> Sequence[tuple[Pending, int]]:
    """Give up requests; the result has what was found of each."""
    if not some:
        return ()
    ids = [Withdrawal(one.id, "stop") for one in some]
    return list(zip(some, withdrawals.send_many(ids), strict=True))
