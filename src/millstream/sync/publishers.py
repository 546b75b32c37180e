# GENERATED from src/millstream/aio/publishers.py by tools/unasync.py - do not edit
"""What publishes to topics: a sender for each that was published to, made when it is needed."""

from __future__ import annotations

from typing import Any

from millstream.driver.blocking import BlockingDriver
from millstream.protocol.keys import TopicKeys, topic_keys
from millstream.protocol.partitions import check_not_ordered, declare
from millstream.protocol.publish import publishing, publishing_some
from millstream.protocol.retention import retain
from millstream.sync.router import QueueSender, publisher_of
from millstream.topic import Topic

__all__ = ["Publishers"]


class Publishers:
    """The senders of a client's topics.

    Args:
        driver: of the client.
        namespace: of the client.
    """

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._plain: dict[str, QueueSender] = {}
        self._special: dict[str, QueueSender] = {}

    def plain(self, topic: Topic[Any]) -> QueueSender:
        """Return what publishes bodies and headers.

        Raises:
            UsageError: others have divided the topic in another way.
        """
        sender = self._plain.get(topic.place)
        if sender is None:
            partitions = [publishing(one) for one in self._declare(topic)]
            made = publisher_of(self._driver, partitions, keyed=False, in_order=False)
            sender = self._plain.setdefault(topic.place, made)
        return sender

    def special(self, topic: Topic[Any]) -> QueueSender:
        """Return what publishes messages with a key or a subject.

        Raises:
            UsageError: others have declared the topic in another way.
        """
        sender = self._special.get(topic.place)
        if sender is None:
            keys = self._declare(topic)
            if not topic.ordered:
                self._driver.run(check_not_ordered(keys[0]))
            partitions = [publishing_some(one) for one in keys]
            made = publisher_of(self._driver, partitions, keyed=True, in_order=topic.ordered)
            sender = self._special.setdefault(topic.place, made)
        return sender

    def _declare(self, topic: Topic[Any]) -> list[TopicKeys]:
        keys = topic_keys(self._namespace, topic.name)
        self._driver.open()
        if topic.ordered:
            self._driver.run(declare(keys, topic.partitions))
        parts = [keys.at(number) for number in range(topic.partitions)]
        if topic.retain is not None:
            for one in parts:
                self._driver.run(retain(one, topic.retain))
        return parts

    def close(self) -> None:
        """Wait for what is on its way."""
        for sender in [*self._plain.values(), *self._special.values()]:
            sender.close()
