"""Handlers that take many messages at a time: which ones, when, and how each of them ends."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest
import redis

import millstream as ms
from millstream.protocol.keys import GROUP, queue_keys
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, run_burst, running
from tests.worker.test_suspects import crash

NEVER = 3600.0
"""A batch that is not full does not begin during the test."""

Batch = list[ms.Delivery[Any]]
SyncBatch = list[ms.SyncDelivery[Any]]


class Order(msgspec.Struct):
    id: int


async def reasons(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> dict[Any, str]:
    """Why which messages are with the dead letters."""
    return {letter.body: letter.reason for letter in await mq.dead(queue)}


def holding(
    worker: ms.Worker, queue: ms.Queue[Any], batch_wait: float
) -> tuple[list[list[int]], asyncio.Event]:
    """A handler of batches of ten that does not return before the event: what it began with."""
    batches: list[list[int]] = []
    go_on = asyncio.Event()

    @worker.on(queue, batch=10, batch_wait=batch_wait)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)
        await go_on.wait()

    return batches, go_on


class TestLists:
    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_bodies_and_deliveries(
        self, worker: ms.Worker, any_mq: ms.AsyncClient, kind: str
    ) -> None:
        """A handler gets a list of bodies and one of deliveries, and its return acks them all."""
        queue = ms.Queue("typed", Order)
        seen: list[Any] = []
        deliveries_are: set[type] = set()

        if kind == "async":

            @worker.on(queue, batch=10)
            async def handle(orders: list[Order], deliveries: list[ms.Delivery[Order]]) -> None:
                deliveries_are.update(map(type, deliveries))
                assert orders == [delivery.body for delivery in deliveries]
                seen.extend(
                    (order.id, one.id) for order, one in zip(orders, deliveries, strict=True)
                )

        else:

            @worker.on(queue, batch=10)
            def handle_in_thread(
                orders: list[Order], deliveries: list[ms.SyncDelivery[Order]]
            ) -> None:
                assert threading.current_thread() is not threading.main_thread()
                deliveries_are.update(map(type, deliveries))
                assert orders == [delivery.body for delivery in deliveries]
                seen.extend(
                    (order.id, one.id) for order, one in zip(orders, deliveries, strict=True)
                )

        receipts = await any_mq.send_many(queue, [Order(n) for n in range(25)])
        await run_burst(worker, any_mq)

        assert seen == [(n, receipt.id) for n, receipt in enumerate(receipts)]
        assert deliveries_are == {ms.Delivery if kind == "async" else ms.SyncDelivery}
        assert await counts(any_mq, queue) == (0, 0, 0, 0)
        assert (await any_mq.stats(queue)).acked == 25

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_bodies_alone(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
    ) -> None:
        """A handler with one parameter gets the list of bodies."""
        seen: list[Any] = []

        if kind == "async":

            @worker.on(queue, batch=10)
            async def handle(bodies: list[int]) -> None:
                seen.extend(bodies)

        else:

            @worker.on(queue, batch=10)
            def handle_in_thread(bodies: list[int]) -> None:
                seen.extend(bodies)

        await mq.send_many(queue, range(25))
        await run_burst(worker, mq)

        assert seen == [*range(25)]

    async def test_the_lists_are_the_handlers(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """What a handler does to its lists changes nothing in how its messages end."""

        @worker.on(queue, batch=10)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            bodies.clear()
            deliveries.clear()

        await mq.send_many(queue, range(10))
        await run_burst(worker, mq)

        assert (await mq.stats(queue)).acked == 10


class TestWhen:
    async def test_full_batches(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A full batch begins at once, in order of arrival; the rest waits for company."""
        batches: list[list[int]] = []

        @worker.on(queue, batch=10, batch_wait=NEVER)
        async def handle(bodies: list[int]) -> None:
            batches.append(bodies)

        await mq.send_many(queue, range(35))
        async with running(worker, mq):
            await auntil(lambda: len(batches) == 3, PATIENCE)
            await becomes(mq, queue, (0, 0, 5, 0))
            await mq.send_many(queue, range(35, 40))
            await auntil(lambda: len(batches) == 4, PATIENCE)
        assert batches == [[*range(n, n + 10)] for n in range(0, 40, 10)]

    async def test_one_by_one(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Messages that come one at a time make a full batch, too, also with the least prefetch."""
        batches: list[list[int]] = []

        @worker.on(queue, batch=10, batch_wait=NEVER, prefetch=10)
        async def handle(bodies: list[int]) -> None:
            batches.append(bodies)

        async with running(worker, mq):
            for n in range(30):
                await mq.send(queue, n)
            await auntil(lambda: len(batches) == 3, PATIENCE)
        assert batches == [[*range(n, n + 10)] for n in range(0, 30, 10)]

    async def test_not_full(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """What is there begins batch_wait after the first message, however many follow it."""
        begun: list[tuple[float, list[int]]] = []
        wait = 1.5

        @worker.on(queue, batch=10_000, batch_wait=wait)
        async def handle(bodies: list[int]) -> None:
            begun.append((time.monotonic(), bodies))

        async with running(worker, mq):
            sent = time.monotonic()
            n = 0
            while not begun:
                await mq.send(queue, n)
                n += 1
                await asyncio.sleep(0.01)  # the work itself
        when, bodies = begun[0]
        assert wait <= when - sent < wait + 5
        assert bodies == [*range(len(bodies))]
        assert len(bodies) > 3

    async def test_nothing_to_wait_for(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """With batch_wait=0 a batch is what is there when a handler is free."""
        batches, go_on = holding(worker, queue, batch_wait=0)
        async with running(worker, mq):
            await mq.send(queue, 0)
            await auntil(lambda: batches)
            await mq.send_many(queue, range(1, 8))
            await becomes(mq, queue, (0, 0, 8, 0))
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert batches == [[0], [*range(1, 8)]]

    async def test_a_batch_grows_while_handlers_are_busy(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A batch whose time has come takes in what arrives until a handler is free for it."""
        batches, go_on = holding(worker, queue, batch_wait=0.001)
        async with running(worker, mq):
            await mq.send(queue, 0)
            await auntil(lambda: batches)
            for n in range(1, 10):
                await mq.send(queue, n)
                await becomes(mq, queue, (0, 0, n + 1, 0))
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert batches == [[0], [*range(1, 10)]]

    async def test_what_comes_back_does_not_wait_again(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Messages that were handed back stand first, and hold up nobody who was there before."""
        batches: list[list[int]] = []

        @worker.on(queue, batch=4, batch_wait=NEVER)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            batches.append(bodies)
            if len(batches) == 1:
                await deliveries[0].release()
                await deliveries[2].release()

        async with running(worker, mq):
            await mq.send_many(queue, range(5))
            await auntil(lambda: len(batches) == 1)
            await becomes(mq, queue, (0, 0, 3, 0))
            await mq.send(queue, 5)
            await auntil(lambda: len(batches) == 2)
        assert batches[0] == [0, 1, 2, 3]
        assert (sorted(batches[1][:2]), batches[1][2:]) == ([0, 2], [4, 5])

    async def test_burst(self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A burst ends when the last batch, which is not full, is done, retries included."""
        batches: list[list[int]] = []

        @worker.on(queue, batch=10, batch_wait=0.02)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            batches.append(bodies)
            if deliveries[0].attempt == 1:
                await deliveries[0].retry()

        await mq.send_many(queue, range(23))
        await run_burst(worker, mq)

        assert batches[:3] == [[*range(10)], [*range(10, 20)], [20, 21, 22]]
        assert sorted(n for batch in batches[3:] for n in batch) == [0, 10, 20]
        assert await counts(mq, queue) == (0, 0, 0, 0)


class TestHowMany:
    @pytest.mark.parametrize("kind", ["async", "sync"])
    @pytest.mark.parametrize(("declared", "overridden"), [(None, None), (3, None), (3, 2)])
    async def test_batches_at_a_time(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        kind: str,
        declared: int | None,
        overridden: int | None,
    ) -> None:
        """One batch at a time, or so many as declared, or as said when it is run; no more."""
        wanted = overridden or declared or 1
        go_on = threading.Event()
        begun: list[list[int]] = []

        if kind == "async":

            @worker.on(queue, batch=5, batch_wait=NEVER, concurrency=declared)
            async def handle(bodies: list[int]) -> None:
                begun.append(bodies)
                await auntil(go_on.is_set, PATIENCE)

        else:

            @worker.on(queue, batch=5, batch_wait=NEVER, concurrency=declared)
            def handle_in_thread(bodies: list[int]) -> None:
                begun.append(bodies)
                assert go_on.wait(PATIENCE)

        await mq.send_many(queue, range(50))
        run = worker.prepare(mq, concurrency=overridden)
        task = asyncio.create_task(run.work(burst=True))
        # Beside the batches in hand, the worker holds the next one, so that nobody waits for it.
        held = 5 * (wanted + 1)
        await becomes(mq, queue, (50 - held, 0, held, 0))
        # The server knows of a delivery a moment before its handler begins.
        await auntil(lambda: len(begun) == wanted, PATIENCE)
        go_on.set()
        async with asyncio.timeout(PATIENCE):
            await task

        assert sorted(n for batch in begun for n in batch) == [*range(50)]
        assert {len(batch) for batch in begun} == {5}

    async def test_a_batch_of_one(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """batch=1 is allowed: lists with one message each."""
        batches: list[list[int]] = []

        @worker.on(queue, batch=1, batch_wait=NEVER)
        async def handle(bodies: list[int]) -> None:
            batches.append(bodies)

        await mq.send_many(queue, range(200))
        await run_burst(worker, mq)

        assert batches == [[n] for n in range(200)]

    async def test_the_largest(self, worker: ms.Worker, mq: ms.AsyncClient) -> None:
        """Ten thousand messages fail together, come back, and end together."""
        queue: ms.Queue[Any] = ms.Queue("large", retry=ms.Retry(max_attempts=2, backoff=SOON))
        sizes: list[int] = []

        @worker.on(queue, batch=10_000, batch_wait=1)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            sizes.append(len(bodies))
            if deliveries[0].attempt == 1:
                raise RuntimeError("once more")

        await mq.send_many(queue, range(10_000))
        await run_burst(worker, mq)

        assert sizes[0] == 10_000
        assert sum(sizes) == 20_000
        stats = await mq.stats(queue)
        assert (stats.acked, stats.retried, stats.dead) == (10_000, 10_000, 0)


class TestEnds:
    @pytest.mark.parametrize("kind", ["async", "sync"])
    @pytest.mark.parametrize("raises", [True, False])
    async def test_single_messages(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        kind: str,
        raises: bool,
    ) -> None:
        """What the handler settles itself stays so; its return or exception is for the others."""
        seen: list[tuple[int, int]] = []

        if kind == "async":

            @worker.on(queue, batch=6)
            async def handle(bodies: list[int], deliveries: Batch) -> None:
                seen.extend((one.body, one.attempt) for one in deliveries)
                if len(bodies) == 6:
                    await deliveries[0].ack()
                    await deliveries[1].reject("bad")
                    await asyncio.gather(deliveries[2].retry(), deliveries[3].retry(delay=0))
                    if raises:
                        raise RuntimeError("the others")

        else:

            @worker.on(queue, batch=6)
            def handle_in_thread(bodies: list[int], deliveries: SyncBatch) -> None:
                seen.extend((one.body, one.attempt) for one in deliveries)
                if len(bodies) == 6:
                    deliveries[0].ack()
                    deliveries[1].reject("bad")
                    deliveries[2].retry()
                    deliveries[3].retry(delay=0)
                    if raises:
                        raise RuntimeError("the others")

        await mq.send_many(queue, range(6))
        await run_burst(worker, mq)

        again = [2, 3, 4, 5] if raises else [2, 3]
        assert seen[:6] == [(n, 1) for n in range(6)]
        assert sorted(seen[6:]) == [(n, 2) for n in again]
        assert await reasons(mq, queue) == {1: "bad"}
        stats = await mq.stats(queue)
        assert (stats.acked, stats.retried) == (5, len(again))

    async def test_release(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A message of a batch may be handed back alone, without blame."""
        seen: list[tuple[int, int]] = []

        @worker.on(queue, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            seen.extend((one.body, one.attempt) for one in deliveries)
            if len(bodies) == 3:
                await deliveries[1].release()

        await mq.send_many(queue, range(3))
        await run_burst(worker, mq)

        assert seen == [(0, 1), (1, 1), (2, 1), (1, 1)]

    async def test_each_has_its_own_attempts(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Of a batch that fails, those go to the dead letters that have no attempt left."""
        seen: list[list[tuple[int, int]]] = []
        together = asyncio.Event()

        @worker.on(queue, batch=2, batch_wait=1.5)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            seen.append(sorted((one.body, one.attempt) for one in deliveries))
            if seen[-1] == [(0, 2)]:
                together.set()
            raise RuntimeError("never works")

        async with running(worker, mq):
            await mq.send(queue, 0)
            await together.wait()
            await mq.send(queue, 1)
            await becomes(mq, queue, (0, 0, 0, 2))

        assert [(0, 3), (1, 1)] in seen
        assert await reasons(mq, queue) == {0: "attempts", 1: "attempts"}
        assert {letter.attempts for letter in await mq.dead(queue)} == {3}
        assert "and 1 more of its batch: RuntimeError: never works" in caplog.text
        assert "1 to the dead letters" in caplog.text

    async def test_reject(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Reject sends what is not settled to the dead letters."""

        @worker.on(queue, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            await deliveries[0].ack()
            raise ms.Reject("not for us")

        await mq.send_many(queue, range(3))
        await run_burst(worker, mq)

        assert await reasons(mq, queue) == {1: "not for us", 2: "not for us"}
        assert (await mq.stats(queue)).acked == 1

    async def test_retry_later(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """RetryLater has its delay for each message that is not settled."""

        @worker.on(queue, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            await deliveries[0].ack()
            raise ms.RetryLater(delay=600)

        await mq.send_many(queue, range(3))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 2, 0, 0))
        assert (await mq.stats(queue)).acked == 1
        assert await mq.purge(queue, confirm=True) == 2

    async def test_raising_after_everything_is_settled(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """An exception changes nothing when each message has its end."""

        @worker.on(queue, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            await asyncio.gather(*(delivery.ack() for delivery in deliveries))
            raise RuntimeError("too late")

        await mq.send_many(queue, range(3))
        await run_burst(worker, mq)

        stats = await mq.stats(queue)
        assert (stats.acked, stats.retried, stats.dead) == (3, 0, 0)

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_its_time_limit(self, worker: ms.Worker, mq: ms.AsyncClient, kind: str) -> None:
        """The time limit is for the call; what is settled before it is over stays settled."""
        queue: ms.Queue[Any] = ms.Queue("slow", retry=ms.Retry(max_attempts=1))

        if kind == "async":

            @worker.on(queue, batch=3, timeout=1)
            async def handle(bodies: list[int], deliveries: Batch) -> None:
                await deliveries[0].ack()
                await asyncio.Event().wait()

        else:

            @worker.on(queue, batch=3, timeout=1)
            def handle_in_thread(bodies: list[int], deliveries: SyncBatch) -> None:
                deliveries[0].ack()
                end = time.monotonic() + PATIENCE
                while time.monotonic() < end:
                    pass

        await mq.send_many(queue, range(3))
        await run_burst(worker, mq)

        letters = {letter.body: letter.error or "" for letter in await mq.dead(queue)}
        assert sorted(letters) == [1, 2]
        assert all("TimeoutError" in error for error in letters.values())

    async def test_undecodable_among_good_ones(self, worker: ms.Worker, mq: ms.AsyncClient) -> None:
        """What cannot be read goes to the dead letters alone; the others are handled."""
        queue = ms.Queue("typed", Order)
        loose: ms.Queue[Any] = ms.Queue("typed")
        batches: list[list[Order]] = []

        @worker.on(queue, batch=4)
        async def handle(orders: list[Order], deliveries: list[ms.Delivery[Order]]) -> None:
            assert [one.body for one in deliveries] == orders
            batches.append(orders)

        await mq.send_many(loose, [{"id": 1}, "no order", {"id": 2}, {"id": "three"}])
        await mq.send_many(loose, ["none", "of", "them", "is"])
        await run_burst(worker, mq)

        assert batches == [[Order(1), Order(2)]]
        assert await counts(mq, queue) == (0, 0, 0, 6)
        assert {letter.reason for letter in await mq.dead(loose)} == {"undecodable"}


class TestLeases:
    @pytest.fixture
    def short(self) -> ms.Queue[Any]:
        """A queue whose leases are looked after often."""
        return ms.Queue("short", lease=1.5)

    def take_away(
        self, admin: redis.Redis, mq: ms.AsyncClient, queue: ms.Queue[Any], *tokens: bytes
    ) -> None:
        """End deliveries behind the worker's back, as another owner would."""
        ready = queue_keys(mq.namespace, queue.name).ready
        assert admin.xack(ready, GROUP, *tokens) == len(tokens)
        admin.xdel(ready, *tokens)

    async def test_one_is_lost(
        self, worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any], admin: redis.Redis
    ) -> None:
        """Its delivery says so and cannot be settled; the others go on and are acknowledged."""
        held: Batch = []
        go_on = asyncio.Event()
        outcomes: list[str] = []

        @worker.on(short, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            held.extend(deliveries)
            await go_on.wait()
            try:
                await deliveries[1].ack()
            except ms.LeaseLost:
                outcomes.append("LeaseLost")

        await mq.send_many(short, range(3))
        async with running(worker, mq):
            await auntil(lambda: held)
            self.take_away(admin, mq, short, held[1].envelope.token)
            await auntil(lambda: held[1].lease_lost, PATIENCE)
            assert [one.lease_lost for one in held] == [False, True, False]
            go_on.set()
            await auntil(lambda: outcomes)
        assert outcomes == ["LeaseLost"]
        stats = await mq.stats(short)
        assert (stats.acked, stats.retried, stats.dead) == (2, 0, 0)

    async def test_an_exception_is_not_for_the_lost(
        self, worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any], admin: redis.Redis
    ) -> None:
        """A message that is not ours any more is not tried again by us."""
        held: Batch = []

        @worker.on(short, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            if held:
                return
            held.extend(deliveries)
            await auntil(lambda: deliveries[1].lease_lost, PATIENCE)
            raise ms.RetryLater(delay=0)

        await mq.send_many(short, range(3))
        async with running(worker, mq):
            await auntil(lambda: held)
            self.take_away(admin, mq, short, held[1].envelope.token)
            await becomes(mq, short, (0, 0, 0, 0))
        stats = await mq.stats(short)
        assert (stats.acked, stats.retried, stats.dead) == (2, 2, 0)

    async def test_all_are_lost(
        self, worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any], admin: redis.Redis
    ) -> None:
        """A coroutine is cancelled when nothing is left to it, and not before; the slot goes on."""
        held: Batch = []
        ended: list[list[bool]] = []
        handled: list[int] = []

        @worker.on(short, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            if held:
                handled.extend(bodies)
                return
            held.extend(deliveries)
            await deliveries[0].ack()
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            finally:
                ended.append([one.lease_lost for one in deliveries])

        await mq.send_many(short, range(3))
        async with running(worker, mq):
            await auntil(lambda: held)
            await becomes(mq, short, (0, 0, 2, 0))
            self.take_away(admin, mq, short, held[1].envelope.token)
            await auntil(lambda: held[1].lease_lost, PATIENCE)
            assert ended == []
            self.take_away(admin, mq, short, held[2].envelope.token)
            await auntil(lambda: ended, PATIENCE)
            await mq.send_many(short, range(3, 6))
            await auntil(lambda: len(handled) == 3)
        assert ended == [[False, True, True]]
        assert handled == [3, 4, 5]
        assert (await mq.stats(short)).acked == 4

    async def test_in_a_thread(
        self, worker: ms.Worker, mq: ms.AsyncClient, short: ms.Queue[Any], admin: redis.Redis
    ) -> None:
        """A thread is told by its deliveries, and what it still has is acknowledged."""
        held: SyncBatch = []
        refused: list[int] = []

        @worker.on(short, batch=3)
        def handle(bodies: list[int], deliveries: SyncBatch) -> None:
            held.extend(deliveries)
            end = time.monotonic() + PATIENCE
            while not deliveries[1].lease_lost and time.monotonic() < end:
                time.sleep(0.01)  # the work itself
            for delivery in deliveries[:2]:
                try:
                    delivery.ack()
                except ms.LeaseLost:
                    refused.append(delivery.body)

        await mq.send_many(short, range(3))
        async with running(worker, mq):
            await auntil(lambda: held)
            self.take_away(admin, mq, short, held[1].envelope.token)
            await auntil(lambda: refused, PATIENCE)
        assert refused == [1]
        assert (await mq.stats(short)).acked == 2

    async def test_kept_while_a_batch_gathers(
        self, mq: ms.AsyncClient, other: ms.AsyncClient, short: ms.Queue[Any]
    ) -> None:
        """Messages that wait for company for longer than a lease stay with their worker."""
        batches: list[list[int]] = []
        stolen: list[int] = []
        worker, rival = ms.Worker(), ms.Worker()

        @worker.on(short, batch=10, batch_wait=2)
        async def handle(bodies: list[int]) -> None:
            batches.append(bodies)

        @rival.on(short)
        async def steal(body: int) -> None:
            stolen.append(body)

        await mq.send_many(short, range(3))
        async with running(worker, mq):
            await becomes(mq, short, (0, 0, 3, 0))
            async with running(rival, other):
                await becomes(mq, short, (0, 0, 0, 0))
        assert batches == [[0, 1, 2]]
        assert stolen == []


class TestSuspects:
    async def test_a_batch_of_its_own(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A message whose consumers died is handled alone, without waiting; others stay together."""
        batches: list[list[tuple[int, int]]] = []

        @worker.on(queue, batch=10, batch_wait=0.1)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            batches.append([(one.body, one.crashes) for one in deliveries])

        await mq.send_many(queue, range(3))
        await crash(mq, queue, 3)
        await mq.send_many(queue, range(3, 20))
        await run_burst(worker, mq)

        suspects = [batch for batch in batches if any(crashes for _, crashes in batch)]
        assert sorted(suspects) == [[(0, 2)], [(1, 2)], [(2, 2)]]
        others = [body for batch in batches if batch not in suspects for body, _ in batch]
        assert others == [*range(3, 20)]
        assert len(batches) <= 3 + 4


class TestStopping:
    async def test_what_gathers_is_handed_back(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A worker that stops does not wait for a batch to fill; another worker has it at once."""
        handled: list[int] = []

        @worker.on(queue, batch=10, batch_wait=NEVER)
        async def handle(bodies: list[int]) -> None:
            handled.extend(bodies)

        await mq.send_many(queue, range(13))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 3, 0))
        assert handled == [*range(10)]
        assert await counts(mq, queue) == (3, 0, 0, 0)
        assert {message.crashes for message in await mq.peek(queue)} == {0}

    async def test_a_large_batch_is_handed_back(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """However much gathers, all of it is handed back."""

        @worker.on(queue, batch=3000, batch_wait=NEVER)
        async def handle(bodies: list[int]) -> None: ...

        await mq.send_many(queue, range(2500))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 2500, 0))
        assert await counts(mq, queue) == (2500, 0, 0, 0)

    async def test_a_batch_gets_its_time(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A running batch may end in the time that handlers get, and is settled."""
        begun, go_on = asyncio.Event(), asyncio.Event()

        @worker.on(queue, batch=5)
        async def handle(bodies: list[int]) -> None:
            begun.set()
            await go_on.wait()

        await mq.send_many(queue, range(5))
        async with running(worker, mq):
            await begun.wait()
            worker.stop()
            asyncio.get_running_loop().call_later(0.1, go_on.set)
        assert await counts(mq, queue) == (0, 0, 0, 0)
        assert (await mq.stats(queue)).acked == 5

    async def test_the_time_is_over(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A batch that takes too long is cancelled; what is not settled is handed back."""
        worker = ms.Worker(shutdown_timeout=0.1)
        begun = asyncio.Event()
        ended: list[str] = []

        @worker.on(queue, batch=5)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            await deliveries[0].ack()
            await deliveries[1].reject("bad")
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        await mq.send_many(queue, range(5))
        async with running(worker, mq):
            await begun.wait()
        assert ended == ["cancelled"]
        assert await counts(mq, queue) == (3, 0, 0, 1)
        waiting = await mq.peek(queue)
        assert [(one.body, one.attempts, one.crashes) for one in waiting] == [
            (n, 0, 0) for n in (2, 3, 4)
        ]

    async def test_a_thread_keeps_its_batch(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A thread cannot be cancelled: what it has not settled is left to its lease."""
        worker = ms.Worker(shutdown_timeout=0.1)
        begun, go_on = threading.Event(), threading.Event()

        @worker.on(queue, batch=3)
        def handle(bodies: list[int], deliveries: SyncBatch) -> None:
            deliveries[0].ack()
            begun.set()
            go_on.wait(PATIENCE)

        await mq.send_many(queue, range(3))
        async with running(worker, mq):
            await auntil(begun.is_set)
        assert await counts(mq, queue) == (0, 0, 2, 0)
        go_on.set()

    async def test_run_is_cancelled(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Who cancels the worker's task has the batch handed back, too."""
        begun = asyncio.Event()

        @worker.on(queue, batch=5)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            await deliveries[0].ack()
            begun.set()
            await asyncio.Event().wait()

        await mq.send_many(queue, range(5))
        task = asyncio.create_task(worker.run(mq))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await counts(mq, queue) == (4, 0, 0, 0)


class TestMiddleware:
    async def test_once_a_batch(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Middleware is called once for a batch, with the list of deliveries."""
        single: ms.Queue[Any] = ms.Queue("single")
        seen: list[Any] = []

        @worker.middleware
        async def watch(delivery: ms.Delivery[Any] | Batch, call_next: Any) -> None:
            if isinstance(delivery, list):
                seen.append(["before", *(one.body for one in delivery)])
            else:
                seen.append(delivery.body)
            await call_next()
            seen.append("after")

        @worker.on(queue, batch=3)
        async def handle(bodies: list[int], deliveries: Batch) -> None:
            seen.append(bodies)

        @worker.on(single)
        async def handle_one(body: str) -> None: ...

        await mq.send_many(queue, range(3))
        await run_burst(worker, mq)
        await mq.send(single, "one")
        await run_burst(worker, mq)

        assert seen == [["before", 0, 1, 2], [0, 1, 2], "after", "one", "after"]

    async def test_raising_and_settling(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Middleware may settle single messages; what it raises is for the others."""

        @worker.middleware
        async def guard(deliveries: Batch, call_next: Any) -> None:
            await deliveries[0].ack()
            raise ms.Reject("not today")

        @worker.on(queue, batch=3)
        def handle(bodies: list[int]) -> None:
            raise AssertionError("not called")

        await mq.send_many(queue, range(3))
        await run_burst(worker, mq)

        assert await reasons(mq, queue) == {1: "not today", 2: "not today"}


class TestDeclaring:
    @pytest.mark.parametrize("value", [0, -1, 10_001, 2.0, True, "10", None])
    def test_the_size(self, worker: ms.Worker, queue: ms.Queue[Any], value: Any) -> None:
        """A batch has 1 to 10,000 messages; None is no batch, which then takes no wait."""
        with pytest.raises(ms.UsageError, match="batch"):

            @worker.on(queue, batch=value, batch_wait=None if value is not None else 1)
            async def handle(bodies: list[int]) -> None: ...

    @pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", True])
    def test_the_wait(self, worker: ms.Worker, queue: ms.Queue[Any], value: Any) -> None:
        """batch_wait is a duration, and the error says so."""
        with pytest.raises(ms.UsageError, match=r"handle\): batch_wait"):

            @worker.on(queue, batch=10, batch_wait=value)
            async def handle(bodies: list[int]) -> None: ...

    def test_a_prefetch_that_fills_no_batch(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """A worker that may not hold a batch could never have a full one."""
        with pytest.raises(ms.UsageError, match="prefetch must be at least the batch of 10, not 9"):

            @worker.on(queue, batch=10, prefetch=9)
            async def handle(bodies: list[int]) -> None: ...

    def test_defaults(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """One batch at a time, which gathers for 50 ms, however the handler runs."""
        plain: ms.Queue[Any] = ms.Queue("plain")

        @worker.on(queue, batch=10)
        async def handle(bodies: list[int]) -> None: ...

        @worker.on(plain, batch=10)
        def handle_in_thread(bodies: list[int]) -> None: ...

        assert [one.concurrency for one in worker.handlers] == [1, 1]
        assert [one.batch_wait for one in worker.handlers] == [0.05, 0.05]
