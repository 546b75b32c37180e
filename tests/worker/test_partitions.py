"""Queues in partitions: workers share them out, and the order of a key holds while they move."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.op import Command, Op
from millstream.protocol.partitions import join, leave, partition_of
from millstream.worker.partitions import Partitions
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, running

PARTS = 6


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """An ordered queue in six partitions."""
    return declared()


def declared(partitions: int = PARTS, **options: Any) -> ms.Queue[Any]:
    return ms.Queue("orders", ordered=True, partitions=partitions, **options)


class Journal:
    """When the messages of each key began and ended. A body is a key and a number."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[str, int]]] = {}
        self.running: Counter[str] = Counter()
        self.ended = 0
        self.failed = 0
        self.overlaps: set[str] = set()

    def failing_worker(self, queue: ms.Queue[Any], batch: int | None) -> ms.Worker:
        """A worker for which each fourth message fails twice; it notes those that succeed.

        Args:
            queue: to handle.
            batch: messages in a batch, which fails as a whole; None: it takes single ones.
        """
        worker = ms.Worker()

        async def work(bodies: list[tuple[str, int]], deliveries: list[ms.Delivery[Any]]) -> None:
            for key, _ in bodies:
                self.running[key] += 1
                if self.running[key] > 1:
                    self.overlaps.add(key)
            await asyncio.sleep(0.002)  # the work itself
            for key, _ in bodies:
                self.running[key] -= 1
            pairs = zip(bodies, deliveries, strict=True)
            if any(body[1] % 4 == 0 and delivery.attempt < 3 for body, delivery in pairs):
                self.failed += 1
                raise ValueError(bodies)
            for key, number in bodies:
                self.events.setdefault(key, []).extend([("begins", number), ("ends", number)])
            self.ended += len(bodies)

        if batch is None:

            @worker.on(queue)
            async def handle(body: tuple[str, int], delivery: ms.Delivery[Any]) -> None:
                await work([body], [delivery])

        else:
            worker.on(queue, batch=batch, batch_wait=0.01, concurrency=4)(work)
        return worker

    def worker(self, queue: ms.Queue[Any], seconds: float = 0.002, **options: Any) -> ms.Worker:
        """A worker that notes here what it handles."""
        worker = ms.Worker()

        @worker.on(queue, **options)
        async def handle(body: tuple[str, int]) -> None:
            key, number = body
            events = self.events.setdefault(key, [])
            events.append(("begins", number))
            self.running[key] += 1
            assert self.running[key] == 1, f"two messages of {key!r} run at the same time"
            try:
                await asyncio.sleep(seconds)  # the work itself
            finally:
                self.running[key] -= 1
            events.append(("ends", number))
            self.ended += 1

        return worker

    def expect(self, keys: int, each: int) -> None:
        """Each message of so many keys was handled once, in the order of sending."""
        wanted = [(event, number) for number in range(each) for event in ("begins", "ends")]
        assert len(self.events) == keys
        assert {key: events for key, events in self.events.items() if events != wanted} == {}


async def send_keyed(mq: ms.AsyncClient, queue: ms.Queue[Any], keys: int, each: int) -> None:
    """Send so many messages of so many keys, the keys in turn."""
    bodies = [(f"k{key}", number) for number in range(each) for key in range(keys)]
    await mq.send_many(queue, bodies, key=lambda body: body[0])


