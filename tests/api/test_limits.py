"""Limits as `receive` keeps to them: a rate, and how many are in flight at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

import millstream as ms
from millstream.aio.part import Part
from millstream.protocol.keys import GROUP, queue_keys
from millstream.protocol.watch import Watch, listen
from tests.api.clients import Connect, Kind, connecting, counts, drain, take, take_one
from tests.support.servers import Server
from tests.support.wait import auntil

PATIENCE = 30.0
HOUR = 3600


@pytest.fixture
async def any_connect(kind: Kind, any_url: str, namespace: str) -> AsyncIterator[Connect]:
    """Make clients of each supported server in turn."""
    async with connecting(kind, any_url, namespace) as connect:
        yield connect


class Receivers:
    """Several clients that receive side by side."""

    def __init__(self, queue: ms.Queue[Any]) -> None:
        self.queue = queue
        self.bodies: list[Any] = []
        self.running = self.most = self.unsettled = 0

    async def receive(self, client: ms.AsyncClient, work: float, **options: Any) -> None:
        """Handle one after the other, until the client is closed."""
        async for delivery in client.receive(self.queue, wait=PATIENCE, **options):
            self.unsettled += 1
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(work)  # the work itself
            self.running -= 1
            self.bodies.append(delivery.body)
            await delivery.ack()
            self.unsettled -= 1

    @asynccontextmanager
    async def at_work(
        self, connect: Connect, *prefetches: int, work: float = 0
    ) -> AsyncIterator[None]:
        """A receiver for each number, until the block ends."""
        clients = [await connect() for _ in prefetches]
        tasks = [
            asyncio.create_task(self.receive(client, work, prefetch=number))
            for client, number in zip(clients, prefetches, strict=True)
        ]
        try:
            yield
            # A client that is closed cannot settle.
            await auntil(lambda: not self.unsettled, PATIENCE)
        finally:
            for client in clients:
                await client.aclose()
            await asyncio.gather(*tasks)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that nobody else uses."""
    with Server() as server:
        yield server


async def asleep(server: Server, receivers: int) -> None:
    """Wait until so many receivers sleep at the server."""

    def still() -> bool:
        return sum("b" in one["flags"] for one in server.admin().client_list()) == receivers

    await auntil(still, PATIENCE)


class TestMaxRunning:
    async def test_never_more_at_a_time(self, any_connect: Connect) -> None:
        """Three receivers share the slots, whatever each of them fetches ahead."""
        mq = await any_connect()
        receivers = Receivers(ms.Queue("few", max_running=4))
        in_flight = []
        await mq.send_many(receivers.queue, range(60))
        async with receivers.at_work(any_connect, 1, 2, 10, work=0.003):

            async def drained() -> bool:
                in_flight.append((await mq.stats(receivers.queue)).in_flight)
                return await counts(mq, receivers.queue) == (0, 0, 0, 0)

            await auntil(drained, PATIENCE)
        assert sorted(receivers.bodies) == [*range(60)]
        assert max(in_flight) <= 4
        assert receivers.most <= 3

    async def test_what_is_fetched_ahead_counts(self, mq: ms.AsyncClient) -> None:
        """The buffer of a receiver is in flight."""
        queue: ms.Queue[Any] = ms.Queue("few", max_running=4)
        await mq.send_many(queue, range(9))

        async with aclosing(mq.receive(queue, prefetch=10, wait=0)) as deliveries:
            await anext(deliveries)
            assert await counts(mq, queue) == (5, 0, 4, 0)
            assert await take(mq, queue, wait=0) == []

    @pytest.mark.parametrize("end", ["ack", "retry", "reject", "release", "cancel"])
    async def test_every_end_frees_the_slot(
        self, connect: Connect, server: Server, end: str
    ) -> None:
        """A receiver that sleeps meanwhile has the next message at once."""
        mq, other = await connect(), await connect()
        queue: ms.Queue[Any] = ms.Queue("one", max_running=1)
        await mq.send_many(queue, ["first", "second"])
        first = await take_one(mq, queue)
        waiting = asyncio.create_task(take_one(other, queue, wait=PATIENCE))
        await asleep(server, 1)

        if end == "cancel":
            assert await mq.cancel(queue, first.id)
        elif end == "retry":
            await first.retry(delay=HOUR)
        else:
            await getattr(first, end)(*(["no"] if end == "reject" else []))

        next_one = await asyncio.wait_for(waiting, PATIENCE / 2)
        # What is handed back comes first.
        assert next_one.body == ("first" if end == "release" else "second")
        await next_one.ack()

    async def test_a_lease_that_runs_out_frees_its_slot(self, connect: Connect) -> None:
        """Who waits for a slot takes over what nobody holds any more."""
        mq, other = await connect(), await connect()
        queue: ms.Queue[Any] = ms.Queue("one", max_running=1, lease=0.5)
        await mq.send_many(queue, [1, 2])
        await take_one(mq, queue)

        again = await take_one(other, queue, wait=PATIENCE)

        assert (again.body, again.crashes) == (1, 1)
        await again.ack()
        assert [one.body for one in await drain(other, queue)] == [2]

    async def test_in_an_ordered_queue(self, connect: Connect) -> None:
        """Both hold: one of a key at a time and in order, and so many of all keys."""
        mq = await connect()
        queue: ms.Queue[Any] = ms.Queue("both", ordered=True, max_running=2)
        receivers = Receivers(queue)
        sent = [f"{key}{number}" for number in range(8) for key in "abc"]
        await mq.send_many(queue, sent, key=lambda body: body[0])
        first = await take(mq, queue, 3, wait=0)
        assert sorted(one.body for one in first) == ["a0", "b0"]
        for delivery in first:
            await delivery.release()
        async with receivers.at_work(connect, 1, 2, 3, work=0.002):
            await auntil(lambda: len(receivers.bodies) == len(sent), PATIENCE)
        assert receivers.most <= 2
        for key in "abc":
            own = [body for body in receivers.bodies if body[0] == key]
            assert own == [body for body in sent if body[0] == key]


