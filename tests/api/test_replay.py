"""Replay of a topic's history, with both clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import redis

import millstream as ms
from millstream.protocol.keys import topic_keys
from millstream.topic import EARLIEST, Topic

START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)

Put = Callable[..., str]


@pytest.fixture
def put(admin: redis.Redis, namespace: str) -> Iterator[Put]:
    """Publishes as a foreign program does, so many ms after START."""
    logs = set()

    def put(after_ms: int, body: object, partition: int = 0, **fields: str) -> str:
        log = topic_keys(namespace, "placed", partition).log
        logs.add(log)
        data = body if isinstance(body, str) else msgspec.json.encode(body)
        stored: Any = {"b": data, **fields}
        admin.xadd(log, stored, f"{START_MS + after_ms}-0")
        return f"{START_MS + after_ms}-0"

    yield put
    admin.delete(*logs)


async def bodies(mq: ms.AsyncClient, topic: Topic[Any], **options: Any) -> list[Any]:
    return [one.body async for one in mq.replay(topic, **options)]


async def test_what_a_message_has(mq: ms.AsyncClient, put: Put) -> None:
    """Body, id, key, subject, headers, and when it was published."""
    put(0, {"n": 1})
    id = put(1, {"n": 2}, h='{"a": "b"}', k="c-7", t="eu.paid")

    plain, rich = [one async for one in mq.replay(Topic("placed", dict[str, int]))]

    assert plain == ms.Message(id=f"{START_MS}-0", body={"n": 1}, headers={})
    assert rich == ms.Message(
        id=id, body={"n": 2}, headers={"a": "b"}, key="c-7", subject="eu.paid"
    )
    assert rich.sent_at == START + timedelta(milliseconds=1)


async def test_a_part_of_the_history(mq: ms.AsyncClient, put: Put) -> None:
    """By time, by id, by subject, and so many at most."""
    topic = Topic("placed")
    ids = [put(n, n, t="eu.paid" if n % 2 else "us.paid") for n in range(1000)]

    assert await bodies(mq, topic) == list(range(1000))
    since, until = START + timedelta(milliseconds=10), START + timedelta(milliseconds=900)
    assert await bodies(mq, topic, since=since, until=until) == list(range(10, 900))
    assert await bodies(mq, topic, since=ids[5], until=ids[7]) == [5, 6, 7]
    assert await bodies(mq, topic, filter="eu.*", since=ids[990]) == [991, 993, 995, 997, 999]
    assert await bodies(mq, topic, filter=">", limit=3) == [0, 1, 2]
    assert await bodies(mq, topic, limit=20, since=ids[100]) == list(range(100, 120))
    assert await bodies(mq, topic, since=datetime.now(UTC) + timedelta(days=1)) == []
    assert await bodies(mq, Topic("never-used")) == []
    async with aclosing(mq.replay(topic)) as messages:
        async for one in messages:
            assert one.body == 0
            break


async def test_partitions_are_merged(mq: ms.AsyncClient, put: Put) -> None:
    """By the time of publishing; an id says which partition it is of, and is a bound in all."""
    topic = Topic("placed", ordered=True, partitions=3)
    for n in range(300):
        put(n // 2, n, partition=n * 7 % 3)

    found = [one async for one in mq.replay(topic)]

    assert [(one.sent_at, one.id.partition("/")[2]) for one in found] == sorted(
        (one.sent_at, one.id.partition("/")[2]) for one in found
    )
    assert sorted(one.body for one in found) == list(range(300))
    some = [one async for one in mq.replay(topic, since=found[70].id, until=found[99].id)]
    assert some == found[70:100]
    assert [one async for one in mq.replay(topic, since=found[5].id, limit=41)] == found[5:46]


async def test_what_cannot_be_decoded(
    mq: ms.AsyncClient, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    """It is skipped; a warning names the first one, another one tells how many they were."""
    put(0, 1)
    wrong = put(1, '"text"')
    put(2, "no JSON")
    put(3, 4, h="no JSON")
    put(4, 5)

    with caplog.at_level(logging.WARNING, "millstream.replay"):
        assert await bodies(mq, Topic("placed", int)) == [1, 5]

    first, count = [record.getMessage() for record in caplog.records]
    assert wrong in first
    assert count == "topic 'placed': replay skipped 3 messages"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"since": START.replace(tzinfo=None)}, "since must have a time zone"),
        ({"until": "tomorrow"}, "until must be the id of a message"),
        ({"since": EARLIEST}, "since must be a datetime or the id"),
        ({"filter": "eu..*"}, "filter must be"),
        ({"limit": 0}, "limit must be"),
    ],
)
async def test_bad_parameters(mq: ms.AsyncClient, options: Any, problem: str) -> None:
    """The error names the parameter."""
    with pytest.raises(ms.UsageError, match=problem):
        await bodies(mq, Topic("placed"), **options)


@pytest.mark.parametrize("source", ["placed", Topic("ticks", durable=False), None])
async def test_no_history(mq: ms.AsyncClient, source: Any) -> None:
    """What keeps no messages has none to show."""
    with pytest.raises(ms.UsageError, match="replay needs a Topic that keeps messages"):
        await bodies(mq, source)
