"""A server that has forgotten who has a message, while its handler runs: the same delivery comes again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import GROUP, queue_keys
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, becomes, running

QUEUES: dict[str, ms.Queue[Any]] = {
    "stream": ms.Queue("jobs", lease=300),
    "list": ms.Queue("jobs", store="list", lease=300),
    "ordered": ms.Queue("jobs", ordered=True, lease=300),
    "limited": ms.Queue("jobs", max_running=1, lease=300),
    "keeping": ms.Queue("jobs", keep=ms.Retain(max_length=10), lease=300),
}
FORGOTTEN = "has forgotten"
"""What the log says when a delivery comes again with which a handler goes on."""


ROOM = 50
"""What a worker may hold: more than there is, so that it sleeps at the server, and hears of its end."""


@pytest.fixture
async def mq(own_server: Server) -> AsyncIterator[ms.AsyncClient]:
    """A client of a server that may be killed."""
    async with ms.AsyncClient(own_server.url) as mq:
        yield mq


class Work:
    """A plain function as a handler, which ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.most = 0
        self.go_on = threading.Event()

    def handle(self, body: Any) -> Any:
        self.begun.append(body)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        self.go_on.wait(PATIENCE)
        self.ended.append(body)
        return body


@pytest.fixture
def work() -> Work:
    return Work()


def forget(server: Server) -> None:
    """It comes back with what it had stored last."""
    server.kill()
    server.start()


def destroy_group(server: Server, stream: str) -> None:
    """Somebody removes the group of the workers, and with it all that they have."""
    assert server.admin().xgroup_destroy(stream, GROUP)


