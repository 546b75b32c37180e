# GENERATED from src/millstream/aio/feed.py by tools/unasync.py - do not edit
"""What a listener of an ephemeral topic iterates over."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Generic, Self, TypeVar

from millstream.codec import NotDecodable
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_pubsub import BlockingInbox, BlockingPubSub
from millstream.message import Heard, Missed
from millstream.protocol.ephemeral import channel_of, name_in, read_payload
from millstream.protocol.listening import Box, OnFull
from millstream.text import text_of
from millstream.topic import Topic

__all__ = ["SyncFeed"]

logger = logging.getLogger("millstream.feed")

T = TypeVar("T")


class SyncFeed(Generic[T]):
    """An iterator of what is published on an ephemeral topic; clients make it (``subscribe``).

    It listens from the first step on, or from the beginning of its ``with`` block: what is
    published after that comes. Use it from one task or thread at a time.

    Args:
        driver: of the client.
        namespace: of the client.
        topic: or pattern.
        buffer: most messages that wait here.
        on_full: what becomes of a message that has no room.
        wait: seconds without a message after which it ends.
    """

    def __init__(
        self,
        driver: BlockingDriver,
        namespace: str,
        topic: Topic[T],
        *,
        buffer: int,
        on_full: OnFull,
        wait: float,
    ) -> None:
        self._driver = driver
        self._namespace = namespace
        self._topic = topic
        self._channel = channel_of(namespace, topic)
        self._box = Box(topic.name, buffer, on_full)
        self._wait = wait
        self._pubsub: BlockingPubSub | None = None
        self._inbox: BlockingInbox | None = None
        self._unreadable = 0

    @property
    def dropped(self) -> int:
        """How many messages the buffer had no room for so far."""
        return self._box.dropped

    @property
    def unreadable(self) -> int:
        """How many messages were skipped so far because they do not fit the type of the topic."""
        return self._unreadable

    def _open(self) -> BlockingInbox:
        if self._inbox is None:
            self._pubsub = self._driver.pubsub(self._channel)
            self._inbox = self._pubsub.inbox(self._box)
            self._pubsub.join(self._channel, self._inbox)
        return self._inbox

    def __enter__(self) -> Self:
        """Listen."""
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more."""
        self.close()

    def close(self) -> None:
        """Listen no more, and forget what waits here. Safe to repeat."""
        if self._pubsub is not None and self._inbox is not None:
            self._pubsub.leave(self._channel, self._inbox)
        else:
            self._box.close()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Heard[T] | Missed:
        """Wait for the next."""
        if self._inbox is None and self._box.ended:
            raise StopIteration
        inbox = self._open()
        while (item := inbox.take(self._wait)) is not None:
            if isinstance(item, Missed):
                return item
            if (heard := self._read(*item)) is not None:
                return heard
        self.close()
        raise StopIteration

    def _read(self, channel: bytes, payload: bytes) -> Heard[T] | None:
        name = name_in(self._namespace, channel, self._topic)
        if name is None:
            # The server's patterns know no tokens.
            return None
        try:
            body, headers, subject = read_payload(payload)
            decoded = self._topic.codec.decode(body)
        except NotDecodable as error:
            self._unreadable += 1
            if str(self._unreadable).strip("0") == "1":
                # The first, the tenth, and so on: a program that sends nothing else is no flood.
                text = text_of(error)
                logger.warning(
                    "topic %r: a message is skipped, number %d: %s", name, self._unreadable, text
                )
            return None
        return Heard(body=decoded, topic=name, headers=headers, subject=subject)
