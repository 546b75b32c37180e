"""People pause and resume queues, and cancel messages, while workers are at work."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.control import Word
from millstream.worker.control import Control
from millstream.worker.holdings import Holdings
from tests.support.readers import sleeping_readers
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, run_burst, running


class Gate:
    """Handlers that begin, and end when they are let."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.open = asyncio.Event()

    async def handle(self, body: Any) -> None:
        self.begun.append(body)
        await self.open.wait()
        self.ended.append(body)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def commands(admin: redis.Redis) -> int:
    return int(admin.info("stats")["total_commands_processed"])


class TestPause:
    async def test_while_busy(
        self, any_mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], gate: Gate
    ) -> None:
        """What runs is finished and settled; what was fetched ahead is handed back, not begun."""
        worker.on(queue, concurrency=2, prefetch=10)(gate.handle)
        await any_mq.send_many(queue, range(20))
        async with running(worker, any_mq):
            await becomes(any_mq, queue, (10, 0, 10, 0))

            await any_mq.pause(queue)

            await becomes(any_mq, queue, (18, 0, 2, 0))
            gate.open.set()
            await becomes(any_mq, queue, (18, 0, 0, 0))
            assert sorted(gate.ended) == sorted(gate.begun) == [0, 1]
            assert (await any_mq.stats(queue)).acked == 2
            await any_mq.resume(queue)
            await becomes(any_mq, queue, (0, 0, 0, 0))
        assert sorted(gate.ended) == [*range(20)]

    async def test_at_full_speed(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """Soon after a pause nothing begins any more, and nothing is lost or doubled."""
        handled: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.append(body)

        await mq.send_many(queue, range(30_000))
        async with running(worker, mq):
            for goal in (1, 5000, 15_000):
                await auntil(functools.partial(_more, handled, goal), PATIENCE, every=0.001)
                await mq.pause(queue)
                await auntil(lambda: _quiet(mq, queue), PATIENCE)
                before = len(handled)
                stats = await mq.stats(queue)
                assert stats.ready == 30_000 - before
                assert stats.acked == before
                await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(handled) == [*range(30_000)]

    async def test_wakes_nobody(
        self, own_server: Server, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """Idle readers sleep on, and messages that come meanwhile do not wake them either."""
        handled: list[Any] = []

        @worker.on(queue)
        async def handle(body: Any) -> None:
            handled.append(body)

        admin = own_server.admin()
        async with ms.AsyncClient(own_server.url, namespace="t-calm") as mq, running(worker, mq):
            await auntil(lambda: len(sleeping_readers(admin)) == 1, PATIENCE)
            await mq.pause(queue)
            await mq.send_many(queue, range(10))
            await asyncio.sleep(0.2)  # the work itself
            before = commands(admin)
            await asyncio.sleep(3)  # the work itself
            assert commands(admin) - before - 1 < 3
            assert handled == []
            await mq.resume(queue)
            began = time.monotonic()
            await auntil(lambda: len(handled) == 10, PATIENCE, every=0.001)
            assert time.monotonic() - began < 5

    async def test_a_resume_reaches_all_workers(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis
    ) -> None:
        """More sleeping workers than messages, or fewer: all go on at once."""
        workers = [ms.Worker() for _ in range(5)]
        begun: list[int] = []
        go_on = asyncio.Event()

        async def handle(body: int) -> None:
            begun.append(body)
            await go_on.wait()

        async with asyncio.TaskGroup() as group:
            for worker in workers:
                worker.on(queue, concurrency=1)(handle)
                group.create_task(worker.run(mq))
            await auntil(lambda: len(sleeping_readers(admin)) == 5, PATIENCE)
            await mq.pause(queue)
            await mq.send_many(queue, range(12))
            await mq.resume(queue)
            await auntil(lambda: len(begun) == 5, 5)
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 0))
            for worker in workers:
                worker.stop()
        assert sorted(begun) == [*range(12)]

    async def test_before_the_first_consumer(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], gate: Gate
    ) -> None:
        """A worker that starts on a paused queue begins at the resume."""
        worker.on(queue)(gate.handle)
        gate.open.set()
        await mq.pause(queue)
        await mq.send_many(queue, range(3))
        async with running(worker, mq):
            await auntil(lambda: _has_consumer(mq, queue))
            assert await counts(mq, queue) == (3, 0, 0, 0)
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert gate.ended == [0, 1, 2]

    async def test_retries_become_ready(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """A retry whose time comes while its queue is paused waits for the resume."""
        attempts: list[int] = []

        @worker.on(queue)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                await mq.pause(queue)
                raise ValueError

        await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(lambda: attempts)
            await becomes(mq, queue, (1, 0, 0, 0))
            assert attempts == [1]
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert attempts == [1, 2]

    async def test_ends_a_burst(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], gate: Gate
    ) -> None:
        """A burst run waits for what is in flight, and leaves what a paused queue holds back."""
        other: ms.Queue[Any] = ms.Queue("other", retry=ms.Retry(backoff=SOON))
        handled: list[Any] = []
        worker.on(queue, concurrency=1, prefetch=2)(gate.handle)

        @worker.on(other)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            if delivery.attempt == 1:
                raise ms.RetryLater
            handled.append(body)

        await mq.send_many(queue, range(5))
        await mq.send(other, 7)
        run = asyncio.create_task(run_burst(worker, mq))
        await auntil(lambda: gate.begun)
        await mq.pause(queue)
        await becomes(mq, queue, (4, 0, 1, 0))
        await becomes(mq, other, (0, 0, 0, 0))
        assert not run.done()
        gate.open.set()
        await run
        assert await counts(mq, queue) == (4, 0, 0, 0)
        assert (gate.ended, handled) == ([0], [7])
        await run_burst(worker, mq)
        assert await counts(mq, queue) == (4, 0, 0, 0)
        await mq.resume(queue)
        await run_burst(worker, mq)
        assert gate.ended == [*range(5)]

    async def test_with_delays_and_ttl(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], gate: Gate
    ) -> None:
        """Delayed messages become ready meanwhile; what lives too short expires, and never runs."""
        worker.on(queue)(gate.handle)
        gate.open.set()
        async with running(worker, mq):
            await mq.pause(queue)
            await mq.send(queue, 1, delay=0.05)
            await mq.send(queue, 2, ttl=0.05)
            await becomes(mq, queue, (2, 0, 0, 0))
            await asyncio.sleep(0.1)  # the work itself
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 1))
        assert gate.ended == [1]
        (letter,) = await mq.dead(queue)
        assert (letter.body, letter.reason) == (2, "expired")

    async def test_with_priorities(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        gate: Gate,
        admin: redis.Redis,
    ) -> None:
        """What was sent while the queue was paused begins by its priority at the resume."""
        worker.on(queue, concurrency=1, prefetch=1)(gate.handle)
        await mq.send(queue, "first")
        async with running(worker, mq):
            await auntil(lambda: gate.begun)
            await mq.pause(queue)
            for priority in (3, 0, 9, 5):
                await mq.send(queue, priority, priority=priority)
            gate.open.set()
            await becomes(mq, queue, (4, 0, 0, 0))
            # A read that is about to sleep takes what is there, if the pause ends just then.
            await auntil(lambda: len(sleeping_readers(admin)) == 1, PATIENCE)
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert gate.ended == ["first", 9, 5, 3, 0]

    async def test_with_ordered_keys(
        self, mq: ms.AsyncClient, other: ms.AsyncClient, admin: redis.Redis
    ) -> None:
        """Pauses at any moment disturb no order, with two workers that hand back and fetch."""
        queue: ms.Queue[Any] = ms.Queue("lined", ordered=True)
        handled: dict[str, list[int]] = {}
        workers = [ms.Worker(), ms.Worker()]

        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            await asyncio.sleep(0.001)  # the work itself
            handled.setdefault(delivery.key or "", []).append(body)

        for worker in workers:
            worker.on(queue, concurrency=2, prefetch=10)(handle)
        for n in range(40):
            for key in "abcdef":
                await mq.send(queue, n, key=key)
        async with running(workers[0], mq), running(workers[1], other):
            for _ in range(10):
                await asyncio.sleep(0.01)  # the work itself
                await mq.pause(queue)
                await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert handled == {key: [*range(40)] for key in "abcdef"}

    async def test_one_queue_of_two(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], gate: Gate
    ) -> None:
        """The other queues of a worker go on."""
        other: ms.Queue[Any] = ms.Queue("other")
        worker.on(queue)(gate.handle)
        worker.on(other)(gate.handle)
        gate.open.set()
        async with running(worker, mq):
            await mq.pause(queue)
            await mq.send(queue, 1)
            await mq.send(other, 2)
            await becomes(mq, other, (0, 0, 0, 0))
            assert await counts(mq, queue) == (1, 0, 0, 0)
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert gate.ended == [2, 1]

    async def test_a_restart_of_the_server(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """A paused queue is paused after it, and workers hear of the resume."""
        handled: list[Any] = []

        @worker.on(queue)
        async def handle(body: Any) -> None:
            handled.append(body)

        with Server(appendonly=True, appendfsync="always") as server:
            async with ms.AsyncClient(server.url) as mq, running(worker, mq):
                await mq.send(queue, 1)
                await becomes(mq, queue, (0, 0, 0, 0))
                await mq.pause(queue)
                await mq.send(queue, 2)
                await asyncio.to_thread(server.restart)
                await mq.send(queue, 3)
                await auntil(lambda: len(sleeping_readers(server.admin())) == 1, PATIENCE)
                assert await counts(mq, queue) == (2, 0, 0, 0)
                await mq.resume(queue)
                await becomes(mq, queue, (0, 0, 0, 0))
                assert handled == [1, 2, 3]

    @pytest.mark.parametrize("deaf", [{"pause"}, {"resume"}, {"pause", "resume"}])
    async def test_who_does_not_hear(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        deaf: set[str],
    ) -> None:
        """Words can be missed: no message comes during a pause, and all come after it."""
        heard: list[str] = []
        pass_on = Control._pass_on

        def mumble(self: Control, word: Word) -> None:
            heard.append(word.op)
            if word.op not in deaf:
                pass_on(self, word)

        monkeypatch.setattr(Control, "_pass_on", mumble)
        handled: list[Any] = []

        @worker.on(queue)
        async def handle(body: Any) -> None:
            handled.append(body)

        async with running(worker, mq):
            await auntil(lambda: sleeping_readers(admin), PATIENCE)
            await mq.pause(queue)
            await mq.send(queue, 1)
            await auntil(lambda: heard == ["pause"])
            assert await counts(mq, queue) == (1, 0, 0, 0)
            await mq.resume(queue)
            await mq.send_many(queue, [2, 3])
            await becomes(mq, queue, (0, 0, 0, 0))
        assert handled == [1, 2, 3]


def _more(items: list[int], than: int) -> bool:
    return len(items) > than


async def _quiet(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    stats = await mq.stats(queue)
    return stats.in_flight == stats.delayed == 0


async def _empty(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    stats = await mq.stats(queue)
    return stats.ready == stats.in_flight == stats.delayed == 0


async def _retried(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return (await mq.stats(queue)).retried > 100


async def _has_consumer(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> bool:
    return bool((await mq.stats(queue)).consumers)


class TestCancel:
    async def test_a_coroutine(
        self,
        any_mq: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It is cancelled at once, its message is dead with the reason, and the slot goes on."""
        events: list[str] = []

        @worker.on(queue, concurrency=1)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            events.append(f"begun {body}")
            if body == 1:
                try:
                    await asyncio.sleep(PATIENCE)  # the work itself
                finally:
                    events.append(f"ended, lost: {delivery.lease_lost}")

        receipt = await any_mq.send(queue, 1)
        async with running(worker, any_mq):
            await auntil(lambda: events)
            began = time.monotonic()
            assert await any_mq.cancel(queue, receipt.id)
            await auntil(lambda: len(events) == 2)
            assert time.monotonic() - began < 5
            assert not await any_mq.cancel(queue, receipt.id)
            await any_mq.send(queue, 2)
            await becomes(any_mq, queue, (0, 0, 0, 1))
        assert events == ["begun 1", "ended, lost: True", "begun 2"]
        (letter,) = await any_mq.dead(queue)
        assert (letter.id, letter.reason, letter.attempts) == (receipt.id, "cancelled", 0)
        stats = await any_mq.stats(queue)
        assert (stats.acked, stats.retried, stats.died, stats.crashed) == (1, 0, 1, 0)
        assert f"message {receipt.id} was cancelled" in caplog.text
        assert "lost the lease" not in caplog.text

    async def test_a_thread(
        self, any_mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """It gets CancelledError at its next line; settling is refused; the thread goes on."""
        events: list[str] = []

        @worker.on(queue, concurrency=1)
        def handle(body: int, delivery: ms.SyncDelivery[Any]) -> None:
            events.append(f"begun {body}")
            if body == 2:
                return
            try:
                while True:
                    time.sleep(0.01)  # the work itself
            except asyncio.CancelledError:
                with pytest.raises(ms.LeaseLost):
                    delivery.ack()
                events.append("refused")
                raise

        receipt = await any_mq.send(queue, 1)
        async with running(worker, any_mq):
            await auntil(lambda: events)
            assert await any_mq.cancel(queue, receipt.id)
            await any_mq.send(queue, 2)
            await becomes(any_mq, queue, (0, 0, 0, 1))
        assert events == ["begun 1", "refused", "begun 2"]
        stats = await any_mq.stats(queue)
        assert (stats.acked, stats.retried, stats.died) == (1, 0, 1)

    async def test_a_thread_that_cannot_be_interrupted(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """What blocks in C ends first; until then its slot is taken, and its return settles nothing."""
        begun, go_on = threading.Event(), threading.Event()
        handled: list[int] = []

        @worker.on(queue, concurrency=1)
        def handle(body: int) -> None:
            begun.set()
            if body == 1:
                go_on.wait(PATIENCE)
            handled.append(body)

        receipt = await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(begun.is_set)
            assert await mq.cancel(queue, receipt.id)
            await mq.send(queue, 2)
            await becomes(mq, queue, (0, 0, 1, 1))
            assert handled == []
            go_on.set()
            await becomes(mq, queue, (0, 0, 0, 1))
        assert handled == [2]

    async def test_behind_middleware(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """A message that is in a middleware, before its thread, is stopped there."""
        seen: list[str] = []

        @worker.middleware
        async def wait(delivery: Any, call_next: Callable[[], Awaitable[Any]]) -> None:
            seen.append("wait")
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            await call_next()

        @worker.on(queue)
        def handle(body: Any) -> None:
            seen.append("handled")

        receipt = await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(lambda: seen)
            assert await mq.cancel(queue, receipt.id)
            await auntil(lambda: len(seen) == 2)
        assert seen == ["wait", "cancelled"]
        assert await counts(mq, queue) == (0, 0, 0, 1)

    @pytest.mark.parametrize("swallowed", ["return", "raise", "ack"])
    async def test_a_handler_that_swallows_it(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], swallowed: str
    ) -> None:
        """Whatever it does then settles nothing, and the next message of its slot is handled."""
        begun: list[Any] = []
        refused: list[BaseException] = []

        @worker.on(queue, concurrency=1)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            begun.append(body)
            if body == 2:
                return
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            except asyncio.CancelledError:
                if swallowed == "raise":
                    raise ValueError from None
                if swallowed == "ack":
                    try:
                        await delivery.ack()
                    except ms.LeaseLost as error:
                        refused.append(error)

        receipt = await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(lambda: begun)
            assert await mq.cancel(queue, receipt.id)
            await mq.send(queue, 2)
            await becomes(mq, queue, (0, 0, 0, 1))
        assert begun == [1, 2]
        assert len(refused) == (swallowed == "ack")
        stats = await mq.stats(queue)
        assert (stats.acked, stats.retried, stats.died) == (1, 0, 1)

    async def test_fetched_ahead(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], gate: Gate
    ) -> None:
        """A message that a worker has and has not begun is never begun."""
        worker.on(queue, concurrency=1, prefetch=3)(gate.handle)
        receipts = await mq.send_many(queue, range(3))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 3, 0))
            assert await mq.cancel(queue, receipts[1].id)
            await becomes(mq, queue, (0, 0, 2, 1))
            gate.open.set()
            await becomes(mq, queue, (0, 0, 0, 1))
        assert gate.begun == [0, 2]

    async def test_of_another_attempt(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """A message has one id through all attempts; by it the running one is found."""
        attempts: list[int] = []

        @worker.on(queue)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                raise ValueError
            await asyncio.sleep(PATIENCE)  # the work itself

        receipt = await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(lambda: len(attempts) == 2)
            assert await mq.cancel(queue, receipt.id)
            await becomes(mq, queue, (0, 0, 0, 1))
        (letter,) = await mq.dead(queue)
        assert (letter.reason, letter.attempts) == ("cancelled", 1)

    async def test_by_who_does_not_hear(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A worker that missed the word learns it when it extends the lease."""
        queue: ms.Queue[Any] = ms.Queue("short", lease=1.5)
        monkeypatch.setattr(Control, "_pass_on", lambda self, word: None)
        events: list[str] = []

        @worker.on(queue)
        async def handle(body: Any) -> None:
            events.append("begun")
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            finally:
                events.append("ended")

        receipt = await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(lambda: events)
            assert await mq.cancel(queue, receipt.id)
            await auntil(lambda: len(events) == 2, 5)
        assert await counts(mq, queue) == (0, 0, 0, 1)

    async def test_before_it_arrives(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        queue: ms.Queue[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The word may overtake the message, on another connection: its handler never begins."""
        late: list[Callable[[], None]] = []
        heard: list[str] = []
        take, pass_on = Holdings.take, Control._pass_on

        def hold_up(self: Holdings, envelopes: Any, **more: Any) -> None:
            if envelopes and not late:
                late.append(functools.partial(take, self, envelopes, **more))
            else:
                take(self, envelopes, **more)

        def note(self: Control, word: Word) -> None:
            pass_on(self, word)
            heard.append(word.op)

        monkeypatch.setattr(Holdings, "take", hold_up)
        monkeypatch.setattr(Control, "_pass_on", note)
        handled: list[Any] = []

        @worker.on(queue, prefetch=2)
        async def handle(body: Any) -> None:
            handled.append(body)

        first, _ = await mq.send_many(queue, [1, 2])
        async with running(worker, mq):
            await auntil(lambda: late, PATIENCE)
            assert await mq.cancel(queue, first.id)
            await auntil(lambda: heard == ["cancel"], PATIENCE)
            late[0]()
            await mq.send(queue, 3)
            await becomes(mq, queue, (0, 0, 0, 1))
        assert sorted(handled) == [2, 3]
        stats = await mq.stats(queue)
        assert (stats.acked, stats.died) == (2, 1)

    async def test_a_race_with_the_end(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """Each message is either acknowledged or dead, as the answer to the cancel says."""

        @worker.on(queue)
        async def handle(body: Any) -> None:
            await asyncio.sleep(0.01)  # the work itself

        async def cancel(receipt: ms.Receipt, after: float) -> bool:
            await asyncio.sleep(after)  # the work itself
            return await mq.cancel(queue, receipt.id)

        async with running(worker, mq):
            receipts = await mq.send_many(queue, range(300))
            answers = await asyncio.gather(
                *(cancel(receipt, n / 6000) for n, receipt in enumerate(receipts))
            )
            await auntil(lambda: _empty(mq, queue), PATIENCE)
        stats = await mq.stats(queue)
        # Who cancels is either before the worker has the message, or while it has it.
        assert (stats.acked, stats.died + stats.cancelled) == (300 - sum(answers), sum(answers))
        dead = {letter.id for letter in await mq.dead(queue, limit=300)}
        assert len(dead) == stats.died
        assert dead <= {one.id for one, over in zip(receipts, answers, strict=True) if over}

    async def test_a_race_in_threads(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """Interrupted is who was cancelled, and nobody else: not the next message of its thread."""
        interrupted: list[int] = []
        ended: list[int] = []

        @worker.on(queue, concurrency=8)
        def handle(body: int) -> None:
            try:
                for _ in range(4):
                    time.sleep(0.001)  # the work itself
            except asyncio.CancelledError:
                interrupted.append(body)
                raise
            ended.append(body)

        async with running(worker, mq):
            receipts = await mq.send_many(queue, range(400))
            for body, receipt in enumerate(receipts):
                if body % 2:
                    await mq.cancel(queue, receipt.id)
            await auntil(lambda: _empty(mq, queue), PATIENCE)
        stats = await mq.stats(queue)
        assert set(range(0, 400, 2)) <= set(ended)
        assert all(body % 2 for body in interrupted)
        assert len(set(ended)) == len(ended)
        assert (stats.retried, stats.crashed) == (0, 0)
        assert stats.acked + stats.died + stats.cancelled == 400

    async def test_frees_its_key(self, mq: ms.AsyncClient, worker: ms.Worker) -> None:
        """The next message of an ordered key begins, and a unique key can be used again."""
        queue: ms.Queue[Any] = ms.Queue("keyed", ordered=True)
        begun: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            begun.append(body)
            if body == 1:
                await asyncio.sleep(PATIENCE)  # the work itself

        receipt = await mq.send(queue, 1, key="a", unique="u")
        await mq.send(queue, 2, key="a")
        async with running(worker, mq):
            await auntil(lambda: begun)
            assert (await mq.send(queue, 3, key="b", unique="u")).duplicate
            assert await mq.cancel(queue, receipt.id)
            await becomes(mq, queue, (0, 0, 0, 1))
            assert not (await mq.send(queue, 4, key="b", unique="u")).duplicate
            await becomes(mq, queue, (0, 0, 0, 1))
        assert begun == [1, 2, 4]

    async def test_between_waiting_and_running(self, mq: ms.AsyncClient, worker: ms.Worker) -> None:
        """A message that is tried again and again is ended by one cancel, wherever it is."""
        policy = ms.Retry(max_attempts=10_000, backoff=ms.Backoff(first=0.02, factor=1))
        queue: ms.Queue[Any] = ms.Queue("busy", retry=policy)

        @worker.on(queue)
        async def handle(body: Any) -> None:
            raise ms.RetryLater

        receipts = await mq.send_many(queue, range(100))
        async with running(worker, mq):
            await auntil(lambda: _retried(mq, queue))
            answers = [await mq.cancel(queue, receipt.id) for receipt in receipts]
            stats = await mq.stats(queue)
        assert all(answers)
        assert (stats.ready, stats.delayed, stats.in_flight) == (0, 0, 0)
        assert stats.dead + stats.cancelled == 100


class TestBatches:
    async def test_a_pause(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any]
    ) -> None:
        """The batch that runs is finished; what waits for the next one is handed back."""
        begun: list[list[int]] = []
        go_on = asyncio.Event()

        @worker.on(queue, batch=3, prefetch=9)
        async def handle(bodies: list[int]) -> None:
            begun.append(bodies)
            await go_on.wait()

        await mq.send_many(queue, range(10))
        async with running(worker, mq):
            await auntil(lambda: begun)
            await mq.pause(queue)
            await becomes(mq, queue, (7, 0, 3, 0))
            go_on.set()
            await becomes(mq, queue, (7, 0, 0, 0))
            assert begun == [[0, 1, 2]]
            await mq.resume(queue)
            await becomes(mq, queue, (0, 0, 0, 0))
        assert sorted(body for bodies in begun for body in bodies) == [*range(10)]

    @pytest.mark.parametrize("kind", ["async", "thread"])
    async def test_a_cancel(
        self, mq: ms.AsyncClient, worker: ms.Worker, queue: ms.Queue[Any], kind: str
    ) -> None:
        """One of a batch is dead, and its handler goes on; with the last of them it is stopped."""
        held: list[Any] = []
        events: list[str] = []

        if kind == "async":

            @worker.on(queue, batch=3)
            async def handle(bodies: list[int], deliveries: list[ms.Delivery[Any]]) -> None:
                held.extend(deliveries)
                try:
                    await asyncio.sleep(PATIENCE)  # the work itself
                except asyncio.CancelledError:
                    events.append("cancelled")

        else:

            @worker.on(queue, batch=3)
            def work(bodies: list[int], deliveries: list[ms.SyncDelivery[Any]]) -> None:
                held.extend(deliveries)
                try:
                    while True:
                        time.sleep(0.01)  # the work itself
                except asyncio.CancelledError:
                    events.append("cancelled")

        receipts = await mq.send_many(queue, range(3))
        async with running(worker, mq):
            await auntil(lambda: held)
            assert await mq.cancel(queue, receipts[1].id)
            await auntil(lambda: held[1].lease_lost)
            assert [one.lease_lost for one in held] == [False, True, False]
            assert await mq.cancel(queue, receipts[0].id)
            await auntil(lambda: held[0].lease_lost)
            assert events == []
            assert await mq.cancel(queue, receipts[2].id)
            await auntil(lambda: events)
        assert events == ["cancelled"]
        assert await counts(mq, queue) == (0, 0, 0, 3)
