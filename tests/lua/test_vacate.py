"""vacate.lua: the keys of a partition that is no longer one go away, unless it holds messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millstream.errors import UsageError
from millstream.protocol import whole
from millstream.protocol.op import Op
from millstream.protocol.partitions import declare
from tests.lua.state import NOW, State

PLACES = ("ready", "front", "suspect", "dead", "kept", "due", "priority", "lines")
"""Where messages may be."""


def hold(state: State, place: str) -> None:
    """Have a message in this place, and no other one."""
    if place == "priority":
        state.place_one(1, priority=5)
    elif place in ("due", "lines"):
        state.delay("5-1", NOW)
    else:
        state.put(place)
    if place == "lines":
        state.do("ZREM", state.keys.due, "5-1")
        state.do("ZADD", state.keys.lines, 0, "key\x005-1")


def partition(state: State, number: int) -> State:
    other = State(state.driver, state.keys.namespace)
    other.keys = state.keys.at(number)
    return other


def repartition(state: State, partitions: int, meanwhile: Callable[[], object]) -> None:
    """Divide the queue anew; something happens when nothing but the deletion is left to do."""
    plan = whole.repartition(state.keys, partitions)
    step = next(plan)
    while True:
        assert isinstance(step, Op)
        if any(one.script is not None and one.script.name == "vacate" for one in step.commands):
            meanwhile()
        try:
            step = plan.send(state.run(step))
        except StopIteration:
            return


def test_deletes_what_is_left_of_a_partition(state: State) -> None:
    """All its keys go, those of consumers and totals, too; the others stay."""
    state.run(declare(state.keys, 3))
    for number in range(3):
        partition(state, number).register("a")
        partition(state, number).do("HSET", state.keys.at(number).counters, "sent", 7)
    gone = [key for number in (1, 2) for key in state.keys.at(number).all]
    assert state.do("EXISTS", *state.keys.at(1).all) > 0
    for number in range(3):
        # Their readers have not been heard of for long, so nobody uses the queue.
        for lane in state.keys.at(number).lanes:
            state.do("XGROUP", "DELCONSUMER", lane, state.keys.group, "a")

    repartition(state, 1, lambda: None)

    assert [state.do("EXISTS", key) for key in gone] == [0] * len(gone)
    assert state.counters() == {"sent": 7}
    assert state.do("HGET", state.keys.config, "partitions") == b"1"


def test_a_partition_without_keys(state: State) -> None:
    """Nothing is nothing to delete, and that can be repeated."""
    for _ in range(2):
        state.do("HSET", state.keys.config, "partitions", 2)
        repartition(state, 1, lambda: None)

    assert not state.do("EXISTS", *state.keys.at(1).all)


@pytest.mark.parametrize("place", PLACES)
def test_a_message_that_comes_meanwhile(state: State, place: str) -> None:
    """Wherever it is, nothing is deleted, and the queue stays as it is divided."""
    state.run(declare(state.keys, 2))
    other = partition(state, 1)

    with pytest.raises(UsageError, match="1 messages came into partition 1 meanwhile"):
        repartition(state, 1, lambda: hold(other, place))

    assert state.do("EXISTS", other.key(place)) == 1
    assert state.do("HGET", state.keys.config, "partitions") == b"2"
