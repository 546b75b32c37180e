"""Requests: what is asked, what is answered, and what comes instead of a reply."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pydantic
import pytest
import redis

import millstream as ms
from millstream.aio import ways
from millstream.protocol import mailbox
from tests.api.clients import Connect
from tests.support.serving import PATIENCE, serving
from tests.support.wait import auntil

Serve = Callable[..., Awaitable[None]]

ECHO: ms.Endpoint[Any, Any] = ms.Endpoint("echo", timeout=PATIENCE)


class Item(msgspec.Struct):
    name: str
    count: int = 1


@dataclasses.dataclass
class Price:
    cents: int


class Model(pydantic.BaseModel):
    name: str


class OutOfStock(Exception):
    def __init__(self, message: str, *, item: str) -> None:
        super().__init__(message)
        self.item = item


@pytest.fixture
async def serve(admin: redis.Redis, url: str, namespace: str) -> AsyncIterator[Serve]:
    """Have workers serve their endpoints until the test ends."""
    async with AsyncExitStack() as stack:

        async def serve(*workers: ms.Worker) -> None:
            await stack.enter_async_context(serving(admin, url, namespace, *workers))

        yield serve


def answering(
    endpoint: ms.Endpoint[Any, Any], handler: Callable[..., Any], **options: Any
) -> ms.Worker:
    """A worker with this handler."""
    worker = ms.Worker(**options)
    worker.on(endpoint)(handler)
    return worker


async def echo(body: Any) -> Any:
    return body


class TestReplies:
    @pytest.mark.parametrize(
        ("request_type", "reply_type", "codec", "body", "reply"),
        [
            (Any, Any, "json", {"a": [1, None, "\u00fc"]}, {"a": [1, None, "\u00fc"]}),
            (Item, Price, "json", Item("bolt"), Price(4)),
            (Item, Price, "msgpack", Item("bolt"), Price(4)),
            (bytes, bytes, "json", b"\x00\xff", b""),
            (Model, Model, "json", Model(name="a"), Model(name="b")),
            (int, list[Item], "json", 3, [Item("a"), Item("b", 2)]),
            (type(None), type(None), "json", None, None),
        ],
    )
    async def test_of_its_type(
        self,
        mq: ms.AsyncClient,
        serve: Serve,
        request_type: Any,
        reply_type: Any,
        codec: Any,
        body: Any,
        reply: Any,
    ) -> None:
        """The handler gets the body, the caller the reply, each as it is declared."""
        endpoint = ms.Endpoint("typed", request_type, reply_type, codec=codec, timeout=PATIENCE)
        got = []

        async def handle(asked: Any) -> Any:
            got.append(asked)
            return reply

        await serve(answering(endpoint, handle))
        assert await mq.request(endpoint, body) == reply
        assert got == [body]

    async def test_a_plain_function(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """It runs in a thread, and may have a second parameter, too."""

        def double(body: int, request: ms.SyncRequest[int]) -> list[Any]:
            return [body * 2, request.headers, request.time_left > 0]

        await serve(answering(ECHO, double))
        assert await mq.request(ECHO, 21, headers={"a": "b"}) == [42, {"a": "b"}, True]

    async def test_what_a_handler_sees(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """The request says who it is, and how much time is left."""
        seen: list[ms.Request[Any]] = []

        async def handle(body: Any, request: ms.Request[Any]) -> Any:
            seen.append(request)
            assert request.deadline is not None
            return [body, request.time_left, request.deadline.timestamp()]

        await serve(answering(ECHO, handle))
        begun = datetime.now(UTC)
        body, left, deadline = await mq.request(ECHO, 1, timeout=100, headers={"trace": "t"})

        [request] = seen
        assert (body, request.body, request.headers) == (1, 1, {"trace": "t"})
        assert (request.endpoint, request.crashes) == (ECHO, 0)
        # The server rounds a deadline up to its next ms, so that it is never early.
        assert 100 - PATIENCE < left <= 100.01
        latest = datetime.now(UTC) + timedelta(seconds=101)
        assert (begun + timedelta(seconds=99)).timestamp() < deadline < latest.timestamp()
        assert abs(request.sent_at - begun) < timedelta(seconds=PATIENCE)
        assert repr(request) == f"<Request {request.id} of endpoint 'echo'>"

    async def test_each_gets_its_own(
        self, mq: ms.AsyncClient, serve: Serve, admin: redis.Redis, namespace: str
    ) -> None:
        """Concurrent requests share one connection and one mailbox, and none gets another's reply."""
        await serve(answering(ECHO, echo))
        await mq.request(ECHO, 0)
        connections = len(admin.client_list())

        async def ask(number: int) -> None:
            assert await mq.request(ECHO, number) == number

        await asyncio.gather(*(ask(number) for number in range(300)))
        assert len(admin.client_list()) == connections
        mailboxes: Any = list(admin.scan_iter(match=f"{namespace}:*:mailbox"))
        assert len(mailboxes) == 1
        assert 0 < admin.pttl(mailboxes[0]) <= 60_000

    async def test_replies_overtake_each_other(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """A slow request does not hold up the ones behind it."""
        gate = asyncio.Event()

        async def handle(body: str) -> str:
            if body == "slow":
                await gate.wait()
            return body

        await serve(answering(ECHO, handle))
        slow = asyncio.ensure_future(mq.request(ECHO, "slow"))
        for number in range(20):
            assert await mq.request(ECHO, str(number)) == str(number)
        assert not slow.done()
        gate.set()
        assert await slow == "slow"

    async def test_namespaces_are_apart(
        self, connect: Connect, mq: ms.AsyncClient, serve: Serve, namespace: str
    ) -> None:
        """An endpoint of the same name elsewhere is another one."""
        await serve(answering(ECHO, echo))
        other = await connect(namespace=f"{namespace}-other")

        assert await mq.request(ECHO, 1) == 1
        with pytest.raises(ms.NoResponders):
            await other.request(ECHO, 1)

    async def test_nothing_is_left(
        self, mq: ms.AsyncClient, serve: Serve, admin: redis.Redis, namespace: str
    ) -> None:
        """A request that was answered is gone, and the mailbox goes with its client."""
        await serve(answering(ECHO, echo))
        await mq.request(ECHO, 1)

        async def settled() -> bool:
            stats = await mq.stats(ECHO.queue)
            return (stats.ready, stats.in_flight, stats.dead, stats.acked) == (0, 0, 0, 1)

        await auntil(settled, PATIENCE)
        await mq.aclose()
        assert list(admin.scan_iter(match=f"{namespace}:*:mailbox")) == []

    @pytest.mark.parametrize("turns", range(6))
    async def test_nothing_is_left_of_one_cancelled_early(
        self, mq: ms.AsyncClient, admin: redis.Redis, namespace: str, turns: int
    ) -> None:
        """A client whose first request was cancelled while it made the mailbox takes it along, too."""
        await mq.stats(ECHO.queue)  # connected
        request = asyncio.ensure_future(mq.request(ECHO, 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        if isinstance(mq, ms.AsyncClient):  # a thread cannot be cancelled
            request.cancel()
        await asyncio.wait([request])

        await mq.aclose()
        assert list(admin.scan_iter(match=f"{namespace}:*:mailbox")) == []

    async def test_a_large_one(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """Up to max_body, both ways."""
        await serve(answering(ECHO, echo))
        body = "x" * 900_000

        assert await mq.request(ECHO, body) == body


class TestWorkers:
    async def test_middleware(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """It is around the handler, need not return the reply, and sees the request."""
        worker = answering(ECHO, echo)
        seen = []

        @worker.middleware
        async def watch(request: Any, call_next: Callable[[], Awaitable[Any]]) -> None:
            seen.append(request.body)
            await call_next()

        await serve(worker)
        assert await mq.request(ECHO, 1) == 1
        assert seen == [1]

    async def test_a_middleware_that_ends_it(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """Without the handler there is no reply, and the caller is told why."""
        worker = answering(ECHO, echo)

        @worker.middleware
        async def forget(request: Any, call_next: Callable[[], Awaitable[Any]]) -> None:
            pass

        await serve(worker)
        with pytest.raises(ms.RemoteError, match="a middleware did not call the handler"):
            await mq.request(ECHO, 1)

    async def test_an_endpoint_beside_a_queue(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """A worker has both; a handler asks and sends through its client."""
        worker = answering(ECHO, echo)
        jobs: ms.Queue[Any] = ms.Queue("jobs")
        done = asyncio.Queue[Any]()

        @worker.on(jobs)
        async def handle(body: Any) -> None:
            done.put_nowait(await worker.client.request(ECHO, body))

        await serve(worker)
        await mq.send(jobs, 7)
        assert await asyncio.wait_for(done.get(), PATIENCE) == 7

    async def test_its_concurrency(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """No more handlers run at a time than were declared; the others wait their turn."""
        worker = ms.Worker()
        running, most = 0, 0

        @worker.on(ECHO, concurrency=3)
        async def handle(body: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)  # the work itself
            running -= 1
            return body

        await serve(worker)
        found = await asyncio.gather(*(mq.request(ECHO, number) for number in range(30)))
        assert found == list(range(30))
        assert most == 3

    async def test_a_burst(self, mq: ms.AsyncClient, url: str, namespace: str) -> None:
        """It answers what waits, and ends."""
        worker = answering(ECHO, echo)
        gate = answering(ECHO, echo)
        async with ms.AsyncClient(url, namespace=namespace) as other:
            running = asyncio.create_task(gate.run(other))
            await auntil(lambda: _answers(mq), PATIENCE)
            await mq.pause(ECHO.queue)
            asking = asyncio.ensure_future(mq.request(ECHO, 5))
            await auntil(lambda: _ready(mq), PATIENCE)
            gate.stop()
            await running
            await mq.resume(ECHO.queue)
            async with asyncio.timeout(PATIENCE):
                await worker.run(other, burst=True)
            assert await asking == 5


async def _answers(mq: ms.AsyncClient) -> bool:
    try:
        return bool(await mq.request(ECHO, 1) == 1)
    except ms.NoResponders:
        return False


async def _ready(mq: ms.AsyncClient) -> bool:
    return (await mq.stats(ECHO.queue)).ready == 1


class TestErrors:
    async def test_an_error_of_the_handler(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """Its name and text reach the caller; its traceback does not."""

        async def fail(body: Any) -> None:
            raise KeyError(body)

        await serve(answering(ECHO, fail))
        with pytest.raises(ms.RemoteError) as caught:
            await mq.request(ECHO, "x")
        error = caught.value
        assert (error.type_name, error.detail, error.traceback) == ("KeyError", "'x'", None)
        assert error.queue == "echo"
        assert f"request {error.id} raised KeyError" in str(error)

    async def test_with_its_traceback(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """A worker may let it out."""

        async def fail(body: Any) -> None:
            raise KeyError(body)

        await serve(answering(ECHO, fail, tracebacks=True))
        with pytest.raises(ms.RemoteError) as caught:
            await mq.request(ECHO, "x")
        assert "in fail" in (caught.value.traceback or "")

    @pytest.mark.parametrize("in_thread", [False, True])
    async def test_one_that_is_named(
        self,
        mq: ms.AsyncClient,
        serve: Serve,
        in_thread: bool,
    ) -> None:
        """It arrives as itself, with what it holds."""
        endpoint: ms.Endpoint[Any, Any] = ms.Endpoint("named", errors=[OutOfStock, TimeoutError])

        async def fail(body: str) -> None:
            raise OutOfStock("no more", item=body)

        def fail_in_thread(body: str) -> None:
            raise OutOfStock("no more", item=body)

        await serve(answering(endpoint, fail_in_thread if in_thread else fail))
        with pytest.raises(OutOfStock) as caught:
            await mq.request(endpoint, "bolt", timeout=PATIENCE)
        assert (str(caught.value), caught.value.item) == ("no more", "bolt")

    async def test_a_failed_request_is_over(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """The caller has the error, so it is neither tried again nor kept."""

        async def fail(body: Any) -> None:
            raise KeyError(body)

        await serve(answering(ECHO, fail))
        with pytest.raises(ms.RemoteError):
            await mq.request(ECHO, 1)

        async def settled() -> bool:
            stats = await mq.stats(ECHO.queue)
            return (stats.acked, stats.in_flight, stats.dead, stats.retried) == (1, 0, 0, 0)

        await auntil(settled, PATIENCE)

    async def test_too_slow_for_its_worker(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """The worker's own limit is an error like any other."""
        worker = ms.Worker()

        @worker.on(ECHO, timeout=0.02)
        async def handle(body: Any) -> None:
            await asyncio.Event().wait()

        await serve(worker)
        with pytest.raises(ms.RemoteError) as caught:
            await mq.request(ECHO, 1)
        assert caught.value.type_name == "TimeoutError"

    async def test_something_it_awaits_is_cancelled(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """Nobody has cancelled the handler itself, so its caller is told at once."""

        async def handle(body: Any) -> None:
            raise asyncio.CancelledError

        await serve(answering(ECHO, handle))
        with pytest.raises(ms.RemoteError) as caught:
            await mq.request(ECHO, 1)
        assert caught.value.type_name == "CancelledError"

    @pytest.mark.parametrize(
        ("reply", "text"),
        [("x", "a reply"), ([1] * 100, "the reply has .* bytes, 100 are allowed")],
    )
    async def test_a_reply_that_is_none(
        self, mq: ms.AsyncClient, serve: Serve, reply: Any, text: str
    ) -> None:
        """The worker does not send what does not fit; the caller learns of it."""
        endpoint = ms.Endpoint("typed", int, list[int], max_body=100, timeout=PATIENCE)

        async def handle(body: int) -> Any:
            return reply

        await serve(answering(endpoint, handle))
        with pytest.raises(ms.RemoteError, match=text) as caught:
            await mq.request(endpoint, 1)
        assert caught.value.type_name == "UsageError"

    async def test_a_request_that_is_none(self, mq: ms.AsyncClient, serve: Serve) -> None:
        """Somebody who declares the endpoint in another way is told so."""
        endpoint = ms.Endpoint("echo", int, int)
        await serve(answering(endpoint, echo))

        with pytest.raises(ms.RemoteError, match="is undecodable") as caught:
            await mq.request(ECHO, "one")
        assert caught.value.type_name == "Undecodable"

    async def test_a_reply_that_the_caller_cannot_read(
        self, mq: ms.AsyncClient, serve: Serve
    ) -> None:
        """It is told which type it does not fit; other requests go on."""
        await serve(answering(ECHO, echo))
        strict = ms.Endpoint("echo", str, int, timeout=PATIENCE)

        with pytest.raises(ms.Undecodable, match="the reply to request") as caught:
            await mq.request(strict, "one")
        assert (caught.value.queue, caught.value.reason) == ("echo", "undecodable")
        assert await mq.request(ECHO, 1) == 1

    @pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": "x"}, {"headers": {"a": 1}}])
    async def test_options(self, mq: ms.AsyncClient, options: dict[str, Any]) -> None:
        """What makes no sense is refused before anything is sent."""
        with pytest.raises(ms.UsageError):
            await mq.request(ECHO, 1, **options)

    @pytest.mark.parametrize("endpoint", ["echo", ms.Queue("echo"), None])
    async def test_no_endpoint(self, mq: ms.AsyncClient, endpoint: Any) -> None:
        """The error says what was expected."""
        with pytest.raises(ms.UsageError, match=r"(for|an) [Ee]ndpoint"):
            await mq.request(endpoint, 1)

    async def test_a_body_of_the_wrong_type(self, mq: ms.AsyncClient) -> None:
        """It does not leave."""
        typed: ms.Endpoint[Any, Any] = ms.Endpoint("typed", int, int)
        with pytest.raises(ms.UsageError, match="a request"):
            await mq.request(typed, "one")


class TestForeign:
    async def test_a_message_without_an_address(
        self, mq: ms.AsyncClient, serve: Serve, admin: redis.Redis, namespace: str
    ) -> None:
        """Who wants no reply gets none: the request is handled, and acknowledged."""
        got = asyncio.Queue[Any]()

        async def handle(body: Any, request: ms.Request[Any]) -> int:
            got.put_nowait((body, request.time_left, request.deadline))
            return 1

        await serve(answering(ECHO, handle))
        admin.xadd(f"{namespace}:{{echo}}:ready", {"b": "7"})
        assert await asyncio.wait_for(got.get(), PATIENCE) == (7, float("inf"), None)
        await auntil(lambda: _acked(mq, 1), PATIENCE)

    @pytest.mark.parametrize("body", ["x", "{"])
    async def test_that_cannot_be_answered(
        self, mq: ms.AsyncClient, serve: Serve, admin: redis.Redis, namespace: str, body: str
    ) -> None:
        """What fails and has nobody to be told is kept in the dead letters."""
        endpoint = ms.Endpoint("echo", int, int)
        await serve(answering(endpoint, echo))
        admin.xadd(f"{namespace}:{{echo}}:ready", {"b": body})

        async def dead() -> bool:
            return (await mq.stats(ECHO.queue)).dead == 1

        await auntil(dead, PATIENCE)

    @pytest.mark.parametrize(
        "address", ["", "nobody", "nobody 1", "nobody x", "a b c d", "\u00fc 1"]
    )
    async def test_hostile_addresses(
        self,
        mq: ms.AsyncClient,
        serve: Serve,
        admin: redis.Redis,
        namespace: str,
        address: str,
    ) -> None:
        """A reply that finds nobody is dropped; the worker goes on."""
        await serve(answering(ECHO, echo))
        admin.xadd(f"{namespace}:{{echo}}:ready", {"b": "7", "r": address, "x": "soon"})

        await auntil(lambda: _acked(mq, 1), PATIENCE)
        assert await mq.request(ECHO, 1) == 1
        assert list(admin.scan_iter(match=f"{namespace}:*nobody*")) == []

    async def test_hostile_replies(
        self, mq: ms.AsyncClient, serve: Serve, admin: redis.Redis, namespace: str
    ) -> None:
        """Whatever somebody writes into a mailbox, replies behind it arrive."""
        begun, gate = asyncio.Event(), asyncio.Event()

        async def handle(body: int) -> int:
            if body == 1:
                begun.set()
                await gate.wait()
            return body

        await serve(answering(ECHO, handle))
        asking = asyncio.ensure_future(mq.request(ECHO, 1))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        [mailbox] = admin.scan_iter(match=f"{namespace}:*:mailbox")
        entries: list[dict[Any, Any]] = [
            {"x": "y"},
            {"reply": "1"},
            {"reply": "2", "c": "999999"},
            {"reply": "2", "c": "-1"},
            {"reply": "2", "c": "9" * 5000},
            {"part": "2", "c": "\u0661", "n": "9" * 5000},
            {"what": "2", "c": "1"},
            {"note": "{", "c": "1"},
        ]
        for entry in entries:
            admin.xadd(mailbox, entry)
        assert not asking.done()
        gate.set()
        assert await asking == 1
        assert await mq.request(ECHO, 2) == 2


async def _acked(mq: ms.AsyncClient, count: int) -> bool:
    return (await mq.stats(ECHO.queue)).acked == count


async def test_ways_are_not_kept_for_ever(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the endpoints that were asked, the ways to the last ones are kept, and to each it goes on."""
    monkeypatch.setattr(ways, "MOST", 10)
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        for number in [*range(25), 0]:
            with pytest.raises(ms.NoResponders):
                await mq.request(ms.Endpoint(f"number.{number}"), 1)
        assert len(mq.requests._ways._all) == 10


async def test_an_answer_that_is_quicker_than_the_receipt(url: str, namespace: str) -> None:
    """What the handler raised has the id of the request all the same."""
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        await mq.requests.mailbox.open()
        requests, sent = mq.requests, list[Any]()
        way = requests._ways.to(ECHO.name)
        way.requests.post = lambda *args, **_: sent.append(args[2])  # type: ignore[method-assign]
        asking = asyncio.ensure_future(mq.request(ECHO, 1, timeout=PATIENCE))
        await auntil(lambda: sent)
        [pending] = requests._pending.values()
        pending.box.put(mailbox.Item("error", b'{"type": "KeyError", "detail": "x"}'))
        await auntil(lambda: pending.unnamed)
        sent[0](ms.Receipt("1-1"))
        with pytest.raises(ms.RemoteError) as caught:
            await asking
        assert caught.value.id == "1-1"
