"""Sending: what arrives is what was sent, once, in order; what cannot be sent is a UsageError."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest
import redis

import millstream as ms
from tests.api.clients import counts, drain, take_one


class Struct(msgspec.Struct):
    id: int
    note: str = ""


@dataclasses.dataclass
class Data:
    id: int
    at: datetime


class Typed(TypedDict):
    id: int


@attrs.define
class Attrs:
    id: int


class Model(pydantic.BaseModel):
    id: int
    tags: list[str] = []


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

BODIES = [
    pytest.param(Struct, Struct(1, "é"), id="struct"),
    pytest.param(Data, Data(1, NOON), id="dataclass"),
    pytest.param(Typed, {"id": 1}, id="typed-dict"),
    pytest.param(Attrs, Attrs(1), id="attrs"),
    pytest.param(Model, Model(id=1, tags=["a"]), id="pydantic"),
    pytest.param(Any, {"id": [1, 2.5, None, True, "text"]}, id="any"),
    pytest.param(Any, None, id="none"),
    pytest.param(int, 7, id="int"),
    pytest.param(list[Struct], [Struct(1), Struct(2)], id="list"),
    pytest.param(Struct | None, Struct(3), id="union"),
]


async def test_a_message_arrives_as_it_was_sent(any_mq: ms.AsyncClient) -> None:
    """Body, headers, id and time of a delivery are those of the send and its receipt."""
    queue = ms.Queue("orders", Struct)
    before = datetime.now(UTC) - timedelta(seconds=2)

    receipt = await any_mq.send(queue, Struct(1, "é"), headers={"trace": "ü", "n": "1"})
    delivery = await take_one(any_mq, queue)

    assert delivery.body == Struct(1, "é")
    assert delivery.headers == {"trace": "ü", "n": "1"}
    assert (delivery.id, delivery.attempt, delivery.crashes) == (receipt.id, 1, 0)
    assert before < delivery.sent_at < datetime.now(UTC) + timedelta(seconds=2)
    assert (receipt.duplicate, receipt.durability) == (False, "memory")
    await delivery.ack()


async def test_send_many_keeps_the_order(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Over several chunks, receipts come in the order of the bodies, and so do the messages."""
    receipts = await any_mq.send_many(queue, (number for number in range(1234)))

    received = await drain(any_mq, queue, prefetch=500)

    assert [delivery.body for delivery in received] == list(range(1234))
    assert [delivery.id for delivery in received] == [receipt.id for receipt in receipts]
    assert len({receipt.id for receipt in receipts}) == 1234
    assert (await any_mq.stats(queue)).sent == 1234


