"""Workers of queues with results: what becomes of what handlers return, however they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import millstream as ms
from millstream.protocol import settlement
from millstream.protocol.envelope import Envelope
from millstream.worker.resulting import Resulting
from tests.worker.running import PATIENCE, SOON, becomes, run_burst, running

JOBS: ms.Queue[Any] = ms.Queue(
    "jobs", results=ms.Results(keep=60), retry=ms.Retry(max_attempts=2, backoff=SOON)
)

Next = Callable[[], Awaitable[Any]]


async def test_many_of_them(mq: ms.AsyncClient, other: ms.AsyncClient, worker: ms.Worker) -> None:
    """Each message has its own, also beside messages whose results nobody wants."""

    @worker.on(JOBS, concurrency=20)
    async def handle(body: int) -> int:
        await asyncio.sleep(0)
        return 2 * body

    async with running(worker, other):
        plain = asyncio.create_task(mq.send_many(JOBS, range(1000)))
        handles = await asyncio.gather(*(mq.send(JOBS, n, result=True) for n in range(500)))
        found = await asyncio.gather(*(one.result(timeout=PATIENCE) for one in handles))
        await plain
        await becomes(mq, JOBS, (0, 0, 0, 0))
    assert found == [2 * n for n in range(500)]
    assert (await mq.stats(JOBS)).acked == 1500


async def test_middleware_that_fails_after_the_handler(
    mq: ms.AsyncClient, worker: ms.Worker
) -> None:
    """The message is tried again, and the result is that of the attempt that counted."""
    attempts: list[int] = []

    @worker.middleware
    async def around(delivery: ms.Delivery[Any], call_next: Next) -> None:
        await call_next()
        if delivery.attempt == 1:
            raise RuntimeError

    @worker.on(JOBS)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> int:
        attempts.append(delivery.attempt)
        return delivery.attempt

    job = await mq.send(JOBS, 1, result=True)
    await run_burst(worker, mq)

    assert attempts == [1, 2]
    assert await job.result(timeout=0) == 2


async def test_middleware_that_acknowledges(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """After the handler, the result goes with its acknowledgement; instead of it there is no value."""

    @worker.middleware
    async def around(delivery: ms.Delivery[Any], call_next: Next) -> None:
        if delivery.body == 1:
            await call_next()
        await delivery.ack()

    @worker.on(JOBS)
    async def handle(body: int) -> int:
        return body

    after, instead = [await mq.send(JOBS, n, result=True) for n in (1, 2)]
    await run_burst(worker, mq)

    assert await after.result(timeout=0) == 1
    assert await instead.result(timeout=0) is None


async def test_a_plain_function_that_acknowledges(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """What it returns after that comes too late, and nothing of it stays in the worker."""

    @worker.on(JOBS)
    def handle(body: int, delivery: ms.SyncDelivery[Any]) -> int:
        delivery.ack()
        return body

    job = await mq.send(JOBS, 1, result=True)
    await run_burst(worker, mq)

    assert await job.result(timeout=0) is None


async def test_too_late_a_result(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """A handler that passes its timeout has failed, whatever it returns."""

    @worker.on(JOBS, timeout=0.05)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> str:
        if delivery.attempt == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"
        return "in time"

    job = await mq.send(JOBS, 1, result=True)
    await run_burst(worker, mq)

    assert await job.result(timeout=0) == "in time"


async def test_a_worker_that_is_stopped(mq: ms.AsyncClient, other: ms.AsyncClient) -> None:
    """A handler that is not finished hands its message back, and the next worker has the result."""
    begun = asyncio.Event()
    first, second = ms.Worker(shutdown_timeout=0.05), ms.Worker()

    @first.on(JOBS)
    async def endless(body: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    @second.on(JOBS)
    async def handle(body: int) -> int:
        return body

    job = await mq.send(JOBS, 7, result=True)
    wait = asyncio.create_task(job.result(timeout=PATIENCE))
    async with running(first, other):
        await begun.wait()
    assert not wait.done()
    await run_burst(second, other)

    assert await wait == 7
    assert (await mq.stats(JOBS)).crashed == 0


async def test_a_worker_that_stops_while_somebody_waits(
    mq: ms.AsyncClient, other: ms.AsyncClient
) -> None:
    """What its last handlers return is stored before it leaves."""
    worker, begun, go = ms.Worker(), asyncio.Event(), asyncio.Event()

    @worker.on(JOBS)
    async def handle(body: int) -> int:
        begun.set()
        await go.wait()
        return body

    job = await mq.send(JOBS, 7, result=True)
    async with running(worker, other):
        await begun.wait()
        worker.stop()
        go.set()

    assert await job.result(timeout=0) == 7


async def test_a_worker_that_declares_no_results(mq: ms.AsyncClient, worker: ms.Worker) -> None:
    """It handles the message, and whoever waits is told that nothing is known."""

    @worker.on(ms.Queue("jobs"))
    async def handle(body: int) -> int:
        return body

    job = await mq.send(JOBS, 7, result=True)
    await run_burst(worker, mq)

    with pytest.raises(ms.NoResult, match="worker does not know"):
        await job.result()


async def test_nothing_stays_in_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Of a delivery that has ended in any way; a value that cannot be a result is logged."""
    ours = {b"1-0", b"2-0", b"3-0"}
    resulting = Resulting(JOBS, ours.__contains__, mail=None)  # type: ignore[arg-type] # nobody waits
    delivery = ms.Delivery[Any]

    async def handle(body: Any, _: Any) -> Any:
        return body

    call = resulting.around(handle)

    def of(token: bytes, wish: bytes = b"result=5") -> Any:
        fields = [b"b", b"1", b"r", wish]
        owner: Any = type("Owner", (), {"partition": 0})()
        return delivery(None, Envelope(token, fields), JOBS, JOBS.retry, owner)

    assert await call(4, of(b"1-0")) == 4
    await call(object(), of(b"2-0"))
    await call(4, of(b"3-0"))
    await call(4, of(b"3-0", b"client 1"))
    await call(4, of(b"gone"))

    assert resulting.onto(settlement.ack(b"1-0", plain=False)).note == b"=4"
    assert resulting.onto(settlement.reject(b"2-0", "no")).note == b'{"reason":"no"}'
    resulting.forget(b"3-0")
    assert resulting.onto(settlement.ack(b"3-0", plain=False)).note == b"{}"
    assert resulting._values == {}
    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "cannot be its result" in record.getMessage()
