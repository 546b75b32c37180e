"""Transactions in handlers, async and plain: what is committed, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.driver.aio import AsyncDriver
from tests.support.proxy import Proxy
from tests.support.readers import sleeping_readers
from tests.support.served import serving
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, run_burst, running

ORDERS: ms.Queue[Any] = ms.Queue("orders", retry=ms.Retry(max_attempts=2, backoff=SOON))
NEXT: ms.Queue[Any] = ms.Queue("next")


@pytest.fixture
def count(admin: redis.Redis) -> Iterator[str]:
    """The key of a counter of the test's own."""
    key = f"t-app-{uuid.uuid4().hex[:12]}"
    yield key
    admin.delete(key)


@pytest.mark.parametrize("plain", [False, True])
async def test_many_of_them(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, count: str, plain: bool
) -> None:
    """Each message is counted and passed on once, by coroutines and by functions in threads."""

    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.incrby(count)
            tx.send(NEXT, body)

    def handle_in_thread(body: int, delivery: ms.SyncDelivery[Any]) -> None:
        with delivery.transaction() as tx:
            tx.incrby(count)
            tx.send(NEXT, body)

    worker.on(ORDERS, concurrency=20)(handle_in_thread if plain else handle)
    await mq.send_many(ORDERS, range(500))
    await run_burst(worker, mq)

    assert admin.get(count) == b"500"
    assert await counts(mq, ORDERS) == (0, 0, 0, 0)
    assert (await mq.stats(ORDERS)).acked == 500
    waiting = await mq.peek(NEXT, limit=1000)
    assert sorted(one.body for one in waiting) == [*range(500)]


async def test_a_handler_that_fails(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, count: str
) -> None:
    """A block that raises leaves the message to the retry policy; what comes behind a block, does not."""
    attempts: list[tuple[str, int]] = []

    @worker.on(ORDERS)
    async def handle(body: str, delivery: ms.Delivery[Any]) -> None:
        attempts.append((body, delivery.attempt))
        async with delivery.transaction() as tx:
            tx.incrby(count)
            if body == "inside":
                raise RuntimeError
        raise RuntimeError

    await mq.send_many(ORDERS, ["inside", "behind"])
    await run_burst(worker, mq)

    assert sorted(attempts) == [("behind", 1), ("inside", 1), ("inside", 2)]
    assert admin.get(count) == b"1"
    assert await counts(mq, ORDERS) == (0, 0, 0, 1)


async def _goes_on_when_there_is_room(
    mq: ms.AsyncClient, worker: ms.Worker, full: ms.Queue[Any], orders: ms.Queue[Any]
) -> None:
    async def tried() -> bool:
        return (await mq.stats(orders)).retried > 0

    await mq.send(full, 0)
    await mq.send(orders, 1)
    async with running(worker, mq):
        await auntil(tried, PATIENCE)
        assert await mq.purge(full, confirm=True) == 1
        await becomes(mq, orders, (0, 0, 0, 0))
    assert await counts(mq, full) == (1, 0, 0, 0)


