"""Results of messages, as both clients get them: by the handle of a send, and by an id."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.api.clients import Connect, drain, take_one
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

PATIENCE = 30.0
"""Seconds after which a result that should have come is missing, on a busy machine, too."""

RESULTS = ms.Results(keep=60)
SOON = ms.Retry(max_attempts=2, backoff=ms.Backoff(first=0.01, factor=1, jitter=0))

Work = Callable[..., Awaitable[None]]


class Total(msgspec.Struct):
    """A typed result."""

    sum: int
    parts: list[int]


@dataclass
class Plain:
    """Another one."""

    name: str


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """Blocking clients of these tests wait in many threads at a time."""
    with ThreadPoolExecutor(64) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        yield


@pytest.fixture
def jobs() -> ms.Queue[Any]:
    """A queue of any JSON values, with results of any JSON values."""
    return ms.Queue("jobs", retry=SOON, results=RESULTS)


@pytest.fixture
async def work(url: str, namespace: str) -> AsyncIterator[Work]:
    """Has a worker with a client of its own handle a queue until the test ends."""
    async with AsyncExitStack() as stack:

        async def work(queue: Any, function: Any, at: str = url, **options: Any) -> None:
            worker = ms.Worker()
            worker.on(queue, **options)(function)
            mq = await stack.enter_async_context(ms.AsyncClient(at, namespace=namespace))
            await stack.enter_async_context(_running(worker, mq))

        yield work


@asynccontextmanager
async def _running(worker: ms.Worker, mq: ms.AsyncClient) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run(mq))
    try:
        yield
    finally:
        worker.stop()
        async with asyncio.timeout(PATIENCE):
            await task


async def result(handle: Any, timeout: float | None = PATIENCE) -> Any:  # noqa: ASYNC109 - passed on
    """Wait for the result of a handle of either client."""
    if isinstance(handle, ms.Handle):
        return await handle.result(timeout=timeout)
    assert isinstance(handle, ms.SyncHandle)
    return await asyncio.to_thread(handle.result, timeout=timeout)


def handle_of(mq: Any, queue: ms.Queue[Any], id: str) -> Any:
    """The handle of a message by its id."""
    return getattr(mq, "target", mq).handle(queue, id)


async def double(body: int) -> int:
    return 2 * body


# The result


async def test_what_the_handler_returns(
    any_mq: ms.AsyncClient, any_url: str, work: Work, jobs: ms.Queue[Any]
) -> None:
    """Any JSON value, as often as somebody asks, on every supported server."""
    values: list[Any] = [None, 0, "", "\u00fc\x00", [1, {"a": [2.5, None]}], True, {}]

    async def same(body: Any) -> Any:
        return body

    handles = [await any_mq.send(jobs, value, result=True) for value in values]
    assert all(isinstance(handle, ms.Handle | ms.SyncHandle) for handle in handles)
    await work(jobs, same, any_url)

    for _ in range(2):
        assert [await result(handle) for handle in handles] == values


async def test_a_plain_send_returns_a_receipt(mq: ms.AsyncClient, jobs: ms.Queue[Any]) -> None:
    """To a queue with results, too; and the handle has it."""
    assert isinstance(await mq.send(jobs, 1), ms.Receipt)
    assert isinstance(await mq.send(jobs, 1, result=False), ms.Receipt)
    handle = await mq.send(jobs, 1, result=True)
    assert (handle.id, handle.receipt.duplicate, handle.queue) == (handle.receipt.id, False, jobs)
    assert handle.id in repr(handle)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("kind_of", "value"),
    [
        (Total, Total(3, [1, 2])),
        (Plain, Plain("Ada")),
        (dict[str, int], {"a": 1}),
        (bytes, b"\x00\xff"),
        (int | None, None),
    ],
    ids=["struct", "dataclass", "dict", "bytes", "union"],
)
async def test_a_typed_result(
    mq: ms.AsyncClient, work: Work, codec: Any, kind_of: Any, value: Any
) -> None:
    """It comes back as the type that the queue declares, in the queue's codec."""
    queue = ms.Queue("jobs", int, codec=codec, results=ms.Results(type=kind_of))

    async def make(body: int) -> Any:
        return value

    await work(queue, make)

    assert await result(await mq.send(queue, 1, result=True)) == value


