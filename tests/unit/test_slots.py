"""Which slot a key, a command and an operation belong to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from millstream.protocol.keys import queue_keys
from millstream.protocol.op import Command, Op
from millstream.protocol.slots import SLOTS, keys_of, slot_of, slot_of_command, slot_of_op
from tests.support.slots import stray


def op(*commands: tuple[Any, ...], **options: Any) -> Op[Any]:
    """An operation whose result does not matter; it is checked by the test itself."""
    made: Op[Any] = object.__new__(Op)
    values = {"repeatable": True, "atomic": False, "patience": None, "scattered": False}
    for name, value in {**values, "near": None, "decode": list, **options}.items():
        object.__setattr__(made, name, value)
    object.__setattr__(made, "commands", tuple(map(Command, commands)))
    return made


@given(st.text(alphabet="ab{}:é", max_size=12))
def test_a_key_has_the_slot_that_the_server_gives_it(key: str) -> None:
    """Hash tags, empty ones and unfinished ones are read as redis-py reads them."""
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (("EVALSHA", "abc", 2, "k1", "k2", "argument"), ["k1", "k2"]),
        (("EVALSHA", "abc", 0, "argument"), []),
        (("XREAD", "COUNT", 1, "STREAMS", "k1", "k2", "0", "0"), ["k1", "k2"]),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "k1", ">"), ["k1"]),
        (("EXISTS", "k1", "k2"), ["k1", "k2"]),
        (("XGROUP", "CREATE", "k1", "g", "0"), ["k1"]),
        (("SPUBLISH", "channel", "payload"), ["channel"]),
        (("XADD", "k1", "*", "b", "body"), ["k1"]),
        (("TIME",), []),
        (("CLIENT", "UNBLOCK", 7), []),
    ],
)
def test_the_keys_of_a_command(command: tuple[Any, ...], keys: list[str]) -> None:
    """They stand at different places."""
    assert [*keys_of(Command(command))] == keys
    assert slot_of_command(Command(command)) == (slot_of(keys[0]) if keys else None)


def test_the_slot_of_an_operation() -> None:
    """It is that of the first key; one without keys says near which it is to be run, or does not."""
    assert slot_of_op(op(("TIME",), ("GET", "k1"))) == slot_of("k1")
    assert slot_of_op(op(("TIME",), near="k1")) == slot_of("k1")
    assert slot_of_op(op(("SCAN", "0"), near=7)) == 7
    assert slot_of_op(op(("TIME",))) is None


@pytest.mark.parametrize(("nodes", "partitions"), [(2, 8), (3, 16), (4, 16), (12, 64)])
def test_partitions_spread(nodes: int, partitions: int) -> None:
    """Whatever a queue is called, each of some nodes with equal shares has a part of it."""
    for name in ("orders", "events", "a", "mail.out", "x" * 40):
        tags = [queue_keys("ms", name, number).ready for number in range(partitions)]
        assert {slot_of(tag) * nodes // SLOTS for tag in tags} == {*range(nodes)}


def test_an_operation_that_two_nodes_would_have_to_run_is_found() -> None:
    """What this finds fails any test in which it is made."""
    assert stray(op(("GET", "a"), ("GET", "b"))) == ["a", "b"]
    assert stray(op(("EXISTS", "a", "b"), scattered=True)) == ["a", "b"]
    assert stray(op(("GET", "a"), ("GET", "b"), scattered=True)) == []
    assert stray(op(("GET", "{a}1"), ("GET", "{a}2"))) == []
    with pytest.raises(AssertionError, match="keys in several slots"):
        Op((Command(("EXISTS", "a", "b")),), decode=list)
