"""What a handler raised becomes the end of every message that it has not settled."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.aio.delivery import Delivery
from millstream.errors import Reject, RetryLater, UsageError
from millstream.policy import Retry, milliseconds
from millstream.protocol import settlement
from millstream.protocol.settlement import Settlement

__all__ = ["ends_of"]

logger = logging.getLogger("millstream.worker")


class _Failure(msgspec.Struct, frozen=True):
    """What an exception says about the next attempt.

    Attributes:
        reason: why, kept with the message.
        delay_ms: the wait; None: by the policy's backoff.
        line: the exception as one line; None: it was no error.
        trace: the last lines of its traceback.
    """

    reason: str = "failed"
    delay_ms: int | None = None
    line: str | None = None
    trace: str | None = None


def ends_of(
    deliveries: Sequence[Delivery[Any]], error: BaseException, policy: Retry
) -> list[Settlement]:
    """Return how these deliveries end, each by its own count of attempts, and log it.

    Args:
        deliveries: what the handler had, at least one, and has not settled.
        error: what it raised.
        policy: attempts and backoff.
    """
    if isinstance(error, Reject):
        return [settlement.reject(one.envelope.token, error.reason) for one in deliveries]
    failure = _read(error)
    if deliveries[0].queue.delivery == "at_most_once":
        return _lost(deliveries, error, failure)
    ends = [
        settlement.failure(
            one.envelope,
            policy,
            reason=failure.reason,
            luck=random.random(),  # noqa: S311 - jitter, no secret
            delay_ms=failure.delay_ms,
            error=failure.line,
            trace=failure.trace,
        )
        for one in deliveries
    ]
    logger.warning(
        "%s: %s: %s (%s)",
        deliveries[0].queue.title,
        _subject(deliveries, policy),
        failure.line or failure.reason,
        _fate(ends),
        exc_info=error if failure.line else None,
    )
    return ends


def _lost(
    deliveries: Sequence[Delivery[Any]], error: BaseException, failure: _Failure
) -> list[Settlement]:
    """What was taken at most once is gone; that it has failed is said and counted, and no more."""
    first, others = deliveries[0], len(deliveries) - 1
    problem = failure.line or (
        f'RetryLater ({failure.reason}): the queue is declared with delivery="at_most_once", so '
        "nothing can be tried again"
    )
    logger.warning(
        "%s: message %s%s: %s (lost: taken at most once)",
        first.queue.title,
        first.id,
        f", and {others} more of its batch" if others else "",
        problem,
        exc_info=error if failure.line else None,
    )
    return [settlement.fail(one.envelope.token) for one in deliveries]


def _read(error: BaseException) -> _Failure:
    if not isinstance(error, RetryLater):
        return _Failure("failed", None, *settlement.describe(error))
    try:
        delay_ms = None if error.delay is None else milliseconds(error.delay, "delay")
    except UsageError as problem:
        # The delay makes no sense; the backoff does.
        return _Failure(error.reason, None, str(problem))
    return _Failure(error.reason, delay_ms)


def _subject(deliveries: Sequence[Delivery[Any]], policy: Retry) -> str:
    first = deliveries[0]
    attempt = f"message {first.id}, attempt {first.attempt} of {policy.max_attempts}"
    others = len(deliveries) - 1
    return f"{attempt}, and {others} more of its batch" if others else attempt


def _fate(ends: Sequence[Settlement]) -> str:
    waits = [end.delay_ms for end in ends if end.verb == "retry"]
    if not waits:
        return "to the dead letters"
    again = f"again in {min(waits) / 1000:g} s"
    dead = len(ends) - len(waits)
    return f"{again}; {dead} to the dead letters" if dead else again
