"""Handlers and bodies that fail in ways that nobody thought of: each message comes to its end all the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import topic_keys
from tests.support.mail import Correspondent
from tests.support.serving import serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, run_burst, running

ASK: ms.Endpoint[Any, Any] = ms.Endpoint("ask", timeout=PATIENCE)


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("cannot say")


class OutOfStock(ms.Reject):
    """With a constructor of its own."""

    def __init__(self, sku: str) -> None:
        self.sku = sku


class Silent(ms.RetryLater):
    """With a reason that cannot be had."""

    def __init__(self) -> None:
        pass

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Raise."""
        raise KeyError("reason")


@dataclass
class Fussy:
    """Checks itself."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise Mute


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ms.Reject(KeyError("x")), "'x'"),
        (ms.Reject(Mute()), "(its text cannot be had: RuntimeError)"),
        (ms.Reject(7), "7"),  # type: ignore[arg-type]
        (OutOfStock("A1"), "rejected"),
        (ms.RetryLater(KeyError("x")), "attempts"),
        (Silent(), "attempts"),
        (Mute(), "attempts"),
    ],
    ids=["error", "mute", "number", "subclass", "later", "silent", "raised"],
)
async def test_reasons(
    worker: ms.Worker,
    mq: ms.AsyncClient,
    queue: ms.Queue[Any],
    error: Exception,
    reason: str,
    kind: str,
) -> None:
    """Whatever a handler gives as its reason, the message is a dead letter, and the next one is handled."""
    handled: list[int] = []

    def handle(body: int) -> None:
        if body == 0:
            raise error
        handled.append(body)

    if kind == "sync":
        worker.on(queue, concurrency=1)(handle)
    else:

        @worker.on(queue, concurrency=1)
        async def handle_in_loop(body: int) -> None:
            handle(body)

    await mq.send_many(queue, [0, 1])
    await run_burst(worker, mq)

    assert handled == [1]
    assert [letter.reason for letter in await mq.dead(queue)] == [reason]


async def test_a_delivery_is_rejected_for_an_error(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
) -> None:
    """An exception is a reason, too: its text."""

    @worker.on(queue)
    async def handle(_: Any, delivery: ms.Delivery[Any]) -> None:
        await delivery.reject(KeyError("x"))

    await mq.send(queue, 0)
    await run_burst(worker, mq)
    assert [letter.reason for letter in await mq.dead(queue)] == ["'x'"]


@pytest.mark.parametrize("batch", [None, 2])
async def test_a_body_whose_check_has_no_text(
    worker: ms.Worker, mq: ms.AsyncClient, admin: redis.Redis, batch: int | None
) -> None:
    """It is undecodable, however its type says so; the others are handled."""
    queue: ms.Queue[Fussy] = ms.Queue("orders", Fussy)
    handled: list[Any] = []

    @worker.on(queue, concurrency=1, batch=batch)
    async def handle(body: Any) -> None:
        handled.extend(body if batch else [body])

    for _ in range(2):
        admin.xadd(mq.keys_of(queue).ready, {"b": b'{"number":-1}'})
    await mq.send(queue, Fussy(1))
    await run_burst(worker, mq)

    assert handled == [Fussy(1)]
    letters = await mq.dead(queue)
    assert [letter.reason for letter in letters] == ["undecodable"] * 2
    assert "RuntimeError" in (letters[0].error or "")


class TestOwnCancellation:
    """A handler cancels the task that it runs in."""

    async def test_it_has_failed(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """It counts as an attempt, or it would go on for ever."""
        begun: list[int] = []

        @worker.on(queue, concurrency=1)
        async def handle(body: int) -> None:
            begun.append(body)
            if body == 0:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.Event().wait()

        await mq.send_many(queue, [0, 1])
        await run_burst(worker, mq)

        assert sorted(begun) == [0, 0, 0, 1]
        assert [(one.reason, one.attempts) for one in await mq.dead(queue)] == [("attempts", 3)]

    async def test_in_partitions(self, worker: ms.Worker, mq: ms.AsyncClient) -> None:
        """So it does where several readers share the handlers."""
        retry = ms.Retry(max_attempts=2, backoff=SOON)
        queue: ms.Queue[Any] = ms.Queue("parted", ordered=True, partitions=2, retry=retry)
        begun: list[int] = []

        @worker.on(queue, concurrency=1)
        async def handle(body: int) -> None:
            begun.append(body)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()

        async with running(worker, mq):
            await mq.send_many(queue, range(4), key=str)
            await becomes(mq, queue, (0, 0, 0, 4))
        assert sorted(begun) == sorted([*range(4)] * 2)

    async def test_of_an_endpoint(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Its caller is told at once, and nobody begins again."""
        begun: list[Any] = []

        @worker.on(ASK, concurrency=1)
        async def answer(body: Any) -> Any:
            begun.append(body)
            if body:
                return body
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return await asyncio.Event().wait()

        async with serving(admin, url, namespace, worker):
            with pytest.raises(ms.ResponderLost):
                await mq.request(ASK, 0)
            assert await mq.request(ASK, 1) == 1
        assert begun == [0, 1]


class TestNoException:
    """What is raised is no Exception, such as the SystemExit of ``sys.exit()``."""

    async def test_requests_and_calls(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Their callers hear of it, and the worker goes on."""

        @worker.on(ASK)
        async def answer(body: int) -> int:
            if body < 0:
                sys.exit(3)
            return body

        async with serving(admin, url, namespace, worker):
            with pytest.raises(ms.RemoteError, match="SystemExit"):
                await mq.request(ASK, -1)
            [answered] = [one async for one in mq.gather(ASK, -1)]
            with pytest.raises(ms.RemoteError, match="SystemExit"):
                answered.result()
            assert await mq.request(ASK, 1) == 1

    async def test_streams(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It arrives behind the parts before it."""

        @worker.on(ASK)
        async def answer(body: int) -> AsyncIterator[int]:
            yield body
            sys.exit(3)

        parts: list[int] = []
        async with serving(admin, url, namespace, worker):
            asked = mq.request_stream(ASK, 1)
            parts.append(await anext(asked))
            with pytest.raises(ms.RemoteError, match="SystemExit"):
                await anext(asked)
        assert parts == [1]

    async def test_a_topic_that_keeps_nothing(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        admin: Any,
        namespace: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It costs its message."""
        topic: ms.Topic[int] = ms.Topic("ticks", durable=False)
        heard: list[int] = []

        @worker.on(topic, concurrency=1)
        async def handle(body: int) -> None:
            heard.append(body)
            if body == 0:
                sys.exit(3)

        async with running(worker, mq):
            channel = topic_keys(namespace, "ticks").channel
            await auntil(lambda: admin.pubsub_numsub(channel)[0][1] == 1, PATIENCE)
            await mq.publish_many(topic, [0, 1])
            await auntil(lambda: heard == [0, 1], PATIENCE)
        assert "failed with a message" in caplog.text


async def test_a_stream_that_fails_and_that_nobody_waits_for(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, namespace: str
) -> None:
    """Nothing is kept of it."""

    @worker.on(ASK)
    async def answer(body: int) -> AsyncIterator[int]:
        yield body
        raise KeyError(body)

    ready = mq.keys_of(ASK.queue).ready
    async with running(worker, mq):
        for _ in range(5):
            admin.xadd(ready, {"b": "1"})
        admin.xadd(ready, {"b": "1", "r": f"{Correspondent(admin, namespace).client} 7"})
        await auntil(lambda: not mq.requests.mailbox._slots, PATIENCE)
        await becomes(mq, ASK.queue, (0, 0, 0, 5))
        assert not mq.requests.mailbox._slots
