"""Handlers of topics: how they are declared, and that each subscription gets every message."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import topic_keys
from millstream.topic import EARLIEST, Topic
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, running

PLACED: Topic[Any] = Topic("orders.placed")


@pytest.mark.parametrize(
    "target", [PLACED, ms.Queue("orders"), Topic("ticks", durable=False)], ids=lambda it: it.name
)
def test_unknown_options(worker: ms.Worker, target: Any) -> None:
    """A misspelt option is refused where it is written, by the name of what was called."""
    wrong: Any = {"flter": "eu.>"}
    with pytest.raises(TypeError, match=r"^on\(\) got an .* 'flter'. Did you mean 'filter'\?"):
        worker.on(target, **wrong)(print)


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (PLACED, {}, "say which subscription of topic 'orders.placed': subscription="),
        (PLACED, {"subscription": "a/b"}, "the subscription's name must be"),
        (PLACED, {"subscription": "a", "start": "x"}, "'orders.placed/a': start must be"),
        (ms.Queue("orders"), {"subscription": "a"}, "subscription is for topics, and this is qu"),
        (ms.Queue("orders"), {"start": EARLIEST}, "start is for topics, and this is queue"),
        (PLACED.subscription("a"), {"filter": "eu.*"}, r"filter goes into topic.subscription\("),
        ("orders", {}, "expected a Queue, a Topic, a Subscription or an Endpoint, not str"),
    ],
)
def test_what_makes_no_sense(
    worker: ms.Worker, target: Any, options: dict[str, Any], words: str
) -> None:
    """The error says what to write instead."""
    with pytest.raises(ms.UsageError, match=words):

        @worker.on(target, **options)  # type: ignore[untyped-decorator] # the target is of any type
        async def handle(_: Any) -> None: ...

    assert worker.handlers == ()


def test_one_handler_each(worker: ms.Worker) -> None:
    """A worker may have handlers for several subscriptions of a topic, one for each."""
    retry = ms.Retry(max_attempts=2)

    @worker.on(PLACED, subscription="email", retry=retry, start=EARLIEST)
    @worker.on(PLACED.subscription("audit"))
    @worker.on(ms.Queue("orders.placed"))
    async def handle(_: Any) -> None: ...

    titles = [one.queue.title for one in worker.handlers]
    assert titles == [
        "queue 'orders.placed'",
        "subscription 'orders.placed/audit'",
        "subscription 'orders.placed/email'",
    ]
    assert worker.handlers[2].retry == retry
    with pytest.raises(ms.UsageError, match=r"^subscription 'orders.placed/email' has a handler"):
        worker.on(PLACED, subscription="email")(handle)


async def test_an_idle_topic_is_trimmed(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, namespace: str
) -> None:
    """Within a lease of a subscription, also where only other programs publish."""
    log = topic_keys(namespace, "placed").log
    handled = []

    @worker.on(Topic("placed", lease=0.5), subscription="all", start=EARLIEST)
    async def handle(body: Any) -> None:
        handled.append(body)

    for n in range(3000):
        admin.xadd(log, {"b": str(n)})
    async with running(worker, mq):
        await auntil(lambda: admin.xlen(log) == 0, PATIENCE, message="the log is empty")
        admin.xadd(log, {"b": "3000"})
        await auntil(lambda: admin.xlen(log) == 0, PATIENCE, message="the log is empty again")
    assert sorted(handled) == [*range(3001)]


async def test_a_worker_keeps_its_subscription(
    mq: ms.AsyncClient,
    worker: ms.Worker,
    admin: redis.Redis,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However short it lives without one; forgotten ones of the same topic go, with a warning."""
    topic: Topic[Any] = Topic("placed", lease=0.5, retain=ms.Retain(max_age=60))
    await mq.declare(topic.subscription("forgotten", expires=1))

    @worker.on(topic.subscription("mine", expires=1))
    async def handle(_: Any) -> None: ...

    keys = topic_keys(namespace, "placed")
    with caplog.at_level(logging.WARNING, "millstream.retention"):
        async with running(worker, mq):
            await auntil(
                lambda: admin.hkeys(keys.subscriptions) == [b"mine"], PATIENCE, message="it is gone"
            )
            await auntil(lambda: caplog.records != [], PATIENCE, message="it was told")
    [record] = caplog.records
    assert "subscription 'forgotten' is removed" in record.getMessage()
    assert admin.hget(keys.config, "retain") == b'{"max_age":60000}'
