"""Publishing: one script call a batch, stored once however often it is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from millstream.message import Receipt
from millstream.protocol.keys import TopicKeys
from millstream.protocol.op import Argument, Op, load_script
from millstream.protocol.options import check_key
from millstream.protocol.send import REMEMBERED_MS, Batch, in_a_row, plain
from millstream.subject import check_subject
from millstream.topic import Topic

__all__ = ["Publication", "publication", "publish", "publish_some", "publishing", "publishing_some"]

_PUBLISH = load_script("publish")


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One message that is more than a body and headers.

    Args:
        body: encoded.
        headers: encoded; empty: none.
        key: of which messages; empty: none.
        subject: what it is about; empty: nothing in particular.
        gate: ``ordered`` when the topic is and there is a key; empty: it has nothing to do with
            other messages.
    """

    body: bytes
    headers: bytes = b""
    key: str = ""
    subject: str = ""
    gate: str = ""

    def __len__(self) -> int:
        """How many bytes it has, roughly: batches are bounded by it."""
        return len(self.body) + len(self.headers) + len(self.key) + len(self.subject)


def publication(
    topic: Topic[Any], body: bytes, headers: bytes, *, key: str | None, subject: str | None
) -> Publication:
    """Say what a message is about, and whose order it keeps.

    Raises:
        UsageError: the key or the subject makes no sense.
    """
    return Publication(
        body=body,
        headers=headers,
        key="" if key is None else check_key(key),
        subject="" if subject is None else check_subject(subject),
        gate="ordered" if topic.ordered and key is not None else "",
    )


def publish(
    keys: TopicKeys,
    producer: str,
    number: int,
    bodies: Sequence[bytes],
    headers: Sequence[bytes] | None = None,
) -> Op[list[Receipt]]:
    """Append a batch of messages to a topic; the result is their receipts, in order.

    Args:
        keys: of the topic.
        producer: who publishes; it has one batch on the wire at a time.
        number: of the batch; a repeated one stores nothing and returns its first result.
        bodies: at least one.
        headers: encoded, one for each body, empty where there are none; None: nowhere any.

    Guarantee: the messages are stored together, in this order, once.
    """
    return _publish(keys, producer, number, plain(bodies, headers), len(bodies))


def publish_some(
    keys: TopicKeys, producer: str, number: int, publications: Sequence[Publication]
) -> Op[list[Receipt]]:
    """Append a batch of messages with keys or subjects; all else is as for ``publish``."""
    arguments: list[Argument] = ["bhkto"]
    for one in publications:
        arguments += (one.body, one.headers, one.key, one.subject, one.gate)
    return _publish(keys, producer, number, arguments, len(publications))


def publishing(keys: TopicKeys) -> Batch[Receipt]:
    """Return how plain messages are published."""
    return partial(publish, keys)


def publishing_some(keys: TopicKeys) -> Batch[Receipt]:
    """Return how publications are published."""

    def batch(
        producer: str, number: int, publications: Sequence[Publication], _: Sequence[bytes] | None
    ) -> Op[list[Receipt]]:
        return publish_some(keys, producer, number, publications)

    return batch


def _publish(
    keys: TopicKeys, producer: str, number: int, messages: Sequence[Argument], count: int
) -> Op[list[Receipt]]:
    command = _PUBLISH.call(
        [keys.log, keys.counters, keys.producer(producer), keys.sleepers],
        [number, REMEMBERED_MS, *messages],
    )
    return Op((command,), partial(in_a_row, count))
