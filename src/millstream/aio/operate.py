"""What operators ask of a client. Each function is a method of ``AsyncClient``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar, overload

from millstream.checks import (
    check_confirmed,
    check_countable,
    check_cursor,
    check_ids,
    check_limit,
    check_queue,
    check_rate,
)
from millstream.declare import Queue
from millstream.driver.aio import AsyncDriver
from millstream.errors import UsageError
from millstream.message import DeadLetter, InFlight, Message, QueueStats, TopicStats
from millstream.message_id import check_id
from millstream.policy import Duration
from millstream.protocol import control, discovery, shown, waiting, whole
from millstream.protocol.keys import QueueKeys, topic_keys
from millstream.protocol.options import time_argument
from millstream.protocol.partitions import bare_id
from millstream.protocol.subscriptions import topic_stats
from millstream.topic import Source, Topic

__all__ = [
    "Connected",
    "cancel",
    "dead",
    "in_flight",
    "peek",
    "purge",
    "queues",
    "redrive",
    "repartition",
    "reschedule",
    "stats",
]

T = TypeVar("T")


class Connected(Protocol):
    """What these functions need of a client."""

    @property
    def namespace(self) -> str:
        """First part of all keys."""
        ...

    @property
    def driver(self) -> AsyncDriver:
        """What runs operations."""
        ...

    def keys_of(self, queue: Source[Any]) -> QueueKeys:
        """Return the keys of a queue or subscription."""
        ...

    def look_again(self) -> None:
        """Have the client's receivers make sure of what they have fetched ahead."""
        ...


async def queues(mq: Connected) -> list[str]:
    """List the queues of the namespace by name, each from its first message or consumer on.

    It looks at every key of the server, without holding others up.
    """
    return await mq.driver.drive(discovery.list_queues(mq.namespace), stale=True)


@overload
async def stats(mq: Connected, queue: Source[Any]) -> QueueStats: ...
@overload
async def stats(mq: Connected, queue: Topic[Any]) -> TopicStats: ...
async def stats(mq: Connected, queue: Source[Any] | Topic[Any]) -> QueueStats | TopicStats:
    """Count a queue's messages by state, at one moment; partitions one after the other.

    Args:
        queue: which one; or a subscription, which is counted like a queue; or a topic: what it
            keeps, and how far each of its subscriptions is.
    """
    if isinstance(queue, Topic):
        return await mq.driver.drive(topic_stats(topic_keys(mq.namespace, queue.name)), stale=True)
    check_countable(queue)
    return await mq.driver.drive(whole.stats(mq.keys_of(queue)), stale=True)


async def peek(
    mq: Connected, queue: Source[T], *, limit: int = 10, delayed: bool = False
) -> list[Message]:
    """Look at the next messages without delivering them.

    Args:
        queue: where.
        limit: how many at most, 10 by default.
        delayed: those that wait for their time, instead of those that are ready.

    Returns:
        The next to be delivered first; of the delayed ones, the next one due.

    Raises:
        UsageError: the limit is no number from 1.
    """
    keys = mq.keys_of(queue)
    check_limit(limit)
    if delayed:
        waiting = await mq.driver.drive(whole.peek_delayed(keys, limit), stale=True)
        return [shown.message(queue, where, one, due) for where, (one, due) in waiting]
    ready = await mq.driver.drive(whole.peek_ready(keys, limit), stale=True)
    return [shown.message(queue, where, one, None) for where, one in ready]


async def in_flight(mq: Connected, queue: Source[T], *, limit: int = 100) -> list[InFlight]:
    """List the messages that consumers own, the oldest first: which, and who has each.

    What a worker has fetched ahead of its handlers is among them. In a queue that delivers at most
    once nothing is: nobody knows of a message any more when it has been handed out.

    Args:
        queue: whose.
        limit: how many at most.

    Raises:
        UsageError: the limit is no number from 1.
    """
    check_limit(limit)
    owned = await mq.driver.drive(whole.in_flight(mq.keys_of(queue), limit), stale=True)
    return [shown.in_flight(queue, where, *one) for where, one in owned]


async def dead(
    mq: Connected, queue: Source[T], *, limit: int = 100, after: str | None = None
) -> list[DeadLetter]:
    """List dead letters, the oldest first, a page at a time.

    Args:
        queue: whose.
        limit: how many at most.
        after: the ``cursor`` of the last one of the page before.
    """
    check_limit(limit)
    check_cursor(after)
    letters = await mq.driver.drive(whole.dead(mq.keys_of(queue), after, limit), stale=True)
    return [shown.dead_letter(queue, where, one) for where, one in letters]


async def redrive(
    mq: Connected,
    queue: Source[Any],
    *,
    ids: Sequence[str] | None = None,
    reason: str | None = None,
    rate: float | None = None,
) -> int:
    """Send dead letters back to their queue, with their counts at zero and the same ids.

    Args:
        queue: whose.
        ids: of messages. Default: all.
        reason: only those with this reason; ``*`` stands for any text.
        rate: most messages a second. Default: as fast as possible.

    Returns:
        How many were sent back.

    Raises:
        UsageError: the rate is not above zero, or the ids are no list.
    """
    check_rate(rate)
    check_ids(ids)
    if ids is not None and not ids:
        return 0
    keys = mq.keys_of(queue)
    return await mq.driver.drive(whole.redrive(keys, ids=ids, reason=reason, rate=rate))


