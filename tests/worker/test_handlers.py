"""What a handler may be, and what becomes of a message by how the handler ends."""

from __future__ import annotations

import asyncio
import functools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

import millstream as ms
from tests.support.wait import auntil
from tests.worker.running import SOON, becomes, counts, run_burst, running


class Order(msgspec.Struct):
    id: int


class NotAnException(BaseException):
    """As some frameworks derive theirs, to get past `except Exception`."""


async def test_async_handlers(worker: ms.Worker, any_mq: ms.AsyncClient) -> None:
    """A coroutine function gets the decoded body, and its return acknowledges the message."""
    queue = ms.Queue("typed", Order)
    handled: list[Order] = []

    @worker.on(queue)
    async def handle(order: Order) -> str:
        await asyncio.sleep(0)
        handled.append(order)
        return "whatever it returns"

    await any_mq.send_many(queue, [Order(n) for n in range(100)])
    await run_burst(worker, any_mq)

    assert sorted(order.id for order in handled) == list(range(100))
    assert await counts(any_mq, queue) == (0, 0, 0, 0)
    assert (await any_mq.stats(queue)).acked == 100


async def test_sync_handlers(worker: ms.Worker, any_mq: ms.AsyncClient) -> None:
    """A plain function gets the decoded body in a thread, and its return acknowledges."""
    queue = ms.Queue("typed", Order)
    handled: list[tuple[int, bool]] = []

    @worker.on(queue)
    def handle(order: Order) -> None:
        handled.append((order.id, threading.current_thread() is threading.main_thread()))

    await any_mq.send_many(queue, [Order(n) for n in range(100)])
    await run_burst(worker, any_mq)

    assert sorted(handled) == [(n, False) for n in range(100)]
    assert await counts(any_mq, queue) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_the_delivery(
    worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
) -> None:
    """A second parameter gets the delivery: id, attempt, crashes, headers, time, queue."""
    seen: list[tuple[Any, ...]] = []

    def note(body: Any, delivery: ms.Delivery[Any] | ms.SyncDelivery[Any]) -> None:
        assert delivery.body == body
        assert abs(delivery.sent_at - datetime.now(UTC)) < timedelta(seconds=60)
        seen.append((delivery.id, delivery.attempt, delivery.crashes, dict(delivery.headers)))
        if delivery.attempt == 1:
            raise RuntimeError("once more")

    if kind == "async":

        @worker.on(queue)
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
            note(body, delivery)

    else:

        @worker.on(queue)
        def handle_in_thread(body: Any, delivery: ms.SyncDelivery[Any]) -> None:
            note(body, delivery)

    receipt = await mq.send(queue, {"a": 1}, headers={"trace": "7"})
    await run_burst(worker, mq)

    assert seen == [
        (receipt.id, 1, 0, {"trace": "7"}),
        (receipt.id, 2, 0, {"trace": "7"}),
    ]


