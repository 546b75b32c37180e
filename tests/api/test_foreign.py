"""Entries that other programs made: what is no message goes to the dead letters, with the reason."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
import redis

import millstream as ms
from tests.api.clients import counts, drain


class Order(msgspec.Struct):
    id: int


UNDECODABLE = [
    pytest.param(b"{broken", id="no-json"),
    pytest.param(b"", id="empty"),
    pytest.param(b'{"id":"seven"}', id="wrong-type"),
    pytest.param(b"{}", id="missing-field"),
    pytest.param(b"\xff\xfe\x00", id="no-text"),
    pytest.param(b"[" * 100_000, id="too-deep"),
]

MALFORMED = [
    pytest.param({"body": '{"id":1}'}, id="no-field-b"),
    pytest.param({"": ""}, id="empty-names"),
    pytest.param({b"\xff": b"\xfe"}, id="binary-names"),
    pytest.param({"b": '{"id":1}', "h": "no json"}, id="headers-no-json"),
    pytest.param({"b": '{"id":1}', "h": '{"n":1}'}, id="headers-no-strings"),
    pytest.param({"b": '{"id":1}', "h": "[]"}, id="headers-no-object"),
    pytest.param({"b": '{"id":1}', "s": "no json"}, id="state-no-json"),
    pytest.param({"b": '{"id":1}', "s": '{"id":7}'}, id="state-wrong-type"),
    pytest.param({"b": '{"id":1}', "s": '{"id":"1-1","attempts":-3}'}, id="state-negative"),
    pytest.param({f"field {n}": "x" for n in range(3000)}, id="many-fields"),
]


@pytest.fixture
def orders() -> ms.Queue[Order]:
    """A queue of typed bodies."""
    return ms.Queue("orders", Order)


async def receive_around(
    mq: ms.AsyncClient, orders: ms.Queue[Order], url: str, namespace: str, fields: dict[Any, Any]
) -> str:
    """Put an entry between two good messages and receive everything; the entry's id."""
    await mq.send(orders, Order(1))
    with redis.Redis.from_url(url) as foreign:
        entry: bytes = foreign.xadd(f"{namespace}:{{orders}}:ready", fields)
    await mq.send(orders, Order(2))

    assert [delivery.body for delivery in await drain(mq, orders)] == [Order(1), Order(2)]
    assert await counts(mq, orders) == (0, 0, 0, 1)
    return entry.decode()