@pytest.mark.parametrize("kind", QUEUES)
async def test_a_thread_goes_on(
    own_server: Server,
    mq: ms.AsyncClient,
    worker: ms.Worker,
    work: Work,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Its message is handled once, and no other of its key or beyond the limit begins meanwhile."""
    queue = QUEUES[kind]
    concurrency = 3 if kind in {"ordered", "limited"} else 1
    worker.on(queue, concurrency=concurrency, prefetch=ROOM)(work.handle)
    await mq.send_many(queue, [1, 2, 3], key="k" if kind == "ordered" else None)
    own_server.admin().save()
    async with running(worker, mq):
        await auntil(lambda: work.begun, PATIENCE)

        forget(own_server)

        await auntil(lambda: FORGOTTEN in caplog.text, PATIENCE)
        work.go_on.set()
        await becomes(mq, queue, (0, 0, 0, 0))
        stats = await mq.stats(queue)
    assert work.begun == work.ended == [1, 2, 3]
    assert work.most == 1
    assert (stats.acked, stats.crashed, stats.dead) == (3, 0, 0)


async def test_a_coroutine_ends_first(
    own_server: Server, mq: ms.AsyncClient, worker: ms.Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled, for others might have its message; that begins anew when it has cleaned up."""
    queue = QUEUES["stream"]
    events: list[str] = []
    clean_up = asyncio.Event()

    @worker.on(queue)
    async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
        events.append("begun" if not delivery.crashes else "crashed")
        if len(events) > 1:
            return
        try:
            await asyncio.Event().wait()
        finally:
            await clean_up.wait()
            events.append("ended")

    await mq.send(queue, 1)
    own_server.admin().save()
    async with running(worker, mq):
        await auntil(lambda: events, PATIENCE)

        forget(own_server)

        await auntil(lambda: FORGOTTEN in caplog.text, PATIENCE)
        await becomes(mq, queue, (0, 0, 1, 0))
        assert events == ["begun"]
        clean_up.set()
        await becomes(mq, queue, (0, 0, 0, 0))
    assert events == ["begun", "ended", "begun"]


@pytest.mark.parametrize("batch", [None, 2])
async def test_what_waits_in_the_worker(
    own_server: Server,
    mq: ms.AsyncClient,
    worker: ms.Worker,
    work: Work,
    caplog: pytest.LogCaptureFixture,
    batch: int | None,
) -> None:
    """What was fetched ahead comes again under the names that it had, and is handled once."""
    queue = QUEUES["stream"]
    handled: list[int] = []

    @worker.on(queue, concurrency=1, prefetch=ROOM, batch=batch)
    def handle(body: Any) -> None:
        handled.extend(body if isinstance(body, list) else [body])
        work.handle(body)

    await mq.send_many(queue, range(10))
    own_server.admin().save()
    async with running(worker, mq):
        await becomes(mq, queue, (0, 0, 10, 0))
        await auntil(lambda: work.begun, PATIENCE)

        forget(own_server)

        await auntil(lambda: FORGOTTEN in caplog.text, PATIENCE)
        await becomes(mq, queue, (0, 0, 10, 0))
        work.go_on.set()
        await becomes(mq, queue, (0, 0, 0, 0))
        assert (await mq.stats(queue)).acked == 10
    assert handled == [*range(10)]


async def test_the_group_is_removed(
    own_server: Server,
    mq: ms.AsyncClient,
    worker: ms.Worker,
    work: Work,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An operator's XGROUP DESTROY makes nothing come twice to the worker that has it."""
    queue = QUEUES["stream"]
    worker.on(queue, concurrency=2, prefetch=ROOM)(work.handle)
    await mq.send_many(queue, range(20))
    async with running(worker, mq):
        await auntil(lambda: len(work.begun) == 2, PATIENCE)

        destroy_group(own_server, queue_keys(mq.namespace, queue.name).ready)

        await auntil(lambda: FORGOTTEN in caplog.text, PATIENCE)
        work.go_on.set()
        await becomes(mq, queue, (0, 0, 0, 0))
        stats = await mq.stats(queue)
    assert sorted(work.begun) == [*range(20)]
    assert (stats.acked, stats.crashed) == (20, 0)


@pytest.mark.parametrize("store", ["stream", "list"])
async def test_what_its_handler_has_ended_by_hand(
    own_server: Server, mq: ms.AsyncClient, worker: ms.Worker, store: str
) -> None:
    """The server has forgotten how it ended: it begins anew, whatever the first handler does then."""
    queue = QUEUES[store]
    begun: list[int] = []
    go_on = threading.Event()

    @worker.on(queue, concurrency=2)
    def handle(body: int, delivery: ms.SyncDelivery[Any]) -> None:
        begun.append(body)
        if len(begun) == 1:
            delivery.retry(delay=1000)
            go_on.wait(PATIENCE)

    await mq.send(queue, 1)
    own_server.admin().save()
    async with running(worker, mq):
        await becomes(mq, queue, (0, 1, 0, 0))

        forget(own_server)

        await auntil(lambda: len(begun) == 2, PATIENCE)
        await becomes(mq, queue, (0, 0, 0, 0))
        go_on.set()
    stats = await mq.stats(queue)
    assert (stats.acked, stats.crashed) == (1, 0)


async def test_a_subscription(
    own_server: Server, mq: ms.AsyncClient, worker: ms.Worker, work: Work
) -> None:
    """As after a seek: the delivery that is here is over, and a new one begins."""
    topic: ms.Topic[Any] = ms.Topic("placed")
    subscription = topic.subscription("mail", lease=300, start=ms.EARLIEST)
    worker.on(subscription, concurrency=2)(work.handle)
    await mq.declare(subscription)
    await mq.publish(topic, 1)
    own_server.admin().save()
    async with running(worker, mq):
        await auntil(lambda: work.begun, PATIENCE)

        forget(own_server)

        await auntil(lambda: len(work.begun) == 2, PATIENCE)
        work.go_on.set()

        async def is_done() -> bool:
            stats = await mq.stats(subscription)
            return (stats.acked, stats.in_flight, stats.crashed) == (1, 0, 0)

        await auntil(is_done, PATIENCE)
    assert work.begun == [1, 1]


class TestRequests:
    @pytest.fixture
    def ready(self, mq: ms.AsyncClient) -> Callable[[ms.Endpoint[Any, Any]], str]:
        return lambda endpoint: queue_keys(mq.namespace, endpoint.queue.name).ready

    async def test_a_thread_replies(
        self,
        own_server: Server,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        work: Work,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A request that is handled at most once does not begin again; its caller has the reply."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("echo", timeout=300)
        worker.on(endpoint)(work.handle)
        async with running(worker, mq):
            await served(mq, endpoint)
            asking = asyncio.create_task(mq.request(endpoint, 1))
            await auntil(lambda: work.begun, PATIENCE)

            destroy_group(own_server, queue_keys(mq.namespace, endpoint.queue.name).ready)

            await auntil(lambda: FORGOTTEN in caplog.text, PATIENCE)
            work.go_on.set()
            async with asyncio.timeout(PATIENCE):
                assert await asking == 1
            await becomes(mq, endpoint.queue, (0, 0, 0, 0))
        assert work.begun == [1]

    async def test_a_coroutine_is_stopped(
        self, own_server: Server, mq: ms.AsyncClient, worker: ms.Worker
    ) -> None:
        """A request that is handled at most once does not begin again; its caller hears of it."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("echo", timeout=300)
        begun: list[Any] = []
        clean_up = asyncio.Event()

        @worker.on(endpoint)
        async def handle(body: Any) -> None:
            begun.append(body)
            try:
                await asyncio.Event().wait()
            finally:
                await clean_up.wait()

        async with running(worker, mq):
            await served(mq, endpoint)
            asking = asyncio.create_task(mq.request(endpoint, 1))
            await auntil(lambda: begun, PATIENCE)

            destroy_group(own_server, queue_keys(mq.namespace, endpoint.queue.name).ready)

            await becomes(mq, endpoint.queue, (0, 0, 1, 0))
            clean_up.set()
            await becomes(mq, endpoint.queue, (0, 0, 0, 1))
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(ms.ResponderLost):
                    await asking
        assert begun == [1]


async def served(mq: ms.AsyncClient, endpoint: ms.Endpoint[Any, Any]) -> None:
    """Wait until somebody serves it."""


class TestAtMostOnce:
    async def test_a_stream(
        self, own_server: Server, mq: ms.AsyncClient, worker: ms.Worker, work: Work
    ) -> None:
        """What a handler is at does not begin again, also when the server has it once more."""
        queue: ms.Queue[Any] = ms.Queue("jobs", delivery="at_most_once")
        worker.on(queue, concurrency=2)(work.handle)
        await mq.send(queue, 1)
        own_server.admin().save()
        async with running(worker, mq):
            await auntil(lambda: work.begun, PATIENCE)

            forget(own_server)

            # The next one comes behind it.
            await mq.send(queue, 2)
            await auntil(lambda: len(work.begun) == 2, PATIENCE)
            work.go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(work.begun) == [1, 2]

    @pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
    async def test_a_copy_in_a_list(
        self, own_server: Server, mq: ms.AsyncClient, worker: ms.Worker, delivery: Any
    ) -> None:
        """A copy with the same id is a message, also while a handler is at the first one, acknowledged."""
        queue: ms.Queue[Any] = ms.Queue("jobs", store="list", delivery=delivery)
        element = own_server.admin()
        begun: list[int] = []
        go_on = threading.Event()

        @worker.on(queue, concurrency=2)
        def handle(body: int, delivery: ms.SyncDelivery[Any]) -> None:
            begun.append(body)
            delivery.ack()
            go_on.wait(PATIENCE)

        await mq.send(queue, 1)
        name = f"{mq.namespace}:{{jobs}}:list"
        (copy,) = element.lrange(name, 0, -1)
        async with running(worker, mq):
            await auntil(lambda: begun, PATIENCE)
            await becomes(mq, queue, (0, 0, 0, 0))

            element.lpush(name, copy)

            await auntil(lambda: len(begun) == 2, PATIENCE)
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert begun == [1, 1]
