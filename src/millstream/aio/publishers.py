"""What publishes to topics: a sender for each that was published to, made when it is needed."""

from __future__ import annotations

from typing import Any

from millstream.aio.confirm import confirming_of
from millstream.aio.retention import Trimmer
from millstream.aio.router import QueueSender, publisher_of
from millstream.driver.aio import AsyncDriver
from millstream.policy import Retain
from millstream.protocol.keys import topic_keys
from millstream.protocol.partitions import check_not_ordered, declare, in_partition
from millstream.protocol.publish import publishing, publishing_some
from millstream.protocol.retention import retain
from millstream.topic import Topic

__all__ = ["Publishers"]


class Publishers:
    """The senders of a client's topics.

    Args:
        driver: of the client.
        namespace: of the client.
        durability: of the client.
    """

    def __init__(self, driver: AsyncDriver, namespace: str, durability: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self.durability = durability
        self._plain: dict[tuple[str, str], QueueSender] = {}
        self._special: dict[tuple[str, str], QueueSender] = {}
        self._trimmers: dict[str, list[Trimmer]] = {}
        # What was said of topics last.
        self._retained: dict[str, Retain] = {}

    async def plain(self, topic: Topic[Any], durability: str) -> QueueSender:
        """Return what publishes bodies and headers.

        Raises:
            UsageError: others have divided the topic in another way.
        """
        way = (topic.place, durability)
        sender = self._plain.get(way)
        if sender is None or self._is_news(topic):
            trimmers = await self._declare(topic)
            if sender is None:
                confirming = await confirming_of(self._driver, durability)
                senders = [
                    one.sender(
                        in_partition(publishing(one.keys), one.keys.partition),
                        in_order=False,
                        confirming=confirming,
                    )
                    for one in trimmers
                ]
                made = publisher_of(senders, keyed=False, confirming=confirming)
                sender = self._plain.setdefault(way, made)
        return sender

    async def special(self, topic: Topic[Any], durability: str) -> QueueSender:
        """Return what publishes messages with a key or a subject.

        Raises:
            UsageError: others have declared the topic in another way.
        """
        way = (topic.place, durability)
        sender = self._special.get(way)
        if sender is None or self._is_news(topic):
            trimmers = await self._declare(topic)
            if sender is None:
                if not topic.ordered:
                    await self._driver.run(check_not_ordered(trimmers[0].keys))
                confirming = await confirming_of(self._driver, durability)
                senders = [
                    one.sender(
                        in_partition(publishing_some(one.keys), one.keys.partition),
                        in_order=topic.ordered,
                        confirming=confirming,
                    )
                    for one in trimmers
                ]
                made = publisher_of(senders, keyed=True, confirming=confirming)
                sender = self._special.setdefault(way, made)
        return sender

    async def _declare(self, topic: Topic[Any]) -> list[Trimmer]:
        """Say how the topic is divided and what it keeps, once."""
        trimmers = self._trimmers.get(topic.place)
        if trimmers is None:
            keys = topic_keys(self._namespace, topic.name)
            await self._driver.open()
            if topic.ordered:
                await self._driver.run(declare(keys, topic.partitions))
            made = [Trimmer(self._driver, keys.at(number)) for number in range(topic.partitions)]
            trimmers = self._trimmers.setdefault(topic.place, made)
        if topic.retain is not None:
            if self._retained.get(topic.place) != topic.retain:
                for one in trimmers:
                    await self._driver.run(retain(one.keys, topic.retain))
            self._retained[topic.place] = topic.retain
        return trimmers

    def _is_news(self, topic: Topic[Any]) -> bool:
        """Tell whether the server may not know what the topic keeps, at next to no cost."""
        retained = topic.retain
        return retained is not None and self._retained.get(topic.place) is not retained

    async def close(self) -> None:
        """Wait for what is on its way."""
        for sender in [*self._plain.values(), *self._special.values()]:
            await sender.close()
