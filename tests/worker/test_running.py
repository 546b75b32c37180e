"""From the start of a run to its end: declaring, bursts, stopping, being cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.worker.consumer import Consumer
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, becomes, counts, run_burst, running


def connections(admin: redis.Redis, user: str) -> int:
    """How many connections a user has to the server."""
    return sum(one["user"] == user for one in admin.client_list())


class TestDeclaring:
    def test_one_handler_a_queue(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """A second handler of a queue is refused, and the first one stays."""

        @worker.on(queue)
        async def handle(body: Any) -> None: ...

        with pytest.raises(ms.UsageError, match="'orders' has a handler"):
            worker.on(ms.Queue("orders"))(handle)
        assert [handler.function for handler in worker.handlers] == [handle]

    @pytest.mark.parametrize(
        "options",
        [
            {"concurrency": 0},
            {"concurrency": -1},
            {"concurrency": 2.5},
            {"concurrency": True},
            {"prefetch": 0},
            {"prefetch": "many"},
            {"timeout": 0},
            {"timeout": -1},
            {"timeout": "1"},
            {"retry": 3},
        ],
        ids=str,
    )
    def test_options_that_make_no_sense(
        self, worker: ms.Worker, queue: ms.Queue[Any], options: dict[str, Any]
    ) -> None:
        """A bad option is refused where the handler is declared; the error names both."""

        async def handle(body: Any) -> None: ...

        with pytest.raises(ms.UsageError, match=f"handle.*{next(iter(options))}"):
            worker.on(queue, **options)(handle)

    def test_something_else_than_a_queue(self, worker: ms.Worker) -> None:
        """worker.on takes a queue, not its name."""

        async def handle(body: Any) -> None: ...

        wrong: Any = "orders"
        with pytest.raises(
            ms.UsageError, match="expected a Queue, a Topic, a Subscription or an Endpoint, not str"
        ):
            worker.on(wrong)(handle)

    async def test_no_handlers(self, worker: ms.Worker, mq: ms.AsyncClient) -> None:
        """A worker without handlers does not run."""
        with pytest.raises(ms.UsageError, match="no handlers"):
            await worker.run(mq)

    async def test_running_twice(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A worker that runs is not run again; after its end it may be."""
        handled: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.append(body)

        async with running(worker, mq):
            await mq.send(queue, 1)
            await auntil(lambda: handled)
            with pytest.raises(ms.UsageError, match="runs already"):
                await worker.run(mq)
            await mq.send(queue, 2)
            await auntil(lambda: len(handled) == 2)
        await mq.send(queue, 3)
        await run_burst(worker, mq)
        assert handled == [1, 2, 3]

    async def test_stopping_what_does_not_run(self, worker: ms.Worker) -> None:
        """stop() of a worker that does not run does nothing."""
        worker.stop()
        worker.stop()

    async def test_no_server(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """Without a server at the start, run() says so, and soon."""

        @worker.on(queue)
        async def handle(body: Any) -> None: ...

        with pytest.raises(ms.NotConnected, match=r"127\.0\.0\.1:1"):
            await worker.run(ms.AsyncClient("redis://127.0.0.1:1"))

    async def test_a_topic_that_may_not_be_listened_to(
        self, worker: ms.Worker, own_server: Server, queue: ms.Queue[Any]
    ) -> None:
        """A run that fails at its start leaves no task and no connection behind, and may be run again."""
        admin = own_server.admin()
        rules: dict[str, Any] = {"categories": ["+@all"], "commands": ["-subscribe"], "keys": ["*"]}
        admin.acl_setuser("deaf", enabled=True, passwords=["+word"], **rules)
        handled: list[int] = []

        @worker.on(ms.Topic("heard", durable=False))
        async def hear(body: Any) -> None: ...

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.append(body)

        async with ms.AsyncClient(f"unix://deaf:word@{own_server.socket_path}") as mq:
            await mq.send(queue, 1)
            for _ in range(3):
                with pytest.raises(ms.ServerRefused, match="NOPERM"):
                    await worker.run(mq)
                names = {task.get_name() for task in asyncio.all_tasks()}
                assert "millstream-control" not in names
            # One for operations, and one that it has tried to listen with.
            await auntil(lambda: connections(admin, "deaf") <= 2, PATIENCE)
            await run_burst(worker, mq)
        assert handled == [1]

    async def test_a_later_handler_that_cannot_begin(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What has begun before it lets go of what it has."""
        let_go: list[str] = []
        end = Consumer.let_go

        async def note(self: Consumer) -> None:
            let_go.append(self.handler.queue.name)
            await end(self)

        monkeypatch.setattr(Consumer, "let_go", note)

        async def handle(body: Any) -> None: ...

        worker.on(queue)(handle)
        worker.on(ms.Queue("divided", ordered=True, partitions=2))(handle)
        await mq.declare(ms.Queue("divided", ordered=True, partitions=3))

        with pytest.raises(ms.UsageError, match="divided"):
            await worker.run(mq)
        assert let_go == [queue.name]

    async def test_a_client_of_its_own(
        self,
        worker: ms.Worker,
        server: Server,
        queue: ms.Queue[Any],
        namespace: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Without a client, run() makes one by $MILLSTREAM_URL, and closes it."""
        monkeypatch.setenv("MILLSTREAM_URL", server.url)  # its namespace is not the test's
        own: ms.Queue[Any] = ms.Queue(namespace)
        handled: list[int] = []

        @worker.on(own)
        async def handle(body: int) -> None:
            handled.append(body)

        async with ms.AsyncClient() as mq:
            await mq.send(own, 1)
        async with asyncio.timeout(PATIENCE):
            await worker.run(burst=True)
        assert handled == [1]
        with server.admin() as admin:
            for key in admin.scan_iter(f"ms:{{{namespace}}}:*"):
                admin.delete(key)


class TestSeveralQueues:
    async def test_side_by_side(self, worker: ms.Worker, mq: ms.AsyncClient) -> None:
        """Each queue has its own handler, slots and policy; a stuck one does not stop others."""
        stuck: ms.Queue[Any] = ms.Queue("stuck")
        threads: ms.Queue[Any] = ms.Queue("threads")
        failing: ms.Queue[Any] = ms.Queue("failing", retry=ms.Retry(max_attempts=2, backoff=SOON))
        go_on = asyncio.Event()
        handled: list[int] = []

        @worker.on(stuck, concurrency=1)
        async def wait(body: Any) -> None:
            await go_on.wait()

        @worker.on(threads)
        def count(body: int) -> None:
            handled.append(body)

        @worker.on(failing)
        async def fail(body: Any) -> None:
            raise RuntimeError("no")

        await mq.send_many(stuck, range(3))
        await mq.send_many(threads, range(100))
        await mq.send_many(failing, range(10))
        async with running(worker, mq):
            await becomes(mq, threads, (0, 0, 0, 0))
            await becomes(mq, failing, (0, 0, 0, 10))
            assert await counts(mq, stuck) == (2, 0, 1, 0)
            go_on.set()
            await becomes(mq, stuck, (0, 0, 0, 0))
        assert sorted(handled) == [*range(100)]


class TestBurst:
    async def test_nothing_to_do(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """With empty queues a burst ends at once."""

        @worker.on(queue)
        async def handle(body: Any) -> None: ...

        began = time.monotonic()
        await run_burst(worker, mq)
        assert time.monotonic() - began < 8

    async def test_everything_is_done(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A burst handles what is there, retries that wait included, and what handlers send."""
        handled: list[Any] = []
        more: ms.Queue[Any] = ms.Queue("more")

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            if delivery.attempt == 1:
                raise ms.RetryLater(delay=0.3)
            handled.append(body)
            await mq.send(more, -body)

        @worker.on(more)
        def handle_more(body: int) -> None:
            handled.append(body)

        await mq.send_many(queue, range(1, 11))
        await run_burst(worker, mq)

        assert sorted(handled) == [*range(-10, 0), *range(1, 11)]
        assert await counts(mq, queue) == (0, 0, 0, 0)
        assert await counts(mq, more) == (0, 0, 0, 0)

    async def test_what_others_hold(
        self, worker: ms.Worker, mq: ms.AsyncClient, other: ms.AsyncClient
    ) -> None:
        """A burst waits for what another consumer holds, and does it when that one is gone."""
        queue: ms.Queue[Any] = ms.Queue("held", lease=0.5)
        handled: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.append(body)

        await mq.send(queue, 1)
        deliveries = other.receive(queue, prefetch=1)
        await anext(deliveries)  # and its lease runs out
        await run_burst(worker, mq)
        await deliveries.aclose()

        assert handled == [1]

    async def test_stop(self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """stop() ends a burst that waits."""

        @worker.on(queue)
        async def handle(body: int) -> None:
            raise ms.RetryLater(delay=1000)

        await mq.send(queue, 1)
        async with running(worker, mq, burst=True):
            await becomes(mq, queue, (0, 1, 0, 0))
            worker.stop()


class TestStopping:
    async def test_in_order(
        self, mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """What runs ends well; what was not begun is with others at once, without blame."""
        begun: list[int] = []
        ended: list[int] = []
        go_on = asyncio.Event()
        stopping = ms.Worker()

        @stopping.on(queue, concurrency=3, prefetch=20)
        async def handle(body: int) -> None:
            begun.append(body)
            await go_on.wait()
            ended.append(body)

        await mq.send_many(queue, range(20))
        async with running(stopping, mq):
            await auntil(lambda: len(begun) == 3)
            await becomes(mq, queue, (0, 0, 20, 0))
            stopping.stop()
            # Long before the running ones end, the others are there for the taking.
            await becomes(mq, queue, (17, 0, 3, 0))
            taken = []
            async for delivery in other.receive(queue, prefetch=20, wait=0):
                taken.append((delivery.body, delivery.attempt, delivery.crashes))
                await delivery.ack()
            assert sorted(taken) == [(n, 1, 0) for n in range(20) if n not in begun]
            go_on.set()
        assert sorted(ended) == sorted(begun)
        assert await counts(mq, queue) == (0, 0, 0, 0)
        assert (await mq.stats(queue)).consumers == ()

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_a_message_comes_at_the_last_moment(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
    ) -> None:
        """Workers that stop and start while messages come lose none and blame none."""
        handled: list[int] = []
        blamed: list[int] = []

        def note(body: int, delivery: Any) -> None:
            handled.append(body)
            if delivery.attempt > 1 or delivery.crashes:
                blamed.append(body)

        def make() -> ms.Worker:
            worker = ms.Worker()
            if kind == "async":

                @worker.on(queue)
                async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
                    note(body, delivery)

            else:
                worker.on(queue)(note)
            return worker

        async def send() -> None:
            for n in range(300):
                await mq.send(queue, n)
                await asyncio.sleep(0.001)  # the work itself

        async def progress() -> None:
            seen = len(handled)
            await auntil(lambda: len(handled) > seen or sending.done())

        sending = asyncio.create_task(send())
        while not sending.done():
            async with running(make(), mq):
                await progress()
        await sending
        await run_burst(make(), mq)

        assert sorted(handled) == [*range(300)]
        assert blamed == []
        assert await counts(mq, queue) == (0, 0, 0, 0)
        assert (await mq.stats(queue)).consumers == ()

    async def test_the_time_is_over(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """After shutdown_timeout coroutines are cancelled and their messages handed back."""
        worker = ms.Worker(shutdown_timeout=0.2)
        events: list[str] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            events.append("begun")
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            finally:
                events.append("cancelled")

        await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(lambda: events)
            began = time.monotonic()
        assert 0.2 <= time.monotonic() - began < 5
        assert events == ["begun", "cancelled"]
        assert await counts(mq, queue) == (1, 0, 0, 0)
        (message,) = await mq.peek(queue)
        assert (message.attempts, message.crashes) == (0, 0)

    async def test_a_thread_cannot_be_cancelled(
        self, mq: ms.AsyncClient, other: ms.AsyncClient
    ) -> None:
        """The message of a thread that does not end stays with it for its lease: no second copy."""
        queue: ms.Queue[Any] = ms.Queue("threads", lease=2)
        worker = ms.Worker(shutdown_timeout=0.1)
        begun, go_on = threading.Event(), threading.Event()

        @worker.on(queue)
        def handle(body: int) -> None:
            begun.set()
            go_on.wait(PATIENCE)

        await mq.send(queue, 1)
        async with running(worker, mq):
            await auntil(begun.is_set)
            stopped = time.monotonic()  # until it is, the lease is extended
        assert await counts(mq, queue) == (0, 0, 1, 0)
        async for delivery in other.receive(queue, wait=PATIENCE):
            assert time.monotonic() - stopped > 1
            assert delivery.body == 1
            await delivery.ack()
            break
        go_on.set()

    @pytest.mark.parametrize("ends", ["returns", "raises", "settles"])
    async def test_a_handler_that_does_not_let_itself_be_cancelled(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], ends: str
    ) -> None:
        """Whatever a cancelled handler does at its end, its message is handed back, once."""
        worker = ms.Worker(shutdown_timeout=0)
        begun = asyncio.Event()
        errors: list[BaseException] = []

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[Any]) -> None:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            except asyncio.CancelledError:
                if ends == "raises":
                    raise ValueError("at the end") from None
                if ends == "settles":
                    try:
                        await delivery.reject("no")
                    except ms.LeaseLost as error:
                        errors.append(error)

        await mq.send(queue, 1)
        async with running(worker, mq):
            await begun.wait()
        if ends == "settles" and not errors:
            assert await counts(mq, queue) == (0, 0, 0, 1)
        else:
            assert await counts(mq, queue) == (1, 0, 0, 0)
            assert (await mq.peek(queue))[0].attempts == 0

    async def test_again_and_again(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """stop() may be called any number of times, also by a handler."""

        @worker.on(queue, concurrency=1)
        async def handle(body: int) -> None:
            worker.stop()
            worker.stop()

        await mq.send_many(queue, [1, 2])
        async with asyncio.timeout(PATIENCE):
            await worker.run(mq)
        worker.stop()
        assert await counts(mq, queue) == (1, 0, 0, 0)

    @pytest.mark.parametrize("while_stopping", [True, False])
    async def test_what_it_knew_to_be_due_is_not_late(
        self, mq: ms.AsyncClient, while_stopping: bool
    ) -> None:
        """A worker that still has something to finish promotes nothing: another one does it in time.

        It sleeps, and knows nothing of a retry that has been settled elsewhere.
        """
        queue: ms.Queue[str] = ms.Queue("due", str)
        go_on, fail = asyncio.Event(), asyncio.Event()
        first: list[ms.Worker] = []
        failed: list[float] = []
        again: list[float] = []
        done: list[str] = []
        sent = 0

        def make() -> ms.Worker:
            worker = ms.Worker(shutdown_timeout=PATIENCE)

            @worker.on(queue)
            async def handle(body: str, delivery: ms.Delivery[str]) -> None:
                if body == "long":
                    first.append(worker)
                    await go_on.wait()
                elif delivery.attempt > 1:
                    again.append(time.monotonic())
                elif worker in first and not failed:
                    failed.append(0)
                    await fail.wait()
                    failed[0] = time.monotonic()
                    raise ms.RetryLater(delay=1)
                else:
                    done.append(body)

            return worker

        async with running(make(), mq), running(make(), mq):
            await mq.send(queue, "long")
            await auntil(lambda: first, PATIENCE)
            while not failed:
                # It goes to either of the two.
                await mq.send(queue, "short")
                sent += 1
                await auntil(lambda: failed or len(done) == sent, PATIENCE)  # noqa: B023 - it ends before the next one begins
            if while_stopping:
                first[0].stop()
            fail.set()
            await becomes(mq, queue, (0, 1, 1, 0))
            first[0].stop()
            await auntil(lambda: again, PATIENCE)
            assert again[0] - failed[0] < 8
            assert first[0]._run is not None
            go_on.set()


class TestCancelling:
    async def test_run_is_cancelled(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A cancelled run() hands back everything at once, and leaves nothing behind."""
        begun: list[int] = []

        @worker.on(queue, concurrency=2, prefetch=10)
        async def handle(body: int) -> None:
            begun.append(body)
            await asyncio.sleep(PATIENCE)  # the work itself

        await mq.send_many(queue, range(10))
        before = asyncio.all_tasks()
        task = asyncio.create_task(worker.run(mq))
        await auntil(lambda: len(begun) == 2)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 5

        assert await counts(mq, queue) == (10, 0, 0, 0)
        assert (await mq.stats(queue)).consumers == ()
        assert {message.attempts for message in await mq.peek(queue)} == {0}
        assert asyncio.all_tasks() <= before

    async def test_at_once(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Cancelling right at the start, at any moment of it, leaves a worker that can run."""
        handled: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.append(body)

        await mq.send(queue, 1)
        for turns in range(30):
            task = asyncio.create_task(worker.run(mq))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await run_burst(worker, mq)
        assert handled == [1]

    def test_the_loop_ends(
        self, worker: ms.Worker, url: str, queue: ms.Queue[Any], namespace: str
    ) -> None:
        """When asyncio.run cancels all tasks at once, messages are handed back without blame."""
        begun: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            begun.append(body)
            await asyncio.sleep(PATIENCE)  # the work itself

        tasks = []

        async def main() -> None:
            async with ms.AsyncClient(url, namespace=namespace) as mq:
                await mq.send(queue, 1)
            tasks.append(asyncio.create_task(work()))
            await auntil(lambda: begun)
            # and ends without a word to the worker

        async def work() -> None:
            async with ms.AsyncClient(url, namespace=namespace) as mq:
                await worker.run(mq)

        began = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - began < 5
        with ms.Client(url, namespace=namespace) as mq:
            stats = mq.stats(queue)
            messages = mq.peek(queue)
        assert (stats.ready, stats.in_flight, stats.delayed) == (1, 0, 0)
        assert [message.attempts for message in messages] == [0]

    async def test_twice(
        self, worker: ms.Worker, mq: ms.AsyncClient, other: ms.AsyncClient
    ) -> None:
        """A second cancellation ends run() even when the first one is not through."""
        queue: ms.Queue[Any] = ms.Queue("short", lease=1)
        begun = asyncio.Event()
        handled: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)  # the work itself
            except asyncio.CancelledError:
                await asyncio.sleep(1)  # the work itself

        await mq.send(queue, 1)
        task = asyncio.create_task(worker.run(mq))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 8

        # What could not be handed back comes back when its lease is over.
        next_one = ms.Worker()

        @next_one.on(queue)
        async def handle_again(body: int) -> None:
            handled.append(body)

        await run_burst(next_one, other)
        assert handled == [1]
