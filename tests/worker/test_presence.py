"""Who serves an endpoint, as its callers see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.driver.blocking import BlockingDriver
from millstream.driver.lease_keeper import Beat, LeaseKeeper
from millstream.protocol.keys import queue_keys
from millstream.protocol.partitions import EXPIRY_MS, join, leave
from millstream.worker import presence as module
from millstream.worker.presence import presence
from tests.support.proxy import Proxy
from tests.support.servers import Server
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


@pytest.fixture
def late_keeper(server: Server) -> Iterator[tuple[LeaseKeeper, Proxy]]:
    """A keeper to which the server's replies come late, once its proxy is told to."""
    with Proxy(server.port) as proxy:
        keeper = LeaseKeeper(BlockingDriver(proxy.url, connect_timeout=5, timeout=5))
        yield keeper, proxy
        keeper.close()


async def test_a_sign_of_life_that_is_late(
    late_keeper: tuple[LeaseKeeper, Proxy],
    mq: ms.AsyncClient,
    admin: redis.Redis,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who leaves waits for one that is on its way, so that it does not come back for a moment."""
    # A busy machine takes longer than that.
    monkeypatch.setattr(module, "BEAT", PATIENCE)
    keys, (keeper, proxy) = queue_keys(namespace, "quote"), late_keeper
    async with presence(mq.driver, keeper, keys, "me"):
        [beat] = keeper._beats
        await asyncio.to_thread(beat.rests.wait, PATIENCE)
        proxy.delay(0.3)
        beat.next_at = 0.0
        keeper.begin(Beat(join(keys, "you", None), leave(keys, "you"), 60))
        await auntil(lambda: not beat.rests.is_set(), PATIENCE)
    assert beat.rests.is_set()
    assert members(admin, keys) in ([], ["you"])


def test_one_that_is_too_late(
    late_keeper: tuple[LeaseKeeper, Proxy], admin: redis.Redis, url: str, namespace: str
) -> None:
    """One for which nobody has waited is taken back."""
    keys, (keeper, proxy) = queue_keys(namespace, "quote"), late_keeper
    beat = Beat(join(keys, "me", None), leave(keys, "me"), 60)
    keeper.begin(beat)
    until(lambda: members(admin, keys) == ["me"] and beat.rests.is_set(), PATIENCE)
    proxy.delay(0.3)
    beat.next_at = 0.0
    keeper.begin(Beat(join(keys, "you", None), leave(keys, "you"), 60))
    until(lambda: not beat.rests.is_set(), PATIENCE)
    keeper.end(beat)
    until(lambda: members(admin, keys) == ["you"], PATIENCE)


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