async def test_send_many_gives_all_the_same_headers(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """The headers of send_many stand in each of its messages."""
    await mq.send_many(queue, range(600), headers={"batch": "7"})

    assert all(delivery.headers == {"batch": "7"} for delivery in await drain(mq, queue))


async def test_send_many_of_nothing(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Sending no messages is fine and stores nothing."""
    assert await mq.send_many(queue, []) == []
    assert (await mq.stats(queue)).sent == 0


async def test_send_many_of_large_bodies(mq: ms.AsyncClient) -> None:
    """Bodies larger than a chunk go one by one, whole."""
    queue = ms.Queue("blobs", bytes)
    bodies = [bytes([number]) * 700_000 for number in range(5)]

    await mq.send_many(queue, bodies)

    assert [delivery.body for delivery in await drain(mq, queue)] == bodies


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(("body_type", "body"), BODIES)
async def test_body_types(mq: ms.AsyncClient, body_type: Any, body: Any, codec: Any) -> None:
    """Every supported type of body comes back equal, in either codec."""
    queue: ms.Queue[Any] = ms.Queue("typed", body_type, codec=codec)

    await mq.send(queue, body)

    (delivery,) = await drain(mq, queue)
    assert delivery.body == body
    assert type(delivery.body) is type(body)


async def test_bytes_pass_unchanged(mq: ms.AsyncClient) -> None:
    """A queue of bytes takes any bytes, empty ones too, and changes none."""
    queue = ms.Queue("raw", bytes)
    bodies = [b"", b"\x00\xff\r\n$5", bytes(range(256))]

    await mq.send_many(queue, bodies)

    assert [delivery.body for delivery in await drain(mq, queue)] == bodies


async def test_the_stored_entry_is_the_body_and_no_more(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, namespace: str
) -> None:
    """An ordinary message is one stream entry with one field; headers are a second one."""
    await mq.send(queue, {"id": 1})
    await mq.send(queue, {"id": 2}, headers={"a": "b"})

    entries: Any = admin.xrange(f"{namespace}:{{orders}}:ready")
    plain, with_headers = entries

    assert plain[1] == {b"b": b'{"id":1}'}
    assert with_headers[1] == {b"b": b'{"id":2}', b"h": b'{"a":"b"}'}


async def test_a_foreign_xadd_is_a_send(
    any_mq: ms.AsyncClient, any_url: str, queue: ms.Queue[Any], namespace: str
) -> None:
    """XADD of a field b, from any language, is a valid message; h holds its headers."""
    foreign = redis.Redis.from_url(any_url)
    body, headers = json.dumps({"id": 1}), json.dumps({"lang": "go"})
    entry: Any = foreign.xadd(f"{namespace}:{{orders}}:ready", {"h": headers, "b": body})
    foreign.close()

    (delivery,) = await drain(any_mq, queue)

    assert (delivery.body, delivery.headers) == ({"id": 1}, {"lang": "go"})
    assert delivery.id == entry.decode()


async def test_queues_and_namespaces_are_apart(
    mq: ms.AsyncClient, queue: ms.Queue[Any], connect: Any, namespace: str
) -> None:
    """A message is seen only in its own queue and namespace."""
    other = await connect(namespace=f"{namespace}-b")
    await mq.send(queue, "here")
    await other.send(queue, "there")

    assert [delivery.body for delivery in await drain(mq, ms.Queue("order"))] == []
    assert [delivery.body for delivery in await drain(mq, queue)] == ["here"]
    assert await counts(other, queue) == (1, 0, 0, 0)
    assert [delivery.body for delivery in await drain(other, queue)] == ["there"]


# --- what cannot be sent ----------------------------------------------------------------------


WRONG = [
    pytest.param(Struct, {"id": 1}, id="struct"),
    pytest.param(Data, Struct(1), id="dataclass"),
    pytest.param(Typed, {"id": "one"}, id="typed-dict"),
    pytest.param(Model, {"id": 1}, id="pydantic"),
    pytest.param(bytes, "text", id="bytes"),
    pytest.param(int, "1", id="int"),
    pytest.param(list[Struct], [1], id="list"),
    pytest.param(Any, object(), id="any"),
]


@pytest.mark.parametrize(("body_type", "body"), WRONG)
async def test_a_body_of_the_wrong_type(mq: ms.AsyncClient, body_type: Any, body: Any) -> None:
    """A body that does not fit is a UsageError that names the queue; nothing is sent."""
    queue: ms.Queue[Any] = ms.Queue("typed", body_type)

    with pytest.raises(ms.UsageError, match="'typed'"):
        await mq.send(queue, body)

    assert (await mq.stats(queue)).sent == 0


async def test_one_wrong_body_stops_send_many(mq: ms.AsyncClient) -> None:
    """When the last of many bodies does not fit, not even the first is sent."""
    queue: ms.Queue[Any] = ms.Queue("typed", Struct)

    with pytest.raises(ms.UsageError, match="typed"):
        await mq.send_many(queue, [*map(Struct, range(1000)), "no struct"])

    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_a_body_that_is_too_large(mq: ms.AsyncClient) -> None:
    """A body above max_body is a UsageError; one at the bound is sent."""
    queue = ms.Queue("small", bytes, max_body=10)

    with pytest.raises(ms.UsageError, match="max_body"):
        await mq.send(queue, b"x" * 11)
    await mq.send(queue, b"x" * 10)

    assert len(await drain(mq, queue)) == 1


@pytest.mark.parametrize(
    "headers", [{"n": 1}, {1: "n"}, {"n": None}, {"n": b"x"}, {"n": "\ud800"}, "text", ["a"]]
)
async def test_headers_that_are_no_strings(
    mq: ms.AsyncClient, queue: ms.Queue[Any], headers: Any
) -> None:
    """Headers must map strings to strings, for send and send_many alike."""
    with pytest.raises(ms.UsageError, match="headers"):
        await mq.send(queue, 1, headers=headers)
    with pytest.raises(ms.UsageError, match="headers"):
        await mq.send_many(queue, [1], headers=headers)

    assert (await mq.stats(queue)).sent == 0


def methods(mq: ms.AsyncClient) -> Iterator[Any]:
    """Each way to use a queue."""
    wrong: Any = "orders"
    yield mq.send(wrong, 1)
    yield mq.send_many(wrong, [1])
    yield anext(aiter(mq.receive(wrong)))
    yield mq.stats(wrong)
    yield mq.peek(wrong)
    yield mq.dead(wrong)
    yield mq.redrive(wrong)
    yield mq.purge(wrong, confirm=True)


async def test_a_name_is_no_queue(mq: ms.AsyncClient) -> None:
    """Every method says that it wants a Queue when it gets a string."""
    for call in methods(mq):
        with pytest.raises(ms.UsageError, match="Queue"):
            await call
