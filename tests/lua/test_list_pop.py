"""list_pop.lua: messages of a list that are taken at most once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from millstream.driver.blocking import BlockingDriver
from millstream.policy import AtMostOnce
from millstream.protocol import consume, control
from millstream.protocol.consume import Fetched
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import queue_keys
from millstream.protocol.settlement import Settlement, fail, reject, release
from tests.lua.state import NOW, State, out_of_memory, refused
from tests.support.servers import Server


class ListState(State):
    """A queue in a list, read by consumers that take at most once."""

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        super().__init__(driver, namespace)
        self.keys = queue_keys(namespace, "orders", store="list")

    def pop(self, most: int = 10, *ends: Settlement, now_ms: int | None = NOW) -> Fetched:
        reads = [("", most)] if most else []
        return self.run(
            consume.fetch(self.keys, "w", ends, reads, limits=AtMostOnce(), now_ms=now_ms)
        )

    def list(self, name: str = "list") -> list[Any]:
        key = self.keys.ready if name == "list" else self.keys.ready + "-" + name
        found: list[Any] = self.do("LRANGE", key, 0, -1)
        return found


@pytest.fixture
def lists(any_url: str, namespace: str) -> Iterator[ListState]:
    """An empty queue on each supported server."""
    driver = BlockingDriver(any_url, connect_timeout=5, timeout=5)
    yield ListState(driver, namespace)
    driver.close()


def bodies(found: Fetched) -> list[bytes | None]:
    return [envelope.body for envelope in found.envelopes]


def back(end: Settlement, envelope: Envelope, number: int) -> Settlement:
    return replace(end, envelope=envelope, number=number)


def send(lists: ListState, *elements: bytes) -> None:
    lists.do("LPUSH", lists.keys.ready, *elements)


def test_what_is_taken_is_gone(lists: ListState) -> None:
    """It comes in the order of sending, belongs to nobody, and is counted."""
    lists.register("w")
    send(lists, b"ms1 7-1000000\n1", b'ms1 7-1000001 {"h":"{}","k":"key"}\n2', b"3", b"4")

    found = lists.pop(3)

    assert bodies(found) == [b"1", b"2", b"3"]
    assert [one.state.id for one in found.envelopes[:2]] == ["7-1000000", "7-1000001"]
    assert found.envelopes[1].key == "key"
    assert found.envelopes[2].state.id == f"{NOW}-1000000"
    assert lists.list() == [b"4"]
    assert lists.counters() == {"acked": 3}
    leases: int = lists.do("EXISTS", lists.keys.listed[2], lists.keys.processing("w"))
    assert leases == 0


@pytest.mark.parametrize(
    "element", [b"", b"ms1 ", b"ms1 1-0", b"ms1 x\n1", b"ms1 1-0 {\n1", b"\xff\n", b"ms1 1-0\r\n"]
)
def test_any_element_is_a_message(lists: ListState, element: bytes) -> None:
    """What is not in our form is a body, gets an id, and holds up nothing."""
    lists.register("w")
    send(lists, element, b"1")

    found = lists.pop()

    assert bodies(found) == [element, b"1"]
    assert all(one.state.id.startswith(f"{NOW}-") for one in found.envelopes)


def test_what_was_handed_back_comes_first(lists: ListState) -> None:
    """Suspects and the front before the rest, and never more than was asked for."""
    lists.register("w")
    send(lists, b"ms1 7-1\n1")
    lists.do("LPUSH", lists.keys.ready + "-front", b"ms1 5-1\nf")
    lists.do("LPUSH", lists.keys.ready + "-suspect", b'ms1 6-1 {"s":"{\\"crashes\\":2}"}\ns')

    assert bodies(lists.pop(2)) == [b"s", b"f"]
    assert bodies(lists.pop(2)) == [b"1"]


def test_wake_ups_and_what_a_sleep_brought(lists: ListState) -> None:
    """A wake-up is no message, and what landed belongs to whoever looks first."""
    lists.register("w")
    send(lists, b"ms1 7-1\n1", b"ms1 wake\n", b"ms1 7-2\n2")
    lists.do("LPUSH", lists.keys.landing, b"ms1 6-1\n0")

    assert bodies(lists.pop(3)) == [b"0", b"1", b"2"]
    assert lists.list() == []
    assert lists.counters() == {"acked": 3}


def test_a_paused_queue(lists: ListState) -> None:
    """It gives nothing; the answer tells what to wait for."""
    lists.register("w")
    send(lists, b"1")
    lists.run(control.pause(lists.keys))

    found = lists.pop()

    assert found.envelopes == []
    assert found.outlook is not None
    assert found.outlook.kind == "paused"
    lists.run(control.resume(lists.keys))
    assert bodies(lists.pop()) == [b"1"]


def test_what_is_due(lists: ListState) -> None:
    """The call that promotes it brings it, and tells of the next one."""
    lists.register("w")
    lists.delay("5-1000000", NOW, "due")
    lists.delay("6-1000000", NOW + 500, "later")

    found = lists.pop()

    assert bodies(found) == [b"due"]
    assert found.next_due_ms == 500


def test_handing_back(lists: ListState) -> None:
    """Released ones keep their order, others die or are counted, and nothing is done twice."""
    lists.register("w")
    send(lists, *(f"ms1 7-{n}\n{n}".encode() for n in range(1, 5)))
    one, two, three, four = lists.pop().envelopes
    ends = (
        back(release(one.token), one, 1),
        back(reject(two.token, "no"), two, 2),
        back(release(three.token), three, 3),
        back(fail(four.token), four, 4),
    )

    assert lists.pop(0, *ends).kept == {}
    found = lists.pop(10, *ends)

    assert bodies(found) == [b"1", b"3"]
    assert [one.state.id for one in found.envelopes] == ["7-1", "7-3"]
    assert lists.only("dead").state["reason"] == "no"
    assert lists.counters() == {"acked": 2, "died": 1, "failed": 1}


def test_deliveries_that_are_acknowledged_stay(lists: ListState) -> None:
    """Consumers of both kinds get different messages, and keep what is theirs."""
    lists.register("w", "other")
    send(lists, b"ms1 7-1\n1", b"ms1 7-2\n2")
    theirs = lists.run(consume.fetch(lists.keys, "other", reads=[("", 1)])).envelopes

    assert bodies(lists.pop()) == [b"2"]

    assert [one.body for one in theirs] == [b"1"]
    done = lists.run(consume.fetch(lists.keys, "other", acks=[theirs[0].token]))
    assert done.lost == []


def test_who_is_long_gone_is_forgotten(lists: ListState) -> None:
    """A look removes a consumer that has nothing and was not heard of for minutes."""
    lists.register("w", "silent", "busy")
    seen, leases = lists.keys.listed[9], lists.keys.listed[2]
    send(lists, b"1")
    lists.run(consume.fetch(lists.keys, "busy", reads=[("", 1)]))
    lists.do("ZADD", seen, NOW - 400_000, "silent", NOW - 400_001, "busy")
    lists.do("ZADD", seen, NOW, "w")

    lists.pop()
    lists.pop()

    assert set(lists.leases()) == {"w", "busy"}
    assert lists.do("ZCARD", leases) == 1


def test_a_queue_that_is_gone(lists: ListState) -> None:
    """After a FLUSHALL the consumer has to make itself known again, and nothing is taken before."""
    send(lists, b"1")
    with refused("NOGROUP"):
        lists.pop()

    assert lists.list() == [b"1"]


def test_a_full_server_is_emptied(own_server: Server, namespace: str) -> None:
    """What is taken needs no memory, also when a message has to get an id."""
    driver = BlockingDriver(own_server.limited_url, connect_timeout=5, timeout=5)
    lists = ListState(driver, namespace)
    lists.register("w")
    send(lists, b"ms1 7-1\n1", b"2")
    with out_of_memory(own_server):
        found = lists.pop()
    driver.close()

    assert bodies(found) == [b"1", b"2"]
    assert len({one.state.id for one in found.envelopes}) == 2
    assert lists.keys.store == "list"
