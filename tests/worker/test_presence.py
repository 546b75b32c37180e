"""Who serves an endpoint, as its callers see it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis
from msgspec.structs import replace

import millstream as ms
from millstream.driver.blocking import BlockingDriver
from millstream.driver.lease_keeper import Beat, LeaseKeeper
from millstream.protocol.keys import queue_keys
from millstream.protocol.partitions import EXPIRY_MS, join, leave
from tests.support.serving import members, serving
from tests.support.wait import auntil, until
from tests.worker.running import PATIENCE

QUOTE: ms.Endpoint[Any, Any] = ms.Endpoint("quote", timeout=PATIENCE)


def compute() -> None:
    time.sleep(1.5 * EXPIRY_MS / 1000)  # the work itself


@pytest.mark.slow
async def test_a_blocked_event_loop_is_no_absence(
    worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
) -> None:
    """A handler that lets nobody else run for some seconds has callers wait, and not fail."""
    begun: list[Any] = []

    @worker.on(QUOTE)
    async def answer(body: Any) -> Any:
        begun.append(body)
        if body == "block":
            compute()
        return body

    def ask() -> tuple[Any, list[Any]]:
        with ms.Client(url, namespace=namespace) as mq:
            until(lambda: begun, PATIENCE)
            answer = mq.request(QUOTE, "quick", timeout=PATIENCE)
            return answer, list(mq.gather(QUOTE, "all", timeout=PATIENCE))

    async with (
        serving(admin, url, namespace, worker),
        ms.AsyncClient(url, namespace=namespace) as mq,
    ):
        asking = asyncio.create_task(asyncio.to_thread(ask))
        assert await mq.request(QUOTE, "block") == "block"
        quick, everybody = await asking

    assert quick == "quick"
    assert [one.result() for one in everybody] == ["all"]


async def test_nothing_is_left_of_a_worker_that_stops(
    worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
) -> None:
    """It is no member any more before its last request has ended, and none comes back."""
    let, begun = asyncio.Event(), asyncio.Event()

    @worker.on(QUOTE)
    async def answer(body: Any) -> Any:
        begun.set()
        await let.wait()
        return body

    keys = queue_keys(namespace, "quote")
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        async with serving(admin, url, namespace, worker):
            call = asyncio.create_task(mq.request(QUOTE, 1))
            await begun.wait()
            worker.stop()
            await auntil(lambda: members(admin, keys) == [], PATIENCE)
            with pytest.raises(ms.NoResponders):
                await mq.request(QUOTE, 2)
            let.set()
            assert await call == 1
        assert members(admin, keys) == []


def test_a_sign_of_life_that_is_late(admin: redis.Redis, url: str, namespace: str) -> None:
    """One that is on its way when the worker leaves is taken back."""
    keys = queue_keys(namespace, "quote")
    driver = BlockingDriver(url, connect_timeout=5, timeout=5)
    keeper = LeaseKeeper(BlockingDriver(url, connect_timeout=5, timeout=5))
    beat = Beat(join(keys, "me", None), leave(keys, "me"), 60)
    try:
        keeper.begin(beat)
        until(lambda: members(admin, keys) == ["me"], PATIENCE)
        keeper.end(beat)
        driver.run(leave(keys, "me"))
        # As if it had been sent before, and had arrived now.
        keeper.begin(replace(beat, next_at=0.0))
        keeper.begin(Beat(join(keys, "you", None), leave(keys, "you"), 60))
        until(lambda: members(admin, keys) == ["you"], PATIENCE)
    finally:
        keeper.close()
        driver.close()


async def test_the_server_forgets(
    worker: ms.Worker, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
) -> None:
    """A worker is there again with its next sign of life."""

    @worker.on(QUOTE)
    async def answer(body: Any) -> Any:
        return body

    keys = queue_keys(namespace, "quote")
    async with serving(admin, url, namespace, worker):
        admin.delete(keys.members)
        await auntil(lambda: len(members(admin, keys)) == 1, PATIENCE)
        assert await mq.request(QUOTE, 1) == 1


async def test_it_serves_before_it_looks_for_what_others_left(
    worker: ms.Worker,
    mq: ms.AsyncClient,
    admin: redis.Redis,
    url: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker is a member before its first sign of life: the thread that gives those may be late."""
    monkeypatch.setattr(LeaseKeeper, "begin", lambda _, __: None)
    monkeypatch.setattr(LeaseKeeper, "end", lambda _, __: None)

    @worker.on(QUOTE)
    async def answer(body: Any) -> Any:
        return body

    async with serving(admin, url, namespace, worker):
        assert await mq.request(QUOTE, 1) == 1


async def test_nothing_is_left_of_a_worker_that_ends_at_once(
    worker: ms.Worker, mq: ms.AsyncClient, admin: redis.Redis, namespace: str
) -> None:
    """It is no member any more, though it has hardly begun to be one."""

    @worker.on(QUOTE)
    async def answer(body: Any) -> Any:
        return body

    @worker.on_startup
    async def end() -> None:
        worker.stop()

    await worker.run(mq)
    assert members(admin, queue_keys(namespace, "quote")) == []
