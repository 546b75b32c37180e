"""send.lua: a batch is stored together, in order, once."""

from __future__ import annotations

import pytest

from millstream.protocol.send import REMEMBERED_MS, send
from tests.lua.state import State, out_of_memory, refused
from tests.support.servers import Server

FUTURE = 9_999_999_999_999


def ids(state: State) -> list[str]:
    return [entry.id for entry in state.entries()]


def expected_ids(first: str, count: int) -> list[str]:
    """What the receipts of a batch say."""
    milliseconds, _, sequence = first.partition("-")
    return [f"{milliseconds}-{int(sequence) + number}" for number in range(count)]


def test_stores_the_batch_in_order(state: State) -> None:
    """Each body becomes one entry with the one field b; the ids are those of the receipts."""
    first = state.send(b"1", b"2", b"3")

    assert [entry.fields for entry in state.entries()] == [{"b": "1"}, {"b": "2"}, {"b": "3"}]
    assert ids(state) == expected_ids(first, 3)
    assert state.counters() == {"sent": 3}


def test_a_body_is_any_bytes(state: State) -> None:
    """Nothing is added to a body, and nothing is lost of it."""
    body = bytes(range(256)) * 2

    state.run(send(state.keys, "p", 1, [body, b""]))

    stored = [fields for _, fields in state.do("XRANGE", state.keys.ready, "-", "+")]
    assert stored == [[b"b", body], [b"b", b""]]


def test_headers_stand_only_where_there_are_some(state: State) -> None:
    """A message without headers costs no field for them, also among others that have some."""
    state.run(send(state.keys, "p", 1, [b"1", b"2", b"3"], [b'{"a":"x"}', b"", b'{"b":"y"}']))

    assert [entry.fields for entry in state.entries()] == [
        {"b": "1", "h": '{"a":"x"}'},
        {"b": "2"},
        {"b": "3", "h": '{"b":"y"}'},
    ]
    assert state.counters() == {"sent": 3}


def test_a_large_batch(state: State) -> None:
    """A batch is as large as the driver likes."""
    bodies = [b"%d" % number for number in range(5000)]

    first = state.send(*bodies)

    assert state.bodies() == [body.decode() for body in bodies]
    assert ids(state) == expected_ids(first, 5000)


def test_a_repetition_writes(state: State) -> None:
    """A WAIT behind a repetition is about a write of its own connection: the record lives on."""
    record = state.keys.producer("p")
    state.run(send(state.keys, "p", 1, [b"1"]))
    state.do("PEXPIRE", record, 60_000)
    state.run(send(state.keys, "p", 1, [b"1"]))

    assert state.do("PTTL", record) > 60_000
    assert len(state.entries()) == 1


def test_a_repeated_batch_is_stored_once(state: State) -> None:
    """The repetition after a lost reply gets the first answer."""
    first = state.send(b"1", b"2", number=7)

    again = state.send(b"1", b"2", number=7)

    assert again == first
    assert state.bodies() == ["1", "2"]
    assert state.counters() == {"sent": 2}


def test_a_batch_is_known_by_producer_and_number(state: State) -> None:
    """Neither the next batch of a producer nor another producer's is taken for a repetition."""
    state.send(b"1", number=1)
    state.send(b"2", number=2)
    state.send(b"3", number=11)
    state.send(b"4", number=1, producer="q")

    assert state.bodies() == ["1", "2", "3", "4"]


def test_a_repetition_is_recognised_after_the_message_is_gone(state: State) -> None:
    """A consumer may be faster than the second try of the producer."""
    first = state.send(b"1")
    state.do("XDEL", state.keys.ready, first)

    assert state.send(b"1") == first
    assert state.entries() == []


def test_the_memory_of_a_producer_ends(state: State) -> None:
    """A producer that sends no more leaves nothing behind."""
    state.send(b"1")

    key = state.keys.producer("p")
    assert REMEMBERED_MS - 60_000 < state.do("PTTL", key) <= REMEMBERED_MS


@pytest.mark.parametrize("sequence", [0, 41, 2**53 - 2, 2**53 + 1, 2**64 - 100])
def test_ids_follow_a_foreign_one_from_the_future(state: State, sequence: int) -> None:
    """A foreign entry that is ahead of the clock disturbs neither the order nor the receipts."""
    foreign = state.put(body="0", id=f"{FUTURE}-{sequence}")

    first = state.send(b"1", b"2", b"3")

    assert state.bodies() == ["0", "1", "2", "3"]
    assert first == f"{FUTURE}-{sequence + 1}"
    assert ids(state) == [foreign, *expected_ids(first, 3)]


def test_without_memory_nothing_is_stored(own_server: Server, own_state: State) -> None:
    """A refused batch leaves no trace, and the same batch is accepted later."""
    with out_of_memory(own_server), refused("OOM"):
        own_state.send(b"1", b"2")
    assert own_state.entries() == []
    assert own_state.counters() == {}

    own_state.send(b"1", b"2")

    assert own_state.bodies() == ["1", "2"]