@asynccontextmanager
async def crew(
    url: str, namespace: str, workers: list[ms.Worker]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Each of the workers runs with a client of its own, as in a process of its own."""
    async with AsyncExitStack() as stack:
        tasks = []
        for worker in workers:
            mq = await stack.enter_async_context(ms.AsyncClient(url, namespace=namespace))
            tasks.append(await stack.enter_async_context(running(worker, mq)))
        yield tasks


async def readers(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> list[set[str]]:
    """The workers that have a consumer in each partition."""
    stats = await mq.stats(queue)
    return [{one.name.partition("/")[0] for one in part.consumers} for part in stats.partitions]


async def settled(mq: ms.AsyncClient, queue: ms.Queue[Any], workers: int) -> list[str]:
    """Wait until each partition has one reader, and so many workers read; return the readers."""

    async def there() -> list[str] | None:
        found = await readers(mq, queue)
        single = found and all(len(names) == 1 for names in found)
        flat = [name for names in found for name in names]
        return flat if single and len(set(flat)) == workers else None

    owners = await auntil(there, PATIENCE, every=0.05)
    assert owners is not None
    return owners


class TestSharing:
    @pytest.mark.parametrize("workers", [1, 2, 3, 6])
    async def test_partitions_are_shared_out(
        self, url: str, namespace: str, mq: ms.AsyncClient, queue: ms.Queue[Any], workers: int
    ) -> None:
        """Each is read by one worker, and all workers read as many."""
        journal = Journal()
        async with crew(url, namespace, [journal.worker(queue) for _ in range(workers)]):
            owners = await settled(mq, queue, workers)
            assert set(Counter(owners).values()) == {PARTS // workers}
            await send_keyed(mq, queue, keys=40, each=5)
            await becomes(mq, queue, (0, 0, 0, 0))
        journal.expect(keys=40, each=5)
        assert await readers(mq, queue) == [set()] * PARTS

    async def test_more_workers_than_partitions(
        self, url: str, namespace: str, mq: ms.AsyncClient
    ) -> None:
        """Some read nothing until they are needed."""
        queue, journal = declared(2), Journal()
        workers = [journal.worker(queue) for _ in range(4)]
        async with crew(url, namespace, workers):
            owners = await settled(mq, queue, 2)
            workers[0].stop()
            workers[1].stop()
            await settled(mq, queue, 2 if len(set(owners)) == 2 else 1)
            await send_keyed(mq, queue, keys=20, each=5)
            await becomes(mq, queue, (0, 0, 0, 0))
        journal.expect(keys=20, each=5)

    async def test_without_keys(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """Messages without a key are handled once, wherever they are."""
        handled: Counter[int] = Counter()

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled[body] += 1

        async with running(worker, mq):
            await mq.send_many(queue, range(500))
            await becomes(mq, queue, (0, 0, 0, 0))
        assert handled == Counter(range(500))

    async def test_a_burst_ends_when_all_partitions_are_drained(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Not before."""
        journal = Journal()
        await send_keyed(mq, queue, keys=30, each=4)
        async with asyncio.timeout(PATIENCE):
            await journal.worker(queue).run(mq, burst=True)
        journal.expect(keys=30, each=4)

    async def test_ids_tell_the_partition(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """A handler sees the id that the sender got, in a thread, too."""
        seen: set[str] = set()
        other = declared(3, lease=20)
        threads: ms.Queue[Any] = ms.Queue("threads", ordered=True, partitions=3)

        @worker.on(queue)
        async def handle(_: Any, delivery: ms.Delivery[Any]) -> None:
            seen.add(delivery.id)

        @worker.on(threads)
        def handle_in_thread(_: Any, delivery: ms.SyncDelivery[Any]) -> None:
            seen.add(delivery.id)

        assert other != queue
        receipts = await mq.send_many(queue, range(2 * PARTS))
        receipts += await mq.send_many(threads, range(9))
        async with running(worker, mq):
            await auntil(lambda: len(seen) == len(receipts), PATIENCE)
        assert seen == {receipt.id for receipt in receipts}


class TestMoving:
    async def test_a_worker_joins(
        self, url: str, namespace: str, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """It gets its share in the middle of the work; order holds, nothing runs twice."""
        journal = Journal()
        await send_keyed(mq, queue, keys=60, each=20)
        async with crew(url, namespace, [journal.worker(queue)]):
            await auntil(lambda: journal.ended > 50, PATIENCE)
            async with crew(url, namespace, [journal.worker(queue), journal.worker(queue)]):
                await auntil(lambda: journal.ended > 600, PATIENCE)
                assert len({name for some in await readers(mq, queue) for name in some}) == 3
                await becomes(mq, queue, (0, 0, 0, 0))
        journal.expect(keys=60, each=20)

    async def test_a_worker_leaves(
        self, url: str, namespace: str, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Its share goes to the others at once; order holds, nothing runs twice."""
        journal = Journal()
        workers = [journal.worker(queue) for _ in range(3)]
        await send_keyed(mq, queue, keys=60, each=20)
        async with crew(url, namespace, workers):
            await auntil(lambda: journal.ended > 200, PATIENCE)
            workers[0].stop()
            await auntil(lambda: journal.ended > 500, PATIENCE)
            workers[1].stop()
            await becomes(mq, queue, (0, 0, 0, 0))
            await settled(mq, queue, 1)
        journal.expect(keys=60, each=20)

    async def test_others_learn_at_once(
        self, url: str, namespace: str, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Who comes and who leaves says so: nobody waits for the next beat."""
        journal = Journal()
        async with crew(url, namespace, [journal.worker(queue), journal.worker(queue)]):
            await settled(mq, queue, 2)
            keys = mq.keys_of(queue)
            for _ in range(3):
                since = time.monotonic()
                # It sorts behind the others, so that one of them has the middle share.
                await mq.driver.run(join(keys, "~", PARTS))
                await auntil(lambda: reads_less(mq, queue), PATIENCE)
                await mq.driver.run(leave(keys, "~"))
                await settled(mq, queue, 2)
                if time.monotonic() - since < 1.0:
                    return
        pytest.fail("three times, moving there and back took longer than a second")

    async def test_who_dies_without_a_word(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Its share goes to the others when it has not been heard of for some seconds."""
        journal = Journal()
        await mq.driver.run(join(mq.keys_of(queue), "~dead", PARTS))
        async with running(journal.worker(queue), mq):
            await send_keyed(mq, queue, keys=30, each=2)
            await becomes(mq, queue, (0, 0, 0, 0))
        journal.expect(keys=30, each=2)

    async def test_what_runs_goes_on_while_its_partition_moves(
        self, url: str, namespace: str, mq: ms.AsyncClient
    ) -> None:
        """Its lease is kept, its end counts, and only then the next one of its key begins."""
        queue = declared(1 + 1, lease=2)
        begun: list[tuple[int, int]] = []
        go_on = asyncio.Event()

        def make(number: int) -> ms.Worker:
            worker = ms.Worker()

            @worker.on(queue)
            async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
                begun.append((body, delivery.crashes))
                if body < 2:
                    await go_on.wait()

            return worker

        # A key in each of the two partitions, so that one of them moves.
        keys = [next(k for k in map(str, range(99)) if partition_of(k, 2) == n) for n in (0, 1)]
        for partition, key in enumerate(keys):
            await mq.send(queue, partition, key=key)
            await mq.send(queue, partition + 10, key=key)
        async with crew(url, namespace, [make(0)]):
            await auntil(lambda: len(begun) == 2, PATIENCE)
            async with crew(url, namespace, [make(1)]):
                # The first worker is still in both partitions: it has something to finish.
                await auntil(lambda: has_both(mq, queue), PATIENCE)
                # Two leases long, the old owner keeps its message, and the new one gets none.
                await asyncio.sleep(4)  # the work itself
                assert sorted(begun) == [(0, 0), (1, 0)]
                go_on.set()
                await becomes(mq, queue, (0, 0, 0, 0))
                await settled(mq, queue, 2)
        assert sorted(begun) == [(0, 0), (1, 0), (10, 0), (11, 0)]

    async def test_a_partition_that_comes_back(
        self, url: str, namespace: str, mq: ms.AsyncClient
    ) -> None:
        """What still runs from the time before is not begun a second time."""
        queue = declared(2)
        handled: Counter[int] = Counter()
        go_on = asyncio.Event()
        worker = ms.Worker()

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled[body] += 1
            await go_on.wait()

        await mq.send_many(queue, range(4))
        keys = mq.keys_of(queue)
        async with crew(url, namespace, [worker]):
            await auntil(lambda: len(handled) == 4, PATIENCE)
            await mq.driver.run(join(keys, "~", 2))
            await auntil(lambda: share(worker) == {0}, PATIENCE)
            await mq.driver.run(leave(keys, "~"))
            await auntil(lambda: share(worker) == {0, 1}, PATIENCE)
            await mq.send_many(queue, range(4, 8))
            await auntil(lambda: len(handled) == 8, PATIENCE)
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
        assert set(handled.values()) == {1}


async def reads_less(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    """Whether a partition has no reader: it belongs to one who only says that it is there."""
    return any(not names for names in await readers(mq, queue))


async def has_both(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    """Whether two workers have a consumer in the same partition."""
    return any(len(names) == 2 for names in await readers(mq, queue))


def share(worker: ms.Worker) -> frozenset[int]:
    """The partitions that a worker reads, as far as it knows."""
    assert worker._run is not None
    [work] = worker._run._consumers
    assert isinstance(work, Partitions)
    return work.share


class TestKeys:
    async def test_a_stuck_key_blocks_no_other(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """Neither a handler that hangs nor a key that fails holds up the others."""
        done: list[str] = []
        hang = asyncio.Event()

        @worker.on(queue)
        async def handle(body: tuple[str, int]) -> None:
            if body[0] == "k0":
                await hang.wait()
            if body[0] == "k1":
                raise ms.RetryLater(delay=60)
            done.append(body[0])

        async with running(worker, mq):
            await send_keyed(mq, queue, keys=50, each=4)
            await auntil(lambda: len(done) == 48 * 4, PATIENCE)

            async def settled() -> bool:
                # The last handlers have ended; their acknowledgements may be on the way.
                return await counts_of(mq, queue) == 8

            await auntil(settled, PATIENCE)
            hang.set()
            await auntil(lambda: len(done) == 49 * 4, PATIENCE)

    async def test_retries_keep_the_order(
        self, url: str, namespace: str, mq: ms.AsyncClient
    ) -> None:
        """A message that fails is tried again before the next one of its key, wherever that is."""
        queue = declared(3, retry=ms.Retry(max_attempts=5, backoff=SOON))
        ended: dict[str, list[int]] = {}

        def make() -> ms.Worker:
            worker = ms.Worker()

            @worker.on(queue)
            async def handle(body: tuple[str, int], delivery: ms.Delivery[Any]) -> None:
                if body[1] % 3 == 0 and delivery.attempt < 3:
                    raise ValueError(body)
                ended.setdefault(body[0], []).append(body[1])

            return worker

        await send_keyed(mq, queue, keys=10, each=6)
        async with crew(url, namespace, [make(), make()]):
            await becomes(mq, queue, (0, 0, 0, 0))
        assert ended == {f"k{key}": [*range(6)] for key in range(10)}


class TestComingAndGoing:
    @pytest.mark.parametrize("batch", [None, 5])
    async def test_while_messages_fail(
        self, url: str, namespace: str, mq: ms.AsyncClient, batch: int | None
    ) -> None:
        """Three places where workers come and go all the time, and messages that are tried again
        with growing pauses: each key stays in order, each message ends once.
        """
        keys, each = 24, 12
        growing = ms.Backoff(first=0.01, factor=2, max=0.1)
        queue = declared(retry=ms.Retry(max_attempts=1000, backoff=growing))
        journal = Journal()
        served: list[int] = []

        async def place(number: int) -> None:
            dice = random.Random(number)
            while journal.ended < keys * each:
                enough = min(journal.ended + dice.randint(20, 60), keys * each)
                worker = journal.failing_worker(queue, batch)
                served.append(number)
                async with crew(url, namespace, [worker]):
                    # One that has not begun to run cannot be stopped.
                    await auntil(lambda: worker._run and journal.ended >= enough, 3 * PATIENCE)  # noqa: B023 - it ends before the next one begins

        await send_keyed(mq, queue, keys, each)
        await asyncio.gather(*(place(number) for number in range(3)))

        assert await counts(mq, queue) == (0, 0, 0, 0)
        assert len(served) > 6
        assert journal.failed > keys
        assert not journal.overlaps
        journal.expect(keys, each)
        assert (await mq.stats(queue)).acked == keys * each


async def counts_of(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> int:
    stats = await mq.stats(queue)
    return stats.ready + stats.delayed + stats.in_flight


class TestConcurrency:
    @pytest.mark.parametrize("kind", ["async", "thread", "batch"])
    async def test_it_is_that_of_the_worker(self, mq: ms.AsyncClient, kind: str) -> None:
        """However many partitions it reads, so many handlers run, and no more."""
        queue, worker = declared(), ms.Worker()
        guard = threading.Lock()
        now = most = 0

        def enter(step: int) -> None:
            nonlocal now, most
            with guard:
                now += step
                most = max(most, now)

        if kind == "thread":

            @worker.on(queue, concurrency=3)
            def handle(_: Any) -> None:
                enter(1)
                time.sleep(0.005)  # the work itself
                enter(-1)

        elif kind == "async":

            @worker.on(queue, concurrency=3)
            async def handle_async(_: Any) -> None:
                enter(1)
                await asyncio.sleep(0.005)  # the work itself
                enter(-1)

        else:

            @worker.on(queue, concurrency=3, batch=4, batch_wait=0.01)
            async def handle_batch(_: list[Any]) -> None:
                enter(1)
                await asyncio.sleep(0.01)  # the work itself
                enter(-1)

        await mq.send_many(queue, range(120))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 0, 0))
        assert most == 3
        assert now == 0

    async def test_a_timeout_is_for_the_handler_alone(
        self, mq: ms.AsyncClient, worker: ms.Worker
    ) -> None:
        """Waiting for a turn does not count."""
        queue = declared(4, retry=ms.Retry(max_attempts=1))
        handled = []

        @worker.on(queue, concurrency=1, timeout=2)
        async def handle(body: int) -> None:
            await asyncio.sleep(0.25)  # the work itself
            handled.append(body)

        await mq.send_many(queue, range(12))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(handled) == [*range(12)]

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_what_waits_for_its_turn_is_handed_back(
        self, mq: ms.AsyncClient, worker: ms.Worker, is_async: bool
    ) -> None:
        """A worker that stops begins with nothing more, in whatever partition it waited."""
        queue = declared(4)
        begun: list[int] = []
        go_on = threading.Event()

        if is_async:

            @worker.on(queue, concurrency=1)
            async def handle(body: int) -> None:
                begun.append(body)
                await asyncio.to_thread(go_on.wait)

        else:

            @worker.on(queue, concurrency=1)
            def handle_in_thread(body: int) -> None:
                begun.append(body)
                go_on.wait()

        await mq.send_many(queue, range(20))
        async with running(worker, mq):
            await auntil(lambda: len(begun) == 1, PATIENCE)
            await becomes(mq, queue, (await ready(mq, queue), 0, 20 - await ready(mq, queue), 0))
            worker.stop()
            await becomes(mq, queue, (19, 0, 1, 0))
            go_on.set()
        assert len(begun) == 1
        assert {(one.attempts, one.crashes) for one in await mq.peek(queue, limit=99)} == {(0, 0)}

    async def test_a_pause_reaches_what_waits_for_its_turn(
        self, mq: ms.AsyncClient, worker: ms.Worker
    ) -> None:
        """Nothing begins in a paused queue; what runs goes on."""
        queue = declared(4)
        begun: list[int] = []
        go_on = asyncio.Event()

        @worker.on(queue, concurrency=1)
        async def handle(body: int) -> None:
            begun.append(body)
            await go_on.wait()

        await mq.send_many(queue, range(20))
        async with running(worker, mq):
            await auntil(lambda: len(begun) == 1, PATIENCE)
            await mq.pause(queue)
            await becomes(mq, queue, (19, 0, 1, 0))
            go_on.set()
            await becomes(mq, queue, (19, 0, 0, 0))
            assert len(begun) == 1
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(begun) == [*range(20)]

    async def test_a_running_message_can_be_cancelled(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """In any partition, by its id."""
        begun: dict[str, int] = {}
        cancelled: list[str] = []

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            begun[delivery.id] = body
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(delivery.id)
                raise

        receipts = await mq.send_many(queue, range(PARTS))
        async with running(worker, mq):
            await auntil(lambda: len(begun) == PARTS, PATIENCE)
            for receipt in receipts:
                assert await mq.cancel(queue, receipt.id)
            await auntil(lambda: len(cancelled) == PARTS, PATIENCE)
        assert {one.id for one in await mq.dead(queue)} == {one.id for one in receipts}


async def ready(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> int:
    return (await mq.stats(queue)).ready


class TestStartAndEnd:
    async def test_another_number_is_refused(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A worker with another number does not start, and says why."""
        await mq.send(queue, 1)

        for wrong in (declared(1), declared(2), ms.Queue("orders")):
            worker = ms.Worker()
            worker.on(wrong)(lambda body: None)
            with pytest.raises(ms.UsageError, match="has 6 partitions"):
                await worker.run(mq)

    async def test_the_number_changes_under_a_worker(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """It stops rather than read a queue that is divided in another way."""
        worker.on(queue)(lambda body: None)
        task = asyncio.create_task(worker.run(mq))
        await settled(mq, queue, 1)
        # As if somebody had divided it anew in spite of it.
        change = Command(("HSET", mq.keys_of(queue).config, "partitions", 4))
        await mq.driver.run(Op((change,), decode=lambda replies: None))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ms.UsageError, match="has 4 partitions"):
                await task

    async def test_shutdown_ends_what_runs_in_a_partition_that_moved(
        self, url: str, namespace: str, mq: ms.AsyncClient
    ) -> None:
        """A handler in a partition that was given up gets as much time as the others, no more."""
        queue = declared(2)
        worker = ms.Worker(shutdown_timeout=0.3)
        begun = asyncio.Event()

        @worker.on(queue)
        async def handle(_: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        await mq.send_many(queue, range(2))
        async with crew(url, namespace, [worker]):
            await begun.wait()
            await becomes(mq, queue, (0, 0, 2, 0))
            await mq.driver.run(join(mq.keys_of(queue), "~", 2))
            await auntil(lambda: share(worker) == {0}, PATIENCE)
        assert await counts_of(mq, queue) == 2
        assert (await mq.stats(queue)).in_flight == 0
        assert {(one.attempts, one.crashes) for one in await mq.peek(queue)} == {(0, 0)}


async def test_cost_of_an_idle_worker(own_server: Server, worker: ms.Worker) -> None:
    """Sharing costs a sign of life every 1.5 s; each partition costs what a queue costs."""
    queue = declared(4)
    worker.on(queue)(lambda body: None)
    admin = own_server.admin()

    def commands() -> int:
        return int(admin.info("stats")["total_commands_processed"])

    async with ms.AsyncClient(own_server.url, namespace="t-idle") as mq, running(worker, mq):
        await settled(mq, queue, 1)
        await asyncio.sleep(1)  # the work itself
        began, before = time.monotonic(), commands()
        await asyncio.sleep(4.5)  # the work itself
        elapsed, after = time.monotonic() - began, commands()
    # Of each sign of life the server counts the script and the six commands in it.
    assert after - before - 1 < elapsed * (4 * 0.8 + 7 / 1.5)
