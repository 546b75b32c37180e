"""Recurring messages: exactly one a tick, whatever happens to workers and functions."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from millstream.worker import scheduler
from tests.support.servers import Server
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, run_burst, running

FAST = 0.1
"""Seconds between ticks of tests that wait for some."""


async def a_body() -> int:
    return 1


def making(queue: ms.Queue[Any], spec: Any = FAST, **options: Any) -> ms.Worker:
    """A worker that sends 1 at each tick."""
    worker = ms.Worker()
    worker.every(spec, queue, **{"name": "beat", **options})(a_body)
    return worker


async def ticks_of(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> list[datetime]:
    """The ticks whose messages wait in the queue, in order."""
    messages = await mq.peek(queue, limit=10_000)
    return [datetime.fromisoformat(message.headers["tick"]) for message in messages]


async def sent(mq: ms.AsyncClient, queue: ms.Queue[Any], count: int) -> list[datetime]:
    """Wait until so many messages were sent; their ticks."""

    async def there() -> bool:
        return len(await ticks_of(mq, queue)) >= count

    await auntil(there, PATIENCE, message=f"{count} messages of schedules")
    return await ticks_of(mq, queue)


async def only(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> ms.Schedule:
    """The one schedule of the queue."""
    (found,) = await mq.schedules(queue)
    return found


async def appears(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> ms.Schedule:
    """Wait until the queue has its schedule."""
    await auntil(lambda: mq.schedules(queue), PATIENCE, message="a schedule")
    return await only(mq, queue)


async def declared(
    mq: ms.AsyncClient, queue: ms.Queue[Any], spec: Any, **options: Any
) -> ms.Schedule:
    """A schedule that a worker has left behind: it ran until the server had it."""
    async with running(making(queue, spec, **options), mq):
        return await appears(mq, queue)


def gaps(ticks: list[datetime]) -> set[timedelta]:
    """How far apart neighbours are."""
    return {later - earlier for earlier, later in pairwise(ticks)}


@asynccontextmanager
async def all_running(
    url: str, namespace: str, workers: list[ms.Worker]
) -> AsyncIterator[list[ms.AsyncClient]]:
    """The workers run, each with a client of its own."""
    async with AsyncExitStack() as stack:
        clients = []
        for worker in workers:
            mq = await stack.enter_async_context(ms.AsyncClient(url, namespace=namespace))
            await stack.enter_async_context(running(worker, mq))
            clients.append(mq)
        yield clients


@pytest.fixture
def edit(admin: redis.Redis, namespace: str) -> Callable[..., None]:
    """Change what the server has stored of a schedule."""
    key = queue_keys(namespace, "orders").schedules

    def change(**values: Any) -> None:
        stored: Any = admin.hget(key, "beat")
        admin.hset(key, "beat", json.dumps({**json.loads(stored), **values}))

    return change


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look at once for what people have done."""
    monkeypatch.setattr(scheduler, "LONGEST_SLEEP", 0.05)
    monkeypatch.setattr(scheduler, "PAUSED_SLEEP", 0.05)


def server_now(admin: redis.Redis) -> int:
    seconds, micros = admin.time()
    return int(seconds) * 1000 + int(micros) // 1000


