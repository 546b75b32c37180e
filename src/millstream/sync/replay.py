# GENERATED from src/millstream/aio/replay.py by tools/unasync.py - do not edit
"""Replay of what was published. ``replay`` is a method of ``Client``."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Generator
from datetime import datetime
from typing import Any

from millstream.checks import check_limit
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_ahead import BlockingAhead
from millstream.errors import Undecodable, UsageError
from millstream.message import Message
from millstream.protocol.keys import topic_keys
from millstream.protocol.replay import Entry, Page, Pages, message, order_of, span
from millstream.subject import check_filter
from millstream.sync.operate import Connected
from millstream.topic import Topic

__all__ = ["replay"]

logger = logging.getLogger("millstream.replay")


def replay(
    self: Connected,
    topic: Topic[Any],
    *,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    filter: str | None = None,  # noqa: A002 - the field's word
    limit: int | None = None,
) -> Generator[Message, None, None]:
    """Read the history of a topic, the oldest message first, beside its subscriptions.

    No subscription notices. It ends with the last message that was there when it began. Messages
    are fetched page by page, so that any length takes the memory of two pages (about half a
    megabyte; more where single messages are larger).

    Args:
        topic: a durable one.
        since: from this time on (with a time zone), or from the message with this id on. Default:
            from the oldest message that is kept.
        until: only what was published before this time, or up to the message with this id.
            Default: all.
        filter: only messages whose subject matches; others do not cross the wire. Default: all.
        limit: so many messages at most. Default: any number.

    Raises:
        UsageError: a parameter makes no sense; it names the parameter.
        BrokerError: the server was lost and did not come back within the timeout. To go on, call
            it again with ``since`` the id of the last message; that one comes once more.

    Guarantee: each message of that time comes once, unless retention deletes it before it is
    reached. The partitions of a topic are merged by the time of publishing. What does not decode
    is skipped, counted, and named by a warning of the logger ``millstream.replay``.
    """
    _check(topic, filter, limit)
    keys, share = topic_keys(self.namespace, topic.name), 1 / topic.partitions
    reels: list[Reel] = []
    for number in range(topic.partitions):
        part = span(since, until, number)
        pages = Pages(keys.at(number).log, part, filter=filter, limit=limit, share=share)
        reels.append(Reel(self.driver, pages))
    return _messages(topic, reels, limit)


def _check(topic: object, filter: str | None, limit: int | None) -> None:  # noqa: A002 - as above
    if not isinstance(topic, Topic) or not topic.durable:
        problem = f"replay needs a Topic that keeps messages, not {topic!r}"
        raise UsageError(problem)
    if filter is not None:
        check_filter(filter)
    if limit is not None:
        check_limit(limit)


class Reel:
    """The pages of one partition; the next one is on its way while one is worked on."""

    def __init__(self, driver: BlockingDriver, pages: Pages) -> None:
        self._driver = driver
        self._pages = pages
        self._ahead: BlockingAhead[Page] | None = None

    def open(self) -> None:
        """Ask for the first page."""
        if self._driver.run(self._pages.end()):
            self._ahead = self._driver.begin(self._pages.ask())

    def next(self) -> list[Entry]:
        """Return the entries of the next page; none: there is no more."""
        while self._ahead is not None:
            page = self._ahead.result()
            more = self._pages.turn(page)
            self._ahead = self._driver.begin(self._pages.ask()) if more else None
            if page.entries:
                return list(page.entries)
        return []

    def close(self) -> None:
        """Ask for no more."""
        if self._ahead is not None:
            self._ahead.drop()


def _messages(
    topic: Topic[Any], reels: list[Reel], limit: int | None
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
