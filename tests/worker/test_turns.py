"""Messages that wait for their turn until it is too late for them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import redis

import millstream as ms
from tests.support.serving import serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, running


@pytest.mark.parametrize("must_finish", [False, True])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_request_behind_a_call(
    mq: ms.AsyncClient,
    worker: ms.Worker,
    admin: redis.Redis,
    url: str,
    namespace: str,
    kind: str,
    must_finish: bool,
) -> None:
    """It is not begun past its deadline, and counts as expired."""
    endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("ask", timeout=PATIENCE, must_finish=must_finish)
    let = threading.Event()
    begun: list[Any] = []

    def answer(body: Any) -> Any:
        begun.append(body)
        let.wait(PATIENCE)
        return body

    if kind == "sync":
        worker.on(endpoint, concurrency=1)(answer)
    else:

        @worker.on(endpoint, concurrency=1)
        async def answer_in_loop(body: Any) -> Any:
            begun.append(body)
            await auntil(let.is_set, PATIENCE)
            return body

    async def ask_all() -> list[Any]:
        return [one.result() async for one in mq.gather(endpoint, "call")]

    async with serving(admin, url, namespace, worker):
        call = asyncio.create_task(ask_all())
        await auntil(lambda: begun, PATIENCE)
        with pytest.raises(ms.TimedOut):
            await mq.request(endpoint, "request", timeout=1)
        # Its worker counts the ms by the server's clock.
        given_up = time.monotonic()
        await auntil(lambda: time.monotonic() > given_up + 2)
        let.set()
        assert await call == ["call"]
        assert await mq.request(endpoint, "next") == "next"

    assert begun == ["call", "next"]
    assert (await mq.stats(endpoint.queue)).expired == 1


@pytest.mark.parametrize("batch", [None, 10])
async def test_what_expires_behind_another_partition(
    mq: ms.AsyncClient, worker: ms.Worker, batch: int | None
) -> None:
    """A message whose time to live is over is not handled; those that came with it are."""
    queue: ms.Queue[Any] = ms.Queue("parted", ordered=True, partitions=4)
    let = asyncio.Event()
    begun: list[Any] = []

    options: Any = {"batch": batch, "batch_wait": 0.05} if batch else {}

    @worker.on(queue, concurrency=1, prefetch=100, **options)
    async def handle(body: Any) -> None:
        begun.extend(body if batch else [body])
        await let.wait()

    async def all_in_hand() -> bool:
        return (await mq.stats(queue)).in_flight == 17

    async with running(worker, mq):
        await mq.send(queue, "first", key="k")
        await auntil(lambda: begun, PATIENCE)
        late = time.monotonic() + 3
        await mq.send_many(queue, [f"late {n}" for n in range(8)], key=str, ttl=2)
        await mq.send_many(queue, range(8), key=str)
        if batch:
            await auntil(all_in_hand, PATIENCE)
        await auntil(lambda: time.monotonic() > late, PATIENCE)
        let.set()
        await becomes(mq, queue, (0, 0, 0, 8))
    assert begun[0] == "first"
    assert sorted(begun[1:]) == [*range(8)]
