# GENERATED from src/millstream/aio/ephemeral.py by tools/unasync.py - do not edit
"""Topics that keep nothing (``durable=False``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender
from millstream.errors import ServerRefused, UsageError
from millstream.message import Receipt
from millstream.policy import Duration, check_count, milliseconds
from millstream.protocol.ephemeral import (
    channel_of,
    explained,
    payload_of,
    publishing,
    sharding,
)
from millstream.protocol.listening import OnFull, check_on_full
from millstream.sync.feed import SyncFeed
from millstream.topic import Topic

__all__ = ["Ephemeral"]

T = TypeVar("T")

MOST_SENDERS = 1000
"""Topics that are remembered by who publishes on them; the names of topics may have no end."""


class Ephemeral:
    """Publishes and listens.

    Args:
        driver: of the client.
        namespace: of the client.
    """

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._senders: dict[str, BlockingSender[Receipt]] = {}
        # What the server has said, and after how many losses of the connection that was.
        self._sharded = False
        self._losses = -1
        self._asking = driver.lock()

    def publish(
        self,
        topic: Topic[T],
        body: T,
        *,
        key: str | None,
        headers: Mapping[str, str] | None,
        subject: str | None,
    ) -> Receipt:
        """Publish one message, in one write with those of other tasks."""
        _refuse_key(topic, key)
        payload = payload_of(topic.encode(body), headers, subject)
        sender = self._sender(topic)
        try:
            return sender.send(payload)
        except ServerRefused as error:
            raise explained(error, channel_of(self._namespace, topic).name) from error

    def publish_many(
        self,
        topic: Topic[T],
        bodies: Iterable[T],
        *,
        key: str | Callable[[T], str] | None,
        headers: Mapping[str, str] | None,
        subject: str | Callable[[T], str] | None,
    ) -> list[Receipt]:
        """Publish many messages, some hundred in one write."""
        _refuse_key(topic, key)
        payloads = [
            payload_of(topic.encode(body), headers, subject(body) if callable(subject) else subject)
            for body in bodies
        ]
        sender = self._sender(topic)
        try:
            return sender.send_many(payloads)
        except ServerRefused as error:
            raise explained(error, channel_of(self._namespace, topic).name) from error

    def _sender(self, topic: Topic[Any]) -> BlockingSender[Receipt]:
        sender = self._senders.get(topic.name) or self._new_sender(topic)
        if self._losses != self._driver.losses:
            self._ask_sharded()
        return sender

    def _new_sender(self, topic: Topic[Any]) -> BlockingSender[Receipt]:
        if topic.is_pattern:
            message = f"topic {topic.name!r} is a pattern: it can be listened to, not published on"
            raise UsageError(message)
        if len(self._senders) >= MOST_SENDERS:
            self._senders.pop(next(iter(self._senders))).close()
        batch = publishing(self._namespace, topic, sharded=lambda: self._sharded)
        return self._senders.setdefault(topic.name, self._driver.sender(batch))

    def _ask_sharded(self) -> None:
        """Ask how to publish: behind a lost connection there may be another server."""
        with self._asking:
            losses = self._driver.losses
            if self._losses != losses:
                self._sharded = self._driver.run(sharding())
                self._losses = losses

    def subscribe(
        self, topic: Topic[T], *, buffer: int, on_full: OnFull, wait: Duration | None
    ) -> SyncFeed[T]:
        """Return an iterator that listens."""
        check_count(buffer, "buffer")
        check_on_full(on_full)
        seconds = math.inf if wait is None else milliseconds(wait, "wait") / 1000
        return SyncFeed(
            self._driver,
            self._namespace,
            topic,
            buffer=buffer,
            on_full=on_full,
            wait=seconds,
        )

    def close(self) -> None:
        """Wait for what is on its way."""
        for sender in self._senders.values():
            sender.close()


def _refuse_key(topic: Topic[Any], key: object) -> None:
    if key is not None:
        message = (
            f"{topic.title}: key orders messages that are kept, and this topic keeps none "
            "(durable=False): leave it out, or say it in a header"
        )
        raise UsageError(message)
