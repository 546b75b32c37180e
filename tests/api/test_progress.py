"""Notes of progress that a handler sends, and a caller watches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import mailbox_key
from millstream.protocol.requests import address_of
from tests.api.clients import Kind, make
from tests.support.servers import Server
from tests.support.serving import PATIENCE, serving, write
from tests.support.wait import auntil

INDEX: ms.Endpoint[Any, Any] = ms.Endpoint("index", timeout=PATIENCE)


def worker_of(function: Any, endpoint: ms.Endpoint[Any, Any] = INDEX) -> ms.Worker:
    worker = ms.Worker()
    worker.on(endpoint)(function)
    return worker


async def count(body: int, request: ms.Request[int]) -> str:
    for number in range(body):
        await request.progress({"done": number})
    return "done"


def count_in_a_thread(body: int, request: ms.SyncRequest[int]) -> str:
    for number in range(body):
        request.progress({"done": number})
    return "done"


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server whose commands can be counted."""
    with Server() as server:
        yield server


class TestNotes:
    @pytest.mark.parametrize("handler", [count, count_in_a_thread])
    async def test_in_order_and_before_the_reply(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str, handler: Any
    ) -> None:
        """All of them have come when there is a reply, in the order in which they were sent."""
        notes: list[Any] = []
        async with serving(admin, url, namespace, worker_of(handler)):
            assert await mq.request(INDEX, 200, on_progress=notes.append) == "done"
            assert notes == [{"done": number} for number in range(200)]

    async def test_each_caller_gets_its_own(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Many watch at a time, and beside them some do not."""

        async def handle(body: int, request: ms.Request[int]) -> int:
            for number in range(5):
                await request.progress([body, number])
            return body

        notes: list[list[Any]] = [[] for _ in range(20)]
        async with serving(admin, url, namespace, worker_of(handle)):
            watched = [mq.request(INDEX, n, on_progress=notes[n].append) for n in range(20)]
            others = [mq.request(INDEX, n) for n in range(20)]
            assert await asyncio.gather(*watched, *others) == [*range(20), *range(20)]

        assert notes == [[[n, number] for number in range(5)] for n in range(20)]

    async def test_nothing_is_sent_when_nobody_watches(
        self, kind: Kind, own_server: Server
    ) -> None:
        """The server sees the request and the reply, and no note."""
        admin: Any = own_server.admin()

        def entries() -> int:
            calls: int = admin.info("commandstats")["cmdstat_xadd"]["calls"]
            return calls

        async with (
            make(kind, own_server.url, namespace="t-notes") as mq,
            serving(admin, own_server.url, "t-notes", worker_of(count)),
        ):
            await mq.request(INDEX, 0)  # the mailbox is there from now on
            before = entries()
            await mq.request(INDEX, 50)
            unwatched = entries() - before
            await mq.request(INDEX, 50, on_progress=lambda _: None)
            watched = entries() - before - unwatched

        assert (unwatched, watched) == (2, 52)

    async def test_what_comes_twice_is_told_once(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A note is sent again when the confirmation of the server was lost."""

        async def handle(_: Any, request: ms.Request[Any]) -> None:
            await request.progress(1)
            address = address_of(request.delivery.envelope)
            assert address is not None
            run = request.delivery.envelope.token.decode()
            box = mailbox_key(namespace, address.client)
            write(admin, box, "note", b"1", c=address.slot, n=1, w=run)
            await request.progress(2)

        notes: list[Any] = []
        async with serving(admin, url, namespace, worker_of(handle)):
            await mq.request(INDEX, None, on_progress=notes.append)
        assert notes == [1, 2]

    async def test_hostile_notes(
        self,
        mq: ms.AsyncClient,
        admin: redis.Redis,
        url: str,
        namespace: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What is no JSON is dropped, with a line in the log; the request goes on."""
        hostile = [b"", b"{", b"\xff\xff", b"[" * 100_000, b"nan"]

        async def handle(_: Any, request: ms.Request[Any]) -> str:
            address = address_of(request.delivery.envelope)
            assert address is not None
            mailbox = mailbox_key(namespace, address.client)
            for content in hostile:
                write(admin, mailbox, "note", content, c=address.slot)
                write(admin, mailbox, "note", content, c=address.slot, n="x" * 100, w=b"\xff")
            await request.progress("fine")
            return "reply"

        notes: list[Any] = []
        async with serving(admin, url, namespace, worker_of(handle)):
            with caplog.at_level(logging.WARNING, "millstream.requests"):
                assert await mq.request(INDEX, None, on_progress=notes.append) == "reply"
            assert await mq.request(INDEX, None) == "reply"
        assert notes == ["fine"]
        lines = [one for one in caplog.messages if "a note of request" in one]
        assert len(lines) == 2 * len(hostile)

    @pytest.mark.parametrize("note", [{1, object()}, object(), "x" * 2000])
    async def test_what_is_no_note(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str, note: Any
    ) -> None:
        """The handler that sends it is told; nothing of it is sent."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("index", timeout=PATIENCE, max_body=1000)

        async def handle(_: Any, request: ms.Request[Any]) -> str:
            with pytest.raises(ms.UsageError, match="a note of progress"):
                await request.progress(note)
            return "told"

        notes: list[Any] = []
        async with serving(admin, url, namespace, worker_of(handle, endpoint)):
            assert await mq.request(endpoint, None, on_progress=notes.append) == "told"
        assert notes == []


class TestCallback:
    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("enough"),
            ms.TimedOut("of the callback"),
            ms.NoResponders("of the callback", queue="x", id="1-1"),
        ],
    )
    async def test_what_it_raises_ends_the_request(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str, error: Exception
    ) -> None:
        """It reaches the caller, the handler is cancelled, and other requests go on."""
        cancelled = asyncio.Event()

        async def handle(body: Any, request: ms.Request[Any]) -> Any:
            if body == "short":
                return body
            try:
                # Its caller may have heard it before the server has said so here.
                await request.progress(1)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        def fail(_: Any) -> None:
            raise error

        async with serving(admin, url, namespace, worker_of(handle)):
            with pytest.raises(type(error)) as raised:
                await mq.request(INDEX, "long", on_progress=fail)
            assert raised.value is error
            async with asyncio.timeout(PATIENCE):
                await cancelled.wait()
            assert await mq.request(INDEX, "short") == "short"

    async def test_unless_the_handler_must_finish(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It goes on, and its reply is a late one."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("index", timeout=PATIENCE, must_finish=True)
        let, ended = asyncio.Event(), asyncio.Event()

        async def handle(_: Any, request: ms.Request[Any]) -> None:
            await request.progress(1)
            await let.wait()
            ended.set()

        def fail(_: Any) -> None:
            raise RuntimeError

        async def late() -> bool:
            return (await mq.stats(endpoint.queue)).late == 1

        async with serving(admin, url, namespace, worker_of(handle, endpoint)):
            with pytest.raises(RuntimeError):
                await mq.request(endpoint, None, on_progress=fail)
            let.set()
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
            await auntil(late, PATIENCE)

    @pytest.mark.parametrize("callback", [1, "print", []])
    async def test_what_is_no_function(self, mq: ms.AsyncClient, callback: Any) -> None:
        """It is refused before anything is sent."""
        with pytest.raises(ms.UsageError, match="on_progress must be a function"):
            await mq.request(INDEX, None, on_progress=callback)

    async def test_a_coroutine_function(
        self, mq: ms.AsyncClient, kind: Kind, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Each call is awaited before the next, and before the reply; a blocking client has no use for it."""
        notes: list[Any] = []

        async def watch(note: Any) -> None:
            await asyncio.sleep(0)
            notes.append(note["done"])

        expected = pytest.raises(ms.UsageError, match="async def") if kind == "sync" else None
        async with serving(admin, url, namespace, worker_of(count)):
            with expected or contextlib.nullcontext():
                assert await mq.request(INDEX, 20, on_progress=watch) == "done"
        assert notes == ([] if kind == "sync" else [*range(20)])


class TestTime:
    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_notes_do_not_put_off_the_deadline(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str, kind: Kind
    ) -> None:
        """What waits for a slow callback is dropped then, and the caller hears that its time is over."""
        notes: list[Any] = []

        async def count_and_wait(body: int, request: ms.Request[int]) -> None:
            await count(body, request)
            await asyncio.Event().wait()

        async def slow(note: Any) -> None:
            notes.append(note["done"])
            await asyncio.sleep(0.05)  # the work itself

        def slow_in_a_thread(note: Any) -> None:
            notes.append(note["done"])
            time.sleep(0.05)  # the work itself

        async with serving(admin, url, namespace, worker_of(count_and_wait)):
            watch = slow if kind == "async" else slow_in_a_thread
            with pytest.raises(ms.TimedOut):
                await mq.request(INDEX, 1000, timeout=2, on_progress=watch)
        assert notes == [*range(len(notes))]
        assert len(notes) < 200  # of 1000

    async def test_another_run_counts_anew(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """The notes of the worker that gets a request again are told, though their numbers have been."""
        notes: list[Any] = []

        async def handle(body: int, request: ms.Request[int]) -> str:
            address = address_of(request.delivery.envelope)
            assert address is not None
            box = mailbox_key(namespace, address.client)
            for number in (1, 2):
                # Of a worker that has died.
                write(admin, box, "note", b"0", c=address.slot, n=number, w="another")
            for number in (1, 2, 3):
                await request.progress(number)
            return "done"

        async with serving(admin, url, namespace, worker_of(handle)):
            assert await mq.request(INDEX, 1, on_progress=notes.append) == "done"
        assert notes == [0, 0, 1, 2, 3]


async def test_a_callback_that_waits_holds_up_nobody_else(
    admin: redis.Redis, url: str, namespace: str
) -> None:
    """Other requests of the client have their replies meanwhile."""
    let = asyncio.Event()

    async def wait(_: Any) -> None:
        await let.wait()

    async with (
        ms.AsyncClient(url, namespace=namespace) as mq,
        serving(admin, url, namespace, worker_of(count)),
    ):
        slow = asyncio.create_task(mq.request(INDEX, 3, on_progress=wait))
        assert await mq.request(INDEX, 3) == "done"
        assert not slow.done()
        let.set()
        assert await slow == "done"
