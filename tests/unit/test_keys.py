"""Key names: the part of the wire format that other programs spell themselves."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from millstream.protocol.keys import GROUP, LANES, QueueKeys, in_special_lane, queue_keys

KEYS = queue_keys("ms", "orders")


def all_keys(keys: QueueKeys) -> dict[str, str]:
    parts = {"namespace", "name", "partition", "prefix"}
    named = {name: key for name, key in asdict(keys).items() if name not in parts}
    return {**named, "producer": keys.producer("p7"), "removed": keys.removed("nightly")}


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
    ],
)
def test_the_wire_format(key: str, expected: str) -> None:
    """These names are in other programs; changing one loses messages."""
    assert key == expected


@pytest.mark.parametrize("name", ["orders", "a:b", "x.y", "\u00fc"])
def test_one_hash_tag(name: str) -> None:
    """All keys of a queue are in one slot of a cluster, that of the queue's name."""
    for key in all_keys(queue_keys("app:1", name)).values():
        assert re.findall(r"\{(.*?)\}", key) == [name]


def test_no_two_keys_are_the_same() -> None:
    """Neither in a queue, nor in two queues or namespaces."""
    queues = [queue_keys(*pair) for pair in [("a", "b"), ("b", "a"), ("a", "b:b"), ("a:b", "b")]]
    keys = [key for queue in queues for key in all_keys(queue).values()]

    assert len(keys) == len(set(keys)) == 4 * 25


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