async def test_a_plain_function_with_a_delivery_and_middleware(
    mq: ms.AsyncClient, url: str, namespace: str, jobs: ms.Queue[Any]
) -> None:
    """The result is what the handler itself returns, whatever middleware does with it."""
    worker = ms.Worker()

    @worker.middleware
    async def around(delivery: Any, call_next: Callable[[], Awaitable[Any]]) -> Any:
        assert await call_next() == 4
        return "nothing"

    @worker.on(jobs)
    def double(body: int, delivery: ms.SyncDelivery[Any]) -> int:
        return 2 * body

    handle = await mq.send(jobs, 2, result=True)
    async with ms.AsyncClient(url, namespace=namespace) as other:
        await worker.run(other, burst=True)

    assert await result(handle) == 4


async def test_in_another_process(connect: Connect, work: Work, jobs: ms.Queue[Any]) -> None:
    """The id is all it takes, before and after the work is done."""
    mq, other = await connect(), await connect()
    id = (await mq.send(jobs, 4, result=True)).id
    waits = asyncio.create_task(result(handle_of(other, jobs, id)))
    await work(jobs, double)

    assert await waits == 8
    assert await result(handle_of(other, jobs, id), timeout=0) == 8
    assert handle_of(other, jobs, id).receipt == ms.Receipt(id)


async def test_many_wait_at_once(mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]) -> None:
    """Some for the same message; each gets its own result."""
    handles = [await mq.send(jobs, n, result=True) for n in range(40)]
    waits = [asyncio.create_task(result(one)) for one in [*handles, *handles[:5]]]
    await auntil(lambda: any(not one.done() for one in waits))
    await work(jobs, double, concurrency=7)

    assert await asyncio.gather(*waits) == [2 * n for n in [*range(40), *range(5)]]


async def test_waiting_costs_no_command_a_moment(
    connect: Connect, jobs: ms.Queue[Any], admin: Any, namespace: str
) -> None:
    """Who waits asks at most once a second, and many waiters ask together."""
    mq = await connect()
    handles = [await mq.send(jobs, n, result=True) for n in range(20)]
    before = _scripts(admin)
    times = [asyncio.create_task(result(one, 3)) for one in handles]
    outcomes = await asyncio.gather(*times, return_exceptions=True)

    assert {type(one) for one in outcomes} == {ms.TimedOut}
    # Two looks to begin with, one at the end, and two or three ticks for all of them together.
    assert _scripts(admin) - before <= 3 * len(handles) + 8


def _scripts(admin: Any) -> int:
    found: dict[str, Any] = admin.info("commandstats")
    return int(found["cmdstat_evalsha"]["calls"])


# The combinations


async def test_a_retry_keeps_the_wait_going(
    mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]
) -> None:
    """The second attempt gives the result."""

    async def second(body: int, delivery: ms.Delivery[Any]) -> int:
        if delivery.attempt == 1:
            raise ValueError(body)
        return delivery.attempt

    await work(jobs, second)

    assert await result(await mq.send(jobs, 1, result=True)) == 2


CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "delay": ({}, {"delay": 0.05}),
    "at": ({}, {"at": datetime(2020, 1, 1, tzinfo=UTC)}),
    "priority": ({}, {"priority": 5}),
    "ordered": ({"ordered": True}, {"key": "k"}),
    "partitions": ({"ordered": True, "partitions": 3}, {"key": "k3"}),
    "per key": ({"max_running_per_key": 1}, {"key": "k"}),
    "keep": ({"keep": ms.Retain(max_length=10)}, {}),
    "limits": ({"max_running": 5, "rate": ms.Rate(1000)}, {}),
    "bound": ({"bound": ms.Bound(100)}, {}),
    "unique": ({}, {"unique": "u"}),
    "ttl": ({}, {"ttl": 60}),
    "headers": ({}, {"headers": {"a": "b"}}),
}
TOGETHER = [
    (one, other)
    for one, other in itertools.combinations(CHOICES, 2)
    if {one, other}
    not in (
        {"delay", "at"},
        {"ordered", "partitions"},
        {"ordered", "per key"},
        {"partitions", "per key"},
        {"partitions", "limits"},
        {"partitions", "bound"},
    )
]


