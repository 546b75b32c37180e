"""Requests through faults: dead workers, dead callers, a server that restarts, and bad networks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.aio import inquiries
from millstream.aio.pending import Pending
from millstream.protocol.keys import GROUP, queue_keys
from millstream.protocol.recover import hand_over
from tests.faults.processes import Workshop, kill
from tests.faults.working import NAMESPACE, PATIENCE, connect
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.serving import members
from tests.support.wait import auntil, until

KEYS = queue_keys(NAMESPACE, "work")

HOLDING = """
endpoint = ms.Endpoint("work", lease={lease}, idempotent={idempotent})

@worker.on(endpoint, concurrency=20)
async def handle(body, request):
    record("begun", body, crashes=request.crashes)
    if not request.crashes:
        await raised("go on")
    record("ended", body)
    return [body, os.getpid()]
"""


STUCK = """
@worker.on(ms.Endpoint("work", lease=300, idempotent={idempotent}))
def handle(body, request):
    record("begun", body)
    while not flag("go on"):
        time.sleep(0.01)
    return [body, os.getpid()]
"""


def work(*, lease: float = 300, idempotent: bool = False) -> ms.Endpoint[Any, Any]:
    """The endpoint of these tests; its timeout is for nobody who is told in another way."""
    return ms.Endpoint("work", lease=lease, idempotent=idempotent, timeout=300)


async def served(admin: redis.Redis, count: int = 1) -> None:
    await auntil(lambda: len(members(admin, KEYS)) == count, PATIENCE, message=f"{count} workers")


@asynccontextmanager
async def worker_of(
    mq: ms.AsyncClient, admin: redis.Redis, worker: ms.Worker
) -> AsyncIterator[None]:
    """The worker serves, over this client."""
    task = asyncio.create_task(worker.run(mq))
    try:
        await served(admin)
        yield
    finally:
        worker.stop()
        async with asyncio.timeout(3 * PATIENCE):
            await task


async def emptied(mq: ms.AsyncClient, endpoint: ms.Endpoint[Any, Any]) -> None:
    """Wait until nothing waits and nothing runs: acknowledgements come a moment after replies."""

    async def there() -> bool:
        stats = await mq.stats(endpoint.queue)
        return (stats.ready, stats.delayed, stats.in_flight) == (0, 0, 0)

    await auntil(there, PATIENCE)


def write_worker(workshop: Workshop, *, lease: float = 300, idempotent: bool = False) -> None:
    workshop.write(HOLDING.format(lease=lease, idempotent=idempotent))


async def _orphan(workshop: Workshop, server: Server, mq: ms.AsyncClient) -> asyncio.Future[Any]:
    """Ask a worker that is killed and whose work is handed over, as a supervisor does; nobody is there then."""
    write_worker(workshop, idempotent=True)
    admin: Any = server.admin()
    program = workshop.worker()
    await served(admin)
    asking = asyncio.ensure_future(mq.request(work(idempotent=True), 1))
    await asyncio.to_thread(workshop.until_told, "begun", 1)
    [consumer] = admin.xinfo_consumers(KEYS.ready, GROUP)
    kill(program.pid)
    # Its sleeping reads go with it; the one that is left is that of the caller's mailbox.
    await auntil(lambda: admin.info("clients")["blocked_clients"] == 1, PATIENCE)
    await mq.driver.drive(hand_over(KEYS, consumer["name"].decode(), crashed=True, max_crashes=3))
    return asking


def replied(admin: Any, mailbox: bytes) -> bool:
    return any(b"reply" in fields for _, fields in admin.xrange(mailbox))


class TestKilledWorker:
    async def test_under_a_supervisor(self, workshop: Workshop, own_server: Server) -> None:
        """Its callers are told within seconds, though its lease is long; others are answered."""
        write_worker(workshop)
        admin = own_server.admin()
        supervisor = workshop.supervisor(1)
        async with connect(own_server.url) as mq:
            await served(admin)
            requests = [asyncio.ensure_future(mq.request(work(), n)) for n in range(5)]
            begun = await asyncio.to_thread(workshop.until_told, "begun", 5)
            killed = time.monotonic()
            os.kill(begun[0].pid, signal.SIGKILL)
            found = await asyncio.gather(*requests, return_exceptions=True)

            assert time.monotonic() - killed < PATIENCE / 2
            assert [type(error) for error in found] == [ms.ResponderLost] * 5
            assert {error.reason for error in found if isinstance(error, ms.ResponderLost)} == {
                "crashed"
            }
            workshop.raise_flag("go on")
            await served(admin)
            assert (await mq.request(work(), "next"))[0] == "next"
        supervisor.send(signal.SIGTERM)
        assert await asyncio.to_thread(supervisor.wait) == 0

    async def test_without_a_supervisor(self, workshop: Workshop, own_server: Server) -> None:
        """Nobody else is there to notice: its lease tells, and then nobody serves any more."""
        write_worker(workshop, lease=1)
        endpoint = work(lease=1)
        program = workshop.worker()
        async with connect(own_server.url) as mq:
            await served(own_server.admin())
            request = asyncio.ensure_future(mq.request(endpoint, 1))
            await asyncio.to_thread(workshop.until_told, "begun", 1)
            program.send(signal.SIGKILL)
            with pytest.raises(ms.ResponderLost, match="the worker that had it died"):
                await asyncio.wait_for(request, PATIENCE)
            await served(own_server.admin(), 0)
            with pytest.raises(ms.NoResponders):
                await mq.request(endpoint, 2)
            await emptied(mq, endpoint)

    async def test_what_waits_for_a_dead_worker(
        self, workshop: Workshop, own_server: Server
    ) -> None:
        """A request that came after its death is told that nobody serves, and never begun."""
        write_worker(workshop)
        program = workshop.worker()
        admin = own_server.admin()
        async with connect(own_server.url) as mq:
            await served(admin)
            program.send(signal.SIGKILL)
            await asyncio.to_thread(program.wait)
            with pytest.raises(ms.NoResponders):
                await asyncio.wait_for(mq.request(work(), 1), PATIENCE)
        assert workshop.events("begun") == []
        assert admin.xlen(KEYS.ready) == 0

    async def test_an_idempotent_one(self, workshop: Workshop, own_server: Server) -> None:
        """Another worker handles it again, and its caller gets one reply."""
        write_worker(workshop, lease=1, idempotent=True)
        endpoint = work(lease=1, idempotent=True)
        admin = own_server.admin()
        workshop.worker()
        workshop.worker()
        async with connect(own_server.url) as mq:
            await served(admin, 2)
            request = asyncio.ensure_future(mq.request(endpoint, 1))
            [begun] = await asyncio.to_thread(workshop.until_told, "begun", 1)
            os.kill(begun.pid, signal.SIGKILL)
            body, pid = await asyncio.wait_for(request, 2 * PATIENCE)

            assert body == 1
            assert pid != begun.pid
            assert [one.more["crashes"] for one in workshop.events("begun")] == [0, 1]

    async def test_an_idempotent_one_with_nobody_else(
        self, workshop: Workshop, own_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that takes long to start again gets it, though nobody serves the endpoint meanwhile."""
        looks, look = list[float](), Pending.is_orphan_for

        def note(pending: Pending, now: float) -> float:
            looks.append(now)
            return look(pending, now)

        monkeypatch.setattr(Pending, "is_orphan_for", note)
        async with connect(own_server.url) as mq:
            asking = await _orphan(workshop, own_server, mq)
            await auntil(lambda: looks, PATIENCE)
            workshop.worker()
            assert (await asking)[0] == 1
        assert [one.more["crashes"] for one in workshop.events("begun")] == [0, 1]

    async def test_an_idempotent_one_and_nobody_comes(
        self, workshop: Workshop, own_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its caller is told so after a while, and nothing is left of it."""
        monkeypatch.setattr(inquiries, "RETURN_WITHIN", 0.5)
        async with connect(own_server.url) as mq:
            asking = await _orphan(workshop, own_server, mq)
            with pytest.raises(ms.NoResponders, match="no other one came for"):
                await asking
            await emptied(mq, work(idempotent=True))

    async def test_one_that_sleeps(self, workshop: Workshop, own_server: Server) -> None:
        """A stopped process counts as dead after its lease; what it replies later is dropped."""
        write_worker(workshop, lease=1)
        endpoint = work(lease=1)
        program = workshop.worker()
        async with connect(own_server.url) as mq:
            await served(own_server.admin())
            request = asyncio.ensure_future(mq.request(endpoint, 1))
            await asyncio.to_thread(workshop.until_told, "begun", 1)
            program.send(signal.SIGSTOP)
            try:
                with pytest.raises(ms.ResponderLost):
                    await asyncio.wait_for(request, PATIENCE)
            finally:
                workshop.raise_flag("go on")
                program.send(signal.SIGCONT)
            await served(own_server.admin())
            assert (await mq.request(endpoint, 2))[0] == 2
            await emptied(mq, endpoint)


class TestStoppedWorker:
    """A supervised worker that is told to end while a handler has a request; another one is there."""

    @pytest.mark.parametrize("idempotent", [False, True])
    @pytest.mark.parametrize("how", ["at once", "in a thread"])
    async def test_it_does_not_wait(
        self, workshop: Workshop, own_server: Server, how: str, idempotent: bool
    ) -> None:
        """Nobody begins again with its request, and its caller hears why; if it may be repeated, somebody does."""
        if how == "at once":
            write_worker(workshop, idempotent=idempotent)
        else:
            workshop.write(STUCK.format(idempotent=idempotent))
        endpoint, admin = work(idempotent=idempotent), own_server.admin()
        supervisor = workshop.supervisor(1, shutdown_timeout=0.1 if how == "in a thread" else 300)
        async with connect(own_server.url) as mq:
            await served(admin)
            request = asyncio.ensure_future(mq.request(endpoint, 1))
            [first] = await asyncio.to_thread(workshop.until_told, "begun", 1)
            workshop.supervisor(1)
            await served(admin, 2)
            supervisor.send(signal.SIGTERM)
            if how == "at once":
                await auntil(lambda: "stopping" in supervisor.output, PATIENCE)
                supervisor.send(signal.SIGINT)
            status = await asyncio.to_thread(supervisor.wait)
            workshop.raise_flag("go on")

            assert status == (130 if how == "at once" else 0)
            if idempotent:
                body, pid = await asyncio.wait_for(request, PATIENCE)
                assert (body, pid != first.pid) == (1, True)
            else:
                with pytest.raises(ms.ResponderLost) as caught:
                    await asyncio.wait_for(request, PATIENCE)
                assert caught.value.reason == "stopped"
            # The other one is at work.
            assert (await mq.request(endpoint, 2))[0] == 2
            await emptied(mq, endpoint)
            stats = await mq.stats(endpoint.queue)
            assert (stats.crashed, stats.dead) == (0, 0 if idempotent else 1)
        assert workshop.bodies("begun") == {1: 1 + idempotent, 2: 1}

    @pytest.mark.slow
    async def test_the_server_is_away(self, workshop: Workshop, own_server: Server) -> None:
        """A worker that cannot end in order for that is killed; its callers hear that it was stopped."""
        write_worker(workshop)
        supervisor = workshop.supervisor(1, shutdown_timeout=0.1)
        async with connect(own_server.url) as mq:
            await served(own_server.admin())
            request = asyncio.ensure_future(mq.request(work(), 1))
            await asyncio.to_thread(workshop.until_told, "begun", 1)
            await asyncio.to_thread(own_server.pause)
            supervisor.send(signal.SIGTERM)
            await auntil(lambda: "killing it" in supervisor.output, PATIENCE)
            await asyncio.to_thread(own_server.resume)
            with pytest.raises(ms.ResponderLost) as caught:
                await asyncio.wait_for(request, PATIENCE)
            assert caught.value.reason == "stopped"
            assert await asyncio.to_thread(supervisor.wait) == 0
            assert (await mq.stats(work().queue)).crashed == 0


class TestKilledCaller:
    async def test_nothing_leaks(self, workshop: Workshop, own_server: Server) -> None:
        """Its handlers finish, its mailbox expires, and what comes for it then is dropped and counted."""
        workshop.write(
            """
async def main():
    async with ms.AsyncClient(namespace="t-faults") as mq:
        endpoint = ms.Endpoint("work", timeout=300)
        record("asking")
        await asyncio.gather(*(mq.request(endpoint, n) for n in range(5)))

if __name__ == "__main__":
    asyncio.run(main())
"""
        )
        admin = own_server.admin()
        worker, gate, begun = ms.Worker(), asyncio.Event(), list[Any]()

        @worker.on(work())
        async def handle(body: Any) -> Any:
            begun.append(body)
            await gate.wait()
            return body

        async with connect(own_server.url) as mq, worker_of(mq, admin, worker):
            program = workshop.script()
            await auntil(lambda: len(begun) == 5, PATIENCE)
            program.send(signal.SIGKILL)
            await asyncio.to_thread(program.wait)
            [mailbox] = admin.scan_iter(match=f"{NAMESPACE}:*:mailbox")
            assert 0 < admin.pttl(mailbox) <= 60_000
            admin.delete(mailbox)  # its minute is over
            gate.set()

            async def over() -> bool:
                stats = await mq.stats(work().queue)
                return (stats.acked, stats.late, stats.in_flight, stats.dead) == (5, 5, 0, 0)

            await auntil(over, PATIENCE)
            assert list(admin.scan_iter(match=f"{NAMESPACE}:*:mailbox")) == []


class TestServer:
    @pytest.mark.parametrize("how", ["kill", "stop"])
    async def test_it_restarts(self, durable_server: Server, how: str) -> None:
        """With what it had on disk, requests in flight are answered when it is back."""
        worker, gate, begun = ms.Worker(), asyncio.Event(), list[Any]()

        @worker.on(work(lease=30))
        async def handle(body: Any) -> Any:
            begun.append(body)
            await gate.wait()
            return body

        async with (
            connect(durable_server.url) as mq,
            connect(durable_server.url) as other,
            worker_of(other, durable_server.admin(), worker),
        ):
            requests = [asyncio.ensure_future(mq.request(work(lease=30), n)) for n in range(20)]
            await auntil(lambda: len(begun) == 20, PATIENCE)
            await asyncio.to_thread(getattr(durable_server, how))
            gate.set()
            await asyncio.to_thread(durable_server.start)
            async with asyncio.timeout(2 * PATIENCE):
                assert await asyncio.gather(*requests) == list(range(20))
            assert sorted(begun) == list(range(20))
            async with asyncio.timeout(PATIENCE):
                await served(durable_server.admin())
                assert await mq.request(work(lease=30), "after") == "after"

    async def test_it_forgets(self, own_server: Server) -> None:
        """Without a disk, what was in flight fails in time, and the next request is answered."""
        worker, gate, begun = ms.Worker(), asyncio.Event(), list[Any]()

        @worker.on(work())
        async def handle(body: Any) -> Any:
            begun.append(body)
            if body == 1:
                await gate.wait()
            return body

        async with (
            connect(own_server.url) as mq,
            connect(own_server.url) as other,
            worker_of(other, own_server.admin(), worker),
        ):
            request = asyncio.ensure_future(mq.request(work(), 1))
            await auntil(lambda: begun == [1], PATIENCE)
            await asyncio.to_thread(own_server.restart)
            with pytest.raises(ms.ResponderLost):
                await asyncio.wait_for(request, PATIENCE)
            gate.set()
            await served(own_server.admin())
            assert await mq.request(work(), 2) == 2


class TestNetwork:
    @pytest.mark.parametrize("side", ["caller", "worker"])
    async def test_cut_again_and_again(self, own_server: Server, proxy: Proxy, side: str) -> None:
        """Each request that was sent is answered, and by its own reply; none is handled twice."""
        worker, handled = ms.Worker(), list[Any]()

        @worker.on(work())
        async def handle(body: int) -> int:
            handled.append(body)
            await asyncio.sleep(0.005)  # the work itself
            return body * 2

        urls = (proxy.url, own_server.url) if side == "caller" else (own_server.url, proxy.url)
        async with (
            connect(urls[0]) as mq,
            connect(urls[1]) as other,
            worker_of(other, own_server.admin(), worker),
        ):
            numbers, found = iter(range(400)), dict[int, Any]()

            async def ask() -> None:
                for number in numbers:
                    try:
                        found[number] = await mq.request(work(), number)
                    except ms.NoResponders:
                        found[number] = None  # the worker was not heard of for a while

            asking = asyncio.gather(*(ask() for _ in range(10)))
            for count in (50, 120, 200, 280):
                await auntil(lambda count=count: len(found) >= count, PATIENCE)  # type: ignore[misc]
                await asyncio.to_thread(proxy.cut)
            async with asyncio.timeout(2 * PATIENCE):
                await asking
        answered = {number: reply for number, reply in found.items() if reply is not None}
        assert answered == {number: number * 2 for number in answered}
        assert len(answered) > 300
        assert sorted(handled) == sorted(set(handled))

    async def test_slow(self, own_server: Server, proxy: Proxy) -> None:
        """Replies that take long arrive all the same."""
        worker = ms.Worker()

        @worker.on(work())
        async def handle(body: int) -> int:
            return body

        async with (
            connect(proxy.url) as mq,
            connect(proxy.url) as other,
            worker_of(other, own_server.admin(), worker),
        ):
            await asyncio.to_thread(proxy.delay, 0.1)
            found = await asyncio.gather(*(mq.request(work(), n) for n in range(50)))
            assert found == list(range(50))

    @pytest.mark.parametrize("how", ["cut", "freeze"])
    async def test_a_reply_comes_while_its_caller_is_away(
        self, own_server: Server, proxy: Proxy, how: str
    ) -> None:
        """It waits in the mailbox, and the caller gets it when it is back."""
        admin = own_server.admin()
        worker, gate, begun = ms.Worker(), asyncio.Event(), list[Any]()

        @worker.on(work())
        async def handle(body: Any) -> Any:
            begun.append(body)
            await gate.wait()
            return body

        async with (
            connect(proxy.url, timeout=2) as mq,
            connect(own_server.url) as other,
            worker_of(other, admin, worker),
        ):
            request = asyncio.ensure_future(mq.request(work(), 1))
            await auntil(lambda: begun == [1], PATIENCE)
            if how == "cut":
                await asyncio.to_thread(proxy.refuse)
                await asyncio.to_thread(proxy.cut)
            else:
                # Its connections are dead, and nobody has told it.
                await asyncio.to_thread(proxy.freeze)
            gate.set()
            [mailbox] = admin.scan_iter(match=f"{NAMESPACE}:*:mailbox")
            await auntil(lambda: replied(admin, mailbox), PATIENCE)
            await asyncio.to_thread(proxy.accept)
            assert await asyncio.wait_for(request, PATIENCE) == 1

    async def test_a_lost_confirmation(self, own_server: Server, proxy: Proxy) -> None:
        """A request whose receipt was lost is stored, handled and answered once."""
        worker, handled = ms.Worker(), list[Any]()

        @worker.on(work())
        async def handle(body: Any) -> Any:
            handled.append(body)
            return body

        async with (
            connect(proxy.url) as mq,
            connect(own_server.url) as other,
            worker_of(other, own_server.admin(), worker),
        ):
            assert await mq.request(work(), 0) == 0
            await asyncio.to_thread(lambda: proxy.drop_replies(to=KEYS.members.encode()))
            assert await asyncio.wait_for(mq.request(work(), 1), PATIENCE) == 1
            assert proxy.lost == 1
        assert handled == [0, 1]


def test_a_blocking_caller_through_a_cut(
    own_server: Server, proxy: Proxy, workshop: Workshop
) -> None:
    """Its reply waits for it, too."""
    write_worker(workshop)
    workshop.worker()
    admin = own_server.admin()
    until(lambda: len(members(admin, KEYS)) == 1, PATIENCE)
    with ms.Client(proxy.url, namespace=NAMESPACE) as mq:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(mq.request(work(), 1)))
        thread.start()
        workshop.until_told("begun", 1)
        proxy.refuse()
        proxy.cut()
        workshop.raise_flag("go on")
        workshop.until_told("ended", 1)
        proxy.accept()
        thread.join(PATIENCE)
        assert [body for body, _ in found] == [1]
