"""Topics that keep nothing: channels of Redis Pub/Sub, and what is published on them.

A payload is the body. Only a message with headers or a subject has an envelope: the byte 0xC1, a
JSON object (``h``: headers, ``t``: subject), a line feed, and the body. 0xC1 begins neither JSON
(it is no UTF-8) nor MessagePack (which never uses it), so only a body of raw bytes could be taken
for one; that is sent in an envelope, too. docs/wire-format.md is the contract.

A node of a cluster sends what is published to all other nodes, unless the channel is sharded: then
a message stays with the nodes that have the channel's slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from millstream.errors import ServerRefused, UsageError
from millstream.message import Receipt
from millstream.protocol.envelope import encode_headers
from millstream.protocol.keys import topic_keys
from millstream.protocol.op import Command, Op
from millstream.protocol.send import Batch
from millstream.subject import check_subject, matches
from millstream.topic import Topic

__all__ = [
    "Channel",
    "NotAnEnvelope",
    "Verbs",
    "channel_of",
    "explained",
    "name_in",
    "pattern_on_cluster",
    "payload_of",
    "publishing",
    "read_payload",
    "sharding",
    "verbs_for",
]

_MARK = b"\xc1"

_GLOB = str.maketrans({sign: f"\\{sign}" for sign in "*?[\\"})
"""The signs of the server's globs, each without its meaning."""


_SHARDS_SINCE = 7


class Channel(NamedTuple):
    """What a listener asks the server for.

    Attributes:
        name: of the channel, or a glob of the server's.
        pattern: which of the two.
    """

    name: bytes
    pattern: bool


class Verbs(NamedTuple):
    """The commands for a channel. Answers begin with the same word, in small letters."""

    subscribe: str
    unsubscribe: str


def verbs_for(channel: Channel, *, sharded: bool) -> Verbs:
    """Name the commands.

    Args:
        sharded: whether the server shards channels (see ``sharding``). There are no commands for
            patterns then.
    """
    if channel.pattern:
        return Verbs("PSUBSCRIBE", "PUNSUBSCRIBE")
    if sharded:
        return Verbs("SSUBSCRIBE", "SUNSUBSCRIBE")
    return Verbs("SUBSCRIBE", "UNSUBSCRIBE")


def sharding() -> Op[bool]:
    """Ask whether the server shards channels: a node of a cluster does, from Redis 7.0 on.

    HELLO tells it in each state of the server, and to users who may not ask for INFO. A server
    that does not know it is no node of a cluster.
    """
    return Op((Command(("HELLO",), optional=True),), decode=_shards)


def _shards(replies: list[Any]) -> bool:
    (reply,) = replies
    if not isinstance(reply, list):
        return False
    # What only looks like a server (a proxy, say) may leave something out.
    told = dict(zip(reply[::2], reply[1::2], strict=False))
    major = told.get(b"version", b"").partition(b".")[0]
    return told.get(b"mode") == b"cluster" and major.isdigit() and int(major) >= _SHARDS_SINCE


def pattern_on_cluster(topic: str) -> UsageError:
    """Say why nobody can listen to a pattern where channels are sharded."""
    return UsageError(
        f"topic {topic!r} is a pattern, and the server is a node of a cluster, where messages stay "
        "on the shard of their topic (sharded Pub/Sub), which knows no patterns: subscribe to "
        "each topic by its name"
    )


def channel_of(namespace: str, topic: Topic[Any]) -> Channel:
    """Return the channel of a topic, or a glob for the channels of all topics of a pattern.

    The glob may let others through: the server knows no tokens. See ``name_in``.
    """
    if not topic.is_pattern:
        return Channel(topic_keys(namespace, topic.name).channel.encode(), pattern=False)
    before, after = _around(namespace)
    # What follows the last sign is literal, too, and so are signs in the namespace.
    glob = "*".join(part.translate(_GLOB) for part in _parts(topic.name))
    return Channel(f"{before.translate(_GLOB)}{glob}{after}".encode(), pattern=True)


def _parts(pattern: str) -> list[str]:
    # ">" can only be the last token.
    return (pattern[:-1] + "*" if pattern.endswith(">") else pattern).split("*")


def _around(namespace: str) -> tuple[str, str]:
    before, _, after = topic_keys(namespace, "\0").channel.partition("\0")
    return before, after


def name_in(namespace: str, channel: bytes, topic: Topic[Any]) -> str | None:
    """Return the name of the topic that a channel belongs to; None: the pattern is not for it."""
    if not topic.is_pattern:
        return topic.name
    before, after = _around(namespace)
    name = channel.decode("utf-8", "replace").removeprefix(before).removesuffix(after)
    return name if not {"{", "}"} & set(name) and matches(topic.name, name) else None


# Payloads


class _Head(msgspec.Struct):
    """What an envelope says beside the body."""

    h: dict[str, str] = msgspec.field(default_factory=dict)
    t: str | None = None


_encode_head = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(_Head).decode

NotAnEnvelope = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What ``read_payload`` raises for a foreign payload that begins as one and is none."""


def payload_of(body: bytes, headers: Any, subject: object) -> bytes:
    """Return what is published.

    Args:
        body: encoded.
        headers: strings to strings, or None.
        subject: or None.

    Raises:
        UsageError: headers or subject are none.
    """
    if not headers and subject is None and not body.startswith(_MARK):
        return body
    head: dict[str, Any] = {}
    if headers:
        head["h"] = msgspec.Raw(encode_headers(headers))
    if subject is not None:
        head["t"] = check_subject(subject)
    return b"%b%b\n%b" % (_MARK, _encode_head(head), body)


def read_payload(payload: bytes) -> tuple[bytes, dict[str, str], str | None]:
    """Return body, headers and subject.

    Raises:
        NotAnEnvelope: a foreign program has begun one wrongly.
    """
    if not payload.startswith(_MARK):
        return payload, {}, None
    head, _, body = payload[1:].partition(b"\n")
    read = _decode_head(head)
    return body, read.h, read.t


# Publishing


def publishing(namespace: str, topic: Topic[Any], *, sharded: Callable[[], bool]) -> Batch[Receipt]:
    """Return how a topic's messages are published: many in one write.

    A batch whose replies were lost is published again, so listeners may get it twice.

    Args:
        sharded: tells whether the server shards channels, for each batch anew.
    """
    return partial(_publish, topic_keys(namespace, topic.name).channel, sharded)


def _publish(
    channel: str,
    sharded: Callable[[], bool],
    producer: str,  # noqa: ARG001 - nothing is kept, so a repetition cannot be recognised
    number: int,  # noqa: ARG001 - see producer
    bodies: Sequence[bytes],
    headers: Sequence[bytes] | None,  # noqa: ARG001 - they are in the payload
) -> Op[list[Receipt]]:
    verb = "SPUBLISH" if sharded() else "PUBLISH"
    return Op(tuple(Command((verb, channel, payload)) for payload in bodies), _receipts)


def _receipts(replies: list[Any]) -> list[Receipt]:
    return [Receipt("", durability="none", listeners=int(count)) for count in replies]


def explained(error: ServerRefused, channel: bytes) -> ServerRefused:
    """Say which channel it is that a user may not use, or that another node has."""
    name = channel.decode("utf-8", "replace")
    if error.code not in ("NOPERM", "MOVED"):
        return error
    rule = f". The user needs the ACL rule &{name}" if error.code == "NOPERM" else ""
    return ServerRefused(f"{error}: channel {name}{rule}", code=error.code)