@pytest.mark.parametrize("pair", TOGETHER, ids="-".join)
async def test_with_other_options(mq: ms.AsyncClient, work: Work, pair: tuple[str, str]) -> None:
    """Each two of them: every message has its result, and nothing is left of any."""
    declared: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name in pair:
        declared |= CHOICES[name][0]
        options |= CHOICES[name][1]
    queue: ms.Queue[Any] = ms.Queue("jobs", retry=SOON, results=RESULTS, **declared)
    failed: list[int] = []

    async def sometimes(body: int) -> int:
        if body == 1 and not failed:
            failed.append(body)
            raise ValueError
        return 2 * body

    handles = []
    for n in range(3):
        if "unique" in options:
            options["unique"] = f"u{n}"
        handles.append(await mq.send(queue, n, result=True, **options))
    await work(queue, sometimes)

    assert [await result(handle) for handle in handles] == [0, 2, 4]
    stats = await mq.stats(queue)
    assert (stats.ready, stats.delayed, stats.dead, stats.acked) == (0, 0, 0, 3)


async def test_a_duplicate_waits_for_the_first(
    mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]
) -> None:
    """Its handle is that of the message that has the unique key."""
    first = await mq.send(jobs, 1, result=True, unique="u", unique_for=60)
    second = await mq.send(jobs, 9, result=True, unique="u", unique_for=60)
    assert (second.id, second.receipt.duplicate) == (first.id, True)
    await work(jobs, double)

    assert [await result(one) for one in (second, first)] == [2, 2]
    third = await mq.send(jobs, 9, result=True, unique="u", unique_for=60)
    assert await result(third, timeout=0) == 2


async def test_a_duplicate_of_a_message_without_result(
    mq: ms.AsyncClient, jobs: ms.Queue[Any]
) -> None:
    """There will be none: that is known at once."""
    await mq.send(jobs, 1, unique="u")
    handle = await mq.send(jobs, 1, result=True, unique="u")

    with pytest.raises(ms.NoResult, match="result=True"):
        await result(handle)


async def test_a_message_is_handled_by_a_receiver(mq: ms.AsyncClient, jobs: ms.Queue[Any]) -> None:
    """Acknowledged by hand it has a result, which is None."""
    handle = await mq.send(jobs, 1, result=True)
    waits = asyncio.create_task(result(handle))
    await drain(mq, jobs, wait=5)

    assert await waits is None


async def test_a_handler_that_acknowledges_by_hand(
    mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]
) -> None:
    """What it returns after that comes too late."""

    async def by_hand(body: int, delivery: ms.Delivery[Any]) -> int:
        await delivery.ack()
        return body

    await work(jobs, by_hand)

    assert await result(await mq.send(jobs, 1, result=True)) is None


# What comes instead of a result


async def test_not_done_yet(mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]) -> None:
    """The error says what is known; the work goes on, and the next wait may have its result."""
    go = asyncio.Event()

    async def slow(body: int) -> int:
        await go.wait()
        return body

    queued = await mq.send(jobs, 1, result=True)
    delayed = await mq.send(jobs, 2, result=True, delay=3600)
    for handle, state in ((queued, "queued"), (delayed, "delayed")):
        for timeout in (0, 0.05):
            with pytest.raises(ms.TimedOut) as caught:
                await result(handle, timeout)
            error = caught.value
            assert (error.id, error.state, error.endpoint) == (handle.id, state, None)
    await work(jobs, slow)

    async def is_running() -> bool:
        with pytest.raises(ms.TimedOut) as caught:
            await result(queued, 0)
        return caught.value.state == "running"

    await auntil(is_running, PATIENCE)
    go.set()
    assert await result(queued) == 1


async def test_the_handler_failed_for_good(
    mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]
) -> None:
    """Its last error crosses the wire, with the traceback that the dead letter has."""

    async def fails(body: int) -> None:
        message = f"no {body}: none"
        raise KeyError(message)

    await work(jobs, fails)
    handle = await mq.send(jobs, 7, result=True)

    for _ in range(2):
        with pytest.raises(ms.RemoteError, match="failed 2 times") as caught:
            await result(handle)
        error = caught.value
        assert (error.queue, error.id, error.type_name) == ("jobs", handle.id, "KeyError")
        assert "no 7: none" in error.detail
        assert "raise KeyError" in (error.traceback or "")