class TestDeclaring:
    @pytest.mark.parametrize(
        ("spec", "options", "problem"),
        [
            ("0 0 30 2 *", {}, "spec.*never fires"),
            ("* * * *", {}, "spec must be a cron expression of five fields"),
            (0, {}, "spec must be between"),
            (-1, {}, "spec must be between"),
            (None, {}, "spec must be"),
            ("* * * * *", {"tz": "Nowhere"}, "tz: there is no time zone 'Nowhere'"),
            ("* * * * *", {"tz": None}, "tz must be"),
            (60, {"tz": "Europe/Berlin"}, "tz is for cron"),
            (60, {"missed": "some"}, "missed must be"),
            (60, {"missed": None}, "missed must be"),
            (60, {"name": ""}, "name must be"),
            (60, {"name": "a b"}, "name must be"),
            (60, {"name": 7}, "name must be"),
        ],
    )
    def test_what_makes_no_sense(
        self, queue: ms.Queue[Any], spec: Any, options: dict[str, Any], problem: str
    ) -> None:
        """A bad parameter is refused where the schedule is declared; the error names both."""
        with pytest.raises(ms.UsageError, match=rf"worker\.every\(a_body\): {problem}"):
            ms.Worker().every(spec, queue, **options)(a_body)

    def test_functions_that_cannot_be_called(self, queue: ms.Queue[Any]) -> None:
        """A function takes nothing, does not yield, and has a name or is given one."""

        async def one(body: Any) -> None: ...

        def two(*, body: Any) -> None: ...

        def three() -> Any:
            yield 1

        async def four() -> Any:
            yield 1

        every = ms.Worker().every(60, queue)
        cases: list[tuple[Any, str]] = [
            (one, r"one\): it must have no parameters"),
            (two, r"two\): it must have no parameters"),
            (three, r"three\): it yields"),
            (four, r"four\): it yields"),
            (lambda: 1, "no name of its own"),
            (functools.partial(one, 1), "no name of its own"),
            (ms, "no function"),
        ]
        for function, problem in cases:
            with pytest.raises(ms.UsageError, match=problem):
                every(function)

    def test_functions_that_do_not_tell_what_they_take(self, queue: ms.Queue[Any]) -> None:
        """Those written in C need not say it."""
        assert ms.Worker().every(60, queue)(int) is int

    def test_something_else_than_a_queue(self) -> None:
        """worker.every takes a queue, not its name."""
        wrong: Any = "orders"
        with pytest.raises(ms.UsageError, match="expected a Queue, not str"):
            ms.Worker().every(60, wrong)(a_body)

    def test_one_name_a_queue(self, queue: ms.Queue[Any]) -> None:
        """A name is taken once in a queue; the decorator leaves the function as it is."""
        worker = ms.Worker()
        assert worker.every(60, queue)(a_body) is a_body
        with pytest.raises(ms.UsageError, match="'orders' has a schedule 'a_body'"):
            worker.every(90, queue)(a_body)
        worker.every(90, queue, name="other")(a_body)
        worker.every(90, ms.Queue("more"))(a_body)

    async def test_no_server(self, queue: ms.Queue[Any]) -> None:
        """Without a server at the start, run() says so, without handlers, too."""
        with pytest.raises(ms.NotConnected, match=r"127\.0\.0\.1:1"):
            await making(queue).run(ms.AsyncClient("redis://127.0.0.1:1"))

    async def test_what_is_listed(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A worker that runs makes its schedules known."""
        worker = making(queue, "30 2 * * *", tz=ZoneInfo("Europe/Berlin"), missed="one")
        worker.every(timedelta(hours=1), queue)(a_body)
        async with running(worker, mq):
            await auntil(lambda: mq.schedules(queue))
            hourly, nightly = await mq.schedules(queue)

        assert (hourly.name, hourly.spec, hourly.tz, hourly.missed) == (
            "a_body",
            3600,
            "UTC",
            "skip",
        )
        assert (nightly.name, nightly.spec, nightly.tz) == ("beat", "30 2 * * *", "Europe/Berlin")
        assert nightly.missed == "one"
        assert nightly.next is not None
        wall = nightly.next.astimezone(ZoneInfo("Europe/Berlin"))
        assert (wall.hour, wall.minute) in ((2, 30), (3, 0))
        assert (nightly.last, nightly.paused) == (None, False)
        assert await mq.queues() == ["orders"]


class TestTicks:
    async def test_any_number_of_workers(
        self, any_url: str, namespace: str, queue: ms.Queue[Any]
    ) -> None:
        """Several workers send one message a tick, none early, none left out."""
        async with all_running(any_url, namespace, [making(queue) for _ in range(4)]) as clients:
            await sent(clients[0], queue, 20)
        async with ms.AsyncClient(any_url, namespace=namespace) as mq:
            ticks = await ticks_of(mq, queue)
            assert gaps(ticks) == {timedelta(seconds=FAST)}
            for message in await mq.peek(queue, limit=10_000):
                assert message.body == 1
                assert message.headers["schedule"] == "beat"
                assert message.sent_at >= datetime.fromisoformat(message.headers["tick"])
            stats = await mq.stats(queue)
            assert stats.sent == stats.ready == len(ticks)

    async def test_workers_that_come_and_go(
        self, mq: ms.AsyncClient, other: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Restarts neither leave out a tick nor send one twice."""
        for n in range(4):
            client = (mq, other)[n % 2]
            async with running(making(queue), client):
                await sent(mq, queue, 3 * (n + 1))

        assert gaps(await ticks_of(mq, queue)) == {timedelta(seconds=FAST)}

    async def test_a_worker_handles_what_it_sends(self, mq: ms.AsyncClient) -> None:
        """One worker may have handlers and schedules, of any queues; functions may be of both kinds."""
        worker, queue = ms.Worker(), ms.Queue("numbers", int)
        handled: set[int] = set()
        threads: set[int] = set()

        @worker.on(queue)
        async def handle(body: int) -> None:
            handled.add(body)

        @worker.every(FAST, queue)
        async def one() -> int:
            assert threading.current_thread() is threading.main_thread()
            return 1

        @worker.every(FAST, queue)
        def two() -> int:
            threads.add(threading.get_ident())
            return 2

        async with running(worker, mq):
            await auntil(lambda: handled == {1, 2}, PATIENCE)
        assert threading.main_thread().ident not in threads

    async def test_a_queue_with_partitions(self, mq: ms.AsyncClient) -> None:
        """A schedule's messages go to one of the partitions, whose worker handles them."""
        worker, queue = ms.Worker(), ms.Queue("parts", int, ordered=True, partitions=3)
        handled: list[str] = []

        @worker.every(FAST, queue)
        async def beat() -> int:
            return 1

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[int]) -> None:
            handled.append(delivery.headers["tick"])

        async with running(worker, mq):
            await auntil(lambda: len(handled) >= 5, PATIENCE)
            (schedule,) = await mq.schedules(queue)
        assert handled == sorted(set(handled))
        assert schedule.name == "beat"

    async def test_a_queue_that_is_paused(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A pause of the queue keeps its messages from handlers; the schedule goes on."""
        worker = making(queue)
        handled: list[str] = []

        @worker.on(queue)
        async def handle(body: int, delivery: ms.Delivery[int]) -> None:
            handled.append(delivery.headers["tick"])

        await mq.pause(queue)
        async with running(worker, mq):

            async def waiting() -> bool:
                return (await mq.stats(queue)).ready >= 5

            await auntil(waiting, PATIENCE)
            assert handled == []
            await mq.resume(queue)
            await auntil(lambda: len(handled) >= 6, PATIENCE)
        ticks = sorted(datetime.fromisoformat(tick) for tick in handled)
        assert gaps(ticks) == {timedelta(seconds=FAST)}

    async def test_a_burst_does_not_wait(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A burst leaves schedules to other workers."""
        await run_burst(making(queue), mq)

        assert await mq.schedules(queue) == []

    async def test_an_idle_schedule_costs_nothing(self, own_server: Server) -> None:
        """A worker sleeps until the tick: two commands to begin with, then none."""
        worker = ms.Worker()
        for n in range(5):
            worker.every("0 0 1 1 *", ms.Queue(f"q{n}"))(a_body)
        admin = own_server.admin()

        def commands() -> int:
            stats: Any = admin.info("commandstats")
            return sum(int(stats[name]["calls"]) for name in stats if "eval" in name.lower())

        async with ms.AsyncClient(own_server.url) as mq, running(worker, mq):
            await auntil(lambda: commands() >= 10, PATIENCE)
            await asyncio.sleep(1)  # the work itself
            before = commands()
            await asyncio.sleep(1)  # the work itself
            assert commands() == before


class TestMissed:
    @pytest.mark.parametrize(("missed", "expected"), [("skip", 0), ("one", 1), ("all", 10)])
    async def test_across_a_restart(
        self,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        edit: Callable[..., None],
        missed: str,
        expected: int,
    ) -> None:
        """What no worker was there for is left out, sent as one, or sent one by one, as declared."""
        day = 100_000  # seconds; the end of one is not likely to come during the test
        following = (await declared(mq, queue, day, missed=missed)).next
        assert following is not None
        first = following - timedelta(seconds=10 * day)
        edit(next=round(first.timestamp() * 1000))

        async with running(making(queue, day, missed=missed), mq):

            async def over() -> bool:
                return (await only(mq, queue)).next == following

            await auntil(over, PATIENCE)

        ticks = await ticks_of(mq, queue)
        assert ticks == [first + timedelta(seconds=n * day) for n in range(expected)]

    async def test_hardly_late(
        self,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        edit: Callable[..., None],
    ) -> None:
        """A tick that is some seconds late is not missed: a quick restart leaves nothing out."""
        await declared(mq, queue, 100_000)
        now = server_now(admin)
        edit(next=now - 5_000)
        async with running(making(queue, 100_000), mq):
            assert await sent(mq, queue, 1) == [datetime.fromtimestamp(now / 1000 - 5, UTC)]

    async def test_left_out_is_told(
        self,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        edit: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What is left out is a warning."""
        await declared(mq, queue, 3600)
        edit(next=server_now(admin) - 11_000)
        async with running(making(queue, 3600), mq):
            told = re.compile(r"left out what was missed, 1\d s late")
            await auntil(lambda: told.search(caplog.text), PATIENCE)


class TestFunctions:
    @pytest.mark.parametrize("kind", ["async", "def"])
    @pytest.mark.parametrize(
        "problem",
        [ValueError("no"), SystemExit(1), asyncio.CancelledError(), "no number", ["no number"]],
        ids=repr,
    )
    async def test_no_body(
        self,
        mq: ms.AsyncClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        kind: str,
        problem: Any,
    ) -> None:
        """A function that raises, or returns no body, is called again; its tick is not lost."""
        worker, queue = ms.Worker(), ms.Queue("numbers", int)
        calls = 0

        def make() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                return calls
            if isinstance(problem, BaseException):
                raise problem
            return problem

        async def make_async() -> Any:
            return make()

        worker.every(FAST, queue, name="beat")(make_async if kind == "async" else make)
        async with running(worker, mq):
            await sent(mq, queue, 1)
            first = (await mq.peek(queue))[0]

        assert first.body == 2
        tick = datetime.fromisoformat(first.headers["tick"])
        assert timedelta(seconds=1) <= first.sent_at - tick < timedelta(seconds=10)
        assert "no body; it is tried again in 1 s" in caplog.text

    async def test_by_another_worker(
        self, url: str, namespace: str, queue: ms.Queue[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """When a function fails here, it may succeed elsewhere, for the same tick."""

        async def fail() -> int:
            raise ValueError("not here")

        workers = [ms.Worker() for _ in range(3)]
        for worker in workers[:2]:
            worker.every(2, queue, name="beat")(fail)
        workers[2].every(2, queue, name="beat")(a_body)
        async with all_running(url, namespace, workers) as clients:
            ticks = await sent(clients[0], queue, 2)

        assert gaps(ticks) == {timedelta(seconds=2)}

    async def test_it_pauses_longer_and_longer(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A function that goes on failing is called less and less often."""
        worker = ms.Worker()

        @worker.every(FAST, queue)
        async def fail() -> int:
            raise ValueError("no")

        async with running(worker, mq):
            await auntil(lambda: "tried again in 4 s" in caplog.text, PATIENCE)
        told = [record.getMessage() for record in caplog.records if record.exc_info]
        assert [text.rpartition("in ")[2] for text in told] == ["1 s", "2 s", "4 s"]

    @pytest.mark.parametrize("kind", ["async", "def"])
    async def test_a_slow_one(
        self,
        url: str,
        namespace: str,
        queue: ms.Queue[Any],
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
    ) -> None:
        """A function that takes longer than its grant keeps it, and is called once a tick."""
        monkeypatch.setattr(scheduler, "GRANT", 1.5)
        calls: list[int] = []
        go_on, in_thread = asyncio.Event(), threading.Event()

        async def slow() -> int:
            calls.append(1)
            await go_on.wait()
            return 1

        def slow_in_thread() -> int:
            calls.append(1)
            in_thread.wait(PATIENCE)
            return 1

        workers = [ms.Worker() for _ in range(2)]
        for worker in workers:
            function = slow if kind == "async" else slow_in_thread
            worker.every(2, queue, name="beat")(function)
        async with all_running(url, namespace, workers) as clients:
            await auntil(lambda: calls, PATIENCE)
            await asyncio.sleep(3.5)  # the work itself
            assert len(calls) == 1
            go_on.set()
            in_thread.set()
            ticks = await sent(clients[0], queue, 2)
        assert gaps(ticks) == {timedelta(seconds=2)}
        assert len(calls) == len(ticks)


class TestStopping:
    async def test_in_order(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A function that runs when the worker is stopped ends well, and its message is sent."""
        worker = ms.Worker()
        begun, go_on = asyncio.Event(), asyncio.Event()

        @worker.every(FAST, queue)
        async def slow() -> int:
            begun.set()
            await go_on.wait()
            return 1

        async with running(worker, mq):
            await begun.wait()
            worker.stop()
            go_on.set()
        assert len(await ticks_of(mq, queue)) == 1

    @pytest.mark.parametrize("obeys", [True, False])
    async def test_the_time_is_over(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], obeys: bool
    ) -> None:
        """After shutdown_timeout it is cancelled, and the tick is left to the next worker."""
        worker = ms.Worker(shutdown_timeout=0.1)
        begun, late = asyncio.Event(), asyncio.Event()

        @worker.every(FAST, queue, name="beat")
        async def slow() -> int:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if obeys:
                    raise
            await late.wait()
            return 1

        async with running(worker, mq):
            await begun.wait()
        assert await ticks_of(mq, queue) == []
        assert (await only(mq, queue)).last is None
        late.set()

    async def test_a_thread_does_not_hold_it_up(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A function in a thread that does not end keeps nobody from leaving."""
        worker = ms.Worker(shutdown_timeout=0.1)
        begun, go_on = threading.Event(), threading.Event()

        @worker.every(FAST, queue)
        def stuck() -> int:
            begun.set()
            go_on.wait(PATIENCE)
            return 1

        async with running(worker, mq):
            await auntil(begun.is_set, PATIENCE)
        go_on.set()
        assert await ticks_of(mq, queue) == []

    async def test_being_cancelled(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Cancelled, the worker ends at once."""
        task = asyncio.create_task(making(queue, 3600).run(mq))
        await appears(mq, queue)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestClaims:
    async def test_a_claimer_that_is_gone(
        self,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        edit: Callable[..., None],
    ) -> None:
        """A tick that was granted to a worker that died is sent when the grant is over."""
        await declared(mq, queue, 3600)
        now = server_now(admin)
        edit(next=now - 1000, claimed_by="dead", claimed_until=now + 1000)
        async with running(making(queue, 3600), mq):
            await sent(mq, queue, 1)

        (message,) = await mq.peek(queue)
        assert message.sent_at.timestamp() * 1000 >= now + 1000

    async def test_too_late(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], edit: Callable[..., None]
    ) -> None:
        """A body that is made when its tick was sent by another is not sent."""
        worker = ms.Worker()
        begun, go_on = asyncio.Event(), asyncio.Event()

        @worker.every(1, queue, name="beat")
        async def slow() -> int:
            begun.set()
            await go_on.wait()
            return 1

        async with running(worker, mq):
            await begun.wait()
            edit(next=4_000_000_000_000)
            go_on.set()
        assert await ticks_of(mq, queue) == []


@pytest.mark.usefixtures("looks_often")
class TestPeople:
    async def test_pause_and_resume(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A paused schedule sends nothing; it resumes with its next tick and misses none."""
        async with running(making(queue, missed="all"), mq):
            await sent(mq, queue, 2)
            await mq.pause_schedule(queue, "beat")
            before = await ticks_of(mq, queue)
            paused = await only(mq, queue)
            assert (paused.paused, paused.next, paused.last) == (True, None, before[-1])
            await asyncio.sleep(5 * FAST)  # the work itself
            assert await ticks_of(mq, queue) == before

            await mq.resume_schedule(queue, "beat")
            resumed = await only(mq, queue)
            assert resumed.next is not None
            assert not resumed.paused
            after = (await sent(mq, queue, len(before) + 3))[len(before) :]
        assert after[0] - before[-1] >= timedelta(seconds=5 * FAST)
        assert gaps(after) == {timedelta(seconds=FAST)}

    async def test_a_pause_outlives_workers(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker that starts finds the schedule paused, and leaves it so."""
        await declared(mq, queue, 3600)
        await mq.pause_schedule(queue, "beat")
        async with running(making(queue, 3600), mq):
            await auntil(lambda: "it is paused" in caplog.text, PATIENCE)
            assert (await only(mq, queue)).paused

    async def test_remove(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Workers that run leave a removed schedule alone; one that starts brings it back to all."""
        caplog.set_level(logging.INFO, "millstream.worker")
        async with running(making(queue), mq):
            await sent(mq, queue, 1)
            assert await mq.remove_schedule(queue, "beat")
            assert not await mq.remove_schedule(queue, "beat")
            before = await ticks_of(mq, queue)
            await auntil(lambda: "it was removed" in caplog.text, PATIENCE)
            await asyncio.sleep(3 * FAST)  # the work itself
            assert await ticks_of(mq, queue) == before
            assert await mq.schedules(queue) == []

            async with running(making(queue), mq):
                await sent(mq, queue, len(before) + 1)
            await auntil(lambda: "goes on" in caplog.text, PATIENCE)
            seen = await ticks_of(mq, queue)
            await sent(mq, queue, len(seen) + 2)

    async def test_lost_by_the_server(
        self,
        mq: ms.AsyncClient,
        queue: ms.Queue[Any],
        admin: redis.Redis,
        namespace: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A schedule that nobody has removed is declared anew when the server has lost it."""
        async with running(making(queue), mq):
            await sent(mq, queue, 1)
            admin.delete(queue_keys(namespace, "orders").schedules)
            before = len(await ticks_of(mq, queue))
            await sent(mq, queue, before + 2)
        assert "was lost by the server" in caplog.text

    async def test_declared_differently(
        self,
        mq: ms.AsyncClient,
        other: ms.AsyncClient,
        queue: ms.Queue[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The last declaration counts; workers of another one leave the schedule alone."""
        async with running(making(queue), mq):
            await sent(mq, queue, 1)
            async with running(making(queue, 3600), other):
                await auntil(lambda: "declared with other times" in caplog.text, PATIENCE)
                before = await ticks_of(mq, queue)
                await asyncio.sleep(3 * FAST)  # the work itself
                assert await ticks_of(mq, queue) == before
                assert (await only(mq, queue)).spec == 3600

    @pytest.mark.parametrize("verb", ["pause_schedule", "resume_schedule"])
    async def test_unknown(self, mq: ms.AsyncClient, queue: ms.Queue[Any], verb: str) -> None:
        """What is not there cannot be paused or resumed, and the error says so."""
        with pytest.raises(ms.UsageError, match="'orders' has no schedule 'beat'"):
            await getattr(mq, verb)(queue, "beat")

    @pytest.mark.parametrize("verb", ["pause_schedule", "resume_schedule", "remove_schedule"])
    async def test_bad_input(self, mq: ms.AsyncClient, queue: ms.Queue[Any], verb: str) -> None:
        """What is no queue, or no name, is refused by name."""
        with pytest.raises(ms.UsageError, match="expected a Queue"):
            await getattr(mq, verb)("orders", "beat")
        with pytest.raises(ms.UsageError, match="the schedule's name"):
            await getattr(mq, verb)(queue, None)