@pytest.mark.parametrize("body", UNDECODABLE)
async def test_undecodable_bodies(
    any_mq: ms.AsyncClient,
    orders: ms.Queue[Order],
    any_url: str,
    namespace: str,
    body: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A body that does not fit the type is never yielded; it is dead as undecodable, and shown."""
    entry = await receive_around(any_mq, orders, any_url, namespace, {"b": body})

    (letter,) = await any_mq.dead(orders)
    assert (letter.id, letter.reason, letter.body) == (entry, "undecodable", body)
    assert letter.error
    assert any(
        entry in record.getMessage() and record.levelno == logging.WARNING
        for record in caplog.records
    )


@pytest.mark.parametrize("fields", MALFORMED)
async def test_malformed_entries(
    any_mq: ms.AsyncClient,
    orders: ms.Queue[Order],
    any_url: str,
    namespace: str,
    fields: dict[Any, Any],
) -> None:
    """An entry that is no message is never yielded; it is dead as malformed, with the detail."""
    await receive_around(any_mq, orders, any_url, namespace, fields)

    (letter,) = await any_mq.dead(orders)
    assert letter.reason == "malformed"
    assert letter.error


async def test_a_redriven_undecodable_message_dies_again(
    mq: ms.AsyncClient, orders: ms.Queue[Order], url: str, namespace: str
) -> None:
    """Redriving what cannot be decoded brings it back to the dead letters with the same id."""
    entry = await receive_around(mq, orders, url, namespace, {"b": b"{broken"})

    assert await mq.redrive(orders, reason="undecodable") == 1
    assert await drain(mq, orders) == []

    (letter,) = await mq.dead(orders)
    assert (letter.id, letter.reason) == (entry, "undecodable")


async def test_a_consumer_with_the_right_type_can_have_it(
    mq: ms.AsyncClient, orders: ms.Queue[Order], url: str, namespace: str
) -> None:
    """A redriven message is delivered to a consumer whose type it fits, unchanged."""
    entry = await receive_around(mq, orders, url, namespace, {"b": b'{"id":"seven"}'})
    await mq.redrive(orders)

    (delivery,) = await drain(mq, ms.Queue("orders", dict[str, str]))

    assert (delivery.id, delivery.body) == (entry, {"id": "seven"})


async def test_peek_shows_what_does_not_decode(
    mq: ms.AsyncClient, orders: ms.Queue[Order], url: str, namespace: str
) -> None:
    """Peek shows a body that does not fit as the bytes that it is, and no body as None."""
    with redis.Redis.from_url(url) as foreign:
        foreign.xadd(f"{namespace}:{{orders}}:ready", {"b": b"{broken"})
        foreign.xadd(f"{namespace}:{{orders}}:ready", {"x": "y"})

    assert [message.body for message in await mq.peek(orders)] == [b"{broken", None]
    await drain(mq, orders)


async def test_many_bad_entries_in_a_row(
    mq: ms.AsyncClient, orders: ms.Queue[Order], url: str, namespace: str
) -> None:
    """Hundreds of bad entries before a good one do not keep it from coming."""
    with redis.Redis.from_url(url) as foreign, foreign.pipeline() as pipeline:
        for _ in range(300):
            pipeline.xadd(f"{namespace}:{{orders}}:ready", {"b": "?"})
        pipeline.execute()
    await mq.send(orders, Order(1))

    assert [delivery.body for delivery in await drain(mq, orders)] == [Order(1)]
    assert await counts(mq, orders) == (0, 0, 0, 300)


async def test_what_they_may_say(
    mq: ms.AsyncClient, orders: ms.Queue[Order], url: str, namespace: str
) -> None:
    """Headers, a key and a time to live are kept to, and further fields go along."""
    ready = f"{namespace}:{{orders}}:ready"
    with redis.Redis.from_url(url) as foreign:
        foreign.xadd(ready, {"b": '{"id":1}', "x": "1000"})
        foreign.xadd(ready, {"b": '{"id":2}', "x": "1000 drop"})
        fields: Any = {
            "b": '{"id":3}',
            "h": '{"a":"b"}',
            "k": "ä",
            "x": "4102444800000",
            "own": "1",
        }
        entry: Any = foreign.xadd(ready, fields)

        [delivery] = [one async for one in mq.receive(orders, wait=0)]
        assert (delivery.id, delivery.body) == (entry.decode(), Order(3))
        assert (delivery.key, delivery.headers) == ("ä", {"a": "b"})
        await delivery.reject("no")
        kept: Any = foreign.xrevrange(f"{namespace}:{{orders}}:dead", count=1)

    assert kept[0][1][b"own"] == b"1"
    assert [letter.reason for letter in await mq.dead(orders)] == ["expired", "no"]
    assert (await mq.stats(orders)).dropped == 1


async def test_what_they_must_not_say(mq: ms.AsyncClient, url: str, namespace: str) -> None:
    """Fields that belong to the sending script order and free nothing of others."""
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True)
    first = await mq.send(queue, 1, key="a", unique="u")
    await mq.send(queue, 2, key="a")
    with redis.Redis.from_url(url) as foreign:
        fields: Any = {"b": "3", "k": "a", "o": "ordered", "u": "done:u", "p": "9"}
        foreign.xadd(f"{namespace}:{{orders}}:ready", fields)

    got = {delivery.body: delivery async for delivery in mq.receive(queue, wait=0)}
    assert sorted(got) == [1, 3]
    await got[3].ack()
    assert (await mq.send(queue, 4, key="a", unique="u")).id == first.id
    assert await counts(mq, queue) == (1, 0, 1, 0)
    await got[1].ack()

    assert [delivery.body for delivery in await drain(mq, queue)] == [2]