@pytest.mark.parametrize(
    ("raises", "type_name", "detail"),
    [
        (ms.Reject("not ours"), "Reject", "not ours"),
        (ms.RetryLater("come again: later"), "RetryLater", "come again: later"),
        (ms.UsageError("x"), "UsageError", "x"),
        (RuntimeError(), "RuntimeError", ""),
    ],
    ids=["reject", "retry later", "library", "silent"],
)
async def test_how_it_failed(
    mq: ms.AsyncClient, work: Work, raises: Exception, type_name: str, detail: str
) -> None:
    """By a rejection, or by what was raised at the last attempt."""
    queue: ms.Queue[Any] = ms.Queue("jobs", results=RESULTS, retry=ms.Retry(max_attempts=1))

    async def fails(body: int) -> None:
        raise raises

    await work(queue, fails)

    with pytest.raises(ms.RemoteError) as caught:
        await result(await mq.send(queue, 1, result=True))
    assert (caught.value.type_name, caught.value.detail) == (type_name, detail)


async def test_redriven(connect: Connect, work: Work, jobs: ms.Queue[Any]) -> None:
    """A dead letter that is sent back is waited for again."""
    mq, fails = await connect(), [True]

    async def later(body: int) -> int:
        if fails:
            raise ms.Reject("not yet")
        return body

    await work(jobs, later)
    handle = await mq.send(jobs, 5, result=True)
    with pytest.raises(ms.RemoteError, match="not yet"):
        await result(handle)
    fails.clear()
    assert await mq.redrive(jobs) == 1

    assert await result(handle) == 5


async def test_what_cannot_be_a_result(mq: ms.AsyncClient, work: Work) -> None:
    """The message is done, and whoever waits is told why there is no value."""
    queue = ms.Queue("jobs", str, results=ms.Results(type=int), max_body=100)

    async def make(body: str) -> Any:
        return {"type": "text", "object": object()}[body]

    await work(queue, make)
    for body, detail in [("type", "not str"), ("object", "not object")]:
        handle = await mq.send(queue, body, result=True)
        with pytest.raises(ms.RemoteError, match="cannot be its result") as caught:
            await result(handle)
        assert caught.value.type_name == "UsageError"
        assert detail in caught.value.detail
    assert (await mq.stats(queue)).acked == 2


async def test_too_large_a_result(mq: ms.AsyncClient, work: Work) -> None:
    """Results are bounded as bodies are."""
    queue: ms.Queue[Any] = ms.Queue("jobs", results=RESULTS, max_body=100)

    async def make(body: int) -> str:
        return "x" * body

    await work(queue, make)
    assert await result(await mq.send(queue, 98, result=True)) == "x" * 98
    with pytest.raises(ms.RemoteError, match="max_body"):
        await result(await mq.send(queue, 99, result=True))


async def test_a_result_that_does_not_fit(mq: ms.AsyncClient, work: Work) -> None:
    """Who declares another type than the worker is told so."""
    queue = ms.Queue("jobs", int, results=RESULTS)
    await work(queue, double)
    wrong = ms.Queue("jobs", int, results=ms.Results(type=str))

    with pytest.raises(ms.Undecodable, match="result of message"):
        await result(await mq.send(wrong, 1, result=True))


async def test_a_body_that_does_not_fit(mq: ms.AsyncClient, work: Work) -> None:
    """The worker rejects it, and who waits hears why."""
    await work(ms.Queue("jobs", int, results=RESULTS), double)

    with pytest.raises(ms.Undecodable, match="undecodable"):
        await result(await mq.send(ms.Queue("jobs", results=RESULTS), "text", result=True))


async def test_expired(mq: ms.AsyncClient, work: Work) -> None:
    """Nobody began with it in time: a dead letter says so, and without one nothing is known."""
    ends: list[tuple[Literal["dead", "drop"], str]] = [("dead", "expired"), ("drop", "unknown")]
    for expired, reason in ends:
        queue: ms.Queue[Any] = ms.Queue(f"jobs-{expired}", results=RESULTS, expired=expired)
        handle = await mq.send(queue, 1, result=True, ttl=0.001)
        await work(queue, double)
        with pytest.raises(ms.NoResult) as caught:
            await result(handle)
        assert caught.value.reason == reason


