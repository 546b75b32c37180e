"""Requests that end without a reply: nobody serves, the time is over, somebody gives up, all is lost."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.api.clients import Connect, connecting
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.serving import PATIENCE, in_a_thread, members, serving
from tests.support.wait import auntil, until

Serve = Callable[..., Awaitable[None]]

SHORT = 2.0
"""Seconds of a request whose time is to be over."""

LONG: ms.Endpoint[Any, Any] = ms.Endpoint("work", timeout=300)
"""An endpoint whose callers learn of what happens for another reason than their time."""

only_async = pytest.mark.parametrize("kind", ["async"], indirect=True)


@pytest.fixture
async def serve(admin: redis.Redis, url: str, namespace: str) -> AsyncIterator[Serve]:
    """Have workers serve their endpoints until the test ends."""
    async with AsyncExitStack() as stack:

        async def serve(*workers: ms.Worker) -> None:
            await stack.enter_async_context(serving(admin, url, namespace, *workers))

        yield serve


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """Blocking clients of these tests wait in many threads at a time."""
    with ThreadPoolExecutor(64) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        yield


class Gated:
    """A worker whose handlers wait for a gate, and what became of them."""

    def __init__(
        self, endpoint: ms.Endpoint[Any, Any] = LONG, *, concurrency: int = 100, grace: float = 1
    ) -> None:
        self.worker = ms.Worker(shutdown_timeout=grace)
        self.gate = asyncio.Event()
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.cancelled: list[Any] = []
        self.worker.on(endpoint, concurrency=concurrency)(self._handle)

    async def _handle(self, body: Any) -> Any:
        self.begun.append(body)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(body)
            raise
        self.ended.append(body)
        return body

    async def has_begun(self, count: int = 1) -> None:
        await auntil(lambda: len(self.begun) >= count, PATIENCE)


def asking(mq: ms.AsyncClient, body: Any = 1, **options: Any) -> asyncio.Future[Any]:
    """A request that goes on beside the test."""
    endpoint = options.pop("endpoint", LONG)
    return asyncio.ensure_future(mq.request(endpoint, body, **options))


async def becomes(mq: ms.AsyncClient, **wanted: int) -> None:
    """Wait until the counts of the endpoint's queue are these."""

    async def there() -> bool:
        stats = await mq.stats(LONG.queue)
        return all(getattr(stats, name) == count for name, count in wanted.items())

    await auntil(there, PATIENCE, message=str(wanted))