async def cancel(mq: Connected, queue: Source[Any], id: str) -> bool:
    """See that a message is not handled: delete it while it waits, or stop its handler.

    A message that waits is deleted: ready, delayed, or in the line of its key. One that runs goes
    to the dead letters with the reason ``cancelled``. Its coroutine is cancelled; in a thread
    ``asyncio.CancelledError`` is raised, at its next line of Python. A delivery from ``receive``
    raises ``LeaseLost`` when it is settled.

    Args:
        queue: whose.
        id: of the message, as in its receipt.

    Returns:
        Whether it was there; False: it is done, dead, unknown, or cancelled already.

    Raises:
        UsageError: the id is no id of a message.
        BrokerError: it may be cancelled or not; the call can be repeated.

    Guarantee: after True no handler begins with the message, and whoever has it cannot settle it
    any more. Its keys are free. ``redrive`` brings back one that ran.
    """
    bare, partition = bare_id(check_id(id))
    over = await mq.driver.drive(control.cancel(mq.keys_of(queue).at(partition), bare))
    mq.look_again()
    return over


async def reschedule(
    mq: Connected,
    queue: Source[Any],
    id: str,
    *,
    at: datetime | None = None,
    delay: Duration | None = None,
) -> bool:
    """Give a message that nobody has begun with another time, a retry that waits included.

    Args:
        queue: whose.
        id: of the message, as in its receipt.
        at: the time from which it may run, with a time zone; one in the past means now.
        delay: instead of it: seconds from now, by the server's clock.

    Returns:
        Whether it was there. If not, it is in flight, done, dead, or never was.

    Raises:
        UsageError: the id is none, not exactly one of at and delay is given, or it makes no sense.
        BrokerError: it may have the new time or not; the call can be repeated.

    Guarantee: after True it is not delivered before the new time. It keeps its id, keys, priority
    and attempts; a time to live goes on counting from the send.
    """
    bare, partition = bare_id(check_id(id))
    time = time_argument(delay=delay, at=at)
    keys = mq.keys_of(queue).at(partition)
    return await mq.driver.drive(waiting.reschedule(keys, bare, time))


async def repartition(mq: Connected, queue: Queue[Any]) -> None:
    """Divide an ordered queue anew: into as many partitions as it is declared with here.

    It must be empty, its dead letters and what it keeps included, and without workers and receivers.
    Whoever sends to it must be stopped: a client that goes on with the old number would send to
    partitions that nobody reads any more.

    Args:
        queue: with the new number.

    Raises:
        UsageError: it is not ordered, or it is in use; the error says by whom or what.
        BrokerError: it may be done in part; the call can be repeated.
    """
    check_queue(queue)
    keys = mq.keys_of(queue)
    if not queue.ordered:
        message = f"{queue.title} is not ordered, so it has no partitions: pass ordered=True"
        raise UsageError(message)
    await mq.driver.drive(whole.repartition(keys, queue.partitions))


async def purge(
    mq: Connected,
    queue: Source[Any],
    *,
    confirm: bool = False,
    dead: bool = False,
    kept: bool = False,
) -> int:
    """Delete messages for good: the ready and delayed ones, or the dead letters, or what is kept.

    Messages in flight are not touched: a consumer has them.

    Args:
        queue: whose.
        confirm: must be True.
        dead: the dead letters, instead of what waits.
        kept: messages that were handled and are kept (``Queue(keep=)``), instead of what waits.

    Returns:
        How many were deleted.

    Raises:
        UsageError: it was not confirmed, or asks for both.
    """
    keys = mq.keys_of(queue)
    check_confirmed(confirm, queue)
    if kept:
        check_queue(queue)
    if dead and kept:
        message = "purge deletes dead letters or kept messages: pass one of dead=True and kept=True"
        raise UsageError(message)
    work = whole.purge_kept if kept else whole.purge_dead if dead else whole.purge
    return await mq.driver.drive(work(keys))


async def pause(mq: Connected, queue: Source[Any]) -> None:
    """Have no consumer begin a message from now on, until ``resume``. Safe to repeat.

    Sends go on, what runs goes on and is settled, and delayed messages become ready. What
    workers have fetched ahead they hand back; a ``receive`` loop does so at its next message.

    Args:
        queue: which one. It need not have been used before.

    Raises:
        BrokerError: it may be paused or not; the call can be repeated.

    Guarantee: when this returns, no consumer gets a message from the server any more. It holds
    through restarts of workers, and of a server that keeps its data.
    """
    await mq.driver.drive(whole.pause(mq.keys_of(queue), queue.partitions))
    mq.look_again()


async def resume(mq: Connected, queue: Source[Any]) -> None:
    """Let a paused queue go on at once, where it stood. Safe to repeat.

    Args:
        queue: which one. It need not be paused.

    Raises:
        BrokerError: it may be paused still; the call can be repeated.
    """
    await mq.driver.drive(whole.resume(mq.keys_of(queue)))
