"""How a worker handles what all workers of an endpoint are asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.worker import gathered as module
from tests.support.servers import Server
from tests.support.serving import members, serving
from tests.support.wait import auntil
from tests.worker.running import PATIENCE

HEALTH: ms.Endpoint[Any, Any] = ms.Endpoint("health", timeout=PATIENCE)


async def gathered(mq: ms.AsyncClient, *args: Any, **options: Any) -> list[ms.Answer[Any]]:
    return [answer async for answer in mq.gather(*args, **options)]


@pytest.fixture
def keys(namespace: str) -> QueueKeys:
    return queue_keys(namespace, "health")


class Peak:
    """How many handlers ran at a time."""

    def __init__(self) -> None:
        self.most = self.now = self.all = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self.now += 1
            self.all += 1
            self.most = max(self.most, self.now)

    def leave(self) -> None:
        with self._lock:
            self.now -= 1


class TestHandlers:
    async def test_a_plain_function(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It runs in a thread, with a blocking request if it takes one."""

        @worker.on(HEALTH)
        def answer(body: Any, request: ms.SyncRequest[Any]) -> Any:
            return [body, request.headers["h"], threading.current_thread().name]

        async with serving(admin, url, namespace, worker):
            [one] = await gathered(mq, HEALTH, 1, headers={"h": "x"})

        body, header, thread = one.result()
        assert (body, header) == (1, "x")
        assert thread.startswith("millstream-health")

    async def test_middleware_is_around(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It sees the request, as it does when one worker is asked."""
        seen: list[Any] = []

        @worker.middleware
        async def look(request: Any, call_next: Callable[[], Awaitable[Any]]) -> Any:
            seen.append(request.body)
            return await call_next()

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            return body

        async with serving(admin, url, namespace, worker):
            await gathered(mq, HEALTH, 1)
            await mq.request(HEALTH, 2)

        assert seen == [1, 2]

    async def test_there_is_nothing_to_settle(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """An acknowledgement is as superfluous as ever; it cannot be handed back or rejected."""

        @worker.on(HEALTH)
        async def answer(verb: str, request: ms.Request[Any]) -> Any:
            delivery = request.delivery
            assert not delivery.lease_lost
            await delivery.extend(5)
            await (delivery.ack() if verb == "ack" else delivery.reject("no"))

        async with serving(admin, url, namespace, worker):
            [fine] = await gathered(mq, HEALTH, "ack")
            [refused] = await gathered(mq, HEALTH, "reject")

        assert fine.result() is None
        with pytest.raises(ms.RemoteError) as raised:
            refused.result()
        assert raised.value.type_name == "LeaseLost"

    async def test_one_worker_with_several_endpoints(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Each is asked by itself."""
        other = ms.Endpoint("flush", timeout=PATIENCE)

        @worker.on(HEALTH)
        async def health(_: Any) -> str:
            return "health"

        @worker.on(other)
        async def flush(_: Any) -> str:
            return "flush"

        async with serving(admin, url, namespace, worker):
            [one] = await gathered(mq, HEALTH, 1)
            [two] = await gathered(mq, other, 1)

        assert (one.result(), two.result()) == ("health", "flush")


class TestBounds:
    async def test_coroutines(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Calls and requests together are no more than may run at a time."""
        peak = Peak()

        @worker.on(HEALTH, concurrency=2)
        async def answer(body: Any) -> Any:
            peak.enter()
            await asyncio.sleep(0.005)  # the work itself
            peak.leave()
            return body

        async with serving(admin, url, namespace, worker):
            calls = [gathered(mq, HEALTH, n) for n in range(30)]
            requests = [mq.request(HEALTH, n) for n in range(30)]
            found = await asyncio.gather(*calls, *requests)

        assert [[one.result() for one in some] for some in found[:30]] == [[n] for n in range(30)]
        assert found[30:] == [*range(30)]
        assert (peak.most, peak.all) == (2, 60)

    async def test_threads(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """The same for plain functions: they share their threads with requests."""
        peak = Peak()

        @worker.on(HEALTH, concurrency=2)
        def answer(body: Any) -> Any:
            peak.enter()
            time.sleep(0.005)  # the work itself
            peak.leave()
            return body

        async with serving(admin, url, namespace, worker):
            calls = [gathered(mq, HEALTH, n) for n in range(30)]
            requests = [mq.request(HEALTH, n) for n in range(30)]
            found = await asyncio.gather(*calls, *requests)

        assert [[one.result() for one in some] for some in found[:30]] == [[n] for n in range(30)]
        assert found[30:] == [*range(30)]
        assert (peak.most, peak.all) == (2, 60)

    async def test_too_many_are_refused(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        admin: redis.Redis,
        url: str,
        namespace: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Their bodies would fill the worker's memory; the caller hears of it at once."""
        monkeypatch.setattr(module, "MOST", 2)
        let = asyncio.Event()

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            await let.wait()
            return body

        async with serving(admin, url, namespace, worker):
            calls = [asyncio.create_task(gathered(mq, HEALTH, n)) for n in range(3)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            let.set()
            await asyncio.wait(calls)

        [[refused]] = [task.result() for task in done]
        assert isinstance(refused.error, ms.ResponderLost)
        assert refused.error.reason == "busy"
        answers = [one for task in calls for one in task.result()]
        assert sorted(type(one.error) is ms.ResponderLost for one in answers) == [
            False,
            False,
            True,
        ]


class TestTime:
    async def test_the_deadline_cancels(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Nobody waits for the answer any more."""
        cancelled = asyncio.Event()

        @worker.on(HEALTH)
        async def answer(_: Any) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serving(admin, url, namespace, worker):
            with pytest.raises(ms.TimedOut, match="0 of 1"):
                await gathered(mq, HEALTH, 1, timeout=0.5)
            async with asyncio.timeout(PATIENCE):
                await cancelled.wait()

    async def test_unless_it_must_finish(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """What was begun goes on, as with a request."""
        endpoint = ms.Endpoint("health", must_finish=True)
        let, ended = asyncio.Event(), asyncio.Event()

        @worker.on(endpoint)
        async def answer(_: Any) -> Any:
            await let.wait()
            ended.set()

        async with serving(admin, url, namespace, worker):
            with pytest.raises(ms.TimedOut):
                await gathered(mq, endpoint, 1, timeout=0.5)
            let.set()
            async with asyncio.timeout(PATIENCE):
                await ended.wait()

    async def test_what_waits_past_its_deadline_is_not_begun(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A call waits for its turn no longer than its caller."""
        let = asyncio.Event()
        begun: list[Any] = []

        @worker.on(HEALTH, concurrency=1)
        async def answer(body: Any) -> Any:
            begun.append(body)
            await let.wait()
            return body

        async with serving(admin, url, namespace, worker):
            first = asyncio.create_task(mq.request(HEALTH, 1))
            await auntil(lambda: begun, PATIENCE)
            with pytest.raises(ms.TimedOut):
                await gathered(mq, HEALTH, 2, timeout=0.5)
            # Its worker counts the ms by the server's clock.
            given_up = time.monotonic()
            await auntil(lambda: time.monotonic() > given_up + 2)
            let.set()
            assert await first == 1
            [answer_3] = await gathered(mq, HEALTH, 3)

        assert answer_3.result() == 3
        assert begun == [1, 3]

    async def test_the_timeout_of_the_handler(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It holds for each call, and is an answer."""

        @worker.on(HEALTH, timeout=0.05)
        async def answer(_: Any) -> Any:
            await asyncio.Event().wait()

        async with serving(admin, url, namespace, worker):
            [one] = await gathered(mq, HEALTH, 1)

        with pytest.raises(ms.RemoteError) as raised:
            one.result()
        assert raised.value.type_name == "TimeoutError"


class TestStates:
    async def test_a_paused_queue_answers(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A pause holds back what waits in the queue; who asks for health wants to know."""

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            return body

        async with serving(admin, url, namespace, worker):
            await mq.pause(HEALTH.queue)
            [one] = await gathered(mq, HEALTH, 1)
            await mq.resume(HEALTH.queue)

        assert one.result() == 1

    async def test_what_was_begun_is_finished(
        self, mq: ms.AsyncClient, worker: ms.Worker, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A worker that is stopped answers what it has begun with, and nothing else."""
        let = asyncio.Event()
        begun: list[Any] = []

        @worker.on(HEALTH, concurrency=1)
        async def answer(body: Any) -> Any:
            begun.append(body)
            await let.wait()
            return body

        async with serving(admin, url, namespace, worker):
            first = asyncio.create_task(gathered(mq, HEALTH, 1))
            await auntil(lambda: begun, PATIENCE)
            second = asyncio.create_task(gathered(mq, HEALTH, 2))
            await auntil(lambda: admin.xlen(queue_keys(namespace, "health").control) >= 3, PATIENCE)
            worker.stop()
            async with asyncio.timeout(PATIENCE):
                [lost] = await second
            let.set()
            [fine] = await first

        assert fine.result() == 1
        assert isinstance(lost.error, ms.ResponderLost)
        assert lost.error.reason == "stopped"
        assert begun == [1]

    async def test_a_request_that_waits_behind_a_call(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str, keys: QueueKeys
    ) -> None:
        """It is handed back when its worker stops, and another one answers it."""
        let = asyncio.Event()
        begun: list[Any] = []

        def worker_of(name: str) -> ms.Worker:
            worker = ms.Worker()

            @worker.on(HEALTH, concurrency=1)
            async def answer(body: Any) -> Any:
                begun.append((name, body))
                if body == "call":
                    await let.wait()
                return name

            return worker

        one, other = worker_of("one"), worker_of("other")
        async with serving(admin, url, namespace, one):
            call = asyncio.create_task(gathered(mq, HEALTH, "call"))
            await auntil(lambda: begun, PATIENCE)
            request = asyncio.create_task(mq.request(HEALTH, "request"))
            await auntil(lambda: admin.xpending(keys.ready, keys.group)["pending"] == 1, PATIENCE)
            async with ms.AsyncClient(url, namespace=namespace) as own:
                running = asyncio.create_task(other.run(own))
                await auntil(lambda: len(members(admin, keys)) == 2, PATIENCE)
                one.stop()
                assert await request == "other"
                let.set()
                assert [answer.result() for answer in await call] == ["one"]
                other.stop()
                await running

        assert begun == [("one", "call"), ("other", "request")]

    async def test_who_takes_too_long_at_the_end(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """The handler is cancelled, and its caller need not wait for the deadline."""
        worker, begun = ms.Worker(shutdown_timeout=0.05), asyncio.Event()

        @worker.on(HEALTH)
        async def answer(_: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

        async with serving(admin, url, namespace, worker):
            call = asyncio.create_task(gathered(mq, HEALTH, 1))
            await begun.wait()
            worker.stop()
            async with asyncio.timeout(PATIENCE):
                [lost] = await call

        assert isinstance(lost.error, ms.ResponderLost)
        assert lost.error.reason == "stopped"

    async def test_on_a_cluster(self, cluster: Server, namespace: str) -> None:
        """Calls and replies are in different slots, and no script needs both."""
        worker = ms.Worker()

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            return body

        async with (
            ms.AsyncClient(cluster.limited_url, namespace=namespace) as mq,
            serving(cluster.admin(), cluster.limited_url, namespace, worker),
        ):
            [one] = await gathered(mq, HEALTH, 1)

        assert one.result() == 1


class TestForeignWords:
    async def test_what_is_heard_twice_is_answered_once(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        admin: redis.Redis,
        url: str,
        namespace: str,
        keys: QueueKeys,
    ) -> None:
        """A word comes again after a lost connection, or when the caller's reply was lost."""
        handled: list[Any] = []

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            handled.append(body)
            return body

        async with serving(admin, url, namespace, worker):
            await gathered(mq, HEALTH, 1)
            entries: Any = admin.xrevrange(keys.control, count=1)
            admin.xadd(keys.control, entries[0][1])
            await gathered(mq, HEALTH, 2)

        assert handled == [1, 2]

    @pytest.mark.parametrize(
        "fields",
        [
            {"op": "call"},
            {"op": "call", "b": "1"},
            {"op": "call", "b": "1", "r": ""},
            {"op": "call", "b": "1", "r": "nobody"},
            {"op": "call", "b": "1", "r": "nobody 1e9"},
            {"op": "call", "b": "1", "r": "nobody 7", "x": "soon"},
            {"op": "call", "r": "nobody 7", "x": "9999999999999"},
            {"op": "call", "b": "1", "r": "nobody 7", "x": "1"},
            {"op": "call", "b": b"\xff", "r": b"\xff 7 gather", "h": b"\xff"},
        ],
    )
    async def test_hostile_calls(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        admin: redis.Redis,
        url: str,
        namespace: str,
        keys: QueueKeys,
        fields: dict[Any, Any],
    ) -> None:
        """Whatever stands in the stream, the worker goes on."""

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            return body

        async with serving(admin, url, namespace, worker):
            admin.xadd(keys.control, fields)
            [one] = await gathered(mq, HEALTH, 2)

        assert one.result() == 2

    async def test_headers_that_nobody_can_read(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        admin: redis.Redis,
        url: str,
        namespace: str,
        keys: QueueKeys,
    ) -> None:
        """The caller hears that its call was malformed."""
        let = asyncio.Event()

        @worker.on(HEALTH)
        async def answer(body: Any) -> Any:
            await let.wait()
            return body

        async with serving(admin, url, namespace, worker):
            [me] = members(admin, keys)
            call = asyncio.create_task(gathered(mq, HEALTH, 1))
            await auntil(lambda: admin.xlen(keys.control) >= 2, PATIENCE)
            entries: Any = admin.xrevrange(keys.control, count=1)
            # The same caller, but another address to the worker.
            address = entries[0][1][b"r"] + b" x"
            admin.xadd(keys.control, {"op": "call", "b": "1", "r": address, "h": "no json"})
            [lost] = await call
            let.set()

        assert lost.responder == me
        assert isinstance(lost.error, ms.ResponderLost)
        assert lost.error.reason == "malformed"

    async def test_a_queue_is_not_called(
        self,
        mq: ms.AsyncClient,
        worker: ms.Worker,
        admin: redis.Redis,
        queue: ms.Queue[Any],
        namespace: str,
    ) -> None:
        """A call to what is no endpoint is left aside, in partitions, too."""
        ordered = ms.Queue("ordered", ordered=True, partitions=2)
        handled: list[Any] = []
        task = None
        for one in (queue, ordered):
            worker.on(one)(_noting(handled))
        task = asyncio.create_task(worker.run(mq))
        for name, partition in (("orders", 0), ("ordered", 0), ("ordered", 1)):
            control = queue_keys(namespace, name, partition).control
            admin.xadd(control, {"op": "call", "b": "1", "r": "nobody 1"})
            admin.pexpire(control, 60_000)
        await mq.send(queue, 1)
        await mq.send(ordered, 2, key="k")
        await auntil(lambda: sorted(handled) == [1, 2], PATIENCE)
        worker.stop()
        await task


def _noting(handled: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def note(body: Any) -> None:
        handled.append(body)

    return note
