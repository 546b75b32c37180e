"""Key names: the part of the wire format that other programs spell themselves."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import asdict

from millstream.protocol.keys import (
    GROUP,
    LANES,
    QueueKeys,
    TopicKeys,
    in_special_lane,
    queue_keys,
    topic_keys,
)

KEYS = queue_keys("ms", "orders")
TOPIC = topic_keys("ms", "placed")
EMAIL = TOPIC.subscription("email")


PARTS = {"namespace", "name", "subscription", "store", "group", "partition", "prefix"}


def all_keys(keys: QueueKeys | TopicKeys) -> dict[str, str]:
    named = {name: key for name, key in asdict(keys).items() if name not in PARTS}
    named["producer"] = keys.producer("p7")
    return named if isinstance(keys, TopicKeys) else {**named, "removed": keys.removed("nightly")}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEYS.ready, "ms:{orders}:ready"),
        (KEYS.front, "ms:{orders}:front"),
        (KEYS.suspect, "ms:{orders}:suspect"),
        (KEYS.wake, "ms:{orders}:wake"),
        (KEYS.due, "ms:{orders}:due"),
        (KEYS.delayed, "ms:{orders}:delayed"),
        (KEYS.dead, "ms:{orders}:dead"),
        (KEYS.kept, "ms:{orders}:kept"),
        (KEYS.counters, "ms:{orders}:counters"),
        (KEYS.consumers, "ms:{orders}:consumers"),
        (KEYS.sweeper, "ms:{orders}:sweeper"),
        (KEYS.paused, "ms:{orders}:paused"),
        (KEYS.control, "ms:{orders}:control"),
        (KEYS.schedules, "ms:{orders}:schedules"),
        (KEYS.senders, "ms:{orders}:senders"),
        (KEYS.alive, "ms:{orders}:alive"),
        (KEYS.room, "ms:{orders}:room"),
        (KEYS.removed("nightly"), "ms:{orders}:removed:nightly"),
        (KEYS.producer("p7"), "ms:{orders}:producer:p7"),
        (GROUP, "workers"),
        (KEYS.group, GROUP),
        (queue_keys("ms", "{shop}.orders").ready, "ms:{shop}.orders:ready"),
        (queue_keys("ms", "{shop}.orders", 3).dead, "ms:{shop/3}.orders:dead"),
        (topic_keys("ms", "{shop}.placed", 3).log, "ms:{shop/3}.placed:log"),
        (
            topic_keys("ms", "{shop}.placed").subscription("email").due,
            "ms:{shop}.placed:subscription:email:due",
        ),
        (TOPIC.log, "ms:{placed}:log"),
        (TOPIC.counters, "ms:{placed}:log-counters"),
        (TOPIC.subscriptions, "ms:{placed}:subscriptions"),
        (TOPIC.at(2).log, "ms:{placed/2}:log"),
        (EMAIL.ready, TOPIC.log),
        (EMAIL.group, "email"),
        (EMAIL.front, "ms:{placed}:subscription:email:front"),
        (EMAIL.dead, "ms:{placed}:subscription:email:dead"),
        (EMAIL.at(2).ready, "ms:{placed/2}:log"),
        (EMAIL.at(2).front, "ms:{placed/2}:subscription:email:front"),
    ],
)
def test_the_wire_format(key: str, expected: str) -> None:
    """These names are in other programs; changing one loses messages."""
    assert key == expected


@pytest.mark.parametrize("name", ["orders", "a:b", "x.y", "\u00fc"])
def test_one_hash_tag(name: str) -> None:
    """All keys of a queue, or of a topic, are in one slot of a cluster, that of its name."""
    topic = topic_keys("app:1", name)
    for keys in (queue_keys("app:1", name), topic, topic.subscription("email")):
        for key in all_keys(keys).values():
            assert re.findall(r"\{(.*?)\}", key) == [name]


def test_no_two_keys_are_the_same() -> None:
    """Neither in a queue, nor in two queues or namespaces."""
    queues = [queue_keys(*pair) for pair in [("a", "b"), ("b", "a"), ("a", "b:b"), ("a:b", "b")]]
    keys = [key for queue in queues for key in all_keys(queue).values()]

    assert len(keys) == len(set(keys)) == 4 * 26


def test_subscriptions_share_the_log() -> None:
    """And nothing else, whatever they are called."""
    topic = topic_keys("ms", "placed")
    shared = {"ready", "config"}
    own = [all_keys(topic.subscription(name)) for name in ("a", "a:front", "b")]
    keys = [key for one in own for name, key in one.items() if name not in shared]

    assert {one["ready"] for one in own} == {topic.log}
    assert len({*keys, *all_keys(topic).values()}) == 3 * 24 + 8


def test_lanes() -> None:
    """A token's prefix finds the stream that it was read from."""
    assert {prefix: KEYS.lane(prefix) for prefix in LANES} == {
        "": KEYS.ready,
        "f": KEYS.front,
        "s": KEYS.suspect,
    }
    assert KEYS.lanes == tuple(KEYS.lane(prefix) for prefix in LANES)
    with pytest.raises(KeyError):
        KEYS.lane("x")


@pytest.mark.parametrize(
    ("token", "special"), [(b"0-1", False), (b"9999-1", False), (b"f0-1", True), (b"s9-1", True)]
)
def test_a_token_tells_its_lane(token: bytes, special: bool) -> None:
    """The ordinary lane has no prefix."""
    assert in_special_lane(token) is special
