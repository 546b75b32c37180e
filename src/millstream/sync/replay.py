# GENERATED from src/millstream/aio/replay.py by tools/unasync.py - do not edit
"""What was published or handled, once more. ``replay`` and ``resend`` are methods of ``Client``."""

from __future__ import annotations

import heapq
import logging
import uuid
from collections.abc import Generator
from datetime import datetime
from typing import Any

from millstream.checks import check_keeps, check_limit, check_queue, check_rate
from millstream.declare import Queue
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_ahead import BlockingAhead
from millstream.errors import Undecodable, UsageError
from millstream.message import Message
from millstream.protocol.kept import resend as _resend
from millstream.protocol.kept import span_of
from millstream.protocol.keys import topic_keys
from millstream.protocol.replay import Entry, Page, Pages, message, order_of, span
from millstream.subject import check_filter
from millstream.sync.operate import Connected
from millstream.topic import Topic

__all__ = ["replay", "resend"]

logger = logging.getLogger("millstream.replay")


def replay(
    self: Connected,
    topic: Topic[Any] | Queue[Any],
    *,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    filter: str | None = None,  # noqa: A002 - the field's word
    limit: int | None = None,
) -> Generator[Message, None, None]:
    """Read the history of a topic, or what a queue has kept, the oldest message first.

    No subscription notices, and no worker. It ends with the last message that was there when it
    began. Messages are fetched page by page, so that any length takes the memory of two pages
    (about half a megabyte; more where single messages are larger).

    Args:
        topic: a durable one; or a queue with ``keep=``, whose messages are in the order in which
            they were handled (``handled_at``).
        since: from this time on (with a time zone), or from the message with this id on. Default:
            from the oldest message that is kept. For a queue it is the time of handling, and no id.
        until: only what was published before this time, or up to the message with this id; or
            handled before this time. Default: all.
        filter: only messages whose subject matches; others do not cross the wire. Default: all.
            Not for a queue: its messages have no subjects.
        limit: so many messages at most. Default: any number.

    Raises:
        UsageError: a parameter makes no sense; it names the parameter.
        BrokerError: the server was lost and did not come back within the timeout. To go on, call
            it again with ``since`` the id of the last message, for a queue its ``handled_at``; what
            is of that time comes once more.

    Guarantee: each message of that time comes once, unless retention deletes it before it is
    reached. Partitions are merged by the time of publishing, or of handling. What does not decode
    is skipped, counted, and named by a warning of the logger ``millstream.replay``.
    """
    _check(topic, filter, limit)
    share = 1 / topic.partitions
    reels: list[Reel] = []
    for number in range(topic.partitions):
        if isinstance(topic, Queue):
            stream = self.keys_of(topic).at(number).kept
            part = span_of(since, until)
        else:
            stream = topic_keys(self.namespace, topic.name, number).log
            part = span(since, until, number)
        pages = Pages(stream, part, filter=filter, limit=limit, share=share)
        reels.append(Reel(self.driver, pages))
    return _messages(topic, reels, limit)


def _check(topic: object, filter: str | None, limit: int | None) -> None:  # noqa: A002 - as above
    if isinstance(topic, Queue):
        check_keeps(topic)
        if filter is not None:
            problem = f"filter is for topics: messages of {topic.title} have no subjects"
            raise UsageError(problem)
    elif not isinstance(topic, Topic) or not topic.durable:
        problem = f"replay needs a Topic that keeps messages, or a Queue, not {topic!r}"
        raise UsageError(problem)
    if filter is not None:
        check_filter(filter)
    if limit is not None:
        check_limit(limit)


def resend(
    self: Connected,
    queue: Queue[Any],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    rate: float | None = None,
) -> int:
    """Send messages again that a queue has handled and kept (``Queue(keep=)``).

    They are new messages, with ids of their own and no attempts yet, in the order in which they were
    handled before. Body, headers, key and priority are as they were; a time to live is over, and a
    unique key is not taken again. What is kept stays. Like ``redrive`` it does not mind a bound.

    Args:
        queue: which one. How it is declared here does not matter: consumers say what is kept.
        since: handled at this time (with a time zone) or later. Default: from the first on.
        until: handled before this time. Default: all that is kept now.
        rate: most messages a second. Default: as fast as possible.

    Returns:
        How many were sent.

    Raises:
        UsageError: a parameter makes no sense; it names the parameter.
        BrokerError: some may have been sent, others not. A repeated call sends them all.

    Guarantee: each of them is sent once, also when the connection breaks on the way, unless
    retention deletes it before it is reached.
    """
    check_queue(queue)
    check_keeps(queue)
    check_rate(rate)
    wanted = span_of(since, until)
    keys, producer = self.keys_of(queue), f"resend-{uuid.uuid4().hex}"
    return self.driver.drive(_resend(keys, wanted, producer=producer, rate=rate))


class Reel:
    """The pages of one partition; the next one is on its way while one is worked on."""

    def __init__(self, driver: BlockingDriver, pages: Pages) -> None:
        self._driver = driver
        self._pages = pages
        self._ahead: BlockingAhead[Page] | None = None

    def open(self) -> None:
        """Ask for the first page."""
        if self._driver.run(self._pages.end(), stale=True):
            self._ahead = self._driver.begin(self._pages.ask(), stale=True)

    def next(self) -> list[Entry]:
        """Return the entries of the next page; none: there is no more."""
        while self._ahead is not None:
            page = self._ahead.result()
            more = self._pages.turn(page)
            self._ahead = self._driver.begin(self._pages.ask(), stale=True) if more else None
            if page.entries:
                return list(page.entries)
        return []

    def close(self) -> None:
        """Ask for no more."""
        if self._ahead is not None:
            self._ahead.drop()


def _messages(
    topic: Topic[Any] | Queue[Any], reels: list[Reel], limit: int | None
) -> Generator[Message, None, None]:
    """Decode what there is, and tell of what cannot be decoded."""
    pages = _pages(reels, limit)
    skipped = 0
    try:
        for partition, page in pages:
            for entry in page:
                try:
                    one = message(topic, partition, entry)
                except Undecodable as error:
                    if not skipped:
                        logger.warning("replay skips what it cannot decode: %s", error)
                    skipped += 1
                    continue
                yield one
    finally:
        pages.close()
        for reel in reels:
            reel.close()
        if skipped:
            logger.warning("%s: replay skipped %d messages", topic.title, skipped)


def _pages(reels: list[Reel], limit: int | None) -> Generator[tuple[int, list[Entry]], None, None]:
    """Return entries with their partition, the oldest first."""
    for reel in reels:
        reel.open()
    if len(reels) == 1:
        while page := reels[0].next():
            yield 0, page
        return
    pages = [iter(reel.next()) for reel in reels]
    heap = [
        (order_of(number, entry), entry)
        for number, page in enumerate(pages)
        if (entry := next(page, None)) is not None
    ]
    heapq.heapify(heap)
    left = limit
    while heap and left != 0:
        (_, _, number), entry = heap[0]
        yield number, [entry]
        left = None if left is None else left - 1
        following = next(pages[number], None)
        if following is None:
            pages[number] = iter(reels[number].next())
            following = next(pages[number], None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (order_of(number, following), following))
