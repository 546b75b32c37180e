"""Declarations are values: they can be copied, and sent to other processes."""

from __future__ import annotations

import copy
import pickle
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

import millstream as ms


class Order(msgspec.Struct):
    id: int


class Model(pydantic.BaseModel):
    id: int


class OutOfStock(Exception):
    pass


TOPIC = ms.Topic("placed", Order, retain=ms.Retain(max_age=5), ordered=True, partitions=4)
DECLARATIONS: list[Any] = [
    ms.Queue("any"),
    ms.Queue("bytes", bytes),
    ms.Queue("orders", Order, codec="msgpack", retry=ms.Retry(max_attempts=2), lease=3),
    ms.Queue("models", Model, bound=ms.Bound(5), rate=ms.Rate(5)),
    ms.Queue("models", Model, codec="msgpack", durability="fsync"),
    ms.Queue("either", int | None, results=ms.Results(type=list[Order], keep=5)),
    ms.Queue[Order]("named", Order, delivery="at_most_once"),
    TOPIC,
    ms.Topic("ticks.*", durable=False),
    TOPIC.subscription("mail", start=ms.EARLIEST, filter="eu.*", expires=None),
    ms.Endpoint("quote", Order, float, errors=[OutOfStock], idempotent=True, codec="msgpack"),
]
SOME: dict[Any, Any] = {Order: Order(1), Model: Model(id=1), bytes: b"a", float: 1.5, Any: [1]}


@pytest.mark.parametrize("declared", DECLARATIONS, ids=lambda one: f"{one.title}")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(declared: Any, protocol: int) -> None:
    """What is unpickled equals what was pickled, field by field, and encodes and decodes alike."""
    again = pickle.loads(pickle.dumps(declared, protocol))  # noqa: S301 - our own bytes

    assert type(again) is type(declared)
    assert again == declared
    assert repr(again) == repr(declared)
    for codec in ("codec", "result_codec", "request_codec", "reply_codec"):
        if getattr(declared, codec, None) is not None:
            before, after = getattr(declared, codec), getattr(again, codec)
            assert after.origin == before.origin
            body = SOME.get(before.origin[0])
            if body is not None:
                assert after.encode(body) == before.encode(body)
                assert after.decode(before.encode(body)) == body


def test_an_unpickled_declaration_refuses_as_the_first_one_does() -> None:
    """It checks bodies, in its own name, and cannot be changed."""
    again = pickle.loads(pickle.dumps(ms.Queue("orders", Order)))  # noqa: S301 - our own bytes

    with pytest.raises(ms.UsageError, match="queue 'orders' takes Order, not int"):
        again.encode(1)
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        again.name = "others"


def test_copies() -> None:
    """A copy is the declaration itself, whatever marks its type has."""
    marked: Any = Annotated[int, msgspec.Meta(gt=0)]

    for declared in (*DECLARATIONS, ms.Queue("marked", marked)):
        assert copy.copy(declared) is declared
        assert copy.deepcopy([declared])[0] is declared