async def test_cancelled(mq: ms.AsyncClient, work: Work, jobs: ms.Queue[Any]) -> None:
    """While it waits nothing is left of it; while it runs it becomes a dead letter."""
    waiting = await mq.send(jobs, 1, result=True)
    waits = asyncio.create_task(result(waiting))
    assert await mq.cancel(jobs, waiting.id)
    with pytest.raises(ms.NoResult) as caught:
        await waits
    assert caught.value.reason == "unknown"

    begun = asyncio.Event()

    async def endless(body: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    await work(jobs, endless)
    running = await mq.send(jobs, 2, result=True)
    waits = asyncio.create_task(result(running))
    await begun.wait()
    assert await mq.cancel(jobs, running.id)
    with pytest.raises(ms.NoResult, match="cancelled") as caught:
        await waits
    assert (caught.value.reason, caught.value.id) == ("cancelled", running.id)


async def test_no_longer_kept(mq: ms.AsyncClient, work: Work) -> None:
    """After its time a result is gone, and nothing of it stays at the server."""
    queue: ms.Queue[Any] = ms.Queue("jobs", results=ms.Results(keep=timedelta(seconds=0.2)))
    await work(queue, double)
    handle = await mq.send(queue, 1, result=True)

    async def is_gone() -> bool:
        try:
            assert await result(handle) == 2
        except ms.NoResult as error:
            return error.reason == "unknown"
        return False

    await auntil(is_gone, PATIENCE)


async def test_an_id_of_nothing(mq: ms.AsyncClient, jobs: ms.Queue[Any]) -> None:
    """A message that was never sent, or without the wish, has no result; that is known at once."""
    plain = await mq.send(jobs, 1)
    for id in ("1-1", plain.id, "1-1/7"):
        with pytest.raises(ms.NoResult, match="nothing is known") as caught:
            await result(handle_of(mq, jobs, id), None)
        assert (caught.value.id, caught.value.reason) == (id, "unknown")


async def test_a_client_that_is_closed(connect: Connect, jobs: ms.Queue[Any]) -> None:
    """Who waits without end hears of it."""
    mq = await connect()
    waits = asyncio.create_task(result(await mq.send(jobs, 1, result=True), None))
    waiting = getattr(mq, "target", mq).results._waiting
    await auntil(lambda: waiting, PATIENCE)
    await mq.aclose()

    with pytest.raises(ms.NotConnected, match="closed"):
        await waits


async def test_closed_at_any_moment(url: str, namespace: str, jobs: ms.Queue[Any]) -> None:
    """However far a wait without a timeout has come by then, it ends."""
    for turns in range(1, 16):
        async with ms.AsyncClient(url, namespace=namespace) as mq:
            handle = await mq.send(jobs, 1, result=True)
            with pytest.raises(ms.TimedOut):
                await handle.result(timeout=0.001)
            waiting = asyncio.ensure_future(handle.result())
            for _ in range(turns):
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises((ms.NotConnected, ms.UsageError), match="closed"):
                await waiting


def test_closed_by_another_thread(
    url: str, namespace: str, jobs: ms.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is about to wait, after the others were told, is told as well."""
    with ms.Client(url, namespace=namespace) as mq:
        handle = mq.send(jobs, 1, result=True)
        mailbox, slot = mq.requests.mailbox, mq.requests.mailbox.slot

        def close_meanwhile() -> Any:
            closing = threading.Thread(target=mq.close)
            closing.start()
            closing.join(PATIENCE)
            return slot()

        monkeypatch.setattr(mailbox, "slot", close_meanwhile)
        with pytest.raises(ms.NotConnected, match="closed"):
            handle.result()


async def test_a_wait_that_is_given_up(url: str, namespace: str, work: Work) -> None:
    """Cancelled, it leaves nothing behind, and the next one has the result."""
    queue: ms.Queue[Any] = ms.Queue("jobs", results=RESULTS)
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        handle = await mq.send(queue, 3, result=True)
        waits = asyncio.create_task(handle.result())
        await auntil(lambda: mq.results._waiting, PATIENCE)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert mq.results._waiting == {}
        await work(queue, double)
        assert await result(handle) == 6


# Bad networks


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A bad network in front of `server`."""
    with Proxy(server.port) as proxy:
        yield proxy


async def test_the_connection_of_who_waits_is_cut(
    proxy: Proxy, connect: Connect, work: Work, jobs: ms.Queue[Any]
) -> None:
    """Before the result, and while it comes: it is there all the same."""
    # The proxy stands first, so it ends last: a client that closes would try for ten seconds to reach it.
    mq = await connect(proxy.url)
    handles = [await mq.send(jobs, n, result=True) for n in range(5)]
    waits = [asyncio.create_task(result(one)) for one in handles]
    waiting = getattr(mq, "target", mq).results._waiting
    await auntil(lambda: len(waiting) == 5, PATIENCE)
    await asyncio.to_thread(proxy.cut)
    await work(jobs, double)
    await asyncio.to_thread(proxy.cut)

    assert await asyncio.gather(*waits) == [0, 2, 4, 6, 8]


async def test_the_word_is_lost(
    connect: Connect, admin: Any, namespace: str, work: Work, jobs: ms.Queue[Any]
) -> None:
    """Who gets no word looks again by itself."""
    mq = await connect()
    handle = await mq.send(jobs, 1, result=True)
    waits = asyncio.create_task(result(handle))
    waiters = queue_keys(namespace, "jobs").resulting[2]
    await asyncio.to_thread(until, lambda: admin.exists(waiters), PATIENCE)
    # As if the worker had died right after it had ended the message.
    admin.delete(waiters)
    await work(jobs, double)

    assert await waits == 2


# What is refused


async def test_a_queue_without_results(mq: ms.AsyncClient) -> None:
    """It says how to declare one; nothing is sent."""
    queue: ms.Queue[Any] = ms.Queue("plain")
    with pytest.raises(ms.UsageError, match=r"results=ms\.Results"):
        await mq.send(queue, 1, result=True)
    with pytest.raises(ms.UsageError, match="without results"):
        handle_of(mq, queue, "1-1")
    assert (await mq.stats(queue)).ready == 0


async def test_wrong_uses(mq: ms.AsyncClient, jobs: ms.Queue[Any]) -> None:
    """Each error names what is wrong."""
    for id in ("", "x", None, 7):
        with pytest.raises(ms.UsageError, match="id"):
            handle_of(mq, jobs, id)  # type: ignore[arg-type] # that is the point
    with pytest.raises(ms.UsageError, match="expected a Queue"):
        handle_of(mq, "jobs", "1-1")  # type: ignore[arg-type] # that is the point
    for timeout in (-1, "x"):
        with pytest.raises(ms.UsageError, match="timeout"):
            await result(await mq.send(jobs, 1, result=True), timeout)  # type: ignore[arg-type] # that is the point
    send_many: Any = mq.send_many
    with pytest.raises(TypeError, match="result"):
        await send_many(jobs, [1], result=True)


@pytest.mark.parametrize("options", [{"store": "list"}, {"delivery": "at_most_once"}])
def test_where_there_are_none(options: Any) -> None:
    """Lists, and what is taken at most once, refuse them at the declaration, with the reason."""
    with pytest.raises(ms.UsageError, match="results does not go with"):
        ms.Queue("jobs", results=RESULTS, **options)


@pytest.mark.parametrize("value", [True, 3600, "1h", ms.Retain(max_age=5)])
def test_what_is_no_declaration(value: Any) -> None:
    """Anything but a Results."""
    with pytest.raises(ms.UsageError, match="results must be a Results"):
        ms.Queue("jobs", results=value)


@pytest.mark.parametrize("keep", [0, -1, None, "1h", float("inf")])
def test_how_long_to_keep_them(keep: Any) -> None:
    """A positive number of seconds, or a timedelta."""
    with pytest.raises(ms.UsageError, match=r"Results\.keep"):
        ms.Results(keep=keep)


def test_a_type_that_is_none() -> None:
    """The declaration says that it is that of results."""
    with pytest.raises(ms.UsageError, match="a result"):
        ms.Queue("jobs", results=ms.Results(type=asyncio.Event))


def test_no_batches() -> None:
    """What a handler of batches returns is no single message's result."""
    worker = ms.Worker()
    with pytest.raises(ms.UsageError, match="batch does not go with queue 'jobs'"):
        worker.on(ms.Queue("jobs", results=RESULTS), batch=10)(double)  # type: ignore[arg-type] # no list


async def test_a_message_in_the_hands_of_a_dead_consumer(connect: Connect, work: Work) -> None:
    """It is handled again, and its result comes; above the limit, whoever waits hears of that."""
    mq = await connect()
    for crashes, expected in ((3, 2), (0, ms.ResponderLost)):
        queue: ms.Queue[Any] = ms.Queue(
            f"brief-{crashes}", lease=0.3, results=RESULTS, retry=ms.Retry(max_crashes=crashes)
        )
        handle = await mq.send(queue, 1, result=True)
        await take_one(mq, queue)
        waits = asyncio.create_task(result(handle))
        await work(queue, double)
        if expected == 2:
            assert await waits == 2
        else:
            with pytest.raises(ms.ResponderLost) as caught:
                await waits
            assert caught.value.reason == "crashed"
