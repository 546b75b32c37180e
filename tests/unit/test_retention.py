"""When a publisher trims, and what is sent along: no server."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.policy import Retain
from millstream.protocol.keys import topic_keys
from millstream.protocol.op import Op
from millstream.protocol.publish import publishing
from millstream.protocol.retention import Trims, text_of

KEYS = topic_keys("ms", "placed")
NOTHING: Any = [0, 0, []]


class Publisher:
    """Publishes by a clock that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.trims = Trims(KEYS, lambda: self.now)
        self._batch = self.trims.beside(publishing(KEYS))
        self._number = 0

    def make(self, count: int) -> Op[Any]:
        self._number += 1
        return self._batch("p", self._number, [b"x"] * count, None)

    def publish(self, count: int = 1, answer: Any = NOTHING) -> bool:
        """Whether a look went along; the receipts are those of the batch in any case."""
        op = self.make(count)
        looks = len(op.commands) == 2
        replies = [answer, b"5-0"] if looks else [b"5-0"]
        assert [one.id for one in op.decode(replies)] == [f"5-{n}" for n in range(count)]
        return looks


def test_a_look_goes_along_now_and_then() -> None:
    """With the first batch, then after a second or a thousand messages, whichever is first."""
    one = Publisher()

    assert [one.publish(), one.publish(500), one.publish(498), one.publish()] == [
        *(True, False, False, False),
    ]
    assert [one.publish(), one.publish(999)] == [True, False]
    assert [one.publish(), one.publish()] == [True, False]
    one.now += 0.99
    assert not one.publish()
    one.now += 0.01
    assert [one.publish(), one.publish()] == [True, False]


def test_it_goes_before_the_batch() -> None:
    """What it deletes makes room; and it must not make the batch fail."""
    look, batch = Publisher().make(3).commands

    assert [one.script and one.script.name for one in (look, batch)] == ["trim", "publish"]
    assert (look.optional, batch.optional) == (True, False)


def test_when_there_is_more_the_next_batch_looks_again() -> None:
    """Until the answer says that nothing is left."""
    one = Publisher()

    assert one.publish(answer=[9000, 1, []])
    assert one.publish(answer=[9000, 1, []])
    assert one.publish(answer=[5, 0, []])
    assert not one.publish()


def test_what_a_look_has_found() -> None:
    """Subscriptions are kept until somebody takes care of them, and so is an error."""
    one = Publisher()
    one.publish(answer=[0, 0, [b"old"]])
    one.now += 2
    one.publish(answer=[0, 0, [b"older"]])
    assert (one.trims.forgotten, one.trims.problem) == (["old", "older"], None)

    problem = RuntimeError("no")
    one.now += 2
    one.publish(answer=problem)
    assert one.trims.problem is problem
    one.now += 2
    one.publish()
    assert one.trims.problem is None


@given(batches=st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 700)), min_size=1, max_size=60))
def test_no_more_than_so_much_goes_by(batches: list[tuple[float, int]]) -> None:
    """However batches come: between two looks are fewer than 1,000 messages and one batch."""
    one, since, at = Publisher(), 0, -1.0
    for pause, count in batches:
        one.now += pause
        if one.publish(count):
            assert since >= 1000 or one.now - at >= 1
            since, at = count, one.now
        else:
            assert since < 1000
            assert one.now - at < 1
            since += count


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        (Retain(max_age=timedelta(days=1), max_bytes=5), {"max_age": 86_400_000, "max_bytes": 5}),
        (Retain(max_length=1, until_consumed=False), {"max_length": 1, "until_consumed": False}),
    ],
)
def test_how_it_is_stored(policy: Retain, stored: Any) -> None:
    """Only what there is to say, in ms; the same text for the same declaration."""
    assert json.loads(text_of(policy)) == stored
    assert (text_of(None), text_of(Retain())) == (b"", b"{}")