class TestSignatures:
    """One parameter: the body. Two: the body and the delivery."""

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_callable_objects(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], is_async: bool
    ) -> None:
        """Objects with __call__, methods and partials are handlers like functions."""
        handled: list[Any] = []

        class Handler:
            async def __call__(self, body: Any) -> None:
                handled.append(body)

            def method(self, body: Any, delivery: ms.SyncDelivery[Any]) -> None:
                handled.append((body, delivery.attempt))

        def with_more(handled: list[Any], body: Any) -> None:
            handled.append(("partial", body))

        partial: ms.Queue[Any] = ms.Queue("partial")
        worker.on(queue)(Handler() if is_async else Handler().method)
        worker.on(partial)(functools.partial(with_more, handled))
        await mq.send(queue, 1)
        await mq.send(partial, 2)
        await run_burst(worker, mq)

        assert sorted(handled, key=str) == [("partial", 2), 1 if is_async else (1, 1)]

    async def test_defaults_and_stars(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A parameter with a default is not passed, and *args gets the body alone."""
        handled: list[Any] = []
        stars: ms.Queue[Any] = ms.Queue("stars")

        @worker.on(queue)
        async def with_default(body: Any, factor: int = 10) -> None:
            handled.append(body * factor)

        @worker.on(stars)
        async def with_stars(*args: Any) -> None:
            handled.append(args)

        await mq.send(queue, 1)
        await mq.send(stars, 2)
        await run_burst(worker, mq)

        assert sorted(handled, key=str) == [(2,), 10]

    def test_wrong_signatures(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """A handler that cannot take a body, or wants more, is refused where it is declared."""

        async def nothing() -> None: ...

        async def three(a: Any, b: Any, c: Any) -> None: ...

        async def keyword(body: Any, *, needed: int) -> None: ...

        wrong: Any
        for wrong in (nothing, three, keyword):
            with pytest.raises(ms.UsageError, match=f"{wrong.__name__}.* must take a body"):
                worker.on(queue)(wrong)
        assert worker.handlers == ()

    def test_generators_are_no_handlers(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """A generator function would do nothing when it is called, so it is refused."""

        async def stream(body: Any) -> Any:
            yield body

        def lazy(body: Any) -> Any:
            yield body

        for wrong in (stream, lazy):
            with pytest.raises(ms.UsageError, match=wrong.__name__):
                worker.on(queue)(wrong)

    def test_the_function_stays(self, worker: ms.Worker, queue: ms.Queue[Any]) -> None:
        """The decorator returns the function as it is, so that a test can call it."""

        async def handle(body: Any) -> None: ...

        assert worker.on(queue)(handle) is handle


class TestFailures:
    async def test_exceptions_wait_at_the_server(
        self, worker: ms.Worker, any_mq: ms.AsyncClient
    ) -> None:
        """A failed message waits for its backoff in the server's due set, not in the worker."""
        queue: ms.Queue[Any] = ms.Queue(
            "slow", retry=ms.Retry(backoff=ms.Backoff(first=100, jitter=0))
        )

        @worker.on(queue)
        async def handle(body: Any) -> None:
            raise ValueError("not today")

        before = datetime.now(UTC)
        receipt = await any_mq.send(queue, {"n": 1})
        async with running(worker, any_mq):
            await becomes(any_mq, queue, (0, 1, 0, 0))

        (message,) = await any_mq.peek(queue, delayed=True)
        assert (message.id, message.body, message.attempts) == (receipt.id, {"n": 1}, 1)
        assert message.due is not None
        assert abs(message.due - before - timedelta(seconds=100)) < timedelta(seconds=20)

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_attempts_run_out(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any], kind: str
    ) -> None:
        """After the last attempt the message is a dead letter with reason, error, traceback."""
        attempts: list[int] = []

        def fail(delivery: ms.Delivery[Any] | ms.SyncDelivery[Any]) -> None:
            attempts.append(delivery.attempt)
            raise ZeroDivisionError(f"attempt {delivery.attempt}")

        if kind == "async":

            @worker.on(queue)
            async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
                fail(delivery)

        else:

            @worker.on(queue)
            def handle_in_thread(body: Any, delivery: ms.SyncDelivery[Any]) -> None:
                fail(delivery)

        receipt = await mq.send(queue, {"n": 1}, headers={"a": "b"})
        await run_burst(worker, mq)

        assert attempts == [1, 2, 3]
        assert await counts(mq, queue) == (0, 0, 0, 1)
        (letter,) = await mq.dead(queue)
        assert (letter.id, letter.body, letter.headers) == (receipt.id, {"n": 1}, {"a": "b"})
        assert (letter.reason, letter.attempts, letter.crashes) == ("attempts", 3, 0)
        assert letter.error == "ZeroDivisionError: attempt 3"
        assert "in fail" in (letter.traceback or "")

    async def test_no_thread_can_be_started(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is a failed attempt, and the messages behind it are handled as soon as there is a thread."""
        handled: list[tuple[int, int]] = []
        start, left = threading.Thread.start, [2]

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("millstream-orders") and left[0] > 0:
                left[0] -= 1
                message = "can't start new thread"
                raise RuntimeError(message)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)

        @worker.on(queue, concurrency=1)
        def handle(body: int, delivery: ms.SyncDelivery[Any]) -> None:
            handled.append((body, delivery.attempt))

        await mq.send_many(queue, [1, 2, 3])
        await run_burst(worker, mq)

        assert sorted(handled) == [(1, 2), (2, 2), (3, 1)]
        stats = await mq.stats(queue)
        assert (stats.retried, stats.crashed, stats.dead) == (2, 0, 0)

    async def test_the_handlers_policy(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A policy given at the handler replaces the queue's."""
        attempts: list[Any] = []

        @worker.on(queue, retry=ms.Retry(max_attempts=1))
        async def handle(body: Any) -> None:
            attempts.append(body)
            raise RuntimeError("no")

        await mq.send(queue, 1)
        await run_burst(worker, mq)

        assert attempts == [1]
        assert (await mq.dead(queue))[0].attempts == 1

    async def test_retry_later(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """RetryLater sets the wait; without one, the backoff decides."""

        @worker.on(queue)
        async def handle(body: Any) -> None:
            raise ms.RetryLater("busy", delay=body)

        now = datetime.now(UTC)
        await mq.send(queue, 1000)
        async with running(worker, mq):
            await becomes(mq, queue, (0, 1, 0, 0))
            (message,) = await mq.peek(queue, delayed=True)
            assert message.due is not None
            assert abs(message.due - now - timedelta(seconds=1000)) < timedelta(seconds=20)

            await mq.purge(queue, confirm=True)
            await mq.send(queue, None)
            await becomes(mq, queue, (0, 0, 0, 1))
        (letter,) = await mq.dead(queue)
        assert (letter.reason, letter.attempts, letter.error) == ("attempts", 3, "busy")

    async def test_retry_later_after_the_last_attempt(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """The dead letter says that there were no more attempts, and how many there had been."""

        @worker.on(queue)
        async def handle(body: Any) -> None:
            raise ms.RetryLater(delay=0)

        await mq.send(queue, 1)
        await run_burst(worker, mq)

        (letter,) = await mq.dead(queue)
        assert (letter.reason, letter.attempts) == ("attempts", 3)
        assert letter.error == (
            "the handler asked for another attempt, but attempt 3 was the last one"
        )

    async def test_retry_later_with_a_delay_that_makes_no_sense(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A negative or absurd delay is a failure by the backoff, and the reason is kept."""

        @worker.on(queue)
        async def handle(body: Any) -> None:
            raise ms.RetryLater(delay=body)

        await mq.send_many(queue, [-1, "soon", 1e300])
        await run_burst(worker, mq)

        letters = await mq.dead(queue)
        assert [letter.reason for letter in letters] == ["attempts"] * 3
        assert all("delay" in (letter.error or "") for letter in letters)

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_reject(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        kind: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Reject moves the message to the dead letters at once, with its reason, and is logged."""
        caplog.set_level("INFO", "millstream.worker")
        if kind == "async":

            @worker.on(queue)
            async def handle(body: Any) -> None:
                raise ms.Reject("no such customer")

        else:

            @worker.on(queue)
            def handle_in_thread(body: Any) -> None:
                raise ms.Reject("no such customer")

        receipt = await mq.send(queue, 1)
        await run_burst(worker, mq)

        (letter,) = await mq.dead(queue)
        assert (letter.reason, letter.attempts, letter.error) == ("no such customer", 0, None)
        said = [record.getMessage() for record in caplog.records if "rejected" in record.msg]
        assert said == [f"{queue.title}: message {receipt.id} rejected: 'no such customer'"]

    @pytest.mark.parametrize("kind", ["async", "sync"])
    @pytest.mark.parametrize(
        "error",
        [
            SystemExit(3),
            StopIteration(),
            StopAsyncIteration(),
            GeneratorExit(),
            asyncio.CancelledError(),
            TimeoutError(),
            NotAnException("odd"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_odd_exceptions(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        kind: str,
        error: BaseException,
    ) -> None:
        """Whatever a handler raises is a failure of its message; the worker goes on."""
        handled: list[int] = []

        def handle(body: int) -> None:
            if body == 0:
                raise error
            handled.append(body)

        if kind == "async":

            @worker.on(queue, concurrency=1)
            async def handle_in_loop(body: int) -> None:
                handle(body)

        else:
            worker.on(queue, concurrency=1)(handle)

        await mq.send_many(queue, [0, 1, 2])
        await run_burst(worker, mq)

        assert handled == [1, 2]
        (letter,) = await mq.dead(queue)
        assert (letter.reason, letter.attempts) == ("attempts", 3)
        assert type(error).__name__ in (letter.error or "")

    async def test_a_task_that_was_cancelled(
        self, worker: ms.Worker, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A handler that awaits a cancelled task has failed; it was not told to stop."""

        @worker.on(queue)
        async def handle(body: Any) -> None:
            task = asyncio.create_task(asyncio.Event().wait())
            asyncio.get_running_loop().call_soon(task.cancel)
            await task

        await mq.send(queue, 1)
        await run_burst(worker, mq)

        assert [letter.attempts for letter in await mq.dead(queue)] == [3]

    async def test_errors_without_text(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """An error whose text cannot be made, or is huge, or no unicode, does not stop anybody."""
        caplog.set_level("CRITICAL")  # pytest-xdist cannot carry text that is no unicode

        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("cannot say")

        errors = [Mute(), ValueError("x" * 1_000_000), ValueError("\udcff lone")]

        @worker.on(queue, retry=ms.Retry(max_attempts=1))
        async def handle(body: int) -> None:
            raise errors[body]

        await mq.send_many(queue, [0, 1, 2])
        await run_burst(worker, mq)

        letters = {letter.body: letter.error or "" for letter in await mq.dead(queue)}
        assert sorted(letters) == [0, 1, 2]
        assert "Mute" in letters[0]
        assert len(letters[1]) < 3000


class TestForeignEntries:
    async def test_malformed_and_undecodable(
        self, worker: ms.Worker, any_mq: ms.AsyncClient, any_server: Any, namespace: str
    ) -> None:
        """What foreign producers write wrong is a dead letter with the reason; the rest goes on."""
        queue = ms.Queue("typed", Order)
        handled: list[int] = []

        @worker.on(queue)
        async def handle(order: Order) -> None:
            handled.append(order.id)

        admin = any_server.admin()
        stream = f"{namespace}:{{typed}}:ready"
        wrong: list[dict[Any, Any]] = [
            {"b": b"not json"},
            {"b": b'{"id": "seven"}'},
            {"b": b""},
            {"x": b"no body"},
            {"b": b'{"id":1}', "h": b"[]"},
            {"b": b'{"id":1}', "h": b"\xff"},
            {"b": b'{"id":1}', "s": b"nonsense"},
            {"b": b'{"id":1}', "s": b'{"id":"x"}'},
            {b"\xff": b"\xff"},
        ]
        for fields in wrong:
            admin.xadd(stream, fields)
        admin.xadd(stream, {"b": b'{"id":7}', "extra": b"kept"})
        await any_mq.send(queue, Order(8))
        async with running(worker, any_mq):
            await becomes(any_mq, queue, (0, 0, 0, len(wrong)))
        letters = await any_mq.dead(queue)

        assert sorted(handled) == [7, 8]
        reasons = [letter.reason for letter in letters]
        assert reasons.count("undecodable") == 3
        assert reasons.count("malformed") == 6
        assert all(letter.error for letter in letters)

    async def test_entries_that_are_deleted(
        self,
        worker: ms.Worker,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: Any,
        namespace: str,
    ) -> None:
        """An entry that somebody deletes while its handler runs costs nothing but a warning."""
        begun, go_on = asyncio.Event(), asyncio.Event()
        handled: list[int] = []

        @worker.on(queue)
        async def handle(body: int) -> None:
            begun.set()
            await go_on.wait()
            handled.append(body)

        receipt = await mq.send(queue, 1)
        async with running(worker, mq):
            await begun.wait()
            admin.xdel(f"{namespace}:{{orders}}:ready", receipt.id)
            go_on.set()
            await mq.send(queue, 2)
            await auntil(lambda: len(handled) == 2)
            await becomes(mq, queue, (0, 0, 0, 0))


async def test_the_retry_policy_keeps_messages_apart(worker: ms.Worker, mq: ms.AsyncClient) -> None:
    """Failures of one message say nothing of its neighbours: each has its own attempts."""
    queue: ms.Queue[Any] = ms.Queue("apart", retry=ms.Retry(max_attempts=4, backoff=SOON))
    attempts: dict[int, int] = {}

    @worker.on(queue)
    async def handle(body: int) -> None:
        attempts[body] = attempts.get(body, 0) + 1
        if attempts[body] <= body:
            raise RuntimeError("not yet")

    await mq.send_many(queue, range(6))
    await run_burst(worker, mq)

    assert attempts == {0: 1, 1: 2, 2: 3, 3: 4, 4: 4, 5: 4}
    assert sorted(letter.body for letter in await mq.dead(queue)) == [4, 5]
