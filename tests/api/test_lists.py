"""Queues in a Redis list: what is in it, who else may push to it, and what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import PATIENCE, counts, drain, take, take_one
from tests.support.servers import Server
from tests.support.wait import auntil


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """A list of any JSON values."""
    return ms.Queue("jobs", store="list", lease=1.5, retry=ms.Retry(max_attempts=2))


@pytest.fixture
def key(namespace: str) -> str:
    """The list itself."""
    return f"{namespace}:{{jobs}}:list"


def elements(admin: redis.Redis, key: str) -> list[bytes]:
    found: Any = admin.lrange(key, 0, -1)
    return list(found)


async def test_a_plain_body_from_elsewhere_is_a_send(
    any_mq: ms.AsyncClient, any_server: Server, queue: ms.Queue[Any], key: str
) -> None:
    """A foreign LPUSH wakes a receiver; equal bodies are messages of their own, with ids of theirs."""
    receiving = asyncio.create_task(take_one(any_mq, queue))
    await auntil(lambda: _consumers(any_mq, queue))
    any_server.admin().lpush(key, '{"id": 1}')
    first = await receiving
    any_server.admin().lpush(key, '{"id": 1}', '{"id": 1}')
    rest = await take(any_mq, queue, 2)

    assert [one.body for one in (first, *rest)] == [{"id": 1}] * 3
    assert len({one.id for one in (first, *rest)}) == 3
    for one in (first, *rest):
        await one.ack()
    assert await counts(any_mq, queue) == (0, 0, 0, 0)


async def _consumers(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return bool((await mq.stats(queue)).consumers)


async def test_other_tools_can_read_what_is_stored(
    mq: ms.AsyncClient, admin: redis.Redis, queue: ms.Queue[Any], key: str
) -> None:
    """An element is a line with the id and the other fields, and the body behind it."""
    receipt = await mq.send(queue, {"id": 1})
    other = await mq.send(queue, {"id": 2}, headers={"a": "b\n"}, key="k\n")

    plain, more = reversed(elements(admin, key))
    assert plain == f'ms1 {receipt.id}\n{{"id":1}}'.encode()
    head, _, body = more.partition(b"\n")
    word, id, fields = head.split(b" ", 2)
    assert (word, id, json.loads(body)) == (b"ms1", other.id.encode(), {"id": 2})
    assert json.loads(json.loads(fields)["h"]) == {"a": "b\n"}
    assert json.loads(fields)["k"] == "k\n"


@pytest.mark.parametrize(
    "element", [b"", b"ms1 ", b"ms1 1-0", b"ms1 x\n1", b"ms1 1-0 {\n1", b"\xff\x00", b"no JSON"]
)
async def test_what_is_no_message_becomes_a_dead_letter(
    mq: ms.AsyncClient, admin: redis.Redis, queue: ms.Queue[Any], key: str, element: bytes
) -> None:
    """Nothing that is in the list holds up what comes behind it."""
    admin.lpush(key, element)
    await mq.send(queue, 1)

    assert [one.body for one in await drain(mq, queue)] == [1]
    assert [one.reason for one in await mq.dead(queue)] == ["undecodable"]


async def test_a_copied_element_is_a_message_of_its_own(
    mq: ms.AsyncClient, admin: redis.Redis, queue: ms.Queue[Any], key: str
) -> None:
    """Whoever pushes a copy gets two deliveries, each of which is settled by itself."""
    await mq.send(queue, 1)
    admin.lpush(key, *elements(admin, key))

    one, other = await take(mq, queue, 2)
    await one.ack()
    assert await counts(mq, queue) == (0, 0, 1, 0)
    await other.ack()
    assert (one.id, await counts(mq, queue)) == (other.id, (0, 0, 0, 0))


async def test_what_woke_a_reader_that_died_is_not_lost(
    mq: ms.AsyncClient, admin: redis.Redis, queue: ms.Queue[Any], key: str, namespace: str
) -> None:
    """A sleeping read puts a message where any other consumer's next look finds it."""
    receipt = await mq.send(queue, 1)
    admin.lmove(key, f"{namespace}:{{jobs}}:landing", "RIGHT", "RIGHT")  # as its BLMOVE did

    assert (await counts(mq, queue))[0] == 1
    delivery = await take_one(mq, queue)
    assert (delivery.id, delivery.attempt) == (receipt.id, 1)
    await delivery.ack()


async def test_a_lease_that_ran_out_counts_as_a_crash(
    mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """Another delivery of the same message; the late owner is refused."""
    await mq.send(queue, 1)
    late = await take_one(mq, queue)
    again = await take_one(mq, queue)

    assert (again.id, again.crashes) == (late.id, 1)
    with pytest.raises(ms.LeaseLost):
        await late.ack()
    await again.ack()
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_a_sleeper_learns_of_what_is_due_earlier(
    mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, key: str
) -> None:
    """A delayed send wakes one that sleeps; nothing of that is left in the list."""
    receiving = asyncio.create_task(take_one(mq, queue))
    await auntil(lambda: _consumers(mq, queue))
    begun = time.monotonic()
    await mq.send(queue, 1, delay=0.1)

    await (await asyncio.wait_for(receiving, PATIENCE)).ack()
    assert time.monotonic() - begun < 5
    assert admin.exists(key) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"ordered": True},
        {"max_running_per_key": 1},
        {"rate": ms.Rate(1)},
        {"max_running": 1},
        {"bound": ms.Bound(1)},
        {"keep": ms.Retain(max_length=1)},
        {"priorities": "weighted"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_list_cannot_do_is_refused(options: dict[str, Any]) -> None:
    """The error names the parameter and says why."""
    with pytest.raises(ms.UsageError, match=f"{next(iter(options))}.*list"):
        ms.Queue("jobs", store="list", **options)


@pytest.mark.parametrize("options", [{"priority": 1}, {"unique": "a"}], ids=str)
async def test_what_a_send_to_a_list_cannot_ask_for(
    mq: ms.AsyncClient, queue: ms.Queue[Any], options: dict[str, Any]
) -> None:
    """Nothing is sent, and the error says why."""
    with pytest.raises(ms.UsageError, match=f"{next(iter(options))}.*needs? a stream queue"):
        await mq.send(queue, 1, **options)
    assert await counts(mq, queue) == (0, 0, 0, 0)


def test_an_unknown_store_is_refused() -> None:
    """The error names the stores that there are."""
    with pytest.raises(ms.UsageError, match="store must be 'stream' or 'list'"):
        ms.Queue("jobs", store="set")  # type: ignore[call-overload]