class TestRate:
    @pytest.mark.parametrize("rate", [ms.Rate(100, burst=1), ms.Rate(10, per=0.1)], ids=str)
    async def test_never_more_and_not_much_less(self, any_connect: Connect, rate: ms.Rate) -> None:
        """Three receivers together keep to the rate, and reach it."""
        mq, count = await any_connect(), 60
        receivers = Receivers(ms.Queue("slow", rate=rate))
        async with receivers.at_work(any_connect, 1, 1, 20):
            began = time.monotonic()
            await mq.send_many(receivers.queue, range(count))
            await auntil(lambda: len(receivers.bodies) == count, PATIENCE)
            elapsed = time.monotonic() - began
        needed = (count - rate.most_at_once) / rate.count * rate.per_ms / 1000
        assert needed - 0.002 <= elapsed < 4 * needed + 4

    async def test_nothing_to_wait_for(self, mq: ms.AsyncClient) -> None:
        """With wait=0 the iteration ends when the rate is used up, and with another wait then."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(2, per=HOUR))
        await mq.send_many(queue, range(5))

        assert [one.body for one in await drain(mq, queue)] == [0, 1]
        began = time.monotonic()
        assert await drain(mq, queue, wait=0.3) == []
        assert 0.3 <= time.monotonic() - began < 5
        assert await counts(mq, queue) == (3, 0, 0, 0)

    async def test_a_wait_that_is_long_enough(self, mq: ms.AsyncClient) -> None:
        """The receiver sleeps until there is a token."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(1, per=0.4))
        await mq.send_many(queue, [1, 2])
        began = time.monotonic()

        taken = await take(mq, queue, 2, prefetch=1, wait=PATIENCE)

        assert [one.body for one in taken] == [1, 2]
        assert 0.39 <= time.monotonic() - began < 10

    async def test_who_waits_can_be_closed(self, connect: Connect, server: Server) -> None:
        """It does not wait for the token."""
        mq, other = await connect(), await connect()
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(1, per=HOUR))
        await mq.send_many(queue, [1, 2])
        await drain(mq, queue)
        waiting = asyncio.create_task(take(other, queue, wait=HOUR))
        await asleep(server, 1)

        await other.aclose()

        assert await asyncio.wait_for(waiting, PATIENCE / 2) == []

    async def test_and_a_pause(self, connect: Connect, server: Server) -> None:
        """A token that comes while the queue is paused is kept for what comes after it."""
        mq, other = await connect(), await connect()
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(1, per=3))
        await mq.send_many(queue, [1, 2, 3])
        await (await take_one(mq, queue)).ack()
        waiting = asyncio.create_task(take_one(other, queue, wait=PATIENCE))
        await asleep(server, 1)

        await mq.pause(queue)
        await asyncio.sleep(3.5)  # the work itself
        assert not waiting.done()
        await mq.resume(queue)

        second = await asyncio.wait_for(waiting, PATIENCE / 2)
        assert second.body == 2
        await second.ack()

    async def test_a_paused_queue_uses_no_tokens(self, mq: ms.AsyncClient) -> None:
        """Looks at it cost nothing."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(2, per=HOUR))
        await mq.send_many(queue, range(5))
        await mq.pause(queue)
        for _ in range(3):
            assert await drain(mq, queue) == []

        await mq.resume(queue)

        assert [one.body for one in await drain(mq, queue)] == [0, 1]

    async def test_and_priorities(self, any_mq: ms.AsyncClient) -> None:
        """Each token is for what is most urgent when it comes."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(1, per=0.2))
        await any_mq.send_many(queue, ["low"] * 3)
        got = []
        async for delivery in any_mq.receive(queue, prefetch=5, wait=PATIENCE):
            got.append(delivery.body)
            await delivery.ack()
            if len(got) == 2:
                await any_mq.send(queue, "high", priority=3)
                await any_mq.send(queue, "highest", priority=9)
            if len(got) == 5:
                break
        assert got == ["low", "low", "highest", "high", "low"]

    async def test_and_weighted_priorities(self, mq: ms.AsyncClient) -> None:
        """Token for token, each priority gets its share."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(500, burst=1), priorities="weighted")
        await mq.send_many(queue, [0] * 40)
        await mq.send_many(queue, [4] * 60, priority=4)

        taken = await take(mq, queue, 48, prefetch=48, wait=PATIENCE)

        assert 36 <= sum(one.body == 4 for one in taken) <= 44  # five sixths are 40

    async def test_and_delays(self, mq: ms.AsyncClient) -> None:
        """What is due at once is spread, and nothing is early."""
        queue: ms.Queue[Any] = ms.Queue("slow", rate=ms.Rate(50, burst=5))
        began = time.monotonic()
        await mq.send_many(queue, range(25), delay=0.5)
        times = []
        async for delivery in mq.receive(queue, prefetch=20, wait=PATIENCE):
            times.append(time.monotonic() - began)
            await delivery.ack()
            if len(times) == 25:
                break

        assert times[0] >= 0.499
        assert times[-1] >= 0.5 + 20 / 50 - 0.002
        assert times[-1] < 15


@pytest.mark.parametrize("reason", ["tokens", "slots", "messages"])
async def test_waiting_costs_nothing(kind: Kind, own_server: Server, reason: str) -> None:
    """Three receivers that wait make the server do less than one command a second each."""
    options: dict[str, dict[str, Any]] = {
        "tokens": {"rate": ms.Rate(1, per=HOUR)},
        "slots": {"max_running": 1},
        "messages": {"rate": ms.Rate(100), "max_running": 5},
    }
    queue: ms.Queue[Any] = ms.Queue("still", **options[reason])
    admin = own_server.admin()

    def commands() -> int:
        return int(admin.info("stats")["total_commands_processed"])

    async with connecting(kind, own_server.url, "t-wait") as connect:
        mq = await connect()
        if reason != "messages":
            await mq.send_many(queue, range(5))
            await take_one(mq, queue)
        async with Receivers(queue).at_work(connect, 1, 5, 5):
            await asleep(own_server, 3)
            if reason == "tokens":
                # Three that wait for one are told times that are up to a second apart.
                await asyncio.sleep(1.2)  # the work itself
            began, before = time.monotonic(), commands()
            await asyncio.sleep(2)  # the work itself
            elapsed, after = time.monotonic() - began, commands()
    assert after - before - 1 < elapsed * 3  # one was the question itself


async def test_a_wake_up_at_the_last_moment(server: Server, url: str, namespace: str) -> None:
    """Who was told of a free slot when it had its message already tells another one."""
    queue: ms.Queue[Any] = ms.Queue("few", max_running=2)
    keys, admin = queue_keys(namespace, queue.name), server.admin()
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        part = Part(mq.driver, mq.lease_keeper(), queue=queue, keys=keys, consumer="a", prefetch=1)
        await part.register()
        told = admin.xadd(keys.wake, {"free": "1"})
        [found] = await mq.driver.run(listen([(keys, Watch(limited=True))], "a", 1000))
        assert found.woken == [told]
        part.woke(found, 0.0)

        await part.pass_on()

    assert [fields for _, fields in admin.xrange(keys.wake) or ()] == [{b"free": b"2"}]
    assert admin.xpending(keys.wake, GROUP)["pending"] == 0
