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

_ASKED = RetryLater().reason
"""What is said where the handler gave no reason. It says why to try again, not why a message is dead."""


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
        error: what it raised; whatever it is, they end.
        policy: attempts and backoff.
    """
    try:
        return _ends_by(deliveries, error, policy)
    except Exception:
        # Such as an exception with properties that raise. What does not end is held for ever.
        first = deliveries[0]
        logger.exception("%s: cannot tell how message %s has failed", first.queue.title, first.id)
        unknown = RuntimeError(f"{type(error).__name__}, of which nothing can be told")
        return _ends_by(deliveries, unknown, policy)


def _ends_by(
    deliveries: Sequence[Delivery[Any]], error: BaseException, policy: Retry
) -> list[Settlement]:
    if isinstance(error, Reject):
        logger.info(
            "%s: %s rejected: %r", deliveries[0].queue.title, _named(deliveries), error.reason
        )
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
            error=failure.line or _last_word(one, failure, policy),
            trace=failure.trace,
        )
        for one in deliveries
    ]
    logger.warning(
        "%s: %s: %s (%s)",
        deliveries[0].queue.title,
        _named(deliveries, f", attempt {deliveries[0].attempt} of {policy.max_attempts}"),
        failure.line or failure.reason,
        _fate(ends),
        exc_info=error if failure.line else None,
    )
    return ends


def _lost(
    deliveries: Sequence[Delivery[Any]], error: BaseException, failure: _Failure
) -> list[Settlement]:
    """What was taken at most once is gone; that it has failed is said and counted, and no more."""
    first = deliveries[0]
    problem = failure.line or (
        f'RetryLater ({failure.reason}): the queue is declared with delivery="at_most_once", so '
        "nothing can be tried again"
    )
    logger.warning(
        "%s: %s: %s (lost: taken at most once)",
        first.queue.title,
        _named(deliveries),
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


def _last_word(one: Delivery[Any], failure: _Failure, policy: Retry) -> str | None:
    if failure.reason != _ASKED or one.attempt < policy.max_attempts:
        return None
    return f"the handler asked for another attempt, but attempt {one.attempt} was the last one"


def _named(deliveries: Sequence[Delivery[Any]], beside: str = "") -> str:
    first, others = f"message {deliveries[0].id}{beside}", len(deliveries) - 1
    return f"{first}, and {others} more of its batch" if others else first


def _fate(ends: Sequence[Settlement]) -> str:
    waits = [end.delay_ms for end in ends if end.verb == "retry"]
    if not waits:
        return "to the dead letters"
    again = f"again in {min(waits) / 1000:g} s"
    dead = len(ends) - len(waits)
    return f"{again}; {dead} to the dead letters" if dead else again