async def test_a_full_output(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """The message is tried again, and goes on when there is room."""
    full: ms.Queue[Any] = ms.Queue("full", bound=ms.Bound(1))
    orders: ms.Queue[Any] = ms.Queue("orders", retry=ms.Retry(max_attempts=1000, backoff=SOON))

    @worker.on(orders)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.send(full, body)

    await _goes_on_when_there_is_room(mq, worker, full, orders)


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_commit_that_is_left(
    mq: ms.AsyncClient, worker: ms.Worker, batch: int | None, fails: bool
) -> None:
    """A handler that ends before its commit has ended when that has: if it is refused, its message comes again."""
    full: ms.Queue[Any] = ms.Queue("full", bound=ms.Bound(1))
    orders: ms.Queue[Any] = ms.Queue("orders", retry=ms.Retry(max_attempts=1000, backoff=SOON))
    left: set[asyncio.Task[None]] = set()

    async def commit(delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.send(full, 1)

    @worker.on(orders, batch=batch)
    async def handle(_: Any, delivery: Any) -> None:
        left.add(task := asyncio.create_task(commit(delivery if batch is None else delivery[0])))
        task.add_done_callback(asyncio.Task.exception)
        await asyncio.sleep(0)
        if fails:
            raise RuntimeError

    await _goes_on_when_there_is_room(mq, worker, full, orders)


async def test_replies_that_are_lost(
    server: Server,
    namespace: str,
    mq: ms.AsyncClient,
    worker: ms.Worker,
    admin: redis.Redis,
    count: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connection breaks behind a commit: it is repeated, the handler goes on, and nothing is done twice."""
    committed: list[int] = []

    @worker.on(ORDERS, concurrency=5)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.incrby(count)
        committed.append(body)

    with Proxy(server.port) as proxy:
        proxy.drop_replies(to=count.encode(), times=10)
        async with (
            ms.AsyncClient(proxy.url, namespace=namespace) as client,
            running(worker, client),
        ):
            await mq.send_many(ORDERS, range(100))
            await becomes(mq, ORDERS, (0, 0, 0, 0))
        assert proxy.lost == 10
    assert sorted(committed) == [*range(100)]
    assert admin.get(count) == b"100"
    assert not [one for one in caplog.records if "lost the lease" in one.getMessage()]


async def test_a_message_that_is_cancelled(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, count: str
) -> None:
    """Nothing of its transaction is done."""
    begun, ended = asyncio.Event(), asyncio.Event()

    @worker.on(ORDERS)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        try:
            async with delivery.transaction() as tx:
                tx.incrby(count)
                begun.set()
                await asyncio.Event().wait()
        finally:
            ended.set()

    receipt = await mq.send(ORDERS, 1)
    async with running(worker, mq), asyncio.timeout(PATIENCE):
        await begun.wait()
        assert await mq.cancel(ORDERS, receipt.id)
        await ended.wait()
        await becomes(mq, ORDERS, (0, 0, 0, 1))
    assert not admin.exists(count)


async def test_a_batch(
    mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, count: str
) -> None:
    """Each message of a batch has a transaction of its own; the others are acknowledged as ever."""

    @worker.on(ORDERS, batch=4)
    async def handle(bodies: list[int], deliveries: list[ms.Delivery[Any]]) -> None:
        for delivery in deliveries[::2]:
            async with delivery.transaction() as tx:
                tx.incrby(count)

    await mq.send_many(ORDERS, range(4))
    await run_burst(worker, mq)
    assert admin.get(count) == b"2"
    assert (await mq.stats(ORDERS)).acked == 4


async def test_a_result(mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker) -> None:
    """What the transaction gives is the result, whoever waits hears of it, and what is returned is not."""
    jobs: ms.Queue[Any] = ms.Queue("jobs", results=ms.Results())

    @worker.on(jobs)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> str:
        async with delivery.transaction() as tx:
            tx.result(body + 1)
        return "ignored"

    async with running(worker, other):
        handles = [await mq.send(jobs, n, result=True) for n in range(3)]
        assert [await one.result(timeout=PATIENCE) for one in handles] == [1, 2, 3]


async def test_a_request(mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker) -> None:
    """A request has no transaction: its reply goes to another slot. Its caller is told so."""
    ask: ms.Endpoint[int, int] = ms.Endpoint("ask", int, int)

    @worker.on(ask)
    async def answer(body: int, request: ms.Request[int]) -> int:
        request.delivery.transaction()
        return body

    async with serving(worker, other, ask):
        with pytest.raises(ms.RemoteError, match="is a request"):
            await mq.request(ask, 1, timeout=PATIENCE)


async def test_a_worker_that_is_stopped(
    mq: ms.AsyncClient, other: ms.AsyncClient, admin: redis.Redis, count: str
) -> None:
    """Handlers that it cancels have committed, or their messages go to others: each is counted once."""
    first, second = ms.Worker(shutdown_timeout=0), ms.Worker()

    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        async with delivery.transaction() as tx:
            tx.incrby(count)
            await asyncio.sleep(0)

    for worker in (first, second):
        worker.on(ORDERS, concurrency=20)(handle)
    await mq.send_many(ORDERS, range(1000))
    async with running(first, mq):
        await auntil(lambda: admin.exists(count), PATIENCE)
    await run_burst(second, other)
    assert admin.get(count) == b"1000"
    assert await counts(mq, ORDERS) == (0, 0, 0, 0)


async def test_a_commit_while_the_reader_asks_what_it_owns(
    own_server: Server,
    namespace: str,
    worker: ms.Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to a reader that has lost its connection does not bring again what was committed since."""
    begun, free, committed = list[str](), asyncio.Event(), asyncio.Event()
    drive: Any = AsyncDriver.drive

    async def answer_late(driver: AsyncDriver, plan: Any, **options: Any) -> Any:
        answer = await drive(driver, plan, **options)
        if plan.__name__ == "rejoin" and answer:
            free.set()
            await committed.wait()
        return answer

    monkeypatch.setattr(AsyncDriver, "drive", answer_late)

    @worker.on(ORDERS)
    async def handle(body: str, delivery: ms.Delivery[Any]) -> None:
        begun.append(body)
        await free.wait()
        async with delivery.transaction() as tx:
            tx.send(NEXT, body)
        committed.set()

    with Proxy(own_server.port) as proxy:
        async with ms.AsyncClient(proxy.url, namespace=namespace) as mq, running(worker, mq):
            # A read must break, or nobody asks.
            await auntil(lambda: sleeping_readers(own_server.admin()), PATIENCE)
            await mq.send(ORDERS, "first")
            await auntil(lambda: begun, PATIENCE)
            proxy.cut()
            async with asyncio.timeout(PATIENCE):
                await committed.wait()
            await mq.send(ORDERS, "second")
            await becomes(mq, NEXT, (2, 0, 0, 0))

    assert begun == ["first", "second"]