class TestNobody:
    async def test_no_such_endpoint(self, mq: ms.AsyncClient, admin: redis.Redis) -> None:
        """It is known at once, and nothing is stored."""
        with pytest.raises(ms.NoResponders, match="endpoint 'work': no worker serves it") as caught:
            await mq.request(LONG, 1)
        assert (caught.value.queue, caught.value.id) == ("work", "")
        assert (await mq.stats(LONG.queue)).ready == 0

    async def test_all_workers_have_stopped(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It is known at once."""
        one, other = Gated(), Gated()
        one.gate.set()
        other.gate.set()
        async with serving(admin, url, namespace, one.worker, other.worker):
            assert await mq.request(LONG, 1) == 1
        with pytest.raises(ms.NoResponders):
            await mq.request(LONG, 1)

    async def test_the_last_worker_leaves(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A request that nobody has begun with fails soon, and is deleted; what it had read is handed back."""
        gated = Gated(concurrency=1, grace=PATIENCE)
        async with serving(admin, url, namespace, gated.worker):
            running = asking(mq, "runs")
            await gated.has_begun()
            waiting = [asking(mq, number) for number in range(20)]
            await becomes(mq, sent=21)
            gated.worker.stop()
            found = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(error) for error in found} == {ms.NoResponders}
            assert "the last worker that served it is gone" in str(found[0])
            gated.gate.set()
            assert await running == "runs"
        await becomes(mq, ready=0, in_flight=0, dead=0, acked=1, cancelled=20)

    async def test_a_worker_is_stopped_with_it(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A handler that is cancelled at the end may have done its work, so nobody gets it again."""
        gated = Gated(grace=0)
        async with serving(admin, url, namespace, gated.worker):
            request = asking(mq)
            await gated.has_begun()
        with pytest.raises(ms.ResponderLost, match="the worker that had it was stopped") as caught:
            await request
        assert caught.value.reason == "stopped"

    async def test_a_worker_is_stopped_beside_its_thread(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A handler in a thread goes on; its caller is told at once, and nobody gets the request again."""
        worker = ms.Worker(shutdown_timeout=0)
        begun, gate = threading.Event(), threading.Event()

        @worker.on(LONG)
        def handle(body: Any) -> Any:
            begun.set()
            gate.wait(PATIENCE)
            return body

        async with serving(admin, url, namespace, worker):
            request = asking(mq)
            await auntil(begun.is_set, PATIENCE)
        await becomes(mq, in_flight=0, dead=1, crashed=0)
        with pytest.raises(ms.ResponderLost, match="the worker that had it was stopped"):
            await request
        gate.set()

    async def test_another_worker_goes_on(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """What a stopped worker has not begun with is answered by the others."""
        first, second = Gated(concurrency=1, grace=PATIENCE), Gated()
        async with serving(admin, url, namespace, first.worker):
            requests = [asking(mq, number) for number in range(30)]
            await first.has_begun()
            await becomes(mq, sent=30)
            async with AsyncExitStack() as stack:
                other = await stack.enter_async_context(ms.AsyncClient(url, namespace=namespace))
                task = asyncio.create_task(second.worker.run(other))
                keys = queue_keys(namespace, "work")
                await auntil(lambda: len(members(admin, keys)) == 2, PATIENCE)
                first.worker.stop()
                first.gate.set()
                second.gate.set()
                assert await asyncio.gather(*requests) == list(range(30))
                second.worker.stop()
                await task
        handled = first.ended + second.ended
        assert sorted(handled) == list(range(30))

    async def test_purged(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """Whoever waits is told that it is gone."""
        await serve(Gated().worker)
        await mq.pause(LONG.queue)
        request = asking(mq)
        await becomes(mq, ready=1)
        await mq.purge(LONG.queue, confirm=True)

        with pytest.raises(ms.ResponderLost, match="gone without a reply") as caught:
            await request
        assert caught.value.reason == "unknown"
        await mq.resume(LONG.queue)

    async def test_cancelled_by_somebody(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """The handler is stopped, and the caller is told."""
        gated = Gated()
        await serve(gated.worker)
        request = asking(mq)
        await gated.has_begun()
        assert await mq.cancel(LONG.queue, await running_id(mq))

        with pytest.raises(ms.ResponderLost, match="somebody has cancelled it"):
            await request
        await auntil(lambda: gated.cancelled == [1], PATIENCE)


async def running_id(mq: Any) -> str:
    """The id of the one request of a client, which is known to nobody who only waits for its reply."""
    [pending] = getattr(mq, "target", mq).requests._pending.values()
    # Its handler may begin before its caller has the receipt.
    return str(await auntil(lambda: pending.id, PATIENCE))


class TestTime:
    async def test_queued(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """A request that waited for all of its time was never begun, is deleted, and counted."""
        gated = Gated()
        await serve(gated.worker)
        await mq.pause(LONG.queue)
        with pytest.raises(ms.TimedOut, match="it was still waiting for a worker") as caught:
            await mq.request(LONG, 1, timeout=SHORT)
        error = caught.value
        assert (error.endpoint, error.state, error.seconds) == ("work", "queued", 0)
        assert error.id in str(error)
        await becomes(mq, ready=0)
        stats = await mq.stats(LONG.queue)
        # A caller that had to wait for its receipt takes the server's deadline for later than its own.
        assert (stats.expired, stats.cancelled) in {(1, 0), (0, 1)}
        await mq.resume(LONG.queue)
        assert gated.begun == []

    async def test_running(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """It is told for how long; the handler is cancelled at the same time, and nothing is left."""
        gated = Gated()
        await serve(gated.worker)
        with pytest.raises(ms.TimedOut) as caught:
            await mq.request(LONG, 1, timeout=SHORT)
        assert caught.value.state in ("running", "unknown")  # its end may be the quicker one
        if caught.value.state == "running":
            assert 0 < caught.value.seconds < PATIENCE
        await auntil(lambda: gated.cancelled == [1], PATIENCE)
        await becomes(mq, ready=0, in_flight=0, dead=0, expired=0, late=0)

    async def test_must_finish(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """The handler goes on after the deadline; its reply is late, dropped and counted."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("work", must_finish=True)
        gated = Gated(endpoint)
        await serve(gated.worker)
        with pytest.raises(ms.TimedOut) as caught:
            await mq.request(endpoint, 1, timeout=SHORT)
        assert caught.value.state in ("running", "queued")
        if caught.value.state == "running":
            assert gated.cancelled == []
            gated.gate.set()
            await becomes(mq, late=1, acked=1)
            assert gated.ended == [1]

    async def test_a_thread(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """What runs in a thread is interrupted at its next line."""
        worker, outcome = ms.Worker(), list[str]()

        @worker.on(LONG)
        def handle(body: Any) -> None:
            try:
                while True:
                    time.sleep(0.005)  # the work itself
            except TimeoutError:
                outcome.append("interrupted")
                raise

        await serve(worker)
        with pytest.raises(ms.TimedOut):
            await mq.request(LONG, 1, timeout=SHORT)
        await auntil(lambda: outcome == ["interrupted"], PATIENCE)
        await becomes(mq, in_flight=0, dead=0, late=0)

    async def test_never_begun_too_late(
        self, mq: ms.AsyncClient, serve: Serve, url: str, namespace: str
    ) -> None:
        """Should its caller be dead, a request past its deadline is deleted by who would begin with it."""
        gated = Gated(concurrency=1)
        await serve(gated.worker)
        first = asking(mq, "first")
        await gated.has_begun()
        async with ms.AsyncClient(url, namespace=namespace) as dead:
            pending = await dead.requests.send(LONG, b"2", b"", timeout_ms=1000)
            await auntil(lambda: pending.id)
            dead.requests.answered(pending)  # nobody gives it up
            stored = int(pending.id.partition("-")[0])
            await auntil(lambda: time.time() * 1000 > stored + 1050)
            gated.gate.set()
            assert await first == "first"
        await becomes(mq, ready=0, in_flight=0, expired=1, dropped=1, acked=1)
        assert gated.begun == ["first"]


class TestGivingUp:
    @only_async
    @pytest.mark.parametrize("in_thread", [False, True])
    async def test_a_cancelled_caller(
        self,
        mq: ms.AsyncClient,
        serve: Serve,
        in_thread: bool,
    ) -> None:
        """The handler is stopped, though the request has time left; nothing is left, nothing is late."""
        worker, told = ms.Worker(), list[str]()

        async def handle(body: Any) -> None:
            told.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                told.append("stopped")

        def handle_in_thread(body: Any) -> None:
            told.append("begun")
            try:
                while True:
                    time.sleep(0.005)  # the work itself
            finally:
                told.append("stopped")

        worker.on(LONG)(handle_in_thread if in_thread else handle)
        await serve(worker)
        request = asking(mq)
        await auntil(lambda: told == ["begun"], PATIENCE)
        request.cancel()
        await auntil(lambda: told == ["begun", "stopped"], PATIENCE)
        await becomes(mq, ready=0, in_flight=0, dead=0, cancelled=1, late=0)

    @only_async
    async def test_cancelled_while_it_waits(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """It is deleted."""
        gated = Gated()
        await serve(gated.worker)
        await mq.pause(LONG.queue)
        request = asking(mq)
        await becomes(mq, ready=1)
        request.cancel()
        await becomes(mq, ready=0, cancelled=1)
        await mq.resume(LONG.queue)
        assert gated.begun == []

    @only_async
    async def test_cancelled_while_it_is_sent(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """It was on its way already: it is given up as soon as its id is known."""
        gated = Gated()
        await serve(gated.worker)
        gated.gate.set()
        await mq.request(LONG, 0)
        gated.gate.clear()
        # At each moment between the send and the receipt: turns of the event loop, more than it takes.
        for turns in range(2, 30):
            request = asking(mq)
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            await becomes(mq, sent=turns, ready=0, in_flight=0, cancelled=turns - 1)
        assert gated.ended == [0]

    @only_async
    async def test_must_finish(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """The handler goes on, and its reply is dropped and counted."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("work", timeout=300, must_finish=True)
        gated = Gated(endpoint)
        await serve(gated.worker)
        request = asking(mq, endpoint=endpoint)
        await gated.has_begun()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        gated.gate.set()
        await becomes(mq, late=1, acked=1, cancelled=0)
        assert (gated.ended, gated.cancelled) == ([1], [])

    @only_async
    async def test_many_at_once(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """All of their handlers are stopped, however many they are."""
        gated = Gated(concurrency=500)
        await serve(gated.worker)
        requests = [asking(mq, number) for number in range(500)]
        await gated.has_begun(500)
        for request in requests:
            request.cancel()
        await auntil(lambda: len(gated.cancelled) == 500, PATIENCE)
        await becomes(mq, ready=0, in_flight=0, dead=0, cancelled=500)

    async def test_the_client_is_closed(
        self, connect: Connect, mq: ms.AsyncClient, serve: Serve
    ) -> None:
        """Its requests fail at once and clearly, and their handlers are stopped."""
        gated = Gated()
        await serve(gated.worker)
        other = await connect()
        requests = [asking(other, number) for number in range(3)]
        await gated.has_begun(3)
        await other.aclose()

        found = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(error) for error in found] == [ms.NotConnected] * 3
        assert "the client was closed while request" in str(found[0])
        await auntil(lambda: len(gated.cancelled) == 3, PATIENCE)
        with pytest.raises(ms.UsageError, match="closed"):
            await other.request(LONG, 1)
        await becomes(mq, in_flight=0, cancelled=3)

    @only_async
    async def test_asked_again_while_it_is_closed(
        self, connect: Connect, mq: ms.AsyncClient, serve: Serve
    ) -> None:
        """A request that is begun during the close is refused at once, for nobody would read its reply."""
        gated = Gated()
        await serve(gated.worker)
        other = await connect()

        async def ask_twice() -> None:
            with suppress(ms.NotConnected):
                await other.request(LONG, 1)
            await other.request(LONG, 2)

        asking_twice = [asyncio.ensure_future(ask_twice()) for _ in range(3)]
        await gated.has_begun(3)
        await other.aclose()
        async with asyncio.timeout(LONG.timeout_ms / 2000):
            found = await asyncio.gather(*asking_twice, return_exceptions=True)
        assert [type(error) for error in found] == [ms.UsageError] * 3


async def answered_or_lost(request: asyncio.Future[Any]) -> None:
    """A worker that is quicker than the next look at the mailbox has nobody to tell."""
    with suppress(ms.ResponderLost):
        assert await request == 1


class TestMailbox:
    @pytest.mark.parametrize("command", ["DEL", "FLUSH"])
    async def test_it_is_lost(self, namespace: str, kind: Any, command: str) -> None:
        """It is made again; what was lost with it fails, and later requests work."""
        with Server() as server:
            async with AsyncExitStack() as stack:
                url, admin = server.url, server.admin()
                caller = await _connected(stack, kind, url, namespace)
                gated = Gated()
                await stack.enter_async_context(serving(admin, url, namespace, gated.worker))
                request = asking(caller, 1)
                await gated.has_begun()
                if command == "DEL":
                    [mailbox] = admin.scan_iter(match="*:mailbox")
                    admin.delete(mailbox)
                else:
                    admin.flushall()
                gated.gate.set()
                if command == "FLUSH":
                    with pytest.raises(ms.ResponderLost):
                        await request
                else:
                    await answered_or_lost(request)
                keys = queue_keys(namespace, "work")
                await auntil(lambda: members(admin, keys) != [], PATIENCE)
                assert await caller.request(LONG, 2) == 2

    async def test_a_worker_notices(
        self, connect: Connect, mq: ms.AsyncClient, serve: Serve, admin: redis.Redis, namespace: str
    ) -> None:
        """Where there is no mailbox any more, a reply is dropped and counted; none is made."""
        gated = Gated()
        await serve(gated.worker)
        other = await connect()
        request = asking(other)
        await gated.has_begun()
        [mailbox] = admin.scan_iter(match=f"{namespace}:*:mailbox")
        admin.delete(mailbox)
        gated.gate.set()
        await becomes(mq, acked=1, in_flight=0)
        await answered_or_lost(request)


async def _connected(stack: AsyncExitStack, kind: Any, url: str, namespace: str) -> ms.AsyncClient:
    connect = await stack.enter_async_context(connecting(kind, url, namespace))
    return await connect()


class TestServerAway:
    @pytest.mark.parametrize("how", ["refuse", "stall"])
    async def test_a_request_that_cannot_leave(
        self, server: Server, namespace: str, kind: Any, how: str
    ) -> None:
        """It fails when its own time is over, not only when that of the client is."""
        with Proxy(server.port) as proxy:
            async with AsyncExitStack() as stack:
                caller = await _connected(stack, kind, proxy.url, namespace)
                with pytest.raises(ms.NoResponders):
                    await caller.request(LONG, 1)  # it has its mailbox now
                if how == "refuse":
                    proxy.refuse()
                    proxy.cut()
                else:
                    proxy.stall()
                begun = time.monotonic()
                with pytest.raises(ms.BrokerError):
                    await caller.request(LONG, 1, timeout=0.3)
                # The client's own patience is ten seconds.
                assert time.monotonic() - begun < 8
                proxy.resume()
                proxy.accept()

    async def test_while_it_waits_for_its_reply(
        self, server: Server, admin: redis.Redis, url: str, namespace: str, kind: Any
    ) -> None:
        """At the deadline it is known no better than that; it does not wait for the server."""
        with Proxy(server.port) as proxy:
            async with AsyncExitStack() as stack:
                caller = await _connected(stack, kind, proxy.url, namespace)
                gated = Gated()
                await stack.enter_async_context(serving(admin, url, namespace, gated.worker))
                request = asking(caller, timeout=SHORT)
                await gated.has_begun()
                proxy.refuse()
                proxy.cut()
                begun = time.monotonic()
                with pytest.raises(ms.TimedOut) as caught:
                    await request
                assert time.monotonic() - begun < 8
                assert caught.value.state == "unknown"
                proxy.accept()


def until_served(admin: redis.Redis, namespace: str) -> None:
    until(lambda: members(admin, queue_keys(namespace, "work")) != [], PATIENCE)


class TestThreads:
    def test_many_threads_share_a_client(
        self, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Each gets its own reply, over one connection."""
        worker = ms.Worker()

        @worker.on(LONG)
        async def handle(body: int) -> int:
            return body * 2

        with in_a_thread(worker, url, namespace), ms.Client(url, namespace=namespace) as mq:
            until_served(admin, namespace)
            mq.request(LONG, 1)
            connections = len(admin.client_list())
            with ThreadPoolExecutor(16) as pool:
                found = list(pool.map(lambda number: mq.request(LONG, number), range(300)))
            assert found == [number * 2 for number in range(300)]
            assert len(admin.client_list()) == connections

    def test_closed_by_another_thread(
        self, admin: redis.Redis, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread that is about to ask, after those who wait were told, is refused, and nothing is sent."""
        worker, handled = ms.Worker(), list[Any]()

        @worker.on(LONG)
        async def handle(body: Any) -> None:
            handled.append(body)

        with in_a_thread(worker, url, namespace), ms.Client(url, namespace=namespace) as mq:
            until_served(admin, namespace)
            mq.request(LONG, 1)
            mailbox, attach = mq.requests.mailbox, mq.requests.mailbox.attach

            def close_meanwhile(recipient: Any) -> int:
                # The first thing that a client does when it is closed.
                closing = threading.Thread(target=mq.requests.close)
                closing.start()
                closing.join(PATIENCE)
                return attach(recipient)

            monkeypatch.setattr(mailbox, "attach", close_meanwhile)
            with pytest.raises(ms.UsageError, match="closed"):
                mq.request(LONG, 2)
        assert handled == [1]

    def test_ctrl_c(self, admin: redis.Redis, url: str, namespace: str) -> None:
        """A caller that is interrupted gives its request up: the handler is stopped."""
        begun, stopped, main = threading.Event(), threading.Event(), threading.get_ident()
        worker = ms.Worker()

        @worker.on(LONG)
        async def handle(body: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        with in_a_thread(worker, url, namespace), ms.Client(url, namespace=namespace) as mq:

            def interrupt() -> None:
                assert begun.wait(PATIENCE)
                # The handler may begin before the client has heard that the request is stored.
                until(lambda: [one.id for one in list(mq.requests._pending.values()) if one.id])
                signal.pthread_kill(main, signal.SIGINT)

            until_served(admin, namespace)
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                mq.request(LONG, 1)
            thread.join()
            assert stopped.wait(PATIENCE)
            until(lambda: mq.stats(LONG.queue).cancelled == 1, PATIENCE)


def test_a_client_is_made_where_no_event_loop_runs(url: str, namespace: str) -> None:
    """It is used in one later, as ever."""
    client = ms.AsyncClient(url, namespace=namespace)

    async def main() -> None:
        async with client as mq:
            with pytest.raises(ms.NoResponders):
                await mq.request(LONG, 1)

    asyncio.run(main())
